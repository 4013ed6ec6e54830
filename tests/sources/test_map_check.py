"""A finished map is scored at points whose answers are known by eye."""

import json

import numpy as np
import pytest

import evaluate
from geo.raster import write_geotiff

CLASSES = "id,name\n10,water\n20,wood\n0,ignore\n"


def write_map(path, values=(10, 20), nodata=None, bands=1):
    """20 x 30 px: the left third has the first value, the others the second."""
    pixels = np.full((20, 30, bands), values[1], np.uint8)
    pixels[:, :10] = values[0]
    write_geotiff(path, [pixels], 20, 30, bands, "uint8", nodata=nodata)
    path.with_name("classes.csv").write_text(CLASSES)
    return path


def write_points(path, *points):
    """points: (row, col, class)."""
    lines = [f"map,{row},{col},{name}" for row, col, name in points]
    path.write_text("\n".join(["scene,row,col,class", *lines]) + "\n")
    return path


def check(tmp_path, points, *words):
    path = write_points(tmp_path / "points.csv", *points)
    return evaluate.main(evaluate.parse_args(
        ["--map", str(tmp_path / "map.tif"), "--check-points", str(path), *map(str, words)]))


POINTS = ([(row, 3, "water") for row in range(8)] + [(row, 5, "wood") for row in range(2)]
          + [(row, 20, "wood") for row in range(10)])


def test_check_map__by_hand(tmp_path, capsys):
    write_map(tmp_path / "map.tif")
    scores = check(tmp_path, POINTS, "--classes", tmp_path / "classes.csv")
    assert scores["confusion"] == [[8, 0], [2, 10]]
    assert scores["points"] == 20
    assert scores["pixel_accuracy"] == 0.9
    # A third of the map is mapped as water, of which a fifth is wood.
    assert scores["weighted_by_area"]["overall"] == pytest.approx(0.8 / 3 + 2 / 3)
    water, wood = scores["areas"]
    assert water["mapped_percent"] == pytest.approx(100 / 3)
    assert water["adjusted_percent"] == pytest.approx(80 / 3)
    printed = capsys.readouterr().out
    assert "drawn at random" in printed
    assert "side by side" not in printed
    assert json.loads((tmp_path / "map_check.json").read_text()) == scores
    assert {"map_check.csv", "map_check.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("points, name", [(POINTS[-3:], "water"), (POINTS[:11], "wood")])
def test_check_map__names_the_class_of_fewer_than_two_points(tmp_path, capsys, points, name):
    write_map(tmp_path / "map.tif")
    check(tmp_path, points, "--classes", tmp_path / "classes.csv")
    printed = capsys.readouterr().out
    assert f"the map shows {name}\n" in printed and "nan" not in printed
    assert "every +- is too small" in printed


def test_check_map__refuses_polygons_whose_pixels_are_alike(tmp_path):
    write_map(tmp_path / "map.tif")
    points = tmp_path / "points.csv"
    points.write_text('wkt,class\n"POLYGON ((1 1, 5 1, 5 5, 1 1))",wood\n"POINT (3 3)",wood\n')
    with pytest.raises(ValueError, match="points.csv: 1 of its 2"):
        evaluate.main(evaluate.parse_args([
            "--map", str(tmp_path / "map.tif"), "--check-points", str(points), "--classes",
            str(tmp_path / "classes.csv")]))


def test_check_map__ids_without_names_are_classes(tmp_path, capsys):
    write_map(tmp_path / "map.tif")
    points = [(row, col, {"water": 10, "wood": 20}[name]) for row, col, name in POINTS]
    scores = check(tmp_path, [*points, (3, 3, 7)], "--out", tmp_path / "out")
    assert [row["name"] for row in scores["classes"]] == ["7", "10", "20"]
    assert scores["confusion"] == [[0, 1, 0], [0, 8, 0], [0, 2, 10]]
    assert (tmp_path / "out" / "map_check.json").is_file()
    assert "no map.tif.aux.xml names its classes" in capsys.readouterr().out


def test_check_map__names_beside_the_map_and_points_without_a_class(tmp_path, capsys):
    write_map(tmp_path / "map.tif", (0, 255), nodata=255)
    (tmp_path / "map.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>water</Category>"
        "<Category>wood</Category></CategoryNames></PAMRasterBand></PAMDataset>")
    scores = check(tmp_path, [*POINTS, (99, 0, "wood"), (0, 0, "")])
    assert scores["confusion"] == [[8, 0], [2, 0]]
    assert scores["left_out"] == {"outside the map": 1, "where the map has no class": 10,
                                  "without a class yet": 1, "without a position": 0}
    printed = capsys.readouterr().out
    assert "1 outside the map" in printed and "1 without a class yet" in printed
    assert "taken as those of the map's 20 x 30 px" in printed


def test_check_map__several_ids_of_one_name_are_one_class(tmp_path):
    write_map(tmp_path / "map.tif")
    (tmp_path / "classes.csv").write_text("id,name\n9,water\n10,water\n20,wood\n")
    scores = check(tmp_path, POINTS, "--classes", tmp_path / "classes.csv")
    assert scores["confusion"] == [[8, 0], [2, 10]]
    assert [row["class"] for row in scores["areas"]] == ["water", "wood"]


def test_check_map__a_class_named_by_a_number_comes_before_the_id(tmp_path):
    write_map(tmp_path / "map.tif", (0, 1))
    (tmp_path / "map.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>1</Category>"
        "<Category>2</Category></CategoryNames></PAMRasterBand></PAMDataset>")
    scores = check(tmp_path, [(0, 3, "1.0"), (0, 20, "2.0"), (1, 20, "2")])
    assert scores["confusion"] == [[1, 0], [0, 2]]


@pytest.mark.parametrize("values, bands, points, words, where", [
    ((10, 21), 1, POINTS, ["--classes", "classes.csv"], "map.tif holds the id 21.*--classes"),
    ((10, 20), 3, POINTS, ["--classes", "classes.csv"], "map.tif has 3 bands"),
    ((10, 20), 1, [(99, 0, "wood")], ["--classes", "classes.csv"], "points.csv: 1 of 1 points"),
    ((10, 0), 1, [(9, 15, "wood")], ["--classes", "classes.csv"], "points.csv: none of its 1"),
    ((10, 20), 1, POINTS, [], "points.csv, line 2")])
def test_check_map__refuses_in_one_line(tmp_path, monkeypatch, values, bands, points, words,
                                        where):
    monkeypatch.chdir(tmp_path)
    write_map(tmp_path / "map.tif", values, bands=bands)
    with pytest.raises(ValueError, match=where) as error:
        check(tmp_path, points, *words)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("map_check*"))


def test_check_map__names_a_map_that_is_missing_before_its_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match="map.tif"):
        check(tmp_path, POINTS)
