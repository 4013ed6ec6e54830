"""How the cost of training grows: seconds an epoch and peak memory by tiles, classes, bands and side of a tile.

    python bench/growth.py                 a table, results/growth.csv and docs/growth.png; some minutes
    python bench/growth.py --quick         two small sizes of each, to see that it runs

Each row is a run of train.py on a synthetic set, two epochs of which the second counts. How prediction grows
with a scene's area is not measured here.
"""

import argparse
import csv
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # before bench: scenes.py is the project's

from data import HelpFormatter
from figures import curves, save_png
from measure import append_rows, markdown, write_synthetic_set
from run_table import ROOT

USUAL = {"tiles": 64, "classes": 7, "bands": 3, "side": 128}
SIZES = {"tiles": (32, 64, 128, 256), "classes": (2, 5, 10, 23), "bands": (3, 4, 8, 13), "side": (64, 128, 256, 512)}
QUICK = {"tiles": (4, 8), "classes": (2, 23), "bands": (3, 13), "side": (32, 64)}


def epoch_cost(tiles, classes, bands, side, flags):
    """Train twice over a synthetic set; returns the second epoch's row of log.csv.

    Args:
        tiles: training tiles; classes, bands: K, C; side: of a tile, px.
        flags: more of train.py's flags.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_synthetic_set(folder / "set", {"train": tiles, "val": 4, "test": 1}, side, bands, classes)
        command = [sys.executable, ROOT / "train.py", "--data", folder / "set", "--out", folder / "run", "--bs", 4,
                   "--epochs", 2, *flags]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"train.py failed: {done.stderr.strip().splitlines()[-1:]}")
        with open(folder / "run" / "log.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))[-1]


def main():
    """Measure, print the table, append its rows, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only; writes no figure and no rows")
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--threads", type=int, default=1, help="that OMP_NUM_THREADS was set to, for the table")
    args = parser.parse_args()
    usual, sizes = ({**USUAL, "tiles": 8, "side": 32}, QUICK) if args.quick else (USUAL, SIZES)
    rows, lines = [], {}
    for what, values in sizes.items():
        for value in values:
            row = epoch_cost(**{**usual, what: value}, flags=["--width", args.width])
            seconds, memory = float(row["seconds"]), float(row["peak_memory_mb"])
            rows.append({"grows": what, **usual, what: value, "s an epoch": f"{seconds:.2f}",
                         "peak memory, MiB": f"{memory:.0f}", "waiting for input": f"{float(row['waiting_share']):.1%}"})
            lines.setdefault(what, []).append((value, seconds))
            print(f"{what} {value}: {seconds:.2f} s, {memory:.0f} MiB", file=sys.stderr, flush=True)
    print(markdown(rows))
    if not args.quick:
        append_rows(ROOT / "results" / "growth.csv", rows, " ".join(["python", *sys.argv]), args.threads)
        # Relative to the smallest, so that four subjects fit on one pair of axes.
        relative = {name: [(x / line[0][0], y / line[0][1]) for x, y in line] for name, line in lines.items()}
        save_png(curves(relative, "times the smallest", "seconds an epoch, times the smallest's"), ROOT / "docs" / "growth.png")


if __name__ == "__main__":
    main()
