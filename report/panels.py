"""Pictures of a scored split and of a run: tiles, learning curves, calibration."""

import json

import torch

from data import normalise
from engine.files import read_text
from engine.meta import display_limits
from engine.prepared import SPARSE_SHARE
from metrics import class_map
from report.curves import curves
from report.figures import (
    IGNORED, RIGHT, colour_map, error_colour, error_map, panel_grid, to_rgb, unfilled_size)
from report.layout import page, stack_images
from report.discs import enlarged_points
from report.stats import NUM_BINS
from report.tables import read_log

OUTCOME = "points (white ring: right, crossed: wrong)"


def is_point_set(tiles):
    """Whether so few pixels of a split are labelled that they are shown as points."""
    return tiles.labelled_pixels < SPARSE_SHARE * tiles.labels.numel()


def preview(model, tiles, pointed, meta, device, rows=5, title=None):
    """A picture of some tiles of a split: image, points, prediction, truth.

    Of a split that is labelled by points alone: image, points and whether they are right,
    prediction.

    Args:
        model: in eval mode.
        tiles: the split with all its labels.
        pointed: the same split with the points that a training tile would have.
        meta: the checkpoint's metadata.
        device: torch.device.
        rows: tiles to show, spread evenly over the split.
        title: text above, best the run's name; the data set's name is added.
    Returns:
        PIL.Image.
    """
    return previews([(model, tiles, pointed)], meta, device, rows, title)


def previews(sources, meta, device, rows=5, title=None):
    """The picture of `preview`, of several networks on a split each.

    Args:
        sources: list of (model, tiles, pointed); the others as for `preview`.
    """
    sparse = all(is_point_set(tiles) for _, tiles, _ in sources)
    panels = []
    for model, tiles, pointed in sources:
        panels += preview_panels(model, tiles, pointed, meta, device, -(-rows // len(sources)),
                                 sparse)
    given = "labels" if sources[0][2].points is None else "points"
    titles = ["image", OUTCOME, "prediction"] if sparse else ["image", given, "prediction", "truth"]
    entries = list(zip(meta["classes"], meta["colours"]))
    title = " on ".join(filter(None, [title, f"data set {meta.get('name')}"]))
    return panel_grid(panels, titles, entries, title=title)


def preview_panels(model, tiles, pointed, meta, device, rows, sparse):
    """The rows of `previews`, lists of (H, W, 3) uint8; sparse: show whether points are right."""
    colours = meta["colours"]
    last = len(tiles) - 1
    shown = sorted({round(row * last / max(1, rows - 1)) for row in range(rows)})
    if sparse:  # rather tiles that hold points
        shown = spread(tiles_with_labels(tiles), rows) or shown
    points = pointed.get_batch(shown)[1].numpy()
    panels = []
    for (rgb, truth, prediction), labels in zip(predict_tiles(model, tiles, shown, meta, device),
                                                points):
        mapped = colour_map(prediction, colours)
        if sparse:
            wrong = prediction != truth
            panels.append([rgb, enlarged_points(rgb, truth, colours, wrong=wrong), mapped])
        else:
            labels = labels[:len(rgb), :rgb.shape[1]]
            panels.append([rgb, enlarged_points(rgb, labels, colours), mapped,
                           colour_map(truth, colours)])
    return panels


def tiles_with_labels(tiles):
    """Indices of the tiles that hold a labelled pixel."""
    return [index for index, labels in enumerate(tiles.labels.numpy())
            if (labels != tiles.ignore).any()]


def spread(items, count):
    """At most `count` of a list, evenly spread over it."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / max(1, count - 1))] for place in range(count)]


def tile_panels(model, tiles, stats, positions, meta, device, split, each=2, title=None):
    """A picture of the best, median and worst tiles: image, truth, prediction, error.

    Tiles are ranked by the share of their labelled pixels that are right. Tiles with less than
    half the mean number of labels are left out, because few pixels make an uncertain score. Of a
    split that is labelled by points alone: image, points and whether they are right, prediction.

    Args:
        model: in eval mode.
        tiles: data.TileDataset.
        stats: the EvalStats of these tiles.
        positions: list of (scene, row, col) of each tile, px.
        meta: the checkpoint's metadata.
        device: torch.device.
        split: its name, for the titles.
        each: how many best, median and worst tiles.
        title: text above.
    Returns:
        PIL.Image.
    """
    labelled, right, miou = stats.tiles.T
    colours = meta["colours"]
    sparse = is_point_set(tiles)
    wrong_colour = error_colour(colours)
    rank_of = choose_tiles(stats.tiles, each)
    panels = []
    for rgb, truth, prediction in predict_tiles(model, tiles, rank_of, meta, device):
        mapped = colour_map(prediction, colours, tiles.ignore)
        if sparse:
            wrong = prediction != truth
            panels.append([rgb, enlarged_points(rgb, truth, colours, tiles.ignore, wrong), mapped])
        else:
            panels.append([rgb, colour_map(truth, colours, tiles.ignore), mapped,
                           error_map(prediction, truth, wrong_colour, tiles.ignore)])
    titles = []
    for tile, rank in rank_of.items():
        scene, row, col = positions[tile]
        titles.append(f"{rank} {split} tile: {int(right[tile]):,} of {int(labelled[tile]):,} "
                      f"labelled px right, mean IoU {miou[tile]:.2f} - {scene}, row {row}, column "
                      f"{col} px")
    entries = list(zip(meta["classes"], colours))
    if sparse:
        columns = ["image", OUTCOME, "prediction"]
    else:
        columns = ["image", "truth", "prediction", "error"]
        entries += [("error: right", RIGHT), ("error: wrong", wrong_colour), ("no label", IGNORED)]
    return panel_grid(panels, columns, entries, titles, title=title)


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
    """Predict some tiles, one at a time; what a tile was filled up with is cut off again.

    Args:
        model, tiles, meta, device: as in `preview`.
        shown: tile indices.
    Yields:
        (h, w, 3) uint8 image to be shown, (h, w) uint8 truth, (h, w) uint8 prediction.
    """
    limits = display_limits(meta)
    nodata = tiles.meta.get("nodata")
    for tile in shown:
        images, truth = tiles.get_batch([tile])
        with torch.inference_mode():
            inputs = normalise(images.to(device), meta["mean"], meta["std"], nodata)
            prediction = class_map(model(inputs)).cpu()
        image = images[0].cpu().numpy()
        height, width = unfilled_size(image, truth[0].numpy() != tiles.ignore)
        seen = slice(height), slice(width)
        yield (to_rgb(image[seen], meta["rgb"], limits), truth[0].numpy()[seen],
               prediction[0].numpy()[seen])


def learning_curves(log):
    """A picture of a run's log.csv by epoch: losses, validation scores, learning rate.

    The epoch of the highest validation mean IoU is marked.

    Args:
        log: path of log.csv, beside which may lie the run's args.json.
    Returns:
        PIL.Image.
    """
    losses = {"training": "train_loss", "validation": "val_loss"}
    scores = {"pixel accuracy": "val_accuracy", "mean IoU": "val_miou"}
    rates = {"learning rate": "lr"}
    rows = read_log(log, ["epoch", *losses.values(), *scores.values(), *rates.values()])
    scored = [row for row in rows if row["val_miou"] >= 0]  # NaN is not
    best = max(scored, key=lambda row: (row["val_miou"], -row["val_loss"]), default=None)
    marks = {best["epoch"]: f"best epoch: {best['epoch']:.0f}"} if best else {}
    figures = []
    for label, limits, columns in (("loss", None, losses), ("validation score", (0, 1), scores),
                                   ("learning rate", None, rates)):
        series = {}
        for name, column in columns.items():
            series[name] = [(row["epoch"], row[column]) for row in rows]
        figures.append(curves(series, "epoch", label, y_limits=limits, marks=marks))
    return page([stack_images(figures)], run_title(log.parent))


def run_title(folder):
    """The name of a run's folder and of the data set that its args.json names."""
    try:
        data = json.loads(read_text(folder / "args.json"))["data"]
        return f"{folder.resolve().name} on {data}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


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
    radii = []
    outline = []  # of the bars of a histogram
    for n in range(NUM_BINS):
        if pixels[n]:
            points.append((100 * confidence[n] / pixels[n], 100 * right[n] / pixels[n]))
            radii.append(max(3, 40 * (pixels[n] / total) ** 0.5))
        height = 100 * pixels[n] / total
        left = 100 * n / NUM_BINS
        next_left = 100 * (n + 1) / NUM_BINS
        outline += [(left, 0), (left, height), (next_left, height), (next_left, 0)]
    x_label = "confidence, the largest softmax probability, %"
    error = 100 * stats.calibration_error()
    network = "this network (area of a disc: its share of the pixels)"
    accuracy = curves({"perfectly calibrated": [(0, 0), (100, 100)], network: points},
                      x_label, "labelled pixels that are right, %",
                      f"{title}: expected calibration error {error:.1f} %", (0, 100),
                      radii={network: radii})
    histogram = curves({f"in {NUM_BINS} bins of confidence": outline}, x_label,
                       f"share of all {int(sum(pixels)):,} labelled pixels, %")
    return stack_images([accuracy, histogram])
