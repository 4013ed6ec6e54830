"""Pages of a TIFF, decoded window by window, and which page is what."""

import logging
import math
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tifffile

CACHE_BYTES = 2**26  # decoded strips and tiles kept per image
SEGMENT_BYTES = 2**29  # a compressed strip or tile that is larger when decoded is refused
# The most bytes that one stored byte can become, by compression: none, LZW, Deflate (two codes),
# PackBits. Others have no such limit.
EXPANSION = {1: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}
REDUCED = 1  # bits of a page's NewSubfileType: an overview
MASK = 4  # the validity of another page

# What tifffile logs is harmless, or is raised below as an error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


class TiffPage:
    """One page of a TIFF, decoded strip by strip or tile by tile (segments), with a cache.

    An uncompressed image that lies in one piece is mapped instead, in segments of a size that
    keeps the pages touched within the cache.

    Args:
        path: the file.
        page: tifffile's page, of a file that is open.
        share: number of pages that share the memory of one cache.
    """

    def __init__(self, path, page, share=1):
        self.path = path
        self.page = page
        if page.compression == tifffile.COMPRESSION.JPEG and page.planarconfig == 2:
            page.photometric = tifffile.PHOTOMETRIC.MINISBLACK  # a plane is one band, not three
        if page.compression == tifffile.COMPRESSION.LERC and page.dtype.kind == "f" and (
                page.parent.byteorder == ">"):
            raise ValueError("its floats are compressed by LERC in big-endian order, which "
                             "programs decode differently")
        self.decoder = page.decode  # prepared now, because both read the open file
        self.jpeg_tables = page.jpegtables
        _check_complete(page, path)
        self.dtype = np.dtype(np.uint8 if page.dtype == bool else page.dtype)
        self.planes = page.samplesperpixel if page.planarconfig == 2 else 1  # 1: interleaved bands
        rows, cols = page.chunks[:2]
        depth = page.samplesperpixel // self.planes
        self.row_bytes = cols * depth * self.dtype.itemsize
        whole_bytes = page.bitspersample == 8 * self.dtype.itemsize
        self.cache_limit = CACHE_BYTES // share
        self.mapped = page.is_final and whole_bytes
        encoded = page.compression > 1 or page.predictor > 1 or page.fillorder > 1
        self.plain_tiles = page.is_tiled and whole_bytes and not encoded
        if self.mapped:
            rows = min(self.cache_limit // self.row_bytes // 4 + 1, page.imagelength)
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
        while self.cached_bytes > self.cache_limit and len(self.cache) > 1:
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


class Planes:
    """Pages of one band each, as the bands of one image."""

    def __init__(self, pages):
        self.pages = pages  # list of TiffPage
        self.shape = pages[0].shape
        self.dtype = pages[0].dtype

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C), except where the file is sparse."""
        for band, page in enumerate(self.pages):
            page.copy(row, col, window[:, :, band:band + 1])


def sort_pages(pages, number=None):
    """Find what each page of a TIFF is, without decoding it.

    Args:
        pages: tifffile's pages, all of one file.
        number: of the page to read, alone; None: the image, which is the first page that is no
            mask, and the pages that are more bands of it.
    Returns:
        list of the image's pages; list of the pages that are 0 where the image has no data; and
        what is not read, in words, or "".
    Raises:
        ValueError: there are several images.
    """
    if number is not None:
        return [pages[number]], [], ""
    masks = [page for page in pages if page.subfiletype & MASK]
    images = [page for page in pages if not page.subfiletype & (MASK | REDUCED)]
    image = images[0] if images and not pages[0].subfiletype & REDUCED else pages[0]
    size = image.imagelength, image.imagewidth
    masks = [page for page in masks if (page.imagelength, page.imagewidth) == size]
    others = [page for page in images if page is not image]
    smaller = [page for page in others
               if page.imagelength < size[0] and page.imagewidth < size[1]]
    if others and len(smaller) == len(others):
        unread = f"holds {len(smaller)} smaller pages, not marked as overviews, which are not read"
        return [image], masks, unread
    kinds = {(page.imagelength, page.imagewidth, page.dtype, page.samplesperpixel,
              page.photometric) for page in [image, *others]}
    is_bands = len(kinds) == 1 and image.samplesperpixel == 1
    if others and (not is_bands or image.photometric == tifffile.PHOTOMETRIC.PALETTE):
        raise ValueError(f"its {1 + len(others)} pages are several images, not the bands of one: "
                         "save each page as a file, and list files that belong together in a text "
                         "file")
    return [image, *others], [] if image in masks else masks, ""


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
    if page.is_final:  # mapped, whatever its byte counts are
        end = page.dataoffsets[0] + page.nbytes
        if end > size:
            raise ValueError(f"it is cut short: {size} of {end} bytes are there")
    else:
        _check_pieces(page, needed)


def _check_pieces(page, needed):
    """Refuse a page with a strip or tile that is too short for the pixels it claims: ValueError.

    Else a header of a few bytes could claim a scene of any size, which is then cut into tiles.
    """
    expansion = EXPANSION.get(page.compression)
    if expansion is None or page.is_subsampled:
        return
    rows, cols = page.chunks[:2]
    bands = page.samplesperpixel if page.planarconfig == 1 else 1
    row_bytes = math.ceil(cols * bands * page.bitspersample / 8)
    down = math.ceil(page.imagelength / rows)
    for index, count in enumerate(page.databytecounts[:needed]):
        held = rows
        if not page.is_tiled:  # the last strip may be shorter
            held = min(rows, page.imagelength - index % down * rows)
        if 0 < count * expansion < held * row_bytes:  # 0: left out, in sparse files
            raise ValueError(f"piece {index} has {count} bytes, too few for its {rows} x {cols} px")


def _overlap(window, window_size, segment, segment_size):
    """Slices of a window and of a segment, along one axis, that pick their common pixels."""
    start = max(window, segment)
    end = min(window + window_size, segment + segment_size)
    return slice(start - window, end - window), slice(start - segment, end - segment)
