"""The same tiles under other labels."""

import numpy as np
import pytest
import torch
from helpers import BENCH, load, write_set

import train
from data import TileDataset


@pytest.fixture
def relabel(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return load("relabel")


@pytest.fixture
def start(tmp_path):
    """A set of 12 tiles, and a checkpoint of a network that learned a little from one point on each."""
    write_set(tmp_path / "set", count=12, side=48, ignore_share=0.2)
    train.main(train.parse_args(["--data", str(tmp_path / "set"), "--points", "1", "--epochs", "1", "--width", "4", "--depth", "2",
                                 "--bs", "4", "--final", "last", "--out", str(tmp_path / "run")]))
    return tmp_path / "run" / "last.pt"


@pytest.mark.parametrize("family", ["suggested", "spaced"])
def test_asked_points_are_four_true_ones_beside_the_first(relabel, start, tmp_path, family):
    tiles, first = TileDataset(tmp_path / "set", "train"), TileDataset(tmp_path / "set", "train", points=1, seed=7)
    images, labels = relabel.LABELLED[family](tiles, 7, start)
    known = labels != 255
    assert torch.equal(images, tiles.images) and torch.equal(labels[known], tiles.labels[known])
    assert known.sum((1, 2)).tolist() == [5] * 12
    one = first.get_batch(range(12))[1]
    assert torch.equal(labels[one != 255], one[one != 255])


def test_the_surer_half_of_each_class_is_kept_and_the_points_are_true(relabel, start, tmp_path):
    tiles, one = TileDataset(tmp_path / "set", "train"), TileDataset(tmp_path / "set", "train", points=1, seed=7).get_batch(range(12))[1]
    _, labels = relabel.relabelled(tiles, 7, start)
    assert torch.equal(labels[one != 255], one[one != 255])
    assert 0.5 <= (labels != 255).float().mean() < 0.55  # ties are kept


def test_dense_tiles_are_few_and_take_as_many_steps(relabel, tmp_path):
    write_set(tmp_path / "set", count=22, side=8)
    tiles = TileDataset(tmp_path / "set", "train")
    images, labels = relabel.dense(tiles, 0)
    assert len(labels) == 22 and len(labels.flatten(1).unique(dim=0)) == 2  # 22 * 22.1 / 239.7
    relabel.write_set(tmp_path / "set", tmp_path / "other", images, labels)
    made = TileDataset(tmp_path / "other", "train")
    assert torch.equal(made.labels, labels) and made.labelled_pixels == 22 * 64
    assert np.array_equal(np.load(tmp_path / "other" / "test_labels.npy"), np.load(tmp_path / "set" / "test_labels.npy"))
