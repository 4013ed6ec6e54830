"""What a person looks at after training: pictures of tiles, curves, calibration, tables of scenes, areas and runs."""

import csv
import math
import os

import torch

from data import normalise
from engine.meta import display_limits
from metrics import ConfusionMatrix, class_map, plain
from report.figures import (
    IGNORED,
    RIGHT,
    WRONG,
    colour_map,
    curves,
    draw_points,
    error_map,
    panel_grid,
    stack_images,
    to_rgb,
)
from report.stats import BAND, BINS

SHOWN_SCENES = 10  # in the terminal; the file has them all


def preview(model, tiles, pointed, meta, device, rows=5):
    """A picture of some tiles of a split: image, points, prediction, truth.

    Args:
        model: in eval mode.
        tiles: the split with all its labels.
        pointed: the same split with only the points that a training tile would have.
        meta: data meta of the checkpoint.
        device: torch.device.
        rows: tiles to show, spread evenly over the split.
    Returns:
        PIL.Image.
    """
    shown = sorted({round(i * (len(tiles) - 1) / max(1, rows - 1)) for i in range(rows)})
    points = pointed.get_batch(shown)[1].numpy()
    panels = []
    for (rgb, truth, prediction), given in zip(look_at(model, tiles, shown, meta, device), points):
        panels.append([rgb, draw_points(rgb, given, meta["colours"]), colour_map(prediction, meta["colours"]),
                       colour_map(truth, meta["colours"])])
    given = "points" if pointed.points is not None else "labels"
    return panel_grid(panels, ["image", given, "prediction", "truth"], list(zip(meta["classes"], meta["colours"])))


def tile_panels(model, tiles, tally, places, meta, device, split, each=2):
    """A picture of the best, median and worst tiles: image, truth, prediction, error; with score and place of each.

    Tiles are ranked by the share of their labelled pixels that are right; those with less than half the usual number of
    labels are left out, for a few pixels say little.

    Args:
        model: in eval mode.
        tiles: data.TileDataset.
        tally: the EvalStats of these tiles.
        places: list of (scene, row, col) of each tile, px.
        meta: data meta of the checkpoint.
        device: torch.device.
        split: its name, for the titles.
        each: how many best, median and worst tiles.
    Returns:
        PIL.Image.
    """
    labelled, right, miou = tally.tiles.T
    share = right / labelled
    enough = (labelled > 0) & (labelled >= labelled.mean() / 2)
    ranked = [int(tile) for tile in share.argsort(descending=True, stable=True) if enough[tile]]
    middle = max(0, len(ranked) // 2 - each // 2)
    kinds = {tile: kind for kind, part in (("median", ranked[middle:middle + each]), ("worst", ranked[-each:]),
                                           ("best", ranked[:each])) for tile in part}
    shown = [tile for tile in ranked if tile in kinds]
    titles = [f"{kinds[tile]} {split} tile: {100 * share[tile]:.1f} % right, mean IoU {miou[tile]:.2f} - "
              "{}, row {}, column {} px".format(*places[tile]) for tile in shown]
    panels = [[rgb, colour_map(truth, meta["colours"], tiles.ignore), colour_map(prediction, meta["colours"]),
               error_map(prediction, truth, tiles.ignore)]
              for rgb, truth, prediction in look_at(model, tiles, shown, meta, device)]
    entries = [*zip(meta["classes"], meta["colours"]), ("error: right", RIGHT), ("error: wrong", WRONG),
               ("no label", IGNORED)]
    return panel_grid(panels, ["image", "truth", "prediction", "error"], entries, titles)


def look_at(model, tiles, shown, meta, device):
    """Yield some tiles as (H, W, 3) uint8 image to be shown, (H, W) uint8 truth and (H, W) uint8 prediction.

    Args:
        model, tiles, meta, device: as in `preview`.
        shown: tile indices.
    """
    limits = display_limits(meta)
    for tile in shown:
        images, truth = tiles.get_batch([tile])
        with torch.inference_mode():
            inputs = normalise(images.to(device), meta["mean"], meta["std"], tiles.meta.get("nodata"))
            prediction = class_map(model(inputs)).cpu()
        yield to_rgb(images[0].numpy(), meta["rgb"], limits), truth[0].numpy(), prediction[0].numpy()


def learning_curves(log):
    """A picture of a run's log.csv: losses above, validation scores below, by epoch.

    Args:
        log: path of log.csv.
    Returns:
        PIL.Image.
    """
    losses = {"training": "train_loss", "validation": "val_loss"}
    scores = {"pixel accuracy": "val_accuracy", "mean IoU": "val_miou"}
    rows, figures = read_log(log, ["epoch", *losses.values(), *scores.values()]), []
    for label, limits, lines in (("loss", None, losses), ("validation score", (0, 1), scores)):
        series = {name: [(row["epoch"], row[column]) for row in rows] for name, column in lines.items()}
        figures.append(curves(series, "epoch", label, y_limits=limits))
    return stack_images(figures)


def read_log(log, columns):
    """Some columns of a run's log.csv, a dict of float for each epoch.

    Raises:
        ValueError: the file is not what train.py wrote.
    """
    try:
        with open(log, newline="", encoding="utf-8") as file:
            return [{name: float(row[name]) for name in columns} for row in csv.DictReader(file)]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{log} is damaged ({error}), so no curves can be drawn: the weights are whole, score them by "
                         "evaluate.py --checkpoint") from None


def reliability_figure(tally, title):
    """How often the network is right by how sure it is, and how many pixels it is that sure of.

    Args:
        tally: EvalStats.
        title: text above.
    Returns:
        PIL.Image.
    """
    pixels, right, sure = tally.bins.tolist()
    points = [(100 * sure[n] / pixels[n], 100 * right[n] / pixels[n]) for n in range(BINS) if pixels[n]]
    heights = [100 * count / (sum(pixels) or 1) for count in pixels]
    bars = [(100 * edge / BINS, height) for n in range(BINS) for edge, height in
            ((n, 0), (n, heights[n]), (n + 1, heights[n]), (n + 1, 0))]
    label = "confidence, the largest softmax probability, %"
    title = f"{title}: expected calibration error {100 * tally.calibration_error():.1f} %"
    lines = {"perfectly calibrated": [(0, 0), (100, 100)], "this network": points}
    return stack_images([curves(lines, label, "labelled pixels that are right, %", title, (0, 100)),
                         curves({f"in {BINS} bins of confidence": bars}, label, "share of all labelled pixels, %")])


def boundary_scores(tally, names):
    """Mean IoU and IoU by class near the class boundaries of the truth and beyond, as plain types.

    Args:
        tally: EvalStats.
        names: K class names.
    Returns:
        {"width_px", "within": {"pixels", "miou", "iou": {name: IoU}}, "beyond": the same}; NaN is None.
    """
    scores = {"width_px": BAND}
    for where, counts in (("within", tally.near), ("beyond", tally.counts.sum(0) - tally.near)):
        matrix = ConfusionMatrix(len(names), counts=counts)
        scores[where] = {"pixels": int(counts.sum()), "miou": plain(matrix.miou()),
                         "iou": {name: plain(value) for name, value in zip(names, matrix.iou())}}
    return scores


def scene_rows(tally, places, names):
    """The scores of each scene, the worst first.

    Args:
        tally: EvalStats.
        places: list of (scene, row, col) of each tile.
        names: K class names.
    Returns:
        list of {"scene", "tiles", "pixels", "miou", "pixel_accuracy", and the IoU of each class}; NaN is None.
    """
    rows, scenes = [], [scene for scene, _, _ in places]
    for scene in dict.fromkeys(scenes):
        tiles = [number for number, name in enumerate(scenes) if name == scene]
        matrix = ConfusionMatrix(len(names), counts=tally.counts[tally.blocks[tiles].unique()].sum(0))
        rows.append({"scene": scene, "tiles": len(tiles), "pixels": int(matrix.counts.sum()),
                     "miou": plain(matrix.miou()), "pixel_accuracy": plain(matrix.pixel_accuracy()),
                     **{f"iou_{name}": plain(value) for name, value in zip(names, matrix.iou())}})
    return sorted(rows, key=lambda row: math.inf if row["miou"] is None else row["miou"])


def text_table(rows, columns=None):
    """Rows as lines of text, texts to the left and numbers to the right; None is a dash.

    Args:
        rows: list of dict of the same keys.
        columns: the keys to show; None is all.
    Returns:
        text without a newline at its end.
    """
    columns = list(columns or rows[0])
    patterns = {float: "{:,.3f}", int: "{:,}", str: "{}"}
    parts = []  # a column each
    for key in columns:
        cells = [key] + [patterns.get(type(row[key]), "-").format(row[key]) for row in rows]
        width = max(map(len, cells))
        parts.append([cell.ljust(width) if isinstance(rows[0][key], str) else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*parts))


def write_rows(path, rows):
    """Write a list of dict of the same keys as CSV, under a temporary name that is then changed; None is empty."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    os.replace(temporary, path)


def report_text(boundary, calibration_error, scenes, areas):
    """What is said below the table of classes: boundaries, calibration, the worst scenes, areas.

    Args:
        boundary: of `boundary_scores`.
        calibration_error: 0..1.
        scenes: of `scene_rows`.
        areas: of `area_rows`.
    Returns:
        text without a newline at its end.
    """
    parts = {f"within {boundary['width_px']} px": boundary["within"], "beyond": boundary["beyond"]}
    lines = [text_table([{"class boundaries": where, **part} for where, part in parts.items()],
                        ["class boundaries", "pixels", "miou"])]
    lines += ["", f"expected calibration error {'-' if calibration_error is None else f'{calibration_error:.3f}'}"]
    columns = ["scene", "tiles", "pixels", "miou", "pixel_accuracy"]
    left = f", the worst {SHOWN_SCENES} of {len(scenes)}" if len(scenes) > SHOWN_SCENES else ""
    lines += ["", f"scenes{left}:", text_table(scenes[:SHOWN_SCENES], columns)]
    lines += ["", "areas mapped, adjusted for the map's errors (Olofsson et al. 2014), and half their 95 % interval:",
              text_table(areas), "The labelled pixels of this split are taken as a random sample of the mapped area. But",
              "they lie side by side, and neighbours are alike: the true intervals are wider than these."]
    return "\n".join(lines)
