"""networks/: one walk over every network, what each sees and learns, weights in files, freezing, wrong arguments.

Compared once, float64, same weights in, largest difference of the last feature map: segmentation_models.pytorch 0.6.0
with bilinear interpolation, U-Net++ on ResNet-18 and -50: 0.0 (torch 2.13.0, CPU).
"""

import contextlib
import copy
import functools
import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, reference, spoil_bytes, without_cancelling

import networks
from engine.checkpoint import load_model, save_checkpoint
from networks import NETWORKS, build_model, fold_batch_norm, freeze_encoder, weights
from unet import inflate_bands

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about odd tensors and spoilt files
SLOW = set(NETWORKS) - {"unet"}  # where a test takes seconds for each
SOME_SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETWORKS]
OTHERS = [(name, encoder) for name, (_, encoders, _) in NETWORKS.items() for encoder in encoders[1:]]
PARAMETERS = {  # 3 bands, 2 classes; beside the paper or program it agrees with, see the docstrings
    "unet": 1_942_594, "resunet": 14_328_098, "fpn": 15_407_682, "unetpp": 15_970_338, "linknet": 11_533_442,
    "deeplabv3plus": 12_329_298, "segformer": 3_714_658}


@pytest.fixture(autouse=True)
def no_weights_drawn_twice(monkeypatch):
    """Convolutions start at zero until `resnet.initialise` draws them: torch's own draw before that takes as long again."""
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", lambda layer: [p.data.zero_() for p in layer.parameters()])


def make(name, bands=3, classes=4, **options):
    """A network of its own for each test, the same at every call."""
    torch.manual_seed(0)
    model = build_model(name, bands, classes, **options) if options or (bands, classes) != (3, 4) else copy.deepcopy(started(name))
    torch.manual_seed(1)
    return model


@functools.lru_cache
def started(name):
    """A network of 3 bands and 4 classes, built once: to draw its millions of weights anew would take most of a test's time."""
    return build_model(name, bands=3, classes=4)


def state_file(path, model, **more):
    """The encoder's weights as a published file has them; returns its path."""
    torch.save(model.encoder.state_dict() | more, path)
    return str(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_bands_classes_batch_of_one(name):
    for bands, classes, sizes in [(1, 2, [(1, 1), (1, 70)]), (13, 23, [(33, 47), (64, 64)])]:
        model = make(name, bands, classes)
        for size in sizes:
            x = torch.rand(1, bands, *size)
            assert model(x).shape == (1, classes, *size)
    assert model.eval()(x).shape == (1, classes, *size)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name):
    model = make(name)
    F.cross_entropy(model(torch.rand(2, 3, 33, 47)), torch.randint(4, (2, 33, 47))).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_changes_nothing(name):
    model = make(name).double().eval()
    x = torch.rand(2, 3, 40, 64, dtype=torch.float64)
    plain = model(x)
    fast = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(fast, plain, atol=1e-10)
    assert fast.stride(1) == 1


@pytest.mark.parametrize("name", SOME_SLOW)
def test_rebuilt_from_the_checkpoint_alone(name, tmp_path):
    kwargs = {"bands": 4, "classes": 2} | ({"fusion": "sum", "depth": 2} if name == "unet" else {})
    model = build_model(name, **kwargs)
    model(torch.rand(2, 4, 33, 47))  # moves the batch-norm statistics
    saved = {"name": name, "kwargs": kwargs, "state": model.state_dict()}
    meta = {"classes": ["a", "b"], "colours": [[0, 0, 0]] * 2, "ignore": 255, "mean": [0.0] * 4, "std": [1.0] * 4, "bands": 4,
             "rgb": [0]}
    save_checkpoint(tmp_path / "best.pt", saved, meta, {}, {})
    loaded, _ = load_model(tmp_path / "best.pt")
    x = torch.rand(1, 4, 33, 47).to(memory_format=torch.channels_last)
    expected = model.to(memory_format=torch.channels_last).eval()(x)
    assert not loaded.training and torch.equal(loaded(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters(name):
    with torch.device("meta"):  # shapes without numbers
        assert sum(p.numel() for p in build_model(name, 3, 2).parameters()) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name, encoder", OTHERS)
def test_other_encoders(name, encoder):
    model = make(name, encoder=encoder)
    F.cross_entropy(model(torch.rand(1, 3, 33, 47)), torch.randint(4, (1, 33, 47))).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("output_stride", [16, 8])
def test_deeplab_pads_to_its_output_stride(output_stride):
    model = make("deeplabv3plus", output_stride=output_stride)
    assert model.stride == output_stride
    assert model(torch.rand(1, 3, 33, 47)).shape == (1, 4, 33, 47)


USED = {"resunet": {0, 1, 2, 3, 4}, "fpn": {1, 2, 3, 4}, "unetpp": {0, 1, 2, 3, 4}, "linknet": {1, 2, 3, 4},
        "deeplabv3plus": {1, 4}, "segformer": {0, 1, 2, 3}}  # which of the encoder's features the paper's figure uses


@pytest.mark.parametrize("name", USED)
def test_features_that_reach_the_logits(name):
    model = make(name).eval()
    x = torch.rand(1, 3, 64, 64)
    model.encoder.forward = lambda x: features
    with torch.no_grad():
        intact = features = type(model.encoder).forward(model.encoder, x)
        logits = model(x)
        used = set()
        for index in range(len(intact)):
            features = intact[:index] + [intact[index] + 1] + intact[index + 1:]
            if not torch.equal(model(x), logits):
                used.add(index)
    assert used == USED[name]


def test_fpn_adds_the_deep_to_the_fine():
    model = make("fpn").eval()
    for head in model.head[1:]:
        head.register_forward_hook(lambda module, inputs, output: output * 0)  # leaves the finest level alone
    x = torch.rand(1, 3, 64, 64)
    logits = model(x)
    torch.nn.init.constant_(model.lateral[3].bias, 1.0)
    assert not torch.equal(model(x), logits)


BOUNDED = [("unet", {"width": 2, "depth": 1}), ("unet", {"width": 2, "depth": 3}),
           ("unet", {"width": 2, "depth": 3, "upsampling": "bilinear"}), ("unet", {"width": 2, "depth": 2, "stem": 2}),
           ("resunet", {}), ("linknet", {})]
SLOWLY_BOUNDED = [pytest.param("resunet", {"upsampling": "transposed"}, marks=pytest.mark.slow),
                  pytest.param("fpn", {}, marks=pytest.mark.slow), pytest.param("unetpp", {}, marks=pytest.mark.slow)]


@pytest.mark.parametrize("name, options", BOUNDED + SLOWLY_BOUNDED)
def test_radius_holds_and_is_not_wasted(name, options):
    """Light one column in the dark: with positive weights and no biases, what sees it is above 0, all else is 0."""
    model = without_cancelling(make(name, 1, 2, **options))
    middle = model.stride * (model.radius // model.stride + 2)  # far enough from both ends
    # One of the columns is the last that the cell to its right can see.
    phases = [-model.encoder.reach % 32, 0, 31] if hasattr(model, "encoder") else range(model.stride)
    columns = [middle + phase for phase in phases]
    x = torch.zeros(len(columns), 1, model.stride, 2 * middle + model.stride, dtype=torch.float64)
    for image, column in zip(x, columns):
        image[..., column] = 1
    with torch.no_grad():
        seen = [logits.amax((0, 1)).nonzero().flatten() for logits in model(x)]
    farthest = max(max(column - s.min().item(), s.max().item() - column) for column, s in zip(columns, seen))
    assert 0.95 * model.radius <= farthest <= model.radius


@pytest.mark.parametrize("name, options", [("deeplabv3plus", {}), ("segformer", {}), ("unet", {"fusion": "concat"})])
def test_no_radius_where_all_is_seen(name, options):
    model = make(name, **options).double().eval()
    x = torch.rand(1, 3, 64, 256, dtype=torch.float64)
    y = x.clone()
    y[..., -1] += 1
    with torch.no_grad():
        assert model.radius is None and not torch.equal(model(x)[..., 0], model(y)[..., 0])


@pytest.mark.parametrize("options", [{}, {"upsampling": "bilinear"}, {"stem": 2}])
def test_windows_with_the_radius_as_margin_are_exact(options):
    model = randomise(make("unet", width=4, depth=2, **options))
    whole = torch.rand(1, 3, 64, 256, dtype=torch.float64)
    start, stop = 48, 208  # multiples of the stride
    with torch.no_grad():
        expected, found = model(whole), model(whole[..., start:stop])
    difference = (expected[..., start:stop] - found).abs().amax((0, 1, 2))  # per column
    margin = -(-model.radius // model.stride) * model.stride
    assert difference[margin:-margin].max() < 1e-12
    assert difference[0] > 1e-6 and difference[-1] > 1e-6


def four_tiles():
    """Four tiles of 32 px, three classes: two halves and a disc, the colour of each hidden in noise as strong."""
    row, col = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    labels = torch.stack([(col > 9 + 5 * i).long() for i in range(4)])
    for i, tile in enumerate(labels):
        tile[(row - 16)**2 + (col - 5 * i - 5)**2 < 64] = 2
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return 0.5 * noise + torch.eye(3)[labels].permute(0, 3, 1, 2), labels


@pytest.mark.parametrize("name", SOME_SLOW)
def test_overfits_four_tiles(name):
    images, labels = four_tiles()
    model = make(name, 3, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if name in ("fpn", "deeplabv3plus", "segformer") else 1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss {loss.item():.3f} after 60 steps")


@pytest.mark.parametrize("name, first, extra", [("resunet", "conv1.weight", "fc.weight"),
                                                ("segformer", "patch_embed1.proj.weight", "head.bias")])
def test_weights_from_a_file(name, first, extra, tmp_path):
    peer = make(name)
    path = state_file(tmp_path / "published.pth", peer, **{extra: torch.zeros(3)})
    loaded = build_model(name, 3, 7, weights=path).encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in peer.encoder.state_dict().items())
    inflated = build_model(name, 10, 7, weights=path).encoder.state_dict()
    assert torch.equal(inflated[first], inflate_bands(loaded[first], 10))


def test_weights_in_the_form_of_old_files(tmp_path):
    state = {key: torch.nn.Parameter(value) for key, value in make("fpn").encoder.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = build_model("fpn", 3, 2, weights=str(tmp_path / "old.pth"))
    assert torch.equal(model.encoder.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = state_file(tmp_path / "odd.pth", make("fpn"), surplus=torch.zeros(1), bias=torch.zeros(1))
    with pytest.raises(ValueError, match=r"odd\.pth.*surplus, bias"):
        build_model("fpn", 3, 2, weights=path)
    with pytest.raises(ValueError, match=r"resnet34.*layer1\.2\.conv1\.weight.*layer4\.2\.bn2\.running_var.*bias"):
        build_model("fpn", 3, 2, encoder="resnet34", weights=path)
    for shape, bands in [((64, 4, 7, 7), 3), ((64, 12, 7, 7), 4), ((64, 0, 7, 7), 3), ((5,), 3), ((64, 3, 3, 3), 4)]:
        path = state_file(tmp_path / "odd.pth", make("fpn"), **{"conv1.weight": torch.zeros(shape)})
        with pytest.raises(ValueError, match=r"another shape: conv1\.weight; .*3 bands or as many as the data has"):
            weights.load_weights(make("fpn", bands).encoder, "resnet18", path)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("text.pth", "empty.pth"):
        with pytest.raises(ValueError, match=name) as caught:
            build_model("fpn", 3, 2, weights=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="gone.pth"):
        build_model("fpn", 3, 2, weights=str(tmp_path / "gone.pth"))


    ones = torch.ones(64)
    odd = [1.0, ones / 0, ones.double() * 1e300, ones + 0j, ones.to("meta"), ones.to_sparse(), torch.nested.nested_tensor([ones])]
    for state in [[ones], {1: ones}, *({"bn1.weight": value} for value in odd)]:
        torch.save(state, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=r"odd\.pth holds something else than named finite tensors"):
            weights.read_weights("resnet18", str(tmp_path / "odd.pth"))


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_bytes_of_a_file_of_weights_are_spoilt(zipped, tmp_path):
    path, random = tmp_path / "net.pth", np.random.default_rng(0)
    torch.save({"conv1.weight": torch.randn(4, 3, 2, 2), "fc.x": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for _ in range(500):
        path.write_bytes(content)
        spoil_bytes(path, random)
        with contextlib.suppress(ValueError, OSError):
            weights.read_weights("resnet18", str(path))


def test_imagenet_weights_are_fetched_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    peer = make("resunet")
    path = tmp_path / "net.pth"
    state_file(path, peer)
    good = path.rename(tmp_path / f"net-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setitem(weights.IMAGENET, "resnet18", good.as_uri())
    loaded = build_model("resunet", 3, 2, weights="imagenet")
    assert torch.equal(loaded.encoder.layer4[1].conv2.weight, peer.encoder.layer4[1].conv2.weight)
    damaged = good.rename(tmp_path / "net-00000000.pth")
    monkeypatch.setitem(weights.IMAGENET, "resnet18", damaged.as_uri())
    with pytest.raises(ValueError, match="hash"):
        build_model("resunet", 3, 2, weights="imagenet")
    monkeypatch.setitem(weights.IMAGENET, "resnet18", (tmp_path / "unreachable-11111111.pth").as_uri())
    with pytest.raises(OSError, match="offline") as caught:
        build_model("resunet", 3, 2, weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["linknet", "segformer"])
def test_frozen_encoder_stays_as_it_is(name):
    model = make(name)
    freeze_encoder(model)
    model = copy.deepcopy(model)  # as an averaged teacher does
    before = copy.deepcopy(model.state_dict())
    model.eval()
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    F.cross_entropy(model(torch.rand(2, 3, 32, 32)), torch.randint(4, (2, 32, 32))).backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert "encoder" not in changed and "classifier" in changed
    assert model.training


@pytest.mark.parametrize("name, options", [(name, {}) for name in NETWORKS] + [
    ("unet", {"depth": 2, "fusion": "concat", "fusion_at": "skips"}), ("unet", {"depth": 2, "upsampling": "bilinear", "stem": 2}),
    ("deeplabv3plus", {"output_stride": 8}), pytest.param("resunet", {"encoder": "resnet50"}, marks=pytest.mark.slow)])
def test_folded_norms_change_nothing(name, options):
    model = randomise(make(name, 4, 5, **options)).float().to(memory_format=torch.channels_last)
    x = torch.randn(1, 4, 40, 64)
    with torch.no_grad():
        logits = model(x)
        folded = fold_batch_norm(model)(x)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    assert (folded - logits).abs().max() < 1e-4 * max(1, logits.abs().max()) and logits.std() > 1e-2


def test_norms_fold_into_strided_transposed_and_grouped_convolutions():
    nn = torch.nn
    layers = [nn.Conv2d(4, 8, 3, 2, padding=1), nn.ConvTranspose2d(4, 8, 3, 2, bias=False), nn.Conv2d(4, 8, 3, groups=4)]
    for conv in layers:
        model = randomise(nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU()))
        x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
        expected = model(x)
        assert torch.allclose(fold_batch_norm(model)(x), expected, atol=1e-12)
        assert type(model[1]) is nn.Identity and isinstance(model[0], type(conv))


def test_an_encoder_can_have_its_own_rate():
    model = make("deeplabv3plus")
    inside = {id(p) for p in model.encoder.parameters()}
    assert len(inside) == len(list(model.encoder.parameters())) == 60
    assert sum(id(p) in inside for p in model.parameters()) == 60


WRONG = [
    ({"name": "vgg"}, "unet, resunet, fpn, unetpp, linknet, deeplabv3plus, segformer"),
    ({"name": "fpn", "encoder": "vgg"}, "resnet18, resnet34, resnet50"),
    ({"name": "fpn", "encoder": "mit_b0"}, "resnet18, resnet34, resnet50"),
    ({"name": "segformer", "encoder": "resnet18"}, "mit_b0, mit_b1, mit_b2"),
    ({"name": "unet", "encoder": "resnet18"}, "no encoder"),
    ({"name": "unet", "weights": "imagenet"}, "no encoder"),
    ({"name": "segformer", "weights": "imagenet"}, "mit_b0.pth"),
    ({"name": "fpn", "width": 32}, "--width 32"),
    ({"name": "resunet", "fusion": "sum"}, "--fusion sum"),
    ({"name": "unet", "output_stride": 8}, "--output-stride 8"),
    ({"name": "fpn", "upsampling": "bilinear"}, "--model fpn"),
    ({"name": "unet", "depth": 0}, "1 to 6"),
    ({"name": "unet", "depth": 7}, "1 to 6"),
    ({"name": "unet", "width": 0}, "--width 0"),
    ({"name": "unet", "stem": 3}, "1, 2"),
    ({"name": "unet", "fusion": "max"}, "none, concat, sum"),
    ({"name": "unet", "bands": 0}, "bands 0"),
    ({"name": "unet", "classes": 0}, "classes 0"),
    ({"name": "unet", "dropout": 1.0}, "dropout 1.0"),
]


@pytest.mark.parametrize("arguments, hint", WRONG)
def test_wrong_arguments_are_one_line(arguments, hint):
    with pytest.raises(ValueError) as caught:
        build_model(**{"bands": 3, "classes": 2} | arguments)
    assert hint in str(caught.value) and "\n" not in str(caught.value)


def test_only_networks_with_an_encoder_freeze():
    with pytest.raises(ValueError, match="resunet, fpn"):
        freeze_encoder(make("unet"))


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_unetpp_has_the_same_numbers_as_another_implementation(encoder):
    smp = reference("segmentation_models_pytorch")
    peer = randomise(smp.UnetPlusPlus(encoder, encoder_weights=None, decoder_interpolation="bilinear"))
    ours = make("unetpp", encoder=encoder).double().eval()
    ours.encoder.load_state_dict(peer.encoder.state_dict())
    blocks = {f"{3 - row}_{row - start + 1}": f"x_{start}_{row}" for row in range(4) for start in range(row + 1)}
    for node, block in blocks.items():  # theirs count from the deepest row
        copy_in_order(ours.nodes[node], peer.decoder.blocks[block])
    copy_in_order(ours.top, peer.decoder.blocks["x_0_4"])
    last = []
    ours.top.register_forward_hook(lambda module, inputs, output: last.append(output))
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        ours(x)
        assert (last[0] - peer.decoder(peer.encoder(x))).abs().max() < 1e-10


def copy_in_order(ours, theirs):
    """Copy weights between two modules that name theirs differently but list them alike."""
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))


@pytest.mark.slow
def test_a_network_without_memory_is_built_without_torch_s_compiler():
    code = ("import sys, torch, networks\n"
            "with torch.device('meta'):\n"
            "    [networks.build_model(name, bands=3, classes=2) for name in networks.NETWORKS]\n"
            "print('torch._dynamo' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(networks.__file__).parents[1], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
