"""The U-Net of any depth and width, a multi-scale fusion block for it, and the U-Net on a ResNet."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def pad_to_stride(x, stride):
    """Pad a batch at the bottom and right so that a network of this stride can take it whole.

    Each side becomes a multiple of the stride and at least two strides long: the deepest feature map then has at
    least 2 x 2 px, so that batch norm has something to average even for a training batch of one pixel.

    Args:
        x: (B, C, H, W), any H, W >= 1; stride: the network's total stride, px.
    Returns:
        (B, C, H', W'), the edge pixels repeated; x itself where nothing is missing.
    """
    height, width = x.shape[-2:]
    bottom = max(-height % stride, 2 * stride - height)
    right = max(-width % stride, 2 * stride - width)
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def upsample(x, factor):
    """Bilinear upsampling by a whole factor, corners not aligned: (B, C, H, W) -> (B, C, factor*H, factor*W)."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def conv_norm_relu(inputs, outputs, kernel=3):
    """Convolution of odd side, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H, W)."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def initialise(network):
    """Draw convolutions by He's rule (2015, equation 14), in place; biases and all other layers keep torch's start.

    `network.classifier`, the last, has no ReLU after it: variance 1 / inputs gives logits of order 1 at any width.
    """
    if network.classifier.weight.is_meta:  # nothing to draw, and torch would import its compiler to find that out
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=(2 * layer.groups / layer.weight[:, 0].numel()) ** 0.5)  # 2 / fan-out
    nn.init.normal_(network.classifier.weight, std=network.classifier.in_channels**-0.5)


def inflate_bands(weight, bands):
    """Rewrite a first convolution learned on red, green, blue for any number of bands.

    Band c takes the filter of colour c mod 3, shared with the other bands of that colour; fewer than three bands share the
    sum. The filters add up to what they were, so the response to a grey image (all bands alike) is kept.

    Args:
        weight: (O, 3, k, k); bands: C >= 1.
    Returns:
        (O, C, k, k); for three bands what was given.
    """
    if bands < 3:
        return weight.sum(1, keepdim=True).expand(-1, bands, -1, -1) / bands
    colour = torch.arange(bands) % 3
    return weight[:, colour] / torch.bincount(colour)[colour].view(1, bands, 1, 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He 2016, figure 5 left."""
    expansion = 1

    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x):
        """(B, inputs, H, W) -> (B, width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut. Source: He 2016, figure 5 right; differs in that the 3x3 takes the stride."""
    expansion = 4

    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(inputs, 4 * width, stride)

    def forward(self, x):
        """(B, inputs, H, W) -> (B, 4 * width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


def shortcut(inputs, outputs, stride):
    """What a block adds to its result: its input, brought to the result's shape where that differs."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


# block; blocks in each of the four stages; reach, px: 3 + 2 + that of the 3x3s, each as much as its input's stride
RESNETS = {"resnet18": (BasicBlock, (2, 2, 2, 2), 217),
           "resnet34": (BasicBlock, (3, 4, 6, 3), 449),
           "resnet50": (Bottleneck, (3, 4, 6, 3), 213)}


class ResNet(nn.Module):
    """ResNet without its classifier; the parameters have torchvision's names, so that its files load.

    Attributes:
        widths: channels of the five features; frozen: see `models.freeze_encoder`.
        reach: how far the deepest feature looks beyond its own cell on either side, px.
    Source: He 2016, "Deep residual learning", table 1. 11,176,512 parameters (18), 21,284,672 (34), 23,508,032 (50)
        with 3 bands: torchvision's without `fc`. For `output_stride` 16 or 8 the last stages are dilated in place of
        strided: Chen 2018, "Encoder-decoder with atrous separable convolution", section 3.1.
    """

    def __init__(self, name, bands, output_stride=32):
        super().__init__()
        block, counts, self.reach = RESNETS[name]
        self.widths = [64] + [width * block.expansion for width in (64, 128, 256, 512)]
        self.frozen = False
        self.conv1 = nn.Conv2d(bands, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs, stride, dilation = 64, 4, 1
        for number, (count, width) in enumerate(zip(counts, (64, 128, 256, 512)), start=1):
            step = 2 if number > 1 and stride < output_stride else 1
            blocks = [block(inputs, width, step, dilation)]
            if number > 1 and step == 1:
                dilation *= 2  # from the second block on, as torchvision does
            inputs, stride = width * block.expansion, stride * step
            blocks += [block(inputs, width, 1, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))

    def forward(self, x):
        """(B, C, H, W), sides multiples of 32 -> list of five features, at strides 2, 4, 8, 16, 32."""
        features = [F.relu(self.bn1(self.conv1(x)), inplace=True)]
        x = F.max_pool2d(features[0], 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    def train(self, mode=True):
        """As torch's; but frozen batch-norm statistics stay frozen whatever the whole model is told."""
        return super().train(mode and not self.frozen)


def double_conv(inputs, outputs):
    """The U-Net's unit, twice a 3x3 convolution, batch norm, ReLU: (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Sequential(conv_norm_relu(inputs, outputs), conv_norm_relu(outputs, outputs))


def upsample_block(inputs, outputs, upsampling):
    """A layer that doubles height and width: (B, inputs, H, W) -> (B, outputs, 2H, 2W).

    Args:
        inputs, outputs: channels.
        upsampling: "transposed", a learned 2x2 convolution of stride 2, or "bilinear", where a 1x1 convolution comes
            first if the channels change: the two commute, and before it there are four times fewer pixels.
    """
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    change = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
    return nn.Sequential(change, nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))


def separable_conv(inputs, outputs, dilation=1):
    """A 3x3 per channel, dilated, then a 1x1 across channels, batch norm, ReLU: a ninth of the work of a full 3x3.

    Args:
        inputs, outputs: channels.
        dilation: distance between the kernel's taps, px.
    Returns:
        nn.Sequential, (B, inputs, H, W) -> (B, outputs, H, W).
    Source: Chen 2018, "Encoder-decoder with atrous separable convolution", figure 3.
    """
    spatial = nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False)
    return nn.Sequential(spatial, conv_norm_relu(inputs, outputs, 1))


class FusionBlock(nn.Module):
    """Sees a feature map at several scales at once: 1x1, dilated 3x3 and whole-image branches side by side.

    The image branch averages over all pixels of what the network is given, so no margin makes windows exact. It has no
    batch norm: a training batch of one would leave it a single value to average.

    Args:
        inputs, outputs: channels; every branch has `outputs`.
        rates: dilations of the 3x3 branches, px of this feature map.
        how: "concat" joins the branches by a 1x1 convolution; "sum" adds them up, which is cheaper.
    Source: Chen 2018 (as above), section 3.1, for "concat"; differs from the paper in the image branch's missing norm.
    """

    def __init__(self, inputs, outputs, rates, how):
        super().__init__()
        point = conv_norm_relu(inputs, outputs, 1)
        self.branches = nn.ModuleList([point] + [separable_conv(inputs, outputs, rate) for rate in rates])
        self.image = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.ReLU(inplace=True))
        self.join = conv_norm_relu((len(rates) + 2) * outputs, outputs, 1) if how == "concat" else None

    def forward(self, x):
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        maps = [branch(x) for branch in self.branches]
        image = self.image(x.mean((2, 3), keepdim=True))  # (B, outputs, 1, 1)
        if self.join is None:
            return sum(maps) + image
        return self.join(torch.cat(maps + [image.expand_as(maps[0])], 1))


def inside(x, margin):
    """What lies within a margin, px, on all four sides: (B, C, H, W) -> (B, C, H - 2 * margin, W - 2 * margin)."""
    return x[:, :, margin:-margin, margin:-margin] if margin else x


def decoder_crops(margin, factors):
    """What may be cut off the maps of an expanding path where the logits of a margin are not wanted.

    Along a cut two 3x3 convolutions spoil two px of a map, and its upsampling another one.

    Args:
        margin: of the logits, px.
        factors: upsampling after each map, the last map's first.
    Returns:
        list of px to cut off all four sides of each map, the deepest map's first.
    """
    cuts = []
    for factor in factors:
        margin = max(margin // factor - 3, 0)
        cuts.insert(0, margin)
    return cuts


class UNet(nn.Module):
    """U-Net: a contracting path, an expanding path, and a skip between the two at every level.

    Args:
        bands, classes: C, K.
        width: channels of the first level; each level down has twice as many.
        depth: how often the size is halved, 1..6.
        fusion: "none", or a `FusionBlock` that does "concat" or "sum".
        fusion_at: "bottleneck", the deepest map, or "skips", every skip.
        stem: 2 folds each 2x2 px into channels at the entry and upsamples the logits at the exit. The first level,
            the costliest, then has a quarter of the pixels: about 4x cheaper, at the price of the finest detail.
        upsampling: see `upsample_block`. Transposed is the default: it is the paper's, costs about the same, and the
            network sees less far, so that large scenes need smaller margins.
        dropout: share of channels dropped at the deepest map, 0 <= dropout < 1.
    Attributes:
        stride, radius: px; see `models.build_model`.
    Source: Ronneberger 2015, "U-Net", figure 1. Differs from the paper in padded convolutions, so that the output has
        the input's size, and in batch norm. Width 64, depth 4, 3 bands, 2 classes: 31,037,698 parameters, as in
        github.com/milesial/Pytorch-UNet.
    """

    def __init__(self, bands, classes, width=16, depth=4, fusion="none", fusion_at="bottleneck", stem=1,
                 upsampling="transposed", dropout=0.0):
        super().__init__()
        *widths, deepest = [width * 2**level for level in range(depth + 1)]

        def fusion_block(channels, place):
            if fusion == "none" or place != fusion_at:
                return nn.Identity()
            return FusionBlock(channels, channels, (1, 2, 4), fusion)  # 48, 80, 144 px of the image, from stride 16

        self.stem = stem
        self.down = nn.ModuleList(map(double_conv, [bands * stem**2] + widths[:-1], widths))
        self.fuse = nn.ModuleList(fusion_block(channels, "skips") for channels in widths)
        self.bottleneck = nn.Sequential(double_conv(widths[-1], deepest), fusion_block(deepest, "bottleneck"),
                                        nn.Dropout2d(dropout))
        self.up = nn.ModuleList(upsample_block(2 * channels, channels, upsampling) for channels in reversed(widths))
        self.merge = nn.ModuleList(double_conv(2 * channels, channels) for channels in reversed(widths))
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self)
        self.stride = stem * 2**depth
        # Two 3x3s on the way down and up at every level and at the bottom, bilinear steps where there are any, and a
        # pixel may lie anywhere in its cell of the deepest map.
        levels = 2**depth - 1
        reach = stem * (4 * levels + 2 * 2**depth + (levels if upsampling == "bilinear" else 0)) + stem - 1
        self.radius = reach + self.stride - 1 if fusion == "none" else None

    def forward(self, x, margin=0):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1; in less time only those within a margin, px."""
        height, width = x.shape[-2:]
        x = pad_to_stride(x, self.stride)
        if self.stem > 1:
            x = F.pixel_unshuffle(x, self.stem)  # (B, C * stem**2, H' / stem, W' / stem)
        skips = []
        for down, fuse in zip(self.down, self.fuse):
            x = down(x)
            skips.append(fuse(x))
            x = F.max_pool2d(x, 2)
        x, before = self.bottleneck(x), 0
        cuts = decoder_crops(margin, [self.stem] + [2] * (len(skips) - 1))
        for up, skip, merge, cut in zip(self.up, reversed(skips), self.merge, cuts):
            x = merge(torch.cat([inside(skip, cut), inside(up(x), cut - 2 * before)], 1))
            before = cut
        logits = self.classifier(x)
        if self.stem > 1:
            logits = upsample(logits, self.stem)
        first = margin - self.stem * cut
        return logits[..., first:first + height - 2 * margin, first:first + width - 2 * margin]


class ResUNet(nn.Module):
    """U-Net whose contracting path is a ResNet; its first skip lies at stride 2, for a ResNet has nothing finer.

    Args:
        encoder: a `resnet.ResNet`.
        classes: K.
        upsampling: see `upsample_block`. Bilinear is the default, for it has no parameters to learn on top of a
            pretrained encoder.
        skips: False leaves the skips out, so that all detail must pass the deepest map: to measure what they bring.
        dropout: share of channels dropped at the deepest map, 0 <= dropout < 1.
    Attributes:
        encoder; stride, radius: px; see `models.build_model`.
    Source: Ronneberger 2015, "U-Net", figure 1, on He 2016, figure 3. Decoder widths and, with bilinear upsampling,
        parameters as in segmentation_models.pytorch 0.6, which ends in a 3x3 classifier where this is 1x1: ResNet-18
        with 3 bands and 2 classes 14,328,098, ResNet-50 32,520,994.
    """

    def __init__(self, encoder, classes, upsampling="bilinear", skips=True, dropout=0.0):
        super().__init__()
        outputs = [256, 128, 64, 32, 16]  # at strides 16, 8, 4, 2, 1
        inputs = encoder.widths[-1:] + outputs[:-1]
        grown = inputs if upsampling == "bilinear" else outputs
        joined = encoder.widths[-2::-1] + [0] if skips else [0] * 5  # the skips; none at stride 1
        self.encoder = encoder
        self.skips = skips
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(upsample_block(before, after, upsampling) for before, after in zip(inputs, grown))
        self.merge = nn.ModuleList(double_conv(up + skip, output) for up, skip, output in zip(grown, joined, outputs))
        self.classifier = nn.Conv2d(16, classes, 1)
        initialise(self)
        self.stride = 32
        # At each stride on the way up two 3x3s and perhaps a bilinear step; the last as in UNet.
        steps = 3 if upsampling == "bilinear" else 2
        self.radius = encoder.reach + steps * (16 + 8 + 4 + 2 + 1) + self.stride - 1

    def forward(self, x, margin=0):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1; in less time only those within a margin, px."""
        height, width = x.shape[-2:]
        *features, x = self.encoder(pad_to_stride(x, self.stride))
        x, before = self.dropout(x), 0
        for up, merge, cut in zip(self.up, self.merge, decoder_crops(margin, [1, 2, 2, 2, 2])):
            x = inside(up(x), cut - 2 * before)
            if self.skips and features:
                x = torch.cat([x, inside(features.pop(), cut)], 1)
            x, before = merge(x), cut
        first = margin - cut
        return self.classifier(x)[..., first:first + height - 2 * margin, first:first + width - 2 * margin]
