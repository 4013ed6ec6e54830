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
    kept = np.full_like(labels, ignore)
    chosen = choose_points(labels, points, seed, index, per, ignore)
    kept.reshape(-1)[chosen] = labels.reshape(-1)[chosen]
    return kept


def _first_of_shuffle(candidates, points, key):
    """The first `points` of the candidates, shuffled by a generator that `key` alone decides."""
    return np.random.default_rng(key).permutation(candidates)[:points]
