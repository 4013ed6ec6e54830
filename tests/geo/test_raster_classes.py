"""downscale_classes: class masks by a whole number, as GDAL does it and by a slow, plain rule."""

import numpy as np
import pytest
from helpers import picture, write_tiff

from geo import downscale, tiff
from geo.raster import downscale_classes, open_raster, write_geotiff


def downscaled(path, mask, factor, how, **options):
    """Write mask (H, W) as a tiled TIFF and downscale it."""
    write_geotiff(path, [mask], *mask.shape, 1, mask.dtype)
    with open_raster(path) as source:
        return np.concatenate(list(downscale_classes(source, factor, how, **options)))


def slow_vote(mask, factor, weights, ignore):
    """The rule pixel by pixel: a class leads as soon as its score exceeds the best so far."""
    height, width = mask.shape
    out = np.zeros((-(-height // factor), -(-width // factor)), mask.dtype)
    for y, x in np.ndindex(*out.shape):
        scores = {}
        best = 0
        out[y, x] = 0 if ignore is None else ignore
        block = mask[y * factor:(y + 1) * factor, x * factor:(x + 1) * factor]
        for value in block.ravel().tolist():
            if value == ignore:
                continue
            scores[value] = scores.get(value, 0) + weights.get(value, 1)
            if scores[value] > best:
                best = scores[value]
                out[y, x] = value
    return out


MASK = np.array([[1, 1, 2, 3, 9],
                 [1, 2, 3, 2, 9],
                 [5, 9, 9, 9, 9],
                 [9, 5, 9, 9, 4]], np.uint8)


@pytest.mark.parametrize("factor, how, options, wanted", [
    (2, "nearest", {}, [[2, 2, 9], [5, 9, 4]]),
    (2, "mode", {}, [[1, 3, 9], [9, 9, 9]]),  # of 2 3 / 3 2, the 3 is complete first
    (2, "mode", {"ignore": 9}, [[1, 3, 9], [5, 9, 4]]),
    (2, "mode", {"ignore": [0, 9]}, [[1, 3, 0], [5, 0, 4]]),
    (2, "mode", {"weights": {2: 4}}, [[1, 3, 9], [9, 9, 9]]),  # are for "weighted" only
    (2, "weighted", {"weights": {2: 4, 4: 3}}, [[2, 2, 9], [9, 9, 4]]),
    (2, "weighted", {"weights": [1, 1, 4, 1, 3]}, [[2, 2, 9], [9, 9, 4]]),
    (1, "mode", {}, MASK.tolist()),
    (9, "mode", {}, [[9]])])
def test_downscale_classes__by_eye(tmp_path, factor, how, options, wanted):
    assert downscaled(tmp_path / "a.tif", MASK, factor, how, **options).tolist() == wanted


@pytest.mark.parametrize("ignore", [-1, 300, 2.5])
def test_downscale_classes__ignored_value_that_no_pixel_can_have(tmp_path, ignore):
    found = downscaled(tmp_path / "a.tif", MASK, 2, "mode", ignore=ignore)
    assert found.tolist() == [[1, 3, 9], [9, 9, 9]]


def test_downscale_classes__ignored_value_of_a_wide_type_takes_no_time(tmp_path):
    nothing = 2**32 - 1
    ids = np.array([[7, nothing], [nothing, nothing]], np.uint32)
    write_tiff(tmp_path / "a.tif", ids[..., None])
    with open_raster(tmp_path / "a.tif") as mask:
        blocks = list(downscale_classes(mask, 2, "mode", ignore=float(nothing)))
    assert np.concatenate(blocks).tolist() == [[7]]


def test_downscale_classes__nearest_takes_gdals_pixel(tmp_path):
    mask = np.random.default_rng(0).integers(0, 250, (100, 70)).astype(np.uint8)
    for factor in (2, 5, 10):
        found = downscaled(tmp_path / "a.tif", mask, factor, "nearest")
        assert np.array_equal(found, mask[factor // 2::factor, factor // 2::factor])


@pytest.mark.parametrize("dtype, factor", [("uint8", 3), ("int16", 10)])
def test_majority_vote__equals_the_slow_rule_on_noise(tmp_path, monkeypatch, dtype, factor):
    monkeypatch.setattr(downscale, "TILE", 64)  # several pieces, and blocks cut by the edges
    monkeypatch.setattr(downscale, "PIECE", 64 * 40)
    mask = np.random.default_rng(0).integers(0, 6, (147, 163)).astype(dtype)
    mask[:, 120:] = 5  # and uniform pieces
    for weights, ignore in [({}, None), ({}, 5), ({1: 2, 3: 2}, 0)]:
        found = downscaled(tmp_path / "a.tif", mask, factor, "weighted", weights=weights,
                           ignore=ignore)
        assert found.dtype == dtype
        assert np.array_equal(found, slow_vote(mask, factor, weights, ignore))


@pytest.mark.parametrize("factor", [2, 10])
def test_majority_vote__equals_the_slow_rule_on_fields(tmp_path, factor):
    random = np.random.default_rng(0)
    mask = random.integers(0, 6, (8, 9)).astype(np.uint8).repeat(19, 0).repeat(17, 1)
    flipped = random.random(mask.shape) < 0.05
    mask[flipped] = random.integers(0, 6, flipped.sum())
    for weights, ignore in [({}, None), ({}, 5), ({1: 5, 3: 0.5}, None), ({1: 5, 5: 9}, 5)]:
        found = downscaled(tmp_path / "a.tif", mask, factor, "weighted", weights=weights,
                           ignore=ignore)
        assert np.array_equal(found, slow_vote(mask, factor, weights, ignore)), (weights, ignore)


def test_majority_vote__counts_beyond_255_do_not_overflow(tmp_path):
    mask = np.ones((300, 600), np.uint8)
    mask[:, :290] = 2
    mask[0, 590:] = 3
    assert downscaled(tmp_path / "a.tif", mask, 300, "mode").tolist() == [[2, 1]]


def test_majority_vote__first_pixel_wins_where_all_256_values_are_equal(tmp_path):
    mask = np.random.default_rng(0).permutation(256).reshape(16, 16).astype(np.uint8)
    assert downscaled(tmp_path / "a.tif", mask, 16, "mode").tolist() == [[mask[0, 0]]]


def test_downscale_classes__decodes_each_strip_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "CACHE_BYTES", 20 * 8 * 900)  # 20 strips of the file
    monkeypatch.setattr(downscale, "PIECE", 900 * 200)
    mask = np.random.default_rng(0).integers(0, 3, (1000, 900)).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", mask[..., None], compression="zlib", rowsperstrip=8)
    decoded = []
    with open_raster(tmp_path / "a.tif") as source:
        decode = source.source.decode
        source.source.decode = lambda index: decoded.append(index) or decode(index)
        blocks = list(downscale_classes(source, 10))
    assert decoded == list(range(125))
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks), mask[5::10, 5::10])


@pytest.mark.parametrize("factor, how, weights", [
    (0, "mode", None), (2.5, "mode", None), (2.0, "nearest", None), (2, "median", None),
    (2, "weighted", [1, 0]), (2, "weighted", {3: -1}), (2, "weighted", {3: np.nan}),
    (2, "weighted", [1, np.inf]), (2, "weighted", {3: 1e300})])
def test_downscale_classes__arguments_out_of_range(tmp_path, factor, how, weights):
    with pytest.raises(ValueError, match="cannot scale"):
        downscaled(tmp_path / "a.tif", MASK, factor, how, weights=weights)


def test_downscale_classes__imagery_is_no_class_mask(tmp_path):
    write_tiff(tmp_path / "b.tif", picture(dtype=np.float32))
    with open_raster(tmp_path / "b.tif") as image, pytest.raises(ValueError, match="b.tif"):
        next(downscale_classes(image, 2))


@pytest.mark.filterwarnings("ignore")  # rasterio warns of a file without georeference
def test_downscale_classes__equals_gdal_on_every_block(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    mask = np.random.default_rng(0).integers(0, 9, (1000, 1300)).astype(np.uint8)
    for how in ("mode", "nearest"):
        found = downscaled(tmp_path / "a.tif", mask, 10, how)
        method = getattr(rasterio.enums.Resampling, how)
        with rasterio.open(tmp_path / "a.tif") as file:
            assert np.array_equal(found, file.read(1, out_shape=found.shape, resampling=method))
