"""Warnings about scenes that are read, but perhaps not as their owner thinks."""

import dataclasses
import sys

import numpy as np

from geo.ground import ground_sample_distance


def warn_of_reading(raster):
    """Warn of what a raster's file holds and is not read, and of alpha that looks like a band."""
    if raster.unread:
        print(f"warning: {raster.path} {raster.unread}", file=sys.stderr)
    if raster.hides_alpha and alpha_looks_like_a_band(raster):
        print(f"warning: band {raster.alpha + 1} of {raster.path} is marked as alpha, so that it "
              "is not learned from, but it varies like an image: if it is one, such as near "
              f"infrared, run gdal_edit.py -colorinterp_{raster.alpha + 1} undefined on the file",
              file=sys.stderr)


def alpha_looks_like_a_band(raster):
    """Whether the two commonest values of alpha, opaque and transparent, are less than half of it.

    Looks at nine windows, spread over the raster.
    """
    with_alpha = dataclasses.replace(raster, bands=raster.bands + 1, hides_alpha=False)
    height, width = min(raster.height, 64), min(raster.width, 64)
    tops = np.linspace(0, raster.height - height, 3).astype(int)
    lefts = np.linspace(0, raster.width - width, 3).astype(int)
    alpha = np.stack([with_alpha.read(top, left, height, width)[:, :, raster.alpha]
                      for top in tops.tolist() for left in lefts.tolist()])
    counts = np.sort(np.unique(alpha, return_counts=True)[1])
    return len(counts) > 16 and counts[-2:].sum() < alpha.size / 2


def warn_of_scales(raster, scales, owner):
    """Warn if a scene's values have other units than they have in another scene or in training.

    Args:
        raster: the scene.
        scales: (scale, offset) per band of the other, or None.
        owner: what the other is, for the message.
    """
    plain = [(1.0, 0.0)] * raster.bands
    here = [tuple(pair) for pair in raster.scales or plain]
    there = [tuple(pair) for pair in scales or plain]
    for band, (one, other) in enumerate(zip(here, there), 1):
        if one != other:
            print(f"warning: {raster.path} has scale {one[0]:g} and offset {one[1]:g} in band "
                  f"{band}, {owner} {other[0]:g} and {other[1]:g}: equal values mean different "
                  "things; bring them to one scale first", file=sys.stderr)
            return


def warn_of_unknown_size(raster):
    """Warn if a raster lies on the map, and the size of its pixels on the ground is not known."""
    size, reason = ground_sample_distance(raster.georeference, raster.height, raster.width)
    if raster.georeference and size is None:
        print(f"warning: areas of {raster.path} are not known, because {reason}", file=sys.stderr)


def warn_of_resolutions(source, gsds):
    """Warn of two scenes of a set whose pixels differ in size by more than 1 %.

    Args:
        source: RawDataset.
        gsds: the size of each scene's pixels, m, or None.
    """
    known = [(gsd, str(scene.image)) for gsd, scene in zip(gsds, source.scenes) if gsd]
    if not known:
        return
    fine, finest = min(known)
    coarse, coarsest = max(known)
    if coarse > 1.01 * fine:
        print(f"warning: {finest} has pixels of {fine:.3g} m, {coarsest} of {coarse:.3g} m: bring "
              "scenes to one resolution, or prepare them apart with another --scale",
              file=sys.stderr)
