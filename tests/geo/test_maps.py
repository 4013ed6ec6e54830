"""What is written beside a class map says what it shows, in forms that other programs read; and all of it or nothing."""

import csv
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from geo import maps
from geo.maps import RowBlock, write_areas, write_legend, write_maps
from geo.raster import open_raster, write_geotiff
from sources.labels import land_classes, read_points

FACTS = {"classes": ["water", 'wood & "field" <1>', "sand"], "colours": [[0, 0, 255], [0, 120, 9], [250, 220, 90]]}
PLACE = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 500000.0, 4600000.0, 0), True),
         (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631), True)]


@pytest.fixture
def scene(tmp_path):
    tifffile.imwrite(tmp_path / "scene.tif", np.zeros((30, 40, 3), np.uint8), photometric="rgb", extratags=PLACE)
    with open_raster(tmp_path / "scene.tif") as raster:
        yield raster


def strips(probabilities=False, cut=13):
    """A 30 x 40 px scene of three classes, whole and in two strips; the first pixel is no data."""
    random = np.random.default_rng(0)
    layers = random.integers(0, 256, (30, 40, 5 if probabilities else 1)).astype(np.uint8)
    layers[..., 0] = random.integers(0, 3, (30, 40))
    layers[0, 0], layers[0, 0, 0], doubt = 0, 255, np.zeros((30, 40))
    doubt[0, 0] = -np.inf
    doubt[10, 20], doubt[25, 5] = 1, 0.1  # all others are drawn a hundred thousand times more seldom
    whole = RowBlock(layers, np.full((30, 40, 3), 90, np.uint8), doubt)
    return whole, [RowBlock(*(part[:cut] for part in whole)), RowBlock(*(part[cut:] for part in whole))]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_legend_is_gdals_and_qgis_form(tmp_path):
    write_legend(tmp_path / "a.tif", FACTS["classes"] + ["a\x07b"], FACTS["colours"] + [[1, 2, 3]])
    assert (tmp_path / "a.tif.aux.xml").read_bytes().startswith(b"<PAMDataset>")  # else GDAL reads none of it
    root = ElementTree.parse(tmp_path / "a.tif.aux.xml").getroot()
    assert root.find("PAMRasterBand").get("band") == "1"
    assert [category.text for category in root.find("PAMRasterBand/CategoryNames")] == FACTS["classes"] + ["ab"]
    root = ElementTree.parse(tmp_path / "a.qml").getroot()
    assert root.tag == "qgis" and root.find("pipe/rasterrenderer").get("type") == "paletted"
    entries = [dict(entry.attrib) for entry in root.iter("paletteEntry")]
    assert [entry["value"] for entry in entries] == ["0", "1", "2", "3"]
    assert entries[1] == {"value": "1", "label": 'wood & "field" <1>', "color": "#007809", "alpha": "255"}
    assert "&amp; &quot;field&quot; &lt;1&gt;" in (tmp_path / "a.qml").read_text(encoding="utf-8")


def test_rasterio_reads_the_bands_names(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    write_geotiff(tmp_path / "a.tif", [np.zeros((2, 2, 3), np.uint8)], 2, 2, 3, "uint8")
    maps.write_band_names(tmp_path / "a.tif", FACTS["classes"])
    with rasterio.open(tmp_path / "a.tif") as file:
        assert list(file.descriptions) == FACTS["classes"]


def test_areas_by_hand(tmp_path):
    write_areas(tmp_path / "a.csv", ["water", "wood"], np.array([30, 10] + [0] * 253 + [999]), 50.0)
    assert (tmp_path / "a.csv").read_text().split() == [
        "class,pixels,share_percent,area_ha", "water,30,75.000,7.5000", "wood,10,25.000,2.5000"]
    write_areas(tmp_path / "b.csv", ["water"], np.array([4] + [0] * 255), None)
    assert (tmp_path / "b.csv").read_text().split() == ["class,pixels,share_percent", "water,4,100.000"]


def test_all_files_of_a_scene(tmp_path, scene):
    whole, parts = strips(probabilities=True)
    out = tmp_path / "out"
    out.mkdir()
    path = write_maps(parts, scene, FACTS, out, probabilities=True, suggest=2)
    assert path == out / "scene_classes.tif" and names(out) == [
        "scene_areas.csv", "scene_classes.qml", "scene_classes.tif", "scene_classes.tif.aux.xml", "scene_confidence.tif",
        "scene_overlay.png", "scene_points.csv", "scene_points.png", "scene_probabilities.tif",
        "scene_probabilities.tif.aux.xml"]
    for name, wanted, nodata in [("classes", whole.bands[..., :1], 255), ("confidence", whole.bands[..., 1:2], 0),
                                 ("probabilities", whole.bands[..., 2:], None)]:
        with open_raster(out / f"scene_{name}.tif") as raster:
            assert np.array_equal(raster.read(0, 0, 30, 40), wanted) and raster.nodata == nodata
            assert raster.georeference.to_map(0, 0) == (500000, 4600000) 
            assert (raster.palette is not None) == (name == "classes")
    bands = ElementTree.parse(out / "scene_probabilities.tif.aux.xml").getroot()
    assert [band.find("Description").text for band in bands] == FACTS["classes"]
    with Image.open(out / "scene_points.png") as picture:
        assert picture.height > 30


def test_files_of_a_scene_with_an_odd_name_are_written_out_of_sight_first(tmp_path, scene):
    out = tmp_path / "out"
    out.mkdir()
    scene.path = tmp_path / "..tif"
    seen = []

    def watched():
        yield from strips()[1]
        seen.extend(path.name for path in out.iterdir() if not path.is_dir())
    assert write_maps(watched(), scene, FACTS, out) == out / "._classes.tif"
    assert seen == [] and names(out) == [f".{name}" for name in (
        "_areas.csv", "_classes.qml", "_classes.tif", "_classes.tif.aux.xml", "_overlay.png")]


def test_points_to_label_are_read_by_prepare_data_once_a_class_is_given(tmp_path, scene):
    whole, parts = strips()
    write_maps(parts, scene, FACTS, tmp_path, suggest=2)
    with open(tmp_path / "scene_points.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["scene"], first["row"], first["col"], first["class"]) == ("scene", "10", "20", "")
    assert (float(first["x"]), float(first["y"])) == (500000 + 20.5 * 2, 4600000 - 10.5 * 2)
    assert first["predicted"] == FACTS["classes"][whole.bands[10, 20, 0]]
    (tmp_path / "clicked.csv").write_text("scene,row,col,x,y,predicted,class\n" + "".join(
        f"scene,{line['row']},{line['col']},{line['x']},{line['y']},{line['predicted'][:4]},sand\n" for line in (first, second)))
    points = read_points(tmp_path / "clicked.csv", land_classes([(10, "water", None), (30, "sand", None)]))
    rows, cols = scene.georeference.to_pixel(points.first, points.second)
    assert points.on_map and np.floor(rows)[0] == 10 and np.floor(cols)[0] == 20 and points.indices.tolist() == [1, 1]
    with pytest.raises(ValueError, match="line 2: give x, y, and a class"):
        read_points(tmp_path / "scene_points.csv", land_classes([(10, "water", None)]))


def test_no_more_than_some_strips_are_held(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "scene.png")
    with open_raster(tmp_path / "scene.png") as raster:
        raster.height, raster.width = 4096, 8192
        every = maps.overview_stride(4096, 8192)
        parts = (RowBlock(np.zeros((256, 8192, 1), np.uint8), np.zeros((256 // every, 8192 // every, 3), np.uint8), None)
                 for _ in range(16))  # 34 MB in all
        tracemalloc.start()
        maps.write_rasters(tmp_path / "scene", parts, raster, FACTS, False, maps.Summary(raster))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 45e6


def write_photo(path, height, width):
    """A black render; returns its path."""
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


def test_points_of_a_scene_off_the_map_are_pixels_of_its_file(tmp_path):
    with open_raster(write_photo(tmp_path / "photo.png", 60, 80)) as raster:
        raster.height, raster.width = 30, 40  # as predict.py has it at scale 0.5
        _, parts = strips()
        write_maps(parts, raster, FACTS, tmp_path, suggest=1, file_size=(60, 80))
    line = (tmp_path / "photo_points.csv").read_text().split("\n")[:2]
    assert line[0].strip() == "scene,row,col,predicted,class" and line[1].startswith("photo,21,41,")


def test_a_point_in_the_last_row_of_a_scene_of_odd_size_lies_in_its_file(tmp_path):
    with open_raster(write_photo(tmp_path / "photo.png", 99, 99)) as raster:
        raster.height = raster.width = 50  # as predict.py has it at scale 0.5
        maps.write_points(tmp_path / "points.csv", (np.array([49]), np.array([0]), np.array([0])), raster, ["a"], (99, 99))
    assert (tmp_path / "points.csv").read_text().split("\n")[1].startswith("photo,98,0,")


@pytest.mark.parametrize("fails", ["strips", "write_legend", "write_points", "save_png"])
def test_interrupted_at_any_point_nothing_is_left(tmp_path, scene, monkeypatch, fails):
    _, parts = strips(probabilities=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "scene_classes.tif").write_text("the map of yesterday")

    def interrupted(*args):
        raise KeyboardInterrupt

    def half():
        yield parts[0]
        raise KeyboardInterrupt
    if fails != "strips":
        monkeypatch.setattr(maps, fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_maps(half() if fails == "strips" else parts, scene, FACTS, out, probabilities=True, suggest=1)
    assert names(out) == ["scene_classes.tif"] and (out / "scene_classes.tif").read_text() == "the map of yesterday"


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_full_disk_at_any_raster_leaves_nothing(tmp_path, scene, monkeypatch, which):
    calls, out = [], tmp_path / "out"
    out.mkdir()

    def full(*args, **options):
        calls.append(args)
        if len(calls) > which:
            raise OSError("no space left")
        write_geotiff(*args, **options)
    monkeypatch.setattr(maps, "write_geotiff", full)
    with pytest.raises(OSError, match="no space"):
        write_maps(strips(probabilities=True)[1], scene, FACTS, out, probabilities=True)
    assert names(out) == []


def test_overview_is_bounded_and_shows_the_pixels_it_stands_for(tmp_path, monkeypatch, scene):
    assert [maps.overview_stride(*size) for size in [(1, 2000), (2001, 5), (30000, 10), (30000, 31000)]] == [1, 2, 15, 16]
    monkeypatch.setattr(maps, "OVERVIEW_SIDE", 14)  # each third of 30 x 40
    whole, _ = strips()
    parts = [RowBlock(whole.bands[a:b], whole.rgb[-a % 3::3, ::3][:len(range(-a % 3, b - a, 3))], whole.uncertainty[a:b])
             for a, b in [(0, 13), (13, 14), (14, 30)]]
    summary = maps.Summary(scene)
    maps.write_rasters(tmp_path / "a", parts, scene, FACTS, False, summary)
    counts, rgb, classes = summary.counts, summary.rgb, summary.classes
    assert np.array_equal(classes, whole.bands[::3, ::3, 0]) and rgb.shape == (10, 14, 3)
    assert counts.sum() == 1200 and counts[255] == 1
