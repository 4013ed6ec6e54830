"""The floor: what the colour of a pixel alone tells, by logistic regression on its band values.

Trained on the same points as a network, without any neighbourhood. A network that scores no higher
has learned nothing of shape or texture. Takes train.py's flags --data --points --points-per --seed
--out, and leaves metrics.json and log.csv as a run does.
"""

import csv
import pathlib
import time

import experiments  # noqa: F401, which puts the project on the path
import torch
import torch.nn.functional as F

from data import TileDataset, normalise
from engine.meta import checkpoint_meta
from evaluate import write_scores
from metrics import ConfusionMatrix
from report.tables import score_table
from train import parse_args

DECAY = 1e-3  # of the weights, relative to the mean cross-entropy


def features(images, meta):
    """Each pixel's bands, their products two by two, and 1.

    Args:
        images: (B, H, W, C) as stored.
        meta: dict with mean, std, nodata.
    Returns:
        (B, H, W, 1 + C + C (C + 1) / 2) float32.
    """
    values = normalise(images, meta["mean"], meta["std"], meta["nodata"])
    values = values.permute(0, 2, 3, 1)  # (B, H, W, C)
    row, col = torch.triu_indices(values.shape[-1], values.shape[-1])
    products = values[..., row] * values[..., col]
    return torch.cat([torch.ones_like(values[..., :1]), values, products], -1)


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


def main(args):
    """Fit on the training points, score on the test split; return the dict of metrics.json."""
    started = time.perf_counter()
    tiles = TileDataset(args.data, "train", args.points, args.points_per, args.seed)
    meta = checkpoint_meta(tiles.meta)
    values, classes = [], []
    for index in range(len(tiles)):
        images, labels = tiles.get_batch([index])
        known = labels != tiles.ignore
        values.append(features(images, meta)[known])
        classes.append(labels[known].long())
    weights = fit(torch.cat(values), torch.cat(classes), len(meta["classes"]))
    test = TileDataset(args.data, "test")
    matrix = ConfusionMatrix(len(meta["classes"]), tiles.ignore)
    for index in range(len(test)):
        images, labels = test.get_batch([index])
        matrix.update((features(images, meta) @ weights).argmax(-1), labels)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.csv", "w", newline="", encoding="utf-8") as file:
        seconds = time.perf_counter() - started
        csv.writer(file).writerows([["epoch", "seconds"], [1, seconds]])
    print(score_table(matrix, meta["classes"]))
    return write_scores(out / "metrics.json", matrix, meta, tiles.labelled_pixels, "test", "")


if __name__ == "__main__":
    main(parse_args())
