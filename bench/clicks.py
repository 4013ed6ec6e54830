"""From clicks in one scene to its map, with the defaults of every command: is the map right?

    python bench/clicks.py --source FOLDER             all runs, the most telling ones first
    python bench/clicks.py --source FOLDER --only zurich-100-     some of them
    python bench/clicks.py --tables-only               the tables and the picture from the rows

bench/clicked_scenes.py describes FOLDER and how clicks are drawn. The map is scored on all labelled
pixels that were not clicked. Rows go to results/clicks.csv. Intervals of the pixel classifier, from
more draws, go to results/clicks_intervals.csv. All of them make results/clicks.md and
docs/clicks.png. A run that was stopped begins again.
"""

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from clicked_scenes import (
    CLICKED, NO_LABEL, POLYGONS, SCENES, click, draw_clicks, make_scene, read_raster, read_scene)
from experiments import (
    RESULTS, ROOT, append, call, experiment_parser, markdown, origin, processor, read_csv,
    read_json, read_rows, write_report)
from PIL import Image

from data import TileDataset
from engine.meta import checkpoint_meta
from metrics import ConfusionMatrix
from report.discs import draw_points
from report.figures import colour_map, panel_grid
from report.intervals import independent_observations, plain_intervals
from weak.pixel_classifier import PixelClassifier

DRAWS = 3
SETTINGS = {  # flags of prepare_data.py and of train.py
    "default": ("", ""),
    "weighed": ("", "--encoder efficientnet_lite0 --weights imagenet"),
    "pretrained": ("", "--encoder efficientnet_lite0 --weights imagenet --class-weights none"),
    "blocks": ("--split-by block", ""),
    "tiles-64": ("--tile 64", ""),
    "tiles-256": ("--tile 256", "")}
EXPLAIN = ("blocks", "tiles-64", "tiles-256")  # tried once, to see what the defaults change
SPLITS = ("polygon", "block")  # whose intervals are compared
INTERVAL_DRAWS = 4
ROWS = 512  # px, of a scene that the pixel classifier takes at a time
SHOWN = "dubai-500-default-draw0"  # the run of the picture
COLOURS = {"building": (200, 60, 60), "land": (235, 215, 165), "road": (60, 60, 60),
           "vegetation": (70, 150, 70), "water": (60, 110, 200)}
HEAD = """Written by `python bench/clicks.py` from clicks.csv and clicks_intervals.csv.

Default: every command ran with its defaults. Weighed: train.py with `--encoder efficientnet_lite0
--weights imagenet`, whose default are class weights. Pretrained: the same without them. Blocks:
prepare_data.py with `--split-by block`, which was its default when these rows were made. Tiles:
prepare_data.py with `--tile`. Network and pixel classifier learned from the same clicks, those of
the training split, and are scored on all labelled pixels of the scene that were not clicked.
Printed is what train.py printed of its test clicks, with its 95 % interval. It holds if the score
on all other pixels lies in it. Minutes are processor seconds of prepare_data.py, train.py and
predict.py, divided by 120: what two cores need at best.
"""
INTERVALS_HEAD = """## intervals of two splits

Of the pixel classifier, which needs seconds, so that there are more draws. The scene is all its
labelled pixels that were not clicked.
"""


# Runs

def all_runs():
    """{name of a run: (scene, clicks or None for polygons, setting, draw)}, in order of value."""
    runs = {}
    for draw, setting, count in itertools.product(range(DRAWS), SETTINGS, (500, 100, None)):
        if setting in EXPLAIN and (count, draw) != (500, 0):
            continue
        for scene in CLICKED if count else POLYGONS:
            name = f"{scene}-{count or 'polygons'}-{setting}-draw{draw}"
            runs[name] = scene, count, setting, draw
    return runs


def run_all(name, scene, count, setting, draw):
    """Click, prepare, train and predict; return the row of the run."""
    image, labels, names, place = read_scene(scene)
    path, clicked = click(ROOT / "data" / "clicks" / scene / name, labels, names, place, count,
                          draw)
    labels[tuple(clicked.T)] = NO_LABEL  # from here on, the labels of all other pixels
    shutil.rmtree(ROOT / "runs" / "clicks" / name, ignore_errors=True)
    of_prepare, of_train = SETTINGS[setting]
    data = f"data/clicks/{scene}/{name}/set"
    out = f"runs/clicks/{name}"
    scene_file = f"data/clicks/{scene}/scene.tif"
    commands = {
        "prepare": ["prepare_data.py", "points", scene_file, path.relative_to(ROOT), "--out", data,
                    *of_prepare.split()],
        "train": ["train.py", "--data", data, "--out", out, *of_train.split()],
        "predict": ["predict.py", "--checkpoint", out, scene_file, "--out", f"{out}/maps"]}
    done = {step: timed(*command) for step, command in commands.items()}
    scores = read_json(ROOT / out / "metrics.json")
    meta = read_json(ROOT / data / "dataset.json")
    if [entry["name"] for entry in meta["classes"]] != names:
        raise ValueError(f"{data} has other classes than {scene_file}")
    mapped = read_raster(ROOT / out / "maps" / "scene_classes.tif")[0][:, :, 0]
    matrix = score_map(mapped, labels, len(names))
    in_test = score_map(mapped, np.where(test_ground(data, labels.shape), labels, NO_LABEL),
                        len(names))
    floor = score_pixel_classifier(data, image, labels)
    interval = scores.get("intervals", {})
    return {"name": name,
            "clicks": len(clicked),
            "accuracy": matrix.pixel_accuracy(),
            "miou": matrix.miou(),
            "class_iou": iou_by_class(matrix, names),
            "floor_accuracy": floor.pixel_accuracy(),
            "floor_miou": floor.miou(),
            "floor_class_iou": iou_by_class(floor, names),
            "confusion": json.dumps(matrix.counts.tolist()),
            "scored_px": matrix.labelled_pixels(),
            "clicks_by_split": json.dumps({key: sum(some) for key, some in meta["pixels"].items()}),
            "printed_accuracy": scores["pixel_accuracy"],
            "accuracy_interval": json.dumps(interval.get("pixel_accuracy")),
            "printed_miou": scores["miou"],
            "miou_interval": json.dumps(interval.get("miou")),
            "test_ground_accuracy": in_test.pixel_accuracy(),
            "test_ground_miou": in_test.miou(),
            "admitted": "not above" in done["train"][0].splitlines()[-1],
            **{f"{step}_cpu_s": cpu for step, (_, cpu, _) in done.items()},
            "wall_s": sum(wall for *_, wall in done.values()),
            "threads": 1,
            "processor": processor(),
            "date": time.strftime("%Y-%m-%d"),
            **origin("; python ".join(" ".join(map(str, words)) for words in commands.values()))}


def timed(script, *words):
    """Run a script of the project on one thread.

    Returns:
        what it printed; seconds of the processor; and seconds of the clock.
    Raises:
        ValueError: it failed; with its last words.
    """
    command = [script, *map(str, words)]
    before = os.times()
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    after = os.times()
    cpu = (after.children_user + after.children_system
           - before.children_user - before.children_system)
    return done.stdout, cpu, time.perf_counter() - started


def score_map(mapped, labels, classes):
    """ConfusionMatrix of a class map (H, W) on labels (H, W); 255 is no label."""
    matrix = ConfusionMatrix(classes)
    known = labels != NO_LABEL
    matrix.update(mapped[known], labels[known])
    return matrix


def test_ground(data, shape):
    """(H, W) bool: the ground of the test tiles of a prepared set."""
    meta = read_json(ROOT / data / "dataset.json")
    ground = np.zeros(shape, bool)
    for tile in read_csv(ROOT / data / "tiles.csv"):
        if tile["split"] == "test":
            row, col = int(tile["row"]), int(tile["col"])
            ground[row:row + meta["tile"], col:col + meta["tile"]] = True
    return ground


def score_pixel_classifier(data, image, labels):
    """ConfusionMatrix, on a scene's labels, of the pixel classifier from a set's training clicks.

    Args:
        data: folder of the prepared set.
        image: (H, W, C); labels: (H, W), 255 is no label.
    """
    tiles = TileDataset(ROOT / data, "train")
    meta = checkpoint_meta(tiles.meta)
    classifier = PixelClassifier(tiles, meta)
    matrix = ConfusionMatrix(len(meta["classes"]))
    for top in range(0, len(image), ROWS):
        part = slice(top, top + ROWS)
        batch = torch.from_numpy(image[None, part]), torch.from_numpy(labels[None, part])
        strip = SimpleNamespace(get_batch=lambda _, batch=batch: batch, ignore=NO_LABEL,
                                meta=tiles.meta)
        features, classes = classifier.labelled_features(strip, 0)
        matrix.update((features @ classifier.weights).argmax(1), classes)
    return matrix


def iou_by_class(matrix, names):
    """IoU by class as JSON."""
    return json.dumps({name: round(value, 4) for name, value in zip(names, matrix.iou().tolist())})


def score_interval(scene, count, split, draw):
    """The interval of the pixel classifier from its test clicks, and its score on the scene.

    Returns:
        dict, a row of clicks_intervals.csv without its name.
    """
    image, labels, names, place = read_scene(scene)
    folder = ROOT / "data" / "clicks" / "intervals"
    path, clicked = click(folder, labels, names, place, count, draw)
    labels[tuple(clicked.T)] = NO_LABEL
    words = ["prepare_data.py", "points", f"data/clicks/{scene}/scene.tif",
             path.relative_to(ROOT), "--split-by", split, "--out", "data/clicks/intervals/set"]
    call(*words)
    train, test = (TileDataset(folder / "set", part) for part in ("train", "test"))
    meta = checkpoint_meta(train.meta)
    matrix = PixelClassifier(train, meta).score(test)
    intervals = plain_intervals(matrix, independent_observations(test), names)
    on_scene = score_pixel_classifier(folder / "set", image, labels)
    return {"trained_on": train.labelled_pixels, "tested_on": test.labelled_pixels,
            "accuracy": on_scene.pixel_accuracy(), "miou": on_scene.miou(),
            "printed_accuracy": matrix.pixel_accuracy(), "printed_miou": matrix.miou(),
            "accuracy_interval": json.dumps(intervals["pixel_accuracy"]),
            "miou_interval": json.dumps(intervals["miou"]),
            "date": time.strftime("%Y-%m-%d"), **origin(*words)}


def interval_runs():
    """{name: (scene, clicks, split, draw)} of clicks_intervals.csv; draws are not those of runs."""
    order = itertools.product(range(DRAWS, DRAWS + INTERVAL_DRAWS), CLICKED, (500, 100), SPLITS)
    return {f"{scene}-{count}-{split}-draw{draw}": (scene, count, split, draw)
            for draw, scene, count, split in order}


# Reports

def holds(interval, score):
    """Whether a score lies in an interval, both as a CSV contains them; "" without an interval."""
    bounds = json.loads(interval)
    return bounds[0] <= float(score) <= bounds[1] if bounds else ""


def minutes(row):
    """Minutes of two cores from clicks to map."""
    seconds = sum(float(row[f"{step}_cpu_s"]) for step in ("prepare", "train", "predict"))
    return seconds / 2 / 60


def with_interval(score, interval):
    """A printed score, and its interval, as text."""
    bounds = json.loads(interval)
    return f"{float(score):.2f}" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def yes(value):
    """A truth value as text; "" stays."""
    return value if value == "" else "yes" if value else "no"


def score_table(rows):
    """The runs, a list of dict, in the order of `all_runs` sorted by scene."""
    table = []
    for row in rows:
        above = float(row["miou"]) > float(row["floor_miou"])
        table.append({
            "run": row["name"],
            "clicks that trained": json.loads(row["clicks_by_split"])["train"],
            "accuracy, network": f"{float(row['accuracy']):.3f}",
            "pixel classifier": f"{float(row['floor_accuracy']):.3f}",
            "mean IoU, network": f"{float(row['miou']):.3f}",
            "pixel classifier ": f"{float(row['floor_miou']):.3f}",
            "above": yes(above),
            "last line admits": yes(row["admitted"] == "True"),
            "printed accuracy": with_interval(row["printed_accuracy"], row["accuracy_interval"]),
            "holds": yes(holds(row["accuracy_interval"], row["accuracy"])),
            "printed mean IoU": with_interval(row["printed_miou"], row["miou_interval"]),
            "holds ": yes(holds(row["miou_interval"], row["miou"])),
            "minutes": f"{minutes(row):.1f}"})
    return table


def class_table(rows):
    """IoU by class of network and pixel classifier, a list of dict per run."""
    table = []
    for row in rows:
        ours, floor = json.loads(row["class_iou"]), json.loads(row["floor_class_iou"])
        table.append({"run": row["name"], "IoU by class, network / pixel classifier": ", ".join(
            f"{name} {ours[name]:.2f} / {floor[name]:.2f}" for name in ours)})
    return table


def summary(rows):
    """A line per aim: in how many runs it was met."""
    above = [float(row["miou"]) > float(row["floor_miou"]) for row in rows]
    admitted = sum(row["admitted"] == "True" for row, is_above in zip(rows, above) if not is_above)
    lines = [f"- Network above the pixel classifier in mean IoU: {sum(above)} of {len(rows)} runs. "
             f"The last line admits {admitted} of the other {len(rows) - sum(above)}."]
    for title, score in (("accuracy", "accuracy"), ("mean IoU", "miou")):
        held = [holds(row[f"{score}_interval"], row[score]) for row in rows]
        held = [one for one in held if one != ""]
        lines.append(f"- Intervals of the {title} that hold: {sum(held)} of {len(held)}.")
    lines.append(f"- Minutes from clicks to map: at most {max(map(minutes, rows)):.1f}.")
    return lines


def report_lines():
    """The lines of clicks.md."""
    found = read_rows(RESULTS / "clicks.csv")
    rows = [found[name] for name in sorted(all_runs(), key=run_order) if name in found]
    lines = [HEAD]
    for setting in SETTINGS:
        some = [row for row in rows if f"-{setting}-" in row["name"]]
        if some:
            lines += [f"## {setting}", "", *summary(some), "", *markdown(score_table(some)), "",
                      *markdown(class_table(some)), ""]
    table = interval_table(read_rows(RESULTS / "clicks_intervals.csv"))
    return [*lines, INTERVALS_HEAD, *markdown(table)]


def interval_table(rows):
    """How many intervals of the pixel classifier hold, a list of dict per split and clicks."""
    table = []
    for split, count in itertools.product(SPLITS, (500, 100)):
        some = [rows[name] for name, (_, clicks, way, _) in interval_runs().items()
                if name in rows and (clicks, way) == (count, split)]
        if some:
            line = {"split by": split, "clicks": count,
                    "that trained": f"{mean_of(some, 'trained_on'):.0f}"}
            for title, key in (("accuracy", "accuracy"), ("mean IoU", "miou")):
                held = sum(holds(row[f"{key}_interval"], row[key]) for row in some)
                line |= {f"{title} of the scene": f"{mean_of(some, key):.3f}",
                         f"{title} of test clicks": f"{mean_of(some, f'printed_{key}'):.3f}",
                         f"{title}: intervals that hold": f"{held} of {len(some)}"}
            table.append(line)
    return table


def mean_of(rows, column):
    """The mean of a column."""
    return statistics.mean(float(row[column]) for row in rows)


def run_order(name):
    """The key that sorts runs by scene, then by clicks and draw."""
    scene, clicks, _, draw = all_runs()[name]
    return SCENES.index(scene), clicks or 0, draw


def picture():
    """The picture of run SHOWN: clicks on the image, the map, and the truth, PIL.Image."""
    scene, count, _, draw = all_runs()[SHOWN]
    image, truth, names, _ = read_scene(scene)
    mapped = read_raster(ROOT / "runs" / "clicks" / SHOWN / "maps" / "scene_classes.tif")[0]
    colours = [COLOURS[name] for name in names]
    clicked = np.full(truth.shape, NO_LABEL, np.uint8)
    places = tuple(draw_clicks(truth, count, draw).T)
    clicked[places] = truth[places]
    row = read_rows(RESULTS / "clicks.csv")[SHOWN]
    panels = [draw_points(image, clicked, colours), colour_map(mapped[:, :, 0], colours),
              colour_map(truth, colours)]
    titles = [f"a scene and {count} clicks",
              f"its map: {float(row['accuracy']):.0%} of all other pixels are right",
              "truth, drawn by hand; light grey: no label"]
    grid = panel_grid([panels], titles, list(zip(names, colours)), cell=480)
    return grid.quantize(128, dither=Image.Dither.NONE)


def main(args):
    """Run what is missing, then write the tables and the picture from all rows."""
    if not args.tables_only:
        for name in args.sets:
            make_scene(name, args.source)
        for name, run in missing(all_runs(), RESULTS / "clicks.csv", args):
            row = run_all(name, *run)
            append(RESULTS / "clicks.csv", row)
            print(f"{name}: accuracy {row['accuracy']:.3f}, pixel classifier "
                  f"{row['floor_accuracy']:.3f}, {minutes(row):.1f} minutes", flush=True)
        for name, run in missing(interval_runs(), RESULTS / "clicks_intervals.csv", args):
            append(RESULTS / "clicks_intervals.csv", {"name": name, **score_interval(*run)})
    write_report("clicks.md", report_lines())
    if SHOWN in read_rows(RESULTS / "clicks.csv") and (ROOT / "runs" / "clicks" / SHOWN).exists():
        picture().save(ROOT / "docs" / "clicks.png", optimize=True)


def missing(runs, table, args):
    """The (name, run) of those that are asked for and have no row in the table."""
    return [(name, run) for name, run in runs.items() if name not in read_rows(table)
            and run[0] in args.sets and name.startswith(tuple(args.only))]


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.set_defaults(sets=list(SCENES))
    parser.add_argument("--source", metavar="FOLDER", help="the scenes' images as published")
    main(parser.parse_args())
