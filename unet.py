"""U-Net, a multi-scale fusion block for it, and the U-Net whose encoder is a ResNet.

A network's `stride` is the number of pixels that the side of an image is padded to a multiple of.
Its `radius` is half of its receptive field: how far, in pixels of the image, a logit depends on its
surroundings, or None where it depends on the whole image.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


def pad_to_stride(x, stride):
    """Pad a batch at the bottom and right so that a network of this stride can process it.

    Each side becomes a multiple of the stride and at least two strides long. The deepest feature
    map is then at least 2 x 2 px, so that batch norm has several values to average even for a
    training batch of one pixel.

    Args:
        x: (B, C, H, W), any H, W >= 1.
        stride: the network's stride, px.
    Returns:
        (B, C, H', W') with the edge pixels repeated, or x itself where no padding is needed.
    """
    height, width = x.shape[-2:]
    bottom = max(-height % stride, 2 * stride - height)  # -h % s: from h to the next multiple of s
    right = max(-width % stride, 2 * stride - width)
    if bottom == 0 and right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


def upsample(x, factor):
    """Upsample bilinearly by a whole factor, (B, C, H, W) -> (B, C, factor * H, factor * W)."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def conv(in_channels, out_channels, kernel, stride=1):
    """Convolution with an odd kernel and without bias; at stride 1 height and width stay."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def conv_norm_relu(in_channels, out_channels, kernel=3):
    """Convolution with an odd kernel, batch norm, ReLU; height and width stay."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(in_channels, out_channels):
    """The unit of the U-Net: two times a 3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        conv_norm_relu(in_channels, out_channels),
        conv_norm_relu(out_channels, out_channels),
    )


def upsample_block(in_channels, out_channels, upsampling):
    """A layer that doubles height and width, (B, in, H, W) -> (B, out, 2 * H, 2 * W).

    Args:
        in_channels, out_channels: numbers of channels.
        upsampling: "transposed" is a learned 2x2 convolution of stride 2. "bilinear" is bilinear
            interpolation, after a 1x1 convolution if the number of channels changes. The two
            commute, and before the interpolation there are four times fewer pixels.
    """
    if upsampling == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    change = nn.Identity()
    if in_channels != out_channels:
        change = nn.Conv2d(in_channels, out_channels, 1)
    interpolate = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(change, interpolate)


def initialise(network, classifier):
    """Draw the weights of all convolutions anew, in place.

    Biases, transposed convolutions and all other layers keep torch's initial values.

    Args:
        network: nn.Module.
        classifier: its last layer. No ReLU follows it, therefore variance 1 / in_channels gives
            logits of order 1 at any width.
    Source: He 2015, "Delving deep into rectifiers", equation 14.
    """
    if classifier.weight.is_meta:
        return  # no memory to fill, and torch would import its compiler to find that out
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[:, 0].numel() / layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
    nn.init.normal_(classifier.weight, std=classifier.in_channels**-0.5)


class UNet(nn.Module):
    """U-Net: a contracting path, an expanding path, and a skip connection at every level.

    Args:
        in_channels: number of bands, C.
        num_classes: number of classes, K.
        width: channels of the first level. Each level below has twice as many.
        depth: number of times that height and width are halved, 1 to 6.
        fusion: "none", or a `FusionBlock` after the bottleneck, "concat" or "sum".
        stem: 2 folds each 2x2 px into channels at the entry and upsamples the logits at the exit.
            The first level, the most expensive one, then has a quarter of the pixels. The network
            needs about a third of the time and loses the finest detail.
        upsampling: "transposed" or "bilinear", see `upsample_block`. Transposed is the paper's. It
            costs about the same and has the smaller radius.
    Source: Ronneberger 2015, "U-Net", figure 1. Differs from the paper in padded convolutions, so
        that the output has the input's size, and in batch norm. With width 64, depth 4, 3 bands
        and 2 classes it has 31,037,698 parameters, as github.com/milesial/Pytorch-UNet.
    """

    def __init__(self, in_channels, num_classes, width=16, depth=4, fusion="none", stem=1,
                 upsampling="transposed"):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]  # the last is the bottleneck's
        self.stem = stem

        self.down = nn.ModuleList()
        channels = in_channels * stem**2
        for level in range(depth):
            self.down.append(double_conv(channels, widths[level]))
            channels = widths[level]

        self.bottleneck = nn.Sequential(double_conv(channels, widths[depth]))
        if fusion != "none":
            # At depth 4 the dilated kernels are 48, 80 and 144 px of the image wide.
            self.bottleneck.append(FusionBlock(widths[depth], widths[depth], (1, 2, 4), fusion))

        self.up = nn.ModuleList()
        for level in reversed(range(depth)):
            self.up.append(upsample_block(widths[level + 1], widths[level], upsampling))
        self.merge = nn.ModuleList()
        for level in reversed(range(depth)):
            self.merge.append(double_conv(2 * widths[level], widths[level]))

        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, self.classifier)
        self.stride = stem * 2**depth
        self.radius = None
        if fusion == "none":
            self.radius = unet_radius(depth, stem, upsampling)

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1.

        `geo.windows.decode_inside` repeats these steps inside a margin: change both.
        """
        height, width = x.shape[-2:]
        x = pad_to_stride(x, self.stride)
        if self.stem > 1:
            x = F.pixel_unshuffle(x, self.stem)  # (B, C * stem**2, H' / stem, W' / stem)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for up, merge in zip(self.up, self.merge):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        logits = self.classifier(x)
        if self.stem > 1:
            logits = upsample(logits, self.stem)
        return logits[..., :height, :width]


def unet_radius(depth, stem, upsampling):
    """Half of the receptive field of a `UNet` without fusion, px; its arguments as there."""
    stride = 2**depth
    # Two 3x3 convolutions per level on the way down and again on the way up, each of which reaches
    # one pixel of its level: 1, 2, 4, .. px. At the bottleneck there are two more.
    reach = 4 * (stride - 1) + 2 * stride
    if upsampling == "bilinear":
        reach += stride - 1  # one pixel of each level
    reach = stem * reach + stem - 1  # in px of the image, with the upsampling of the logits
    return reach + stem * stride - 1  # a pixel may lie anywhere in its cell of the deepest map


def separable_conv(in_channels, out_channels, dilation=1):
    """Dilated 3x3 convolution per channel, then a 1x1 across channels, batch norm, ReLU.

    Needs about a ninth of the operations of a full 3x3 convolution.

    Args:
        in_channels, out_channels: numbers of channels.
        dilation: distance between neighbouring weights of the 3x3, px.
    Returns:
        nn.Sequential, (B, in_channels, H, W) -> (B, out_channels, H, W).
    Source: Chen 2018, "Encoder-decoder with atrous separable convolution", figure 3.
    """
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation,
                          groups=in_channels, bias=False)
    return nn.Sequential(depthwise, conv_norm_relu(in_channels, out_channels, 1))


class FusionBlock(nn.Module):
    """Multi-scale block: a 1x1, dilated 3x3 and whole-image branches side by side.

    The image branch averages over all pixels of the input, therefore no margin makes windows exact.
    It has no batch norm, because a training batch of one would leave a single value to average.

    Args:
        in_channels: of the input.
        out_channels: of every branch and of the output.
        rates: dilations of the 3x3 branches, px of this feature map.
        fusion: "concat" joins the branches by a 1x1 convolution. "sum" adds them, which is cheaper.
    Source: Chen 2018 (as above), section 3.1, for "concat". Differs from the paper in the image
        branch without batch norm.
    """

    def __init__(self, in_channels, out_channels, rates, fusion):
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, out_channels, 1)])
        for rate in rates:
            self.branches.append(separable_conv(in_channels, out_channels, rate))
        self.image = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(inplace=True))
        self.join = None
        if fusion == "concat":
            self.join = conv_norm_relu((len(rates) + 2) * out_channels, out_channels, 1)

    def forward(self, x):
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        maps = [branch(x) for branch in self.branches]
        image = self.image(x.mean((2, 3), keepdim=True))  # (B, out_channels, 1, 1)
        if self.join is None:
            return sum(maps) + image
        return self.join(torch.cat(maps + [image.expand_as(maps[0])], 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Source: He 2016, figure 5 left."""
    expansion = 1

    def __init__(self, in_channels, width, stride):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x):
        """(B, in_channels, H, W) -> (B, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut.

    Source: He 2016, figure 5 right. Differs from the paper in that the 3x3 has the stride.
    """
    expansion = 4

    def __init__(self, in_channels, width, stride):
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x):
        """(B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


def shortcut(in_channels, out_channels, stride):
    """The layer beside a residual block: identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def residual_stage(block, in_channels, width, count, stride):
    """A sequence of residual blocks, the first of which has the stride."""
    stage = nn.Sequential(block(in_channels, width, stride))
    for _ in range(count - 1):
        stage.append(block(width * block.expansion, width, stride=1))
    return stage


# name: block, number of blocks in each of the four stages, radius in px: 3 for the 7x7, 2 for the
# max pooling, and for each 3x3 the stride of its input
RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 217),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 449),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 213),
}


class ResNet(nn.Module):
    """ResNet without its classifier. Parameters are named as in torchvision, whose files load.

    Args:
        name: a key of RESNETS.
        in_channels: number of bands, C.
    Attributes:
        widths: channels of the five features.
        radius: how far the deepest feature depends on pixels beyond its own cell, px.
        frozen: whether batch norms keep their statistics, see `networks.freeze_encoder`.
    Source: He 2016, "Deep residual learning", table 1. With 3 bands 11,176,512 parameters (18),
        21,284,672 (34), 23,508,032 (50), as torchvision without `fc`.
    """

    def __init__(self, name, in_channels):
        super().__init__()
        block, counts, self.radius = RESNETS[name]
        self.widths = [64] + [width * block.expansion for width in (64, 128, 256, 512)]
        self.frozen = False
        self.conv1 = conv(in_channels, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = residual_stage(block, self.widths[0], 64, counts[0], stride=1)
        self.layer2 = residual_stage(block, self.widths[1], 128, counts[1], stride=2)
        self.layer3 = residual_stage(block, self.widths[2], 256, counts[2], stride=2)
        self.layer4 = residual_stage(block, self.widths[3], 512, counts[3], stride=2)

    def forward(self, x):
        """(B, C, H, W), sides multiples of 32 -> list of features at strides 2, 4, 8, 16, 32."""
        features = [F.relu(self.bn1(self.conv1(x)), inplace=True)]
        x = F.max_pool2d(features[0], 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    def train(self, mode=True):
        """Switch to training mode, except that a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)


class ResUNet(nn.Module):
    """U-Net whose contracting path is a ResNet or another encoder with features from stride 2 on.

    Args:
        encoder: a `ResNet` or `networks.efficientnet.EfficientNet`.
        num_classes: number of classes, K.
        upsampling: "bilinear" or "transposed", see `upsample_block`. Bilinear has no new parameters
            to learn on top of a pretrained encoder.
    Source: Ronneberger 2015, "U-Net", figure 1, on He 2016, figure 3. Decoder widths and, with
        bilinear upsampling, parameters as in segmentation_models.pytorch 0.6, which ends in a 3x3
        classifier where this one is 1x1. With 3 bands and 2 classes 14,328,098 parameters
        (ResNet-18) and 32,520,994 (ResNet-50).
    """

    def __init__(self, encoder, num_classes, upsampling="bilinear"):
        super().__init__()
        self.encoder = encoder
        # Channels at strides 16, 8, 4, 2 and 1. A decoder of four ends at stride 2.
        widths = getattr(encoder, "decoder_widths", (256, 128, 64, 32, 16))
        *skips, deepest = encoder.widths
        in_widths = [deepest, *widths]
        skip_widths = [*reversed(skips), 0]  # none at stride 1
        self.last_stride = 2 ** (5 - len(widths))  # of the logits before they are upsampled
        self.up = nn.ModuleList()
        self.merge = nn.ModuleList()
        for in_width, skip_width, width in zip(in_widths, skip_widths, widths):
            up_width = in_width if upsampling == "bilinear" else width
            self.up.append(upsample_block(in_width, up_width, upsampling))
            self.merge.append(double_conv(up_width + skip_width, width))

        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)
        initialise(self, self.classifier)
        self.stride = 32
        # At each stride of the decoder two 3x3 convolutions and perhaps a bilinear interpolation.
        # A pixel may lie anywhere in its cell of the deepest map.
        steps = 3 if upsampling == "bilinear" else 2
        self.radius = encoder.radius + steps * (16 + 8 + 4 + 2 + 1) + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1.

        `geo.windows.decode_inside` repeats these steps inside a margin: change both.
        """
        height, width = x.shape[-2:]
        *skips, x = self.encoder(pad_to_stride(x, self.stride))
        for up, merge in zip(self.up, self.merge):
            x = up(x)
            if skips:  # none at stride 1
                x = torch.cat([x, skips.pop()], 1)
            x = merge(x)
        logits = self.classifier(x)
        if self.last_stride > 1:
            logits = upsample(logits, self.last_stride)
        return logits[..., :height, :width]
