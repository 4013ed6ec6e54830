"""Published weights for the encoders, and frozen encoders."""

import sys

import torch

from unet import RESNETS, inflate_bands

IMAGENET = {  # torchvision's files; the end of a name is the start of its SHA-256
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}


def load_weights(encoder, name, weights):
    """Load published weights into an encoder; the file's classifier is left out by name, anything else must fit.

    A first convolution learned on three bands is rewritten by `resnet.inflate_bands` for an encoder of any other number.

    Args:
        encoder: a `ResNet` or `MixTransformer`, changed in place.
        name: its name, such as "resnet50".
        weights: see `read_weights`.
    Raises:
        ValueError: keys or shapes that are not the encoder's; and as `read_weights`.
    """
    first, classifier = ("conv1.weight", "fc.") if name in RESNETS else ("patch_embed1.proj.weight", "head.")
    state = {key: value for key, value in read_weights(name, weights).items() if not key.startswith(classifier)}
    wanted = encoder.state_dict()
    outputs, bands, *sides = wanted[first].shape
    if first in state and state[first].shape == (outputs, 3, *sides):
        state[first] = inflate_bands(state[first], bands)
    # Files from before torch counted batches lack the counters; load_state_dict sets those to 0.
    odd = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    odd += [key for key in state if key not in wanted or state[key].shape != wanted[key].shape]
    if odd:
        raise ValueError(f"--weights {weights}: not those of {name}; missing, unexpected or of another shape: "
                         f"{', '.join(odd)}; choose a file of this --encoder, for 3 bands or as many as the data has")
    encoder.load_state_dict(state)


def read_weights(name, weights):
    """Read a file of published weights.

    Args:
        name: of the encoder.
        weights: "imagenet" fetches torchvision's file for a ResNet, once, and checks it against its hash; or the path
            of such a file, or of the SegFormer authors' mit_b0.pth to mit_b2.pth (github.com/NVlabs/SegFormer, for
            non-commercial use only).
    Returns:
        {key: tensor}.
    Raises:
        ValueError: not a file of weights, or none to fetch; OSError: no such file, or no way to fetch it.
    """
    if weights == "imagenet" and name not in IMAGENET:
        raise ValueError(f"--weights imagenet: none to fetch for {name}; give the path of its authors' {name}.pth "
                         "(github.com/NVlabs/SegFormer, for non-commercial use only)")
    source = IMAGENET[name] if weights == "imagenet" else weights
    try:
        if weights == "imagenet":
            state = torch.hub.load_state_dict_from_url(source, map_location="cpu", check_hash=True, weights_only=True,
                                                       progress=sys.stderr.isatty())
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        remedy = "when offline, fetch it elsewhere and give its path" if weights == "imagenet" else "check the path"
        raise OSError(f"--weights {weights}: cannot read {source} ({error}); {remedy}") from None
    except Exception as error:  # of a dozen kinds, by where in the file the damage is
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--weights {weights}: {source} is damaged or no file of weights ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) and are_weights(value) for key, value in state.items()):
        raise ValueError(f"--weights {weights}: {source} holds something else than named finite tensors; see `read_weights`")
    return state


def are_weights(value):
    """Whether something is a tensor of finite numbers that are all there: not sparse, nested, quantised or without data."""
    return (isinstance(value, torch.Tensor) and value.is_cpu and value.layout is torch.strided and not value.is_nested
            and (value.is_floating_point() or value.dtype is torch.int64) and bool(value.float().isfinite().all()))
