"""FPN, U-Net++, LinkNet and DeepLabV3+ on a ResNet encoder."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from unet import (
    FusionBlock,
    conv_norm_relu,
    double_conv,
    initialise,
    pad_to_stride,
    separable_conv,
    upsample,
    upsample_block,
)

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
            layers += [upsample_block(128, 128, "bilinear"), conv_norm_relu(128, 128)]
        if level > 0:
            layers.append(upsample_block(128, 128, "bilinear"))
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
