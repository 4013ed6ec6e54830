"""Points to label next: random, apart from each other, on data, the same in any row blocks."""

import numpy as np
import pytest

from weak.suggest import RandomPoints


def points_of(classes, count, cuts=(), seed=0):
    points = RandomPoints(*classes.shape, count, seed)
    for top, end in zip([0, *cuts], [*cuts, len(classes)]):
        points.add(top, classes[top:end])
    return np.stack(points.choose())  # (3, N)


@pytest.mark.parametrize("cuts", [(), (1, 41, 77)])
def test_random_points__are_apart_on_data_and_of_the_map_s_class(cuts):
    classes = np.random.default_rng(0).integers(0, 3, (100, 130)).astype(np.uint8)
    classes[:, 100:] = 255
    rows, cols, found = points_of(classes, 8, cuts)
    assert len(rows) == 8
    assert cols.max() < 100
    distances = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
    assert distances[~np.eye(8, dtype=bool)].min() >= 16
    assert np.array_equal(found, classes[rows, cols])


def test_random_points__depend_on_the_seed_and_not_on_the_blocks():
    classes = np.zeros((100, 130), np.uint8)
    points = points_of(classes, 8)
    assert np.array_equal(points, points_of(classes, 8, cuts=(1, 41, 77)))
    assert not np.array_equal(points, points_of(classes, 8, seed=1))


def test_random_points__no_more_than_there_is_room_for():
    assert 4 <= points_of(np.zeros((40, 40), np.uint8), 50).shape[1] <= 9  # corners, middles
    assert points_of(np.zeros((9, 9), np.uint8), 3).shape == (3, 1)
    assert points_of(np.full((9, 9), 255, np.uint8), 3).shape == (3, 0)


def test_random_points__all_places_are_as_likely():
    scene = np.zeros((64, 64), np.uint8)
    rows, cols, _ = np.concatenate([points_of(scene, 1, seed=seed) for seed in range(400)], 1)
    for places in (rows, cols):
        assert np.bincount(places // 16) == pytest.approx([100] * 4, abs=35)  # four deviations
