"""SegFormer: the mix transformer encoder, with its authors' parameter names, and the head."""

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F

from unet import conv_norm_relu, initialise, pad_to_stride, upsample

# name: channels of the four stages, blocks of the four stages, channels of the head above them
TRANSFORMERS = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
}


def to_tokens(x):
    """View a feature map as a sequence, (B, C, H, W) -> (B, H * W, C).

    A map with channels last in memory is not copied.
    """
    return x.flatten(2).transpose(1, 2)


def to_map(tokens, height, width):
    """View a sequence as a feature map, (B, H * W, C) -> (B, C, H, W), channels last in memory."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


class PatchEmbedding(nn.Module):
    """Overlapping patches as tokens: a convolution wider than its stride, then layer norm."""

    def __init__(self, in_channels, out_channels, kernel, stride):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x):
        """Embed a map.

        Args:
            x: (B, in_channels, H, W).
        Returns:
            (tokens (B, h * w, out_channels), h, w) with h = H / stride and w = W / stride.
        """
        x = self.proj(x)
        height, width = x.shape[-2:]
        return self.norm(to_tokens(x)), height, width


class Attention(nn.Module):
    """Self-attention with fewer keys and values: their map is first reduced by `reduction`.

    Source: Xie 2021, section 3.1, "Efficient self-attention", equation 2.
    """

    def __init__(self, width, heads, reduction):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, stride=reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x, height, width):
        """(B, N, C) -> (B, N, C), N = height * width, both multiples of the reduction."""
        q = self.split(self.q(x))  # (B, heads, N, C / heads)
        if self.reduction > 1:
            reduced = self.sr(to_map(x, height, width))
            x = self.norm(to_tokens(reduced))  # (B, M, C), M = N / reduction**2
        k, v = self.kv(x).chunk(2, dim=-1)
        k = self.split(k)  # (B, heads, M, C / heads)
        v = self.split(v)
        y = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C / heads)
        return self.proj(y.transpose(1, 2).flatten(2))

    def split(self, x):
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Two linear layers with a 3x3 convolution per channel between them.

    The zero padding of the convolution takes the place of a positional encoding.

    Source: Xie 2021, equation 3.
    """

    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        conv = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=conv))  # the authors' name is dwconv.dwconv
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x, height, width):
        """(B, N, C) -> (B, N, C), N = height * width."""
        x = self.dwconv(to_map(self.fc1(x), height, width))
        return self.fc2(F.gelu(to_tokens(x)))


class Block(nn.Module):
    """Attention, then mix-FFN, each added to its input. Source: Xie 2021, figure 2."""

    def __init__(self, width, heads, reduction):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MixFFN(width)

    def forward(self, x, height, width):
        """(B, N, C) -> (B, N, C), N = height * width."""
        x = x + self.attn(self.norm1(x), height, width)
        return x + self.mlp(self.norm2(x), height, width)


class MixTransformer(nn.Module):
    """MiT-B0, -B1, -B2: features at strides 4, 8, 16, 32.

    Args:
        name: a key of TRANSFORMERS.
        in_channels: number of bands, C.
    Attributes:
        widths: channels of the four features.
        head_width: channels of the head that the paper puts above them.
    Source: Xie 2021, "SegFormer", table 6 (appendix). With 3 bands 3,319,392 parameters (B0),
        13,151,424 (B1), 24,196,288 (B2), the authors' without `head`. Differs from the paper in
        having no stochastic depth.
    """

    def __init__(self, name, in_channels):
        super().__init__()
        self.widths, counts, self.head_width = TRANSFORMERS[name]
        all_heads = (1, 2, 5, 8)
        reductions = (8, 4, 2, 1)
        for stage in range(4):
            width = self.widths[stage]
            blocks = nn.ModuleList()
            for _ in range(counts[stage]):
                blocks.append(Block(width, all_heads[stage], reductions[stage]))
            if stage == 0:
                embedding = PatchEmbedding(in_channels, width, kernel=7, stride=4)
            else:
                embedding = PatchEmbedding(self.widths[stage - 1], width, kernel=3, stride=2)
            # Attributes rather than a list, because the authors' names count stages from 1.
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and not layer.weight.is_meta:  # see unet.initialise
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        """(B, C, H, W), sides multiples of 32 -> list of four features, at strides 4, 8, 16, 32."""
        stages = (
            (self.patch_embed1, self.block1, self.norm1),
            (self.patch_embed2, self.block2, self.norm2),
            (self.patch_embed3, self.block3, self.norm3),
            (self.patch_embed4, self.block4, self.norm4),
        )
        features = []
        for embed, blocks, norm in stages:
            tokens, height, width = embed(x)
            for block in blocks:
                tokens = block(tokens, height, width)
            x = to_map(norm(tokens), height, width)
            features.append(x)
        return features


class SegFormer(nn.Module):
    """SegFormer: the mix transformer under a head that only mixes channels.

    The head needs no surroundings because attention has already seen the whole image.

    Args:
        encoder: a `MixTransformer`.
        num_classes: number of classes, K.
    Source: Xie 2021, equation 4. With 3 bands and 150 classes 3,752,694 (B0), 13,715,798 (B1) and
        27,461,974 (B2) parameters, the paper's 3.8, 13.7 and 27.5 million. Differs from the paper
        in having no dropout.
    """

    def __init__(self, encoder, num_classes):
        super().__init__()
        width = encoder.head_width
        self.encoder = encoder
        self.linear = nn.ModuleList()
        for channels in encoder.widths:
            self.linear.append(nn.Conv2d(channels, width, 1))
        self.fuse = conv_norm_relu(4 * width, width, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self, self.classifier)
        self.stride = 32
        self.radius = None  # attention depends on the whole image

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        features = self.encoder(pad_to_stride(x, self.stride))
        maps = []
        for level, (linear, feature) in enumerate(zip(self.linear, features)):
            maps.append(upsample(linear(feature), 2**level))  # (B, width, H' / 4, W' / 4)
        x = self.fuse(torch.cat(maps[::-1], 1))  # the deepest first, as in the authors' code
        return upsample(self.classifier(x), 4)[..., :height, :width]
