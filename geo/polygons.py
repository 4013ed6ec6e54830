"""Polygons of a class map, traced along the sides of its pixels.

    for polygon in map_polygons(row_blocks, width, min_pixels=10, simplify=1.5): ...

1. regions.py finds the connected regions, and merges small ones into their neighbours.
2. borders.py traces the lines between them, each once for the regions on its left and right.
3. simplify.py removes corners of the lines.
4. Lines are joined to rings here, and rings to polygons with holes.
"""

import collections
import itertools
import tempfile

import numpy as np

from geo.borders import OUTSIDE, expand, join_lines, lines_of, link, trace_block
from geo.regions import Regions
from geo.simplify import simplify_lines

# ways: (M,) ways along the lines, one ring after the other; lengths: (n,) ways of each ring.
# regions: (n,) of each ring, ascending; the first ring of each is its outer one.
Rings = collections.namedtuple("Rings", "ways lengths regions")

# rings: list of (n, 2) float arrays of (x, y), closed, the outer ring first.
Polygon = collections.namedtuple("Polygon", "class_id pixels confidence rings")


def map_polygons(row_blocks, width, min_pixels=0, simplify=0.0, to_map=None, folder=None):
    """Yield the polygons of a class map, one per region of one class.

    Pixels belong together if they share a side (4-connectivity, GDAL's default). Pixels without
    data are in no polygon.

    Args:
        row_blocks: iterable of ((h, W) uint8 classes, (h, W) uint8 confidence or None), top first.
        width: W, px.
        min_pixels: regions of fewer pixels join a neighbour, see `regions.sieve`.
        simplify: how far a line may move when its corners are removed, px; 0 keeps all corners.
        to_map: function from (row, col) to (x, y); None is (col, -row).
        folder: for a temporary file; None is the system's.
    Returns:
        Iterator of Polygon; pixels and confidence (mean, 0 to 1, or None) are those of the region,
        before corners are removed.
    """
    to_map = to_map or (lambda row, col: (col, -row))
    with tempfile.TemporaryFile(dir=folder) as file:
        regions = Regions(row_blocks, width, file, with_borders=min_pixels > 1)
        if min_pixels > 1:
            regions.sieve(min_pixels)
        top = 0
        lines = None  # of regions that go on below
        for runs in regions.runs():
            block, joints = trace_block(runs, regions, top)
            top += runs.height
            if simplify > 0:
                block = simplify_lines(block, simplify, regions, top)
            lines = join_lines(lines, block, joints, width)
            goes_on = np.zeros(len(regions.classes), bool)
            if top < regions.height:
                goes_on[runs.regions[runs.starts >= runs.height * width]] = True
            yield from build_polygons(lines_of(lines, ~goes_on), regions, to_map)
            lines = lines_of(lines, goes_on)


def find_rings(lines):
    """Join lines to rings: the outer ring of each region, and then its holes.

    A line is walked along by the region on its left, and against its direction by the other one:
    ways 2 * line and 2 * line + 1, each with its region on the left.

    Args:
        lines: Lines of complete regions.
    Returns:
        Rings.
    """
    way_regions = in_turn(lines.left, lines.right)  # (2 * L,)
    ways = np.flatnonzero(way_regions != OUTSIDE)
    number = np.full(len(way_regions), -1)
    number[ways] = np.arange(len(ways))
    successors = number[next_ways(lines, way_regions)[ways]]
    order, bounds = link(successors)
    ways = ways[order]
    firsts = bounds[:-1]
    lengths = np.diff(bounds)
    regions = way_regions[ways[firsts]]
    is_hole = np.add.reduceat(way_areas(lines)[ways], firsts) < 0
    ring_order = np.lexsort((is_hole, regions))
    lengths = lengths[ring_order]
    return Rings(ways[expand(firsts[ring_order], lengths)], lengths, regions[ring_order])


def in_turn(one, other):
    """Values (2 * L,) of all ways, from those along lines (L,) and those of the ways back (L,)."""
    return np.stack([one, other], axis=1).reshape(-1)


def next_ways(lines, way_regions):
    """The way (2 * L,) that each region takes at the end of a way.

    Of all that leave the node with the same region on the left, it is the rightmost. Where a
    region meets itself at a corner, a ring then touches another one instead of itself.
    """
    num_ways = len(way_regions)
    leaving = in_turn(lines.leaving, (lines.arriving + 2) % 4)
    corners = in_turn(lines.ends[:-1], lines.ends[1:] - 1)  # where each way leaves
    keys = lines.rows[corners] * (lines.cols.max() + np.int64(1)) + lines.cols[corners]
    _, nodes = np.unique(keys, return_inverse=True)
    ways_out = np.full((nodes.max() + 1, 4), -1, np.int32)
    ways_out[nodes, leaving] = np.arange(num_ways)
    # Way w ends where the other way of the same line, w ^ 1, leaves.
    other = np.arange(num_ways) ^ 1
    arriving = leaving[other] + 2
    chosen = np.full(num_ways, -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last one counts
        way = ways_out[nodes[other], (arriving + turn) % 4]
        fits = (way >= 0) & (way_regions[way] == way_regions)
        chosen[fits] = way[fits]
    return chosen


def way_areas(lines):
    """Twice the signed area between each way and the origin, (2 * L,): their sum along a ring is
    that of the ring, above 0 if it runs anticlockwise on the map."""
    rows = lines.rows.astype(np.int64)
    cols = lines.cols.astype(np.int64)
    steps = np.append(cols[1:] * rows[:-1] - cols[:-1] * rows[1:], 0)
    steps[lines.ends[1:] - 1] = 0  # from one line to the next
    areas = np.add.reduceat(steps, lines.ends[:-1])
    return in_turn(areas, -areas)


def build_polygons(lines, regions, to_map):
    """Yield a Polygon per region of lines, see `map_polygons`.

    Args:
        lines: Lines of complete regions.
        regions: Regions.
        to_map: function from (row, col) to (x, y).
    """
    if len(lines.left) == 0:
        return
    rings = find_rings(lines)
    line_of_way = rings.ways // 2
    is_back = rings.ways % 2 == 1
    begins = np.where(is_back, lines.ends[line_of_way + 1] - 1, lines.ends[line_of_way])
    sizes = np.diff(lines.ends)[line_of_way] - 1  # the last corner begins the next way
    last_ways = np.cumsum(rings.lengths) - 1
    sizes[last_ways] += 1  # and the last corner of a ring is its first one
    corners = expand(begins, sizes, np.where(is_back, -1, 1))
    ring_ends = np.cumsum(sizes)[last_ways]
    points = np.stack(to_map(lines.rows[corners], lines.cols[corners]), axis=1)  # (n, 2)
    points = points.astype(np.float64)
    points_of_rings = iter(np.split(points, ring_ends[:-1]))
    for region, same_region in itertools.groupby(rings.regions.tolist()):
        polygon_rings = [next(points_of_rings) for _ in same_region]
        yield Polygon(int(regions.classes[region]), int(regions.pixels[region]),
                      regions.mean_confidence(region), polygon_rings)
