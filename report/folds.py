"""What the networks of K folds make of the labels that they did not learn from."""

import json
import pathlib

import numpy as np
import torch

from engine.checkpoint import load_model
from engine.files import read_text
from engine.folds import take_fold
from metrics import ConfusionMatrix
from report.floors import training_tiles


def pooled_scores(out, folds, tiles):
    """Add up the confusion matrices of the networks of all folds, and of their floors.

    Args:
        out: folder of the run, with metrics.json in fold-1 and so on.
        folds: their number.
        tiles: data.TileDataset with the labels that the folds held out, each once.
    Returns:
        ConfusionMatrix of the networks, and {floor: ConfusionMatrix}, see `floors.floor_scores`.
    Raises:
        ValueError, OSError: a fold's scores are missing, damaged or of other labels; one line.
    """
    num_classes = len(tiles.class_counts)
    matrix = ConfusionMatrix(num_classes)
    floors = {}
    for fold in range(1, folds + 1):
        path = pathlib.Path(out, f"fold-{fold}", "metrics.json")
        try:
            scores = json.loads(read_text(path))
            matrix.counts += torch.tensor(scores["confusion"])
            for name, floor in scores["floors"].items():
                total = floors.setdefault(name, ConfusionMatrix(num_classes))
                total.counts += torch.tensor(floor["confusion"])
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error!r:.60}): remove it, and give --resume"
                             ) from None
    if not np.array_equal(matrix.counts.sum(1), tiles.class_counts):
        raise ValueError(f"{out}/fold-1 to fold-{folds} did not hold out each label once: start a "
                         "new run")
    return matrix, floors


def fold_networks(out, trained, device):
    """Yield the network of each fold, and the TileDataset of the labels that it did not learn from.

    Args:
        out: folder of the run.
        trained: its flags, see `floors.training_tiles`.
        device: torch.device.
    Raises:
        ValueError, OSError: as `load_model`.
    """
    tiles = training_tiles(trained)
    for fold in range(1, trained["folds"] + 1):
        model, _ = load_model(pathlib.Path(out, f"fold-{fold}", f"{trained['final']}.pt"), device)
        yield model, take_fold(tiles, trained["folds"], fold)[1]
