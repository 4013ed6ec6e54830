"""The table of all networks, `build_model`, and what is done to a whole network."""

import inspect

import torch.nn as nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from networks.decoders import FPN, DeepLabV3Plus, LinkNet, UNetPlusPlus
from networks.efficientnet import EFFICIENTNETS, EfficientNet, MobileBlock
from networks.segformer import TRANSFORMERS, MixTransformer, SegFormer
from networks.weights import load_weights
from unet import RESNETS, BasicBlock, Bottleneck, ResNet, ResUNet, UNet

# Names of encoders
CONVOLUTIONAL = (*RESNETS, *EFFICIENTNETS)
ENCODERS = (*CONVOLUTIONAL, *TRANSFORMERS)

# name: class, called as class(in_channels, num_classes, **options)
# name: (class, names of encoders), called as class(encoder, num_classes, **options)
# The first encoder is the default. Options are those of OPTIONS that the constructor has.
NETWORKS = {
    "unet": UNet,
    "resunet": (ResUNet, CONVOLUTIONAL),
    "fpn": (FPN, CONVOLUTIONAL),
    "unetpp": (UNetPlusPlus, CONVOLUTIONAL),
    "linknet": (LinkNet, CONVOLUTIONAL),
    "deeplabv3plus": (DeepLabV3Plus, CONVOLUTIONAL),
    "segformer": (SegFormer, TRANSFORMERS),
}

# Classes whose children run in the order in which they are listed
IN_ORDER = (nn.Sequential, ResNet, BasicBlock, Bottleneck, EfficientNet, MobileBlock)

# name: default, choices. None leaves the choice to the network.
OPTIONS = {
    "width": (16, range(1, 257)),
    "depth": (4, range(1, 7)),
    "fusion": ("none", ("none", "concat", "sum")),
    "stem": (1, (1, 2)),
    "upsampling": (None, (None, "transposed", "bilinear")),
}


def build_model(name, bands, classes, encoder=None, weights=None, **options):
    """Build a network by name.

    Args:
        name: a key of NETWORKS.
        bands, classes: numbers of bands and classes, C, K >= 1.
        encoder: one of ENCODERS that the network takes. None is its first in NETWORKS.
        weights: for the encoder, None, "imagenet" or the path of a file, see `load_weights`.
        options: width=16, depth=4, fusion="none", stem=1, upsampling=None, see `unet.UNet`. An
            option that the network does not have is an error unless it is at its default.
    Returns:
        nn.Module, (B, bands, H, W) -> (B, classes, H, W) logits. `stride` and `radius` are
        explained in unet.py; a network that does not set them gets 1 and None. Networks with an
        encoder have it as `encoder`.
    Raises:
        ValueError: unknown name, encoder or option, a value out of range, weights that do not fit.
        OSError: weights that cannot be read or fetched.
    """
    if name not in NETWORKS:
        raise ValueError(f"--model {name}: unknown; choose from {', '.join(NETWORKS)}")
    if bands < 1 or classes < 1:
        raise ValueError(f"bands {bands}, classes {classes}: give at least 1 of each")
    row = NETWORKS[name]
    network, encoders = row if isinstance(row, tuple) else (row, ())
    options = check_options(name, network, options)
    if encoders:
        encoder = encoder or next(iter(encoders))
        if encoder not in encoders:
            raise ValueError(f"--encoder {encoder}: not for --model {name}; choose from "
                             f"{', '.join(encoders)}")
        body = build_encoder(encoder, bands)
        model = network(body, classes, **options)
        if weights is not None:
            load_weights(body, encoder, weights)
    else:
        if encoder is not None or weights is not None:
            raise ValueError(f"--model {name} has no encoder: leave --encoder and --weights out")
        model = network(bands, classes, **options)
    model.stride = getattr(model, "stride", 1)
    model.radius = getattr(model, "radius", None)
    return model


def build_encoder(name, bands):
    """Build the encoder of this name, a `unet.ResNet`, `EfficientNet` or `MixTransformer`."""
    if name in TRANSFORMERS:
        return MixTransformer(name, bands)
    if name in EFFICIENTNETS:
        return EfficientNet(name, bands)
    return ResNet(name, bands)


def check_options(name, network, options):
    """Pick the options that a network has.

    Args:
        name: the network's, for errors.
        network: its class.
        options: {option: value}.
    Returns:
        dict of the options that the constructor has and that are not None.
    Raises:
        ValueError: an option that is unknown, out of range, or not the network's, with its flag.
    """
    parameters = inspect.signature(network).parameters
    taken = {}
    for option, value in options.items():
        flag = "--" + option.replace("_", "-")
        if option not in OPTIONS:
            raise ValueError(f"{flag} {value}: unknown option; known are {', '.join(OPTIONS)}")
        default, choices = OPTIONS[option]
        if value not in choices:
            text = ", ".join(map(str, choices))
            if isinstance(choices, range):
                text = f"{choices[0]} to {choices[-1]}"
            raise ValueError(f"{flag} {value}: choose from {text}")
        if option not in parameters and value != default:
            raise ValueError(f"{flag} {value}: --model {name} has no such option; leave it out")
        if option in parameters and value is not None:
            taken[option] = value
    return taken


def freeze_encoder(model):
    """Stop training the encoder: no gradients, and its batch norms keep their statistics.

    Both hold after `model.train()` too. Build the optimiser afterwards, from the parameters that
    still require gradients.

    Args:
        model: from `build_model`, changed in place.
    Raises:
        ValueError: the network has no encoder.
    """
    if not hasattr(model, "encoder"):
        names = [name for name, row in NETWORKS.items() if isinstance(row, tuple)]
        raise ValueError("--encoder-lr 0: this network has no encoder of its own; choose --model "
                         f"from {', '.join(names)}")
    model.encoder.requires_grad_(False)
    model.encoder.frozen = True
    model.encoder.eval()


def fold_batch_norm(model):
    """Fold batch norms into the convolutions before them: the same logits in less time.

    In eval mode a batch norm multiplies each channel by a factor and adds an offset. A convolution
    right before it can do both. Only layers of IN_ORDER are changed, whose children run in the
    order in which they are listed.

    Args:
        model: from `build_model`, in eval mode, changed in place. Afterwards it can only predict.
    Returns:
        the model.
    """
    for layer in model.modules():
        if type(layer) not in IN_ORDER:
            continue
        children = list(layer._modules.items())  # named_children() lists a layer used twice once
        for (name, conv), (next_name, norm) in zip(children, children[1:]):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
                transposed = isinstance(conv, nn.ConvTranspose2d)
                setattr(layer, name, fuse_conv_bn_eval(conv, norm, transpose=transposed))
                setattr(layer, next_name, nn.Identity())
    return model
