"""maps.py: files beside a class map fit it, other programs read them, and all appear or none."""

import csv
import tracemalloc
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from geo import maps
from geo.maps import RowBlock, Summary, write_areas, write_legend, write_maps
from geo.raster import open_raster, write_geotiff
from sources.labels import land_classes
from sources.points import read_points

META = {"classes": ["water", 'wood & "field" <1>', "sand"],
        "colours": [[0, 0, 255], [0, 120, 9], [250, 220, 90]]}
UTM_TAGS = [
    (33550, "d", 3, (2.0, 2.0, 0.0), True),
    (33922, "d", 6, (0, 0, 0, 500000.0, 4600000.0, 0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631), True)]
MAPS = ["areas.csv", "classes.qml", "classes.tif", "classes.tif.aux.xml", "overlay.png"]


@pytest.fixture
def scene(tmp_path):
    pixels = np.zeros((30, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "scene.tif", pixels, photometric="rgb", extratags=UTM_TAGS)
    with open_raster(tmp_path / "scene.tif") as raster:
        yield raster


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def predicted(probabilities=False):
    """A 30 x 40 px scene of three classes, in one RowBlock; the first pixel is no data."""
    random = np.random.default_rng(0)
    bands = random.integers(0, 256, (30, 40, 5 if probabilities else 1)).astype(np.uint8)
    bands[..., 0] = random.integers(0, 3, (30, 40))
    bands[0, 0] = 0
    bands[0, 0, 0] = 255
    return RowBlock(bands, np.full((30, 40, 3), 90, np.uint8))


def split(block, *cuts):
    """A RowBlock as several, cut at these rows."""
    rows = zip([0, *cuts], [*cuts, len(block.bands)])
    return [RowBlock(*(part[start:end] for part in block)) for start, end in rows]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_photo(path, height, width):
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


# File by file


def test_write_legend__is_in_the_form_of_gdal_and_qgis(tmp_path):
    write_legend(tmp_path / "a.tif", META["classes"] + ["a\x07b"], META["colours"] + [[1, 2, 3]])
    content = (tmp_path / "a.tif.aux.xml").read_bytes()
    assert content.startswith(b"<PAMDataset>")  # GDAL reads nothing that begins otherwise
    band = ElementTree.fromstring(content).find("PAMRasterBand")
    assert band.get("band") == "1"
    categories = [category.text for category in band.find("CategoryNames")]
    assert categories == META["classes"] + ["ab"]
    root = ElementTree.parse(tmp_path / "a.qml").getroot()
    assert root.tag == "qgis" and root.find("pipe/rasterrenderer").get("type") == "paletted"
    entries = [dict(entry.attrib) for entry in root.iter("paletteEntry")]
    assert [entry["value"] for entry in entries] == ["0", "1", "2", "3"]
    assert entries[1] == {
        "value": "1", "label": 'wood & "field" <1>', "color": "#007809", "alpha": "255"}


@pytest.mark.filterwarnings("ignore")  # rasterio warns of a file without georeference
def test_write_band_names__are_read_by_rasterio(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    write_geotiff(tmp_path / "a.tif", [np.zeros((2, 2, 3), np.uint8)], 2, 2, 3, "uint8")
    maps.write_band_names(tmp_path / "a.tif", META["classes"])
    with rasterio.open(tmp_path / "a.tif") as file:
        assert list(file.descriptions) == META["classes"]


def test_write_areas__by_hand(tmp_path):
    write_areas(tmp_path / "a.csv", ["water", "wood"], np.array([30, 10] + [0] * 253 + [999]), 50.0)
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").split() == [
        "class,pixels,share_percent,area_ha", "water,30,75.000,7.5000", "wood,10,25.000,2.5000"]
    write_areas(tmp_path / "b.csv", ["water"], np.array([4] + [0] * 255), None)
    assert (tmp_path / "b.csv").read_text(encoding="utf-8").split() == [
        "class,pixels,share_percent", "water,4,100.000"]


def test_write_points__can_be_read_by_prepare_data_once_classes_are_given(tmp_path, scene):
    block = predicted()
    write_maps(split(block, 13), scene, META, tmp_path, suggest=2)
    first, second = read_rows(tmp_path / "scene_points.csv")
    row, col = int(first["row"]), int(first["col"])
    assert (first["number"], first["scene"], first["class"]) == ("1", "scene", "")
    assert float(first["x"]) == 500000 + (col + 0.5) * 2
    assert float(first["y"]) == 4600000 - (row + 0.5) * 2
    assert first["predicted"] == META["classes"][block.bands[row, col, 0]]
    classes = land_classes([(10, "water", None), (30, "sand", None)])
    with pytest.raises(ValueError, match="scene_points.csv.*line 2"):
        read_points(tmp_path / "scene_points.csv", classes)
    with open(tmp_path / "labelled.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        writer.writerows({**point, "class": "sand"} for point in (first, second))
    points = read_points(tmp_path / "labelled.csv", classes)
    rows, cols = scene.georeference.to_pixel(*points.positions.T)
    assert points.on_map and points.indices.tolist() == [1, 1]
    assert (int(rows[0]), int(cols[0])) == (row, col)


def test_write_suggested__states_that_there_is_no_room_for_all(tmp_path, scene, capsys):
    write_maps(split(predicted(), 13), scene, META, tmp_path, suggest=50)
    points = read_rows(tmp_path / "scene_points.csv")  # of 30 x 40 px, so at most 3 x 3
    assert 2 <= len(points) <= 9
    assert capsys.readouterr().out.startswith(
        f"scene.tif: {len(points)} points to label in place of 50, because there is no room ")


def test_write_points__without_a_map_are_pixels_of_the_file(tmp_path):
    with open_raster(write_photo(tmp_path / "photo.png", 60, 80)) as raster:
        raster.height = 30  # as predict.py has it at scale 0.5
        raster.width = 40
        write_maps([predicted()], raster, META, tmp_path, suggest=4, file_size=(60, 80))
    points = read_rows(tmp_path / "photo_points.csv")
    assert list(points[0]) == ["number", "scene", "row", "col", "predicted", "class"]
    places = [(int(point["row"]), int(point["col"])) for point in points]
    assert all(row % 2 and col % 2 for row, col in places)  # below and right of the centre
    assert max(row for row, _ in places) > 30 and max(col for _, col in places) > 40


def test_write_points__last_row_of_a_scene_of_odd_size_lies_in_the_file(tmp_path):
    with open_raster(write_photo(tmp_path / "photo.png", 99, 99)) as raster:
        raster.height = raster.width = 50  # as predict.py has it at scale 0.5
        points = np.array([49]), np.array([0]), np.array([0])
        maps.write_points(tmp_path / "points.csv", points, raster, ["a"], (99, 99))
    assert read_rows(tmp_path / "points.csv")[0]["row"] == "98"


def test_summary__overview_shows_the_pixels_it_stands_for(monkeypatch, scene):
    sizes = [(1, 2000), (2001, 5), (30000, 10), (30000, 31000)]
    assert [maps.overview_stride(*size) for size in sizes] == [1, 2, 15, 16]
    monkeypatch.setattr(maps, "OVERVIEW_SIDE", 14)  # every third row and column of 30 x 40
    block = predicted()
    summary = Summary(scene)
    top = 0
    for part in split(block, 13, 14):
        summary.add(part._replace(rgb=part.rgb[-top % 3::3, ::3]))
        top += len(part.bands)
    assert np.array_equal(summary.classes, block.bands[::3, ::3, 0])
    assert summary.rgb.shape == (10, 14, 3)
    assert summary.counts.sum() == 1200 and summary.counts[255] == 1


# All files of a scene


def test_write_maps__with_probabilities_and_points(scene, out):
    block = predicted(probabilities=True)
    path = write_maps(split(block, 13), scene, META, out, probabilities=True, suggest=2)
    assert path == out / "scene_classes.tif"
    assert names(out) == sorted(f"scene_{name}" for name in [
        *MAPS, "confidence.tif", "points.csv", "points.png", "probabilities.tif",
        "probabilities.tif.aux.xml"])
    for name, wanted, nodata in [("classes", block.bands[..., :1], 255),
                                 ("confidence", block.bands[..., 1:2], 0),
                                 ("probabilities", block.bands[..., 2:], None)]:
        with open_raster(out / f"scene_{name}.tif") as raster:
            assert np.array_equal(raster.read(0, 0, 30, 40), wanted)
            assert raster.nodata == nodata
            assert raster.georeference.to_map(0, 0) == (500000, 4600000)
            assert (raster.palette is not None) == (name == "classes")
    bands = ElementTree.parse(out / "scene_probabilities.tif.aux.xml").getroot()
    assert [band.find("Description").text for band in bands] == META["classes"]
    with Image.open(out / "scene_points.png") as image:
        assert image.height > 30  # the legend comes below


def test_write_maps__what_belongs_to_the_map_before_goes_and_points_stay(scene, out, capsys):
    kept = ["scene_points.csv", "scene_2_classes.gpkg", "other_classes.gpkg"]
    stale = ["scene_classes.gpkg", "scene_classes.gpkg-wal", "scene_confidence.tif.aux.xml",
             "scene_mutual_information.tif", "scene_classes.tif.ovr", "scene_probabilities.tif"]
    for name in kept + stale:
        (out / name).touch()
    write_maps(split(predicted(), 13), scene, META, out)
    assert names(out) == sorted([*(f"scene_{name}" for name in MAPS), *kept])
    printed = capsys.readouterr().out
    assert all(f"removed {out / name}" in printed for name in stale)


def test_write_maps__files_appear_when_all_are_complete_also_for_an_odd_name(scene, out):
    scene.path = scene.path.with_name("..tif")
    seen = []

    def row_blocks():
        yield from split(predicted(), 13)
        seen.extend(path.name for path in out.iterdir() if not path.is_dir())

    assert write_maps(row_blocks(), scene, META, out) == out / "._classes.tif"
    assert seen == []
    assert names(out) == [f"._{name}" for name in MAPS]


@pytest.mark.parametrize("fails", ["row_blocks", "write_legend", "write_points", "save_png"])
def test_write_maps__interrupted_leaves_the_old_files(scene, out, monkeypatch, fails):
    old = out / "scene_classes.tif"
    old.write_text("the map of yesterday", encoding="utf-8")

    def interrupted(*args):
        raise KeyboardInterrupt

    def row_blocks():
        first, second = split(predicted(probabilities=True), 13)
        yield first
        if fails == "row_blocks":
            raise KeyboardInterrupt
        yield second

    if fails != "row_blocks":
        monkeypatch.setattr(maps, fails, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_maps(row_blocks(), scene, META, out, probabilities=True, suggest=1)
    assert names(out) == ["scene_classes.tif"]
    assert old.read_text(encoding="utf-8") == "the map of yesterday"


@pytest.mark.parametrize("written", [0, 1, 3])
def test_write_maps__a_full_disk_leaves_nothing(scene, out, monkeypatch, written):
    calls = []

    def full(*args, **options):
        calls.append(args)
        if len(calls) > written:
            raise OSError("no space left")
        write_geotiff(*args, **options)

    monkeypatch.setattr(maps, "write_geotiff", full)
    with pytest.raises(OSError, match="no space"):
        write_maps([predicted(probabilities=True)], scene, META, out, probabilities=True)
    assert len(calls) == written + 1
    assert names(out) == []


def test_write_rasters__memory_holds_a_few_row_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("geo.tiff.CACHE_BYTES", 0)
    with open_raster(write_photo(tmp_path / "scene.png", 8, 8)) as raster:
        raster.height = 4096
        raster.width = 8192
        stride = maps.overview_stride(4096, 8192)
        rgb = np.zeros((256 // stride, 8192 // stride, 3), np.uint8)
        row_blocks = (RowBlock(np.zeros((256, 8192, 1), np.uint8), rgb)
                      for _ in range(16))  # 34 MB in all
        tracemalloc.start()
        maps.write_rasters(tmp_path / "scene", row_blocks, raster, META, False, Summary(raster))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 45e6
