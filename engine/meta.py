"""What a prepared data set says of itself: dataset.json, read and believed only as far as it makes sense."""

import json
import pathlib

import numpy as np
import torch

SPLITS = ("train", "val", "test")
SPARSE_SHARE = 0.01  # a set with less than this share of its pixels labelled was labelled by points already
FACT_TYPES = {"name": str, "classes": list, "ignore": int, "bands": int, "dtype": str, "tile": int, "rgb": list,
              "mean": list, "std": list, "tiles": dict, "pixels": dict}


def load_meta(folder):
    """Read a prepared set's dataset.json, and see that its arrays are what it says.

    Only the arrays' headers are read, so this takes milliseconds on a set of any size.

    Args:
        folder: a folder that prepare_data.py wrote.
    Returns:
        dict as DESIGN of dataset.json: classes, ignore, bands, dtype, tile (px), gsd_m, mean, std, tiles, pixels, ...
    Raises:
        ValueError, OSError: not a prepared set, another format, or arrays of other shapes or types; one line each.
    """
    path = pathlib.Path(folder) / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a prepared data set (it has no dataset.json): make one with prepare_data.py")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): prepare the data set again") from None
    if not isinstance(meta, dict) or meta.get("format") != 1:
        raise ValueError(f"{path} is not of format 1, the one this version reads: prepare the data set again")
    for key, kind in FACT_TYPES.items():
        if not isinstance(meta.get(key), kind):
            raise ValueError(f"{path}: '{key}' is missing or not a {kind.__name__}: prepare the data set again")
    _check_meta(path, meta)
    for split in SPLITS:
        count, side, bands = meta["tiles"][split], meta["tile"], meta["bands"]
        open_array(path.parent / f"{split}_images.npy", (count, side, side, bands), meta["dtype"])
        open_array(path.parent / f"{split}_labels.npy", (count, side, side), "uint8")
    return meta


def _check_meta(path, meta):
    """Refuse a dataset.json whose entries are of the right types, but make no sense."""
    bands, classes, tiles, pixels = (meta[key] for key in ("bands", "classes", "tiles", "pixels"))
    places = meta.get("places", {})
    try:
        mean, std = torch.tensor([meta["mean"], meta["std"]], dtype=torch.float64)
        fine = {"bands": bands > 0, "tile": meta["tile"] > 0, "ignore": meta["ignore"] == 255,
                "gsd_m": 0 < (meta.get("gsd_m") or 1) < 1e9,
                "dtype": meta["dtype"] in ("uint8", "uint16", "int16", "float32"),
                "mean": mean.shape == (bands,) and mean.abs().max() < 1e38, "std": 1e-38 < std.min() <= std.max() < 1e38,
                "rgb": are_shown_bands(meta["rgb"], bands),
                "nodata": meta.get("nodata") is None or abs(meta["nodata"]) <= 3.5e38,
                "classes": 0 < len(classes) <= 255 and all(
                    entry["name"].isprintable() and is_colour(entry["colour"]) for entry in classes),
                "pixels": all(len(pixels[split]) == len(classes) and min(pixels[split]) >= 0 <= tiles[split]
                              and sum(pixels[split]) <= tiles[split] * meta["tile"] ** 2 for split in SPLITS),
                "places": isinstance(places, dict) and all(isinstance(place, str) for place in places.values()),
                "arguments": 0 < meta.get("arguments", {}).get("scale", 1.0) <= 16}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        fine = {f"bands, mean, std, classes, rgb, tiles, pixels or places: {error}": False}
    wrong = [key for key, holds in fine.items() if not holds]
    if wrong:
        raise ValueError(f"{path}: its entries make no sense ({wrong[0]}): prepare the data set again")


def checkpoint_meta(meta):
    """What a checkpoint keeps of dataset.json: all that prediction must know, as plain types.

    Classes are K names there, colours K [r, g, b], and scale is what the training scenes were resized by.
    """
    kept = {key: meta.get(key) for key in ("name", "ignore", "mean", "std", "bands", "dtype", "gsd_m", "rgb", "nodata")}
    kept["scale"] = meta.get("arguments", {}).get("scale", 1.0)
    kept["classes"] = [entry["name"] for entry in meta["classes"]]
    kept["colours"] = [list(entry["colour"]) for entry in meta["classes"]]
    return kept


def check_checkpoint_meta(classes, colours, ignore, mean, std, bands, rgb, nodata=None, scale=1.0, **others):
    """Raise an error of any kind where the data meta of a checkpoint make no sense; see `checkpoint_meta`."""
    mean, std = torch.tensor([mean, std], dtype=torch.float64)
    if not (len(classes) == len(colours) and all(name.isprintable() for name in classes) and ignore == 255
            and all(map(is_colour, colours)) and are_shown_bands(rgb, bands) and 0 < scale <= 16 and mean.shape == (bands,)
            and mean.abs().max() < 1e38 and std.min() > 1e-38 and (nodata is None or abs(nodata) <= 3.5e38)):
        raise ValueError("its data meta make no sense")


def is_colour(value):
    """Whether something lists three whole numbers from 0 to 255; raises an error of some kind where it lists others."""
    return isinstance(value, (list, tuple)) and len(bytes(value)) == 3


def are_shown_bands(value, bands):
    """Whether something lists one or three bands to show, each below `bands`, their number."""
    return (isinstance(value, (list, tuple)) and len(value) in (1, 3)
            and all(type(band) is int and band in range(bands) for band in value))


def display_limits(meta):
    """What to show as black and as white in each displayed band: two deviations about its mean.

    Args:
        meta: dict with dtype, mean, std, rgb.
    Returns:
        list of (low, high), one a displayed band; None for 8-bit images, which are shown as they are.
    """
    if meta["dtype"] == "uint8":
        return None
    shown = [(meta["mean"][band], meta["std"][band]) for band in meta["rgb"]]
    return [(mean - 2 * std, mean + 2 * std) for mean, std in shown]


def open_array(path, shape, dtype):
    """A memory-mapped .npy file as a tensor, after its shape and type were compared with what dataset.json says."""
    try:
        # Mode "c" (changes stay in memory): torch warns about arrays that it must not write to.
        array = np.load(path, mmap_mode="c" if shape[0] else None, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: prepare the data set again") from None
    except Exception as error:  # of half a dozen kinds, by where in the header the damage is
        raise ValueError(f"{path} is damaged ({error}): prepare the data set again") from None
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape) or array.dtype != dtype:
        held = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {held}, but dataset.json says {dtype} of shape "
                         f"{tuple(shape)}: prepare the data set again")
    return torch.from_numpy(array)
