"""Train a grid of settings, or search among them, each run in a process of its own.

    python sweep.py --lr 1e-3 1e-2 --bs 16 32 64               every combination
    python sweep.py --lr 1e-3 1e-2 --bs 16 32 --seed 0 1 2     also mean and deviation over seeds
    python sweep.py --search 24 --lr 1e-4..1e-1 --bs 8,16,32   24 draws, the poor ones stopped early

Any flag of train.py can be given, with one value or several. The command writes sweep.csv (a row
per run), sweep.md and sweep.png to --out. Each run has its folder there, and a text file of what
it printed beside it. The same command again skips finished runs and goes on with interrupted ones.
"""

import engine.startup  # first: what may happen while torch is imported
import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
import shlex
import shutil
import sys
import time

from tqdm import tqdm

from engine import flags as train_flags
from engine.cli import Parser, number, one_line_errors, plural
from engine.files import read_text
from engine.length import choose_length
from engine.lock import check_lock, locked
from engine.prepared import changed_data, data_fingerprint
from engine.processes import start_script
from engine.search import draw, halve, rung_sizes
from report.sweep_tables import report, row_of
from report.tables import read_rows, write_rows

PATIENCE = 3  # seconds that a run may take to end after the sweep that started it was killed
LOG_COLUMNS = ("val_miou", "seconds")  # of log.csv, that are always filled
# Of sweep.csv.
STATUSES = ("finished", "failed", "stopped", "interrupted")
SCORES = ("train_loss", "val_loss", "val_accuracy", "best_val_miou")
RUN_COLUMNS = {"cell", "lr", "bs", "seed", "epochs_done", "test_miou", "seconds", "status", "error",
               "command", *SCORES}
TRAIN = pathlib.Path(__file__).resolve().parent / "train.py"
OWN = ("-h", "--help", "--out", "--jobs", "--search", "--search-seed", "--retry", "--dry-run")


def parse_args(argv=None):
    """The command line.

    Returns:
        Namespace, whose `flags` are those of train.py, {"lr": ["1e-3", "1e-2"], "compile": []},
        and whose `command` is what was typed.
    """
    parser = Parser(
        description="Train a grid of settings, or search. Every other flag is train.py's, with one "
        "value or several.",
        epilog="example: python sweep.py --lr 1e-3 1e-2 --bs 16 32 64 --jobs 2")
    flag = parser.add_argument
    flag("--out", help="folder; default: runs/sweep-<data>-<flags>, or runs/search-<data>-<flags>")
    flag("--jobs", type=number(int, 1), default=1, help="runs at a time, which share the cores")
    flag("--search", type=number(int, 0), default=0, metavar="N", help="settings to draw from "
         "ranges such as 1e-4..1e-1 (log-uniform) and lists such as 8,16,32; 0 trains every "
         "combination")
    flag("--search-seed", type=int, default=0, help="decides what --search draws")
    flag("--retry", action="store_true", help="run again what failed")
    flag("--dry-run", action="store_true", help="only print what would be run")
    argv = sys.argv[1:] if argv is None else argv
    values_of = group_words(parser, argv)
    own_words = []
    flags = {}
    for name, values in values_of.items():
        if name in OWN:
            own_words += [name, *values]
        else:
            flags[name[2:]] = values
    args = parser.parse_args(own_words)
    args.flags = flags
    args.command = shlex.join(["python", "sweep.py", *argv])
    return args


def group_words(parser, argv):
    """Group the words of a command line by flag: {"--lr": ["1e-3", "1e-2"], "--compile": []}."""
    values_of = {}
    name = None
    for word in argv:
        if word.startswith("--") or word == "-h":
            name, equals, value = word.partition("=")
            if name in values_of:
                parser.error(f"{name} is given twice: give it once, with all its values")
            values_of[name] = [value] if equals else []
        elif name is None:
            parser.error(f"{word} stands before the first flag")
        else:
            values_of[name].append(word)
    return values_of


@dataclasses.dataclass
class Cell:
    """One run of the grid, which may not have begun."""
    flags: dict  # train.py's flags as typed; the value is None where a flag takes none
    args: argparse.Namespace  # what they mean to train.py
    folder: pathlib.Path  # the run's
    missing: int = 0  # epochs that it lacked when it was last looked at

    def command(self, with_out=True):
        """The command as a person would type it, with or without --out."""
        words = ["python", "train.py"]
        for flag in sorted(self.flags):
            words.append(f"--{flag}")
            if self.flags[flag] is not None:
                words.append(self.flags[flag])
        return words + ["--out", str(self.folder)] if with_out else words

    def log(self):
        """The rows of the run's log.csv, one per epoch; an incomplete last row is left out.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.folder / "log.csv"
        rows = read_rows(path)
        whole = [is_epoch(row) for row in rows]
        if not all(whole[:-1]) or (rows and not rows[0].keys() >= {*LOG_COLUMNS}):
            raise ValueError(f"{path} is damaged in line {whole.index(False) + 2}")
        return rows if not rows or whole[-1] else rows[:-1]

    def best(self, until=None):
        """Highest validation mean IoU of the first `until` epochs, or of all; NaN counts as 0."""
        scores = [float(row["val_miou"]) for row in self.log()[:until]]
        return max((score for score in scores if not math.isnan(score)), default=0.0)


def plan(args):
    """Lay out the grid or the search; train.py's own rules check each setting.

    Returns:
        (list of Cell, flags that they differ in, the sweep's folder).
    """
    if args.flags.keys() & {"resume", "stop-after"}:
        raise ValueError("--resume and --stop-after: sweep.py gives them itself, leave them out")
    if args.search:
        settings = draw(args.flags, args.search, args.search_seed)
    else:
        choices = [values or [None] for values in args.flags.values()]
        settings = [dict(zip(args.flags, chosen)) for chosen in itertools.product(*choices)]
    swept = [flag for flag in args.flags if len({setting[flag] for setting in settings}) > 1]
    if args.search and "epochs" in swept:
        raise ValueError("--epochs: give one value, because settings are compared at equal epochs")
    if args.search and "patience" in args.flags:
        raise ValueError("--patience: leave it out, because a search stops the poor trials itself")
    cells = {}
    for setting in settings:
        values = [f"{flag}={setting[flag]}" for flag in sorted(swept)]
        name = "_".join(values).replace("/", "-") or "run"
        if name in cells:
            raise ValueError(f"the same run ({name}) would be trained twice: give every value once")
        cell = Cell(setting, None, pathlib.Path(name))
        cell.args = train_flags.parse_args(cell.command(with_out=False)[2:])
        cells[name] = cell
    from train import check_args  # imports torch, which a mistyped flag need not wait for
    for cell in cells.values():
        check_args(cell.args)
    data = pathlib.Path(cell.args.data).resolve().name
    kind = "search" if args.search else "sweep"
    out = pathlib.Path(args.out or "-".join([f"runs/{kind}", data, *swept]))
    for cell in cells.values():
        cell.folder = out / cell.folder
    return list(cells.values()), swept, out


class Sweep:
    """The folder of a sweep, and the training of its runs.

    Args:
        out: the folder, pathlib.Path.
        rows: {cell: row} of sweep.csv.
        jobs: processes at a time.
        lock: sweep.lock, which this process holds locked; None for a look at the plan.
    """

    def __init__(self, out, rows, jobs, lock=None):
        self.out = out
        self.rows = rows
        self.jobs = jobs
        self.lock = lock

    def status(self, cell):
        """How a run ended: "finished", "failed", "stopped", "interrupted", or "missing"."""
        return self.rows.get(cell.folder.name, {}).get("status", "missing")

    def train(self, cells, until=0):
        """Train some runs, up to `jobs` at a time; finished and failed ones are left alone.

        Args:
            cells: list of Cell.
            until: epoch to stop after; 0 is each run's last.
        """
        left = []
        for cell in cells:
            ended = self.status(cell) in ("finished", "failed")
            reached = self.status(cell) == "stopped" and not missing_epochs(cell, until)
            if not (ended or reached):
                left.append(cell)
        total = sum(missing_epochs(cell, until) for cell in left)
        running = {}  # process: cell
        with tqdm(total=total, desc=plural(len(left), "run"), unit="epoch", disable=None) as bar:
            try:
                while left or running:
                    while left and len(running) < self.jobs:
                        self.begin(left.pop(0), until, running, bar)
                    time.sleep(0.1)
                    for process, cell in list(running.items()):
                        self.look_after(process, cell, until, running, bar)
            finally:  # a signal ended the sweep if anything runs; each run saves after its step
                for process in running:
                    process.terminate()
                for process, cell in running.items():
                    process.join()
                    self.finish(cell, None, until)

    def begin(self, cell, until, running, bar):
        """Start a run, and add it to `running`, unless another process writes to its folder."""
        import torch
        cell.missing = missing_epochs(cell, until)
        try:
            process = start(cell, max(1, torch.get_num_threads() // self.jobs), until)
        except BlockingIOError as error:
            bar.total -= cell.missing
            self.finish(cell, None, until)
            bar.write(str(error))
        else:
            running[process] = cell

    def look_after(self, process, cell, until, running, bar):
        """Show a run's progress; write its row if its process has ended."""
        code = process.exitcode
        missing = missing_epochs(cell, until)
        bar.update(cell.missing - missing)
        cell.missing = missing
        if code is None:
            return
        del running[process]
        bar.total -= missing  # of a run that failed
        row = self.finish(cell, code, until)
        epochs = plural(int(row["epochs_done"]), "epoch")
        bar.write(f"{cell.folder}: {row['status']}, {epochs}, best validation mean IoU "
                  f"{cell.best():.3f} {row['error']}")

    def finish(self, cell, code, until):
        """Write a run's row of sweep.csv after its process ended with `code`; return the row."""
        check_lock(self.lock)
        status, error = outcome(cell, code, until)
        row = row_of(cell, status, error)
        self.rows[cell.folder.name] = row
        write_rows(self.out / "sweep.csv", list(self.rows.values()))
        return row


def missing_epochs(cell, until):
    """Epochs that a run still lacks up to epoch `until`, or to its last one if that is 0."""
    return max(0, (until or cell.args.epochs) - len(cell.log()))


def start(cell, threads, until):
    """Start train.py on a run, or resume it; its output is appended to a file beside its folder.

    Args:
        cell: Cell.
        threads: that it may use.
        until: epoch to stop after; 0 is its last.
    Returns:
        multiprocessing's Process.
    Raises:
        BlockingIOError: another process writes to its folder.
    """
    resume = False
    if cell.folder.is_dir():
        wait_until_free(cell.folder / "args.json")
        with locked(cell.folder / "args.json"):
            resume = (cell.folder / "last.pt").exists()
            if not resume:
                clear(cell.folder)  # of a run that was stopped before it saved
    words = [str(TRAIN), *cell.command()[2:]]
    if resume:
        words.append("--resume")
    if until:
        words += ["--stop-after", str(until)]
    return start_script(words, output_file(cell), threads)


def wait_until_free(path):
    """Wait for a process to end that has a file locked, but not for long."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError), locked(path):
            return
        time.sleep(0.05)


def clear(folder):
    """Remove all that a run's folder holds, except args.json, which is locked."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "args.json":
            path.unlink()


def output_file(cell):
    """The text file of what a run printed."""
    return pathlib.Path(f"{cell.folder}.txt")


def outcome(cell, code, until):
    """The status of a run whose process ended with `code`, and its error, or "" if it has none.

    Args:
        cell: Cell.
        code: exit code; None for a run that is to go on later.
        until: epoch that it was to stop after; 0 is its last.
    """
    if code is None or code == 130:  # the run was stopped by a signal, and saved before
        return "interrupted", ""
    if code < 0:
        return "failed", f"killed by signal {-code}"
    if code == 0 and (cell.folder / "metrics.json").exists():
        return "finished", ""
    if code == 0 and 0 < until <= len(cell.log()) < cell.args.epochs:
        return "stopped", ""
    printed = output_file(cell).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "failed", printed[-1].strip() if printed else ""


def known_rows(cells, out, retry):
    """Read sweep.csv of the sweep's folder; a damaged row is left out, and its run looked at again.

    Args:
        cells: list of Cell; out: the folder.
        retry: leave out the runs that failed.
    Returns:
        {cell: row}.
    Raises:
        ValueError: a run was begun with other flags.
    """
    path = out / "sweep.csv"
    rows = {}
    try:
        for row in read_rows(path):
            if is_run(row):
                rows[row["cell"]] = row
            else:
                warn(f"{path} is damaged", f"run {str(row.get('cell'))[:80]} is looked at again")
    except ValueError as error:
        warn(error, "all its runs are looked at again")
    for cell in cells:
        row = rows.get(cell.folder.name)
        if row and shlex.split(row["command"])[:-2] != cell.command(with_out=False):
            raise ValueError(f"{cell.folder} was begun with other flags, `{row['command']}`: give "
                             "another --out")
    if retry:
        rows = {name: row for name, row in rows.items() if row["status"] != "failed"}
    return rows


def is_epoch(row):
    """Whether a row of log.csv is whole."""
    filled = [column for column in row if row[column]]
    return (None not in row and None not in row.values()
            and are_numbers(row, [*LOG_COLUMNS, *filled]))


def is_run(row):
    """Whether a row of sweep.csv is one that a sweep wrote."""
    if None in row or None in row.values() or not row.keys() >= RUN_COLUMNS:
        return False
    measured = [column for column in SCORES if row[column] or row["status"] == "finished"]
    try:
        shlex.split(row["command"])
    except ValueError:  # an open quotation mark
        return False
    return (row["status"] in STATUSES and row["epochs_done"].isdecimal()
            and are_numbers(row, ["seconds", *measured]))


def are_numbers(row, columns):
    """Whether some columns of a row of text hold numbers."""
    try:
        for column in columns:
            float(row[column])
    except (KeyError, ValueError):
        return False
    return True


def warn(what, remedy):
    """Print a warning of one line."""
    line = " ".join(f"{what}: {remedy}".split())
    print(f"warning: {line}", file=sys.stderr)


def discard_damaged(cell, rows):
    """Have a run whose log or scores are damaged done again.

    Args:
        cell: Cell; rows: {cell: row} of sweep.csv, which loses the run's.
    """
    names = ("log.csv", "last.pt", "metrics.json")  # without last.pt a run begins anew
    metrics = cell.folder / "metrics.json"
    problem = None
    least = cell.args.epochs
    if cell.args.patience:  # which ends a run early, but not in its first epoch, the best so far
        least = min(least, cell.args.patience + 1)
    try:
        if metrics.exists() and len(cell.log()) < least:
            problem = f"{cell.folder / 'log.csv'} lacks epochs of a finished run"
        elif metrics.exists() and not are_scores(metrics):
            problem = f"{metrics} is damaged"
            names = ("metrics.json",)  # which the run writes again
        cell.log()
    except ValueError as error:
        problem = error
    if problem is None:
        return
    with locked(cell.folder / "args.json"):
        for name in names:
            (cell.folder / name).unlink(missing_ok=True)
    rows.pop(cell.folder.name, None)
    warn(problem, "this run is done again")


def are_scores(path):
    """Whether a file holds the scores of a run as `sweep_tables.row_of` reads them."""
    try:
        scores = json.loads(read_text(path))
        return isinstance(scores["split"], str) and isinstance(scores["miou"], (float, type(None)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def check_data(file, out, fingerprints):
    """Refuse data sets that changed since the sweep began; note those that are new.

    Args:
        file: <out>/sweep.lock, open for appending; it holds the fingerprints of the first time.
        out: the sweep's folder.
        fingerprints: {data set: data_fingerprint of it}.
    """
    path = out / "sweep.lock"
    try:
        known = json.loads(path.read_text(encoding="utf-8") or "{}")
        before = {data: dict(known.get(data, fingerprints[data])) for data in fingerprints}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is damaged: delete it if the data sets are still those that the "
                         "sweep began on") from None
    for data, fingerprint in fingerprints.items():
        if changed_data(data, before[data], fingerprint):
            raise ValueError(f"{data} is not the data set that {out} was begun on: give another "
                             "--out")
    file.truncate(0)
    file.write(json.dumps(known | fingerprints))
    file.flush()


def main(args):
    """Train what is missing, then write and print the results; return the number of failures."""
    cells, swept, out = plan(args)
    if args.dry_run:
        print_plan(cells, Sweep(out, known_rows(cells, out, args.retry), args.jobs), args.search)
        return 0
    demo = train_flags.DEMO
    if any(cell.args.data == demo for cell in cells) and not os.path.exists(demo):
        from prepare_data import make_demo
        make_demo(demo)
    fingerprints = {cell.args.data: data_fingerprint(cell.args.data) for cell in cells}
    for cell in cells:
        fingerprint = fingerprints[cell.args.data]
        if not fingerprint["tiles of val"]:
            raise ValueError(f"--data {cell.args.data} has no validation split, and runs are "
                             "compared by their scores on it: prepare a set with one")
        choose_length(cell.args, fingerprint["tiles of train"])
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock") as file:
        check_data(file, out, fingerprints)
        rows = known_rows(cells, out, args.retry)
        for cell in cells:
            discard_damaged(cell, rows)
        sweep = Sweep(out, rows, args.jobs, file)
        rungs = []
        if args.search:
            for epoch, reached in halve(cells, cells[0].args.epochs, sweep.train):
                rungs.append((epoch, {cell.folder.name: cell.best(epoch) for cell in reached}))
        else:
            sweep.train(cells)
        rows = [sweep.rows[cell.folder.name] for cell in cells]
        title = f"{pathlib.Path(cells[0].args.data).name}, {cells[0].args.model}"
        check_lock(file)
        report(rows, swept, out, title, args.command, rungs)
    return sum(row["status"] in ("failed", "interrupted") for row in rows)


def print_plan(cells, sweep, is_search):
    """Print what would be run: status and command of each run, and the rungs of a search."""
    for cell in cells:
        print(f"{sweep.status(cell):<12} {shlex.join(cell.command())}")
    if is_search:
        for epoch, size in rung_sizes(len(cells), cells[0].args.epochs):
            print(f"{size} of {len(cells)} settings to epoch {epoch}")


if __name__ == "__main__":
    with one_line_errors("sweep.py", "the same command goes on", "lower --jobs or --bs"):
        sys.exit(min(1, main(parse_args())))
