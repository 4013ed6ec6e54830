"""What each setting brings, judged on training sites that training does not see.

    python bench/tune.py --settings base plateau                two settings on the demo's folds
    python bench/tune.py --sets demo dubai --dubai FOLDER        FOLDER: Dubai as it was published

A fold judges on some training sites and trains on the others; the set's test sites are in none.
Settings differ from the base in the flags given, --variant is one of bench/variants.py. Scored
are the weights of the last step. Rows go to results/tune.csv, which makes tune.md. Rows
demo-1-free-* are of crops that lay anywhere: from one point per tile, half of them contained no
label.
"""

import itertools
import pathlib
import shutil

from experiments import (
    RESULTS, ROOT, Experiment, call, difference, experiment_parser, listed, markdown,
    mean_and_spread, paired_gains, read_rows, run_missing, scores_of, write_report)

BASE = {"demo": "--stem 2 --crop 96 --bs 8 --lr 3e-3 --epochs 20 --final last",
        "dubai": "--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 15 --loss ce+jaccard --jitter 0.2"
                 " --final last"}
BASE["dubai-full"] = BASE["dubai"]  # crops of 160 px are a quarter of the ground at full scale
PREPARE = {"demo": "demo --test-places place_11 place_12",
           "dubai": "dubai --scale 0.5 --tile 256 --pad-edges --min-labelled 20000 "
                    "--test-places 1+3 --src",
           "dubai-full": "dubai --tile 512 --pad-edges --min-labelled 80000 "
                         "--test-places 1+3 --src"}
FOLDS = {"demo": {"a": "place_01 place_02 place_03 place_04",
                  "b": "place_05 place_06 place_07 place_08"},
         "dubai": {"a": "2 6", "b": "2 5", "c": "2", "d": "4+7+8"},
         "dubai-full": {"d": "4+7+8"}}
FEW_TILES = "d"  # trains on a quarter of the tiles, four times as many epochs
LITE = "--stem 1 --class-weights none --encoder efficientnet_lite0"
SETTINGS = {  # flags beside the base; of a flag given twice the last counts; None as in Experiment
    "base": "",
    "30 epochs": "--epochs 30",
    "40 epochs": "--epochs 40",
    "batches of 4": "--bs 4",
    "crops of 64 px": "--crop 64",
    "crops of 64 px, 30 epochs": "--crop 64 --epochs 30",
    "crops of 64 px, 45 epochs": "--crop 64 --epochs 45",
    "crops of 64 px, batches of 4, 30 epochs": "--crop 64 --bs 4 --epochs 30",
    "crops of 96 px, 40 epochs": "--crop 96 --epochs 40",
    "crops of 208 px, 9 epochs": "--crop 208 --epochs 9",
    "full resolution": "--stem 1",
    "rate 1e-3": "--lr 1e-3",
    "rate 1e-2": "--lr 1e-2",
    "width 24": "--width 24",
    "depth 5": "--depth 5",
    "ResNet-18 U-Net, 45 epochs": "--model resunet --stem 1 --epochs 45",
    "weight decay 0.1": "--weight-decay 0.1",
    "plateau": "--schedule plateau",
    "fusion concat": "--fusion concat",
    "no jitter": "--jitter 0",
    "jitter 0.3": "--jitter 0.3",
    "jitter 0.3, rotation and zoom": "--jitter 0.3 --rotate 15 --zoom 1.3",
    "rotation and zoom": "--rotate 15 --zoom 1.3",
    "40 epochs, rotation and zoom": "--epochs 40 --rotate 15 --zoom 1.3",
    "zoom 2": "--zoom 2",
    "class weights sqrt": "--class-weights sqrt",
    "plain cross-entropy": "--loss ce",
    "Jaccard alone": "--loss jaccard",
    "focal and Jaccard": "--loss focal+jaccard",
    "cross-entropy and Dice": "--loss ce+dice",
    "average of weights 0.98": "--ema 0.98",
    "constant rate, average of weights 0.99": "--schedule constant --ema 0.99",
    "constant rate, average of weights 0.995": "--schedule constant --ema 0.995",
    "half of the points a step": None,
    "dropout": None,
    "scratch": f"{LITE} --lr 2e-3",
    "pretrained": f"{LITE} --weights imagenet --lr 2e-3",
    "pretrained, rate 1e-3": f"{LITE} --weights imagenet --lr 1e-3",
    "pretrained, rate 4e-3": f"{LITE} --weights imagenet --lr 4e-3",
    "pretrained, encoder 1": f"{LITE} --weights imagenet --lr 2e-3 --encoder-lr 1",
    "pretrained, encoder 0.1": f"{LITE} --weights imagenet --lr 2e-3 --encoder-lr 0.1",
    "pretrained, frozen encoder": f"{LITE} --weights imagenet --lr 2e-3 --encoder-lr 0",
    "pretrained, ResNet decoder": None,
    "pretrained, class weights": f"{LITE} --weights imagenet --lr 2e-3 --class-weights sqrt",
    "pretrained, 30 epochs": f"{LITE} --weights imagenet --lr 2e-3 --epochs 30",
    "pretrained, 120 epochs": f"{LITE} --weights imagenet --lr 2e-3 --epochs 120",
    "pretrained, crops of 224 px": f"{LITE} --weights imagenet --lr 2e-3 --crop 224",
    "pretrained, batch norm 0.01": f"{LITE} --weights imagenet --lr 2e-3 --variant slow",
    "pretrained, batch norm frozen": f"{LITE} --weights imagenet --lr 2e-3 --variant frozen",
    "pretrained, batch norm anew": f"{LITE} --weights imagenet --lr 2e-3 --variant anew",
    "pretrained, encoder waits": f"{LITE} --weights imagenet --lr 2e-3 --variant late",
}
HEAD = """Written by `python bench/tune.py` from tune.csv: on training sites that were held out.

Differences are in points of mean IoU to the base of the same fold and seed, with a 95 % t interval
and the p value of a paired t test over all runs. Folds are other sites, so an interval from two
runs is too wide to use: look at the differences by fold.
"""


def prepare(data, fold, source):
    """Prepare a fold of a set if it is missing, and return its folder.

    The sites judged on are the test split. They are the validation split too, which chooses
    nothing; fold d validates on every 20th of them, because they are many.
    """
    folder = pathlib.Path("data", "tune", f"{data}-{fold}")
    if not (ROOT / folder).exists():
        from data import TileDataset, write_prepared
        whole = ROOT / "data" / "tune" / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        call("prepare_data.py", *PREPARE[data].split(), *([source] if data != "demo" else []),
             "--val-places", *FOLDS[data][fold].split(), "--out", whole)
        train, judged = TileDataset(whole, "train"), TileDataset(whole, "val")
        step = 20 if fold == FEW_TILES else 1
        splits = {"train": (train, 1), "val": (judged, step), "test": (judged, 1)}
        images = [tile for tiles, each in splits.values() for tile in tiles.images.numpy()[::each]]
        labels = [tile for tiles, each in splits.values() for tile in tiles.labels.numpy()[::each]]
        names = [name for name, (tiles, each) in splits.items() for _ in range(0, len(tiles), each)]
        write_prepared(ROOT / folder, images, labels, train.meta["classes"], names)
        shutil.rmtree(whole)
    return folder


def experiment(data, points, setting, fold, seeds=3):
    """The runs of a setting on a fold."""
    name = f"{data}-{points}-{setting.replace(',', '').replace(' ', '-')}-{fold}"
    runs = tuple(f"{name}-seed{seed}" if seed else name for seed in range(seeds))
    more = SETTINGS[setting]
    if more is None:
        return Experiment(runs, None)
    epochs = "--epochs 60" if fold == FEW_TILES else ""
    script = "bench/variants.py" if "--variant" in more else "train.py"
    return Experiment(runs, f"--data data/tune/{data}-{fold} {BASE[data]} {epochs} {more} "
                            f"--points {points}", script)


def tune_table(rows):
    """The table of all settings that have a row."""
    table = []
    for data, points, setting in itertools.product(FOLDS, (1, 20, 0), SETTINGS):
        scores, gains = {}, {}
        for fold in FOLDS[data]:
            runs = experiment(data, points, setting, fold).runs
            scores[fold] = scores_of(runs, rows)
            gains[fold] = paired_gains(runs, experiment(data, points, "base", fold).runs, rows)
        if any(scores.values()):
            table.append({
                "set": data,
                "points per tile": points or "all",
                "setting": setting,
                "mean IoU by fold": by_fold(scores, mean_and_spread),
                "difference to base": difference(sum(gains.values(), [])),
                "by fold and seed": by_fold(gains, listed)})
    return table


def report_lines():
    """The lines of tune.md."""
    return [HEAD, *markdown(tune_table(read_rows(RESULTS / "tune.csv")))]


def by_fold(values, text):
    """The text of each fold's values, where it has any."""
    return ", ".join(f"{fold}: {text(part)}" for fold, part in values.items() if part)


def main(args):
    """Run what is missing, then write the table of all rows."""
    for data in args.sets if not args.tables_only else ():
        folds = [fold for fold in FOLDS[data] if fold in args.folds]
        for fold in folds:
            prepare(data, fold, args.dubai)
        run_missing(RESULTS / "tune.csv", [
            experiment(data, points, setting, fold, args.seeds) for points in args.points
            for setting in args.settings for fold in folds], args)
    write_report("tune.md", report_lines())


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.add_argument("--dubai", metavar="FOLDER", help="Dubai's images as they were published")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS, help="which")
    parser.add_argument("--points", type=int, nargs="+", default=[1, 20], help="per tile; 0: all")
    parser.add_argument("--folds", nargs="+", default=["a", "b"], help="which")
    parser.add_argument("--seeds", type=int, default=1, help="runs of a setting on a fold")
    main(parser.parse_args())
