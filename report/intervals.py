"""95 % intervals of scores from few labelled pixels."""

import math

import numpy as np

from engine.prepared import SPARSE_SHARE

Z = 1.959964  # 97.5 % quantile of the normal distribution
FEW_PIXELS = 1000  # scores over fewer labelled pixels have intervals
FEW_PER_CLASS = 10  # intervals of the mean IoU are too short where a class has fewer observations


def wilson(share, observations):
    """95 % interval of a share of independent observations.

    Args:
        share: 0..1, number or array.
        observations: how many, the same shape; 0 gives NaN.
    Returns:
        low and high, of the same shape.
    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    share = np.asarray(share, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        spare = Z ** 2 / np.asarray(observations, np.float64)
        centre = (share + spare / 2) / (1 + spare)
        reach = np.sqrt(spare * (share * (1 - share) + spare / 4)) / (1 + spare)
    return centre - reach, centre + reach


def score_intervals(matrix, observations=None):
    """95 % intervals of the scores of a confusion matrix.

    IoU is a share too: of the pixels that are of a class in truth or prediction, those that are so
    in both. So it has Wilson's interval, and the mean IoU the combination of its classes'.

    Args:
        matrix: ConfusionMatrix.
        observations: how many independent observations its pixels are worth; None: each is one.
    Returns:
        {"pixel_accuracy" and "miou": (low, high), "iou", "precision" and "recall": (K, 2) array};
        NaN where there is no score.
    """
    counts = matrix.counts.numpy().astype(np.float64)
    if observations is not None:
        counts *= observations / max(1, counts.sum())
    truth = counts.sum(axis=1)  # (K,)
    predicted = counts.sum(axis=0)
    union = truth + predicted - counts.diagonal()
    iou = matrix.iou().numpy()
    iou_intervals = np.stack(wilson(iou, union), axis=1)  # (K, 2)
    return {
        "pixel_accuracy": wilson(matrix.pixel_accuracy(), counts.sum()),
        "iou": iou_intervals,
        "precision": np.stack(wilson(matrix.precision().numpy(), predicted), axis=1),
        "recall": np.stack(wilson(matrix.recall().numpy(), truth), axis=1),
        "miou": _mean_iou_interval(counts, iou, iou_intervals)}


def _mean_iou_interval(counts, iou, intervals):
    """95 % interval of the mean of IoUs, from those of the classes and their correlations.

    Args:
        counts: (K, K) float64, rows are the truth.
        iou: (K,), NaN where a class has none; intervals: (K, 2).
    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures", for
        correlated estimates. The correlations are of the delta method.
    """
    scored = ~np.isnan(iou)
    if not scored.any():
        return math.nan, math.nan
    correlation = _iou_correlations(counts, np.nan_to_num(iou))[np.ix_(scored, scored)]
    low, high = intervals[scored].T
    mean = iou[scored].mean()
    below = iou[scored] - low
    above = high - iou[scored]
    reach_below = math.sqrt(max(0, below @ correlation @ below)) / len(below)
    reach_above = math.sqrt(max(0, above @ correlation @ above)) / len(above)
    return mean - reach_below, mean + reach_above


def _iou_correlations(counts, iou):
    """Correlations (K, K) of the classes' IoUs over repeated samples, by the delta method."""
    classes = np.arange(len(counts))
    is_true = classes[:, None, None] == classes[:, None]  # (K, K, 1): class, truth
    is_predicted = classes[:, None, None] == classes  # (K, 1, K): class, prediction
    # How a further pixel of (truth, prediction) would move each IoU, up to a factor per class.
    influence = (is_true & is_predicted) - iou[:, None, None] * (is_true | is_predicted)
    covariance = np.einsum("aij,bij,ij->ab", influence, influence, counts)
    deviation = np.sqrt(covariance.diagonal())
    deviation[deviation == 0] = 1  # no error was seen, so no correlation either
    correlation = covariance / np.outer(deviation, deviation)
    np.fill_diagonal(correlation, 1)
    return correlation


def patch_sizes(labels, ignore=255):
    """Size, px, of each group of touching labelled pixels, diagonally too: (N,) int64.

    Args:
        labels: (H, W).
        ignore: the label of unlabelled pixels.
    """
    rows, cols = np.nonzero(labels != ignore)
    width = labels.shape[1] + 2  # more, so that the ends of rows do not touch
    keys = rows * width + cols  # (P,) ascending
    pairs = []
    for step in (1, width - 1, width, width + 1):  # to the right, and to the three below
        found = np.searchsorted(keys[:-1], keys + step)
        first = np.flatnonzero(keys[found] == keys + step)
        pairs.append((first, found[first]))
    first, second = np.concatenate(pairs, axis=1)
    numbers = np.arange(len(keys))  # of each pixel's patch: that of one of its pixels
    while (numbers[first] != numbers[second]).any():
        lowest = np.minimum(numbers[first], numbers[second])
        np.minimum.at(numbers, first, lowest)
        np.minimum.at(numbers, second, lowest)
        numbers = numbers[numbers]
    sizes = np.bincount(numbers)
    return sizes[sizes > 0]


def independent_observations(tiles):
    """How many independent observations the labelled pixels of a split are worth.

    Touching pixels are alike: n patches of one size count as n observations, and patches of several
    sizes as fewer, because the large ones decide the score.

    Args:
        tiles: data.TileDataset with the labels that are scored.
    Returns:
        their number, at least 1; None where labels are so many that scores need no interval.
    Source: Kish 1965, "Survey Sampling", the effective size of a weighted sample.
    """
    pixels = tiles.labelled_pixels
    if pixels >= FEW_PIXELS and pixels >= SPARSE_SHARE * tiles.labels.numel():
        return None
    squares = 0
    for index in range(len(tiles)):
        squares += int((patch_sizes(tiles.tile_labels(index), tiles.ignore) ** 2).sum())
    return max(1, round(pixels ** 2 / max(1, squares)))


def plain_intervals(matrix, observations, names):
    """The intervals of `score_intervals` as plain types, for metrics.json."""
    from metrics import plain  # imports torch
    found = score_intervals(matrix, observations)
    classes = []
    for k, name in enumerate(names):
        row = {key: [plain(bound) for bound in found[key][k]]
               for key in ("iou", "precision", "recall")}
        classes.append({"name": name, **row})
    return {"observations": observations, "miou": [plain(bound) for bound in found["miou"]],
            "pixel_accuracy": [plain(bound) for bound in found["pixel_accuracy"]],
            "classes": classes}
