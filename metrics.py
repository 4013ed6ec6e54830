"""One confusion matrix over a whole split, and every score read off it.

Averages of per-batch scores depend on how the batches were cut and break where a class is missing from one; counts add
up exactly. A class that is in neither truth nor prediction has no score: it is NaN, and left out of the mean.
"""

import math

import torch


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all labelled pixels seen so far.

    Args:
        classes: number of classes K, 1 to 255.
        ignore: the label of pixels that are not scored, K to 255.
        counts: to begin with, as the attribute; None is 0.
    Attributes:
        counts: (K, K) int64 on the CPU; a row is a true class, a column a predicted one.
    Raises: ValueError where `classes` or `ignore` is out of range.
    """

    def __init__(self, classes, ignore=255, counts=None):
        if not 1 <= classes <= 255:
            raise ValueError(f"{classes} classes: give 1 to 255, for class maps are 8 bit")
        if not classes <= ignore <= 255:
            raise ValueError(f"the ignored label {ignore} must lie above the classes 0 to {classes - 1} and below 256")
        self.classes, self.ignore = classes, ignore
        self.counts = torch.zeros(classes, classes, dtype=torch.int64) if counts is None else counts

    def update(self, prediction, truth):
        """Count one batch.

        Args:
            prediction: integers 0..K-1, any shape, a tensor or an array.
            truth: integers 0..K-1 or `ignore`, the same shape.
        Raises:
            ValueError: shapes differ, or a value is neither a class nor, in truth, `ignore`.
        """
        prediction, truth = torch.as_tensor(prediction), torch.as_tensor(truth)
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in size")
        if truth.numel() == 0:
            return
        prediction, truth = (values.long() if values.dtype in (torch.uint16, torch.uint32) else values
                             for values in (prediction, truth))  # torch has no minimum of these
        lowest, highest = int(prediction.min()), int(prediction.max())
        if not 0 <= lowest <= highest < self.classes:
            raise ValueError(f"prediction holds {lowest} to {highest}, but classes are 0 to {self.classes - 1}")
        if not 0 <= int(truth.min()) <= int(truth.max()) <= 255:
            raise ValueError(f"truth holds {int(truth.min())} to {int(truth.max())}, but labels are 0 to 255")
        # One key a pixel, in the smallest type that holds it, for counting is bound by memory traffic. Ignored pixels are
        # counted too, in a row of their own: that costs less than picking the others out.
        key_type = torch.int16 if 256 * self.classes <= 2 ** 15 else torch.int32
        keys = truth.to(key_type) * self.classes + prediction.to(key_type)
        rows = torch.bincount(keys.flatten(), minlength=256 * self.classes).reshape(256, self.classes).cpu()  # (256, K)
        unknown = rows[self.classes:].sum(1)  # (256 - K,)
        unknown[self.ignore - self.classes] = 0
        if unknown.any():
            raise ValueError(f"truth holds {self.classes + int(unknown.argmax())}, but classes are 0 to "
                             f"{self.classes - 1} and {self.ignore} is no label")
        self.counts += rows[:self.classes]

    def iou(self):
        """Intersection over union per class, TP / (TP + FP + FN): (K,) float64, NaN where the class is nowhere."""
        hits, truth, predicted = self._sums()
        return hits / (truth + predicted - hits)  # 0 / 0 is NaN

    def dice(self):
        """Dice or F1 score per class, 2 TP / (2 TP + FP + FN): (K,) float64, NaN where the class is nowhere."""
        hits, truth, predicted = self._sums()
        return 2 * hits / (truth + predicted)

    def precision(self):
        """Share of what was predicted as a class that is it (user's accuracy): (K,) float64, NaN where never predicted."""
        hits, _, predicted = self._sums()
        return hits / predicted

    def recall(self):
        """Share of a class that was found (producer's accuracy): (K,) float64, NaN where the class is not in the truth."""
        hits, truth, _ = self._sums()
        return hits / truth

    def miou(self):
        """Mean IoU over the classes that are in truth or prediction; NaN where nothing was counted."""
        return float(self.iou().nanmean())

    def scored_classes(self):
        """How many classes the mean IoU is over."""
        return int((~self.iou().isnan()).sum())

    def mean_dice(self):
        """Mean Dice over the classes that are in truth or prediction."""
        return float(self.dice().nanmean())

    def mean_accuracy(self):
        """Mean recall over the classes that are in the truth."""
        return float(self.recall().nanmean())

    def pixel_accuracy(self):
        """Share of labelled pixels that are right, 0..1; NaN where nothing was counted."""
        hits, truth, _ = self._sums()
        return float(hits.sum() / truth.sum())

    def kappa(self):
        """Agreement beyond chance, (p_o - p_e) / (1 - p_e); NaN where chance alone would agree fully.

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
            {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "kappa", "scored_classes", "classes": [{"name", "iou",
            "dice", "precision", "recall", "pixels"}], "confusion"}; NaN is None, for JSON has no NaN.
        """
        columns = {"iou": self.iou(), "dice": self.dice(), "precision": self.precision(), "recall": self.recall()}
        rows = [{"name": name, **{key: plain(column[k]) for key, column in columns.items()},
                 "pixels": int(self.counts[k].sum())} for k, name in enumerate(names)]
        return {"miou": plain(self.miou()), "pixel_accuracy": plain(self.pixel_accuracy()),
                "mean_accuracy": plain(self.mean_accuracy()), "mean_dice": plain(self.mean_dice()), "kappa": plain(self.kappa()),
                "scored_classes": self.scored_classes(), "classes": rows, "confusion": self.counts.tolist()}

    def _sums(self):
        """Hits, true pixels and predicted pixels per class: (K,) float64 each, exact up to 2^53 pixels."""
        counts = self.counts.double()
        return counts.diagonal(), counts.sum(1), counts.sum(0)


def score_table(matrix, names):
    """The scores as lines of text: a line a class, then the means and over how many classes they are.

    Args:
        matrix: ConfusionMatrix.
        names: K class names.
    Returns: text without a newline at its end.
    """
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':{width}}     IoU    Dice  precision  recall      pixels"]
    columns = matrix.iou(), matrix.dice(), matrix.precision(), matrix.recall()
    for name, pixels, *scores in zip(names, matrix.counts.sum(1), *columns):
        iou, dice, precision, recall = map(_cell, scores)
        lines.append(f"{name:{width}}  {iou:>6}  {dice:>6}  {precision:>9}  {recall:>6}  {int(pixels):>10,}")
    lines.append(f"mean IoU {_cell(matrix.miou())} over {matrix.scored_classes()} of {matrix.classes} classes, mean Dice "
                 f"{_cell(matrix.mean_dice())}; overall accuracy {_cell(matrix.pixel_accuracy())}, kappa "
                 f"{_cell(matrix.kappa())}; precision is user's, recall producer's accuracy")
    return "\n".join(lines)


def class_map(logits):
    """The most likely class of every pixel.

    `max` and not `argmax`: on the CPU torch finds both together more than ten times faster than the index alone.

    Args:
        logits: (B, K, H, W).
    Returns:
        (B, H, W) uint8.
    """
    return logits.max(dim=1).indices.to(torch.uint8)


def plain(value):
    """A score as a float, None where it is NaN."""
    value = float(value)
    return None if math.isnan(value) else value


def _cell(value):
    """A score as the text of a table cell."""
    return "-" if math.isnan(value) else f"{value:.3f}"
