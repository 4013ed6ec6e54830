"""Confusion matrices and heat maps: the colours of their cells, and that no text is cut."""

import math
import warnings

import numpy as np
import pytest
from helpers import ink_box

from report.layout import FAINT, GRID
from report.matrices import SHADES, confusion_figure, heat_map

LIGHT, MIDDLE, DARK = (tuple(SHADES[n]) for n in (0, 128, 255))
HATCHED = (GRID, FAINT)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def cell_colours(figure, rows, columns):
    """The colour in the corner of each cell, found by the dark cell at the top left."""
    pixels = np.asarray(figure)
    top, left = np.argwhere((pixels == DARK).all(-1)).min(0)
    return [[tuple(pixels[top + 3 + 100 * row, left + 3 + 150 * column])
             for column in range(columns)] for row in range(rows)]


def test_confusion_figure__is_in_shares_of_each_true_class():
    found = cell_colours(confusion_figure([[9, 0, 0], [3, 3, 0], [0, 0, 0]], "abc"), 3, 3)
    assert found[:2] == [[DARK, LIGHT, LIGHT], [MIDDLE, MIDDLE, LIGHT]]
    assert set(found[2]) <= set(HATCHED)  # a class that the truth lacks


@pytest.mark.parametrize("count", [1, 23])
def test_confusion_figure__cuts_no_text(count):
    names = [f"class number {n}, with a long name" for n in range(count)]
    counts = np.random.default_rng(0).integers(1, 1000, (count, count))
    assert min(ink_box(confusion_figure(counts, names, "a title"))) >= 26


def test_heat_map__lowest_highest_and_missing():
    figure = heat_map([[0.9, 0.1], [math.nan, 0.5]], ["1e-3", "1e-2"], ["16", "32"], "lr", "batch")
    found = cell_colours(figure, 2, 2)
    assert found[0] == [DARK, LIGHT]
    assert found[1][0] in HATCHED
    assert found[1][1] == MIDDLE


@pytest.mark.parametrize("values", [[[math.nan]], [[0.51, 0.59]], [[-1e6, 1e6, 3]], [[0.0], [0.0]]])
def test_heat_map__cuts_no_text_for_odd_values(values):
    figure = heat_map(values, ["row"] * len(values), ["a"] * len(values[0]), "a long row label",
                      "a column label of many more words than cells", "title",
                      [["0.8123 +- 0.0123\nof 3 seeds"] * len(row) for row in values])
    assert min(ink_box(figure)) >= 26
