"""FPN, U-Net++, LinkNet and DeepLabV3+ on a ResNet or EfficientNet encoder.

Each network is called with an encoder, a `unet.ResNet` or `EfficientNet`, and the number of
classes, K. `stride` and `radius` are explained in unet.py. A radius is the sum of the encoder's
radius, of what the decoder adds on its deepest path, and of stride - 1, because a pixel may lie
anywhere in its cell of the deepest map. A 3x3 convolution adds the stride it works at, bilinear
upsampling by 2 adds the stride it arrives at, and by 4 twice that.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from unet import (
    FusionBlock, ResNet, conv_norm_relu, double_conv, initialise, pad_to_stride, separable_conv,
    upsample, upsample_block)


class FPN(nn.Module):
    """Feature pyramid network: a top-down path of one width, every level upsampled to stride 4.

    Source: Lin 2017, "Feature pyramid networks for object detection", figure 3, with the head of
        Kirillov 2019, "Panoptic feature pyramid networks", figure 3. Differs from the latter in
        batch norm in place of group norm. ResNet-18, 3 bands, 2 classes: 15,407,682 parameters. We
        know no other program with exactly this form.
    """

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        self.lateral = nn.ModuleList()
        for channels in encoder.widths[1:]:
            self.lateral.append(nn.Conv2d(channels, 256, 1))
        self.smooth = nn.ModuleList()
        for _ in range(4):
            self.smooth.append(nn.Conv2d(256, 256, 3, padding=1))
        self.head = nn.ModuleList()
        for level in range(4):
            self.head.append(head_branch(level))
        self.classifier = nn.Conv2d(128, num_classes, 1)
        initialise(self, self.classifier)
        self.stride = 32
        self.radius = encoder.radius + (32 + 32 + 16) + (16 + 8) + (8 + 4) + 2 + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, *features = self.encoder(pad_to_stride(x, self.stride))
        maps = []
        for lateral, feature in zip(self.lateral, features):
            maps.append(lateral(feature))  # (B, 256, ..) at strides 4, 8, 16, 32
        for level in (2, 1, 0):
            deeper = F.interpolate(maps[level + 1], scale_factor=2)  # nearest, as in the paper
            maps[level] = maps[level] + deeper
        x = 0
        for head, smooth, level_map in zip(self.head, self.smooth, maps):
            x = x + head(smooth(level_map))  # (B, 128, H' / 4, W' / 4)
        return upsample(self.classifier(x), 4)[..., :height, :width]


def head_branch(level):
    """The branch of the FPN's head that starts at stride 4 * 2**level and ends at stride 4."""
    layers = [conv_norm_relu(256, 128)]
    for _ in range(level - 1):
        layers.append(upsample_block(128, 128, "bilinear"))
        layers.append(conv_norm_relu(128, 128))
    if level > 0:
        layers.append(upsample_block(128, 128, "bilinear"))
    return nn.Sequential(*layers)


class UNetPlusPlus(nn.Module):
    """U-Net++: every skip connection is a row of nodes, each fed by all nodes before it in its row.

    Source: Zhou 2018, "UNet++", figure 1a, equation 1, without deep supervision. Widths and
        parameters as in segmentation_models.pytorch 0.6, which ends in a 3x3 classifier where this
        one is 1x1. With 3 bands and 2 classes 15,970,338 parameters (ResNet-18) and 48,985,634
        (ResNet-50).
    """

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        # Nodes are as wide as their row's feature, except for the last node of each row.
        last_widths = (32, 64, 128, 256)
        widths = {}
        for level, channels in enumerate(encoder.widths):
            widths[level, 0] = channels
        self.nodes = nn.ModuleDict()
        for column in range(1, 5):
            for level in range(5 - column):
                last = level + column == 4
                widths[level, column] = last_widths[level] if last else encoder.widths[level]
                below = widths[level + 1, column - 1]
                in_channels = below + column * encoder.widths[level]
                self.nodes[f"{level}_{column}"] = double_conv(in_channels, widths[level, column])
        self.top = double_conv(32, 16)
        self.classifier = nn.Conv2d(16, num_classes, 1)
        initialise(self, self.classifier)
        self.stride = 32
        self.radius = encoder.radius + 3 * (16 + 8 + 4 + 2 + 1) + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        features = self.encoder(pad_to_stride(x, self.stride))
        rows = [[feature] for feature in features]  # at strides 2, 4, 8, 16, 32
        for column in range(1, 5):
            for level in range(5 - column):
                below = upsample(rows[level + 1][column - 1], 2)
                joined = torch.cat([below] + rows[level][::-1], 1)  # the nearest node first
                rows[level].append(self.nodes[f"{level}_{column}"](joined))
        x = upsample(rows[0][4], 2)
        return self.classifier(self.top(x))[..., :height, :width]


class LinkNet(nn.Module):
    """LinkNet: skips are added, not concatenated, and the decoder has a quarter of the channels.

    Source: Chaurasia 2017, "LinkNet", figures 1 and 3. ResNet-18, 3 bands, 20 classes: 11,535,764
        parameters, the paper's 11.5 million.
    """

    def __init__(self, encoder, num_classes):
        super().__init__()
        _, width1, width2, width3, width4 = encoder.widths
        self.encoder = encoder
        self.decoder4 = linknet_block(width4, width3, 2)
        self.decoder3 = linknet_block(width3, width2, 2)
        self.decoder2 = linknet_block(width2, width1, 2)
        self.decoder1 = linknet_block(width1, 64, 1)
        self.up = transposed_conv(64, 32, 2)
        self.refine = conv_norm_relu(32, 32)
        self.classifier = nn.ConvTranspose2d(32, num_classes, 2, stride=2)
        initialise(self, self.classifier)
        self.stride = 32
        # The 3x3 convolutions of stride 1 reach to both sides, at strides 4 and 2. The transposed
        # ones reach to the right alone. They do not count on a ResNet, whose five strided layers
        # reach as far to the left alone.
        transposed = 0 if isinstance(encoder, ResNet) else 16 + 8 + 4 + 2
        self.radius = encoder.radius + transposed + 4 + 2 + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, e1, e2, e3, e4 = self.encoder(pad_to_stride(x, self.stride))  # strides 4, 8, 16, 32
        x = self.decoder4(e4) + e3
        x = self.decoder3(x) + e2
        x = self.decoder2(x) + e1
        x = self.up(self.decoder1(x))  # (B, 32, H' / 2, W' / 2)
        return self.classifier(self.refine(x))[..., :height, :width]


def linknet_block(in_channels, out_channels, stride):
    """Decoder block of LinkNet, (B, in, H, W) -> (B, out, H * stride, W * stride)."""
    quarter = in_channels // 4
    return nn.Sequential(
        conv_norm_relu(in_channels, quarter, 1),
        transposed_conv(quarter, quarter, stride),
        conv_norm_relu(quarter, out_channels, 1),
    )


def transposed_conv(in_channels, out_channels, stride):
    """Transposed 3x3 convolution, batch norm, ReLU; height and width grow by the stride."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride, padding=1,
                              output_padding=stride - 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: a dilated encoder of stride 16, a pyramid of dilations, one skip at stride 4.

    Source: Chen 2018, "Encoder-decoder with atrous separable convolution", figure 2, with the rates
        of Chen 2017, "Rethinking atrous convolution", section 3.3. Differs from the paper in the
        image branch without batch norm, see `unet.FusionBlock`. ResNet-50, 3 bands, 2 classes:
        26,677,586 parameters. segmentation_models.pytorch 0.6 has 256 more, because of that norm.
    """

    def __init__(self, encoder, num_classes):
        super().__init__()
        dilate_last_stage(encoder)
        self.encoder = encoder
        self.pyramid = FusionBlock(encoder.widths[4], 256, (6, 12, 18), "concat")
        self.reduce = conv_norm_relu(encoder.widths[1], 48, 1)
        self.refine = nn.Sequential(separable_conv(256 + 48, 256), separable_conv(256, 256))
        self.classifier = nn.Conv2d(256, num_classes, 1)
        initialise(self, self.classifier)
        self.stride = 16
        self.radius = None  # the image branch of the pyramid depends on the whole image

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        _, low, _, _, high = self.encoder(pad_to_stride(x, self.stride))
        high = upsample(self.pyramid(high), 4)  # (B, 256, H' / 4, W' / 4)
        x = self.refine(torch.cat([high, self.reduce(low)], 1))
        return upsample(self.classifier(x), 4)[..., :height, :width]


def dilate_last_stage(encoder):
    """Let an encoder end at stride 16: its last stage is dilated by 2, not strided, in place.

    The first block keeps its dilation of 1, as in torchvision.

    Source: Chen 2018, "Encoder-decoder with atrous separable convolution", section 3.1.
    """
    first, *others = encoder.layer4
    for layer in first.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    for block in others:
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                layer.dilation = (2, 2)
                layer.padding = (2 * layer.padding[0], 2 * layer.padding[1])
