"""Suggest which pixels to label next: drawn at random, uncertain ones more often, well apart.

    positions = suggest_points(probabilities, 4, taken)     of one tile, beside the points it has

    candidates = Candidates(height, width)                  of a scene that comes in row blocks
    candidates.add(top, margin_uncertainty(probabilities), classes)
    rows, cols, classes = candidates.choose(20)

The uncertainty of a pixel is how little its most likely class leads, averaged over a small square,
so that an uncertain field counts more than a sharp border. Pixels are drawn in proportion to it.
The most uncertain ones alone would be a poor sample of the scene: a network learned less from them
than from as many random ones (results/relabel.md).

Source: Scheffer 2001, "Active hidden Markov models for information extraction", the margin. Differs
from the paper in the average, in drawing, and in spreading points by distance. Spread in feature
space, as in Sener 2018, "Active learning for convolutional neural networks: a core-set approach",
they would need the features of the whole scene at once.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

DISTANCE = 16  # px, least distance between two points
UNCERTAINTY_WINDOW = 5  # px, side of the square over which uncertainty is averaged; odd
MIN_UNCERTAINTY = 1e-6  # lower values count as this: a network sure of all draws all alike
MAX_CANDIDATES = 2**16  # kept per scene, about, however large it is


def margin_uncertainty(probabilities):
    """How little the most likely class leads, averaged over a square around each pixel.

    Args:
        probabilities: (B, K, H, W), 0..1.
    Returns:
        (B, H, W), 0 (sure) to 1 (two classes equally likely).
    """
    first = torch.zeros_like(probabilities[:, 0])
    second = first
    for probability in probabilities.unbind(1):  # a running best two: many times faster than sort
        second = torch.maximum(second, torch.minimum(first, probability))
        first = torch.maximum(first, probability)
    uncertainty = 1 - (first - second)  # (B, H, W)
    side = UNCERTAINTY_WINDOW
    averaged = F.avg_pool2d(uncertainty[:, None], side, stride=1, padding=side // 2,
                            count_include_pad=False)
    return averaged[:, 0]


def gumbel_scores(uncertainty, seed=0, top=0):
    """Random scores: pixels taken by descending score are draws in proportion to uncertainty.

    The noise is a function of the seed and the row, so that a scene in row blocks has the scores
    of the whole scene.

    Args:
        uncertainty: (h, W) as from `margin_uncertainty`; -inf where no point may lie.
        seed: 0 or more.
        top: row of the scene at which `uncertainty` begins, px.
    Returns:
        (h, W), -inf where uncertainty is.
    Source: Gumbel's trick; Kool 2019, "Stochastic beams and where to find them", section 2.3.
    """
    scores = np.log(np.maximum(uncertainty, MIN_UNCERTAINTY))  # (h, W)
    for row, row_scores in enumerate(scores, top):
        row_scores += np.random.default_rng((seed, row)).gumbel(size=len(row_scores))
    scores[uncertainty == -np.inf] = -np.inf
    return scores


def suggest_points(probabilities, count, taken=(), distance=DISTANCE, where=None, seed=0):
    """Choose the pixels of one tile to label next.

    Args:
        probabilities: (K, H, W) tensor, 0..1, the network's for the tile.
        count: how many, 0 or more.
        taken: (P,) positions row * W + col of the points that are there already.
        distance: least distance to other points, px.
        where: (H, W) bool, pixels that may be chosen; None: all.
        seed: of the draw, best another one per tile.
    Returns:
        (N,) int64 positions row * W + col, in the order drawn; fewer than count if there is no
        room for more.
    """
    uncertainty = margin_uncertainty(probabilities.detach().cpu()[None])[0].double().numpy()
    if where is not None:
        uncertainty[~where] = -np.inf
    rows, cols = np.indices(uncertainty.shape).reshape(2, -1)  # (H * W,) each
    scores = gumbel_scores(uncertainty, seed).reshape(-1)
    return _choose(rows, cols, scores, count, distance, taken)


class Candidates:
    """The pixel of the highest score in each cell of a scene that comes in row blocks.

    Cells are half the distance wide, or wider where there would be more than MAX_CANDIDATES.

    Args:
        height, width: of the scene, px.
        distance: least distance between two points, px.
    """

    def __init__(self, height, width, distance=DISTANCE):
        self.distance = distance
        self.cell = max(distance // 2, math.isqrt(height * width // MAX_CANDIDATES), 1)
        self.found = [np.empty((4, 0))]  # row, col, score, class

    def add(self, top, uncertainty, classes):
        """Find the candidates of one block of rows.

        Args:
            top: row at which the block begins, px.
            uncertainty: (h, W); -inf where no point may lie.
            classes: (h, W) predicted.
        """
        scores = gumbel_scores(uncertainty, top=top)
        side = self.cell
        height, width = scores.shape
        padding = ((0, -height % side), (0, -width % side))
        cells = np.pad(scores, padding, constant_values=-np.inf)
        down = len(cells) // side
        across = cells.shape[1] // side
        cells = cells.reshape(down, side, across, side).swapaxes(1, 2)
        cells = cells.reshape(down, across, side**2)
        rows_within, cols_within = np.divmod(cells.argmax(axis=2), side)  # (down, across) each
        allowed = cells.max(axis=2) > -np.inf  # (down, across)
        rows = (np.arange(down)[:, None] * side + rows_within)[allowed]
        cols = (np.arange(across) * side + cols_within)[allowed]
        self.found.append(np.stack([rows + top, cols, scores[rows, cols], classes[rows, cols]]))

    def choose(self, count):
        """Choose the points to label next.

        Args:
            count: how many.
        Returns:
            (N,) rows, columns, predicted classes, int64, in the order drawn; fewer than count if
            there is no room.
        """
        rows, cols, scores, classes = np.concatenate(self.found, axis=1)
        chosen = _choose(rows, cols, scores, count, self.distance)
        return tuple(column[chosen].astype(np.int64) for column in (rows, cols, classes))


def _choose(rows, cols, scores, count, distance, taken=()):
    """Indices of candidates, one by one the highest score that is far enough from other points.

    Args:
        rows, cols, scores: (n,) of the candidates.
        count, distance: as in `suggest_points`.
        taken: indices of candidates that are points already.
    Returns:
        (N,) int64.
    """
    scores = np.array(scores, np.float64)
    chosen = []

    def rule_out_around(index):
        distances = (rows - rows[index]) ** 2 + (cols - cols[index]) ** 2  # squared, px
        scores[distances < distance ** 2] = -np.inf

    for index in taken:
        rule_out_around(index)
    while len(chosen) < count and len(scores) and scores.max() > -np.inf:
        chosen.append(int(scores.argmax()))
        rule_out_around(chosen[-1])
    return np.array(chosen, dtype=np.int64)
