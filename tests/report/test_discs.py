"""Points on an image: their colours, rims, crosses and numbers at known pixels."""

import numpy as np
import pytest

from report.discs import draw_numbers, draw_points, enlarged_points

RED, GREEN = (255, 0, 0), (0, 255, 0)
DARK, WHITE = (30, 30, 30), (255, 255, 255)


@pytest.mark.parametrize("background", [0, 255])
def test_draw_points__has_a_disc_a_white_and_a_dark_rim(background):
    rgb = np.full((41, 41, 3), background, np.uint8)
    labels = np.full((41, 41), 255, np.uint8)
    labels[20, 20] = 1
    shown = draw_points(rgb, labels, [RED, GREEN], size=3)
    column = [tuple(shown[20 + down, 20]) for down in (0, 3, 4, 5, 6)]
    assert column == [GREEN, GREEN, WHITE, DARK, (background,) * 3]


def test_draw_points__at_the_edge_and_side_by_side_keep_their_colours():
    labels = np.full((20, 30), 255, np.uint8)
    labels[0, 0] = labels[10, 10] = 0
    labels[19, 29] = labels[10, 14] = 1
    shown = draw_points(np.zeros((20, 30, 3), np.uint8), labels, [RED, GREEN], size=3)
    for row, col in np.argwhere(labels != 255):
        assert tuple(shown[row, col]) == [RED, GREEN][labels[row, col]]


def test_draw_points__wrong_ones_are_crossed_and_have_no_white_rim():
    labels = np.full((41, 41), 255, np.uint8)
    labels[20, 20] = 1
    shown = draw_points(np.zeros((41, 41, 3), np.uint8), labels, [RED, GREEN], size=6,
                        wrong=labels == 1)
    row = [tuple(shown[20, 20 + right]) for right in (0, 6, 7, 8, 9)]
    assert row == [GREEN, GREEN, DARK, DARK, (0, 0, 0)]
    assert tuple(shown[20 + 8, 20 + 8]) == tuple(shown[20 - 8, 20 + 8]) == WHITE


def test_enlarged_points__keep_their_places():
    labels = np.full((8, 8), 255, np.uint8)
    labels[1, 6] = 0
    shown = enlarged_points(np.zeros((8, 8, 3), np.uint8), labels, [RED])
    assert shown.shape == (256, 256, 3)
    rows, cols = np.nonzero((shown == RED).all(-1))
    assert (rows.mean() // 32, cols.mean() // 32) == (1, 6)


def test_draw_numbers__stand_beside_their_points_within_the_image():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    shown = draw_numbers(rgb, [30, 30], [10, 195], size=20)
    cols = np.nonzero((shown != 90).any((0, 2)))[0]
    assert cols.min() > 10
    assert cols.max() < 195
