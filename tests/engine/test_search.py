"""Draws in range and repeatable, rungs by hand, and successive halving over made-up learning curves."""

import math

import pytest

from engine.search import draw, halve, rung_sizes


class Curve:
    """A setting whose validation mean IoU after n epochs is top * n / 9; it fails after `fails` epochs."""

    def __init__(self, top, fails=99):
        self.top, self.fails, self.epochs = top, fails, 0

    def log(self):
        return list(range(self.epochs))

    def best(self, until):
        return self.top * min(until, self.epochs) / 9


def train_until(cells, epoch):
    for cell in cells:
        cell.epochs = max(cell.epochs, min(epoch, cell.fails))


def test_draws_are_in_range_different_and_repeatable():
    flags = {"lr": ["1e-4..1e-1"], "bs": ["8,16,32"], "width": ["4..64"], "model": ["unet", "fpn"], "epochs": ["9"],
             "compile": []}
    drawn = draw(flags, 40, seed=0)
    assert drawn == draw(flags, 40, seed=0) != draw(flags, 40, seed=1)
    assert drawn[:5] == draw(flags, 5, seed=0)
    assert len({tuple(setting.values()) for setting in drawn}) == 40
    assert all(1e-4 <= float(setting["lr"]) <= 1e-1 and 4 <= int(setting["width"]) <= 64 for setting in drawn)
    assert {setting["bs"] for setting in drawn} == {"8", "16", "32"}
    assert {setting["model"] for setting in drawn} == {"unet", "fpn"}
    assert {(setting["epochs"], setting["compile"]) for setting in drawn} == {("9", None)}


def test_a_range_is_drawn_from_log_uniformly():
    logs = [math.log10(float(setting["lr"])) for setting in draw({"lr": ["1e-4..1e-1"]}, 300, seed=0)]
    for low in (-4, -3, -2):  # each decade gets its third
        assert 70 < sum(low <= value < low + 1 for value in logs) < 130


@pytest.mark.parametrize("flags, message", [
    ({"bs": ["8,16"]}, "--search 3: these flags give only 2"),
    ({"lr": ["0..1"]}, "0..1: give a range"),
    ({"lr": ["1e-1..1e-3"]}, "give a range"),
])
def test_what_cannot_be_drawn_is_said(flags, message):
    with pytest.raises(ValueError, match=message):
        draw(flags, 3, seed=0)


def test_paths_are_no_ranges():
    assert draw({"data": ["../data/demo"]}, 1, seed=0) == [{"data": "../data/demo"}]


@pytest.mark.parametrize("count, epochs, rungs", [
    (24, 20, [(2, 24), (7, 8), (20, 2)]),
    (9, 9, [(1, 9), (3, 3), (9, 1)]),
    (27, 2, [(2, 27)]),
    (2, 20, [(20, 2)]),
    (1, 1, [(1, 1)]),
    (81, 81, [(1, 81), (3, 27), (9, 9), (27, 3), (81, 1)]),
])
def test_rungs(count, epochs, rungs):
    assert rung_sizes(count, epochs) == rungs


def test_the_best_third_goes_on_and_the_others_stay_where_they_are():
    cells = [Curve(top / 10) for top in (3, 1, 9, 4, 7, 2, 6, 8, 5)]
    rungs = halve(cells, 9, train_until)
    assert [(epoch, [cell.top for cell in reached]) for epoch, reached in rungs] == [
        (1, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]), (3, [0.9, 0.8, 0.7]), (9, [0.9])]
    assert [cell.epochs for cell in cells] == [1, 1, 9, 1, 3, 1, 1, 3, 1]  # 21 epochs of 81


def test_a_second_call_chooses_alike_though_some_went_further_or_failed():
    cells = [Curve(top / 10, fails=2 if top == 8 else 99) for top in (3, 1, 9, 4, 7, 2, 6, 8, 5)]
    first = halve(cells, 9, train_until)
    assert [[cell.top for cell in reached] for _, reached in first][1:] == [[0.9, 0.7], [0.9]]
    assert halve(cells, 9, lambda cells, epoch: None) == first


def test_settings_that_fail_at_once_are_out():
    cells = [Curve(0.9, fails=0), Curve(0.1), Curve(0.2)]
    assert [[cell.top for cell in reached] for _, reached in halve(cells, 3, train_until)] == [[0.2, 0.1], [0.2]]
