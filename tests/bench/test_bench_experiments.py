"""The loop of experiments: only missing runs are trained, rows are whole, differences are right."""

import argparse
import csv
import json
import math
import re
import shutil

import experiments
import numpy as np
import pytest
from experiments import Experiment, numbered
from helpers import BENCH, write_set

# Writes what train.py writes, in no time; fails once where the run's folder is called b-seed1.
TRAINER = """
import json, os, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
if out.name == "b-seed1" and not (out / "last.pt").exists():
    (out / "last.pt").touch()
    sys.exit("stopped")
scores = {"miou": 0.5, "pixel_accuracy": 0.75, "labelled_pixels": 3,
          "classes": [{"name": "wood", "iou": 0.5}, {"name": "absent", "iou": None}]}
(out / "log.csv").write_text("epoch,seconds\\n1,2.5\\n2,2\\n")
(out / "metrics.json").write_text(json.dumps({"resumed": "--resume" in sys.argv, **scores}))
"""


@pytest.fixture
def run_missing(tmp_path, monkeypatch):
    """`run_missing` of a and b, two seeds each, in a folder made up for it."""
    write_set(tmp_path / "data" / "made")
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    experiments.test_set_digest.cache_clear()
    runs = [Experiment(numbered(name, 2), f"--data data/made --name {name}", "trainer.py")
            for name in ("a", "b")]
    runs.append(Experiment(("gone-seed0",), None, "trainer.py"))
    args = argparse.Namespace(only=[""], jobs=2)

    def run(**changed):
        for name, value in changed.items():
            setattr(args, name, value)
        experiments.run_missing(tmp_path / "table.csv", runs, args)

    yield run
    experiments.test_set_digest.cache_clear()


def test_run_missing__trains_only_runs_without_a_row(tmp_path, run_missing):
    run_missing(only=["a-", "b-seed0"])
    rows = experiments.read_rows(tmp_path / "table.csv")
    assert sorted(rows) == ["a-seed0", "a-seed1", "b-seed0"]
    row = rows["a-seed1"]
    assert (row["miou"], row["train_s"], row["epochs"]) == ("0.5", "4.5", "2")
    assert row["class_iou"] == '{"wood": 0.5}'
    assert row["command"] == ("python trainer.py --data data/made --name a --seed 1"
                              " --out runs/table/a-seed1")
    shutil.rmtree(tmp_path / "runs")
    run_missing()
    assert not (tmp_path / "runs").exists()
    assert experiments.read_rows(tmp_path / "table.csv") == rows


def test_run_missing__a_failed_run_is_resumed_and_others_keep_their_rows(tmp_path, run_missing):
    with pytest.raises(ValueError, match="b-seed1.*failed: stopped"):
        run_missing(jobs=1)
    assert "a-seed1" in experiments.read_rows(tmp_path / "table.csv")
    run_missing()
    assert len(experiments.read_csv(tmp_path / "table.csv")) == 4
    metrics = tmp_path / "runs" / "table" / "b-seed1" / "metrics.json"
    assert json.loads(metrics.read_text())["resumed"]


def test_run_missing__refuses_another_test_set_under_the_same_path(tmp_path, run_missing):
    run_missing(only=["a-"])
    images = np.load(tmp_path / "data" / "made" / "test_images.npy")
    np.save(tmp_path / "data" / "made" / "test_images.npy", images + 1)
    experiments.test_set_digest.cache_clear()
    with pytest.raises(ValueError, match="a-seed0.*data.made"):
        run_missing()


def test_append__keeps_the_order_of_columns_and_refuses_new_ones(tmp_path):
    table = tmp_path / "new" / "table.csv"
    experiments.append(table, {"name": "one", "score": 1 / 3})
    experiments.append(table, {"score": 2, "name": "two, three"})
    assert table.read_text().splitlines() == ["name,score", "one,0.33333", '"two, three",2']
    with pytest.raises(ValueError, match="other"):
        experiments.append(table, {"name": "four", "other": 1})


def test_paired_gains__pairs_seeds_scored_on_one_set():
    rows = {"a": {"miou": "0.5", "scored_on": "x"}, "b": {"miou": "0.7", "scored_on": "x"},
            "c": {"miou": "0.9", "scored_on": "y"}}
    gains = experiments.paired_gains(("b", "c", "b"), ("a", "a", "gone"), rows)
    assert gains == [pytest.approx(20)]
    assert experiments.paired_gains(("a", "b"), ("a", "b"), rows) == []


def test_difference__interval_and_p_by_hand():
    # Mean 2, deviation 1, error 1 / sqrt 3; t = 2 sqrt 3 with 2 degrees of freedom; 4.303 by table.
    assert experiments.difference([1, 2, 3]) == "+2.0 [-0.5, +4.5], p 0.074"
    assert experiments.difference([1.04]) == "+1.0" and experiments.difference([]) == ""
    assert experiments.difference([-0.01, 0.01]) == "+0.0 [-0.1, +0.1], p 1"
    assert experiments.paired_p([2, 2]) == 0 and experiments.paired_p([0, 0]) == 1


def test_t_tails__closed_forms_and_table():
    assert experiments.t_tails(1, 1) == pytest.approx(0.5)  # Cauchy
    assert experiments.t_tails(2, 2) == pytest.approx(1 - 2 / math.sqrt(6))
    for df, t in {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042}.items():
        assert experiments.t_tails(-t, df) == pytest.approx(0.05, abs=5e-5)
        assert experiments.t_quantile(df) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("table", sorted(path.name for path in
                                         (BENCH.parent / "results").glob("*.csv")))
def test_results__each_row_is_whole_and_contains_what_made_it(table):
    with open(BENCH.parent / "results" / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert None not in row and None not in row.values()  # as many cells as the header
        assert re.fullmatch("[0-9a-f]{7,40}", row["commit"])
        assert row["command"].startswith("python ")
    if "name" in rows[0]:
        assert len({row["name"] for row in rows}) == len(rows)
