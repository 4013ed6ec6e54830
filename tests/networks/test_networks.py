"""networks/__init__.py and decoders.py: properties that every network has, and those of each.

Compared once with segmentation_models.pytorch 0.6.0 with bilinear interpolation, same weights,
float64: largest difference of the last map of U-Net++ on ResNet-18 and -50: 0.0. And the dilated
ResNets with torchvision 0.29.2: 0.0 (torch 2.13.0, CPU).
"""

import copy
import functools
import pathlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, reference, without_cancelling
from torch import nn

import networks
from engine.checkpoint import load_model, save_checkpoint
from geo.windows import window_and_margin
from networks import NETWORKS, build_model, fold_batch_norm, freeze_encoder
from networks.decoders import dilate_last_stage
from unet import ResNet

ALL = list(NETWORKS)
UNET_ALONE = ["unet"] + [pytest.param(name, marks=pytest.mark.slow) for name in ALL[1:]]
PARAMETERS = {  # with 3 bands and 2 classes; the docstrings name papers and programs that agree
    "unet": 1_942_594,
    "resunet": 14_328_098,
    "fpn": 15_407_682,
    "unetpp": 15_970_338,
    "linknet": 11_533_442,
    "deeplabv3plus": 12_329_298,
    "segformer": 3_714_658,
}


def make(name, **options):
    """Build a network of 3 bands and 4 classes, the same at every call."""
    return copy.deepcopy(made(name, tuple(options.items())))


@functools.lru_cache
def made(name, options):
    """Build a network once, because drawing millions of weights takes most of a test's time."""
    torch.manual_seed(0)
    return build_model(name, bands=3, classes=4, **dict(options))


def unused_parameters(model):
    """Names of the parameters that one training step on two small images does not reach."""
    logits = model(torch.rand(2, 3, 33, 47))
    F.cross_entropy(logits, torch.randint(4, (2, 33, 47))).backward()
    return [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", ALL)
def test_build_model__takes_any_size_in_both_modes(name):
    model = make(name)
    assert model(torch.rand(1, 3, 1, 1)).shape == (1, 4, 1, 1)
    assert model.eval()(torch.rand(1, 3, 33, 47)).shape == (1, 4, 33, 47)


@pytest.mark.parametrize("name", UNET_ALONE)
@pytest.mark.parametrize("bands, classes", [(1, 2), (13, 23)])
def test_build_model__takes_any_bands_and_classes(name, bands, classes):
    model = build_model(name, bands, classes)
    assert model(torch.rand(1, bands, 33, 70)).shape == (1, classes, 33, 70)


@pytest.mark.parametrize("name", ALL)
def test_build_model__every_parameter_learns(name):
    assert unused_parameters(make(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL[1:])
def test_build_model__every_parameter_learns_with_other_encoders(name):
    _, encoders = NETWORKS[name]
    for encoder in list(encoders)[1:]:
        assert unused_parameters(build_model(name, 3, 4, encoder=encoder)) == []


@pytest.mark.parametrize("name", ALL)
def test_build_model__parameters(name):
    with torch.device("meta"):  # shapes without numbers
        model = build_model(name, 3, 2)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", [
    "unet",
    "segformer",
    *[pytest.param(name, marks=pytest.mark.slow) for name in ALL[1:-1]],
])
def test_build_model__channels_last_gives_the_same(name):
    model = make(name).double().eval()
    x = torch.rand(2, 3, 40, 64, dtype=torch.float64)
    plain = model(x)
    model = model.to(memory_format=torch.channels_last)
    fast = model(x.to(memory_format=torch.channels_last))
    assert torch.allclose(fast, plain, atol=1e-10)
    assert fast.stride(1) == 1


@pytest.mark.parametrize("name", UNET_ALONE)
def test_load_model__rebuilds_from_the_checkpoint_alone(name, tmp_path):
    kwargs = {"bands": 3, "classes": 4}
    if name == "unet":
        kwargs |= {"fusion": "sum", "depth": 2}
    model = build_model(name, **kwargs)
    model(torch.rand(2, 3, 33, 47))  # moves the batch-norm statistics
    saved = {"name": name, "kwargs": kwargs, "state": model.state_dict()}
    meta = {"classes": ["a", "b", "c", "d"], "colours": [[0, 0, 0]] * 4, "ignore": 255,
            "mean": [0.0] * 3, "std": [1.0] * 3, "bands": 3, "dtype": "uint8", "rgb": [0]}
    save_checkpoint(tmp_path / "best.pt", saved, meta, {}, {})
    loaded, _ = load_model(tmp_path / "best.pt")
    x = torch.rand(1, 3, 33, 47).to(memory_format=torch.channels_last)
    expected = model.to(memory_format=torch.channels_last).eval()(x)
    assert not loaded.training
    assert torch.equal(loaded(x), expected)


def light_reach(model, columns):
    """How far from a lit column of an otherwise dark image a logit differs from 0, px.

    With positive weights and no biases nothing cancels: a logit is 0 unless it depends on the
    column.
    """
    length = columns[-1] + columns[0] + model.stride
    x = torch.zeros(len(columns), 1, model.stride, length, dtype=torch.float64)
    for image, column in zip(x, columns):
        image[..., column] = 1
    with torch.no_grad():
        logits = without_cancelling(model)(x)
    reach = 0
    for image, column in zip(logits, columns):
        lit = image.amax((0, 1)).nonzero().flatten()
        reach = max(reach, column - lit.min().item(), lit.max().item() - column)
    return reach


@pytest.mark.parametrize("name, options", [
    ("unet", {"width": 2, "depth": 1}),
    ("unet", {"width": 2, "depth": 3, "upsampling": "bilinear"}),
    ("unet", {"width": 2, "depth": 2, "stem": 2}),
    ("linknet", {}),
    pytest.param("unet", {"width": 2, "depth": 3}, marks=pytest.mark.slow),
    pytest.param("resunet", {}, marks=pytest.mark.slow),
    pytest.param("resunet", {"upsampling": "transposed"}, marks=pytest.mark.slow),
    pytest.param("fpn", {}, marks=pytest.mark.slow),
    pytest.param("unetpp", {}, marks=pytest.mark.slow),
    *[pytest.param(name, {"encoder": "efficientnet_lite0"}, marks=pytest.mark.slow)
      for name in ("resunet", "fpn", "unetpp", "linknet")],
])
def test_radius__holds_and_is_not_too_large(name, options):
    torch.manual_seed(0)
    model = build_model(name, 1, 2, **options)
    phases = range(model.stride)  # of the column in its cell of the deepest map
    if hasattr(model, "encoder"):
        radius = model.encoder.radius
        phases = [0, -radius % 32, radius % 32, 31]  # two are the last that a deep cell sees
    middle = model.stride * (model.radius // model.stride + 2)  # far enough from both ends
    reach = light_reach(model, [middle + phase for phase in phases])
    assert 0.95 * model.radius <= reach <= model.radius


@pytest.mark.parametrize("name, options", [
    ("deeplabv3plus", {}),
    ("segformer", {}),
    ("unet", {"fusion": "concat", "depth": 2}),
])
def test_radius__none_means_the_whole_image(name, options):
    model = make(name, **options).double().eval()
    x = torch.rand(1, 3, 32, 256, dtype=torch.float64)
    changed = x.clone()
    changed[..., -1] += 1
    assert model.radius is None
    with torch.no_grad():
        assert not torch.equal(model(x)[..., 0], model(changed)[..., 0])


def four_tiles():
    """Four tiles of 32 px, three classes: two halves and a disc, each with its colour, in noise."""
    row, col = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    labels = torch.stack([(col > 9 + 5 * i).long() for i in range(4)])
    for i, tile in enumerate(labels):
        tile[(row - 16)**2 + (col - 5 * i - 5)**2 < 64] = 2
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    colours = torch.eye(3)[labels].permute(0, 3, 1, 2)
    return 0.5 * noise + colours, labels


@pytest.mark.parametrize("name", UNET_ALONE)
def test_build_model__overfits_four_tiles(name):
    images, labels = four_tiles()
    model = make(name)
    lr = 1e-3 if name in ("fpn", "deeplabv3plus", "segformer") else 1e-2
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss {loss.item():.3f} after 60 steps")


@pytest.mark.parametrize("name, expected", [
    ("fpn", {1, 2, 3, 4}),
    ("unetpp", {0, 1, 2, 3, 4}),
    ("linknet", {1, 2, 3, 4}),
    ("deeplabv3plus", {1, 4}),
    ("segformer", {0, 1, 2, 3}),
])
def test_decoders__use_the_features_of_the_papers_figure(name, expected):
    model = make(name).eval()
    x = torch.rand(1, 3, 64, 64)
    used = set()
    with torch.no_grad():
        features = model.encoder(x)
        model.encoder.register_forward_hook(lambda module, inputs, output: features)
        logits = model(x)
        for index, feature in enumerate(features):
            features[index] = feature + 1
            if not torch.equal(model(x), logits):
                used.add(index)
            features[index] = feature
    assert used == expected


def test_fpn__adds_the_deep_to_the_fine():
    model = make("fpn").eval()
    for head in model.head[1:]:  # leaves the finest level alone
        head.register_forward_hook(lambda module, inputs, output: output * 0)
    x = torch.rand(1, 3, 64, 64)
    logits = model(x)
    torch.nn.init.constant_(model.lateral[3].bias, 1.0)
    assert not torch.equal(model(x), logits)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_lite0"])
def test_deeplabv3plus__encoder_ends_at_stride_16(encoder):
    model = make("deeplabv3plus", encoder=encoder)
    features = model.encoder(torch.rand(1, 3, 64, 64))
    assert model.stride == 16
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4, 4]


def test_dilate_last_stage__same_numbers_as_torchvision():
    torchvision = reference("torchvision.models")
    peer = torchvision.resnet50(replace_stride_with_dilation=[False, False, True])
    peer = randomise(peer)
    ours = ResNet("resnet50", 3).double().eval()
    dilate_last_stage(ours)
    state = {key: value for key, value in peer.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        y = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        expected = peer.layer4(peer.layer3(peer.layer2(peer.layer1(y))))
        assert (ours(x)[-1] - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["linknet", "segformer"])
def test_freeze_encoder__weights_and_statistics_stay(name):
    model = make(name)
    freeze_encoder(model)
    model = copy.deepcopy(model)  # as for exponential averages
    before = copy.deepcopy(model.state_dict())
    model.eval()
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=1.0)
    logits = model(torch.rand(2, 3, 32, 32))
    F.cross_entropy(logits, torch.randint(4, (2, 32, 32))).backward()
    optimizer.step()
    changed = set()
    for key, value in model.state_dict().items():
        if not torch.equal(value, before[key]):
            changed.add(key.split(".")[0])
    assert "encoder" not in changed
    assert "classifier" in changed
    assert model.training


def test_freeze_encoder__refuses_networks_without_one():
    with pytest.raises(ValueError, match="--encoder-lr 0.*resunet, fpn"):
        freeze_encoder(make("unet"))


@pytest.mark.parametrize("name, options", [
    *[(name, {}) for name in ALL],
    ("unet", {"depth": 2, "fusion": "concat", "upsampling": "bilinear", "stem": 2}),
    ("resunet", {"encoder": "efficientnet_lite0"}),
    pytest.param("resunet", {"encoder": "resnet50"}, marks=pytest.mark.slow),
])
def test_fold_batch_norm__logits_stay(name, options):
    model = randomise(make(name, **options)).float().to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        logits = model(x)
        folded = fold_batch_norm(model)(x)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert (folded - logits).abs().max() < 1e-4 * max(1, logits.abs().max())
    assert logits.std() > 1e-2


@pytest.mark.parametrize("conv", [
    nn.Conv2d(4, 8, 3, 2, padding=1),
    nn.ConvTranspose2d(4, 8, 3, 2, bias=False),
    nn.Conv2d(4, 8, 3, groups=4),
])
def test_fold_batch_norm__strided_transposed_and_grouped_convolutions(conv):
    model = randomise(nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU()))
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    expected = model(x)
    assert torch.allclose(fold_batch_norm(model)(x), expected, atol=1e-12)
    assert type(model[1]) is nn.Identity


def test_fold_batch_norm__a_layer_that_stands_twice_stays_in_its_places():
    relu = nn.ReLU()
    model = randomise(nn.Sequential(
        nn.Conv2d(4, 8, 3), relu, nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), relu, nn.BatchNorm2d(8)))
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    expected = model(x)
    assert torch.allclose(fold_batch_norm(model)(x), expected, atol=1e-12)


class Twice(nn.Module):
    """A network as a fork adds it: output as large as the input, no stride, radius, classifier."""

    def __init__(self, bands, classes, width=16):
        super().__init__()
        self.first = nn.Conv2d(bands, width, 3, padding=1)
        self.last = nn.Conv2d(width, classes, 1)
        self.norm = nn.BatchNorm2d(width)  # listed behind a convolution that it does not follow

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


class OnEncoder(nn.Module):
    """A network of a fork on an encoder of this project."""

    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder = encoder
        self.last = nn.Conv2d(encoder.widths[-1], classes, 1)

    def forward(self, x):
        return F.interpolate(self.last(self.encoder(x)[-1]), x.shape[2:])


def test_build_model__one_row_adds_a_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "twice", Twice)
    model = build_model("twice", 3, 2, width=5, depth=4)
    assert model.first.out_channels == 5
    assert (model.stride, model.radius) == (1, None)
    assert window_and_margin(None, None, model) == (1024, 64)
    randomise(model)
    x = torch.rand(1, 3, 8, 9, dtype=torch.float64)
    expected = model(x)
    assert torch.equal(fold_batch_norm(model)(x), expected)
    with pytest.raises(ValueError, match="--depth 3"):
        build_model("twice", 3, 2, depth=3)


def test_build_model__one_row_adds_a_network_on_an_encoder(monkeypatch):
    monkeypatch.setitem(NETWORKS, "mine", (OnEncoder, ["resnet34", "resnet18"]))
    model = build_model("mine", 4, 2, encoder="resnet18")
    assert model.eval()(torch.rand(1, 4, 40, 33)).shape == (1, 2, 40, 33)
    with torch.device("meta"):
        assert len(build_model("mine", 4, 2).encoder.layer1) == 3  # a ResNet-34


@pytest.mark.parametrize("arguments, hint", [
    ({"name": "vgg"}, "unet, resunet, fpn, unetpp, linknet, deeplabv3plus, segformer"),
    ({"name": "fpn", "encoder": "vgg"}, "resnet18, resnet34, resnet50"),
    ({"name": "fpn", "encoder": "mit_b0"}, "resnet18, resnet34, resnet50"),
    ({"name": "segformer", "encoder": "resnet18"}, "mit_b0, mit_b1, mit_b2"),
    ({"name": "unet", "encoder": "resnet18"}, "--encoder"),
    ({"name": "unet", "weights": "imagenet"}, "--weights"),
    ({"name": "segformer", "weights": "imagenet"}, "mit_b0.pth"),
    ({"name": "fpn", "width": 32}, "--width 32"),
    ({"name": "resunet", "fusion": "sum"}, "--fusion sum"),
    ({"name": "fpn", "upsampling": "bilinear"}, "--model fpn"),
    ({"name": "unet", "depth": 0}, "1 to 6"),
    ({"name": "unet", "depth": 7}, "1 to 6"),
    ({"name": "unet", "width": 0}, "--width 0"),
    ({"name": "unet", "stem": 3}, "1, 2"),
    ({"name": "unet", "fusion": "max"}, "none, concat, sum"),
    ({"name": "unet", "dropout": 0.2}, "--dropout 0.2"),
    ({"name": "unet", "bands": 0}, "bands 0"),
    ({"name": "unet", "classes": 0}, "classes 0"),
])
def test_build_model__wrong_arguments_are_one_line(arguments, hint):
    with pytest.raises(ValueError) as caught:
        build_model(**{"bands": 3, "classes": 2} | arguments)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def copy_in_order(ours, theirs):
    """Copy weights between two modules that list them alike under different names."""
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_unetpp__same_numbers_as_another_implementation(encoder):
    smp = reference("segmentation_models_pytorch")
    peer = smp.UnetPlusPlus(encoder, encoder_weights=None, decoder_interpolation="bilinear")
    peer = randomise(peer)
    ours = make("unetpp", encoder=encoder).double().eval()
    ours.encoder.load_state_dict(peer.encoder.state_dict())
    for row in range(4):
        for start in range(row + 1):  # theirs count from the deepest row
            node = ours.nodes[f"{3 - row}_{row - start + 1}"]
            copy_in_order(node, peer.decoder.blocks[f"x_{start}_{row}"])
    copy_in_order(ours.top, peer.decoder.blocks["x_0_4"])
    last = []
    ours.top.register_forward_hook(lambda module, inputs, output: last.append(output))
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        ours(x)
        assert (last[0] - peer.decoder(peer.encoder(x))).abs().max() < 1e-10


@pytest.mark.slow
def test_build_model__on_meta_does_not_import_the_compiler():
    code = ("import sys, torch, networks\n"
            "with torch.device('meta'):\n"
            "    [networks.build_model(name, bands=3, classes=2) for name in networks.NETWORKS]\n"
            "print('torch._dynamo' in sys.modules)")
    root = pathlib.Path(networks.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
