"""Intervals: by hand, and how often they hold the truth in simulated samples."""

import math

import numpy as np
import pytest
import torch
from helpers import edit, write_set

from data import TileDataset
from metrics import ConfusionMatrix
from report.intervals import independent_observations, patch_sizes, score_intervals, wilson


def matrix_of(counts):
    counts = torch.as_tensor(counts)
    return ConfusionMatrix(len(counts), counts=counts)


def test_wilson__of_published_examples():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    low, high = wilson(np.array([81 / 263, 15 / 148, 0, 1 / 29]), [263, 148, 20, 29])
    assert low.round(4).tolist() == [0.2553, 0.0624, 0, 0.0061]
    assert high.round(4).tolist() == [0.3662, 0.1605, 0.1611, 0.1718]


def test_wilson__of_nothing_is_nan():
    assert math.isnan(wilson(math.nan, 0)[0])


def test_score_intervals__iou_is_a_share_of_the_union():
    found = score_intervals(matrix_of([[8, 2], [0, 10]]))
    assert found["iou"][0] == pytest.approx(wilson(0.8, 10))
    assert found["recall"][1] == pytest.approx(wilson(1, 10))
    assert found["pixel_accuracy"] == pytest.approx(wilson(0.9, 20))


def test_score_intervals__of_fewer_observations_are_wider():
    matrix = matrix_of([[80, 20], [0, 100]])
    assert score_intervals(matrix, 20)["iou"][0] == pytest.approx(wilson(0.8, 10))


def test_score_intervals__classes_without_pixels_have_none():
    found = score_intervals(matrix_of([[8, 2, 0], [0, 10, 0], [0, 0, 0]]))
    assert np.isnan(found["iou"][2]).all()
    assert found["miou"] == pytest.approx(score_intervals(matrix_of([[8, 2], [0, 10]]))["miou"])
    assert np.isnan(score_intervals(matrix_of([[0, 0], [0, 0]]))["miou"]).all()


@pytest.mark.parametrize("rows, sizes", [
    (["....", "...."], []), (["#...", "...#"], [1, 1]), (["##..", "..##"], [4]),
    (["#.#.", ".#.#"], [4]), (["####", "####"], [8]), (["#..#", "#..#", "####"], [8]),
    (["###.", "#.#.", "###."], [8]), (["#..#", "#...", "...#"], [1, 1, 2])])
def test_patch_sizes__by_eye(rows, sizes):
    labels = np.where(np.array([list(row) for row in rows]) == "#", 0, 255)
    assert sorted(patch_sizes(labels)) == sizes


def test_independent_observations__patches_of_several_sizes_are_worth_fewer(tmp_path):
    write_set(tmp_path)
    labels = np.full((6, 8, 8), 255, np.uint8)
    labels[0, 2:4, 2:4] = labels[1, 0, 0] = labels[1, 7, 7] = 0  # patches of 4, 1 and 1 px
    np.save(tmp_path / "test_labels.npy", labels)
    edit(tmp_path, "pixels", {split: [6, 0, 0] for split in ("train", "val", "test")})
    assert independent_observations(TileDataset(tmp_path, "test")) == 2  # 6^2 / (16 + 1 + 1)


@pytest.mark.parametrize("ignore_share, side, observations", [
    (0, 8, 6), (0, 16, None), (1, 8, 1), (0.999, 64, "few")])
def test_independent_observations__of_few_labels_alone(tmp_path, ignore_share, side, observations):
    write_set(tmp_path, side=side, ignore_share=ignore_share)
    tiles = TileDataset(tmp_path, "test")
    found = independent_observations(tiles)
    if observations == "few":
        assert 0.8 * tiles.labelled_pixels < found <= tiles.labelled_pixels
    else:
        assert found == observations


def confusion(classes, accuracy, skew=0.7):
    """(K, K) probabilities of (truth, prediction); each class is `skew` of the one before it."""
    frequency = skew ** np.arange(classes)
    right = np.eye(classes) * accuracy
    wrong = (1 - np.eye(classes)) * (1 - accuracy) / (classes - 1)
    return (right + wrong) * (frequency / frequency.sum())[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("classes, lowest, points", [
    (2, 0.5, 50), (2, 0.7, 50), (2, 0.9, 200), (3, 0.7, 60), (4, 0.5, 80), (4, 0.8, 200),
    (4, 0.9, 800), (8, 0.5, 500), (8, 0.8, 999)])
def test_score_intervals__cover_the_truth_in_93_to_97_of_100_samples(classes, lowest, points):
    """Of maps of all accuracies in a tenth, with some ten points or more per class."""
    random = np.random.default_rng(0)
    held = {"iou": [], "miou": [], "pixel_accuracy": []}
    for accuracy in random.uniform(lowest, lowest + 0.1, 3000):
        shares = confusion(classes, accuracy)
        hits = shares.diagonal()
        iou = hits / (shares.sum(0) + shares.sum(1) - hits)
        counts = random.multinomial(points, shares.ravel()).reshape(classes, classes)
        found = score_intervals(matrix_of(counts))
        truths = {"iou": iou, "miou": iou.mean(), "pixel_accuracy": hits.sum()}
        for name, truth in truths.items():
            low, high = np.transpose(found[name])
            held[name].extend(np.atleast_1d((low <= truth) & (truth <= high)))
    for name, each in held.items():
        assert 0.93 <= np.mean(each) <= 0.97, (name, np.mean(each))
