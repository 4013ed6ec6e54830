"""Pictures of a scored split and of a run: tiles, learning curves, calibration."""

import torch

from data import normalise
from engine.meta import display_limits
from metrics import class_map
from report.figures import (
    IGNORED, RIGHT, WRONG, colour_map, curves, draw_points, error_map, panel_grid, to_rgb)
from report.layout import stack_images
from report.stats import NUM_BINS
from report.tables import read_log


def preview(model, tiles, pointed, meta, device, rows=5):
    """A picture of some tiles of a split: image, points, prediction, truth.

    Args:
        model: in eval mode.
        tiles: the split with all its labels.
        pointed: the same split with the points that a training tile would have.
        meta: the checkpoint's metadata.
        device: torch.device.
        rows: tiles to show, spread evenly over the split.
    Returns:
        PIL.Image.
    """
    colours = meta["colours"]
    last = len(tiles) - 1
    shown = sorted({round(row * last / max(1, rows - 1)) for row in range(rows)})
    points = pointed.get_batch(shown)[1].numpy()
    panels = []
    for (rgb, truth, prediction), labels in zip(predict_tiles(model, tiles, shown, meta, device),
                                                points):
        panels.append([rgb, draw_points(rgb, labels, colours), colour_map(prediction, colours),
                       colour_map(truth, colours)])
    given = "labels" if pointed.points is None else "points"
    entries = list(zip(meta["classes"], colours))
    return panel_grid(panels, ["image", given, "prediction", "truth"], entries)


def tile_panels(model, tiles, stats, positions, meta, device, split, each=2):
    """A picture of the best, median and worst tiles: image, truth, prediction, error.

    Tiles are ranked by the share of their labelled pixels that are right. Tiles with less than
    half the mean number of labels are left out, because few pixels make an uncertain score.

    Args:
        model: in eval mode.
        tiles: data.TileDataset.
        stats: the EvalStats of these tiles.
        positions: list of (scene, row, col) of each tile, px.
        meta: the checkpoint's metadata.
        device: torch.device.
        split: its name, for the titles.
        each: how many best, median and worst tiles.
    Returns:
        PIL.Image.
    """
    _, right, miou = stats.tiles.T
    accuracy = right / stats.tiles[:, 0]
    rank_of = choose_tiles(stats.tiles, each)
    panels = []
    for rgb, truth, prediction in predict_tiles(model, tiles, rank_of, meta, device):
        panels.append([rgb, colour_map(truth, meta["colours"], tiles.ignore),
                       colour_map(prediction, meta["colours"], tiles.ignore),
                       error_map(prediction, truth, tiles.ignore)])
    titles = []
    for tile, rank in rank_of.items():
        scene, row, col = positions[tile]
        titles.append(f"{rank} {split} tile: {100 * accuracy[tile]:.1f} % right, mean IoU "
                      f"{miou[tile]:.2f} - {scene}, row {row}, column {col} px")
    entries = [*zip(meta["classes"], meta["colours"]), ("error: right", RIGHT),
               ("error: wrong", WRONG), ("no label", IGNORED)]
    return panel_grid(panels, ["image", "truth", "prediction", "error"], entries, titles)


def choose_tiles(scores, each):
    """Choose the best, median and worst tiles by accuracy.

    Args:
        scores: (N, 3), `EvalStats.tiles`.
        each: how many of each.
    Returns:
        {tile: "best", "median" or "worst"}, the best first.
    """
    labelled, right, _ = scores.T
    enough = (labelled > 0) & (labelled >= labelled.mean() / 2)
    order = (right / labelled).argsort(descending=True, stable=True)
    ranked = [tile for tile in order.tolist() if enough[tile]]
    middle = max(0, len(ranked) // 2 - each // 2)
    rank_of = dict.fromkeys(ranked[middle:middle + each], "median")
    rank_of |= dict.fromkeys(ranked[-each:], "worst")
    rank_of |= dict.fromkeys(ranked[:each], "best")
    return {tile: rank_of[tile] for tile in ranked if tile in rank_of}


def predict_tiles(model, tiles, shown, meta, device):
    """Predict some tiles, one at a time.

    Args:
        model, tiles, meta, device: as in `preview`.
        shown: tile indices.
    Yields:
        (H, W, 3) uint8 image to be shown, (H, W) uint8 truth, (H, W) uint8 prediction.
    """
    limits = display_limits(meta)
    nodata = tiles.meta.get("nodata")
    for tile in shown:
        images, truth = tiles.get_batch([tile])
        with torch.inference_mode():
            inputs = normalise(images.to(device), meta["mean"], meta["std"], nodata)
            prediction = class_map(model(inputs)).cpu()
        rgb = to_rgb(images[0].numpy(), meta["rgb"], limits)
        yield rgb, truth[0].numpy(), prediction[0].numpy()


def learning_curves(log):
    """A picture of a run's log.csv: losses above, validation scores below, by epoch.

    Args:
        log: path of log.csv.
    Returns:
        PIL.Image.
    """
    losses = {"training": "train_loss", "validation": "val_loss"}
    scores = {"pixel accuracy": "val_accuracy", "mean IoU": "val_miou"}
    rows = read_log(log, ["epoch", *losses.values(), *scores.values()])
    figures = []
    for label, limits, columns in (("loss", None, losses), ("validation score", (0, 1), scores)):
        series = {}
        for name, column in columns.items():
            series[name] = [(row["epoch"], row[column]) for row in rows]
        figures.append(curves(series, "epoch", label, y_limits=limits))
    return stack_images(figures)


def reliability_figure(stats, title):
    """A picture of the accuracy by confidence, and of how many pixels have that confidence.

    Args:
        stats: EvalStats.
        title: text above.
    Returns:
        PIL.Image.
    """
    pixels, right, confidence = stats.calibration_bins.tolist()
    total = sum(pixels) or 1
    points = []
    outline = []  # of the bars of a histogram
    for n in range(NUM_BINS):
        if pixels[n]:
            points.append((100 * confidence[n] / pixels[n], 100 * right[n] / pixels[n]))
        height = 100 * pixels[n] / total
        left = 100 * n / NUM_BINS
        next_left = 100 * (n + 1) / NUM_BINS
        outline += [(left, 0), (left, height), (next_left, height), (next_left, 0)]
    x_label = "confidence, the largest softmax probability, %"
    error = 100 * stats.calibration_error()
    accuracy = curves({"perfectly calibrated": [(0, 0), (100, 100)], "this network": points},
                      x_label, "labelled pixels that are right, %",
                      f"{title}: expected calibration error {error:.1f} %", (0, 100))
    histogram = curves({f"in {NUM_BINS} bins of confidence": outline}, x_label,
                       "share of all labelled pixels, %")
    return stack_images([accuracy, histogram])
