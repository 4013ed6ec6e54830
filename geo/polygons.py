"""Polygons of a class map, traced along the sides of its pixels.

    for polygon in map_polygons(row_blocks, width, min_pixels=10, simplify=1.5): ...

1. regions.py finds the connected regions, and merges small ones into their neighbours.
2. borders.py traces the lines between them, each once for the regions on its left and right.
3. simplify.py removes corners of the lines.
4. Lines are joined to rings here, and rings to polygons with holes.
"""

import collections
import tempfile

import numpy as np

from geo.borders import EAST, NORTH, OUTSIDE, SOUTH, WEST, expand, link, trace_lines
from geo.regions import Regions
from geo.simplify import simplify_lines

BATCH = 2**20  # corners of the polygons made at a time

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
    with tempfile.TemporaryFile(dir=folder) as file:
        regions = Regions(row_blocks, width, file, with_borders=min_pixels > 1)
        if min_pixels > 1:
            regions.sieve(min_pixels)
        lines = trace_lines(regions)
    if len(lines.rows) == 0:
        return  # no pixel holds data
    rings = find_rings(lines)
    if simplify > 0:
        lines = simplify_lines(lines, simplify)
    yield from build_polygons(lines, rings, regions, to_map or (lambda row, col: (col, -row)))


def find_rings(lines):
    """Join lines to rings: the outer ring of each region, and then its holes.

    A line is walked along by the region on its left, and against its direction by the other one:
    ways 2 * line and 2 * line + 1, each with its region on the left.

    Args:
        lines: Lines as they were traced, along the sides of pixels.
    Returns:
        Rings.
    """
    way_regions = np.stack([lines.left, lines.right], axis=1).reshape(-1)  # (2 * L,)
    ways = np.flatnonzero(way_regions != OUTSIDE)
    number = np.full(len(way_regions), -1)
    number[ways] = np.arange(len(ways))
    order, bounds = link(number[next_ways(lines, way_regions)[ways]])
    ways = ways[order]
    firsts = bounds[:-1]
    regions = way_regions[ways[firsts]]
    is_hole = np.add.reduceat(way_areas(lines)[ways], firsts) < 0
    ring_order = np.lexsort((is_hole, regions))
    lengths = np.diff(bounds)[ring_order]
    return Rings(ways[expand(firsts[ring_order], lengths)], lengths, regions[ring_order])


def next_ways(lines, way_regions):
    """The way (2 * L,) that each region takes at the end of a way.

    Of all that leave the node with the same region on the left, it is the rightmost. Where a
    region meets itself at a corner, a ring then touches another one instead of itself.
    """
    rows, cols, ends, _, _ = lines
    num_ways = len(way_regions)
    first, last = ends[:-1], ends[1:] - 1
    leaving = np.stack([direction(lines, first, first + 1), direction(lines, last, last - 1)],
                       axis=1).reshape(-1)  # (2 * L,), also of the way back
    corners = np.stack([first, last], axis=1).reshape(-1)  # where each way leaves
    _, nodes = np.unique(rows[corners] * (cols.max() + np.int64(1)) + cols[corners],
                         return_inverse=True)
    ways_out = np.full((nodes.max() + 1, 4), -1, np.int32)
    ways_out[nodes, leaving] = np.arange(num_ways)
    # Way w ends where the other way of the same line, w ^ 1, leaves.
    other = np.arange(num_ways) ^ 1
    arriving = (leaving[other] + 2) % 4
    chosen = np.full(num_ways, -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last one counts
        way = ways_out[nodes[other], (arriving + turn) % 4]
        fits = (way >= 0) & (way_regions[way] == way_regions)
        chosen[fits] = way[fits]
    return chosen


def direction(lines, start, end):
    """Direction (n,) of the steps between neighbouring corners start and end, (n,) each."""
    down = np.sign(lines.rows[end] - lines.rows[start])
    right = np.sign(lines.cols[end] - lines.cols[start])
    return np.where(down == 0, np.where(right > 0, EAST, WEST), np.where(down > 0, SOUTH, NORTH))


def way_areas(lines):
    """Twice the signed area between each way and the origin, (2 * L,): their sum along a ring is
    that of the ring, above 0 if it runs anticlockwise on the map."""
    rows = lines.rows.astype(np.int64)
    cols = lines.cols.astype(np.int64)
    steps = np.append(cols[1:] * rows[:-1] - cols[:-1] * rows[1:], 0)
    steps[lines.ends[1:] - 1] = 0  # from one line to the next
    areas = np.add.reduceat(steps, lines.ends[:-1])
    return np.stack([areas, -areas], axis=1).reshape(-1)


def build_polygons(lines, rings, regions, to_map):
    """Yield a Polygon per region with data, see `map_polygons`.

    Args:
        lines: Lines, traced or simplified; rings: Rings of them; regions: Regions.
        to_map: function from (row, col) to (x, y).
    """
    backward = rings.ways % 2
    line_of_way = rings.ways // 2
    begins = np.where(backward, lines.ends[line_of_way + 1] - 1, lines.ends[line_of_way])
    sizes = np.diff(lines.ends)[line_of_way] - 1  # the last corner begins the next way
    way_ends = np.append(0, np.cumsum(rings.lengths))
    sizes[way_ends[1:] - 1] += 1  # and the last corner of a ring is its first one
    ring_ends = np.append(0, np.cumsum(sizes))[way_ends]
    outer_rings = np.flatnonzero(np.diff(rings.regions, prepend=-1))
    batch_starts = np.flatnonzero(np.diff(ring_ends[outer_rings] // BATCH, prepend=-1))
    outer_rings = np.append(outer_rings, len(rings.regions))
    for start, end in zip(batch_starts, np.append(batch_starts[1:], len(outer_rings) - 1)):
        ways = slice(way_ends[outer_rings[start]], way_ends[outer_rings[end]])
        corners = expand(begins[ways], sizes[ways], 1 - 2 * backward[ways])
        points = np.stack(to_map(lines.rows[corners], lines.cols[corners]), axis=1)  # (n, 2)
        points = points.astype(np.float64)
        ends = (ring_ends - ring_ends[outer_rings[start]]).tolist()
        firsts = outer_rings.tolist()
        for index in range(start, end):
            region = rings.regions[firsts[index]]
            polygon_rings = []
            for ring in range(firsts[index], firsts[index + 1]):
                polygon_rings.append(points[ends[ring]:ends[ring + 1]])
            yield Polygon(int(regions.classes[region]), int(regions.pixels[region]),
                          regions.mean_confidence(region), polygon_rings)
