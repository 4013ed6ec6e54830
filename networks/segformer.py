"""SegFormer: the mix transformer encoder with its authors' parameter names, and the all-MLP head."""

from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F

from unet import conv_norm_relu, initialise, pad_to_stride, upsample

# channels and blocks of the four stages; channels of the head above them
TRANSFORMERS = {"mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
                "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
                "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3), 768)}


def to_tokens(x):
    """A feature map as a sequence: (B, C, H, W) -> (B, H*W, C); no copy where the map is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens, height, width):
    """A sequence as a feature map: (B, H*W, C) -> (B, C, H, W), channels-last in memory; no copy."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


class PatchEmbedding(nn.Module):
    """Overlapping patches become tokens: a strided convolution wider than its stride, then layer norm."""

    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x):
        """(B, inputs, H, W) -> (B, N, outputs) with N = H/stride * W/stride, and the two sides of N."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), *x.shape[-2:]


class Attention(nn.Module):
    """Self-attention whose keys and values come from a map made smaller by `reduction`, so that its cost stays low.

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
            x = self.norm(to_tokens(self.sr(to_map(x, height, width))))  # (B, M, C), M = N / reduction**2
        k, v = map(self.split, self.kv(x).chunk(2, dim=-1))  # (B, heads, M, C / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))

    def split(self, x):
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Two linear layers with a 3x3 per channel between them, whose zero padding tells tokens where they are.

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
    """Attention, then mix-FFN, each added to what came in. Source: Xie 2021, figure 2."""

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

    Attributes:
        widths: channels of the four features; head_width: of the head that the paper puts above them.
        frozen: see `models.freeze_encoder`; nothing here behaves differently in training.
    Source: Xie 2021, "SegFormer", table 6 (appendix). 3,319,392 parameters (B0), 13,151,424 (B1), 24,196,288 (B2) with
        3 bands: the authors' without `head`. Differs from the paper in having no stochastic depth.
    """

    def __init__(self, name, bands):
        super().__init__()
        self.widths, counts, self.head_width = TRANSFORMERS[name]
        self.frozen = False
        inputs = (bands,) + self.widths[:-1]
        for stage, (heads, reduction) in enumerate(zip((1, 2, 5, 8), (8, 4, 2, 1))):
            width = self.widths[stage]
            kernel, stride = (7, 4) if stage == 0 else (3, 2)
            blocks = [Block(width, heads, reduction) for _ in range(counts[stage])]
            # Attributes rather than one list, for the authors' names count stages from 1: patch_embed1, block1, norm1.
            self.add_module(f"patch_embed{stage + 1}", PatchEmbedding(inputs[stage], width, kernel, stride))
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and not layer.weight.is_meta:  # there is nothing to draw, see resnet.initialise
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        """(B, C, H, W), sides multiples of 32 -> list of four features, at strides 4, 8, 16, 32."""
        stages = ((self.patch_embed1, self.block1, self.norm1), (self.patch_embed2, self.block2, self.norm2),
                  (self.patch_embed3, self.block3, self.norm3), (self.patch_embed4, self.block4, self.norm4))
        features = []
        for embed, blocks, norm in stages:
            tokens, height, width = embed(x)
            for block in blocks:
                tokens = block(tokens, height, width)
            x = to_map(norm(tokens), height, width)
            features.append(x)
        return features


class SegFormer(nn.Module):
    """The mix transformer under a head that only mixes channels: attention has already looked everywhere.

    Args:
        encoder: a `MixTransformer`.
        classes: K.
        dropout: share of channels dropped before the classifier, 0 <= dropout < 1.
    Attributes:
        encoder; stride, radius: see `models.build_model`; the radius is None, for attention sees the whole input.
    Source: Xie 2021, "SegFormer", equation 4. With 3 bands and 150 classes 3,752,694 (B0), 13,715,798 (B1) and
        27,461,974 (B2) parameters: the paper's 3.8, 13.7 and 27.5 million.
    """

    def __init__(self, encoder, classes, dropout=0.0):
        super().__init__()
        width = encoder.head_width
        self.encoder = encoder
        self.linear = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in encoder.widths)
        self.fuse = conv_norm_relu(4 * width, width, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise(self)
        self.stride = 32
        self.radius = None

    def forward(self, x):
        """(B, C, H, W) -> (B, K, H, W) logits, any H, W >= 1."""
        height, width = x.shape[-2:]
        features = self.encoder(pad_to_stride(x, self.stride))
        maps = [linear(feature) for linear, feature in zip(self.linear, features)]
        maps = [upsample(x, 2**level) for level, x in enumerate(maps)]  # all (B, width, H/4, W/4)
        x = self.dropout(self.fuse(torch.cat(maps[::-1], 1)))
        return upsample(self.classifier(x), 4)[..., :height, :width]
