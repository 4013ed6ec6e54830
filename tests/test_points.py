"""Points are a pure function of (seed, tile index), nested and uniform."""

import numpy as np
import pytest

from data import choose_points, point_labels


def dense(side=16, classes=4):
    return np.random.default_rng(3).integers(0, classes, (side, side)).astype(np.uint8)


@pytest.mark.parametrize("per", ["image", "class"])
def test_the_same_call_gives_the_same_points(per):
    assert np.array_equal(point_labels(dense(), 5, 7, 2, per), point_labels(dense(), 5, 7, 2, per))


@pytest.mark.parametrize("per", ["image", "class"])
def test_points_are_nested(per):
    few, many = (set(choose_points(dense(), k, 1, 0, per).tolist()) for k in (5, 20))
    assert few < many


def test_seeds_and_tiles_have_points_of_their_own():
    draws = {
        tuple(sorted(choose_points(dense(), 5, seed, index)))
        for seed in range(4)
        for index in range(4)
    }
    assert len(draws) == 16


def test_a_map_in_another_memory_order_has_its_points_too():
    for labels in (dense().T, np.asfortranarray(dense()), np.rot90(dense())):
        assert np.array_equal(
            point_labels(labels, 5, 0, 0), point_labels(labels.copy(order="C"), 5, 0, 0)
        )
        assert (point_labels(labels, 5, 0, 0) != 255).sum() == 5


def test_kept_labels_are_the_true_ones_and_exactly_k():
    labels = dense()
    kept = point_labels(labels, 20, 0, 0)
    assert kept.dtype == np.uint8 and kept.shape == labels.shape
    assert (kept != 255).sum() == 20 and np.array_equal(kept[kept != 255], labels[kept != 255])


def test_choose_points__keep_no_more_in_memory_than_themselves():
    """A slice of the shuffle would keep all of it: half a megabyte per tile of 256 px."""
    for per in ("image", "class"):
        chosen = choose_points(dense(), 5, 0, 0, per)
        assert chosen.base is None or chosen.base.size == chosen.size


def test_unlabelled_pixels_are_never_drawn():
    labels = dense()
    labels[:, 4:] = 255
    assert (point_labels(labels, 1000, 0, 0) != 255).sum() == 16 * 4
    assert len(choose_points(np.full((4, 4), 255, np.uint8), 5, 0, 0)) == 0
    assert len(choose_points(np.full((4, 4), 255, np.uint8), 5, 0, 0, "class")) == 0


def test_per_class_draws_k_of_every_class_present():
    labels = np.full((8, 8), 255, np.uint8)
    labels[0], labels[1, :3] = 2, 0
    kept = point_labels(labels, 5, 0, 0, "class")
    assert (kept == 2).sum() == 5 and (kept == 0).sum() == 3  # all there are


def test_points_are_uniform_over_the_labelled_pixels():
    labels = np.zeros((4, 4), np.uint8)
    labels[0] = 255
    hits = np.bincount(
        np.concatenate([choose_points(labels, 3, 0, index) for index in range(4000)]), minlength=16
    )
    assert hits[:4].sum() == 0
    assert np.all(np.abs(hits[4:] - 1000) < 4 * np.sqrt(1000))  # twelve pixels, four deviations


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="-1 points"):
        choose_points(dense(), -1, 0, 0)
    with pytest.raises(ValueError, match="choose image or class"):
        choose_points(dense(), 1, 0, 0, "tile")
