"""The floor: what the colour of a pixel alone tells, by logistic regression on its band values.

Trained on the same points as a network, without any neighbourhood. A network that scores no higher
has learned nothing of shape or texture. Takes train.py's flags --data --points --points-per --seed
--out, and leaves metrics.json and log.csv as a run does.
"""

import csv
import pathlib
import time

import experiments  # noqa: F401, which puts the project on the path

from data import TileDataset
from engine.meta import checkpoint_meta
from report.closing import write_scores
from report.tables import score_table
from train import parse_args
from weak.pixel_classifier import PixelClassifier


def main(args):
    """Fit on the training points, score on the test split; return the dict of metrics.json."""
    started = time.perf_counter()
    tiles = TileDataset(args.data, "train", args.points, args.points_per, args.seed)
    meta = checkpoint_meta(tiles.meta)
    matrix = PixelClassifier(tiles, meta, radius=0).score(TileDataset(args.data, "test"))
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.csv", "w", newline="", encoding="utf-8") as file:
        seconds = time.perf_counter() - started
        csv.writer(file).writerows([["epoch", "seconds"], [1, seconds]])
    print(score_table(matrix, meta["classes"]))
    return write_scores(out / "metrics.json", matrix, meta, tiles.labelled_pixels, "test", "")


if __name__ == "__main__":
    main(parse_args())
