"""classes.csv and files of points are read as documented, and a bad line is named."""

import json

import numpy as np
import pytest

from sources.labels import Points, land_classes, name_scenes, read_classes, read_points
from sources.raw import Scene

IDS = [(10, "water", None), (30, "wood", None), (-1, "ignore", None)]


def write_csv(folder, text, name="classes.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_read_classes__by_eye(tmp_path):
    text = "id, name, r, g, b\n40, field, 250, 220, 90\n0,ignore,,,\n-3.5,wood,0,120,0\n"
    rows = read_classes(write_csv(tmp_path, text))
    assert [tuple(row) for row in rows] == [
        (0, 40, "field", 0xFADC5A), (255, 0, "ignore", None), (1, -3.5, "wood", 0x007800)]
    assert read_classes(write_csv(tmp_path, "name,r,g,b\nfield,0,0,0\n"))[0] == (
        0, None, "field", 0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,title\n1,a\n", "no column 'name'"), ("", "no column 'name'"),
        ("id,name\n", "lists no class"), ("id,name\nx,a\n", "line 2"),
        ("id,name,r,g,b\n1,a,0,0,0\n2,b,0,0,256\n", "line 3"), ("id,name,r\n1,a,9\n", "line 2"),
        ("id,name\nnan,a\n", "line 2"), ("id,name\n1e400,a\n", "line 2"),
        ("id,name\n1,\n", "line 2: give a name"), ("id,name\n1, \n", "line 2"),
        ("id,name\n1\n", "line 2"), ('id,name\n1,"line\nbreak"\n', "line 3: give a name"),
        ("id,name\n1,a\n1,b\n", "line 3: 'b' repeats"), ("id,name\n,a\n", "neither id nor colour"),
        ("id,name\n1,ignore\n", "lists no class")],
)
def test_read_classes__names_the_bad_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_classes(write_csv(tmp_path, text))


def geojson(*points):
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature", "properties": properties,
                    "geometry": {"type": "Point", "coordinates": list(place)}}
                for place, properties in points
            ],
        }
    )


@pytest.mark.parametrize(
    "name, text, message",
    [
        (
            "p.csv", "scene,row,col,class\ns,1,2,wood\ns,1,2,lake\n",
            "line 3: give scene, row, col, and a class"),
        ("p.csv", "row,col,class\n1,2,wood\n", "line 2: give scene, row, col"),
        ("p.csv", "scene,row,col,class\n,1,2,wood\n", "line 2: give scene, row, col"),
        ("p.csv", "scene,row,col,class\ns,x,2,wood\n", "line 2"),
        ("p.csv", "scene,row,col\ns,1,2\n", "no column 'class'"),
        ("p.csv", "scene,row,col,class\n", "holds no points"),
        ("p.csv", "scene,row,col,class\ns,1,nan,wood\n", "line 2"),
        ("p.csv", "x,y,class\ninf,1,wood\n", "line 2"),
        ("p.json", "[]", "not GeoJSON"),
        ("p.json", "{", "not GeoJSON"),
        ("p.json", "[" * 100_000, "not GeoJSON"),
        ("p.json", geojson(((1, 2), {"kind": "wood"})), "feature 1: give x, y, and a class"),
        (
            "p.json", geojson(((1, 2), {"class": "wood"})).replace('"Point"', '"Polygon"'),
            "feature 1 is a Polygon"),
    ],
)
def test_read_points__names_the_bad_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_points(write_csv(tmp_path, text, name), land_classes(IDS))
    assert "\n" not in str(caught.value)


def test_name_scenes__a_file_name_counts_where_one_scene_has_it():
    scenes = [
        Scene("7", "sat/7_sat.png", None, "7"), Scene("1_part", "Tile 1/part.jpg", None, "1"),
        Scene("2_part", "Tile 2/part.jpg", None, "2")]
    named = ("7_sat", "7", "part", "1_part", "")
    points = Points(named, np.array(named), np.zeros(5), np.zeros(5), np.zeros(5, np.uint8), False)
    assert name_scenes(points, scenes).scenes.tolist() == ["7", "7", "part", "1_part", ""]
