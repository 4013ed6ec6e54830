"""Superpixel labels and a teacher as additional losses, on values that can be followed by eye."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers import edit, write_set

from data import Augmentation, TileDataset, augment, normalise, training_batches
from losses import partial_cross_entropy
from weak.supervision import WeakSupervision, superpixel_weight, teacher_weight

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


def first_batch(tiles, how=STILL):
    """All six tiles as a batch, its normalised images and its labels."""
    batch = next(training_batches(tiles, how, 0, 0, 6, range(1)))
    images = normalise(batch.images, tiles.meta["mean"], tiles.meta["std"], tiles.meta["nodata"])
    return batch, *augment(images, batch.labels, batch.views)


def test_weights__superpixels_fade_out_and_the_teacher_comes_in_late():
    assert (
        superpixel_weight(0.0) == 0.5 > superpixel_weight(0.3) == 0.25 > superpixel_weight(0.6) == 0
    )
    assert teacher_weight(0.2) == 0 and teacher_weight(0.4) == 1
    assert teacher_weight(0.3) == pytest.approx(0.5)


def test_superpixels__take_the_class_of_their_point_and_none_where_data_is_missing(tiles):
    weak = WeakSupervision(tiles, superpixels=4, threshold=0, seed=0)
    batch, images, labels = first_batch(tiles)
    weak.begin_batch(batch, epoch=0, progress=0.0, device=CPU)
    for propagated, points in zip(weak.labels, labels):
        known = points != 255
        assert (propagated == points[known]).sum() == (propagated != 255).sum()
        assert int((propagated != 255).sum()) > int(known.sum()) or (propagated == 255).all()
    weak.label_maps[:] = 1
    weak.begin_batch(batch, epoch=0, progress=0.0, device=CPU)
    place = batch.indices.tolist().index(2)
    assert (weak.labels[place, :2] == 255).all() and (weak.labels[place, 2:] == 1).all()
    assert float(weak.num_labelled) == 6 * 64 - 16


def test_loss__superpixels_are_half_a_cross_entropy_at_the_start_and_nothing_at_the_end(tiles):
    weak = WeakSupervision(tiles, superpixels=4, threshold=0, seed=0)
    batch, images, labels = first_batch(tiles)
    logits = torch.randn(6, 3, 8, 8)
    weak.begin_batch(batch, epoch=0, progress=0.0, device=CPU)
    loss = weak.loss(slice(0, 6), images, labels, logits, None, None)
    expected = 0.5 * partial_cross_entropy(logits, weak.labels)
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    weak.begin_batch(batch, epoch=0, progress=0.9, device=CPU)
    assert weak.loss(slice(0, 6), images, labels, logits, None, None) == 0.0


def test_loss__the_teacher_is_divided_by_all_valid_pixels(tiles, tmp_path):
    """A network that knows nothing, a teacher confident of every second column: ln 3 / 2."""
    edit(tmp_path, "nodata", None)
    weak = WeakSupervision(TileDataset(tmp_path, "train", points=1), 0, threshold=0.9, seed=0)
    batch, images, labels = first_batch(tiles)
    weak.begin_batch(batch, epoch=0, progress=1.0, device=CPU)
    assert float(weak.num_valid) == 6 * 64
    confident = torch.zeros(6, 3, 8, 8)
    confident[:, 0, :, ::2] = 9.0
    nothing = torch.full_like(labels, 255)
    loss = weak.loss(
        slice(0, 6),
        images,
        nothing,
        torch.zeros(6, 3, 8, 8),
        model=lambda views: torch.zeros(len(views), 3, 8, 8),
        teacher=lambda views: confident[: len(views)],
    )
    assert 0.45 * np.log(3) < float(loss) < 0.55 * np.log(3)  # CutMix moves columns by odd steps


@pytest.mark.parametrize("superpixels, threshold", [(4, 0), (0, 0.5), (4, 0.5)])
def test_loss__parts_of_a_batch_add_up_and_every_term_has_a_gradient(tiles, superpixels, threshold):
    """Superpixels alone: CutMix pastes within a part, so the teacher's parts may differ."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    weak = WeakSupervision(tiles, superpixels, threshold, seed=0)
    batch, images, labels = first_batch(tiles)
    weak.begin_batch(batch, epoch=0, progress=0.5, device=CPU)

    def total(parts):
        return sum(
            weak.loss(
                part, images[part], labels[part], model(images[part]), model, copy.deepcopy(model)
            )
            for part in parts
        )

    whole = total([slice(0, 6)])
    whole.backward()
    assert whole.isfinite() and float(model.weight.grad.abs().max()) > 0
    if not threshold:
        parts = total([slice(0, 2), slice(2, 5), slice(5, 6)])
        assert float(parts.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
