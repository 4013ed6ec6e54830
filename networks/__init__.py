"""The one table of all networks, and `build_model`."""

import torch.nn as nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from networks.decoders import FPN, DeepLabV3Plus, LinkNet, UNetPlusPlus
from networks.segformer import TRANSFORMERS, MixTransformer, SegFormer
from networks.weights import load_weights
from unet import RESNETS, ResNet, ResUNet, UNet

NETWORKS = {  # name: class; encoders, its own default first; what it takes beyond bands, classes, dropout
    "unet": (UNet, (), ("width", "depth", "fusion", "fusion_at", "stem", "upsampling")),
    "resunet": (ResUNet, tuple(RESNETS), ("upsampling", "skips")),
    "fpn": (FPN, tuple(RESNETS), ()),
    "unetpp": (UNetPlusPlus, tuple(RESNETS), ()),
    "linknet": (LinkNet, tuple(RESNETS), ()),
    "deeplabv3plus": (DeepLabV3Plus, tuple(RESNETS), ("output_stride",)),
    "segformer": (SegFormer, tuple(TRANSFORMERS), ()),
}

OPTIONS = {  # name: default, choices
    "width": (16, range(1, 257)), "depth": (4, range(1, 7)), "fusion": ("none", ("none", "concat", "sum")),
    "fusion_at": ("bottleneck", ("bottleneck", "skips")), "stem": (1, (1, 2)),
    "upsampling": (None, (None, "transposed", "bilinear")), "skips": (True, (True, False)),
    "output_stride": (16, (16, 8)),
}


def build_model(name, bands, classes, encoder=None, width=16, depth=4, fusion="none", stem=1, dropout=0.0,
                weights=None, fusion_at="bottleneck", upsampling=None, skips=True, output_stride=16):
    """Build a network by name.

    Each option belongs to the networks that NETWORKS lists it for. Given anything but its default to another network,
    it is an error, for it would be silently without effect.

    Args:
        name: a key of NETWORKS.
        bands, classes: C, K >= 1.
        encoder: a ResNet, or a MiT for segformer; None is the first that NETWORKS has for the network.
        width, depth, fusion, fusion_at, stem: see `unet.UNet`.
        upsampling: None is the network's own; see `unet.UNet` and `unet.ResUNet`; skips: see `unet.ResUNet`.
        output_stride: see `DeepLabV3Plus`.
        dropout: share of channels dropped while training, 0 <= dropout < 1: at the deepest map of unet, resunet,
            unetpp and linknet, before the classifier of fpn, deeplabv3plus and segformer.
        weights: None, or for the encoder alone: "imagenet", or the path of a file; see `load_weights`.
    Returns:
        nn.Module, (B, bands, H, W) -> (B, classes, H, W) logits for any H, W >= 1. Its `stride` is what it pads sides
        to a multiple of, px. Its `radius` is how far, px, a logit can depend on the input: a window's logits are
        exactly those of the whole image where the margin is at least that; None where it depends on all of it. All
        but unet keep their encoder in `encoder`.
    Raises:
        ValueError: unknown name or encoder, an option out of range or not the network's, weights that do not fit.
        OSError: weights that cannot be read or fetched.
    """
    if name not in NETWORKS:
        raise ValueError(f"--model {name}: unknown; choose from {', '.join(NETWORKS)}")
    if bands < 1 or classes < 1 or not 0 <= dropout < 1:
        raise ValueError(f"bands {bands}, classes {classes}, dropout {dropout}: at least 1, at least 1, 0 to below 1")
    network, encoders, takes = NETWORKS[name]
    options = {"width": width, "depth": depth, "fusion": fusion, "fusion_at": fusion_at, "stem": stem,
               "upsampling": upsampling, "skips": skips, "output_stride": output_stride}
    check_options(name, takes, options)
    options = {option: options[option] for option in takes if options[option] is not None}
    if not encoders:
        if encoder is not None or weights is not None:
            raise ValueError(f"--model {name} has no encoder: leave --encoder and --weights out")
        return network(bands, classes, dropout=dropout, **options)
    encoder = encoder or encoders[0]
    if encoder not in encoders:
        raise ValueError(f"--encoder {encoder}: not for --model {name}; choose from {', '.join(encoders)}")
    stride = options.get("output_stride", 32)
    body = MixTransformer(encoder, bands) if encoder in TRANSFORMERS else ResNet(encoder, bands, stride)
    model = network(body, classes, dropout=dropout, **options)
    if weights is not None:
        load_weights(body, encoder, weights)
    return model


def check_options(name, takes, options):
    """Refuse an option that is out of range, or that the network would ignore.

    Args:
        name: of the network; takes: the options it has; options: {option: value}.
    Raises:
        ValueError: with the flag and its choices.
    """
    for option, value in options.items():
        flag = "--" + option.replace("_", "-")
        default, choices = OPTIONS[option]
        if value not in choices:
            text = f"{choices[0]} to {choices[-1]}" if isinstance(choices, range) else ", ".join(map(str, choices))
            raise ValueError(f"{flag} {value}: choose from {text}")
        if option not in takes and value != default:
            raise ValueError(f"{flag} {value}: --model {name} has no such option; leave it out")
    if options["fusion"] == "none" and options["fusion_at"] != "bottleneck":
        raise ValueError("--fusion-at is where a multi-scale block stands: give --fusion concat or sum too, or leave it out")


def freeze_encoder(model):
    """Stop the encoder from learning: its weights take no gradient, its batch norms keep their statistics for good.

    Both hold after `model.train()` too. Build the optimiser afterwards, of the parameters that still take gradients;
    those of `model.encoder` that do can have a rate of their own.

    Args:
        model: from `build_model`, changed in place.
    Raises:
        ValueError: the network has no encoder.
    """
    if not hasattr(model, "encoder"):
        names = ", ".join(name for name, (_, encoders, _) in NETWORKS.items() if encoders)
        raise ValueError(f"--freeze-encoder: this network has no encoder of its own; choose --model from {names}")
    model.encoder.requires_grad_(False)
    model.encoder.frozen = True
    model.encoder.eval()


def fold_batch_norm(model):
    """Fold every batch norm into the convolution before it: the same logits, from one step less at each layer.

    In eval mode a batch norm is a factor and an offset for each channel, which the convolution takes over.

    Args:
        model: from `build_model`, in eval mode; changed in place, to predict only. Each of its norms comes right behind
            its convolution, in the order of the layers' names too.
    Returns:
        the model.
    """
    for layer in model.modules():
        inner = list(layer.named_children())
        for (name, conv), (next_name, norm) in zip(inner, inner[1:]):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(layer, name, fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d)))
                setattr(layer, next_name, nn.Identity())
    return model
