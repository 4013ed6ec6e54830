"""The loss of superpixel labels, on values that can be followed by eye."""

import json

import numpy as np
import pytest
import torch
from helpers import write_set

from data import Augmentation, TileDataset, training_batches
from losses import partial_cross_entropy
from weak.superpixels import SuperpixelLoss

STILL = Augmentation(flips=False, rotate=0, shift=0, zoom=1, crop=0, jitter=0)
CPU = torch.device("cpu")


@pytest.fixture
def tiles(tmp_path):
    """Six tiles of a dark and a bright field, one point each; two rows of tile 2 are missing."""
    meta = write_set(tmp_path)
    images = np.load(tmp_path / "train_images.npy")
    images[:, :, :4] = 20
    images[:, :, 4:] = 180
    images[2, :2] = 0
    np.save(tmp_path / "train_images.npy", images)
    (tmp_path / "dataset.json").write_text(json.dumps(meta | {"nodata": 0}))
    return TileDataset(tmp_path, "train", points=1)


def first_batch(tiles):
    """All six tiles as a batch."""
    return next(training_batches(tiles, STILL, 0, 0, 6, range(1)))


def test_begin_batch__weight_fades_out(tiles):
    loss = SuperpixelLoss(tiles, 4)
    batch = first_batch(tiles)
    for progress, weight in ((0.0, 0.5), (0.3, 0.25), (0.6, 0.0), (0.9, 0.0)):
        loss.begin_batch(batch, progress, CPU)
        assert loss.weight == weight


def test_begin_batch__patches_take_the_class_of_their_point_and_none_where_data_is_missing(tiles):
    loss = SuperpixelLoss(tiles, 4)
    batch = first_batch(tiles)
    loss.begin_batch(batch, 0.0, CPU)
    for propagated, points in zip(loss.labels, batch.labels):
        known = points != 255
        assert (propagated == points[known]).sum() == (propagated != 255).sum()
        assert int((propagated != 255).sum()) > int(known.sum()) or (propagated == 255).all()
    loss.label_maps[:] = 1
    loss.begin_batch(batch, 0.0, CPU)
    place = batch.indices.tolist().index(2)
    assert (loss.labels[place, :2] == 255).all() and (loss.labels[place, 2:] == 1).all()
    assert float(loss.num_labelled) == 6 * 64 - 16


def test_loss__is_half_a_cross_entropy_at_the_start_and_nothing_at_the_end(tiles):
    loss = SuperpixelLoss(tiles, 4)
    batch = first_batch(tiles)
    logits = torch.randn(6, 3, 8, 8)
    loss.begin_batch(batch, 0.0, CPU)
    expected = 0.5 * partial_cross_entropy(logits, loss.labels)
    assert float(loss(slice(0, 6), logits)) == pytest.approx(float(expected), abs=1e-6)
    loss.begin_batch(batch, 0.9, CPU)
    assert float(loss(slice(0, 6), logits)) == 0.0


def test_loss__parts_of_a_batch_add_up_and_have_a_gradient(tiles):
    loss = SuperpixelLoss(tiles, 4)
    loss.begin_batch(first_batch(tiles), 0.3, CPU)
    logits = torch.randn(6, 3, 8, 8, requires_grad=True)
    whole = loss(slice(0, 6), logits)
    whole.backward()
    assert float(logits.grad.abs().max()) > 0
    parts = sum(loss(part, logits[part]).item()
                for part in (slice(0, 2), slice(2, 5), slice(5, 6)))
    assert parts == pytest.approx(whole.item(), rel=1e-5)
