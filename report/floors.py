"""What a network's scores are worth: their intervals, and floors that it has to beat."""

import pathlib

import torch

from data import TileDataset
from engine.folds import take_fold
from metrics import ConfusionMatrix, plain
from report.intervals import independent_observations, plain_intervals
from report.tables import score_table, text_table
from weak.pixel_classifier import RADIUS, PixelClassifier


def score_report(matrix, meta, tiles, floors):
    """Report the scores of a network, with intervals where labels are few, beside its floors.

    Args:
        matrix: ConfusionMatrix of the network.
        meta: the checkpoint's metadata.
        tiles: data.TileDataset that was scored, with the labels that score it.
        floors: from `floor_scores` or `folds.pooled_scores`.
    Returns:
        text; dict of more for metrics.json; and a list, empty or of one line that admits that the
        network is not above its floors, or is not shown to be.
    """
    names = meta["classes"]
    observations = independent_observations(tiles)
    lines = [score_table(matrix, names, observations)]
    extra = {}
    if observations is not None:
        extra["intervals"] = plain_intervals(matrix, observations, names)
    rows = []
    for name, floor in {"this network": matrix, **floors}.items():
        row = {"compared on the same pixels": name, "mean IoU": plain(floor.miou()),
               "accuracy": plain(floor.pixel_accuracy())}
        row |= {f"IoU {label}": plain(value) for label, value in zip(names, floor.iou())}
        rows.append(row)
    if floors:
        lines += ["", text_table(rows)]
        extra["floors"] = {name: {"miou": plain(floor.miou()), "confusion": floor.counts.tolist(),
                                  "pixel_accuracy": plain(floor.pixel_accuracy())}
                           for name, floor in floors.items()}
    return "\n".join(lines), extra, admission(matrix, floors, extra.get("intervals"))


def training_tiles(trained):
    """The tiles and labels that a network learned from, or None where they are gone.

    Args:
        trained: dict with data, points, points_per, seed, folds and fold, the training's flags.
    """
    folder = trained.get("data")
    if not isinstance(folder, str) or not pathlib.Path(folder, "dataset.json").is_file():
        return None
    tiles = TileDataset(folder, "train", trained.get("points") or 0,
                        trained.get("points_per") or "image", trained.get("seed") or 0)
    if trained.get("fold"):
        tiles, _ = take_fold(tiles, trained["folds"], trained["fold"])
    return tiles


def floor_scores(given, meta, tiles):
    """Scores of two classifiers that know no shapes, from a network's own labels.

    Args:
        given: `training_tiles` of the network.
        meta, tiles: as in `score_report`.
    Returns:
        {"majority map": everywhere the class labelled most often, "pixel classifier":
        weak.pixel_classifier}, a ConfusionMatrix each; empty where there are no labels.
    """
    if given is None or not given.labelled_pixels or not tiles.labelled_pixels:
        return {}
    majority = torch.zeros_like(ConfusionMatrix(len(meta["classes"])).counts)
    majority[:, int(given.class_counts.argmax())] = torch.as_tensor(tiles.class_counts)
    return {"majority map": ConfusionMatrix(len(meta["classes"]), counts=majority),
            "pixel classifier": PixelClassifier(given, meta).score(tiles)}


def admission(matrix, floors, intervals=None):
    """The line that admits that a network is not above its best floor in mean IoU, in a list.

    Args:
        matrix, floors: as in `score_report`.
        intervals: of the network's scores, where labels are few; a floor inside is no lower.
    Returns:
        list of one str; empty where the network is above, or there is no floor.
    """
    if not floors:
        return []
    name, floor = max(floors.items(), key=lambda item: item[1].miou())
    what = {"majority map": "the map that is one class everywhere",
            "pixel classifier": f"a pixel classifier ({2 * RADIUS + 1} px, trained in seconds on "
            "the same labels)"}[name]
    against = f"{what}: mean IoU {matrix.miou():.3f} against {floor.miou():.3f}"
    if not matrix.miou() > floor.miou():
        return [f"this network is not above {against}; train longer (--epochs), or label more"]
    if intervals and not intervals["miou"][0] > floor.miou():
        return [f"{matrix.labelled_pixels():,} labelled px are too few to show that this network "
                f"is above {against}; label more (train.py --folds 5 scores every label)"]
    return []
