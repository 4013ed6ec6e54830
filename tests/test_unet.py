"""unet.py: the U-Net's sizes, cost and radius by count, the fusion block and the ResNet U-Net.

Compared once, float64, same weights in, largest difference of the last feature map: segmentation_models.pytorch 0.6.0
with bilinear interpolation, ResNet-18 and -50 U-Net: 0.0 (torch 2.13.0, CPU).
"""

import pytest
import torch
from helpers import randomise, reference
from torch.utils.flop_counter import FlopCounterMode

from unet import FusionBlock, ResNet, ResUNet, UNet, decoder_crops, upsample_block


def gflop(model, side, *margin):
    """10^9 floating-point operations of one forward pass of a 3-band image; counted from shapes, nothing is computed."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval().to("meta")(torch.rand(1, 3, side, side, device="meta"), *margin)
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_any_depth_takes_any_size(depth, size):
    model = UNet(2, 5, width=2, depth=depth)
    assert model.stride == 2**depth
    assert model(torch.rand(1, 2, *size)).shape == (1, 5, *size)


def test_parameters_and_cost():
    with torch.device("meta"):
        model = UNet(3, 2, width=64)
    assert sum(p.numel() for p in model.parameters()) == 31_037_698
    plain, cheap = gflop(UNet(3, 7), 256), gflop(UNet(3, 7, stem=2), 256)
    assert plain == pytest.approx(6.08, abs=0.01)
    assert 3.5 < plain / cheap < 4.5


@pytest.mark.parametrize("depth, transposed, bilinear", [(1, 9, 10), (3, 51, 58), (4, 107, 122), (5, 219, 250)])
def test_radius_by_count(depth, transposed, bilinear):
    """Depth 1: two 3x3s at full size, two at half (2 px each), two at full, and 1 px within the 2 px cell: 9."""
    assert UNet(3, 2, width=2, depth=depth).radius == transposed
    assert UNet(3, 2, width=2, depth=depth, upsampling="bilinear").radius == bilinear


def test_bilinear_doubles_without_aligned_corners():
    layer = upsample_block(1, 1, "bilinear")
    assert layer(torch.tensor([[[[0.0, 1.0]]]]))[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_stem_folds_two_by_two_pixels():
    model = UNet(3, 2, width=4, depth=1, stem=2)
    entry = []
    model.down[0].register_forward_pre_hook(lambda module, inputs: entry.append(inputs[0]))
    x = torch.rand(1, 3, 8, 12)
    assert model(x).shape == (1, 2, 8, 12)
    assert entry[0].shape == (1, 12, 4, 6)
    assert entry[0][0, :4, 1, 2].tolist() == x[0, 0, 2:4, 4:6].flatten().tolist()


@pytest.mark.parametrize("how", ["concat", "sum"])
def test_fusion_sees_near_and_everything(how):
    torch.manual_seed(0)
    block = FusionBlock(4, 6, (1, 3), how).double().eval()
    x = torch.rand(1, 4, 15, 15, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == (1, 6, 15, 15)
    y[..., 7, 7].sum().backward()
    seen = x.grad.abs().sum((0, 1))
    far = seen[0, 0]
    assert far > 0  # the image branch sees all pixels alike
    nearer = ((seen - far).abs() > 1e-6 * far).nonzero() - 7
    grid = [[rate * row, rate * col] for rate in (1, 3) for row in (-1, 0, 1) for col in (-1, 0, 1)]
    assert sorted(nearer.tolist()) == sorted(map(list, set(map(tuple, grid))))


def test_fusion_sum_adds_its_branches():
    block = FusionBlock(2, 3, (1, 2), "sum").eval()
    x = torch.rand(2, 2, 6, 6)
    expected = sum(branch(x) for branch in block.branches) + block.image(x.mean((2, 3), keepdim=True))
    assert torch.allclose(block(x), expected)


@pytest.mark.parametrize("place, blocks", [("bottleneck", 1), ("skips", 3)])
@pytest.mark.parametrize("how", ["concat", "sum"])
def test_fusion_sits_where_it_is_told(place, blocks, how):
    torch.manual_seed(0)
    model = UNet(3, 2, width=8, depth=3, fusion=how, fusion_at=place)
    model(torch.rand(2, 3, 33, 47)).square().sum().backward()
    found = [module for module in model.modules() if isinstance(module, FusionBlock)]
    assert len(found) == blocks
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert model.radius is None


def test_dropout_only_while_training():
    model = UNet(1, 2, width=4, depth=2, dropout=0.5)
    x = torch.rand(4, 1, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("skips, upsampling", [(True, "transposed"), (False, "transposed"), (False, "bilinear")])
def test_resunet_variants(skips, upsampling):
    """Without skips nothing of the finer features reaches the decoder."""
    model = ResUNet(ResNet("resnet18", 3), 4, upsampling=upsampling, skips=skips).eval()
    x = torch.rand(1, 3, 40, 64)
    before = model(x)
    assert before.shape == (1, 4, 40, 64)
    model.encoder.register_forward_hook(lambda module, inputs, output: [f * 0 for f in output[:-1]] + output[-1:])
    assert torch.equal(model(x), before) == (not skips)


def test_cuts_going_up_by_hand():
    assert decoder_crops(32, [1, 2, 2]) == [2, 11, 29]  # 32 - 3; 29 // 2 - 3; 11 // 2 - 3
    assert decoder_crops(112, [2, 2, 2]) == [8, 23, 53]
    assert decoder_crops(5, [1, 2]) == [0, 2] and decoder_crops(0, [1, 2]) == [0, 0]


@pytest.mark.parametrize("margin", [1, 3, 4, 9, 16, 30])
@pytest.mark.parametrize("options", [
    {"depth": 1}, {"depth": 4}, {"depth": 3, "upsampling": "bilinear"}, {"depth": 2, "stem": 2},
    {"depth": 3, "stem": 2, "upsampling": "bilinear"}, {"depth": 2, "fusion": "sum", "fusion_at": "skips"}], ids=str)
def test_logits_inside_a_margin_are_those_of_the_whole(options, margin):
    torch.manual_seed(0)
    model = randomise(UNet(2, 3, width=2, **options)).double().eval()
    image = torch.randn(2, 2, 67, 90, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(image, margin), model(image)[..., margin:-margin, margin:-margin], rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"skips": False}, {"upsampling": "transposed"}], ids=str)
def test_logits_of_a_resunet_inside_a_margin(options):
    torch.manual_seed(0)
    model = randomise(ResUNet(ResNet("resnet18", 2), 3, **options)).double().eval()
    image = torch.randn(1, 2, 110, 128, dtype=torch.float64)
    with torch.no_grad():
        for margin in (5, 41):
            assert torch.allclose(model(image, margin), model(image)[..., margin:-margin, margin:-margin], rtol=0, atol=1e-9)


def test_what_lies_in_a_margin_is_not_computed():
    model = UNet(3, 7, width=8, depth=2)
    assert gflop(model, 128, 32) < 0.75 * gflop(model, 128)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_same_numbers_as_another_implementation(name):
    smp = reference("segmentation_models_pytorch")
    peer = randomise(smp.Unet(name, encoder_weights=None, decoder_interpolation="bilinear"))
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
