"""Score a checkpoint on a split of a prepared data set, or compare runs on it.

    python evaluate.py --checkpoint runs/demo-unet-1/best.pt --data data/demo --split test
    python evaluate.py --compare runs/demo-unet-1 runs/demo-unet-2

The first prints tables and writes metrics_<split>.json, scenes_<split>.csv, areas_<split>.csv, confusion.png,
panels.png and reliability.png beside the checkpoint; the second writes comparison.csv and comparison.png. The network,
its classes and its normalisation come from the checkpoint; nothing of it is given again.
"""

import argparse
import json
import os
import pathlib
import sys
from typing import NamedTuple

import torch
from tqdm import tqdm

from data import TileDataset, normalise, prefetch
from engine.checkpoint import load_checkpoint, load_model
from engine.cli import HelpFormatter
from engine.device import amp_dtype, out_of_memory, pick_device
from engine.distributed import all_reduce, disable_tqdm, init_distributed, rank_and_size
from geo.windows import average_symmetries
from losses import build_loss, count_labelled
from metrics import ConfusionMatrix, class_map, plain, score_table
from report.compare import common_data, run_checkpoint, write_comparison
from report.figures import confusion_figure, save_png
from report.panels import (
    boundary_scores,
    reliability_figure,
    report_text,
    scene_rows,
    tile_panels,
    write_rows,
)
from report.stats import (
    EvalStats,
    area_rows,
    contiguous_blocks,
    read_areas,
    tile_places,
)


def parse_args(argv=None):
    """The command line; `python evaluate.py --help` shows it."""
    parser = argparse.ArgumentParser(
        description="Score a checkpoint on a split of a prepared data set, or compare runs on it.",
        epilog="example: python evaluate.py --checkpoint runs/demo-unet-1/best.pt --split val",
        formatter_class=HelpFormatter)
    group = parser.add_argument_group("what to score, one of the two")
    flag = group.add_mutually_exclusive_group(required=True).add_argument
    flag("--checkpoint", metavar="FILE", help="best.pt or last.pt of a run")
    flag("--compare", nargs="+", metavar="RUN", help="folders of two or more runs, each scored with the weights that "
         "its metrics.json is of, else best.pt; or checkpoints. Differences are to the first")
    flag = parser.add_argument_group("on what").add_argument
    flag("--data", metavar="FOLDER", help="prepared data set; not given: the one the checkpoint was trained on")
    flag("--split", default="test", choices=("train", "val", "test"), help="tiles to score")
    flag("--areas", nargs="+", metavar="CSV", help="tables of areas that predict.py wrote for a map, to be adjusted "
         "for its errors; not given: the labelled pixels of this split, where adjusted is the truth")
    flag = parser.add_argument_group("how").add_argument
    flag("--out", metavar="FOLDER", help="where files go; not given: the checkpoint's folder, or with --compare "
         "the working folder")
    flag("--tta", action="store_true", help="average the probabilities over the eight symmetries of the square, as "
         "predict.py --tta does")
    flag("--bs", type=int, default=16, help="tiles at a time, 1 or more")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute; mps is not tested")
    return parser.parse_args(argv)


class Scored(NamedTuple):
    """A checkpoint, and what one pass over a split found."""
    path: str
    model: torch.nn.Module
    meta: dict  # data meta of the checkpoint
    labelled_pixels: int  # that the network learned from
    data: str
    tiles: TileDataset
    places: list  # (scene, row, col) of each tile
    matrix: ConfusionMatrix
    loss: float
    tally: EvalStats


def main(args):
    """Score and write; returns the scores as written, with --compare a list of them."""
    if args.bs < 1:
        raise ValueError(f"--bs {args.bs}: give 1 tile or more at a time")
    rank, _ = init_distributed(pick_device(args.device))
    if not args.compare:
        scored = score(args.checkpoint, args)
        return None if rank else report(scored, args)
    if len(args.compare) < 2 or args.areas:
        raise ValueError("--compare: give two or more runs, and no --areas")
    paths = [run_checkpoint(run) for run in args.compare]
    args.data = args.data or common_data(paths)
    runs = [score(path, args) for path in paths]
    return None if rank else write_comparison(pathlib.Path(args.out or "."), args.compare, paths, [run.tally for run in runs],
                            [run.labelled_pixels for run in runs], runs[0].meta["classes"])


def score(path, args):
    """Score a checkpoint in one pass over the split: Scored."""
    device, content = pick_device(args.device), load_checkpoint(path)
    model, meta = load_model(path, device)
    data = args.data or str(content["args"].get("data"))
    tiles = TileDataset(data, args.split)
    check_same_classes(meta, tiles.meta, path, data)
    places = tile_places(data, args.split, len(tiles))
    grounds = tiles.meta.get("places") if args.compare else None  # a report tells scenes apart, whatever they show
    tally = EvalStats(len(meta["classes"]), contiguous_blocks(places, tiles.meta["tile"], grounds), tiles.ignore)
    try:
        loss_function, labelled_pixels = build_loss(content["args"]["loss"]), int(content["train"]["labelled_pixels"])
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError(f"{path} does not say its loss and labelled pixels: give another checkpoint of the run") from None
    matrix, loss = evaluate(model, tiles, meta, device, args.bs, loss_function, amp_dtype(device), tally=tally, tta=args.tta)
    return Scored(path, model, meta, labelled_pixels, data, tiles, places, matrix, loss, tally)


def report(scored, args):
    """Print the tables of one checkpoint; write its scores and pictures; returns what metrics_<split>.json holds."""
    meta, tiles, matrix, tally, split = scored.meta, scored.tiles, scored.matrix, scored.tally, args.split
    names, gsd_m, device = meta["classes"], tiles.meta.get("gsd_m"), pick_device(args.device)
    # Pixels without a label are no part of the map: they may be the mirrored filling of tiles at a scene's edge.
    mapped, total_ha = matrix.counts.sum(0).tolist(), gsd_m and int(matrix.counts.sum()) * gsd_m ** 2 / 1e4
    if args.areas:
        mapped, total_ha = read_areas(args.areas, names)
    extra = {"boundary": boundary_scores(tally, names), "calibration_error": plain(tally.calibration_error()),
             "areas": area_rows(matrix.counts, mapped, names, total_ha)}
    scenes = scene_rows(tally, scored.places, names)
    print(f"{scored.path} on {scored.data}, split {split}: {len(tiles)} tiles, {tiles.labelled_pixels:,} labelled px, "
          f"loss {scored.loss:.4f}\n{score_table(matrix, names)}\n\n{report_text(scenes=scenes, **extra)}")
    out = pathlib.Path(args.out or pathlib.Path(scored.path).parent)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"metrics_{split}.json"
    scores = write_scores(path, matrix, meta, scored.labelled_pixels, split, scored.path, {"tta": args.tta, **extra})
    write_rows(out / f"scenes_{split}.csv", scenes)
    write_rows(out / f"areas_{split}.csv", extra["areas"])
    pictures = {"confusion.png": confusion_figure(matrix.counts, names, f"{split} split, % of each true class"),
                "panels.png": tile_panels(scored.model, tiles, tally, scored.places, meta, device, split),
                "reliability.png": reliability_figure(tally, f"{split} split")}
    for name, picture in pictures.items():
        save_png(picture, out / name)
    print(path, *(out / name for name in (f"scenes_{split}.csv", f"areas_{split}.csv", *pictures)), sep="\n")
    return scores


def evaluate(model, tiles, meta, device, batch_size=16, loss_function=None, amp=None, limit=0, tally=None,
             tta=False):
    """Run a model over a split, every tile once, and count; under torchrun each process runs its share of the batches.

    Args:
        model: (B, C, H, W) -> (B, K, H, W) logits; left in eval mode.
        tiles: data.TileDataset.
        meta: dict with mean, std, nodata and classes, of the data set or the checkpoint.
        device: torch.device.
        batch_size: tiles at a time.
        loss_function: as losses.build_loss makes it, or None.
        amp: torch.bfloat16 or torch.float16 to compute the network in, or None for float32.
        limit: batches to stop after; 0 is all.
        tally: tally.Tally that counts along, or None.
        tta: average the probabilities over the eight symmetries of the square.
    Returns:
        (ConfusionMatrix, mean loss over the labelled pixels; NaN without a loss function or without labels).
    """
    model.eval()
    matrix = ConfusionMatrix(len(meta["classes"]), tiles.ignore)
    losses, weights = [], []
    rank, size = rank_and_size()
    starts = range(0, len(tiles), batch_size)[:limit or None][rank::size]
    batches = prefetch(lambda start: tiles.get_batch(range(start, min(start + batch_size, len(tiles)))), starts)
    with torch.inference_mode():
        progress = tqdm(batches, "scoring", len(starts), disable=disable_tqdm(), leave=False, unit="batch")
        for start, (images, labels) in zip(starts, progress):
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                inputs = normalise(images, meta["mean"], meta["std"], tiles.meta.get("nodata"))
                logits = average_symmetries(model, inputs).clamp(min=1e-12).log() if tta else model(inputs)
            prediction = class_map(logits)
            matrix.update(prediction, labels)
            if tally is not None:
                tally.update(start, logits.float(), prediction, labels)
            if loss_function is not None:
                weights.append(count_labelled(labels, ignore=tiles.ignore))
                losses.append(loss_function(logits.float(), labels) * weights[-1])
    sums = torch.tensor([float(sum(losses)), float(sum(weights))], dtype=torch.float64)
    if size > 1:
        for counted in [matrix.counts, sums] + (tally.sums() if tally else []):
            counted.copy_(all_reduce(counted.to(device)))
    return matrix, float(sums[0] / sums[1])  # 0 / 0 is NaN


def check_same_classes(model_facts, checkpoint_meta, checkpoint, data):
    """See that a data set fits a model: its bands, dtype and class names.

    Args:
        model_facts: data meta of the checkpoint, classes as names.
        checkpoint_meta: dict of dataset.json, classes as {name, colour}.
        checkpoint, data: their paths, for the message.
    Raises:
        ValueError: they differ; one line that says in what.
    """
    names = [entry["name"] for entry in checkpoint_meta["classes"]]
    if names != model_facts["classes"]:
        raise ValueError(f"{data} has the classes {', '.join(names)}, but {checkpoint} was trained for "
                         f"{', '.join(model_facts['classes'])}: give the data set it was trained for")
    for key in ("bands", "dtype"):
        if checkpoint_meta[key] != model_facts[key]:
            raise ValueError(f"{data} has {key} {checkpoint_meta[key]}, but {checkpoint} was trained on {model_facts[key]}: "
                             "give a data set of the same sensor")


def write_scores(path, matrix, meta, labelled_pixels, split, checkpoint, extra=None):
    """Write metrics.json: every score, and what it is the score of.

    Args:
        path: where to.
        matrix: ConfusionMatrix.
        meta: data meta of the checkpoint; classes are names.
        labelled_pixels: labelled training pixels that the run was given.
        split, checkpoint: what was scored.
        extra: dict of more to write, plain types.
    Returns:
        the dict that was written.
    """
    scores = {**matrix.scores(meta["classes"]), "labelled_pixels": int(labelled_pixels), "split": split,
              "checkpoint": str(checkpoint), **(extra or {})}
    temporary = f"{path}.tmp"
    pathlib.Path(temporary).write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return scores


if __name__ == "__main__":
    try:
        main(parse_args())
    except KeyboardInterrupt:
        print("evaluate.py: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print("evaluate.py: out of memory: lower --bs", file=sys.stderr)
        sys.exit(2)
