"""The ResNet encoder with torchvision's parameter names, and the small parts that every network here shares."""

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
