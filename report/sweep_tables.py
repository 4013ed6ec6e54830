"""The runs of a sweep as sweep.csv, and as a Markdown table and a heat map, where all seeds of a setting are one line."""

import csv
import json
import math
import pathlib
import shlex
import statistics
import subprocess

from report.figures import heat_map, save_png

TITLES = {"lr": "learning rate", "bs": "batch size"}
MEASURES = {"training loss": ("train_loss", 1, 3), "validation loss": ("val_loss", 1, 3),
            "validation accuracy, %": ("val_accuracy", 100, 2), "validation mean IoU": ("best_val_miou", 1, 3),
            "test mean IoU": ("test_miou", 1, 3)}  # title: column of sweep.csv, factor, decimals
NOTE = ("Losses and validation accuracy are of the last epoch. Validation mean IoU is of the best one; runs are chosen by "
        "it. The test split is scored once, with the weights that the run keeps (--final), and chooses nothing.")


def read_table(path):
    """The rows of a CSV file, a dict of text each; none where there is no such file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def write_table(path, rows):
    """Write rows, dicts, as a CSV file, whole or not at all; a column is empty where a row has no such key."""
    with open(f"{path}.part", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row))
        writer.writeheader()
        writer.writerows(rows)
    pathlib.Path(file.name).replace(path)


def row_of(cell, status, error):
    """A run's row of sweep.csv.

    Args:
        cell: what sweep.py calls a Cell.
        status, error: how it ended, and the last line it printed if it failed.
    Returns:
        {column: text}.
    """
    log, path = cell.log(), cell.folder / "metrics.json"
    scores = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    row = {
        "cell": cell.folder.name, "lr": cell.args.lr, "bs": cell.args.bs, "seed": cell.args.seed,
        **{flag: "yes" if value is None else value for flag, value in cell.flags.items()}, "epochs_done": len(log),
        **{name: (log or [{}])[-1].get(name) for name in ("train_loss", "val_loss", "val_accuracy", "val_miou")},
        "best_val_miou": cell.best() if log else None,
        "test_miou": scores["miou"] if scores.get("split") == "test" else None,
        "seconds": sum(float(row["seconds"]) for row in log), "status": status, "error": error,
        "command": shlex.join(cell.command()), "commit": commit()}
    return {name: "" if value is None else str(value) for name, value in row.items()}


def commit():
    """The commit of these scripts, marked where they were changed since; empty outside git, or where there is no git."""
    def git(*words):
        command = ["git", "-C", pathlib.Path(__file__).resolve().parent, *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "-s", "-uno", "--", "*.py") else "")
    except OSError:
        return ""


def by_setting(rows, flags):
    """Rows in groups that differ in the seed only.

    Args:
        rows: dicts of sweep.csv, values as numbers or as text.
        flags: columns that tell settings apart.
    Returns:
        {(value, ...): rows}, in the order of rows.
    """
    groups = {}
    for row in rows:
        groups.setdefault(tuple(str(row[flag]) for flag in flags), []).append(row)
    return groups


def spread(values, decimals=3, between=" "):
    """Numbers as "mean ± standard deviation", one as itself, none as nothing; NaN, no score, is left out."""
    values = [float(value) for value in values if value != "" and not math.isnan(float(value))]
    text = f"{statistics.fmean(values):.{decimals}f}" if values else ""
    return text + (f"{between}± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else "")


def state(group):
    """How the runs of a setting ended: "finished", "stopped after 2 epochs", "2 finished, 1 failed: <the last line>"."""
    ends = [row["status"] + f" after {row['epochs_done']} epochs" * (row["status"] == "stopped") for row in group]
    text = ", ".join(f"{ends.count(end)} {end}" if len(group) > 1 else end for end in dict.fromkeys(ends))
    errors = dict.fromkeys(row["error"] for row in group if row["error"])
    return ": ".join([text, *errors]).replace("|", "/")


def markdown_table(rows, swept):
    """The runs of a sweep, a line a setting: learning rate, batch size, what else was swept, losses and scores.

    Args:
        rows: as in by_setting.
        swept: flags with several values.
    Returns:
        text, lines ending in a line break.
    """
    flags = ["lr", "bs", *(flag for flag in swept if flag not in ("lr", "bs", "seed"))]
    titles = [*(TITLES.get(flag, flag) for flag in flags), *MEASURES, "state"]
    lines = [titles, ["---"] * len(titles)]
    for setting, group in by_setting(rows, flags).items():
        scored = [row for row in group if row["status"] in ("finished", "stopped")]
        scores = [spread([factor * float(row[column]) for row in scored if row[column] != ""], decimals)
                  for column, factor, decimals in MEASURES.values()]
        lines.append([*setting, *scores, state(group)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid_figure(rows, swept, title):
    """The validation mean IoU of a grid as a heat map: the last swept flag across, the others down.

    Args:
        rows, swept: as in markdown_table.
        title: what was trained on what.
    Returns:
        PIL.Image.
    """
    flags = [flag for flag in swept if flag != "seed"]
    down, across = flags[:-1], flags[-1:]
    groups, lines, columns = by_setting(rows, flags), list(by_setting(rows, down)), list(by_setting(rows, across))
    values, texts = [], []
    for line in lines:
        cells = [groups.get(line + column, []) for column in columns]
        kept = [[row["best_val_miou"] for row in cell if row["status"] == "finished"] for cell in cells]
        values.append([statistics.fmean(map(float, scores)) if scores else math.nan for scores in kept])
        texts.append([(spread(scores, between="\n") or ", ".join(dict.fromkeys(row["status"] for row in cell))).replace("±", "+-")
                      + (f"\n{len(scores)} of {len(cell)} runs" if 0 < len(scores) < len(cell) else "")
                      for scores, cell in zip(kept, cells)])
    title += ": validation mean IoU of each run's best epoch"
    if "seed" in swept:
        title += f", mean +- standard deviation over {len(by_setting(rows, ['seed']))} seeds"
    names = [[", ".join(setting) for setting in settings] for settings in (lines, columns)]
    labels = [", ".join(TITLES.get(flag, flag) for flag in side) for side in (down, across)]
    return heat_map(values, *names, *labels, title, texts)


def search_figure(rungs, names, title):
    """A search as a heat map: settings down, best first, rungs across; what was stopped before a rung is hatched there.

    Args:
        rungs: list of (epoch, {name: best validation mean IoU up to that epoch}).
        names: the settings, in the order they are shown in.
        title: what was trained on what.
    Returns:
        PIL.Image.
    """
    values = [[scores.get(name, math.nan) for _, scores in rungs] for name in names]
    texts = [["" if math.isnan(value) else f"{value:.3f}" for value in line] for line in values]
    return heat_map(values, [name.replace("_", ", ") for name in names], [str(epoch) for epoch, _ in rungs], "setting",
                    "epochs (hatched: not trained so far)", f"{title}: best validation mean IoU so far", texts)


def report(rows, swept, out, title, command, rungs=()):
    """Write sweep.md and sweep.png, print the table, the best run and the paths.

    Args:
        rows, swept: as in markdown_table, values as text.
        out: folder of the sweep, pathlib.Path.
        title: what was trained on what.
        command: the sweep's.
        rungs: of a search, as in search_figure; its rows are shown best first.
    """
    lines = []
    if rungs:
        rows = sorted(rows, key=lambda row: (-int(row["epochs_done"]), -float(row["best_val_miou"] or 0)))
    finished = [row for row in rows if row["status"] == "finished"]
    if finished:
        best = max(finished, key=lambda row: float(row["best_val_miou"]))
        score, path = float(best["best_val_miou"]), out / best["cell"] / "best.pt"
        lines.append(f"Best run by validation mean IoU, {score:.3f}: {path}\n")
    if rungs:
        epochs, spent = rungs[-1][0], sum(int(row["epochs_done"]) for row in rows)
        reached = ", ".join(f"{len(scores)} to epoch {epoch}" for epoch, scores in rungs)
        lines.append(f"Settings trained: {reached}. Epochs: {spent}, {spent / (epochs * len(rows)):.0%} of the "
                     f"{epochs * len(rows)} that all {len(rows)} settings in full would take.\n")
        figure = search_figure(rungs, [row["cell"] for row in rows], title)
    else:
        figure = grid_figure(rows, swept, title)
    text = "\n".join([f"{title}, by `{command}`\n", markdown_table(rows, swept), *lines, NOTE]) + "\n"
    (out / "sweep.md.part").write_text(text, encoding="utf-8")
    (out / "sweep.md.part").replace(out / "sweep.md")
    save_png(figure, out / "sweep.png")
    print(text, *(out / name for name in ("sweep.csv", "sweep.md", "sweep.png")), sep="\n")
