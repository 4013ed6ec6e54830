"""Where to click next: four more points per tile, chosen in four ways, for the pretrained network.

    python bench/suggest.py --sets dunes-a dubai roads
    python bench/suggest.py --tables-only

Each training tile begins with one random point. Four more are added:

suggested   by weak/suggest.py, for the network that was trained on the first points
spaced      at random, 16 px apart or more
balanced    at random, each of a class drawn among those that the tile holds
random      at random: the rows of five points per tile in pretrained.csv

Sets, recipes and the networks of the first points are those of bench/pretrained.py. Rows go to
results/suggest.csv, the table to results/suggest.md.
"""

import numpy as np
import torch
from experiments import (
    RESULTS, ROOT, Experiment, difference, experiment_parser, listed, markdown, mean_and_spread,
    numbered, paired_gains, run_missing, scores_of, write_report)
from points import mean_class_iou
from pretrained import EPOCHS, LITE, PRETRAINED, all_rows, experiment

from data import TileDataset, choose_points, normalise, write_prepared
from engine.checkpoint import load_model
from weak.suggest import suggest_points

SETS = ("dunes-a", "dubai", "roads")
MORE = 4  # points per tile, beside the first
DRAWS = 3
HEAD = """Written by `python bench/suggest.py` from suggest.csv and pretrained.csv.

Five points per tile for the pretrained network. The first is random and the same for all rows of a
draw. Differences are in points of mean IoU to five random points, paired by draw, with a 95 % t
interval and the p value of a paired t test.
"""


def suggested(tiles, index, taken, model, meta):
    """Four positions in a tile that weak/suggest.py draws where the network is unsure."""
    images = tiles.get_batch([index])[0]
    with torch.inference_mode():
        inputs = normalise(images, meta["mean"], meta["std"], meta["nodata"])
        probabilities = model(inputs)[0].softmax(dim=0)
    known = tiles.labels[index].numpy() != tiles.ignore
    return suggest_points(probabilities, MORE, taken, where=known, seed=index)


def spaced(tiles, index, taken, model, meta):
    """Four random positions in a tile, apart from each other and from the first point."""
    known = tiles.labels[index].numpy() != tiles.ignore
    equal = torch.full((2, *known.shape), 0.5)  # a network that is equally unsure of all pixels
    return suggest_points(equal, MORE, taken, where=known, seed=index)


def balanced(tiles, index, taken, model, meta):
    """Four random positions in a tile, each of a class that is drawn among the tile's."""
    labels = tiles.labels[index].numpy().reshape(-1)
    random = np.random.default_rng((int(taken[0]), index))
    classes = np.unique(labels[labels != tiles.ignore])
    drawn = random.choice(classes, MORE)
    return np.array([random.choice(np.flatnonzero(labels == k)) for k in drawn])


WAYS = {"suggested": suggested, "spaced": spaced, "balanced": balanced}


def write_set(data, way, draw):
    """Write a copy of a prepared set whose training labels are five points per tile."""
    folder = ROOT / "data" / "clicked" / f"{data}-{way}-{draw}"
    if folder.exists():
        return
    checkpoint = ROOT / "runs" / "pretrained" / f"{data}-1-pretrained-draw{draw}" / "last.pt"
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint} is missing: run bench/pretrained.py first, with --only "
                         f"{data}-1-pretrained-draw{draw}")
    model, meta = load_model(checkpoint, torch.device("cpu"))
    images, labels, splits = [], [], []
    for split in ("train", "val", "test"):
        tiles = TileDataset(ROOT / "data" / data, split)
        images += list(tiles.images.numpy())
        splits += [split] * len(tiles)
        for index, truth in enumerate(tiles.labels.numpy()):
            if split == "train":
                taken = choose_points(truth, 1, draw, index)
                positions = [*taken, *WAYS[way](tiles, index, taken, model, meta)]
                clicked = np.full(truth.size, tiles.ignore, np.uint8)
                clicked[positions] = truth.reshape(-1)[positions]
                truth = clicked.reshape(truth.shape)
            labels.append(truth)
    classes = TileDataset(ROOT / "data" / data, "test").meta["classes"]
    folder.parent.mkdir(exist_ok=True)
    write_prepared(folder, images, labels, classes, splits)


def experiment_of(data, way):
    """The Experiment of a way to choose points; each draw has a data set of its own."""
    if way == "random":
        return experiment(data, 1 + MORE, PRETRAINED)
    flags = f"--data data/clicked/{data}-{way}-{{seed}} --points 0 {LITE} {EPOCHS[data]}"
    return Experiment(numbered(f"{data}-{way}", DRAWS, "draw"), f"{flags} --weights imagenet")


def set_table(data, rows):
    """The table of a set, a list of dict."""
    random = experiment_of(data, "random").runs
    table = []
    for way in ("random", *WAYS):
        runs = experiment_of(data, way).runs
        there = [rows[run] for run in runs if run in rows]
        if there:
            gains = paired_gains(runs, random, rows)
            table.append({
                "points": way,
                "mean IoU": mean_and_spread(scores_of(runs, rows)),
                "difference to random": difference(gains),
                "by draw": listed(gains),
                "IoU by class": mean_class_iou(there)})
    return table


def main(args):
    """Run what is missing, then write the table of all rows."""
    if not args.tables_only:
        experiments = [experiment_of(data, way) for data in args.sets for way in WAYS]
        for one in experiments:
            for draw, name in enumerate(one.runs):
                if name.startswith(tuple(args.only)):
                    write_set(*name.rsplit("-", 2)[:2], draw)
        run_missing(RESULTS / "suggest.csv", experiments, args)
    rows = all_rows()
    lines = [HEAD]
    for data in SETS:
        table = set_table(data, rows)
        if len(table) > 1:
            lines += [f"## {data}", "", *markdown(table), ""]
    write_report("suggest.md", lines)


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.set_defaults(sets=list(SETS))
    main(parser.parse_args())
