"""Flags that train.py refuses, alone and with the data."""

import importlib.util
import json

import numpy as np
import pytest
from helpers import edit, run, write_set

import train
from data import TileDataset
from engine.checks import check_args, check_data


@pytest.fixture
def data(tmp_path):
    """Five tiles in each split."""
    write_set(tmp_path / "data", count=5, side=16)
    return str(tmp_path / "data")


def test_check_args__missing_tensorboard_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--tensorboard"):
        check_args(train.parse_args(["--tensorboard"]))


LITE = "--encoder efficientnet_lite0 --weights imagenet"


@pytest.mark.parametrize("words, how", [
    (f"{LITE} --points 1", "sqrt"),  # one of 256 pixels
    (f"{LITE} --points 1 --class-weights none", "none"),
    (f"{LITE} --points 1 --loss dice", "none"),  # which weighs all classes alike already
    (f"{LITE} --points 9", "none"),  # 3.5 %
    ("--encoder efficientnet_lite0 --points 1", "none"),
    ("--points 1", "none"),
    ("--points 1 --class-weights inverse", "inverse")])
def test_default_class_weights__are_for_few_labels_on_a_pretrained_network(data, words, how):
    args = train.parse_args(["--data", data, *words.split()])
    train.open_tiles(args)
    assert args.class_weights == how


def test_check_data__processes_must_share_a_batch_equally(data):
    args = train.parse_args(["--data", data, "--points", "5", "--bs", "3", "--epochs", "1"])
    tiles = TileDataset(data, "train")
    with pytest.raises(ValueError, match="--bs 3"):
        check_data(args, tiles, tiles, 2)
    check_data(args, tiles, tiles, 3)
    args.folds = 2
    with pytest.raises(ValueError, match="--folds.*torchrun"):
        check_data(args, tiles, tiles, 3)


def unlabel(folder, split):
    """Take all labels of a split away."""
    meta = json.loads((folder / "dataset.json").read_text())
    edit(folder, "pixels", meta["pixels"] | {split: [0, 0, 0]})
    np.save(folder / f"{split}_labels.npy", np.full((5, 16, 16), 255, np.uint8))


@pytest.mark.parametrize("points", ["0", "5"])
def test_check_data__no_training_label_is_refused(data, tmp_path, points):
    unlabel(tmp_path / "data", "train")
    with pytest.raises(ValueError, match="training"):
        run(data, tmp_path / "run", "--points", points)


def test_check_data__no_validation_label_needs_final_last(data, tmp_path):
    unlabel(tmp_path / "data", "val")
    with pytest.raises(ValueError, match="--final last"):
        run(data, tmp_path / "run")
    with pytest.raises(ValueError, match="--patience"):
        run(data, tmp_path / "run", "--final", "last", "--patience", "1")
    scores = run(data, tmp_path / "run", "--final", "last", "--epochs", "1")
    assert scores["checkpoint"].endswith("last.pt")
