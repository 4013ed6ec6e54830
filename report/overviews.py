"""Overviews of a mapped scene: the image beside its map, and numbered points to label next."""

import numpy as np

from report.figures import IGNORED, colour_map, with_legend
from report.layout import PAPER, TEXT
from report.discs import RADIUS, draw_numbers, draw_points

GAP = 12  # px between image and map


def map_overview(rgb, classes, meta, counts, title, ignore=255):
    """The image of a scene and its class map, side by side or, if it is wide, one above the other.

    The map is opaque, because colours that are blended with an image are those of no class.

    Args:
        rgb: (h, w, 3) uint8.
        classes: (h, w) uint8, or `ignore` where there is no data.
        meta: dict with classes and colours.
        counts: pixels per value, for the shares in the legend of the classes found.
        title: text above.
    Returns:
        PIL.Image.
    """
    shown = colour_map(classes, meta["colours"], ignore)
    height, width = classes.shape
    if height >= width / 2:  # side by side
        gap = np.full((height, GAP, 3), PAPER, np.uint8)
        both = np.concatenate([rgb, gap, shown], axis=1)
    else:
        gap = np.full((GAP, width, 3), PAPER, np.uint8)
        both = np.concatenate([rgb, gap, shown], axis=0)
    total = counts[:len(meta["classes"])].sum()
    entries = []
    for name, colour, count in zip(meta["classes"], meta["colours"], counts):
        if count:
            entries.append((name, colour, f"{100 * count / total:.1f} %"))
    if (classes == ignore).any():
        entries.append(("no data", IGNORED))
    return with_legend(both, entries, title)


def points_overview(rgb, rows, cols, classes, meta, title, ignore=255):
    """The image of a scene with the pixels to label next: numbered discs of the class predicted.

    Args:
        rgb: (h, w, 3) uint8.
        rows, cols, classes: (N,) each, px of `rgb`; their numbers are 1 to N.
        meta: dict with classes and colours.
        title: text above.
    Returns:
        PIL.Image with a legend of the classes.
    """
    enlarge = max(1, -(-20 * TEXT // max(rgb.shape)))  # so that numbers do not cover a small scene
    rgb = rgb.repeat(enlarge, 0).repeat(enlarge, 1)
    rows = np.asarray(rows) * enlarge + enlarge // 2
    cols = np.asarray(cols) * enlarge + enlarge // 2
    labels = np.full(rgb.shape[:2], ignore, np.uint8)
    labels[rows, cols] = classes
    entries = []
    for k in np.unique(classes):
        entries.append((f"predicted {meta['classes'][k]}", meta["colours"][k],
                        str((classes == k).sum())))
    size = max(RADIUS, max(rgb.shape) // 200)
    image = draw_points(rgb, labels, meta["colours"], size=size)
    image = draw_numbers(image, rows, cols, max(18, 3 * size))
    return with_legend(image, entries, title)
