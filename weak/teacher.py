"""What is learned beyond the points: from their superpixels, from a teacher that averages the student, from a gated CRF.

Each is off unless asked for, costs nothing then, and is one term added to the loss on the points:

    superpixels   the class of a point, lent to the patch of like colour around it; fades out, for patches are partly wrong
    teacher       what the average of the weights is sure of, asked of the student under other light and cut together
    CRF           neighbours of like colour should be of one class; late, for a map of one class pleases it most

All that is random is a function of (seed, epoch, place in the epoch).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from engine.device import to_device
from losses import count_labelled, partial_cross_entropy
from weak.crf import gated_crf_loss

SUPERPIXEL_WEIGHT, SUPERPIXELS_GONE = 0.5, 0.6  # at the start; share of training after which it is 0
TEACHER_FROM, TEACHER_FULL = 0.2, 0.4  # shares of training between which the weight rises from 0 to 1
CRF_FROM, CRF_FULL = 0.4, 0.6
STRONG_JITTER = 0.1  # standard deviation of gain and offset in the student's view; 0.5 hid what colour tells


def term_weights(progress, superpixels, teacher, crf):
    """How much each term weighs at one moment of training.

    Args:
        progress: share of all steps that are done, 0..1.
        superpixels, teacher: whether they are on.
        crf: the weight it rises to; 0 is off.
    Returns:
        dict of superpixels, teacher and crf, each 0 where off.
    """
    def risen(start, end):
        return min(1.0, max(0.0, (progress - start) / (end - start)))
    return {"superpixels": SUPERPIXEL_WEIGHT * (1 - risen(0, SUPERPIXELS_GONE)) * bool(superpixels),
            "teacher": risen(TEACHER_FROM, TEACHER_FULL) * bool(teacher), "crf": risen(CRF_FROM, CRF_FULL) * crf}


def divisors(layers, class_weight=None, ignore=255):
    """What the terms of a batch are divided by, (L,) float32, from its layers (B, L, H, W) as `learn_beyond` takes them.

    By the first the points' loss; by the second the superpixels'; by the third, the pixels seen, the teacher's and the CRF's.
    """
    weights = [class_weight, class_weight, None][:layers.shape[1]]
    return torch.stack([count_labelled(layers[:, k], weight, ignore) for k, weight in enumerate(weights)])


def learn_beyond(model, average, images, layers, places, weights, totals, threshold, random_key, class_weight=None, ignore=255):
    """Run the model on a batch; returns its logits, and what the batch costs beyond its points.

    Args:
        model: (B, C, H, W) -> (B, K, H, W) logits, the student.
        average: the teacher, in eval mode; looked at only where weights["teacher"] is above 0.
        images: (B, C, H, W), normalised and augmented.
        layers: (B, 3, H, W) uint8: the points, their superpixels, and what was seen: 255 there is no ground, not 0. The
            points alone will do where every term is off.
        places: (B,) each image's place in the epoch's order.
        weights: as `term_weights` gives.
        totals: as `divisors` gives, of the whole batch where these images are a part of it.
        threshold: confidence from which the teacher is believed, 0..1; see `pseudo_labels`.
        random_key: (seed, epoch), the run's.
        class_weight: (K,) of the points' loss, or None; superpixels weigh alike.
    Returns:
        logits (B, K, H, W), loss () float32 (0.0 where every term is off).
    """
    if not any(weights.values()):
        return model(images), 0.0
    count, views, loss = len(images), images, 0.0
    seen = layers[:, 2] != ignore  # (B, H, W)
    if weights["teacher"]:
        with torch.no_grad():
            targets = pseudo_labels(average(images).float(), layers[:, 0], seen, threshold, ignore)
        boxes = to_device(cutmix_masks(*random_key, places, *images.shape[2:]), images.device)
        views = torch.cat([images, cutmix(strong_augment(images, *random_key, places), boxes)])
    # One pass for both views: batch norm then sees in training the mixture that its running statistics are of.
    logits = model(views.contiguous(memory_format=torch.channels_last))
    if weights["teacher"]:
        # Divided by all pixels that were seen: the fewer the teacher is sure of, the less it says.
        loss += weights["teacher"] * partial_cross_entropy(logits[count:].float(), cutmix(targets, boxes), ignore,
                                                           total=totals[2])
    if weights["superpixels"]:
        loss += weights["superpixels"] * partial_cross_entropy(logits[:count].float(), layers[:, 1], ignore, class_weight,
                                                               total=totals[1])
    if weights["crf"]:
        # Half resolution: four times cheaper, and the window reaches twice as far.
        halves = (F.avg_pool2d(values.float(), 2) for values in (logits[:count].float().softmax(1), images, seen))
        loss += weights["crf"] * gated_crf_loss(*halves, total=totals[2] / 4)
    return logits[:count], loss


def pseudo_labels(logits, labels, seen, threshold, ignore=255):
    """What the student is asked to say: the label where there is one, else the teacher's class where it is sure of it.

    Every class has its own bar: the threshold times (mean confidence in this class / highest mean of any class), both over
    the batch. Classes the teacher finds hard are not silenced by those it finds easy.

    Args:
        logits: (B, K, H, W) float, the teacher's.
        labels: (B, H, W) uint8, `ignore` where nothing is known.
        seen: (B, H, W) bool, False where there is no ground: beyond a tile, or no data.
        threshold: the bar of the class it is surest of, 0..1.
    Returns:
        (B, H, W) uint8, `ignore` where nothing is asked.
    Source: Wang et al. 2023, "FreeMatch", equation 7; differs from the paper in a fixed overall threshold, and in taking
        the mean confidence where a class is predicted, of this batch alone: nothing to carry from step to step.
    """
    confidence, guess = logits.softmax(1).max(1)  # (B, H, W) each
    places = [(guess == k) & seen for k in range(logits.shape[1])]
    usual = torch.stack([(confidence * place).sum() / place.sum().clamp(min=1) for place in places])  # (K,)
    bars = threshold * usual / usual.max().clamp(min=1e-6)
    guess = torch.where(seen & (confidence >= bars[guess]), guess, ignore)
    return torch.where(labels != ignore, labels, guess).to(torch.uint8)


def strong_augment(images, seed, epoch, places):
    """The same ground under other light: gain and offset of the image and of each band, and for half of them a blur.

    Photometric alone, so that the teacher's map of the plain view fits this one pixel by pixel.

    Args:
        images: (B, C, H, W), normalised.
        seed, epoch: the run's.
        places: (B,) each image's place in the epoch's order.
    Returns:
        (B, C, H, W).
    """
    bands, draws = images.shape[1], []
    for place in places:
        random = np.random.default_rng([seed, epoch, int(place), 1])  # 1: augment draws from the key without it
        light = random.normal(0, STRONG_JITTER, (2, 1)) + random.normal(0, STRONG_JITTER / 2, (2, bands))
        draws.append(np.concatenate([np.exp(light[0]), light[1], [random.random() < 0.5]]))
    draws = to_device(np.stack(draws), images.device).float()[:, :, None, None]  # (B, 2C + 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.where(draws[:, -1:] > 0, blurred, images)
    return images * draws[:, :bands] + draws[:, bands:-1]


def cutmix_masks(seed, epoch, places, height, width):
    """A box for each image, a quarter to a half of its area, where its neighbour in the batch is to be pasted.

    Args:
        seed, epoch, places: as in `strong_augment`.
        height, width: of the images, px.
    Returns:
        (B, H, W) bool, True inside.
    """
    boxes = torch.zeros(len(places), height, width, dtype=torch.bool)
    for box, place in zip(boxes, places):
        random = np.random.default_rng([seed, epoch, int(place), 2])
        area, shape = random.uniform(0.25, 0.5), math.exp(random.uniform(-0.5, 0.5))  # shape: sides as 0.6 to 1.6
        down, across = round(height * math.sqrt(area * shape)), round(width * math.sqrt(area / shape))
        top, left = random.integers(height - down + 1), random.integers(width - across + 1)
        box[top:top + down, left:left + across] = True
    return boxes


def cutmix(values, boxes):
    """Paste into each image's box what the next image of the batch (the first, for the last) shows there.

    An image on its own, as a part of a batch may be, is pasted into itself: it stays as it was.

    Args:
        values: (B, C, H, W) images or (B, H, W) targets.
        boxes: (B, H, W) bool.
    Returns:
        as `values`.
    Source: French et al. 2020, "Semi-supervised semantic segmentation needs strong, varied perturbations", section 3.3.
    """
    return torch.where(boxes[:, None] if values.ndim == 4 else boxes, values.roll(-1, 0), values)
