"""The demo: the same for the same seed, on the map, and too hard for a classifier of pixels."""

import numpy as np
import pytest

from geo.raster import open_raster
from sources.demo import cast_shadow, demo, generate_map, render, smooth_noise
from sources.raw import Region
from sources.scenes import SceneReader


def labels_of(source, number=0):
    """The whole label map of a scene of a source."""
    with SceneReader(source.scenes[number], source) as reader:
        return reader.read_labels(
            Region("train", number, 0, 0, reader.image.height, reader.image.width))


def test_render__is_deterministic_and_shows_every_class():
    land = generate_map(np.random.default_rng(5))
    assert (generate_map(np.random.default_rng(5))["labels"] == land["labels"]).all()
    summer, again, autumn = (render(np.random.default_rng(1), land, season) for season in (0, 0, 1))
    assert (summer == again).all() and (summer != autumn).mean() > 0.3
    assert summer.shape == (384, 512, 4) and summer.dtype == np.uint8
    counts = np.bincount(land["labels"].ravel())
    assert len(counts) == 5 and counts[0] > counts.sum() / 4 and counts.min() > 500
    assert ((summer == 0) | (summer == 255)).mean() < 0.1  # neither too dark nor too bright


def test_cast_shadow__falls_away_from_the_sun():
    tall = np.zeros((9, 9))
    tall[4, 4] = 3
    assert np.argwhere(cast_shadow(tall, 0, 1)).tolist() == [
        [4, 2], [4, 3]]  # the sun stands at larger columns
    assert np.argwhere(cast_shadow(tall, np.pi / 2, 1)).tolist() == [[2, 4], [3, 4]]


def test_smooth_noise__is_as_smooth_as_asked():
    for scale in (2, 20):
        noise = smooth_noise(np.random.default_rng(0), scale)
        slope = np.diff(noise, axis=1).std()
        assert abs(noise.mean()) < 1e-9 and abs(noise.std() - 1) < 1e-9
        # Of white noise through a Gaussian: deviation / (scale * sqrt 2).
        assert (
            0.8 < slope * scale * 2**0.5 < 1.2)


def test_demo__scenes_lie_on_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.demo.SITES", 1)
    source = demo(tmp_path, 0)
    assert [scene.name for scene in source.scenes] == ["place_01_summer", "place_01_autumn"]
    assert source.scenes[0].site == source.scenes[1].site
    with open_raster(source.scenes[0].image) as image, open_raster(source.scenes[0].mask) as mask:
        assert image.gsd_m == mask.gsd_m == 0.5
        assert image.georeference.to_map(0, 0) == mask.georeference.to_map(0, 0) == (5e5, 4.6e6)
        assert tuple(mask.palette[2]) == (60, 110, 200)
    first, second = (labels_of(source, number) for number in (0, 1))
    assert (first == second).all()


@pytest.mark.slow
def test_demo__no_linear_classifier_of_pixels_maps_it(tmp_path):
    source = demo(tmp_path, 0)
    pixels, labels = {"train": [], "test": []}, {"train": [], "test": []}
    for number, scene in enumerate(source.scenes):
        if scene.split in pixels:
            with open_raster(scene.image) as image:
                pixels[scene.split].append(image.read(0, 0, 384, 512).reshape(-1, 4)[::7] / 255)
            labels[scene.split].append(labels_of(source, number).ravel()[::7])
    known, shown = (
        np.c_[np.concatenate(pixels[split]), np.ones(len(np.concatenate(pixels[split])))]
        for split in ("train", "test"))
    weights = np.linalg.lstsq(known, np.eye(5)[np.concatenate(labels["train"])], rcond=None)[0]
    found, truth = (shown @ weights).argmax(1), np.concatenate(labels["test"])
    counts = np.bincount(truth * 5 + found, minlength=25).reshape(5, 5)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert iou.mean() < 0.45
