"""Regions of a class map: its 4-connected parts of one class, found in blocks of rows, and a sieve.

Two pixels of one class belong together if they share a side, as in GDAL. Each row is cut into runs
of one class. A pixel costs no memory beyond its block, and each run and each border a few bytes in
a temporary file, so that memory grows with the number of regions, not with the number of pixels.
"""

import collections

import numpy as np

NO_DATA = 255  # the value of pixels that are in no class

# runs: first pixels of the runs, counted row by row, and their regions, (n,) each. The first row is
# the last one of the block before, or no data.
Runs = collections.namedtuple("Runs", "height starts regions")


class Regions:
    """The regions of a class map, numbered from 0. Those without data are regions, too.

    Args:
        row_blocks: iterable of ((h, W) uint8 classes, (h, W) uint8 confidence or None), top first.
        width: W, px.
        file: open binary file, empty, which holds the runs and borders from then on.
        with_borders: whether to measure the borders between regions, which the sieve needs.
    Attributes:
        classes, pixels, confidence: (R,) of each region: class, number of pixels, and sum of their
            confidence.
        borders: (low, high, length) of the borders between two regions with data, (E,) each, px.
    """

    def __init__(self, row_blocks, width, file, with_borders=False):
        self.width = width
        self.file = file
        self.heights = []  # of the blocks, px
        self.classes = np.array([NO_DATA], np.uint8)  # region 0 lies above the map
        self.pixels = np.zeros(1, np.int64)
        self.confidence = np.zeros(1, np.int64)
        self.has_confidence = False
        self.numbers = None  # from the regions in the file to those of this object
        self.num_borders = 0  # in the file
        joined = []  # pairs of regions that turned out to be one, further down
        last_row = np.full((1, width), NO_DATA, np.uint8)
        last_regions = np.zeros(1, np.int32)
        for classes, confidence in row_blocks:
            rows = np.concatenate([last_row, classes])  # (h + 1, W)
            starts, above, below, lengths = find_runs(rows)
            values = rows.reshape(-1)[starts]
            same = values[above] == values[below]
            joint = connect(len(starts), above[same], below[same])
            regions = self._number(joint, values, last_regions)
            joined.append(np.stack([last_regions, regions[:len(last_regions)]]))
            self._measure(starts, regions, len(last_regions), classes.size, confidence)
            borders = [[], [], []]
            if with_borders:
                vertical = regions[above[~same]], regions[below[~same]], lengths[~same]
                borders = self._borders(starts, regions, len(last_regions), vertical)
            self._write(Runs(len(classes), starts, regions), borders)
            last_row = rows[-1:]
            last_regions = regions[starts >= len(classes) * width]
        self.height = sum(self.heights)
        self._join(np.concatenate(joined, axis=1))

    def _number(self, joint, values, last_regions):
        """Regions (n,) of the runs of a block; joint: the first run that each is connected to."""
        numbers = np.empty(len(joint), np.int32)
        numbers[:len(last_regions)] = last_regions
        firsts = np.flatnonzero(joint == np.arange(len(joint)))
        firsts = firsts[firsts >= len(last_regions)]  # others go on from the block before
        numbers[firsts] = len(self.classes) + np.arange(len(firsts))
        self.classes = np.append(self.classes, values[firsts])
        return numbers[joint]

    def _measure(self, starts, regions, first, size, confidence):
        """Add the pixels and the confidence of a block of size px; its own runs begin at first."""
        grown = len(self.classes) - len(self.pixels)
        self.pixels = np.pad(self.pixels, (0, grown))
        self.confidence = np.pad(self.confidence, (0, grown))
        own = starts[first:] - self.width
        np.add.at(self.pixels, regions[first:], np.diff(own, append=size))
        self.has_confidence = confidence is not None
        if self.has_confidence:
            sums = np.add.reduceat(confidence.reshape(-1), own, dtype=np.int64)
            np.add.at(self.confidence, regions[first:], sums)

    def _borders(self, starts, regions, first, vertical):
        """Borders (low, high, length) within a block and with the row above it."""
        inside = np.flatnonzero(starts % self.width > 0)  # runs with another one to their left
        inside = inside[inside >= first]
        one = np.concatenate([vertical[0], regions[inside - 1]])
        other = np.concatenate([vertical[1], regions[inside]])
        lengths = np.concatenate([vertical[2], np.ones(len(inside), np.int32)])
        has_data = (self.classes[one] != NO_DATA) & (self.classes[other] != NO_DATA)
        return add_up(one[has_data], other[has_data], lengths[has_data])

    def _write(self, runs, borders):
        """Append the runs and the borders (low, high, length) of a block to the file."""
        self.heights.append(runs.height)
        self.num_borders += len(borders[0])
        for array in (runs.starts, runs.regions, *borders):
            np.save(self.file, np.asarray(array, np.int32))

    def _read(self):
        """Yield (runs, borders) of each block, top first, as they were written."""
        self.file.seek(0)
        for height in self.heights:
            starts, regions, *borders = (np.load(self.file) for _ in range(5))
            yield Runs(height, starts, regions), borders

    def _join(self, pairs):
        """Number the regions anew, once it is known which are one."""
        self.numbers = np.arange(len(self.classes))
        self._renumber(connect(len(self.classes), *pairs))
        one, other, lengths = np.empty((3, self.num_borders), np.int32)
        end = 0
        for _, (block_low, block_high, block_lengths) in self._read():
            start = end
            end += len(block_low)
            one[start:end] = self.numbers[block_low]
            other[start:end] = self.numbers[block_high]
            lengths[start:end] = block_lengths
        self.borders = add_up(one, other, lengths)

    def _renumber(self, merged):
        """Replace each region by the region it was merged into, (R,), and number those anew."""
        kept, new = np.unique(merged, return_inverse=True)
        pixels = np.zeros(len(kept), np.int64)
        confidence = np.zeros(len(kept), np.int64)
        np.add.at(pixels, new, self.pixels)
        np.add.at(confidence, new, self.confidence)
        self.classes = self.classes[kept]
        self.pixels = pixels
        self.confidence = confidence
        self.numbers = new.astype(np.int32)[self.numbers]

    def mean_confidence(self, region):
        """Mean confidence of a region, 0 to 1, or None if none was given."""
        if not self.has_confidence:
            return None
        return float(self.confidence[region] / self.pixels[region] / 255)

    def sieve(self, min_pixels):
        """Merge regions of fewer pixels into their neighbours, see `sieve`."""
        self._renumber(sieve(self.classes, self.pixels, self.borders, min_pixels))
        self.borders = None  # of the regions before

    def runs(self):
        """Yield the Runs of each block, top first, with the regions of this object."""
        for runs, _ in self._read():
            yield runs._replace(regions=self.numbers[runs.regions])


def find_runs(rows):
    """Cut rows into runs of one value, and find which runs lie above one another.

    Args:
        rows: (h, W) uint8.
    Returns:
        starts: (n,) first pixels of the runs, counted row by row.
        above, below: (m,) runs that share a side, numbered as in `starts`; lengths: of it, px.
    """
    height, width = rows.shape
    begins = np.ones((height, width), bool)
    np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    run_of_pixel = np.cumsum(begins, dtype=np.int32) - 1  # (h * W,)
    sides = np.flatnonzero(begins[:-1] | begins[1:])
    lengths = np.diff(sides, append=(height - 1) * width).astype(np.int32)
    return starts, run_of_pixel[sides], run_of_pixel[sides + width], lengths


def connect(count, one, other):
    """The lowest element that each is connected to.

    Args:
        count: number of elements.
        one, other: (n,) elements that are connected.
    Returns:
        (count,) elements.
    """
    lowest = np.arange(count, dtype=np.int32)
    while True:
        one = lowest[one]
        other = lowest[other]
        apart = one != other
        if not apart.any():
            return lowest
        one, other = one[apart], other[apart]
        lowest[np.maximum(one, other)] = np.minimum(one, other)
        lowest = follow(lowest)


def follow(pointers):
    """Where a walk along pointers (n,) ends, from each element: one that points to itself."""
    while True:
        further = pointers[pointers]
        if np.array_equal(further, pointers):
            return pointers
        pointers = further


def add_up(one, other, lengths):
    """Add up the lengths of borders between the same two regions.

    Args:
        one, other: (n,) regions; lengths: (n,) of their border, px.
    Returns:
        (low, high, length), (E,) each; every pair once, and none of a region with itself.
    """
    pairs = np.minimum(one, other).astype(np.int64)
    pairs <<= 32
    pairs |= np.maximum(one, other)
    order = np.argsort(pairs)
    pairs = pairs[order]
    lengths = lengths[order]
    del order  # which is as large as all else here
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = pairs[1:] != pairs[:-1]
    firsts = np.flatnonzero(is_first)
    lengths = np.add.reduceat(lengths, firsts) if len(firsts) else lengths
    pairs = pairs[firsts]
    low = (pairs >> 32).astype(np.int32)
    high = (pairs & 2**32 - 1).astype(np.int32)
    differ = low != high
    return low[differ], high[differ], lengths[differ]


def sieve(classes, pixels, borders, min_pixels):
    """Merge regions of fewer than min_pixels into neighbours, the smallest regions first.

    A region joins the neighbour with which it shares the longest border; of equal ones the larger,
    then the lower. What is alike and touches after that becomes one region. Regions without data
    take no part: a small region among them stays.

    Args:
        classes, pixels: (R,) of each region.
        borders: (low, high, length) between regions with data, px.
    Returns:
        (R,) the region that each is part of afterwards.
    """
    pixels = pixels.copy()
    low, high, lengths = borders
    regions = np.arange(len(pixels), dtype=np.int32)
    merged = regions
    while True:
        small = pixels < min_pixels
        useful = small[low] | small[high]
        low = low[useful]
        high = high[useful]
        lengths = lengths[useful]
        into = best_neighbours(pixels, small, low, high, lengths)
        if np.array_equal(into, regions):
            return follow(merged)
        low = into[low]
        high = into[high]
        alike = classes[low] == classes[high]
        joined = connect(len(pixels), low[alike], high[alike])
        into = joined[into]
        merged = into[merged]
        added = np.flatnonzero(into != regions)
        np.add.at(pixels, into[added], pixels[added])
        pixels[added] = min_pixels  # it is no region any more
        low, high, lengths = add_up(joined[low], joined[high], lengths)


def best_neighbours(pixels, small, low, high, lengths):
    """The neighbour (R,) that each region joins in one round of `sieve`, or the region itself.

    Args:
        pixels, small: (R,) of each region: its size, and whether it may move.
        low, high, lengths: (E,) borders between two regions.
    """
    # The smaller of two may move, and not both in one round.
    low_first = pixels[low] <= pixels[high]
    source = np.where(low_first, low, high)
    target = np.where(low_first, high, low)
    moves = small.copy()
    moves[target] = False
    borders = np.flatnonzero(moves[source])
    for score in (lengths, pixels[target], -target):
        scores = score[borders]
        movers = source[borders]
        best = np.full(len(pixels), np.iinfo(np.int64).min)
        np.maximum.at(best, movers, scores)
        borders = borders[scores == best[movers]]
    into = np.arange(len(pixels), dtype=np.int32)
    into[source[borders]] = target[borders]
    return into
