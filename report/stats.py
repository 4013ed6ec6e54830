"""What one pass over a split counts beyond its confusion matrix, and what can be inferred from those counts.

    blocks = contiguous_blocks(tile_places("data/demo", "test", count=48), side=128)
    tally = EvalStats(classes=5, blocks=blocks)
    tally.update(logits, prediction, labels)                      for every batch, in the order of the tiles

Memory grows with the number of blocks and tiles, never with the number of pixels.
"""

import csv
import pathlib

import numpy as np
import torch

from metrics import plain

BAND = 3  # px to either side of a class boundary that count as near it
BINS = 15  # of confidence, as most published calibration errors have


class EvalStats:
    """Confusion matrices by block and near class boundaries, a score for every tile, and how sure the network was.

    Args:
        classes: number of classes K.
        blocks: (N,) number of the block that each tile of the split lies in, 0 and up.
        ignore: the label of pixels that are not scored.
    Attributes:
        blocks: as given, int64.
        counts: (U, K, K) int64, a confusion matrix for every block; rows truth.
        near: (K, K) int64, of the pixels within BAND px of a class boundary.
        tiles: (N, 3) float64: labelled pixels of each tile, those that are right, mean IoU; 0 before its turn.
        bins: (3, BINS) float64 by confidence: labelled pixels, those that are right, the sum of their confidences.
    """

    def __init__(self, classes, blocks, ignore=255):
        self.blocks, self.ignore = torch.as_tensor(blocks, dtype=torch.int64), ignore
        self.counts = torch.zeros(int(self.blocks.max()) + 1, classes, classes, dtype=torch.int64)
        self.near = torch.zeros(classes, classes, dtype=torch.int64)
        self.tiles = torch.zeros(len(self.blocks), 3, dtype=torch.float64)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, start, logits, prediction, labels):
        """Count a batch of tiles.

        Args:
            start: index of the first of them in the split; they follow each other.
            logits: (B, K, H, W) float32.
            prediction: (B, H, W) uint8, their most likely classes.
            labels: (B, H, W) uint8, classes or `ignore`.
        """
        size, classes = logits.shape[:2]
        # One key a pixel, made of tile, near or not, true class and predicted class: one count answers all questions.
        keys = torch.arange(size, device=labels.device)[:, None, None] * 2 + near_boundary(labels, BAND, self.ignore)
        keys = (keys * 256 + labels) * classes + prediction
        found = torch.bincount(keys.flatten(), minlength=size * 2 * 256 * classes).cpu().reshape(size, 2, 256, classes)
        found = found[:, :, :classes]  # (B, 2, K, K): without the row of `ignore`
        self.near += found[:, 1].sum(0)
        tiles = found.sum(1)  # (B, K, K)
        place = slice(start, start + size)
        self.counts.index_add_(0, self.blocks[place], tiles)
        right = tiles.diagonal(dim1=1, dim2=2).sum(1)
        self.tiles[place] = torch.stack([tiles.sum((1, 2)).double(), right.double(), mean_iou(tiles)], 1)
        labelled = labels != self.ignore
        sure = (logits - logits.amax(1, keepdim=True)).exp().sum(1).reciprocal()[labelled]  # (n,) the largest softmax
        bins = (sure * BINS).long().clamp(0, BINS - 1)
        for row, weights in enumerate((torch.ones_like(sure), (prediction == labels)[labelled], sure)):
            self.bins[row] += torch.bincount(bins, weights.double(), BINS).cpu()

    def sums(self):
        """All that is counted, so that counts of other tiles can be added in place: list of tensors."""
        return [self.counts, self.near, self.tiles, self.bins]

    def calibration_error(self):
        """Expected calibration error: how far confidence and share right are apart, 0..1; NaN without labels.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; differs from the paper in that
        a bin holds its lower edge and not its upper one.
        """
        pixels, right, sure = self.bins
        return float((right - sure).abs().sum() / pixels.sum())


def near_boundary(labels, reach, ignore=255):
    """Which labelled pixels have a pixel of another class within reach px of them, by rows and by columns.

    A border to what has no label is no class boundary. What lies in the neighbouring tile is not seen: a boundary along
    a tile's edge is missed.

    Args:
        labels: (B, H, W) uint8, classes or ignore.
        reach: px.
    Returns:
        (B, H, W) bool.
    """
    known, classes = labels != ignore, labels.to(torch.int16)

    def highest(values):
        for axis in (1, 2):
            found = values.clone()
            for step in range(1, min(reach + 1, values.shape[axis])):
                size = values.shape[axis] - step
                for here, there in ((0, step), (step, 0)):
                    part = found.narrow(axis, here, size)
                    torch.maximum(part, values.narrow(axis, there, size), out=part)
            values = found
        return values

    # A square window holds a second class where the highest number in it is not the lowest. Shifted copies find them
    # ten times faster than pooling does on the CPU.
    return known & (highest(torch.where(known, classes, -1)) > -highest(torch.where(known, -classes, -256)))


def mean_iou(counts):
    """Mean IoU of confusion matrices, each over the classes that are in its truth or prediction.

    Args:
        counts: (..., K, K), rows truth.
    Returns:
        (...) float64; NaN where nothing was counted.
    """
    counts = counts.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return (hits / (counts.sum(-1) + counts.sum(-2) - hits)).nanmean(-1)  # 0 / 0 is NaN


def tile_places(folder, split, count):
    """Where each tile of a split came from, by tiles.csv.

    Args:
        folder: a prepared data set.
        split: "train", "val" or "test".
        count: tiles that it has.
    Returns:
        list of (scene, row, col), px, in the order of the tiles.
    Raises:
        ValueError, OSError: tiles.csv is missing or damaged; one line.
    """
    path = pathlib.Path(folder) / "tiles.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: prepare the data set again")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            places = {int(row["index"]): (row["scene"], int(row["row"]), int(row["col"]))
                      for row in csv.DictReader(file) if row["split"] == split}
        return [places[index] for index in range(count)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__} {error}): prepare the data set again") from None


def contiguous_blocks(places, side, grounds=None):
    """Number the groups of tiles that touch each other within a scene: what lies apart can be drawn independently.

    Scenes of one ground count as one scene: their tiles at the same position, such as two seasons', are together.

    Args:
        places: list of (scene, row, col), px.
        side: of a tile, px.
        grounds: {scene: its place} of scenes that share one, dataset.json's "places"; None: each scene is alone.
    Returns:
        (N,) int64, block of each tile, numbered in the order of the tiles.
    """
    scenes = np.unique([(grounds or {}).get(scene, scene) for scene, _, _ in places], return_inverse=True)[1]
    corners = np.array([place[1:] for place in places]).reshape(-1, 2)
    blocks, number = np.full(len(places), -1), 0
    for first in range(len(places)):
        if blocks[first] >= 0:
            continue
        blocks[first], edge = number, [first]
        while edge:
            tile = edge.pop()
            touching = (blocks < 0) & (scenes == scenes[tile]) & (abs(corners - corners[tile]) <= side).all(1)
            blocks[touching] = number
            edge += np.flatnonzero(touching).tolist()
        number += 1
    return blocks


def adjusted_shares(counts, mapped):
    """Each class's share of a mapped area, corrected for the map's errors as a sample shows them.

    The sample is taken as drawn at random within each mapped class. Pixels of test tiles lie side by side, and
    neighbours are alike: they are worth far fewer independent ones, and the true intervals are wider than these.

    Args:
        counts: (K, K) sample pixels, rows truth, columns map.
        mapped: (K,) pixels of the whole map by class.
    Returns:
        (K,) shares, 0..1, and (K,) half widths of their 95 % intervals; all NaN where one mapped class has no sample (half
        widths: fewer than two), for what truly lies under it may be of any class.
    Source: Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of land change", equations
        9 and 10; the tables there have the map in rows.
    """
    sample = np.asarray(counts, np.float64).T  # (K, K) rows map
    there = np.asarray(mapped) > 0
    weight = np.asarray(mapped, np.float64)[there, None] / np.sum(mapped)
    sizes = sample[there].sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        true = sample[there] / sizes
        variance = (weight ** 2 * true * (1 - true) / np.where(sizes > 1, sizes - 1, np.nan)).sum(0)
    return (weight * true).sum(0), 1.96 * np.sqrt(variance)


def read_areas(paths, names):
    """Add up the tables of areas that predict.py wrote for the scenes of a map.

    Args:
        paths: of the CSV files.
        names: K class names, which must be theirs.
    Returns:
        (K,) list of mapped area, and all of it in ha; where one of the tables knows no pixel size, in px, and None.
    Raises:
        ValueError, OSError: a file is missing or of other classes; one line.
    """
    tables = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            known = [row["class"] for row in rows] == list(names)
            tables.append({key: [float(row[key]) for row in rows] for key in ("pixels", "area_ha") if key in rows[0]})
        except (KeyError, IndexError, TypeError, ValueError, csv.Error):
            known = False
        if not known:
            raise ValueError(f"{path} is no table of areas of the classes {', '.join(names)}: give what predict.py "
                             "wrote with this checkpoint")
    column = "area_ha" if all("area_ha" in table for table in tables) else "pixels"
    mapped = [sum(areas) for areas in zip(*(table[column] for table in tables))]
    return mapped, sum(mapped) if column == "area_ha" else None


def area_rows(counts, mapped, names, total_ha=None):
    """What the map says of each class's area, and what it is after correction for the map's errors.

    Args:
        counts: (K, K) pixels of the sample, rows truth.
        mapped: (K,) mapped area of each class, in any unit.
        names: K class names.
        total_ha: area of the whole map, ha, or None where it is not known.
    Returns:
        list of {"class", "mapped_percent", "adjusted_percent", "interval_percent", and the same in ha}; an interval is
        half the width of the 95 % one; None where the sample is too small.
    """
    shares, halves = adjusted_shares(counts, mapped)
    rows = []
    for name, *values in zip(names, (area / (sum(mapped) or 1) for area in mapped), shares, halves):
        row = {"class": name}
        for unit, factor in [("percent", 100)] + ([("ha", total_ha)] if total_ha else []):
            named = zip(("mapped", "adjusted", "interval"), values)
            row |= {f"{what}_{unit}": plain(value * factor) for what, value in named}
        rows.append(row)
    return rows
