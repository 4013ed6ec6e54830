"""Losses for images in which only some pixels are labelled; no other pixel has any influence.

Logits are (B, K, H, W). Labels are (B, H, W) with classes 0..K-1, and `ignore` (255) where nothing
is known. A batch without a single labelled pixel has a loss of exactly 0 and a gradient of exactly
0, never NaN.

To add a loss, write a function (logits, labels, ignore=255) -> () and give it a row in LOSSES at
the end of this file.
"""

import numpy as np
import torch
import torch.nn.functional as F

SPARSE_BELOW = 0.10  # below this labelled share it is faster to gather the labelled pixels


def labelled_pixels(logits, labels, ignore=255):
    """Gather the labelled pixels if they are few.

    The dense kernel would spend its time on ignored pixels. Dimension 1 of the logits is the
    classes in both cases, so `F.cross_entropy` and `softmax(1)` take either. Pixels are gathered
    on the CPU only: on a GPU, counting them would make the host wait.

    Args:
        logits: (B, K, H, W) float.
        labels: (B, H, W), any integer type.
    Returns:
        logits (P, K) and int64 labels (P,) of the labelled pixels, or all of them: (B, K, H, W)
        and (B, H, W).
    Raises:
        ValueError: sizes differ, or (on the CPU only) a label is neither a class nor `ignore`.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} "
                         "differ in size: a network's logits must have its images' size")
    if labels.device.type != "cpu":
        return logits, labels.long()
    num_classes = logits.shape[1]
    values = labels.reshape(-1).numpy()  # NumPy finds them several times faster than torch
    positions = np.flatnonzero(values != ignore)  # (P,)
    classes = values[positions]
    invalid = (classes < 0) | (classes >= num_classes)
    if invalid.any():
        raise ValueError(f"labels contain {classes[invalid][0]}: give classes 0 to "
                         f"{num_classes - 1}, or {ignore} for no label")
    if len(positions) >= SPARSE_BELOW * values.size:
        return logits, labels.long()
    rows = logits.permute(0, 2, 3, 1).reshape(-1, num_classes)  # (B*H*W, K), channels-last: a view
    rows = rows.index_select(0, torch.from_numpy(positions))
    return rows, torch.from_numpy(classes).long()


def count_labelled(labels, weight=None, ignore=255):
    """The normaliser of a pixelwise loss: labelled pixels, or the sum of their class weights.

    Taken over a whole batch and passed to the loss of each part of it, it gives a pixel the same
    weight in every part.

    Args:
        labels: (B, H, W); weight: (K,) class weights, or None for 1 each.
    Returns:
        () float32.
    """
    if weight is None:
        return (labels != ignore).count_nonzero().float()
    counts = torch.stack([(labels == k).sum() for k in range(len(weight))])  # (K,)
    return (counts * weight).sum().float()


def partial_cross_entropy(logits, labels, ignore=255, weight=None, num_labelled=None):
    """Cross-entropy over the labelled pixels: their sum of w * ce, divided by their sum of w.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) integers, `ignore` where nothing is known.
        weight: (K,) class weights, or None for 1 each.
        num_labelled: the divisor, if these images are a part of a larger batch; see
            `count_labelled`.
    Returns: () loss; 0 if nothing is labelled.
    Raises: ValueError if sizes differ, or a label is out of range.
    Source: Tang et al. 2018, "Normalized Cut Loss for Weakly-supervised CNN Segmentation", the
        partial cross-entropy.
    """
    if num_labelled is None:
        num_labelled = count_labelled(labels, weight, ignore)
    logits, labels = labelled_pixels(logits, labels, ignore)
    reduction = "sum" if logits.is_cpu else "none"  # CUDA's own sum has no fixed order
    loss = F.cross_entropy(logits, labels, weight, ignore_index=ignore, reduction=reduction)
    return loss.sum() / _not_zero(num_labelled)


def focal_loss(logits, labels, ignore=255, weight=None, num_labelled=None, gamma=2.0):
    """Cross-entropy times (1 - p)^gamma, where p is the probability of the true class.

    Args:
        logits, labels, ignore, weight, num_labelled: as in `partial_cross_entropy`.
        gamma: how fast a pixel that is already right stops counting; 0 is plain cross-entropy.
    Returns: () loss; 0 if nothing is labelled.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5; differs from the
        paper in the divisor.
    """
    if num_labelled is None:
        num_labelled = count_labelled(labels, weight, ignore)
    logits, labels = labelled_pixels(logits, labels, ignore)
    # The losses of ignored pixels are 0.
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")
    losses = (-torch.expm1(-losses)) ** gamma * losses  # 1 - p = 1 - exp(-ce)
    if weight is not None:
        losses = losses * weight[labels.clamp(0, len(weight) - 1)]
    return losses.sum() / _not_zero(num_labelled)


def dice_loss(logits, labels, ignore=255):
    """One minus the soft Dice score, averaged over the classes that are labelled in this batch.

    Args:
        logits, labels, ignore: as in `partial_cross_entropy`.
    Returns: () loss in 0..1; 0 if nothing is labelled.
    Source: Milletari et al. 2016, "V-Net", section 3; differs from the paper in summing p, not p^2,
        in the divisor.
    """
    intersection, predicted, truth = _soft_overlap(logits, labels, ignore)
    score = 2 * intersection / _not_zero(predicted + truth)
    return _one_minus_mean(score, truth)


def jaccard_loss(logits, labels, ignore=255):
    """One minus the soft intersection over union; otherwise as `dice_loss`.

    Source: Rahman and Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks",
        section 2.
    """
    intersection, predicted, truth = _soft_overlap(logits, labels, ignore)
    union = predicted + truth - intersection
    return _one_minus_mean(intersection / _not_zero(union), truth)


def class_weights(counts, how="none"):
    """Weights that count rare classes more, computed from how often each class is labelled.

    They are clipped to 0.3..3: with three points of a class, plain inverse frequency memorises
    those three.

    Args:
        counts: (K,) labelled pixels per class.
        how: "none"; "inverse", 1 / share; or "sqrt", 1 / sqrt(share). An even distribution has
            shares of 1.
    Returns: (K,) float32, or None for "none".
    """
    if how == "none":
        return None
    if how not in ("inverse", "sqrt"):
        raise ValueError(f"unknown class weights '{how}': choose none, inverse or sqrt")
    counts = torch.as_tensor(counts, dtype=torch.float64)
    even = counts.sum() / (counts > 0).sum().clamp(min=1)
    exponent = 1.0 if how == "inverse" else 0.5
    weight = (even / counts.clamp(min=1)) ** exponent
    weight = weight.clamp(0.3, 3.0)
    return torch.where(counts > 0, weight, 1.0).float()


def _soft_overlap(logits, labels, ignore):
    """Sums over the labelled pixels, (K,) each: p where the class is true, p, true pixels."""
    num_classes = logits.shape[1]
    logits, labels = labelled_pixels(logits, labels, ignore)
    probabilities = logits.softmax(dim=1).movedim(1, -1).reshape(-1, num_classes)  # (P, K)
    labels = labels.reshape(-1)  # (P,)
    labelled = (labels != ignore)[:, None]  # (P, 1)
    truth = F.one_hot(labels.clamp(0, num_classes - 1), num_classes) * labelled  # (P, K)
    probabilities = probabilities * labelled
    intersection = (probabilities * truth).sum(0)
    return intersection, probabilities.sum(0), truth.sum(0).to(probabilities.dtype)


def _one_minus_mean(score, truth):
    """1 - mean of `score` over the classes with labelled pixels; 0 if there are none."""
    present = (truth > 0).to(score.dtype)
    losses = (1 - score) * present
    return losses.sum() / present.sum().clamp(min=1)


def _not_zero(divisor):
    """`divisor`, or 1 where it is 0: the value it divides is 0 there as well."""
    return torch.where(divisor > 0, divisor, 1.0)


LOSSES = {
    "ce": partial_cross_entropy,
    "focal": focal_loss,
    "dice": dice_loss,
    "jaccard": jaccard_loss,
}
PIXELWISE = ("ce", "focal")  # these also take `weight` and `num_labelled`


def build_loss(name, ignore=255, weight=None):
    """Build a loss by name, or the sum of several.

    Args:
        name: a key of LOSSES, or several different ones joined by "+".
        weight: (K,) class weights for the pixelwise terms, or None.
    Returns:
        criterion(logits, labels, num_labelled=None, parts=1) -> () loss. If a batch is cut into
        parts whose losses are added up, pixelwise terms are divided by `num_labelled` of the whole
        batch, the others by the number of parts.
    Raises:
        ValueError: an unknown or repeated name.
    """
    terms = name.split("+")
    if not set(terms) <= set(LOSSES) or len(set(terms)) < len(terms):
        raise ValueError(f"--loss {name}: choose from {', '.join(LOSSES)}, each once, joined by +")

    def criterion(logits, labels, num_labelled=None, parts=1):
        loss = 0.0
        for term in terms:
            if term in PIXELWISE:
                loss = loss + LOSSES[term](logits, labels, ignore, weight, num_labelled)
            else:
                loss = loss + LOSSES[term](logits, labels, ignore) / parts
        return loss

    return criterion
