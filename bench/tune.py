"""What each step of tuning partial cross-entropy brings, judged on training places that training does not see.

    python bench/tune.py --dubai FOLDER --jobs 2        FOLDER holds the images of Dubai as they were published
    python bench/tune.py --points 1 20 --only base plateau  some numbers of points a tile, some settings

Folds of Dubai: train on places 4, 5, 7, 8, judge on 2 and 6; train on 4, 6, 7, 8, judge on 2 and 5; and if they are asked for,
c: train on 4 to 8, judge on 2; d: train on 2, 5, 6, a quarter of the tiles for four times the epochs, judge on 4, 7, 8, which are
288 tiles with little sea. Places 1 and 3 are never looked at. Half of 5 and 6 is sea, and their scores follow how much of the
shallows a seed takes for vegetation; so results/tune_places.csv has the places one by one. Folds of the demo: judge on places 1
to 4, or 5 to 8; train on the others but 11 and 12. Each setting differs from `base` in the flags given. Judged are the weights
of the last step. Rows go to results/tune.csv; what is there is skipped.
Rows named demo-1-free-* are of crops that lay anywhere: with one point a tile, half of them held no label.
"""

import argparse
import itertools
import json
import pathlib
import shlex
import statistics
import subprocess
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # before bench: scenes.py is the project's

from run_table import (
    ROOT,
    append,
    cell_of,
    commit,
    difference,
    read_rows,
    run_missing,
    scores_in_pairs,
)

from data import TileDataset
from engine.checkpoint import load_model
from evaluate import evaluate
from metrics import ConfusionMatrix
from report.stats import EvalStats, tile_places

TABLE = ROOT / "results" / "tune.csv"
PLACES = ROOT / "results" / "tune_places.csv"
BASE = {"dubai": "--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 15 --loss ce+jaccard --jitter 0.2 --final last".split(),
        "demo": "--stem 2 --crop 96 --bs 8 --lr 3e-3 --epochs 20 --final last".split()}
FOLDS = {"dubai": {"a": ["2", "6"], "b": ["2", "5"], "c": ["2"], "d": ["4+7+8"]},
         "demo": {"a": [f"place_0{place}" for place in (1, 2, 3, 4)], "b": [f"place_0{place}" for place in (5, 6, 7, 8)]}}
LONGER = {"d": ["--epochs", "60"]}  # about as many steps on few tiles
TEST = {"dubai": ["1+3"], "demo": ["place_11", "place_12"]}  # left out of every fold
SETTINGS = {  # what differs from the base; of a flag given twice the last counts
    "base": [], "30 epochs": ["--epochs", "30"], "40 epochs": ["--epochs", "40"], "45 epochs": ["--epochs", "45"],
    "batches of 4": ["--bs", "4"],
    "batches of 4, 30 epochs": ["--bs", "4", "--epochs", "30"], "crops of 64 px": ["--crop", "64"],
    "crops of 64 px, 30 epochs": ["--crop", "64", "--epochs", "30"], "crops of 64 px, 45 epochs": ["--crop", "64", "--epochs", "45"],
    "crops of 64 px, batches of 4, 30 epochs": ["--crop", "64", "--bs", "4", "--epochs", "30"],
    "crops of 96 px, 40 epochs": ["--crop", "96", "--epochs", "40"],
    "crops of 208 px, 9 epochs": ["--crop", "208", "--epochs", "9"], "whole tiles": ["--crop", "0", "--shift", "0"],
    "full resolution": ["--stem", "1"], "rate 1e-3": ["--lr", "1e-3"], "rate 1e-2": ["--lr", "1e-2"],
    "width 24": ["--width", "24"], "depth 5": ["--depth", "5"],
    "ResNet-18 U-Net, 45 epochs": ["--model", "resunet", "--stem", "1", "--epochs", "45"],
    "weight decay 0.1": ["--weight-decay", "0.1"], "plateau": ["--schedule", "plateau"], "fusion concat": ["--fusion", "concat"],
    "no jitter": ["--jitter", "0"], "jitter 0.3": ["--jitter", "0.3"],
    "jitter 0.3, rotation and zoom": ["--jitter", "0.3", "--rotate", "15", "--zoom", "1.3"], "dropout": ["--dropout", "0.2"],
    "rotation and zoom": ["--rotate", "15", "--zoom", "1.3"],
    "40 epochs, rotation and zoom": ["--epochs", "40", "--rotate", "15", "--zoom", "1.3"], "zoom 2": ["--zoom", "2"],
    "class weights sqrt": ["--class-weights", "sqrt"], "class weights inverse": ["--class-weights", "inverse"],
    "plain cross-entropy": ["--loss", "ce"], "Jaccard alone": ["--loss", "jaccard"],
    "focal and Jaccard": ["--loss", "focal+jaccard"], "cross-entropy and Dice": ["--loss", "ce+dice"],
    "average of weights 0.98": ["--ema", "0.98"], "average of weights 0.99": ["--ema", "0.99"],
    "constant rate, average of weights 0.99": ["--schedule", "constant", "--ema", "0.99"],
    "constant rate, average of weights 0.995": ["--schedule", "constant", "--ema", "0.995"],
    "half of the points a step": ["--points-share", "0.5"], "superpixels": ["--superpixels", "8"],
    "superpixels, class weights": ["--superpixels", "8", "--class-weights", "sqrt"]}
POINTS = (1, 5, 20, 0)  # a tile; 0: every label
SEEDS = 3  # of a run at most
SAME = {"demo": ("plain cross-entropy",), "dubai": ()}  # as the base


def prepare(name, source, fold, places):
    """Prepare a fold of Dubai or the demo, if it is missing; returns its folder.

    The places judged on are its test split, and its validation split too, which chooses nothing; of fold d a twentieth of them, for
    they are looked at after every epoch. The set's own test places are not in it at all.
    """
    folder = pathlib.Path("data", "tune", f"{name}-{fold}")
    if not (ROOT / folder).exists():
        kind = ["dubai", "--src", source, "--scale", "0.5", "--tile", "256", "--min-labelled", "20000"] if source else ["demo"]
        subprocess.run([sys.executable, "prepare_data.py", *kind, "--val-places", *places,
                        "--test-places", *TEST[name], "--out", folder], cwd=ROOT, check=True)
        step = 20 if fold in LONGER else 1
        for kind in ("images", "labels"):
            judged = np.load(ROOT / folder / f"val_{kind}.npy")
            np.save(ROOT / folder / f"test_{kind}.npy", judged)
            np.save(ROOT / folder / f"val_{kind}.npy", judged[::step])
        meta = json.loads((ROOT / folder / "dataset.json").read_text(encoding="utf-8"))
        meta["tiles"] |= {"test": len(judged), "val": len(judged[::step])}
        meta["pixels"] |= {"test": meta["pixels"]["val"],
                            "val": np.bincount(judged[::step].ravel(), minlength=256)[:len(meta["classes"])].tolist()}
        (ROOT / folder / "dataset.json").write_text(json.dumps(meta), encoding="utf-8")
        header, *rows = (ROOT / folder / "tiles.csv").read_text(encoding="utf-8").splitlines()
        tiles = [line.split(",", 2)[2] for line in rows if line.startswith("val,")]  # scene,row,col
        rows = [line for line in rows if line.startswith("train,")]
        rows += [f"{split},{index},{tile}" for split, kept in (("val", tiles[::step]), ("test", tiles))
                 for index, tile in enumerate(kept)]
        (ROOT / folder / "tiles.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def names_of(name, points, setting, fold, seeds):
    """The names of a setting's runs on a fold, a seed each: the keys of the table's rows."""
    first = f"{name}-{points}-{setting.replace(',', '').replace(' ', '-')}-{fold}"
    return [f"{first}-seed{seed}" if seed else first for seed in range(seeds)]


def score_places(runs, rows, folder, command):
    """Score the runs of a fold whose weights are on this machine on each of its places; rows go to results/tune_places.csv.

    Args:
        runs: their names; rows: of TABLE; folder: of the prepared fold. A run that is not its row's, an older one say, is left out.
        command: what was typed, for the rows.
    """
    there, meta = read_rows(PLACES), json.loads((ROOT / folder / "dataset.json").read_text(encoding="utf-8"))
    tiles, device = TileDataset(ROOT / folder, "test"), torch.device("cpu")
    places = [meta["places"][scene] for scene, _, _ in tile_places(ROOT / folder, "test", len(tiles))]
    names, numbers = np.unique(places, return_inverse=True)
    for run in runs:
        weights = ROOT / "runs" / "tune" / run / "last.pt"
        if run not in rows or not weights.exists() or f"{run} on {names[0]}" in there:
            continue
        model, model_facts = load_model(weights, device)
        tally = EvalStats(len(meta["classes"]), numbers)
        if cell_of(float(evaluate(model, tiles, model_facts, device, tally=tally)[0].miou())) != rows[run]["miou"]:
            continue
        for place, counts in zip(names, tally.counts):
            matrix = ConfusionMatrix(len(counts), counts=counts)
            class_iou = {entry["name"]: round(value, 4) for entry, value in zip(meta["classes"], matrix.iou().tolist())}
            append(PLACES, {"name": f"{run} on {place}", "miou": float(matrix.miou()), "class_iou": json.dumps(class_iou),
                            "scored_on": rows[run]["scored_on"], "commit": commit(), "command": command})


def table_lines(rows):
    """All that has a row, in Markdown; a gain is paired, fold by fold and seed by seed, over the base from the same points."""
    lines = ["| set | points a tile | setting | mean IoU, a fold each | runs | gain over base, points of mean IoU | s a run |",
             "|---|---|---|---|---|---|---|"]
    for name, points, setting in itertools.product(FOLDS, POINTS, SETTINGS):
        folds = [names_of(name, points, setting, fold, SEEDS) for fold in FOLDS[name]]
        there = [[rows[run] for run in runs if run in rows] for runs in folds]
        runs = sum(there, [])
        if runs:
            base = [names_of(name, points, "base", fold, SEEDS) for fold in FOLDS[name]]
            gain = difference(scores_in_pairs(list(zip(sum(folds, []), sum(base, []))), rows)) if setting != "base" else ""
            means = " ".join(f"{fold} {statistics.mean(float(row['miou']) for row in rows_of_fold):.3f}"
                             for fold, rows_of_fold in zip(FOLDS[name], there) if rows_of_fold)
            lines.append(f"| {name} | {points or 'all'} | {setting} | {means} | {len(runs)} | {gain} | "
                         f"{statistics.mean(float(row['train_s']) for row in runs):.0f} |")
    return lines


def place_lines(rows):
    """Dubai's place 2, which every fold judges on, alone: a line a setting that was tried from every label, in Markdown."""
    lines = ["", "Dubai's place 2 alone, every label; a gain is paired, fold by fold and seed by seed:", "",
             "| setting | mean IoU on place 2, a fold each | runs | gain over base, points of mean IoU |", "|---|---|---|---|"]
    for setting in SETTINGS:
        folds, base = ([[f"{run} on 2" for run in names_of("dubai", 0, which, fold, SEEDS)] for fold in FOLDS["dubai"]]
                       for which in (setting, "base"))
        there = [[float(rows[run]["miou"]) for run in runs if run in rows] for runs in folds]
        if any(there):
            gain = difference(scores_in_pairs(list(zip(sum(folds, []), sum(base, []))), rows)) if setting != "base" else ""
            means = " ".join(f"{fold} {statistics.mean(scores):.3f}" for fold, scores in zip(FOLDS["dubai"], there) if scores)
            lines.append(f"| {setting} | {means} | {sum(map(len, there))} | {gain} |")
    return lines


def main(args):
    """Run what is missing, then print and write the table of all that was ever run."""
    sources = ({} if args.no_demo else {"demo": None}) | ({"dubai": args.dubai} if args.dubai else {})
    for (name, source), points in itertools.product(sources.items(), args.points):
        starts = tuple(start for start in args.only if start not in SETTINGS)
        settings = [setting for setting in SETTINGS
                    if (setting in args.only or setting.startswith(starts)) and setting not in SAME[name]]
        if settings:
            folders = {fold: prepare(name, source, fold, places) for fold, places in FOLDS[name].items() if fold in args.folds}
            run_missing(TABLE, [(run, ["--data", folder, *BASE[name], *LONGER.get(fold, []), *SETTINGS[setting],
                                       "--points", points, "--seed", seed])
                                for setting in settings for fold, folder in folders.items()
                                for seed, run in enumerate(names_of(name, points, setting, fold, args.seeds))],
                        ROOT / "runs" / "tune", args.jobs)
            for fold, folder in folders.items() if name == "dubai" else ():
                score_places([run for setting in settings for run in names_of(name, points, setting, fold, args.seeds)],
                             read_rows(TABLE), folder, shlex.join(["python", *sys.argv]).replace(source, "FOLDER"))
    text = "\n".join(table_lines(read_rows(TABLE)) + place_lines(read_rows(PLACES))) + "\n"
    TABLE.with_suffix(".md").write_text("Written by `python bench/tune.py` from tune.csv: on training places that were held out.\n\n"
                                        + text, encoding="utf-8")
    print(text)


def parse_args(argv=None):
    """The command line; `python bench/tune.py --help` shows it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dubai", help="the published folder; not given: the demo only")
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 20], choices=POINTS, help="a tile; 0: every label")
    parser.add_argument("--only", nargs="+", default=[""], metavar="SETTING", help="these, or where there is none of a name those "
                        "that start so; a start that no name has writes the table alone")
    parser.add_argument("--folds", nargs="+", default=["a", "b"], choices=("a", "b", "c", "d"), help="which")
    parser.add_argument("--seeds", type=int, default=1, choices=range(1, SEEDS + 1), help="runs of a setting on a fold")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other, of one thread each")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
