"""The scripts of bench/: their runs, reports from rows, the two controls, small measurements."""

import json
import os
import re
import subprocess
import sys
import types

import compare_networks
import experiments
import fresh_points
import helpers
import length
import numpy as np
import pixel_classifier
import points
import pretrained
import pytest
import torch
import tune
import variants
from experiments import RESULTS, ROOT, markdown, read_csv, read_rows
from helpers import BENCH, write_set

import train
from data import TileDataset, normalise
from engine.checkpoint import load_model

DATA = ROOT.parent / "shared" / "data"
EXPERIMENTS = {
    "points": [one for data in points.RECIPES for one in points.experiments_of(data).values()],
    "networks": compare_networks.experiments_of("demo") + compare_networks.experiments_of("dubai"),
    "tune": [tune.experiment(data, k, setting, fold) for data in tune.FOLDS for k in (1, 20, 0)
             for setting in tune.SETTINGS for fold in tune.FOLDS[data]],
    "pretrained": [one for data in pretrained.EPOCHS
                   for one in [*pretrained.experiments_of(data).values(),
                               *pretrained.techniques_of(data).values()]],
}


@pytest.mark.parametrize("table", EXPERIMENTS)
def test_experiments__names_are_unique_and_every_row_is_shown(table):
    names = [name for one in EXPERIMENTS[table] for name in one.runs]
    rows = {name for name in read_rows(RESULTS / f"{table}.csv") if "-free-" not in name}
    assert len(set(names)) == len(names) and rows <= set(names)
    for one in EXPERIMENTS[table]:
        if one.flags is not None:
            assert one.runs[0].startswith(one.data_folder(0).name.split("-")[0] + "-")
            if one.script != "bench/variants.py":
                compare_networks.train_args(one.flags.split())


@pytest.mark.parametrize("script, name", [(points, "points.md"), (compare_networks, "networks.md"),
                                          (tune, "tune.md"), (pretrained, "pretrained.md")])
def test_report_lines__are_the_committed_report(script, name):
    committed = (RESULTS / name).read_text(encoding="utf-8")
    assert "\n".join(script.report_lines()) + "\n" == committed


def test_dunes_splits__holds_out_blocks_and_leaves_out_their_borders():
    rows = [0, 19, 20, 21, 22, 40, 78]  # tiles from the north; blocks are cut at 20.5, 37.5, 56.5
    names = [f"x00608_y{608 * row:05d}" for row in rows]
    splits = pretrained.dunes_splits("dunes-a", names)
    assert list(splits.values()) == ["val", "train", "test", "test", "train"]
    assert list(splits) == [names[index] for index in (0, 1, 4, 5, 6)]
    assert set(pretrained.dunes_splits("dunes-b", names[4:]).values()) == {"val", "train", "test"}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the published images are not here")
@pytest.mark.parametrize("data", pretrained.EPOCHS)
def test_prepare__makes_the_set_that_the_rows_were_scored_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    pretrained.prepare(data, DATA)
    scored_on = {row["scored_on"] for name, row in read_rows(RESULTS / "pretrained.csv").items()
                 if name.startswith(f"{data}-")}
    assert scored_on == {experiments.test_set_digest(tmp_path / "data" / data)}


def test_readme_table__stands_in_readme():
    lines = markdown(pretrained.readme_table(pretrained.all_rows()))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(lines) > 10
    assert "\n".join(lines) in readme


def test_set_table__pairs_draws_and_measures_from_the_floor():
    scores = {"dubai-long-0-seed": [0.8, 0.8, 0.8],
              "dubai-1-pixel-classifier-draw": [0.4, 0.4, 0.4],
              "dubai-1-partial-CE-draw": [0.5, 0.6, 0.7],
              "dubai-1-superpixels-class-weights-draw": [0.53, 0.64, 0.75]}
    rows = {f"{name}{draw}": {"miou": score, "labelled_pixels": 1000, "scored_on": "x",
                              "class_iou": json.dumps({"land": score - 0.1})}
            for name, draws in scores.items() for draw, score in enumerate(draws)}
    p_values = []
    best = points.set_table("dubai", rows, p_values)[3]
    assert best == {
        "points per tile": "1", "method": points.BEST, "labelled px": "1,000",
        "mean IoU": "0.640 ± 0.110", "of every label": "80%", "distance covered": "60%",
        "difference to partial CE": "+4.0 [+1.5, +6.5], p 0.02", "by draw": "+3.0, +4.0, +5.0",
        "IoU by class": "land 0.54 ± 0.11"}
    assert p_values == [pytest.approx(0.0202, abs=1e-4)]


@pytest.mark.slow
def test_pixel_classifier__learns_colour(tmp_path):
    write_set(tmp_path / "set", count=4, side=16, classes=2)
    for split in ("train", "test"):
        images = np.load(tmp_path / "set" / f"{split}_images.npy")
        labels = (np.abs(images[..., 0] - 100.0) < 50).astype(np.uint8)  # no line divides these
        np.save(tmp_path / "set" / f"{split}_labels.npy", labels)
    words = ["--data", str(tmp_path / "set"), "--points", "40", "--out", str(tmp_path / "run")]
    scores = pixel_classifier.main(pixel_classifier.parse_args(words))
    assert scores["miou"] > 0.85 and scores["labelled_pixels"] == 160
    assert float(read_csv(tmp_path / "run" / "log.csv")[0]["seconds"]) > 0


def test_variants__slow_and_frozen_networks_keep_to_it_in_training():
    args = train.parse_args(["--model", "resunet"])
    kwargs = {"bands": 3, "classes": 2, "encoder": "resnet18"}
    slow = variants.build_slow(args, kwargs, torch.device("cpu"))
    assert {norm.momentum for norm in variants.norms_of(slow)} == {0.01}
    frozen = variants.build_frozen(args, kwargs, torch.device("cpu")).train()
    inside = set(variants.norms_of(frozen.encoder))
    assert all(norm.training == (norm not in inside) for norm in variants.norms_of(frozen))


@pytest.mark.slow
def test_variants__statistics_anew_are_those_of_the_training_tiles(tmp_path, monkeypatch):
    write_set(tmp_path / "data", count=5, side=16)
    monkeypatch.setattr(train, "finish_run", variants.finish_anew)
    helpers.run(str(tmp_path / "data"), tmp_path / "run", "--epochs", "1", "--bs", "5",
                "--final", "last")
    model, meta = load_model(tmp_path / "run" / "last.pt")
    tiles = TileDataset(tmp_path / "data", "train")
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    images, _ = tiles.get_batch(range(5))
    maps = first(normalise(images, meta["mean"], meta["std"], meta["nodata"]))
    assert torch.allclose(variants.norms_of(model)[0].running_mean, maps.mean((0, 2, 3)),
                          atol=1e-5)


def test_variants__a_late_encoder_learns_from_the_second_quarter_on(monkeypatch):
    monkeypatch.setattr(variants, "optimizer_step", lambda *_: None)
    groups = [{"share": 0.3}, {"share": 1.0}]  # of the encoder, of the decoder
    run = types.SimpleNamespace(optimizer=types.SimpleNamespace(param_groups=groups), steps=4)
    args = types.SimpleNamespace(epochs=2, encoder_lr=0.3)
    shares = []
    for done in range(8):
        variants.step_late(run, args, done)
        shares.append([group["share"] for group in groups])
    assert shares == [[0, 1]] * 2 + [[0.3, 1]] * 6


def test_fresh_points__so_many_at_each_visit_and_others_at_the_next(tmp_path):
    write_set(tmp_path)
    tiles = fresh_points.FreshPoints(tmp_path, "train", 4)
    visits = [tiles.get_batch([2, 5])[1] for _ in range(3)]
    truth = torch.from_numpy(np.load(tmp_path / "train_labels.npy")[[2, 5]])
    for labels in visits:
        known = labels != 255
        assert known.sum() == 8 and torch.equal(labels[known], truth[known])
    assert not torch.equal(visits[0], visits[1])


def run(script, *words):
    """Run a script of bench/ as a person does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, BENCH / script, *map(str, words)], cwd=BENCH.parent,
                          capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_speed__a_row_per_peer(tmp_path):
    table = tmp_path / "speed.csv"
    printed = run("speed.py", "--only", "loss", "confusion", "batches", "--repeats", 1, "--threads",
                  1, "--table", table)
    rows = read_csv(table)
    assert len(rows) == 4 * 2 + 2 + 1
    assert all(row["work"] in printed and float(row["ours"]) > 0 for row in rows)


@pytest.mark.slow
def test_processes__two_processes_beside_two_others(tmp_path):
    table = tmp_path / "speed.csv"
    run("processes.py", "--only", "batches", "--repeats", 1, "--bs", 1, "--width", 2, "--table",
        table)
    values = [float(row[name]) for row in read_csv(table)
              for name in ("ours", "peer's", "ratio")]
    assert len(values) == 2 * 3 and min(values) > 0


@pytest.mark.slow
def test_scenes__memory_and_margins(tmp_path):
    common = ("--folder", tmp_path, "--table", tmp_path / "scenes.csv")
    run("scenes.py", "memory", "--side", 128, *common)
    run("scenes.py", "margins", "--checkpoint", tmp_path / "run" / "last.pt", "--scene",
        tmp_path / "scene_128x128.tif", *common)
    rows = read_csv(tmp_path / "scenes.csv")
    memory = [float(row["value"]) for row in rows if row["quantity"] == "resident_mb"]
    assert len(memory) == 2 and min(memory) > 50
    margins = [float(row["value"]) for row in rows if row["quantity"] == "differing_percent"]
    assert len(margins) == 6 and margins[-1] == 0  # at more than the radius


def test_length__rows_are_of_its_runs_and_passes_make_the_steps():
    experiments = {title: one for name in length.TILES
                   for title, one in length.experiments_of(name).items()}
    names = {run for one in experiments.values() for run in one.runs}
    assert set(read_rows(RESULTS / "length.csv")) <= names
    for title, one in experiments.items():
        tiles, steps = (int(word) for word in re.findall(r"\d+", title))
        passes = int(one.flags.split()[1])
        assert passes * tiles // length.SMALL_BATCH * length.EPOCHS == steps
