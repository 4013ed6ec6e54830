"""Folds: whole squares of ground, each label held out once, nothing held out is learned from."""

import csv
import json
import signal

import numpy as np
import pytest
import torch
from helpers import log, run, same_run

import evaluate
import train
from data import Augmentation, TileDataset, training_batches, write_prepared
from engine import folds
from engine.checkpoint import find_checkpoint, load_checkpoint, load_model
from metrics import ConfusionMatrix

SIDE = 16  # px, of a tile


def write_points(folder, points, splits=("train",) * 4, step=64):
    """Four tiles of one scene, at the corners of a square of `step` px, with some labelled pixels.

    Args:
        points: {class: [(tile, row, col)]}.
        splits: of the tiles.
    """
    images = np.random.default_rng(0).integers(0, 200, (4, SIDE, SIDE, 3)).astype(np.uint8)
    labels = np.full((4, SIDE, SIDE), 255, np.uint8)
    for k, places in enumerate(points.values()):
        for place in places:
            labels[place] = k
            images[place] = 80 * k  # so that a class can be learned
    write_prepared(folder, images, labels, list(points), splits)
    rows = []
    for number, split in enumerate(splits):
        index = splits[:number].count(split)
        rows.append((split, index, "scene", step * (number // 2), step * (number % 2)))
    with open(folder / "tiles.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("split", "index", "scene", "row", "col"), *rows])
    return folder


def corners(place=(2, 3)):
    """The same pixel in each of the four tiles."""
    return [(tile, *place) for tile in range(4)]


def kept(tiles):
    """The labelled pixels of tiles, {(row, col, class) of the scene}, and how many there are."""
    found = folds.find_labels(tiles)
    return set(zip(found.row.tolist(), found.col.tolist(), found.label.tolist())), len(found.row)


@pytest.mark.parametrize("counts, wanted", [
    ([[1, 0], [1, 0], [0, 1], [0, 1]], [1, 2, 1, 2]),  # each class in both folds
    ([[9, 0], [0, 2], [0, 1], [0, 1]], [1, 1, 2, 2]),  # the rarest first, its largest cell first
    ([[5, 1], [5, 0], [1, 0], [4, 0]], [1, 2, 1, 2]),
    ([[0, 3], [4, 0]], [1, 2]),  # a class in one cell
])
def test_deal_cells__by_eye(counts, wanted):
    assert folds.deal_cells(np.array(counts), 2).tolist() == wanted


def test_deal_cells__no_fold_is_empty():
    random = np.random.default_rng(0)
    for cells in range(2, 12):
        counts = random.integers(0, 3, (cells, 3)) + np.eye(cells, 3, dtype=int)
        counts[counts.sum(1) == 0, 0] = 1
        assert set(folds.deal_cells(counts, cells)) == set(range(1, cells + 1))


def labels_at(*places, site=0):
    """Labels at (row, col), all of class 0."""
    row, col = np.array(places).T
    zero = np.zeros(len(row), np.int64)
    return folds.Labels(zero, zero, zero + site, row, col, zero)


def test_find_cells__corners_lie_in_four_cells_and_neighbours_in_one():
    labels = labels_at((0, 0), (1, 1), (0, 99), (99, 0), (99, 99), (98, 99))
    cells, side = folds.find_cells(labels, wanted=4)
    assert 50 <= side < 99
    assert len(set(cells)) == 4 and cells[0] == cells[1] and cells[4] == cells[5]
    assert folds.find_cells(labels, wanted=9)[1] == folds.LEAST_CELL


def test_learned_labels__by_eye():
    labels = labels_at((0, 20), (0, 28), (0, 29), (0, 32), (8, 20), (30, 20), (0, 8))
    fold_of = np.array([1, 2, 2, 2, 2, 2, 2])
    learned = folds.learned_labels(labels, fold_of, 1)
    assert learned.tolist() == [False, False, False, True, False, True, True]
    other = labels_at((0, 20), (0, 20))._replace(site=np.array([0, 1]))
    assert folds.learned_labels(other, np.array([1, 2]), 1).tolist() == [False, True]


@pytest.fixture
def data(tmp_path):
    """Two classes at each corner of a square, and a third at one of them."""
    points = {"wood": corners(), "water": corners((9, 12)), "rock": [(3, 14, 1)]}
    return write_points(tmp_path / "data", points)


@pytest.mark.parametrize("points", [0, 1])
def test_take_fold__each_label_is_held_out_once_and_never_learned_from_meanwhile(data, points):
    tiles = TileDataset(data, "train", points)
    everything, count = kept(tiles)
    sides = []
    for fold in (1, 2):
        learned, held_out = folds.take_fold(tiles, 2, fold)
        assert learned.labelled_pixels + held_out.labelled_pixels == count
        assert learned.class_counts.tolist() == np.bincount(
            learned.labels[learned.labels != 255], minlength=3).tolist()
        sides.append(held_out.labelled_pixels)
        how = Augmentation(flips=False, shift=0, jitter=0)
        for batch in training_batches(learned, how, 0, 0, 1, range(len(learned))):
            own = batch.labels[0]
            alike = [np.array_equal(batch.images[0], image) for image in held_out.images]
            for labels in held_out.labels[torch.tensor(alike)]:
                assert not ((own != 255) & (labels != 255)).any()
    assert sum(sides) == count and folds.take_fold(tiles, 2, 0) == (tiles, None)


def test_take_fold__ground_of_two_tiles_is_in_one_fold(tmp_path):
    """Tiles that overlap by 8 px: a pixel that both show is labelled in both."""
    points = {"wood": [(0, 0, 12), (1, 0, 4), (2, 15, 0), (3, 15, 15)], "water": [(3, 0, 0)]}
    write_points(tmp_path / "data", points, step=8)
    tiles = TileDataset(tmp_path / "data", "train")
    labels = folds.find_labels(tiles)
    assert (labels.row[0], labels.col[0]) == (labels.row[1], labels.col[1]) == (0, 12)
    keys, _ = folds.cell_keys(labels, folds.LEAST_CELL)
    assert keys[0] == keys[1]


def test_find_labels__scenes_of_a_site_have_one_position_unless_theirs_is_known(data):
    with open(data / "tiles.csv", "w", newline="", encoding="utf-8") as file:
        rows = [("train", number, f"scene {number}", 0, 0) for number in range(4)]
        csv.writer(file).writerows([("split", "index", "scene", "row", "col"), *rows])
    meta = json.loads((data / "dataset.json").read_text())
    meta["places"] = {"scene 0": "hill", "scene 2": "hill"}
    (data / "dataset.json").write_text(json.dumps(meta))
    labels = folds.find_labels(TileDataset(data, "train"))
    fold_of, _ = folds.assign_folds(labels, 3, 3)
    hill = np.isin(labels.tile, (0, 2))
    assert len(set(fold_of[hill])) == 1 and len(set(fold_of)) == 3
    with pytest.raises(ValueError, match="--folds 4: .* 3 squares .*give 2 to 3"):
        folds.assign_folds(labels, 4, 3)
    meta["grids"] = {"scene 0": [7, 0, -9], "scene 1": [7, 10, 0], "scene 2": [7, 0, -9]}
    (data / "dataset.json").write_text(json.dumps(meta))
    tiles = TileDataset(data, "train")
    labels = folds.find_labels(tiles)
    assert labels.site.tolist() == [0] * 6 + [1] * 3
    assert labels.row[:6].tolist() == [2, 9, 12, 19, 2, 9]
    assert labels.col[:6].tolist() == [0, 9, 9, 18, 0, 9]  # 6 px added, so that none is below 0


def test_describe_folds__names_what_a_network_never_sees(tmp_path):
    points = {"wood": corners(), "rock": [(3, 14, 1), (3, 14, 3)], "ice": []}
    tiles = TileDataset(write_points(tmp_path / "data", points), "train")
    text, (missed, absent) = folds.describe_folds(tiles, 2)
    labels = folds.find_labels(tiles)
    fold_of, _ = folds.assign_folds(labels, 2, 3)
    assert text.startswith("2 folds of 2 to 4 labelled px, in squares of 32 px")
    assert missed.startswith(f"fold {fold_of[labels.label == 1][0]} holds all labels of rock,")
    assert "ice" in absent


@pytest.mark.parametrize("places, number, message", [
    (corners(), 1, "--folds 1: .* 4 squares .*give 2 to 4"),
    (corners(), 5, "--folds 5: .*give 2 to 4"),
    ([(0, 0, 0), (0, 9, 9)], 2, "--folds 2: .* 1 square.*farther apart"),
    ([], 2, "--folds 2|no labelled"),
])
def test_take_fold__refuses_what_cannot_be_held_out(tmp_path, places, number, message):
    write_points(tmp_path / "data", {"wood": places})
    with pytest.raises(ValueError, match=message):
        run(str(tmp_path / "data"), tmp_path / "run", "--folds", str(number))
    assert not (tmp_path / "run").exists()


def test_take_fold__refuses_labels_of_two_squares_that_are_near_each_other(tmp_path):
    """On either side of the border at 32 px."""
    points = {"wood": [(0, 0, 14), (1, 0, 2)], "water": []}
    write_points(tmp_path / "data", points, step=32)
    with open(tmp_path / "data" / "tiles.csv", "a", encoding="utf-8") as file:
        file.write("train,0,scene,0,16\n")  # the last row counts
    with pytest.raises(ValueError, match="--folds: .* fold 1"):
        run(str(tmp_path / "data"), tmp_path / "run", "--folds", "2", "--points", "0")
    assert not (tmp_path / "run").exists()


FLAGS = ["--points", "0", "--epochs", "2", "--bs", "1"]


def by_hand(data, out, number):
    """The confusion matrix of the held-out labels, added up pixel by pixel."""
    tiles = TileDataset(data, "train")
    matrix = ConfusionMatrix(3)
    for fold in range(1, number + 1):
        model, meta = load_model(out / f"fold-{fold}" / "last.pt")
        held_out = folds.take_fold(tiles, number, fold)[1]
        mean, std = (torch.tensor(meta[key]) for key in ("mean", "std"))
        for image, labels in zip(held_out.images, held_out.labels):
            logits = model(((image - mean) / std).permute(2, 0, 1)[None])[0]  # (K, H, W)
            for row, col in np.argwhere(labels.numpy() != 255):
                matrix.counts[int(labels[row, col]), logits[:, row, col].argmax()] += 1
    return matrix.counts.tolist()


def test_main__pools_what_the_networks_of_the_folds_did_not_see(data, tmp_path, capsys):
    out = tmp_path / "run"
    scores = run(str(data), out, *FLAGS, "--folds", "2")
    assert scores["confusion"] == by_hand(data, out, 2)
    assert scores["folds"] == 2 and scores["split"] == "2 folds"
    assert np.sum(scores["confusion"]) == scores["labelled_pixels"] == 9
    assert scores["intervals"]["observations"] == 9 and "pixel classifier" in scores["floors"]
    meta = load_model(find_checkpoint(out))[1]
    assert meta["scores"]["confusion"] == scores["confusion"]
    assert load_checkpoint(out / "fold-1" / "last.pt")["train"]["labelled_pixels"] < 9
    assert len(log(out)) == len(log(out / "fold-2")) == 2
    printed = capsys.readouterr()
    assert "holds all labels of rock" in printed.err
    assert run(str(data), out, *FLAGS, "--folds", "2", "--resume") is None
    with pytest.raises(ValueError, match="test tile.*metrics.json"):
        evaluate.main(evaluate.parse_args(["--checkpoint", str(out)]))
    fit = evaluate.main(evaluate.parse_args(
        ["--checkpoint", str(out), "--split", "train", "--calibrate", "--device", "cpu"]))
    assert fit["pixels"] == 9
    assert fit["written"] == (load_model(out / "last.pt")[0].temperature != 1)


@pytest.mark.slow
@pytest.mark.parametrize("epochs_until", [1, 3, 5, 6])
def test_main__folds_stopped_and_resumed_equal_never_stopped(data, tmp_path, monkeypatch,
                                                             epochs_until):
    flags = [*FLAGS, "--folds", "2", "--ema", "0.9"]
    whole = run(str(data), tmp_path / "whole", *flags)
    real = train.train_one_epoch
    calls = []

    def stop_in_one(*arguments):
        calls.append(1)
        if len(calls) == epochs_until:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_one_epoch", stop_in_one)
        with pytest.raises(KeyboardInterrupt, match=f"--out {out} --resume"):
            run(str(data), out, *flags)
    scores = run(str(data), out, *flags, "--resume")
    assert {**scores, "checkpoint": whole["checkpoint"]} == whole
    for name in ("", "fold-1", "fold-2"):
        same_run(tmp_path / "whole" / name, out / name, ["last.pt"])
