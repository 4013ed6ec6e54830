"""Remove corners of the lines between regions, without changing which region lies where.

Each line is simplified once for the regions on both of its sides, and keeps its ends, so that no
gaps open between neighbours. A chain of corners is replaced by its straight chord only if no corner
of another line, or of the rest of its own, lies between the two. So no two chords cross: one of
them would have to enter the space between the other chord and its chain, and leave it through the
chain, which lines do not cross.
"""

import numpy as np

from geo.borders import expand, keep_corners

BATCH = 2**20  # corners at a time


def simplify_lines(lines, tolerance, regions, bottom):
    """Remove corners by the algorithm of Douglas and Peucker (1973), until none may go.

    It differs from the paper in that a chord is also split where another line lies between it and
    its chain, where it would close on itself, and where two chords are the same. So each region
    keeps an area.

    Args:
        lines: borders.Lines of a block of rows, along the sides of pixels.
        tolerance: largest distance of a removed corner from the chord that replaces it, px.
        regions: Regions of the map.
        bottom: row of corners that the block ends at.
    Returns:
        Lines.
    """
    space = Corners(lines, bottom if bottom < regions.height else None)
    # The corners of the map stay, so that its edges are as straight as before.
    kept = np.isin(lines.rows, [0, regions.height]) & np.isin(lines.cols, [0, regions.width])
    kept[lines.ends[:-1]] = True
    kept[lines.ends[1:] - 1] = True
    firsts, lasts = find_chords(lines, kept)
    while len(firsts):
        for part in np.array_split(np.arange(len(firsts)), (lasts - firsts).sum() // BATCH + 1):
            split_chords(space, kept, firsts[part], lasts[part], tolerance)
        firsts, lasts = same_chords(lines, space.keys, kept)
        if len(firsts):
            middles, _ = farthest(space, firsts, lasts)
            kept[middles] = True
            firsts, lasts = split(firsts, middles, lasts)
    return keep_corners(lines, kept)


class Corners:
    """The corners of all lines, and which of them lie in a row between two columns.

    Attributes:
        rows, cols: (N,) of all lines.
        keys: (N,) of each corner, equal for corners at the same place.
        cut_row: where the lines are cut, or None.
    """

    def __init__(self, lines, cut_row):
        self.rows = lines.rows
        self.cols = lines.cols
        self.cut_row = cut_row
        self.stride = int(lines.cols.max(initial=0)) + 1
        self.keys = self.rows * np.int64(self.stride) + self.cols
        self.order = np.argsort(self.keys)
        self.sorted_keys = self.keys[self.order]

    def steps(self, starts, ends):
        """Rows down and columns to the right, (n,) float64 each, from corners to other corners."""
        down = self.rows[ends] - self.rows[starts]
        across = self.cols[ends] - self.cols[starts]
        return down.astype(np.float64), across.astype(np.float64)

    def between(self, rows, one, other):
        """Find corners in rows (n,), from column one to column other, (n,) floats, both included.

        Returns:
            queries: (m,) indices of the rows; found: (m,) corners found there.
        """
        left = np.ceil(np.minimum(one, other)).astype(np.int64)
        right = np.floor(np.maximum(one, other)).astype(np.int64)
        rows = rows * np.int64(self.stride)
        begins = np.searchsorted(self.sorted_keys, rows + left)
        counts = np.searchsorted(self.sorted_keys, rows + right, side="right") - begins
        queries = np.flatnonzero(counts)
        begins = begins[queries]
        counts = counts[queries]
        return np.repeat(queries, counts), self.order[expand(begins, counts)]


def split_chords(space, kept, firsts, lasts, tolerance):
    """Mark the corners to keep between each first and last corner.

    Args:
        space: Corners.
        kept: (N,) bool, changed in place.
        firsts, lasts: (n,) ends of chains of corners.
        tolerance: px.
    """
    while True:
        has_inner = lasts - firsts > 1
        firsts = firsts[has_inner]
        lasts = lasts[has_inner]
        if len(firsts) == 0:
            return
        middles, distances = farthest(space, firsts, lasts)
        is_ring = space.keys[firsts] == space.keys[lasts]
        is_flat = (space.rows[firsts] == space.cut_row) & (space.rows[lasts] == space.cut_row)
        is_split = (distances > tolerance) | is_ring | is_flat
        fits = np.flatnonzero(~is_split)
        is_split[fits] = is_crossed(space, firsts[fits], lasts[fits])
        kept[middles[is_split]] = True
        firsts, lasts = split(firsts[is_split], middles[is_split], lasts[is_split])


def split(firsts, middles, lasts):
    """Ends (firsts, lasts), (2 * n,) each, of n chains that are split at their middles."""
    return np.append(firsts, middles), np.append(middles, lasts)


def farthest(space, firsts, lasts):
    """Of each chain's inner corners, the one that is farthest from the chord.

    Args:
        space: Corners; firsts, lasts: (n,) ends of chains of three corners or more.
    Returns:
        corners (n,), and their distances (n,) from the chord, px.
    """
    counts = lasts - firsts - 1
    inner = expand(firsts + 1, counts)  # (m,) corners, one chain after the other
    down, across = space.steps(firsts, lasts)
    squares = np.maximum(down**2 + across**2, 1)  # of the chords' lengths; a ring's is 0
    down = np.repeat(down, counts)
    across = np.repeat(across, counts)
    inner_down, inner_across = space.steps(np.repeat(firsts, counts), inner)
    along = inner_down * down + inner_across * across
    along = (along / np.repeat(squares, counts)).clip(0, 1)  # 0: at the chord's first end
    distances = np.hypot(inner_down - along * down, inner_across - along * across)
    begins = np.cumsum(counts) - counts
    greatest = np.maximum.reduceat(distances, begins)
    hits = np.flatnonzero(distances == np.repeat(greatest, counts))
    first_hits = hits[np.searchsorted(hits, begins)]
    return inner[first_hits], greatest


def is_crossed(space, firsts, lasts):
    """Whether a corner of another chain lies between a chain and its chord, or on either.

    The space between them is taken row by row, from the leftmost to the rightmost point of both.

    Args:
        space: Corners; firsts, lasts: (n,) ends of chains.
    Returns:
        (n,) bool.
    """
    counts = lasts - firsts + 1
    corners = expand(firsts, counts)
    chains = np.repeat(np.arange(len(firsts)), counts)
    # From each corner, the rows down or up to the next one. The last corner has its own row alone.
    down, _ = space.steps(corners, np.minimum(corners + 1, lasts[chains]))
    counts = np.maximum(np.abs(down), 1).astype(np.int64)
    rows = expand(space.rows[corners], counts, np.sign(down))
    cols = np.repeat(space.cols[corners], counts)
    chains = np.repeat(chains, counts)
    # The chord's column in these rows, or that of its nearer end.
    height, width = space.steps(firsts, lasts)
    height[height == 0] = 1  # the chord lies in one row: any of its columns will do
    along = (rows - space.rows[firsts][chains]) / height[chains]
    chord_cols = space.cols[firsts][chains] + along.clip(0, 1) * width[chains]

    queries, found = space.between(rows, cols, chord_cols)
    chains = chains[queries]
    is_own = (found >= firsts[chains]) & (found <= lasts[chains])
    keys = space.keys[found]
    is_at_end = (keys == space.keys[firsts][chains]) | (keys == space.keys[lasts][chains])
    crossed = np.zeros(len(firsts), bool)
    crossed[chains[~is_own & ~is_at_end]] = True
    return crossed


def find_chords(lines, kept):
    """Ends (firsts, lasts) of the chords between corners of lines that are kept, (N,) bool."""
    corners = np.flatnonzero(kept)
    is_end = np.zeros(len(kept), bool)
    is_end[lines.ends[1:] - 1] = True
    is_within = ~is_end[corners[:-1]]  # not from one line to the next
    return corners[:-1][is_within], corners[1:][is_within]


def same_chords(lines, keys, kept):
    """Chords (firsts, lasts) that equal another one, and whose chains have corners in between.

    Args:
        lines: Lines; keys: (N,) of its corners; kept: (N,) bool, the ends of chords.
    """
    firsts, lasts = find_chords(lines, kept)
    low = np.minimum(keys[firsts], keys[lasts])
    high = np.maximum(keys[firsts], keys[lasts])
    order = np.lexsort((high, low))
    is_same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    is_repeated = np.zeros(len(firsts), bool)
    is_repeated[order[:-1][is_same]] = True
    is_repeated[order[1:][is_same]] = True
    is_repeated &= lasts - firsts > 1
    return firsts[is_repeated], lasts[is_repeated]
