"""Lines over common axes: learning curves, calibration, scores by settings."""

import math

from PIL import Image, ImageDraw

from report.figures import default_colours
from report.layout import FAINT, GRID, INK, PAPER, page, paste, text_image

PLOT_WIDTH = 1030  # px, of the area of a plot
PLOT_HEIGHT = 560
PLOT_INSET = 18  # px kept free inside its four sides
SUPERSAMPLING = 3  # lines are drawn larger and reduced, because Pillow's own are jagged


def curves(series, x_label, y_label, title=None, y_limits=None, x_ticks=None, marks=None,
           radii=None, size=(PLOT_WIDTH, PLOT_HEIGHT)):
    """Draw lines over common axes with round ticks, a grid and a legend.

    Args:
        series: {name: [(x, y), ...]}, in order of x; points that are not finite are left out.
        x_label, y_label: with their units.
        title: text above all.
        y_limits: (low, high) of the y axis; None: those of the values.
        x_ticks: {x: text}, such as {0: "1", 2: "100"} where x is a logarithm; None: round numbers.
        marks: {x: text}, upright lines with their meaning.
        radii: {name: [px, ...]}, for series that are drawn as discs of these sizes, without a line.
        size: (width, height) of the area of the plot, px.
    Returns:
        PIL.Image.
    """
    width, height = size
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
        return PLOT_INSET + share * (width - 2 * PLOT_INSET)

    def row(y):
        share = (y - y_span[0]) / (y_span[1] - y_span[0])
        return height - PLOT_INSET - share * (height - 2 * PLOT_INSET)

    paths = [[(column(x), row(y)) for x, y in line] for line in lines]
    disc_radii = [(radii or {}).get(name) for name in series]
    x_ticks = {column(x): text for x, text in x_ticks.items()}
    y_ticks = {row(y): text for y, text in y_ticks.items()}
    plot = _draw_plot(paths, disc_radii, x_ticks, y_ticks, size)
    for x, text in (marks or {}).items():
        _draw_mark(plot, column(x), text)
    canvas = _with_axes(plot, x_ticks, y_ticks, x_label)
    names = [name if line else f"{name} (no values)" for name, line in zip(series, lines)]
    entries = list(zip(names, default_colours(len(names))))
    return page([text_image(y_label, colour=FAINT), canvas], title, entries)


def axis_span(values):
    """Lowest and highest value, a little apart if they are equal. Without values, (0, 1)."""
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


def _draw_mark(plot, x, text):
    """Draw an upright dashed line with its meaning, at x px of the plot."""
    draw = ImageDraw.Draw(plot)
    for top in range(0, plot.height, 16):
        draw.line((x, top, x, top + 8), INK, 2)
    image = text_image(text)
    if x + image.width + 8 <= plot.width:
        paste(plot, image, x + 6, 4, anchor_x=0, anchor_y=0)
    else:
        paste(plot, image, x - 6, 4, anchor_x=1, anchor_y=0)


def _draw_plot(paths, disc_radii, x_ticks, y_ticks, size):
    """Grid and lines of a plot, positions in px of the plot; disc_radii: of each path, or None."""
    plot = Image.new("RGB", [SUPERSAMPLING * side for side in size], PAPER)
    draw = ImageDraw.Draw(plot)
    for tick in x_ticks:
        x = SUPERSAMPLING * tick
        draw.line((x, 0, x, plot.height), GRID, 2 * SUPERSAMPLING)
    for tick in y_ticks:
        y = SUPERSAMPLING * tick
        draw.line((0, y, plot.width, y), GRID, 2 * SUPERSAMPLING)
    few = sum(map(len, paths)) <= 30 * len(paths)
    for path, radii, colour in zip(paths, disc_radii, default_colours(len(paths))):
        path = [(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in path]
        if len(path) > 1 and radii is None:
            draw.line(path, colour, 5 * SUPERSAMPLING, joint="curve")
        if radii is None and (few or len(path) == 1):  # also mark each point
            radii = [7] * len(path)
        for (x, y), radius in zip(path, radii or ()):
            radius *= SUPERSAMPLING
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return plot.reduce(SUPERSAMPLING)


def _with_axes(plot, x_ticks, y_ticks, x_label):
    """A plot with the texts of its ticks and the label of its x axis."""
    y_texts = {y: text_image(text) for y, text in y_ticks.items()}
    # Stacked figures mostly share the 130 px.
    left = max([130] + [text.width + 12 for text in y_texts.values()])
    canvas = Image.new("RGB", (left + plot.width + 50, plot.height + 90), PAPER)
    canvas.paste(plot, (left, 0))
    corners = [(left, 0), (left, plot.height), (left + plot.width, plot.height)]
    ImageDraw.Draw(canvas).line(corners, FAINT, 2)
    for y, text in y_texts.items():
        paste(canvas, text, left - 10, y, anchor_x=1)
    for x, text in x_ticks.items():
        paste(canvas, text_image(text), left + x, plot.height + 8, anchor_y=0)
    label = text_image(x_label, colour=FAINT)
    paste(canvas, label, left + plot.width / 2, canvas.height, anchor_y=1)
    return canvas
