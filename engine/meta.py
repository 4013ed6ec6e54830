"""The metadata that a checkpoint keeps of its data set: all that prediction must know."""

import numpy as np

READING = ("scene_nodata", "scales")  # how scenes were read, which sets of old do not state
KEPT = ("name", "ignore", "mean", "std", "bands", "dtype", "gsd_m", "rgb", "nodata")


def checkpoint_meta(dataset_meta):
    """The entries of dataset.json that a checkpoint keeps, as plain types.

    Args:
        dataset_meta: see `prepared.load_meta`.
    Returns:
        dict of name, ignore, mean, std, bands, dtype, gsd_m, rgb, nodata; classes, here K names;
        colours, K times [r, g, b]; scale, by which the training scenes were resized; and
        scene_nodata and scales, unless the set was made when alpha was still a band.
    """
    meta = {key: dataset_meta.get(key) for key in KEPT}
    for key in READING:
        if key in dataset_meta:
            meta[key] = dataset_meta[key]
    nodata = meta["nodata"]
    if nodata is not None and nodata == meta.get("scene_nodata"):
        meta["nodata"] = [nodata] * meta["bands"]  # other scenes may lack single bands
    arguments = dataset_meta.get("arguments", {})
    meta["scale"] = arguments.get("scale", 1.0)
    meta["classes"] = [entry["name"] for entry in dataset_meta["classes"]]
    meta["colours"] = [list(entry["colour"]) for entry in dataset_meta["classes"]]
    return meta


def check_checkpoint_meta(classes, colours, ignore, mean, std, bands, dtype, rgb, nodata=None,
                          scale=1.0, **others):
    """Refuse a checkpoint's metadata that make no sense: an error of any kind."""
    scene_nodata = others.get("scene_nodata")
    checks = {
        "number of colours": len(classes) == len(colours),
        "class names": all(name.isprintable() for name in classes),
        "colours": all(map(is_colour, colours)),
        "shown bands": is_shown(rgb, bands),
        "normalisation": is_normalisation(mean, std, bands),
        "nodata": is_nodata(nodata, bands, dtype) and is_nodata(scene_nodata, bands, dtype),
        "scales of the bands": are_scales(others.get("scales"), bands),
        "ignored label": ignore == 255,
        "scale": 0 < scale <= 16,
    }
    for entry, holds in checks.items():
        if not holds:
            raise ValueError(f"its {entry} cannot be right")


def is_colour(value):
    """Whether a value lists three whole numbers from 0 to 255; other content may raise."""
    return isinstance(value, (list, tuple)) and len(bytes(value)) == 3


def is_shown(value, bands):
    """Whether a value lists one or three bands to show, each below `bands`, their number."""
    if not isinstance(value, (list, tuple)) or len(value) not in (1, 3):
        return False
    return all(type(band) is int and band in range(bands) for band in value)


def is_normalisation(mean, std, bands):
    """Whether mean and std list a finite number, and one above 0, per band; others may raise."""
    mean = np.array(mean)
    std = np.array(std)
    if not mean.shape == std.shape == (bands,):
        return False
    return abs(mean).max() < 1e38 and std.min() > 1e-38 and std.max() < 1e38


def is_nodata(value, bands, dtype):
    """Whether a value is None, a number that a dtype can hold, or one per band; else may raise."""
    if isinstance(value, list):
        return len(value) == bands and all(fits(number, dtype) for number in value)
    return value is None or fits(value, dtype)


def fits(value, dtype):
    """Whether a pixel of a dtype, given by name, can have a finite value; others may raise."""
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return value in range(limits.min, limits.max + 1)
    return abs(value) < 3.41e38  # the largest of float32 are often written rounded


def are_scales(value, bands):
    """Whether a value is None, or lists a scale and an offset per band; others may raise."""
    return value is None or np.isfinite(value).shape == (bands, 2)


def display_limits(meta):
    """The values shown as black and white in each displayed band: two deviations about its mean.

    Args:
        meta: dict with dtype, mean, std, rgb.
    Returns:
        list of (low, high) per displayed band; None for 8-bit images, which are shown as they are.
    """
    if meta["dtype"] == "uint8":
        return None
    limits = []
    for band in meta["rgb"]:
        mean = meta["mean"][band]
        std = meta["std"][band]
        limits.append((mean - 2 * std, mean + 2 * std))
    return limits
