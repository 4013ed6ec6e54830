"""Several runs on the same tiles: one table, one figure, and how far apart they are for certain."""

import json
import pathlib

import numpy as np
import torch

from engine.checkpoint import load_checkpoint
from metrics import ConfusionMatrix, plain
from report.figures import curves, save_png, stack_images
from report.panels import read_log, text_table, write_rows
from report.stats import mean_iou

FEWEST_BLOCKS = 8  # a bootstrap over fewer gives intervals that are much too short
RESAMPLES = 2000


def run_checkpoint(run):
    """The checkpoint of a run: the one that its metrics.json is of, else best.pt; a file is taken as it is.

    Args:
        run: path of a run's folder or of a checkpoint.
    Returns:
        pathlib.Path.
    Raises:
        ValueError, OSError: there is no such run, or its metrics.json is damaged; one line.
    """
    run = pathlib.Path(run)
    if not run.is_dir():
        return run
    scores = run / "metrics.json"
    if not scores.exists():
        return run / "best.pt"
    try:
        return run / pathlib.Path(json.loads(scores.read_text(encoding="utf-8"))["checkpoint"]).name
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{scores} is damaged ({error}): give the run's checkpoint itself") from None


def common_data(paths):
    """The data set that all these checkpoints were trained on: ValueError where they differ."""
    trained_on = {path: load_checkpoint(path)["args"].get("data") for path in paths}
    for path, data in trained_on.items():
        if not isinstance(data, str):
            raise ValueError(f"{path} does not say what it was trained on: say with --data what to compare on")
    found = {pathlib.Path(data).resolve(): path for path, data in trained_on.items()}
    if len(found) > 1:
        (data, path), (other_data, other_path) = list(found.items())[:2]
        raise ValueError(f"{path} was trained on {data}, but {other_path} on {other_data}: say with --data what to "
                         "compare them on")
    return trained_on[paths[0]]


def paired_intervals(counts, seed=0):
    """95 % intervals of runs' mean IoU, and of how much better each is than the first, by bootstrap over blocks.

    All runs are scored on the same draws of blocks: what makes a draw hard for all of them cancels in the difference.

    Args:
        counts: (R, U, K, K) confusion matrices of R runs on U blocks; blocks without labels are left out.
        seed: decides the draws.
    Returns:
        {"miou": (R, 2) interval of mean IoU, "difference": (R, 2) that of its difference to the first run's}; empty
        with fewer than 8 blocks.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3, percentile intervals.
    """
    counts = counts[:, labelled_blocks(counts[0])].double()
    runs, blocks, classes = counts.shape[:3]
    if blocks < FEWEST_BLOCKS:
        return {}
    draws = np.random.default_rng(seed).multinomial(blocks, [1 / blocks] * blocks, RESAMPLES)  # (S, U) how often each
    counts = counts.reshape(runs, blocks, -1)
    scores = torch.stack([mean_iou((draw @ counts).reshape(runs, classes, classes))
                          for draw in torch.from_numpy(draws).double()])  # (S, R)
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return {"miou": scores.nanquantile(levels, 0).T, "difference": (scores - scores[:, :1]).nanquantile(levels, 0).T}


def labelled_blocks(counts):
    """Which of (U, K, K) confusion matrices hold a labelled pixel: (U,) bool."""
    return counts.sum((1, 2)) > 0


def run_rows(names, tallies, labelled_pixels, classes):
    """The scores of several runs on the same tiles, with paired intervals where there are enough blocks to draw from.

    Args:
        names: R names of runs; differences are to the first.
        tallies: R EvalStats of the same tiles.
        labelled_pixels: R numbers of labelled training pixels.
        classes: K class names.
    Returns:
        list of dict, a row a run; NaN is None. "miou_low" and "miou_high", "difference_low" and "difference_high" bound
        95 % intervals and are left out with fewer than 8 blocks.
    """
    rows, intervals = [], paired_intervals(torch.stack([tally.counts for tally in tallies]))
    for number, (name, tally) in enumerate(zip(names, tallies)):
        matrix = ConfusionMatrix(len(classes), counts=tally.counts.sum(0))
        row = {"run": name}
        difference = matrix.miou() - mean_iou(tallies[0].counts.sum(0))
        for what, value in (("miou", matrix.miou()), ("difference", difference)):
            row[what] = plain(value)
            if intervals:
                row[f"{what}_low"], row[f"{what}_high"] = map(plain, intervals[what][number])
        row |= {"pixel_accuracy": plain(matrix.pixel_accuracy()), "kappa": plain(matrix.kappa()),
                "boundary_miou": plain(mean_iou(tally.near)), "calibration_error": plain(tally.calibration_error()),
                "labelled_pixels": labelled_pixels[number]}
        rows.append(row | {f"iou_{label}": plain(value) for label, value in zip(classes, matrix.iou())})
    return rows


def compared_curves(logs):
    """A picture of several runs' log.csv: validation mean IoU above, validation loss below, by epoch.

    Args:
        logs: {name of the run: path of its log.csv}; a file that is missing makes no line.
    Returns:
        PIL.Image.
    """
    rows = {name: read_log(log, ["epoch", "val_miou", "val_loss"]) if log.is_file() else [] for name, log in logs.items()}
    return stack_images([curves({name: [(row["epoch"], row[column]) for row in run] for name, run in rows.items()},
                                "epoch", label, y_limits=limits)
                         for column, label, limits in (("val_miou", "validation mean IoU", (0, 1)),
                                                       ("val_loss", "validation loss, of each run's own kind", None))])


def write_comparison(out, names, paths, tallies, labelled_pixels, classes):
    """Print the table of several runs, and write it as comparison.csv and their curves as comparison.png.

    Args:
        out: the folder.
        names: R names of runs.
        paths: R checkpoints, beside which lie the runs' log.csv.
        tallies, labelled_pixels, classes: as in `run_rows`.
    Returns:
        list of dict, as `run_rows`.
    """
    rows = run_rows(names, tallies, labelled_pixels, classes)
    blocks = int(labelled_blocks(tallies[0].counts).sum())
    print(text_table([{key: value for key, value in row.items() if not key.startswith("iou_")} for row in rows]))
    if blocks < FEWEST_BLOCKS:
        print(f"No intervals: the tiles lie in {blocks} contiguous blocks, and fewer than {FEWEST_BLOCKS} say too "
              "little of how much scores vary from place to place.")
    else:
        print(f"low and high bound 95 % intervals, by paired bootstrap: {RESAMPLES:,} draws of {blocks} contiguous "
              "blocks")
    print(text_table([{"IoU of": name, **{row["run"]: row[f"iou_{name}"] for row in rows}} for name in classes]))
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "comparison.csv", rows)
    logs = {name: path.parent / "log.csv" for name, path in zip(names, paths)}
    save_png(compared_curves(logs), out / "comparison.png")
    print(out / "comparison.csv", out / "comparison.png", sep="\n")
    return rows
