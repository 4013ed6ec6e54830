"""The metadata that a checkpoint keeps of its data set: all that prediction must know."""

import numpy as np

READING = ("scene_nodata", "scales")  # how scenes were read, which sets of old do not state
KEPT = ("name", "ignore", "mean", "std", "bands", "dtype", "gsd_m", "rgb", "nodata")


def checkpoint_meta(dataset_meta):
    """What a checkpoint keeps of dataset.json, as plain types.

    Args:
        dataset_meta: see `prepared.load_meta`.
    Returns:
        dict of name, ignore, mean, std, bands, dtype, gsd_m, rgb, nodata; classes, here K names;
        colours, K times [r, g, b]; scale, by which the training scenes were resized; and
        scene_nodata and scales, unless the set was made when alpha was still a band.
    """
    meta = {key: dataset_meta.get(key) for key in KEPT}
    meta.update({key: dataset_meta[key] for key in READING if key in dataset_meta})
    if meta.get("scene_nodata") is not None and meta["nodata"] == meta["scene_nodata"]:
        meta["nodata"] = [meta["nodata"]] * meta["bands"]  # other scenes may lack single bands
    meta["scale"] = dataset_meta.get("arguments", {}).get("scale", 1.0)
    meta["classes"] = [entry["name"] for entry in dataset_meta["classes"]]
    meta["colours"] = [list(entry["colour"]) for entry in dataset_meta["classes"]]
    return meta


def check_checkpoint_meta(classes, colours, ignore, mean, std, bands, dtype, rgb, nodata=None,
                          scale=1.0, **others):
    """Refuse a checkpoint's metadata that make no sense: an error of any kind."""
    if not (len(classes) == len(colours) and all(name.isprintable() for name in classes)):
        raise ValueError("its classes make no sense")
    if not (all(map(is_colour, colours)) and is_shown(rgb, bands)):
        raise ValueError("its colours or shown bands make no sense")
    if not (is_normalisation(mean, std, bands) and is_nodata(nodata, bands, dtype)
            and is_nodata(others.get("scene_nodata"), bands, dtype)
            and are_scales(others.get("scales"), bands)):
        raise ValueError("its normalisation makes no sense")
    if not (ignore == 255 and 0 < scale <= 16):
        raise ValueError("its ignored label or scale makes no sense")


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
    mean, std = np.array([mean, std])
    finite = abs(mean).max() < 1e38 and 1e-38 < std.min() <= std.max() < 1e38
    return mean.shape == (bands,) and finite


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
