"""Superpixels: patches of similar colour that take the class of the labelled points inside them."""

import numpy as np
import torch
from tqdm import tqdm

from data import normalise
from engine.distributed import disable_tqdm


def superpixels(image, size, compactness=0.5, rounds=5):
    """Cut an image into patches of like colour, without any label: k-means on bands and position, seeded on a grid.

    A pixel may join the patch seeded in its own grid cell or in one of the eight around it, so that a patch never reaches
    further than two cells; pieces that are cut off from their patch stay with it.

    Args:
        image: (H, W, C) float, bands of about zero mean and unit deviation.
        size: side of the grid's cells, px, 2 or more; patches hold about size^2 pixels.
        compactness: what being one cell away weighs against one deviation in every band; small patches follow colour
            more, large ones are rounder.
        rounds: of k-means.
    Returns:
        (H, W) int64 patch numbers, not all of which need occur.
    Raises:
        ValueError: `size` below 2.
    Source:
        Achanta et al. 2012, "SLIC Superpixels", algorithm 1; differs from the paper in the window, which follows the grid
        and not the moving centre, in seeds that are cell means, and in leaving cut-off pieces.
    """
    if size < 2:
        raise ValueError(f"superpixels of {size} px: give a side of 2 px or more")
    height, width, bands = image.shape
    rows, cols = -(-height // size), -(-width // size)
    image = np.pad(image, ((0, rows * size - height), (0, cols * size - width), (0, 0)), mode="edge")
    position = np.stack(np.indices(image.shape[:2]), -1) * (compactness / size)  # (H', W', 2)
    pixels = np.concatenate([image * bands ** -0.5, position], -1, dtype=np.float32)  # (H', W', F)
    pixels = pixels.reshape(rows, size, cols, size, -1).swapaxes(1, 2).reshape(rows, cols, size * size, -1)  # (R, Q, P, F)
    centres = pixels.mean(2)  # (R, Q, F)
    offsets = [(down, across) for down in (0, 1, 2) for across in (0, 1, 2)]
    steps = np.array([(down - 1) * cols + across - 1 for down, across in offsets])
    for _ in range(rounds):
        padded = np.pad(centres, ((1, 1), (1, 1), (0, 0)))
        lengths = np.pad((centres ** 2).sum(-1), 1, constant_values=np.inf)  # beyond the grid there is nothing to join
        around = np.stack([padded[down:down + rows, across:across + cols] for down, across in offsets], -1)  # (R, Q, F, 9)
        around_lengths = np.stack([lengths[down:down + rows, across:across + cols] for down, across in offsets], -1)
        nearest = (around_lengths[:, :, None] - 2 * pixels @ around).argmin(-1)  # (R, Q, P): |c|^2 - 2 x.c orders as |x - c|^2
        segments = np.arange(rows * cols).reshape(rows, cols, 1) + steps[nearest]  # (R, Q, P)
        flat = segments.reshape(-1)
        sums = np.stack([np.bincount(flat, pixels[..., f].reshape(-1), rows * cols) for f in range(pixels.shape[-1])], -1)
        counts = np.bincount(flat, minlength=rows * cols)[:, None]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres.reshape(rows * cols, -1))
        centres = centres.reshape(rows, cols, -1).astype(np.float32)
    segments = segments.reshape(rows, cols, size, size).swapaxes(1, 2).reshape(rows * size, cols * size)
    return segments[:height, :width]


def propagate_to_superpixels(labels, segments, ignore=255):
    """Give every superpixel the class of its points; where they disagree, and where there are none, nothing is said.

    Args:
        labels: (H, W) uint8, `ignore` where nothing is known.
        segments: (H, W) superpixel numbers, 0 or more.
    Returns:
        (H, W) uint8.
    """
    labels, segments = np.asarray(labels), np.asarray(segments)
    known = labels != ignore
    lowest = np.full(segments.max() + 1, 255)
    highest = np.full(segments.max() + 1, -1)
    np.minimum.at(lowest, segments[known], labels[known])
    np.maximum.at(highest, segments[known], labels[known])
    return np.where(lowest == highest, lowest, ignore).astype(np.uint8)[segments]


def add_superpixel_labels(tiles, size):
    """Cut each tile into superpixels of about `size` px, and keep, a byte a pixel, what they say by their points."""
    tiles.patches = torch.empty_like(tiles.labels)
    for index in tqdm(range(len(tiles)), "superpixels", unit="tile", disable=disable_tqdm(), leave=False):
        images, labels = tiles.get_batch([index])
        values = normalise(images, tiles.meta["mean"], tiles.meta["std"], tiles.meta.get("nodata"))[0]  # (C, H, W)
        segments = superpixels(values.permute(1, 2, 0).numpy(), size)
        tiles.patches[index] = torch.from_numpy(propagate_to_superpixels(labels[0], segments, tiles.ignore))
