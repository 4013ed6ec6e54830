"""geopackage.py: the file is what the standard asks for, and GDAL reads it."""

import sqlite3
import struct

import numpy as np
import pytest

from geo import geopackage
from geo.geopackage import encode, spatial_reference, write_geopackage
from geo.georeference import KEYS, PIXEL_SCALE, TIE_POINTS, Georeference
from geo.polygons import Polygon
from geo.raster import write_geotiff

SQUARE = np.array([[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]], float)
HOLE = np.array([[1, 1], [1, 2], [2, 2], [1, 1]], float)
POLYGONS = [Polygon(1, 11, 0.5, [SQUARE, HOLE]), Polygon(0, 3, None, [SQUARE + 10])]


def georeference(*keys):
    """Two-metre pixels with these GeoKeys."""
    header = (1, 1, 0, len(keys) // 4)
    return Georeference({PIXEL_SCALE: (2.0, 2.0, 0.0), KEYS: (*header, *keys),
                         TIE_POINTS: (0, 0, 0, 500000.0, 4600000.0, 0)})


UTM = georeference(1024, 0, 1, 1, 3072, 0, 1, 32631)


def test_encode__bytes_by_the_standard():
    blob = encode([SQUARE], SQUARE.min(0), SQUARE.max(0), 4326)
    assert blob[:8] == b"GP\x00\x03" + struct.pack("<i", 4326)
    assert struct.unpack("<4d", blob[8:40]) == (0, 4, 0, 3)
    assert struct.unpack("<BIII", blob[40:53]) == (1, 3, 1, 5)
    assert np.array_equal(np.frombuffer(blob[53:]).reshape(5, 2), SQUARE)


def test_write_geopackage__tables_and_rows(tmp_path):
    srs = ("EPSG:32631", 32631, "EPSG", 32631, "undefined")
    write_geopackage(tmp_path / "a.gpkg", POLYGONS, ["sand", "wood"], srs, 4.0)
    file = sqlite3.connect(tmp_path / "a.gpkg")
    assert file.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
    assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    rows = file.execute("SELECT class, class_id, pixels, area_m2, confidence FROM polygons")
    assert rows.fetchall() == [("wood", 1, 11, 44, 0.5), ("sand", 0, 3, 12, None)]
    extent = file.execute("SELECT min_x, min_y, max_x, max_y, srs_id FROM gpkg_contents")
    assert extent.fetchall() == [(0, 0, 14, 13, 32631)]
    systems = file.execute("SELECT srs_id FROM gpkg_spatial_ref_sys ORDER BY srs_id")
    assert [row[0] for row in systems] == [-1, 0, 4326, 32631]
    file.close()


def test_write_geopackage__a_folder_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(OSError, match="a.gpkg"):
        write_geopackage(tmp_path / "nowhere" / "a.gpkg", POLYGONS, ["sand", "wood"])


def test_write_geopackage__a_full_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(geopackage, "SETTINGS", "PRAGMA max_page_count = 30;")
    with pytest.raises(OSError, match="a.gpkg.*full"):
        write_geopackage(tmp_path / "a.gpkg", POLYGONS * 2000, ["sand", "wood"])


@pytest.mark.filterwarnings("ignore")  # rasterio warns of a file without georeference
@pytest.mark.parametrize("place, code", [
    (UTM, 32631), (georeference(1024, 0, 1, 2, 2048, 0, 1, 4326), 4326), (None, -1)])
def test_spatial_reference__is_read_by_gdal(tmp_path, place, code):
    write_geotiff(tmp_path / "a.tif", [np.zeros((4, 4), np.uint8)], 4, 4, 1, "uint8",
                  georeference=place)
    srs = spatial_reference(place, tmp_path / "a.tif")
    assert srs[1] == srs[3] == code
    write_geopackage(tmp_path / "a.gpkg", POLYGONS, ["sand", "wood"], srs)
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    meta, _, geometries, columns = pyogrio.raw.read(tmp_path / "a.gpkg")
    expected = None if place is None else f"EPSG:{code}"
    assert meta["crs"] == expected or (place is None and "ndefined" in meta["crs"])
    assert shapely.area(shapely.from_wkb(geometries)).tolist() == [11.5, 12]
    assert columns[0].tolist() == ["wood", "sand"] and np.isnan(columns[3]).all()
