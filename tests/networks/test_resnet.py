"""resnet.py: padding, inflation and start by eye; names and shapes against torchvision's, numbers where it imports.

Compared once, float64, same weights in, largest difference of the features: torchvision 0.29.2, ResNet-18, -34, -50 at
output stride 32 and -50 at 16 and 8: 0.0 (torch 2.13.0, CPU).
"""

import math

import pytest
import torch
from helpers import digest, randomise, reference, without_cancelling
from torch import nn

import unet as resnet


@pytest.mark.parametrize("size, stride, padded", [((1, 1), 4, (8, 8)), ((8, 12), 4, (8, 12)), ((9, 3), 4, (12, 8)),
                                                  ((33, 47), 16, (48, 48)), ((16, 17), 16, (32, 32))])
def test_padding_reaches_a_multiple_and_two_strides(size, stride, padded):
    x = torch.rand(2, 3, *size)
    y = resnet.pad_to_stride(x, stride)
    assert y.shape == (2, 3, *padded)
    assert torch.equal(y[..., :size[0], :size[1]], x)
    assert torch.equal(y[..., -1, -1], x[..., -1, -1])


def test_padding_repeats_the_edge_and_leaves_whole_sizes_alone():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    rows = [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]
    assert resnet.pad_to_stride(x, 2)[0, 0].tolist() == rows
    assert resnet.pad_to_stride(x, 1) is x


def test_padding_keeps_channels_last():
    x = torch.rand(2, 5, 9, 9).to(memory_format=torch.channels_last)
    assert resnet.pad_to_stride(x, 4).is_contiguous(memory_format=torch.channels_last)


def test_upsampling_does_not_align_corners():
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert resnet.upsample(x, 2)[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_four_bands_share_three_colours():
    red, green, blue = 1.0, 2.0, 4.0
    weight = torch.tensor([red, green, blue]).view(1, 3, 1, 1)
    assert resnet.inflate_bands(weight, 4).flatten().tolist() == [red / 2, green, blue, red / 2]
    assert resnet.inflate_bands(weight, 3).flatten().tolist() == [red, green, blue]
    assert resnet.inflate_bands(weight, 1).flatten().tolist() == [7.0]
    assert resnet.inflate_bands(weight, 2).flatten().tolist() == [3.5, 3.5]


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 10, 13])
def test_inflation_keeps_the_response_to_grey(bands):
    weight, grey = torch.randn(8, 3, 7, 7, dtype=torch.float64), torch.rand(1, 1, 20, 20, dtype=torch.float64)
    inflated = resnet.inflate_bands(weight, bands)
    assert inflated.shape == (8, bands, 7, 7)
    expected = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    assert torch.allclose(torch.conv2d(grey.expand(-1, bands, -1, -1), inflated), expected, atol=1e-10)


def test_start_is_he_by_fan_out():
    torch.manual_seed(0)
    model = nn.Module()
    model.full, model.depthwise = nn.Conv2d(64, 128, 3), nn.Conv2d(512, 512, 3, groups=512)
    model.classifier = nn.Conv2d(512, 7, 1)
    resnet.initialise(model)
    assert model.full.weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)
    assert model.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert model.classifier.weight.std().item() == pytest.approx(math.sqrt(1 / 512), rel=0.05)


@pytest.mark.parametrize("name, keys, fingerprint, parameters", [("resnet18", 120, "8c978ff63e1cde5f", 11_176_512),
                                                                 ("resnet34", 216, "389ab3ea5d5f2bfa", 21_284_672),
                                                                 ("resnet50", 318, "e1a41511a9760791", 23_508_032)])
def test_names_and_shapes_are_torchvisions(name, keys, fingerprint, parameters):
    model = resnet.ResNet(name, 3)
    state = model.state_dict()
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer4.1.bn2.running_var"].shape == (512,)
    assert state["layer2.0.downsample.0.weight"].shape[2:] == (1, 1)
    assert digest(state) == (keys, fingerprint)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("output_stride, sides, rates", [(32, [32, 16, 8, 4, 2], [1, 1, 1]),
                                                         (16, [32, 16, 8, 4, 4], [1, 1, 2]),
                                                         (8, [32, 16, 8, 8, 8], [1, 2, 4])])
def test_strides_give_way_to_dilation(output_stride, sides, rates):
    model = resnet.ResNet("resnet18", 4, output_stride)
    features = model(torch.rand(1, 4, 64, 64))
    assert [f.shape[2] for f in features] == sides
    assert [f.shape[1] for f in features] == model.widths == [64, 64, 128, 256, 512]
    assert [layer[1].conv2.dilation[0] for layer in (model.layer2, model.layer3, model.layer4)] == rates


@pytest.mark.parametrize("name", resnet.RESNETS)
def test_reach(name):
    """Light the last column that a deep cell can see, or the one beside it."""
    model = without_cancelling(resnet.ResNet(name, 1))
    cell = model.reach // 32 + 2
    x = torch.zeros(2, 1, 32, 32 * (cell + 2), dtype=torch.float64)
    x[0, ..., 32 * cell - model.reach] = 1
    x[1, ..., 32 * cell - model.reach - 1] = 1
    with torch.no_grad():
        inside, outside = model(x)[-1].amax((1, 2))
    assert inside[cell] > 0 and outside[cell] == 0


@pytest.mark.parametrize("name, output_stride", [("resnet18", 32), ("resnet34", 32), ("resnet50", 32), ("resnet50", 16),
                                                 ("resnet50", 8)])
def test_same_numbers_as_torchvision(name, output_stride):
    dilate = [False, output_stride < 16, output_stride < 32]
    peer = getattr(reference("torchvision.models"), name)(replace_stride_with_dilation=dilate)
    peer = randomise(peer)
    ours = resnet.ResNet(name, 3, output_stride).double().eval()
    ours.load_state_dict({key: value for key, value in peer.state_dict().items() if not key.startswith("fc.")})
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = [peer.relu(peer.bn1(peer.conv1(x)))]
        y = peer.maxpool(expected[0])
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            y = layer(y)
            expected.append(y)
        for feature, target in zip(ours(x), expected, strict=True):
            assert (feature - target).abs().max() < 1e-10
