"""geo/windows.py: windows cover a scene, and together they give the logits of the whole scene."""

from types import SimpleNamespace

import pytest
import torch
from helpers import randomise
from torch.utils.flop_counter import FlopCounterMode

from engine.device import autocast
from geo.windows import (
    RowBands, average_symmetries, axis_windows, center_crop, compute_in_bands, decode_inside,
    decoder_crops, discarded_margin, even_window, logits_inside, predict_window, valid_slices,
    window_and_margin, window_origins)
from networks import build_model, fold_batch_norm
from networks.efficientnet import MobileBlock
from unet import UNet


@pytest.mark.parametrize("length, window, margin, origins", [
    (64, 64, 16, [0]),
    (32, 64, 16, [0]),
    (96, 64, 16, [0, 32]),
    (100, 64, 16, [0, 32, 36]),
    (128, 32, 0, [0, 32, 64, 96]),
])
def test_window_origins__by_hand(length, window, margin, origins):
    assert window_origins(length, window, margin) == origins


@pytest.mark.parametrize("length", [1, 7, 8, 31, 63, 64, 65, 100, 257, 1000])
@pytest.mark.parametrize("window, margin, stride", [
    (64, 16, 8),
    (64, 0, 8),
    (16, 4, 4),
    (32, 8, 8),
])
def test_axis_windows__valid_parts_cover_the_axis(length, window, margin, stride):
    windows = axis_windows(length, window, margin, stride)
    assert windows[0].keep_from == 0
    assert windows[-1].keep_to == length
    for before, after in zip(windows, windows[1:]):
        assert before.keep_to == after.keep_from
    for w in windows:
        end = w.origin + w.size
        assert w.origin % stride == 0
        assert w.size <= window
        assert end <= length
        assert w.keep_from == 0 or w.keep_from - w.origin >= margin
        assert w.keep_to == length or end - w.keep_to >= margin


@pytest.mark.parametrize("length, window, margin, stride, even", [
    (104, 64, 8, 8, 64),  # 8 + 48 + 8, then 8 + 40: two windows need 64 px
    (88, 64, 8, 8, 56),  # two of 64 would overlap by 40 px, two of 56 by 24
    (5000, 512, 32, 8, 480),
    (48, 64, 8, 8, 48),
    (16, 64, 24, 8, 16),  # less than two margins
])
def test_even_window__is_the_smallest_for_its_number(length, window, margin, stride, even):
    assert even_window(length, window, margin, stride) == even
    count = len(window_origins(length, window, margin))
    assert len(window_origins(length, even, margin)) == count
    if count > 1 and even - stride > 2 * margin:
        assert len(window_origins(length, even - stride, margin)) > count


def test_window_and_margin__defaults_hold_the_margins():
    small = SimpleNamespace(stride=16, radius=107)
    large = SimpleNamespace(stride=32, radius=573)
    assert window_and_margin(None, None, small) == (1024, 112)
    assert window_and_margin(None, None, large) == (2304, 576)  # 4 * 573, up to the stride
    with pytest.raises(ValueError, match="--window 1024"):
        window_and_margin(1024, None, large)


def test_axis_windows__by_hand():
    first, middle, last = axis_windows(176, 80, 16, 16)
    assert first == (0, 80, 0, 64)
    assert middle == (48, 80, 64, 112)
    assert last == (96, 80, 112, 176)


def test_discarded_margin__needs_all_four_sides():
    first, middle, last = axis_windows(176, 80, 16, 16)
    assert discarded_margin(middle, middle, 16) == 16
    assert discarded_margin(first, middle, 16) == 0
    assert discarded_margin(middle, last, 16) == 0
    assert discarded_margin(first, first, 16) == 0


def test_valid_slices__by_hand():
    first, middle, _ = axis_windows(176, 80, 16, 16)
    assert valid_slices(first, middle) == (slice(0, 64), slice(16, 64))
    assert valid_slices(middle, middle, 16) == (slice(0, 48), slice(0, 48))


def network(name, **options):
    """A network of 2 bands and 3 classes with random norms, as predict.py prepares it."""
    torch.manual_seed(0)
    model = randomise(build_model(name, 2, 3, **options)).float()
    torch.nn.init.normal_(model.classifier.weight)
    return fold_batch_norm(model).to(memory_format=torch.channels_last)


def in_windows(model, image, window, margin, function):
    """Apply a function (1, C, h, w) -> (1, K, h, w) window by window and join the valid parts."""
    rows = axis_windows(image.shape[2], window, margin, model.stride)
    cols = axis_windows(image.shape[3], window, margin, model.stride)
    bands = []
    for row in rows:
        parts = []
        for col in cols:
            inputs = image[:, :, row.origin:, col.origin:][:, :, :row.size, :col.size]
            valid = valid_slices(row, col)
            parts.append(function(inputs)[:, :, valid[0], valid[1]])
        bands.append(torch.cat(parts, 3))
    return torch.cat(bands, 2)


@pytest.mark.parametrize("name, options", [
    ("unet", {"depth": 3, "width": 4}),
    ("unet", {"depth": 2, "width": 4, "upsampling": "bilinear"}),
    ("unet", {"depth": 2, "width": 4, "stem": 2}),
    pytest.param("linknet", {}, marks=pytest.mark.slow),
    pytest.param("resunet", {}, marks=pytest.mark.slow),
    pytest.param("resunet", {"upsampling": "transposed"}, marks=pytest.mark.slow),
    pytest.param("resunet", {"encoder": "resnet50"}, marks=pytest.mark.slow),
    pytest.param("resunet", {"encoder": "efficientnet_lite0"}, marks=pytest.mark.slow),
    pytest.param("linknet", {"encoder": "efficientnet_lite0"}, marks=pytest.mark.slow),
    pytest.param("fpn", {}, marks=pytest.mark.slow),
    pytest.param("unetpp", {}, marks=pytest.mark.slow),
])
def test_windows__with_the_default_margin_give_the_whole_scenes_logits(name, options):
    model = network(name, **options)
    _, margin = window_and_margin(2**20, None, model)
    window = 2 * margin + 2 * model.stride
    length = window + 3 * model.stride + 5  # three windows side by side
    for size in [(45, length), (length, 45)]:
        scene = torch.randn(1, 2, *size)
        with torch.inference_mode():
            whole = model(scene)
            parts = in_windows(model, scene, window, margin, model)
        assert parts.shape == whole.shape
        assert (parts - whole).abs().max() < 1e-4 * whole.std(dim=(2, 3)).min()


def test_windows__half_the_radius_would_be_seen():
    model = network("unet", depth=3, width=4)
    scene = torch.randn(1, 2, 45, 203)
    with torch.inference_mode():
        parts = in_windows(model, scene, 64, 24, model)
        assert (parts - model(scene)).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(45, 203), (5, 9), (64, 96)])
@pytest.mark.parametrize("options", [
    {"depth": 2},
    {"depth": 1, "stem": 2, "upsampling": "bilinear"},
])
def test_average_symmetries__of_windows_equals_that_of_the_scene(size, options):
    model = network("unet", width=4, **options)
    _, margin = window_and_margin(2**20, None, model)
    window = 2 * margin + 16
    scene = torch.randn(1, 2, *size)
    with torch.inference_mode():
        whole = average_symmetries(model, scene)
        parts = in_windows(model, scene, window, margin, lambda x: average_symmetries(model, x))
    assert whole.shape == (1, 3, *size)
    assert (parts - whole).abs().max() < 1e-5
    assert torch.allclose(whole.sum(1), torch.ones(1))


@pytest.mark.parametrize("turn, back", [
    (lambda x: x.flip(3), lambda p: p.flip(3)),
    (lambda x: x.transpose(2, 3), lambda p: p.transpose(2, 3)),
    (lambda x: x.rot90(1, (2, 3)), lambda p: p.rot90(-1, (2, 3))),
])
def test_average_symmetries__turns_with_the_image(turn, back):
    model = network("unet", width=4, depth=2)
    image = torch.randn(1, 2, 24, 40)
    with torch.inference_mode():
        once = average_symmetries(model, image)
        assert torch.allclose(back(average_symmetries(model, turn(image))), once, atol=1e-5)
        plain = model(image).softmax(1)
        assert not torch.allclose(back(model(turn(image)).softmax(1)), plain, atol=1e-2)


def test_average_symmetries__are_all_eight():
    """Average a network whose logits are the column's number, not the image: the sides agree."""
    def column_number(x):
        columns = torch.arange(x.shape[3]).expand(x.shape[2:])
        return torch.stack([columns, torch.zeros(x.shape[2:])]).float()[None]

    column_number.stride = 4
    p = average_symmetries(column_number, torch.zeros(1, 2, 8, 12))[0, 0]
    assert torch.allclose(p, p.flip(0))
    assert torch.allclose(p, p.flip(1))
    assert 0.5 < p[0, 0] < p[4, 6]


@pytest.mark.parametrize("name, options, tta", [
    ("unet", {"width": 4, "depth": 2}, False),
    ("unet", {"width": 4, "depth": 2}, True),
    ("linknet", {}, False),
])
def test_predict_window__inside_a_margin_equals_the_whole(name, options, tta):
    model = network(name, **options)
    image = torch.randn(1, 2, 64, 96)
    classes, probabilities = predict_window(model, image, 0, tta, True)
    inner_classes, inner = predict_window(model, image, 16, tta, True)
    assert torch.allclose(inner, probabilities[..., 16:-16, 16:-16], atol=1e-6)
    assert inner_classes.shape == (32, 64)
    assert (inner_classes == classes[16:-16, 16:-16]).mean() > 0.999


@pytest.mark.parametrize("margin", [0, 8])
def test_logits_inside__are_float32_from_a_network_in_bfloat16(margin):
    model = network("unet", width=4, depth=2)
    image = torch.randn(1, 2, 64, 64)
    exact = logits_inside(model, image, margin)
    with autocast(torch.device("cpu"), torch.bfloat16):
        logits = logits_inside(model, image, margin)
    assert logits.dtype == torch.float32
    error = (logits - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.05  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("tta", [False, True])
def test_predict_window__classes_are_the_likeliest(tta):
    model = network("unet", width=4, depth=1)
    image = torch.randn(1, 2, 16, 16)
    classes, nothing = predict_window(model, image, 0, tta, False)
    again, probabilities = predict_window(model, image, 0, tta, True)
    assert nothing is None
    assert (classes == again).all()
    assert (probabilities[0].argmax(0).numpy() == classes).all()


def test_decoder_crops__by_hand():
    assert decoder_crops(32, [1, 2, 2]) == [2, 11, 29]  # 32 - 3, 29 // 2 - 3, 11 // 2 - 3
    assert decoder_crops(112, [2, 2, 2]) == [8, 23, 53]
    assert decoder_crops(5, [1, 2]) == [0, 2]
    assert decoder_crops(0, [1, 2]) == [0, 0]


@pytest.mark.parametrize("name, options, margins", [
    ("unet", {"width": 2, "depth": 1}, (0, 1, 30)),
    ("unet", {"width": 2, "depth": 4}, (3, 16, 30)),
    ("unet", {"width": 2, "depth": 2, "fusion": "sum"}, (9,)),
    ("unet", {"width": 2, "depth": 3, "stem": 2, "upsampling": "bilinear"}, (1, 4, 9, 30)),
    ("resunet", {}, (29,)),
    pytest.param("resunet", {"encoder": "efficientnet_lite0"}, (9, 30), marks=pytest.mark.slow),
    pytest.param("resunet", {"upsampling": "transposed"}, (5, 29), marks=pytest.mark.slow),
])
def test_decode_inside__equals_the_inside_of_the_whole(name, options, margins):
    model = network(name, **options).double()
    image = torch.randn(1, 2, 67, 90, dtype=torch.float64)
    with torch.inference_mode():
        whole = model(image)
        for margin in margins:
            inside = decode_inside(model, image, margin)
            assert torch.allclose(inside, center_crop(whole, margin), rtol=0, atol=1e-9)


def test_decode_inside__does_not_compute_the_margin():
    model = UNet(3, 7, width=8, depth=2).to("meta")
    image = torch.empty(1, 3, 128, 128, device="meta")
    flops = []
    for margin in (0, 32):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            decode_inside(model, image, margin)
        flops.append(counter.get_total_flops())
    assert flops[1] < 0.75 * flops[0]


def test_logits_inside__uses_the_forward_of_a_subclass():
    class Doubled(UNet):
        """A network of a fork that changes the U-Net's forward."""

        def forward(self, x):
            return 2 * super().forward(x)

    model = Doubled(2, 3, width=2, depth=1).eval()
    image = torch.randn(1, 2, 32, 32)
    assert torch.equal(logits_inside(model, image, 8), model(image)[..., 8:-8, 8:-8])


@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("height", [16, 22])
def test_row_bands__equal_the_whole_map(kernel, stride, height, monkeypatch):
    torch.manual_seed(0)
    block = randomise(MobileBlock(4, 4, kernel, stride, expansion=6))
    image = torch.randn(1, 4, height, 10).double()
    heights = []
    block.register_forward_hook(lambda module, inputs, output: heights.append(inputs[0].shape[2]))
    monkeypatch.setattr("geo.windows.BAND_VALUES", 6 * 4 * 10 * 8)  # bands of eight rows
    assert torch.allclose(RowBands(block, 6, stride)(image), block(image), atol=1e-12)
    assert heights[:-1] == {16: [12, 12], 22: [12, 16, 10]}[height]


def test_compute_in_bands__gives_the_logits_of_the_network(monkeypatch):
    model = network("resunet", encoder="efficientnet_lite0")
    image = torch.randn(1, 2, 64, 64)
    expected = model(image)
    monkeypatch.setattr("geo.windows.BAND_VALUES", 2**12)
    compute_in_bands(model)
    assert torch.allclose(model(image), expected, atol=1e-4)
    assert sum(isinstance(module, RowBands) for module in model.modules()) == 17
