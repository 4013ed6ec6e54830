"""Files of labels: which columns count, which classes they name, which scenes they mean."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_vectors import geojson, point

from geo.crs import WGS84
from geo.maps import write_points
from report.tables import read_rows, write_rows
from sources.geometry import POINT
from sources.labels import land_classes
from sources.points import name_scenes, read_points
from sources.raw import Scene

CLASSES = land_classes([(10, "water", None), (30, "wood", None), (-1, "ignore", None)])


def table(folder, text, name="p.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("header, row, expected, crs", [
    ("x,y,class", "5,6,wood", (5, 6), None),
    ("X,Y,fid,class", "5,6,1,wood", (5, 6), None),
    ("fid;Easting (m);Northing (m);class", "1;500000,5;6;wood", (500000.5, 6), None),
    ("POINT_Y,POINT_X,class", "6,5,wood", (5, 6), None),
    ("Rechtswert;Hochwert;Klasse", "5;6;wood", (5, 6), None),
    ("lat,long,class", "6,5,wood", (5, 6), WGS84),
    ("Latitude;Longitude;class", "6,5;7,25;wood", (7.25, 6.5), WGS84),
    ("x,y,class,epsg", "5,6,wood,3857", (5, 6), "EPSG:3857"),
    ("x,y,lon,lat,class", "5,6,7,8,wood", (5, 6), None),
    ("lon,lat,class,epsg", "5,6,wood,4267", (5, 6), "EPSG:4267"),
    ("WKT,class", "POINT Z (5 6 7),wood", (5, 6), None),
    ("geometry\tclass", "SRID=4326;POINT (5 6)\twood", (5, 6), WGS84),
    ('class,.geo', 'wood,"{""type"":""Point"",""coordinates"":[5,6]}"', (5, 6), WGS84),
])
def test_read_points__positions_on_the_map(tmp_path, header, row, expected, crs):
    points = read_points(table(tmp_path, f"{header}\n{row}\n"), CLASSES)
    assert points.positions.tolist() == [list(expected)] and points.on_map
    assert points.crs == crs and points.indices.tolist() == [1]


@pytest.mark.parametrize("header, row", [
    ("scene,row,col,class", "s,5,6,wood"), ("image;Row;Column;class", "s;5;6;wood")])
def test_read_points__positions_in_pixels(tmp_path, header, row):
    points = read_points(table(tmp_path, f"{header}\n{row}\n"), CLASSES)
    assert points.positions.tolist() == [[6, 5]] and not points.on_map
    assert points.scenes.tolist() == ["s"]


def test_read_points__names_that_spreadsheets_would_compute_come_back(tmp_path):
    raster = SimpleNamespace(height=9, width=9, georeference=None, path=Path("-s.tif"))
    names = ["=1+1", "+wood", "-1"]
    write_points(tmp_path / "p.csv", ([1, 2, 3], [4, 5, 6], [0, 1, 2]), raster, names, (9, 9))
    rows = read_rows(tmp_path / "p.csv")
    assert [row["scene"] for row in rows] == ["'-s"] * 3
    for row in rows:  # as the person does who agrees with the network
        row["class"] = row.pop("predicted")
    write_rows(tmp_path / "p.csv", rows)
    points = read_points(tmp_path / "p.csv", land_classes([(k, names[k], None) for k in range(3)]))
    assert points.indices.tolist() == [0, 1, 2] and points.scenes.tolist() == ["-s"] * 3


@pytest.mark.parametrize("text, message", [
    ("scene,row,col,class\ns,1,2,wood\ns,1,2,lake\n", "line 3: 'lake' is no class.*water, wood"),
    ("scene,row,col,class\ns,x,2,wood\n", "line 2: col '2', row 'x'"),
    ("scene,row,col,class\ns,1,nan,wood\n", "line 2"),
    ('scene,row,col,class\ns,"1,024",2,wood\n', "line 2"),
    ("x,y,class\ninf,1,wood\n", "line 2"),
    ("x,y,class\n1,,wood\n", "line 2"),
    ("x,y,class\n1,1e16,wood\n", "line 2"),
    ("lon,lat,class\n500000,5400000,wood\n", "line 2.*decimal degrees"),
    ("WKT,class\nPOINT (1 x),wood\n", "line 2"),
    ("x,y,class,epsg\n1,2,wood,4326\n1,2,wood,3857\n", "2 coordinate systems"),
    ("x,y,class,epsg\n1,2,wood,UTM 33N\n", "p.csv, column epsg: 'UTM 33N'"),
    ("WKT,class\nSRID=4326;POINT (1 2),wood\nSRID=3857;POINT (1 2),wood\n", "2 coordinate"),
    ("scene,row,col\ns,1,2\n", "no column 'class'.*--class-column"),
    ("a,b,class\n1,2,wood\n", "no columns of positions.*a, b, class"),
    ("scene,row,col,class\n", "holds no points"),
    ("x,y,class\n1,2,\n,,wood\n", "no labels.*1 without a class yet, 1 without a position"),
])
def test_read_points__names_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_points(table(tmp_path, text), CLASSES)
    assert "p.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_read_points__what_has_no_class_or_place_yet_is_counted(tmp_path):
    text = ("scene,row,col,x,y,predicted,class\ns,1,2,5,6,wood,\ns,1,2,5,6,wood, Wood \n"
            "s,1,2,,,a,10\n")
    points = read_points(table(tmp_path, text), CLASSES)
    assert points.places == ("line 3",) and points.indices.tolist() == [1]
    assert points.skipped == {"without a class yet": 1, "without a position": 1}


@pytest.mark.parametrize("name, text", [
    ("p.csv", "x,y,class (A),class (B)\n5,6,wood,10\n"),
    ("p.geojson", '{"type": "Feature", "properties": {"class (A)": "wood", "class (B)": "10"}, '
                  '"geometry": {"type": "Point", "coordinates": [5, 6]}}'),
])
def test_read_points__of_columns_that_fold_alike_the_title_decides(tmp_path, name, text, capsys):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    chosen = [read_points(path, CLASSES, column).indices.tolist()
              for column in ("class (A)", "class (B)", "CLASS", None)]
    assert chosen[0] != chosen[1] and chosen[2] == chosen[3] == chosen[0]
    assert "from 'class', not from 'class (B)'" in capsys.readouterr().out


@pytest.mark.parametrize("text", [
    "WKT,x,y,class\n\"POLYGON ((0 0, 4 0, 4 4, 0 0))\",5,6,wood\n",
    "WKT,lon,lat,class\n\"LINESTRING (0 0, 4 0)\",5,6,wood\n",
])
def test_read_points__shapes_come_before_their_middles(tmp_path, text, capsys):
    points = read_points(table(tmp_path, text), CLASSES)
    assert points.kinds.tolist() != [POINT]
    assert "are taken from wkt, nothing from" in capsys.readouterr().out


def test_read_points__x_and_y_belong_together(tmp_path):
    points = read_points(table(tmp_path, "X,easting,northing,class\n1,5,6,wood\n"), CLASSES)
    assert points.positions.tolist() == [[5, 6]]


@pytest.mark.parametrize("text", [
    "x,y,epsg,class\n5,6,4326,wood\nNA,NA,NA,wood\nNaN,,,wood\n",
    "WKT,class\nPOINT (5 6),wood\nNA,wood\n,wood\n",
    '.geo,class\n"{""type"":""Point"",""coordinates"":[5,6]}",wood\nnull,wood\n,wood\n',
])
def test_read_points__a_row_whose_position_is_missing_is_counted(tmp_path, text):
    points = read_points(table(tmp_path, text), CLASSES)
    assert points.positions.tolist() == [[5, 6]]
    assert points.skipped == {"without a class yet": 0, "without a position": 2}


def test_read_points__the_class_is_a_name_or_an_id(tmp_path):
    names = ["wood", " WOOD ", "30", "30.0", "ignore", "10"]
    rows = "".join(f"1;2;{name}\n" for name in names)
    path = table(tmp_path, "x;y;class\n" + rows)
    assert read_points(path, CLASSES).indices.tolist() == [1, 1, 1, 1, 255, 0]
    with pytest.raises(ValueError, match=r"line 2: 'wood' is no class.*\(Lake\)"):  # named once
        read_points(path, land_classes([(1, "Lake", None)]))


@pytest.mark.parametrize("word", ["null", "NA", "<NA>", "#N/A"])  # as pandas, R and Excel write
def test_read_points__a_class_may_be_called_as_none_is(tmp_path, word):
    path = table(tmp_path, f"x,y,class,file\n1,2,{word},photo.jpg\n1,2,a,photo.jpg\n")
    points = read_points(path, land_classes([(None, word, None), (None, "a", None)]))
    assert points.indices.tolist() == [0, 1]
    assert read_points(path).skipped["without a class yet"] == 1
    assert points.scenes.tolist() == ["", ""]  # on the map, the photo's name is no scene


@pytest.mark.parametrize("column, chosen", [(None, 0), ("label", 1), ("My Class!", 2)])
def test_read_points__the_column_of_the_class(tmp_path, capsys, column, chosen):
    text = "x,y,Label,class,type,My Class\n1,2,b,a,,c\n"
    points = read_points(table(tmp_path, text), class_column=column)
    assert points.class_table[0].name == "abc"[chosen]
    assert ("'label, type'" in capsys.readouterr().out) == (column is None)
    text = "x,y,class,landcover\n1,2,,b\n"  # not the one that is empty
    assert read_points(table(tmp_path, text)).class_table[0].name == "b"
    with pytest.raises(ValueError, match="no column '--class-column kind'"):
        read_points(tmp_path / "p.csv", class_column="kind")


def test_read_points__classes_of_the_file_are_sorted(tmp_path):
    names = ["wood", "Field", "10", "WOOD", "9", "ignore", "field", "2.5"]
    rows = "".join(f"1;2;{name}\n" for name in names)
    points = read_points(table(tmp_path, "x;y;class\n" + rows))
    classes = [(row.index, row.value, row.name) for row in points.class_table]
    assert classes == [(0, 2.5, "2.5"), (1, 9, "9"), (2, 10, "10"), (3, None, "Field"),
                       (255, None, "ignore"), (4, None, "WOOD")]
    assert points.indices.tolist() == [4, 3, 2, 4, 1, 255, 3, 0]
    alike = ["wet  wood", "wet\xa0wood", "\xd6de", "O\u0308de", "Ignore"]
    rows = "".join(f"1;2;{name}\n" for name in alike)
    assert read_points(table(tmp_path, "x;y;class\n" + rows)).indices.tolist() == [0, 0, 1, 1, 255]
    rows = "".join(f"1,2,{number}\n" for number in range(256))
    with pytest.raises(ValueError, match="more than 255 classes"):
        read_points(table(tmp_path, "x,y,class\n" + rows))


def test_read_points__names_of_places_are_no_classes(tmp_path):
    rows = [f"1,2,Point {number}\n" for number in range(12)]
    path = table(tmp_path, "x,y,name\n" + "".join(rows))
    with pytest.raises(ValueError, match="12 classes.*Point 0.*--class-column"):
        read_points(path)
    assert len(read_points(path, class_column="name").class_table) == 12
    assert len(read_points(table(tmp_path, "x,y,name\n" + "".join(rows) * 2)).class_table) == 12


def test_read_points__geojson_of_several_kinds(tmp_path):
    many = point(0, 0, **{"class": 10, "scene": "s"})
    many["geometry"] = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    area = point(0, 0, **{"class": 30.0})
    area["geometry"] = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]] * 2}
    points = read_points(geojson(tmp_path / "p.geojson", many, area), CLASSES)
    assert points.places == ("feature 1", "feature 1", "feature 2")
    assert points.indices.tolist() == [0, 0, 1] and points.scenes.tolist() == ["s", "s", ""]
    assert points.owners.tolist() == [0, 1, 2, 2]
    assert points.rings.tolist() == [0, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_name_scenes__by_name_file_path_or_number(tmp_path):
    scenes = [
        Scene("007", Path("sat/7_sat.png"), None, "7"), Scene("b", Path("x/b.tif"), None, "b"),
        Scene("1_part", Path("1/part.jpg"), None, "1"),
        Scene("2_part", Path("2/part.jpg"), None, "2")]
    expected = {"7_sat": "007", "7": "007", "007": "007", "7_sat.png": "007", "part": "part",
                "1_part": "1_part", "C:\\data\\b.tif": "b", "/data/b.tiff": "b", "b.tif": "b",
                "c": "c"}
    rows = "".join(f"{name},1,2,wood\n" for name in expected)
    points = read_points(table(tmp_path, "scene,row,col,class\n" + rows), CLASSES)
    assert name_scenes(points, scenes).scenes.tolist() == list(expected.values())


def test_name_scenes__pixels_of_the_only_scene_need_no_name(tmp_path):
    points = read_points(table(tmp_path, "row,col,class\n1,2,wood\n"), CLASSES)
    scenes = [Scene("a", Path("a.tif"), None, "a"), Scene("b", Path("b.tif"), None, "b")]
    assert name_scenes(points, scenes[:1]).scenes.tolist() == ["a"]
    with pytest.raises(ValueError, match="p.csv, line 2: give scene, row, col"):
        name_scenes(points, scenes)


def test_read_points__numbers_are_read_to_the_bit(tmp_path):
    x = float(np.nextafter(500_000.1, 0))
    points = read_points(table(tmp_path, f"x,y,class\n{x!r},1e-3,wood\n"), CLASSES)
    assert points.positions.tolist() == [[x, 1e-3]]
