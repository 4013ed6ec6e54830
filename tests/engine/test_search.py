"""Draws in range and repeatable, rungs by hand, successive halving over made-up curves."""

import math

import pytest

from engine.search import draw, halve, rung_sizes

TOPS = (3, 1, 9, 4, 7, 2, 6, 8, 5)


class Curve:
    """A setting whose validation mean IoU after n epochs is top * n / 90.

    It fails after `fails` epochs.
    """

    def __init__(self, top, fails=99):
        self.top = top
        self.fails = fails
        self.epochs = 0

    def log(self):
        return list(range(self.epochs))

    def best(self, until):
        return self.top * min(until, self.epochs) / 90


def train_until(cells, epoch):
    for cell in cells:
        cell.epochs = max(cell.epochs, min(epoch, cell.fails))


def tops(rungs):
    return [(epoch, [cell.top for cell in reached]) for epoch, reached in rungs]


def test_draw__is_in_range_different_and_repeatable():
    flags = {"lr": ["1e-4..1e-1"], "bs": ["8,16,32"], "width": ["4..64"],
             "model": ["unet", "fpn"], "epochs": ["9"], "compile": []}
    drawn = draw(flags, 40, seed=0)
    assert drawn == draw(flags, 40, seed=0)
    assert drawn != draw(flags, 40, seed=1)
    assert drawn[:5] == draw(flags, 5, seed=0)
    assert len({tuple(setting.values()) for setting in drawn}) == 40
    assert all(1e-4 <= float(setting["lr"]) <= 1e-1 for setting in drawn)
    assert all(4 <= int(setting["width"]) <= 64 for setting in drawn)
    assert {setting["bs"] for setting in drawn} == {"8", "16", "32"}
    assert {setting["model"] for setting in drawn} == {"unet", "fpn"}
    assert {(setting["epochs"], setting["compile"]) for setting in drawn} == {("9", None)}


def test_draw__a_range_is_log_uniform():
    drawn = draw({"lr": ["1e-4..1e-1"]}, 300, seed=0)
    decades = [math.floor(math.log10(float(setting["lr"]))) for setting in drawn]
    for decade in (-4, -3, -2):  # each gets its third
        assert 70 < decades.count(decade) < 130


def test_draw__paths_are_no_ranges():
    assert draw({"data": ["../data/demo"]}, 1, seed=0) == [{"data": "../data/demo"}]


@pytest.mark.parametrize("flags, given", [({"bs": ["8,16"]}, "--search 3"),
                                          ({"lr": ["0..1"]}, "0..1"),
                                          ({"lr": ["1e-1..1e-3"]}, "1e-1..1e-3")])
def test_draw__refuses_what_cannot_be_drawn(flags, given):
    with pytest.raises(ValueError, match=given):
        draw(flags, 3, seed=0)


@pytest.mark.parametrize("count, epochs, rungs", [
    (24, 20, [(2, 24), (7, 8), (20, 2)]),
    (9, 9, [(1, 9), (3, 3), (9, 1)]),
    (27, 2, [(2, 27)]),
    (2, 20, [(20, 2)]),
    (1, 1, [(1, 1)]),
    (81, 81, [(1, 81), (3, 27), (9, 9), (27, 3), (81, 1)]),
])
def test_rung_sizes__by_hand(count, epochs, rungs):
    assert rung_sizes(count, epochs) == rungs


def test_halve__the_best_third_goes_on():
    cells = [Curve(top) for top in TOPS]
    rungs = tops(halve(cells, 9, train_until))
    assert rungs == [(1, [9, 8, 7, 6, 5, 4, 3, 2, 1]), (3, [9, 8, 7]), (9, [9])]
    assert [cell.epochs for cell in cells] == [1, 1, 9, 1, 3, 1, 1, 3, 1]  # 21 of 81


def test_halve__a_second_call_chooses_alike_though_some_went_further_or_failed():
    cells = [Curve(top, fails=2 if top == 8 else 99) for top in TOPS]
    first = halve(cells, 9, train_until)
    assert tops(first)[1:] == [(3, [9, 7]), (9, [9])]
    assert halve(cells, 9, lambda cells, epoch: None) == first


def test_halve__settings_that_fail_at_once_are_out():
    cells = [Curve(9, fails=0), Curve(1), Curve(2)]
    assert tops(halve(cells, 3, train_until)) == [(1, [2, 1]), (3, [2])]
