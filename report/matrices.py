"""Tables of numbers as coloured cells: confusion matrices and heat maps of sweeps."""

import math

import numpy as np
from PIL import Image, ImageDraw

from report.curves import axis_span, round_ticks
from report.layout import FAINT, GRID, INK, PAPER, page, paste, text_image

STOPS = [(253, 253, 245), (190, 222, 205), (95, 172, 190), (45, 105, 160), (22, 38, 92)]
# (256, 3) from little to much.
SHADES = np.stack([np.interp(np.linspace(0, 4, 256), range(5), stop) for stop in zip(*STOPS)],
                  axis=1).astype(np.uint8)


def confusion_figure(counts, names, title=None, unit="px"):
    """Draw a confusion matrix: in each cell its % of the true class, and the count below.

    Args:
        counts: (K, K) pixels, rows truth, columns prediction; the row of a class that the truth
            lacks is hatched, not 0 %.
        names: K class names.
        title: text above the matrix.
        unit: of the counts, such as px or points.
    Returns:
        PIL.Image.
    """
    counts = np.asarray(counts, np.int64)
    totals = counts.sum(1, keepdims=True)  # (K, 1)
    percent = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    texts = []
    for row, shares in zip(counts.tolist(), percent):
        texts.append([f"{share:.0f} %\n{short_number(count)}" if count else ""
                      for count, share in zip(row, shares)])
    row_names = []
    for name, total in zip(names, totals[:, 0].tolist()):
        row_names.append(f"{name} ({short_number(total) if total else 'none'})")
    return draw_matrix(percent, texts, (0, 100), (row_names, names),
                       (f"truth ({unit})", f"prediction (% of the true class, and {unit})"), title,
                       " %")


def short_number(count):
    """A count in at most five characters, such as 850, 12k or 3.1M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        least = 10 * size if unit == "k" else size  # up to 9999, the count itself is short enough
        if count >= 0.9995 * least:
            value = count / size
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return str(count)


def heat_map(values, row_names, column_names, row_label, column_label, title=None, texts=None):
    """Draw a table of numbers as coloured cells, such as the score of each run of a grid.

    Args:
        values: (R, C) numbers; NaN, such as a run that failed, is hatched.
        row_names, column_names: R and C texts.
        row_label, column_label: what the rows and the columns differ in.
        title: what the values are, with their unit.
        texts: (R, C) texts for the cells; None: the values to three decimals.
    Returns:
        PIL.Image.
    """
    values = np.asarray(values, np.float64)
    if texts is None:
        texts = [[f"{value:.3f}" if math.isfinite(value) else "no value" for value in row]
                 for row in values]
    span = axis_span(values[np.isfinite(values)])
    return draw_matrix(values, texts, span, (row_names, column_names), (row_label, column_label),
                       title)


def draw_matrix(values, texts, span, names, labels, title, unit=""):
    """Draw named cells, a label per side, and a bar with the meaning of the colours.

    Args:
        values: (R, C) numbers; NaN is hatched.
        texts: (R, C) texts of the cells.
        span: (low, high), the values of the lightest and the darkest colour.
        names: R texts of the rows, C of the columns.
        labels: of the rows and of the columns.
        title: text above, or None.
        unit: of the values, after the numbers of the bar.
    Returns:
        PIL.Image.
    """
    cells = _draw_cells(values, texts, span)
    row_names = [text_image(name) for name in names[0]]
    column_names = _column_names(names[1], cells.width / len(names[1]))
    row_label, column_label = (text_image(label, colour=FAINT) for label in labels)
    ticks = round_ticks(span, max(3, min(6, cells.height // 60)))
    ticks = {tick: text_image(text + unit) for tick, text in ticks.items()}
    left = max(image.width for image in [*row_names, row_label]) + 12  # px, of the cells
    top = row_label.height + 8
    bottom = top + cells.height
    bar_left = left + cells.width + 30
    bar_width = 40 + max(image.width for image in ticks.values())
    width = max(bar_left + bar_width, left + column_label.width)
    names_height = max(image.height for image in column_names)
    canvas = Image.new("RGB", (width, bottom + 60 + names_height), PAPER)
    canvas.paste(cells, (left, top))
    paste(canvas, row_label, left - 12, 0, anchor_x=1, anchor_y=0)
    paste(canvas, column_label, left, canvas.height, anchor_x=0, anchor_y=1)
    for number, image in enumerate(row_names):
        middle = top + (number + 0.5) * cells.height / len(row_names)
        paste(canvas, image, left - 12, middle, anchor_x=1)
    for number, image in enumerate(column_names):
        middle = left + (number + 0.5) * cells.width / len(column_names)
        paste(canvas, image, middle, bottom + 10, anchor_y=0)
    _draw_bar(canvas, bar_left, top, cells.height, span, ticks)
    return page([canvas], title)


def _draw_bar(canvas, left, top, height, span, ticks):
    """Draw a bar of all colours with the numbers that they stand for, {number: its image}."""
    low, high = span
    colours = Image.fromarray(SHADES[::-1, None])  # the darkest on top
    canvas.paste(colours.resize((28, height)), (left, top))
    for tick, image in ticks.items():
        share = (tick - low) / (high - low)
        paste(canvas, image, left + 38, top + height - share * height, anchor_x=0)


def _column_names(names, width):
    """The names of columns as images, turned by 90 degrees if one is wider than its column, px."""
    images = [text_image(name, width=width - 8) for name in names]
    if max(image.width for image in images) > width - 4:
        images = [text_image(name).rotate(90, expand=True) for name in names]
    return images


def _draw_cells(values, texts, span):
    """The cells of a matrix, coloured by value, each with its text."""
    rows, columns = values.shape
    images = [text_image(text) for row in texts for text in row]
    text_width = max(image.width for image in images) + 16
    text_height = max(image.height for image in images) + 16
    width = max(text_width, min(150, 750 // columns))
    height = max(text_height, min(100, 750 // rows))
    canvas = Image.new("RGB", (columns * width, rows * height), PAPER)
    for row in range(rows):
        for column in range(columns):
            share = (values[row, column] - span[0]) / (span[1] - span[0])
            # Smaller by 2 px, so that paper shows between cells.
            cell = _draw_cell(share, texts[row][column], width - 2, height - 2)
            canvas.paste(cell, (column * width + 1, row * height + 1))
    return canvas


def _draw_cell(share, text, width, height):
    """A cell of a matrix: its colour at a share of the span, hatched for NaN, and its text."""
    if math.isfinite(share):
        colour = tuple(SHADES[round(255 * share)].tolist())
        cell = Image.new("RGB", (width, height), colour)
    else:
        colour = GRID
        cell = Image.new("RGB", (width, height), colour)
        draw = ImageDraw.Draw(cell)
        for start in range(-height - 2, width + 2, 16):
            draw.line((start, height + 2, start + height + 2, 0), FAINT, 1)
    if text:
        ink = PAPER if sum(colour) < 370 else INK
        lines = [text_image(line, colour=ink, background=colour) for line in text.split("\n")]
        top = (height - sum(line.height for line in lines)) / 2
        for line in lines:
            paste(cell, line, width / 2, top, anchor_y=0)
            top += line.height
    return cell
