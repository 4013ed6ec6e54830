"""Raster files: windows of any TIFF, PNG or JPEG in bounded memory, GeoTIFFs, smaller class masks.

    with open_raster("scene.tif") as raster:
        pixels = raster.read(row=0, col=0, height=512, width=512)       # (512, 512, C)
    write_geotiff("copy.tif", row_blocks, height, width, 3, "uint8")    # blocks of rows, top first
    small = downscale_classes(mask, 10, "mode")                         # yields blocks of rows
"""

import dataclasses
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from geo.downscale import downscale_classes  # noqa: F401  (read here by everyone else)
from geo.georeference import GEO_TAGS, MATRIX, PIXEL_SCALE, TIE_POINTS, Georeference
from geo.ground import ground_sample_distance
from geo.metadata import PLACED_OTHERWISE, alpha_band, parse_metadata, parse_nodata
from geo.sidecar import camera_model, read_sidecar, read_world_file
from geo.tiff import Planes, TiffPage, sort_pages

TILE = 512  # px, side of the tiles written
PICTURE_EXPANSION = 2**14  # px, more than a byte of a PNG (8 x 1032) or JPEG can become
METADATA_TAG = 42112  # GDAL's own, not part of the GeoTIFF standard
NODATA_TAG = 42113  # likewise
CAMERA_TAG = 50844  # rational polynomials (RPC)
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, TIFF and BigTIFF


def open_raster(path, max_pixels=2**31, page=None):
    """Open a TIFF, PNG or JPEG, or what GDAL reads, for reading in windows; reads headers only.

    Args:
        path: the file; or a name of GDAL's that starts with /vsi, which needs rasterio.
        max_pixels: largest PNG or JPEG to accept, px, because these are decoded whole.
        page: number of the page of a TIFF that is read alone, from 0; None: its image.
    Returns:
        Raster.
    Raises:
        OSError: the file is missing, a folder, or may not be read.
        ValueError: it is empty, cut short, no image, too large, or would be read with loss.
    """
    path = Path(path)
    if path.as_posix().startswith("/vsi"):
        with _one_line_errors(path):
            return _open_with_gdal(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the images in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    with _one_line_errors(path), open(path, "rb") as file:
        start = file.read(4)
        if not start:
            raise ValueError("it is empty")
        if start in TIFF_STARTS:
            raster = _open_tiff(path, page)
        elif start == b"\x89PNG" or start[:3] == b"\xff\xd8\xff":
            raster = _open_picture(path, start + file.read(), max_pixels)
        else:  # no large file of another kind is read whole
            return _open_with_gdal(path)
        return raster if page is not None else _with_files_beside(raster)


def _open_with_gdal(path):
    """Raster of a file of another format, by rasterio where it is installed."""
    try:
        from geo.gdal import open_with_gdal
    except ImportError:
        raise ValueError("it is no TIFF, PNG or JPEG, and other formats need the package "
                         "rasterio: install it") from None
    fields = open_with_gdal(path)
    return Raster(**fields)


@contextmanager
def _one_line_errors(path):
    """Turn the dozen kinds of errors that decoders raise into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: cannot be read ({reason}); copy it again, or make it a tiled TIFF") from error


@dataclass(eq=False)
class Raster:
    """An image that is read in windows; made by `open_raster`, closed like a file."""

    path: Path
    source: object  # copies pixels into a window: TiffPage, _Picture; see `copy` there
    height: int  # px
    width: int  # px
    bands: int
    dtype: np.dtype
    segment: tuple  # (height, width), px, of the strips or tiles: reading along them is fastest
    nodata: float | tuple | None = None  # the value that stands for no data, or one per band
    alpha: int | None = None  # the band that is 0 where there is no data
    palette: np.ndarray | None = None  # (256, 3) uint8, the colours of the values
    georeference: Georeference | None = None
    turned: int = 0  # the EXIF orientation that was applied, 2 to 8; 0: none
    unread: str = ""  # what the file holds that is not read
    sparse: bool = False  # whether the file leaves out strips or tiles
    masks: tuple = ()  # sources of one band that is 0 where there is no data
    scales: tuple | None = None  # (scale, offset) per band, from values to physical units
    hides_alpha: bool = False  # whether `bands` and `read` leave out the alpha band
    by_pixel: bool = False  # whether resizing averages whole pixels, as in earlier commits

    def __post_init__(self):
        if self.dtype.kind not in "uif":
            raise ValueError(f"it holds {self.dtype}: give whole numbers or floats")

    def read(self, row, col, height, width):
        """Read one window, which may reach over the border of the image.

        Args:
            row, col: top left pixel of the window, px; may be negative.
            height, width: size of the window, px.
        Returns:
            (height, width, C) array of .dtype; nodata outside the image, or 0 if none is known.
        Raises:
            ValueError: the file is damaged there.
        """
        return self._without_alpha(self._read_samples(row, col, height, width))

    def read_masked(self, row, col, height, width):
        """Read one window, and find which of its values are no data.

        A value is missing if it is nodata or not finite. All values of a pixel are missing where
        alpha is 0, and where a mask of the file hides it.

        Args:
            row, col, height, width: as for `read`.
        Returns:
            (height, width, C) array of .dtype, and (height, width, C) bool.
        """
        missing = np.zeros((height, width, self.bands + self.hides_alpha), bool)
        samples = self._read_samples(row, col, height, width, missing)
        if self.dtype.kind == "f":
            missing |= ~np.isfinite(samples)
        for band, value in enumerate(self.nodata_of_bands()):
            if value is not None:
                missing[:, :, band] |= samples[:, :, band] == self.dtype.type(value)
        if self.alpha is not None:
            missing |= samples[:, :, self.alpha, None] == 0
        for mask in self.masks:
            shown = np.zeros((height, width, 1), mask.dtype)
            place, inside = self._inside(row, col, shown)
            if inside.size:
                mask.copy(*place, inside)
            missing |= shown == 0
        return self._without_alpha(samples), self._without_alpha(missing)

    def _read_samples(self, row, col, height, width, missing=None):
        """All bands (h, w, C) of a window; sets missing, if given, where the source knows of it."""
        window = np.empty((height, width, self.bands + self.hides_alpha), self.dtype)
        place, inside = self._inside(row, col, window)
        if inside.shape != window.shape or self.sparse:  # else every pixel is copied below
            for band, value in enumerate(self.nodata_of_bands()):
                window[:, :, band] = value or 0
        if inside.size:
            with _one_line_errors(self.path):
                if missing is not None and hasattr(self.source, "copy_masked"):
                    _, missing_inside = self._inside(row, col, missing)
                    self.source.copy_masked(*place, inside, missing_inside)
                else:
                    self.source.copy(*place, inside)
        return window

    def _inside(self, row, col, window):
        """The part of a window at row, col that lies in the image, and its first (row, col)."""
        height, width = window.shape[:2]
        top = max(row, 0)
        left = max(col, 0)
        bottom = max(min(row + height, self.height), top)
        right = max(min(col + width, self.width), left)
        return (top, left), window[top - row:bottom - row, left - col:right - col]

    def nodata_of_bands(self):
        """The nodata value of each band in the file, None where there is none."""
        if isinstance(self.nodata, tuple):
            return self.nodata
        return (self.nodata,) * (self.bands + self.hides_alpha)

    def _without_alpha(self, samples):
        """Leave out the alpha band of (h, w, C), if it is hidden."""
        return np.delete(samples, self.alpha, axis=2) if self.hides_alpha else samples

    @property
    def may_miss_values(self):
        """Whether `read_masked` may find values that are missing."""
        is_marked = self.nodata is not None or self.has_validity
        return is_marked or self.dtype.kind == "f" or hasattr(self.source, "copy_masked")

    @property
    def has_validity(self):
        """Whether the file has alpha or a mask, which mark pixels without data of any value."""
        in_files = getattr(self.source, "has_validity", False)  # of several, see scenes.Stack
        return self.alpha is not None or bool(self.masks) or in_files

    @property
    def gsd_m(self):
        """Side of a pixel on the ground, m; None where it is not known."""
        return ground_sample_distance(self.georeference, self.height, self.width)[0]

    def close(self):
        """Release decoded pixels and mapped files."""
        self.source = None
        self.masks = ()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def hide_alpha(raster):
    """A raster whose alpha band is no band of the image: `read_masked` alone knows of it."""
    if raster.alpha is None or raster.hides_alpha:
        return raster
    scales = raster.scales and raster.scales[:raster.alpha] + raster.scales[raster.alpha + 1:]
    return dataclasses.replace(raster, bands=raster.bands - 1, hides_alpha=True, scales=scales)


def _with_files_beside(raster):
    """Add to a raster what stands in files beside it: .aux.xml, world file, .msk.

    As in GDAL, the georeference in .aux.xml comes before the file's own, and that before the one
    of a world file.
    """
    sidecar = read_sidecar(raster.path)
    georeference = sidecar.georeference or raster.georeference or read_world_file(raster.path)
    changes = {"georeference": georeference}
    if sidecar.has_control_points:
        changes["unread"] = PLACED_OTHERWISE.format("control points")
    elif camera_model(raster.path):
        changes["unread"] = PLACED_OTHERWISE.format("the polynomials of a camera (RPC)")
    if georeference and PLACED_OTHERWISE[:12] in changes.get("unread", raster.unread):
        changes["unread"] = ""
    if sidecar.alpha is not None and sidecar.alpha < raster.bands:
        changes["alpha"] = sidecar.alpha
    if sidecar.nodata:
        changes["nodata"] = _replace_nodata(raster, sidecar.nodata,
                                            changes.get("alpha", raster.alpha))
    scales = raster.scales or ((1.0, 0.0),) * raster.bands
    scales = tuple(sidecar.scales.get(band, pair) for band, pair in enumerate(scales))
    changes["scales"] = None if set(scales) == {(1.0, 0.0)} else scales
    beside = Path(f"{raster.path}.msk")
    if beside.is_file():
        mask = open_raster(beside, page=0)
        if (mask.height, mask.width) != (raster.height, raster.width):
            raise ValueError(f"{beside.name}: the mask of valid pixels is {mask.height} x "
                             f"{mask.width} px, the file {raster.height} x {raster.width}")
        changes["masks"] = (*raster.masks, mask.source)
    return dataclasses.replace(raster, **changes)


def _replace_nodata(raster, stated, alpha):
    """The nodata of a raster, one value or one per band, where some bands {band: value} have
    another one; alpha is no band of the image, and its value does not matter."""
    values = [parse_nodata(stated.get(band, own), raster.dtype)
              for band, own in enumerate(raster.nodata_of_bands())]
    of_image = [value for band, value in enumerate(values) if band != alpha]
    return of_image[0] if len(set(map(str, of_image))) == 1 else tuple(values)


def _open_tiff(path, number=None):
    """Raster of the image in a TIFF, or of one of its pages."""
    with tifffile.TiffFile(path) as file:
        pages, masks, unread = sort_pages(list(file.pages), number)
        tags = {tag.code: tag.value for tag in pages[0].tags}
        sources = [TiffPage(path, page, share=len(pages)) for page in pages]
        masks = tuple(TiffPage(path, mask) for mask in masks)
    first = pages[0]
    bands = first.samplesperpixel if len(pages) == 1 else len(pages)
    source = sources[0] if len(pages) == 1 else Planes(sources)
    palette = None
    if first.photometric == tifffile.PHOTOMETRIC.PALETTE:
        palette = np.resize(first.colormap.T // 256, (256, 3)).astype(np.uint8)
    georeference = None
    if MATRIX in tags or (PIXEL_SCALE in tags and TIE_POINTS in tags):
        georeference = Georeference({code: tags[code] for code in GEO_TAGS if code in tags})
    elif TIE_POINTS in tags:
        unread = PLACED_OTHERWISE.format("control points")
    elif CAMERA_TAG in tags:
        unread = PLACED_OTHERWISE.format("the polynomials of a camera (RPC)")
    scales, alpha = parse_metadata(tags.get(METADATA_TAG), bands, alpha_band(first))
    return Raster(
        path, source, first.imagelength, first.imagewidth, bands, source.dtype,
        segment=source.shape[:2],
        nodata=parse_nodata(tags.get(NODATA_TAG), source.dtype),
        alpha=alpha,
        palette=palette,
        georeference=georeference,
        unread=unread,
        sparse=any(0 in page.databytecounts for page in pages),
        masks=masks,
        scales=scales)


class _Picture:
    """A PNG or JPEG, decoded whole at the first window."""

    def __init__(self, image, divisor):
        self.image = image
        self.divisor = divisor  # Pillow's values over the file's

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C)."""
        height, width = window.shape[:2]
        ImageOps.exif_transpose(self.image, in_place=True)  # decodes and turns it, the first time
        pixels = np.asarray(self.image.crop((col, row, col + width, row + height)))
        window[:] = pixels.reshape(window.shape) // self.divisor


class _Opaque:
    """0 where a PNG's picture has a colour or palette entry that is declared transparent, else 1.

    Args:
        picture: _Picture.
        declared: Pillow's "transparency": the alpha of each palette entry as bytes, a value, or
            the values of the bands.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, picture, declared):
        self.picture = picture
        if isinstance(declared, bytes):
            self.colours = np.flatnonzero(np.frombuffer(declared, np.uint8) == 0)[:, None]
        else:
            self.colours = np.atleast_2d(declared)  # (N, C)

    def copy(self, row, col, window):
        """Fill window (h, w, 1) at row, col."""
        bands = len(self.picture.image.getbands())
        pixels = np.empty((*window.shape[:2], bands), np.int64)
        self.picture.copy(row, col, pixels)
        weights = 2 ** (16 * np.arange(bands))  # which make one number of a colour
        window[:, :, 0] = ~np.isin(pixels @ weights, self.colours @ weights)


def _open_picture(path, encoded, max_pixels):
    """Raster of a PNG or JPEG; palette values are class ids, an EXIF orientation is applied."""
    image = _open_image(encoded)
    depth = 8  # bits per band
    is_grey_png = False
    if image.format == "PNG":
        depth, colour_type = encoded[24:26]
        is_grey_png = colour_type == 0
    known_modes = ("1", "L", "LA", "P", "I", "I;16", "RGB", "RGBA")
    if (depth == 16 and not is_grey_png) or image.mode not in known_modes:
        raise ValueError(f"its colours, {image.mode} of {depth} bits, would be read with loss")
    orientation = Image.Image.getexif(image).get(274, 1)  # image.getexif() of a PNG would decode it
    width, height = image.size
    if orientation in (5, 6, 7, 8):  # a quarter turn
        width, height = height, width
    if height * width > max_pixels:
        raise ValueError(f"{height} x {width} px, to be decoded whole, "
                         f"but --max-pixels is {max_pixels}: raise it")
    if height * width > len(encoded) * PICTURE_EXPANSION:
        raise ValueError(f"it is cut short: {len(encoded)} bytes cannot hold {height} x {width} px")
    palette = None
    if image.mode == "P":
        palette = np.resize(image.getpalette("RGB"), (256, 3)).astype(np.uint8)
    divisor = {2: 85, 4: 17}.get(depth, 1) if is_grey_png else 1  # Pillow spreads them over 0..255
    picture = _Picture(image, divisor)
    declared = image.info.get("transparency")
    return Raster(
        path, picture, height, width, len(image.getbands()),
        np.dtype(np.uint16 if depth == 16 else np.uint8),
        segment=(height, width),
        alpha={"LA": 1, "RGBA": 3}.get(image.mode),
        palette=palette,
        masks=() if declared is None else (_Opaque(picture, declared),),
        turned=orientation if 2 <= orientation <= 8 else 0)


def _open_image(encoded):
    """PIL.Image of a PNG or JPEG without Pillow's limit of size, because --max-pixels is ours."""
    pillow_limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        raise ValueError("it is no TIFF, PNG or JPEG") from None
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit


def write_geotiff(path, row_blocks, height, width, bands, dtype, palette=None, nodata=None,
                  georeference=None, level=6):
    """Write a tiled, deflated GeoTIFF from blocks of rows, in the memory of a row of tiles.

    It is written under a temporary name and renamed when complete: a failure leaves nothing.

    Args:
        path: the file to write.
        row_blocks: iterable of (h, W) or (h, W, C) arrays of dtype, top to bottom, of any heights
            that add up to height.
        height, width, bands, dtype: size of the raster, px, C, and type of its pixels.
        palette, nodata, georeference: as in Raster; a palette is for one band of uint8.
        level: deflate level, 1 (fast) to 9 (small).
    Raises:
        ValueError: too few or too many rows, or rows that do not fit width, bands or dtype.
    """
    path = Path(path)
    part = Path(f"{path}.part")
    dtype = np.dtype(dtype)
    tiles = _tiles(path, row_blocks, height, width, bands, dtype)
    photometric = "rgb" if bands == 3 else "minisblack"
    colormap = None
    if palette is not None:
        photometric = "palette"
        colormap = np.transpose(palette).astype(np.uint16) * 257  # (3, 256)
    size = height * width * bands * dtype.itemsize
    try:
        with tifffile.TiffWriter(part, bigtiff=size > 2**31) as file:
            file.write(
                # Copies, because the rows are filled anew. Not the generator itself, because
                # tifffile would close it before its end.
                map(np.copy, tiles),
                shape=(height, width, bands) if bands > 1 else (height, width), dtype=dtype,
                tile=(TILE, TILE), planarconfig="contig", photometric=photometric,
                colormap=colormap, compression="zlib", compressionargs={"level": level},
                predictor=palette is None, extratags=_extra_tags(georeference, nodata),
                buffersize=2**24, metadata=None, software=False)
        next(tiles, None)  # runs the row blocks to their end, where there may be too many rows
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _extra_tags(georeference, nodata):
    """Georeference and nodata as tifffile's (code, type, count, value, write once)."""
    values = dict(georeference.tags) if georeference else {}
    if nodata is not None:
        values[NODATA_TAG] = f"{nodata:.17g}"
    tags = []
    for code, value in values.items():
        encoded = value.encode() if isinstance(value, str) else value
        tags.append((code, GEO_TAGS.get(code, "s"), len(value), encoded, True))
    return tags


def _tiles(path, row_blocks, height, width, bands, dtype):
    """Cut blocks of rows into tiles (h, w, C), row by row; the last of each axis are smaller."""
    rows = np.empty((TILE, width, bands), dtype)  # one row of tiles
    filled = 0  # px of its height
    total = 0  # rows given so far
    for block in row_blocks:
        if block.ndim == 2:
            block = block[:, :, None]  # (h, W, 1)
        total += len(block)
        if block.shape[1:] != (width, bands) or block.dtype != dtype or total > height:
            raise ValueError(
                f"{path}: rows of {block.shape[1:]} {block.dtype}, {total} by now, "
                f"do not fit into the {(height, width, bands)} {dtype} that were announced")
        while len(block):
            taken = block[:TILE - filled]
            rows[filled:filled + len(taken)] = taken
            filled += len(taken)
            block = block[len(taken):]
            is_last = total == height and not len(block)
            if filled == TILE or is_last:
                yield from np.split(rows[:filled], range(TILE, width, TILE), axis=1)
                filled = 0
    if total < height:
        raise ValueError(f"{path}: only {total} of {height} rows were given")
