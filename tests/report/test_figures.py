"""Pictures are checked by size, by exact colours at known pixels, and by a white rim: text that is cut touches it."""

import math
import pathlib
import warnings

import numpy as np
import pytest
from helpers import has_colour, ink_box
from PIL import Image

from report import figures

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


# ---------------------------------------------------------------- colours

def test_default_colours_differ_up_to_255_and_from_no_label():
    colours = figures.default_colours(255)
    assert len(set(colours)) == 255 and figures.IGNORED not in colours
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    assert figures.default_colours(3) == colours[:3] and figures.default_colours(0) == []


def seen_by(colour, matrix):
    """CIELAB of a colour as an eye described by matrix sees it."""
    share = np.asarray(colour) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = (matrix @ light).clip(0, 1)
    x, y, z = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x / 0.9505, y, z / 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("count, apart", [(8, 15), (12, 13), (23, 10)])
def test_default_colours_stay_apart_for_green_and_red_blind_eyes(count, apart):
    # Machado, Oliveira and Fernandes 2009, severity 1
    green_blind = np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])
    red_blind = np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]])
    for matrix in (np.eye(3), green_blind, red_blind):
        seen = [seen_by(colour, matrix) for colour in figures.default_colours(count)]
        distances = [np.linalg.norm(a - b) for n, a in enumerate(seen) for b in seen[:n]]
        assert min(distances) > apart


def test_shades_only_get_darker():
    assert (np.diff(figures.SHADES @ [0.2126, 0.7152, 0.0722]) < 1).all()  # less than a rounding step
    assert figures.SHADES[0].min() > 240 and figures.SHADES[-1].max() < 100


# ---------------------------------------------------------------- images and class maps

def test_to_rgb_passes_uint8_and_picks_bands():
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(figures.to_rgb(image, (2, 1, 0)), image[:, :, [2, 1, 0]])


@pytest.mark.parametrize("image, bands", [(np.full((2, 2, 2), 7, np.uint8), (1, 0, 1)),
                                          (np.full((2, 2, 5), 7, np.uint8), (3,))])
def test_to_rgb_shows_fewer_than_three_bands_as_grey(image, bands):
    image[:, :, bands[0]] = [[10, 20], [30, 40]]
    shown = figures.to_rgb(image, bands)
    assert shown.shape == (2, 2, 3) and np.array_equal(shown, np.repeat(image[:, :, bands[0], None], 3, 2))


def test_to_rgb_stretches_between_limits():
    image = np.array([[[0], [100], [150], [200], [999]]], np.uint16)
    assert figures.to_rgb(image, (0,), [(100, 200)])[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert figures.to_rgb(image.astype(np.uint8), (0,), [(0, 200)])[0, 3, 0] == 255  # uint8 too, where limits are given


def test_to_rgb_takes_percentiles_of_each_band_without_nan():
    image = np.stack([np.arange(101.0), 1000 * np.arange(101.0), np.full(101, np.nan)], 1)[None]  # (1, 101, 3)
    image[0, 50, 0] = np.nan
    image[0, 0, 1] = -3e38  # a nodata value must not upset the rest, nor warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = figures.to_rgb(image)
    assert shown[0, 0, 0] == 0 and shown[0, 100, 0] == 255 and shown[0, 50, 0] == 0
    assert abs(int(shown[0, 25, 0]) - 61) <= 2 and abs(int(shown[0, 25, 1]) - 61) <= 2  # (25 - 2) / 96 of 255
    assert not shown[:, :, 2].any()


def test_to_rgb_of_a_constant_band_is_black():
    assert not figures.to_rgb(np.full((2, 2, 3), 5, np.int16)).any()


def test_colour_map_and_ignore():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    assert figures.colour_map(labels, [RED, GREEN, BLUE]).tolist() == [[[*RED], [*GREEN]], [[*BLUE], [200, 200, 200]]]
    assert figures.colour_map(labels, [RED, GREEN, BLUE], ignore_colour=(1, 2, 3))[1, 1].tolist() == [1, 2, 3]
    assert figures.colour_map(labels * 0, [RED], ignore=0, ignore_colour=BLUE)[0, 0].tolist() == [*BLUE]
    with pytest.raises(ValueError, match="label 2 has no colour"):
        figures.colour_map(labels, [RED, GREEN])


def test_overlay_blends_and_leaves_unlabelled_pixels():
    rgb = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[0, 255]], np.uint8)
    assert figures.overlay(rgb, labels, [(200, 0, 100)]).tolist() == [[[150, 50, 100], [100, 100, 100]]]
    assert figures.overlay(rgb, labels, [(200, 0, 100)], alpha=1)[0, 0].tolist() == [200, 0, 100]
    assert (rgb == 100).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_points_have_a_disc_a_white_and_a_dark_rim(ground):
    rgb = np.full((41, 41, 3), ground, np.uint8)
    labels = np.full((41, 41), 255, np.uint8)
    labels[20, 20] = 1
    shown = figures.draw_points(rgb, labels, [RED, GREEN], size=3)
    assert [tuple(shown[20, 20 + right]) for right in (0, 3)] == [GREEN, GREEN]
    assert [tuple(shown[20 + down, 20]) for down in (4, 5, 6)] == [figures.PAPER, figures.INK, (ground,) * 3]
    assert (rgb == ground).all()


def test_points_at_the_edge_and_side_by_side_keep_their_colours():
    labels = np.full((20, 30), 255, np.uint8)
    labels[0, 0], labels[19, 29], labels[10, 10], labels[10, 14] = 0, 1, 0, 1
    shown = figures.draw_points(np.zeros((20, 30, 3), np.uint8), labels, [RED, GREEN])
    assert shown.shape == (20, 30, 3)
    assert all(tuple(shown[y, x]) == [RED, GREEN][labels[y, x]] for y, x in np.argwhere(labels != 255))
    nothing = np.full((20, 30), 255, np.uint8)
    assert not figures.draw_points(np.zeros((20, 30, 3), np.uint8), nothing, [RED]).any()


def test_error_map():
    shown = figures.error_map(np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8))
    assert [tuple(pixel) for pixel in shown[0]] == [figures.RIGHT, figures.WRONG, figures.IGNORED]


# ---------------------------------------------------------------- legends and panels

def test_with_legend_keeps_the_image_and_shows_every_colour():
    rgb = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    figure = figures.with_legend(rgb, [("water", RED), ("land", GREEN, "12.3 %")])
    assert np.array_equal(np.asarray(figure)[26:726, 26:626], rgb)
    assert all(has_colour(figure.crop((0, 726, figure.width, figure.height)), colour) for colour in (RED, GREEN))


def test_with_legend_grows_with_its_names_and_cuts_none():
    rgb = np.zeros((64, 64, 3), np.uint8)
    short, long = (figures.with_legend(rgb, [(name, RED)], "title") for name in ("a", "W" * 80))
    assert long.width > short.width + 1000
    assert ink_box(long)[0] >= 26 and ink_box(long)[2] >= 27
    words = figures.with_legend(rgb, [("many words " * 20, RED)])
    assert words.width < 700 and words.height > short.height + 100  # words wrap
    many = figures.with_legend(rgb, [(f"class {n}", colour) for n, colour in enumerate(figures.default_colours(23))])
    assert all(has_colour(many, colour) for colour in figures.default_colours(23))


def test_with_legend_of_nothing_is_the_image_in_its_rim():
    assert figures.with_legend(np.zeros((600, 600, 3), np.uint8), []).size == (652, 652)


def test_legend_text_grows_with_the_scene():
    figure = figures.with_legend(np.zeros((2400, 2400, 3), np.uint8), [("w", RED)])
    swatch = (np.asarray(figure) == RED).all(-1)
    assert swatch.any(0).sum() == swatch.any(1).sum() == 2400 // 48 - 2  # px, but for its frame


def test_accents_are_taken_off_rather_than_drawn_as_boxes():
    assert np.array_equal(figures._text("Forêt d'été"), figures._text("Foret d'ete"))


def test_stack_images():
    figure = figures.stack_images([Image.new("RGB", (10, 5), RED), Image.new("RGB", (20, 7), BLUE)], gap=3, margin=2)
    assert figure.size == (24, 19)
    found = [figure.getpixel(place) for place in ((2, 2), (2, 10), (13, 2), (2, 7))]
    assert found == [RED, BLUE, figures.PAPER, figures.PAPER]


def test_panel_grid_keeps_shape_and_exact_colours():
    labels = np.zeros((10, 20, 3), np.uint8) + np.array(RED, np.uint8)
    labels[:, 10:] = BLUE
    figure = np.asarray(figures.panel_grid([[labels]], ["truth"], cell=200))
    red, blue = (figure == RED).all(-1), (figure == BLUE).all(-1)
    for panel in (red, blue):  # each half of a picture of 200 x 100 px
        assert panel.sum() == 100 * 100 and panel.any(0).sum() == 100
    small = np.asarray(figures.panel_grid([[np.zeros((900, 300, 3), np.uint8)]], ["image"], cell=90))
    dark = (small == 0).all(-1)
    assert (dark.any(1).sum(), dark.any(0).sum()) == (90, 30)


def test_panel_grid_places_every_picture_title_and_legend_entry():
    colours = figures.default_colours(16)
    rows = [[np.full((8, 8, 3), colours[4 * row + column], np.uint8) for column in range(4)] for row in range(4)]
    titles = ["image", "points", "prediction", "a title so long that it must wrap"]
    figure = figures.panel_grid(rows, titles, [(f"class {n}", RED) for n in range(7)], ["best", "b", "c", "d"], cell=64)
    centres = [np.argwhere((np.asarray(figure) == colour).all(-1)).mean(0) for colour in colours]
    for n, (y, x) in enumerate(centres):
        assert n % 4 == 0 or x > centres[n - 1][1] + 64
        assert n < 4 or y > centres[n - 4][0] + 64
    assert has_colour(figure, RED) and min(ink_box(figure)) >= 26
    plain = figures.panel_grid(rows, titles, cell=64)
    assert plain.height < figure.height and not has_colour(plain, RED)


# ---------------------------------------------------------------- curves

@pytest.mark.parametrize("span, whole, texts", [
    ((0, 1), False, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ((0.13, 0.31), False, ["0.15", "0.20", "0.25", "0.30"]),
    ((1, 3), True, ["1", "2", "3"]),
    ((1, 40), True, ["10", "20", "30", "40"]),
    ((-20, 15), False, ["-20", "-10", "0", "10"]),
    ((0, 3e-4), False, ["0.00000", "0.00005", "0.00010", "0.00015", "0.00020", "0.00025", "0.00030"]),
    ((0, 2e6), False, ["0", "500,000", "1,000,000", "1,500,000", "2,000,000"])])
def test_ticks_are_round(span, whole, texts):
    assert list(figures._ticks(span, whole=whole).values()) == texts


def test_curve_runs_through_its_points():
    figure = np.asarray(figures.curves({"loss": [(0, 0), (50, 0), (100, 1)]}, "epoch", "loss"))
    line = (figure == figures.default_colours(1)[0]).all(-1)
    line[-80:] = False  # the legend
    rows, cols = np.nonzero(line)
    assert abs(cols.max() - cols.min() - (1030 - 2 * 18)) <= 14 and abs(rows.max() - rows.min() - (560 - 2 * 18)) <= 14
    middle = (cols.min() + cols.max()) // 2
    assert np.nonzero(line[:, middle])[0].max() > rows.max() - 14  # flat until half way


def test_curve_skips_nan_and_runs_on():
    gap = figures.curves({"a": [(0, 0), (1, math.nan), (2, 1), (math.inf, 5)]}, "x", "y")
    assert np.array_equal(gap, figures.curves({"a": [(0, 0), (2, 1)]}, "x", "y"))


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(1, math.nan)], "b": []}])
def test_curves_of_nothing_are_empty_axes(series):
    figure = figures.curves(series, "epoch", "loss")
    plot = figure.crop((180, 80, 1180, 560))
    assert figure.width > 1000 and not any(has_colour(plot, colour) for colour in figures.default_colours(2))


def test_a_single_point_can_be_seen():
    figure = np.asarray(figures.curves({"long": [(x, 0) for x in range(100)], "one": [(50, 1)]}, "x", "y"))[:-120]
    assert (figure == figures.default_colours(2)[1]).all(-1).sum() > 100


def test_y_limits_hold():
    figure = np.asarray(figures.curves({"a": [(0, 0.5), (1, 0.75)]}, "x", "y", y_limits=(0, 1)))
    rows = np.nonzero((figure[:-80] == figures.default_colours(1)[0]).all(-1))[0]
    assert abs(np.ptp(rows) - 14 - 0.25 * (560 - 2 * 18)) < 3  # a quarter of the axis, and half a mark at each end


def test_curves_cut_no_text():
    series = {"a name of many words " * 8: [(0, 0), (1e6, 123456789)], "b": [(0, 5)]}
    figure = figures.curves(series, "step", "loss, with a long explanation of its unit", "title " * 60)
    left, top, right, bottom = ink_box(figure)
    assert left >= 26 and min(top, right, bottom) >= 27
    assert ink_box(figure.crop((0, 0, figure.width, 800)))[0] >= 27  # without the legend, whose swatches touch the rim


# ---------------------------------------------------------------- matrices

NAMES = [f"class number {n}" for n in range(22)] + ["agricultural and horticultural land under glass"]


@pytest.mark.parametrize("names", [["all"], ["water", "land"], NAMES], ids=["1", "2", "23"])
def test_confusion_figure_is_whole_for_any_number_of_classes(names):
    counts = np.random.default_rng(0).integers(1, 1000, (len(names),) * 2)
    figure = figures.confusion_figure(counts, names, "Confusion on the test tiles")
    assert min(ink_box(figure)) >= 27
    longer = figures.confusion_figure(counts, names[:-1] + [names[-1] + " and more besides"])
    assert longer.width > figures.confusion_figure(counts, names).width


def cell_colours(figure, rows, columns):
    """The colour in the corner of each cell, found by the dark cell at the top left."""
    pixels = np.asarray(figure)
    dark = np.argwhere((pixels == figures.SHADES[255]).all(-1))
    top, left = dark.min(0)
    return [[tuple(pixels[top + 3 + 100 * row, left + 3 + 150 * column]) for column in range(columns)]
            for row in range(rows)]


def test_confusion_is_in_shares_of_each_true_class():
    found = cell_colours(figures.confusion_figure([[9, 0, 0], [3, 3, 0], [0, 0, 2]], ["a", "b", "c"]), 3, 3)
    full, half, none = (tuple(figures.SHADES[n]) for n in (255, 128, 0))
    assert found == [[full, none, none], [half, half, none], [none, none, full]]


def test_confusion_row_without_truth_is_hatched_not_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.confusion_figure([[5, 0], [0, 0]], ["a", "b"])
    found = cell_colours(figure, 2, 2)
    assert found[0][1] == tuple(figures.SHADES[0]) and set(found[1]) <= {figures.GRID, figures.FAINT}


def test_heat_map_colours_lowest_highest_and_missing():
    figure = figures.heat_map([[0.9, 0.1], [math.nan, 0.5]], ["1e-3", "1e-2"], ["16", "32"], "lr", "batch", "mIoU")
    found = cell_colours(figure, 2, 2)
    high, low, middle = (tuple(figures.SHADES[n]) for n in (255, 0, 128))
    assert found[0] == [high, low] and found[1][1] == middle and found[1][0] in (figures.GRID, figures.FAINT)
    assert min(ink_box(figure)) >= 27


@pytest.mark.parametrize("values", [[[0.8]], [[math.nan]], [[0.51, 0.59]], [[-1e6, 1e6, 3]], [[0.0], [0.0]]])
def test_heat_map_of_odd_values(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.heat_map(values, ["row"] * len(values), ["a"] * len(values[0]), "a long row label",
                                  "a column label of many more words than cells")
    assert min(ink_box(figure)) >= 27


def test_column_names_of_short_words_wrap_and_long_words_are_turned():
    wrapped, turned = (figures.heat_map([[1]], ["a"], [name], "r", "c", "title").height
                       for name in ("one two three four", "onetwothreefour"))
    assert wrapped < turned - 50


def test_heat_map_shows_its_title():
    plain, titled = (figures.heat_map([[1]], ["a"], ["b"], "r", "c", title) for title in (None, "mean IoU"))
    assert titled.height > plain.height + 30


def test_heat_map_cells_grow_with_their_texts():
    narrow, wide = (figures.heat_map([[1, 2]], ["a"], ["b", "c"], "r", "c", text=[[text, ""]])
                    for text in ("1", "0.8123 +- 0.0123\nof 3 seeds"))
    assert wide.width > narrow.width + 100


# ---------------------------------------------------------------- files

def test_save_png_round_trip(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for name, image in (("array.png", rgb), ("image.png", Image.fromarray(rgb)), ("grey.png", rgb[:, :, 0])):
        figures.save_png(image, tmp_path / name)
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), np.asarray(image))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["array.png", "grey.png", "image.png"]


def test_save_png_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    figures.save_png(np.zeros((2, 2, 3), np.uint8), path)
    before = path.read_bytes()

    def half(self, target, *args, **kwargs):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        figures.save_png(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not (DATA / "roads").is_dir(), reason="real images are not here")
def test_points_are_seen_on_a_real_image():
    rgb = np.asarray(Image.open(next((DATA / "roads" / "images").glob("*.png"))).convert("RGB"))
    labels = np.full(rgb.shape[:2], 255, np.uint8)
    labels[::80, ::80] = 3
    shown = figures.draw_points(rgb, labels, figures.default_colours(4))
    assert (shown[labels == 3] == figures.default_colours(4)[3]).all()
    assert not has_colour(rgb, figures.default_colours(4)[3])
