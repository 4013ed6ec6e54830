"""What stands beside a raster: world files, .aux.xml, masks, camera models."""

import numpy as np
import pytest
import tifffile
from helpers import picture, write_tiff
from PIL import Image

from geo.georeference import Georeference
from geo.raster import open_raster, write_geotiff
from geo.sidecar import parse_wkt

WORLD = "0.2\n0.0\n0.0\n-0.2\n400000.1\n5699999.9\n"
UTM = 'PROJCS["WGS 84 / UTM zone 32N",UNIT["metre",1,AUTHORITY["EPSG","9001"]],' \
      'AUTHORITY["EPSG","32632"]]'
PAM = f"""<PAMDataset><SRS dataAxisToSRSAxisMapping="1,2">{UTM}</SRS>
<GeoTransform>  4.0e+05, 0.2, 0.0, 5.7e+06, 0.0, -0.2</GeoTransform>
<PAMRasterBand band="1"><NoDataValue>7</NoDataValue><Scale>0.5</Scale></PAMRasterBand>
<PAMRasterBand band="2"><NoDataValue>7</NoDataValue><ColorInterp>Alpha</ColorInterp></PAMRasterBand>
</PAMDataset>"""


@pytest.mark.parametrize("image, world", [
    ("a.tif", "a.tfw"), ("a.tif", "a.TFW"), ("a.tif", "a.tifw"), ("a.png", "a.pgw"),
    ("a.jpg", "a.jgw"), ("a.jpg", "a.jpgw"), ("a.JPG", "a.JGW"), ("a.png", "a.wld")])
def test_read_world_file__counts_from_the_first_pixels_centre(tmp_path, image, world):
    if image == "a.tif":
        write_tiff(tmp_path / image, picture(), photometric="rgb")
    else:
        Image.fromarray(picture()).save(tmp_path / image)
    (tmp_path / world).write_text(WORLD)
    with open_raster(tmp_path / image) as scene:
        assert np.allclose(scene.georeference.affine, (0.2, 0, 4e5, 0, -0.2, 5.7e6), rtol=1e-12)
        assert scene.gsd_m is None  # in units of no known length
    (tmp_path / world).write_text("0.2\n0\n")
    with pytest.raises(ValueError, match=f"{image}.*{world}"):
        open_raster(tmp_path / image)


def test_read_world_file__the_files_own_georeference_comes_first(tmp_path):
    own = Georeference({33550: (1.0, 1.0, 0.0), 33922: (0.0, 0.0, 0.0, 5.0, 9.0, 0.0)})
    write_geotiff(tmp_path / "a.tif", [picture()], 70, 90, 3, "uint8", georeference=own)
    (tmp_path / "a.tfw").write_text(WORLD)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference.affine == own.affine
    (tmp_path / "a.tif.aux.xml").write_text(PAM)  # as in GDAL
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference.to_map(0, 0) == (4e5, 5.7e6)


def test_read_sidecar__place_nodata_scale_and_alpha(tmp_path):
    pixels = picture(bands=2)
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    (tmp_path / "grey.png.aux.xml").write_text(PAM)
    with open_raster(tmp_path / "grey.png") as scene:
        assert scene.georeference.affine == (0.2, 0, 4e5, 0, -0.2, 5.7e6)
        assert (scene.gsd_m, scene.nodata, scene.alpha) == (pytest.approx(0.2), 7, None)
        assert scene.scales == ((0.5, 0),)
    write_tiff(tmp_path / "a.tif", pixels)
    (tmp_path / "a.tif.aux.xml").write_text(PAM)
    with open_raster(tmp_path / "a.tif") as scene:
        assert (scene.alpha, scene.scales) == (1, ((0.5, 0), (1, 0)))
    (tmp_path / "a.tif.aux.xml").write_text("<PAM")
    with pytest.raises(ValueError, match="^[^\n]*a.tif.aux.xml[^\n]*$"):
        open_raster(tmp_path / "a.tif")


def test_read_sidecar__counts_bands_by_their_number(tmp_path):
    """GDAL leaves out bands of which it has nothing to state."""
    write_tiff(tmp_path / "a.tif", picture(bands=4))
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="4"><ColorInterp>Alpha</ColorInterp></PAMRasterBand>'
        '<PAMRasterBand band="2"><NoDataValue>7</NoDataValue><Offset>3</Offset></PAMRasterBand>'
        '</PAMDataset>')
    with open_raster(tmp_path / "a.tif") as scene:
        assert (scene.alpha, scene.nodata) == (3, (None, 7, None, None))
        assert scene.scales == ((1, 0), (1, 3), (1, 0), (1, 0))


@pytest.mark.parametrize("name, text", [
    ("a.tif.aux.xml", "<PAMDataset><GCPList/></PAMDataset>"), ("a_RPC.TXT", "LINE_OFF: 1"),
    ("a.RPB", "")])
def test_open_raster__other_ways_to_be_placed_are_named(tmp_path, name, text):
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb")
    (tmp_path / name).write_text(text)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference is None and "not read: warp" in scene.unread
    (tmp_path / "a.tfw").write_text(WORLD)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference and scene.unread == ""


@pytest.mark.parametrize("text, wanted", [
    (UTM, (32632, False, 9001)),
    (UTM.replace(',AUTHORITY["EPSG","32632"]', ""), (None, False, 9001)),
    ('GEOGCRS["WGS 84",ANGLEUNIT["degree",0.017],ID["EPSG",4326]]', (4326, True, None)),
    ('PROJCS["a",UNIT["US survey foot",0.3048006096012192],AUTHORITY["EPSG","2263"]]',
     (2263, False, 9003)), ("", (None, False, None))])
def test_parse_wkt__code_kind_and_unit(text, wanted):
    assert parse_wkt(text) == wanted


def test_read_masked__a_mask_beside_or_inside_hides_pixels(tmp_path):
    pixels = picture()
    shown = (pixels[:, :, 0] > 70).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", pixels, photometric="rgb")
    write_tiff(tmp_path / "mask.tif", 255 * shown[:, :, None])
    (tmp_path / "mask.tif").rename(tmp_path / "a.tif.msk")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:  # an overview and its mask come first
        file.write(pixels, photometric="rgb", metadata=None)
        for step, kind in ((2, 1), (2, 5), (1, 4)):
            page = pixels if kind == 1 else shown.astype(bool)
            file.write(page[::step, ::step], subfiletype=kind, metadata=None,
                       photometric="rgb" if kind == 1 else 4)
    for name in ("a.tif", "b.tif"):
        with open_raster(tmp_path / name) as scene:
            found, missing = scene.read_masked(-3, 5, 40, 90)
        assert np.array_equal(found[3:, :85], pixels[:37, 5:])
        assert np.array_equal(missing[3:, :85], np.repeat(shown[:37, 5:, None] == 0, 3, axis=2))
        assert missing[:3].all() and missing[:, 85:].all()
    write_tiff(tmp_path / "mask.tif", shown[:9, :, None])
    (tmp_path / "mask.tif").replace(tmp_path / "a.tif.msk")
    with pytest.raises(ValueError, match="a.tif.msk"):
        open_raster(tmp_path / "a.tif")
