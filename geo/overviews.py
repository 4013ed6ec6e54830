"""Overviews: a GeoTIFF with smaller copies of itself, laid out as a Cloud Optimized GeoTIFF.

A viewer opens a large map at once, because it reads the copy that fits its screen. Headers come
first in the file, then the tiles of the smallest copy, and the map's own tiles last. So a viewer
on the network reads the start of the file, and then the tiles it shows.

Source: OGC 21-026, "OGC Cloud Optimized GeoTIFF Standard"; Adobe, "TIFF 6.0", section 2.
"""

import os
import struct
import tempfile
import zlib
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from geo.georeference import GEO_TAGS
from geo.raster import TILE, open_raster
from geo.regions import NO_DATA

MOST_LEVELS = TILE.bit_length() - 1  # a tile is then one pixel of the smallest copy

# Tags and types of TIFF.
SUBFILE_TYPE = 254  # 1: a smaller copy of another page
WIDTH = 256
LENGTH = 257
TILE_OFFSETS = 324
TILE_SIZES = 325
LONG = 4
LONG8 = 16

# entries: {tag: (type, count, bytes)}; file: open binary file that holds the encoded tiles;
# offsets, sizes: where they lie in it, row by row, bytes.
Page = namedtuple("Page", "entries file offsets sizes")


def add_overviews(path, how, level=6):
    """Add copies of 1/2, 1/4, ... the size to a GeoTIFF, until one fits into a tile.

    The pixels of the map itself stay as they are. The new file is written beside the old one, and
    takes its name when it is complete. Memory holds a row of tiles.

    Args:
        path: a file of uint8 that `write_geotiff` wrote.
        how: "mode", the most frequent of the classes that a pixel stands for, without NO_DATA (of
            two as frequent, the one at the top left); or "mean", without pixels that are 0 in all
            bands, because these have no data.
        level: deflate level, 1 (fast) to 9 (small).
    """
    path = Path(path)
    part = Path(f"{path}.part")
    with open_raster(path) as raster:
        tiles_along = -(-max(raster.height, raster.width) // TILE)
        num_levels = min((tiles_along - 1).bit_length(), MOST_LEVELS)
        if num_levels == 0:
            return
        try:
            with (tempfile.TemporaryFile(dir=path.parent) as spool, tifffile.TiffFile(path) as tiff,
                  open(path, "rb") as source, open(part, "wb") as target):
                page = read_page(tiff, source)
                copies = []
                for number in range(1, num_levels + 1):
                    copies.append(Copy(raster, number, spool, level))
                fill_copies(copies, raster, how)
                write_cog(target, tiff, [page, *(copy.page(page) for copy in copies)])
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


class Copy:
    """A smaller copy of a map, which is given row by row, and encoded in tiles.

    Args:
        raster: the open map.
        number: 1 for a copy of half the size, 2 for a quarter, ...
        spool: open binary file that the tiles are appended to.
        level: deflate level.
    """

    def __init__(self, raster, number, spool, level):
        self.height = -(-raster.height >> number)  # rounded up
        self.width = -(-raster.width >> number)
        self.step = TILE >> number  # rows that come from a row of the map's tiles
        self.spool = spool
        self.encode = partial(encode_tile, is_delta=raster.palette is None, level=level)
        across = -(-self.width // TILE)
        self.rows = np.zeros((TILE, across * TILE, raster.bands), np.uint8)  # a row of tiles
        self.filled = 0  # px
        self.offsets = []
        self.sizes = []

    def add(self, rows, pool):
        """Add rows (h, width, C), and encode their tiles as soon as these are full."""
        self.rows[self.filled:self.filled + len(rows), :self.width] = rows
        self.filled += self.step
        if self.filled == TILE:
            self.flush(pool)

    def flush(self, pool):
        """Encode and write the tiles of the rows given so far, if there are any."""
        if self.filled == 0:
            return
        for tile in pool.map(self.encode, np.split(self.rows, self.rows.shape[1] // TILE, axis=1)):
            self.offsets.append(self.spool.tell())
            self.sizes.append(len(tile))
            self.spool.write(tile)
        self.rows[:] = 0
        self.filled = 0

    def page(self, of):
        """The Page of this copy of a page."""
        entries = {tag: entry for tag, entry in of.entries.items() if tag not in GEO_TAGS}
        for tag, value in [(SUBFILE_TYPE, 1), (WIDTH, self.width), (LENGTH, self.height)]:
            entries[tag] = (LONG, 1, np.uint32(value).tobytes())
        return Page(entries, self.spool, self.offsets, self.sizes)


def encode_tile(tile, is_delta, level):
    """Deflate a tile (TILE, TILE, C), as differences along its rows or as it is."""
    if is_delta:
        tile = np.diff(tile, axis=1, prepend=np.uint8(0))
    return zlib.compress(tile.tobytes(), level)


def fill_copies(copies, raster, how):
    """Read a map once, and give each Copy its rows."""
    shrink = {"mode": shrink_classes, "mean": shrink_values}[how]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for top in range(0, raster.height, TILE):
            rows = raster.read(top, 0, min(TILE, raster.height - top), raster.width)
            tiles = np.split(rows, range(TILE, raster.width, TILE), axis=1)
            shrunk = pool.map(partial(shrink, num_levels=len(copies)), tiles)
            for copy, parts in zip(copies, zip(*shrunk)):
                copy.add(np.concatenate(parts, axis=1), pool)
        for copy in copies:
            copy.flush(pool)


def shrink_classes(tile, num_levels):
    """The most frequent class in blocks of 2, 4, ... pixels.

    Args:
        tile: (h, w, 1) uint8, NO_DATA does not count.
    Returns:
        list of (h / 2, w / 2, 1), (h / 4, w / 4, 1), ... uint8, sizes rounded up.
    """
    tile = tile[:, :, 0]
    values = np.flatnonzero(np.bincount(tile.reshape(-1), minlength=NO_DATA)[:NO_DATA])
    counts = [(tile == value).view(np.uint8) for value in values]
    copies = []
    for level in range(1, num_levels + 1):
        corner = tile[::2**level, ::2**level]
        winner = np.full(corner.shape, NO_DATA, np.uint8)
        most = np.zeros(corner.shape, np.uint32)
        counts = [add_blocks(count) for count in counts]
        for value, count in zip(values, counts):
            score = 2 * count + (corner == value)  # of two as frequent, the one at the corner
            np.copyto(winner, value, where=score > most, casting="unsafe")
            np.maximum(most, score, out=most)
        copies.append(winner[:, :, None])
    return copies


def shrink_values(tile, num_levels):
    """The mean in blocks of 2, 4, ... pixels of a tile (h, w, C), as `shrink_classes`."""
    sums = tile
    counts = tile.any(axis=2, keepdims=True).view(np.uint8)  # (h, w, 1)
    copies = []
    for _ in range(num_levels):
        sums = add_blocks(sums)
        counts = add_blocks(counts)
        known = np.maximum(counts, 1)
        copies.append(((sums + known // 2) // known).astype(np.uint8))
    return copies


def add_blocks(values):
    """Add up blocks of 2 x 2: (h, w, ...) -> (h / 2, w / 2, ...), rounded up."""
    height, width = values.shape[:2]
    odd = [(0, height % 2), (0, width % 2)] + [(0, 0)] * (values.ndim - 2)
    if height % 2 or width % 2:
        values = np.pad(values, odd)
    dtype = np.uint16 if values.dtype == np.uint8 else np.uint32
    rows = np.add(values[::2], values[1::2], dtype=dtype)
    return np.add(rows[:, ::2], rows[:, 1::2], dtype=dtype)


def read_page(tiff, source):
    """The Page of the only page of an open tifffile.TiffFile, whose file is open as source."""
    page = tiff.pages[0]
    entries = {}
    for tag in page.tags:
        source.seek(tag.valueoffset)
        entries[tag.code] = (int(tag.dtype), tag.count, source.read(tag.valuebytecount))
    return Page(entries, source, page.dataoffsets, page.databytecounts)


def write_cog(target, tiff, pages):
    """Write pages as one TIFF: all headers, and then the tiles, those of the last page first.

    Args:
        target: open binary file, empty.
        tiff: tifffile.TiffFile whose byte order and kind (TIFF or BigTIFF) are taken.
        pages: list of Page.
    """
    is_big = tiff.is_bigtiff
    begin = 16 if is_big else 8
    headers = [header_size(page, is_big) for page in pages]
    begins = begin + np.cumsum([0, *headers])  # where each header begins, and the tiles
    position = int(begins[-1])
    tiles_at = []
    for page in reversed(pages):
        ends = position + np.cumsum(page.sizes, dtype=np.int64)
        tiles_at.insert(0, ends - page.sizes)
        position = int(ends[-1])

    mark = {"<": b"II", ">": b"MM"}[tiff.byteorder]
    start = ("2sHHHQ", mark, 43, 8, 0, begin) if is_big else ("2sHI", mark, 42, begin)
    target.write(struct.pack(tiff.byteorder + start[0], *start[1:]))
    following = [*begins[1:-1].tolist(), 0]
    for page, offsets, at, next_at in zip(pages, tiles_at, begins.tolist(), following):
        entries = tile_entries(page, offsets, tiff.byteorder, is_big)
        target.write(encode_header(entries, at, next_at, tiff.byteorder, is_big))
    for page in reversed(pages):
        for offset, size in zip(page.offsets, page.sizes):
            page.file.seek(offset)
            target.write(page.file.read(size))


def tile_entries(page, offsets, byteorder, is_big):
    """The entries of a Page whose tiles are moved to offsets."""
    count = len(page.sizes)
    offset_type = "u8" if is_big else "u4"
    return {
        **page.entries,
        TILE_OFFSETS: (LONG8 if is_big else LONG, count,
                       np.array(offsets, byteorder + offset_type).tobytes()),
        TILE_SIZES: (LONG, count, np.array(page.sizes, byteorder + "u4").tobytes())}


def header_size(page, is_big):
    """Bytes that `encode_header` makes of a Page."""
    entries = tile_entries(page, page.sizes, "<", is_big)  # any offsets are as long
    return len(encode_header(entries, 0, 0, "<", is_big))


def encode_header(entries, at, next_at, byteorder, is_big):
    """A page's header: its entries by tag, the next header's place, and values too long for it.

    Args:
        entries: {tag: (type, count, bytes)}.
        at, next_at: where this header and the next one begin in the file; 0: there is no next.
        byteorder: "<" or ">"; is_big: whether the file is a BigTIFF.
    """
    number, offset, inline = ("Q", "Q", 8) if is_big else ("H", "I", 4)  # bytes of a short value
    header = struct.pack(byteorder + number, len(entries))
    values_at = at + len(header) + (len(entries) + 1) * inline + len(entries) * (4 + inline)
    values = b""
    for tag, (kind, count, value) in sorted(entries.items()):
        header += struct.pack(f"{byteorder}HH{offset}", tag, kind, count)
        if len(value) <= inline:
            header += value.ljust(inline, b"\0")
            continue
        header += struct.pack(byteorder + offset, values_at + len(values))
        values += value + b"\0" * (len(value) % 2)  # values begin at even bytes
    return header + struct.pack(byteorder + offset, next_at) + values
