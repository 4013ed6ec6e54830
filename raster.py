"""Windows out of any TIFF, PNG or JPEG; class masks brought down; GeoTIFF written row by row, georeference kept.

Memory is bounded by the window that is read, not by the file; only PNG and JPEG have to be decoded whole.
"""

import logging
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

CACHE_BYTES = 2**26  # decoded strips and tiles kept per raster
SEGMENT_BYTES = 2**29  # a compressed strip or tile that is larger when decoded is refused
TILE = 512  # px, side of the tiles written
CHUNK = 2048  # px, side of the windows in which a class mask is read
PIECE = 2**19  # px of a class mask counted at once: what fits the processor's cache is four times as fast

GEO_TAGS = {33550: "d", 33922: "d", 34264: "d", 34735: "H", 34736: "d", 34737: "s"}  # code: type in the file
NODATA_TAG = 42113  # GDAL's, text
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # EPSG code of a linear unit: metre, foot, US survey foot
WEB_MERCATOR = (3857, 3785, 900913)
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # EXIF orientation: what sets the picture upright

# What tifffile logs is harmless, or is raised below as an error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def open_raster(path, max_pixels=2**31):
    """Open a TIFF (its first page), PNG or JPEG for reading in windows.

    Only headers are read here; PNG and JPEG cannot be decoded in part, so their size is compared with max_pixels first.

    Args:
        path: the file.
        max_pixels: largest PNG or JPEG to accept, px.
    Returns:
        Raster.
    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is empty, cut short, no image, too large, or of a kind that would be read with loss.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the name")
    with open(path, "rb") as file:
        head = file.read(26)
    if not head:
        raise ValueError(f"{path}: the file is empty; copy or export it again")
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(path)
    return _open_picture(path, head, max_pixels)


@dataclass(eq=False)
class Raster:
    """An image that is read in windows; made by `open_raster`, closed by `close` or at the end of a with block."""

    path: Path
    source: object  # _Tiff or _Picture
    height: int  # px
    width: int  # px
    bands: int
    dtype: np.dtype
    segment: tuple  # (height, width), px, of the pieces the file is decoded in: reading along them is fastest
    nodata: float | None = None  # the value that stands for no data
    alpha: int | None = None  # the band that is 0 where there is no data
    palette: np.ndarray | None = None  # (256, 3) uint8, the colours of the values
    georeference: "Georeference | None" = None
    turned: bool = False  # an EXIF orientation was applied

    def read(self, row, col, height, width):
        """Read one window; it may reach over the border of the image.

        Args:
            row, col: top left pixel of the window, px; may be negative.
            height, width: size of the window, px.
        Returns:
            (height, width, C) array of .dtype; what lies outside is nodata, or 0 where none is known.
        Raises:
            ValueError: the file is damaged there.
        """
        window = np.full((height, width, self.bands), self.nodata or 0, self.dtype)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.height), min(col + width, self.width)
        if top < bottom and left < right:
            with _one_line_errors(self.path, "the file is damaged: copy or export it again"):
                self.source.copy(top, left, window[top - row:bottom - row, left - col:right - col])
        return window

    def valid(self, pixels):
        """Where pixels (h, w, C) read from this raster hold data.

        A pixel holds none if a band is NaN, if all bands are nodata, or if it is wholly transparent.

        Returns:
            (h, w) bool.
        """
        valid = (pixels == pixels).all(axis=2)  # NaN differs from itself
        if self.nodata is not None:
            valid &= (pixels != self.nodata).any(axis=2)
        if self.alpha is not None:
            valid &= pixels[:, :, self.alpha] != 0
        return valid

    def close(self):
        """Let go of the file and of what was decoded."""
        self.source.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@contextmanager
def _one_line_errors(path, remedy):
    """Turn whatever a decoder raises, which is a dozen kinds, into a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: {reason}; {remedy}") from error


class _Tiff:
    """The first page of a TIFF, decoded strip by strip or tile by tile; the last used ones are kept."""

    def __init__(self, path):
        self.path, self.file = path, tifffile.TiffFile(path)
        page = self.page = self.file.pages[0]
        if page.dtype is None or page.imagedepth != 1:
            raise ValueError(f"pixels of {page.bitspersample} bits and depth {page.imagedepth} are not supported")
        end, size = max(map(sum, zip(page.dataoffsets, page.databytecounts))), path.stat().st_size
        if end > size:
            raise ValueError(f"it is cut short, the pixels reach to byte {end} of {size}")
        self.dtype = np.dtype(np.uint8 if page.dtype == bool else page.dtype)
        self.planes = page.samplesperpixel if page.planarconfig == 2 else 1
        self.mapped = page.is_final and page.bitspersample == 8 * self.dtype.itemsize
        if self.mapped:
            self.size = page.imagelength, page.imagewidth
        elif page.is_tiled:
            self.size = page.tilelength, page.tilewidth
        else:
            self.size = min(page.rowsperstrip, page.imagelength), page.imagewidth
        nbytes = self.size[0] * self.size[1] * page.samplesperpixel // self.planes * self.dtype.itemsize
        if nbytes > SEGMENT_BYTES and not self.mapped:
            raise ValueError(f"it is compressed in pieces of {nbytes >> 20} MiB, the limit is {SEGMENT_BYTES >> 20} "
                             "MiB; store it in tiles (gdal_translate -co TILED=YES)")
        self.tables, self.kept, self.pool = page.jpegtables, OrderedDict(), ThreadPoolExecutor()
        self.held = 0  # bytes

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C); what the file leaves out (sparse) is not touched."""
        (rows, cols), (height, width) = self.size, window.shape[:2]
        down, across = -(-self.page.imagelength // rows), -(-self.page.imagewidth // cols)
        xs = range(col // cols, (col + width - 1) // cols + 1)
        for plane in range(self.planes):
            bands = window[:, :, plane:plane + 1] if self.planes > 1 else window
            for y in range(row // rows, (row + height - 1) // rows + 1):
                for x, segment in zip(xs, self.segments([(plane * down + y) * across + x for x in xs])):
                    if segment is not None:
                        top, left = max(y * rows, row), max(x * cols, col)
                        bottom, right = min((y + 1) * rows, row + height), min((x + 1) * cols, col + width)
                        bands[top - row:bottom - row, left - col:right - col] = segment[
                            top - y * rows:bottom - y * rows, left - x * cols:right - x * cols]

    def segments(self, indices):
        """List of the (h, w, C) pixels of these segments, None for those the file leaves out."""
        if self.mapped:
            return [self.map(index) for index in indices]
        for index in indices:
            if index in self.kept:
                self.kept.move_to_end(index)
        missing = [index for index in indices if index not in self.kept and self.page.databytecounts[index]]
        encoded = [self.load(index) for index in missing]
        decoded = (self.pool.map if len(missing) > 1 else map)(self.decode, missing, encoded)
        for index, pixels in zip(missing, decoded):
            self.kept[index] = pixels
            self.held += pixels.nbytes
        found = [self.kept.get(index) for index in indices]
        while self.held > CACHE_BYTES and len(self.kept) > 1:
            self.held -= self.kept.popitem(last=False)[1].nbytes
        return found

    def map(self, plane):
        """(H, W, C) pixels that lie uncompressed in one run, one such plane a band if bands are apart.

        They are mapped anew for each window, as what a standing map has touched would count as held memory.
        """
        shape = (*self.size, self.page.samplesperpixel // self.planes)
        offset = self.page.dataoffsets[0] + plane * int(np.prod(shape)) * self.dtype.itemsize
        return np.memmap(self.path, self.dtype.newbyteorder(self.file.byteorder), "r", offset, shape)

    def load(self, index):
        """Encoded bytes of one segment."""
        self.file.filehandle.seek(self.page.dataoffsets[index])
        return self.file.filehandle.read(self.page.databytecounts[index])

    def decode(self, index, encoded):
        """(h, w, C) pixels of one segment."""
        return self.page.decode(encoded, index, jpegtables=self.tables)[0][0]

    def close(self):
        """Close the file and empty the cache."""
        self.pool.shutdown()
        self.file.close()
        self.kept.clear()
        self.held = 0


def _open_tiff(path):
    """Raster of the first page of a TIFF; those after it are overviews, masks or other scenes."""
    with _one_line_errors(path, "copy or export it again"):
        source = _Tiff(path)
        page, tags = source.page, {tag.code: tag.value for tag in source.page.tags}
        colours = page.samplesperpixel - len(page.extrasamples)  # bands that are not extra
        alphas = [colours + i for i, kind in enumerate(page.extrasamples) if kind in (1, 2)]
        palette = np.transpose(page.colormap) // 257 if page.photometric == 3 else None  # (n, 3)
        placed = 34264 in tags or (33550 in tags and 33922 in tags)
        georeference = Georeference({code: tags[code] for code in GEO_TAGS if code in tags}) if placed else None
        return Raster(path, source, page.imagelength, page.imagewidth, page.samplesperpixel, source.dtype, source.size,
                      nodata=_parse_nodata(tags.get(NODATA_TAG), source.dtype), alpha=alphas[0] if alphas else None,
                      palette=_full_palette(palette), georeference=georeference)


def _parse_nodata(text, dtype):
    """Nodata of GDAL's tag as a float; None if there is none, or none that a pixel of dtype can have."""
    try:
        value = float(text)
        held = float(dtype.type(value if dtype.kind == "f" else int(value)))
    except (TypeError, ValueError, OverflowError):
        return None
    return held if dtype.kind == "f" or held == value else None


def _full_palette(colours):
    """(256, 3) uint8 of at most 256 colours (n, 3), the rest black; None stays None."""
    if colours is None:
        return None
    palette = np.zeros((256, 3), np.uint8)
    palette[:len(colours)] = colours[:256]
    return palette


class _Picture:
    """A PNG or JPEG, decoded whole at the first window."""

    def __init__(self, path, orientation, spread):
        self.path, self.orientation, self.spread, self.pixels = path, orientation, spread, None

    def copy(self, row, col, window):
        """Copy what lies at row, col into window (h, w, C)."""
        if self.pixels is None:
            with _pillow_open(self.path) as image:
                upright = image.transpose(TURNS[self.orientation]) if self.orientation in TURNS else image
                pixels = np.asarray(upright)
            self.pixels = pixels.reshape(*pixels.shape[:2], -1) // self.spread  # (H, W, C)
        window[:] = self.pixels[row:row + window.shape[0], col:col + window.shape[1]]

    def close(self):
        """Let go of the decoded pixels."""
        self.pixels = None


@contextmanager
def _pillow_open(path):
    """Pillow's lazy open without its own limit on pixels, which is below the size of one drone image mosaic."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _open_picture(path, head, max_pixels):
    """Raster of a PNG or JPEG; palette pictures are read as ids, an EXIF orientation is applied."""
    with _one_line_errors(path, "it must be a TIFF, PNG or JPEG: convert it, or copy it again"):
        with _pillow_open(path) as image:
            (width, height), mode = image.size, image.mode
            orientation = Image.Image.getexif(image).get(274, 1)  # the PNG class's own getexif would decode
            palette = np.reshape(image.getpalette("RGB"), (-1, 3)) if mode == "P" else None
            # Bytes 24 and 25 of a PNG are its bit depth and colour type; type 0 is grey.
            depth, grey = (head[24], head[25] == 0) if image.format == "PNG" else (8, False)
        if depth == 16 and not grey:
            raise ValueError("a colour PNG of 16 bits would be cut to 8, convert it to a TIFF")
        bands = {"1": 1, "L": 1, "P": 1, "I": 1, "I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(mode)
        if bands is None:
            raise ValueError(f"its colours are {mode}, convert it to RGB")
        if height * width > max_pixels:
            raise ValueError(f"{height} x {width} px are more than --max-pixels {max_pixels} and cannot be read in "
                             "windows, raise --max-pixels or convert it to a tiled TIFF")
    if orientation >= 5:
        height, width = width, height
    spread = 255 // (2 ** depth - 1) if grey and depth in (2, 4) else 1  # Pillow spreads such grey over 0..255
    return Raster(path, _Picture(path, orientation, spread), height, width, bands,
                  np.dtype(np.uint16 if depth == 16 else np.uint8), (height, width), palette=_full_palette(palette),
                  alpha=bands - 1 if mode in ("LA", "RGBA") else None, turned=orientation in TURNS)


class Georeference:
    """Where a raster lies on the map, kept as the GeoTIFF tags, so that it is written back exactly.

    Pixel coordinates are (row, col) floats; (0, 0) is the outer corner of the top left pixel, also where the file
    itself counts from pixel centres (PixelIsPoint).

    Args:
        tags: {code: value} of the tags in GEO_TAGS.
    """

    def __init__(self, tags):
        self.tags = tags
        entries = np.reshape(tags.get(34735, ()), (-1, 4))[1:].tolist()  # (key, tag it is in, count, value)
        self.keys = {key: value for key, place, _, value in entries if place == 0}
        self.centre = 0.5 if self.keys.get(1025) == 2 else 0.0  # where in a pixel the file's coordinates are whole
        if 33550 in tags:
            (a, e, *_), (i, j, _, x, y, *_) = tags[33550], tags[33922]
            self.affine = (a, 0.0, x - (i + self.centre) * a, 0.0, -e, y + (j + self.centre) * e)
        else:
            a, b, _, c, d, e, _, f = tags[34264][:8]
            self.affine = (a, b, c - self.centre * (a + b), d, e, f - self.centre * (d + e))

    def window(self, row, col, factor=1):
        """Georeference of a window whose pixels each cover factor x factor pixels of this raster.

        Args:
            row, col: top left pixel of the window, px of this raster.
            factor: how much coarser the window is.
        Returns:
            Georeference.
        """
        tags, centre = dict(self.tags), self.centre
        if 33550 in tags:
            # The tie points move in pixels, which is exact, not on the map, where it would be rounded.
            ties = np.reshape(tags[33922], (-1, 6)).astype(float)  # (n, 6): i, j, k, x, y, z
            ties[:, :2] = (ties[:, :2] + centre - (col, row)) / factor - centre
            across, down, *up = tags[33550]
            tags.update({33922: tuple(ties.ravel().tolist()), 33550: (across * factor, down * factor, *up)})
        else:
            a, b, g, c, d, e, h, f, *rest = tags[34264]
            col, row = col + centre * (factor - 1), row + centre * (factor - 1)
            c, f = c + a * col + b * row, f + d * col + e * row
            tags[34264] = (a * factor, b * factor, g, c, d * factor, e * factor, h, f, *rest)
        return Georeference(tags)

    def to_map(self, row, col):
        """(x, y) on the map of the pixel coordinates row, col: floats or arrays."""
        a, b, c, d, e, f = self.affine
        return a * col + b * row + c, d * col + e * row + f

    def to_pixel(self, x, y):
        """(row, col) of the map coordinates x, y: floats or arrays; the inverse of to_map."""
        a, b, c, d, e, f = self.affine
        x, y, area = x - c, y - f, a * e - b * d
        return (a * y - d * x) / area, (e * x - b * y) / area

    @property
    def gsd_m(self):
        """Side of a pixel on the ground, m; None for a CRS that is geographic, Web Mercator (whose metres are not
        the ground's) or of unknown unit."""
        unit = METRES.get(self.keys.get(3076))
        if self.keys.get(1024) != 1 or unit is None or self.keys.get(3072) in WEB_MERCATOR:
            return None
        a, b, _, d, e, _ = self.affine
        return abs(a * e - b * d) ** 0.5 * unit


def write_geotiff(path, strips, height, width, bands, dtype, palette=None, nodata=None, georeference=None, level=6):
    """Write a tiled, deflated GeoTIFF from strips of rows, holding no more than a few rows of tiles.

    It is written under a temporary name and renamed when whole, so that a failure leaves nothing behind.

    Args:
        path: the file to write.
        strips: iterable of (h, W) or (h, W, C) arrays of dtype, top to bottom; any heights that add up to height.
        height, width: size of the raster, px.
        bands: C.
        dtype: type of the pixels.
        palette: (256, 3) uint8, the colours of the values of a uint8 band.
        nodata: the value that stands for no data.
        georeference: Georeference of the raster.
        level: deflate level, 1 (fast) to 9 (small).
    Raises:
        ValueError: the strips hold too few or too many rows, or do not fit width, bands or dtype.
    """
    path, dtype = Path(path), np.dtype(dtype)
    part = path.with_name(path.name + ".part")
    tags = [(code, GEO_TAGS[code], len(value), value, True) for code, value in
            (georeference.tags if georeference else {}).items()]
    if nodata is not None:
        tags.append((NODATA_TAG, "s", 0, f"{nodata:.17g}", True))
    try:
        with tifffile.TiffWriter(part, bigtiff=height * width * bands * dtype.itemsize > 2**31) as file:
            file.write(_tiles(path, strips, height, width, bands, dtype), dtype=dtype, tile=(TILE, TILE),
                       shape=(height, width, bands) if bands > 1 else (height, width),
                       photometric="palette" if palette is not None else "rgb" if bands == 3 else "minisblack",
                       planarconfig="contig" if bands > 1 else None,
                       colormap=None if palette is None else np.transpose(palette).astype(np.uint16) * 257,  # (3, 256)
                       compression="zlib", compressionargs={"level": level}, predictor=palette is None,
                       buffersize=CACHE_BYTES, extratags=tags, metadata=None, software=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _tiles(path, strips, height, width, bands, dtype):
    """Cut strips of any height into tiles, row by row, those at the right and bottom smaller."""
    rows, filled, total = np.empty((TILE, width, bands), dtype), 0, 0
    for strip in strips:
        strip = strip[:, :, None] if strip.ndim == 2 else strip  # (h, W, C)
        total += len(strip)
        if strip.shape[1:] != (width, bands) or strip.dtype != dtype or total > height:
            raise ValueError(f"{path}: {total} rows of (width, bands) {strip.shape[1:]} {strip.dtype} do not fit "
                             f"{height} rows of {(width, bands)} {dtype}; nothing was written")
        while len(strip):
            taken = min(TILE - filled, len(strip), )
            rows[filled:filled + taken] = strip[:taken]
            strip, filled = strip[taken:], filled + taken
            if filled == TILE:
                yield from np.split(rows, range(TILE, width, TILE), axis=1)
                rows, filled = np.empty_like(rows), 0
    if total < height:
        raise ValueError(f"{path}: only {total} of {height} rows were given; nothing was written")
    if filled:
        yield from np.split(rows[:filled], range(TILE, width, TILE), axis=1)


def downscale_classes(raster, factor, how="nearest", weights=None, ignore=None):
    """Bring a class mask down by an integer factor, strip by strip, as GDAL does.

    "nearest" takes the pixel at factor // 2 of each block, "mode" the most frequent class, "weighted" the class of
    the highest weight x count, so that thin classes such as roads survive. Of equal ones wins that which is complete
    first, row by row. Blocks at the right and bottom that reach over the edge vote with what they have.

    Args:
        raster: Raster of one band of integers.
        factor: pixels of the raster along each side of a pixel of the result.
        how: "nearest", "mode" or "weighted".
        weights: for "weighted", {class: weight} or a sequence, all above 0; classes it does not name weigh 1.
        ignore: value that does not vote, and is the result where nothing else is there; None: every value votes.
    Returns:
        Iterator of (h, ceil(W / factor)) arrays of the raster's dtype, top to bottom.
    Raises:
        ValueError: an argument is out of range, or the raster is not a class mask.
    """
    weights = dict(weights if isinstance(weights, dict) else enumerate(() if weights is None else weights))
    if how not in ("nearest", "mode", "weighted") or factor < 1 or min(weights.values(), default=1) <= 0:
        raise ValueError(f"{raster.path}: cannot scale by {factor}, {how}, weights {weights}; use nearest, mode or "
                         "weighted, a factor of at least 1 and weights above 0")
    if raster.bands != 1 or raster.dtype.kind not in "ui":
        raise ValueError(f"{raster.path}: {raster.bands} bands of {raster.dtype} are no class mask; give one band of "
                         "integers")
    return _downscaled(raster, factor, how, weights if how == "weighted" else {}, ignore)


def _downscaled(raster, factor, how, weights, ignore):
    """Yield the strips of downscale_classes: read windows along the file's segments, count piece by piece."""
    across = raster.width if raster.segment[1] >= raster.width else CHUNK
    for top, height in _spans(raster.height, factor, CHUNK * CHUNK // across):
        cells = []
        for left, width in _spans(raster.width, factor, across):
            down, right = min(factor, height), min(factor, width)
            block = raster.read(top, left, height, width)[:, :, 0]
            if how == "nearest":
                cells.append(block[min(factor // 2, down - 1)::down, min(factor // 2, right - 1)::right])
            else:
                pieces = [block[y:y + n] for y, n in _spans(height, down, PIECE // width)]
                cells.append(np.concatenate([_vote(piece, down, right, weights, ignore) for piece in pieces]))
        yield np.concatenate(cells, axis=1)


def _spans(length, factor, most):
    """[(start, size)] that cover length, each a multiple of factor of about most, the last one what is left over."""
    whole, step = length // factor * factor, max(most // factor, 1) * factor
    spans = [(start, min(step, whole - start)) for start in range(0, whole, step)]
    return spans + [(whole, length - whole)] * (whole < length)


def _vote(piece, down, across, weights, ignore):
    """(h, w) winners of the blocks of down x across px in piece (h * down, w * across)."""
    blocks = piece.reshape(len(piece) // down, down, -1, across)  # (h, down, w, across)
    # Pillow counts bytes five times as fast as numpy.
    found = np.flatnonzero(Image.fromarray(piece).histogram()) if piece.dtype == np.uint8 else np.unique(piece)
    values = found[found != ignore] if ignore is not None else found
    if not len(values):
        return np.full((len(blocks), blocks.shape[2]), ignore, piece.dtype)
    scores = []
    for value in values:
        rows = (piece == value).view(np.uint8).reshape(len(blocks), down, -1)
        rows = rows.sum(axis=1, dtype=np.min_scalar_type(down))  # (h, w * across)
        counts = rows.reshape(-1, across).T.copy().sum(axis=0, dtype=np.uint32)  # (h * w), copied as that adds faster
        scores.append(counts * weights.get(value, 1))
    scores = np.reshape(scores, (len(values), len(blocks), -1))  # (K, h, w)
    best = scores.max(axis=0)
    winners = values[scores.argmax(axis=0)].astype(piece.dtype)
    winners[best == 0] = 0 if ignore is None else ignore
    y, x = ((scores == best).sum(axis=0) > 1).nonzero()
    backwards = blocks[:, ::-1, :, ::-1][y, :, x].reshape(len(y), down * across)  # (ties, down * across)
    since = np.stack([(backwards == value).argmax(axis=1) for value in values])  # (K, ties) px since its last one
    winners[y, x] = values[np.where(scores[:, y, x] == best[y, x], since, -1).argmax(axis=0)]
    return winners
