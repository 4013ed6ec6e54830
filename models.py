"""FPN, U-Net++, LinkNet and DeepLabV3+ on a ResNet, and the one table of all networks: `build_model`."""

import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet import RESNETS, ResNet, conv_norm_relu, inflate_bands, initialise, pad_to_stride, upsample
from segformer import TRANSFORMERS, MixTransformer, SegFormer
from unet import FusionBlock, ResUNet, UNet, double_conv, double_size, separable_conv

# The four networks below take an encoder, a `resnet.ResNet`; classes, K; dropout, the share of channels dropped, 0..1.
# Their `stride` and `radius` are what `build_model` says. A radius is the encoder's reach; what the decoder adds on its
# deepest path, px: a 3x3 the stride it works at, a bilinear step by two the stride it arrives at (by four, twice that);
# and stride - 1, for a pixel may lie anywhere in its cell of the deepest map.


class FPN(nn.Module):
    """Feature pyramid network: a top-down path of one width beside the encoder, every level of it brought to stride 4.

    Source: Lin 2017, "Feature pyramid networks for object detection", figure 3, with the head of Kirillov 2019,
        "Panoptic feature pyramid networks", figure 3; differs from the latter in batch norm in place of group norm.
        ResNet-18, 3 bands, 2 classes: 15,407,682 parameters; no other program is known to have just this form.
    """

    def __init__(self, encoder, classes, dropout=0.0):
        super().__init__()
        self.encoder = encoder
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, 256, 1) for inputs in encoder.widths[1:])
        self.smooth = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1) for _ in range(4))
        self.head = nn.ModuleList(self.to_stride_4(level) for level in range(4))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(128, classes, 1)
        initialise(self)
        self.stride = 32
        self.radius = encoder.reach + (32 + 32 + 16) + (16 + 8) + (8 + 4) + 2 + self.stride - 1

    @staticmethod
    def to_stride_4(level):
        """Branch of the head that starts at stride 4 * 2**level: (B, 256, h, w) -> (B, 128, H/4, W/4)."""
        layers = [conv_norm_relu(256, 128)]
        for _ in range(level - 1):
            layers += [double_size(128, 128, "bilinear"), conv_norm_relu(128, 128)]
        if level > 0:
            layers.append(double_size(128, 128, "bilinear"))
        return nn.Sequential(*layers)

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, *features = self.encoder(pad_to_stride(x, self.stride))
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features)]  # (B, 256, ..) at 4, 8, 16, 32
        for level in (2, 1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2)  # nearest, as in the paper
        x = sum(head(smooth(x)) for head, smooth, x in zip(self.head, self.smooth, maps))  # (B, 128, H/4, W/4)
        return upsample(self.classifier(self.dropout(x)), 4)[..., :height, :width]


class UNetPlusPlus(nn.Module):
    """U-Net++: every skip is itself a row of small U-Net steps, each fed by all before it in its row.

    Source: Zhou 2018, "UNet++", figure 1a, equation 1; without deep supervision. Widths and parameters as in
        segmentation_models.pytorch 0.6, which ends in a 3x3 classifier where this is 1x1: ResNet-18 with 3 bands and 2
        classes 15,970,338, ResNet-50 48,985,634.
    """

    def __init__(self, encoder, classes, dropout=0.0):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout2d(dropout)
        last = (32, 64, 128, 256)  # width of the last node of each row; the others are as wide as the row's feature
        widths = {(level, 0): channels for level, channels in enumerate(encoder.widths)}
        self.nodes = nn.ModuleDict()
        for step in range(1, 5):
            for level in range(5 - step):
                widths[level, step] = last[level] if level + step == 4 else widths[level, 0]
                inputs = widths[level + 1, step - 1] + step * widths[level, 0]
                self.nodes[f"{level}_{step}"] = double_conv(inputs, widths[level, step])
        self.top = double_conv(32, 16)
        self.classifier = nn.Conv2d(16, classes, 1)
        initialise(self)
        self.stride = 32
        self.radius = encoder.reach + 3 * (16 + 8 + 4 + 2 + 1) + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        *features, deepest = self.encoder(pad_to_stride(x, self.stride))
        x = {(level, 0): feature for level, feature in enumerate(features + [self.dropout(deepest)])}
        for step in range(1, 5):
            for level in range(5 - step):  # strides 2, 4, 8, 16
                row = [x[level, before] for before in reversed(range(step))]
                below = upsample(x[level + 1, step - 1], 2)
                x[level, step] = self.nodes[f"{level}_{step}"](torch.cat([below] + row, 1))
        return self.classifier(self.top(upsample(x[0, 4], 2)))[..., :height, :width]


class LinkNet(nn.Module):
    """LinkNet: skips are added, not concatenated, and the decoder works on a quarter of the channels: cheap.

    Source: Chaurasia 2017, "LinkNet", figures 1 and 3. ResNet-18, 3 bands, 20 classes: 11,535,764 parameters, the
        paper's 11.5 million.
    """

    def __init__(self, encoder, classes, dropout=0.0):
        super().__init__()
        _, *widths = encoder.widths
        self.encoder = encoder
        self.dropout = nn.Dropout2d(dropout)
        self.decoder4 = self.decoder(widths[3], widths[2], 2)
        self.decoder3 = self.decoder(widths[2], widths[1], 2)
        self.decoder2 = self.decoder(widths[1], widths[0], 2)
        self.decoder1 = self.decoder(widths[0], 64, 1)
        self.up = transposed(64, 32, 2)
        self.refine = conv_norm_relu(32, 32)
        self.classifier = nn.ConvTranspose2d(32, classes, 2, stride=2)
        initialise(self)
        self.stride = 32
        # The 3x3s of stride 1, at strides 4 and 2. The others add nothing: transposed, they look to the right alone,
        # and the encoder's five strided layers look as far to the left alone.
        self.radius = encoder.reach + 4 + 2 + self.stride - 1

    @staticmethod
    def decoder(inputs, outputs, stride):
        """Decoder block: (B, inputs, H, W) -> (B, outputs, H * stride, W * stride)."""
        quarter = inputs // 4
        return nn.Sequential(conv_norm_relu(inputs, quarter, 1), transposed(quarter, quarter, stride),
                             conv_norm_relu(quarter, outputs, 1))

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, e1, e2, e3, e4 = self.encoder(pad_to_stride(x, self.stride))  # strides 4, 8, 16, 32
        x = self.decoder4(self.dropout(e4)) + e3
        x = self.decoder3(x) + e2
        x = self.decoder2(x) + e1
        x = self.up(self.decoder1(x))  # (B, 32, H/2, W/2)
        return self.classifier(self.refine(x))[..., :height, :width]


def transposed(inputs, outputs, stride):
    """Transposed 3x3 convolution, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H * stride, W * stride)."""
    conv = nn.ConvTranspose2d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: the encoder ends in dilated, not strided, convolutions; a pyramid of rates; one skip at stride 4.

    Args:
        output_stride: of the encoder, px: 16, or 8, finer and about 3x costlier.
    Source: Chen 2018, "Encoder-decoder with atrous separable convolution", figure 2; rates of Chen 2017, "Rethinking
        atrous convolution", section 3.3. Differs from the paper in the image branch without batch norm: see
        `unet.FusionBlock`. ResNet-50, 3 bands, 2 classes: 26,677,586 parameters; segmentation_models.pytorch 0.6 has
        256 more, that branch's norm in place of a bias.
    """

    def __init__(self, encoder, classes, output_stride=16, dropout=0.0):
        super().__init__()
        self.encoder = encoder
        rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
        self.pyramid = FusionBlock(encoder.widths[4], 256, rates, "concat")
        self.reduce = conv_norm_relu(encoder.widths[1], 48, 1)
        self.refine = nn.Sequential(separable_conv(256 + 48, 256), separable_conv(256, 256))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(256, classes, 1)
        initialise(self)
        self.stride = output_stride
        self.radius = None  # the image branch sees everything

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, low, _, _, high = self.encoder(pad_to_stride(x, self.stride))
        high = upsample(self.pyramid(high), self.stride // 4)  # (B, 256, H/4, W/4)
        x = self.refine(torch.cat([high, self.reduce(low)], 1))
        return upsample(self.classifier(self.dropout(x)), 4)[..., :height, :width]


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

IMAGENET = {  # torchvision's files; the end of a name is the start of its SHA-256
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
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
