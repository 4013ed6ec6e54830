"""Padding, the convolution block that every network here is made of, and their common start."""

import torch.nn as nn
import torch.nn.functional as F


def pad_to_stride(x, stride):
    """Pad a batch at the bottom and right so that a network of this stride can take it whole.

    Each side becomes a multiple of the stride and at least two strides long: the deepest feature map then has at
    least 2 x 2 px, so that batch norm has something to average even for a training batch of one pixel.

    Args:
        x: (B, C, H, W), any H, W >= 1.
        stride: the network's total stride, px.
    Returns:
        (B, C, H', W'), the edge pixels repeated; x itself where nothing is missing.
    """
    height, width = x.shape[-2:]
    bottom = max(-height % stride, 2 * stride - height)
    right = max(-width % stride, 2 * stride - width)
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def conv_norm_relu(inputs, outputs, kernel=3, dilation=1):
    """Convolution, batch norm, ReLU: same size out as in.

    Args:
        inputs, outputs: channels.
        kernel: side, px; odd.
        dilation: distance between the kernel's taps, px.
    Returns:
        nn.Sequential, (B, inputs, H, W) -> (B, outputs, H, W).
    """
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def initialise(model):
    """Start every convolution by He's rule, and the classifier near zero, so that training starts at loss ln K.

    Args:
        model: any network of ours; its last convolution is called `classifier`.
    Returns:
        None; the weights are drawn in place from torch's generator.
    Source: He 2015, equation 15 (fan-out).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.classifier.weight, std=0.01)
