"""What temperature scaling and ensembles do to calibration error and mean IoU.

    python bench/uncertainty.py --source FOLDER
    python bench/uncertainty.py --source FOLDER --sets dunes-a

FOLDER has the images of dubai and dunes as in pretrained.py. Of each set, three runs that differ in
their seed are scored on the test split: each run, their ensemble, and both with a temperature
fitted to the validation split. The runs of dubai (test sites 1 and 3, validation site 2) are short.
Those of dunes-a are the pretrained network's from one point per tile, as pretrained.py trains them.
What is there already is kept: a stopped command goes on where it was. Rows go to
results/uncertainty.csv.
"""

import argparse

import torch
from experiments import (
    RESULTS, ROOT, Experiment, append, call, numbered, origin, read_rows, train)
from pretrained import PRETRAINED
from pretrained import experiment as pretrained_experiment
from pretrained import prepare as prepare_pretrained

from data import TileDataset, normalise
from engine.checkpoint import load_model
from metrics import ConfusionMatrix, class_map
from networks.ensemble import Ensemble, mutual_information
from report.calibration import calibration_error, fit_temperature, labelled_logits
from report.stats import count_by_confidence, expected_calibration_error

SETS = ("dubai", "dunes-a")
SEEDS = 3  # runs, members of the ensemble
PREPARE = "dubai --scale 0.5 --tile 256 --min-labelled 20000 --val-places 2 --test-places 1+3"
TRAIN = ("--data data/dubai --stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 5 --loss ce+jaccard "
         "--jitter 0.2 --final last --points 20")
CPU = torch.device("cpu")


def train_members(data, source):
    """Prepare a set and train its runs, as far as they are missing; return {run: checkpoint}."""
    if data == "dubai":
        if not (ROOT / "data" / data).exists():
            call("prepare_data.py", *PREPARE.split(), "--src", f"{source}/dubai", "--out",
                 "data/dubai")
        folder = "runs/uncertainty"
        experiment = Experiment(numbered("dubai"), TRAIN)
    else:
        prepare_pretrained(data, source)
        folder = "runs/pretrained"
        experiment = pretrained_experiment(data, 1, PRETRAINED)
    checkpoints = {}
    for seed, name in enumerate(experiment.runs[:SEEDS]):
        train(seed, name, experiment, f"{folder}/{name}")
        checkpoints[name] = ROOT / folder / name / "last.pt"
    return checkpoints


@torch.inference_mode()
def score(model, tiles, meta):
    """Scores of a network on a split, at its temperature.

    Returns:
        dict of miou, pixel_accuracy, calibration_error, negative log-likelihood and pixels.
    """
    matrix = ConfusionMatrix(len(meta["classes"]), tiles.ignore)
    bins = 0
    loss = 0.0
    for index in range(len(tiles)):
        images, labels = tiles.get_batch([index])
        images = normalise(images, meta["mean"], meta["std"], tiles.meta.get("nodata"))
        logits = model(images) / model.temperature
        prediction = class_map(logits)
        matrix.update(prediction, labels)
        labelled = labels != tiles.ignore
        logits = logits.movedim(1, 3)[labelled]  # (P, K)
        bins = bins + count_by_confidence(logits, (prediction == labels)[labelled])
        loss += torch.nn.functional.cross_entropy(logits, labels[labelled].long(),
                                                  reduction="sum").item()
    pixels = matrix.labelled_pixels()
    return {"miou": matrix.miou(), "pixel_accuracy": matrix.pixel_accuracy(),
            "calibration_error": expected_calibration_error(bins), "loss": loss / pixels,
            "pixels": pixels}


@torch.inference_mode()
def disagreement(ensemble, tiles, meta):
    """Mean mutual information of the labelled pixels that the ensemble has right, and wrong."""
    right = []
    wrong = []
    for index in range(len(tiles)):
        images, labels = tiles.get_batch([index])
        images = normalise(images, meta["mean"], meta["std"], tiles.meta.get("nodata"))
        parts = torch.stack([member(images).softmax(1) for member in ensemble.members])
        information = mutual_information(parts)[:, 0]
        hits = class_map(parts.mean(0)) == labels
        labelled = labels != tiles.ignore
        right.append(information[labelled & hits])
        wrong.append(information[labelled & ~hits])
    return {"information_right": torch.cat(right).mean().item(),
            "information_wrong": torch.cat(wrong).mean().item()}


def main(args):
    """Write the rows that are missing, and print all of them."""
    table = RESULTS / "uncertainty.csv"
    for data in args.sets:
        score_set(table, data, train_members(data, args.source))
    print(table.read_text(encoding="utf-8"))


def score_set(table, data, checkpoints):
    """Append the rows of a set that are missing; checkpoints: {run: path}."""
    networks = {}
    for name, checkpoint in checkpoints.items():
        networks[name], meta = load_model(checkpoint)
        networks[name].temperature = 1.0
    networks[f"{data}-ensemble{len(checkpoints)}"] = Ensemble(list(networks.values()))
    validation, test = (TileDataset(ROOT / "data" / data, split) for split in ("val", "test"))
    for name, model in networks.items():
        if f"{name}-temperature" in read_rows(table):
            continue
        extra = {"information_right": "", "information_wrong": ""}
        if isinstance(model, Ensemble):
            extra = disagreement(model, test, meta)
        logits, labels = labelled_logits(model, validation, meta, 8, CPU)
        for label, temperature in ((name, 1.0),
                                   (f"{name}-temperature", fit_temperature(logits, labels))):
            model.temperature = temperature
            append(table, {"name": label, "temperature": temperature,
                           **score(model, test, meta),
                           "validation_error": calibration_error(logits, labels, temperature),
                           **extra,
                           **origin("bench/uncertainty.py", "--source", "FOLDER", "--sets",
                                    data)})
        model.temperature = 1.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", metavar="FOLDER", help="the sets' images as published")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="prepared sets")
    main(parser.parse_args())
