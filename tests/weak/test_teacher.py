"""The terms beyond the points: on values that can be followed by eye."""

import copy

import numpy as np
import pytest
import torch
from helpers import random_images

from weak.ema import update_ema
from weak.teacher import (
    cutmix,
    cutmix_masks,
    divisors,
    learn_beyond,
    pseudo_labels,
    strong_augment,
    term_weights,
)

OFF = {"superpixels": 0.0, "teacher": 0.0, "crf": 0.0}


def test_teacher_is_believed_where_it_is_sure_and_labels_come_first():
    # Probabilities of class 0: 0.95, 0.95, 0.65 and 0.4 (class 1: 0.6). Bars: 0.8, and 0.8 * 0.6 / 0.85 for class 1.
    p = torch.tensor([0.95, 0.95, 0.65, 0.4]).view(1, 1, 2, 2)
    logits = torch.cat([p, 1 - p], 1).log()
    nothing, seen = torch.full((1, 2, 2), 255, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.bool)
    assert pseudo_labels(logits, nothing, seen, 0.8).tolist() == [[[0, 0], [255, 1]]]
    labels = torch.tensor([[[1, 255], [255, 255]]], dtype=torch.uint8)
    seen[0, 0, 1] = False
    assert pseudo_labels(logits, labels, seen, 0.75).tolist() == [[[1, 255], [255, 1]]]
    assert (pseudo_labels(logits, nothing, ~seen & seen, 0.8) == 255).all()


def test_average_is_first_the_mean_then_forgets_and_copies_batch_norm():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.BatchNorm2d(1))
    average = copy.deepcopy(model)
    start, values = average[0].weight.item(), []
    for updates, value in enumerate((1.0, 2.0, 6.0), 1):
        model[0].weight.data.fill_(value)
        model[1].running_mean.fill_(value)
        update_ema(average, model, 0.7, updates)
        values.append(average[0].weight.item())
        assert float(average[1].running_mean) == value
    # The share kept is 1/2, then 2/3, then 0.7 and not 3/4.
    assert values[1] == pytest.approx((start + 1 + 2) / 3, abs=1e-6)
    assert values[2] == pytest.approx(0.7 * values[1] + 0.3 * 6, abs=1e-6)


def test_boxes_and_views_depend_on_seed_epoch_and_place_alone():
    images = random_images(3, 4, 16).float()
    boxes, strong = cutmix_masks(5, 2, [7, 8, 9], 16, 16), strong_augment(images, 5, 2, [7, 8, 9])
    assert torch.equal(boxes[1], cutmix_masks(5, 2, [8], 16, 16)[0])
    assert torch.equal(strong[1], strong_augment(images[1:2], 5, 2, [8])[0])
    for seed, epoch, place in ((6, 2, 8), (5, 3, 8), (5, 2, 10)):
        assert not torch.equal(strong[1], strong_augment(images[1:2], seed, epoch, [place])[0])
    many = cutmix_masks(0, 0, range(200), 32, 32)
    areas = many.float().mean((1, 2))
    assert len({tuple(box.flatten().tolist()) for box in many}) > 190 and areas.min() > 0.2 and areas.max() < 0.55


def test_strong_view_moves_no_pixel():
    image = torch.zeros(40, 2, 9, 9)
    image[:, :, 4, 4] = 10
    light = strong_augment(image, 0, 0, range(40))
    assert (light.flatten(2).argmax(2) == 4 * 9 + 4).float().mean() > 0.4  # a blurred point has eight equals
    assert (light - light.flip(2)).abs().max() < 1e-5 and (light - light.flip(3)).abs().max() < 1e-5


def test_cut_mix_pastes_the_next_image_of_the_batch():
    values = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    boxes = torch.zeros(3, 2, 2, dtype=torch.bool)
    boxes[:, 0] = True
    assert cutmix(values, boxes)[:, :, 0].tolist() == [[1, 0], [2, 1], [0, 2]]
    images = values[:, None].expand(3, 5, 2, 2).float()
    assert torch.equal(cutmix(images, boxes)[:, 3].to(torch.uint8), cutmix(values, boxes))


def test_weights_fade_out_and_come_in_late():
    start, middle, end = (term_weights(progress, 12, 0.9, 0.02) for progress in (0.0, 0.5, 1.0))
    assert start["superpixels"] > middle["superpixels"] > end["superpixels"] == 0
    assert start["teacher"] == start["crf"] == 0 and end["teacher"] == 1 and end["crf"] == 0.02
    assert 0 < middle["crf"] < 0.02
    assert set(term_weights(0.5, 0, 0.0, 0.0).values()) == {0.0}


def batch():
    images = random_images(4, 3, 16).float()
    layers = torch.full((4, 3, 16, 16), 255, dtype=torch.uint8)
    layers[:, 0, 5, 5], layers[:, 1, 3:8, 3:8], layers[:, 2] = 1, 1, 0
    return images, layers, range(4)


def test_without_any_term_the_model_runs_as_it_would_alone():
    model = torch.nn.Conv2d(3, 2, 3, padding=1)
    images, layers, places = batch()
    logits, loss = learn_beyond(model, None, images, layers, places, OFF, divisors(layers), 0.9, (0, 0))
    assert loss == 0 and torch.allclose(logits, model(images), atol=1e-6)


@pytest.mark.parametrize("term", OFF)
def test_each_term_pulls_on_the_weights_and_says_nothing_of_what_was_not_seen(term):
    model = torch.nn.Conv2d(3, 2, 3, padding=1)
    images, layers, places = batch()
    for seen in (True, False):
        model.zero_grad()
        logits, loss = learn_beyond(model, copy.deepcopy(model), images, layers, places, OFF | {term: 1.0}, divisors(layers), 0.5,
                                    (0, 0))
        assert logits.shape == (4, 2, 16, 16)
        loss.backward()
        assert loss.isfinite() and (float(model.weight.grad.abs().max()) > 0) == seen
        layers[:] = 255


def test_the_teacher_pays_for_all_that_was_seen():
    # A student equal to a teacher that is sure of every second pixel: half of the mean cross-entropy over all pixels.
    images, layers = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    layers[:, :2] = 255
    sure = torch.tensor([0.0, 4.0]).repeat(4).expand(1, 1, 8, 8)
    sure = torch.cat([sure, 0 * sure], 1)
    student = torch.zeros(1, 2, 8, 8)
    both = lambda views: student.repeat(len(views), 1, 1, 1)
    _, loss = learn_beyond(both, lambda views: sure, images, layers, [0], OFF | {"teacher": 1.0}, divisors(layers), 0.9, (0, 0))
    assert float(loss) == pytest.approx(0.5 * np.log(2), abs=1e-6)


@pytest.mark.parametrize("term", ["superpixels", "crf"])
def test_the_parts_of_a_batch_cost_together_what_it_costs_at_once(term):
    """As --accumulate and torchrun cut it; the second half has smaller superpixels, of another class, and little ground."""
    model = torch.nn.Conv2d(3, 2, 3, padding=1)
    images, layers, places = batch()
    layers[2:, 1, 4:], layers[2:, 1, 3, 3:8], layers[2:, 2, 4:] = 255, 0, 255
    parts = [slice(0, 4)], [slice(0, 2), slice(2, 4)]
    once, cut = (float(sum(learn_beyond(model, None, images[part], layers[part], places[part], OFF | {term: 1.0}, divisors(layers),
                                        0, (0, 0))[1].detach() for part in some)) for some in parts)
    assert once > 0.01 and cut == pytest.approx(once, rel=1e-5)
