"""A network's scores stand beside the majority map's and a pixel classifier's."""

import torch
from helpers import write_set

from data import TileDataset
from engine.meta import checkpoint_meta
from metrics import ConfusionMatrix
from report.floors import admission, floor_scores, score_report, training_tiles


def matrix_of(counts):
    return ConfusionMatrix(len(counts), counts=torch.as_tensor(counts))


def test_score_report__of_a_point_set_has_intervals_floors_and_an_admission(tmp_path):
    meta = checkpoint_meta(write_set(tmp_path, ignore_share=0.9))
    tiles = TileDataset(tmp_path, "test")
    wrong = torch.zeros(3, 3, dtype=torch.int64)
    wrong[:2, 2] = 9
    floors = floor_scores(TileDataset(tmp_path, "train"), meta, tiles)
    text, extra, line = score_report(matrix_of(wrong.tolist()), meta, tiles, floors)
    assert "95 % interval" in text
    assert "no labelled pixel, so not tested: c2" in text
    assert extra["floors"].keys() == {"majority map", "pixel classifier"}
    assert len(extra["intervals"]["classes"]) == 3
    assert "not above" in line[0]


def test_floor_scores__majority_is_of_the_training_labels(tmp_path):
    meta = checkpoint_meta(write_set(tmp_path, ignore_share=0.5))
    given = TileDataset(tmp_path, "train")
    tiles = TileDataset(tmp_path, "test")
    counts = floor_scores(given, meta, tiles)["majority map"].counts
    assert counts.sum(0).argmax() == given.class_counts.argmax()
    assert counts.sum(1).tolist() == tiles.class_counts.tolist()


def test_floor_scores__without_the_training_data_are_none(tmp_path):
    meta = checkpoint_meta(write_set(tmp_path))
    tiles = TileDataset(tmp_path, "test")
    for trained in ({"data": str(tmp_path / "gone")}, {}):
        assert floor_scores(training_tiles(trained), meta, tiles) == {}


def test_admission__names_the_best_floor_or_nothing():
    good, fair, poor = matrix_of([[9, 1], [1, 9]]), matrix_of([[8, 2], [2, 8]]), matrix_of(
        [[9, 0], [9, 0]])
    floors = {"majority map": poor, "pixel classifier": fair}
    assert admission(good, floors) == []
    assert admission(good, {}) == []
    line, = admission(poor, floors)
    assert "not above a pixel classifier" in line
    assert "\n" not in line
    assert "one class everywhere" in admission(poor, {"majority map": poor})[0]


def test_admission__a_floor_inside_the_interval_is_not_shown_to_be_lower():
    network, floor = matrix_of([[9, 1], [1, 9]]), matrix_of([[8, 2], [2, 8]])
    assert admission(network, {"pixel classifier": floor}, {"miou": (0.7, 0.9)}) == []
    line, = admission(network, {"pixel classifier": floor}, {"miou": (0.6, 0.9)})
    assert line.startswith("20 labelled px are too few")
