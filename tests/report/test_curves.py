"""Curves: lines through known points, ticks by eye, and no text is cut."""

import math

import numpy as np
import pytest
from helpers import has_colour, ink_box

from report.curves import curves, round_ticks
from report.figures import default_colours


@pytest.mark.parametrize("span, whole, texts", [
    ((0.13, 0.31), False, ["0.15", "0.20", "0.25", "0.30"]),
    ((1, 3), True, ["1", "2", "3"]),
    ((-20, 15), False, ["-20", "-10", "0", "10"]),
    ((0, 2e6), False, ["0", "500,000", "1,000,000", "1,500,000", "2,000,000"])])
def test_round_ticks__by_eye(span, whole, texts):
    assert list(round_ticks(span, whole=whole).values()) == texts


def test_curves__run_through_their_points_within_the_limits():
    line = default_colours(1)[0]
    series = {"loss": [(0, 0.5), (1, math.nan), (2, 0.75), (math.inf, 5)]}
    figure = np.asarray(curves(series, "epoch", "loss", y_limits=(0, 1)))
    rows, cols = np.nonzero((figure[:-80] == line).all(-1))  # without the legend
    mark = 14  # px, of which half reaches beyond each end
    assert abs(np.ptp(cols) - mark - (1030 - 2 * 18)) < 3
    assert abs(np.ptp(rows) - mark - (560 - 2 * 18) / 4) < 3


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(1, math.nan)], "b": []}])
def test_curves__of_nothing_are_empty_axes(series):
    figure = curves(series, "epoch", "loss")
    plot = figure.crop((180, 80, 1180, 560))
    assert not any(has_colour(plot, colour) for colour in default_colours(2))


def test_curves__cut_no_text():
    series = {"a name of many words " * 8: [(0, 0), (1e6, 123456789)], "b": [(0, 5)]}
    figure = curves(series, "step", "loss, with a long explanation", "title " * 60)
    assert min(ink_box(figure)) >= 26


def test_curves__mark_an_epoch_and_weigh_discs():
    line, = default_colours(1)
    plain = curves({"a": [(0, 0.5), (10, 0.5)]}, "epoch", "loss")
    marked = curves({"a": [(0, 0.5), (10, 0.5)]}, "epoch", "loss", marks={5: "best"})
    changed = np.nonzero((np.asarray(plain) != np.asarray(marked)).any(-1))
    assert np.ptp(changed[0]) > 500
    discs = np.asarray(curves({"a": [(0, 0.5), (10, 0.5)]}, "epoch", "loss",
                              radii={"a": [5, 10]}))[:-80]
    rows, cols = np.nonzero((discs == line).all(-1))
    middle = (cols.min() + cols.max()) / 2
    areas = (cols < middle).sum(), (cols > middle).sum()
    assert areas[1] / areas[0] == pytest.approx(4, rel=0.15)
