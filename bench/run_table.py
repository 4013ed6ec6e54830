"""Training runs as rows of a table: what an experiment has done is kept, what is missing is run.

An experiment is a list of (name, train.py flags), to which "script" may name another script that takes these flags and
leaves the same files. A row is appended to its CSV the moment a run ends, with the command, as it would be typed in the
project's folder, and the commit it was run on: an experiment that was interrupted goes on where it stopped, also within a run.
"""

import csv
import functools
import hashlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = "data/demo"  # what train.py learns from unless told otherwise


def commit():
    """The commit checked out, marked where scripts were changed since."""
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def processor():
    """The processor's name, as Linux gives it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def run_missing(table, experiments, folder, jobs=1, threads=1, script="train.py"):
    """Train every run that has no row in the table yet, and append its row.

    Args:
        table: path of the CSV.
        experiments: list of (name, flags); a name is a row's key, flags are train.py's without --out.
        folder: where the runs go, one folder each.
        jobs: runs beside each other.
        threads: of each run.
        script: what is run, from the project's folder.
    Returns:
        list of dict, the rows of these experiments, in their order.
    Raises:
        ValueError: a row is there, but of another set than now lies under the same path; or a run failed.
    """
    table, rows = pathlib.Path(table), read_rows(table)
    names = [name for name, _ in experiments]
    missing = [(name, flags) for name, flags in experiments if name not in rows]
    for name, flags in experiments:
        if name in rows and (ROOT / data_of(flags)).exists() and rows[name]["scored_on"] != scored_on(data_of(flags)):
            raise ValueError(f"{table}: {name} was scored on another set than {data_of(flags)} is now: prepare that as it was "
                             "then, or take the row out")
    print(f"{table}: {len(names) - len(missing)} of {len(names)} runs are there", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for name, row in zip([name for name, _ in missing],
                             pool.map(lambda cell: _train(*cell, pathlib.Path(folder) / cell[0], threads, script), missing)):
            append(table, {"name": name, **row})
            print(f"{name}: mean IoU {float(row['miou']):.3f}, {float(row['train_s']):.0f} s", flush=True)
    rows = read_rows(table)
    return [rows[name] for name in names]


def read_rows(table):
    """The rows of a table by name; none where it is missing."""
    if not pathlib.Path(table).exists():
        return {}
    with open(table, newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def mean_and_spread(values, form=".3f"):
    """Mean and standard deviation as text; the mean alone of one value, nothing of none."""
    text = f"{statistics.mean(values):{form}}" if values else ""
    return text + (f" +- {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else "")


def data_of(flags):
    """The prepared set that train.py's flags name."""
    words = list(map(str, flags))
    return words[words.index("--data") + 1] if "--data" in words else DEMO


@functools.cache
def scored_on(folder):
    """A short digest of a prepared set's test split: one prepared otherwise, under the same path, has another."""
    sys.path.insert(0, str(ROOT))  # before this folder, whose scenes.py is another
    from data import data_fingerprint  # here, because importing torch takes seconds
    counts = data_fingerprint(ROOT / folder)
    return hashlib.sha256(json.dumps([counts["pixels of test"], counts["look of test"]]).encode()).hexdigest()[:8]


def scores_in_pairs(pairs, *tables):
    """Mean IoU of runs that are compared, where both have a row and were scored on the same set.

    Args:
        pairs: list of (name, name of the one it is compared with).
        tables: dicts of rows by name.
    Returns:
        list of (mean IoU, mean IoU).
    """
    found = [(ours[name], theirs[other]) for name, other in pairs for ours in tables for theirs in tables
             if name in ours and other in theirs and ours[name]["scored_on"] == theirs[other]["scored_on"]]
    return [(float(ours["miou"]), float(theirs["miou"])) for ours, theirs in found]


def difference(pairs):
    """What (ours, theirs) differ by, as text: points of mean IoU, "(none)" where under twice the spread; nothing of none."""
    gains = [100 * (ours - theirs) for ours, theirs in pairs]
    none = len(gains) > 1 and abs(statistics.mean(gains)) < 2 * statistics.stdev(gains)
    return mean_and_spread(gains, "+.1f") + " (none)" * none


def _train(name, flags, out, threads, script):
    """One run of the script, resumed where it was interrupted; returns its row."""
    command = ["python", script, *map(str, flags), "--out", os.path.relpath(out, ROOT)]
    resume = ["--resume"] if (out / "last.pt").exists() else []
    if not (out / "metrics.json").exists():
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run([sys.executable, *command[1:], *resume], cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
    scores = json.loads((out / "metrics.json").read_text())
    with open(out / "log.csv", newline="", encoding="utf-8") as file:
        log = list(csv.DictReader(file))
    row = {"miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"], "labelled_pixels": scores["labelled_pixels"],
           "scored_on": scored_on(data_of(flags))}
    # One column for all classes: a table may hold several data sets.
    row["class_iou"] = json.dumps({entry["name"]: round(entry["iou"], 4) for entry in scores["classes"] if entry["iou"] is not None})
    return row | {"train_s": sum(float(line["seconds"]) for line in log), "epochs": len(log), "threads": threads,
                  "processor": processor(), "date": time.strftime("%Y-%m-%d"), "commit": commit(), "command": " ".join(command)}


def cell_of(value):
    """A value as tables hold it: numbers with five digits."""
    return f"{value:.5g}" if isinstance(value, float) else value


def append(table, row):
    """Add a row, with the header first where the table is new."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({key: cell_of(value) for key, value in row.items()})
