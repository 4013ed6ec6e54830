"""Other statistics for batch norm than train.py keeps, which are running means of momentum 0.1.

    python bench/batch_norm.py --statistics slow --weights imagenet --encoder efficientnet_lite0

slow    the momentum is 0.01, with which the published networks were trained
frozen  the encoder's batch norms keep the published statistics, in training too
anew    after the last step, statistics are taken anew: the mean over all training tiles, whole

Takes the flags of train.py beside. bench/tune.py runs it.
"""

import argparse

import experiments  # noqa: F401, which puts the project on the path
import torch
from torch import nn

import train
from data import TileDataset, normalise
from engine import runs

build_network, finish_run = train.build_network, train.finish_run


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


def finish_anew(run, args, meta, device, held_out=None):
    """`train.finish_run` after the statistics were taken anew and saved."""
    tiles = TileDataset(args.data, "train")
    for norm in norms_of(run.model):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    run.model.train()
    with torch.no_grad():
        for start in range(0, len(tiles), args.bs):
            images, _ = tiles.get_batch(range(start, min(start + args.bs, len(tiles))))
            run.model(normalise(images.to(device), meta["mean"], meta["std"], meta["nodata"]))
    runs.save("last.pt", run, meta, args)
    return finish_run(run, args, meta, device, held_out)


WAYS = {"slow": ("build_network", build_slow), "frozen": ("build_network", build_frozen),
        "anew": ("finish_run", finish_anew)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], add_help=False,
                                     allow_abbrev=False)
    parser.add_argument("--statistics", choices=WAYS, required=True)
    own, flags = parser.parse_known_args()
    setattr(train, *WAYS[own.statistics])
    train.main(train.parse_args([*flags, "--final", "last"]))
