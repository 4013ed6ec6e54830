"""Values without data in a set of scenes: which value stands for them in all tiles."""

import sys

import numpy as np
from tqdm import tqdm

from sources.scenes import each_tile


def one_nodata(missing):
    """The nodata value that all scenes name, or None; missing: as from `check_scenes`."""
    named = {nodata for nodata, _ in missing}
    nodata = named.pop() if len(named) == 1 else None
    return None if isinstance(nodata, tuple) else nodata


def shared_nodata(source, tiles, missing, dtype):
    """The value of missing pixels in all tiles: the scenes' own where they agree.

    Else it is a value that no pixel with data has in every band: one that a scene names, 0, or the
    highest that is free. Where single bands are missing too, it is one such value per band.

    Args:
        source: RawDataset.
        tiles: list of Region, scene by scene; they are read only where scenes differ.
        missing: as from `check_scenes`.
        dtype: name of the scenes' dtype.
    Returns:
        a number, or a list of one per band; None where nothing can be missing, or where NaN marks
        it.
    Raises:
        ValueError: every value is data somewhere.
    """
    nodata = one_nodata(missing)
    if missing == [(nodata, False)] or (nodata is not None and dtype != "float32"):
        return nodata
    if dtype == "float32":
        return None
    limits = np.iinfo(dtype)
    taken, is_partial = values_taken(source, tiles, limits)
    named = [value for nodata, _ in missing for value in np.ravel(nodata) if value is not None]
    order = [int(value) for value in [*named, 0, *range(limits.max, limits.min - 1, -1)]]
    free = [next((value for value in order if not seen[value - limits.min]), None)
            for seen in taken]
    if is_partial and None not in free[:-1]:
        return [float(value) for value in free[:-1]]
    if is_partial:
        print(f"warning: scenes name different nodata values, and each value of {dtype} is data in "
              "one of them, so that nodata in single bands is read as data: give all scenes one "
              "nodata value", file=sys.stderr)
    if free[-1] is not None:
        return free[-1]
    raise ValueError(f"{source.scenes[0].image} and others differ in what no data is, and each "
                     f"value of {dtype} is data somewhere: give all of them one nodata value, or a "
                     "wider dtype")


def values_taken(source, tiles, limits):
    """Find the values that data have in the tiles.

    Args:
        source: RawDataset; tiles: list of Region, scene by scene.
        limits: np.iinfo of the scenes' dtype.
    Returns:
        list of C arrays of bool by value, from the lowest, per band, and one of the values that
        all bands of a pixel have together; whether a pixel lacks data in some bands alone.
    """
    taken = []
    is_partial = False
    progress = tqdm(tiles, "comparing", unit="tile", disable=None, leave=False)
    for tile, reader in each_tile(source, progress):
        pixels, known = reader.read_image(tile)
        if not taken:
            shape = pixels.shape[2] + 1, limits.max - limits.min + 1
            taken = list(np.zeros(shape, bool))
        places = pixels.astype(int) - limits.min
        for band, seen in enumerate(taken[:-1]):
            seen[places[known[:, :, band], band]] = True
        whole = known.all(axis=2)
        alike = whole & (pixels == pixels[:, :, :1]).all(axis=2)
        taken[-1][places[alike, 0]] = True
        is_partial = is_partial or bool((known.any(axis=2) & ~whole).any())
    return taken, is_partial


def mark_missing(image, known, nodata):
    """Give values without data the set's nodata value, unless they are not finite.

    Args:
        image: (h, w, C), changed in place.
        known: (h, w, C) bool, which values are data.
        nodata: the set's value, which marks whole pixels; a list of one per band; or None for NaN.
    Returns:
        whether a finite value is missing in some bands of a pixel alone.
    """
    missing = ~known & np.isfinite(image)
    partial = missing & known.any(axis=2, keepdims=True)
    if nodata is not None and np.ndim(nodata) == 0:
        missing &= ~partial
    fill = np.asarray(np.nan if nodata is None else nodata)
    if missing.any():
        image[missing] = np.broadcast_to(fill, image.shape)[missing]
    return bool(partial.any())
