"""Where a raster lies on the map is kept: in its windows, in written files, and for rasterio."""

import numpy as np
import pytest
from helpers import picture

from geo.georeference import Georeference
from geo.raster import open_raster, write_geotiff

POINT = (1025, 0, 1, 2)
PROJECTED = (1024, 0, 1, 1)
GEOGRAPHIC = (1024, 0, 1, 2)
METRE = 9001
FOOT = 9002
NORTH_UP = {33550: (10.0, 10.0, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0)}
ROTATED = {34264: (8.0, 6.0, 0.0, 300.0, 6.0, -8.0, 0.0, 900.0, *[0.0] * 7, 1.0)}


def reference(tags, *keys, unit=METRE):
    """Georeference of tags with GeoKeys."""
    directory = (1, 1, 0, len(keys) + 1, *sum(keys, ()), 3076, 0, 1, unit)
    return Georeference({**tags, 34735: directory})


def test_to_map__pixel_coordinates_begin_at_the_corner():
    area = reference(NORTH_UP, PROJECTED)
    assert area.to_map(0, 0) == (500000, 4600000)
    assert area.to_map(2, 3) == (500030, 4599980)
    point = reference(NORTH_UP, PROJECTED, POINT)
    assert point.to_map(0, 0) == (499995, 4600005)
    assert point.to_map(0.5, 0.5) == (500000, 4600000)
    rotated = reference(ROTATED, PROJECTED)
    assert rotated.to_map(0, 0) == (300, 900)
    assert rotated.to_map(10, 100) == (1160, 1420)
    for georeference in (area, point, rotated):
        there = georeference.to_map(12.25, 7.5)
        assert np.allclose(georeference.to_pixel(*there), (12.25, 7.5))
    x, y = area.to_map(np.array([0, 2]), np.array([0, 3]))
    assert x.tolist() == [500000, 500030]
    assert y.tolist() == [4600000, 4599980]


def test_affine__sign_of_a_pixels_height_does_not_matter_as_in_gdal():
    upside_down = {**NORTH_UP, 33550: (10.0, -10.0, 0.0)}
    assert reference(upside_down, PROJECTED).affine == reference(NORTH_UP, PROJECTED).affine


def test_affine__matrix_counts_where_a_pixel_size_has_no_tie_point():
    both = reference({**ROTATED, 33550: (1.0, 1.0, 0.0)}, PROJECTED)
    assert both.affine == reference(ROTATED, PROJECTED).affine
    assert np.allclose(both.window(3, 4).to_map(0, 0), both.to_map(3, 4))


@pytest.mark.parametrize("tags", [NORTH_UP, ROTATED])
@pytest.mark.parametrize("keys", [(PROJECTED,), (PROJECTED, POINT)])
def test_window__lies_where_its_pixels_lay(tags, keys):
    whole = reference(tags, *keys)
    for factor, down, across in ((1, 1, 1), (10, 10, 10), ((4, 2.5), 4, 2.5)):
        part = whole.window(30, 40, factor)
        for row, col in [(0, 0), (0.5, 0.5), (7, 3)]:
            wanted = whole.to_map(30 + down * row, 40 + across * col)
            assert np.allclose(part.to_map(row, col), wanted, rtol=1e-14)
    assert whole.tags[34735] == part.tags[34735]
    assert whole.affine == reference(tags, *keys).affine  # is not changed itself


def test_write_geotiff__keeps_georeference_palette_and_nodata(tmp_path):
    palette = np.arange(768).reshape(256, 3).astype(np.uint8)
    directory = (1, 1, 0, 2, *PROJECTED, 1026, 34737, 7, 0)
    tags = {**NORTH_UP, 34735: directory, 34736: (1.5, 0.1), 34737: "Région|"}
    write_geotiff(tmp_path / "a.tif", [picture(bands=1)], 70, 90, 1, "uint8", palette=palette,
                  nodata=255, georeference=Georeference(tags))
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference.tags == tags
        assert scene.nodata == 255
        assert np.array_equal(scene.palette, palette)
    write_geotiff(tmp_path / "b.tif", [picture(bands=1)], 70, 90, 1, "uint8")
    with open_raster(tmp_path / "b.tif") as scene:
        assert (scene.georeference, scene.nodata, scene.palette) == (None, None, None)


@pytest.mark.parametrize("kind", ["Area", "Point"])
@pytest.mark.parametrize("crs, transform", [
    ("EPSG:32631", (10, 0, 300000, 0, -10, 4600000)),
    ("EPSG:32631", (8, 6, 300000, 6, -8, 4600000)),
    ("EPSG:4326", (0.00008, 0, 1.23456789, 0, -0.00008, 41.987654321)),
    ("+proj=laea +lat_0=41.5 +lon_0=1.7 +x_0=100 +y_0=200 +datum=WGS84 +units=m",
     (7, 0, -3000, 0, -7, 5000))])
def test_window__rasterio_reads_the_same_place(tmp_path, kind, crs, transform):
    rasterio = pytest.importorskip("rasterio")
    pixels = picture(bands=1)
    profile = {"driver": "GTiff", "height": 70, "width": 90, "count": 1, "dtype": "uint8",
               "nodata": 7, "crs": crs, "transform": rasterio.Affine(*transform)}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as file:
        file.write(pixels[..., 0], 1)
        file.update_tags(AREA_OR_POINT=kind)
    palette = np.arange(768).reshape(256, 3) % 256
    for row, col, factor in [(0, 0, 1), (31, 17, 1), (30, 20, 10)]:
        part = pixels[row::factor, col::factor]
        with open_raster(tmp_path / "a.tif") as scene:
            georeference = scene.georeference.window(row, col, factor)
        write_geotiff(tmp_path / "b.tif", [part], *part.shape[:2], 1, "uint8", palette, 7,
                      georeference)
        with rasterio.open(tmp_path / "a.tif") as old, rasterio.open(tmp_path / "b.tif") as new:
            shift = rasterio.Affine.translation(col, row) @ rasterio.Affine.scale(factor)
            assert np.allclose(new.transform, old.transform @ shift, rtol=1e-14, atol=0)
            assert new.crs == old.crs
            assert new.tags()["AREA_OR_POINT"] == kind
            assert new.nodata == 7
            assert new.colormap(1)[5] == (15, 16, 17, 255)
            assert np.array_equal(new.read(1), part[..., 0])
