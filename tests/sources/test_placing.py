"""Labels lie where they were clicked on the ground, and what became of each is counted."""

import struct

import numpy as np
import pytest
from helpers import reference
from test_point_files import CLASSES, table
from test_vectors import geojson, geopackage, point

from geo.raster import Georeference, write_geotiff
from sources.label_count import LabelCount
from sources.points import name_scenes, read_points
from sources.raw import RawDataset, Region, Scene
from sources.scenes import SceneReader, check_scenes


def georeference(code=32632, x=500_000.0, y=5_400_000.0, size=1.0, affine=None):
    """North up by scale and tie point, or by the affine (a, b, c, d, e, f); code None: no keys."""
    tags = {33550: (size, size, 0.0), 33922: (0.0, 0.0, 0.0, x, y, 0.0)}
    if affine is not None:
        a, b, c, d, e, f = affine
        tags = {34264: (a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0)}
    if code is not None:
        in_degrees = code < 5000 and code != 3857
        tags[34735] = (1, 1, 0, 2, 1024, 0, 1, 2 if in_degrees else 1,
                       2048 if in_degrees else 3072, 0, 1, code)
    return Georeference(tags)


def scene(folder, name="s", height=8, width=10, where=None, nodata=None, pixels=None):
    """A scene of one band; its georeference, and a value that means no data."""
    if pixels is None:
        pixels = np.ones((height, width), np.uint8)
    write_geotiff(folder / f"{name}.tif", [pixels], height, width, 1, "uint8", nodata=nodata,
                  georeference=where)
    return Scene(name, folder / f"{name}.tif", None, name)


def labelled(points, *scenes, scale=1):
    """{scene: {(row, col): class}} of the labels in scenes, once their count is reported."""
    points = name_scenes(points, list(scenes))
    source = RawDataset(points.class_table, list(scenes), points=points, scale=scale)
    check_scenes(source)
    found = {}
    for one in scenes:
        with SceneReader(one, source) as reader:
            whole = Region("", 0, 0, 0, reader.image.height, reader.image.width)
            labels = reader.read_labels(whole)
            parts = [reader.read_labels(whole._replace(row=row, col=3, height=2, width=4))
                     for row in range(0, reader.image.height - 1, 2) if reader.image.width >= 7]
        if parts:
            height = 2 * len(parts)
            assert (np.concatenate(parts) == labels[:height, 3:7]).all()
        found[one.name] = {(row, col): int(labels[row, col])
                           for row, col in np.argwhere(labels != 255).tolist()}
    return found


def csv(folder, text, class_table=CLASSES, **how):
    return read_points(table(folder, text), class_table, **how)


@pytest.mark.parametrize("scale, expected", [
    (1, {(0, 0): 1, (3, 4): 1, (3, 5): 0}),
    (0.5, {(0, 0): 1, (1, 2): 1}),  # of two points in a pixel the last counts
    (0.4, {(0, 0): 1, (1, 1): 1})])  # 2 x 2 px: what is on the edge stays inside
def test_points_in_scene__rows_and_columns(tmp_path, scale, expected):
    points = csv(tmp_path, "scene,row,col,class\ns,0,0.4,wood\ns.tif,3,4.6,10\ns,3,4,wood\n")
    assert labelled(points, scene(tmp_path, height=4, width=6), scale=scale) == {"s": expected}


LON_LAT = {"EPSG:32632": (9.0000748, 48.7529725), "EPSG:32633": (15.0000748, 48.7529725)}


def test_points_in_scene__degrees_in_two_zones(tmp_path):
    """Row 4, col 5 of 1 m pixels from (500000, 5400000): x 500005.5, y 5399995.5."""
    rows = "".join(f"{lon},{lat},wood\n" for lon, lat in LON_LAT.values())
    points = csv(tmp_path, "lon,lat,class\n" + rows)
    scenes = [scene(tmp_path, str(code), where=georeference(code)) for code in (32632, 32633)]
    assert labelled(points, *scenes) == {"32632": {(4, 5): 1}, "32633": {(4, 5): 1}}


@pytest.mark.parametrize("kind", ["north up", "south up", "rotated", "oblong", "in degrees"])
def test_points_in_scene__on_every_kind_of_grid(tmp_path, kind):
    affine = {"north up": (1, 0, 5e5, 0, -1, 54e5), "south up": (1, 0, 5e5, 0, 1, 54e5),
              "rotated": (0.8, 0.6, 5e5, 0.6, -0.8, 54e5), "oblong": (2, 0, 5e5, 0, -0.5, 54e5),
              "in degrees": (1e-5, 0, 9, 0, -1e-5, 48)}[kind]
    code = 4326 if kind == "in degrees" else 32632
    a, b, c, d, e, f = affine
    x, y = a * 5.5 + b * 2.5 + c, d * 5.5 + e * 2.5 + f
    where = georeference(code, affine=affine)
    path = geojson(tmp_path / "p.json", point(x, y, **{"class": 30}))
    for points in (csv(tmp_path, f"x,y,class\n{x},{y},wood\n"), read_points(path, CLASSES)):
        assert labelled(points, scene(tmp_path, where=where)) == {"s": {(2, 5): 1}}
    if code == 4326:  # a turn around the earth
        points = csv(tmp_path, f"lon,lat,class\n{x - 360},{y},wood\n")
        assert labelled(points, scene(tmp_path, where=where)) == {"s": {(2, 5): 1}}


@pytest.mark.parametrize("code", [26917, 31467, 3857, 32633])
def test_points_in_scene__where_proj_has_them(tmp_path, code):
    pyproj = reference("pyproj")
    x, y = {26917: (5e5, 48e5), 31467: (35e5, 54e5), 3857: (1e6, 6e6), 32633: (5e5, 54e5)}[code]
    stated = {26917: 26717, 31467: 25832, 3857: 4326, 32633: 32632}[code]
    proj = pyproj.Transformer.from_crs(code, stated, always_xy=True)
    position = proj.transform(x + 5.5, y - 2.5)
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{stated}"}}
    path = geojson(tmp_path / "p.json", point(*position, **{"class": 30}), crs=name)
    where = georeference(code, x, y)
    assert labelled(read_points(path, CLASSES), scene(tmp_path, where=where)) == {"s": {(2, 5): 1}}


def feature(kind, coordinates, name):
    return {"type": "Feature", "properties": {"class": name},
            "geometry": {"type": kind, "coordinates": coordinates}}


def square(left, top, right, bottom):
    """A ring on the map of pixels' edges, rows counted from the top."""
    corners = (left, top), (right, top), (right, bottom), (left, bottom), (left, top)
    return [[500_000 + col, 5_400_000 - row] for col, row in corners]


def test_points_in_scene__polygons_lines_and_points_in_their_order(tmp_path, capsys):
    path = geojson(
        tmp_path / "p.geojson",
        feature("Polygon", [square(-5, 0, 4, 4), square(1, 1, 3, 3)], "water"),
        feature("LineString", [[500_000.5, 5_399_998.5], [500_005.5, 5_399_998.5]], "wood"),
        feature("MultiPolygon", [[square(8, 6, 30, 30)], [square(0, 7, 1, 8)]], "wood"),
        feature("Point", [500_003.5, 5_399_998.5], "water"),
        feature("Polygon", [square(6.1, 6.1, 6.4, 6.4)], "water"))
    found = labelled(read_points(path, CLASSES), scene(tmp_path, where=georeference()))["s"]
    rows = np.full((8, 10), ".")
    for (row, col), index in found.items():
        rows[row, col] = "aw"[index]
    assert ["".join(row) for row in rows] == [
        "aaaa......", "wwwaww....", "a..a......", "aaaa......", "..........", "..........",
        "........ww", "w.......ww"]
    line = capsys.readouterr().out
    assert "6 shapes: 5 used, 1 smaller than a pixel (feature 5), 21 px" in line
    assert "cover 3 px" in line  # the line over two pixels of the polygon, the point over the line


def test_points_in_scene__of_a_geopackage(tmp_path):
    content = struct.pack("<2sBBi", b"GP", 0, 1, 32632) + struct.pack(
        "<BIdd", 1, 1, 500_005.5, 5_399_997.5)
    points = read_points(geopackage(tmp_path / "p.gpkg", a=[("x", content)]))
    assert labelled(points, scene(tmp_path, where=georeference())) == {"s": {(2, 5): 0}}


def test_points_in_scene__counts_in_every_scene_it_lies_in(tmp_path):
    points = csv(tmp_path, "x,y,class,scene\n500005.5,5399997.5,wood,\n"
                 "500001.5,5399997.5,water,autumn\n")
    seasons = [scene(tmp_path, name, where=georeference()) for name in ("summer", "autumn")]
    assert labelled(points, *seasons) == {"summer": {(2, 5): 1}, "autumn": {(2, 5): 1, (2, 1): 0}}


@pytest.mark.parametrize("where, text, message", [
    (None, "x,y,class\n1,2,wood\n", "s.tif has no georeference"),
    (georeference(None), "lon,lat,class\n9,48,wood\n",
     r"p.csv is in EPSG:4326.*s.tif states no coordinate system"),
    (georeference(32767), "lon,lat,class\n9,48,wood\n", "s.tif states no coordinate system"),
    (georeference(), "x,y,class\n9.00007,48.75297,wood\n", "p.csv, line 2.*lon,lat"),
    (georeference(), "lat,lon,class\n9.00007,48.75297,wood\n", "p.csv, line 2.*exchanged"),
    (georeference(), "y,x,class\n500005,5399995,wood\n", "p.csv, line 2.*exchanged"),
    (georeference(), "x,y,scene,class\n500005,5399995,t,wood\n", "no scene of that name, 't',"),
    (georeference(), "scene,row,col,class\ns,8,1,wood\n", "row 8, column 1"),
])
def test_check_scenes__says_why_no_scene_holds_the_points(tmp_path, where, text, message):
    points = csv(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        labelled(points, scene(tmp_path, where=where))


def test_check_scenes__names_both_systems_where_pyproj_is_missing(tmp_path, monkeypatch):
    def missing(source, target):
        return None, "needs the package pyproj"

    monkeypatch.setattr("geo.crs._transformer", missing)
    points = csv(tmp_path, "x,y,class,epsg\n35e5,54e5,wood,31467\n")
    with pytest.raises(ValueError, match="p.csv.*s.tif: EPSG:31467 to EPSG:32632 needs.*pyproj"):
        labelled(points, scene(tmp_path, where=georeference()))


def test_check_scenes__positions_of_no_system_need_scenes_of_one(tmp_path):
    scenes = [scene(tmp_path, str(code), where=georeference(code)) for code in (32632, 32633)]
    points = csv(tmp_path, "x,y,class\n500005.5,5399997.5,wood\n")
    with pytest.raises(ValueError, match="p.csv.*32632.*32633"):
        labelled(points, *scenes)
    points = csv(tmp_path, "x,y,class,scene\n500005.5,5399997.5,wood,32633\n")
    assert labelled(points, *scenes) == {"32632": {}, "32633": {(2, 5): 1}}


def test_label_count__each_point_has_one_outcome(tmp_path, capsys):
    pixels = np.ones((8, 10), np.uint8)
    pixels[0] = 0
    cells = [(2, 1, 10), (2, 1, 10), (3, 1, 30), (3, 1, 10), (0, 4, 10), (7, 9, 30), (7, 8, 30),
             (7, 7, 30), (7, 6, 30), (7, 5, 30), (7, 4, 30)]
    text = "".join(f"s,{row},{col},{name}\n" for row, col, name in cells)
    points = csv(tmp_path, "scene,row,col,class\n" + text + "s,99,1,10\ns,1,1,\n")
    place = scene(tmp_path, pixels=pixels, nodata=0)
    found = labelled(points, place)
    captured = capsys.readouterr()
    assert len(found["s"]) == 8
    assert ("p.csv: 12 points: 8 used, 1 outside every scene (line 13), 1 on no data (line 6), "
            "1 in another one's pixels (line 2), 1 contradicting a later one (line 4), "
            "1 more without a class yet") in captured.out
    assert "1 of 12 points lie outside every scene (line 13)" in captured.err
    assert "1 of 12 points have another class than a later one" in captured.err
    labelled(points._replace(max_outside=1 / 12), place)  # which is not too many
    with pytest.raises(ValueError, match="p.csv, line 13"):
        labelled(points._replace(max_outside=0.0), place)


def test_label_count__is_the_same_in_blocks(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    text = "".join(f"s,{row},{col},{name}\n" for row, col, name in zip(
        random.integers(8, size=60), random.integers(10, size=60), random.choice([10, 30], 60)))
    points = csv(tmp_path, "scene,row,col,class\n" + text)
    source = RawDataset(points.class_table, [scene(tmp_path)], points=points)
    counts = []
    for block in (512, 3):
        monkeypatch.setattr("sources.label_count.BLOCK", block)
        count = LabelCount(points)
        with SceneReader(source.scenes[0], source) as reader:
            count.add(source.scenes[0], reader)
        counts.append([pixels.tolist() for pixels in count.pixels.values()])
    assert counts[0] == counts[1]
    assert np.sum(counts[0]) == 60 and sum(counts[0][0]) == len({line.rsplit(",", 1)[0]
                                                                 for line in text.split()})


def test_read_points__strict_allows_no_point_outside(tmp_path):
    assert csv(tmp_path, "x,y,class\n1,2,wood\n", strict=True).max_outside == 0
