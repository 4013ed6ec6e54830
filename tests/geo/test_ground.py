"""The size of a pixel on the ground is PROJ's, or is refused with a reason."""

import re
import sys

import numpy as np
import pytest

from geo.georeference import Georeference, from_affine
from geo.ground import DISTORTED, ground_sample_distance

FOOT = 9002
US_FOOT = 9003
METRE = 9001


def side_of(code=None, x=500000, y=4600000, side=2, unit=METRE, is_geographic=False, size=64):
    """Ground sample distance of a square scene, and the reason where it is not known."""
    reference = from_affine((side, 0, x, 0, -side, y), code, is_geographic, unit)
    return ground_sample_distance(reference, size, size)


def test_ground_sample_distance__known_by_eye():
    assert ground_sample_distance(None, 9, 9)[0] is None
    assert side_of(32631) == (2, "")
    assert side_of(32760, unit=None) == side_of(25832, unit=None) == (2, "")  # UTM is in metres
    assert side_of(32631, unit=FOOT)[0] == pytest.approx(0.6096)  # unless the file has others
    assert side_of(2263, 1e6, 2e5, unit=US_FOOT)[0] == pytest.approx(2 * 1200 / 3937)
    equator = np.radians(1) * 6378137 * (1 - 0.00669437999) ** 0.5  # north is shorter than east
    assert side_of(4326, 10, 0, 1e-5, is_geographic=True)[0] == pytest.approx(
        1e-5 * equator, rel=0.002)
    north = side_of(3857, 1e6, 8399737.9)[0]  # 60 degrees: a factor of 2, of 4 in area
    assert north == pytest.approx(1.0, rel=0.003)
    rotated = from_affine((1.2, 1.6, 5e5, 1.6, -1.2, 4e6), 32631)
    assert ground_sample_distance(rotated, 9, 9)[0] == pytest.approx(2)
    no_code = (1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, METRE)
    tags = {33550: (2.0, 2.0, 0.0), 33922: (0.0, 0.0, 0.0, 1.0, 1.0, 0.0), 34735: no_code}
    assert ground_sample_distance(Georeference(tags), 9, 9) == (2, "")


@pytest.mark.parametrize("options, word", [
    ({"code": None}, "no coordinate system"),
    ({"code": 2154, "unit": None}, "map unit"),
    ({"code": 32631, "x": 1_300_000}, "800 km"),
    ({"code": 4326, "is_geographic": True}, "degrees"),
    ({"code": 3857, "y": 8e6, "side": 5000}, "varies"),
    ({"code": 3395}, "EPSG:3395.*pyproj"),
    ({"code": 32767}, "its projection")])
def test_ground_sample_distance__is_refused_with_a_reason(monkeypatch, options, word):
    monkeypatch.setitem(sys.modules, "pyproj", None)  # as if it were not installed
    side, reason = side_of(**options)
    if options["code"] == 32767:  # a projection without a code, of a method that is named
        keys = (1, 1, 0, 4, 1024, 0, 1, 1, 3072, 0, 1, 32767, 3075, 0, 1, 7, 3076, 0, 1, METRE)
        reference = Georeference({**from_affine((2, 0, 0, 0, -2, 0)).tags, 34735: keys})
        side, reason = ground_sample_distance(reference, 9, 9)
    assert side is None
    assert re.search(word, reason)


@pytest.mark.parametrize("code, x, y", [
    (3857, 1e6, 8.4e6), (4326, 10, 60), (3395, 1e6, 8.36e6), (4087, 1e6, 6679000),
    (3034, 4e6, 3e6), (3035, 4e6, 3e6), (2154, 7e5, 6.6e6), (2263, 1e6, 2e5),
    (32632, 5e5, 6.65e6), (27700, 4e5, 3e5)])
def test_ground_sample_distance__areas_are_those_of_the_ellipsoid(code, x, y):
    pyproj = pytest.importorskip("pyproj")
    degrees = code == 4326
    side = 2e-5 if degrees else 2
    unit = {4326: None, 2263: US_FOOT}.get(code, METRE)
    found, reason = side_of(code, x, y, side, unit, degrees)
    to_degrees = pyproj.Transformer.from_crs(code, 4326, always_xy=True)
    steps = np.linspace(0, 64, 9)[:-1]
    cols = np.concatenate([steps, 0 * steps + 64, 64 - steps, 0 * steps])
    rows = np.concatenate([0 * steps, steps, 0 * steps + 64, 64 - steps])
    corners = to_degrees.transform(x + side * cols, y - side * rows)
    area = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*corners)[0])
    assert reason == ""
    assert (64 * found) ** 2 == pytest.approx(area, rel=0.01)
    if not degrees:  # the code implies the unit, where the file does not state it
        assert side_of(code, x, y, side, unit=None)[0] == pytest.approx(found)


@pytest.mark.slow
def test_distorted__every_other_code_of_epsg_is_true_to_scale_where_it_is_used():
    pyproj = pytest.importorskip("pyproj")
    from pyproj.database import query_crs_info
    from pyproj.enums import PJType
    wrong = set()
    for info in query_crs_info("EPSG", PJType.PROJECTED_CRS):
        try:
            crs = pyproj.CRS.from_epsg(int(info.code))
            area = crs.area_of_use
            lon = np.linspace(area.west, area.east + 360 * (area.east < area.west), 5)[1:-1]
            lon, lat = np.meshgrid(lon, np.linspace(area.south, area.north, 5)[1:-1])
            scales = pyproj.Proj(crs).get_factors((lon + 180) % 360 - 180, lat).areal_scale
        except (AttributeError, pyproj.exceptions.ProjError):
            continue  # no area of use, or a method that PROJ lacks
        if np.isfinite(scales).all() and np.abs(scales - 1).max() > 0.02:
            if crs.prime_meridian.longitude == 0:
                wrong.add(int(info.code))
    assert wrong - DISTORTED - {3857, 3785} - set(range(32601, 32761)) <= {2156, 22236}  # of UTM
