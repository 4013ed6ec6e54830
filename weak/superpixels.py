"""Superpixels: patches of similar colour that take the class of the labelled points inside them.

A point's class is given to the patch around it. Patches are partly wrong, so the loss that learns
from them fades out.
"""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tqdm import tqdm

from data import crop_labels, missing_pixels, normalise
from engine.distributed import all_reduce, disable_tqdm
from losses import count_labelled, partial_cross_entropy

WEIGHT = 0.5  # of the superpixels' loss at the start
END = 0.6  # share of training after which it is 0


class SuperpixelLoss:
    """The superpixels' loss of a run: `begin_batch` once per batch, then a call for each part.

    Args:
        tiles: TileDataset to train on.
        size: side of the superpixels, px.
        class_weight: (K,) of the points' loss, or None; superpixels take the same.
    """

    def __init__(self, tiles, size, class_weight=None):
        self.ignore = tiles.ignore
        self.nodata = tiles.meta.get("nodata")
        self.label_maps = superpixel_labels(tiles, size)
        self.class_weight = class_weight

    def begin_batch(self, batch, progress, device):
        """Prepare the labels of a batch, and count what the loss is divided by.

        Args:
            batch: data.Batch.
            progress: share of all steps of the run that are done, 0..1.
            device: where the network computes.
        """
        self.weight = WEIGHT * max(0.0, 1 - progress / END)
        if self.weight == 0:
            return
        missing = missing_pixels(batch.images, self.nodata).cpu()  # (B, H, W)
        labels = self.label_maps[batch.indices].masked_fill(missing, self.ignore)
        self.labels = crop_labels(labels.to(device), batch.views, self.ignore)
        self.num_labelled = all_reduce(
            count_labelled(self.labels, self.class_weight, self.ignore))

    def __call__(self, part, logits):
        """The loss () of a part, a slice of the batch, with logits (B', K, H, W); 0.0 at last."""
        if self.weight == 0:
            return 0.0
        return self.weight * partial_cross_entropy(
            logits, self.labels[part], self.ignore, self.class_weight, self.num_labelled)


def superpixels(image, size, compactness=0.5, rounds=5):
    """Cut an image into patches of similar colour: k-means on bands and position, on a grid.

    A pixel may join the patch that started in its own grid cell or in one of the eight around it,
    so a patch never reaches further than two cells. Cut-off pieces stay with their patch.

    Args:
        image: (H, W, C) float, bands of about zero mean and unit deviation.
        size: side of the grid's cells, px, 2 or more; patches hold about size^2 pixels.
        compactness: weight of one cell's distance against one deviation in every band; small
            values follow colour more, large ones make rounder patches.
        rounds: of k-means.
    Returns:
        (H, W) int64 patch numbers, not all of which need occur.
    Raises:
        ValueError: `size` below 2.
    Source: Achanta et al. 2012, "SLIC Superpixels", algorithm 1; differs from the paper in the
        search window, which follows the grid and not the moving centre, in starting from cell
        means, and in leaving cut-off pieces.
    """
    if size < 2:
        raise ValueError(f"superpixels of {size} px: give a side of 2 px or more")
    height, width, _ = image.shape
    pixels = _cell_features(image, size, compactness)  # (rows, cols, pixels of a cell, features)
    rows, cols = pixels.shape[:2]
    centres = pixels.mean(2)  # (rows, cols, features)
    for _ in range(rounds):
        segments = _nearest_centres(pixels, centres)  # (rows, cols, pixels of a cell)
        centres = _mean_features(pixels, segments, centres)
    segments = segments.reshape(rows, cols, size, size).swapaxes(1, 2)
    return segments.reshape(rows * size, cols * size)[:height, :width]


def _cell_features(image, size, compactness):
    """Bands and scaled position of every pixel, grouped by grid cells; the edge is repeated."""
    height, width, bands = image.shape
    rows = -(-height // size)  # rounded up
    cols = -(-width // size)
    margins = ((0, rows * size - height), (0, cols * size - width), (0, 0))
    image = np.pad(image, margins, mode="edge")
    position = np.stack(np.indices(image.shape[:2]), -1) * (compactness / size)  # (H', W', 2)
    pixels = np.concatenate([image * bands ** -0.5, position], -1, dtype=np.float32)
    cells = pixels.reshape(rows, size, cols, size, -1).swapaxes(1, 2)
    return cells.reshape(rows, cols, size * size, -1)


def _nearest_centres(pixels, centres):
    """The patch whose centre is nearest to each pixel, among the nine cells around its own."""
    rows, cols = centres.shape[:2]
    padded = np.pad(centres, ((1, 1), (1, 1), (0, 0)))
    lengths = (centres ** 2).sum(-1)  # |c|^2
    lengths = np.pad(lengths, 1, constant_values=np.inf)  # no pixel joins what lies off the grid
    around = sliding_window_view(padded, (3, 3), axis=(0, 1))  # (rows, cols, features, 3, 3)
    around = around.reshape(rows, cols, -1, 9)
    around_lengths = sliding_window_view(lengths, (3, 3)).reshape(rows, cols, 1, 9)
    distances = around_lengths - 2 * (pixels @ around)  # |c|^2 - 2 x.c, without |x|^2
    nearest = distances.argmin(-1)  # (rows, cols, pixels of a cell), 0 to 8, row by row
    down, right = np.divmod(nearest, 3)  # 1 is the pixel's own cell
    row = np.arange(rows)[:, None, None] + down - 1
    col = np.arange(cols)[:, None] + right - 1
    return row * cols + col


def _mean_features(pixels, segments, centres):
    """Centres moved to the mean of their patches; the centre of an empty patch stays."""
    features = centres.shape[-1]
    before = centres.reshape(-1, features)  # (patches, features)
    patches = segments.reshape(-1)  # of each pixel
    counts = np.bincount(patches, minlength=len(before))[:, None]
    sums = np.empty(before.shape)
    for feature in range(features):
        values = pixels[..., feature].reshape(-1)
        sums[:, feature] = np.bincount(patches, values, len(before))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), before)
    return means.reshape(centres.shape).astype(np.float32)


def propagate_to_superpixels(labels, segments, ignore=255):
    """Give every superpixel the class of its points, or `ignore` if they disagree or are none.

    Args:
        labels: (H, W) uint8, `ignore` where nothing is known.
        segments: (H, W) superpixel numbers, 0 or more.
    Returns:
        (H, W) uint8.
    """
    labels = np.asarray(labels)
    segments = np.asarray(segments)
    known = labels != ignore
    count = segments.max() + 1
    lowest = np.full(count, 255)
    highest = np.full(count, -1)
    np.minimum.at(lowest, segments[known], labels[known])
    np.maximum.at(highest, segments[known], labels[known])
    classes = np.where(lowest == highest, lowest, ignore).astype(np.uint8)
    return classes[segments]


def superpixel_labels(tiles, size):
    """Propagate the points of each tile to its superpixels.

    Args:
        tiles: TileDataset; size: side of the superpixels, px.
    Returns:
        (N, H, W) uint8 tensor.
    """
    label_maps = torch.empty_like(tiles.labels)
    mean, std, nodata = (tiles.meta.get(key) for key in ("mean", "std", "nodata"))
    for index in tqdm(range(len(tiles)), "superpixels", unit="tile", disable=disable_tqdm(),
                      leave=False):
        images, labels = tiles.get_batch([index])
        image = normalise(images, mean, std, nodata)[0].permute(1, 2, 0)  # (H, W, C)
        segments = superpixels(image.numpy(), size)
        propagated = propagate_to_superpixels(labels[0], segments, tiles.ignore)
        label_maps[index] = torch.from_numpy(propagated)
    return label_maps
