"""Pictures: sizes, exact colours at known pixels, and a white rim, which cut text would touch."""

import math
import pathlib
import warnings

import numpy as np
import pytest
from helpers import has_colour, ink_box
from PIL import Image

from report import figures

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
DARK, WHITE = (30, 30, 30), (255, 255, 255)


def colour_count(figure, colour):
    return int((np.asarray(figure) == colour).all(-1).sum())


# ---------------------------------------------------------------- colours, images, class maps

def test_default_colours__are_all_different_and_none_is_that_of_no_label():
    colours = figures.default_colours(255)
    assert len(set(colours)) == 255
    assert figures.IGNORED not in colours
    assert figures.default_colours(3) == colours[:3]


def test_to_rgb__uint8_stays_and_bands_are_picked():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(figures.to_rgb(image, (2, 1, 0)), image[:, :, [2, 1, 0]])
    grey = figures.to_rgb(image, (3,))
    assert np.array_equal(grey, np.repeat(image[:, :, 3:], 3, 2))


def test_to_rgb__stretches_between_limits():
    image = np.array([[[0], [100], [150], [200], [999]]], np.uint16)
    assert figures.to_rgb(image, (0,), [(100, 200)])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_to_rgb__percentiles_leave_nan_and_nodata_out():
    ramp = np.arange(101.0)
    image = np.stack([ramp, 1000 * ramp, np.full(101, np.nan)], 1)[None]  # (1, 101, 3)
    image[0, 50, 0] = np.nan
    image[0, 0, 1] = -3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = figures.to_rgb(image)
    assert shown[0, [0, 50, 100], 0].tolist() == [0, 0, 255]
    assert abs(shown[0, 25].astype(int) - [61, 61, 0]).max() <= 2  # (25 - 2) / 96 of 255


def test_colour_map__shows_classes_and_refuses_ids_without_colour():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    shown = figures.colour_map(labels, [RED, GREEN, BLUE])
    assert shown.tolist() == [[[*RED], [*GREEN]], [[*BLUE], [*figures.IGNORED]]]
    with pytest.raises(ValueError, match="label 2"):
        figures.colour_map(labels, [RED, GREEN])


def test_error_map__right_wrong_and_no_truth():
    shown = figures.error_map(np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8))
    assert [tuple(pixel) for pixel in shown[0]] == [figures.RIGHT, figures.WRONG, figures.IGNORED]


@pytest.mark.parametrize("background", [0, 255])
def test_draw_points__has_a_disc_a_white_and_a_dark_rim(background):
    rgb = np.full((41, 41, 3), background, np.uint8)
    labels = np.full((41, 41), 255, np.uint8)
    labels[20, 20] = 1
    shown = figures.draw_points(rgb, labels, [RED, GREEN], size=3)
    column = [tuple(shown[20 + down, 20]) for down in (0, 3, 4, 5, 6)]
    assert column == [GREEN, GREEN, WHITE, DARK, (background,) * 3]


def test_draw_points__at_the_edge_and_side_by_side_keep_their_colours():
    labels = np.full((20, 30), 255, np.uint8)
    labels[0, 0] = labels[10, 10] = 0
    labels[19, 29] = labels[10, 14] = 1
    shown = figures.draw_points(np.zeros((20, 30, 3), np.uint8), labels, [RED, GREEN])
    for row, col in np.argwhere(labels != 255):
        assert tuple(shown[row, col]) == [RED, GREEN][labels[row, col]]


# ---------------------------------------------------------------- legends, panels, curves

def test_with_legend__keeps_the_image_and_shows_every_colour():
    rgb = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    colours = figures.default_colours(23)
    figure = figures.with_legend(rgb, [(f"class {n}", c, "1 %") for n, c in enumerate(colours)])
    assert np.array_equal(np.asarray(figure)[26:726, 26:626], rgb)
    below = figure.crop((0, 726, figure.width, figure.height))
    assert all(has_colour(below, colour) for colour in colours)


def test_panel_grid__places_every_picture_title_and_legend_entry():
    colours = figures.default_colours(16)
    rows = []
    for row in range(4):
        rows.append([np.full((8, 8, 3), colours[4 * row + n], np.uint8) for n in range(4)])
    titles = ["image", "points", "prediction", "a title so long that it must wrap"]
    figure = figures.panel_grid(rows, titles, [(f"class {n}", RED) for n in range(7)],
                                ["best", "b", "c", "d"], cell=64)
    for n, colour in enumerate(colours):
        assert colour_count(figure, colour) == 64 * 64, n
    assert has_colour(figure, RED)
    assert min(ink_box(figure)) >= 26


@pytest.mark.parametrize("span, whole, texts", [
    ((0.13, 0.31), False, ["0.15", "0.20", "0.25", "0.30"]),
    ((1, 3), True, ["1", "2", "3"]),
    ((-20, 15), False, ["-20", "-10", "0", "10"]),
    ((0, 2e6), False, ["0", "500,000", "1,000,000", "1,500,000", "2,000,000"])])
def test_round_ticks__by_eye(span, whole, texts):
    assert list(figures.round_ticks(span, whole=whole).values()) == texts


def test_curves__run_through_their_points_within_the_limits():
    line = figures.default_colours(1)[0]
    series = {"loss": [(0, 0.5), (1, math.nan), (2, 0.75), (math.inf, 5)]}
    figure = np.asarray(figures.curves(series, "epoch", "loss", y_limits=(0, 1)))
    rows, cols = np.nonzero((figure[:-80] == line).all(-1))  # without the legend
    mark = 14  # px, of which half reaches beyond each end
    assert abs(np.ptp(cols) - mark - (1030 - 2 * 18)) < 3
    assert abs(np.ptp(rows) - mark - (560 - 2 * 18) / 4) < 3


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(1, math.nan)], "b": []}])
def test_curves__of_nothing_are_empty_axes(series):
    figure = figures.curves(series, "epoch", "loss")
    plot = figure.crop((180, 80, 1180, 560))
    assert not any(has_colour(plot, colour) for colour in figures.default_colours(2))


def test_curves__cut_no_text():
    series = {"a name of many words " * 8: [(0, 0), (1e6, 123456789)], "b": [(0, 5)]}
    figure = figures.curves(series, "step", "loss, with a long explanation", "title " * 60)
    assert min(ink_box(figure)) >= 26


# ---------------------------------------------------------------- files

def test_save_png__round_trip(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for image in (rgb, Image.fromarray(rgb), rgb[:, :, 0]):
        figures.save_png(image, tmp_path / "a.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(image))
    assert len(list(tmp_path.iterdir())) == 1


def test_save_png__that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    figures.save_png(np.zeros((2, 2, 3), np.uint8), path)
    before = path.read_bytes()

    def half(self, target, *args, **kwargs):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError):
        figures.save_png(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
