"""Encoders that start from ImageNet against the plain U-Net, from few points and every label.

    python bench/pretrained.py --source FOLDER                       all sets
    python bench/pretrained.py --sets dubai dunes-a --only dunes-a-1-    some of the runs
    python bench/pretrained.py --tables-only                         the table from the rows

FOLDER has a subfolder of images per set, as they were published:

dubai   Tile 1 to Tile 8 (Humans in the Loop, MBRSC)
dunes   images, masks: 608 px tiles xCCCCC_yRRRRR of an orthomosaic of Monterey's dunes, named by
        their offsets, with the ids of DUNES from 1 on, 255 no label
        (github.com/dbuscombe-usgs/UNetSegmentation_RGB_DEM)
obx     images, masks: coastal photographs named by their date, with the ids of OBX, 255 no label
        (github.com/dbuscombe-usgs/Semantic-Segmentation-with-Sparse-Labels)
roads   images, groundtruth: the EPFL road segmentation set

Rows go to results/pretrained.csv. The plain U-Net and the pixel classifier of dubai and roads are
those of points.csv. One seed is one draw of points for every network. The test split is scored
once, with the weights of the last step. From points, the pretrained network has class weights, as
by default. All of it makes results/pretrained.md, README's table, docs/few-labels.png and, where
the run of SHOWN lies in runs/pretrained, docs/dubai.png.
"""

import bisect
import csv
import math
import pathlib
import shutil
import statistics

import numpy as np
from experiments import (
    RESULTS, ROOT, Experiment, call, difference, experiment_parser, listed, markdown,
    mean_and_spread, numbered, paired_gains, read_rows, run_missing, scores_of,
    write_report)
from PIL import Image
from points import BASE, FULL, PIXELS, RECIPES, class_means, shares
from points import experiment as experiment_of_points

from report.curves import curves
from report.figures import save_png
from report.layout import PAPER, page

PLAIN, SCRATCH, PRETRAINED = "plain U-Net", "the pretrained network from scratch", "pretrained"
BARE = "pretrained, no class weights"
LITE = ("--bs 8 --lr 2e-3 --loss ce+jaccard --jitter 0.2 --final last --class-weights none "
        "--encoder efficientnet_lite0")
EPOCHS = {"dubai": "--crop 160 --epochs 10", "dunes-a": "--epochs 16", "dunes-b": "--epochs 16",
          "obx": "--crop 160 --epochs 10", "roads": "--crop 160 --epochs 16"}
# The plain U-Net has twice the epochs. On dubai it has 40 and on roads 20, as in points.py.
STEM = "--stem 2 --bs 8 --lr 3e-3 --loss ce+jaccard --jitter 0.2 --final last"
PLAIN_RECIPES = {"dunes-a": f"{STEM} --epochs 32", "dunes-b": f"{STEM} --epochs 32",
                 "obx": f"{STEM} --crop 160 --epochs 20"}
POINTS = (1, 20, 0, 5)  # per tile, 0 is every label; in the order in which they are trained
WEIGHTS, PLAIN_WEIGHTS = "class weights", "plain U-Net, class weights"
TECHNIQUES = {  # {bare}, {plain}: the flags of BARE and PLAIN; {twice}: twice the epochs of BARE
    WEIGHTS: "{bare} --class-weights sqrt",
    "superpixels": None,  # None: its flag left the project, or another line replaced it
    "superpixels, class weights": None,
    "teacher": None,
    "twice the epochs": None,
    "twice the epochs, class weights": "{bare} --epochs {twice} --class-weights sqrt",
    "every default": None,
    PLAIN_WEIGHTS: "{plain} --class-weights sqrt"}
CHOSEN = ("suggested", "spaced", "balanced")  # rows of suggest.csv, whose script left the project
JUDGED = ("dubai", "dunes-a", "roads")  # sets on which all techniques are judged

DUNES = {  # the classes in the files, with ids from 1, and the classes that they are merged to
    "water": "water", "marsh": "water", "ag": "other", "beach": "sand", "foredune": "sand",
    "dense_dune": "dense dune", "sparse_dune": "sparse dune", "bare_dune": "sand",
    "iceplant": "iceplant", "pavement_path": "pavement", "other": "other"}
COLOURS = {"water": (60, 110, 200), "sand": (250, 235, 190), "dense dune": (50, 110, 50),
           "sparse dune": (150, 190, 100), "iceplant": (170, 60, 80), "pavement": (90, 90, 90),
           "other": (150, 110, 190)}
BLOCKS = (20.5, 37.5, 56.5)  # cuts between four blocks, in rows of tiles from the north
TRAINING_BLOCKS = {"dunes-a": (0, 3), "dunes-b": (1, 2)}  # the others test
OBX = ("deep water", "shallow water, surf or wet sand", "land")
FLIGHTS = {"2018-10": "train", "2020-02": "val", "2020-05": "test"}
# Mean IoU on the test split of the commonest training class everywhere
ONE_CLASS = {"dubai": 0.112, "dunes-a": 0.005, "dunes-b": 0.012, "obx": 0.184, "roads": 0.390}
SHOWN = "dubai-20-pretrained-class-weights-draw0"  # the run whose maps stand in docs/results.md
SHOWN_TILES = 4
DUBAI_COLOURS = [(200, 60, 50), (225, 205, 165), (95, 95, 105), (70, 140, 60), (50, 110, 200)]
README_COLUMNS = {"ImageNet weights": PRETRAINED, "U-Net from scratch": PLAIN,
                  "pixel classifier": PIXELS}
README_LABELS = {0: "every label", 20: "20 points per tile", 1: "1 point per tile"}
PANELS = {"dubai": "Dubai", "dunes-a": "dunes", "dunes-b": "dunes, other fold", "roads": "roads",
          "obx": "coast"}
HEAD = """Written by `python bench/pretrained.py` from pretrained.csv, points.csv and baseline.csv.

Mean ± standard deviation over draws (seeds). "Of every label" is the share of the same network's
mean IoU with every label. "Distance covered" is the share of the way from the floor to there. The
floor is the better of the pixel classifier on the same points and the commonest class everywhere.
Differences are in points of mean IoU to the plain U-Net, paired by draw, with a 95 % t interval and
the p value of a paired t test. Intervals of few draws are wide: read the draws too. From points,
"pretrained" has class weights, as by default, the plain U-Net and the network from scratch do not.

Techniques are compared with the pretrained network without class weights, and with the plain U-Net.

Choices of points begin with one random point per tile, and add four. Suggested: drawn where the
network from the first points was unsure, 16 px apart. Spaced: at random, 16 px apart. Balanced: at
random, each of a class drawn among those that the tile holds. Their rows are in suggest.csv, made
by `bench/suggest.py` at their commits. They are without class weights, and compared with five
random points without.
"""


def prepare(data, source):
    """Prepare a set from its published images, if it is missing."""
    folder = ROOT / "data" / data
    if folder.exists():
        return
    if source is None:
        raise ValueError(f"{folder} is missing: give --source FOLDER, with the published images")
    source = pathlib.Path(source)
    if data == "dubai":
        call("prepare_data.py", "dubai", "--src", source / "dubai", "--out", folder, "--scale", 0.5,
             "--tile", 256, "--pad-edges", "--min-labelled", 20000)
    elif data == "roads":
        classes = [(0, "background", 190, 190, 190), (255, "road", 230, 60, 40)]
        prepare_folder(folder, source / "roads", "groundtruth", classes, {}, "--threshold", 127,
                       "--tile", 200)
    elif data == "obx":
        names = [path.stem for path in sorted((source / "obx" / "images").iterdir())]
        splits = {name: FLIGHTS[name[:7]] for name in names if name[:7] in FLIGHTS}
        classes = [(index, name, "", "", "") for index, name in enumerate(OBX)]
        prepare_folder(folder, source / "obx", "masks", classes, splits, "--scale", 0.5,
                       "--pad-edges")
    else:
        prepare_dunes(data, source / "dunes")


def prepare_folder(out, source, masks, classes, splits, *flags):
    """Prepare a folder of images and masks.

    Args:
        out: folder to write.
        source: folder with the subfolders images and `masks`.
        classes: rows id, name, r, g, b.
        splits: {scene: split}; {} draws them.
        flags: of prepare_data.py.
    """
    made = ROOT / "data" / "lists"
    made.mkdir(parents=True, exist_ok=True)
    write_csv(made / "classes.csv", ["id", "name", "r", "g", "b"], classes)
    if splits:
        write_csv(made / "splits.csv", ["scene", "split"], splits.items())
        flags = [*flags, "--split-list", made / "splits.csv"]
    call("prepare_data.py", "folder", "--images", source / "images", "--masks", source / masks,
         "--classes", made / "classes.csv", "--out", out, *flags)
    shutil.rmtree(made)


def write_csv(path, header, rows):
    """Write a CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def dunes_splits(data, names):
    """The split of each tile of the dunes' mosaic: {name: split}.

    Whole blocks are held out. Tiles that touch a cut between blocks are left out. Every twelfth
    training tile validates.
    """
    splits = {}
    for name in sorted(names):
        row = int(name.split("_y")[1]) // 608
        if min(abs(row - cut) for cut in BLOCKS) < 1:
            continue
        splits[name] = "train" if bisect.bisect(BLOCKS, row) in TRAINING_BLOCKS[data] else "test"
    learning = [name for name, split in splits.items() if split == "train"]
    return splits | dict.fromkeys(learning[::12], "val")


def prepare_dunes(data, source):
    """Prepare a fold of the dunes, with the eleven classes of the files merged to seven."""
    from data import TileDataset, write_prepared
    splits = dunes_splits(data, [path.stem for path in (source / "images").iterdir()])
    classes = [(index, name, "", "", "") for index, name in enumerate(DUNES, 1)]
    whole = ROOT / "data" / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    prepare_folder(whole, source, "masks", classes, splits, "--scale", 0.5, "--tile", 152,
                   "--min-labelled", 2000)
    merged = np.full(256, 255, np.uint8)
    merged[:len(DUNES)] = [list(COLOURS).index(name) for name in DUNES.values()]
    images, labels, names = [], [], []
    for split in ("train", "val", "test"):
        tiles = TileDataset(whole, split)
        images += list(tiles.images.numpy())
        labels += list(merged[tiles.labels.numpy()])
        names += [split] * len(tiles)
    colours = [{"name": name, "colour": list(colour)} for name, colour in COLOURS.items()]
    write_prepared(ROOT / "data" / data, images, labels, colours, names)
    shutil.rmtree(whole)


def experiment(data, points, network):
    """The Experiment of a network or of the pixel classifier, from so many points per tile.

    With every label PRETRAINED and BARE are the same.
    """
    if data in RECIPES and network in (PLAIN, PIXELS):  # rows of points.csv
        method = {PIXELS: PIXELS, PLAIN: BASE if points else FULL}[network]
        return Experiment(experiment_of_points(data, points, "", method).runs, None)
    weighed = network == PRETRAINED and points > 0
    words = {PLAIN: "plain", SCRATCH: "scratch", BARE: "pretrained", PIXELS: "pixels",
             PRETRAINED: "pretrained-class-weights" if weighed else "pretrained"}
    runs = runs_of(data, points, words[network])
    flags = f"--data data/{data} --points {points} "
    if network in (PLAIN, PIXELS):
        flags += PLAIN_RECIPES[data]
    else:
        flags += f"{LITE} {EPOCHS[data]}"
    if network in (PRETRAINED, BARE):
        flags += " --weights imagenet"
    if weighed:
        flags += " --class-weights sqrt"
    return Experiment(runs, flags, "bench/pixel_classifier.py" if network == PIXELS else "train.py")


def runs_of(data, points, words):
    """Names of the runs: five draws of few points, else three."""
    return numbered(f"{data}-{points or 'all'}-{words}", 5 if points in (1, 5) else 3, "draw")


def technique(data, points, name):
    """The Experiment of one of TECHNIQUES."""
    words = "plain class weights" if name == PLAIN_WEIGHTS else f"pretrained {name}"
    words = words.replace(",", "").replace(" ", "-")
    flags = TECHNIQUES[name]
    if flags is not None:
        flags = flags.format(bare=experiment(data, points, BARE).flags,
                             plain=experiment(data, points, PLAIN).flags,
                             twice=2 * int(EPOCHS[data].split()[-1]))
    return Experiment(runs_of(data, points, words), flags)


def experiments_of(data):
    """The experiments of a set's main comparison, {(points, network): Experiment}."""
    lines = [(points, network) for points in POINTS for network in (PRETRAINED, PLAIN, PIXELS, BARE)
             if points or network in (PRETRAINED, PLAIN)]
    lines += [(points, SCRATCH) for points in (0, 1)]
    return {line: experiment(data, *line) for line in lines}


def techniques_of(data):
    """The experiments on techniques, {(points, name): Experiment}."""
    lines = [(0, WEIGHTS)]  # those from points are PRETRAINED
    if data in JUDGED:
        lines += [(points, name) for points in (1, 5) for name in TECHNIQUES
                  if name != WEIGHTS and (name != PLAIN_WEIGHTS or data in PLAIN_RECIPES)]
    return {line: technique(data, *line) for line in lines}


def floor_of(data, points, experiments, rows):
    """The better floor's mean IoU, as a list of one; [] for every label or without rows."""
    if not points:
        return []
    pixels = scores_of(experiments[points, PIXELS].runs, rows)
    return [max(statistics.mean(pixels), ONE_CLASS[data])] if pixels else []


def set_table(data, rows):
    """The table of a set, a list of dict."""
    experiments = experiments_of(data)
    table = []
    for (points, network), one in sorted(experiments.items(), key=lambda item: item[0][0] or 999):
        there = [rows[name] for name in one.runs if name in rows]
        if not there:
            continue
        gains = []
        if network in (PRETRAINED, BARE, SCRATCH):
            gains = paired_gains(one.runs, experiments[points, PLAIN].runs, rows)
        full = experiments[0, {PIXELS: PLAIN, BARE: PRETRAINED}.get(network, network)]
        share, distance = shares(scores_of(one.runs, rows), scores_of(full.runs, rows),
                                 floor_of(data, points, experiments, rows))
        table.append({
            "points per tile": points or "all",
            "network": network,
            "labelled px": f"{int(there[0]['labelled_pixels']):,}",
            "mean IoU": mean_and_spread(scores_of(one.runs, rows)),
            "of every label": share if points else "",
            "distance covered": distance if network != PIXELS else "",
            "difference to plain": difference(gains),
            "by draw": listed(gains),
            "IoU by class": class_means(there)})
    return table


def readme_table(rows):
    """The table of README: the networks and the floor on all sets, a list of dict."""
    table = []
    for data, title in PANELS.items():
        experiments = experiments_of(data)
        for points, labels in README_LABELS.items():
            there = [rows[run] for run in experiments[points, PRETRAINED].runs if run in rows]
            if not there:
                continue
            clicks = f"{int(there[0]['labelled_pixels']):,}"
            line = {"set, labels": f"{title}, {labels}",
                    "clicks in all": clicks if points else f"{clicks} px"}
            for column, network in README_COLUMNS.items():
                one = experiments.get((points, network))  # the classifier has points alone
                line[column] = mean_and_spread(scores_of(one.runs, rows) if one else [])
            table.append(line)
    return table


def write_readme(lines):
    """Put the lines of a table in the place of README's table with the same header."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    start = text.index(lines[0])
    end = text.index("\n\n", start)
    path.write_text(text[:start] + "\n".join(lines) + text[end:], encoding="utf-8")


def technique_table(data, rows):
    """The table of the techniques on a set, a list of dict."""
    experiments = {(points, WEIGHTS): experiment(data, points, PRETRAINED)
                   for points in POINTS if points}
    table = []
    for (points, name), one in sorted((experiments | techniques_of(data)).items(),
                                      key=lambda item: item[0][0] or 999):
        there = [rows[run] for run in one.runs if run in rows]
        if there:
            gains = paired_gains(one.runs, experiment(data, points, BARE).runs, rows)
            to_plain = paired_gains(one.runs, experiment(data, points, PLAIN).runs, rows)
            table.append({
                "points per tile": points or "all",
                "technique": name,
                "mean IoU": mean_and_spread(scores_of(one.runs, rows)),
                "difference to no class weights": difference(gains),
                "by draw": listed(gains),
                "difference to plain": difference(to_plain),
                "IoU by class": class_means(there)})
    return table


def choice_table(data, rows):
    """The table of the ways to choose five points per tile of a set, a list of dict."""
    table = []
    for way in CHOSEN:
        runs = numbered(f"{data}-{way}", word="draw")
        there = [rows[run] for run in runs if run in rows]
        if there:
            gains = paired_gains(runs, experiment(data, 5, BARE).runs, rows)
            table.append({
                "points": way,
                "mean IoU": mean_and_spread(scores_of(runs, rows)),
                "difference to random": difference(gains),
                "by draw": listed(gains),
                "IoU by class": class_means(there)})
    return table


def report_lines():
    """The lines of pretrained.md."""
    rows = all_rows()
    lines = [HEAD]
    for data in EPOCHS:
        table = set_table(data, rows)
        if table:
            lines += [f"## {data}", "", *markdown(table), ""]
        table = technique_table(data, rows)
        if table:
            lines += [f"Techniques, {data}:", "", *markdown(table), ""]
        table = choice_table(data, rows)
        if table:
            lines += [f"Choices of five points per tile, {data}:", "", *markdown(table), ""]
    return lines


def all_rows():
    """The rows of this script's table and of those that it shares runs with, by name."""
    rows = {}
    for name in ("baseline", "points", "pretrained", "suggest"):
        rows |= read_rows(RESULTS / f"{name}.csv")
    return rows


def figure(rows):
    """Mean IoU against points per tile, a panel per set, between every label and the floor."""
    panels = [panel(data, title, rows) for data, title in PANELS.items()]
    canvas = Image.new("RGB", (sum(one.width for one in panels), panels[0].height), PAPER)
    left = 0
    for one in panels:
        canvas.paste(one, (left, 0))
        left += one.width
    return page([canvas], "Mean IoU on test places that no label came from (mean and standard "
                "deviation of the draws)")


def panel(data, title, rows):
    """The panel of a set."""
    experiments = experiments_of(data)
    ticks = {math.log10(points): str(points) for points in sorted(POINTS) if points}
    full = scores_of(experiments[0, PRETRAINED].runs, rows)
    series = {"pretrained, every label": [(x, statistics.mean(full)) for x in ticks if full]}
    for network in (PRETRAINED, PLAIN):
        series[f"{network}, points"] = []
        for x, points in zip(ticks, ticks.values()):
            scores = scores_of(experiments[int(points), network].runs, rows)
            series[f"{network}, points"] += spread_marks(x, scores)
    series["floor: each pixel by its colour"] = []
    for x, points in zip(ticks, ticks.values()):
        floor = floor_of(data, int(points), experiments, rows)
        series["floor: each pixel by its colour"] += [(x, value) for value in floor]
    return curves(series, "labelled points per training tile", "mean IoU", title, (0, 0.9), ticks,
                  size=(360, 420))


def spread_marks(x, scores):
    """The mean of scores at x, with a line one standard deviation up and down; [] of none."""
    if not scores:
        return []
    mean = statistics.mean(scores)
    spread = statistics.stdev(scores) if len(scores) > 1 else 0
    return [(x, mean + step * spread) for step in (0, 1, -1, 0)]


def picture():
    """Test tiles of Dubai with the maps of the run SHOWN: image, points, prediction, truth.

    The tiles are spread evenly over those that are whole and hold three classes or more.
    """
    import torch

    from data import TileDataset
    from engine.checkpoint import load_model
    from report.discs import enlarged_points
    from report.figures import colour_map, panel_grid
    from report.panels import predict_tiles, spread
    model, meta = load_model(ROOT / "runs" / "pretrained" / SHOWN / "last.pt", torch.device("cpu"))
    tiles = TileDataset(ROOT / "data" / "dubai", "test")
    pointed = TileDataset(ROOT / "data" / "dubai", "test", points=int(SHOWN.split("-")[1]))
    varied = [index for index, labels in enumerate(tiles.labels)
              if (labels != tiles.ignore).float().mean() > 0.9 and len(labels.unique()) > 3]
    shown = spread(varied, SHOWN_TILES)
    rows = []
    for index, (rgb, truth, prediction) in zip(
            shown, predict_tiles(model, tiles, shown, meta, torch.device("cpu"))):
        labels = pointed.get_batch([index])[1][0].numpy()
        rows.append([rgb, enlarged_points(rgb, labels, DUBAI_COLOURS),
                     colour_map(prediction, DUBAI_COLOURS), colour_map(truth, DUBAI_COLOURS)])
    return panel_grid(rows, ["image", "points", "prediction", "truth"],
                      list(zip(meta["classes"], DUBAI_COLOURS)), cell=192)


def main(args):
    """Run what is missing, then write the table and the figures of all rows."""
    if not args.tables_only:
        experiments = []
        for data in args.sets:
            prepare(data, args.source)
            experiments += [*experiments_of(data).values(), *techniques_of(data).values()]
        run_missing(RESULTS / "pretrained.csv", experiments, args)
    write_report("pretrained.md", report_lines())
    write_readme(markdown(readme_table(all_rows())))
    save_png(figure(all_rows()), ROOT / "docs" / "few-labels.png")
    if (ROOT / "runs" / "pretrained" / SHOWN / "last.pt").exists():
        save_png(picture().quantize(256, dither=Image.Dither.NONE), ROOT / "docs" / "dubai.png")


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.set_defaults(sets=list(EPOCHS))
    parser.add_argument("--source", metavar="FOLDER", help="the sets' images as published")
    main(parser.parse_args())
