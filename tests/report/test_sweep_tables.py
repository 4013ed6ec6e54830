"""Tables and heat maps of made-up runs, against lines written by hand."""

import math

import numpy as np
import pytest

from report import sweep_tables as tables
from report.sweep_tables import (
    by_setting,
    grid_figure,
    markdown_table,
    report,
    search_figure,
    spread,
)


def made_row(lr, bs, seed=0, miou=0.5, status="finished", error="", **more):
    """A row of sweep.csv, as text."""
    scores = {"train_loss": "0.25", "val_loss": "0.5", "val_accuracy": "0.75", "best_val_miou": str(miou), "test_miou": "0.4"}
    if status == "failed":
        scores = dict.fromkeys(scores, "")
    return {"cell": f"lr={lr}_bs={bs}_seed={seed}", "lr": lr, "bs": bs, "seed": str(seed), "epochs_done": "2", **scores,
            "status": status, "error": error, **more}


def test_spread():
    assert spread(["0.5"]) == "0.500" and spread([]) == "" and spread(["nan", ""]) == ""
    assert spread([1, 2, 3], 1) == "2.0 ± 1.0"  # the sample's standard deviation: n - 1


def test_rows_that_differ_in_the_seed_are_one_group():
    rows = [made_row("1e-3", "16", seed) for seed in range(3)] + [made_row("1e-2", "16")]
    assert {key: len(group) for key, group in by_setting(rows, ["lr", "bs"]).items()} == {("1e-3", "16"): 3, ("1e-2", "16"): 1}


def test_the_table_has_the_known_columns_and_says_how_runs_ended():
    rows = [made_row("1e-3", "16"), made_row("1e-2", "16", status="failed", error="train.py: a | b"),
            made_row("1e-2", "32", status="stopped", test_miou="")]
    assert markdown_table(rows, ["lr", "bs"]).splitlines() == [
        "| learning rate | batch size | training loss | validation loss | validation accuracy, % | validation mean IoU "
        "| test mean IoU | state |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1e-3 | 16 | 0.250 | 0.500 | 75.00 | 0.500 | 0.400 | finished |",
        "| 1e-2 | 16 |  |  |  |  |  | failed: train.py: a / b |",
        "| 1e-2 | 32 | 0.250 | 0.500 | 75.00 | 0.500 |  | stopped after 2 epochs |"]


def test_seeds_are_averaged_and_failures_among_them_counted():
    rows = [made_row("1e-3", "16", 0, 0.4), made_row("1e-3", "16", 1, 0.6)]
    rows.append(made_row("1e-3", "16", 2, status="failed", error="no"))
    line = markdown_table(rows, ["lr", "bs", "seed"]).splitlines()[2]
    assert "| 0.500 ± 0.141 |" in line and line.endswith("| 2 finished, 1 failed: no |")


@pytest.fixture
def drawn(monkeypatch):
    """What heat_map was asked to draw."""
    calls, real = [], tables.heat_map
    monkeypatch.setattr(tables, "heat_map", lambda *arguments: calls.append(arguments) or real(*arguments))
    return calls


def test_the_heat_map_has_a_cell_a_setting(drawn):
    rows = [made_row(lr, bs, seed, miou) for lr, bs, miou in (("1e-3", "16", 0.5), ("1e-3", "32", 0.6), ("1e-2", "16", 0.7))
            for seed in range(2)] + [made_row("1e-2", "32", status="failed", error="nan")]
    grid_figure(rows, ["lr", "bs", "seed"], "demo, unet")
    values, lines, columns, down, across, title, texts = drawn[0]
    assert np.allclose(values, [[0.5, 0.6], [0.7, math.nan]], equal_nan=True)
    assert (lines, columns, down, across) == (["1e-3", "1e-2"], ["16", "32"], "learning rate", "batch size")
    assert texts == [["0.500\n+- 0.000", "0.600\n+- 0.000"], ["0.700\n+- 0.000", "failed"]]
    assert title.startswith("demo, unet: validation mean IoU") and title.endswith("over 2 seeds")


@pytest.mark.parametrize("swept, shape", [([], (1, 1)), (["seed"], (1, 1)), (["lr"], (1, 2)), (["lr", "bs", "width"], (2, 3))])
def test_any_number_of_swept_flags_gives_a_picture(drawn, swept, shape):
    widths = ("4", "8", "16") if "width" in swept else ("4",)
    rows = [made_row(lr, "16", width=width) for lr in (("1e-3", "1e-2") if "lr" in swept else ("1e-3",)) for width in widths]
    assert grid_figure(rows, swept, "demo").size > (200, 100)
    assert np.shape(drawn[0][0]) == shape


def test_the_search_figure_hatches_what_was_stopped(drawn):
    search_figure([(2, {"lr=1_bs=8": 0.2, "lr=2_bs=8": 0.1}), (6, {"lr=1_bs=8": 0.4})], ["lr=1_bs=8", "lr=2_bs=8"], "demo")
    values, lines, columns, *_, texts = drawn[0]
    assert np.allclose(values, [[0.2, 0.4], [0.1, math.nan]], equal_nan=True)
    assert lines == ["lr=1, bs=8", "lr=2, bs=8"] and columns == ["2", "6"] and texts == [["0.200", "0.400"], ["0.100", ""]]


def test_the_report_of_a_search_says_what_it_cost(tmp_path, capsys):
    rows = [made_row("1", "8", miou=0.1, status="stopped"), made_row("2", "8", miou=0.4, epochs_done="6"),
            made_row("3", "8", status="failed", error="nan", epochs_done="0")]
    names = [row["cell"] for row in rows]
    report(rows, ["lr"], tmp_path, "demo", "python sweep.py", [(2, {names[0]: 0.1, names[1]: 0.2}), (6, {names[1]: 0.4})])
    text = (tmp_path / "sweep.md").read_text()
    assert "Settings trained: 2 to epoch 2, 1 to epoch 6. Epochs: 8, 44% of the 18 that all 3 settings" in text
    assert f"Best run by validation mean IoU, 0.400: {tmp_path / names[1] / 'best.pt'}" in text
    assert text.index("| 2 | 8 |") < text.index("| 1 | 8 |") < text.index("| 3 | 8 |")  # best first
    assert text in capsys.readouterr().out and (tmp_path / "sweep.png").exists()
    assert not list(tmp_path.glob("*.part"))
