"""Statistics of one pass over a split, beyond its confusion matrix.

    blocks = contiguous_blocks(positions, side=128)       # see engine.prepared.tile_positions
    stats = EvalStats(classes=5, blocks=blocks)
    stats.update(start, logits, prediction, labels)       # per batch, in the order of the tiles

Memory grows with the number of blocks and tiles, not with the number of pixels.
"""

import numpy as np
import torch

BOUNDARY_WIDTH = 3  # px on either side of a class boundary
NUM_BINS = 15  # of confidence, as in most published calibration errors


class EvalStats:
    """Confusion matrices per block and near class boundaries, scores per tile, and calibration.

    Args:
        classes: number of classes K.
        blocks: (N,) number of the block of each tile of the split, from 0.
        ignore: the label of pixels that are not scored.
        temperature: by which logits are divided for the calibration, see report/calibration.py.
    Attributes:
        blocks: as given, int64.
        counts: (U, K, K) int64, a confusion matrix per block; rows are the truth.
        boundary_confusion: (K, K) int64, of the pixels within BOUNDARY_WIDTH px of a boundary
            between classes.
        tiles: (N, 3) float64 per tile: labelled pixels, right pixels, mean IoU; 0 until updated.
        calibration_bins: (3, NUM_BINS) float64, see `count_by_confidence`.
        uncalibrated_bins: the same at a temperature of 1.
    """

    def __init__(self, classes, blocks, ignore=255, temperature=1.0):
        self.blocks = torch.as_tensor(blocks, dtype=torch.int64)
        self.ignore = ignore
        self.temperature = temperature
        num_blocks = int(self.blocks.max()) + 1
        self.counts = torch.zeros(num_blocks, classes, classes, dtype=torch.int64)
        self.boundary_confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.tiles = torch.zeros(len(self.blocks), 3, dtype=torch.float64)
        self.calibration_bins = torch.zeros(3, NUM_BINS, dtype=torch.float64)
        self.uncalibrated_bins = torch.zeros(3, NUM_BINS, dtype=torch.float64)

    def update(self, start, logits, prediction, labels):
        """Count a batch of tiles that follow each other in the split.

        Args:
            start: index of the first tile.
            logits: (B, K, H, W) float32.
            prediction: (B, H, W) uint8, the most likely classes.
            labels: (B, H, W) uint8, classes or `ignore`.
        """
        batch, classes = logits.shape[:2]
        near = near_boundary(labels, BOUNDARY_WIDTH, self.ignore)
        # The key of a pixel is made of its tile, near, true class and predicted class, so that one
        # count fills all matrices.
        tile = torch.arange(batch, device=labels.device)[:, None, None]
        keys = ((tile * 2 + near) * 256 + labels) * classes + prediction
        counts = torch.bincount(keys.flatten(), minlength=batch * 2 * 256 * classes).cpu()
        counts = counts.reshape(batch, 2, 256, classes)
        counts = counts[:, :, :classes]  # (B, 2, K, K), without the ignored pixels
        self.boundary_confusion += counts[:, 1].sum(0)
        per_tile = counts.sum(1)  # (B, K, K)
        updated = slice(start, start + batch)
        self.counts.index_add_(0, self.blocks[updated], per_tile)
        self.tiles[updated, 0] = per_tile.sum((1, 2)).double()
        self.tiles[updated, 1] = per_tile.diagonal(dim1=1, dim2=2).sum(1).double()
        self.tiles[updated, 2] = mean_iou(per_tile)
        self._update_calibration(logits, prediction, labels)

    def _update_calibration(self, logits, prediction, labels):
        """Count the labelled pixels of a batch by confidence, at the temperature and at 1."""
        labelled = labels != self.ignore
        logits = logits.movedim(1, 3)[labelled]  # (P, K)
        right = (prediction == labels)[labelled]  # (P,)
        counts = count_by_confidence(logits, right)
        self.uncalibrated_bins += counts
        if self.temperature != 1:
            counts = count_by_confidence(logits / self.temperature, right)
        self.calibration_bins += counts

    def tensors(self):
        """All counts, as a list of tensors to which other processes' counts can be added."""
        return [self.counts, self.boundary_confusion, self.tiles, self.calibration_bins,
                self.uncalibrated_bins]

    def calibration_error(self):
        """Expected calibration error at the temperature, 0..1; NaN without labels."""
        return expected_calibration_error(self.calibration_bins)


def count_by_confidence(logits, right):
    """Count pixels by confidence, the largest softmax probability.

    Args:
        logits: (P, K); right: (P,) bool, whether the most likely class is the true one.
    Returns:
        (3, NUM_BINS) float64 on the CPU: pixels, right pixels, sum of the confidences.
    """
    odds = (logits - logits.amax(1, keepdim=True)).exp()  # 1 for the most likely class
    confidence = odds.sum(1).reciprocal()  # (P,)
    bins = (confidence * NUM_BINS).long().clamp(0, NUM_BINS - 1)  # (P,)
    rows = []
    for values in (torch.ones_like(confidence), right, confidence):
        rows.append(torch.bincount(bins, values.double(), NUM_BINS).cpu())
    return torch.stack(rows)


def expected_calibration_error(calibration_bins):
    """How far apart confidence and accuracy are, 0..1.

    Args:
        calibration_bins: (3, NUM_BINS) of `count_by_confidence`.
    Returns:
        float, NaN without pixels.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3. Differs from
        the paper in that a bin holds its lower edge, not its upper one.
    """
    pixels, right, confidence = calibration_bins
    return float((right - confidence).abs().sum() / pixels.sum())


def near_boundary(labels, reach, ignore=255):
    """Labelled pixels that have a pixel of another class within `reach` rows and columns.

    The border to unlabelled pixels is no class boundary. The neighbouring tile is not seen, so a
    boundary along the edge of a tile is missed.

    Args:
        labels: (B, H, W) uint8, classes or `ignore`.
        reach: px.
    Returns:
        (B, H, W) bool.
    """
    labelled = labels != ignore
    classes = labels.to(torch.int16)
    # Two classes are in a window if its highest class is not its lowest one.
    highest = _window_max(torch.where(labelled, classes, -1), reach)
    lowest = -_window_max(torch.where(labelled, -classes, -256), reach)
    return labelled & (highest > lowest)


def _window_max(values, reach):
    """Largest value of the window that reaches `reach` px to all four sides of each pixel.

    Shifted copies are ten times faster than max_pool2d on the CPU.
    """
    for axis in (1, 2):
        largest = values.clone()
        for shift in range(1, min(reach + 1, values.shape[axis])):
            size = values.shape[axis] - shift
            first = largest.narrow(axis, 0, size)  # views: `out` writes into `largest`
            last = largest.narrow(axis, shift, size)
            torch.maximum(first, values.narrow(axis, shift, size), out=first)
            torch.maximum(last, values.narrow(axis, 0, size), out=last)
        values = largest
    return values


def mean_iou(counts):
    """Mean IoU of confusion matrices, each over the classes in its truth or prediction.

    Args:
        counts: (..., K, K), rows are the truth.
    Returns:
        (...) float64; NaN where nothing was counted.
    """
    counts = counts.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hits
    return (hits / union).nanmean(-1)  # 0 / 0 is NaN


def contiguous_blocks(positions, side, site_of=None):
    """Number the groups of tiles that touch each other within a scene, for independent draws.

    The scenes of a site, such as two seasons, count as one scene: their tiles at the same position
    are in one block.

    Args:
        positions: list of (scene, row, col), px.
        side: of a tile, px.
        site_of: {scene: site}, dataset.json's "places"; None: each scene is a site of its own.
    Returns:
        (N,) int64 array, the block of each tile, numbered in the order of the tiles.
    """
    site_of = site_of or {}
    sites = [site_of.get(scene, scene) for scene, _, _ in positions]
    sites = np.unique(sites, return_inverse=True)[1]  # (N,) numbers
    corners = np.array([(row, col) for _, row, col in positions])  # (N, 2)
    blocks = np.full(len(positions), -1)
    number = 0
    for first in range(len(positions)):
        if blocks[first] >= 0:
            continue
        blocks[first] = number
        waiting = [first]  # tiles of the block whose neighbours are still to be found
        while waiting:
            tile = waiting.pop()
            touching = (abs(corners - corners[tile]) <= side).all(1)
            neighbours = (blocks < 0) & (sites == sites[tile]) & touching
            blocks[neighbours] = number
            waiting += np.flatnonzero(neighbours).tolist()
        number += 1
    return blocks
