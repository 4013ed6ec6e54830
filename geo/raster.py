"""Raster files: windows of any TIFF, PNG or JPEG in bounded memory, GeoTIFFs, smaller class masks.

    with open_raster("scene.tif") as raster:
        pixels = raster.read(row=0, col=0, height=512, width=512)       # (512, 512, C)
    write_geotiff("copy.tif", row_blocks, height, width, 3, "uint8")    # blocks of rows, top first
    small = downscale_classes(mask, 10, "mode")                         # yields blocks of rows
"""

import io
import logging
import math
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from geo.georeference import GEO_TAGS, MATRIX, PIXEL_SCALE, TIE_POINTS, Georeference

CACHE_BYTES = 2**26  # decoded strips and tiles kept per raster
SEGMENT_BYTES = 2**29  # a compressed strip or tile that is larger when decoded is refused
TILE = 512  # px, side of the tiles written
PIECE = 2**19  # px of a class mask counted at once: fits the processor's cache, 4 times as fast
NODATA_TAG = 42113  # GDAL's own, not part of the GeoTIFF standard
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian, TIFF and BigTIFF

# What tifffile logs is harmless, or is raised below as an error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def open_raster(path, max_pixels=2**31, page=0):
    """Open a TIFF, PNG or JPEG for reading in windows; reads headers only.

    Args:
        path: the file.
        max_pixels: largest PNG or JPEG to accept, px, because these are decoded whole.
        page: the number of a TIFF's page, from 0.
    Returns:
        Raster.
    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is empty, cut short, no image, too large, or would be read with loss.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    with _one_line_errors(path), open(path, "rb") as file:
        start = file.read(4)
        if not start:
            raise ValueError("it is empty")
        if start in TIFF_STARTS:
            return _open_tiff(path, page)
        if start != b"\x89PNG" and start[:3] != b"\xff\xd8\xff":
            # Checked first, so that no large file of another kind is read whole.
            raise ValueError("it is no TIFF, PNG or JPEG")
        return _open_picture(path, start + file.read(), max_pixels)


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
    source: object  # copies pixels into a window: _Tiff, _Picture
    height: int  # px
    width: int  # px
    bands: int
    dtype: np.dtype
    segment: tuple  # (height, width), px, of the strips or tiles: reading along them is fastest
    nodata: float | None = None  # the value that stands for no data
    alpha: int | None = None  # the band that is 0 where there is no data
    palette: np.ndarray | None = None  # (256, 3) uint8, the colours of the values
    georeference: Georeference | None = None
    turned: int = 0  # the EXIF orientation that was applied, 2 to 8; 0: none
    unread: str = ""  # what the file holds that is not read
    sparse: bool = False  # whether the file leaves out strips or tiles

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
        top = max(row, 0)
        left = max(col, 0)
        bottom = min(row + height, self.height)
        right = min(col + width, self.width)
        covered = (bottom - top, right - left) == (height, width) and not self.sparse
        if covered:  # every pixel is copied below
            window = np.empty((height, width, self.bands), self.dtype)
        else:
            window = np.full((height, width, self.bands), self.nodata or 0, self.dtype)
        if top < bottom and left < right:
            with _one_line_errors(self.path):
                inside = window[top - row:bottom - row, left - col:right - col]
                self.source.copy(top, left, inside)
        return window

    def no_data(self, pixels):
        """Where pixels hold no data: a band is not finite, all are nodata, or alpha is 0.

        Args:
            pixels: (h, w, C) as from `read`.
        Returns:
            (h, w) bool.
        """
        missing = np.zeros(pixels.shape[:2], bool)
        if self.dtype.kind == "f":
            missing |= ~np.isfinite(pixels).all(axis=2)
        if self.nodata is not None:
            missing |= (pixels == self.dtype.type(self.nodata)).all(axis=2)
        if self.alpha is not None:
            missing |= pixels[:, :, self.alpha] == 0
        return missing

    def close(self):
        """Release decoded pixels and mapped files."""
        self.source = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class _Tiff:
    """A page of a TIFF, decoded strip by strip or tile by tile (segments), with a cache.

    An uncompressed image that lies in one piece is mapped instead, in segments of a size that
    keeps the pages touched within the cache.
    """

    def __init__(self, path, number):
        self.path = path
        with tifffile.TiffFile(path) as file:
            self.page = page = file.pages[number]
            self.tags = {tag.code: tag.value for tag in page.tags}
            self.has_mask = len(file.pages) > 1 and bool(file.pages[1].subfiletype & 4)
            self.decoder = page.decode  # prepared now, because both read the open file
            self.jpeg_tables = page.jpegtables
        _check_complete(page, path)
        self.dtype = np.dtype(np.uint8 if page.dtype == bool else page.dtype)
        self.planes = page.samplesperpixel if page.planarconfig == 2 else 1  # 1: interleaved bands
        rows, cols = page.chunks[:2]
        depth = page.samplesperpixel // self.planes
        self.row_bytes = cols * depth * self.dtype.itemsize
        whole_bytes = page.bitspersample == 8 * self.dtype.itemsize
        self.mapped = page.is_final and whole_bytes
        encoded = page.compression > 1 or page.predictor > 1 or page.fillorder > 1
        self.plain_tiles = page.is_tiled and whole_bytes and not encoded
        if self.mapped:
            rows = min(CACHE_BYTES // self.row_bytes // 4 + 1, page.imagelength)
        elif rows * self.row_bytes > SEGMENT_BYTES:
            raise ValueError(f"its pieces are of {rows * self.row_bytes >> 20} MiB, "
                             f"the limit is {SEGMENT_BYTES >> 20}")
        self.shape = rows, cols, depth  # of a segment
        self.down = -(-page.imagelength // rows)  # segments per column of them
        self.across = -(-page.imagewidth // cols)
        self.cache = OrderedDict()  # segment index: pixels, the last used at the end
        self.cached_bytes = 0
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C), except where the file is sparse."""
        rows, cols, depth = self.shape
        height, width = window.shape[:2]
        xs = range(col // cols, (col + width - 1) // cols + 1)
        for plane in range(self.planes):
            bands = slice(plane, plane + depth)
            for y in range(row // rows, (row + height - 1) // rows + 1):
                to_rows, from_rows = _overlap(row, height, y * rows, rows)
                first = (plane * self.down + y) * self.across
                for x, segment in zip(xs, self.segments([first + x for x in xs])):
                    to_cols, from_cols = _overlap(col, width, x * cols, cols)
                    if segment is not None:
                        window[to_rows, to_cols, bands] = segment[from_rows, from_cols]

    def segments(self, indices):
        """Pixels (h, w, C) of these segments, None for those that the file leaves out."""
        stored = [i for i in indices if self.mapped or self.page.databytecounts[i]]
        missing = [i for i in stored if i not in self.cache]
        run = self.pool.map if len(missing) > 1 else map
        for index, pixels in zip(missing, run(self.decode, missing)):
            self.cache[index] = pixels
            self.cached_bytes += pixels.nbytes
        for index in stored:
            self.cache.move_to_end(index)
        found = [self.cache.get(index) for index in indices]
        while self.cached_bytes > CACHE_BYTES and len(self.cache) > 1:
            _, oldest = self.cache.popitem(last=False)
            self.cached_bytes -= oldest.nbytes
        return found

    def decode(self, index):
        """Pixels (h, w, C) of one segment."""
        if self.mapped:
            return self.map_strip(index)
        offset = self.page.dataoffsets[index]
        count = self.page.databytecounts[index]
        if self.plain_tiles and count >= self.shape[0] * self.row_bytes:
            return self.map_pixels(offset, self.shape)
        with open(self.path, "rb") as file:
            file.seek(offset)
            encoded = file.read(count)
        return self.decoder(encoded, index, jpegtables=self.jpeg_tables)[0][0]

    def map_strip(self, index):
        """Map the rows (h, W, C) of one segment of an uncompressed image."""
        rows, cols, depth = self.shape
        length = self.page.imagelength
        plane, y = divmod(index, self.down)
        first_row = plane * length + y * rows
        offset = self.page.dataoffsets[0] + first_row * self.row_bytes
        return self.map_pixels(offset, (min(rows, length - y * rows), cols, depth))

    def map_pixels(self, offset, shape):
        """Map pixels of this shape that lie uncompressed at offset, bytes."""
        dtype = self.dtype.newbyteorder(self.page.parent.byteorder)
        return np.memmap(self.path, dtype, "r", offset, shape)


def _check_complete(page, path):
    """Refuse a TIFF page without pixels, or with data beyond the end of its file: ValueError."""
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts)]
    end = max(ends, default=0)
    size = path.stat().st_size
    if end > size or page.samplesperpixel * page.imagelength * page.imagewidth < 1:
        raise ValueError(f"it holds no pixels, or is cut short: {size} of {end} bytes are there")
    needed = math.prod(page.chunked)
    if len(page.dataoffsets) < needed:
        raise ValueError(f"it lists {len(page.dataoffsets)} of its {needed} pieces")


def _overlap(window, window_size, segment, segment_size):
    """Slices of a window and of a segment, along one axis, that pick their common pixels."""
    start = max(window, segment)
    end = min(window + window_size, segment + segment_size)
    return slice(start - window, end - window), slice(start - segment, end - segment)


def _open_tiff(path, number):
    """Raster of a page of a TIFF; those after the first are overviews, masks or other scenes."""
    source = _Tiff(path, number)
    page = source.page
    tags = source.tags
    has_alpha = bool(page.extrasamples) and page.extrasamples[-1] in (1, 2)
    palette = None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        palette = np.resize(page.colormap.T // 256, (256, 3)).astype(np.uint8)
    georeference = None
    unread = "has a mask beside its bands" if source.has_mask else ""
    if MATRIX in tags or (PIXEL_SCALE in tags and TIE_POINTS in tags):
        georeference = Georeference({code: tags[code] for code in GEO_TAGS if code in tags})
    elif TIE_POINTS in tags:
        unread = "is placed by control points"
    return Raster(
        path, source, page.imagelength, page.imagewidth, page.samplesperpixel, source.dtype,
        segment=source.shape[:2],
        nodata=_parse_nodata(tags.get(NODATA_TAG), source.dtype),
        alpha=page.samplesperpixel - 1 if has_alpha else None,
        palette=palette,
        georeference=georeference,
        unread=unread,
        sparse=0 in page.databytecounts)


def _parse_nodata(text, dtype):
    """GDAL's nodata as a float; None if there is none, or one that no pixel of dtype can have."""
    try:
        value = float(text)
        with np.errstate(over="ignore"):
            stored = float(dtype.type(value if dtype.kind == "f" else int(value)))
    except (TypeError, ValueError, OverflowError):
        return None
    return stored if dtype.kind == "f" or stored == value else None


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
    palette = None
    if image.mode == "P":
        palette = np.resize(image.getpalette("RGB"), (256, 3)).astype(np.uint8)
    divisor = {2: 85, 4: 17}.get(depth, 1) if is_grey_png else 1  # Pillow spreads them over 0..255
    return Raster(
        path, _Picture(image, divisor), height, width, len(image.getbands()),
        np.dtype(np.uint16 if depth == 16 else np.uint8),
        segment=(height, width),
        alpha={"LA": 1, "RGBA": 3}.get(image.mode),
        palette=palette,
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


def downscale_classes(raster, factor, how="nearest", weights=None, ignore=None):
    """Downsample a class mask by a whole number, block of rows by block of rows, as GDAL does.

    "nearest" takes the pixel at factor // 2 of each block. "mode" takes the most frequent class.
    "weighted" takes the class of the highest weight x count, so that roads survive. Of equal
    classes wins the one that is complete first, row by row. Blocks at the right and bottom edge
    may be smaller, and vote with the pixels they have.

    Args:
        raster: Raster of one band of integers.
        factor: pixels of the raster along each side of a pixel of the result.
        how: "nearest", "mode" or "weighted".
        weights: {class: weight} or a sequence, 1e-9 to 1e9, for "weighted"; 1 where not named.
        ignore: value, or several, that do not vote; where a block has no other value, the first
            of them is its result. None: every value votes.
    Returns:
        Iterator of (h, ceil(W / factor)) arrays of the raster's dtype, top to bottom.
    Raises:
        ValueError: an argument is out of range, or the raster is no class mask.
    """
    if raster.bands != 1 or raster.dtype.kind not in "ui":
        raise ValueError(f"{raster.path}: is no class mask, {raster.bands} x {raster.dtype}; "
                         "give one band of integers")
    weights = _class_weights(weights) if how == "weighted" else {}
    whole = isinstance(factor, (int, np.integer)) and factor >= 1
    in_range = all(1e-9 <= weight <= 1e9 for weight in weights.values())
    if not whole or not in_range or how not in ("nearest", "mode", "weighted"):
        raise ValueError(f"cannot scale by {factor}, {how}, {weights}; give a whole number from 1, "
                         "nearest, mode or weighted, and weights from 1e-9 to 1e9")
    limits = np.iinfo(raster.dtype)
    ignored = [] if ignore is None else np.ravel(ignore)
    ignored = [int(value) for value in ignored if limits.min <= value <= limits.max]
    weights.update(dict.fromkeys(ignored, 0))
    classes = []  # values met so far
    piece_width = raster.width if raster.segment[1] >= raster.width else TILE  # as the file's
    for top, height in _pieces(raster.height, factor, PIECE // piece_width):
        results = []
        for left, width in _pieces(raster.width, factor, piece_width):
            piece = raster.read(top, left, height, width)[:, :, 0]
            down = min(factor, height)  # less at the bottom edge
            across = min(factor, width)
            if how == "nearest":
                middle_row = min(factor // 2, down - 1)
                middle_col = min(factor // 2, across - 1)
                results.append(piece[middle_row::down, middle_col::across])
            else:
                default = ignored[0] if ignored else 0
                results.append(majority_vote(piece, down, across, weights, classes, default))
        yield np.concatenate(results, axis=1)


def _class_weights(weights):
    """{class: weight} from a dict, from a sequence that starts with class 0, or from None."""
    if weights is None:
        return {}
    return dict(weights if isinstance(weights, dict) else enumerate(weights))


def _pieces(length, factor, limit):
    """[(start, size)] that cover length, px: multiples of factor up to limit, then the rest."""
    whole = length // factor * factor
    step = max(limit // factor, 1) * factor
    pieces = [(start, min(step, whole - start)) for start in range(0, whole, step)]
    if whole < length:
        pieces.append((whole, length - whole))
    return pieces


def majority_vote(piece, down, across, weights, classes, default):
    """The class of the highest weight x count in each block of pixels.

    Args:
        piece: (h * down, w * across) integers, in blocks of down x across px.
        weights: {class: weight}, 1 where not named.
        classes: list of the values met so far; those of `piece` are added.
        default: result of a block in which all weights are 0.
    Returns:
        (h, w) of piece's dtype.
    """
    counts = np.array([_block_counts(piece == value, down, across) for value in classes],
                      np.float32)  # (K, h, w)
    if counts.sum(dtype=np.float64) < piece.size:  # searching every piece for new values is slow
        classes.extend(np.setdiff1d(piece, classes).astype(piece.dtype))
        return majority_vote(piece, down, across, weights, classes, default)
    values = np.array(classes)  # (K,)
    class_weights = np.array([weights.get(value, 1) for value in classes], np.float32)
    scores = counts * class_weights[:, None, None]
    best = scores.max(axis=0)  # (h, w)
    leads = scores == best  # (K, h, w)
    winners = values[leads.argmax(axis=0)]
    tied = (leads.sum(axis=0) > 1) & (best > 0)  # where all are 0, the default is set below
    blocks = piece.reshape(len(winners), down, -1, across).swapaxes(1, 2)  # (h, w, down, across)
    blocks = blocks[tied].reshape(-1, down * across)
    winners[tied] = _first_complete(blocks, leads[:, tied], values)
    winners[best == 0] = default
    return winners


def _block_counts(hits, down, across):
    """Number of pixels that are True in each block of down x across px.

    Args:
        hits: (h * down, w * across) bool.
    Returns:
        (h, w) integers.
    """
    width = hits.shape[1]
    rows = hits.view(np.uint8).reshape(-1, down, width)
    rows = rows.sum(axis=1, dtype=np.min_scalar_type(down))  # (h, w * across)
    cells = rows.reshape(-1, across).T.copy()  # (across, h * w), because it adds faster that way
    return cells.sum(axis=0, dtype=np.min_scalar_type(down * across)).reshape(len(rows), -1)


def _first_complete(blocks, leads, values):
    """Of the leading values of each block, the one whose last pixel comes first.

    Args:
        blocks: (n, P) pixels, row by row; leads: (K, n) bool; values: (K,).
    Returns:
        (n,) values.
    """
    backwards = blocks[:, ::-1]
    pixels_after = np.array([(backwards == value).argmax(axis=1) for value in values])  # (K, n)
    return values[np.where(leads, pixels_after, -1).argmax(axis=0)]
