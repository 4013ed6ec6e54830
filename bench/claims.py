"""Four claims about tiles of satellite scenes, measured: how masks are brought down, seasons, tile sides, cloudy tiles.

    python bench/claims.py --jobs 2

The ground is a form of the demo that is 1024 x 1536 px of 0.5 m for each of 12 places. Its masks stay as they are; its images,
in two seasons, are averaged to pixels four and eight times as large, and once more with clouds over them. Train on places 1
to 8, validate on 9 and 10, and predict the whole scenes of 11 and 12. Every prediction is compared with the mask at its own
0.5 m, whatever was trained on. Every run has as many steps, of as many pixels. Runs go to results/claims.csv, the scores of
their maps to results/claims_scenes.csv; what is there is skipped.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import numpy as np
from run_table import ROOT, append, commit, read_rows, run_missing

sys.path.insert(0, str(ROOT))
from geo.raster import open_raster, write_geotiff  # noqa: E402
from metrics import ConfusionMatrix  # noqa: E402
from sources import demo as datasets  # noqa: E402

SEASONS, TEST = datasets.SEASONS, ("place_11", "place_12")
NAMES = [row.name for row in datasets.DEMO]
BANDS = ["--bands", "B04", "B03", "B02", "B08", "--reflectance", 600]  # so that its green crops are not taken for cloud
# Each experiment: the images, the tile's side, and prepare_data.py's flags.
BOTH, CLOUDY = [["x4", season] for season in SEASONS], [["x4_cloudy", season] for season in SEASONS]
EXPERIMENTS = {
    "nearest": ([["x8", season] for season in SEASONS], 64, ["--downscale", "nearest"]),
    "mode": ([["x8", season] for season in SEASONS], 64, ["--downscale", "mode"]),
    "weighted": ([["x8", season] for season in SEASONS], 64, ["--downscale", "weighted", "--downscale-weights", "road=3",
                                                             "building=2"]),
    "summer": (BOTH[:1], 128, []), "autumn": (BOTH[1:], 128, []),
    "tile64": (BOTH, 64, []), "tile128": (BOTH, 128, []), "tile256": (BOTH, 256, []),
    "cloudy_kept": (CLOUDY, 128, BANDS), "cloudy_dropped": (CLOUDY, 128, [*BANDS, "--max-cloud", 0.3])}
TITLES = {"nearest": "masks brought down by 8, nearest", "mode": "by mode", "weighted": "by weight, road 3, building 2",
          "summer": "trained on summer", "autumn": "trained on autumn", "tile64": "both seasons, tiles of 64 px",
          "tile128": "of 128 px", "tile256": "of 256 px", "cloudy_kept": "under clouds, every tile kept",
          "cloudy_dropped": "tiles over 30 % cloud dropped"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other, of one thread each")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=240, help="of each run")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="KIND", help="some kinds")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 1536), metavar="PX", help="height and width of a place; to "
                        "see that it runs, 512 768 is enough for tiles of 64 px")
    parser.add_argument("--ground", type=pathlib.Path, default=ROOT / "data" / "claims", help="folder of scenes and prepared sets")
    parser.add_argument("--runs", type=pathlib.Path, help="folder of the runs; not given: runs/claims, or with --steps, "
                        "runs/claims-STEPS")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "results", help="folder of the tables")
    args = parser.parse_args()
    make_ground(args.ground, args.size)
    cells = [(kind, seed, *prepare_and_plan(args.ground, kind, args.steps, seed))
             for kind in args.only for seed in range(args.seeds)]
    names = [f"{kind}-seed{seed}" for kind, seed, *_ in cells]
    folder = args.runs or ROOT / "runs" / ("claims" if args.steps == 240 else f"claims-{args.steps}")
    run_missing(args.results / "claims.csv", [(name, cell[2]) for name, cell in zip(names, cells)], folder, args.jobs)
    for name, (kind, *_) in zip(names, cells):
        for images in ("x8",) if kind in ("nearest", "mode", "weighted") else ("x4", "x4_cloudy"):
            for season in SEASONS:
                score(args.results / "claims_scenes.csv", name, folder / name, args.ground, images, season)
    print_table(args.results / "claims_scenes.csv", args.only, args.seeds)


def make_ground(ground, size):
    """Write the masks and images of all places once: masks/place_NN.tif, and x4, x8 and x4_cloudy/place_NN_SEASON.tif.

    Args:
        ground: pathlib.Path, the folder.
        size: (H, W) of a place, px of the masks, multiples of 8.
    """
    if (ground / "masks").exists():
        return
    datasets.SIZE = tuple(size)
    work = ground.with_name(f"{ground.name}.partial")
    if work.exists():
        raise ValueError(f"{work} is left from a run that was stopped: remove it")
    source = datasets.demo(work, seed=0)
    for folder in ("x4", "x8", "x4_cloudy"):
        (work / folder).mkdir()
    for number, scene in enumerate(source.scenes):
        with open_raster(scene.image) as raster:
            image, georeference = raster.read(0, 0, *datasets.SIZE), raster.georeference
        random = np.random.default_rng((1, number))
        cover = np.clip(1.5 * (datasets.smooth_noise(random, 150) - random.uniform(-0.5, 2)), 0, 1)[..., None]
        for folder, factor, pixels in (("x4", 4, image), ("x8", 8, image), ("x4_cloudy", 4, image * (1 - cover) + 250 * cover)):
            height, width = datasets.SIZE[0] // factor, datasets.SIZE[1] // factor
            mean = pixels.reshape(height, factor, width, factor, 4).mean(axis=(1, 3)).round().astype(np.uint8)
            write_geotiff(work / folder / f"{scene.name}.tif", [mean], height, width, 4, np.uint8,
                          georeference=georeference.window(0, 0, factor))
        scene.image.unlink()
        if scene.name.endswith(SEASONS[0]):
            scene.mask.rename(work / "masks" / f"{scene.site}.tif")
        else:
            scene.mask.unlink()
    (work / "images").rmdir()
    work.rename(ground)


def prepare_and_plan(ground, kind, steps, seed):
    """Prepare an experiment's data set where it is missing; returns train.py's flags for one run on it, in a list."""
    images, side, words = EXPERIMENTS[kind]
    data = ground / "sets" / kind
    if not data.exists():
        classes = ground / "classes.csv"
        classes.write_text("id,name,r,g,b\n" + "".join(
            f"{row.value},{row.name},{','.join(map(str, row.rgb))}\n" for row in datasets.DEMO))
        patterns = [ground / folder / f"*_{season}.tif" for folder, season in images]
        command = ["prepare_data.py", "sentinel2", "--images", *patterns, "--masks", ground / "masks" / "*.tif", "--classes",
                   classes, "--tile", side, "--val-places", "place_09", "place_10", "--test-places", *TEST, "--out", data, *words]
        subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)
    tiles = json.loads((data / "dataset.json").read_text())["tiles"]["train"]
    batch = 8 * 128 ** 2 // side ** 2
    return [["--data", os.path.relpath(data, ROOT), "--points", 0, "--width", 8, "--bs", batch, "--lr", "2e-3", "--seed", seed,
             "--epochs", max(round(steps * batch / tiles), 1)]]


def score(table, name, run, ground, images, season):
    """Predict the test scenes of a season with a run's network, and add the score at the mask's own pixels to the table."""
    key = f"{name} on {images} {season}"
    if key in read_rows(table):
        return
    maps, scenes = run / f"maps_{images}", [ground / images / f"{place}_{season}.tif" for place in TEST]
    if not all((maps / f"{scene.stem}_areas.csv").exists() for scene in scenes):  # which predict.py writes after the map
        both = [ground / images / f"{place}_{each}.tif" for each in SEASONS for place in TEST]
        done = subprocess.run([sys.executable, "predict.py", "--checkpoint", run / "best.pt", *both, "--out", maps], cwd=ROOT,
                              capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{key} failed: {done.stderr.strip().splitlines()[-1:]}")
    matrix = ConfusionMatrix(len(NAMES))
    for place, scene in zip(TEST, scenes):
        with open_raster(ground / "masks" / f"{place}.tif") as mask, open_raster(maps / f"{scene.stem}_classes.tif") as coarse:
            factor = mask.height // coarse.height
            predicted = coarse.read(0, 0, coarse.height, coarse.width)[:, :, 0].repeat(factor, 0).repeat(factor, 1)
            matrix.update(predicted, mask.read(0, 0, mask.height, mask.width)[:, :, 0])
    class_iou = {name: round(value, 4) for name, value in zip(NAMES, matrix.iou().tolist())}
    append(table, {"name": key, "miou": float(matrix.miou()), "pixel_accuracy": float(matrix.pixel_accuracy()),
                   "class_iou": json.dumps(class_iou), "commit": commit(), "command": " ".join(["python", *sys.argv])})


def print_table(table, kinds, seeds):
    """Print mean IoU and the roads' of each kind, mean and deviation over seeds, for each set of scenes."""
    rows = read_rows(table)
    print("| training | scenes predicted | mean IoU | road | building |\n|---|---|---|---|---|")
    for kind in kinds:
        for ending in sorted({name.split(" on ")[1] for name in rows if name.startswith(f"{kind}-seed")}):
            found = [rows[f"{kind}-seed{seed} on {ending}"] for seed in range(seeds)]
            scores = [[float(row["miou"]), *(json.loads(row["class_iou"])[name] for name in ("road", "building"))] for row in found]
            cells = [f"{statistics.mean(one):.3f}" + (f" +- {statistics.stdev(one):.3f}" if seeds > 1 else "") for one in zip(*scores)]
            print(f"| {TITLES[kind]} | {ending} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
