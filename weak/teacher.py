"""A teacher that averages the student: pseudo labels, strong views and CutMix.

All that is random is a function of (seed, epoch, place in the epoch).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from engine.device import to_device

STRONG_JITTER = 0.1  # standard deviation of gain and offset; 0.5 hid the information in the colours


def pseudo_labels(logits, labels, valid, threshold, ignore=255):
    """The label where there is one, else the teacher's class where it is confident enough.

    Every class has its own threshold: `threshold` times (mean confidence in this class / highest
    mean of any class), both over the batch. So classes that the teacher finds hard are not left
    out in favour of easy ones.

    Args:
        logits: (B, K, H, W) float, the teacher's.
        labels: (B, H, W) uint8, `ignore` where nothing is known.
        valid: (B, H, W) bool, False beyond a tile and where there is no data.
        threshold: of the class of highest mean confidence, 0..1.
    Returns:
        (B, H, W) uint8, `ignore` where there is no pseudo label.
    Source: Wang et al. 2023, "FreeMatch", equation 7; differs from the paper in a fixed overall
        threshold, and in taking the mean confidence over the pixels of this batch where a class is
        predicted, so that nothing is carried from step to step.
    """
    confidence, guess = logits.softmax(1).max(1)  # (B, H, W) each
    means = []
    for k in range(logits.shape[1]):
        predicted = (guess == k) & valid
        means.append((confidence * predicted).sum() / predicted.sum().clamp(min=1))
    means = torch.stack(means)  # (K,)
    class_thresholds = threshold * means / means.max().clamp(min=1e-6)
    confident = valid & (confidence >= class_thresholds[guess])
    guess = torch.where(confident, guess, ignore)
    return torch.where(labels != ignore, labels, guess).to(torch.uint8)


def strong_augment(images, seed, epoch, places):
    """The same ground in other light: gain and offset of image and bands, every other one blurred.

    Nothing is moved, so the teacher's map of the plain view fits this one pixel by pixel.

    Args:
        images: (B, C, H, W), normalised.
        seed, epoch: the run's.
        places: (B,) each image's place in the epoch's order.
    Returns:
        (B, C, H, W).
    """
    bands = images.shape[1]
    draws = []
    for place in places:
        random = np.random.default_rng([seed, epoch, int(place), 1])  # draw_views uses no fourth
        light_of_all = random.normal(0, STRONG_JITTER, (2, 1))
        light_of_band = random.normal(0, STRONG_JITTER / 2, (2, bands))
        log_gains, offsets = light_of_all + light_of_band
        is_blurred = random.random() < 0.5
        draws.append(np.concatenate([np.exp(log_gains), offsets, [is_blurred]]))
    draws = to_device(np.stack(draws), images.device).float()
    draws = draws[:, :, None, None]  # (B, 2 * C + 1, 1, 1)
    gains, offsets, is_blurred = draws.split([bands, bands, 1], dim=1)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    blurred = F.avg_pool2d(padded, 3, stride=1)
    images = torch.where(is_blurred > 0, blurred, images)
    return images * gains + offsets


def cutmix_masks(seed, epoch, places, height, width):
    """A box per image, a quarter to a half of its area, where another image is to be pasted.

    Args:
        seed, epoch, places: as in `strong_augment`.
        height, width: of the images, px.
    Returns:
        (B, H, W) bool, True inside.
    """
    masks = torch.zeros(len(places), height, width, dtype=torch.bool)
    for mask, place in zip(masks, places):
        random = np.random.default_rng([seed, epoch, int(place), 2])
        area = random.uniform(0.25, 0.5)
        aspect = math.exp(random.uniform(-0.5, 0.5))  # sides as 0.6 to 1.6
        box_height = round(height * math.sqrt(area * aspect))
        box_width = round(width * math.sqrt(area / aspect))
        top = random.integers(height - box_height + 1)
        left = random.integers(width - box_width + 1)
        mask[top:top + box_height, left:left + box_width] = True
    return masks


def cutmix(values, masks):
    """Paste into each image's box the content of the next image of the batch there.

    The last image takes from the first. An image alone is pasted into itself and stays as it is.

    Args:
        values: (B, C, H, W) images or (B, H, W) targets.
        masks: (B, H, W) bool.
    Returns:
        as `values`.
    Source: French et al. 2020, "Semi-supervised semantic segmentation needs strong, varied
        perturbations", section 3.3.
    """
    if values.ndim == 4:
        masks = masks[:, None]
    return torch.where(masks, values.roll(-1, 0), values)
