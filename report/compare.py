"""Several runs on the same tiles: one table, one figure, and intervals of their differences."""

import json
import math
import pathlib
from statistics import NormalDist

import numpy as np
import torch

from engine.checkpoint import find_checkpoint, load_checkpoint
from engine.files import read_text, whole_files
from metrics import ConfusionMatrix, plain
from report.curves import curves
from report.figures import save_png
from report.intervals import Z
from report.layout import stack_images
from report.stats import mean_iou
from report.tables import read_log, text_table, write_rows

MIN_BLOCKS = 8  # a bootstrap over fewer gives intervals that are much too short
RESAMPLES = 2000


def run_checkpoint(run):
    """The checkpoint of a run: the one its metrics.json is of, else best.pt, else last.pt.

    Args:
        run: path of a run's folder, or of a checkpoint, which is taken as it is.
    Returns:
        pathlib.Path.
    Raises:
        ValueError, OSError: metrics.json is damaged, or there is no checkpoint; one line.
    """
    scores = pathlib.Path(run) / "metrics.json"
    if not scores.exists():
        return find_checkpoint(run)
    try:
        scored = json.loads(read_text(scores))["checkpoint"]
        return scores.parent / pathlib.Path(scored).name
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{scores} is damaged ({error}): give the run's checkpoint itself"
                         ) from None


def common_data(checkpoints):
    """The data set that all checkpoints were trained on; ValueError where they differ."""
    first = None
    for checkpoint in checkpoints:
        data = load_checkpoint(checkpoint)["args"].get("data")
        if not isinstance(data, str):
            raise ValueError(f"{checkpoint} does not name its data set: give --data")
        first = first or data
        if pathlib.Path(data).resolve() != pathlib.Path(first).resolve():
            raise ValueError(f"{checkpoints[0]} was trained on {first}, but {checkpoint} on "
                             f"{data}: give the set to compare them on with --data")
    return first


def check_same_data(meta, data_meta, checkpoint, data):
    """Refuse a data set of other classes, bands or dtype than a checkpoint's.

    Args:
        meta: the checkpoint's metadata; data_meta: the data set's, as `checkpoint_meta` returns it.
        checkpoint, data: their paths, for the message.
    Raises:
        ValueError: they differ; one line.
    """
    for key in ("classes", "bands", "dtype"):
        if data_meta[key] != meta[key]:
            raise ValueError(f"--data {data} has {key} {data_meta[key]}, but {checkpoint} was "
                             f"trained on {meta[key]}: give a data set of the same kind")


def paired_intervals(counts, seed=0):
    """95 % intervals of runs' mean IoU, and of their differences to the first run.

    They are found by bootstrap over blocks. All runs are scored on the same draws: what makes a
    draw hard for all of them cancels in the difference.

    Args:
        counts: (R, U, K, K) confusion matrices of R runs on U blocks; blocks without labels are
            left out.
        seed: decides the draws.
    Returns:
        {"miou": (R, 2), "difference": (R, 2)}; empty with fewer than MIN_BLOCKS blocks.
    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3,
        percentile intervals, at the levels of `expanded_levels`.
    """
    counts = counts[:, labelled_blocks(counts[0])].double()
    runs, blocks, classes = counts.shape[:3]
    if blocks < MIN_BLOCKS:
        return {}
    random = np.random.default_rng(seed)
    draws = random.multinomial(blocks, [1 / blocks] * blocks, RESAMPLES)  # (S, U) how often each
    flat = counts.reshape(runs, blocks, -1)  # (R, U, K * K)
    scores = []
    for draw in torch.from_numpy(draws).double():
        resampled = (draw @ flat).reshape(runs, classes, classes)
        scores.append(mean_iou(resampled))
    scores = torch.stack(scores)  # (S, R)
    levels = torch.tensor(expanded_levels(blocks), dtype=torch.float64)
    differences = scores - scores[:, :1]
    return {"miou": scores.nanquantile(levels, 0).T,
            "difference": differences.nanquantile(levels, 0).T}


def expanded_levels(blocks):
    """Quantiles of a bootstrap over so many blocks that bound a 95 % interval: two floats.

    Draws of few blocks vary too little: of the plain 2.5 and 97.5 % over 8 blocks, 88 % hold.

    Source: Hesterberg 2015, "What Teachers Should Know about the Bootstrap", the expanded
        percentile interval; t by Abramowitz and Stegun 1964, equation 26.7.5.
    """
    freedom = blocks - 1
    t = Z + (Z ** 3 + Z) / (4 * freedom) + (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / (96 * freedom ** 2)
    tail = NormalDist().cdf(-t * math.sqrt(blocks / freedom))
    return tail, 1 - tail


def labelled_blocks(counts):
    """Which of (U, K, K) confusion matrices hold a labelled pixel: (U,) bool."""
    return counts.sum((1, 2)) > 0


def run_rows(names, stats, labelled_pixels, classes):
    """The scores of several runs on the same tiles, with paired intervals.

    Args:
        names: R names of runs; differences are to the first.
        stats: R EvalStats of the same tiles.
        labelled_pixels: R numbers of labelled training pixels.
        classes: K class names.
    Returns:
        list of dict, one per run; NaN is None. "miou_low" and "miou_high", "difference_low" and
        "difference_high" bound 95 % intervals; with fewer than MIN_BLOCKS blocks they are left
        out.
    """
    intervals = paired_intervals(torch.stack([run.counts for run in stats]))
    first_miou = mean_iou(stats[0].counts.sum(0))
    rows = []
    for number, name in enumerate(names):
        run = stats[number]
        matrix = ConfusionMatrix(len(classes), counts=run.counts.sum(0))
        row = {"run": name}
        scores = {"miou": matrix.miou(), "difference": matrix.miou() - first_miou}
        for key, value in scores.items():
            row[key] = plain(value)
            if intervals:
                low, high = intervals[key][number]
                row[f"{key}_low"] = plain(low)
                row[f"{key}_high"] = plain(high)
        row["scored_classes"] = matrix.scored_classes()
        row["pixel_accuracy"] = plain(matrix.pixel_accuracy())
        row["kappa"] = plain(matrix.kappa())
        row["boundary_miou"] = plain(mean_iou(run.boundary_confusion))
        row["calibration_error"] = plain(run.calibration_error())
        row["labelled_pixels"] = labelled_pixels[number]
        for label, value in zip(classes, matrix.iou()):
            row[f"iou_{label}"] = plain(value)
        rows.append(row)
    return rows


def compared_curves(logs):
    """A picture of several runs: validation mean IoU above, validation loss below, by epoch.

    Args:
        logs: {name of the run: path of its log.csv}; a missing file makes no line.
    Returns:
        PIL.Image.
    """
    rows_of = {}
    for name, log in logs.items():
        columns = ["epoch", "val_miou", "val_loss"]
        rows_of[name] = read_log(log, columns) if log.is_file() else []

    def figure(column, label, limits):
        series = {name: [(row["epoch"], row[column]) for row in rows]
                  for name, rows in rows_of.items()}
        return curves(series, "epoch", label, y_limits=limits)

    return stack_images([figure("val_miou", "validation mean IoU", (0, 1)),
                         figure("val_loss", "validation loss, of each run's own kind", None)])


def comparison_text(rows, classes, pixels, blocks):
    """Format the rows of `run_rows` as text.

    Args:
        rows, classes: of `run_rows`.
        pixels: labelled pixels that were scored; blocks: contiguous blocks that they lie in.
    """
    totals = []
    for row in rows:
        totals.append({key: value for key, value in row.items() if not key.startswith("iou_")})
    by_class = []
    for name in classes:
        by_class.append({"IoU of": name, **{row["run"]: row[f"iou_{name}"] for row in rows}})
    if blocks < MIN_BLOCKS:
        note = (f"No intervals: the tiles lie in {blocks} contiguous blocks, and fewer than "
                f"{MIN_BLOCKS} do not show how much scores vary from site to site.")
    else:
        note = (f"low and high bound 95 % intervals, by paired bootstrap: {RESAMPLES:,} draws of "
                f"{blocks} contiguous blocks")
    scored = (f"all scores are over {pixels:,} labelled pixels, mean IoU over scored_classes of "
              f"{len(classes)} classes; labelled_pixels are those of the training")
    return "\n".join([text_table(totals), scored, note, text_table(by_class)])


def write_comparison(out, names, checkpoints, stats, labelled_pixels, classes):
    """Print the table of several runs; write it as comparison.csv, their curves as comparison.png.

    Args:
        out: the folder, pathlib.Path.
        names: R names of runs.
        checkpoints: R paths, beside which lie the runs' log.csv.
        stats, labelled_pixels, classes: as in `run_rows`.
    Returns:
        list of dict, as `run_rows`.
    """
    rows = run_rows(names, stats, labelled_pixels, classes)
    counts = stats[0].counts
    blocks = int(labelled_blocks(counts).sum())
    print(comparison_text(rows, classes, int(counts.sum()), blocks))
    logs = {name: path.parent / "log.csv" for name, path in zip(names, checkpoints)}
    picture = compared_curves(logs)
    with whole_files(out) as work:
        write_rows(work / "comparison.csv", rows)
        save_png(picture, work / "comparison.png")
    print(out / "comparison.csv", out / "comparison.png", sep="\n")
    return rows
