"""The average of the weights, by hand."""

import pytest
import torch

from weak.ema import update_ema


def test_update_ema__plain_mean_first_then_the_decay():
    average = torch.nn.Linear(1, 1, bias=False)
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(average.weight, 0.0)
    # It keeps 1/2, then 2/3, then 0.8 of the average.
    for updates, value, expected in ((1, 4.0, 2.0), (2, 5.0, 3.0), (9, 13.0, 5.0)):
        torch.nn.init.constant_(model.weight, value)
        update_ema(average, model, 0.8, updates)
        assert average.weight.item() == pytest.approx(expected)


def test_update_ema__batch_norm_statistics_are_copied():
    average = torch.nn.BatchNorm2d(1)
    model = torch.nn.BatchNorm2d(1)
    model(torch.full((1, 1, 2, 2), 8.0))
    update_ema(average, model, 0.9, 100)
    assert float(average.running_mean) == pytest.approx(0.8)
    assert int(average.num_batches_tracked) == 1
