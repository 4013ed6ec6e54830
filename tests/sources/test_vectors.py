"""GeoJSON, GeoPackage and other vector files: features, layers and coordinate systems."""

import json
import os
import sqlite3
import struct
import sys

import numpy as np
import pytest
from helpers import geopackage, geopackage_bytes, reference

from geo.crs import WGS84
from sources.geometry import POINT
from sources.vectors import read_vectors


def point(*position, **properties):
    geometry = {"type": "Point", "coordinates": list(position)}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def geojson(path, *features, **members):
    content = {"type": "FeatureCollection", "features": list(features), **members}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def positions(features):
    return [ring.tolist() for feature in features for _, rings in feature.parts for ring in rings]


@pytest.mark.parametrize("crs, expected", [
    (None, WGS84),
    ({"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}, WGS84),
    ({"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::26717"}}, "EPSG:26717"),
    ({"type": "EPSG", "properties": {"code": 32632}}, "EPSG:32632")])
def test_read_geojson__states_its_coordinate_system(tmp_path, crs, expected):
    path = geojson(tmp_path / "p.geojson", point(7, 50, Class="a"), crs=crs)
    features, found = read_vectors(path)
    assert found == expected
    assert features[0].properties == {"class": "a"} and positions(features) == [[[7, 50]]]


def test_read_geojson__positions_that_are_no_degrees_state_nothing(tmp_path, capsys):
    for x, y in ((500_000, 50), (7, 91)):
        path = geojson(tmp_path / "p.json", point(7, 50), point(x, y))
        assert read_vectors(path)[1] is None
        assert str(path) in capsys.readouterr().err


def test_read_geojson__null_geometry_and_properties(tmp_path):
    bare = {"type": "Feature", "properties": None, "geometry": None}
    features, _ = read_vectors(geojson(tmp_path / "p.json", bare, point(1, 2)))
    assert [(len(feature.parts), feature.properties) for feature in features] == [(0, {}), (1, {})]


def text_file(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text, message", [
    ("[]", "not GeoJSON"), ("{", "not GeoJSON"), ("[" * 100_000, "not GeoJSON"),
    ("7", "not GeoJSON"), ('{"type": "Topology"}', "not GeoJSON"),
    ('{"type": "FeatureCollection", "features": [1]}', "not GeoJSON")])
def test_read_geojson__refuses_what_is_none(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_vectors(text_file(tmp_path / "p.json", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("feature, message", [
    (point("a", 2), "feature 2"), (point(1), "feature 2"), (point(np.nan, 1), "feature 2"),
    (point(1e16, 1), "feature 2"),
    ({"type": "Feature", "properties": {}, "geometry": {"type": "Curve", "coordinates": [1, 2]}},
     "feature 2: it is a Curve"),
    ({**point(1, 2), "crs": {"type": "name"}}, "crs of its own")])
def test_read_geojson__names_the_bad_feature(tmp_path, feature, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(geojson(tmp_path / "p.json", point(1, 2), feature))


def test_read_geojson__refuses_a_crs_that_is_not_understood(tmp_path):
    for crs in ({"type": "link", "properties": {"href": "x"}}, 7, {"properties": {"name": "own"}}):
        with pytest.raises(ValueError, match="p.json: its crs"):
            read_vectors(geojson(tmp_path / "p.json", point(1, 2), crs=crs))


def test_read_geopackage__any_header(tmp_path):
    rows = [("a", geopackage_bytes(1, 2, order, envelope))
            for order in "<>" for envelope in range(5)]
    rows += [("b", None), ("b", geopackage_bytes(1, 2, is_empty=True))]
    features, crs = read_vectors(geopackage(tmp_path / "p.gpkg", points=rows))
    assert crs == "EPSG:32632" and positions(features) == 10 * [[[1, 2]]]
    assert [feature.properties["class"] for feature in features] == 10 * ["a"] + 2 * ["b"]
    assert features[11].place == "layer points, feature 12" and features[11].parts == []


def test_read_geopackage__the_layer_with_features_or_the_one_named(tmp_path):
    first = [("a", geopackage_bytes(1, 2))]
    path = geopackage(tmp_path / "p.gpkg", empty=[], **{"a client's": first})
    assert positions(read_vectors(path)[0]) == [[[1, 2]]]
    path = geopackage(tmp_path / "q.gpkg", one=first, two=first)
    with pytest.raises(ValueError, match="'one', 'two'.*--layer"):
        read_vectors(path)
    with pytest.raises(ValueError, match="--layer three.*'one', 'two'"):
        read_vectors(path, "three")
    assert read_vectors(path, "two")[0][0].place == "layer two, feature 1"


def test_read_geopackage__an_undefined_system_states_nothing(tmp_path):
    path = geopackage(tmp_path / "p.gpkg", one=[("a", geopackage_bytes(1, 2))])
    for number in (-1, 8):
        with sqlite3.connect(path) as database:
            database.execute("UPDATE gpkg_geometry_columns SET srs_id = ?", [number])
        database.close()
        assert read_vectors(path)[1] is None


def test_read_geopackage__changes_that_qgis_has_not_merged_yet(tmp_path):
    path = geopackage(tmp_path / "p.gpkg", one=[("a", geopackage_bytes(1, 2))])
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE one SET geom = ?", [geopackage_bytes(3, 4)])
    database.commit()
    assert positions(read_vectors(path)[0]) == [[[3, 4]]]
    database.close()
    assert positions(read_vectors(path)[0]) == [[[3, 4]]]


@pytest.mark.parametrize("content", [b"GP", b"XX" + bytes(40), "text",
                                     geopackage_bytes(1, 2)[:-1], b"GP\0\x0f" + bytes(40)])
def test_read_geopackage__names_the_bad_feature(tmp_path, content):
    path = geopackage(tmp_path / "p.gpkg", one=[("a", geopackage_bytes(1, 2)), ("a", content)])
    with pytest.raises(ValueError, match="p.gpkg, layer one, feature 2"):
        read_vectors(path)


def test_read_geopackage__refuses_another_file(tmp_path):
    (tmp_path / "p.gpkg").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(ValueError, match="p.gpkg is not a GeoPackage"):
        read_vectors(tmp_path / "p.gpkg")
    assert [path.name for path in tmp_path.iterdir()] == ["p.gpkg"]


def test_read_geopackage__refuses_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def connect(*_, **__):  # as where the file has no read permission, which root does not need
        raise sqlite3.OperationalError("unable to open database file")

    (tmp_path / "p.gpkg").touch()
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(ValueError, match="p.gpkg .*unable to open"):
        read_vectors(tmp_path / "p.gpkg")


@pytest.mark.skipif(os.name == "nt", reason="its devices are no files")
def test_read_vectors__files_beside_it_are_no_pipes_either(tmp_path):
    (tmp_path / "p.shp").touch()
    (tmp_path / "p.dbf").symlink_to(os.devnull)
    with pytest.raises(ValueError, match="p.dbf is no regular file"):
        read_vectors(tmp_path / "p.shp")


def test_read_vectors__others_need_pyogrio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(ValueError, match="p.kml needs the package pyogrio"):
        read_vectors(text_file(tmp_path / "p.kml", ""))
    with pytest.raises(ValueError, match="spreadsheet"):
        read_vectors(text_file(tmp_path / "p.xlsx", ""))
    with pytest.raises(FileNotFoundError, match="p.shp"):
        read_vectors(tmp_path / "p.shp")


@pytest.mark.filterwarnings("ignore")  # pyogrio warns of a file without a coordinate system
@pytest.mark.parametrize("name, crs", [
    ("p.shp", "EPSG:25832"), ("p.gpkg", "EPSG:32633"), ("p.gpkg", None)])
def test_read_vectors__files_that_gdal_writes(tmp_path, name, crs):
    pyogrio = reference("pyogrio")
    content = struct.pack("<BIdd", 1, 1, 7.5, 50.25)
    pyogrio.raw.write(tmp_path / name, np.array([content, None], object), [np.array(["a", "b"])],
                      ["class"], geometry_type="Point", crs=crs)
    features, found = read_vectors(tmp_path / name)
    assert found == crs
    assert positions(features) == [[[7.5, 50.25]]] and features[0].parts[0][0] == POINT
    assert [feature.properties["class"] for feature in features] == ["a", "b"]


def test_read_vectors__kml_of_google(tmp_path):
    reference("pyogrio")
    text = ('<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Placemark><name>wood</name>'
            "<Point><coordinates>7,50,0</coordinates></Point></Placemark></Document></kml>")
    features, crs = read_vectors(text_file(tmp_path / "p.kml", text))
    assert crs == WGS84 and positions(features) == [[[7, 50]]]
    assert features[0].properties["name"] == "wood"
    with pytest.raises(ValueError, match="q.kml"):
        read_vectors(text_file(tmp_path / "q.kml", "<kml"))
