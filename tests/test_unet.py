"""unet.py: padding, U-Net, fusion block, ResNet and ResUNet, by eye, by count and by gradient.

Compared once with other programs, same weights, float64, largest difference (torch 2.13.0, CPU):
torchvision 0.29.2, features of ResNet-18, -34, -50, and -50 dilated to stride 16: 0.0.
segmentation_models.pytorch 0.6.0, last map of the U-Net with bilinear interpolation on ResNet-18
and -50: 0.0.
"""

import math

import pytest
import torch
from helpers import digest, randomise, reference, without_cancelling
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unet import (
    RESNETS, FusionBlock, ResNet, ResUNet, UNet, initialise, pad_to_stride, upsample,
    upsample_block)


def gflop(model):
    """10^9 floating-point operations for one image of 3 x 256 x 256, counted from shapes alone."""
    image = torch.empty(1, 3, 256, 256, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.to("meta")(image)
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("size, stride, padded", [
    ((1, 1), 4, (8, 8)),
    ((8, 12), 4, (8, 12)),
    ((9, 3), 4, (12, 8)),
    ((33, 47), 16, (48, 48)),
    ((16, 17), 16, (32, 32)),
])
def test_pad_to_stride__reaches_a_multiple_and_two_strides(size, stride, padded):
    height, width = size
    x = torch.rand(2, 3, height, width)
    y = pad_to_stride(x, stride)
    assert y.shape == (2, 3, *padded)
    assert torch.equal(y[..., :height, :width], x)


def test_pad_to_stride__repeats_the_edge():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    rows = [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]
    assert pad_to_stride(x, 2)[0, 0].tolist() == rows


def test_pad_to_stride__gives_a_whole_size_back():
    x = torch.rand(1, 1, 2, 2)
    assert pad_to_stride(x, 1) is x


def test_pad_to_stride__keeps_channels_last():
    x = torch.rand(2, 5, 9, 9).to(memory_format=torch.channels_last)
    assert pad_to_stride(x, 4).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("function", [
    lambda x: upsample(x, 2),
    upsample_block(1, 1, "bilinear"),
])
def test_upsample__does_not_align_corners(function):
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert function(x)[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_initialise__draws_by_fan_out():
    torch.manual_seed(0)
    model = nn.Module()
    model.full = nn.Conv2d(64, 128, 3)
    model.depthwise = nn.Conv2d(512, 512, 3, groups=512)
    model.last = nn.Conv2d(512, 7, 1)
    initialise(model, model.last)
    assert model.full.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)
    assert model.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert model.last.weight.std().item() == pytest.approx(math.sqrt(1 / 512), rel=0.05)


@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_unet__any_depth_takes_any_size(depth, size):
    model = UNet(2, 5, width=2, depth=depth)
    assert model.stride == 2**depth
    assert model(torch.rand(1, 2, *size)).shape == (1, 5, *size)


def test_unet__has_as_many_parameters_as_the_usual_one():
    with torch.device("meta"):
        model = UNet(3, 2, width=64)
    assert sum(p.numel() for p in model.parameters()) == 31_037_698


def test_unet__stem_2_needs_a_quarter_of_the_operations():
    plain = gflop(UNet(3, 7))
    assert plain == pytest.approx(6.08, abs=0.01)
    assert 3.5 < plain / gflop(UNet(3, 7, stem=2)) < 4.5


@pytest.mark.parametrize("depth, transposed, bilinear", [(1, 9, 10), (4, 107, 122)])
def test_unet__radius_by_count(depth, transposed, bilinear):
    """Depth 1: two 3x3s at full size, two at half (2 px each), two at full, 1 px in its cell: 9."""
    assert UNet(3, 2, width=2, depth=depth).radius == transposed
    assert UNet(3, 2, width=2, depth=depth, upsampling="bilinear").radius == bilinear


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_unet__fusion_learns(fusion):
    torch.manual_seed(0)
    model = UNet(3, 2, width=8, depth=3, fusion=fusion)
    model(torch.rand(2, 3, 33, 47)).square().sum().backward()
    blocks = [module for module in model.modules() if isinstance(module, FusionBlock)]
    assert len(blocks) == 1
    assert all(p.grad.any() for p in blocks[0].parameters())


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_fusion_block__sees_near_and_everything(fusion):
    torch.manual_seed(0)
    block = FusionBlock(4, 6, (1, 3), fusion).double().eval()
    x = torch.rand(1, 4, 15, 15, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == (1, 6, 15, 15)
    y[..., 7, 7].sum().backward()
    gradient = x.grad.abs().sum((0, 1))
    far = gradient[0, 0]
    assert far > 0  # the image branch depends on all pixels alike
    near = ((gradient - far).abs() > 1e-6 * far).nonzero() - 7
    expected = set()
    for rate in (1, 3):
        for row in (-rate, 0, rate):
            for col in (-rate, 0, rate):
                expected.add((row, col))
    assert set(map(tuple, near.tolist())) == expected


@pytest.mark.parametrize("name, keys, fingerprint, parameters", [
    ("resnet18", 120, "8c978ff63e1cde5f", 11_176_512),
    ("resnet34", 216, "389ab3ea5d5f2bfa", 21_284_672),
    ("resnet50", 318, "e1a41511a9760791", 23_508_032),
])
def test_resnet__names_and_shapes_are_torchvisions(name, keys, fingerprint, parameters):
    with torch.device("meta"):
        model = ResNet(name, 3)
    assert digest(model.state_dict()) == (keys, fingerprint)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_resnet__features():
    model = ResNet("resnet18", 4)
    features = model(torch.rand(1, 4, 64, 64))
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4, 2]
    assert [feature.shape[1] for feature in features] == model.widths == [64, 64, 128, 256, 512]


@pytest.mark.parametrize("name", [
    "resnet18",
    pytest.param("resnet34", marks=pytest.mark.slow),
    pytest.param("resnet50", marks=pytest.mark.slow),
])
def test_resnet__radius_by_light(name):
    """Light the last column that a deep cell depends on, or the one beside it."""
    model = without_cancelling(ResNet(name, 1))
    cell = model.radius // 32 + 2
    x = torch.zeros(2, 1, 32, 32 * (cell + 2), dtype=torch.float64)
    last = 32 * cell - model.radius
    x[0, ..., last] = 1
    x[1, ..., last - 1] = 1
    with torch.no_grad():
        inside, outside = model(x)[-1].amax((1, 2))
    assert inside[cell] > 0
    assert outside[cell] == 0


@pytest.mark.parametrize(
    "upsampling", ["bilinear", pytest.param("transposed", marks=pytest.mark.slow)])
def test_resunet__every_feature_reaches_the_logits(upsampling):
    torch.manual_seed(0)
    model = ResUNet(ResNet("resnet18", 3), 4, upsampling=upsampling).eval()
    x = torch.rand(1, 3, 40, 64)
    logits = model(x)
    assert logits.shape == (1, 4, 40, 64)
    for index in range(5):
        def erase(module, inputs, features, index=index):
            return features[:index] + [features[index] * 0] + features[index + 1:]
        hook = model.encoder.register_forward_hook(erase)
        assert not torch.equal(model(x), logits)
        hook.remove()


@pytest.mark.parametrize("name", RESNETS)
def test_resnet__same_numbers_as_torchvision(name):
    peer = randomise(getattr(reference("torchvision.models"), name)())
    state = {key: value for key, value in peer.state_dict().items() if not key.startswith("fc.")}
    ours = ResNet(name, 3).double().eval()
    ours.load_state_dict(state)
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = [peer.relu(peer.bn1(peer.conv1(x)))]
        y = peer.maxpool(expected[0])
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            y = layer(y)
            expected.append(y)
        for feature, target in zip(ours(x), expected, strict=True):
            assert (feature - target).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resunet__same_numbers_as_another_implementation(name):
    smp = reference("segmentation_models_pytorch")
    peer = smp.Unet(name, encoder_weights=None, decoder_interpolation="bilinear")
    peer = randomise(peer)
    ours = ResUNet(ResNet(name, 3), 2).double().eval()
    ours.encoder.load_state_dict(peer.encoder.state_dict())
    weights = peer.decoder.blocks.state_dict().values()  # other names, same order
    ours.merge.load_state_dict(dict(zip(ours.merge.state_dict(), weights, strict=True)))
    last = []
    ours.merge[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        ours(x)
        assert (last[0] - peer.decoder(peer.encoder(x))).abs().max() < 1e-10
