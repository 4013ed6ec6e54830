"""How cost grows: with tiles, classes, bands and sides in training, with the scene in prediction.

    python bench/growth.py                  three rounds, each about a quarter of an hour
    python bench/growth.py --tables-only    docs/growth.png from the rows there are

Training: two epochs of train.py on a synthetic set, of which the second counts. All its curves
begin at one setting, START. Prediction: predict.py on a synthetic scene, start-up and files
included. A row of results/growth.csv is one measurement, and a round measures each setting once.
"""

import argparse
import importlib.metadata
import itertools
import math
import pathlib
import statistics
import tempfile
import time

from experiments import RESULTS, ROOT, append, call, origin, processor, read_csv
from measure import measured, synthetic_tiles, write_synthetic_set

from geo.raster import write_geotiff
from report.curves import curves
from report.figures import save_png

ROUNDS = 3
START = {"tiles": 32, "classes": 2, "bands": 3, "side": 128}
SIZES = {"start": (1,), "tiles": (64, 128, 256), "classes": (5, 10, 23), "bands": (4, 8, 13),
         "side": (256, 512), "scene": (1024, 2048, 4096, 8192)}  # sides in px
NAMES = {"tiles": "training: tiles", "classes": "training: classes", "bands": "training: bands",
         "side": "training: pixels of a tile", "scene": "prediction: pixels of a scene"}


def train(folder, tiles, classes, bands, side):
    """Train a U-Net of width 16 for two epochs on a synthetic set; the last row of log.csv."""
    write_synthetic_set(folder / "set", {"train": tiles, "val": 4, "test": 1}, side, bands, classes)
    call("train.py", "--data", folder / "set", "--out", folder / "run", "--bs", 4, "--epochs", 2)
    return read_csv(folder / "run" / "log.csv")[-1]


def cost(what, value, folder):
    """Seconds of an epoch, or of a scene, and peak memory in MB, where `what` is `value`."""
    if what != "scene":
        setting = START if what == "start" else {**START, what: value}
        row = train(folder, **setting)
        return float(row["seconds"]), float(row["peak_memory_mb"])
    train(folder, **{**START, "tiles": 4})
    block = synthetic_tiles(1, value, START["bands"], START["classes"])[0][0][:512]
    blocks = (block[:value - row] for row in range(0, value, 512))
    write_geotiff(folder / "scene.tif", blocks, value, value, START["bands"], "uint8", level=1)
    used = measured("predict.py", "--checkpoint", folder / "run" / "last.pt", "--out", folder,
                    folder / "scene.tif")
    return used["wall_s"], used["resident_mb"]


def seconds_of(rows, what):
    """{size: its seconds in each round} of one curve, which begins at START or a first scene."""
    found = {}
    for row in rows:
        if row["grows"] == what:
            found.setdefault(int(row["to"]), []).append(float(row["s"]))
        elif row["grows"] == "start" and what != "scene":
            found.setdefault(START[what], []).append(float(row["s"]))
    return dict(sorted(found.items()))


def figure(rows):
    """Doublings of the seconds against doublings of each quantity, beside linear growth.

    Each size has three marks: the mean of the rounds, the shortest and the longest.
    """
    series = {"linear growth: twice as much takes twice as long": [(0, 0), (6, 6)]}
    for what, name in NAMES.items():
        seconds = seconds_of(rows, what)
        first = min(seconds)
        power = 2 if what in ("side", "scene") else 1  # pixels
        series[name] = []
        for size, times in seconds.items():
            x = power * math.log2(size / first)
            for time_s in (statistics.mean(times), min(times), max(times), statistics.mean(times)):
                y = math.log2(time_s / statistics.mean(seconds[first]))
                series[name].append((x, y))
    ticks = {n: f"x {2 ** n}" for n in range(7)}
    return curves(series, "more tiles, classes, bands or pixels",
                  "doublings of the time (1: twice as long, 6: 64 times as long)",
                  "How the time grows with the data", (-1, 6), ticks)


def main(args):
    """Measure what is missing, a row at a time, then draw the figure."""
    table = RESULTS / "growth.csv"
    there = {(int(row["round"]), row["grows"], int(row["to"])) for row in read_csv(table)}
    sizes = [(what, value) for what, values in SIZES.items() for value in values]
    for number, (what, value) in itertools.product(range(1, ROUNDS + 1), sizes):
        if (number, what, value) in there or args.tables_only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds, memory = cost(what, value, pathlib.Path(folder))
        append(table, {"round": number, "grows": what, "to": value, "s": f"{seconds:.2f}",
                       "peak memory, MB": f"{memory:.0f}", "threads": 1, "processor": processor(),
                       "torch": importlib.metadata.version("torch"),
                       "date": time.strftime("%Y-%m-%d"), **origin("bench/growth.py")})
        print(f"{what} {value}: {seconds:.2f} s, {memory:.0f} MB", flush=True)
    save_png(figure(read_csv(table)), ROOT / "docs" / "growth.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables-only", action="store_true", help="measure nothing")
    main(parser.parse_args())
