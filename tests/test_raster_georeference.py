"""raster.py: where a raster lies on the map, and that it is still there when strips are written to a GeoTIFF."""

import tracemalloc

import numpy as np
import pytest
import tifffile

from raster import Georeference, open_raster, write_geotiff
from test_raster import picture

POINT, PROJECTED, GEOGRAPHIC, METRE, FOOT = (1025, 0, 1, 2), (1024, 0, 1, 1), (1024, 0, 1, 2), 9001, 9002
NORTH_UP = {33550: (10.0, 10.0, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0)}
ROTATED = {34264: (8.0, 6.0, 0.0, 300.0, 6.0, -8.0, 0.0, 900.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)}


def reference(tags, *keys, unit=METRE):
    """Georeference of tags with GeoKeys."""
    directory = (1, 1, 0, len(keys) + 1, *sum(keys, ()), 3076, 0, 1, unit)
    return Georeference({**tags, 34735: directory})


def test_map_coordinates_are_of_pixel_corners(tmp_path):
    area, point = reference(NORTH_UP, PROJECTED), reference(NORTH_UP, PROJECTED, POINT)
    assert area.to_map(0, 0) == (500000, 4600000) and area.to_map(2, 3) == (500030, 4599980)
    assert point.to_map(0, 0) == (499995, 4600005) and point.to_map(0.5, 0.5) == (500000, 4600000)
    rotated = reference(ROTATED, PROJECTED)
    assert rotated.to_map(0, 0) == (300, 900) and rotated.to_map(10, 100) == (1160, 1420)
    for place in (area, point, rotated):
        assert np.allclose(place.to_pixel(*place.to_map(12.25, 7.5)), (12.25, 7.5))
    x, y = area.to_map(np.array([0, 2]), np.array([0, 3]))
    assert x.tolist() == [500000, 500030] and y.tolist() == [4600000, 4599980]


@pytest.mark.parametrize("tags", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("keys", [(PROJECTED,), (PROJECTED, POINT)])
def test_a_window_lies_where_its_pixels_lay(tags, keys):
    whole = reference(tags, *keys)
    for factor in (1, 10):
        part = whole.window(30, 40, factor)
        for row, col in [(0, 0), (0.5, 0.5), (7, 3)]:
            assert np.allclose(part.to_map(row, col), whole.to_map(30 + factor * row, 40 + factor * col), rtol=1e-14)
    assert whole.tags[34735] == part.tags[34735] and whole.affine == reference(tags, *keys).affine


@pytest.mark.parametrize("keys, unit, metres", [
    ((PROJECTED,), METRE, 10), ((PROJECTED,), FOOT, 3.048), ((PROJECTED,), 9999, None), ((GEOGRAPHIC,), METRE, None),
    ((PROJECTED, (3072, 0, 1, 3857)), METRE, None), ((PROJECTED, (3072, 0, 1, 32631)), METRE, 10)])
def test_ground_sample_distance_is_none_unless_a_map_unit_is_a_length(keys, unit, metres):
    for tags in (NORTH_UP, ROTATED):
        assert reference(tags, *keys, unit=unit).gsd_m == (None if metres is None else pytest.approx(metres))
    assert Georeference(NORTH_UP).gsd_m is None


def test_georeference_palette_and_nodata_survive_writing(tmp_path):
    palette = np.arange(768).reshape(256, 3).astype(np.uint8)
    tags = {**NORTH_UP, 34735: (1, 1, 0, 2, *PROJECTED, 1026, 34737, 7, 0), 34736: (1.5, 0.1), 34737: "Région|"}
    write_geotiff(tmp_path / "a.tif", [picture(bands=1)], 70, 90, 1, "uint8", palette=palette, nodata=255,
                  georeference=Georeference(tags))
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference.tags == tags and scene.nodata == 255 and np.array_equal(scene.palette, palette)
    write_geotiff(tmp_path / "b.tif", [picture(bands=1)], 70, 90, 1, "uint8")
    scene = open_raster(tmp_path / "b.tif")
    assert scene.georeference is None and scene.nodata is None and scene.palette is None


# Writing

@pytest.fixture
def two_writers(monkeypatch):
    """tifffile compresses in two threads, as on a larger machine, and so collects tiles before it writes them."""
    monkeypatch.setattr(tifffile.TiffWriter, "_maxworkers", staticmethod(lambda *sizes: 2), raising=False)


@pytest.mark.parametrize("dtype, bands", [
    ("uint8", 1), ("uint16", 1), ("int16", 2), ("uint8", 3), ("uint16", 10), ("float32", 4)])
def test_strips_of_any_height_are_written_as_one(tmp_path, two_writers, dtype, bands):
    pixels = picture(600, 530, bands, dtype)
    cuts = [pixels[:1], pixels[1:300], pixels[300:300], pixels[300:512], pixels[512:]]
    strips = (cut[..., 0] if bands == 1 else cut for cut in cuts)
    write_geotiff(tmp_path / "a.tif", strips, 600, 530, bands, dtype, nodata=3, level=1)
    with open_raster(tmp_path / "a.tif") as scene:
        assert np.array_equal(scene.read(0, 0, 600, 530), pixels) and scene.dtype == dtype and scene.nodata == 3
        assert scene.segment == (512, 512)


@pytest.mark.parametrize("shapes, dtype, words", [
    ([(9, 600)], "uint8", "only 9 of 10 rows"), ([(9, 600), (9, 600)], "uint8", "18 by now"),
    ([(10, 600), (1, 600)], "uint8", "11 by now"), ([(10, 599)], "uint8", "599, 1"),
    ([(10, 600, 2)], "uint8", "600, 2"), ([(10, 600)], "int64", "int64")])
def test_rows_that_do_not_fit_leave_nothing_behind(tmp_path, shapes, dtype, words):
    (tmp_path / "a.tif").write_text("the map of yesterday")
    with pytest.raises(ValueError, match=f"a.tif: .*{words}"):
        write_geotiff(tmp_path / "a.tif", (np.zeros(shape, dtype) for shape in shapes), 10, 600, 1, "uint8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_text() == "the map of yesterday"


def test_the_source_of_the_strips_is_run_to_its_end(tmp_path):
    def strips():
        yield np.zeros((10, 600), np.uint8)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        write_geotiff(tmp_path / "a.tif", strips(), 10, 600, 1, "uint8")
    assert list(tmp_path.iterdir()) == []


def test_bigtiff_is_chosen_by_size(tmp_path, monkeypatch):
    chosen = []

    def writer(path, bigtiff):
        chosen.append(bigtiff)
        raise InterruptedError
    monkeypatch.setattr(tifffile, "TiffWriter", writer)
    for height in (20000, 30000):
        with pytest.raises(InterruptedError):
            write_geotiff(tmp_path / "a.tif", [], height, 30000, 3, "uint8")
    assert chosen == [False, True]


def test_writing_holds_a_few_rows_of_tiles(tmp_path, two_writers):
    strips = (np.full((64, 2048, 4), row % 251, np.uint8) for row in range(0, 8192, 64))
    tracemalloc.start()
    write_geotiff(tmp_path / "a.tif", strips, 8192, 2048, 4, "uint8", level=1)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20  # of 64 MiB; a row of tiles is 4 MiB, tifffile's queue 16
    tracemalloc.stop()


# Beside rasterio, where it is installed

@pytest.mark.parametrize("kind", ["Area", "Point"])
@pytest.mark.parametrize("crs, transform", [
    ("EPSG:32631", (10, 0, 300000, 0, -10, 4600000)), ("EPSG:32631", (8, 6, 300000, 6, -8, 4600000)),
    ("EPSG:4326", (0.00008, 0, 1.23456789, 0, -0.00008, 41.987654321)),
    ("+proj=laea +lat_0=41.5 +lon_0=1.7 +x_0=100 +y_0=200 +datum=WGS84 +units=m", (7, 0, -3000, 0, -7, 5000))])
def test_rasterio_reads_the_same_place(tmp_path, kind, crs, transform):
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "height": 70, "width": 90, "count": 1, "dtype": "uint8", "nodata": 7, "crs": crs,
               "transform": rasterio.Affine(*transform)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(picture(bands=1)[..., 0], 1)
        file.update_tags(AREA_OR_POINT=kind)
    palette = np.arange(768).reshape(256, 3) % 256
    for row, col, factor in [(0, 0, 1), (31, 17, 1), (30, 20, 10)]:
        pixels = picture(bands=1)[row::factor, col::factor]
        write_geotiff(tmp_path / "b.tif", [pixels], *pixels.shape[:2], 1, "uint8", palette, 7,
                      open_raster(tmp_path / "a.tif").georeference.window(row, col, factor))
        with rasterio.open(tmp_path / "a.tif") as scene, rasterio.open(tmp_path / "b.tif") as part:
            wanted = scene.transform @ rasterio.Affine.translation(col, row) @ rasterio.Affine.scale(factor)
            assert np.allclose(part.transform, wanted, rtol=1e-14, atol=0)
            assert part.crs == scene.crs and part.tags()["AREA_OR_POINT"] == kind and part.nodata == 7
            assert part.colormap(1)[5] == (15, 16, 17, 255) and np.array_equal(part.read(1), pixels[..., 0])
