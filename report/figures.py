"""Images and class maps as pictures, panels and curves. Pillow and numpy only."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from report.layout import FAINT, GRID, INK, PAPER, TEXT, page, paste, text_image

# Colours of `error_map`, for its legend.
RIGHT = (255, 255, 255)
WRONG = (204, 41, 31)
IGNORED = (200, 200, 200)

# The first seven: Okabe and Ito 2008, "Color Universal Design". The others were searched so that
# any two of the first 12 are 10, and of all 23 are 9 CIEDE2000 units apart, to normal, red-blind,
# green-blind and blue-blind eyes alike.
PALETTE = """0072b2 d55e00 009e73 cc79a7 000000 e69f00 56b4e9 220099 55ffbb ddee00 886677 bbeedd
             664411 551100 ccbb77 aa4455 880055 ddccee 9966ff 99bb99 0044cc 005566 334433""".split()

PLOT_WIDTH = 1030  # px, of the area of a plot
PLOT_HEIGHT = 560
PLOT_INSET = 18  # px kept free inside its four sides
SUPERSAMPLING = 3  # lines are drawn larger and reduced, because Pillow's own are jagged


def default_colours(count):
    """Class and line colours that colour-blind people can tell apart, the safest first.

    Args:
        count: how many, 0..255; beyond 23 they are different, but not safe.
    Returns:
        list of (r, g, b) tuples, 0..255.
    """
    chosen = [tuple(bytes.fromhex(code)) for code in PALETTE[:count]]
    for n in range(len(chosen), count):
        chosen.append((97 * n % 256, 57 * n % 256, 151 * n % 256))
    return chosen


def to_rgb(image, bands=(0, 1, 2), limits=None):
    """Convert an image of any type and number of bands to one that can be shown.

    uint8 without limits stays as it is. NaN becomes black.

    Args:
        image: (H, W, C) of any type.
        bands: the bands shown as red, green and blue, from 0; if there are fewer than three, the
            first is shown as grey.
        limits: (low, high) per shown band, stretched to 0..255; None: its 2nd and 98th percentile.
    Returns:
        (H, W, 3) uint8.
    """
    in_colour = len(bands) >= 3 and image.shape[2] >= 3
    shown = image[:, :, list(bands) if in_colour else [bands[0]]]  # (H, W, 1 or 3)
    if image.dtype != np.uint8 or limits is not None:
        if limits is None:
            limits = [_percentiles(shown[:, :, band]) for band in range(shown.shape[2])]
        low, high = np.transpose(limits).astype(np.float32)  # (1 or 3,) each
        scale = 255 / np.maximum(high - low, 1e-12)
        shown = (shown.astype(np.float32).clip(low, high) - low) * scale
        shown = np.nan_to_num(shown).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, shown.shape[:2] + (3,)))


def _percentiles(band):
    """2nd and 98th percentile of the finite values of a band; (0, 1) if there are none."""
    values = band[np.isfinite(band)]
    return np.percentile(values, (2, 98)) if values.size else (0, 1)


def colour_map(labels, colours, ignore=255, ignore_colour=IGNORED):
    """Show class ids as colours.

    Args:
        labels: (H, W) class ids 0..255, or `ignore`.
        colours: an (r, g, b) per class.
        ignore, ignore_colour: the id that means no label, and its (r, g, b).
    Returns:
        (H, W, 3) uint8.
    Raises:
        ValueError: an id has no colour.
    """
    table = np.zeros((256, 3), np.uint8)
    table[:len(colours)] = np.reshape(colours, (-1, 3))
    table[ignore] = ignore_colour
    has_colour = np.zeros(256, bool)
    has_colour[:len(colours)] = True
    has_colour[ignore] = True
    unknown = labels[~has_colour[labels]]
    if unknown.size:
        raise ValueError(f"label {unknown[0]} has no colour: the classes are 0 to "
                         f"{len(colours) - 1}")
    return table[labels]


def overlay(rgb, labels, colours, alpha=0.5, ignore=255):
    """Lay a class map over its image; where there is no label the image stays as it is.

    Args:
        rgb: (H, W, 3) uint8.
        labels, colours, ignore: as in `colour_map`.
        alpha: share of the map, 0 (image only) to 1 (map only).
    Returns:
        (H, W, 3) uint8.
    """
    classes = Image.fromarray(colour_map(labels, colours, ignore))
    blended = np.asarray(Image.blend(Image.fromarray(rgb), classes, alpha))
    return np.where((labels == ignore)[:, :, None], rgb, blended)


def draw_points(rgb, labels, colours, ignore=255, size=3):
    """Draw labelled pixels as discs of their class colour, visible on any background.

    Each disc has a white rim and a dark one around it. All rims are drawn before all discs, so
    that no point hides the colour of its neighbour.

    Args:
        rgb: (H, W, 3) uint8.
        labels, colours, ignore: as in `colour_map`; `ignore` wherever there is no point.
        size: radius of a disc without its rims, px.
    Returns:
        (H, W, 3) uint8.
    """
    rim = max(1, size // 3)
    outer = size + 2 * rim
    rows, cols = np.nonzero(labels != ignore)
    fill = colour_map(labels[rows, cols], colours, ignore)  # (N, 3)
    out = np.pad(rgb, ((outer, outer), (outer, outer), (0, 0)))  # discs may reach over the edge
    for radius, colour in ((outer, INK), (size + rim, PAPER), (size, fill)):
        offsets = np.arange(-radius, radius + 1)
        disc = offsets[:, None] ** 2 + offsets ** 2 <= (radius + 0.5) ** 2
        for down, right in np.argwhere(disc) + (outer - radius):
            out[rows + down, cols + right] = colour
    return out[outer:-outer, outer:-outer].copy()


def error_map(prediction, truth, ignore=255):
    """Show where a prediction is right (white), wrong (red) or without truth (grey).

    Args:
        prediction, truth: (H, W) class ids; truth may be `ignore`.
    Returns:
        (H, W, 3) uint8 of RIGHT, WRONG and IGNORED.
    """
    outcome = np.where(truth == ignore, 2, prediction != truth)
    return colour_map(outcome, [RIGHT, WRONG, IGNORED])


def with_legend(rgb, entries, title=None):
    """Add the meaning of its colours below an image; the text grows with the image.

    Args:
        rgb: (H, W, 3) uint8.
        entries: list of (name, (r, g, b)) or (name, (r, g, b), text such as "12.3 %").
        title: text above the image.
    Returns:
        PIL.Image.
    """
    picture = Image.fromarray(rgb)
    return page([picture], title, entries, max(TEXT, max(picture.size) // 48))


def panel_grid(rows, column_titles, entries=None, row_titles=None, cell=256):
    """Rows of pictures under common titles, with one legend for all; each keeps its shape.

    Args:
        rows: list of lists of (H, W, 3) uint8.
        column_titles: a text per column.
        entries: as in `with_legend`.
        row_titles: a text above each row.
        cell: longer side of a picture in its frame, px.
    Returns:
        PIL.Image.
    """
    titles = [text_image(title, width=cell) for title in column_titles]
    framed = [[_frame(picture, cell) for picture in row] for row in rows]
    gap = TEXT // 2
    widths = [max(image.width for image in column) for column in zip(titles, *framed)]
    total = sum(widths) + gap * len(widths)
    parts = [_grid_row(titles, widths, gap)]
    for number, images in enumerate(framed):
        if row_titles:
            parts.append(text_image(row_titles[number], colour=FAINT, width=total))
        parts.append(_grid_row(images, widths, gap))
    return page(parts, None, entries)


def _frame(picture, cell):
    """A picture (H, W, 3) resized to fit a square cell, in a thin frame."""
    picture = Image.fromarray(picture)
    method = Image.NEAREST if max(picture.size) < cell else Image.LANCZOS
    return ImageOps.expand(ImageOps.contain(picture, (cell, cell), method), 1, IGNORED)


def _grid_row(images, widths, gap):
    """Images side by side, each in the middle of its column, their lower sides in line."""
    height = max(image.height for image in images)
    row = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), height), PAPER)
    left = 0
    for image, width in zip(images, widths):
        paste(row, image, left + width / 2, height, anchor_y=1)
        left += width + gap
    return row


def curves(series, x_label, y_label, title=None, y_limits=None, x_ticks=None):
    """Draw lines over common axes with round ticks, a grid and a legend.

    Args:
        series: {name: [(x, y), ...]}, in order of x; points that are not finite are left out.
        x_label, y_label: with their units.
        title: text above all.
        y_limits: (low, high) of the y axis; None: those of the values.
        x_ticks: {x: text}, such as {0: "1", 2: "100"} where x is a logarithm; None: round numbers.
    Returns:
        PIL.Image.
    """
    lines = []
    for line in series.values():
        lines.append([(x, y) for x, y in line if math.isfinite(x) and math.isfinite(y)])
    xs = [x for line in lines for x, _ in line]
    ys = [y for line in lines for _, y in line]
    x_span = axis_span(xs)
    y_span = y_limits or axis_span(ys)
    x_ticks = x_ticks or round_ticks(x_span, whole=all(x == int(x) for x in xs))
    y_ticks = round_ticks(y_span)

    def column(x):
        share = (x - x_span[0]) / (x_span[1] - x_span[0])
        return PLOT_INSET + share * (PLOT_WIDTH - 2 * PLOT_INSET)

    def row(y):
        share = (y - y_span[0]) / (y_span[1] - y_span[0])
        return PLOT_HEIGHT - PLOT_INSET - share * (PLOT_HEIGHT - 2 * PLOT_INSET)

    paths = [[(column(x), row(y)) for x, y in line] for line in lines]
    x_ticks = {column(x): text for x, text in x_ticks.items()}
    y_ticks = {row(y): text for y, text in y_ticks.items()}
    plot = _draw_plot(paths, x_ticks, y_ticks)
    canvas = _with_axes(plot, x_ticks, y_ticks, x_label)
    names = [name if line else f"{name} (no values)" for name, line in zip(series, lines)]
    entries = list(zip(names, default_colours(len(names))))
    return page([text_image(y_label, colour=FAINT), canvas], title, entries)


def axis_span(values):
    """Lowest and highest of values, a little apart if they are equal; (0, 1) of none."""
    if not len(values):
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high > low:
        return low, high
    spare = 0.1 * abs(low) or 0.5
    return low - spare, high + spare


def round_ticks(span, most=6, whole=False):
    """Round numbers within a span, as {number: its text}.

    Args:
        span: (low, high).
        most: how many, about.
        whole: no fractions.
    """
    low, high = span
    least_step = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * least_step)
    step = max(step, int(whole))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return {n * step: f"{n * step:,.{decimals}f}" for n in range(first, last + 1)}


def _draw_plot(paths, x_ticks, y_ticks):
    """Grid and lines of a plot, positions in px of the plot."""
    size = (SUPERSAMPLING * PLOT_WIDTH, SUPERSAMPLING * PLOT_HEIGHT)
    plot = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(plot)
    for tick in x_ticks:
        x = SUPERSAMPLING * tick
        draw.line((x, 0, x, plot.height), GRID, 2 * SUPERSAMPLING)
    for tick in y_ticks:
        y = SUPERSAMPLING * tick
        draw.line((0, y, plot.width, y), GRID, 2 * SUPERSAMPLING)
    few = sum(map(len, paths)) <= 30 * len(paths)
    for path, colour in zip(paths, default_colours(len(paths))):
        path = [(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in path]
        if len(path) > 1:
            draw.line(path, colour, 5 * SUPERSAMPLING, joint="curve")
        if few or len(path) == 1:  # also mark each point
            radius = 7 * SUPERSAMPLING
            for x, y in path:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return plot.reduce(SUPERSAMPLING)


def _with_axes(plot, x_ticks, y_ticks, x_label):
    """A plot with the texts of its ticks and the label of its x axis."""
    y_texts = {y: text_image(text) for y, text in y_ticks.items()}
    # Stacked figures mostly share the 130 px.
    left = max([130] + [text.width + 12 for text in y_texts.values()])
    canvas = Image.new("RGB", (left + PLOT_WIDTH + 50, PLOT_HEIGHT + 90), PAPER)
    canvas.paste(plot, (left, 0))
    corners = [(left, 0), (left, PLOT_HEIGHT), (left + PLOT_WIDTH, PLOT_HEIGHT)]
    ImageDraw.Draw(canvas).line(corners, FAINT, 2)
    for y, text in y_texts.items():
        paste(canvas, text, left - 10, y, anchor_x=1)
    for x, text in x_ticks.items():
        paste(canvas, text_image(text), left + x, PLOT_HEIGHT + 8, anchor_y=0)
    label = text_image(x_label, colour=FAINT)
    paste(canvas, label, left + PLOT_WIDTH / 2, canvas.height, anchor_y=1)
    return canvas


def save_png(image, path):
    """Write a PNG under a temporary name and rename it, so that it is never half a picture.

    Args:
        image: (H, W, 3) or (H, W) uint8, or PIL.Image.
        path: the file to write, in a folder that exists.
    """
    temporary = Path(f"{path}.part")
    try:
        picture = Image.fromarray(np.asarray(image))
        picture.save(temporary, "PNG", dpi=(192, 192), compress_level=3)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
