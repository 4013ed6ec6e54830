"""Tables: lists of dicts as text, to and from CSV files."""

import csv
import math
import os

from engine.files import read_table, spreadsheet_text, writing
from report.intervals import FEW_PER_CLASS, score_intervals


def score_table(matrix, names, observations=None):
    """Format the scores as text: a line per class, then the means and what they are over.

    Args:
        matrix: ConfusionMatrix.
        names: K class names.
        observations: how many independent observations the labelled pixels are worth, for 95 %
            intervals (see report.intervals); None: no intervals.
    Returns:
        text without a newline at its end.
    """
    from metrics import plain  # imports torch, which a sweep's tables do without
    found = None
    notes = []
    miou = _score(matrix.miou())
    accuracy = _score(matrix.pixel_accuracy())
    if observations is not None:
        found = score_intervals(matrix, observations)
        miou += f" ({_interval(found['miou'])})"
        accuracy += f" ({_interval(found['pixel_accuracy'])})"
        notes = _interval_notes(matrix, names, observations)
    columns = {"Dice": matrix.dice(), "precision": matrix.precision(), "recall": matrix.recall()}
    rows = []
    for k, name in enumerate(names):
        row = {"class": name, "IoU": plain(matrix.iou()[k])}
        if found:
            row["95 % interval"] = _interval(found["iou"][k])
        row |= {key: plain(column[k]) for key, column in columns.items()}
        rows.append({**row, "pixels": int(matrix.counts[k].sum())})
    absent = [row["class"] for row in rows if not row["pixels"]]
    if absent:
        notes.append(f"no labelled pixel, so not tested: {', '.join(absent)}")
    return "\n".join([
        text_table(rows),
        f"mean IoU {miou} and mean Dice {_score(matrix.mean_dice())} over "
        f"{matrix.scored_classes()} of {matrix.classes} classes, overall accuracy {accuracy} and "
        f"kappa {_score(matrix.kappa())}, all over {matrix.labelled_pixels():,} labelled pixels",
        "precision is the user's accuracy, recall the producer's accuracy", *notes])


def _interval_notes(matrix, names, observations):
    """Lines of text that say what the intervals take for granted."""
    pixels = matrix.labelled_pixels()
    notes = ["the 95 % intervals take the labels as drawn at random from the mapped ground"]
    if observations < pixels:
        notes.append(f"touching pixels are alike: {pixels:,} pixels count as {observations:,} "
                     "observations")
    share = observations / max(1, pixels)
    rare = [name for name, count in zip(names, matrix.counts.sum(1))
            if 0 < count * share < FEW_PER_CLASS]
    if rare:
        notes.append(f"fewer than {FEW_PER_CLASS} observations, so hardly tested: "
                     f"{', '.join(rare)}")
    return notes


def _interval(bounds):
    """An interval as text, such as 0.712 to 0.845."""
    low, high = bounds
    return "-" if math.isnan(low) else f"{max(0, low):.3f} to {min(1, high):.3f}"


def _score(value):
    """A score as the text of a table cell."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def text_table(rows, columns=None):
    """Format rows as text, with texts to the left and numbers to the right; None is a dash.

    Args:
        rows: list of dict of the same keys.
        columns: the keys to show; None is all.
    Returns:
        text without a newline at its end.
    """
    patterns = {float: "{:,.3f}", int: "{:,}", str: "{}"}
    padded = []  # per column, its lines
    for key in columns or rows[0]:
        cells = [key]
        for row in rows:
            pattern = patterns.get(type(row[key]), "-")
            cells.append(pattern.format(row[key]))
        width = max(map(len, cells))
        side = "<" if isinstance(rows[0][key], str) else ">"
        padded.append([f"{cell:{side}{width}}" for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded))


def write_rows(path, rows):
    """Write a list of dicts as a CSV file, whole or not at all.

    Floats have six digits. A cell is empty where its value is None or the row lacks the column.
    """
    columns = dict.fromkeys(key for row in rows for key in row)
    temporary = f"{path}.tmp"
    with writing(path), open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _csv_cell(value) for key, value in row.items()})
    os.replace(temporary, path)


def _csv_cell(value):
    """A value as it is written to a CSV file."""
    if isinstance(value, str):
        return spreadsheet_text(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def read_rows(path):
    """The rows of a CSV file, each a dict of text; an empty list if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return read_table(path)
    except csv.Error as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def read_log(log, columns):
    """Read some columns of a run's log.csv.

    Returns:
        list of {column: float}, one per epoch.
    Raises:
        ValueError: the file is damaged.
    """
    try:
        rows = read_table(log)
        return [{name: float(row[name]) for name in columns} for row in rows]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{log} is damaged ({error}), so no curves can be drawn: the weights are "
                         "whole, score them by evaluate.py --checkpoint") from None
