"""Train a grid of settings, or search among them, one train.py process a run; ends as a table and a heat map.

    python sweep.py --lr 1e-3 1e-2 --bs 16 32 64                every combination; any flag of train.py, several values
    python sweep.py --lr 1e-3 1e-2 --bs 16 32 64 --seed 0 1 2   the same, as mean and standard deviation over seeds
    python sweep.py --search 24 --lr 1e-4..1e-1 --bs 8,16,32    24 settings drawn, the poor ones stopped early

writes sweep.csv (a row a run), sweep.md and sweep.png to --out; each run has its folder there, and a text file of what it
printed beside it. The same command again skips what is finished and goes on with what was interrupted.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import torch
from tqdm import tqdm

import train
from engine.cli import HelpFormatter
from engine.lock import locked
from engine.prepared import data_fingerprint
from engine.search import draw, halve, rung_sizes
from prepare_data import make_demo
from report.sweep_tables import read_table, report, row_of, write_table

TRAIN = pathlib.Path(__file__).resolve().parent / "train.py"
OWN = ("-h", "--help", "--out", "--jobs", "--search", "--search-seed", "--retry", "--dry-run")


def parse_args(argv=None):
    """The command line; `flags` of the result holds train.py's: {"lr": ["1e-3", "1e-2"], "compile": [], ...}."""
    parser = argparse.ArgumentParser(
        description="Train a grid of settings, or search. Every other flag is train.py's, with one value or several.",
        epilog="example: python sweep.py --lr 1e-3 1e-2 --bs 16 32 64 --jobs 2", allow_abbrev=False,
        formatter_class=HelpFormatter)
    parser.add_argument("--out", help="folder; not given: runs/sweep-<data>-<flags>, or runs/search-<data>-<flags>")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other, which share the processor's cores")
    parser.add_argument("--search", type=int, default=0, metavar="N", help="settings to draw from ranges such as "
                        "1e-4..1e-1 (log-uniform) and lists such as 8,16,32; 0 trains every combination")
    parser.add_argument("--search-seed", type=int, default=0, help="decides what --search draws")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    argv, flags = sys.argv[1:] if argv is None else argv, {}
    for word in argv:
        if word.startswith("--") or word == "-h":
            name, equals, value = word.partition("=")
            if name in flags:
                parser.error(f"{name} is given twice: give it once, with all its values")
            flags[name] = [value] if equals else []
        elif flags:
            flags[name].append(word)
        else:
            parser.error(f"{word} stands before the first flag")
    args = parser.parse_args([word for name in flags if name in OWN for word in (name, *flags[name])])
    args.flags = {name[2:]: values for name, values in flags.items() if name not in OWN}
    args.command = shlex.join(["python", "sweep.py", *argv])
    return args


@dataclasses.dataclass
class Cell:
    """One run to be: train.py's flags as typed (None where one has no value), what they mean, and the run's folder."""
    flags: dict
    args: argparse.Namespace
    folder: pathlib.Path

    def command(self, folder=True):
        """The command as a person would type it, with or without --out."""
        words = [word for flag in sorted(self.flags) for word in (f"--{flag}", self.flags[flag]) if word is not None]
        return ["python", "train.py", *words, *(["--out", str(self.folder)] if folder else [])]

    def log(self):
        """The rows of the run's log.csv, an epoch each; one that a process ended in, or is still writing, is none yet."""
        return [row for row in read_table(self.folder / "log.csv") if None not in row.values()]

    def best(self, until=None):
        """Highest validation mean IoU of the first `until` epochs, or of all; NaN counts as 0, as in train.py."""
        scores = [float(row["val_miou"]) for row in self.log()[:until]]
        return max((score for score in scores if not math.isnan(score)), default=0.0)


def plan(args):
    """Lay out the grid or the search; the numbers of every setting are checked by train.py's own rules before anything runs.

    Returns:
        (list of Cell, flags they differ in, the sweep's folder).
    """
    if args.jobs < 1 or args.search < 0:
        raise ValueError(f"--jobs {args.jobs} --search {args.search}: give 1 job or more, and 0 draws or more")
    if args.flags.get("oversample", [])[1:]:
        raise ValueError("--oversample: a sweep would train one run a class; give one class, or train.py --oversample")
    grid = itertools.product(*(some or [None] for some in args.flags.values()))
    settings = (draw(args.flags, args.search, args.search_seed) if args.search else [dict(zip(args.flags, cell)) for cell in grid])
    swept = [flag for flag in args.flags if len({setting[flag] for setting in settings}) > 1]
    cells = {}
    for setting in settings:
        name = "_".join(f"{flag}={setting[flag]}" for flag in sorted(swept)).replace("/", "-") or "run"
        if name in cells:
            raise ValueError(f"the same run ({name}) would be trained twice: give every value once")
        cell = cells[name] = Cell(setting, None, pathlib.Path(name))
        cell.args = train.parse_args(cell.command(folder=False)[2:])
        if cell.args.resume or cell.args.stop_after or cell.args.out:
            raise ValueError("--resume and --stop-after are sweep.py's own doing, leave them out; write --out in full")
        train.check_args(cell.args)
    if args.search and "epochs" in swept:
        raise ValueError("--epochs cannot be searched: settings are compared at equal epochs; give it one value")
    data = pathlib.Path(cell.args.data).resolve().name
    out = pathlib.Path(args.out or "-".join(["runs/search" if args.search else "runs/sweep", data, *swept]))
    for cell in cells.values():
        cell.folder = out / cell.folder
    return list(cells.values()), swept, out


def train_cells(cells, rows, out, jobs, until=0):
    """Train what is missing of some cells, side by side; a cell's row is in sweep.csv as soon as its process ends.

    Args:
        cells: list of Cell; those that finished or failed are left alone.
        rows: {cell: row} of sweep.csv, changed in place.
        out, jobs: the sweep's folder, and processes beside each other.
        until: epoch to stop after; 0 is each cell's last.
    """
    def missing(cell):
        return max(0, (until or cell.args.epochs) - len(cell.log()))  # epochs

    status = {cell.folder: rows.get(cell.folder.name, {}).get("status") for cell in cells}
    left = [cell for cell in cells if status[cell.folder] not in ("finished", "failed")
            and (missing(cell) or status[cell.folder] != "stopped")]
    running, threads = {}, max(1, torch.get_num_threads() // jobs)
    with tqdm(total=sum(map(missing, left)), desc=f"{len(left)} runs", unit="epoch", disable=None) as bar:
        try:
            while left or running:
                while left and len(running) < jobs:
                    cell = left.pop(0)
                    try:
                        running[cell.folder] = cell, start(cell, threads, until), missing(cell)
                    except BlockingIOError as error:
                        bar.total -= missing(cell)
                        finish(cell, rows, out, None, until)
                        bar.write(str(error))
                time.sleep(0.1)
                for cell, process, before in list(running.values()):
                    code, now = process.poll(), missing(cell)
                    running[cell.folder] = cell, process, now
                    bar.update(before - now)
                    if code is not None:
                        del running[cell.folder]
                        bar.total -= now  # what a failed run leaves undone
                        row = finish(cell, rows, out, code, until)
                        bar.write(f"{cell.folder}: {row['status']}, {row['epochs_done']} epochs, best validation mean "
                                  f"IoU {cell.best():.3f} {row['error']}")
        finally:  # something runs here only where a signal stopped the sweep; each run saves after the step under way
            for _, process, _ in running.values():
                process.terminate()
            for cell, process, _ in running.values():
                process.wait()
                finish(cell, rows, out, None, until)


def start(cell, threads, until):
    """Start train.py on a cell, or let it go on; what it prints is added to the text file beside its folder.

    Raises: BlockingIOError where another process is writing to that folder.
    """
    resume = (cell.folder / "last.pt").exists()
    if cell.folder.is_dir():
        with locked(cell.folder / "args.json"):
            if not resume:
                shutil.rmtree(cell.folder)  # left by a run that was stopped before it saved anything
    words = [*cell.command()[2:], *["--resume"] * resume, *(["--stop-after", str(until)] if until else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with open(f"{cell.folder}.txt", "a", encoding="utf-8") as file:
        return subprocess.Popen([sys.executable, TRAIN, *words], stdout=file, stderr=subprocess.STDOUT, env=environment)


def finish(cell, rows, out, code, until):
    """Write the row of a cell whose process ended with `code`, None where it is to go on later; returns the row."""
    scored, error = (cell.folder / "metrics.json").exists(), ""
    status = "finished" if scored else "stopped" if 0 < until <= len(cell.log()) < cell.args.epochs else "failed"
    if code is None:
        status = "interrupted"
    elif code or status == "failed":
        printed = pathlib.Path(f"{cell.folder}.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        status, error = "failed", f"killed by signal {-code}" if code < 0 else "".join(printed[-1:]).strip()
    rows[cell.folder.name] = row_of(cell, status, error)
    write_table(out / "sweep.csv", rows.values())
    return rows[cell.folder.name]


def read_rows(cells, out, retry):
    """{cell: row} of the folder's sweep.csv, less the failed for a retry; refuses cells that were begun with other flags."""
    rows = {row["cell"]: row for row in read_table(out / "sweep.csv")}
    for cell in cells:
        row = rows.get(cell.folder.name)
        if row and shlex.split(row["command"])[:-2] != cell.command(folder=False):
            raise ValueError(f"{cell.folder} was begun with other flags, `{row['command']}`: give another --out")
    return {name: row for name, row in rows.items() if not (retry and row["status"] == "failed")}


def main(args):
    """Train what is missing, then write and print the results; returns how many runs are not finished."""
    cells, swept, out = plan(args)
    epochs = cells[0].args.epochs
    if args.dry_run:
        rows = read_rows(cells, out, args.retry)
        for cell in cells:
            print(f"{rows.get(cell.folder.name, {}).get('status', 'missing'):<12} {shlex.join(cell.command())}")
        for epoch, size in rung_sizes(len(cells), epochs) if args.search else []:
            print(f"{size} of {len(cells)} settings to epoch {epoch}")
        return 0
    if any(cell.args.data == train.DEMO for cell in cells) and not pathlib.Path(train.DEMO).exists():
        make_demo(train.DEMO)
    sets = {cell.args.data: data_fingerprint(cell.args.data) for cell in cells}  # one that cannot be read is said before anything runs
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock") as file:
        try:  # what the sets were when it began
            before = json.loads((out / "sweep.lock").read_text(encoding="utf-8") or "{}")
            changed = [data for data in sets if before.get(data, sets[data]) != sets[data]]
        except (ValueError, AttributeError, RecursionError):
            raise ValueError(f"{out}/sweep.lock is not as sweep.py wrote it: delete it if the data sets are those it began on") from None
        if changed:
            raise ValueError(f"{out} was begun on another set than {changed[0]} is now: give another --out")
        file.truncate(0)
        file.write(json.dumps(before | sets))
        file.flush()
        rows, rungs = read_rows(cells, out, args.retry), []
        if args.search:
            for epoch, reached in halve(cells, epochs, lambda some, epoch: train_cells(some, rows, out, args.jobs, epoch)):
                rungs.append((epoch, {cell.folder.name: cell.best(epoch) for cell in reached}))
        else:
            train_cells(cells, rows, out, args.jobs)
        rows = [rows[cell.folder.name] for cell in cells]
        report(rows, swept, out, f"{pathlib.Path(cells[0].args.data).name}, {cells[0].args.model}", args.command, rungs)
    return sum(row["status"] in ("failed", "interrupted") for row in rows)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt
    try:
        sys.exit(min(1, main(parse_args())))
    except KeyboardInterrupt:
        print("sweep.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"sweep.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
