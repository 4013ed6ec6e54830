"""One raw scene: its pixels, and its labels from a mask or from points, window by window at the scale asked for."""

import dataclasses
import math
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from geo.raster import open_raster
from sources.labels import NO_LABEL, MaskLabels, PointLabels

DTYPES = ("uint8", "uint16", "int16", "float32")


class Region(NamedTuple):
    """A rectangle of a scene, px after --scale, and the split it belongs to. A tile is a small region."""

    split: str
    scene: int
    row: int
    col: int
    height: int
    width: int

    @property
    def window(self):
        """(row, col, height, width)."""
        return self[2:]


def scaled(length, scale):
    """A position or length in px at another scale; at least 1 px where it was 1."""
    return max(round(length * scale), min(length, 1))


def scene_files(path):
    """The images that a scene lies in: its only one, or those that a list NAME.txt holds, a path a line.

    A path in a list starts from the list's own folder.

    Raises:
        ValueError, OSError: the list is missing or empty.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        return [path]
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    if not any(lines):
        raise ValueError(f"{path} lists no image: write the path of one in each line")
    return [path.parent / line for line in lines if line]


def open_scene(path, max_pixels=2**31):
    """Open a scene for reading in windows: an image, or several of one size whose bands are put one after the other.

    Of several, a pixel is missing where one of them says so by its own nodata value, alpha band or NaN; it is then read as
    one value in all bands, whatever each file calls it.

    Args:
        path: an image; or a list of images NAME.txt, as `scene_files` reads it: then NAME is the scene's name.
        max_pixels: as for `open_raster`.
    Returns:
        Raster.
    Raises:
        ValueError, OSError: as `open_raster`, or of several images one of another size, dtype or place, or with a palette.
    """
    rasters = [open_raster(file, max_pixels) for file in scene_files(path)]
    first = rasters[0]
    if len(rasters) == 1:
        return dataclasses.replace(first, path=Path(path))
    located = next((raster for raster in rasters if raster.georeference), first)
    for raster in rasters[1:]:
        alike = (raster.height, raster.width, raster.dtype) == (first.height, first.width, first.dtype)
        if alike and raster.georeference:
            alike = np.allclose(raster.georeference.affine, located.georeference.affine, rtol=1e-9, atol=0)
            alike = alike and len({epsg(raster), epsg(located)} - {None}) < 2
        if not alike:
            raise ValueError(f"{path}: {raster.path.name} has another size, dtype or place than {first.path.name}: "
                             "bring the images of a scene to one grid")
    for raster in rasters:
        if raster.palette is not None:
            raise ValueError(f"{path}: {raster.path.name} has a palette, so its values are no intensities: convert it to "
                             "RGB")
    # No pixel with data has this value in all bands: the file that names it, or whose alpha is 0, would call it missing.
    named = [raster.nodata for raster in rasters if raster.nodata is not None]
    named += [0.0 for raster in rasters if raster.alpha is not None]
    nodata = named[0] if named else None
    return dataclasses.replace(located, path=Path(path), source=Stack(rasters, nodata), nodata=nodata, alpha=None,
                               bands=sum(raster.bands for raster in rasters))


class Stack:
    """Several rasters of one size in the place of a Raster's file.

    Args:
        rasters: list of Raster.
        nodata: what all bands are where one of the rasters has no data; None: NaN.
    """

    def __init__(self, rasters, nodata):
        self.rasters, self.nodata = rasters, np.nan if nodata is None else nodata

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C), the bands of each raster after those of the one before."""
        band, missing = 0, np.zeros(window.shape[:2], bool)
        for raster in self.rasters:
            pixels = raster.read(row, col, *window.shape[:2])
            window[:, :, band:band + raster.bands] = pixels
            missing |= raster.no_data(pixels)
            band += raster.bands
        if missing.any():
            window[missing] = self.nodata


def resize(raster, height, width, smooth, window=None):
    """A raster at another size, or a window of that; only what lies under the window is read.

    Args:
        raster: Raster.
        height, width: of the whole result, px.
        smooth: average the valid pixels under each new one; else take the one at its centre, as class ids need it.
        window: (row, col, height, width) inside the result, px; None is all of it.
    Returns:
        (h, w, C) of the raster's dtype; where the pixel at the centre is no data, it stays as it is.
    """
    row, col, h, w = window or (0, 0, height, width)
    down, across = raster.height / height, raster.width / width  # px of the raster under one of the result
    top, left = max(0, int(row * down) - 1), max(0, int(col * across) - 1)  # a pixel more: bilinear looks one beyond
    bottom = min(raster.height, math.ceil((row + h) * down) + 1)
    right = min(raster.width, math.ceil((col + w) * across) + 1)
    pixels = raster.read(top, left, bottom - top, right - left)
    rows = ((np.arange(row, row + h) + 0.5) * raster.height / height).astype(int) - top
    cols = ((np.arange(col, col + w) + 0.5) * raster.width / width).astype(int) - left
    box = (col * across - left, row * down - top, min((col + w) * across - left, right - left),
           min((row + h) * down - top, bottom - top))
    resized = pixels[rows][:, cols]
    if not smooth:
        return resized
    method = Image.Resampling.BOX if height <= raster.height else Image.Resampling.BILINEAR

    def average(band):
        return np.asarray(Image.fromarray(band.astype(np.float32)).resize((w, h), method, box))

    valid = ~raster.no_data(pixels)
    kept, share = valid[rows][:, cols], np.maximum(average(valid), 1e-6)
    for band in range(raster.bands):
        mean = average(np.where(valid, pixels[:, :, band], 0)) / share
        resized[kept, band] = (mean if raster.dtype.kind == "f" else mean.round())[kept]
    return resized


def check_footprint(raster, image, factor):
    """See that a raster whose pixels are `factor` times finer covers what an image covers, to half an image pixel.

    Where one of the two has no georeference, their sizes alone are compared.

    Raises:
        ValueError: it does not; both extents are named.
    """
    fits = (-(-raster.height // factor), -(-raster.width // factor)) == (image.height, image.width)
    if raster.georeference and image.georeference:
        corners = raster.georeference.to_map(np.array([0, raster.height]), np.array([0, raster.width]))
        corners = np.array(image.georeference.to_pixel(*corners))  # (row and col, first and last)
        sides = np.array([[0, raster.height], [0, raster.width]]) / factor
        fits = fits and np.abs(corners - sides).max() <= 0.5 and len({epsg(raster), epsg(image)} - {None}) < 2
    if not fits:
        raise ValueError(f"{raster.path} covers {extent(raster)}, but {image.path} {extent(image)}: give images of one "
                         "extent and grid, and a mask of that grid or a whole number of times finer")


def warn_of_unread(raster):
    """Say what a raster's file holds that is not read: such a mask's pixels count as data, and points place it nowhere."""
    if raster.unread:
        print(f"warning: {raster.path} {raster.unread}, and that is not read", file=sys.stderr)


def epsg(raster):
    """The code of a raster's coordinate system; None where it has none, or one of its own (32767)."""
    code = raster.georeference.keys.get(3072) or raster.georeference.keys.get(2048)
    return None if code == 32767 else code


def extent(raster):
    """What a raster covers, in words."""
    size = f"{raster.height} x {raster.width} px"
    if raster.georeference is None:
        return f"{size}, nowhere on the map"
    xs, ys = raster.georeference.to_map(np.array([0, raster.height]), np.array([0, raster.width]))
    return (f"{size}, x {min(xs):.10g} to {max(xs):.10g}, y {min(ys):.10g} to {max(ys):.10g} "
            f"(EPSG {epsg(raster) or 'unknown'})")


class ScaledRaster:
    """A raster file at another scale, read in windows.

    Args:
        path: the image, a list of images, or the mask.
        source: Source, for its scale and max_pixels.
        smooth: as for `resize`.
    """

    def __init__(self, path, source, smooth):
        self.path, self.raster, self.smooth = path, open_scene(path, source.max_pixels), smooth
        scale = source.scale
        self.height, self.width = scaled(self.raster.height, scale), scaled(self.raster.width, scale)

    def read(self, row, col, height, width):
        """(height, width, C) pixels of a window that lies inside."""
        if (self.height, self.width) == (self.raster.height, self.raster.width):
            return self.raster.read(row, col, height, width)
        return resize(self.raster, self.height, self.width, self.smooth, (row, col, height, width))


class SceneReader:
    """Image and labels of one scene at its final scale; used as a context manager.

    Args:
        scene: Scene.
        source: Source, which says how to read it.
    Attributes:
        raster: the image as it lies in its file.
        labels: MaskLabels or PointLabels.
        has_gaps: whether there may be pixels that are no data.
    Raises:
        ValueError, OSError: a file that cannot be read, image and mask of another size or place, or a dtype not kept.
    """

    def __init__(self, scene, source):
        self.image = ScaledRaster(scene.image, source, smooth=True)
        self.raster, self.polygons = self.image.raster, source.polygons.get(scene.name)
        if source.nodata is not None and self.raster.nodata is None:
            limits = np.iinfo(self.raster.dtype) if self.raster.dtype.kind in "ui" else None
            if limits and source.nodata not in range(limits.min, limits.max + 1):
                raise ValueError(f"--nodata {source.nodata:g}: {scene.image} holds {self.raster.dtype}, which cannot be that")
            self.raster.nodata = source.nodata
        self.has_gaps = self.raster.dtype.kind == "f" or (self.raster.nodata, self.raster.alpha) != (None, None)
        if str(self.raster.dtype) not in DTYPES:
            raise ValueError(f"{scene.image} holds {self.raster.dtype}: convert it to one of {', '.join(DTYPES)}")
        if self.raster.palette is not None:
            raise ValueError(f"{scene.image} has a palette, so its values are no intensities: convert it to RGB")
        self.files = [self.raster]
        if source.points is not None:
            self.labels = PointLabels(source.points, scene, self.image)
            return
        mask = ScaledRaster(scene.mask, source, smooth=False)
        self.files.append(mask.raster)
        self.labels = MaskLabels(mask, source)
        if (mask.raster.height, mask.raster.width) != (self.raster.height, self.raster.width):
            turned = " (turned, as its EXIF orientation says)" if self.raster.turned else ""
            raise ValueError(f"{scene.image} is {self.raster.height} x {self.raster.width} px{turned}, but its mask "
                             f"{scene.mask} {mask.raster.height} x {mask.raster.width}: bring them to one size")
        told = self.raster.height != self.raster.width and max(self.raster.turned, mask.raster.turned) >= 5  # by the sizes
        if mask.raster.turned != self.raster.turned and not told:
            raise ValueError(f"{scene.image} and its mask {scene.mask} are turned by different EXIF orientations, and their "
                             "sizes do not show which is right: save both upright, without one")
        if mask.raster.georeference and self.raster.georeference:
            check_footprint(mask.raster, self.raster, 1)

    def read_image(self, region):
        """The (h, w, C) pixels of a Region, and (h, w) bool which of them are data."""
        pixels = self.image.read(*region.window)
        return pixels, ~self.raster.no_data(pixels)

    def read_labels(self, region):
        """The (h, w) uint8 class indices of a Region; 255 where there is no label or the image is no data.

        Where polygons were drawn, 255 too wherever the label is not of a polygon of the Region's split.
        """
        labels = self.labels.read(*region.window)
        if self.polygons is not None:
            rows, cols = self.polygons[region.split] - np.array([[region.row], [region.col]])  # (N,), (N,)
            here = (rows >= 0) & (rows < region.height) & (cols >= 0) & (cols < region.width)
            others = np.ones(labels.shape, bool)
            others[rows[here], cols[here]] = False
            labels[others] = NO_LABEL
        if self.has_gaps:
            labels[~self.read_image(region)[1]] = NO_LABEL
        return labels

    def is_empty(self, regions):
        """Whether no pixel of these regions is data."""
        return self.has_gaps and not any(self.read_image(region)[1].any() for region in regions)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in self.files:
            file.close()


def check_scenes(source, gsd=None):
    """Open every scene of a data set, and see that they go together.

    Args:
        source: RawDataset.
        gsd: ground sample distance of the files, m; None: as they say.
    Returns:
        [(height, width)] of the scenes' files, px; a dict of bands, dtype and gsd_m after scaling (None if it is
        unknown of one, or they differ by more than 1 %); and how scenes say that pixels are missing: list of (nodata or
        None, whether there is an alpha band), each way once.
    Raises:
        ValueError, OSError: scenes of different bands or dtype, or a point that lies in none of them.
    """
    sizes, gsds, missing, inside, first = [], [], {}, False, None
    for scene in tqdm(source.scenes, "opening", unit="scene", disable=None, leave=False):
        with SceneReader(scene, source) as reader:
            raster = reader.raster
            first = first or raster
            if (raster.bands, raster.dtype) != (first.bands, first.dtype):
                raise ValueError(f"{raster.path} has {raster.bands} bands of {raster.dtype}, but {first.path} "
                                 f"{first.bands} of {first.dtype}: prepare them apart, or make them alike")
            warn_of_unread(raster)
            sizes.append((raster.height, raster.width))
            gsds.append(gsd or (raster.georeference.gsd_m if raster.georeference else None))
            nodata = None if raster.nodata is None or np.isnan(raster.nodata) else raster.nodata
            missing[nodata, raster.alpha is not None] = True
            if source.points is not None:
                inside = inside | reader.labels.inside
    if source.points is not None and not inside.all():
        raise ValueError(f"{source.points.places[inside.argmin()]}: no scene of that name covers the point")
    known = None not in gsds and max(gsds) <= 1.01 * min(gsds)
    gsd_m = gsds[0] / source.scale if known else None
    return sizes, {"bands": first.bands, "dtype": str(first.dtype), "gsd_m": gsd_m}, list(missing)


def shared_nodata(source, tiles, missing, dtype):
    """The value that missing pixels of all tiles are to have: the scenes' own where they agree and none is transparent.

    Else it is one that no pixel with data has in every band: one that a scene names, 0, or the highest that is free.

    Args:
        source: RawDataset.
        tiles: list of Region, scene by scene; they are read only where scenes differ.
        missing: as from `check_scenes`.
        dtype: name of the scenes' dtype.
    Returns:
        a number; None where nothing can be missing, or where NaN says it.
    Raises:
        ValueError: every value is data somewhere.
    """
    if len(missing) == 1 and not missing[0][1]:
        return missing[0][0]
    if dtype == "float32":
        return None
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    taken = np.zeros(high - low + 1, bool)
    progress = tqdm(tiles, "comparing", unit="tile", disable=None, leave=False)
    for number, group in groupby(progress, lambda tile: tile.scene):
        with SceneReader(source.scenes[number], source) as reader:
            for tile in group:
                pixels, valid = reader.read_image(tile)
                alike = valid & (pixels == pixels[:, :, :1]).all(axis=2)
                taken[pixels[alike, 0].astype(int) - low] = True
    for value in (*(value for value, _ in missing if value is not None), 0, *range(high, low - 1, -1)):
        if not taken[int(value) - low]:
            return value
    raise ValueError(f"{source.scenes[0].image} and others differ in what no data is, and each value of {dtype} is "
                     "data somewhere: give all of them one nodata value, or a wider dtype")
