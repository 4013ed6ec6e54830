"""How cost grows: with tiles, classes, bands and the side of a tile in training, with a scene's area in prediction.

    python bench/growth.py                 a table, results/growth.csv and docs/growth.png; a quarter of an hour
    python bench/growth.py --quick         two small sizes of each, to see that it runs

Training: two epochs of train.py on a synthetic set, of which the second counts. Prediction: predict.py on a synthetic scene,
start-up and files included. Rows that are in the table already are not measured again.
"""

import argparse
import csv
import math
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # before bench: scenes.py is the project's

from measure import (
    append_rows,
    markdown,
    measured,
    synthetic_tiles,
    write_synthetic_set,
)
from run_table import ROOT

from engine.cli import HelpFormatter
from geo.raster import write_geotiff
from report.figures import curves, save_png

USUAL = {"tiles": 64, "classes": 7, "bands": 3, "side": 128}
SIZES = {"tiles": (32, 64, 128, 256), "classes": (2, 5, 10, 23), "bands": (3, 4, 8, 13), "side": (64, 128, 256, 512),
         "scene": (1024, 2048, 4096, 8192)}
QUICK = {"tiles": (4, 8), "classes": (2, 23), "bands": (3, 13), "side": (32, 64), "scene": (64, 128)}
TABLE = ROOT / "results" / "growth.csv"


def train(folder, tiles, classes, bands, side, width):
    """Train for two epochs on a synthetic set; returns the second one's row of log.csv.

    Args:
        folder: pathlib.Path, for the set and the run.
        tiles: training tiles; classes, bands: K, C; side: of a tile, px.
        width: of the U-Net.
    """
    write_synthetic_set(folder / "set", {"train": tiles, "val": 4, "test": 1}, side, bands, classes)
    command = [sys.executable, ROOT / "train.py", "--data", folder / "set", "--out", folder / "run", "--bs", 4,
               "--epochs", 2, "--width", width]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"train.py failed: {done.stderr.strip().splitlines()[-1:]}")
    with open(folder / "run" / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))[-1]


def cost(what, value, usual, width):
    """Seconds (of an epoch, or of a scene) and peak memory, MB, where one of USUAL, or the scene's side, px, is `value`."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if what != "scene":
            row = train(folder, **{**usual, what: value}, width=width)
            return float(row["seconds"]), float(row["peak_memory_mb"])
        train(folder, **{**usual, "tiles": 4}, width=width)
        strip = synthetic_tiles(1, value, usual["bands"], usual["classes"])[0][0][:min(512, value)]  # over and over
        strips = (strip[:value - row] for row in range(0, value, 512))
        write_geotiff(folder / "scene.tif", strips, value, value, usual["bands"], "uint8", level=1)
        used = measured("predict.py", "--checkpoint", folder / "run" / "last.pt", "--out", folder, folder / "scene.tif")
        return used["wall_s"], used["resident_mb"]


def read_rows():
    """The rows that are there: {(what grows, its value as text): row}."""
    if not TABLE.exists():
        return {}
    with open(TABLE, newline="", encoding="utf-8") as file:
        return {(row["grows"], row["to"]): row for row in csv.DictReader(file)}


def main():
    """Measure what is missing, a row at a time, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only; writes no figure and no rows")
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--threads", type=int, default=1, help="for torch")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the scripts that are measured
    usual, sizes = ({**USUAL, "tiles": 8, "side": 32}, QUICK) if args.quick else (USUAL, SIZES)
    rows, lines = [], {}
    there = {} if args.quick else read_rows()
    for what, value in ((what, value) for what, values in sizes.items() for value in values):
        row = there.get((what, str(value)))
        if row is None:
            seconds, memory = cost(what, value, usual, args.width)
            row = {"grows": what, "to": value, "s": f"{seconds:.2f}", "peak memory, MB": f"{memory:.0f}"}
            if not args.quick:
                append_rows(TABLE, [row], " ".join(["python", *sys.argv]), args.threads)
        rows.append({key: row[key] for key in ("grows", "to", "s", "peak memory, MB")})
        size = value ** 2 if what in ("side", "scene") else value  # area
        lines.setdefault({"side": "area of a tile", "scene": "area of a scene"}.get(what, what), []).append((size, float(row["s"])))
        print(f"{what} {value}: {row['s']} s, {row['peak memory, MB']} MB", file=sys.stderr, flush=True)
    print(markdown(rows))
    if not args.quick:
        # Relative to the smallest, in doublings, so that five subjects fit on one pair of axes.
        relative = {name: [(math.log2(x / line[0][0]), math.log2(y / line[0][1])) for x, y in line] for name, line in lines.items()}
        save_png(curves(relative, "doublings of what grows", "doublings of its seconds"), ROOT / "docs" / "growth.png")


if __name__ == "__main__":
    main()
