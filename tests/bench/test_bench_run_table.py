"""Runs as rows of a table: what is there is skipped, unless it is of another set under the same path."""

import csv
import re
import shutil

import numpy as np
import pytest
from helpers import BENCH, write_set

# What a run leaves, in no time.
SCRIPT = """
import pathlib, sys
out = pathlib.Path(sys.argv[-1])
out.mkdir(parents=True)
out.joinpath("log.csv").write_text("epoch,seconds\\n1,2.5\\n2,2\\n")
out.joinpath("metrics.json").write_text('{"miou": 0.5, "pixel_accuracy": 0.75, "labelled_pixels": 3, "classes": '
                                        '[{"name": "wood", "iou": 0.5}, {"name": "absent", "iou": null}]}')
"""


@pytest.fixture
def run_table(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import run_table
    run_table.scored_on.cache_clear()
    return run_table


def test_a_row_is_skipped_but_not_where_the_set_has_changed(tmp_path, run_table):
    write_set(tmp_path / "data")
    (tmp_path / "made.py").write_text(SCRIPT)
    table, runs = tmp_path / "results" / "table.csv", [("one", ["--data", tmp_path / "data", "--lr", 0.1])]

    def run_missing():
        return run_table.run_missing(table, runs, tmp_path / "runs", script=str(tmp_path / "made.py"))

    row, = run_missing()
    assert (row["name"], row["miou"], row["train_s"], row["epochs"]) == ("one", "0.5", "4.5", "2")
    assert row["class_iou"] == '{"wood": 0.5}' and f"made.py --data {tmp_path}/data --lr 0.1 --out " in row["command"]
    shutil.rmtree(tmp_path / "runs")
    assert run_missing() == [row] and not (tmp_path / "runs").exists()
    images = np.load(tmp_path / "data" / "test_images.npy")
    np.save(tmp_path / "data" / "test_images.npy", images + 1)
    run_table.scored_on.cache_clear()
    with pytest.raises(ValueError, match="one was scored on another set than .*data is now"):
        run_missing()
    with open(table, newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [row]


def test_only_scores_on_one_set_are_paired(run_table):
    rows = {"a": {"miou": "0.5", "scored_on": "x"}, "b": {"miou": "0.7", "scored_on": "x"}, "c": {"miou": "0.9", "scored_on": "y"}}
    assert run_table.scores_in_pairs([("b", "a"), ("c", "a"), ("b", "gone")], rows) == [(0.7, 0.5)]
    assert run_table.difference([(0.7, 0.5), (0.6, 0.5)]) == "+15.0 +- 7.1"
    assert run_table.difference([(0.7, 0.5), (0.4, 0.5)]) == "+5.0 +- 21.2 (none)" and run_table.difference([]) == ""


@pytest.mark.parametrize("table", sorted(path.name for path in (BENCH.parent / "results").glob("*.csv")))
def test_each_row_that_is_kept_says_what_made_it(table):
    with open(BENCH.parent / "results" / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and all(None not in row and None not in row.values() for row in rows)  # as many cells as the header
    if "command" in rows[0]:
        assert all(re.fullmatch("[0-9a-f]{7,40}", row["commit"]) and row["command"].startswith("python ") for row in rows)
    if "name" in rows[0]:
        assert len({row["name"] for row in rows}) == len(rows)
