"""Statistics of tiles small enough to count by eye."""

import math

import numpy as np
import pytest
import torch

from report.stats import (
    NUM_BINS, EvalStats, contiguous_blocks, mean_iou, near_boundary)

TRUTH = torch.tensor([[[0, 0, 0], [1, 1, 255], [0, 1, 255]],
                      [[1, 1, 1], [1, 1, 1], [1, 1, 1]]], dtype=torch.uint8)
GUESS = torch.tensor([[[0, 0, 1], [1, 1, 0], [0, 0, 2]],
                      [[1, 1, 1], [1, 1, 1], [1, 1, 0]]], dtype=torch.uint8)


def logits_of(guess, classes, odds):
    """Logits whose largest softmax probability is odds / (odds + classes - 1), at the guess."""
    one_hot = torch.nn.functional.one_hot(guess.long(), classes)
    return one_hot.permute(0, 3, 1, 2).float() * math.log(odds)


def stats_of(guess, truth, classes, odds=8.0):
    """EvalStats of one batch, each tile a block."""
    stats = EvalStats(classes, range(len(guess)))
    stats.update(0, logits_of(guess, classes, odds), guess, truth)
    return stats


# ---------------------------------------------------------------- counts

@pytest.mark.parametrize("batch_size", [1, 2])
def test_update__counts_by_hand_however_batches_fall(batch_size):
    stats = EvalStats(3, [0, 1])
    for start in range(0, 2, batch_size):
        batch = slice(start, start + batch_size)
        stats.update(start, logits_of(GUESS[batch], 3, 8.0), GUESS[batch], TRUTH[batch])
    assert stats.counts[0].tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert stats.counts[1].tolist() == [[0, 0, 0], [1, 8, 0], [0, 0, 0]]
    assert stats.tiles[0].tolist() == [7, 5, pytest.approx((3 / 5 + 2 / 4) / 2)]
    assert stats.tiles[1].tolist() == [9, 8, pytest.approx((0 + 8 / 9) / 2)]


def test_update__tiles_of_one_block_share_a_matrix():
    stats = EvalStats(3, [0, 0])
    stats.update(0, logits_of(GUESS, 3, 8.0), GUESS, TRUTH)
    assert stats.counts.tolist() == [[[3, 1, 0], [2, 10, 0], [0, 0, 0]]]


def test_update__tiles_without_labels_count_for_nothing():
    guess = torch.zeros(1, 3, 3, dtype=torch.uint8)
    stats = stats_of(guess, torch.full_like(guess, 255), 2)
    assert stats.counts.sum() == 0
    assert stats.tiles[0, 0] == 0
    assert math.isnan(stats.tiles[0, 2])
    assert math.isnan(stats.calibration_error())


def test_update__255_classes():
    labels = torch.arange(255, dtype=torch.uint8).reshape(1, 15, 17)
    stats = stats_of(labels, labels, 255)
    assert torch.equal(stats.counts[0], torch.eye(255, dtype=torch.int64))
    assert torch.equal(stats.boundary_confusion, stats.counts[0])


def test_mean_iou__of_many_matrices_is_over_the_classes_there():
    counts = torch.tensor([[[3, 1, 0], [1, 2, 0], [0, 0, 0]],
                           [[0, 0, 0], [0, 5, 0], [0, 0, 0]],
                           [[0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    first, second, nothing = mean_iou(counts).tolist()
    assert first == pytest.approx(0.55)
    assert second == 1.0
    assert math.isnan(nothing)


# ---------------------------------------------------------------- boundaries

def test_near_boundary__reaches_equally_far_on_either_side():
    labels = torch.zeros(1, 5, 12, dtype=torch.uint8)
    labels[:, :, 6:] = 1
    expected = [[False] * 3 + [True] * 6 + [False] * 3] * 5
    assert near_boundary(labels, 3)[0].tolist() == expected
    assert not near_boundary(labels * 0, 3).any()


def test_near_boundary__to_no_label_is_none():
    labels = torch.zeros(1, 4, 9, dtype=torch.uint8)
    labels[:, :, 4:] = 255
    assert not near_boundary(labels, 3).any()
    labels[:, :, 6:] = 1  # two unlabelled columns lie between the classes
    near = near_boundary(labels, 3)[0]
    assert near.any(0).nonzero().flatten().tolist() == [3, 6]


def test_near_boundary__against_every_pair_of_pixels():
    classes = np.array([0, 0, 0, 0, 7, 255], np.uint8)
    labels = torch.from_numpy(np.random.default_rng(0).choice(classes, (2, 9, 11)))
    near = near_boundary(labels, 2)
    for tile, row, col in np.ndindex(2, 9, 11):
        window = labels[tile, max(0, row - 2):row + 3, max(0, col - 2):col + 3]
        own = labels[tile, row, col]
        has_other = ((window != own) & (window != 255)).any()
        assert near[tile, row, col] == bool(own != 255 and has_other)


def test_update__near_a_boundary_and_beyond():
    truth = torch.zeros(1, 4, 12, dtype=torch.uint8)
    truth[:, :, 6:] = 1
    guess = truth.clone()
    guess[:, :, 5] = 1  # one column of the six near the boundary is wrong
    stats = stats_of(guess, truth, 2)
    assert stats.boundary_confusion.tolist() == [[8, 4], [0, 12]]
    assert (stats.counts[0] - stats.boundary_confusion).tolist() == [[12, 0], [0, 12]]


# ---------------------------------------------------------------- calibration

def test_calibration_error__by_eye():
    stats = stats_of(GUESS, TRUTH, 3, odds=8.0)  # 80 % confidence, right in 13 of 16 pixels
    assert stats.calibration_error() == pytest.approx(abs(13 / 16 - 0.8))
    pixels, right, confidence = stats.calibration_bins
    assert pixels.nonzero().flatten().tolist() == [int(0.8 * NUM_BINS)]
    assert pixels.sum() == 16
    assert right.sum() == 13
    assert confidence.sum() == pytest.approx(16 * 0.8)


def test_calibration_error__errors_of_two_bins_do_not_cancel():
    guess = torch.zeros(2, 1, 10, dtype=torch.uint8)
    truth = guess.clone()
    truth[0, 0, :5] = 1  # right in 5 of 10 pixels at 90 % confidence, in all 10 at 50 %
    logits = torch.cat([logits_of(guess[:1], 2, 9.0), torch.zeros(1, 2, 1, 10)])
    stats = EvalStats(2, [0, 0])
    stats.update(0, logits, guess, truth)
    assert stats.calibration_error() == pytest.approx((0.4 + 0.5) / 2)


def test_calibration_bins__full_confidence_is_in_the_last():
    guess = torch.zeros(1, 2, 2, dtype=torch.uint8)
    stats = stats_of(guess, guess, 2, odds=1e30)
    assert stats.calibration_bins[0, -1] == 4
    assert stats.calibration_error() == 0


# ---------------------------------------------------------------- blocks

def test_contiguous_blocks__are_tiles_that_touch_in_one_scene():
    positions = [("b", 0, 0), ("a", 0, 0), ("b", 8, 8), ("a", 0, 8), ("a", 0, 24), ("b", 40, 0),
                 ("a", 6, 14)]
    # In b two touch at a corner. In a the last overlaps the one at column 8, and the one at
    # column 24 is 2 px off.
    assert contiguous_blocks(positions, 8).tolist() == [0, 1, 0, 1, 2, 3, 1]


def test_contiguous_blocks__hold_all_scenes_of_a_site():
    positions = [("spring", 0, 0), ("autumn", 0, 0), ("spring", 0, 24), ("autumn", 0, 24),
                 ("x", 0, 0), ("autumn", 40, 0)]
    assert contiguous_blocks(positions, 8).tolist() == [0, 1, 2, 3, 4, 5]
    site_of = {"spring": "here", "autumn": "here"}
    assert contiguous_blocks(positions, 8, site_of).tolist() == [0, 0, 1, 1, 2, 3]
    assert contiguous_blocks(positions, 8, {"autumn": "spring"}).tolist() == [0, 0, 1, 1, 2, 3]


def test_contiguous_blocks__a_long_chain_is_one():
    assert contiguous_blocks([("a", 0, 8 * n) for n in range(500)], 8).tolist() == [0] * 500
