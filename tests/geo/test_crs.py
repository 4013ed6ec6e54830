"""Coordinate systems are named as files state them, and converted as PROJ does, to a millimetre."""

import sys

import numpy as np
import pytest
from helpers import reference

from geo import crs
from geo.crs import WGS84, convert, crs_of, from_utm, parse_crs, short_name, to_utm
from geo.georeference import Georeference

METRE_IN_DEGREES = 1 / 111_000


@pytest.mark.parametrize("text, expected", [
    ("EPSG:32632", "EPSG:32632"),
    ("epsg:4326", WGS84),
    (25832, "EPSG:25832"),
    ("urn:ogc:def:crs:OGC:1.3:CRS84", WGS84),
    ("urn:ogc:def:crs:EPSG::26717", "EPSG:26717"),
    ("urn:ogc:def:crs:EPSG:6.9:4326", WGS84),
    ("http://www.opengis.net/def/crs/EPSG/0/32632", "EPSG:32632"),
    ("http://www.opengis.net/gml/srs/epsg.xml#4326", WGS84),
    ("ESRI:102100", "EPSG:3857"),
    ('PROJCS["a",GEOGCS["b",AUTHORITY["EPSG","4326"]],AUTHORITY["EPSG","32633"]]', "EPSG:32633"),
    ('PROJCRS["a",BASEGEOGCRS["b",ID["EPSG",4326]],ID["EPSG",2056]]', "EPSG:2056"),
    ('PROJCS["own",GEOGCS["b",AUTHORITY["EPSG","4326"]]]', None),
])
def test_parse_crs__a_name_in_any_form(text, expected):
    assert parse_crs(text) == (expected or text)


@pytest.mark.parametrize("text", [
    "", "UTM", "nonsense:4326", "urn:ogc:def:crs,crs:EPSG::25832,crs:EPSG::5783"])
def test_parse_crs__refuses_what_is_no_name(text):
    with pytest.raises(ValueError, match="names no coordinate system"):
        parse_crs(text)


@pytest.mark.parametrize("keys, expected", [
    ({1024: 1, 3072: 32632}, "EPSG:32632"),
    ({1024: 1, 2048: 4326, 3072: 3857, 3076: 9001}, "EPSG:3857"),
    ({1024: 2, 2048: 4326}, WGS84),
    ({1024: 2, 2048: 4326, 2054: 9105}, None),  # in grads
    ({1024: 1, 3072: 32632, 3076: 9002}, None),  # in feet
    ({1024: 1, 3072: 2263, 3076: 9003}, "EPSG:2263"),
    ({1024: 1, 3072: 32767}, None),
    ({1024: 1, 2048: 4326}, None),  # projected in a way of its own
    ({3072: 32632, 2048: 4326}, "EPSG:32632"),
    ({1024: 3, 2048: 4978}, None),
    ({}, None),
])
def test_crs_of__by_the_geokeys(keys, expected):
    entries = [(key, 0, 1, value) for key, value in keys.items()]
    tags = {33550: (1.0, 1.0, 0.0), 33922: (0.0, 0.0, 0.0, 5.0, 6.0, 0.0),
            34735: (1, 1, 0, len(entries), *sum(entries, ()))}
    assert crs_of(Georeference(tags)) == expected


@pytest.mark.parametrize("lon, lat, system, x, y", [
    # Where the axes cross, the ends of the map, the edge of a zone at the equator, and the pole.
    (9, 0, "EPSG:32632", 500_000, 0),
    (9, 0, "EPSG:32732", 500_000, 10_000_000),
    (180, 0, "EPSG:3857", 20_037_508.343, 0),
    (-180, 85.051128780, "EPSG:3857", -20_037_508.343, 20_037_508.343),
    (12, 0, "EPSG:32632", 833_978.557, 0),
    (9, 90, "EPSG:25832", 500_000, 9_997_964.943),
])
def test_convert__known_positions(lon, lat, system, x, y):
    found = convert(np.array([lon]), np.array([lat]), WGS84, system)
    assert np.allclose(np.ravel(found), (x, y), rtol=0, atol=0.002)
    if lat < 90:
        back = convert(np.array([x]), np.array([y]), system, WGS84)
        turns = (back[0] - lon + 180) % 360 - 180
        assert np.allclose(turns, 0, atol=1e-7) and np.allclose(back[1], lat, atol=1e-7)


def test_to_utm__and_back_is_exact_far_from_the_zone():
    lon, lat = np.meshgrid(np.linspace(-20, 40, 13), np.linspace(-84, 84, 15))
    back = from_utm(*to_utm(lon, lat, 32), 32)
    assert np.abs(np.subtract(back, (lon, lat))).max() < 1e-9  # 0.1 mm


def test_convert__a_position_stays_as_it_is_in_its_own_system():
    x = np.array([0.1 + 0.2])
    assert convert(x, x, "EPSG:31467", "EPSG:31467")[0] is x
    assert convert(x, x, WGS84, "EPSG:4258")[0][0] == x[0]


def test_convert__positions_out_of_reach_are_nan():
    x, y = convert(np.array([9.0, 9, -171]), np.array([48.0, 91, 48]), WGS84, "EPSG:32632")
    assert np.isfinite(x).tolist() == np.isfinite(y).tolist() == [True, False, False]
    x, y = convert(np.array([1e15, 5e5]), np.array([5e6, -1e9]), "EPSG:32632", "EPSG:3857")
    assert np.isnan(x).all() and np.isnan(y).all()


@pytest.mark.parametrize("code", [
    32601, 32632, 32660, 32701, 32733, 32760, 25828, 25832, 25838, 3857, 4258])
def test_convert__equals_proj_to_a_millimetre(code):
    pyproj = reference("pyproj")
    random = np.random.default_rng(code)
    lon = random.uniform(-10, 40, 200) if code in (4258, 3857) else (
        6 * (code % 100) - 183 + random.uniform(-9, 9, 200))
    lat = random.uniform(-80, 80, 200)
    proj = pyproj.Transformer.from_crs(4326, code, always_xy=True)
    expected = proj.transform(lon, lat)
    found = convert(lon, lat, WGS84, f"EPSG:{code}")
    unit = METRE_IN_DEGREES if code == 4258 else 1
    assert np.abs(np.subtract(found, expected)).max() < 1e-3 * unit
    back = convert(*expected, f"EPSG:{code}", WGS84)
    away = np.subtract(back, (lon, lat))
    away[0] = (away[0] + 180) % 360 - 180
    assert np.abs(away).max() < 1e-3 * METRE_IN_DEGREES


def test_convert__by_proj_with_the_shift_of_the_datum(capsys):
    reference("pyproj")
    x, y = convert(np.array([5e5]), np.array([48e5]), "EPSG:26717", "EPSG:26917")
    assert abs(y[0] - 48e5 - 215) < 20 and abs(x[0] - 5e5 - 17) < 20  # NAD27 to NAD83 in Ontario
    convert(x, y, "EPSG:26717", "EPSG:26917")
    assert capsys.readouterr().err.count("within") <= 1
    with pytest.raises(ValueError, match="EPSG:99999 to EPSG:4326.*PROJ"):
        convert(x, y, "EPSG:99999", WGS84)
    with pytest.raises(ValueError, match="EPSG:4004"):  # of an unknown datum: only a ballpark
        convert(np.array([9.0]), np.array([48.0]), WGS84, "EPSG:4004")


def test_convert__names_pyproj_and_both_systems_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyproj", None)
    crs._transformer.cache_clear()
    with pytest.raises(ValueError, match=r"EPSG:31467 to EPSG:4326.*pip install pyproj"):
        convert(np.array([35e5]), np.array([54e5]), "EPSG:31467", WGS84)
    crs._transformer.cache_clear()


def test_short_name__of_wkt_is_its_title():
    assert short_name('PROJCS["Gauss",GEOGCS["x"]]') == "Gauss"
    assert short_name("EPSG:32632") == "EPSG:32632"


def test_convert__systems_with_heights_are_read_without_them():
    pytest.importorskip("pyproj")
    x, y = convert(np.array([5e5]), np.array([5.4e6]), "EPSG:32632+5773", "EPSG:32632")
    assert (x, y) == (5e5, 5.4e6)
