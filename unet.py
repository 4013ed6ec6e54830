"""The U-Net of any depth and width."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from resnet import conv_norm_relu, initialise, pad_to_stride


def double_conv(inputs, outputs):
    """The U-Net's unit: two 3x3 convolutions, each with batch norm and ReLU; (B, inputs, H, W) -> (B, outputs, H, W)."""
    return nn.Sequential(conv_norm_relu(inputs, outputs), conv_norm_relu(outputs, outputs))


def double_size(inputs, outputs, upsampling):
    """A layer that doubles height and width, (B, inputs, H, W) -> (B, outputs, 2H, 2W).

    Args:
        upsampling: "transposed" is a learned 2x2 convolution of stride 2; "bilinear" interpolates after a 1x1
            convolution (the two commute, and before it there are four times fewer pixels).
    """
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1),
                         nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))


class UNet(nn.Module):
    """U-Net: a contracting path, an expanding path, and a skip between them at every level."""

    def __init__(self, bands, classes, width=16, depth=4, stem=1, upsampling="transposed", dropout=0.0):
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        entry = [bands * stem**2] + widths[:-2]
        self.stem = stem
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip(entry, widths))
        self.bottleneck = nn.Sequential(double_conv(widths[-2], widths[-1]), nn.Dropout2d(dropout))
        steps = list(zip(widths[:0:-1], widths[-2::-1]))
        self.up = nn.ModuleList(double_size(i, o, upsampling) for i, o in steps)
        self.merge = nn.ModuleList(double_conv(2 * o, o) for _, o in steps)
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self)
        self.stride = stem << depth
        convs = 2 * 2 * (2**depth - 1) + 2 * 2**depth
        halos = 2**depth - 1 if upsampling == "bilinear" else 0
        self.radius = stem * (convs + halos) + (stem - 1) + self.stride - 1

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(pad_to_stride(x, self.stride), self.stem)
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips)):
            x = merge(torch.cat([skip, up(x)], 1))
        logits = self.classifier(x)
        if self.stem > 1:
            logits = F.interpolate(logits, scale_factor=self.stem, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]
