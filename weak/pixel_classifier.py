"""A classifier of single pixels by logistic regression, as a floor for the scores of networks.

It sees the bands of a pixel, their products two by two, and the mean and deviation of each band in
a small square around the pixel. A network that scores no higher has learned nothing of shapes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from data import normalise
from metrics import ConfusionMatrix

DECAY = 1e-3  # of the weights, relative to the mean cross-entropy
RADIUS = 2  # px, of the square; 0 is the pixel alone
MAX_PIXELS = 20_000  # labelled pixels to learn from; more change the scores little


class PixelClassifier:
    """Learn the classes of single pixels from the labels of some tiles.

    Args:
        tiles: data.TileDataset, with the labels that a network was trained on.
        meta: the checkpoint's metadata: mean, std, classes.
        radius: of the square around a pixel, px.
    Raises:
        ValueError: the tiles have no labelled pixel.
    """

    def __init__(self, tiles, meta, radius=RADIUS):
        self.meta = meta
        self.radius = radius
        values = []
        classes = []
        random = np.random.default_rng(0)
        share = MAX_PIXELS / max(1, tiles.labelled_pixels)  # of the pixels that are learned from
        if not tiles.labelled_pixels:
            raise ValueError("no labelled pixel to learn from")
        for index in range(len(tiles)):
            features, labels = self.labelled_features(tiles, index)
            taken = torch.from_numpy(random.random(len(labels)) < share)
            values.append(features[taken])
            classes.append(labels[taken])
        self.weights = fit(torch.cat(values), torch.cat(classes), len(meta["classes"]))

    def labelled_features(self, tiles, index):
        """Features (P, F) float32 and classes (P,) int64 of the labelled pixels of a tile."""
        images, labels = tiles.get_batch([index])
        known = labels != tiles.ignore  # (1, H, W)
        values = normalise(images, self.meta["mean"], self.meta["std"], tiles.meta.get("nodata"))
        bands = values.shape[1]
        if self.radius:
            values = torch.cat([values, *neighbourhood(values, self.radius)], dim=1)
        values = values.permute(0, 2, 3, 1)[known]  # (P, C or 3 C)
        row, col = torch.triu_indices(bands, bands)
        products = values[:, row] * values[:, col]
        return torch.cat([torch.ones(len(values), 1), values, products], 1), labels[known].long()

    def score(self, tiles):
        """Predict the labelled pixels of tiles; return the ConfusionMatrix."""
        matrix = ConfusionMatrix(len(self.meta["classes"]), tiles.ignore)
        for index in range(len(tiles)):
            features, labels = self.labelled_features(tiles, index)
            matrix.update((features @ self.weights).argmax(1), labels)
        return matrix


def neighbourhood(values, radius):
    """Mean and standard deviation of each band over the square around each pixel.

    Args:
        values: (B, C, H, W).
        radius: px; the square is cut at the edge of the image.
    Returns:
        two (B, C, H, W).
    """
    def mean(values):
        return F.avg_pool2d(values, 2 * radius + 1, 1, radius, count_include_pad=False)

    average = mean(values)
    variance = mean(values.square()) - average.square()
    return average, variance.clamp(min=0).sqrt()


def fit(values, classes, num_classes):
    """Fit a multinomial logistic regression: (P, F) features, (P,) int64 to (F, K) weights."""
    weights = torch.zeros(values.shape[1], num_classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = F.cross_entropy(values @ weights, classes) + DECAY * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weights.detach()
