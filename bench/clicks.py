"""From clicks in one scene to its map, with the defaults of every command: is the map right?

    python bench/clicks.py --source FOLDER             all runs, the most telling ones first
    python bench/clicks.py --source FOLDER --only zurich-100-     some of them
    python bench/clicks.py --tables-only               the tables and the picture from the rows

FOLDER has these subfolders, as they were published:

dubai           Tile 8/images/image_part_005.jpg and its mask (Humans in the Loop, MBRSC)
dunes           images, masks: see bench/pretrained.py; two strips of tiles, each one below the other
rachel_carson   eight bands of a Sentinel-2 scene, and 598 px that were labelled by hand as polygons
                (open-geo-tutorial)
zurich          images/13.tif, gt/13.tif: a scene of the Zurich Summer data set

Clicks are drawn from the mask: five of each class, then uniformly over all labelled pixels, each at
least 8 px from all others. They are written as a GeoPackage in degrees, or as a CSV of pixels where
the scene has no place. Classes of at most 0.1 % of the labels are left out. Of the Rachel Carson
scene half of the polygons of each class are drawn, rounded up. The map is scored on all labelled pixels that were not clicked. Rows go to results/clicks.csv. All of
them make results/clicks.md and docs/clicks.png. A run that was stopped begins again.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch
from experiments import (
    RESULTS, ROOT, append, experiment_parser, markdown, origin, processor, read_csv, read_json,
    read_rows, write_report)
from PIL import Image
from pretrained import DUNES, write_csv

from data import TileDataset
from engine.meta import checkpoint_meta
from geo.crs import WGS84, convert, crs_of
from geo.geopackage import SETTINGS, TABLES, WGS_84, write_geopackage
from geo.polygons import map_polygons
from geo.raster import open_raster, write_geotiff
from metrics import ConfusionMatrix
from report.discs import draw_points
from report.figures import colour_map, default_colours, panel_grid, save_png
from sources.geometry import polygon_runs, spread
from sources.public import DUBAI
from weak.pixel_classifier import PixelClassifier

NO_LABEL = 255
CLICKED = ("dubai", "zurich", "dunes-north", "dunes-south")
POLYGONS = ("rachel",)  # scenes labelled by polygons, half of which are drawn
SCENES = CLICKED + POLYGONS
STRIPS = {"dunes-north": ("x15808", range(9728, 12161, 608)),
          "dunes-south": ("x13984", range(27968, 31009, 608))}  # offsets in the mosaic, px
ZURICH = {"water": (0, 0, 150), "building": (100, 100, 100), "background": (255, 255, 255),
          "road": (0, 0, 0), "tree": (0, 125, 0), "grass": (0, 255, 0)}
RACHEL = ("emergent wetland", "forested wetland", "herbaceous", "sand", "subtidal haline",
          "wet sand")  # ids from 1 on
RARE = 1e-3  # share of the labels up to which a class is left out
EACH = 5  # clicks of each class before others are drawn
APART = 8  # px, between two clicks
DRAWS = 3
NETWORKS = {"default": "", "pretrained": "--encoder efficientnet_lite0 --weights imagenet"}
ROWS = 512  # px, of a scene that the pixel classifier takes at a time
SHOWN = "dubai-500-default-draw0"  # the run of the picture
HEAD = """Written by `python bench/clicks.py` from clicks.csv, whose rows contain their commands.

Every command ran with its defaults. Pretrained adds `--encoder efficientnet_lite0 --weights
imagenet` to train.py. Map and pixel classifier are scored on all labelled pixels of the scene that
were not clicked, the clicks' own test part not among them. Both learned from the same clicks, those
of the training part. Printed is what train.py printed of its test clicks, with its 95 % interval.
It holds if the score on all other pixels lies in it. Minutes are the processor's seconds of
prepare_data.py, train.py and predict.py, divided by 120: those that two cores need at best.
"""


# Scenes

def make_scene(name, source):
    """Write a scene as data/clicks/NAME/scene.tif with truth.tif and classes.csv, unless it exists.

    Class indices follow the alphabet, as prepare_data.py numbers the names in a file of points.

    Args:
        name: one of SCENES.
        source: folder of the published images.
    """
    folder = ROOT / "data" / "clicks" / name
    if (folder / "classes.csv").exists():
        return
    if source is None:
        raise ValueError(f"{folder} is missing: give --source FOLDER, with the published images")
    read = {"dubai": read_dubai, "zurich": read_zurich, "rachel": read_rachel}
    source = pathlib.Path(source)
    image, labels, names, place = (read[name](source) if name in read
                                   else read_dunes(source, *STRIPS[name]))
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(names))
    classes = sorted(name for name, count in zip(names, counts) if count > RARE * counts.sum())
    index_of = np.full(256, NO_LABEL, np.uint8)
    index_of[:len(names)] = [classes.index(name) if name in classes else NO_LABEL for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    height, width, bands = image.shape
    write_geotiff(folder / "scene.tif", [image], height, width, bands, image.dtype,
                  georeference=place)
    write_geotiff(folder / "truth.tif", [index_of[labels]], height, width, 1, "uint8",
                  nodata=NO_LABEL, georeference=place)
    write_csv(folder / "classes.csv", ["id", "name"], enumerate(classes))


def read_dubai(source):
    """Image (H, W, 3) and labels (H, W) of Dubai at half scale, K names, no place."""
    tile = source / "dubai" / "Tile 8"
    image = Image.open(tile / "images" / "image_part_005.jpg").convert("RGB").reduce(2)
    mask = np.asarray(Image.open(tile / "masks" / "image_part_005.png").convert("RGB"))
    colours = {row.name: row.rgb for row in DUBAI if row.name != "ignore"}
    return np.asarray(image), labels_of_colours(mask[::2, ::2], colours), list(colours), None


def labels_of_colours(mask, colours):
    """(H, W) uint8 indices of the colours of a mask (H, W, 3); NO_LABEL for all others."""
    labels = np.full(mask.shape[:2], NO_LABEL, np.uint8)
    for index, colour in enumerate(colours.values()):
        labels[(mask == colour).all(axis=2)] = index
    return labels


def read_zurich(source):
    """Image (H, W, 4) and labels (H, W) of the Zurich scene, K names, and its Georeference."""
    image, place = read_raster(source / "zurich" / "images" / "13.tif")
    mask, _ = read_raster(source / "zurich" / "gt" / "13.tif")
    return image, labels_of_colours(mask, ZURICH), list(ZURICH), place


def read_raster(path):
    """The pixels (H, W, C) of a raster, and its Georeference."""
    with open_raster(path) as raster:
        return raster.read(0, 0, raster.height, raster.width), raster.georeference


def read_dunes(source, column, rows):
    """Image (H, W, 3) and labels (H, W) of a strip of tiles at half scale, K names, no place."""
    images, masks = [], []
    for row in rows:
        tile = f"{column}_y{row:05d}"
        images.append(Image.open(source / "dunes" / "images" / f"{tile}.jpg").reduce(2))
        masks.append(np.asarray(Image.open(source / "dunes" / "masks" / f"{tile}.png"))[::2, ::2])
    names = sorted(set(DUNES.values()))
    merged = np.full(256, NO_LABEL, np.uint8)
    merged[1:len(DUNES) + 1] = [names.index(name) for name in DUNES.values()]
    return np.concatenate(images), merged[np.concatenate(masks)], names, None


def read_rachel(source):
    """Image (H, W, 8) and labels (H, W) of the Rachel Carson scene, K names, its Georeference."""
    folder = source / "rachel_carson"
    bands, places = zip(*map(read_raster, sorted(folder.glob("*_B*.tiff"))))
    ids, _ = read_raster(folder / "rcr_landcover_rasterized.tif")
    labels = ids[:, :, 0].astype(np.uint8) - np.uint8(1)  # 0, no label, becomes 255
    return np.concatenate(bands, axis=2), labels, list(RACHEL), places[0]


# Clicks

def draw_clicks(labels, count, seed):
    """Draw pixels to click: EACH of every class, then any that is labelled, all of them apart.

    Args:
        labels: (H, W) uint8.
        count: how many; there are fewer if no more have room.
        seed: of the draw.
    Returns:
        (N, 2) rows and columns, px.
    """
    places = np.random.default_rng(seed).permutation(np.argwhere(labels != NO_LABEL))
    classes = labels[tuple(places.T)]
    free = np.ones(labels.shape, bool)
    chosen = []

    def take(candidates, most):
        for row, col in candidates:
            if len(chosen) == most:
                return
            if free[row, col]:
                chosen.append((row, col))
                free[max(0, row - APART):row + APART + 1, max(0, col - APART):col + APART + 1] = False

    for k in np.unique(classes):
        take(places[classes == k], len(chosen) + EACH)
    take(places, count)
    return np.array(chosen)


def write_clicks(folder, labels, names, place, clicks):
    """Write clicks as clicks.gpkg in degrees, or as clicks.csv in pixels without a place.

    Args:
        folder: Path.
        labels: (H, W); names: K; place: Georeference or None.
        clicks: (N, 2) rows and columns, px.
    Returns:
        path of the file.
    """
    classes = [names[index] for index in labels[tuple(clicks.T)]]
    if place is None:
        rows = [("scene", row, col, name) for (row, col), name in zip(clicks, classes)]
        write_csv(folder / "clicks.csv", ["scene", "row", "col", "class"], rows)
        return folder / "clicks.csv"
    x, y = place.to_map(*(clicks.T + 0.5))
    lon, lat = convert(x, y, crs_of(place), WGS84)
    path = folder / "clicks.gpkg"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(SETTINGS + TABLES + "CREATE TABLE clicks (fid INTEGER PRIMARY KEY, "
                           "geom POINT, class TEXT);")
        file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", WGS_84)
        file.execute("INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
                     "VALUES ('clicks', 'features', 'clicks', 4326)")
        file.execute("INSERT INTO gpkg_geometry_columns VALUES "
                     "('clicks', 'geom', 'POINT', 4326, 0, 0)")
        points = [struct.pack("<2sBBiBI2d", b"GP", 0, 1, 4326, 1, 1, *position)
                  for position in zip(lon, lat)]
        file.executemany("INSERT INTO clicks (geom, class) VALUES (?, ?)", zip(points, classes))
    return path


def write_polygons(folder, labels, names, place, seed):
    """Write half of the polygons of each class, rounded up, as clicks.gpkg in degrees.

    Args:
        folder, labels, names, place: as for `write_clicks`.
        seed: of the draw.
    Returns:
        path of the file; and (N, 2) rows and columns of the polygons' pixels, px.
    """
    polygons = list(map_polygons([(labels, None)], labels.shape[1]))
    order = np.random.default_rng(seed).permutation(len(polygons))
    classes = np.array([polygons[number].class_id for number in order])
    drawn = []
    pixels = []
    for k in np.unique(classes):
        of_class = order[classes == k]
        for polygon in (polygons[number] for number in of_class[:-(-len(of_class) // 2)]):
            corners = [ring[:, ::-1] * (-1, 1) for ring in polygon.rings]  # rows, columns
            rows, starts, ends = polygon_runs(corners, *labels.shape)
            cols, runs = spread(starts, ends)
            pixels.append(np.stack([rows[runs], cols], axis=1))
            rings = [np.stack(place.to_map(*ring.T), axis=1) for ring in corners]
            drawn.append(polygon._replace(rings=rings))
    path = folder / "clicks.gpkg"
    path.unlink(missing_ok=True)
    write_geopackage(path, drawn, names, WGS_84)
    return path, np.concatenate(pixels)


# Runs

def all_runs():
    """{name of a run: (scene, clicks or None for polygons, network, draw)}, in order of value."""
    runs = {}
    for draw, network in itertools.product(range(DRAWS), NETWORKS):
        for count in (500, 100, None):
            for scene in CLICKED if count else POLYGONS:
                name = f"{scene}-{count or 'polygons'}-{network}-draw{draw}"
                runs[name] = scene, count, network, draw
    return runs


def run_all(name, scene, count, network, draw):
    """Click, prepare, train and predict; return the row of the run."""
    folder = ROOT / "data" / "clicks" / scene
    image, place = read_raster(folder / "scene.tif")
    labels = read_raster(folder / "truth.tif")[0][:, :, 0]
    names = [row["name"] for row in read_csv(folder / "classes.csv")]
    for stale in (folder / name, ROOT / "runs" / "clicks" / name):
        shutil.rmtree(stale, ignore_errors=True)
    (folder / name).mkdir()
    if count:
        clicked = draw_clicks(labels, count, draw)
        path = write_clicks(folder / name, labels, names, place, clicked)
    else:
        path, clicked = write_polygons(folder / name, labels, names, place, draw)
    labels[tuple(clicked.T)] = NO_LABEL  # from here on, the labels of all other pixels

    data = f"data/clicks/{scene}/{name}/set"
    out = f"runs/clicks/{name}"
    scene_file = f"data/clicks/{scene}/scene.tif"
    commands = {
        "prepare": ["prepare_data.py", "points", scene_file, path.relative_to(ROOT), "--out", data],
        "train": ["train.py", "--data", data, *NETWORKS[network].split(), "--out", out],
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
    for network in NETWORKS:
        some = [row for row in rows if f"-{network}-" in row["name"]]
        if some:
            lines += [f"## {network}", "", *summary(some), "", *markdown(score_table(some)), "",
                      *markdown(class_table(some)), ""]
    return lines


def run_order(name):
    """The key that sorts runs by scene, then by clicks and draw."""
    scene, clicks, network, draw = all_runs()[name]
    return SCENES.index(scene), clicks or 0, network, draw


def picture():
    """The picture of run SHOWN: clicks on the image, the map, and the truth, PIL.Image."""
    scene, count, _, draw = all_runs()[SHOWN]
    folder = ROOT / "data" / "clicks" / scene
    image = read_raster(folder / "scene.tif")[0]
    truth = read_raster(folder / "truth.tif")[0][:, :, 0]
    mapped = read_raster(ROOT / "runs" / "clicks" / SHOWN / "maps" / "scene_classes.tif")[0]
    names = [row["name"] for row in read_csv(folder / "classes.csv")]
    colours = default_colours(len(names))
    clicked = np.full(truth.shape, NO_LABEL, np.uint8)
    places = tuple(draw_clicks(truth, count, draw).T)
    clicked[places] = truth[places]
    row = read_rows(RESULTS / "clicks.csv")[SHOWN]
    panels = [draw_points(image, clicked, colours, size=4), colour_map(mapped[:, :, 0], colours),
              colour_map(truth, colours)]
    titles = [f"{count} clicks", f"map of the network: {float(row['accuracy']):.0%} right",
              "truth: drawn by hand"]
    return panel_grid([panels], titles, list(zip(names, colours)), cell=420)


def main(args):
    """Run what is missing, then write the tables and the picture from all rows."""
    table = RESULTS / "clicks.csv"
    runs = all_runs()
    missing = [name for name in runs if name not in read_rows(table)
               and name.startswith(tuple(args.only)) and runs[name][0] in args.sets]
    for name in [] if args.tables_only else missing:
        make_scene(runs[name][0], args.source)
        row = run_all(name, *runs[name])
        append(table, row)
        print(f"{name}: accuracy {row['accuracy']:.3f}, pixel classifier "
              f"{row['floor_accuracy']:.3f}, {minutes(row):.1f} minutes", flush=True)
    write_report("clicks.md", report_lines())
    if (ROOT / "runs" / "clicks" / SHOWN / "maps" / "scene_classes.tif").exists():
        save_png(picture(), ROOT / "docs" / "clicks.png")


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.set_defaults(sets=list(SCENES))
    parser.add_argument("--source", metavar="FOLDER", help="the scenes' images as published")
    main(parser.parse_args())
