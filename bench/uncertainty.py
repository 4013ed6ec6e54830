"""What temperature scaling and ensembles do to calibration error and mean IoU.

    python bench/uncertainty.py --source FOLDER                 FOLDER: Dubai as it was published

Prepares Dubai (test sites 1 and 3, validation site 2), trains three short runs that differ in their
seed, and scores on the test sites: each run, their ensemble, and both with a temperature fitted to
the validation site. What is there already is kept: a stopped command goes on where it was. Rows go
to results/uncertainty.csv.
"""

import argparse

import torch
from experiments import RESULTS, ROOT, append, call, origin, read_rows

from data import TileDataset, normalise
from engine.checkpoint import load_model
from metrics import ConfusionMatrix, class_map
from networks.ensemble import Ensemble, mutual_information
from report.calibration import calibration_error, fit_temperature, labelled_logits
from report.stats import count_by_confidence, expected_calibration_error

PREPARE = "dubai --scale 0.5 --tile 256 --min-labelled 20000 --val-places 2 --test-places 1+3"
TRAIN = ("--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 5 --loss ce+jaccard --jitter 0.2 "
         "--final last --points 20")
CPU = torch.device("cpu")


def prepare_and_train(source, data, runs, seeds):
    """Make what is missing; return the checkpoints."""
    if not (ROOT / data).exists():
        call("prepare_data.py", *PREPARE.split(), "--src", source, "--out", data)
    checkpoints = []
    for seed in range(seeds):
        out = f"{runs}/dubai-seed{seed}"
        if not (ROOT / out / "metrics.json").exists():
            resume = ["--resume"] if (ROOT / out / "last.pt").exists() else []
            words = f"--data {data} {TRAIN} --seed {seed} --out {out}".split()
            call("train.py", *words, *resume)
        checkpoints.append(ROOT / out / "last.pt")
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
    checkpoints = prepare_and_train(args.source, args.data, args.runs, args.seeds)
    loaded = [load_model(checkpoint) for checkpoint in checkpoints]
    meta = loaded[0][1]
    members = [model for model, _ in loaded]
    for member in members:
        member.temperature = 1.0
    networks = {f"dubai-seed{seed}": member for seed, member in enumerate(members)}
    networks[f"dubai-ensemble{len(members)}"] = Ensemble(members)
    validation, test = (TileDataset(ROOT / args.data, split) for split in ("val", "test"))
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
                           **origin("bench/uncertainty.py", "--source", "FOLDER")})
        model.temperature = 1.0
    print(table.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="Dubai's images as they were published")
    parser.add_argument("--data", default="data/dubai", help="prepared folder, made if missing")
    parser.add_argument("--runs", default="runs/uncertainty", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs, members of the ensemble")
    main(parser.parse_args())
