"""A scene seen through windows: where they lie, what is kept of each, and what the network makes of one."""

import collections

import torch

from metrics import class_map
from unet import ResUNet, UNet, inside, pad_to_stride

WINDOW = 1024  # px
MARGIN_WITHOUT_RADIUS = 64  # px, for networks whose receptive field is the whole image

Window = collections.namedtuple("Window", "origin size keep_from keep_to")


def window_and_margin(window, margin, model):
    """The sizes asked for, brought to multiples of the network's stride.

    Args:
        window: side with both margins, px; rounded up. None is WINDOW, or four margins where that is more.
        margin: px, rounded up; None is the network's radius.
        model: with .stride and .radius, px.
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
        raise ValueError(f"--window {window} --margin {margin}: give a window of 1 px or more, a margin of 0 or more")
    window, margin = (-(-side // model.stride) * model.stride for side in (window, margin))
    if window <= 2 * margin:
        raise ValueError(f"--window {window} leaves nothing between two margins of {margin} px: give --window "
                         f"{4 * margin} or more, or a smaller --margin")
    return max(window, 2 * model.stride), margin


def window_origins(length, window, margin, stride):
    """Where along one axis to place windows so that their centres tile it.

    The last window is moved inward, never shrunk, so that every window has one shape.

    Args:
        length: padded axis length, px; a multiple of stride.
        window: window side including both margins, px; a multiple of stride.
        margin: px thrown away on each inner side, a multiple of stride; 0 <= 2*margin < window.
        stride: the network's total stride, px.
    Returns:
        (N,) list of origins, px, ascending.
    """
    if length <= window:
        return [0]
    return [*range(0, length - window, window - 2 * margin), length - window]


def even_window(length, window, margin, stride):
    """The smallest window of which no more are needed along an axis than of the one given.

    Args:
        length, window, margin, stride: as in `window_origins`.
    Returns:
        side including both margins, px; at most `window`, a multiple of stride.
    """
    inner = length - 2 * margin
    count = max(-(-inner // (window - 2 * margin)), 1)  # -(-a // b) is a / b rounded up
    return -(-inner // count // stride) * stride + 2 * margin


def axis_windows(length, window, margin, stride):
    """The windows along one axis of a scene, with what is kept of each: of one size, as small as their number allows.

    A window reaches over the scene's end only where the network's own padding does, by less than a stride; the network
    then pads it exactly as it would pad the whole scene.

    Args:
        length: axis length of the scene, px.
        window, margin, stride: as in `window_origins`.
    Returns:
        list of Window(origin, size, keep_from, keep_to), px of the scene; the parts kept lie end to end.
    """
    padded = max(-(-length // stride) * stride, 2 * stride)
    window = even_window(padded, window, margin, stride)
    origins = window_origins(padded, window, margin, stride)
    cuts = [0] + [origin + margin for origin in origins[1:]] + [length]
    return [Window(origin, min(window, length - origin), keep_from, min(keep_to, length))
            for origin, keep_from, keep_to in zip(origins, cuts, cuts[1:])]


def unwanted_margin(row, col, margin):
    """`margin` where so much is thrown away of all four sides of the window at (row, col), else 0; px."""
    sides = [side for axis in (row, col)
             for side in (axis.keep_from - axis.origin, axis.origin + axis.size - axis.keep_to)]
    return margin if min(sides) >= margin else 0


def kept(row, col, margin=0):
    """Slices that pick what is kept of the window at (row, col) from an array of it without a margin, px."""
    return tuple(slice(axis.keep_from - axis.origin - margin, axis.keep_to - axis.origin - margin) for axis in (row, col))


@torch.inference_mode()
def predict_window(model, inputs, margin, tta, wanted):
    """The classes of one window, and the probabilities behind them where they are wanted.

    Args:
        model: in eval mode.
        inputs: (1, C, H, W) normalised.
        margin: px left out on all four sides: h, w = H - 2 * margin, W - 2 * margin.
        tta: whether to average over the eight symmetries.
        wanted: whether probabilities are.
    Returns:
        (h, w) uint8 array; (1, K, h, w) float32 tensor, or None.
    """
    scores = (average_symmetries if tta else logits_inside)(model, inputs, margin)  # (1, K, h, w)
    probabilities = scores if tta else scores.softmax(1) if wanted else None
    return class_map(scores)[0].cpu().numpy(), probabilities


def logits_inside(model, inputs, margin):
    """Logits (B, K, h, w) inside a margin, px; the networks that can do not compute the rest."""
    return model(inputs, margin) if isinstance(model, (UNet, ResUNet)) else inside(model(inputs), margin)


def average_symmetries(model, inputs, margin=0):
    """Probabilities averaged over the eight symmetries of the square: four quarter turns, each as it is and mirrored.

    The window is padded first as the network would pad it, so that turned and mirrored it lies on the same grid of
    strides; windows then add up to the whole scene as they do without.

    Args:
        model: in eval mode; inputs: (B, C, H, W) normalised; margin: px left out on all four sides.
    Returns:
        (B, K, H - 2 * margin, W - 2 * margin) float32.
    """
    padded = pad_to_stride(inputs, model.stride)
    total = 0
    for turns in range(4):
        for mirrored in ([], [3]):
            turned = padded.rot90(turns, (2, 3)).flip(mirrored).contiguous(memory_format=torch.channels_last)
            total = total + logits_inside(model, turned, margin).softmax(1).flip(mirrored).rot90(-turns, (2, 3))
    height, width = inputs.shape[2:]
    return total[..., :height - 2 * margin, :width - 2 * margin] / 8
