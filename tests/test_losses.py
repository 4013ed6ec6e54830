"""Losses on 3 x 3 pixels that can be checked by eye, and against float64 sums written out."""

import math
import re

import pytest
import torch

from losses import (
    SPARSE_BELOW,
    build_loss,
    class_weights,
    count_labelled,
    dice_loss,
    focal_loss,
    jaccard_loss,
    partial_cross_entropy,
)
from unet import UNet

# Two classes; class 0 has probability 3/4 wherever the logits are (ln 3, 0).
SURE = math.log(3.0)
LABELS = torch.tensor(
    [[[0, 255, 255], [255, 1, 255], [255, 255, 0]]], dtype=torch.uint8
)  # (1, 3, 3)
PIXELWISE = (partial_cross_entropy, focal_loss)
ALL = (partial_cross_entropy, focal_loss, dice_loss, jaccard_loss)


def logits_3x3():
    logits = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    logits[:, 0] = SURE
    return logits


def random_case(share, classes=5, batch=2, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, side, side, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, side, side), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) >= share] = 255
    return logits, labels.to(torch.uint8)


def test_partial_cross_entropy_by_eye():
    # Three labelled pixels: two of class 0 (p = 3/4), one of class 1 (p = 1/4).
    expected = (2 * math.log(4 / 3) + math.log(4)) / 3
    assert float(partial_cross_entropy(logits_3x3(), LABELS)) == pytest.approx(expected, abs=1e-12)


def test_class_weights_weigh_pixels_and_divide():
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = (2 * math.log(4 / 3) + 3 * math.log(4)) / (2 + 3)
    assert float(partial_cross_entropy(logits_3x3(), LABELS, weight=weight)) == pytest.approx(
        expected, abs=1e-12
    )
    focal = (2 * (1 / 4) ** 2 * math.log(4 / 3) + 3 * (3 / 4) ** 2 * math.log(4)) / (2 + 3)
    assert float(focal_loss(logits_3x3(), LABELS, weight=weight)) == pytest.approx(focal, abs=1e-12)


def test_focal_by_eye():
    expected = (2 * (1 / 4) ** 2 * math.log(4 / 3) + (3 / 4) ** 2 * math.log(4)) / 3
    assert float(focal_loss(logits_3x3(), LABELS)) == pytest.approx(expected, abs=1e-12)


def test_focal_with_gamma_0_is_cross_entropy():
    logits, labels = random_case(0.5)
    assert float(focal_loss(logits, labels, gamma=0.0)) == pytest.approx(
        float(partial_cross_entropy(logits, labels)), abs=1e-12
    )


def test_dice_and_jaccard_by_eye():
    # Class 0: I = 2 * 3/4, sum p = 9/4, true = 2. Class 1: I = 1/4, sum p = 3/4, true = 1.
    dice = 1 - (2 * 1.5 / (2.25 + 2) + 2 * 0.25 / (0.75 + 1)) / 2
    jaccard = 1 - (1.5 / (2.25 + 2 - 1.5) + 0.25 / (0.75 + 1 - 0.25)) / 2
    assert float(dice_loss(logits_3x3(), LABELS)) == pytest.approx(dice, abs=1e-12)
    assert float(jaccard_loss(logits_3x3(), LABELS)) == pytest.approx(jaccard, abs=1e-12)


def test_a_class_that_is_not_labelled_is_left_out_of_dice_and_jaccard():
    logits = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    logits[:, 0] = 50.0
    labels = torch.zeros(1, 3, 3, dtype=torch.uint8)
    assert float(dice_loss(logits, labels)) == pytest.approx(0.0, abs=1e-12)
    assert float(jaccard_loss(logits, labels)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("ignore", [-100, -1, 200])
def test_any_value_may_be_the_ignored_one(ignore):
    labels = LABELS.long()
    other = torch.where(labels == 255, ignore, labels)
    weight = torch.tensor([2.0, 1.0]).double()
    for loss_function in (dice_loss, jaccard_loss, focal_loss, partial_cross_entropy):
        assert torch.equal(
            loss_function(logits_3x3(), other, ignore=ignore), loss_function(logits_3x3(), labels)
        )
    assert torch.equal(
        partial_cross_entropy(logits_3x3(), other, ignore=ignore, weight=weight),
        partial_cross_entropy(logits_3x3(), labels, weight=weight),
    )
    assert torch.equal(
        focal_loss(logits_3x3(), other, ignore=ignore, weight=weight),
        focal_loss(logits_3x3(), labels, weight=weight),
    )


@pytest.mark.parametrize("loss_function", ALL)
@pytest.mark.parametrize("weight", [None, torch.tensor([2.0, 1.0])])
def test_nothing_labelled_costs_nothing_and_pulls_nowhere(loss_function, weight):
    logits = logits_3x3().requires_grad_()
    labels = torch.full((1, 3, 3), 255, dtype=torch.uint8)
    arguments = (
        {"weight": weight.double()} if weight is not None and loss_function in PIXELWISE else {}
    )
    loss = loss_function(logits, labels, **arguments)
    assert float(loss.detach()) == 0.0
    loss.backward()  # still connected to the graph
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("share", [SPARSE_BELOW / 5, 0.6, 1.0])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sparse_and_dense_paths_equal_the_sum_written_out(share, memory_format):
    logits, labels = random_case(share)
    logits.requires_grad_()
    labelled = labels != 255
    image, row, col = labelled.nonzero(as_tuple=True)
    expected = sum(
        -logits[b, :, y, x].log_softmax(0)[labels[b, y, x].long()]
        for b, y, x in zip(image, row, col)
    ) / len(image)
    loss = partial_cross_entropy(logits.contiguous(memory_format=memory_format), labels)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    (ours,) = torch.autograd.grad(loss, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    assert (ours - theirs).abs().max() < 1e-14
    assert (ours[~labelled[:, None].expand_as(ours)] == 0).all()


@pytest.mark.parametrize("loss_function", ALL)
def test_what_unlabelled_pixels_say_does_not_matter(loss_function):
    logits, labels = random_case(0.5)
    noisy = logits.detach().clone()
    noisy += torch.where(labels == 255, 7.0, 0.0)[:, None] * torch.randn_like(noisy)
    assert float(loss_function(noisy, labels)) == pytest.approx(
        float(loss_function(logits, labels)), abs=1e-12
    )


@pytest.mark.parametrize("loss_function", ALL)
def test_gradients_by_finite_differences(loss_function):
    logits, labels = random_case(0.4, classes=3, batch=1, side=4)
    assert torch.autograd.gradcheck(lambda x: loss_function(x, labels), (logits.requires_grad_(),))


def test_parts_of_a_batch_add_up_to_the_whole():
    logits, labels = random_case(0.3)
    labels[0, :12] = 255  # unequal numbers of labelled pixels
    for weight in (None, torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)):
        total = count_labelled(labels, weight).double()
        for name in ("ce", "focal", "ce+focal"):
            loss = build_loss(name, weight=weight)
            parts = loss(logits[:1], labels[:1], total, 2) + loss(logits[1:], labels[1:], total, 2)
            assert float(parts) == pytest.approx(float(loss(logits, labels)), abs=1e-6)


@pytest.mark.parametrize("name", ["ce", "focal", "ce+focal"])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(name, weight):
    """As --accumulate cuts it, with unequal numbers of labelled pixels in the parts."""
    torch.manual_seed(0)
    model, loss = UNet(2, 3, width=4, depth=1).double().eval(), build_loss(name, weight=weight)
    images, (_, labels) = (
        torch.randn(4, 2, 16, 16, dtype=torch.float64),
        random_case(0.9, classes=3, batch=4),
    )
    labels[0], labels[1, 1:] = 255, 255  # none, a few, nearly all of them, and all but a corner
    labels[3, :8, :8] = 255

    def gradients(parts):
        model.zero_grad()
        total = count_labelled(labels, weight)
        for some_images, some_labels in zip(images.chunk(parts), labels.chunk(parts)):
            loss(model(some_images), some_labels, total, parts).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradients(1)
    assert whole.abs().max() > 1e-3
    for parts in (2, 3, 4):
        assert (gradients(parts) - whole).abs().max() < 1e-12


def test_count_labelled__number_or_sum_of_weights():
    assert float(count_labelled(LABELS)) == 3
    assert float(count_labelled(LABELS, torch.tensor([0.5, 4.0]))) == 0.5 * 2 + 4.0


def test_class_weights():
    assert class_weights([1, 2], "none") is None
    assert class_weights([50, 50], "sqrt").tolist() == [1.0, 1.0]
    # 80 and 20 of 100: an even share is 50, so inverse weights are 50/80 and 50/20.
    assert class_weights([80, 20, 0], "inverse").tolist() == pytest.approx([0.625, 2.5, 1.0])
    assert class_weights([80, 20, 0], "sqrt").tolist() == pytest.approx([0.625**0.5, 2.5**0.5, 1.0])
    assert class_weights([10**6, 1], "inverse").tolist() == pytest.approx([0.5, 3.0])  # clipped
    with pytest.raises(ValueError, match="choose none, inverse or sqrt"):
        class_weights([1, 1], "log")


def test_build_loss_adds_up():
    logits, labels = random_case(0.5)
    expected = focal_loss(logits, labels) + jaccard_loss(logits, labels)
    assert float(build_loss("focal+jaccard")(logits, labels)) == pytest.approx(float(expected))
    for name in ("ce+iou", "ce+jaccard+ce", ""):
        with pytest.raises(ValueError, match=rf"--loss {re.escape(name)}"):
            build_loss(name)


def test_what_does_not_fit_is_refused():
    logits = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"\(1, 3, 4\)"):
        partial_cross_entropy(logits, torch.zeros(1, 3, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="contain 2.* 0 to 1"):
        partial_cross_entropy(logits, torch.tensor([[[0, 2, 255]] * 3], dtype=torch.uint8))
