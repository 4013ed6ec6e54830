"""Training runs as rows of a table: finished rows stay, missing runs are trained.

A table is a CSV of results/ with one row per run. The scripts of bench/ list their runs by name and
flags, and `run_missing` trains those without a row, each in a process and folder of its own. A row
is appended when its run ends. So a command that was stopped goes on where it was, also within a
run. Each row contains its command, as typed in the project's folder, and its commit.

Import this before modules of the project: it puts the project's folder on the path.
"""

import argparse
import csv
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seed only: one line of a report.

    Attributes:
        runs: names of the runs with seeds 0, 1, ...: the keys of the table's rows.
        flags: train.py's flags without --seed and --out; {seed} in them stands for the seed. None
            if an option has left the project: the rows are shown, and no run is trained.
        script: what takes the flags and writes metrics.json and log.csv, as train.py does.
    """
    runs: tuple
    flags: str | None
    script: str = "train.py"

    def words(self, seed):
        """The flags of the run with a seed, as a list."""
        return self.flags.replace("{seed}", str(seed)).split()

    def data_folder(self, seed):
        """The prepared set that the run with a seed is trained on."""
        words = self.words(seed)
        return ROOT / words[words.index("--data") + 1]


def numbered(name, count=3, word="seed"):
    """Names of the runs with seeds 0 to count - 1, such as demo-5-teacher-draw0."""
    return tuple(f"{name}-{word}{number}" for number in range(count))


def experiment_parser(description):
    """A parser with the flags that the scripts of experiments share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flag = parser.add_argument
    flag("--sets", nargs="+", default=["demo"], metavar="NAME", help="prepared sets, as data/NAME")
    flag("--only", nargs="+", default=[""], metavar="START", help="runs whose names start so")
    flag("--jobs", type=int, default=1, help="runs beside each other, of one thread each")
    flag("--tables-only", action="store_true", help="train nothing: write tables from the rows")
    return parser


def make_demo(args):
    """Prepare the demo if it is asked for and missing."""
    if "demo" in args.sets and not (ROOT / "data" / "demo").exists():
        call("prepare_data.py", "demo", "--out", "data/demo")


def run_missing(table, experiments, args):
    """Train every run that has no row in the table yet, and append its row.

    Args:
        table: path of the CSV; the runs go to runs/<name of the table>/<name of the run>.
        experiments: list of Experiment; each is trained once before the next seed.
        args: of `experiment_parser`.
    Raises:
        ValueError: a row was scored on another test set than its folder has now, or a run failed.
    """
    rows = read_rows(table)
    missing = []
    for experiment in experiments:
        for seed, name in enumerate(experiment.runs):
            if experiment.flags and name in rows:
                check_same_test_set(rows[name], experiment.data_folder(seed))
            elif experiment.flags and name.startswith(tuple(args.only)):
                missing.append((seed, name, experiment))
    print(f"{table.name}: {len(missing)} runs are missing", flush=True)
    lock = threading.Lock()

    def run(seed, name, experiment):
        row = train(seed, name, experiment, f"runs/{table.stem}/{name}")
        with lock:
            append(table, row)
        print(f"{name}: mean IoU {row['miou']:.3f}, {row['train_s']:.0f} s", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        ordered = sorted(missing, key=lambda one: one[0])
        list(pool.map(run, *zip(*ordered)))  # a list, so that an error is raised here


def train(seed, name, experiment, out):
    """Train one run, resumed where it was interrupted; return its row."""
    words = [*experiment.words(seed), "--seed", str(seed), "--out", out]
    folder = ROOT / out
    if not (folder / "metrics.json").exists():
        resume = ["--resume"] if (folder / "last.pt").exists() else []
        call(experiment.script, *words, *resume)
    scores = read_json(folder / "metrics.json")
    log = read_csv(folder / "log.csv")
    return {"name": name,
            "miou": scores["miou"],
            "pixel_accuracy": scores["pixel_accuracy"],
            "labelled_pixels": scores["labelled_pixels"],
            "scored_on": test_set_digest(experiment.data_folder(seed)),
            "class_iou": class_iou(scores),
            "train_s": sum(float(epoch["seconds"]) for epoch in log),
            "epochs": len(log),
            "threads": 1,
            "processor": processor(),
            "date": time.strftime("%Y-%m-%d"),
            **origin(experiment.script, *words)}


def score_again(table, row, columns, *flags):
    """Score a finished run with evaluate.py and append what is kept of it, unless that was done.

    Args:
        table: path of the CSV.
        row: of the run; if the run here is another one, or none, it is left out.
        columns: function from the scores of evaluate.py to a dict.
        flags: of evaluate.py.
    """
    out = row["command"].split()[-1]
    metrics = ROOT / out / "metrics.json"
    if row["name"] in read_rows(table) or not metrics.exists():
        return
    if as_cell(read_json(metrics)["miou"]) != row["miou"]:
        return
    checkpoint = f"{out}/{pathlib.Path(read_json(metrics)['checkpoint']).name}"
    command = ["evaluate.py", "--checkpoint", checkpoint, *flags, "--out", f"{out}/scores"]
    call(*command)
    split = "train" if "train" in flags else "test"
    scores = read_json(ROOT / out / "scores" / f"metrics_{split}.json")
    append(table, {"name": row["name"], **columns(scores), **origin(*command)})


def call(script, *words):
    """Run a script of the project on one thread; ValueError with its last words if it fails."""
    command = [script, *map(str, words)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


@functools.cache
def test_set_digest(folder):
    """A short digest of a prepared set's test split."""
    from engine.prepared import (
        data_fingerprint,  # here, because importing torch takes seconds
    )
    counts = data_fingerprint(folder)
    content = json.dumps([counts["pixels of test"], counts["look of test"]])
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def check_same_test_set(row, folder):
    """Refuse a row that was scored on another test set than lies under the same path now."""
    if folder.exists() and row["scored_on"] != test_set_digest(folder):
        raise ValueError(f"{row['name']} was scored on another set than {folder} is now: prepare "
                         "that as it was then")


# Rows

def read_json(path):
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path):
    """The rows of a CSV as a list of dict; none if the file is missing."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_rows(table):
    """The rows of a table by name; the last one if a name occurs twice."""
    return {row["name"]: row for row in read_csv(table)}


def append(table, row):
    """Append a row to a CSV in the order of the CSV's columns; a new CSV gets the row's."""
    rows = read_csv(table)
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0] if rows else row)
        if not rows:
            writer.writeheader()
        writer.writerow({key: as_cell(value) for key, value in row.items()})


def as_cell(value):
    """A value as text; fractions with five digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def class_iou(scores):
    """IoU by class as JSON, from a metrics.json: one column fits all data sets."""
    return json.dumps({entry["name"]: round(entry["iou"], 4) for entry in scores["classes"]
                       if entry["iou"] is not None})


def origin(*words):
    """The commit checked out, marked if scripts were changed since, and a command."""
    def git(*arguments):
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        return done.stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    commit = git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
    return {"commit": commit, "command": " ".join(["python", *map(str, words)])}


def processor():
    """Name of the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")  # Linux
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


# Statistics

def scores_of(runs, rows):
    """Mean IoU of the runs that have a row."""
    return [float(rows[name]["miou"]) for name in runs if name in rows]


def mean_and_spread(values, digits=3):
    """Mean ± sample standard deviation as text; the mean alone of one value, "" of none."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}" if values else ""


def paired_gains(runs, others, rows, other_rows=None):
    """Differences in points of mean IoU, seed by seed, where both were scored on the same set.

    Runs compared with themselves have none. `other_rows` are the rows of `others`, if not `rows`.
    """
    if runs == others and other_rows is None:
        return []
    other_rows = other_rows or rows
    pairs = [(rows[name], other_rows[other]) for name, other in zip(runs, others)
             if name in rows and other in other_rows]
    return [100 * (float(ours["miou"]) - float(theirs["miou"])) for ours, theirs in pairs
            if ours["scored_on"] == theirs["scored_on"]]


def difference(gains):
    """Mean of paired differences, its 95 % t interval and p value, as text."""
    if len(gains) < 2:
        return listed(gains)
    mean = statistics.mean(gains)
    half = t_quantile(len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    low, high = signed(mean - half), signed(mean + half)
    return f"{signed(mean)} [{low}, {high}], p {paired_p(gains):.2g}"


def listed(gains):
    """The differences themselves, as text."""
    return ", ".join(map(signed, gains))


def signed(gain):
    """A number with its sign and one decimal, and no negative zero."""
    return f"{round(gain, 1) + 0.0:+.1f}"


def paired_p(gains):
    """Two-sided p of a t test that two or more paired differences have mean 0."""
    mean = statistics.mean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    if error == 0:
        return float(mean == 0)
    return t_tails(mean / error, len(gains) - 1)


def t_tails(t, df):
    """P(|T| > |t|) of Student's t with df = 1, 2, ... degrees of freedom.

    Source: Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(df))
    odd = df % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, df + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    inside = math.sin(angle) * total
    return 1 - ((angle + inside) * 2 / math.pi if odd else inside)


def t_quantile(df, tails=0.05):
    """The t that |T| exceeds with probability `tails`, by bisection."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, df) > tails else (low, middle)
    return low


def markdown(rows):
    """Rows, a list of dict with the same keys, as lines of a Markdown table; [] of none."""
    if not rows:
        return []
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def write_report(name, lines):
    """Print lines and write them to results/<name>."""
    text = "\n".join(lines) + "\n"
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(text)
