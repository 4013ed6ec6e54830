"""Every picture the project draws: class maps, overlays, legends, panels, curves, matrices. Pillow and numpy only."""

import math
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

TEXT = 26  # px, twice a screen's usual: a figure 1200 px wide is sharp in print and legible on a phone
INK, PAPER, FAINT, GRID = (30, 30, 30), (255, 255, 255), (110, 110, 110), (222, 222, 222)
RIGHT, WRONG, IGNORED = (255, 255, 255), (204, 41, 31), (200, 200, 200)  # of error_map, for its legend
# The first seven: Okabe and Ito 2008, "Color Universal Design". The others were searched so that any two of the first
# 12 are 10, of all 23 are 9 CIEDE2000 units apart, to normal, red-blind, green-blind and blue-blind eyes alike.
PALETTE = """0072b2 d55e00 009e73 cc79a7 000000 e69f00 56b4e9 220099 55ffbb ddee00 886677 bbeedd 664411 551100 ccbb77
             aa4455 880055 ddccee 9966ff 99bb99 0044cc 005566 334433""".split()
STOPS = [(253, 253, 245), (190, 222, 205), (95, 172, 190), (45, 105, 160), (22, 38, 92)]  # from little to much
SHADES = np.stack([np.interp(np.linspace(0, 4, 256), range(5), stop) for stop in zip(*STOPS)], 1).astype(np.uint8)


def default_colours(count):
    """Class and line colours that colour-blind people can tell apart, the safest first; beyond 23 they only differ.

    Args:
        count: how many, 0..255.
    Returns:
        list of count (r, g, b) tuples, 0..255.
    """
    chosen = [tuple(bytes.fromhex(code)) for code in PALETTE[:count]]
    return chosen + [(97 * n % 256, 57 * n % 256, 151 * n % 256) for n in range(len(chosen), count)]


def to_rgb(image, bands=(0, 1, 2), limits=None):
    """An image of any type and number of bands as one that can be shown.

    uint8 without limits passes as it is; NaN becomes black.

    Args:
        image: (H, W, C) of any type.
        bands: the bands shown as red, green and blue, from 0; where there are fewer than three, the first as grey.
        limits: (low, high) for each band shown, stretched to 0..255; None: its 2nd and 98th percentile.
    Returns:
        (H, W, 3) uint8.
    """
    bands = list(bands) if len(bands) >= 3 and image.shape[2] >= 3 else [bands[0]]
    shown = image[:, :, bands]
    if image.dtype != np.uint8 or limits is not None:
        if limits is None:
            valid = [shown[:, :, place][np.isfinite(shown[:, :, place])] for place in range(len(bands))]
            limits = [np.percentile(values, (2, 98)) if values.size else (0, 1) for values in valid]
        low, high = np.transpose(limits).astype(np.float32)  # each (C,)
        shown = (shown.astype(np.float32).clip(low, high) - low) * (255 / np.maximum(high - low, 1e-12))
        shown = np.nan_to_num(shown).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, shown.shape[:2] + (3,)))  # (H, W, 1 or 3) -> (H, W, 3)


def colour_map(labels, colours, ignore=255, ignore_colour=IGNORED):
    """Class ids as colours.

    Args:
        labels: (H, W) class ids 0..255, or ignore.
        colours: an (r, g, b) for each class.
        ignore, ignore_colour: the id that means no label, and its (r, g, b).
    Returns:
        (H, W, 3) uint8.
    Raises:
        ValueError: where an id has no colour.
    """
    table, known = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    table[:len(colours)], known[:len(colours)] = np.reshape(colours, (-1, 3)), True
    table[ignore], known[ignore] = ignore_colour, True
    if not known[labels].all():
        raise ValueError(f"label {labels[~known[labels]][0]} has no colour: the classes are 0 to {len(colours) - 1}")
    return table[labels]


def overlay(rgb, labels, colours, alpha=0.5, ignore=255):
    """A class map laid over its image; where there is no label the image stays as it is.

    Args:
        rgb: (H, W, 3) uint8.
        labels, colours, ignore: as in colour_map.
        alpha: the map's share, 0 (image only) to 1 (map only).
    Returns:
        (H, W, 3) uint8.
    """
    classes = Image.fromarray(colour_map(labels, colours, ignore))
    blended = np.asarray(Image.blend(Image.fromarray(rgb), classes, alpha))
    return np.where((labels == ignore)[:, :, None], rgb, blended)


def draw_points(rgb, labels, colours, ignore=255, size=3):
    """Labelled pixels as discs of their class colour, with a white rim and a dark one around it: seen on any ground.

    All rims are drawn before all discs, so that no point hides the colour of its neighbour.

    Args:
        rgb: (H, W, 3) uint8.
        labels, colours, ignore: as in colour_map; ignore wherever there is no point.
        size: radius of a disc without its rims, px.
    Returns:
        (H, W, 3) uint8.
    """
    rim = max(1, size // 3)
    outer = size + 2 * rim
    rows, cols = np.nonzero(labels != ignore)
    fill = colour_map(labels[rows, cols], colours, ignore)  # (N, 3)
    out = np.pad(rgb, ((outer, outer), (outer, outer), (0, 0)))  # so that discs may reach over the edge
    for radius, colour in ((outer, INK), (size + rim, PAPER), (size, fill)):
        reach = np.arange(-radius, radius + 1)
        for down, right in np.argwhere(reach[:, None] ** 2 + reach ** 2 <= (radius + 0.5) ** 2) + (outer - radius):
            out[rows + down, cols + right] = colour
    return out[outer:-outer, outer:-outer].copy()


def error_map(prediction, truth, ignore=255):
    """Where a prediction is right (white), wrong (red) or cannot be judged for want of truth (grey).

    Args:
        prediction, truth: (H, W) class ids; truth may be ignore.
    Returns:
        (H, W, 3) uint8 of RIGHT, WRONG and IGNORED.
    """
    return colour_map(np.where(truth == ignore, 2, prediction != truth), [RIGHT, WRONG, IGNORED])


def _text(text, size=TEXT, colour=INK, background=PAPER, width=None):
    """Text as an image of its own size; broken between words where a line would be wider than width px."""
    text = unicodedata.normalize("NFKD", str(text))  # the font is ASCII: accents are split off and dropped
    text = "".join(character for character in text if not unicodedata.combining(character))
    font, lines = ImageFont.load_default(size), []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            fits = not lines[-1] or width is None or font.getlength(longer) <= width
            lines[-1:] = [longer] if fits else [lines[-1], word]
    down = sum(font.getmetrics())
    across = math.ceil(max(map(font.getlength, lines))) + size // 4  # an x or a comma reaches beyond its own place
    tile = Image.new("RGB", (across, down * len(lines)), background)
    for number, line in enumerate(lines):
        ImageDraw.Draw(tile).text((size // 8, number * down), line, colour, font)
    return tile


def _place(canvas, tile, x, y, across=0.5, down=0.5):
    """Pastes tile so that its point (across, down), in shares of its sides, lies at x, y px."""
    canvas.paste(tile, (round(x - across * tile.width), round(y - down * tile.height)))


def _legend(entries, width, size):
    """Swatch, name and perhaps a value of each entry, in as many columns as width px hold; never less than one."""
    gap = size // 2
    names = [_text(entry[0], size, width=width - 2 * size) for entry in entries]
    values = [_text(entry[2] if len(entry) > 2 else "", size, FAINT) for entry in entries]
    across = size + 2 * gap + max(name.width for name in names) + max(value.width for value in values)
    down = max(name.height for name in names) + gap // 2
    columns = min(len(entries), max(1, (width + 2 * gap) // (across + 2 * gap)))
    tile = Image.new("RGB", (columns * (across + 2 * gap), math.ceil(len(entries) / columns) * down), PAPER)
    for number, (name, value, entry) in enumerate(zip(names, values, entries)):
        x, y = number % columns * (across + 2 * gap), number // columns * down + down // 2
        ImageDraw.Draw(tile).rectangle((x, y - gap, x + size - 1, y + gap - 1), tuple(entry[1]), FAINT)
        _place(tile, name, x + size + gap, y, across=0)
        _place(tile, value, x + across, y, across=1)
    return tile.crop((0, 0, tile.width - 2 * gap, tile.height))


def stack_images(images, gap=0, margin=0):
    """Several images under each other, their left sides in line.

    Args:
        images: PIL images.
        gap, margin: white between two and around all, px.
    Returns:
        PIL.Image, as wide as the widest and its margins.
    """
    height = sum(image.height + gap for image in images) - gap
    canvas = Image.new("RGB", (max(image.width for image in images) + 2 * margin, height + 2 * margin), PAPER)
    top = margin
    for image in images:
        canvas.paste(image, (margin, top))
        top += image.height + gap
    return canvas


def _page(parts, title=None, entries=None, size=TEXT):
    """Parts under each other, a title above and a legend below them."""
    width = max([part.width for part in parts] + [20 * size])
    above = [_text(title, round(1.2 * size), width=width)] if title else []
    below = [_legend(entries, width, size)] if entries else []
    return stack_images(above + parts + below, gap=size // 2, margin=size)


def with_legend(rgb, entries, title=None):
    """An image with the meaning of its colours below; the text grows with it, to be read where a scene fills a page.

    Args:
        rgb: (H, W, 3) uint8.
        entries: list of (name, (r, g, b)) or (name, (r, g, b), text such as "12.3 %"); may be empty.
        title: text above the image.
    Returns:
        PIL.Image.
    """
    picture = Image.fromarray(rgb)
    return _page([picture], title, entries, max(TEXT, max(picture.size) // 48))


def panel_grid(rows, column_titles, entries=None, row_titles=None, cell=256):
    """Rows of pictures under common titles, with one legend for all; each picture keeps its shape.

    Args:
        rows: list of lists of (H, W, 3) uint8.
        column_titles: a text for each column.
        entries: as in with_legend.
        row_titles: a text above each row.
        cell: longer side of a picture in its frame, px.
    Returns:
        PIL.Image.
    """
    grid = [[_text(title, width=cell) for title in column_titles]]
    for row in rows:
        grid.append([])
        for picture in map(Image.fromarray, row):
            method = Image.NEAREST if max(picture.size) < cell else Image.LANCZOS
            grid[-1].append(ImageOps.expand(ImageOps.contain(picture, (cell, cell), method), 1, IGNORED))
    gap = TEXT // 2
    widths = [max(tile.width for tile in column) + gap for column in zip(*grid)]
    strips = []
    for number, tiles in enumerate(grid):
        if number and row_titles:
            strips.append(_text(row_titles[number - 1], colour=FAINT, width=sum(widths)))
        strips.append(Image.new("RGB", (sum(widths) - gap, max(tile.height for tile in tiles)), PAPER))
        for column, tile in enumerate(tiles):
            _place(strips[-1], tile, sum(widths[:column]) + (widths[column] - gap) / 2, strips[-1].height, down=1)
    return _page(strips, None, entries)


def _span(values):
    """Lowest and highest of values, a little apart if they are one; (0, 1) of none."""
    low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
    spare = 0 if high > low else 0.1 * abs(low) or 0.5
    return low - spare, high + spare


def _ticks(span, most=6, whole=False):
    """Up to about most round numbers within span as {number: its text}; no fractions if whole."""
    rough = (span[1] - span[0]) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough), int(whole))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9) + 1)
    return {number * step: f"{number * step:,.{decimals}f}" for number in numbers}


def curves(series, x_label, y_label, title=None, y_limits=None, x_ticks=None):
    """Lines over common axes with round ticks, a grid and a legend; a point that is not finite is left out.

    Args:
        series: {name: [(x, y), ...]}, in order of x.
        x_label, y_label: with their units.
        title: text above all.
        y_limits: (low, high) of the y axis; None: those of the values.
        x_ticks: {x: text} of the x axis, such as {0: "1", 2: "100"} where x is a logarithm; None: round numbers.
    Returns:
        PIL.Image.
    """
    lines = [[point for point in line if all(map(math.isfinite, point))] for line in series.values()]
    xs, ys = ([point[axis] for line in lines for point in line] for axis in (0, 1))
    x_span, y_span = _span(xs), y_limits or _span(ys)
    x_ticks, y_ticks = x_ticks or _ticks(x_span, whole=all(x == int(x) for x in xs)), _ticks(y_span)
    width, height, inset = 1030, 560, 18  # px, of the plot, and what is kept free inside its four sides

    def to_pixel(x, y):
        across, up = (x - x_span[0]) / (x_span[1] - x_span[0]), (y - y_span[0]) / (y_span[1] - y_span[0])
        return inset + across * (width - 2 * inset), height - inset - up * (height - 2 * inset)

    plot = Image.new("RGB", (3 * width, 3 * height), PAPER)  # made smaller later, for Pillow's own lines are jagged
    draw = ImageDraw.Draw(plot)
    for x in [3 * to_pixel(tick, 0)[0] for tick in x_ticks]:
        draw.line((x, 0, x, plot.height), GRID, 6)
    for y in [3 * to_pixel(0, tick)[1] for tick in y_ticks]:
        draw.line((0, y, plot.width, y), GRID, 6)
    for line, colour in zip(lines, default_colours(len(lines))):
        path = [(3 * x, 3 * y) for x, y in (to_pixel(*point) for point in line)]
        if len(path) > 1:
            draw.line(path, colour, 15, joint="curve")
        for x, y in path if len(path) == 1 or len(xs) <= 30 * len(lines) else []:  # a mark each where they are few
            draw.ellipse((x - 21, y - 21, x + 21, y + 21), colour)
    y_tiles = {tick: _text(text) for tick, text in y_ticks.items()}
    left = max([130] + [tile.width + 12 for tile in y_tiles.values()])  # px; stacked figures mostly share it
    canvas = Image.new("RGB", (left + width + 50, height + 90), PAPER)
    canvas.paste(plot.reduce(3), (left, 0))
    ImageDraw.Draw(canvas).line([(left, 0), (left, height), (left + width, height)], FAINT, 2)
    for tick, tile in y_tiles.items():
        _place(canvas, tile, left - 10, to_pixel(0, tick)[1], across=1)
    for tick, text in x_ticks.items():
        _place(canvas, _text(text), left + to_pixel(tick, 0)[0], height + 8, down=0)
    _place(canvas, _text(x_label, colour=FAINT), left + width / 2, canvas.height, down=1)
    names = [name if line else f"{name} (no values)" for name, line in zip(series, lines)]
    return _page([_text(y_label, colour=FAINT), canvas], title, list(zip(names, default_colours(len(names)))))


def _cells(values, texts, span):
    """The cells of a matrix, coloured by value, each with its text; a cell without a value is hatched."""
    rows, columns = values.shape
    tiles = [_text(text) for row in texts for text in row]
    width = max(max(tile.width for tile in tiles) + 16, min(150, 750 // columns))
    height = max(max(tile.height for tile in tiles) + 16, min(100, 750 // rows))
    canvas = Image.new("RGB", (columns * width, rows * height), PAPER)
    for row, column in np.ndindex(rows, columns):
        share = (values[row, column] - span[0]) / (span[1] - span[0])
        colour = tuple(SHADES[round(255 * share)].tolist()) if math.isfinite(share) else GRID
        cell = Image.new("RGB", (width - 2, height - 2), colour)  # 2 px of paper between cells
        for start in range(-height, width, 16) if not math.isfinite(share) else []:
            ImageDraw.Draw(cell).line((start, height, start + height, 0), FAINT, 1)
        if texts[row][column]:
            ink = PAPER if sum(colour) < 370 else INK
            _place(cell, _text(texts[row][column], colour=ink, background=colour), width / 2 - 1, height / 2 - 1)
        canvas.paste(cell, (column * width + 1, row * height + 1))
    return canvas


def _matrix(values, texts, span, row_names, column_names, row_label, column_label, title, unit=""):
    """Named cells, a label to each side, and a bar that says what the colours mean."""
    cells = _cells(values, texts, span)
    across, down = cells.width / len(column_names), cells.height / len(row_names)
    row_label, column_label = _text(row_label, colour=FAINT), _text(column_label, colour=FAINT)
    row_tiles = [_text(name) for name in row_names]
    column_tiles = [_text(name, width=across - 8) for name in column_names]
    if max(tile.width for tile in column_tiles) > across - 4:  # too long to stand side by side
        column_tiles = [_text(name).rotate(90, expand=True) for name in column_names]
    bar_tiles = {tick: _text(text + unit) for tick, text in _ticks(span, max(3, min(6, cells.height // 60))).items()}
    left, top = max(tile.width for tile in row_tiles + [row_label]) + 12, row_label.height + 8
    bar, bottom = left + cells.width + 30, top + cells.height
    width = max(bar + 40 + max(tile.width for tile in bar_tiles.values()), left + column_label.width)
    canvas = Image.new("RGB", (width, bottom + 60 + max(tile.height for tile in column_tiles)), PAPER)
    canvas.paste(cells, (left, top))
    _place(canvas, row_label, left - 12, 0, across=1, down=0)
    _place(canvas, column_label, left, canvas.height, across=0, down=1)
    for number, tile in enumerate(row_tiles):
        _place(canvas, tile, left - 12, top + (number + 0.5) * down, across=1)
    for number, tile in enumerate(column_tiles):
        _place(canvas, tile, left + (number + 0.5) * across, bottom + 10, down=0)
    canvas.paste(Image.fromarray(SHADES[::-1, None]).resize((28, cells.height)), (bar, top))
    for tick, tile in bar_tiles.items():
        _place(canvas, tile, bar + 38, bottom - (tick - span[0]) / (span[1] - span[0]) * cells.height, across=0)
    return _page([canvas], title)


def confusion_figure(counts, names, title=None):
    """A confusion matrix in % of each true class; the row of a class that the truth lacks is hatched, not 0 %.

    Args:
        counts: (K, K) pixels, rows truth, columns prediction.
        names: K class names.
        title: text above the matrix.
    Returns:
        PIL.Image.
    """
    counts = np.asarray(counts, np.float64)
    totals = counts.sum(1, keepdims=True)  # (K, 1)
    percent = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    texts = [[f"{value:.0f}" if value >= 0.5 else "" for value in row] for row in percent]
    row_names = [name if total else f"{name} (none)" for name, total in zip(names, totals[:, 0])]
    return _matrix(percent, texts, (0, 100), row_names, names, "truth", "prediction (blank: under 0.5 %)", title, " %")


def heat_map(values, row_names, column_names, row_label, column_label, title=None, text=None):
    """A table of numbers as coloured cells, such as the score of each run of a grid.

    Args:
        values: (R, C) numbers; NaN, a run that failed or is missing, is hatched.
        row_names, column_names: R and C texts.
        row_label, column_label: what the rows and the columns differ in.
        title: what the values are, with their unit.
        text: (R, C) texts for the cells; None: the values to three decimals.
    Returns:
        PIL.Image.
    """
    values = np.asarray(values, np.float64)
    if text is None:
        text = [[f"{value:.3f}" if math.isfinite(value) else "no value" for value in row] for row in values]
    span = _span(values[np.isfinite(values)])
    return _matrix(values, text, span, row_names, column_names, row_label, column_label, title)


def save_png(image, path):
    """Writes a PNG under a temporary name and renames it, so that a half-written picture never looks whole.

    Args:
        image: (H, W, 3) or (H, W) uint8, or PIL.Image.
        path: the file to write, in a folder that exists.
    """
    temporary = Path(f"{path}.part")
    try:
        Image.fromarray(np.asarray(image)).save(temporary, "PNG", dpi=(192, 192), compress_level=3)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
