"""Geometries are read from WKT and WKB, and cover the pixels that Pillow and GDAL give them."""

import struct

import numpy as np
import pytest
from helpers import reference
from PIL import Image, ImageDraw

from sources.geometry import (
    LINE,
    POINT,
    POLYGON,
    from_wkb,
    from_wkt,
    line_pixels,
    parts_of,
    polygon_runs,
)

SQUARE = [[0, 0], [0, 4], [4, 4], [4, 0]]


def kinds_and_rings(geometry):
    return [(kind, [ring.tolist() for ring in rings]) for kind, rings in parts_of(geometry)]


@pytest.mark.parametrize("text, expected", [
    ("POINT (1 2)", [(POINT, [[[1, 2]]])]),
    ("Point Z(1 2 3)", [(POINT, [[[1, 2]]])]),
    ("POINT ZM (1 2 3 4)", [(POINT, [[[1, 2]]])]),
    ("POINT EMPTY", []),
    ("MULTIPOINT (1 2, 3 4)", [(POINT, [[[1, 2]]]), (POINT, [[[3, 4]]])]),
    ("MULTIPOINT ((1 2), (3 4))", [(POINT, [[[1, 2]]]), (POINT, [[[3, 4]]])]),
    ("LINESTRING M (1 2 9, 3 4e1 9)", [(LINE, [[[1, 2], [3, 40]]])]),
    ("POLYGON((0 0,1 0,1 1,0 0),(.1 .1,.2 .1,.2 .2,.1 .1))",
     [(POLYGON, [[[0, 0], [1, 0], [1, 1], [0, 0]], [[.1, .1], [.2, .1], [.2, .2], [.1, .1]]])]),
    ("MULTIPOLYGON (((0 0,1 0,1 1)),((5 5,6 5,6 6)))",
     [(POLYGON, [[[0, 0], [1, 0], [1, 1]]]), (POLYGON, [[[5, 5], [6, 5], [6, 6]]])]),
])
def test_from_wkt__by_eye(text, expected):
    geometry, code = from_wkt(text)
    assert kinds_and_rings(geometry) == expected and code is None
    assert from_wkt("SRID=4326;" + text)[1] == "4326"


@pytest.mark.parametrize("text", [
    "", "POINT", "POINT (a b)", "POINT (1 2", "CIRCULARSTRING (1 2, 3 4)", "LINESTRING (1 2)",
    "POINT (nan 1)", "POLYGON ((0 0, 1 1))", "GEOMETRYCOLLECTION (POINT (1 2))", "POINT (1)"])
def test_from_wkt__refuses_what_is_no_geometry(text):
    with pytest.raises((ValueError, TypeError)):
        parts_of(from_wkt(text)[0])


def wkb(order, code, *content):
    """A geometry of WKB: numbers are counts (int) or coordinates (float), bytes are members."""
    packed = [part if isinstance(part, bytes)
              else struct.pack(order + ("I" if isinstance(part, int) else "d"), part)
              for part in content]
    return struct.pack(order + "BI", order == "<", code) + b"".join(packed)


@pytest.mark.parametrize("order", "<>")
def test_from_wkb__by_eye(order):
    point = wkb(order, 1, 1.0, 2.0)
    for same in (wkb(order, 1001, 1.0, 2.0, 3.0), wkb(order, 2001, 1.0, 2.0, 3.0),
                 wkb(order, 3001, 1.0, 2.0, 3.0, 4.0), wkb(order, 0x80000001, 1.0, 2.0, 3.0),
                 wkb(order, 0xC0000001, 1.0, 2.0, 3.0, 4.0), wkb(order, 0x20000001, 4326, 1.0, 2.0),
                 point, wkb(order, 4, 1, point), wkb(order, 7, 1, point)):
        assert kinds_and_rings(from_wkb(same)) == [(POINT, [[[1, 2]]])]
    assert parts_of(from_wkb(wkb(order, 1, np.nan, np.nan))) == []
    line = wkb(order, 2, 2, 1.0, 2.0, 3.0, 4.0)
    assert kinds_and_rings(from_wkb(wkb(order, 5, 2, line, line))) == 2 * [
        (LINE, [[[1, 2], [3, 4]]])]
    ring = 3, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0
    polygon = wkb(order, 3, 2, *ring, *ring)
    assert kinds_and_rings(from_wkb(wkb(order, 6, 1, polygon))) == [
        (POLYGON, 2 * [[[0, 0], [1, 0], [1, 1]]])]


@pytest.mark.parametrize("content", [
    b"", b"\1", wkb("<", 1, 1.0), wkb("<", 2, 10**9, 1.0), wkb("<", 8, 1), wkb("<", 3, 10**9)])
def test_from_wkb__refuses_damage(content):
    with pytest.raises(ValueError, match="geometry"):
        from_wkb(content)


def test_parts_of__a_collection_and_empty_geometries():
    point = {"type": "Point", "coordinates": [1, 2, 3]}
    empty = {"type": "Polygon", "coordinates": []}
    collection = {"type": "GeometryCollection", "geometries": [point, empty, point]}
    assert kinds_and_rings(collection) == 2 * [(POINT, [[[1, 2]]])]


def drawn(runs, height, width):
    mask = np.zeros((height, width), int)
    for row, start, end in zip(*runs):
        mask[row, start:end] += 1
    return mask


def test_polygon_runs__pixels_whose_centre_is_inside_and_not_in_a_hole():
    hole = [[1, 1], [1, 2.4], [2.6, 2.4], [2.6, 1]]
    mask = drawn(polygon_runs([np.array(SQUARE, float), np.array(hole)], 5, 6), 5, 6)
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0],
                             [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    far = np.array(SQUARE) * 1e12 - 2e12  # all around the raster
    assert drawn(polygon_runs([far], 2, 3), 2, 3).all()
    assert len(polygon_runs([far + 3e12], 2, 3)[0]) == 0


def test_polygon_runs__equal_rasterio():
    features = reference("rasterio.features")
    random = np.random.default_rng(0)
    for _ in range(30):
        ring = random.uniform(-5, 25, (7, 2))
        mask = drawn(polygon_runs([ring], 20, 20), 20, 20)
        shape = {"type": "Polygon", "coordinates": [[*ring[:, ::-1].tolist(), ring[0, ::-1]]]}
        expected = features.rasterize([(shape, 1)], (20, 20))
        assert (mask == expected).all()


def test_line_pixels__equal_pillow():
    random = np.random.default_rng(0)
    for _ in range(60):
        line = random.uniform(-9, 29, (3, 2))
        line[random.random(line.shape) < 0.2] = 7
        image = Image.new("L", (40, 40))
        ends = [(int(np.floor(col)) + 10, int(np.floor(row)) + 10) for row, col in line]
        ImageDraw.Draw(image).line(ends, fill=1)
        mask = np.zeros((20, 20), int)
        rows, cols = line_pixels(line, 20, 20).T
        mask[rows, cols] = 1
        assert (mask == np.asarray(image)[10:30, 10:30]).all()
    rows, cols = line_pixels(np.array([[-1e12, 1.0], [1e12, 1.0]]), 3, 3).T
    assert rows.tolist() == [0, 1, 2] and cols.tolist() == [1, 1, 1]
