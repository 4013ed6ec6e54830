"""Runs as rows of a table: what is there is skipped, unless it is of another set under the same path."""

import csv
import shutil

import numpy as np
import pytest

from test_bench_few_points import BENCH
from test_data import write_set

FLAGS = "--width 2 --depth 1 --bs 2 --points 3 --epochs 1 --device cpu".split()


@pytest.fixture
def run_table(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import run_table
    run_table.scored_on.cache_clear()
    return run_table


def test_a_row_is_skipped_but_not_where_the_set_has_changed(tmp_path, run_table):
    write_set(tmp_path / "data")
    table, runs = tmp_path / "results" / "table.csv", [("one", ["--data", tmp_path / "data", *FLAGS])]
    row, = run_table.run_missing(table, runs, tmp_path / "runs")
    assert row["name"] == "one" and 0 <= float(row["miou"]) <= 1 and row["command"].startswith("python train.py --data ")
    shutil.rmtree(tmp_path / "runs")
    assert run_table.run_missing(table, runs, tmp_path / "runs") == [row] and not (tmp_path / "runs").exists()
    images = np.load(tmp_path / "data" / "test_images.npy")
    np.save(tmp_path / "data" / "test_images.npy", images + 1)
    run_table.scored_on.cache_clear()
    with pytest.raises(ValueError, match="one was scored on another set than .*data is now"):
        run_table.run_missing(table, runs, tmp_path / "runs")
    with open(table, newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [row]


def test_only_scores_on_one_set_are_paired(run_table):
    rows = {"a": {"miou": "0.5", "scored_on": "x"}, "b": {"miou": "0.7", "scored_on": "x"}, "c": {"miou": "0.9", "scored_on": "y"}}
    assert run_table.scores_in_pairs([("b", "a"), ("c", "a"), ("b", "gone")], rows) == [(0.7, 0.5)]
    assert run_table.difference([(0.7, 0.5), (0.6, 0.5)]) == "+15.0 +- 7.1"
    assert run_table.difference([(0.7, 0.5), (0.4, 0.5)]) == "+5.0 +- 21.2 (none)" and run_table.difference([]) == ""
