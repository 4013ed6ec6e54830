"""One raw scene: its pixels and its labels, window by window at the scale asked for."""

import dataclasses
import math
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from geo.raster import hide_alpha, open_raster
from sources.label_count import LabelCount
from sources.labels import NO_LABEL
from sources.masks import MaskLabels
from sources.notices import (
    warn_of_reading, warn_of_resolutions, warn_of_scales, warn_of_unknown_size)
from sources.placing import points_in_scene
from sources.tables import read_text

DTYPES = ("uint8", "uint16", "int16", "float32")


def scaled(length, scale):
    """A position or length in px at another scale; at least 1 px where it was 1."""
    return max(round(length * scale), min(length, 1))


def scene_files(path):
    """The images of a scene: its only one, or those of a list NAME.txt with one path per line.

    A path in a list starts from the list's own folder.

    Raises:
        ValueError, OSError: the list is missing, empty or no text.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        return [path]
    lines = read_text(path).splitlines()
    files = [path.parent / line.strip() for line in lines if line.strip()]
    if not files:
        raise ValueError(f"{path} lists no image: write the path of one in each line")
    return files


def open_scene(path, max_pixels=2**31, alpha_as_band=False):
    """Open an image, or several of one extent as one image with the bands of all.

    Of several, those with larger pixels are brought to the grid of the finest, as the 20 m bands of
    Sentinel-2 are to its 10 m bands. A value is missing by the rules of its own file.

    Args:
        path: an image, or a list of images NAME.txt (see `scene_files`); NAME is the scene's name.
        max_pixels: as for `open_raster`.
        alpha_as_band: whether alpha is read as the last band, too, as class masks need it.
    Returns:
        Raster.
    Raises:
        ValueError, OSError: as `open_raster`; or one of several images has another size, dtype or
            position, or a palette.
    """
    rasters = [open_raster(file, max_pixels) for file in scene_files(path)]
    if not alpha_as_band:
        rasters = [hide_alpha(raster) for raster in rasters]
    if len(rasters) == 1:
        return dataclasses.replace(rasters[0], path=Path(path))
    finest = max(rasters, key=lambda raster: raster.height * raster.width)
    rasters = [_to_grid(raster, finest) for raster in rasters]
    first = rasters[0]
    located = next((raster for raster in rasters if raster.georeference), first)
    for raster in rasters:
        if not _on_one_grid(raster, first, located):
            raise ValueError(f"{path}: {raster.path.name} has another size, dtype or place than "
                             f"{first.path.name}: bring the images of a scene to one grid")
    for raster in rasters:
        if raster.palette is not None:
            raise ValueError(f"{path}: {raster.path.name} has a palette, so its values are no "
                             "intensities: convert it to RGB")
    nodata = sum([raster.nodata_of_bands()[:raster.bands] for raster in rasters], ())
    scales = sum([raster.scales or ((1.0, 0.0),) * raster.bands for raster in rasters], ())
    return dataclasses.replace(
        located, path=Path(path), source=Stack(rasters), bands=len(nodata),
        nodata=nodata[0] if len(set(nodata)) == 1 else nodata,
        scales=scales if set(scales) != {(1.0, 0.0)} else None,
        alpha=None, hides_alpha=False, masks=(), sparse=False)


def _to_grid(raster, finest):
    """A raster of larger pixels on the grid of the finest, if both cover the same ground."""
    same_size = (raster.height, raster.width) == (finest.height, finest.width)
    if same_size or not (raster.georeference and finest.georeference):
        return raster
    ends = np.array([0, raster.height]), np.array([0, raster.width])
    rows, cols = finest.georeference.to_pixel(*raster.georeference.to_map(*ends))
    distance = np.abs([rows - (0, finest.height), cols - (0, finest.width)]).max()
    return resized_raster(raster, finest.height, finest.width) if distance < 0.5 else raster


def _on_one_grid(raster, first, located):
    """Whether a raster has the size and dtype of the first and the position of the located one."""
    if (raster.height, raster.width, raster.dtype) != (first.height, first.width, first.dtype):
        return False
    if raster.georeference is None:
        return True
    affine = raster.georeference.affine
    same_place = np.allclose(affine, located.georeference.affine, rtol=1e-9, atol=0)
    return same_place and same_crs(raster, located)


class Stack:
    """Several rasters of one size in the place of a Raster's file.

    Attributes:
        by_pixel: whether a pixel that one raster lacks is missing in all, as in earlier commits.
    """

    def __init__(self, rasters):
        self.rasters = rasters
        self.by_pixel = False
        self.has_validity = any(raster.has_validity for raster in rasters)

    def copy(self, row, col, window):
        """Fill window (h, w, C) with the pixels at row, col, one raster's bands after another's."""
        self.copy_masked(row, col, window, np.zeros(window.shape, bool))

    def copy_masked(self, row, col, window, missing):
        """Fill window, and missing (h, w, C) bool with which of its values are no data."""
        band = 0
        lacking = np.zeros(window.shape[:2], bool)
        for raster in self.rasters:
            bands = slice(band, band + raster.bands)
            pixels, gaps = raster.read_masked(row, col, *window.shape[:2])
            window[:, :, bands] = pixels
            missing[:, :, bands] = gaps
            band += raster.bands
            if self.by_pixel:
                lacking |= gaps.all(axis=2)
        missing[lacking] = True


def name_nodata(raster, nodata):
    """Set the nodata value of a raster, or one per band, and of the files that it consists of."""
    raster.nodata = nodata
    band = 0
    for part in getattr(raster.source, "rasters", ()):
        of_part = nodata[band:band + part.bands] if isinstance(nodata, tuple) else nodata
        name_nodata(part, of_part)
        band += part.bands


def resize(raster, height, width, smooth, window=None):
    """A raster at another size, or a window of it; only what lies under the window is read.

    Args:
        raster: Raster.
        height, width: of the whole result, px.
        smooth: average the valid pixels under each new one, as for images; else take the pixel at
            its centre, as class ids need it.
        window: (row, col, height, width) inside the result, px; None is all of it.
    Returns:
        (h, w, C) of the raster's dtype; a value that is missing at its centre stays as it is.
    """
    return resize_masked(raster, height, width, smooth, window)[0]


def resize_masked(raster, height, width, smooth, window=None):
    """`resize`, and which values of the result are missing, (h, w, C) bool."""
    row, col, h, w = window or (0, 0, height, width)
    down = raster.height / height  # px of the raster under one of the result
    across = raster.width / width
    top = max(0, int(row * down) - 1)  # a pixel more, because bilinear looks one beyond
    left = max(0, int(col * across) - 1)
    bottom = min(raster.height, math.ceil((row + h) * down) + 1)
    right = min(raster.width, math.ceil((col + w) * across) + 1)
    pixels, missing = raster.read_masked(top, left, bottom - top, right - left)
    rows = ((np.arange(row, row + h) + 0.5) * raster.height / height).astype(int) - top
    cols = ((np.arange(col, col + w) + 0.5) * raster.width / width).astype(int) - left
    resized = pixels[rows][:, cols]
    missing_centre = missing[rows][:, cols]
    if not smooth:
        return resized, missing_centre
    box = (col * across - left, row * down - top,
           min((col + w) * across - left, right - left), min((row + h) * down - top, bottom - top))
    method = Image.Resampling.BOX if height <= raster.height else Image.Resampling.BILINEAR

    def average(band):
        return np.asarray(Image.fromarray(band.astype(np.float32)).resize((w, h), method, box))

    valid = ~missing
    kept = missing_centre
    if raster.by_pixel:
        lacking = missing.all(axis=2) | ~np.isfinite(pixels).all(axis=2)
        valid = np.repeat(~lacking[:, :, None], raster.bands, axis=2)
        kept = ~valid[rows][:, cols]
    valid_share = None
    for band in range(raster.bands):
        known = valid[:, :, band]
        if band == 0 or not np.array_equal(known, valid[:, :, band - 1]):
            valid_share = np.maximum(average(known), 1e-6)
        mean = average(np.where(known, pixels[:, :, band], 0)) / valid_share
        if raster.dtype.kind != "f":
            mean = mean.round()
        known_centre = ~kept[:, :, band]
        resized[known_centre, band] = mean[known_centre]
    return resized, missing_centre


class Resized:
    """The source of a Raster that is another raster at another size."""

    def __init__(self, raster, height, width):
        self.raster = raster
        self.rasters = [raster]
        self.has_validity = raster.has_validity
        self.height = height
        self.width = width

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C)."""
        self.copy_masked(row, col, window, np.zeros(window.shape, bool))

    def copy_masked(self, row, col, window, missing):
        """Copy the pixels, and set missing (h, w, C) bool where values are no data."""
        place = (row, col, *window.shape[:2])
        window[:], missing[:] = resize_masked(self.raster, self.height, self.width, True, place)


def at_scale(raster, scale):
    """A raster resized as prepare_data.py resizes scenes, its georeference too."""
    if scale == 1:
        return raster
    return resized_raster(raster, scaled(raster.height, scale), scaled(raster.width, scale))


def resized_raster(raster, height, width):
    """A raster at another size, px, whose windows are resized as they are read."""
    # Not 1 / scale, because sides are whole px, and the map must end where the scene ends.
    factors = raster.height / height, raster.width / width
    georeference = raster.georeference and raster.georeference.window(0, 0, factors)
    return dataclasses.replace(
        raster, source=Resized(raster, height, width), height=height, width=width,
        georeference=georeference, alpha=None, hides_alpha=False, masks=(), sparse=False)


def check_footprint(raster, image, factor):
    """Refuse a raster that does not cover what an image covers, to half a pixel of the image.

    Where one of the two has no georeference, only their sizes are compared.

    Args:
        raster, image: Raster.
        factor: how many pixels of the raster lie along one of the image.
    Raises:
        ValueError: both extents are named.
    """
    size = (-(-raster.height // factor), -(-raster.width // factor))
    fits = size == (image.height, image.width)
    if raster.georeference and image.georeference:
        ends = np.array([0, raster.height]), np.array([0, raster.width])
        on_image = image.georeference.to_pixel(*raster.georeference.to_map(*ends))
        distance = np.abs(np.array(on_image) - np.array(ends) / factor).max()
        fits = fits and distance <= 0.5 and same_crs(raster, image)
    if not fits:
        raise ValueError(f"{raster.path} covers {extent(raster)}, but {image.path} "
                         f"{extent(image)}: give images of one extent and grid, and a mask of that "
                         "grid or a whole number of times finer")


def epsg(raster):
    """The code of a raster's coordinate system; None where it has none or a private one (32767)."""
    keys = raster.georeference.keys
    code = keys.get(3072) or keys.get(2048)  # ProjectedCRS, GeodeticCRS
    return None if code == 32767 else code


def same_crs(one, other):
    """Whether two rasters have the same coordinate system, as far as both are known."""
    return len({epsg(one), epsg(other)} - {None}) < 2


def extent(raster):
    """What a raster covers, in words, and whether it lies there with another side up."""
    size = f"{raster.height} x {raster.width} px"
    if raster.georeference is None:
        return f"{size}, nowhere on the map"
    ends = np.array([0, raster.height]), np.array([0, raster.width])
    xs, ys = raster.georeference.to_map(*ends)
    a, b, _, d, e, _ = raster.georeference.affine
    note = "" if a > 0 > e and b == d == 0 else ", not north up"
    return (f"{size}, x {min(xs):.10g} to {max(xs):.10g}, y {min(ys):.10g} to {max(ys):.10g} "
            f"(EPSG {epsg(raster) or 'unknown'}{note})")


class ScaledRaster:
    """A raster file at another scale, read in windows.

    Args:
        path: the image, a list of images, or the mask.
        source: RawDataset, of which scale and max_pixels matter.
        smooth: as for `resize`; False also reads the file's mask of valid pixels, as alpha.
    """

    def __init__(self, path, source, smooth):
        self.path = path
        self.smooth = smooth
        self.raster = open_scene(path, source.max_pixels, alpha_as_band=not smooth)
        self.height = scaled(self.raster.height, source.scale)
        self.width = scaled(self.raster.width, source.scale)

    def read(self, row, col, height, width):
        """(height, width, C) pixels of a window that lies inside."""
        if (self.height, self.width) == (self.raster.height, self.raster.width):
            return self.raster.read(row, col, height, width)
        window = (row, col, height, width)
        return resize(self.raster, self.height, self.width, self.smooth, window)

    def read_masked(self, row, col, height, width):
        """`read`, and which values are missing, (height, width, C) bool."""
        if (self.height, self.width) == (self.raster.height, self.raster.width):
            return self.raster.read_masked(row, col, height, width)
        window = (row, col, height, width)
        return resize_masked(self.raster, self.height, self.width, self.smooth, window)


class SceneReader:
    """Image and labels of one scene at its final scale; a context manager.

    Args:
        scene: Scene.
        source: RawDataset.
    Attributes:
        raster: the image as it lies in its file.
        labels: MaskLabels or RunLabels.
        has_gaps: whether there may be pixels without data.
    Raises:
        ValueError, OSError: a file that cannot be read, image and mask of another size or
            position, or an image of a dtype that is not kept.
    """

    def __init__(self, scene, source):
        self.image = ScaledRaster(scene.image, source, smooth=True)
        self.raster = self.image.raster
        self.files = [self.raster]
        if source.nodata is not None and self.raster.nodata is None:
            name_nodata(self.raster, _checked_nodata(source.nodata, self.raster))
        check_image(self.raster)
        self.has_gaps = self.raster.may_miss_values
        if source.points is not None:
            self.labels = points_in_scene(source.points, scene, self.image)
            return
        mask = ScaledRaster(scene.mask, source, smooth=False)
        self.files.append(mask.raster)
        self.labels = MaskLabels(mask, source)
        check_mask(mask.raster, self.raster)

    def read_image(self, region):
        """The (h, w, C) pixels of a Region, and (h, w, C) bool which values are data."""
        pixels, missing = self.image.read_masked(*region.window)
        return pixels, ~missing

    def read_labels(self, region):
        """The (h, w) uint8 class indices of a Region; 255 without a label or without data, and
        where the pixel counts in the tile before."""
        source = self.labels if region.labels is None else region.labels
        labels = source.read(*region.window)
        if self.has_gaps:
            _, known = self.read_image(region)
            labels[~known.any(axis=2)] = NO_LABEL
        labels[~region.counted] = NO_LABEL
        return labels

    def is_empty(self, regions):
        """Whether no pixel of these regions is data."""
        if not self.has_gaps:
            return False
        return not any(self.read_image(region)[1].any() for region in regions)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in self.files:
            file.close()


def each_tile(source, tiles):
    """Yield each tile with the SceneReader of its scene; tiles come scene by scene."""
    for number, group in groupby(tiles, lambda tile: tile.scene):
        with SceneReader(source.scenes[number], source) as reader:
            for tile in group:
                yield tile, reader


def _checked_nodata(nodata, raster):
    """The --nodata value, if the raster's dtype can hold it."""
    if raster.dtype.kind in "ui":
        limits = np.iinfo(raster.dtype)
        if nodata not in range(limits.min, limits.max + 1):
            raise ValueError(f"--nodata {nodata:g}: {raster.path} holds {raster.dtype}, which "
                             "cannot be that")
    return nodata


def check_image(raster):
    """Refuse an image whose values are no intensities or of a dtype that is not kept."""
    if str(raster.dtype) not in DTYPES:
        raise ValueError(f"{raster.path} holds {raster.dtype}: convert it to one of "
                         f"{', '.join(DTYPES)}")
    if raster.palette is not None:
        raise ValueError(f"{raster.path} has a palette, so its values are no intensities: convert "
                         "it to RGB")


def check_mask(mask, image):
    """Refuse a mask that does not lie on its image pixel by pixel; both are Rasters."""
    if (mask.height, mask.width) != (image.height, image.width):
        turned = " (turned, as its EXIF orientation says)" if image.turned else ""
        raise ValueError(f"{image.path} is {image.height} x {image.width} px{turned}, but its mask "
                         f"{mask.path} {mask.height} x {mask.width}: bring them to one size")
    # Orientations 5 to 8 exchange rows and columns, so that unequal sides show which one is right.
    sizes_show_it = image.height != image.width and max(image.turned, mask.turned) >= 5
    if mask.turned != image.turned and not sizes_show_it:
        raise ValueError(f"{image.path} and its mask {mask.path} are turned by different EXIF "
                         "orientations, and their sizes do not show which is right: save both "
                         "upright, without one")
    if mask.georeference and image.georeference:
        check_footprint(mask, image, 1)


def check_scenes(source, gsd=None):
    """Open every scene of a data set, and refuse scenes that do not go together.

    Args:
        source: RawDataset.
        gsd: ground sample distance of the files, m; None takes it from the files.
    Returns:
        [(height, width)] of the scenes' files, px; their [Georeference or None]; a dict of bands,
        dtype, gsd_m after scaling (None if one is unknown, or they differ by more than 1 %), and
        scales; and how scenes mark missing pixels, a list of (nodata or None, whether there is
        alpha or a mask), each way once.
    Raises:
        ValueError, OSError: scenes of different bands or dtype, or points outside all of them.
    """
    sizes = []
    gsds = []
    georeferences = []
    missing = {}
    label_count = source.points and LabelCount(source.points)
    first = None
    for scene in tqdm(source.scenes, "opening", unit="scene", disable=None, leave=False):
        with SceneReader(scene, source) as reader:
            raster = reader.raster
            first = first or raster
            if (raster.bands, raster.dtype) != (first.bands, first.dtype):
                raise ValueError(f"{raster.path} has {raster.bands} bands of {raster.dtype}, but "
                                 f"{first.path} {first.bands} of {first.dtype}: prepare them "
                                 "apart, or make them alike")
            warn_of_reading(raster)
            warn_of_scales(raster, first.scales, first.path)
            if raster is first and not gsd:
                warn_of_unknown_size(raster)
            sizes.append((raster.height, raster.width))
            georeferences.append(raster.georeference)
            gsds.append(gsd or raster.gsd_m)
            nodata = raster.nodata
            if isinstance(nodata, float) and np.isnan(nodata):
                nodata = None
            missing[nodata, raster.has_validity] = True
            if label_count:
                label_count.add(scene, reader)
    if label_count:
        label_count.report()
    known = None not in gsds and max(gsds) <= 1.01 * min(gsds)
    gsd_m = gsds[0] / source.scale if known else None
    warn_of_resolutions(source, gsds)
    measured = {"bands": first.bands, "dtype": str(first.dtype), "gsd_m": gsd_m,
                "scales": first.scales}
    return sizes, georeferences, measured, list(missing)
