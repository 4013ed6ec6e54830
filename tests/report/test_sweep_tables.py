"""Tables and heat maps of made-up runs, against lines written by hand."""

import math

import numpy as np
import pytest

from report import sweep_tables as tables
from report.sweep_tables import (
    by_setting, grid_figure, markdown_table, report, search_figure, spread, state)


def made_row(lr, bs, seed=0, miou=0.5, status="finished", error="", **more):
    """A row of sweep.csv, as text."""
    scores = {"train_loss": "0.25", "val_loss": "0.5", "val_accuracy": "0.75",
              "best_val_miou": str(miou), "test_miou": "0.4"}
    if status == "failed":
        scores = dict.fromkeys(scores, "")
    return {"cell": f"lr={lr}_bs={bs}_seed={seed}", "lr": lr, "bs": bs, "seed": str(seed),
            "epochs_done": "2", **scores, "status": status, "error": error, **more}


def test_spread__mean_and_deviation():
    assert spread(["0.5"]) == "0.500"
    assert spread([]) == ""
    assert spread(["nan", ""]) == ""
    assert spread([1, 2, 3], 1) == "2.0 ± 1.0"  # the sample's standard deviation: n - 1


def test_by_setting__groups_the_seeds():
    rows = [made_row("1e-3", "16", seed) for seed in range(3)] + [made_row("1e-2", "16")]
    sizes = {setting: len(group) for setting, group in by_setting(rows, ["lr", "bs"]).items()}
    assert sizes == {("1e-3", "16"): 3, ("1e-2", "16"): 1}


def test_state__counts_how_runs_ended():
    failed = made_row("1", "8", status="failed", error="a | b")
    assert state([made_row("1", "8")]) == "finished"
    assert state([made_row("1", "8", status="stopped")]) == "stopped after 2 epochs"
    assert state([made_row("1", "8"), made_row("1", "8"), failed]) \
        == "2 finished, 1 failed: a / b"


def test_markdown_table__columns_and_ends():
    rows = [made_row("1e-3", "16"),
            made_row("1e-2", "16", status="failed", error="train.py: a"),
            made_row("1e-2", "32", status="stopped", test_miou="")]
    assert markdown_table(rows, ["lr", "bs"]).splitlines() == [
        "| learning rate | batch size | training loss | validation loss | validation accuracy, % "
        "| validation mean IoU | test mean IoU | state |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1e-3 | 16 | 0.250 | 0.500 | 75.00 | 0.500 | 0.400 | finished |",
        "| 1e-2 | 16 |  |  |  |  |  | failed: train.py: a |",
        "| 1e-2 | 32 | 0.250 | 0.500 | 75.00 | 0.500 |  | stopped after 2 epochs |"]


def test_markdown_table__seeds_are_averaged():
    rows = [made_row("1e-3", "16", 0, 0.4), made_row("1e-3", "16", 1, 0.6),
            made_row("1e-3", "16", 2, status="failed", error="no")]
    line = markdown_table(rows, ["lr", "bs", "seed"]).splitlines()[2]
    assert "| 0.500 ± 0.141 |" in line
    assert line.endswith("| 2 finished, 1 failed: no |")


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each call of heat_map."""
    calls = []
    real = tables.heat_map

    def heat_map(*arguments):
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(tables, "heat_map", heat_map)
    return calls


def test_grid_figure__has_a_cell_per_setting(drawn):
    rows = []
    for lr, bs, miou in (("1e-3", "16", 0.5), ("1e-3", "32", 0.6), ("1e-2", "16", 0.7)):
        rows += [made_row(lr, bs, seed, miou) for seed in range(2)]
    rows.append(made_row("1e-2", "32", status="failed", error="nan"))
    grid_figure(rows, ["lr", "bs", "seed"], "demo, unet")
    values, lines, columns, down, across, title, texts = drawn[0]
    assert np.allclose(values, [[0.5, 0.6], [0.7, math.nan]], equal_nan=True)
    assert (lines, down) == (["1e-3", "1e-2"], "learning rate")
    assert (columns, across) == (["16", "32"], "batch size")
    assert texts == [["0.500\n+- 0.000", "0.600\n+- 0.000"], ["0.700\n+- 0.000", "failed"]]
    assert title.startswith("demo, unet: validation mean IoU")
    assert title.endswith("over 2 seeds")


@pytest.mark.parametrize("swept, shape", [([], (1, 1)), (["seed"], (1, 1)), (["lr"], (1, 2)),
                                          (["lr", "bs", "width"], (2, 3))])
def test_grid_figure__any_number_of_swept_flags(drawn, swept, shape):
    rates = ("1e-3", "1e-2") if "lr" in swept else ("1e-3",)
    widths = ("4", "8", "16") if "width" in swept else ("4",)
    rows = [made_row(lr, "16", width=width) for lr in rates for width in widths]
    assert grid_figure(rows, swept, "demo").size > (200, 100)
    assert np.shape(drawn[0][0]) == shape


def test_search_figure__has_no_value_where_a_setting_was_stopped(drawn):
    rungs = [(2, {"lr=1_bs=8": 0.2, "lr=2_bs=8": 0.1}), (6, {"lr=1_bs=8": 0.4})]
    search_figure(rungs, ["lr=1_bs=8", "lr=2_bs=8"], "demo")
    values, lines, columns, *_, texts = drawn[0]
    assert np.allclose(values, [[0.2, 0.4], [0.1, math.nan]], equal_nan=True)
    assert lines == ["lr=1, bs=8", "lr=2, bs=8"]
    assert columns == ["2", "6"]
    assert texts == [["0.200", "0.400"], ["0.100", ""]]


def test_report__of_a_search_has_its_cost_and_the_best_first(tmp_path, capsys):
    rows = [made_row("1", "8", miou=0.1, status="stopped"),
            made_row("2", "8", miou=0.4, epochs_done="6"),
            made_row("3", "8", status="failed", error="nan", epochs_done="0")]
    names = [row["cell"] for row in rows]
    rungs = [(2, {names[0]: 0.1, names[1]: 0.2}), (6, {names[1]: 0.4})]
    report(rows, ["lr"], tmp_path, "demo", "python sweep.py", rungs)
    text = (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert "2 to epoch 2, 1 to epoch 6. Epochs: 8, 44% of the 18 that all 3 settings" in text
    assert f"0.400: {tmp_path / names[1] / 'best.pt'}" in text
    assert text.index("| 2 | 8 |") < text.index("| 1 | 8 |") < text.index("| 3 | 8 |")
    assert text in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.md", "sweep.png"]
