"""Point labels: which few pixels of a tile a run may learn from.

Points are frozen and nested. The labelled pixels of a tile are ranked once, by a shuffle that depends on the seed and the
tile's index alone, and k points are the first k of that ranking: the same in every epoch, and those of k = 5 are among
those of k = 20. Drawing new points at every visit would show the network k x epochs labels and call them k.
"""

import numpy as np


def choose_points(labels, points, seed, index, per="image", ignore=255):
    """Where the point labels of one tile lie.

    Args:
        labels: (H, W) integers, `ignore` where nothing is known.
        points: how many to keep, 0 or more; all labelled pixels where there are fewer.
        seed: the draw, 0 or more; runs with one seed share their points.
        index: the tile's index in its split, 0 or more.
        per: "image", uniformly over the tile's labelled pixels; or "class", that many of every class present, which tells
            the network what is present.
    Returns:
        (P,) int64 positions row * W + col, best-ranked first within the image or the class.
    Raises:
        ValueError: `points` negative or an unknown `per`.
    """
    if points < 0:
        raise ValueError(f"{points} points: give 0 or more")
    if per not in ("image", "class"):
        raise ValueError(f"points per '{per}': choose image or class")
    labels = np.asarray(labels).reshape(-1)  # (H * W,)
    if per == "image":
        return _first_of_shuffle(np.flatnonzero(labels != ignore), points, [seed, index])
    return np.concatenate([np.empty(0, dtype=np.int64)] + [
        _first_of_shuffle(np.flatnonzero(labels == k), points, [seed, index, int(k)])
        for k in np.unique(labels[labels != ignore])])


def point_labels(labels, points, seed, index, per="image", ignore=255):
    """The label map of one tile with all but its points forgotten.

    Args:
        labels: (H, W) uint8.
        points, seed, index, per, ignore: as in `choose_points`.
    Returns:
        (H, W) uint8: the label at each chosen point, `ignore` elsewhere.
    """
    labels = np.asarray(labels)
    kept = np.full(labels.shape, ignore, labels.dtype)  # not full_like: of a transposed map, reshape would be a copy
    chosen = choose_points(labels, points, seed, index, per, ignore)
    kept.reshape(-1)[chosen] = labels.reshape(-1)[chosen]
    return kept


def _first_of_shuffle(candidates, points, key):
    """The first `points` of the candidates, shuffled by a generator that `key` alone decides."""
    return np.random.default_rng(key).permutation(candidates)[:points]


def move_points(positions, shape, jitter, seed, index):
    """Points as an unsteady hand or a poor GPS puts them: off by a Gaussian error, while their labels stay the true ones'.

    Errors are frozen, and go with a point's place: of points per image those of k = 5 are among those of k = 20, of points
    per class they are not, for there the second class's begin elsewhere. A point that would leave the tile stays on its
    edge; one that falls on a better-ranked one is lost, for a pixel has one label.

    Args:
        positions: (P,) int64 row * W + col, best-ranked first.
        shape: (H, W) of the tile, px.
        jitter: standard deviation along each axis, px, 0 or more.
        seed, index: as in `choose_points`.
    Returns:
        kept (Q,) int64 places in `positions`, ascending, and their new positions (Q,) int64; Q is at most P.
    """
    errors = np.random.default_rng([seed, index, 256]).normal(0, jitter, (len(positions), 2))  # 256: no class's own stream
    rows_cols = np.stack(np.unravel_index(positions, shape), 1) + errors.round().astype(np.int64)  # (P, 2)
    moved = np.ravel_multi_index(tuple(rows_cols.T), shape, mode="clip")  # (P,)
    kept = np.sort(np.unique(moved, return_index=True)[1])
    return kept, moved[kept]


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


def spread_points(labels, segments, ignore=255):
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
