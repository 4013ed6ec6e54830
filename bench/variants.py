"""Variants of train.py's training that start from ImageNet.

    python bench/variants.py --variant slow --weights imagenet --encoder efficientnet_lite0
    python bench/variants.py --finished        the runs of bench/pretrained.py, scored again

slow    batch norm's momentum is 0.01, with which the published networks were trained, not 0.1
frozen  the encoder's batch norms keep the published statistics, in training too
anew    after the last step, statistics are taken anew: the mean over all training tiles, whole
late    the encoder's weights stay as published for the first quarter of the steps

With --variant it takes the flags of train.py beside, and bench/tune.py runs it. --finished takes
the statistics of every pretrained run in runs/pretrained anew, and appends the score to
results/batch_norm.csv.
"""

import argparse

import torch
from experiments import (
    RESULTS, ROOT, append, as_cell, class_iou, origin, read_json, read_rows, test_set_digest)
from torch import nn

import train
from data import TileDataset, normalise
from engine import runs
from engine.checkpoint import load_model
from evaluate import evaluate

build_network, finish_run = train.build_network, train.finish_run
optimizer_step = train.optimizer_step


def norms_of(network):
    """The batch norms of a network."""
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def build_slow(args, kwargs, device):
    """`train.build_network` with running means that follow more slowly."""
    model = build_network(args, kwargs, device)
    for norm in norms_of(model):
        norm.momentum = 0.01
    return model


def build_frozen(args, kwargs, device):
    """`train.build_network` with batch norms that stay in evaluation mode in the encoder."""
    model = build_network(args, kwargs, device)
    for norm in norms_of(model.encoder):
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm  # in place of going back to training mode
    return model


def take_anew(model, tiles, meta, bs, device):
    """Set the statistics of all batch norms to the mean over tiles, in batches of `bs`."""
    for norm in norms_of(model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    with torch.no_grad():
        for start in range(0, len(tiles), bs):
            images, _ = tiles.get_batch(range(start, min(start + bs, len(tiles))))
            model(normalise(images.to(device), meta["mean"], meta["std"], meta["nodata"]))
    model.eval()


def finish_anew(run, args, meta, device, held_out=None):
    """`train.finish_run` after the statistics were taken anew and saved."""
    take_anew(run.model, TileDataset(args.data, "train"), meta, args.bs, device)
    runs.save("last.pt", run, meta, args)
    return finish_run(run, args, meta, device, held_out)


def step_late(run, args, done):
    """`train.optimizer_step` at which the encoder's rate is 0 in the first quarter of the steps."""
    learns = done >= args.epochs * run.steps / 4
    for group in run.optimizer.param_groups:
        if group["share"] < 1:  # the encoder's
            group["share"] = args.encoder_lr if learns else 0.0
    optimizer_step(run, args, done)


def score_finished():
    """Score the pretrained runs again that have a row and lie here, with statistics taken anew."""
    table = RESULTS / "batch_norm.csv"
    for name, row in read_rows(RESULTS / "pretrained.csv").items():
        folder = ROOT / "runs" / "pretrained" / name
        if name in read_rows(table) or not (folder / "last.pt").exists():
            continue
        args = read_json(folder / "args.json")
        is_the_row = as_cell(read_json(folder / "metrics.json")["miou"]) == row["miou"]
        if not (args["weights"] and is_the_row):
            continue
        data = ROOT / args["data"]
        device = torch.device("cpu")
        model, meta = load_model(folder / "last.pt", device)
        take_anew(model, TileDataset(data, "train"), meta, args["bs"], device)
        matrix, _ = evaluate(model, TileDataset(data, "test"), meta, device, args["bs"])
        scores = matrix.scores(meta["classes"])
        append(table, {"name": name, "miou": scores["miou"], "miou_before": float(row["miou"]),
                       "class_iou": class_iou(scores), "scored_on": test_set_digest(data),
                       **origin("bench/variants.py", "--finished")})
        print(f"{name}: mean IoU {row['miou']} with running means, {scores['miou']:.3f} anew",
              flush=True)


WAYS = {"slow": ("build_network", build_slow), "frozen": ("build_network", build_frozen),
        "anew": ("finish_run", finish_anew), "late": ("optimizer_step", step_late)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False,
                                     allow_abbrev=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--variant", choices=WAYS)
    which.add_argument("--finished", action="store_true")
    own, flags = parser.parse_known_args()
    if own.finished:
        parser.parse_args()  # no other flags
        score_finished()
    else:
        setattr(train, *WAYS[own.variant])
        train.main(train.parse_args([*flags, "--final", "last"]))
