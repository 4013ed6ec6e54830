"""Files that GDAL writes are read as GDAL reads them; other formats come through rasterio."""

import itertools
import sys
import zipfile

import numpy as np
import pytest
from helpers import picture

from geo.raster import hide_alpha, open_raster

COMPRESSIONS = ("none", "lzw", "deflate", "packbits", "zstd", "lzma", "lerc", "lerc_zstd", "webp",
                "jpeg")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
LAYOUTS = {"strips": {"blockysize": 8},
           "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16}}
OPTIONS = {"": {}, "predictor": {"predictor": 2}, "bigtiff": {"bigtiff": "yes"},
           "big-endian": {"endianness": "big"}, "sparse": {"sparse_ok": True}}


def write_with_gdal(rasterio, path, pixels, **profile):
    """Write (H, W, C); profile as for rasterio.open."""
    height, width, bands = pixels.shape
    profile = {"driver": "GTiff", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 4e6),
               "crs": "EPSG:32631", **profile}
    with rasterio.open(path, "w", height=height, width=width, count=bands, dtype=pixels.dtype,
                       **profile) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path


def assert_as_rasterio(rasterio, path, tolerance=0):
    """Compare pixels, nodata, place, scales and what is missing with rasterio's."""
    with open_raster(path) as scene, rasterio.open(path) as peer:
        pixels, missing = scene.read_masked(0, 0, scene.height, scene.width)
        wanted = np.moveaxis(peer.read(), 0, 2)
        assert pixels.dtype == wanted.dtype
        apart = np.abs(pixels.astype(float) - wanted)
        assert apart.max() <= tolerance and apart.mean() <= tolerance / 4
        np.testing.assert_equal(scene.nodata, peer.nodata)
        valid = np.moveaxis(peer.read_masks(), 0, 2) > 0
        if scene.alpha is not None:  # GDAL has no mask of the alpha band itself, or of five bands
            valid = np.repeat(wanted[:, :, scene.alpha, None] > 0, scene.bands, axis=2)
        assert np.array_equal(~missing, valid)
        if not peer.transform.is_identity:
            assert np.allclose(scene.georeference.affine, peer.transform[:6], rtol=1e-12)
        scales = scene.scales or ((1.0, 0.0),) * scene.bands
        assert scales == tuple(zip(peer.scales, peer.offsets))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_open_raster__geotiffs_written_by_gdal_equal_rasterio(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    number = 0
    for compress, dtype, interleave, layout, option in itertools.product(
            COMPRESSIONS, DTYPES, ("pixel", "band"), LAYOUTS, OPTIONS):
        is_lossy = compress in ("jpeg", "webp")
        if is_lossy and (dtype != "uint8" or compress == "webp" and interleave == "band"):
            continue
        if option == "predictor" and compress not in ("lzw", "deflate", "zstd"):
            continue
        if option and dtype not in ("uint8", "uint16", "float32"):
            continue
        pixels = picture(40, 50, 3, dtype)
        if option == "sparse":
            pixels[:16] = 0
        path = write_with_gdal(
            rasterio, tmp_path / f"{number}.tif", pixels, compress=compress,
            interleave=interleave, **LAYOUTS[layout], **OPTIONS[option])
        if compress.startswith("lerc") and dtype == "float32" and option == "big-endian":
            with pytest.raises(ValueError, match="LERC"):  # libtiff itself reads it by halves
                open_raster(path)
            continue
        try:
            assert_as_rasterio(rasterio, path, tolerance=3 if is_lossy else 0)
        except Exception as error:
            raise AssertionError(f"{compress} {dtype} {interleave} {layout} {option}") from error
        path.unlink()
        number += 1
    assert number >= 300


MADE = {  # profile of the file, what is done to it afterwards
    "nodata": ({"nodata": 100}, {}),
    "rgba": ({"count": 4}, {}),
    "associated": ({"count": 4, "alpha": "premultiplied"}, {}),
    "five bands and alpha": ({"count": 5, "alpha": "unspecified"}, {"alpha": 5}),
    "near infrared": ({"count": 4, "photometric": "minisblack", "alpha": "no"}, {}),
    "mask inside": ({"internal_mask": True}, {}),
    "mask beside": ({"internal_mask": False}, {}),
    "overviews before the mask": ({"internal_mask": True, "overviews": True}, {}),
    "scales": ({}, {"scales": (1, 0.5, 0.1), "offsets": (0, -3, 2)}),
    "subsampled": ({"compress": "jpeg", "photometric": "ycbcr"}, {}),
    "jpeg in planes": ({"compress": "jpeg", "interleave": "band"}, {}),
    "cloud optimized": ({"driver": "COG"}, {})}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore")
def test_open_raster__what_gdal_keeps_with_the_bands(tmp_path, name):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.enums import ColorInterp
    profile, after = MADE[name]
    profile = dict(profile)
    pixels = picture(40, 50, profile.pop("count", 3))
    pixels[:, :9, -1] = 0
    internal = profile.pop("internal_mask", None)
    has_overviews = profile.pop("overviews", False)
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=bool(internal)):
        write_with_gdal(rasterio, path, pixels, **profile)
        if internal is not None or after or has_overviews:
            with rasterio.open(path, "r+") as file:
                if has_overviews:
                    file.build_overviews([2, 4])
                if internal is not None:
                    file.write_mask(pixels[:, :, 0] > 60)
                if "alpha" in after:
                    kinds = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
                    file.colorinterp = kinds
                if "scales" in after:
                    file.scales = after["scales"]
                    file.offsets = after["offsets"]
    with rasterio.open(path) as peer, open_raster(path) as scene:
        is_alpha = ColorInterp.alpha in peer.colorinterp
        wanted = peer.colorinterp.index(ColorInterp.alpha) if is_alpha else None
        assert scene.alpha == wanted
        assert hide_alpha(scene).bands == peer.count - is_alpha
    assert_as_rasterio(rasterio, path, tolerance=16 if profile.get("compress") else 0)


@pytest.mark.parametrize("driver, suffix, dtype", [
    ("JP2OpenJPEG", "jp2", "uint16"), ("ENVI", "img", "float32"), ("VRT", "vrt", "uint8")])
@pytest.mark.filterwarnings("ignore")
def test_open_with_gdal__other_formats(tmp_path, driver, suffix, dtype):
    rasterio = pytest.importorskip("rasterio")
    path = write_with_gdal(rasterio, tmp_path / "a.tif", picture(40, 50, 4, dtype))
    if driver == "VRT":
        from rasterio.shutil import copy
        copy(path, tmp_path / "b.vrt", driver="VRT")
    else:
        options = {"QUALITY": "100", "REVERSIBLE": "YES"} if suffix == "jp2" else {}
        write_with_gdal(rasterio, tmp_path / f"b.{suffix}", picture(40, 50, 4, dtype),
                        driver=driver, **options)
    path = tmp_path / f"b.{suffix}"
    assert_as_rasterio(rasterio, path)
    with open_raster(path) as scene:
        assert scene.gsd_m == 2
        assert scene.georeference.keys[3072] == 32631
        assert np.array_equal(scene.read(-3, 45, 9, 9)[3:, :5], scene.read(0, 45, 6, 5))


def test_open_with_gdal__names_of_virtual_files(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = write_with_gdal(rasterio, tmp_path / "a.tif", picture(40, 50, 3))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(path, "a.tif")
    with open_raster(f"/vsizip/{tmp_path}/b.zip/a.tif") as scene:
        assert np.array_equal(scene.read(0, 0, 40, 50), picture(40, 50, 3))


def test_open_raster__names_rasterio_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "geo.gdal", None)
    (tmp_path / "a.jp2").write_bytes(b"\0\0\0\x0cjP  ")
    for path in (tmp_path / "a.jp2", "/vsizip/a.zip/b.tif"):
        with pytest.raises(ValueError, match="^[^\n]*rasterio[^\n]*$"):
            open_raster(path)


def test_open_with_gdal__control_points_are_named(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.control import GroundControlPoint
    from rasterio.shutil import copy
    path = tmp_path / "a.vrt"
    points = [GroundControlPoint(row, col, 5e5 + col, 4e6 - row)
              for row in (0, 9) for col in (0, 9)]
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=9, width=9, count=1,
                       dtype="uint8", gcps=points, crs="EPSG:32631"):
        pass
    copy(tmp_path / "a.tif", path, driver="VRT")
    with open_raster(path) as scene:
        assert scene.georeference is None and "control points" in scene.unread


def test_read_sidecar__a_system_without_an_epsg_code(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    write_with_gdal(rasterio, tmp_path / "a.png", picture(), driver="PNG",
                    crs="+proj=laea +lat_0=48 +lon_0=9 +datum=WGS84 +units=m")
    with open_raster(tmp_path / "a.png") as scene:
        assert scene.georeference.affine[:3] == (2, 0, 5e5)
        assert scene.georeference.keys[3072] == 32767  # of its own, and known
