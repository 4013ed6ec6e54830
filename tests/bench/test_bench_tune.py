"""The experiment on settings: what it says of rows made up here, and a place's score on a set made up here."""

import json

import numpy as np
import pytest
import torch
from helpers import BENCH, load, write_set


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return load("tune")


def row(miou, scored_on):
    return {"miou": miou, "scored_on": scored_on, "train_s": 60}


def test_a_gain_is_over_the_base_of_the_same_fold_and_seed(experiment):
    rows = {"dubai-0-base-a": row(0.5, "a"), "dubai-0-base-a-seed1": row(0.4, "a"), "dubai-0-base-b": row(0.7, "b"),
            "dubai-0-rate-1e-2-a": row(0.53, "a"), "dubai-0-rate-1e-2-a-seed1": row(0.44, "a"), "dubai-0-rate-1e-2-b-seed2": row(0.9, "b")}
    lines = experiment.table_lines(rows)
    assert lines[2] == "| dubai | all | base | a 0.450 b 0.700 | 3 |  | 60 |"
    assert lines[3] == "| dubai | all | rate 1e-2 | a 0.485 b 0.900 | 3 | +3.5 +- 0.7 | 60 |" and len(lines) == 4


def test_one_place_has_a_table_of_its_own(experiment):
    rows = {"dubai-0-base-a on 2": row(0.5, "a"), "dubai-0-base-a on 6": row(0.1, "a"), "dubai-0-plateau-a on 2": row(0.52, "a"),
            "dubai-0-plateau-c on 2": row(0.6, "c")}
    assert experiment.place_lines(rows)[-2:] == ["| base | a 0.500 | 1 |  |", "| plateau | a 0.520 c 0.600 | 2 | +2.0 |"]


def test_places_are_scored_one_by_one(experiment, monkeypatch, tmp_path):
    meta = write_set(tmp_path / "fold", count=3, side=4, classes=2)
    meta["places"] = {"scene 0": "east", "scene 1": "west", "scene 2": "east"}
    (tmp_path / "fold" / "dataset.json").write_text(json.dumps(meta))
    (tmp_path / "fold" / "tiles.csv").write_text("split,index,scene,row,col\n" + "".join(f"test,{n},scene {n},0,0\n" for n in range(3)))
    labels = np.zeros((3, 4, 4), np.uint8)
    labels[2, :2] = 1  # in the east 8 pixels of 32, so IoU 24/32 and 0; in the west none, so IoU 1 of one class; in all 40/48 and 0
    np.save(tmp_path / "fold" / "test_labels.npy", labels)

    class Zero(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] * 0 + 1, x[:, 0] * 0], 1)  # (B, 2, H, W): class 0 everywhere

    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    monkeypatch.setattr(experiment, "PLACES", tmp_path / "places.csv")
    monkeypatch.setattr(experiment, "load_model", lambda path, device: (Zero(), {**meta, "classes": ["c0", "c1"]}))
    for run in ("right", "older", "without-a-row"):
        (tmp_path / "runs" / "tune" / run).mkdir(parents=True)
        (tmp_path / "runs" / "tune" / run / "last.pt").touch()
    rows = {"right": row("0.41667", "x"), "older": row("0.4", "x"), "no-weights": row("0.41667", "x")}
    for _ in range(2):  # the second time all is there
        experiment.score_places(["right", "older", "without-a-row", "no-weights"], rows, "fold", "python tune.py")
        found = experiment.read_rows(tmp_path / "places.csv")
        assert {name: entry["miou"] for name, entry in found.items()} == {"right on east": "0.375", "right on west": "1"}
