"""Losses for images in which only some pixels carry a label: all of them look at labelled pixels and at nothing else.

Logits are (B, K, H, W); labels are (B, H, W) with classes 0..K-1 and `ignore` (255) where nothing is known. A batch
without a single labelled pixel costs exactly 0, and its gradient is exactly 0 and not NaN.
"""

import numpy as np
import torch
import torch.nn.functional as F

SPARSE_BELOW = 0.10  # labelled share under which picking the labelled pixels out beats the dense kernel (measured)
LOSS_NAMES = ("ce", "focal", "dice", "jaccard")


def labelled_pixels(logits, labels, ignore=255):
    """Keep only the labelled pixels where they are few, for with twenty points a tile the dense kernel works on nothing.

    On all devices but the CPU everything is handed back: counting the labelled pixels would make the host wait for them.

    Args:
        logits: (B, K, H, W) float.
        labels: (B, H, W), any integer type.
    Returns:
        (P, K) logits and (P,) int64 labels of the labelled pixels, or the logits as they came and (B, H, W) int64 labels.
    Raises: ValueError where sizes differ, or a label is neither a class nor `ignore` (looked at on the CPU only).
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} are not of the same pixels")
    if labels.device.type != "cpu":
        return logits, labels.long()
    values, classes = labels.reshape(-1).numpy(), logits.shape[1]  # NumPy goes through bytes several times faster than torch
    labelled = values != ignore
    few = np.count_nonzero(labelled) < SPARSE_BELOW * labelled.size
    where = np.flatnonzero(labelled) if few else slice(None)
    odd = labelled[where] & ((values[where] < 0) | (values[where] >= classes))
    if odd.any():
        raise ValueError(f"labels hold {values[where][odd][0]}: give classes 0 to {classes - 1}, or {ignore} for no label")
    if not few:
        return logits, labels.long()
    rows = logits.permute(0, 2, 3, 1).reshape(-1, classes)  # (B*H*W, K), a view of channels-last memory
    return rows.index_select(0, torch.from_numpy(where)), torch.from_numpy(values[where]).long()


def count_labelled(labels, weight=None, ignore=255):
    """What a pixelwise loss is divided by, () float32: the number of labelled pixels, or the sum of their class weights.

    Taken over a whole batch and handed to the loss of each part of it, it makes a pixel weigh the same in every part.
    """
    if weight is None:
        return (labels != ignore).count_nonzero().float()
    counts = torch.stack([(labels == k).sum() for k in range(len(weight))])  # (K,)
    return (counts * weight).sum().float()


def partial_cross_entropy(logits, labels, ignore=255, weight=None, hardest=1.0, total=None):
    """Cross-entropy over the labelled pixels: sum of w * ce over them, divided by the sum of their w.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) integers, `ignore` where nothing is known.
        weight: (K,) class weights, or None for 1 each.
        hardest: share of the labelled pixels to keep, those with the highest loss; 0 < hardest <= 1.
        total: the divisor, where it is taken over more than these images; see `count_labelled`.
    Returns: () loss; 0 where nothing is labelled.
    Raises: ValueError where sizes differ, or a label or `hardest` is out of range.
    Source: Tang et al. 2018, "Normalized Cut Loss", the partial cross-entropy; `hardest` is the online hard example mining
        of Shrivastava et al. 2016; differs from the paper in ranking pixels and not regions.
    """
    if not 0 < hardest <= 1:
        raise ValueError(f"hardest is {hardest}: give a share above 0 and at most 1")
    logits, labels = labelled_pixels(logits, labels, ignore)
    if hardest < 1:
        return _mean_of_hardest(logits, labels, ignore, weight, hardest, total)
    total = count_labelled(labels, weight, ignore) if total is None else total
    reduction = "sum" if logits.device.type == "cpu" else "none"  # CUDA's sum has no fixed order: --deterministic refuses it
    loss = F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore, reduction=reduction).sum()
    return loss / _not_zero(total)


def focal_loss(logits, labels, ignore=255, weight=None, gamma=2.0, total=None):
    """Cross-entropy times (1 - p)^gamma, p being the probability given to the true class.

    Args:
        logits, labels, weight, total: as in `partial_cross_entropy`.
        gamma: how fast a pixel that is already right stops counting; 0 is plain cross-entropy.
    Returns: () loss; 0 where nothing is labelled.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5; differs from the paper in the divisor.
    """
    logits, labels = labelled_pixels(logits, labels, ignore)
    total = count_labelled(labels, weight, ignore) if total is None else total
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none")  # (P,) or (B, H, W), 0 where ignored
    losses = (-torch.expm1(-losses)) ** gamma * losses  # 1 - p = 1 - exp(-ce)
    if weight is not None:
        losses = losses * weight[labels.clamp(0, len(weight) - 1)]  # an ignored pixel's loss is 0 whatever its weight
    return losses.sum() / _not_zero(total)


def dice_loss(logits, labels, ignore=255):
    """One minus the soft Dice score, averaged over the classes that are labelled in this batch.

    Args:
        logits, labels, ignore: as in `partial_cross_entropy`.
    Returns: () loss in 0..1; 0 where nothing is labelled.
    Source: Milletari et al. 2016, "V-Net", section 3; differs from the paper in summing p and not p^2 in the divisor.
    """
    intersection, predicted, truth = _soft_overlap(logits, labels, ignore)
    return _one_minus_mean(2 * intersection / _not_zero(predicted + truth), truth)


def jaccard_loss(logits, labels, ignore=255):
    """One minus the soft intersection over union; otherwise as `dice_loss`.

    Source: Rahman and Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks", section 2.
    """
    intersection, predicted, truth = _soft_overlap(logits, labels, ignore)
    return _one_minus_mean(intersection / _not_zero(predicted + truth - intersection), truth)


def class_weights(counts, how="none"):
    """Weights that give rare classes a louder voice, from how often each was labelled.

    They are clipped to 0.3..3: with three points of a class, plain inverse frequency learns those by heart.

    Args:
        counts: (K,) labelled pixels per class.
        how: "none"; "inverse", 1 / share; or "sqrt", 1 / sqrt(share), where share is in units of an even share.
    Returns: (K,) float32, or None for "none".
    """
    if how == "none":
        return None
    if how not in ("inverse", "sqrt"):
        raise ValueError(f"unknown class weights '{how}': choose none, inverse or sqrt")
    counts = torch.as_tensor(counts, dtype=torch.float64)
    even = counts.sum() / (counts > 0).sum().clamp(min=1)
    weight = (even / counts.clamp(min=1)) ** (1.0 if how == "inverse" else 0.5)
    return torch.where(counts > 0, weight.clamp(0.3, 3.0), torch.ones_like(weight)).float()


def build_loss(name, ignore=255, weight=None, hardest=1.0):
    """A loss by name, or a sum of several.

    Args:
        name: ce, focal, dice, jaccard, or some of them joined by "+", each counting once.
        weight: (K,) class weights for the pixelwise terms, or None; Dice and Jaccard weigh every class alike already.
        hardest: share of labelled pixels that "ce" keeps.
    Returns:
        a function (logits, labels, total=None, parts=1) -> () loss; where a batch is cut into equal parts whose losses
        are added up, pixelwise terms are shared out by `total`, the others by `parts`.
    """
    terms = name.split("+")
    if not set(terms) <= set(LOSS_NAMES) or len(set(terms)) < len(terms):
        raise ValueError(f"unknown loss '{name}': choose from {', '.join(LOSS_NAMES)}, each once, joined by +")
    if not 0 < hardest <= 1 or hardest < 1 and "ce" not in terms:
        raise ValueError(f"hardest {hardest} with the loss '{name}': give a share above 0 and at most 1, below 1 only with ce")

    def loss(logits, labels, total=None, parts=1):
        values = {"ce": lambda: partial_cross_entropy(logits, labels, ignore, weight, hardest, total),
                  "focal": lambda: focal_loss(logits, labels, ignore, weight, total=total),
                  "dice": lambda: dice_loss(logits, labels, ignore) / parts,
                  "jaccard": lambda: jaccard_loss(logits, labels, ignore) / parts}
        return sum(values[term]() for term in terms)

    return loss


def _mean_of_hardest(logits, labels, ignore, weight, hardest, total):
    """The part of `partial_cross_entropy` that ranks the labelled pixels by their loss and keeps the worst."""
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none").reshape(-1)  # (N,)
    labels = labels.reshape(-1)  # (N,)
    losses, order = losses.masked_fill(labels == ignore, -1).sort(descending=True)  # by rank, for the host knows no number
    kept = torch.arange(len(losses), device=losses.device) < (hardest * (labels != ignore).sum()).ceil()
    pixel_weight = kept if weight is None else kept * weight[labels[order].clamp(0, len(weight) - 1)]
    divisor = pixel_weight.sum().to(losses.dtype)
    if total is not None:  # of the labelled pixels of the whole batch; of those of the other parts, a like share is kept
        divisor = total * divisor / _not_zero(count_labelled(labels, weight, ignore))
    return (pixel_weight * losses).sum() / _not_zero(divisor)


def _soft_overlap(logits, labels, ignore):
    """Per class, over the labelled pixels: sum of p where the class is true, sum of p, number of true pixels; (K,) each."""
    classes = logits.shape[1]
    logits, labels = labelled_pixels(logits, labels, ignore)
    probabilities = logits.softmax(dim=1).movedim(1, -1).reshape(-1, classes)  # (P, K)
    labels = labels.reshape(-1)  # (P,)
    labelled = (labels != ignore)[:, None]  # (P, 1)
    truth = F.one_hot(labels.clamp(0, classes - 1), classes) * labelled  # (P, K)
    probabilities = probabilities * labelled
    return (probabilities * truth).sum(0), probabilities.sum(0), truth.sum(0).to(probabilities.dtype)


def _one_minus_mean(score, truth):
    """1 - mean of `score` over the classes with labelled pixels; 0 where there are none."""
    present = (truth > 0).to(score.dtype)
    return ((1 - score) * present).sum() / present.sum().clamp(min=1)


def _not_zero(total):
    """`total`, or 1 where it is 0: what it divides is then 0 as well."""
    return torch.where(total > 0, total, torch.ones_like(total))
