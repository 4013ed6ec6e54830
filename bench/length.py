"""How many steps few labelled tiles need: the same set trained for 60 to 960 steps of 4 tiles.

    python bench/length.py --jobs 2                    the demo, made if it is missing
    python bench/length.py --sets demo dubai           and one image of Dubai, prepared as below
    python bench/length.py --tables-only               the table from the rows there are

Rows go to results/length.csv. The demo is cut down to 1, 3 and 12 training tiles, Dubai to the 12
of one image, with 20 points per tile. Networks are those of --stem 2, a quarter of the cost, and on
12 tiles of the demo the default one, too. The whole test split is scored with the weights of the
last step. engine/length.py chooses the default length from this.

    python prepare_data.py dubai --src FOLDER --out data/dubai-quarter --scale 0.25 --tile 128 \
        --pad-edges --min-labelled 5000
"""

import csv
import sys

import numpy as np
from experiments import (
    RESULTS, ROOT, Experiment, experiment_parser, make_demo, mean_and_spread, numbered, read_rows,
    run_missing, scores_of)

import train
from data import write_prepared
from engine.length import EPOCHS, SMALL_BATCH
from engine.prepared import load_meta

TILES = {"demo": (1, 3, 12), "dubai": (12,)}
FOLDERS = {"demo": "data/demo", "dubai": "data/dubai-quarter"}
FIRST_SCENE = {"demo": "", "dubai": "8_image_part_001"}  # where a set's first training tiles lie
VALIDATION = 4  # tiles: they choose nothing here
STEPS = (60, 240, 960)
FULL_STEPS = (240, 960)  # of the default network, on 12 tiles of the demo


def cut_down(name, count):
    """Write data/length/NAME-COUNT, a set with its first `count` training tiles, unless it exists.

    Returns:
        its folder, relative to the project's.
    """
    out = f"data/length/{name}-{count}"
    if (ROOT / out).exists():
        return out
    folder = ROOT / FOLDERS[name]
    meta = load_meta(folder)
    with open(folder / "tiles.csv", newline="", encoding="utf-8") as file:
        scenes = [row["scene"] for row in csv.DictReader(file) if row["split"] == "train"]
    first = scenes.index(FIRST_SCENE[name]) if FIRST_SCENE[name] else 0
    chosen = {"train": slice(first, first + count), "val": slice(VALIDATION), "test": slice(None)}
    parts = {"images": [], "labels": []}
    splits = []
    for split, places in chosen.items():
        for kind, arrays in parts.items():
            arrays.append(np.load(folder / f"{split}_{kind}.npy")[places])
        splits += [split] * len(arrays[-1])
    images, labels = (np.concatenate(arrays) for arrays in parts.values())
    (ROOT / out).parent.mkdir(exist_ok=True)
    write_prepared(ROOT / out, images, labels, meta["classes"], splits)
    return out


def experiments_of(name, seeds=2):
    """{title: Experiment} of a set, the short ones first."""
    cases = [(count, steps, "--stem 2") for steps in STEPS for count in TILES[name]]
    if name == "demo":
        cases += [(12, steps, "--stem 1") for steps in FULL_STEPS]
    experiments = {}
    for count, steps, network in cases:
        passes = steps * SMALL_BATCH // (EPOCHS * count)
        title = f"{name}-{count}-tiles-{steps}-steps"
        if network == "--stem 1":
            title += "-full"
        flags = (f"--passes {passes} --data data/length/{name}-{count} --points 20 {network} "
                 "--final last")
        experiments[title] = Experiment(numbered(title, seeds), flags, "bench/length.py")
    return experiments


def train_with_passes(passes, words):
    """Train as train.py does with `words`, but with so many passes over the tiles per epoch."""
    args = train.parse_args(words)
    args.passes = passes
    train.main(args)


def main(args):
    """Train what is missing, then print mean IoU by tiles and steps."""
    table = RESULTS / "length.csv"
    if not args.tables_only:
        make_demo(args)
        for name in args.sets:
            for count in TILES[name]:
                cut_down(name, count)
        every = [one for name in args.sets for one in experiments_of(name).values()]
        run_missing(table, every, args)
    rows = read_rows(table)
    for name in args.sets:
        for title, one in experiments_of(name).items():
            print(f"{title}: mean IoU {mean_and_spread(scores_of(one.runs, rows))}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--passes"]:
        train_with_passes(int(sys.argv[2]), sys.argv[3:])
    else:
        main(experiment_parser(__doc__).parse_args())
