"""raster.py: every encoding is read as it was written, damaged files are one line, strips are written whole or not."""

import pathlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from helpers import picture, write_tiff
from PIL import Image, ImageFile

from geo import raster
from geo.raster import open_raster, write_geotiff

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


def write_png(path, values, bits, colour_type):
    """A PNG of values (H, W) or (H, W, C) at a depth that Pillow does not write."""
    height, width = values.shape[:2]
    rows = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=-1)[..., -bits:]
    rows = np.packbits(rows.reshape(height, -1), axis=1)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)),
                       (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


def window_of(pixels, row, col, height, width, fill=0):
    """What read must return, made the slow way."""
    out = np.full((height, width, pixels.shape[2]), fill, pixels.dtype)
    for y in range(max(row, 0), min(row + height, pixels.shape[0])):
        for x in range(max(col, 0), min(col + width, pixels.shape[1])):
            out[y - row, x - col] = pixels[y, x]
    return out


def assert_reads(path, pixels, fill=0):
    """Whole, inside one segment, over several, over each border, and wholly outside."""
    height, width, bands = pixels.shape
    with open_raster(path) as scene:
        assert (scene.height, scene.width, scene.bands, scene.dtype) == (height, width, bands, pixels.dtype)
        for window in [(0, 0, height, width), (3, 5, 4, 6), (10, 20, 45, 61), (-5, -7, 30, 20), (0, -9, 5, 9),
                       (height + 5, 3, 9, 9), (height - 9, width - 8, 20, 30), (-2, -2, height + 4, width + 4)]:
            found = scene.read(*window)
            assert found.dtype == pixels.dtype and np.array_equal(found, window_of(pixels, *window, fill)), window


LAYOUTS = {"strips": {"rowsperstrip": 8}, "one strip": {"rowsperstrip": 70}, "tiles": {"tile": (32, 16)},
           "large tile": {"tile": (128, 128)}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_layouts_orders_and_types(tmp_path, layout, planar, compression):
    for dtype, byteorder, bigtiff in [("u1", "<", False), ("u2", ">", False), ("i2", "<", True), ("f4", ">", True)]:
        pixels = picture(dtype=dtype)
        write_tiff(tmp_path / "a.tif", pixels, planarconfig=planar, compression=compression, byteorder=byteorder,
                   bigtiff=bigtiff, **LAYOUTS[layout])
        assert_reads(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("compression, dtype, options", [
    ("lzw", "u1", {}), ("lzw", "u2", {"predictor": 2}), ("zlib", "u2", {"predictor": 2}),
    ("zlib", "f4", {"predictor": 3}), ("packbits", "u1", {}), ("lzma", "i2", {}), ("zstd", "f4", {}),
    ("zstd", "u2", {"predictor": 2}), ("lerc", "f4", {}), ("png", "u2", {}),
    ("webp", "u1", {"compressionargs": {"lossless": True}}), ("jpegxl", "u1", {"compressionargs": {"lossless": True}}),
    ("jpeg2000", "u2", {"compressionargs": {"level": 0}})])
def test_compressions(tmp_path, compression, dtype, options):
    pixels = picture(dtype=dtype)
    for layout in ({"tile": (32, 32)}, {"rowsperstrip": 16}):
        write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", compression=compression, **options, **layout)
        assert_reads(tmp_path / "a.tif", pixels)


def test_a_large_file_that_is_no_image_is_not_read(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.write(b"PK" + bytes(100))
        file.truncate(2**26)
    tracemalloc.start()
    with pytest.raises(ValueError, match="a.png: .*it is no TIFF, PNG or JPEG"):
        open_raster(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_jpeg_in_tiles_is_turned_to_rgb(tmp_path):
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression="jpeg", tile=(32, 32))
    assert_reads(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif"))
    with open_raster(tmp_path / "a.tif") as scene:
        assert np.abs(scene.read(0, 0, 70, 90).astype(int) - picture()).mean() < 12


def test_single_bits_are_0_and_1(tmp_path):
    bits = (picture(bands=1) > 60).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", bits.astype(bool))
    assert_reads(tmp_path / "a.tif", bits)


def test_left_out_tiles_are_nodata_or_0(tmp_path):
    tiles = [np.full((32, 32), 9, np.int16), None, None, np.full((32, 32), 8, np.int16)]
    wanted = np.kron([[9, -1], [-1, 8]], np.ones((32, 32))).astype(np.int16)[..., None]
    for nodata, tags in [(-1, [(42113, "s", 0, "-1", True)]), (0, [])]:
        tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(64, 64), dtype=np.int16, tile=(32, 32),
                         compression="zlib", extratags=tags, metadata=None)
        assert_reads(tmp_path / "a.tif", np.where(wanted == -1, nodata, wanted).astype(np.int16), fill=nodata)


def test_overviews_and_masks_behind_the_first_page_are_left_alone(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 2, 4):
            file.write(picture()[::step, ::step], subfiletype=int(step > 1), tile=(32, 32), photometric="rgb",
                       metadata=None)
    assert_reads(tmp_path / "a.tif", picture())
    assert open_raster(tmp_path / "a.tif").unread == ""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(), photometric="rgb", metadata=None)
        file.write(picture()[:, :, 0] > 100, subfiletype=4, photometric=4, bitspersample=1, metadata=None)
    assert_reads(tmp_path / "a.tif", picture())
    assert "mask beside its bands" in open_raster(tmp_path / "a.tif").unread


def test_control_points_are_not_read_and_said_to_be_so(tmp_path):
    ties = (0, 0, 0, 10.0, 50.0, 0, 0, 9, 0, 10.0, 49.0, 0, 9, 0, 0, 11.0, 50.1, 0)
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", extratags=[(33922, "d", 18, ties, True)])
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.georeference is None and "control points" in scene.unread


def test_cache_is_bounded_and_neighbouring_windows_share_it(tmp_path, monkeypatch):
    tiles = (np.full((512, 512), index % 251, np.uint8) if index in (0, *range(40, 160)) else None
             for index in range(40 * 40))  # rows 1 to 3 of the tiles, and one that tifffile asks for
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(20000, 20000), dtype=np.uint8, tile=(512, 512),
                     compression="zlib", metadata=None)
    monkeypatch.setattr(raster, "CACHE_BYTES", 4 * 2**20)  # 16 tiles
    with open_raster(tmp_path / "a.tif") as scene:
        decoded, decode = [], scene.source.decode
        scene.source.decode = lambda index: decoded.append(index) or decode(index)
        tracemalloc.start()
        for col in range(0, 20000, 900):
            found = scene.read(700, col, 1024, 1024)
            rows, cols = np.arange(700, 1724, 32)[:, None], np.arange(col, col + 1024, 32)
            wanted = np.where(cols < 20000, (rows // 512 * 40 + cols // 512) % 251, 0)  # 0 beyond the edge
            assert np.array_equal(found[::32, ::32, 0], wanted) and scene.source.cached_bytes <= 4 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # of 381 MiB: the cache, a row of tiles, two windows
        tracemalloc.stop()
        assert sorted(decoded) == [40 * y + x for y in (1, 2, 3) for x in range(40)]  # each needed tile once
        assert sum(pixels.nbytes for pixels in scene.source.cache.values()) == scene.source.cached_bytes
    assert scene.source is None


@pytest.mark.parametrize("nodata", [None, 9])
def test_what_a_file_leaves_out_is_no_data(tmp_path, monkeypatch, nodata):
    tiles = (np.full((32, 32), 5, np.uint8) if index in (0, 3) else None for index in range(4))
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(64, 64), dtype=np.uint8, tile=(32, 32), compression="zlib", metadata=None,
                     extratags=[(42113, "s", 2, b"9", True)] if nodata else [])
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))  # what memory may hold
    with open_raster(tmp_path / "a.tif") as scene:
        for top, left in ((0, 0), (-1, 0), (0, 2)):
            found = scene.read(top, left, 64, 64)[:, :, 0]
            rows, cols = np.arange(top, top + 64)[:, None], np.arange(left, left + 64)
            there = (rows >= 0) & (cols < 64) & ((rows < 32) == (cols < 32))
            assert np.array_equal(found, np.where(there, 5, nodata or 0))


def test_the_segments_used_last_are_kept(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", picture(bands=1), compression="zlib", tile=(32, 32))  # 3 x 3 tiles
    for tiles, places, wanted in [(2, "0 1 0 2 0", [0, 1, 2]), (2, "0 1 2 0", [0, 1, 2, 0]), (0, "0 0", [0])]:
        monkeypatch.setattr(raster, "CACHE_BYTES", tiles * 1024)
        with open_raster(tmp_path / "a.tif") as scene:
            decoded, decode = [], scene.source.decode
            scene.source.decode = lambda index: decoded.append(index) or decode(index)
            for place in places.split():
                scene.read(0, 32 * int(place), 5, 5)
            assert decoded == wanted


def test_large_uncompressed_files_are_mapped_piece_by_piece(tmp_path):
    scene = tifffile.memmap(tmp_path / "a.tif", shape=(20000, 20000), dtype=np.uint16, byteorder=">", metadata=None)
    scene[12345, 6000:6400] = np.arange(400)
    scene.flush()
    del scene
    with open_raster(tmp_path / "a.tif") as scene:
        for row in range(0, 20000, 1000):
            window = scene.read(row, 5900, 1000, 700)
            assert window.any() == (row == 12000) and scene.source.cached_bytes <= raster.CACHE_BYTES
        assert np.array_equal(scene.read(12344, 6000, 3, 400)[:, :, 0], [[0] * 400, range(400), [0] * 400])


def test_one_giant_compressed_strip_is_refused_an_uncompressed_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(raster, "SEGMENT_BYTES", 70 * 90 * 3 - 1)
    write_tiff(tmp_path / "a.tif", picture(), compression="zlib", rowsperstrip=70)
    with pytest.raises(ValueError, match="a.tif: cannot be read .*pieces.*limit.*tiled TIFF"):
        open_raster(tmp_path / "a.tif")
    write_tiff(tmp_path / "a.tif", picture(), rowsperstrip=70)
    assert_reads(tmp_path / "a.tif", picture())


@pytest.mark.parametrize("text, dtype, nodata", [
    ("255", "u1", 255), ("0.0", "u1", 0), ("-9999", "i2", -9999), ("-9999", "u1", None), ("0.5", "u1", None),
    ("nan", "f4", np.nan), ("nan", "u2", None), ("-3.4e+38", "f4", float(np.float32(-3.4e38))), ("none", "f4", None),
    ("-1.7976931348623157e+308", "f4", -np.inf)])
@pytest.mark.filterwarnings("error")
def test_nodata_is_what_a_pixel_can_hold(tmp_path, caplog, text, dtype, nodata):
    write_tiff(tmp_path / "a.tif", picture(bands=1, dtype=dtype), extratags=[(42113, "s", 0, text, True)])
    with open_raster(tmp_path / "a.tif") as scene:
        np.testing.assert_equal(scene.nodata, nodata)
        outside = scene.read(-1, 0, 1, 1).item()
        np.testing.assert_equal(outside, 0 if nodata is None else nodata)
    assert not caplog.records  # tifffile itself would warn


def test_no_data_is_nan_in_a_band_nodata_in_all_or_transparent(tmp_path):
    pixels = np.ones((1, 5, 2), np.float32)
    pixels[0, 0] = np.nan, 1
    pixels[0, 1] = -9999, 1
    pixels[0, 2] = -9999, -9999
    pixels[0, 3] = np.inf, 1
    write_tiff(tmp_path / "a.tif", pixels, extratags=[(42113, "s", 0, "-9999", True)])
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.no_data(scene.read(0, 0, 1, 5)).tolist() == [[True, False, True, True, False]]
    write_tiff(tmp_path / "a.tif", np.array([[[5, 5, 5, 0], [0, 0, 0, 9]]], np.uint8), photometric="rgb",
               extrasamples=["unassalpha"])
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.alpha == 3 and scene.no_data(scene.read(0, 0, 1, 2)).tolist() == [[True, False]]


# Pictures

@pytest.mark.parametrize("mode, bands", [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_png_keeps_its_bands(tmp_path, mode, bands):
    Image.fromarray(picture(bands=bands)[..., 0] if bands == 1 else picture(bands=bands), mode).save(tmp_path / "a.png")
    assert_reads(tmp_path / "a.png", picture(bands=bands))
    assert open_raster(tmp_path / "a.png").alpha == (bands - 1 if bands in (2, 4) else None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_every_depth_keeps_its_values(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 2**bits, (70, 90, 1)).astype(np.uint16 if bits == 16 else np.uint8)
    write_png(tmp_path / "a.png", values[..., 0], bits, 0)
    assert_reads(tmp_path / "a.png", values)


def test_palette_files_are_read_as_ids(tmp_path):
    ids, colours = np.arange(60, dtype=np.uint8).reshape(6, 10) % 4, [[1, 2, 3], [40, 50, 60], [7, 8, 9], [255, 0, 255]]
    image = Image.fromarray(ids, "P")
    image.putpalette(sum(colours, []))
    for name, options in [("a.png", {}), ("b.png", {"bits": 2}), ("c.tif", {})]:
        image.save(tmp_path / name, **options)
        with open_raster(tmp_path / name) as mask:
            assert np.array_equal(mask.read(0, 0, 6, 10)[..., 0], ids) and mask.bands == 1
            assert mask.palette.shape == (256, 3) and mask.palette.dtype == np.uint8
            assert mask.palette[:4].tolist() == colours
    assert open_raster(write_tiff(tmp_path / "d.tif", picture())).palette is None


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    shown = np.zeros((8, 16, 3), np.uint8)
    shown[:, 8:], shown[4:, :8] = 100, 200  # right half, and left half of the bottom
    stored = {1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.swapaxes(0, 1),
              6: np.rot90(shown), 7: shown[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(shown, -1)}[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    with open_raster(path) as photo:
        assert (photo.height, photo.width, photo.turned) == (8, 16, orientation if orientation > 1 else 0)
        assert np.abs(photo.read(0, 0, 8, 16).astype(int) - shown).max() <= 2
        assert np.abs(photo.read(3, 6, 4, 5).astype(int) - shown[3:7, 6:11]).max() <= 2


def test_pictures_are_decoded_at_the_first_window_and_not_before(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow itself would refuse from 20 px on
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
        photo = open_raster(tmp_path / "a.png")
        with pytest.raises(ValueError, match="a.png: .*70 x 90 px.*--max-pixels is 6299"):
            open_raster(tmp_path / "a.png", max_pixels=70 * 90 - 1)
    assert np.array_equal(photo.read(0, 0, 70, 90), picture()) and Image.MAX_IMAGE_PIXELS == 10


# What cannot be read

def test_pictures_that_would_lose_something_are_refused(tmp_path):
    write_png(tmp_path / "deep.png", picture(dtype=np.uint16), 16, 2)
    Image.new("CMYK", (9, 9)).save(tmp_path / "cmyk.jpg")
    for name in ("deep.png", "cmyk.jpg"):
        with pytest.raises(ValueError, match=f"{name}: .*with loss.*TIFF"):
            open_raster(tmp_path / name)


@pytest.mark.parametrize("scale, tie", [((0.0, 1.0, 0.0), (0.0,) * 6), ((1.0, 1.0, 0.0), (1e300, 0.0, 0.0, 1e300, 0.0, 0.0)), ((1.0, float("nan"), 0.0), (0.0,) * 6),
                                        ((1.0, 1.0, 0.0), (0.0, 0.0, 0.0, float("inf"), 0.0, 0.0))])
def test_a_georeference_that_makes_no_sense_is_one_line(tmp_path, scale, tie):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.uint8), extratags=[(33550, 12, 3, scale, True), (33922, 12, 6, tie, True)])
    with pytest.raises(ValueError, match="a.tif: [^\n]*its georeference makes no sense"):
        open_raster(tmp_path / "a.tif")


def test_an_image_of_no_bands_is_one_line(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["SamplesPerPixel"].overwrite(0)
    with pytest.raises(ValueError, match="a.tif: [^\n]*no pixels"):
        open_raster(tmp_path / "a.tif")


def test_a_height_that_the_pieces_do_not_make_up_is_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression="zlib", rowsperstrip=8)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(4_000_000_000)
    with pytest.raises(ValueError, match="a.tif: [^\n]*9 of its 500000000 pieces"):
        open_raster(tmp_path / "a.tif")


def test_missing_empty_and_foreign_files_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.tif: no such file"):
        open_raster(tmp_path / "a.tif")
    for content, reason in [(b"", "empty"), (b"II*\0", "cannot be read"), (b"II", "no TIFF, PNG or JPEG"),
                            (b"hello world" * 99, "no TIFF, PNG or JPEG"), (b"\x89PNG\r\n\x1a\n", "no TIFF")]:
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(ValueError, match=f"^[^\n]*a.tif: [^\n]*{reason}[^\n]*; copy it again[^\n]*$"):
            open_raster(tmp_path / "a.tif")


@pytest.mark.parametrize("name, options", [
    ("plain.tif", {}), ("strips.tif", {"compression": "lzw", "rowsperstrip": 8}), ("a.png", None), ("a.jpg", None),
    ("tiles.tif", {"compression": "zlib", "tile": (32, 32)}), ("jpeg.tif", {"compression": "jpeg", "tile": (32, 32)})])
def test_truncated_files_are_one_line(tmp_path, caplog, name, options):
    if options is None:
        Image.fromarray(picture()).save(tmp_path / name)
    else:
        write_tiff(tmp_path / name, picture(), photometric="rgb", **options)
    whole = (tmp_path / name).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.98):
        (tmp_path / name).write_bytes(whole[:int(share * len(whole))])
        with pytest.raises(ValueError, match=f"^[^\n]*{name}: cannot be read [^\n]*$"):
            open_raster(tmp_path / name).read(0, 0, 70, 90)
    assert not caplog.records


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "jpeg"])
def test_a_damaged_segment_raises_when_it_is_read(tmp_path, compression):
    path = write_tiff(tmp_path / "a.tif", picture(), photometric="rgb", compression=compression, tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[4], file.pages[0].databytecounts[4]  # rows 32-63, cols 32-63
    content = bytearray(path.read_bytes())
    content[offset:offset + count] = b"\xff" * count
    path.write_bytes(content)
    with open_raster(path) as scene:
        assert scene.read(0, 0, 32, 90).any()
        with pytest.raises(ValueError, match="^[^\n]*a.tif: cannot be read [^\n]*copy it again[^\n]*$"):
            scene.read(40, 40, 2, 2)


@pytest.mark.parametrize("error, reason", [(RuntimeError("two\nlines"), "two lines"), (KeyError(), "KeyError")])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error, reason):
    def fail(row, col, window):
        raise error
    with open_raster(write_tiff(tmp_path / "a.tif", picture())) as scene:
        monkeypatch.setattr(scene.source, "copy", fail)
        with pytest.raises(ValueError, match=f"a.tif: cannot be read .{reason}.; copy it again"):
            scene.read(0, 0, 1, 1)


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

FILES = sorted(SHARED.glob("geotiffs/*.tif")) + sorted(SHARED.glob("sentinel2_spain/*.tif")) + \
    sorted(SHARED.glob("zurich/*/*.tif")) + sorted(SHARED.glob("rachel_carson/*B03.tif*"))


@pytest.mark.skipif(not FILES, reason="the shared imagery is missing")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_real_files_equal_rasterio(path):
    rasterio = pytest.importorskip("rasterio")
    if path.stem == "corrupt":
        with pytest.raises(ValueError, match="corrupt.tif: cannot be read"), open_raster(path) as scene:
            scene.read(0, 0, scene.height, scene.width)
        return
    random = np.random.default_rng(0)
    with open_raster(path) as scene, rasterio.open(path) as peer:
        assert (scene.height, scene.width, scene.bands, scene.dtype) == (*peer.shape, peer.count, peer.dtypes[0])
        np.testing.assert_equal(scene.nodata, peer.nodata)
        if scene.palette is not None:
            assert [(*colour, 255) for colour in scene.palette.tolist()] == list(peer.colormap(1).values())
        if scene.georeference:
            assert np.allclose(scene.georeference.affine, peer.transform[:6], rtol=1e-13, atol=1e-12)
        border = 310
        sides = scene.height + 2 * border, scene.width + 2 * border, scene.bands
        ground = np.full(sides, peer.nodata or 0, scene.dtype)
        ground[border:-border, border:-border] = np.moveaxis(peer.read(), 0, 2)
        lossy = peer.compression is not None and "JPEG" in peer.compression.name.upper()
        for _ in range(40):
            height, width = random.integers(1, 300, 2)
            row, col = random.integers(-height, scene.height + 9), random.integers(-width, scene.width + 9)
            found = scene.read(row, col, height, width)
            wanted = ground[row + border:row + border + height, col + border:col + border + width]
            if lossy:  # two decoders of JPEG may differ by rounding
                assert np.abs(found.astype(int) - wanted).mean() < 1
            else:
                assert np.array_equal(found, wanted, equal_nan=scene.dtype.kind == "f")
