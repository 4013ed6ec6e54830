"""The gated CRF: against the double loop written out in float64, and on maps that can be judged by eye."""

import numpy as np
import pytest
import torch
from helpers import random_images

from weak.crf import gated_crf_loss


def naive_crf(probabilities, images, seen, radius, reach, contrast):
    """The docstring's sum, pixel by pixel."""
    batch, _, height, width = probabilities.shape
    means = []
    for image, row, col in np.ndindex(batch, height, width):
        total, divisor = 0.0, 0.0
        for other_row in range(max(0, row - radius), min(height, row + radius + 1)):
            for other_col in range(max(0, col - radius), min(width, col + radius + 1)):
                if (row, col) == (other_row, other_col) or not seen[image, row, col] or not seen[image, other_row, other_col]:
                    continue
                unlike = (images[image, :, row, col] - images[image, :, other_row, other_col]).square().mean()
                apart = (row - other_row) ** 2 + (col - other_col) ** 2
                kernel = torch.exp(-apart / (2 * reach ** 2) - unlike / (2 * contrast ** 2))
                total = total + kernel * (1 - probabilities[image, :, row, col] @ probabilities[image, :, other_row, other_col])
                divisor = divisor + kernel
        if seen[image, row, col]:
            means.append(total / divisor)
    return sum(means) / len(means)


def test_gated_crf_and_its_gradient_are_those_of_the_double_loop():
    images = random_images(side=6)
    seen = torch.ones(2, 6, 6)
    seen[0, :2] = 0
    ours, theirs = (random_images(2, 4, 6, seed=1).requires_grad_() for _ in range(2))
    loss = gated_crf_loss(ours.softmax(1), images, seen, radius=2, reach=1.5, contrast=0.8)
    expected = naive_crf(theirs.softmax(1), images, seen, 2, 1.5, 0.8)
    loss.backward()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-14) and ours.grad.abs().max() > 1e-3


def test_gated_crf_of_a_map_of_one_class_is_0_and_of_a_chessboard_is_high():
    one = torch.zeros(1, 2, 8, 8)
    one[:, 0] = 1
    board = torch.zeros(1, 2, 8, 8)
    board[0, 0] = torch.eye(2).repeat(4, 4)
    board[0, 1] = 1 - board[0, 0]
    plain, seen = torch.zeros(1, 3, 8, 8), torch.ones(1, 8, 8)
    assert float(gated_crf_loss(one, plain, seen)) == pytest.approx(0, abs=1e-6)
    assert 0.4 < float(gated_crf_loss(board, plain, seen)) < 0.7
    assert float(gated_crf_loss(board, plain, 0 * seen)) == 0


def test_gated_crf_lets_classes_change_where_colours_do():
    seen, halves = torch.ones(1, 8, 8), torch.zeros(1, 2, 8, 8)
    halves[0, 0, :, :4] = halves[0, 1, :, 4:] = 1
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 5
    assert float(gated_crf_loss(halves, edge, seen)) < 1e-6 < 0.1 < float(gated_crf_loss(halves, 0 * edge, seen))
    # Twice the bands with the same values are the same image.
    image = random_images(1, 3).float()
    assert torch.isclose(gated_crf_loss(halves, image, seen), gated_crf_loss(halves, torch.cat([image, image], 1), seen))


def test_gated_crf_of_a_map_smaller_than_its_window():
    probabilities = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, :, None].expand(1, 2, 2, 2)  # two rows, two classes
    loss = gated_crf_loss(probabilities, torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 2))
    assert 0.5 < float(loss) < 0.8  # of three neighbours two are of the other class
