"""Tables: lists of dicts as text, to and from CSV files."""

import csv
import math
import os

from engine.files import read_text


def score_table(matrix, names):
    """Format the scores as text: a line per class, then the means and what they are over.

    Args:
        matrix: ConfusionMatrix.
        names: K class names.
    Returns:
        text without a newline at its end.
    """
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':{width}}     IoU    Dice  precision  recall      pixels"]
    columns = [matrix.iou(), matrix.dice(), matrix.precision(), matrix.recall()]
    for k, name in enumerate(names):
        iou, dice, precision, recall = (_score(column[k]) for column in columns)
        pixels = int(matrix.counts[k].sum())
        lines.append(f"{name:{width}}  {iou:>6}  {dice:>6}  {precision:>9}  {recall:>6}  "
                     f"{pixels:>10,}")
    lines.append(f"mean IoU {_score(matrix.miou())} and mean Dice {_score(matrix.mean_dice())} "
                 f"over {matrix.scored_classes()} of {matrix.classes} classes, overall accuracy "
                 f"{_score(matrix.pixel_accuracy())} and kappa {_score(matrix.kappa())}, all over "
                 f"{matrix.labelled_pixels():,} labelled pixels")
    lines.append("precision is the user's accuracy, recall the producer's accuracy")
    return "\n".join(lines)


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
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _csv_cell(value) for key, value in row.items()})
    os.replace(temporary, path)


def _csv_cell(value):
    """A value as it is written to a CSV file."""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_rows(path):
    """The rows of a CSV file, each a dict of text; an empty list if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return list(csv.DictReader(read_text(path).splitlines()))
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
        with open(log, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{name: float(row[name]) for name in columns} for row in rows]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{log} is damaged ({error}), so no curves can be drawn: the weights are "
                         "whole, score them by evaluate.py --checkpoint") from None
