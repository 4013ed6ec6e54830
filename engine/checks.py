"""Checks of train.py before it begins: do the flags go together, and do they fit the data?

And the default that depends on both.
"""

import importlib.util

from engine.flags import is_pretrained
from engine.prepared import SPARSE_SHARE
from losses import PIXELWISE, build_loss


def check_args(args):
    """Refuse flags that contradict each other or need what is missing: ValueError naming them."""
    build_loss(args.loss)
    if args.bs and args.accumulate > args.bs:
        raise ValueError(f"--accumulate {args.accumulate}: give at most --bs {args.bs}")
    if args.class_weights not in (None, "none") and not takes_class_weights(args):
        raise ValueError(f"--class-weights: --loss {args.loss} weighs all classes alike already: "
                         "leave it out")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard: the package is missing: pip install tensorboard")


def takes_class_weights(args):
    """Whether a term of the loss can weigh classes: one that sums over pixels."""
    return bool(set(PIXELWISE) & set(args.loss.split("+")))


def default_class_weights(args, tiles):
    """The --class-weights of a run that names none: "sqrt" where they gained, else "none".

    That is from few labels on a pretrained network: on two real sets of three from one point per
    tile, see results/pretrained.md. On the plain U-Net they cost the demo about a point.

    Args:
        args: train.py's; tiles: TileDataset to train on.
    """
    sparse = tiles.labelled_pixels < SPARSE_SHARE * tiles.labels.numel()
    if sparse and is_pretrained(args.encoder, args.weights) and takes_class_weights(args):
        return "sqrt"
    return "none"


def check_data(args, train_tiles, val_tiles, world_size):
    """Refuse a set without labels, and flags that do not fit it: ValueError naming them."""
    tile = train_tiles.meta["tile"]
    batch = min(args.bs, args.passes * len(train_tiles))
    if train_tiles.labelled_pixels == 0:
        raise ValueError(f"{args.data} has no labelled training pixel: look at its preview.png and "
                         "at the masks")
    if val_tiles.labelled_pixels == 0 and (args.final == "best" or args.schedule == "plateau"):
        raise ValueError(f"{args.data} has no labelled validation pixel, so no epoch is best: give "
                         "--final last, and no --schedule plateau")
    if args.patience and not val_tiles.labelled_pixels:
        raise ValueError(f"--patience: {args.data} has no labelled validation pixel: leave it out")
    if args.folds and world_size > 1:
        raise ValueError("--folds: one process trains all networks: start it without torchrun")
    if args.crop == 1 or args.crop > tile:
        raise ValueError(f"--crop {args.crop}: give 2 to {tile} px, the tiles' side")
    if not args.points and args.points_per != "image":
        raise ValueError("--points-per is for points that are drawn: give --points too")
    if batch % world_size:
        raise ValueError(f"--bs {args.bs}: {world_size} processes cannot share {batch} tiles "
                         f"equally: give a multiple of {world_size}")
