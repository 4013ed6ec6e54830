"""Lines along the borders between the regions of a map, from node to node.

Regions lie on both sides of a border, and each border is traced once: so what is done to a line is
done to both. A node is a corner of pixels that three or four sides of pixels meet at. The map is
traced in blocks of rows, and lines that are cut where two blocks meet are joined.

Corners of pixels are (row, col), (0, 0) is the outer corner of the top left pixel. Left and right
are those of a walker on the map as it is seen, row 0 on top.
"""

import collections

import numpy as np

from geo.regions import NO_DATA

OUTSIDE = -1  # the region of pixels without data, and beyond the map's edge
EAST, SOUTH, WEST, NORTH = range(4)  # directions, clockwise

# rows, cols: (N,) corners of all lines, one line after the other, both ends included.
# ends: (L + 1,) where each line begins, and where the last one ends.
# left, right: (L,) regions beside the line.
# leaving, arriving: (L,) directions of its first and its last step along the sides of pixels.
Lines = collections.namedtuple("Lines", "rows cols ends left right leaving arriving")


def trace_block(runs, regions, top):
    """Lines within a block of rows, cut at its first and its last row of corners.

    Args:
        runs: Runs of the block and of the row above it.
        regions: Regions.
        top: first row of the block, px.
    Returns:
        Lines, with the greater class on the left; rings that meet no node are closed.
        joints: corners where a line only goes on from above, as row * (W + 1) + col.
    """
    padded = pad_classes(runs, regions, is_last=top + runs.height == regions.height)
    corners, sides = find_corners(padded)
    rows, cols = np.divmod(corners, regions.width + 1)
    starts, ends, directions = find_steps(rows, cols, sides, padded)

    is_node = sides.sum(axis=0) > 2
    from_above = (rows == 0) & sides[NORTH]
    is_cut = from_above | (rows == len(padded) - 1)
    step_from = np.full(len(corners), -1)
    step_from[starts] = np.arange(len(starts))
    successors = step_from[ends]
    successors[(is_cut | is_node)[ends]] = -1
    order, bounds = link(successors)
    first_steps = order[bounds[:-1]]
    last_steps = order[bounds[1:] - 1]

    line_corners = np.insert(starts[order], bounds[1:], ends[last_steps])
    line_ends = bounds + np.arange(len(bounds))  # a line has one corner more than steps
    leaving = directions[first_steps]
    first_corners = starts[first_steps]
    beside = rows[first_corners], cols[first_corners], leaving
    lines = Lines(
        rows=(rows[line_corners] + top).astype(np.int32),
        cols=cols[line_corners].astype(np.int32),
        ends=line_ends,
        left=find_regions(runs, regions, *beside, LEFT),
        right=find_regions(runs, regions, *beside, RIGHT),
        leaving=leaving.astype(np.uint8),
        arriving=directions[last_steps].astype(np.uint8))
    return lines, corners[from_above & ~is_node] + top * (regions.width + 1)


def pad_classes(runs, regions, is_last):
    """Classes (h + 1, W + 2) uint8 of a block with the row above it and a column on both sides.

    The last block of a map has a row below it, too.
    """
    padded = np.full((runs.height + 1 + is_last, regions.width + 2), NO_DATA, np.uint8)
    num_pixels = (runs.height + 1) * regions.width
    lengths = np.diff(runs.starts, append=num_pixels)
    classes = np.repeat(regions.classes[runs.regions], lengths)
    padded[:runs.height + 1, 1:-1] = classes.reshape(-1, regions.width)
    return padded


def find_corners(padded):
    """Corners of pixels where a border turns or ends, or is cut by the block.

    Args:
        padded: (h + 1, W + 2) uint8 classes, with the row above and a column on both sides.
    Returns:
        corners: (n,) of the (h + 1) x (W + 1) corners, counted row by row; the last row has those
        that a vertical side reaches; sides: (4, n) bool, whether a border leaves a corner to the
        east, south, west and north.
    """
    up = padded[:, 1:] != padded[:, :-1]  # (h + 1, W + 1)
    across = padded[1:] != padded[:-1]  # (h, W + 2)
    right = across[:, 1:]  # (h, W + 1)
    left = across[:, :-1]
    down = up[1:]
    is_corner = np.empty_like(up)
    is_corner[:-1] = (up[:-1] ^ down) | (left ^ right) | (up[:-1] & left)
    is_corner[0] |= up[0]  # where it is cut
    is_corner[-1] = up[-1]
    corners = np.flatnonzero(is_corner)
    sides = np.zeros((4, len(corners)), bool)
    sides[NORTH] = up.reshape(-1)[corners]
    inner = corners[:np.searchsorted(corners, down.size)]  # all but the last row
    sides[EAST, :len(inner)] = right[np.divmod(inner, right.shape[1])]
    sides[WEST, :len(inner)] = left[np.divmod(inner, right.shape[1])]
    sides[SOUTH, :len(inner)] = down.reshape(-1)[inner]
    return corners, sides


def find_steps(rows, cols, sides, padded):
    """Steps from corner to corner along the borders, with the greater class on the left.

    Args:
        rows, cols: (n,) corners, row by row; sides: (4, n), as from `find_corners`.
        padded: (h + 1, W + 2) uint8 classes.
    Returns:
        starts, ends: (m,) indices of corners; directions: (m,).
    """
    west = np.flatnonzero(sides[EAST])
    down_the_columns = np.argsort(cols, kind="stable")
    has_south = np.flatnonzero(sides[SOUTH][down_the_columns])
    north = down_the_columns[has_south]
    one = np.concatenate([west, north])
    other = np.concatenate([west + 1, down_the_columns[has_south + 1]])
    forward = np.repeat([EAST, SOUTH], [len(west), len(north)])
    # Pixels to the left and right of each step, in the padded block.
    row = rows[one]
    col = cols[one] + 1
    is_east = forward == EAST
    left = padded[row + ~is_east, col]
    right = padded[row + 1, col - ~is_east]
    is_forward = left > right
    starts = np.where(is_forward, one, other)
    ends = np.where(is_forward, other, one)
    return starts, ends, np.where(is_forward, forward, forward + 2)


# The pixel to the left and to the right of a step from corner (row, col), by direction.
LEFT = np.array([(-1, 0), (0, 0), (0, -1), (-1, -1)])
RIGHT = np.array([(0, 0), (0, -1), (-1, -1), (-1, 0)])


def find_regions(runs, regions, rows, cols, directions, side):
    """Regions (n,) to one side, LEFT or RIGHT, of steps from corners of a block."""
    rows = rows + 1 + side[directions, 0]  # the first is the row above the block
    cols = cols + side[directions, 1]
    inside = (cols >= 0) & (cols < regions.width) & (rows <= runs.height)
    pixels = np.where(inside, rows * regions.width + cols, 0)
    found = runs.regions[np.searchsorted(runs.starts, pixels, side="right") - 1]
    is_outside = ~inside | (regions.classes[found] == NO_DATA)
    return np.where(is_outside, OUTSIDE, found).astype(np.int32)


def link(successors):
    """Order the elements of chains and rings.

    Args:
        successors: (n,) the element after each one, -1 at the end of a chain.
    Returns:
        order: (n,) elements, one chain or ring after the other, each from its first element; a
        ring's first element is its lowest; bounds: (m + 1,) where each begins in `order`, and
        where the last one ends.
    """
    count = len(successors)
    elements = np.arange(count)
    before = elements.copy()
    has_successor = successors >= 0
    before[successors[has_successor]] = elements[has_successor]
    is_head = np.ones(count, bool)
    is_head[successors[has_successor]] = False
    # Each element looks back 1, 2, 4, ... elements for the head, or the lowest element of a ring.
    first = np.where(is_head, elements - count, elements)
    back = before
    while True:
        lower = np.minimum(first, first[back])
        if np.array_equal(lower, first):
            break
        first = lower
        back = back[back]
    first %= count
    # And once more to count the elements in between.
    is_first = first == elements
    back = np.where(is_first, elements, before)
    position = np.where(is_first, 0, 1)
    while (back != first).any():
        position += position[back]
        back = back[back]
    sizes = np.bincount(first, minlength=count)
    begins = np.cumsum(sizes) - sizes
    order = np.empty(count, np.int64)
    order[begins[first] + position] = elements
    return order, np.append(begins[is_first], count)


def join_lines(lines, more, joints, width):
    """Join lines that were cut where two blocks of rows meet.

    Args:
        lines: Lines above, or None.
        more: Lines of the block below.
        joints: corners where a line only goes on, as from `trace_block`.
        width: of the map, px.
    Returns:
        Lines.
    """
    if lines is None:
        return more
    lines = concatenate(lines, more)
    begins = lines.ends[:-1]
    lasts = lines.ends[1:] - 1
    starting, first_keys = at_joints(lines, begins, joints, width)
    ending, last_keys = at_joints(lines, lasts, joints, width)
    successors = np.full(len(begins), -1)
    successors[ending[np.argsort(last_keys)]] = starting[np.argsort(first_keys)]
    order, bounds = link(successors)
    is_last = np.zeros(len(order), bool)
    is_last[bounds[1:] - 1] = True
    taken = np.diff(lines.ends)[order] - ~is_last  # a joint is the next piece's first corner, too
    corners = expand(begins[order], taken)
    first_pieces = order[bounds[:-1]]
    joined = Lines(
        rows=lines.rows[corners],
        cols=lines.cols[corners],
        ends=np.append(0, np.cumsum(taken)[is_last]),
        left=lines.left[first_pieces],
        right=lines.right[first_pieces],
        leaving=lines.leaving[first_pieces],
        arriving=lines.arriving[order[bounds[1:] - 1]])
    return keep_corners(joined, ~is_straight(joined))


def concatenate(lines, more):
    """All Lines of two."""
    columns = [np.concatenate(parts) for parts in zip(lines, more)]
    joined = Lines(*columns)
    return joined._replace(ends=np.append(lines.ends, lines.ends[-1] + more.ends[1:]))


def at_joints(lines, corners, joints, width):
    """Which lines have their corner (L,) at a joint, and the joints, as row * (W + 1) + col."""
    keys = lines.rows[corners] * np.int64(width + 1) + lines.cols[corners]
    found = np.flatnonzero(np.isin(keys, joints))
    return found, keys[found]


def lines_of(lines, chosen):
    """The lines around chosen regions, (R,) bool; all other regions become OUTSIDE."""
    left = np.where(chosen[lines.left], lines.left, OUTSIDE)
    right = np.where(chosen[lines.right], lines.right, OUTSIDE)
    kept = (left != OUTSIDE) | (right != OUTSIDE)
    sizes = np.diff(lines.ends)
    corners = np.repeat(kept, sizes)
    return Lines(lines.rows[corners], lines.cols[corners], np.append(0, np.cumsum(sizes[kept])),
                 left[kept], right[kept], lines.leaving[kept], lines.arriving[kept])


def is_straight(lines):
    """(N,) bool, where a line goes straight on; not at its ends."""
    straight = np.zeros(len(lines.rows), bool)
    for axis in (lines.rows, lines.cols):
        same = axis[1:] == axis[:-1]
        straight[1:-1] |= same[1:] & same[:-1]
    straight[lines.ends[:-1]] = False
    straight[lines.ends[1:] - 1] = False
    return straight


def keep_corners(lines, kept):
    """Lines with those of their corners that are kept, (N,) bool."""
    ends = np.append(0, np.cumsum(kept))[lines.ends]
    return lines._replace(rows=lines.rows[kept], cols=lines.cols[kept], ends=ends)


def expand(begins, lengths, steps=1):
    """The numbers begin, begin + step, ... of n ranges, one range after the other.

    Args:
        begins, lengths: (n,), lengths of 1 or more; steps: (n,) or one number.
    Returns:
        (sum of lengths,) integers.
    """
    steps = np.broadcast_to(steps, len(begins)).astype(np.int64)
    numbers = np.repeat(steps, lengths)
    offsets = np.cumsum(lengths) - lengths
    ends = begins + (lengths - 1) * steps
    numbers[offsets] = begins - np.append(0, ends)[:-1]  # the step from one range to the next
    return np.cumsum(numbers, out=numbers)
