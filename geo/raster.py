"""Windows out of any TIFF, PNG or JPEG in bounded memory; class masks brought down; GeoTIFF written strip by strip."""

import io
import logging
import math
import os
import struct
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from geo.georeference import GEO_TAGS, Georeference

CACHE_BYTES = 2**26  # decoded strips and tiles kept per raster
SEGMENT_BYTES = 2**29  # a compressed strip or tile that is larger when decoded is refused
TILE = 512  # px, side of the tiles written
PIECE = 2**19  # px of a class mask counted at once: as many as fit the processor's cache, four times as fast as more
NODATA_TAG = 42113  # GDAL's, not GeoTIFF's

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it logs is harmless, or raised below as an error


def open_raster(path, max_pixels=2**31):
    """Open a TIFF (its first page), PNG or JPEG for reading in windows; only headers are read here.

    Args:
        path: the file.
        max_pixels: largest PNG or JPEG to accept, px, as these can only be decoded whole (at the first window).
    Returns:
        Raster.
    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is empty, cut short, no image, too large, or of a kind that would be read with loss.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    with _one_line_errors(path), open(path, "rb") as file:
        head = file.read(4)
        if not head:
            raise ValueError("it is empty")
        if head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _open_tiff(path)
        if head != b"\x89PNG" and head[:3] != b"\xff\xd8\xff":
            raise ValueError("it is no TIFF, PNG or JPEG")  # said before a file of any size is read whole
        return _open_picture(path, head + file.read(), max_pixels)


@contextmanager
def _one_line_errors(path):
    """Turn whatever a decoder raises, which is a dozen kinds, into a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}); copy it again, or make it a tiled TIFF") from error


@dataclass(eq=False)
class Raster:
    """An image that is read in windows; made by `open_raster`, closed by `close` or at the end of a with block."""

    path: Path
    source: object  # _Tiff or _Picture
    height: int  # px
    width: int  # px
    bands: int
    dtype: np.dtype
    segment: tuple  # (height, width), px, of the pieces that are decoded at once: reading along them is fastest
    nodata: float | None = None  # the value that stands for no data
    alpha: int | None = None  # the band that is 0 where there is no data
    palette: np.ndarray | None = None  # (256, 3) uint8, the colours of the values
    georeference: Georeference | None = None
    turned: int = 0  # the EXIF orientation that was applied, 2 to 8; 0: none
    unread: str = ""  # what the file holds that is not read
    sparse: bool = False  # whether the file leaves out strips or tiles

    def read(self, row, col, height, width):
        """Read one window; it may reach over the border of the image.

        Args:
            row, col: top left pixel of the window, px; may be negative.
            height, width: size of the window, px.
        Returns: (height, width, C) array of .dtype; what lies outside is nodata, or 0 where none is known.
        Raises: ValueError where the file is damaged there.
        """
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.height), min(col + width, self.width)
        partly = self.sparse or (bottom - top, right - left) != (height, width)  # else every pixel is copied
        window = (np.zeros if partly else np.empty)((height, width, self.bands), self.dtype)
        if partly and self.nodata:
            window.fill(self.nodata)
        if top < bottom and left < right:
            with _one_line_errors(self.path):
                self.source.copy(top, left, window[top - row:bottom - row, left - col:right - col])
        return window

    def no_data(self, pixels):
        """(h, w) bool: where pixels (h, w, C) hold no data: a band is not finite, all are nodata, or transparent."""
        missing = np.zeros(pixels.shape[:2], bool)
        if self.dtype.kind == "f":
            missing |= ~np.isfinite(pixels).all(axis=2)
        if self.nodata is not None:
            missing |= (pixels == self.dtype.type(self.nodata)).all(axis=2)
        return missing if self.alpha is None else missing | (pixels[:, :, self.alpha] == 0)

    def close(self):
        """Let go of what was decoded; no file is held open."""
        self.source = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class _Tiff:
    """The first page of a TIFF, decoded strip by strip or tile by tile; the last used of these segments are kept."""

    def __init__(self, path):
        with tifffile.TiffFile(path) as file:
            page, self.tags = file.pages[0], {tag.code: tag.value for tag in file.pages[0].tags}
            self.unread = "has a mask beside its bands" if len(file.pages) > 1 and file.pages[1].subfiletype & 4 else ""
            self.dtype = np.dtype(np.uint8 if page.dtype == bool else page.dtype)
            self.planes = page.samplesperpixel if page.planarconfig == 2 else 1
            (rows, cols, *_), depth = page.chunks, page.samplesperpixel // self.planes
            self.row_bytes, whole = cols * depth * self.dtype.itemsize, page.bitspersample == 8 * self.dtype.itemsize
            self.mapped = page.is_final and whole  # uncompressed, in one run
            self.bare = page.is_tiled and page.compression == page.predictor == page.fillorder == 1 and whole  # not encoded
            self.lzw = page.compression == 5 and page.fillorder == 1 and whole and rows * self.row_bytes <= CACHE_BYTES
            page.compression = 1 if self.lzw else page.compression  # what `_undo_lzw` leaves for tifffile to do
            self.unpack, self.tables = page.decode, page.jpegtables
        end, size = max(map(sum, zip(page.dataoffsets, page.databytecounts)), default=0), path.stat().st_size
        if end > size or page.samplesperpixel * page.imagelength * page.imagewidth < 1:
            raise ValueError(f"it holds no pixels, or is cut short: {size} of {end} bytes are there")
        if len(page.dataoffsets) < math.prod(page.chunked):
            raise ValueError(f"it says where {len(page.dataoffsets)} of its {math.prod(page.chunked)} pieces are")
        self.path, self.page, self.sparse = path, page, 0 in page.databytecounts
        if self.mapped:  # it can be cut anywhere: small enough that what maps touch stays within the cache
            rows = min(CACHE_BYTES // self.row_bytes // 4 + 1, page.imagelength)
        elif rows * self.row_bytes > SEGMENT_BYTES:
            raise ValueError(f"its pieces are of {rows * self.row_bytes >> 20} MiB, the limit is {SEGMENT_BYTES >> 20}")
        self.shape = rows, cols, depth  # of a segment
        self.kept, self.kept_bytes, self.pool = OrderedDict(), 0, ThreadPoolExecutor(os.cpu_count())

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C); what the file leaves out (sparse) is not touched."""
        (rows, cols, depth), (height, width, _) = self.shape, window.shape
        down, across = -(-self.page.imagelength // rows), -(-self.page.imagewidth // cols)  # segments in a plane
        xs = range(col // cols, (col + width - 1) // cols + 1)
        for plane in range(self.planes):
            for y in range(row // rows, (row + height - 1) // rows + 1):
                for x, segment in zip(xs, self.segments([(plane * down + y) * across + x for x in xs])):
                    top, left = max(y * rows, row), max(x * cols, col)
                    bottom, right = min((y + 1) * rows, row + height), min((x + 1) * cols, col + width)
                    if segment is not None:
                        window[top - row:bottom - row, left - col:right - col, plane:plane + depth] = segment[
                            top - y * rows:bottom - y * rows, left - x * cols:right - x * cols]

    def segments(self, indices):
        """List of the pixels (h, w, C) of these segments, None for those that the file leaves out."""
        missing = [i for i in indices if i not in self.kept and (self.mapped or self.page.databytecounts[i])]
        for index, pixels in zip(missing, (self.pool.map if len(missing) > 1 else map)(self.decode, missing)):
            self.kept[index] = pixels
            self.kept_bytes += pixels.nbytes
        found = [self.kept.get(index) for index in indices]
        for index in self.kept.keys() & set(indices):
            self.kept.move_to_end(index)
        while self.kept_bytes > CACHE_BYTES and len(self.kept) > 1:
            self.kept_bytes -= self.kept.popitem(last=False)[1].nbytes
        return found

    def decode(self, index):
        """(h, w, C) pixels of one segment."""
        page, (rows, cols, depth) = self.page, self.shape
        dtype = self.dtype.newbyteorder(page.parent.byteorder)
        if self.mapped:
            plane, y = divmod(index, -(-page.imagelength // rows))
            offset = page.dataoffsets[0] + (plane * page.imagelength + y * rows) * self.row_bytes
            shape = min(rows, page.imagelength - y * rows), cols, depth
            return np.memmap(self.path, dtype, "r", offset, shape)
        if self.bare and page.databytecounts[index] >= rows * self.row_bytes:
            return np.memmap(self.path, dtype, "r", page.dataoffsets[index], self.shape)
        with open(self.path, "rb") as file:
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
        if self.lzw:  # a strip, but not a tile, is shorter at the end of the image
            top = index % -(-page.imagelength // rows) * rows
            data = _undo_lzw(data, self.row_bytes, rows if page.is_tiled else min(rows, page.imagelength - top))
        return self.unpack(data, index, jpegtables=self.tables)[0][0]


def _undo_lzw(data, width, height):
    """Bytes of a segment without its LZW, as the libtiff in Pillow undoes it: in 0.6 of imagecodecs' time.

    For that the segment becomes a grey TIFF of one strip, whatever its pixels are.

    Args:
        data: the segment as it lies in the file.
        width, height: bytes in a row, rows.
    Returns:
        bytearray of height * width.
    """
    tags = (256, width), (257, height), (258, 8), (259, 5), (262, 1), (273, 8 + 2 + 7 * 12 + 4), (279, len(data))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    for code, value in tags:
        head += struct.pack("<HHII", code, 4, 1, value)
    with Image.open(io.BytesIO(head + bytes(4) + data), formats=["TIFF"]) as strip:
        return bytearray(strip.tobytes())


def _open_tiff(path):
    """Raster of the first page of a TIFF; those after it are overviews, masks or other scenes."""
    source = _Tiff(path)
    page, tags = source.page, source.tags
    alpha = page.samplesperpixel - 1 if page.extrasamples and page.extrasamples[-1] in (1, 2) else None
    palette = np.resize(page.colormap.T // 256, (256, 3)).astype(np.uint8) if page.photometric == 3 else None
    located = 34264 in tags or {33550, 33922} <= tags.keys()
    georeference = Georeference({code: tags[code] for code in GEO_TAGS if code in tags}) if located else None
    unread = source.unread if located or 33922 not in tags else "is placed by control points"
    return Raster(path, source, page.imagelength, page.imagewidth, page.samplesperpixel, source.dtype, source.shape[:2],
                  _parse_nodata(tags.get(NODATA_TAG), source.dtype), alpha, palette, georeference, 0, unread, source.sparse)


def _parse_nodata(text, dtype):
    """GDAL's nodata as a float; None if there is none, or one that no pixel of dtype can have."""
    try:
        with np.errstate(over="ignore"):
            held = float(dtype.type(float(text) if dtype.kind == "f" else int(float(text))))
    except (TypeError, ValueError, OverflowError):
        return None
    return held if dtype.kind == "f" or held == float(text) else None


class _Picture:
    """A PNG or JPEG, decoded whole at the first window."""

    def __init__(self, image, spread):
        self.image, self.spread = image, spread

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C)."""
        ImageOps.exif_transpose(self.image, in_place=True)  # decodes and turns it; nothing is left to do the next time
        pixels = np.asarray(self.image.crop((col, row, col + window.shape[1], row + window.shape[0])))
        window[:] = pixels.reshape(window.shape) // self.spread


def _open_picture(path, encoded, max_pixels):
    """Raster of a PNG or JPEG; palette pictures are read as ids, an EXIF orientation is applied."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # Pillow's own, in whose place stands max_pixels
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:
        raise ValueError("it is no TIFF, PNG or JPEG") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    depth, kind = encoded[24:26] if image.format == "PNG" else (8, None)  # bits, and the PNG's colour type
    if (depth == 16 and kind != 0) or image.mode not in ("1", "L", "LA", "P", "I", "I;16", "RGB", "RGBA"):
        raise ValueError(f"its colours, {image.mode} of {depth} bits, would be read with loss")
    orientation = Image.Image.getexif(image).get(274, 1)  # the method of Pillow's PNG class would decode
    height, width = image.size if orientation in (5, 6, 7, 8) else image.size[::-1]
    if height * width > max_pixels:
        raise ValueError(f"{height} x {width} px, to be decoded whole, but --max-pixels is {max_pixels}: raise it")
    palette = np.resize(image.getpalette("RGB"), (256, 3)).astype(np.uint8) if image.mode == "P" else None
    spread = {2: 85, 4: 17}.get(depth, 1) if kind == 0 else 1  # Pillow spreads grey of 2 or 4 bits over 0..255
    return Raster(path, _Picture(image, spread), height, width, len(image.getbands()),
                  np.dtype(np.uint16 if depth == 16 else np.uint8), segment=(height, width),
                  alpha={"LA": 1, "RGBA": 3}.get(image.mode), palette=palette,
                  turned=orientation if 2 <= orientation <= 8 else 0)


def write_geotiff(path, strips, height, width, bands, dtype, palette=None, nodata=None, georeference=None, level=6):
    """Write a tiled, deflated GeoTIFF from strips of rows, holding little more than a row of tiles.

    It is written under a temporary name and renamed when whole, so that a failure leaves nothing behind.

    Args:
        path: the file to write.
        strips: iterable of (h, W) or (h, W, C) arrays of dtype, top to bottom; any heights that add up to height.
        height, width, bands, dtype: size of the raster, px, C, and type of its pixels.
        palette, nodata, georeference: as in Raster; a palette is for one band of uint8.
        level: deflate level, 1 (fast) to 9 (small).
    Raises:
        ValueError: the strips hold too few or too many rows, or do not fit width, bands or dtype.
    """
    path, part, dtype = Path(path), Path(f"{path}.part"), np.dtype(dtype)
    tags = (georeference.tags if georeference else {}) | ({} if nodata is None else {NODATA_TAG: f"{nodata:.17g}"})
    tags = [(code, GEO_TAGS.get(code, "s"), len(value), value.encode() if isinstance(value, str) else value, True)
            for code, value in tags.items()]
    tiles = _tiles(path, strips, height, width, bands, dtype)
    colormap = None if palette is None else np.transpose(palette).astype(np.uint16) * 257  # (3, 256)
    try:
        with tifffile.TiffWriter(part, bigtiff=height * width * bands * dtype.itemsize > 2**31) as file:
            # Copies, as the rows are filled anew; and no generator, as tifffile would close that before its end.
            file.write(map(np.copy, tiles), dtype=dtype, tile=(TILE, TILE), planarconfig="contig",
                       shape=(height, width, bands) if bands > 1 else (height, width),
                       photometric="palette" if palette is not None else "rgb" if bands == 3 else "minisblack",
                       compression="zlib", compressionargs={"level": level}, predictor=palette is None,
                       colormap=colormap, extratags=tags, buffersize=2**24, metadata=None, software=False)
        next(tiles, None)  # to the end of the strips, where there may be too many
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _tiles(path, strips, height, width, bands, dtype):
    """Cut strips of any height into tiles (h, w, C), row by row; those at the right and bottom are smaller."""
    rows, filled, total = np.empty((TILE, width, bands), dtype), 0, 0
    for strip in strips:
        strip = strip[:, :, None] if strip.ndim == 2 else strip  # (h, W, C)
        total += len(strip)
        if strip.shape[1:] != (width, bands) or strip.dtype != dtype or total > height:
            raise ValueError(f"{path}: rows of {strip.shape[1:]} {strip.dtype}, {total} by now, do not fit into the "
                             f"{(height, width, bands)} {dtype} that were announced")
        while len(strip):
            taken = strip[:TILE - filled]
            rows[filled:filled + len(taken)] = taken
            strip, filled = strip[len(taken):], filled + len(taken)
            if filled == TILE or (total == height and not len(strip)):
                yield from np.split(rows[:filled], range(TILE, width, TILE), axis=1)
                filled = 0
    if total < height:
        raise ValueError(f"{path}: only {total} of {height} rows were given")


def downscale_classes(raster, factor, how="nearest", weights=None, ignore=None):
    """Bring a class mask down by an integer factor, strip by strip, as GDAL does.

    "nearest" takes the pixel at factor // 2 of each block, "mode" the most frequent class, "weighted" that of the
    highest weight x count, so that roads survive. Of equal classes wins that which is complete first, row by row.
    Blocks that reach over the right or bottom edge vote with what they have.

    Args:
        raster: Raster of one band of integers.
        factor: pixels of the raster along each side of a pixel of the result.
        how: "nearest", "mode" or "weighted".
        weights: {class: weight} or a sequence, from 1e-9 to 1e9, for "weighted"; classes it does not name weigh 1.
        ignore: value, or several, that do not vote; the first is the result where there is no other. None: every value votes.
    Returns:
        Iterator of (h, ceil(W / factor)) arrays of the raster's dtype, top to bottom.
    Raises:
        ValueError: an argument is out of range, or the raster is no class mask.
    """
    if raster.bands != 1 or raster.dtype.kind not in "ui":
        raise ValueError(f"{raster.path}: is no class mask, {raster.bands} x {raster.dtype}; give one band of integers")
    weights = weights if how == "weighted" and weights is not None else {}
    weights = dict(weights if isinstance(weights, dict) else enumerate(weights))
    fine = isinstance(factor, (int, np.integer)) and factor >= 1 and how in ("nearest", "mode", "weighted")
    if not fine or not all(1e-9 <= weight <= 1e9 for weight in weights.values()):
        raise ValueError(f"cannot scale by {factor}, {how}, {weights}; give a whole number from 1, nearest, mode or "
                         "weighted, and weights from 1e-9 to 1e9")
    limits = np.iinfo(raster.dtype)  # no pixel can have another value
    silent = [int(value) for value in np.ravel([] if ignore is None else ignore) if limits.min <= value <= limits.max]
    classes, weights = [], weights | dict.fromkeys(silent or [None], 0)
    across = raster.width if raster.segment[1] >= raster.width else TILE  # along the strips or tiles of the file
    for top, height in _spans(raster.height, factor, PIECE // across):
        cells = []
        for left, width in _spans(raster.width, factor, across):
            piece, down, right = raster.read(top, left, height, width)[:, :, 0], min(factor, height), min(factor, width)
            cells.append(piece[min(factor // 2, down - 1)::down, min(factor // 2, right - 1)::right]
                         if how == "nearest" else _vote(piece, down, right, weights, classes, silent))
        yield np.concatenate(cells, axis=1)


def _spans(length, factor, most):
    """[(start, size)] that cover length: multiples of factor of at most about most, then what is left over."""
    whole, step = length // factor * factor, max(most // factor, 1) * factor
    spans = [(start, min(step, whole - start)) for start in range(0, whole, step)]
    return spans + [(whole, length - whole)] * (whole < length)


def _vote(piece, down, across, weights, classes, silent):
    """(h, w) winners of the blocks of down x across px in piece; classes lists the values met so far and grows."""
    blocks = piece.reshape(len(piece) // down, down, -1, across)  # (h, down, w, across)
    height, _, width, _ = blocks.shape
    middle = blocks[:, down // 2, :, across // 2].copy()
    if (middle == blocks[:, 0, :, 0]).mean() > 0.5:  # most blocks are of one class: settle those at once
        pixels = middle.repeat(across, axis=1).repeat(down, axis=0)
        count = _count(piece == pixels, down, across)
        settled = count == down * across
        if weights.keys() <= {None, *silent}:  # all others weigh 1, so that more than half of the pixels win
            settled |= (count > down * across // 2) & ~np.isin(middle, silent)
        if settled.mean() > 0.5:
            if not settled.all():
                others = blocks.swapaxes(1, 2)[~settled].swapaxes(0, 1).reshape(down, -1)  # side by side
                middle[~settled] = _vote(others, down, across, weights, classes, silent)[0]
            return middle
    counts = np.zeros((len(classes), height, width), np.float32)
    for value, count in zip(classes, counts):
        hits = piece == value
        if hits.any():
            count[:] = _count(hits, down, across)
    if counts.sum(dtype=np.float64) < piece.size:
        classes.extend(np.setdiff1d(piece, classes).astype(piece.dtype))
        return _vote(piece, down, across, weights, classes, silent)
    scores = counts * np.array([weights.get(value, 1) for value in classes], np.float32)[:, None, None]  # (K, h, w)
    best, values = scores.max(axis=0), np.array(classes)
    leads = scores == best  # (K, h, w)
    winners = values[(leads * np.arange(len(classes), dtype=np.uint16)[:, None, None]).max(axis=0)]
    y, x = (leads.sum(axis=0, dtype=np.uint16) > 1).nonzero()  # ties, settled by who was complete first
    backwards = blocks[:, ::-1, :, ::-1][y, :, x].reshape(len(y), down * across)  # (ties, down * across)
    since = np.stack([(backwards == value).argmax(axis=1) for value in classes])  # (K, ties) px since the last one
    winners[y, x] = values[np.where(leads[:, y, x], since, -1).argmax(axis=0)]
    winners[best == 0] = silent[0] if silent else 0
    return winners


def _count(hits, down, across):
    """(h, w) how many pixels of each block of down x across px are hit; hits (h * down, w * across) bool."""
    rows = hits.view(np.uint8).reshape(-1, down, hits.shape[1]).sum(axis=1, dtype=np.min_scalar_type(down))
    cells = rows.reshape(-1, across).T.copy()  # (across, h * w), copied as that adds faster
    return cells.sum(axis=0, dtype=np.min_scalar_type(down * across)).reshape(len(rows), -1)
