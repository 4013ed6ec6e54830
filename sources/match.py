"""Scenes to predict, opened as the training scenes were and compared with them."""

import sys

from sources.notices import warn_of_reading, warn_of_scales, warn_of_unknown_size
from sources.scenes import Stack, name_nodata, open_scene


def open_as_trained(path, meta, checkpoint, max_pixels=2**31):
    """Open a scene as the training scenes were read; a Raster.

    Networks of earlier commits learned from alpha as if it were a band, and read it as one still.

    Raises:
        ValueError, OSError: as `open_scene` and `check_scene`.
    """
    raster = open_scene(path, max_pixels)
    learned_alpha = "scene_nodata" not in meta and raster.bands + 1 == meta["bands"]
    if learned_alpha and raster.hides_alpha:
        raster = open_scene(path, max_pixels, alpha_as_band=True)
        print(f"warning: {checkpoint} was trained with alpha as a band, and reads that of {path} "
              "as one: its map depends on how opaque pixels are; prepare the data set again and "
              "train anew", file=sys.stderr)
    check_scene(raster, meta, checkpoint)
    raster.by_pixel = "scene_nodata" not in meta
    if isinstance(raster.source, Stack):
        raster.source.by_pixel = raster.by_pixel
    nodata = meta.get("scene_nodata", meta.get("nodata"))
    is_free = raster.nodata is None and not (raster.has_validity and "scene_nodata" in meta)
    if is_free and nodata is not None:
        name_nodata(raster, tuple(nodata) if isinstance(nodata, list) else nodata)
    return raster


def warn_of_scale(raster, gsd, scale):
    """Warn if the size of a scene's pixels is not known, or is not that of training.

    Args:
        raster: the scene as it is predicted, after scaling by `scale`.
        gsd: size of the training pixels, m; None: unknown.
    """
    warn_of_unknown_size(raster)
    scene_gsd = raster.gsd_m
    if scene_gsd and gsd and not 0.95 < scene_gsd / gsd < 1.05:
        print(f"warning: {raster.path} is predicted at {scene_gsd:.3g} m per pixel, the network "
              f"was trained at {gsd:.3g} m: --scale {scale * scene_gsd / gsd:.4g} would match them",
              file=sys.stderr)


def check_scene(raster, meta, checkpoint):
    """Compare a scene with what the network was trained on.

    Raises:
        ValueError: another number of bands, another dtype, or a palette.
    """
    warn_of_reading(raster)
    warn_of_scales(raster, meta.get("scales"), checkpoint)
    if raster.palette is not None:
        raise ValueError(f"{raster.path} has a palette, so its values are no intensities: "
                         "convert it to RGB")
    if raster.bands != meta["bands"]:
        alpha = " and alpha, which is none" if raster.hides_alpha else ""
        raise ValueError(f"{raster.path} has {raster.bands} bands{alpha}, but {checkpoint} was "
                         f"trained on {meta['bands']}: give scenes with the same bands in the same "
                         "order")
    if str(raster.dtype) != meta["dtype"]:
        raise ValueError(f"{raster.path} holds {raster.dtype}, but {checkpoint} was trained on "
                         f"{meta['dtype']}: its values would mean something else; convert the "
                         "scene as the training scenes were")
