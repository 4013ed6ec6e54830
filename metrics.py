"""One confusion matrix over a whole split, and every score computed from it.

Averages of per-batch scores depend on how the batches were cut, and break where a class is missing
from one. Counts add up exactly. A class that is in neither truth nor prediction has no score: it is
NaN, and left out of the mean.
"""

import math

import torch


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all labelled pixels seen so far.

    Args:
        classes: number of classes K, 1 to 255.
        ignore: the label of pixels that are not scored, K to 255.
        counts: (K, K) counts to begin with; None is 0.
    Attributes:
        counts: (K, K) int64 on the CPU; rows are true classes, columns predicted ones.
    Raises:
        ValueError: `classes` or `ignore` is out of range.
    """

    def __init__(self, classes, ignore=255, counts=None):
        if not 1 <= classes <= 255:
            raise ValueError(f"{classes} classes: give 1 to 255, because class maps are 8 bit")
        if not classes <= ignore <= 255:
            raise ValueError(f"ignored label {ignore}: give one above the classes 0 to "
                             f"{classes - 1} and below 256")
        if counts is None:
            counts = torch.zeros(classes, classes, dtype=torch.int64)
        self.classes = classes
        self.ignore = ignore
        self.counts = counts

    def update(self, prediction, truth):
        """Count one batch.

        Args:
            prediction: integers 0..K-1, any shape, a tensor or an array.
            truth: integers 0..K-1 or `ignore`, the same shape.
        Raises:
            ValueError: shapes differ, or a value is neither a class nor, in truth, `ignore`.
        """
        prediction = torch.as_tensor(prediction).long()
        truth = torch.as_tensor(truth).long()
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth "
                             f"{tuple(truth.shape)} differ in size")
        if truth.numel() == 0:
            return
        _check_range("prediction", prediction, self.classes - 1)
        _check_range("truth", truth, 255)
        # A row per label, 0 to 255: counting the ignored pixels too is faster than leaving them out
        keys = truth * self.classes + prediction
        counts = torch.bincount(keys.flatten(), minlength=256 * self.classes)
        counts = counts.reshape(256, self.classes).cpu()
        others = counts[self.classes:].sum(1)  # (256 - K,) pixels of each label that is no class
        others[self.ignore - self.classes] = 0
        if others.any():
            raise ValueError(f"truth contains {self.classes + int(others.argmax())}: give classes "
                             f"0 to {self.classes - 1}, or {self.ignore} for no label")
        self.counts += counts[:self.classes]

    def iou(self):
        """Intersection over union per class, TP / (TP + FP + FN).

        Returns: (K,) float64, NaN where the class is in neither truth nor prediction.
        """
        hits, truth, predicted = self._sums()
        return hits / (truth + predicted - hits)  # 0 / 0 is NaN

    def dice(self):
        """Dice or F1 score per class, 2 TP / (2 TP + FP + FN).

        Returns: (K,) float64, NaN where the class is in neither truth nor prediction.
        """
        hits, truth, predicted = self._sums()
        return 2 * hits / (truth + predicted)

    def precision(self):
        """Share of the pixels predicted as a class that are of it (user's accuracy).

        Returns: (K,) float64, NaN where the class is never predicted.
        """
        hits, _, predicted = self._sums()
        return hits / predicted

    def recall(self):
        """Share of a class's pixels that are predicted as it (producer's accuracy).

        Returns: (K,) float64, NaN where the class is not in the truth.
        """
        hits, truth, _ = self._sums()
        return hits / truth

    def miou(self):
        """Mean IoU over the classes in truth or prediction; NaN where nothing was counted."""
        return float(self.iou().nanmean())

    def mean_dice(self):
        """Mean Dice over the classes in truth or prediction; NaN where nothing was counted."""
        return float(self.dice().nanmean())

    def mean_accuracy(self):
        """Mean recall over the classes in the truth; NaN where nothing was counted."""
        return float(self.recall().nanmean())

    def scored_classes(self):
        """Number of classes that mean IoU and mean Dice are over."""
        return int((~self.iou().isnan()).sum())

    def labelled_pixels(self):
        """Number of labelled pixels that were counted."""
        return int(self.counts.sum())

    def pixel_accuracy(self):
        """Share of labelled pixels that are right, 0..1; NaN where nothing was counted."""
        hits, truth, _ = self._sums()
        return float(hits.sum() / truth.sum())

    def kappa(self):
        """Agreement beyond chance, (p_o - p_e) / (1 - p_e); NaN where p_e is 1.

        Source: Cohen 1960, "A Coefficient of Agreement for Nominal Scales", equation 1.
        """
        hits, truth, predicted = self._sums()
        observed = hits.sum() / truth.sum()
        chance = (truth * predicted).sum() / truth.sum() ** 2
        return float((observed - chance) / (1 - chance))

    def scores(self, names):
        """All scores as plain types, for metrics.json.

        Args:
            names: K class names.
        Returns:
            {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "kappa", "scored_classes",
            "classes": [{"name", "iou", "dice", "precision", "recall", "pixels"}], "confusion"};
            NaN is None, because JSON has no NaN.
        """
        columns = {"iou": self.iou(), "dice": self.dice(), "precision": self.precision(),
                   "recall": self.recall()}
        rows = []
        for k, name in enumerate(names):
            row = {"name": name}
            for key, column in columns.items():
                row[key] = plain(column[k])
            row["pixels"] = int(self.counts[k].sum())
            rows.append(row)
        return {
            "miou": plain(self.miou()),
            "pixel_accuracy": plain(self.pixel_accuracy()),
            "mean_accuracy": plain(self.mean_accuracy()),
            "mean_dice": plain(self.mean_dice()),
            "kappa": plain(self.kappa()),
            "scored_classes": self.scored_classes(),
            "classes": rows,
            "confusion": self.counts.tolist(),
        }

    def _sums(self):
        """Hits, true pixels and predicted pixels per class: (K,) float64 each, exact up to 2^53."""
        counts = self.counts.double()
        return counts.diagonal(), counts.sum(1), counts.sum(0)


def _check_range(name, values, highest):
    """Raise a ValueError if integers are not all from 0 to `highest`."""
    low, high = values.aminmax()
    if low < 0 or high > highest:
        raise ValueError(f"{name} contains {int(low)} to {int(high)}: give 0 to {highest}")


def class_map(logits):
    """The most likely class per pixel.

    Args:
        logits: (B, K, H, W), or probabilities.
    Returns:
        (B, H, W) uint8.
    """
    # On the CPU, `max` is 1.3 to 15 times as fast as `argmax`, depending on the layout.
    return logits.max(dim=1).indices.to(torch.uint8)


def plain(value):
    """A score as a float, or None for NaN."""
    value = float(value)
    return None if math.isnan(value) else value
