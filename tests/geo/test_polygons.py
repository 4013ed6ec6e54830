"""polygons.py and what it is made of: every pixel in one polygon, small ones merged, no gaps."""

import numpy as np
import pytest

from geo import simplify
from geo.borders import link
from geo.polygons import map_polygons
from geo.regions import connect, sieve

NOTHING = 255


def polygons(classes, rows_per_block=None, confidence=None, **settings):
    """Polygons of (H, W) classes, read in blocks of so many rows."""
    classes = np.array(classes, np.uint8)
    blocks = []
    for top in range(0, len(classes), rows_per_block or len(classes)):
        rows = slice(top, top + (rows_per_block or len(classes)))
        blocks.append((classes[rows], None if confidence is None else confidence[rows]))
    return list(map_polygons(blocks, classes.shape[1], **settings))


def random_map(seed, smooth, height=21, width=26, num_classes=4):
    """(H, W) uint8: patches of classes, with some that hold no data."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_classes + 1, height, width))
    for _ in range(smooth):
        for axis in (1, 2):
            scores = scores + np.roll(scores, 1, axis) + np.roll(scores, -1, axis)
        scores /= scores.std()
    classes = scores.argmax(0).astype(np.uint8)
    return np.where(classes == num_classes, NOTHING, classes)


def shapes_of(found):
    """Polygons as an array of shapely's."""
    shapely = pytest.importorskip("shapely")
    return np.array([shapely.Polygon(polygon.rings[0], polygon.rings[1:]) for polygon in found])


def first_pixel(polygon):
    """(row, col) of the first pixel, row by row, of a polygon that keeps all corners."""
    return min((-y, x) for x, y in polygon.rings[0].tolist())


def burn(found, height, width):
    """(H, W) classes, by GDAL."""
    features = pytest.importorskip("rasterio.features")
    transform = pytest.importorskip("rasterio").Affine(1, 0, 0, 0, -1, 0)
    burnt = zip(shapes_of(found), (polygon.class_id for polygon in found))
    return features.rasterize(burnt, (height, width), NOTHING, transform=transform, dtype="uint8")


def check_coverage(found):
    """Check that polygons are valid, do not overlap, and leave no gap between one another."""
    shapely = pytest.importorskip("shapely")
    shapes = shapes_of(found)
    assert shapely.is_valid(shapes).all() and (shapely.area(shapes) > 0).all()
    assert all(shape.exterior.is_ccw for shape in shapes)
    assert shapely.coverage_is_valid(shapes)
    assert shapely.union_all(shapes).area == pytest.approx(shapely.area(shapes).sum())


# Known answers


def test_map_polygons__ring_with_a_hole_and_corners_that_touch():
    ring, inner = polygons([[0, 0, 0],
                            [0, 1, 0],
                            [0, 0, 0]])
    assert (ring.class_id, ring.pixels, inner.class_id, inner.pixels) == (0, 8, 1, 1)
    assert {tuple(point) for point in ring.rings[0]} == {(0, 0), (3, 0), (3, -3), (0, -3)}
    assert len(ring.rings) == 2 and len(inner.rings) == 1
    assert sorted(map(tuple, ring.rings[1][1:])) == sorted(map(tuple, inner.rings[0][1:]))
    assert np.array_equal(ring.rings[0][0], ring.rings[0][-1])
    # Pixels that touch at a corner only are two polygons.
    assert [polygon.pixels for polygon in polygons([[0, NOTHING], [NOTHING, 0]])] == [1, 1]
    assert polygons([[NOTHING, NOTHING]]) == []


def test_map_polygons__no_corner_is_left_where_blocks_meet():
    left, right = polygons([[0, 1]] * 4, rows_per_block=1)
    assert (len(left.rings[0]), len(right.rings[0])) == (5, 5)


def test_map_polygons__confidence_is_the_mean_of_the_pixels_also_after_merging():
    classes = [[0, 0, 1, 2, 2]]
    confidence = np.array([[255, 0, 51, 102, 204]], np.uint8)
    means = [polygon.confidence for polygon in polygons(classes, confidence=confidence)]
    assert means == pytest.approx([0.5, 0.2, 0.6])
    merged = polygons([[0, 0, 1, 1, 1]], confidence=confidence, min_pixels=3)
    assert [(polygon.class_id, polygon.pixels) for polygon in merged] == [(1, 5)]
    assert merged[0].confidence == pytest.approx((255 + 51 + 102 + 204) / 5 / 255)
    assert polygons(classes)[0].confidence is None


def test_map_polygons__to_map_places_the_corners():
    square, = polygons([[7]], to_map=lambda row, col: (100 + 2 * col, 50 - 2 * row))
    assert {tuple(point) for point in square.rings[0]} == {
        (100, 50), (102, 50), (102, 48), (100, 48)}


def test_sieve__longest_border_then_larger_then_lower():
    borders = np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([3, 4, 9])
    classes = np.array([0, 1, 2])
    assert sieve(classes, np.array([2, 50, 50]), borders, 5).tolist() == [2, 1, 2]
    tied = np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([4, 4, 9])
    assert sieve(classes, np.array([2, 50, 60]), tied, 5).tolist() == [2, 1, 2]
    assert sieve(classes, np.array([2, 50, 50]), tied, 5).tolist() == [1, 1, 2]


def test_sieve__smallest_first_and_what_becomes_alike_is_one():
    # The middle pixel joins the zeros on both sides, which are one then.
    merged = polygons([[0, 0, 0, 1, 0, 0, 0]], min_pixels=2)
    assert [(polygon.class_id, polygon.pixels) for polygon in merged] == [(0, 7)]
    # 1 px joins 3 px, which are enough then.
    merged = polygons([[0, 0, 0, 0, 0, 1, 1, 1, 2]], min_pixels=4)
    assert [(polygon.class_id, polygon.pixels) for polygon in merged] == [(0, 5), (1, 4)]
    # Among pixels without data nobody is there to be joined.
    assert [polygon.pixels for polygon in polygons([[0, NOTHING, 1]], min_pixels=9)] == [1, 1]


def test_simplify__stairs_become_straight_and_all_areas_stay():
    stairs = np.tri(12, dtype=np.uint8)
    plain = polygons(stairs)
    straight = polygons(stairs, simplify=1)
    assert [len(polygon.rings[0]) for polygon in plain] == [27, 25]
    assert [len(polygon.rings[0]) for polygon in straight] == [6, 4]
    assert [polygon.pixels for polygon in straight] == [polygon.pixels for polygon in plain]
    pixel, = polygons([[0]], simplify=50)
    assert len(pixel.rings[0]) == 5


def test_connect_and_link__by_hand():
    assert connect(6, np.array([5, 3, 1]), np.array([4, 1, 0])).tolist() == [0, 0, 2, 0, 4, 4]
    order, bounds = link(np.array([-1, 3, 0, 4, 1]))  # 2 > 0, and the ring 1 > 3 > 4
    assert [order[start:end].tolist() for start, end in zip(bounds, bounds[1:])] in (
        [[2, 0], [1, 3, 4]], [[1, 3, 4], [2, 0]])


# Whole maps


@pytest.mark.parametrize("seed, smooth", [(seed, seed % 5) for seed in range(10)])
def test_map_polygons__back_to_pixels_is_the_same_map_in_blocks_of_any_height(seed, smooth):
    classes = random_map(seed, smooth)
    found = polygons(classes, rows_per_block=7)
    assert np.array_equal(burn(found, *classes.shape), classes)
    check_coverage(found)
    assert [shape.area for shape in shapes_of(found)] == [polygon.pixels for polygon in found]
    features = pytest.importorskip("rasterio.features")
    assert len(found) == len(list(features.shapes(classes, classes != NOTHING)))
    row_by_row = polygons(classes, rows_per_block=1)
    found, row_by_row = (sorted(some, key=first_pixel) for some in (found, row_by_row))
    pairs = zip(shapes_of(found), shapes_of(row_by_row), strict=True)
    assert all(one.equals(other) for one, other in pairs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tolerance", [0.75, 1.5, 20])
def test_simplify__leaves_no_gap_and_no_overlap(seed, tolerance):
    shapely = pytest.importorskip("shapely")
    classes = random_map(seed, smooth=seed)
    plain = polygons(classes, rows_per_block=9)
    found = polygons(classes, rows_per_block=9, simplify=tolerance)
    check_coverage(found)
    assert [polygon.class_id for polygon in found] == [polygon.class_id for polygon in plain]
    moved = shapely.hausdorff_distance(shapely.boundary(shapes_of(found)),
                                       shapely.boundary(shapes_of(plain)))
    assert moved.max() <= tolerance
    corners = [shapely.get_num_coordinates(shapes_of(one)).sum() for one in (found, plain)]
    assert corners[0] < (0.95 if seed == 0 else 0.9) * corners[1]  # noise has few long lines


def test_simplify__in_batches_is_the_same(monkeypatch):
    classes = random_map(3, smooth=2)
    whole = polygons(classes, simplify=1.5)
    monkeypatch.setattr(simplify, "BATCH", 50)
    parts = polygons(classes, simplify=1.5)
    for one, other in zip(whole, parts, strict=True):
        assert all(np.array_equal(*rings) for rings in zip(one.rings, other.rings, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_min_pixels__no_small_polygon_has_a_neighbour(seed):
    shapely = pytest.importorskip("shapely")
    classes = random_map(seed, smooth=seed % 2)
    found = polygons(classes, rows_per_block=7, min_pixels=6)
    check_coverage(found)
    shapes = shapes_of(found)
    for polygon, shape in zip(found, shapes):
        if polygon.pixels < 6:
            others = shapes[shapes != shape]
            assert shapely.length(shapely.intersection(shape, others)).max() == 0
    merged = burn(found, *classes.shape)
    assert np.array_equal(merged == NOTHING, classes == NOTHING)
    assert len(polygons(merged)) == len(found)
