"""One raw scene: its pixels and its labels, window by window at the scale asked for."""

import dataclasses
import math
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from geo.raster import open_raster
from sources.label_count import LabelCount
from sources.labels import NO_LABEL
from sources.masks import MaskLabels, add_validity
from sources.placing import points_in_scene

DTYPES = ("uint8", "uint16", "int16", "float32")


def scaled(length, scale):
    """A position or length in px at another scale; at least 1 px where it was 1."""
    return max(round(length * scale), min(length, 1))


def scene_files(path):
    """The images of a scene: its only one, or those of a list NAME.txt with one path per line.

    A path in a list starts from the list's own folder.

    Raises:
        ValueError, OSError: the list is missing or empty.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        return [path]
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    files = [path.parent / line.strip() for line in text.splitlines() if line.strip()]
    if not files:
        raise ValueError(f"{path} lists no image: write the path of one in each line")
    return files


def open_scene(path, max_pixels=2**31):
    """Open an image, or several of one size as one image with the bands of all.

    Of several, a pixel is missing where one of them has no data, by its own nodata value, alpha
    band or NaN. It is then read as one value in all bands.

    Args:
        path: an image, or a list of images NAME.txt (see `scene_files`); NAME is the scene's name.
        max_pixels: as for `open_raster`.
    Returns:
        Raster.
    Raises:
        ValueError, OSError: as `open_raster`; or one of several images has another size, dtype or
            position, or a palette.
    """
    rasters = [open_raster(file, max_pixels) for file in scene_files(path)]
    first = rasters[0]
    if len(rasters) == 1:
        return dataclasses.replace(first, path=Path(path))
    located = next((raster for raster in rasters if raster.georeference), first)
    for raster in rasters:
        if not _on_one_grid(raster, first, located):
            raise ValueError(f"{path}: {raster.path.name} has another size, dtype or place than "
                             f"{first.path.name}: bring the images of a scene to one grid")
    for raster in rasters:
        if raster.palette is not None:
            raise ValueError(f"{path}: {raster.path.name} has a palette, so its values are no "
                             "intensities: convert it to RGB")
    # No pixel with data has this value in all bands: the file that names it, or whose alpha is 0
    # there, would call it missing.
    named = [raster.nodata for raster in rasters if raster.nodata is not None]
    named += [0.0 for raster in rasters if raster.alpha is not None]
    nodata = named[0] if named else None
    return dataclasses.replace(located, path=Path(path), source=Stack(rasters, nodata),
                               nodata=nodata, alpha=None,
                               bands=sum(raster.bands for raster in rasters))


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

    Args:
        rasters: list of Raster.
        nodata: what all bands are where one of the rasters has no data; None: NaN.
    """

    def __init__(self, rasters, nodata):
        self.rasters = rasters
        self.nodata = np.nan if nodata is None else nodata

    def copy(self, row, col, window):
        """Fill window (h, w, C) with the pixels at row, col, one raster's bands after another's."""
        height, width, _ = window.shape
        band = 0
        missing = np.zeros((height, width), bool)
        for raster in self.rasters:
            pixels = raster.read(row, col, height, width)
            window[:, :, band:band + raster.bands] = pixels
            missing |= raster.no_data(pixels)
            band += raster.bands
        if missing.any():
            window[missing] = self.nodata


def resize(raster, height, width, smooth, window=None):
    """A raster at another size, or a window of it; only what lies under the window is read.

    Args:
        raster: Raster.
        height, width: of the whole result, px.
        smooth: average the valid pixels under each new one, as for images; else take the pixel at
            its centre, as class ids need it.
        window: (row, col, height, width) inside the result, px; None is all of it.
    Returns:
        (h, w, C) of the raster's dtype; a pixel whose centre holds no data stays as it is.
    """
    row, col, h, w = window or (0, 0, height, width)
    down = raster.height / height  # px of the raster under one of the result
    across = raster.width / width
    top = max(0, int(row * down) - 1)  # a pixel more, because bilinear looks one beyond
    left = max(0, int(col * across) - 1)
    bottom = min(raster.height, math.ceil((row + h) * down) + 1)
    right = min(raster.width, math.ceil((col + w) * across) + 1)
    pixels = raster.read(top, left, bottom - top, right - left)
    rows = ((np.arange(row, row + h) + 0.5) * raster.height / height).astype(int) - top
    cols = ((np.arange(col, col + w) + 0.5) * raster.width / width).astype(int) - left
    resized = pixels[rows][:, cols]
    if not smooth:
        return resized
    box = (col * across - left, row * down - top,
           min((col + w) * across - left, right - left), min((row + h) * down - top, bottom - top))
    method = Image.Resampling.BOX if height <= raster.height else Image.Resampling.BILINEAR

    def average(band):
        return np.asarray(Image.fromarray(band.astype(np.float32)).resize((w, h), method, box))

    valid = ~raster.no_data(pixels)
    valid_centre = valid[rows][:, cols]
    valid_share = np.maximum(average(valid), 1e-6)
    for band in range(raster.bands):
        mean = average(np.where(valid, pixels[:, :, band], 0)) / valid_share
        if raster.dtype.kind != "f":
            mean = mean.round()
        resized[valid_centre, band] = mean[valid_centre]
    return resized


class Resized:
    """The source of a Raster that is another raster at another size."""

    def __init__(self, raster, height, width):
        self.raster = raster
        self.height = height
        self.width = width

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C)."""
        place = (row, col, *window.shape[:2])
        window[:] = resize(self.raster, self.height, self.width, smooth=True, window=place)


def at_scale(raster, scale):
    """A raster resized as prepare_data.py resizes scenes, its georeference too."""
    if scale == 1:
        return raster
    height = scaled(raster.height, scale)
    width = scaled(raster.width, scale)
    # Not 1 / scale, because sides are whole px, and the map must end where the scene ends.
    factors = raster.height / height, raster.width / width
    georeference = raster.georeference and raster.georeference.window(0, 0, factors)
    return dataclasses.replace(raster, source=Resized(raster, height, width), height=height,
                               width=width, georeference=georeference)


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


def warn_of_unread(raster):
    """Warn of what a raster's file holds and is not read, such as a mask or control points."""
    if raster.unread:
        print(f"warning: {raster.path} {raster.unread}, and that is not read", file=sys.stderr)


def epsg(georeference):
    """The code of a coordinate system; None where the file names none or a private one (32767)."""
    keys = georeference.keys
    code = keys.get(3072) or keys.get(2048)  # ProjectedCRS, GeodeticCRS
    return None if code == 32767 else code


def same_crs(one, other):
    """Whether two rasters have the same coordinate system, as far as both are known."""
    return len({epsg(one.georeference), epsg(other.georeference)} - {None}) < 2


def extent(raster):
    """What a raster covers, in words."""
    size = f"{raster.height} x {raster.width} px"
    if raster.georeference is None:
        return f"{size}, nowhere on the map"
    ends = np.array([0, raster.height]), np.array([0, raster.width])
    xs, ys = raster.georeference.to_map(*ends)
    return (f"{size}, x {min(xs):.10g} to {max(xs):.10g}, y {min(ys):.10g} to {max(ys):.10g} "
            f"(EPSG {epsg(raster.georeference) or 'unknown'})")


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
        raster = open_scene(path, source.max_pixels)
        self.raster = raster if smooth else add_validity(raster)
        self.height = scaled(self.raster.height, source.scale)
        self.width = scaled(self.raster.width, source.scale)

    def read(self, row, col, height, width):
        """(height, width, C) pixels of a window that lies inside."""
        if (self.height, self.width) == (self.raster.height, self.raster.width):
            return self.raster.read(row, col, height, width)
        window = (row, col, height, width)
        return resize(self.raster, self.height, self.width, self.smooth, window)


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
            self.raster.nodata = _checked_nodata(source.nodata, self.raster)
        check_image(self.raster)
        named = self.raster.nodata is not None or self.raster.alpha is not None
        self.has_gaps = named or self.raster.dtype.kind == "f"
        if source.points is not None:
            self.labels = points_in_scene(source.points, scene, self.image)
            return
        mask = ScaledRaster(scene.mask, source, smooth=False)
        self.files.append(mask.raster)
        self.labels = MaskLabels(mask, source)
        check_mask(mask.raster, self.raster)

    def read_image(self, region):
        """The (h, w, C) pixels of a Region, and (h, w) bool which of them are data."""
        pixels = self.image.read(*region.window)
        return pixels, ~self.raster.no_data(pixels)

    def read_labels(self, region):
        """The (h, w) uint8 class indices of a Region; 255 without a label or without data, and
        where the pixel counts in the tile before."""
        source = self.labels if region.labels is None else region.labels
        labels = source.read(*region.window)
        if self.has_gaps:
            _, valid = self.read_image(region)
            labels[~valid] = NO_LABEL
        labels[:region.shared_rows] = NO_LABEL
        labels[:, :region.shared_cols] = NO_LABEL
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
        dtype and gsd_m after scaling (None if one is unknown, or they differ by more than 1 %); and
        how scenes mark missing pixels, a list of (nodata or None, whether there is an alpha band),
        each way once.
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
            warn_of_unread(raster)
            sizes.append((raster.height, raster.width))
            georeferences.append(raster.georeference)
            gsds.append(gsd or (raster.georeference.gsd_m if raster.georeference else None))
            nodata = raster.nodata
            if nodata is not None and np.isnan(nodata):
                nodata = None
            missing[nodata, raster.alpha is not None] = True
            if label_count:
                label_count.add(scene, reader)
    if label_count:
        label_count.report()
    known = None not in gsds and max(gsds) <= 1.01 * min(gsds)
    gsd_m = gsds[0] / source.scale if known else None
    measured = {"bands": first.bands, "dtype": str(first.dtype), "gsd_m": gsd_m}
    return sizes, georeferences, measured, list(missing)


def shared_nodata(source, tiles, missing, dtype):
    """The value of missing pixels in all tiles: the scenes' own where they agree.

    Else it is a value that no pixel with data has in every band: one that a scene names, 0, or the
    highest that is free.

    Args:
        source: RawDataset.
        tiles: list of Region, scene by scene; they are read only where scenes differ.
        missing: as from `check_scenes`.
        dtype: name of the scenes' dtype.
    Returns:
        a number; None where nothing can be missing, or where NaN marks it.
    Raises:
        ValueError: every value is data somewhere.
    """
    if len(missing) == 1:
        (nodata, has_alpha), = missing
        if not has_alpha:
            return nodata
    if dtype == "float32":
        return None
    limits = np.iinfo(dtype)
    taken = np.zeros(limits.max - limits.min + 1, bool)
    progress = tqdm(tiles, "comparing", unit="tile", disable=None, leave=False)
    for tile, reader in each_tile(source, progress):
        pixels, valid = reader.read_image(tile)
        alike = valid & (pixels == pixels[:, :, :1]).all(axis=2)
        taken[pixels[alike, 0].astype(int) - limits.min] = True
    named = [nodata for nodata, _ in missing if nodata is not None]
    for value in [*named, 0, *range(limits.max, limits.min - 1, -1)]:
        if not taken[int(value) - limits.min]:
            return value
    raise ValueError(f"{source.scenes[0].image} and others differ in what no data is, and each "
                     f"value of {dtype} is data somewhere: give all of them one nodata value, or a "
                     "wider dtype")
