"""Windows over a scene: where they lie, which part of each is valid, and its prediction.

Neighbouring windows overlap. The margin is the width of the border, px, that is discarded on each
side of a window that has a neighbour. With a margin of at least the network's radius the logits are
exactly those of the whole scene.
"""

import collections

import torch
import torch.nn as nn
import torch.nn.functional as F

from metrics import class_map
from networks.efficientnet import EfficientNet
from networks.ensemble import Ensemble, mutual_information
from unet import ResUNet, UNet, pad_to_stride, upsample

WINDOW = 1024  # px
BAND_VALUES = 2**22  # in the widest map of a block while a band of rows is computed
BAND_HALO = 4  # rows beyond a band, at least the reach of a block, a multiple of its stride
MARGIN_WITHOUT_RADIUS = 64  # px, for networks whose receptive field is the whole image

# A window along one axis: first pixel, size, and the pixels [keep_from, keep_to) that are valid.
# All are px of the scene.
Window = collections.namedtuple("Window", "origin size keep_from keep_to")


def window_and_margin(window, margin, model):
    """Round the sizes asked for to multiples of the network's stride; fill in what is None.

    Args:
        window: side including both margins, px, rounded up. None is WINDOW, or four margins where
            that is more.
        margin: px, rounded up. None is the network's radius.
        model: with stride and radius, px.
    Returns:
        (window, margin), px.
    Raises:
        ValueError: a negative margin, or nothing left between the margins.
    """
    if margin is None:
        margin = MARGIN_WITHOUT_RADIUS if model.radius is None else model.radius
    if window is None:
        window = max(WINDOW, 4 * margin)
    if margin < 0 or window < 1:
        raise ValueError(f"--window {window} --margin {margin}: give a window of 1 px or more, a "
                         "margin of 0 or more")
    window = round_up(window, model.stride)
    margin = round_up(margin, model.stride)
    if window <= 2 * margin:
        raise ValueError(f"--window {window} leaves nothing between two margins of {margin} px: "
                         f"give --window {4 * margin} or more, or a smaller --margin")
    return max(window, 2 * model.stride), margin


def round_up(length, stride):
    """Round a length up to a multiple of the stride, px."""
    return -(-length // stride) * stride


def window_origins(length, window, margin):
    """Place windows along one axis so that their valid parts cover it.

    The last window is moved inward, never shrunk, so that all windows have the same shape.

    Args:
        length: padded axis length, px.
        window: window side including both margins, px.
        margin: px discarded on each inner side, 0 <= 2 * margin < window.
    Returns:
        list of origins, px, ascending; multiples of the network's stride, if all arguments are.
    """
    if length <= window:
        return [0]
    last = length - window
    return [*range(0, last, window - 2 * margin), last]


def even_window(length, window, margin, stride):
    """The smallest window that needs no more windows along an axis than the one given.

    Args:
        length, window, margin: as in `window_origins`, multiples of the stride.
        stride: the network's stride, px.
    Returns:
        side including both margins, px, at most `window`, a multiple of the stride.
    """
    valid = window - 2 * margin  # px per window
    inner = length - 2 * margin  # px to be covered
    count = max(-(-inner // valid), 1)  # -(-a // b) is a / b rounded up
    return round_up(-(-inner // count), stride) + 2 * margin


def axis_windows(length, window, margin, stride):
    """Lay windows along one axis of a scene, all of one size, as small as their number allows.

    The last window may end beyond the scene, by less than a stride. It is then cut at the scene's
    end, and the network pads it exactly as it would pad the whole scene.

    Args:
        length: axis length of the scene, px.
        window, margin, stride: as in `even_window`.
    Returns:
        list of Window, px. The valid parts lie end to end and cover the axis.
    """
    padded = max(round_up(length, stride), 2 * stride)
    window = even_window(padded, window, margin, stride)
    origins = window_origins(padded, window, margin)
    bounds = [0] + [origin + margin for origin in origins[1:]] + [length]
    windows = []
    for index, origin in enumerate(origins):
        size = min(window, length - origin)
        keep_to = min(bounds[index + 1], length)
        windows.append(Window(origin, size, bounds[index], keep_to))
    return windows


def discarded_margin(row, col, margin):
    """`margin` if all four sides of the window at (row, col) discard as much, else 0; px."""
    sides = []
    for axis in (row, col):
        sides.append(axis.keep_from - axis.origin)
        sides.append(axis.origin + axis.size - axis.keep_to)
    return margin if min(sides) >= margin else 0


def valid_slices(row, col, margin=0):
    """Slices of the valid part in an array of the window at (row, col) without its margin, px."""
    slices = []
    for axis in (row, col):
        first = axis.origin + margin
        slices.append(slice(axis.keep_from - first, axis.keep_to - first))
    return tuple(slices)


def count_workers(rows, cols, device):
    """Number of windows to predict at a time: 2 if they are small and on the CPU, else 1.

    Half of the threads work on each of the two, and wait less for one another.

    Args:
        rows, cols: lists of Window along both axes.
        device: torch.device.
    """
    pixels = 2 * rows[0].size * cols[0].size
    is_small = pixels <= WINDOW**2  # no more memory than for one window of the default size
    has_threads = device.type == "cpu" and torch.get_num_threads() > 1
    return 2 if is_small and has_threads and len(cols) > 1 else 1


@torch.inference_mode()
def predict_window(model, inputs, margin, tta, with_probabilities):
    """Predict the classes of one window.

    Args:
        model: in eval mode.
        inputs: (1, C, H, W) normalised.
        margin: px left out on all four sides, h = H - 2 * margin, w = W - 2 * margin.
        tta: whether to average over the eight symmetries.
        with_probabilities: whether to return probabilities too.
    Returns:
        ((h, w) uint8 array of classes, (1, K, h, w) float32 tensor of probabilities or None). An
        `Ensemble` always returns probabilities, with mutual information as channel K.
    """
    if isinstance(model, Ensemble):
        return predict_ensemble(model, inputs, margin, tta)
    if tta:
        logits = averaged_logits(model, inputs, margin)  # (1, K, h, w)
    else:
        logits = logits_inside(model, inputs, margin)
    classes = class_map(logits)[0].cpu().numpy()
    if not with_probabilities:
        return classes, None
    return classes, (logits / getattr(model, "temperature", 1.0)).softmax(1)


def predict_ensemble(ensemble, inputs, margin, tta):
    """Predict the classes of one window with each member; arguments as in `predict_window`.

    Returns:
        ((h, w) uint8 array of classes, (1, K + 1, h, w) mean probabilities, mutual information).
    """
    parts = []
    for member in ensemble.members:
        parts.append(predict_window(member, inputs, margin, tta, True)[1])
    parts = torch.stack(parts)  # (M, 1, K, h, w)
    mean = parts.mean(0)
    classes = class_map(mean)[0].cpu().numpy()
    return classes, torch.cat([mean, mutual_information(parts)], 1)


def averaged_logits(model, inputs, margin=0):
    """Logits whose softmax is the mean of the probabilities over the square's eight symmetries."""
    return average_symmetries(model, inputs, margin).clamp(min=1e-12).log()


def average_symmetries(model, inputs, margin=0):
    """Average the probabilities of the eight symmetries: four quarter turns, plain and mirrored.

    The window is first padded as the network would pad it, so that all eight lie on the same grid
    of strides. Windows then add up to the whole scene as they do without symmetries.

    Args:
        model: in eval mode.
        inputs: (B, C, H, W) normalised.
        margin: px left out on all four sides.
    Returns:
        (B, K, H - 2 * margin, W - 2 * margin) float32.
    """
    height, width = inputs.shape[2:]
    padded = pad_to_stride(inputs, model.stride)
    total = 0
    for turns in range(4):
        for mirrored in ([], [3]):  # axes
            view = padded.rot90(turns, (2, 3)).flip(mirrored)
            view = view.contiguous(memory_format=torch.channels_last)
            probabilities = logits_inside(model, view, margin).softmax(1)
            total = total + probabilities.flip(mirrored).rot90(-turns, (2, 3))
    return total[..., :height - 2 * margin, :width - 2 * margin] / 8


def logits_inside(model, inputs, margin):
    """Logits inside a margin, px: (B, C, H, W) -> (B, K, H - 2 * margin, W - 2 * margin) float32.

    A softmax of bfloat16 or float16, as autocast would leave it on the CPU, is coarse.
    """
    if margin > 0 and type(model) in (UNet, ResUNet):
        return decode_inside(model, inputs, margin).float()
    return center_crop(model(inputs), margin).float()


def decode_inside(model, x, margin):
    """Logits of a U-Net inside a margin, without decoding the margin itself.

    Equal to `center_crop(model(x), margin)`. The steps are those of the model's forward method, so
    a change there belongs here too.

    Args:
        model: a `unet.UNet` or `unet.ResUNet`.
        x: (B, C, H, W).
        margin: px, 0 <= 2 * margin < H, W.
    Returns:
        (B, K, H - 2 * margin, W - 2 * margin).
    """
    height, width = x.shape[2:]
    x = pad_to_stride(x, model.stride)
    if isinstance(model, UNet):
        logits, cropped = decode_unet(model, x, margin)
    else:
        logits, cropped = decode_resunet(model, x, margin)
    first = margin - cropped
    rows = slice(first, first + height - 2 * margin)
    cols = slice(first, first + width - 2 * margin)
    return logits[..., rows, cols]


def decode_unet(model, x, margin):
    """Forward pass of a `UNet` on a padded x; returns (cropped logits, px cropped per side)."""
    if model.stem > 1:
        x = F.pixel_unshuffle(x, model.stem)
    skips = []
    for down in model.down:
        x = down(x)
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = model.bottleneck(x)
    crop = 0
    crops = decoder_crops(margin, [model.stem] + [2] * (len(skips) - 1))
    for up, merge, next_crop in zip(model.up, model.merge, crops):
        x = center_crop(up(x), next_crop - 2 * crop)
        crop = next_crop
        x = merge(torch.cat([center_crop(skips.pop(), crop), x], 1))
    logits = model.classifier(x)
    if model.stem > 1:
        logits = upsample(logits, model.stem)
    return logits, model.stem * crop


def decode_resunet(model, x, margin):
    """Forward pass of a `ResUNet` on a padded x; returns (cropped logits, px cropped per side)."""
    *skips, x = model.encoder(x)
    crop = 0
    crops = decoder_crops(margin, [model.last_stride] + [2] * (len(model.up) - 1))
    for up, merge, next_crop in zip(model.up, model.merge, crops):
        x = center_crop(up(x), next_crop - 2 * crop)
        crop = next_crop
        if skips:  # none at stride 1
            x = torch.cat([x, center_crop(skips.pop(), crop)], 1)
        x = merge(x)
    logits = model.classifier(x)
    if model.last_stride > 1:
        logits = upsample(logits, model.last_stride)
    return logits, model.last_stride * crop


def decoder_crops(margin, factors):
    """How much can be cropped from the maps of a decoder if logits in a margin are not needed.

    At a cut the two 3x3 convolutions of a map change two px of it, and its upsampling one more.

    Args:
        margin: of the logits, px.
        factors: upsampling after each map, the last map's first.
    Returns:
        list of px cropped from all four sides of each map, the deepest map's first.
    """
    crops = []
    for factor in factors:
        margin = max(margin // factor - 3, 0)
        crops.insert(0, margin)
    return crops


def center_crop(x, margin):
    """Crop a margin, px: (B, C, H, W) -> (B, C, H - 2 * margin, W - 2 * margin)."""
    if margin == 0:
        return x
    return x[:, :, margin:-margin, margin:-margin]


def compute_in_bands(model):
    """Have the EfficientNets in a network compute large maps in bands of rows, in place.

    Inside a block the map has six times the channels of its input. In bands the network needs a
    fraction of the memory for a window of 2208 px, and no more time (docs/speed.md).
    """
    for module in model.modules():
        if isinstance(module, EfficientNet):
            module._conv_stem = RowBands(module._conv_stem, 1, 2)
            bands = [RowBands(block, block.expansion, block.stride) for block in module._blocks]
            module._blocks = nn.ModuleList(bands)


class RowBands(nn.Module):
    """A block that computes a large map in bands of rows, with the same result.

    Args:
        block: nn.Module whose output depends on at most BAND_HALO rows above and below.
        expansion: channels of its widest inner map, as a multiple of its input's.
        stride: 1 or 2.
    """

    def __init__(self, block, expansion, stride):
        super().__init__()
        self.block = block
        self.expansion = expansion
        self.stride = stride

    def forward(self, x):
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        height = x.shape[2]
        values_per_row = self.expansion * x[:, :, 0].numel()
        rows = max(BAND_VALUES // values_per_row, BAND_HALO) // BAND_HALO * BAND_HALO
        if rows >= height:
            return self.block(x)
        result = None
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first = max(top - BAND_HALO, 0)
            band = self.block(x[:, :, first:bottom + BAND_HALO])
            if result is None:  # filled band by band, because joining them would take twice as much
                size = (*band.shape[:2], height // self.stride, band.shape[3])
                result = torch.empty(size, dtype=band.dtype, device=band.device,
                                     memory_format=torch.channels_last)
            kept = slice((top - first) // self.stride, (bottom - first) // self.stride)
            result[:, :, top // self.stride:bottom // self.stride] = band[:, :, kept]
        return result
