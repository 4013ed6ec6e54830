"""Points to label next: drawn by uncertainty, apart from each other, block by block."""

import numpy as np
import pytest
import torch

from weak.suggest import Candidates, gumbel_scores, margin_uncertainty, suggest_points


def two_classes(sure):
    """(2, H, W) probabilities; sure (H, W) is that of the first class."""
    sure = torch.as_tensor(sure, dtype=torch.float64)
    return torch.stack([sure, 1 - sure])


def test_uncertainty_by_hand():
    flat = torch.tensor([0.5, 0.3, 0.2])[None, :, None, None].expand(1, 3, 4, 4)
    assert torch.allclose(
        margin_uncertainty(flat), torch.tensor(0.8)
    )  # 1 - (0.5 - 0.3), also at the corners
    assert torch.allclose(margin_uncertainty(flat.flip(1)), torch.tensor(0.8))
    assert torch.allclose(margin_uncertainty(torch.full((1, 4, 3, 3), 0.25)), torch.tensor(1.0))
    line = torch.ones(1, 9)
    line[0, 4] = 0.5
    doubt = margin_uncertainty(two_classes(line)[None])[0, 0].tolist()
    assert (
        doubt[4] == pytest.approx(1 / 5) and doubt[2] == pytest.approx(1 / 5) and doubt[1] == 0
    )  # over five px
    assert (
        margin_uncertainty(torch.ones(1, 1, 5, 5)).tolist() == torch.zeros(1, 5, 5).tolist()
    )  # one class only


def test_pixels_are_drawn_in_proportion_to_their_doubt():
    doubt = np.array([[0.1, 0.2, 0.7, -np.inf]])
    first = [int(gumbel_scores(doubt, seed).argmax()) for seed in range(2000)]
    assert np.bincount(first) / 2000 == pytest.approx(
        [0.1, 0.2, 0.7], abs=0.03
    )  # three deviations of a share
    assert (
        gumbel_scores(doubt).tolist()
        == gumbel_scores(doubt).tolist()
        != gumbel_scores(doubt, seed=1).tolist()
    )
    rest = [
        int(gumbel_scores(doubt, seed)[0, :2].argmax()) for seed in range(2000) if first[seed] == 2
    ]
    assert np.mean(rest) == pytest.approx(
        2 / 3, abs=0.04
    )  # and what is drawn next, among those that are left


def test_a_network_that_is_sure_of_everything_has_its_pixels_drawn_alike():
    first = [int(gumbel_scores(np.zeros((2, 2)), seed).argmax()) for seed in range(1000)]
    assert np.bincount(first) / 1000 == pytest.approx([0.25] * 4, abs=0.05)


def test_the_doubtful_half_of_a_tile_gets_most_points():
    sure = np.full((64, 64), 0.95)  # a doubt of 0.1
    sure[:, 32:] = 0.55  # of 0.9
    cols = np.concatenate(
        [suggest_points(two_classes(sure), 4, seed=seed) % 64 for seed in range(100)]
    )
    assert 0.8 < (cols >= 32).mean() < 0.95


def test_points_keep_their_distance_also_from_those_taken():
    sure = np.random.default_rng(0).random((48, 64))
    taken = np.array([20 * 64 + 60, 5 * 64 + 10])
    positions = suggest_points(two_classes(sure), 6, taken, distance=9)
    assert positions.dtype == np.int64 and len(positions) == 6
    rows, cols = np.divmod(np.concatenate([taken, positions]), 64)
    assert (np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 99 * np.eye(8)).min() >= 9
    assert suggest_points(two_classes(sure), 6, taken, distance=9).tolist() == positions.tolist()
    assert (
        suggest_points(two_classes(sure), 4, taken, distance=9).tolist() == positions[:4].tolist()
    )
    assert (
        suggest_points(two_classes(sure), 6, taken, distance=9, seed=1).tolist()
        != positions.tolist()
    )


def test_only_where_points_may_lie_and_no_more_than_there_is_room_for():
    where = np.zeros((30, 30), bool)
    where[3:5, 7:25] = True
    positions = suggest_points(
        two_classes(np.random.default_rng(0).random((30, 30))), 50, distance=4, where=where
    )
    assert 3 <= len(positions) <= 6 and where.reshape(-1)[positions].all()
    assert (
        suggest_points(two_classes(np.ones((5, 5))), 3, where=np.zeros((5, 5), bool)).tolist() == []
    )
    assert len(suggest_points(two_classes(np.ones((5, 5))), 3, distance=100)) == 1


@pytest.mark.parametrize("cuts", [[], [8], [16, 40, 88]])
def test_a_scene_in_strips_yields_the_same_points(cuts):
    random = np.random.default_rng(0)
    doubt, classes = random.random((100, 130)), random.integers(0, 3, (100, 130)).astype(np.uint8)
    doubt[:, 129] = -np.inf
    candidates = Candidates(100, 130, distance=16)
    for top, end in zip([0, *cuts], [*cuts, 100]):
        candidates.add(top, doubt[top:end], classes[top:end])
    rows, cols, found = candidates.choose(4)
    highest = np.unravel_index(gumbel_scores(doubt).argmax(), doubt.shape)
    assert (rows[0], cols[0]) == highest and found.tolist() == classes[rows, cols].tolist()
    whole = Candidates(100, 130, distance=16)
    whole.add(0, doubt, classes)
    assert [column.tolist() for column in whole.choose(4)] == [
        rows.tolist(),
        cols.tolist(),
        found.tolist(),
    ]


def test_a_scene_s_points_are_apart_and_on_data():
    doubt = np.random.default_rng(0).random((100, 130))
    doubt[:, 129] = -np.inf
    candidates = Candidates(100, 130, distance=8)
    for top, end in ((0, 1), (1, 41), (41, 77), (77, 100)):  # strips that cut through cells
        candidates.add(top, doubt[top:end], np.zeros((end - top, 130), np.uint8))
    rows, cols, _ = candidates.choose(10**6)
    assert len(rows) > 50 and cols.max() < 129
    assert (
        np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 99 * np.eye(len(rows))
    ).min() >= 8


def test_few_candidates_are_kept_however_large_the_scene():
    candidates, strip = (
        Candidates(30000, 30000),
        np.random.default_rng(0).random((234, 30000), dtype=np.float32),
    )
    candidates.add(0, strip, np.zeros(strip.shape, np.uint8))
    assert candidates.found[-1].shape[1] * 30000 / 234 < 1.3 * 2**16
    assert len(candidates.choose(5)[0]) == 5


def test_without_data_there_is_nothing_to_label():
    candidates = Candidates(9, 9)
    assert [column.tolist() for column in candidates.choose(3)] == [[], [], []]
    candidates.add(0, np.full((9, 9), -np.inf), np.full((9, 9), 255))
    assert [column.tolist() for column in candidates.choose(3)] == [[], [], []]
