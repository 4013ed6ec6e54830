"""Values without data are the mean after normalising, in each band and under any encoding."""

import numpy as np
import pytest
import torch

from data import normalise
from engine.prepared import CONSTANT, BandStatistics
from geo.raster import write_geotiff
from sources.labels import land_classes
from sources.missing import mark_missing, one_nodata, shared_nodata
from sources.raw import RawDataset, Region, Scene
from sources.scenes import SceneReader, check_scenes


def read_set(folder, scenes):
    """Write scenes {name: (pixels (H, W, C), nodata)} and read them as prepare_data.py does.

    Returns:
        the set's nodata; what of each scene would be written, and which of its values are data.
    """
    write_geotiff(folder / "mask.tif", [np.ones((2, 2), np.uint8)], 2, 2, 1, "uint8")
    for name, (pixels, nodata) in scenes.items():
        write_geotiff(folder / f"{name}.tif", [pixels], 2, 2, pixels.shape[2], pixels.dtype,
                      nodata=nodata)
    source = RawDataset(land_classes([(1, "a", 0)]), [
        Scene(name, folder / f"{name}.tif", folder / "mask.tif", name) for name in scenes])
    tiles = [Region("train", number, 0, 0, 2, 2) for number in range(len(scenes))]
    measured, missing = check_scenes(source)[-2:]
    nodata = shared_nodata(source, tiles, missing, measured["dtype"])
    written = []
    for tile, scene in zip(tiles, source.scenes):
        with SceneReader(scene, source) as reader:
            image, known = reader.read_image(tile)
        has_partial = mark_missing(image, known, nodata)
        if has_partial and nodata is not None and nodata == one_nodata(missing):
            nodata = [nodata] * image.shape[2]  # as prepare_data.write_tiles does
        written.append((image, known))
    return nodata, written


def assert_missing_is_zero(nodata, written):
    for image, known in written:
        bands = image.shape[2]
        values = normalise(torch.from_numpy(image)[None], [1e3] * bands, [1.0] * bands, nodata)
        assert np.array_equal(values[0].permute(1, 2, 0).numpy() != 0, known)


SCENE = np.array([[[1, 2], [3, 9]], [[5, 6], [9, 9]]])  # nodata 9 in one band, and in both


@pytest.mark.parametrize("dtype, second, nodata", [
    ("uint8", (SCENE, 9), [9, 9]),  # both scenes name one value
    ("float32", (SCENE, 9), [9, 9]),
    ("int16", (SCENE + 1, 10), None),  # others are found
    ("float32", (SCENE + 1, None), None)])
def test_shared_nodata__values_missing_in_single_bands_are_the_mean(tmp_path, dtype, second,
                                                                    nodata):
    scenes = {"a": (SCENE.astype(dtype), 9), "b": (second[0].astype(dtype), second[1])}
    found, written = read_set(tmp_path, scenes)
    assert (~written[0][1]).tolist() == [[[False, False], [False, True]], [[False] * 2, [True] * 2]]
    assert_missing_is_zero(found, written)
    if nodata:
        assert found == nodata
    elif dtype == "float32":
        assert found is None
    else:
        assert len(found) == 2


def test_shared_nodata__is_one_number_where_only_whole_pixels_are_missing(tmp_path):
    pixels = np.where(SCENE[:, :, 1:] == 9, 9, SCENE).astype(np.uint8)
    found, written = read_set(tmp_path, {"a": (pixels, 9), "b": (pixels, 9)})
    assert found == 9
    found, written = read_set(tmp_path, {"a": (pixels, 9), "b": (pixels + np.uint8(1), None)})
    assert found == 9
    assert_missing_is_zero(found, written)


def test_shared_nodata__warns_where_no_value_is_free_in_a_band(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sources.missing.values_taken",
                        lambda *_: ([np.ones(256, bool), np.zeros(256, bool)], True))
    scenes = {"a": (SCENE[..., :1].astype(np.uint8), 9), "b": (SCENE[..., :1].astype(np.uint8), 3)}
    assert read_set(tmp_path, scenes)[0] == 9
    assert "single bands is read as data" in capsys.readouterr().err


def test_band_statistics__a_band_is_measured_where_it_has_data():
    pixels = np.array([[1, 7, -9999], [3, 7, np.nan], [5, 7, 4], [-9999, 7, 8]], np.float32)
    known = np.isfinite(pixels) & (pixels != -9999)
    statistics = BandStatistics(3)
    statistics.add(pixels, known)
    mean, std = statistics.mean_and_std()
    assert mean == [3, 7, 6]
    assert std == [pytest.approx((8 / 3) ** 0.5), CONSTANT, 2]
    values = normalise(torch.tensor([[[[3.0, 255.0, 6.0]]]]), mean, std)
    assert values.abs().max() < 1e-20  # 255 for 7: a constant band has no say
    assert BandStatistics(1).mean_and_std() == ([0], [CONSTANT])
