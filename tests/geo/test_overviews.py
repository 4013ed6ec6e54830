"""overviews.py: smaller copies of maps by mode and mean, in the layout that GDAL asks for."""

import numpy as np
import pytest
import tifffile

from geo import overviews
from geo.georeference import KEYS, PIXEL_SCALE, TIE_POINTS, Georeference
from geo.overviews import add_overviews, shrink_classes, shrink_values
from geo.raster import open_raster, write_geotiff

NOTHING = 255
UTM = Georeference({PIXEL_SCALE: (2.0, 2.0, 0.0), TIE_POINTS: (0, 0, 0, 500000.0, 4600000.0, 0),
                    KEYS: (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32631)})


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 px, so that small maps have several."""
    monkeypatch.setattr(overviews, "TILE", 16)
    monkeypatch.setattr(overviews, "MOST_LEVELS", 4)
    monkeypatch.setattr("geo.raster.TILE", 16)


def write_map(path, pixels, **options):
    height, width, bands = pixels.shape
    write_geotiff(path, [pixels], height, width, bands, "uint8", georeference=UTM, **options)
    return path


def random_map(height, width, bands=1):
    pixels = np.random.default_rng(0).integers(0, 5, (height, width, bands)).astype(np.uint8)
    pixels[:20, :9] = 0 if bands > 1 else NOTHING
    return pixels


def most_frequent(block):
    """The class that is most frequent in a block, or that at its top left of several."""
    counts = np.bincount(block[block != NOTHING], minlength=256)
    winners = np.flatnonzero(counts == counts.max())
    if counts.max() == 0:
        return NOTHING
    return block[0, 0] if block[0, 0] in winners else winners[0]


def mean_of_known(block):
    """The mean of pixels (h, w, C) that are not 0 in all bands, halves rounded up."""
    known = block[block.any(axis=2)]
    return np.floor(known.mean(axis=0) + 0.5) if len(known) else np.zeros(block.shape[2])


def in_blocks(pixels, size, function):
    """Apply a function to each block of size x size pixels, smaller at the edges."""
    rows = range(0, len(pixels), size)
    cols = range(0, pixels.shape[1], size)
    return np.array([[function(pixels[row:row + size, col:col + size]) for col in cols]
                     for row in rows])


@pytest.mark.parametrize("height, width", [(16, 16), (13, 7), (1, 5)])
def test_shrink__every_block_against_a_plain_loop(height, width):
    classes = random_map(height, width)
    values = random_map(height, width, bands=3) * 50
    copies = zip(shrink_classes(classes, 3), shrink_values(values, 3))
    for level, (small_classes, small_values) in enumerate(copies, 1):
        wanted = in_blocks(classes[:, :, 0], 2**level, most_frequent)
        assert np.array_equal(small_classes[:, :, 0], wanted)
        assert np.array_equal(small_values, in_blocks(values, 2**level, mean_of_known))


@pytest.mark.parametrize("bands", [1, 3])
def test_add_overviews__pages_are_the_map_and_its_copies(tmp_path, small_tiles, bands):
    pixels = random_map(70, 45, bands)
    palette = np.zeros((256, 3), np.uint8) if bands == 1 else None
    path = write_map(tmp_path / "a.tif", pixels, palette=palette, nodata=NOTHING)
    add_overviews(path, "mode" if bands == 1 else "mean")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(0, 0, 70, 45), pixels)
        assert raster.georeference.tags == UTM.tags and raster.nodata == NOTHING
    with tifffile.TiffFile(path) as file:
        assert [page.shape[:2] for page in file.pages] == [(70, 45), (35, 23), (18, 12), (9, 6)]
        for level, page in enumerate(file.pages[1:], 1):
            assert page.subfiletype == 1 and page.is_tiled
            wanted = in_blocks(pixels[:, :, 0], 2**level, most_frequent) if bands == 1 else (
                in_blocks(pixels, 2**level, mean_of_known))
            assert np.array_equal(page.asarray(), wanted)
        check_layout(file)


def check_layout(file):
    """The rules of GDAL's validator: headers in order, then tiles, the smallest copy's first."""
    headers = [page.offset for page in file.pages]
    tiles = [page.dataoffsets[0] for page in file.pages]
    assert headers[0] == (16 if file.is_bigtiff else 8)
    assert headers == sorted(headers) and tiles == sorted(tiles, reverse=True)
    assert max(headers) < min(tiles)
    for page in file.pages:
        assert list(page.dataoffsets) == sorted(page.dataoffsets)


def test_add_overviews__gdal_reads_them_also_in_a_bigtiff(tmp_path, small_tiles, monkeypatch):
    rasterio = pytest.importorskip("rasterio")
    writer = tifffile.TiffWriter
    monkeypatch.setattr(tifffile, "TiffWriter", lambda path, bigtiff: writer(path, bigtiff=True))
    pixels = random_map(70, 45)
    path = write_map(tmp_path / "a.tif", pixels)
    add_overviews(path, "mode")
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        check_layout(file)
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2, 4, 8]
        assert file.crs.to_epsg() == 32631 and file.transform.c == 500000
        assert np.array_equal(file.read(1), pixels[:, :, 0])
    with rasterio.open(path, overview_level=1) as file:
        assert np.array_equal(file.read(1), in_blocks(pixels[:, :, 0], 4, most_frequent))


def test_add_overviews__validator_of_rio_cogeo(tmp_path, small_tiles):
    validate = pytest.importorskip("rio_cogeo").cog_validate
    path = write_map(tmp_path / "a.tif", random_map(70, 45))
    add_overviews(path, "mode")
    assert validate(path)[0]


def test_add_overviews__a_full_disk_leaves_the_file_as_it_was(tmp_path, small_tiles, monkeypatch):
    path = write_map(tmp_path / "a.tif", random_map(70, 45))
    before = path.read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(overviews, "write_cog", full)
    with pytest.raises(OSError, match="no space"):
        add_overviews(path, "mode")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == before


def test_add_overviews__a_map_of_one_tile_has_none(tmp_path):
    path = write_map(tmp_path / "a.tif", random_map(70, 45))
    before = path.read_bytes()
    add_overviews(path, "mode")
    assert path.read_bytes() == before
