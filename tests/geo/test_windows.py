"""Windows tile a scene and, whatever the network, add up to the scene predicted whole, turned and mirrored too."""

from types import SimpleNamespace

import pytest
import torch
from helpers import randomise

from geo.windows import (
    average_symmetries,
    axis_windows,
    even_window,
    kept,
    predict_window,
    unwanted_margin,
    window_and_margin,
    window_origins,
)
from networks import build_model, fold_batch_norm


@pytest.mark.parametrize("length, window, margin, stride, origins", [
    (64, 64, 16, 4, [0]),
    (32, 64, 16, 4, [0]),
    (96, 64, 16, 4, [0, 32]),
    (100, 64, 16, 4, [0, 32, 36]),
    (128, 32, 0, 32, [0, 32, 64, 96]),
])
def test_window_origins_by_hand(length, window, margin, stride, origins):
    assert window_origins(length, window, margin, stride) == origins


@pytest.mark.parametrize("length", [1, 7, 8, 31, 63, 64, 65, 100, 257, 1000])
@pytest.mark.parametrize("window, margin, stride", [(64, 16, 8), (64, 0, 8), (16, 4, 4), (32, 8, 8)])
def test_centres_tile_the_axis(length, window, margin, stride):
    windows = axis_windows(length, window, margin, stride)
    padded = max(-(-length // stride) * stride, 2 * stride)
    assert windows[0].keep_from == 0 and windows[-1].keep_to == length
    assert all(a.keep_to == b.keep_from for a, b in zip(windows, windows[1:]))
    for w in windows:
        assert w.origin % stride == 0 and w.origin + w.size <= length and w.size <= window
        assert w.keep_from == 0 or w.keep_from - w.origin >= margin
        assert w.keep_to == length or w.origin + w.size - w.keep_to >= margin
    sizes = {min(even_window(padded, window, margin, stride), length - w.origin) for w in windows}
    assert {w.size for w in windows} == sizes and len(windows) == len(window_origins(padded, window, margin, stride))


@pytest.mark.parametrize("length, window, margin, stride, even", [
    (104, 64, 8, 8, 64),  # 8 + 48 + 8, then 8 + 40: two windows of 64 px it stays
    (88, 64, 8, 8, 56),  # two of 64 would overlap by 40 px, two of 56 by 24
    (5000, 512, 32, 8, 480),
    (48, 64, 8, 8, 48),
    (16, 64, 24, 8, 16),  # less than two margins
])
def test_a_window_is_no_larger_than_their_number_asks_for(length, window, margin, stride, even):
    assert even_window(length, window, margin, stride) == even
    count = len(window_origins(length, window, margin, stride))
    assert len(window_origins(length, even, margin, stride)) == count
    if count > 1 and even - stride > 2 * margin:
        assert len(window_origins(length, even - stride, margin, stride)) > count


def network(name, **options):
    torch.manual_seed(0)
    model = randomise(build_model(name, 2, 3, **options)).float()
    torch.nn.init.normal_(model.classifier.weight)
    return fold_batch_norm(model).to(memory_format=torch.channels_last)


def in_windows(model, image, window, margin, function):
    """What function gives for (1, C, H, W), window by window: (1, K, H, W)."""
    rows, cols = (axis_windows(length, window, margin, model.stride) for length in image.shape[2:])
    out = []
    for row in rows:
        out.append([])
        for col in cols:
            part = function(image[:, :, row.origin:row.origin + row.size, col.origin:col.origin + col.size])
            out[-1].append(part[:, :, row.keep_from - row.origin:row.keep_to - row.origin,
                                col.keep_from - col.origin:col.keep_to - col.origin])
    return torch.cat([torch.cat(parts, 3) for parts in out], 2)


def test_a_window_that_is_not_asked_for_holds_its_margins():
    small, large = SimpleNamespace(stride=16, radius=107), SimpleNamespace(stride=32, radius=573)
    assert window_and_margin(None, None, small) == (1024, 112)
    assert window_and_margin(None, None, large) == (2304, 576)  # 4 * 573, up to the stride
    with pytest.raises(ValueError, match="leaves nothing"):
        window_and_margin(1024, None, large)


EXACT = [("unet", {"depth": 3, "width": 4}), ("unet", {"depth": 3, "width": 4, "upsampling": "bilinear"}),
         ("unet", {"depth": 2, "width": 4, "stem": 2}), ("resunet", {}), ("linknet", {})]
SLOWLY = [pytest.param(name, options, marks=pytest.mark.slow) for name, options in [
    ("resunet", {"upsampling": "transposed"}), ("fpn", {}), ("unetpp", {}), ("resunet", {"encoder": "resnet50"})]]


@pytest.mark.parametrize("name, options", EXACT + SLOWLY)
def test_windows_with_the_default_margin_give_the_whole_scenes_logits(name, options):
    model = network(name, **options)
    _, margin = window_and_margin(2**20, None, model)
    window = 2 * margin + 2 * model.stride
    image = torch.randn(1, 2, 45, window + 3 * model.stride + 5)  # three windows side by side
    for scene in (image, image.transpose(2, 3)) if name == "unet" else (image,):
        with torch.inference_mode():
            whole = model(scene)
            parts = in_windows(model, scene, window, margin, model)
        assert parts.shape == whole.shape
        assert (parts - whole).abs().max() < 1e-4 * whole.std(dim=(2, 3)).min()


def test_a_margin_of_half_the_radius_would_be_seen():
    model = network("unet", depth=3, width=4)
    image = torch.randn(1, 2, 45, 203)
    with torch.inference_mode():
        assert (in_windows(model, image, 64, 24, model) - model(image)).abs().max() > 1e-3


@pytest.mark.parametrize("height, width", [(45, 203), (5, 9), (64, 96)])
@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 1, "stem": 2, "upsampling": "bilinear"}])
def test_averaged_symmetries_of_windows_are_those_of_the_whole_scene(height, width, options):
    model = network("unet", width=4, **options)
    _, margin = window_and_margin(2**20, None, model)
    image = torch.randn(1, 2, height, width)
    with torch.inference_mode():
        whole = average_symmetries(model, image)
        parts = in_windows(model, image, 2 * margin + 16, margin, lambda part: average_symmetries(model, part))
    assert whole.shape == (1, 3, height, width) and (parts - whole).abs().max() < 1e-5
    assert torch.allclose(whole.sum(1), torch.ones(1))


def test_averaged_symmetries_are_eight_and_turn_with_the_image():
    model = network("unet", width=4, depth=2)
    image = torch.randn(1, 2, 24, 40)
    with torch.inference_mode():
        once = average_symmetries(model, image)
        for turned, back in [(image.flip(3), lambda p: p.flip(3)), (image.transpose(2, 3), lambda p: p.transpose(2, 3)),
                             (image.rot90(1, (2, 3)), lambda p: p.rot90(-1, (2, 3)))]:
            assert torch.allclose(back(average_symmetries(model, turned)), once, atol=1e-5)
            assert not torch.allclose(back(model(turned).softmax(1)), model(image).softmax(1), atol=1e-2)

        def blind(x):  # all symmetries of a network that tells left from right: half see it on one side
            return torch.stack([torch.arange(x.shape[3]).expand(x.shape[2], -1), torch.zeros(x.shape[2:])]).float()[None]
        blind.stride = 4
        p = average_symmetries(blind, torch.zeros(1, 2, 8, 12))[0, 0]
    assert torch.allclose(p, p.flip(0)) and torch.allclose(p, p.flip(1)) and 0.5 < p[0, 0] < p[4, 6]


@pytest.mark.parametrize("name, tta", [("unet", False), ("unet", True), ("linknet", False)])
def test_a_window_without_its_margin_is_the_inside_of_the_whole(name, tta):
    model = network(name, **({"width": 4, "depth": 2} if name == "unet" else {}))
    image = torch.randn(1, 2, 64, 96)
    classes, probabilities = predict_window(model, image, 0, tta, True)
    inner, within = predict_window(model, image, 16, tta, True)
    assert torch.allclose(within, probabilities[..., 16:-16, 16:-16], atol=1e-6)
    assert inner.shape == (32, 64) and (inner == classes[16:-16, 16:-16]).mean() > 0.999


def test_what_is_kept_of_a_window():
    first, middle, last = axis_windows(176, 80, 16, 16)
    assert [(w.origin, w.keep_from, w.keep_to) for w in (first, middle, last)] == [(0, 0, 64), (48, 64, 112), (96, 112, 176)]
    assert unwanted_margin(middle, middle, 16) == 16
    assert unwanted_margin(first, middle, 16) == unwanted_margin(middle, last, 16) == unwanted_margin(first, first, 16) == 0
    assert kept(first, middle) == (slice(0, 64), slice(16, 64)) and kept(middle, middle, 16) == (slice(0, 48), slice(0, 48))


def test_a_windows_classes_are_its_likeliest():
    model = network("unet", width=4, depth=1)
    image = torch.randn(1, 2, 16, 16)
    classes, nothing = predict_window(model, image, 0, tta=False, wanted=False)
    again, probabilities = predict_window(model, image, 0, tta=False, wanted=True)
    assert nothing is None and (classes == again).all() and (probabilities[0].argmax(0).numpy() == classes).all()
    averaged, probabilities = predict_window(model, image, 0, tta=True, wanted=False)
    assert (probabilities[0].argmax(0).numpy() == averaged).all() and (averaged != classes).any()
