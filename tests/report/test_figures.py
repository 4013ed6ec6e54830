"""Pictures: sizes, exact colours at known pixels, and a white rim, which cut text would touch."""

import pathlib
import warnings

import numpy as np
import pytest
from helpers import has_colour, ink_box
from PIL import Image

from report import figures
from sources.demo import DEMO

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
    prediction = np.array([[0, 1, 1]], np.uint8)
    shown = figures.error_map(prediction, np.array([[0, 0, 255]], np.uint8), BLUE)
    assert [tuple(pixel) for pixel in shown[0]] == [figures.RIGHT, BLUE, figures.IGNORED]


@pytest.mark.parametrize("colours", [[(210, 60, 50)], [(0, 0, 0), (250, 0, 0)],
                                     figures.default_colours(12)])
def test_error_colour__is_that_of_no_class(colours):
    assert colour_distances([*colours, figures.error_colour(colours)], None)[-1, :-1].min() > 25


# ---------------------------------------------------------------- palettes

COLOUR_BLIND = {  # Machado et al. 2009, table 1, severity 1.0, on linear light
    "red": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216),
            (-0.003882, -0.048116, 1.051998)],
    "green": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413),
              (-0.011820, 0.042940, 0.968881)]}
SRGB_TO_XYZ = [(0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
               (0.0193339, 0.1191920, 0.9503041)]


def colour_distances(colours, blind):
    """(K, K) CIE76 distances of colours 0..255 as a colour-blind person sees them; None: normal."""
    light = np.asarray(colours) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    if blind:
        light = (light @ np.transpose(COLOUR_BLIND[blind])).clip(0, 1)
    xyz = light @ np.transpose(SRGB_TO_XYZ) / (0.95047, 1, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    return np.linalg.norm(lab[:, None] - lab, axis=-1)


@pytest.mark.parametrize("blind", [None, "red", "green"])
@pytest.mark.parametrize("colours", [figures.default_colours(12), [row.rgb for row in DEMO]])
def test_palettes__all_pairs_are_told_apart(colours, blind):
    distances = colour_distances([*colours, figures.IGNORED], blind)
    assert distances[~np.eye(len(distances), dtype=bool)].min() >= 15


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
