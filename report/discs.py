"""Labelled points as discs on an image: visible on any ground, right or wrong, numbered."""

import numpy as np
from PIL import Image, ImageDraw

from report.figures import colour_map
from report.fonts import font_of
from report.layout import INK, PAPER

RADIUS = 6  # px, of a disc without its rims
SIDE = 256  # px, below which an image is enlarged before discs are drawn on it


def draw_points(rgb, labels, colours, ignore=255, size=RADIUS, wrong=None):
    """Draw labelled pixels as discs of their class colour, visible on any background.

    Each disc has a white rim and a dark one around it. One that is predicted wrongly has a dark rim
    alone, and lies on a white cross. All rims are drawn before all discs, so that no point hides
    the colour of its neighbour.

    Args:
        rgb: (H, W, 3) uint8.
        labels, colours, ignore: as in `colour_map`; `ignore` wherever there is no point.
        size: radius of a disc without its rims, px.
        wrong: (H, W) bool, the points to cross; None: none.
    Returns:
        (H, W, 3) uint8.
    """
    rim = max(1, size // 3)
    outer = size + 2 * rim
    rows, cols = np.nonzero(labels != ignore)
    crossed = np.zeros(len(rows), bool) if wrong is None else wrong[rows, cols]  # (N,)
    fill = colour_map(labels[rows, cols], colours, ignore)  # (N, 3)
    inner_rim = np.where(crossed[:, None], INK, PAPER)  # (N, 3)
    out = np.pad(rgb, ((outer, outer), (outer, outer), (0, 0)))  # discs may reach over the edge
    rows = rows + outer
    cols = cols + outer
    out = _draw_crosses(out, rows[crossed], cols[crossed], outer + 1, rim)
    # A wrong one has one rim less, which leaves more of its cross.
    _draw_discs(out, rows[~crossed], cols[~crossed], outer, INK)
    _draw_discs(out, rows, cols, size + rim, inner_rim)
    _draw_discs(out, rows, cols, size, fill)
    return out[outer:-outer, outer:-outer].copy()


def _draw_discs(rgb, rows, cols, radius, colours):
    """Draw discs in place, of one colour (3,) or of a colour each (N, 3)."""
    offsets = np.arange(-radius, radius + 1)
    disc = offsets[:, None] ** 2 + offsets ** 2 <= (radius + 0.5) ** 2
    for down, right in np.argwhere(disc) - radius:
        rgb[rows + down, cols + right] = colours


def _draw_crosses(rgb, rows, cols, reach, width):
    """Draw white crosses with a dark edge, whose arms reach so many px down and to the right."""
    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    for thickness, ink in ((3 * width + 2, INK), (width + 1, PAPER)):
        for row, col in zip(rows.tolist(), cols.tolist()):
            draw.line((col - reach, row - reach, col + reach, row + reach), ink, thickness)
            draw.line((col - reach, row + reach, col + reach, row - reach), ink, thickness)
    return np.array(picture)


def enlarged_points(rgb, labels, colours, ignore=255, wrong=None):
    """`draw_points` on an image that is enlarged first if it is small, so that it stays visible."""
    factor = max(1, SIDE // max(labels.shape))
    large = np.full((factor * labels.shape[0], factor * labels.shape[1]), ignore, np.uint8)
    large[factor // 2::factor, factor // 2::factor] = labels
    if wrong is not None:
        wrong = wrong.repeat(factor, 0).repeat(factor, 1)
    return draw_points(rgb.repeat(factor, 0).repeat(factor, 1), large, colours, ignore,
                       wrong=wrong)


def draw_numbers(rgb, rows, cols, size=26):
    """Write 1, 2, 3, ... beside points, in the order given.

    Args:
        rgb: (H, W, 3) uint8.
        rows, cols: (N,) of the points, px.
        size: of the font, px.
    Returns:
        (H, W, 3) uint8.
    """
    picture = Image.fromarray(rgb)
    draw = ImageDraw.Draw(picture)
    for number, (row, col) in enumerate(zip(rows, cols), 1):
        font = font_of(str(number), size)
        width = round(font.getlength(str(number)))
        left = col + size // 2
        if left + width > picture.width:
            left = col - size // 2 - width
        top = min(max(row - size // 2, 0), picture.height - size)
        draw.text((left, top), str(number), PAPER, font, stroke_width=max(2, size // 9),
                  stroke_fill=INK)
    return np.asarray(picture)
