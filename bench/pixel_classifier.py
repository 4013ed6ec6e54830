"""What a pixel's own colour tells: logistic regression on band values, from the same points, with no neighbourhood at all.

Takes train.py's flags --data --points --points-per --point-jitter --seed --out, and leaves metrics.json and log.csv as a
run does. Any network that scores no higher has learned nothing of shape or texture.
"""

import csv
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from data import TileDataset, normalise
from engine.meta import checkpoint_meta
from evaluate import write_scores
from metrics import ConfusionMatrix, score_table
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
    values = normalise(images, meta["mean"], meta["std"], meta["nodata"]).permute(0, 2, 3, 1)  # (B, H, W, C)
    row, col = torch.triu_indices(values.shape[-1], values.shape[-1])
    return torch.cat([torch.ones_like(values[..., :1]), values, values[..., row] * values[..., col]], -1)


def fit(values, classes, count):
    """Multinomial logistic regression with a little decay.

    Args:
        values: (P, F) features.
        classes: (P,) int64.
        count: number of classes K.
    Returns:
        (F, K) float32 weights.
    """
    weights = torch.zeros(values.shape[1], count, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = F.cross_entropy(values @ weights, classes) + DECAY * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weights.detach()


def main(args):
    """Fit on the training points, score on the test split; returns the dict of metrics.json."""
    started = time.perf_counter()
    tiles = TileDataset(args.data, "train", args.points, args.points_per, args.seed, args.point_jitter)
    meta, values, classes = checkpoint_meta(tiles.meta), [], []
    for index in range(len(tiles)):
        images, labels = tiles.get_batch([index])
        values.append(features(images, meta)[labels != tiles.ignore])
        classes.append(labels[labels != tiles.ignore].long())
    weights = fit(torch.cat(values), torch.cat(classes), len(meta["classes"]))
    test, matrix = TileDataset(args.data, "test"), ConfusionMatrix(len(meta["classes"]), tiles.ignore)
    for index in range(len(test)):
        images, labels = test.get_batch([index])
        matrix.update((features(images, meta) @ weights).argmax(-1), labels)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["epoch", "seconds"], [1, time.perf_counter() - started]])
    scores = write_scores(out / "metrics.json", matrix, meta, tiles.labelled_pixels, "test", "")
    print(score_table(matrix, meta["classes"]))
    return scores


if __name__ == "__main__":
    main(parse_args())
