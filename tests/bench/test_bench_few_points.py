"""The experiment on points: what it would run, what it says of rows made up here, and its two controls on tiny sets."""

import json
import pathlib
import types

import numpy as np
import pytest
import torch
from helpers import BENCH, load, write_set


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return load("few_points")


def cells(experiment):
    return experiment.cells_of("demo", "data/demo", ["--epochs", "20"], (1, 5), [experiment.PIXELS, *experiment.METHODS])


def test_every_run_has_a_name_of_its_own_and_methods_share_points(experiment):
    runs = [run for cell in cells(experiment) for run in cell.experiments()]
    assert len({name for name, _ in runs}) == len(runs)
    for name, flags in runs:
        assert flags[-1] == int(name.rsplit("draw", 1)[1]) and flags[-2] == "--seed"
    assert sum(name.startswith("demo-1-teacher-draw") for name, _ in runs) == 5
    assert sum(name.startswith("demo-5-teacher-draw") for name, _ in runs) == 3


def test_table_pairs_draws_and_calls_a_small_gain_none(experiment):
    made_up = {"demo-0-every-label": [0.8, 0.8, 0.8], "demo-5-partial-CE": [0.50, 0.60, 0.70],
               "demo-5-teacher": [0.55, 0.65, 0.76], "demo-5-superpixels": [0.50, 0.63, 0.69]}
    rows = {f"{name}-draw{draw}": {"miou": miou, "labelled_pixels": 10, "train_s": 60, "scored_on": "one"}
            for name, scores in made_up.items() for draw, miou in enumerate(scores)}
    lines = experiment.table_lines(cells(experiment), rows)
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| all | every label | 10 | 0.800 +- 0.000 | 100% |  | 3 | 60 |")
    by_method = {line.split(" | ")[1]: line for line in lines[2:]}
    assert "| 0.653 +- 0.105 | 82% | +5.3 +- 0.6 | 3 |" in by_method["teacher"]
    assert by_method["superpixels"].split(" | ")[5] == "+0.7 +- 2.1 (none)"


def test_training_tiles_stand_beside_test_tiles_of_the_same_draws(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "PLACES", tmp_path / "places.csv")
    rows = {f"demo-5-partial-CE-draw{draw}": {"miou": 0.5 + 0.1 * draw} for draw in range(3)}
    assert experiment.place_lines(cells(experiment), rows) == []
    for draw in (0, 2):
        experiment.append(experiment.PLACES, {"name": f"demo-5-partial-CE-draw{draw}", "miou": 0.8})
    assert experiment.place_lines(cells(experiment), rows)[-1] == "| 5  | partial CE | 0.800 +- 0.000 | 0.600 +- 0.141 | 2 |"


def test_only_a_run_that_is_its_row_s_is_scored_again(experiment, monkeypatch, tmp_path):
    asked = []

    def evaluate(command, **_):
        out, split = pathlib.Path(tmp_path, command[-1]), command[command.index("--split") + 1]
        asked.append((out.parent.name, split))
        part = {"pixels": 9, "miou": 0.25}
        out.mkdir(exist_ok=True)
        (out / f"metrics_{split}.json").write_text(json.dumps(
            {"miou": 0.5, "boundary": {"within": part, "beyond": part}, "calibration_error": 0.1}))

    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    monkeypatch.setattr(experiment, "BORDERS", tmp_path / "borders.csv")
    monkeypatch.setattr(experiment, "PLACES", tmp_path / "places.csv")
    monkeypatch.setattr(experiment, "subprocess", types.SimpleNamespace(run=evaluate))
    for draw in range(3):  # a run that has its row, one that is another run than its row's, one without a row
        (tmp_path / f"runs/points/demo-5-partial-CE-draw{draw}").mkdir(parents=True)
        (tmp_path / f"runs/points/demo-5-partial-CE-draw{draw}/metrics.json").write_text('{"miou": 0.5}')
    for _ in range(2):  # the second time all is there
        experiment.score_parts(cells(experiment), {"demo-5-partial-CE-draw0": {"miou": "0.5"}, "demo-5-partial-CE-draw1": {"miou": "0.6"}})
        assert asked == [("demo-5-partial-CE-draw0", "test"), ("demo-5-partial-CE-draw0", "train")]
    row = experiment.read_rows(tmp_path / "places.csv")["demo-5-partial-CE-draw0"]
    assert (row["miou"], row["miou_within"], row["pixels_beyond"]) == ("0.5", "0.25", "9")


def test_figure_shows_what_is_there(experiment):
    assert experiment.figure(cells(experiment), {}, "nothing") is None
    rows = {f"demo-{k}-partial-CE-draw{draw}": {"miou": 0.5 + 0.1 * draw} for k in (1, 5) for draw in range(3)}
    picture = np.asarray(experiment.figure(cells(experiment), rows, "some"))
    assert picture.ndim == 3 and picture.std() > 0


def test_pixel_classifier_tells_what_colour_tells(tmp_path, monkeypatch):
    write_set(tmp_path / "set", count=4, side=16, classes=2)
    for split in ("train", "test"):
        images = np.load(tmp_path / "set" / f"{split}_images.npy")
        np.save(tmp_path / "set" / f"{split}_labels.npy", (np.abs(images[..., 0] - 100.0) < 50).astype(np.uint8))
    monkeypatch.syspath_prepend(BENCH)
    module = load("pixel_classifier")
    args = module.parse_args(["--data", str(tmp_path / "set"), "--points", "40", "--out", str(tmp_path / "run")])
    args.point_jitter = 0.0
    scores = module.main(args)
    assert scores["miou"] > 0.85 and scores["labelled_pixels"] == 160 and (tmp_path / "run" / "log.csv").exists()
    weights = module.fit(torch.tensor([[1.0, -1], [1, 1]]).repeat(5, 1), torch.tensor([0, 1]).repeat(5), 3)
    assert (torch.tensor([[1.0, -2], [1, 2]]) @ weights).argmax(1).tolist() == [0, 1]


def test_fresh_points_are_k_at_each_visit_and_others_the_next_time(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.syspath_prepend(BENCH)
    tiles = load("fresh_points").FreshTiles(tmp_path, "train", 4, "image", 0)
    visits = [tiles.get_batch([2, 5])[1] for _ in range(3)]
    truth = torch.from_numpy(np.load(tmp_path / "train_labels.npy")[[2, 5]])
    for labels in visits:
        assert (labels != 255).sum() == 8 and torch.equal(labels[labels != 255], truth[labels != 255])
    assert not torch.equal(visits[0], visits[1])
    assert torch.equal(visits[0], load("fresh_points").FreshTiles(tmp_path, "train", 4).get_batch([2, 5])[1])
