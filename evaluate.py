"""Score a checkpoint on a split of a prepared data set.

    python evaluate.py --checkpoint runs/demo-unet-1/best.pt --data data/demo --split test

prints a table and writes metrics_<split>.json beside the checkpoint. The network, its classes and its normalisation come
from the checkpoint; nothing of it is given again.
"""

import argparse
import csv
import json
import os
import pathlib
import sys

import torch
from tqdm import tqdm

from checkpoint import load_checkpoint, load_model
from data import Tiles, display_limits, normalise, pick_device, prefetch
from figures import colour_map, curves, draw_points, panel_grid, stack_images, to_rgb
from losses import build_loss, labelled_weight
from metrics import ConfusionMatrix, class_map, score_table


def parse_args(argv=None):
    """The command line; `python evaluate.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Score a checkpoint on a split of a prepared data set.",
                                     epilog="example: python evaluate.py --checkpoint runs/demo-unet-1/best.pt "
                                            "--data data/demo --split test",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="best.pt or last.pt of a run")
    parser.add_argument("--data", help="prepared data set; not given: the one the checkpoint was trained on")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="tiles to score")
    parser.add_argument("--out", help="folder for metrics_<split>.json; not given: the checkpoint's")
    parser.add_argument("--bs", type=int, default=16, help="tiles at a time")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    return parser.parse_args(argv)


def main(args):
    """Score and write; returns the scores as written."""
    if args.bs < 1:
        raise ValueError(f"--bs {args.bs}: give 1 tile or more at a time")
    device = pick_device(args.device)
    content = load_checkpoint(args.checkpoint)
    model, facts = load_model(args.checkpoint, device)
    data = args.data or str(content["args"].get("data"))
    tiles = Tiles(data, args.split)
    check_same_classes(facts, tiles.facts, args.checkpoint, data)
    try:
        loss_function, labelled_pixels = build_loss(content["args"]["loss"]), int(content["train"]["labelled_pixels"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{args.checkpoint} does not say its loss and labelled pixels: give another of the run") from None
    matrix, loss = evaluate(model, tiles, facts, device, args.bs, loss_function, amp_dtype(device))
    print(f"{args.checkpoint} on {data}, split {args.split}: {len(tiles)} tiles, {tiles.labelled_pixels:,} labelled px, "
          f"loss {loss:.4f}")
    print(score_table(matrix, facts["classes"]))
    out = pathlib.Path(args.out) if args.out else pathlib.Path(args.checkpoint).parent
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"metrics_{args.split}.json"
    scores = write_scores(path, matrix, facts, labelled_pixels, args.split, args.checkpoint)
    print(path)
    return scores


def evaluate(model, tiles, facts, device, batch_size=16, loss_function=None, amp=None, limit=0):
    """Run a model over a split, every tile once, and count.

    Args:
        model: (B, C, H, W) -> (B, K, H, W) logits; left in eval mode.
        tiles: data.Tiles.
        facts: dict with mean, std, nodata and classes, of the data set or the checkpoint.
        device: torch.device.
        batch_size: tiles at a time.
        loss_function: as losses.build_loss makes it, or None.
        amp: torch.bfloat16 or torch.float16 to compute the network in, or None for float32.
        limit: batches to stop after; 0 is all.
    Returns:
        (ConfusionMatrix, mean loss over the labelled pixels; NaN without a loss function or without labels).
    """
    model.eval()
    matrix = ConfusionMatrix(len(facts["classes"]), tiles.ignore)
    losses, weights = [], []
    starts = range(0, len(tiles), batch_size)[:limit or None]
    batches = prefetch(lambda start: tiles.take(range(start, min(start + batch_size, len(tiles)))), starts)
    with torch.inference_mode():
        for images, labels in tqdm(batches, "scoring", len(starts), disable=None, leave=False, unit="batch"):
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                logits = model(normalise(images, facts["mean"], facts["std"], facts.get("nodata")))
            matrix.update(class_map(logits), labels)
            if loss_function is not None:
                weights.append(labelled_weight(labels, ignore=tiles.ignore))
                losses.append(loss_function(logits.float(), labels) * weights[-1])
    total = float(sum(weights))
    return matrix, float(sum(losses)) / total if total else float("nan")


def preview(model, tiles, pointed, facts, device, rows=5):
    """A picture of some tiles of a split: image, points, prediction, truth.

    Args:
        model: in eval mode.
        tiles: the split with all its labels.
        pointed: the same split with only the points that a training tile would have.
        facts: data facts of the checkpoint.
        device: torch.device.
        rows: tiles to show, spread evenly over the split.
    Returns:
        PIL.Image.
    """
    shown = sorted({round(i * (len(tiles) - 1) / max(1, rows - 1)) for i in range(rows)})
    images, truth = tiles.take(shown)
    points = pointed.take(shown)[1]
    with torch.inference_mode():
        inputs = normalise(images.to(device), facts["mean"], facts["std"], facts["nodata"])
        prediction = class_map(model(inputs)).cpu()
    limits = display_limits(facts)
    panels = []
    for row in range(len(shown)):
        rgb = to_rgb(images[row].numpy(), facts["rgb"], limits)
        panels.append([rgb, draw_points(rgb, points[row].numpy(), facts["colours"]),
                       colour_map(prediction[row].numpy(), facts["colours"]), colour_map(truth[row].numpy(), facts["colours"])])
    given = "points" if pointed.positions is not None else "labels"
    return panel_grid(panels, ["image", given, "prediction", "truth"], list(zip(facts["classes"], facts["colours"])))


def learning_curves(log):
    """A picture of a run's log.csv: losses above, validation scores below, by epoch.

    Args:
        log: path of log.csv.
    Returns:
        PIL.Image.
    """
    try:
        with open(log, newline="", encoding="utf-8") as file:
            rows = [{column: float(row[column]) for column in ("epoch", "train_loss", "val_loss", "val_accuracy", "val_miou")}
                    for row in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{log} is damaged ({error!r}), so there are no curves; all else is written") from None
    figures = []
    for label, limits, lines in (("loss", None, {"training": "train_loss", "validation": "val_loss"}),
                                 ("validation score", (0, 1), {"pixel accuracy": "val_accuracy", "mean IoU": "val_miou"})):
        series = {name: [(row["epoch"], row[column]) for row in rows] for name, column in lines.items()}
        figures.append(curves(series, "epoch", label, y_limits=limits))
    return stack_images(figures)


def amp_dtype(device, how="auto"):
    """The type a network computes in under autocast: bfloat16 or float16 on CUDA; None, which is float32, elsewhere or "off"."""
    if device.type != "cuda" or how == "off":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def check_same_classes(model_facts, data_facts, checkpoint, data):
    """See that a data set fits a model: its bands, dtype and class names.

    Args:
        model_facts: data facts of the checkpoint, classes as names.
        data_facts: dict of dataset.json, classes as {name, colour}.
        checkpoint, data: their paths, for the message.
    Raises:
        ValueError: they differ; one line that says in what.
    """
    names = [entry["name"] for entry in data_facts["classes"]]
    if names != model_facts["classes"]:
        raise ValueError(f"{data} has the classes {', '.join(names)}, but {checkpoint} was trained for "
                         f"{', '.join(model_facts['classes'])}: give the data set it was trained for")
    for key in ("bands", "dtype"):
        if data_facts[key] != model_facts[key]:
            raise ValueError(f"{data} has {key} {data_facts[key]}, but {checkpoint} was trained on {model_facts[key]}: "
                             "give a data set of the same sensor")


def write_scores(path, matrix, facts, labelled_pixels, split, checkpoint):
    """Write metrics.json: every score, and what it is the score of.

    Args:
        path: where to.
        matrix: ConfusionMatrix.
        facts: data facts of the checkpoint; classes are names.
        labelled_pixels: labelled training pixels that the run was given.
        split, checkpoint: what was scored.
    Returns:
        the dict that was written.
    """
    scores = {**matrix.scores(facts["classes"]), "labelled_pixels": int(labelled_pixels), "split": split,
              "checkpoint": str(checkpoint)}
    temporary = f"{path}.tmp"
    pathlib.Path(temporary).write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return scores


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
