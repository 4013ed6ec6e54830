"""Points against full supervision: every method on the same frozen points, over several draws of them.

    python bench/few_points.py --jobs 2                                     the demo, made where it is missing
    python bench/few_points.py --dubai data/dubai --roads data/roads        and real imagery, prepared before
    python bench/few_points.py --only demo-1-                               the runs whose names start so

Rows go to results/points.csv, one a run; what is there is skipped, so it goes on where it was stopped. How runs do near the
classes' boundaries goes to results/points_borders.csv, and on the tiles they were trained on to points_places.csv. From all rows it
then writes results/points.md and docs/points-<set>.png. Draws are paired: one seed is one choice of points, for every method.

Dubai is prepared as baseline.py says; the roads, 100 images of 400 px, from a table of classes with the lines `id,name,r,g,b`,
`0,background,190,190,190` and `255,road,230,60,40`, by `python prepare_data.py folder --images FOLDER/images --masks
FOLDER/groundtruth --classes roads.csv --threshold 127 --tile 200 --out data/roads`.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(1, str(pathlib.Path(__file__).resolve().parents[1]))

from baseline import DUBAI
from run_table import (
    ROOT,
    append,
    cell_of,
    commit,
    difference,
    mean_and_spread,
    read_rows,
    run_missing,
    scores_in_pairs,
)

from report.figures import curves, save_png

TABLE, BORDERS = ROOT / "results" / "points.csv", ROOT / "results" / "points_borders.csv"
PLACES = ROOT / "results" / "points_places.csv"
DEMO = "--stem 2 --crop 96 --bs 8 --lr 3e-3 --epochs 20 --final last".split()  # about two minutes on one core
ROADS = DEMO
# Where weights are averaged, that holds for all but the plain baseline: what a method adds is not what averaging adds.
AVERAGED = {"demo": True, "dubai": False, "roads": True}
PATCHES = {"demo": ["--superpixels", "16"], "dubai": ["--superpixels", "8"], "roads": ["--superpixels", "8"]}
CLASS_WEIGHTS = ["--class-weights", "sqrt"]  # one point a tile leaves a rare class a handful of labels
AVERAGE, TEACHER = ["--ema", "0.98"], ["--teacher", "0.7"]
BASELINE, PIXELS, FRESH, FULL = "partial CE", "pixel classifier", "points drawn anew at each visit", "every label"
PLAIN, TWICE = "partial CE, last weights", "partial CE, twice the epochs"  # the teacher takes nearly twice the time
FULL_TWICE, LONGER = "every label, twice the epochs", ["--epochs", "40"]  # what TWICE is held against
BALANCED, SUPERPIXELS = "partial CE, class weights", "superpixels"
BEST, PAIR = "superpixels, class weights", "superpixels, class weights, teacher"
METHODS = {PLAIN: [], BASELINE: [], BALANCED: CLASS_WEIGHTS, SUPERPIXELS: ["patches"],
           BEST: [*CLASS_WEIGHTS, "patches"], "teacher": TEACHER, "gated CRF": ["--crf", "0.03"],
           PAIR: [*CLASS_WEIGHTS, "patches", *TEACHER],
           TWICE: LONGER}
SCRIPTS = {PIXELS: "bench/pixel_classifier.py", FRESH: "bench/fresh_points.py"}
JITTER = 4.0  # px
SAME = {f"dubai-{new}-draw{draw}": f"dubai-long-{old}-seed{draw}"  # runs that baseline.py trains
        for new, old in (("0-every-label", 0), ("20-partial-CE", 20)) for draw in range(3)}


def flags_of(data, method):
    """train.py's flags of a method on a set."""
    words = METHODS.get(method, [])
    words = [flag for word in words for flag in (PATCHES[data] if word == "patches" else [word])]
    averaged = "--teacher" in words or AVERAGED[data] and method != PLAIN
    return (AVERAGE if averaged else []) + words


@dataclasses.dataclass(frozen=True)
class Cell:
    """One line of the table: a method on one set with k points a tile, over some draws."""
    data: str
    points: int  # 0: every label
    method: str
    draws: int
    flags: tuple
    note: str = ""  # what sets its family apart from "k points a tile, uniform"

    def names(self):
        """Its runs' names, one a draw: the keys of the table's rows."""
        words = [self.data, str(self.points), *self.note.split(), *self.method.replace(",", "").replace("+", "").split()]
        return ["-".join(words) + f"-draw{draw}" for draw in range(self.draws)]

    def experiments(self):
        """(name, flags) of its runs."""
        return [(name, [*self.flags, "--points", self.points, "--seed", draw]) for draw, name in enumerate(self.names())]


def cells_of(data, folder, flags, points, methods):
    """The lines of one set; controls and second families are fuller on the demo, where a run takes a minute.

    Args:
        data: its name.
        folder: where it is prepared.
        flags: list of train.py's flags, the same for every method.
        points: numbers of points a tile.
        methods: names out of METHODS, and PIXELS.
    Returns:
        list of Cell.
    """
    flags, demo = ["--data", str(folder), *flags], data == "demo"

    def cell(k, method, note="", *more):
        return Cell(data, k, method, 5 if k == 1 and demo else 3, (*flags, *flags_of(data, method), *more), note)

    off, per_class = ("jitter", "--point-jitter", str(JITTER)), ("per class", "--points-per", "class")
    cells = [cell(0, FULL), *(cell(k, method) for k in points for method in methods), cell(1, FRESH), cell(5, BASELINE, *off)]
    if demo:
        cells.insert(1, cell(0, FULL_TWICE, "", *LONGER))
        cells += [cell(5, BEST, *off), cell(5, FRESH), cell(1, BASELINE, *per_class), cell(1, BEST, *per_class)]
    return cells


def all_rows():
    """The rows by name, with those of baseline.py that are of this table too."""
    others = read_rows(ROOT / "results" / "baseline.csv")
    return read_rows(TABLE) | {name: others[other] for name, other in SAME.items() if other in others}


def scores_of(cell, rows):
    """Mean IoU of those of a cell's draws that have a row, by name of the draw."""
    return {name.rsplit("-", 1)[1]: float(rows[name]["miou"]) for name in cell.names() if name in rows}


def spread(values):
    """Standard deviation over draws; NaN for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def table_lines(cells, rows):
    """The table of one set in Markdown; a gain is paired, draw by draw, over partial CE on the same points.

    Args:
        cells: list of Cell of one set.
        rows: dict of rows by name.
    Returns:
        list of str.
    """
    lines = ["| points a tile | method | labelled px | mean IoU | of full | gain over partial CE, points of mean IoU | draws | s a run |",
             "|---|---|---|---|---|---|---|---|"]
    full = list(scores_of(cells[0], rows).values())
    by_family = {(cell.points, cell.note): cell.names() for cell in cells if cell.method == BASELINE}
    for cell in cells:
        scores = scores_of(cell, rows)
        if not scores:
            continue
        ran = [rows[name] for name in cell.names() if name in rows]
        mean = statistics.mean(scores.values())
        base = by_family.get((cell.points, cell.note), []) if cell.method != BASELINE else []
        gain = difference(scores_in_pairs(list(zip(cell.names(), base)), rows))
        points = "all" if not cell.points else f"{cell.points} {cell.note}".strip()
        share = f"{mean / statistics.mean(full):.0%}" if full else ""
        lines.append(f"| {points} | {cell.method} | {int(ran[0]['labelled_pixels']):,} | "
                     f"{mean_and_spread(list(scores.values()), '.3f')} | {share} | {gain} | {len(scores)} | "
                     f"{statistics.mean(float(row['train_s']) for row in ran):.0f} |")
    return lines


def score_parts(cells, rows):
    """What the errors are made of, for every run that is on this machine; what has been scored is not scored again.

    Mean IoU near the classes' boundaries and beyond goes to results/points_borders.csv. That of the training tiles, all labels of
    them, of which a run from points saw few, goes to results/points_places.csv: what it loses from there to the test tiles is
    due to the places and their other mix of classes.

    Args:
        cells, rows: as in `table_lines`; a run that is not its row's, an older one say, is left out.
    """
    for table, split in ((BORDERS, "test"), (PLACES, "train")):
        there = read_rows(table)
        for name in (name for cell in cells if cell.method in (FULL, BASELINE, BEST) for name in cell.names()):
            folder = f"runs/baseline/{SAME[name]}" if name in SAME else f"runs/points/{name}"
            metrics = ROOT / folder / "metrics.json"
            if name in there or name not in rows or not metrics.exists():
                continue
            if cell_of(json.loads(metrics.read_text(encoding="utf-8"))["miou"]) != rows[name]["miou"]:
                continue
            command = ["evaluate.py", "--checkpoint", f"{folder}/last.pt", "--split", split, "--out", f"{folder}/scores"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
            scores = json.loads((ROOT / folder / "scores" / f"metrics_{split}.json").read_text(encoding="utf-8"))
            row = {"name": name} | ({"miou": scores["miou"]} if split == "train" else {})  # points.csv has the test tiles'
            row |= {f"{what}_{where}": scores["boundary"][where][what] for where in ("within", "beyond") for what in ("pixels", "miou")}
            append(table, row | {"calibration_error": scores["calibration_error"], "commit": commit(),
                                 "command": " ".join(["python", *command])})


def border_lines(cells):
    """Its table in Markdown, means over draws."""
    rows, lines = read_rows(BORDERS), []
    for cell in cells:
        there = [rows[name] for name in cell.names() if name in rows]
        if there:
            means = [mean_and_spread([float(row[column]) for row in there], ".3f") for column in ("miou_within", "miou_beyond")]
            share = statistics.mean(int(row["pixels_within"]) / (int(row["pixels_within"]) + int(row["pixels_beyond"]))
                                    for row in there)
            lines.append(f"| {cell.points or 'all'} {cell.note} | {cell.method} | {means[0]} | {share:.0%} | {means[1]} | {len(there)} |")
    head = ["| points a tile | method | mean IoU within 3 px of a boundary | share of pixels | beyond | draws |", "|---|---|---|---|---|---|"]
    return ["", *head, *lines] if lines else []


def place_lines(cells, rows):
    """Training tiles beside test tiles in Markdown, means over the same draws; rows as in `table_lines`."""
    trained, lines = read_rows(PLACES), []
    for cell in cells:
        there = [name for name in cell.names() if name in trained and name in rows]
        if there:
            means = [mean_and_spread([float(table[name]["miou"]) for name in there], ".3f") for table in (trained, rows)]
            lines.append(f"| {cell.points or 'all'} {cell.note} | {cell.method} | {means[0]} | {means[1]} | {len(there)} |")
    head = ["| points a tile | method | mean IoU of training tiles, all labels | of test tiles | draws |", "|---|---|---|---|---|"]
    return ["", *head, *lines] if lines else []


def figure(cells, rows, title):
    """Mean IoU against points a tile, a line a method, with a stroke of one standard deviation up and down at each mean.

    Each line stands a little beside the one before it, or the strokes would hide each other.

    Args:
        cells, rows: as in `table_lines`.
        title: text above.
    Returns:
        PIL.Image, or None where no row is there yet.
    """
    series = {}
    for cell in cells:
        values = list(scores_of(cell, rows).values())
        if len(values) < 2 or cell.note or cell.method in (FRESH, FULL_TWICE):  # one draw has no spread to be seen
            continue
        mean, off = statistics.mean(values), spread(values)
        xs = [math.log10(cell.points)] if cell.points else [-0.05, math.log10(max(c.points for c in cells)) + 0.3]
        line = series.setdefault(cell.method, [])
        beside = 0.025 * list(series).index(cell.method)
        line += [(x + beside, y) for x in xs for y in (mean, mean + off, mean - off, mean)]  # up, down and back
    if not series:
        return None
    ticks = {math.log10(k): str(k) for k in sorted({cell.points for cell in cells if cell.points})}
    return curves(series, "points a tile", "mean IoU, test split; strokes: one standard deviation over draws", title, x_ticks=ticks)


def parse_args(argv=None):
    """The command line; `python bench/few_points.py --help` shows it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--demo", default="data/demo", help="the prepared demo; made where it is missing")
    parser.add_argument("--dubai", help="Dubai in its standard form, see baseline.py; not given: left out")
    parser.add_argument("--roads", help="the prepared road set; not given: left out")
    parser.add_argument("--only", nargs="*", default=[""], metavar="START", help="run those whose names start so, "
                        "such as demo-1-; a start that no name has writes table and figures alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    return parser.parse_args(argv)


def main(args):
    """Run what is missing, then write the tables and the figures."""
    sets = {"demo": cells_of("demo", args.demo, DEMO, (1, 5, 20, 100), [PIXELS, *METHODS])}
    if args.dubai:
        sets["dubai"] = cells_of("dubai", args.dubai, DUBAI, (1, 5, 20), (PIXELS, BASELINE, BEST))
    if args.roads:
        sets["roads"] = cells_of("roads", args.roads, ROADS, (1, 5), (PIXELS, BASELINE, BALANCED, SUPERPIXELS, BEST))
    for cell in (cell for cells in sets.values() for cell in cells):
        wanted = [(name, flags) for name, flags in cell.experiments() if name.startswith(tuple(args.only)) and name not in SAME]
        if args.list:
            print(*(f"{name}: {' '.join(map(str, flags))}" for name, flags in wanted), sep="\n")
        elif wanted:
            if cell.data == "demo" and not (ROOT / args.demo).exists():
                subprocess.run([sys.executable, "prepare_data.py", "demo", "--out", args.demo], cwd=ROOT, check=True)
            run_missing(TABLE, wanted, ROOT / "runs" / "points", args.jobs, args.threads, SCRIPTS.get(cell.method, "train.py"))
    if args.list:
        return
    rows, lines = all_rows(), ["Written by `python bench/few_points.py` from points.csv; each row there holds its command."]
    for name, cells in sets.items():
        score_parts(cells, rows)
        lines += ["", f"## {name}", "", *table_lines(cells, rows), *border_lines(cells), *place_lines(cells, rows)]
        picture = figure(cells, rows, f"{name}: points against every label")
        if picture:
            save_png(picture, ROOT / "docs" / f"points-{name}.png")
    (ROOT / "results" / "points.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(parse_args())
