"""raster.py: class masks brought down by an integer factor, as GDAL does it and by the slow rule in plain words."""

import numpy as np
import pytest
from helpers import picture, write_tiff

from geo import raster
from geo.raster import downscale_classes, open_raster, write_geotiff


def brought_down(path, mask, factor, how, **options):
    """Write mask (H, W) as a tiled TIFF and bring it down."""
    write_geotiff(path, [mask], *mask.shape, 1, mask.dtype)
    with open_raster(path) as source:
        return np.concatenate(list(downscale_classes(source, factor, how, **options)))


def slow_vote(mask, factor, weights, ignore):
    """The rule in plain words: pixel by pixel, a class leads from the moment its score exceeds the best so far."""
    out = np.zeros((-(-mask.shape[0] // factor), -(-mask.shape[1] // factor)), mask.dtype)
    for y, x in np.ndindex(*out.shape):
        scores, best, out[y, x] = {}, 0, 0 if ignore is None else ignore
        for value in mask[y * factor:(y + 1) * factor, x * factor:(x + 1) * factor].ravel().tolist():
            if value != ignore:
                scores[value] = scores.get(value, 0) + weights.get(value, 1)
                if scores[value] > best:
                    best, out[y, x] = scores[value], value
    return out


MASK = np.array([[1, 1, 2, 3, 9],
                 [1, 2, 3, 2, 9],
                 [5, 9, 9, 9, 9],
                 [9, 5, 9, 9, 4]], np.uint8)


def test_a_mask_that_can_be_checked_by_eye(tmp_path):
    path = tmp_path / "a.tif"
    assert brought_down(path, MASK, 2, "nearest").tolist() == [[2, 2, 9], [5, 9, 4]]
    assert brought_down(path, MASK, 2, "mode").tolist() == [[1, 3, 9], [9, 9, 9]]  # 2 3 / 3 2: 3 is complete first
    assert brought_down(path, MASK, 2, "mode", ignore=9).tolist() == [[1, 3, 9], [5, 9, 4]]
    assert brought_down(path, MASK, 2, "weighted", weights={2: 4, 4: 3}).tolist() == [[2, 2, 9], [9, 9, 4]]
    assert brought_down(path, MASK, 2, "weighted", weights=[1, 1, 4, 1, 3]).tolist() == [[2, 2, 9], [9, 9, 4]]
    assert brought_down(path, MASK, 2, "mode", weights={2: 4}).tolist() == [[1, 3, 9], [9, 9, 9]]
    assert brought_down(path, MASK, 1, "mode").tolist() == MASK.tolist()
    assert brought_down(path, MASK, 9, "mode").tolist() == [[9]]


@pytest.mark.parametrize("ignore", [-1, 300, 2.5])
def test_a_value_that_no_pixel_can_have_takes_no_vote_away(tmp_path, ignore):
    for how in ("nearest", "mode"):
        found = brought_down(tmp_path / "a.tif", MASK, 2, how, ignore=ignore)
        assert found.tolist() == brought_down(tmp_path / "a.tif", MASK, 2, how).tolist()


def test_nearest_takes_gdals_pixel(tmp_path):
    mask = np.random.default_rng(0).integers(0, 250, (100, 70)).astype(np.uint8)
    for factor in (2, 5, 10):
        found = brought_down(tmp_path / "a.tif", mask, factor, "nearest")
        assert np.array_equal(found, mask[factor // 2::factor, factor // 2::factor])


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("factor", [3, 10])
def test_votes_on_noise_equal_the_slow_rule_also_in_ties_and_ragged_blocks(tmp_path, monkeypatch, dtype, factor):
    monkeypatch.setattr(raster, "TILE", 64)  # so that pieces meet
    monkeypatch.setattr(raster, "PIECE", 64 * 40)
    mask = np.random.default_rng(0).integers(0, 6, (147, 163)).astype(dtype)
    mask[:, 120:] = 5  # uniform pieces too
    for weights, ignore in [({}, None), ({}, 5), ({1: 2, 3: 2}, 0)]:
        found = brought_down(tmp_path / "a.tif", mask, factor, "weighted", weights=weights, ignore=ignore)
        assert found.dtype == dtype and np.array_equal(found, slow_vote(mask, factor, weights, ignore))
        if not weights:
            assert np.array_equal(found, brought_down(tmp_path / "a.tif", mask, factor, "mode", ignore=ignore))


@pytest.mark.parametrize("factor", [2, 3, 10])
def test_votes_on_a_clean_mask_equal_the_slow_rule(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(raster, "PIECE", 512 * 60)
    random = np.random.default_rng(0)
    mask = random.integers(0, 6, (8, 9)).astype(np.uint8).repeat(19, 0).repeat(17, 1)  # fields, of no whole blocks
    flipped = random.random(mask.shape) < 0.05
    mask[flipped] = random.integers(0, 6, flipped.sum())
    for weights, ignore in [({}, None), ({}, 5), ({1: 5, 3: 0.5}, None), ({1: 5, 5: 9}, 5)]:
        found = brought_down(tmp_path / "a.tif", mask, factor, "weighted", weights=weights, ignore=ignore)
        assert np.array_equal(found, slow_vote(mask, factor, weights, ignore)), (weights, ignore)


def test_blocks_of_more_than_255_pixels_a_side_do_not_overflow(tmp_path):
    mask = np.ones((300, 600), np.uint8)
    mask[:, :290], mask[0, 590:] = 2, 3
    assert brought_down(tmp_path / "a.tif", mask, 300, "mode").tolist() == [[2, 1]]


def test_where_all_256_values_are_equal_the_first_pixel_wins(tmp_path):
    mask = np.random.default_rng(0).permutation(256).reshape(16, 16).astype(np.uint8)
    assert brought_down(tmp_path / "a.tif", mask, 16, "mode").tolist() == [[mask[0, 0]]]


def test_strips_follow_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(raster, "CACHE_BYTES", 20 * 8 * 900)  # 20 strips of the file
    mask = np.random.default_rng(0).integers(0, 3, (4000, 900)).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", mask[..., None], compression="zlib", rowsperstrip=8)
    with open_raster(tmp_path / "a.tif") as source:
        decoded, decode = [], source.source.decode
        source.source.decode = lambda index: decoded.append(index) or decode(index)
        strips = list(downscale_classes(source, 10))
    assert decoded == list(range(500)) and len(strips) > 1  # each strip of the file once
    assert np.array_equal(np.concatenate(strips), mask[5::10, 5::10])


@pytest.mark.parametrize("factor, how, weights", [
    (0, "mode", None), (2.5, "mode", None), (2.0, "nearest", None), (2, "median", None), (2, "weighted", [1, 0]),
    (2, "weighted", {3: -1}), (2, "weighted", {3: np.nan}), (2, "weighted", [1, np.inf]), (2, "weighted", {3: 1e300})])
def test_arguments_out_of_range(tmp_path, factor, how, weights):
    with pytest.raises(ValueError, match="cannot scale"):
        brought_down(tmp_path / "a.tif", MASK, factor, how, weights=weights)
    write_tiff(tmp_path / "b.tif", picture(dtype=np.float32))
    with pytest.raises(ValueError, match="b.tif: is no class mask"):
        next(downscale_classes(open_raster(tmp_path / "b.tif"), 2))


# Beside GDAL, where it is installed

def test_mode_and_nearest_equal_gdal_on_every_block(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    mask = np.random.default_rng(0).integers(0, 9, (1000, 1300)).astype(np.uint8)
    ours = {how: brought_down(tmp_path / "a.tif", mask, 10, how) for how in ("mode", "nearest")}
    with rasterio.open(tmp_path / "a.tif") as file:
        for how, found in ours.items():
            gdal = file.read(1, out_shape=found.shape, resampling=getattr(rasterio.enums.Resampling, how))
            assert np.array_equal(found, gdal)


def test_an_ignored_value_of_a_wide_type_takes_no_time(tmp_path):
    ids = np.array([[7, 2**32 - 1], [2**32 - 1, 2**32 - 1]], np.uint32)
    write_tiff(tmp_path / "a.tif", ids[..., None])
    with open_raster(tmp_path / "a.tif") as mask:
        assert np.concatenate(list(downscale_classes(mask, 2, "mode", ignore=float(2**32 - 1)))).tolist() == [[7]]
