"""raster.py: windows equal what was written, bad files are one line, writing is all or nothing."""

import pathlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from helpers import picture, write_tiff
from PIL import Image, ImageFile

from geo import tiff
from geo.raster import hide_alpha, open_raster, write_geotiff

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


def write_png(path, values, bits, colour_type):
    """Write values (H, W) or (H, W, C) as a PNG of a depth that Pillow does not write."""
    height, width = values.shape[:2]
    as_bytes = values.astype(">u2").view(np.uint8).reshape(*values.shape, 2)
    rows = np.unpackbits(as_bytes, axis=-1)[..., -bits:]
    rows = np.packbits(rows.reshape(height, -1), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + checksum
    path.write_bytes(content)


def window_of(pixels, row, col, height, width, fill=0):
    """What read must return, pixel by pixel."""
    out = np.full((height, width, pixels.shape[2]), fill, pixels.dtype)
    for y in range(max(row, 0), min(row + height, pixels.shape[0])):
        for x in range(max(col, 0), min(col + width, pixels.shape[1])):
            out[y - row, x - col] = pixels[y, x]
    return out


def assert_reads(path, pixels, fill=0):
    """Whole, inside one segment, over several, over each border, and wholly outside."""
    height, width, bands = pixels.shape
    with open_raster(path) as scene:
        shape = scene.height, scene.width, scene.bands
        assert (*shape, scene.dtype) == (height, width, bands, pixels.dtype)
        for window in [(0, 0, height, width), (3, 5, 4, 6), (10, 20, 45, 61), (-5, -7, 30, 20),
                       (0, -9, 5, 9), (height + 5, 3, 9, 9), (height - 9, width - 8, 20, 30),
                       (-2, -2, height + 4, width + 4)]:
            found = scene.read(*window)
            assert found.dtype == pixels.dtype
            assert np.array_equal(found, window_of(pixels, *window, fill)), window


def count_decoded(scene):
    """List that grows by the index of every segment that a TIFF decodes from now on."""
    decoded = []
    decode = scene.source.decode
    scene.source.decode = lambda index: decoded.append(index) or decode(index)
    return decoded


# Encodings

LAYOUTS = {"strips": {"rowsperstrip": 8}, "one strip": {"rowsperstrip": 70},
           "tiles": {"tile": (32, 16)}, "large tile": {"tile": (128, 128)}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_read__layouts(tmp_path, layout, planar, compression):
    write_tiff(tmp_path / "a.tif", picture(), planarconfig=planar, compression=compression,
               **LAYOUTS[layout])
    assert_reads(tmp_path / "a.tif", picture())


@pytest.mark.parametrize("layout", ["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype, byteorder, bigtiff", [
    ("u2", ">", False), ("i2", "<", True), ("f4", ">", True)])
def test_read__types_and_byte_orders(tmp_path, layout, compression, dtype, byteorder, bigtiff):
    pixels = picture(dtype=dtype)
    write_tiff(tmp_path / "a.tif", pixels, compression=compression, byteorder=byteorder,
               bigtiff=bigtiff, **LAYOUTS[layout])
    assert_reads(tmp_path / "a.tif", pixels)


LOSSLESS = {"lossless": True}
RARE = [(*case, {}) for case in [("packbits", "u1"), ("lzma", "i2"), ("zstd", "u2"),
                                 ("lerc", "f4"), ("png", "u2")]]
RARE += [("lzw", "u2", {"predictor": 2}), ("zstd", "u2", {"predictor": 2}),
         ("webp", "u1", {"compressionargs": LOSSLESS}),
         ("jpegxl", "u1", {"compressionargs": LOSSLESS}),
         ("jpeg2000", "u2", {"compressionargs": {"level": 0}})]


@pytest.mark.parametrize("compression, dtype, options", [
    ("lzw", "u1", {}), ("zlib", "u2", {"predictor": 2}), ("zlib", "f4", {"predictor": 3}),
    ("zstd", "f4", {}), *[pytest.param(*case, marks=pytest.mark.slow) for case in RARE]])
def test_read__compressions(tmp_path, compression, dtype, options):
    pixels = picture(dtype=dtype)
    for layout in ({"tile": (32, 32)}, {"rowsperstrip": 16}):
        write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", compression=compression,
                   **options, **layout)
        assert_reads(tmp_path / "a.tif", pixels)


def test_read__jpeg_in_tiles_becomes_rgb(tmp_path):
    path = write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression="jpeg",
                      tile=(32, 32))
    assert_reads(path, tifffile.imread(path))
    with open_raster(path) as scene:
        assert np.abs(scene.read(0, 0, 70, 90).astype(int) - picture()).mean() < 12


def test_read__single_bits_are_0_and_1(tmp_path):
    bits = (picture(bands=1) > 60).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", bits.astype(bool))
    assert_reads(tmp_path / "a.tif", bits)


# What is not there, or not read


@pytest.mark.parametrize("nodata", [None, 9])
def test_read__left_out_tiles_are_nodata_or_0(tmp_path, monkeypatch, nodata):
    tiles = (np.full((32, 32), 5, np.uint8) if index in (0, 3) else None for index in range(4))
    tags = [(42113, "s", 2, b"9", True)] if nodata else []
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(64, 64), dtype=np.uint8, tile=(32, 32),
                     compression="zlib", metadata=None, extratags=tags)
    wanted = np.full((64, 64, 1), nodata or 0, np.uint8)
    wanted[:32, :32] = 5
    wanted[32:, 32:] = 5
    # Memory that was not written to may hold anything.
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))
    assert_reads(tmp_path / "a.tif", wanted, fill=nodata or 0)


def test_open_raster__overviews_and_masks_are_no_bands(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(picture()[::step, ::step], subfiletype=int(step > 1), tile=(32, 32),
                       photometric="rgb", metadata=None)
    assert_reads(path, picture())
    with open_raster(path) as scene:
        assert scene.unread == "" and not scene.masks
    with tifffile.TiffWriter(path) as file:
        file.write(picture(), photometric="rgb", metadata=None)
        file.write(picture()[:, :, 0] > 100, subfiletype=4, photometric=4, bitspersample=1,
                   metadata=None)
    assert_reads(path, picture())

def test_open_raster__pages_that_are_alike_are_bands(tmp_path):
    pixels = picture(bands=5, dtype=np.uint16)
    for options in ({}, {"compression": "zlib", "tile": (32, 16)}):
        tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="minisblack",
                         **options)
        assert_reads(tmp_path / "a.tif", pixels)
    with open_raster(tmp_path / "a.tif", page=3) as scene:
        assert np.array_equal(scene.read(0, 0, 70, 90), pixels[:, :, 3:4])


@pytest.mark.parametrize("other, words", [
    (picture(), "2 pages"), (picture()[:, :, 0], "2 pages"), (picture(dtype=np.uint16), "2 pages"),
    (picture()[::2, ::2], None)])
def test_open_raster__other_pages_are_refused_or_named(tmp_path, other, words):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(), photometric="rgb", metadata=None)
        file.write(other, photometric="rgb" if other.ndim == 3 else "minisblack", metadata=None)
    if words:
        with pytest.raises(ValueError, match=f"a.tif.*{words}.*text file"):
            open_raster(tmp_path / "a.tif")
        return
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.bands == 3 and "smaller pages" in scene.unread


@pytest.mark.parametrize("kinds, text, alpha", [
    ((2,), None, 3), ((1,), None, 3), ((0,), None, None), ((0, 2), None, 4), ((2, 0), None, 3),
    ((2,), "Undefined", None), ((0,), "Alpha", 3)])
def test_open_raster__alpha_is_what_the_file_marks_as_alpha(tmp_path, kinds, text, alpha):
    xml = f'<GDALMetadata><Item name="COLORINTERP" sample="3" role="colorinterp">{text}</Item>' \
          "</GDALMetadata>"
    tags = [(42112, "s", 0, xml, True)] if text else []
    write_tiff(tmp_path / "a.tif", picture(bands=3 + len(kinds)), photometric="rgb",
               extrasamples=kinds, extratags=tags)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.alpha == alpha
        image = hide_alpha(scene)
        assert image.bands == 3 + len(kinds) - (alpha is not None)
        kept = [band for band in range(3 + len(kinds)) if band != alpha]
        assert np.array_equal(image.read(0, 0, 9, 9), scene.read(0, 0, 9, 9)[:, :, kept])


def test_open_raster__control_points_are_reported_as_not_read(tmp_path):
    ties = (0, 0, 0, 10.0, 50.0, 0, 0, 9, 0, 10.0, 49.0, 0, 9, 0, 0, 11.0, 50.1, 0)
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb",
               extratags=[(33922, "d", 18, ties, True)])
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference is None
        assert "control points" in scene.unread


@pytest.mark.parametrize("text, dtype, nodata", [
    ("255", "u1", 255), ("0.0", "u1", 0), ("-9999", "i2", -9999), ("-9999", "u1", None),
    ("0.5", "u1", None), ("nan", "f4", np.nan), ("nan", "u2", None), ("none", "f4", None),
    ("-3.4e+38", "f4", float(np.float32(-3.4e38))), ("-1.7976931348623157e+308", "f4", -np.inf)])
@pytest.mark.filterwarnings("error")
def test_open_raster__nodata_is_a_value_that_a_pixel_can_have(tmp_path, caplog, text, dtype,
                                                              nodata):
    write_tiff(tmp_path / "a.tif", picture(bands=1, dtype=dtype),
               extratags=[(42113, "s", 0, text, True)])
    with open_raster(tmp_path / "a.tif") as scene:
        np.testing.assert_equal(scene.nodata, nodata)
        outside = scene.read(-1, 0, 1, 1).item()
        np.testing.assert_equal(outside, 0 if nodata is None else nodata)
    assert not caplog.records  # tifffile itself would warn


@pytest.mark.parametrize("pixels, colour", [
    ([[(1, 2, 3), (1, 2, 4)], [(2, 2, 3), (1, 2, 3)]], (1, 2, 3)), ([[5, 6], [6, 5]], 5)])
def test_read_masked__the_transparent_colour_of_a_png_is_missing(tmp_path, pixels, colour):
    image = Image.fromarray(np.array(pixels, np.uint8))
    image.save(tmp_path / "a.png", transparency=colour)
    with open_raster(tmp_path / "a.png") as raster:
        _, missing = raster.read_masked(0, 0, 2, 2)
    assert missing.all(axis=2).tolist() == [[True, False], [False, True]]
    assert (missing == missing[:, :, :1]).all()  # all bands of a pixel


def test_read_masked__by_band_what_is_nan_or_nodata_and_all_that_is_transparent(tmp_path):
    pixels = np.ones((1, 5, 2), np.float32)
    pixels[0, 0] = np.nan, 1
    pixels[0, 1] = -9999, 1
    pixels[0, 2] = -9999, -9999
    pixels[0, 3] = np.inf, 1
    write_tiff(tmp_path / "a.tif", pixels, extratags=[(42113, "s", 0, "-9999", True)])
    with open_raster(tmp_path / "a.tif") as scene:
        found, missing = scene.read_masked(0, 0, 1, 5)
    assert np.array_equal(found, pixels, equal_nan=True)
    assert missing[0].T.astype(int).tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 0, 0]]
    pixels = np.array([[[5, 5, 5, 0], [0, 0, 0, 9]]], np.uint8)
    write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.alpha == 3
        assert np.array_equal(scene.read(0, 0, 1, 2), pixels)
        image = hide_alpha(scene)
        found, missing = image.read_masked(0, 0, 1, 3)
    assert found.tolist() == [[[5, 5, 5], [0, 0, 0], [0, 0, 0]]]
    assert missing[0, :, 0].tolist() == [True, False, True]  # the last lies outside
    assert image.bands == 3 and hide_alpha(image) is image


# Memory


def test_segments__cache_is_bounded_and_neighbouring_windows_share_it(tmp_path, monkeypatch):
    tiles = (np.full((512, 512), index % 251, np.uint8) if index in (0, *range(40, 160)) else None
             for index in range(40 * 40))  # rows 1 to 3, and the first, which tifffile needs
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(20000, 20000), dtype=np.uint8,
                     tile=(512, 512), compression="zlib", metadata=None)
    monkeypatch.setattr(tiff, "CACHE_BYTES", 4 * 2**20)  # 16 tiles
    with open_raster(tmp_path / "a.tif") as scene:
        decoded = count_decoded(scene)
        tracemalloc.start()
        for col in range(0, 20000, 900):
            found = scene.read(700, col, 1024, 1024)
            rows = np.arange(700, 1724, 32)[:, None] // 512
            cols = np.arange(col, col + 1024, 32)
            wanted = np.where(cols < 20000, (rows * 40 + cols // 512) % 251, 0)  # 0 is outside
            assert np.array_equal(found[::32, ::32, 0], wanted)
            assert scene.source.cached_bytes <= 4 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # of 381 MiB
        tracemalloc.stop()
        assert sorted(decoded) == [40 * y + x for y in (1, 2, 3) for x in range(40)]  # each once
        cached = sum(pixels.nbytes for pixels in scene.source.cache.values())
        assert cached == scene.source.cached_bytes
    assert scene.source is None


@pytest.mark.parametrize("tiles, cols, wanted", [
    (2, "0 1 0 2 0", [0, 1, 2]), (2, "0 1 2 0", [0, 1, 2, 0]), (0, "0 0", [0])])
def test_segments__the_last_used_are_kept(tmp_path, monkeypatch, tiles, cols, wanted):
    write_tiff(tmp_path / "a.tif", picture(bands=1), compression="zlib", tile=(32, 32))
    monkeypatch.setattr(tiff, "CACHE_BYTES", tiles * 1024)
    with open_raster(tmp_path / "a.tif") as scene:
        decoded = count_decoded(scene)
        for col in cols.split():
            scene.read(0, 32 * int(col), 5, 5)
        assert decoded == wanted


def test_read__large_uncompressed_files_are_mapped_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "CACHE_BYTES", 2**22)
    scene = tifffile.memmap(tmp_path / "a.tif", shape=(5000, 5000), dtype=np.uint16,
                            byteorder=">", metadata=None)  # 48 MiB
    scene[3345, 1000:1400] = np.arange(400)
    scene.flush()
    del scene
    with open_raster(tmp_path / "a.tif") as scene:
        for row in range(0, 5000, 500):
            window = scene.read(row, 900, 500, 700)
            assert window.any() == (row == 3000)
            assert scene.source.cached_bytes <= tiff.CACHE_BYTES
        found = scene.read(3344, 1000, 3, 400)[:, :, 0]
    assert np.array_equal(found, [[0] * 400, range(400), [0] * 400])


def test_close__a_mapped_file_can_be_renamed(tmp_path):
    write_tiff(tmp_path / "a.tif", picture(), rowsperstrip=70)
    with open_raster(tmp_path / "a.tif") as scene:
        pixels = scene.read(0, 0, 70, 90)
        maps = list(scene.source.cache.values())
        assert all(isinstance(pixels, np.memmap) for pixels in maps)
    (tmp_path / "a.tif").replace(tmp_path / "b.tif")  # fails on Windows while a map is open
    assert np.array_equal(pixels, picture())  # is a copy


def test_open_raster__a_giant_strip_is_refused_if_it_is_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "SEGMENT_BYTES", 70 * 90 * 3 - 1)
    write_tiff(tmp_path / "a.tif", picture(), compression="zlib", rowsperstrip=70)
    with pytest.raises(ValueError, match="a.tif.*limit.*tiled TIFF"):
        open_raster(tmp_path / "a.tif")
    write_tiff(tmp_path / "a.tif", picture(), rowsperstrip=70)
    assert_reads(tmp_path / "a.tif", picture())


# Pictures


@pytest.mark.parametrize("mode, bands", [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_read__png_keeps_its_bands(tmp_path, mode, bands):
    pixels = picture(bands=bands)
    Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode).save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", pixels)
    with open_raster(tmp_path / "a.png") as scene:
        assert scene.alpha == (bands - 1 if bands in (2, 4) else None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_read__grey_png_of_every_depth_keeps_its_values(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (70, 90, 1))
    values = values.astype(np.uint16 if bits == 16 else np.uint8)
    write_png(tmp_path / "a.png", values[..., 0], bits, 0)
    assert_reads(tmp_path / "a.png", values)


def test_read__palette_values_are_ids(tmp_path):
    ids = np.arange(60, dtype=np.uint8).reshape(6, 10) % 4
    colours = [[1, 2, 3], [40, 50, 60], [7, 8, 9], [255, 0, 255]]
    image = Image.fromarray(ids, "P")
    image.putpalette(np.ravel(colours).tolist())
    for name, options in [("a.png", {}), ("b.png", {"bits": 2}), ("c.tif", {})]:
        image.save(tmp_path / name, **options)
        with open_raster(tmp_path / name) as mask:
            assert np.array_equal(mask.read(0, 0, 6, 10)[..., 0], ids)
            assert mask.bands == 1
            assert mask.palette.shape == (256, 3) and mask.palette.dtype == np.uint8
            assert mask.palette[:4].tolist() == colours


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_read__exif_orientation_is_applied(tmp_path, orientation, suffix):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:, 8:] = 100
    upright[4:, :8] = 200
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.swapaxes(0, 1), 6: np.rot90(upright),
              7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    quality = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **quality)
    with open_raster(tmp_path / f"a.{suffix}") as photo:
        assert (photo.height, photo.width) == (8, 16)
        assert photo.turned == (orientation if orientation > 1 else 0)
        assert np.abs(photo.read(0, 0, 8, 16).astype(int) - upright).max() <= 2
        assert np.abs(photo.read(3, 6, 4, 5).astype(int) - upright[3:7, 6:11]).max() <= 2


def test_open_raster__pictures_are_decoded_at_the_first_window(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow itself would refuse above 20 px
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
        photo = open_raster(tmp_path / "a.png")
        with pytest.raises(ValueError, match="a.png.*--max-pixels is 6299"):
            open_raster(tmp_path / "a.png", max_pixels=70 * 90 - 1)
    assert np.array_equal(photo.read(0, 0, 70, 90), picture())
    assert Image.MAX_IMAGE_PIXELS == 10


# What cannot be read


def test_open_raster__pictures_that_would_lose_something_are_refused(tmp_path):
    write_png(tmp_path / "deep.png", picture(dtype=np.uint16), 16, 2)
    Image.new("CMYK", (9, 9)).save(tmp_path / "cmyk.jpg")
    for name in ("deep.png", "cmyk.jpg"):
        with pytest.raises(ValueError, match=f"{name}.*with loss"):
            open_raster(tmp_path / name)


def test_open_raster__a_picture_too_short_for_the_pixels_it_claims_is_one_line(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path)
    size, claimed = struct.pack(">HH", 70, 90), struct.pack(">HH", 40_000, 40_000)
    path.write_bytes(path.read_bytes().replace(size, claimed, 1))
    with pytest.raises(ValueError, match="a.jpg.*cut short.*40000 x 40000 px"):
        open_raster(path)


def test_open_raster__a_large_file_that_is_no_image_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.write(b"PK" + bytes(100))
        file.truncate(2**26)
    with pytest.raises(ValueError):  # imports rasterio, where it is installed
        open_raster(tmp_path / "a.png")
    tracemalloc.start()
    with pytest.raises(ValueError, match="a.png"):
        open_raster(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("scale, x", [  # of a pixel; where the first lies
    ((0.0, 1.0, 0.0), 0.0), ((1.0, float("nan"), 0.0), 0.0), ((1.0, 1.0, 0.0), 1e300),
    ((1.0, 1.0, 0.0), float("inf"))])
def test_open_raster__georeference_that_makes_no_sense_is_one_line(tmp_path, scale, x):
    tags = [(33550, "d", 3, scale, True), (33922, "d", 6, (0.0, 0.0, 0.0, x, 0.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.uint8), extratags=tags)
    with pytest.raises(ValueError, match="^[^\n]*a.tif[^\n]*georeference[^\n]*$"):
        open_raster(tmp_path / "a.tif")


def overwrite_tag(path, name, value):
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[name].overwrite(value)


def test_open_raster__an_image_of_no_bands_is_one_line(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.uint8))
    overwrite_tag(tmp_path / "a.tif", "SamplesPerPixel", 0)
    with pytest.raises(ValueError, match="^[^\n]*a.tif[^\n]*no pixels[^\n]*$"):
        open_raster(tmp_path / "a.tif")


def test_open_raster__complex_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.complex64))
    with pytest.raises(ValueError, match="a.tif.*complex64"):
        open_raster(tmp_path / "a.tif")


def test_open_raster__more_height_than_pieces_is_one_line(tmp_path):
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression="zlib",
               rowsperstrip=8)
    overwrite_tag(tmp_path / "a.tif", "ImageLength", 4_000_000_000)
    with pytest.raises(ValueError, match="^[^\n]*a.tif[^\n]*9 of its 500000000[^\n]*$"):
        open_raster(tmp_path / "a.tif")


@pytest.mark.parametrize("options, tags, reason", [
    ({}, {"ImageLength": 10**6, "RowsPerStrip": 10**6}, "270000000 bytes|cut short"),
    ({"compression": "zlib"}, {"ImageLength": 10**6, "RowsPerStrip": 10**6}, "piece 0"),
    ({"compression": "packbits", "rowsperstrip": 30}, {"ImageWidth": 10**6}, "piece 0"),
    ({"tile": (32, 32)}, {"TileByteCounts": [3072] * 4 + [3000] + [3072] * 4}, "piece 4")])
def test_open_raster__pieces_too_short_for_the_pixels_they_claim_are_one_line(
        tmp_path, options, tags, reason):
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", **options)
    assert_reads(tmp_path / "a.tif", picture())
    for tag, value in tags.items():
        overwrite_tag(tmp_path / "a.tif", tag, value)
    with pytest.raises(ValueError, match=f"^[^\n]*a.tif[^\n]*({reason})[^\n]*$"):
        open_raster(tmp_path / "a.tif")


def test_open_raster__missing_empty_and_foreign_files_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.tif"):
        open_raster(tmp_path / "a.tif")
    for content, reason in [(b"", "empty"), (b"II*\0", "cannot be read"), (b"II", "no TIFF"),
                            (b"hello world" * 99, "no TIFF"), (b"\x89PNG\r\n\x1a\n", "no TIFF")]:
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(ValueError, match=f"^[^\n]*a.tif[^\n]*{reason}[^\n]*$"):
            open_raster(tmp_path / "a.tif")


TILES = {"compression": "jpeg", "tile": (32, 32)}


@pytest.mark.parametrize("name, options", [
    ("plain.tif", {}), ("a.png", None), ("a.jpg", None), ("jpeg.tif", TILES),
    ("strips.tif", {"compression": "lzw", "rowsperstrip": 8})])
def test_read__truncated_files_are_one_line(tmp_path, caplog, name, options):
    path = tmp_path / name
    if options is None:
        Image.fromarray(picture()).save(path)
    else:
        write_tiff(path, picture(), photometric="rgb", **options)
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.98):
        path.write_bytes(content[:int(share * len(content))])
        with pytest.raises(ValueError, match=f"^[^\n]*{name}[^\n]*$"):
            open_raster(path).read(0, 0, 70, 90)
    assert not caplog.records


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "jpeg"])
def test_read__a_damaged_tile_raises_where_it_is_needed(tmp_path, compression):
    path = write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression=compression,
                      tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[4]  # rows 32-63, cols 32-63
        count = file.pages[0].databytecounts[4]
    content = bytearray(path.read_bytes())
    content[offset:offset + count] = b"\xff" * count
    path.write_bytes(content)
    with open_raster(path) as scene:
        assert scene.read(0, 0, 32, 90).any()
        with pytest.raises(ValueError, match="^[^\n]*a.tif[^\n]*$"):
            scene.read(40, 40, 2, 2)


@pytest.mark.parametrize("error, reason", [
    (RuntimeError("two\nlines"), "two lines"), (KeyError(), "KeyError")])
def test_read__any_error_of_a_decoder_is_one_line(tmp_path, monkeypatch, error, reason):
    def fail(row, col, window):
        raise error

    with open_raster(write_tiff(tmp_path / "a.tif", picture())) as scene:
        monkeypatch.setattr(scene.source, "copy", fail)
        with pytest.raises(ValueError, match=f"a.tif.*{reason}"):
            scene.read(0, 0, 1, 1)


# Writing


@pytest.fixture
def two_writers(monkeypatch):
    """Let tifffile compress in two threads, so that it collects tiles before it writes them."""
    monkeypatch.setattr(tifffile.TiffWriter, "_maxworkers", staticmethod(lambda *sizes: 2),
                        raising=False)


@pytest.mark.parametrize("dtype, bands", [
    ("uint8", 1), ("int16", 2), ("uint8", 3), ("uint16", 10), ("float32", 4)])
def test_write_geotiff__row_blocks_of_any_height(tmp_path, two_writers, dtype, bands):
    pixels = picture(600, 530, bands, dtype)
    cuts = [pixels[:1], pixels[1:300], pixels[300:300], pixels[300:512], pixels[512:]]
    row_blocks = (cut[..., 0] if bands == 1 else cut for cut in cuts)
    write_geotiff(tmp_path / "a.tif", row_blocks, 600, 530, bands, dtype, nodata=3, level=1)
    with open_raster(tmp_path / "a.tif") as scene:
        assert np.array_equal(scene.read(0, 0, 600, 530), pixels)
        assert (scene.dtype, scene.nodata, scene.segment) == (dtype, 3, (512, 512))


@pytest.mark.parametrize("shapes, dtype, words", [
    ([(9, 600)], "uint8", "9 of 10 rows"), ([(9, 600), (9, 600)], "uint8", "18 by now"),
    ([(10, 600), (1, 600)], "uint8", "11 by now"), ([(10, 599)], "uint8", "599, 1"),
    ([(10, 600, 2)], "uint8", "600, 2"), ([(10, 600)], "int64", "int64")])
def test_write_geotiff__rows_that_do_not_fit_leave_the_old_file(tmp_path, shapes, dtype, words):
    old = tmp_path / "a.tif"
    old.write_text("the map of yesterday", encoding="utf-8")
    row_blocks = (np.zeros(shape, dtype) for shape in shapes)
    with pytest.raises(ValueError, match=f"a.tif: .*{words}"):
        write_geotiff(old, row_blocks, 10, 600, 1, "uint8")
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text(encoding="utf-8") == "the map of yesterday"


def test_write_geotiff__row_blocks_are_run_to_their_end(tmp_path):
    def row_blocks():
        yield np.zeros((10, 600), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_geotiff(tmp_path / "a.tif", row_blocks(), 10, 600, 1, "uint8")
    assert list(tmp_path.iterdir()) == []


def test_write_geotiff__bigtiff_is_chosen_by_size(tmp_path, monkeypatch):
    chosen = []

    def writer(path, bigtiff):
        chosen.append(bigtiff)
        raise InterruptedError

    monkeypatch.setattr(tifffile, "TiffWriter", writer)
    for height in (20000, 30000):
        with pytest.raises(InterruptedError):
            write_geotiff(tmp_path / "a.tif", [], height, 30000, 3, "uint8")
    assert chosen == [False, True]


def test_write_geotiff__memory_holds_a_few_rows_of_tiles(tmp_path, two_writers):
    row_blocks = (np.full((64, 2048, 4), row % 251, np.uint8) for row in range(0, 8192, 64))
    tracemalloc.start()
    write_geotiff(tmp_path / "a.tif", row_blocks, 8192, 2048, 4, "uint8", level=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20  # of 64 MiB; a row of tiles is 4 MiB, tifffile's queue 16


# Beside rasterio, where it is installed

FILES = [path for pattern in ("geotiffs/*.tif", "sentinel2_spain/*.tif", "zurich/*/*.tif",
                              "rachel_carson/*B03.tif*") for path in sorted(SHARED.glob(pattern))]


@pytest.mark.skipif(not FILES, reason="the shared imagery is missing")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_read__real_files_equal_rasterio(path):
    rasterio = pytest.importorskip("rasterio")
    if path.stem == "corrupt":
        with pytest.raises(ValueError, match="corrupt.tif"), open_raster(path) as scene:
            scene.read(0, 0, scene.height, scene.width)
        return
    random = np.random.default_rng(0)
    with open_raster(path) as scene, rasterio.open(path) as peer:
        shape = scene.height, scene.width, scene.bands
        assert (*shape, scene.dtype) == (*peer.shape, peer.count, peer.dtypes[0])
        np.testing.assert_equal(scene.nodata, peer.nodata)
        if scene.palette is not None:
            colours = [(*colour, 255) for colour in scene.palette.tolist()]
            assert colours == list(peer.colormap(1).values())
        if scene.georeference:
            affine = scene.georeference.affine
            assert np.allclose(affine, peer.transform[:6], rtol=1e-13, atol=1e-12)
        border = 310
        sides = scene.height + 2 * border, scene.width + 2 * border, scene.bands
        whole = np.full(sides, peer.nodata or 0, scene.dtype)
        whole[border:-border, border:-border] = np.moveaxis(peer.read(), 0, 2)
        is_jpeg = peer.compression is not None and "JPEG" in peer.compression.name.upper()
        for _ in range(40):
            height, width = random.integers(1, 300, 2)
            row = random.integers(-height, scene.height + 9)
            col = random.integers(-width, scene.width + 9)
            found = scene.read(row, col, height, width)
            wanted = whole[row + border:row + border + height, col + border:col + border + width]
            if is_jpeg:  # two decoders of JPEG may differ by rounding
                assert np.abs(found.astype(int) - wanted).mean() < 1
            else:
                assert np.array_equal(found, wanted, equal_nan=scene.dtype.kind == "f")
