"""Overviews show a map in the very colours of its legend."""

import numpy as np
import pytest

from report.figures import default_colours
from report.overviews import map_overview, points_overview


@pytest.mark.parametrize("shape", [(60, 90), (40, 200)])
def test_map_overview__pixels_of_each_class_are_nearest_to_their_own_swatch(shape):
    random = np.random.default_rng(0)
    classes = random.integers(0, 12, shape).astype(np.uint8)
    classes[0] = 255
    rgb = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    meta = {"classes": [f"class {k}" for k in range(12)], "colours": default_colours(12)}
    counts = np.bincount(classes.ravel(), minlength=256)
    picture = np.asarray(map_overview(rgb, classes, meta, counts, "scene")).astype(int)
    row, col = find(picture, rgb)
    beside = (row, col + shape[1] + 12) if shape[1] <= 2 * shape[0] else (row + shape[0] + 12, col)
    shown = picture[beside[0]:beside[0] + shape[0], beside[1]:beside[1] + shape[1]]
    distances = abs(shown[:, :, None] - np.array(meta["colours"])).sum(-1)  # (h, w, 12)
    is_nearest = distances.argmin(-1) == classes
    for k in range(12):
        assert is_nearest[classes == k].mean() >= 0.95


def find(picture, part):
    """(row, col) at which a picture contains a part."""
    height, width = part.shape[:2]
    for row, col in np.argwhere((picture == part[0, 0]).all(-1)):
        if np.array_equal(picture[row:row + height, col:col + width], part):
            return row, col
    raise AssertionError("not in the picture")


def test_points_overview__of_a_small_scene_is_enlarged():
    meta = {"classes": ["a", "b"], "colours": [(255, 0, 0), (0, 0, 255)]}
    picture = points_overview(np.full((30, 40, 3), 90, np.uint8), [3, 20], [4, 30], [0, 1], meta,
                              "scene")
    assert picture.width > 500
