"""The terms beyond the points: on values that can be followed by eye."""

import copy

import pytest
import torch
from helpers import random_images

from weak.ema import update_ema
from weak.teacher import cutmix, cutmix_masks, pseudo_labels, strong_augment


def test_teacher_is_believed_where_it_is_sure_and_labels_come_first():
    # Probabilities of class 0: 0.95, 0.95, 0.65 and 0.4 (class 1: 0.6). Bars: 0.8, and 0.8 * 0.6 /
    # 0.85 for class 1.
    p = torch.tensor([0.95, 0.95, 0.65, 0.4]).view(1, 1, 2, 2)
    logits = torch.cat([p, 1 - p], 1).log()
    nothing, seen = (
        torch.full((1, 2, 2), 255, dtype=torch.uint8),
        torch.ones(1, 2, 2, dtype=torch.bool),
    )
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
    assert (
        len({tuple(box.flatten().tolist()) for box in many}) > 190
        and areas.min() > 0.2
        and areas.max() < 0.55
    )


def test_strong_view_moves_no_pixel():
    image = torch.zeros(40, 2, 9, 9)
    image[:, :, 4, 4] = 10
    light = strong_augment(image, 0, 0, range(40))
    assert (
        light.flatten(2).argmax(2) == 4 * 9 + 4
    ).float().mean() > 0.4  # a blurred point has eight equals
    assert (light - light.flip(2)).abs().max() < 1e-5 and (light - light.flip(3)).abs().max() < 1e-5


def test_cut_mix_pastes_the_next_image_of_the_batch():
    values = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    boxes = torch.zeros(3, 2, 2, dtype=torch.bool)
    boxes[:, 0] = True
    assert cutmix(values, boxes)[:, :, 0].tolist() == [[1, 0], [2, 1], [0, 2]]
    images = values[:, None].expand(3, 5, 2, 2).float()
    assert torch.equal(cutmix(images, boxes)[:, 3].to(torch.uint8), cutmix(values, boxes))
