"""The runs of a sweep as sweep.csv, as a Markdown table and as a heat map.

The seeds of a setting share one line of the table and one cell of the heat map.
"""

import json
import math
import pathlib
import shlex
import statistics
import subprocess

from engine.files import read_text
from report.figures import save_png
from report.matrices import heat_map

TITLES = {"lr": "learning rate", "bs": "batch size"}
# Per column of the Markdown table: column of sweep.csv, factor, decimals.
MEASURES = {
    "training loss": ("train_loss", 1, 3),
    "validation loss": ("val_loss", 1, 3),
    "validation accuracy, %": ("val_accuracy", 100, 2),
    "validation mean IoU": ("best_val_miou", 1, 3),
    "test mean IoU": ("test_miou", 1, 3),
}
NOTE = ("Losses and validation accuracy are of the last epoch. Validation mean IoU is of the best "
        "epoch and chooses the best run. The test split is scored once, with the weights that the "
        "run keeps (--final), and chooses nothing.")


def row_of(cell, status, error):
    """The row of sweep.csv of a run.

    Args:
        cell: sweep.Cell.
        status: how it ended; error: the last line it printed if it failed.
    Returns:
        {column: text}.
    """
    log = cell.log()
    last = log[-1] if log else {}
    metrics = cell.folder / "metrics.json"
    scores = json.loads(read_text(metrics)) if metrics.exists() else {}
    row = {"cell": cell.folder.name, "lr": cell.args.lr, "bs": cell.args.bs,
           "seed": cell.args.seed}
    for flag, value in cell.flags.items():
        row[flag] = "yes" if value is None else value
    row["epochs_done"] = len(log)
    for column in ("train_loss", "val_loss", "val_accuracy", "val_miou"):
        row[column] = last.get(column)
    row["best_val_miou"] = cell.best() if log else None
    row["test_miou"] = scores["miou"] if scores.get("split") == "test" else None
    row["seconds"] = sum(float(epoch["seconds"]) for epoch in log)
    row["status"] = status
    row["error"] = error
    row["command"] = shlex.join(cell.command())
    row["commit"] = commit()
    return {column: "" if value is None else str(value) for column, value in row.items()}


def commit():
    """The commit of this code, marked "+changes" if files differ from it; empty without git."""
    def git(*words):
        command = ["git", "-C", pathlib.Path(__file__).resolve().parent, *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "-s", "-uno", "--", ":/*.py")
        return git("rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except OSError:
        return ""


def by_setting(rows, flags):
    """Group the runs that differ in nothing but the seed.

    Args:
        rows: dicts of sweep.csv, values as numbers or as text.
        flags: columns that tell settings apart.
    Returns:
        {(value, ...): rows}, in the order of `rows`.
    """
    groups = {}
    for row in rows:
        setting = tuple(str(row[flag]) for flag in flags)
        groups.setdefault(setting, []).append(row)
    return groups


def spread(values, decimals=3, between=" "):
    """Format numbers as "mean ± standard deviation", one as itself; "" and NaN are left out."""
    numbers = [float(value) for value in values if value != ""]
    numbers = [number for number in numbers if not math.isnan(number)]
    if not numbers:
        return ""
    mean = f"{statistics.fmean(numbers):.{decimals}f}"
    if len(numbers) == 1:
        return mean
    return f"{mean}{between}± {statistics.stdev(numbers):.{decimals}f}"


def state(group):
    """How the runs of a setting ended, such as "2 finished, 1 failed: <the last line>"."""
    ends = []
    for row in group:
        after = f" after {row['epochs_done']} epochs" if row["status"] == "stopped" else ""
        ends.append(row["status"] + after)
    parts = dict.fromkeys(ends)
    if len(group) > 1:
        parts = [f"{ends.count(end)} {end}" for end in parts]
    errors = dict.fromkeys(row["error"] for row in group if row["error"])
    return ": ".join([", ".join(parts), *errors]).replace("|", "/")


def markdown_table(rows, swept):
    """Format the runs of a sweep as a Markdown table, a line per setting.

    Args:
        rows: as in `by_setting`.
        swept: flags with several values.
    Returns:
        text, lines ending in a line break.
    """
    flags = ["lr", "bs"] + [flag for flag in swept if flag not in ("lr", "bs", "seed")]
    titles = [TITLES.get(flag, flag) for flag in flags] + [*MEASURES, "state"]
    lines = [titles, ["---"] * len(titles)]
    for setting, group in by_setting(rows, flags).items():
        scored = [row for row in group if row["status"] in ("finished", "stopped")]
        scores = []
        for column, factor, decimals in MEASURES.values():
            values = [factor * float(row[column]) for row in scored if row[column] != ""]
            scores.append(spread(values, decimals))
        lines.append([*setting, *scores, state(group)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid_figure(rows, swept, title):
    """Draw the validation mean IoU of a grid: the last swept flag across, the others down.

    Args:
        rows, swept: as in `markdown_table`.
        title: what was trained on what.
    Returns:
        PIL.Image.
    """
    flags = [flag for flag in swept if flag != "seed"]
    down, across = flags[:-1], flags[-1:]
    group_of = by_setting(rows, flags)
    lines = list(by_setting(rows, down))
    columns = list(by_setting(rows, across))
    values = []
    texts = []
    for line in lines:
        cells = [grid_cell(group_of.get(line + column, [])) for column in columns]
        values.append([value for value, _ in cells])
        texts.append([text for _, text in cells])
    title += ": validation mean IoU of each run's best epoch"
    if "seed" in swept:
        seeds = len(by_setting(rows, ["seed"]))
        title += f", mean +- standard deviation over {seeds} seeds"
    names = [[", ".join(setting) for setting in settings] for settings in (lines, columns)]
    labels = [", ".join(TITLES.get(flag, flag) for flag in side) for side in (down, across)]
    return heat_map(values, *names, *labels, title, texts)


def grid_cell(group):
    """Mean validation IoU of the finished runs of a setting, NaN without any, and the cell's text.

    Args:
        group: rows of sweep.csv, which may be empty.
    """
    scores = [row["best_val_miou"] for row in group if row["status"] == "finished"]
    if not scores:
        return math.nan, ", ".join(dict.fromkeys(row["status"] for row in group))
    text = spread(scores, between="\n").replace("±", "+-")  # the figures' font is ASCII
    if len(scores) < len(group):
        text += f"\n{len(scores)} of {len(group)} runs"
    return statistics.fmean(map(float, scores)), text


def search_figure(rungs, names, title):
    """Draw a search: settings down, best first, rungs across; untrained ones are hatched.

    Args:
        rungs: list of (epoch, {name: best validation mean IoU up to that epoch}).
        names: the settings, in the order they are shown in.
        title: what was trained on what.
    Returns:
        PIL.Image.
    """
    values = [[scores.get(name, math.nan) for _, scores in rungs] for name in names]
    texts = [["" if math.isnan(value) else f"{value:.3f}" for value in line] for line in values]
    settings = [name.replace("_", ", ") for name in names]
    epochs = [str(epoch) for epoch, _ in rungs]
    return heat_map(values, settings, epochs, "setting", "epochs (hatched: not trained so far)",
                    f"{title}: best validation mean IoU so far", texts)


def report(rows, swept, out, title, command, rungs=()):
    """Write sweep.md and sweep.png; print the table, the best run and the paths.

    Args:
        rows, swept: as in `markdown_table`, values as text.
        out: folder of the sweep, pathlib.Path.
        title: what was trained on what.
        command: the sweep's.
        rungs: of a search, as in `search_figure`; its rows are shown best first.
    """
    if rungs:
        rows = sorted(rows, key=lambda row: (-int(row["epochs_done"]),
                                             -float(row["best_val_miou"] or 0)))
    parts = [f"{title}, by `{command}`\n", markdown_table(rows, swept)]
    finished = [row for row in rows if row["status"] == "finished"]
    if finished:
        best = max(finished, key=lambda row: float(row["best_val_miou"]))
        score = float(best["best_val_miou"])
        parts.append(f"Best run by validation mean IoU, {score:.3f}: "
                     f"{out / best['cell'] / 'best.pt'}\n")
    if rungs:
        parts.append(search_cost(rows, rungs))
        figure = search_figure(rungs, [row["cell"] for row in rows], title)
    else:
        figure = grid_figure(rows, swept, title)
    text = "\n".join([*parts, NOTE]) + "\n"
    temporary = out / "sweep.md.part"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out / "sweep.md")
    save_png(figure, out / "sweep.png")
    print(text)
    print(out / "sweep.csv", out / "sweep.md", out / "sweep.png", sep="\n")


def search_cost(rows, rungs):
    """A line of text: how many settings a search trained, and for how many epochs in all."""
    reached = ", ".join(f"{len(scores)} to epoch {epoch}" for epoch, scores in rungs)
    spent = sum(int(row["epochs_done"]) for row in rows)
    in_full = rungs[-1][0] * len(rows)
    return (f"Settings trained: {reached}. Epochs: {spent}, {spent / in_full:.0%} of the "
            f"{in_full} that all {len(rows)} settings in full would take.\n")
