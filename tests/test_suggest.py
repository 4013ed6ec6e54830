"""Points to label next are doubtful, shared among classes, apart from each other, and found strip by strip as at once."""

import numpy as np
import pytest
import torch

from suggest import Candidates, suggest_points, uncertainty


def two_classes(sure):
    """(2, H, W) probabilities; sure (H, W) is that of the first class."""
    sure = torch.as_tensor(sure, dtype=torch.float64)
    return torch.stack([sure, 1 - sure])


def test_uncertainty_by_hand():
    flat = torch.tensor([0.5, 0.3, 0.2])[None, :, None, None].expand(1, 3, 4, 4)
    assert torch.allclose(uncertainty(flat), torch.tensor(0.8))  # 1 - (0.5 - 0.3), also at the corners
    assert torch.allclose(uncertainty(flat.flip(1)), torch.tensor(0.8))
    assert torch.allclose(uncertainty(torch.full((1, 4, 3, 3), 0.25)), torch.tensor(1.0))
    line = torch.ones(1, 9)
    line[0, 4] = 0.5
    doubt = uncertainty(two_classes(line)[None])[0, 0].tolist()
    assert doubt[4] == pytest.approx(1 / 5) and doubt[2] == pytest.approx(1 / 5) and doubt[1] == 0  # over five px
    assert uncertainty(torch.ones(1, 1, 5, 5)).tolist() == torch.zeros(1, 5, 5).tolist()  # one class only


def test_a_doubtful_field_comes_before_a_sharp_border():
    sure = np.ones((40, 40))
    sure[:, 9] = 0.5  # one column, of no doubt left and right
    sure[25:32, 25:32] = 0.6
    position, = suggest_points(two_classes(sure), 1)
    assert (position // 40, position % 40) == (27, 27)  # the first whose whole square is in doubt


def test_points_keep_their_distance_also_from_those_taken_and_take_turns_by_class():
    random = np.random.default_rng(0)
    sure = random.random((48, 64))
    sure[:, :56] = sure[:, :56] / 4  # the first class is rare, and on the right only
    taken = np.array([20 * 64 + 60, 5 * 64 + 10])
    positions = suggest_points(two_classes(sure), 6, taken, distance=9)
    assert positions.dtype == np.int64 and len(positions) == 6
    rows, cols = np.divmod(np.concatenate([taken, positions]), 64)
    apart = np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 99 * np.eye(8)
    assert apart.min() >= 9
    classes = two_classes(sure).argmax(0).numpy().reshape(-1)
    assert np.bincount(classes[positions]).tolist() == [3, 3]
    assert suggest_points(two_classes(sure), 6, taken, distance=9).tolist() == positions.tolist()
    assert suggest_points(two_classes(sure), 4, taken, distance=9).tolist() == positions[:4].tolist()


def test_only_where_points_may_lie_and_no_more_than_there_is_room_for():
    where = np.zeros((30, 30), bool)
    where[3:5, 7:25] = True
    positions = suggest_points(two_classes(np.random.default_rng(0).random((30, 30))), 50, distance=4, where=where)
    assert 3 <= len(positions) <= 6 and where.reshape(-1)[positions].all()
    assert suggest_points(two_classes(np.ones((5, 5))), 3, where=np.zeros((5, 5), bool)).tolist() == []
    assert len(suggest_points(two_classes(np.ones((5, 5))), 3, distance=100)) == 1


@pytest.mark.parametrize("cuts", [[], [1], [40, 41, 77]])
def test_a_scene_in_strips_yields_the_doubtful_pixels(cuts):
    random = np.random.default_rng(0)
    doubt = random.random((100, 130)) / 2
    doubt[70, 128], doubt[3, 4], doubt[50, 60] = 0.9, 0.8, 0.7
    doubt[:, 129] = -np.inf
    candidates, classes = Candidates(100, 130, distance=8), np.zeros((100, 130), np.uint8)
    for top, end in zip([0, *cuts], [*cuts, 100]):
        candidates.add(top, doubt[top:end], classes[top:end])
    rows, cols, found = candidates.choose(3)
    assert list(zip(rows, cols, found)) == [(70, 128, 0), (3, 4, 0), (50, 60, 0)]
    rows, cols, _ = candidates.choose(10**6)
    assert len(rows) > 50 and cols.max() < 129
    assert (np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 99 * np.eye(len(rows))).min() >= 8


def test_few_candidates_are_kept_however_large_the_scene():
    candidates, strip = Candidates(30000, 30000), np.random.default_rng(0).random((512, 30000), dtype=np.float32)
    candidates.add(0, strip, np.zeros(strip.shape, np.uint8))
    assert candidates.found[-1].shape[1] * 30000 / 512 < 1.3 * 2**16
    assert len(candidates.choose(5)[0]) == 5


def test_without_data_there_is_nothing_to_label():
    candidates = Candidates(9, 9)
    assert [column.tolist() for column in candidates.choose(3)] == [[], [], []]
    candidates.add(0, np.full((9, 9), -np.inf), np.full((9, 9), 255))
    assert [column.tolist() for column in candidates.choose(3)] == [[], [], []]
