"""Images and class maps as pictures and panels. Pillow and numpy only."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from report.layout import FAINT, PAPER, TEXT, page, paste, text_image

RIGHT = (255, 255, 255)  # in `error_map`
IGNORED = (200, 200, 200)
ERROR_COLOURS = ((204, 41, 31), (0, 0, 0), (230, 0, 230), (255, 130, 0), (0, 220, 220))

# The first seven: Okabe and Ito 2008, "Color Universal Design". Any two of the first 12 are 17
# units (CIE76) apart to normal, red-blind and green-blind eyes alike. The others only differ.
PALETTE = """0072b2 d55e00 009e73 cc79a7 000000 e69f00 56b4e9 220099 55ffbb ddee00 772200 9955ff
             886677 bbeedd ccbb77 aa4455 880055 ddccee 99bb99 0044cc 005566 334433 664411""".split()


def default_colours(count):
    """Class and line colours that colour-blind people can tell apart, the safest first.

    Args:
        count: how many, 0..255; beyond 12 they are different, but not safe.
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


def colour_map(labels, colours, ignore=255):
    """Show class ids as colours.

    Args:
        labels: (H, W) class ids 0..255, or `ignore`, the id that means no label.
        colours: an (r, g, b) per class.
    Returns:
        (H, W, 3) uint8, IGNORED where there is no label.
    Raises:
        ValueError: an id has no colour.
    """
    table = np.zeros((256, 3), np.uint8)
    table[:len(colours)] = np.reshape(colours, (-1, 3))
    table[ignore] = IGNORED
    has_colour = np.zeros(256, bool)
    has_colour[:len(colours)] = True
    has_colour[ignore] = True
    unknown = labels[~has_colour[labels]]
    if unknown.size:
        raise ValueError(f"label {unknown[0]} has no colour: the classes are 0 to "
                         f"{len(colours) - 1}")
    return table[labels]


def error_colour(colours):
    """The colour of errors: the one of a few that is farthest from all class colours."""
    classes = np.reshape(colours, (-1, 3)).astype(int)

    def least_distance(colour):
        return abs(classes - colour).sum(1).min()

    return max(ERROR_COLOURS, key=least_distance)


def error_map(prediction, truth, wrong, ignore=255):
    """Show where a prediction is right (white), wrong or without truth (grey).

    Args:
        prediction, truth: (H, W) class ids; truth may be `ignore`.
        wrong: (r, g, b) of wrong pixels, as from `error_colour`.
    Returns:
        (H, W, 3) uint8 of RIGHT, `wrong` and IGNORED.
    """
    outcome = np.where(truth == ignore, 2, prediction != truth)
    return colour_map(outcome, [RIGHT, wrong, IGNORED])


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


def panel_grid(rows, column_titles, entries=None, row_titles=None, cell=256, title=None):
    """Rows of pictures under common titles, with one legend for all; each keeps its shape.

    Args:
        rows: list of lists of (H, W, 3) uint8; a row may be shorter than the others.
        column_titles: a text per column.
        entries: as in `with_legend`.
        row_titles: a text above each row.
        cell: longer side of a picture in its frame, px.
        title: text above all.
    Returns:
        PIL.Image.
    """
    titles = [text_image(title, width=cell) for title in column_titles]
    framed = [[_frame(picture, cell) for picture in row] for row in rows]
    gap = TEXT // 2
    columns = zip_longest(titles, *framed)
    widths = [max(image.width for image in column if image) for column in columns]
    total = sum(widths) + gap * len(widths)
    parts = [_grid_row(titles, widths, gap)]
    for number, images in enumerate(framed):
        if row_titles:
            parts.append(text_image(row_titles[number], colour=FAINT, width=total))
        parts.append(_grid_row(images, widths, gap))
    return page(parts, title, entries)


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


def save_png(image, path):
    """Write a PNG under a temporary name and rename it, so that it is never half a picture.

    Args:
        image: (H, W, 3) or (H, W) uint8, or PIL.Image.
        path: the file to write, in a folder that exists.
    """
    temporary = Path(f"{path}.part")
    try:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        picture.save(temporary, "PNG", dpi=(192, 192), compress_level=3)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unfilled_size(image, labelled):
    """(height, width) of a tile without the mirrored ground that fills it up, right and below.

    Prepared data do not keep the size, but mirrored rows and columns are equal to the last bit.

    Args:
        image: (H, W, C); labelled: (H, W) bool, where filling never is.
    """
    sizes = []
    for axis in (0, 1):
        lines = np.moveaxis(image, axis, 0)  # (S, ...)
        used = np.flatnonzero(labelled.any(1 - axis))
        least = max(2, 1 + used.max(initial=0))
        size = len(lines)
        for candidate in range(least, len(lines)):
            if np.array_equal(lines[candidate], lines[candidate - 2]):
                padding = [(0, len(lines) - candidate)] + [(0, 0)] * (lines.ndim - 1)
                filled = np.pad(lines[:candidate], padding, mode="reflect")
                if np.array_equal(filled, lines):
                    size = candidate
                    break
        sizes.append(size)
    return tuple(sizes)
