"""Which pixels to label next: drawn at random, the likelier the less the network is sure of them, not next to each other.

    positions = suggest_points(probabilities, 4, taken)     of one tile, beside the points that it has

    candidates = Candidates(height, width)                  of a scene that comes strip by strip
    candidates.add(top, uncertainty(probabilities), classes)
    rows, cols, classes = candidates.choose(20)

How unsure the network is of a pixel is its margin: how little the most likely class leads, averaged over a small square,
where a doubtful field counts more than a sharp border. Pixels are drawn in proportion to it. The most doubtful ones alone
would be a poor sample of the ground: a network learned less from them than from as many random ones (results/relabel.md).

Source: Scheffer 2001, "Active hidden Markov models for information extraction", the margin. Differs in the average, in
drawing, and in spreading points by distance: spread in feature space, as in Sener 2018, "Active learning for
convolutional neural networks: a core-set approach", they would need the features of the whole scene at once.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

DISTANCE = 16  # px, least distance between two points
SQUARE = 5  # px, side of the square over which doubt is averaged; odd
LEAST = 1e-6  # doubt that is taken for the surest pixel's: where the network is sure of all, all are alike
MOST = 2**16  # candidates kept of a scene, however large


def uncertainty(probabilities):
    """How little the most likely class leads, averaged over a square around each pixel.

    Args:
        probabilities: (B, K, H, W), 0..1.
    Returns:
        (B, H, W), 0 (sure) to 1 (two classes alike).
    """
    first = second = torch.zeros_like(probabilities[:, 0])
    for one in probabilities.unbind(1):  # a running best two: sorting along K takes many times longer
        second = torch.maximum(second, torch.minimum(first, one))
        first = torch.maximum(first, one)
    doubt = 1 - (first - second)  # (B, H, W)
    return F.avg_pool2d(doubt[:, None], SQUARE, 1, SQUARE // 2, count_include_pad=False)[:, 0]


def ranking(doubt, seed=0, top=0):
    """By what pixels are taken, the highest first: so taken, they are drawn one by one in proportion to their doubt.

    The noise is a function of the seed and the row, so that a scene in strips is ranked as it would be at once.

    Args:
        doubt: (h, W) as of `uncertainty`; -inf where no point may lie.
        seed: 0 or more; top: row of the scene at which doubt begins, px.
    Returns:
        (h, W), -inf where doubt is.
    Source: Gumbel's trick; Kool 2019, "Stochastic beams and where to find them", section 2.3, draws several with it.
    """
    rank = np.log(np.maximum(doubt, LEAST))  # (h, W)
    for row, ranks in enumerate(rank, top):
        ranks += np.random.default_rng((seed, row)).gumbel(size=len(ranks))
    rank[doubt == -np.inf] = -np.inf
    return rank


def suggest_points(probabilities, count, taken=(), distance=DISTANCE, where=None, seed=0):
    """The pixels of one tile to label next.

    Args:
        probabilities: (K, H, W) tensor, 0..1, what the network gives for the tile.
        count: how many, 0 or more.
        taken: (P,) positions row * W + col of points that are there already, as `points.choose_points` gives them.
        distance: least distance to other points, px.
        where: (H, W) bool, pixels that may be chosen; None: all.
        seed: of the draw, best another for every tile.
    Returns:
        (N,) int64 positions row * W + col, in the order drawn; fewer than count where there is no room for more.
    """
    doubt = uncertainty(probabilities.detach().cpu()[None])[0].double().numpy()  # (H, W)
    if where is not None:
        doubt[~where] = -np.inf
    rows, cols = np.indices(doubt.shape).reshape(2, -1)  # (H * W,) each
    return _choose(rows, cols, ranking(doubt, seed).reshape(-1), count, distance, taken)


class Candidates:
    """The pixel of the highest rank in each cell of a scene that comes in strips: what its points are chosen from.

    The cells are half the distance wide, or so much wider that there are at most about MOST of them.

    Args:
        height, width: of the scene, px.
        distance: least distance between two points, px.
    """

    def __init__(self, height, width, distance=DISTANCE):
        self.distance = distance
        self.cell = max(distance // 2, math.isqrt(height * width // MOST), 1)
        self.found = [np.empty((4, 0))]  # row, col, rank, class

    def add(self, top, doubt, classes):
        """Look through a strip of the scene.

        Args:
            top: row at which the strip begins, px.
            doubt: (h, W) uncertainty; -inf where no point may lie.
            classes: (h, W) predicted.
        """
        side, (height, width), rank = self.cell, doubt.shape, ranking(doubt, top=top)
        cells = np.pad(rank, ((0, -height % side), (0, -width % side)), constant_values=-np.inf)
        down, across = cells.shape[0] // side, cells.shape[1] // side
        cells = cells.reshape(down, side, across, side).swapaxes(1, 2).reshape(down, across, -1)  # (.., .., side**2)
        place = cells.argmax(axis=2)  # (down, across)
        rows, cols = (np.indices((down, across)) * side + np.divmod(place, side))[:, cells.max(axis=2) > -np.inf]
        self.found.append(np.stack([rows + top, cols, rank[rows, cols], classes[rows, cols]]))

    def choose(self, count):
        """The points to label next.

        Args:
            count: how many.
        Returns:
            (N,) rows, columns, predicted classes, int64, in the order drawn; fewer than count where there is no room.
        """
        rows, cols, rank, classes = np.concatenate(self.found, axis=1)
        chosen = _choose(rows, cols, rank, count, self.distance)
        return tuple(column[chosen].astype(np.int64) for column in (rows, cols, classes))


def _choose(rows, cols, rank, count, distance, taken=()):
    """Indices of the candidates chosen, one by one: of those far enough from the points there are, that of highest rank.

    Args:
        rows, cols, rank: (n,) of the candidates.
        count, distance: as in `suggest_points`; taken: indices of candidates that are points already.
    Returns:
        (N,) int64.
    """
    rank, chosen = np.array(rank, np.float64), []

    def take(place):
        rank[(rows - rows[place]) ** 2 + (cols - cols[place]) ** 2 < distance ** 2] = -np.inf

    for place in taken:
        take(place)
    while len(chosen) < count and len(rank) and rank.max() > -np.inf:
        chosen.append(int(rank.argmax()))
        take(chosen[-1])
    return np.array(chosen, dtype=np.int64)
