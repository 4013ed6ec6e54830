"""The flags of train.py, read before torch is imported, whose import takes seconds."""

import ast
import functools
import pathlib

from engine.cli import Parser, number
from engine.length import set_epochs

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEMO = "data/demo"
PATIENCE = 3  # epochs without a lower validation loss that --schedule plateau lets pass


@functools.cache
def names(file, table):
    """The names in a table of a source file that imports torch: read from its text, not imported.

    Args:
        file: its path in the project, such as "losses.py".
        table: variable whose value is written there as a dict, such as "LOSSES".
    Returns:
        tuple of the dict's keys.
    """
    for statement in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == table:
            return tuple(key.value for key in statement.value.keys)
    raise LookupError(f"{file} has no table {table}")


def encoder_names():
    """The names of all encoders, as `networks.ENCODERS`."""
    return (*names("unet.py", "RESNETS"), *names("networks/efficientnet.py", "EFFICIENTNETS"),
            *names("networks/segformer.py", "TRANSFORMERS"))


def parse_args(argv=None):
    """The command line; `python train.py --help` shows it."""
    parser = Parser(description="Train a network on a prepared data set.",
                    epilog="example: python train.py --data data/dubai --points 20 --bs 8")
    flag = parser.add_argument_group("what matters most").add_argument
    flag("--data", default=DEMO, help="folder written by prepare_data.py; the demo is made if "
         "missing")
    flag("--points", type=number(int, 0), help="labelled pixels kept per training tile; 0 keeps "
         "all; default 20, or 0 if under 1 %% of the pixels are labelled")
    flag("--lr", type=number(float, 1e-12, 1e6), help="peak learning rate; default 1e-3, or 2e-3 "
         "for an EfficientNet with --weights")
    flag("--bs", type=number(int, 1), help="tiles per step; default 16, or 4 in a set of few tiles")
    flag("--epochs", type=number(int, 1), help="passes over the training tiles; default 20, or 20 "
         "times several passes in a set of few tiles")
    add_learning_flags(parser)
    add_augmentation_flags(parser)
    add_run_flags(parser)
    # Passes over the tiles in one epoch, see `choose_length`; the fold that a run holds out.
    parser.set_defaults(passes=None, fold=0)
    args = parser.parse_args(argv)
    if args.resume:
        from engine import runs  # imports torch
        args = runs.parse_resumed(parser, argv, args)
    set_epochs(args)
    args.model = args.model or ("resunet" if args.encoder else "unet")
    lr, encoder_lr = default_rates(args.encoder, args.weights)
    args.lr = args.lr or lr
    if args.encoder_lr is None:
        args.encoder_lr = encoder_lr
    return args


def add_learning_flags(parser):
    """Flags of the labels, the network, the loss and the optimiser."""
    flag = parser.add_argument_group("labels and loss").add_argument
    flag("--points-per", default="image", choices=("image", "class"), help="what --points counts")
    losses = ", ".join(names("losses.py", "LOSSES"))
    flag("--loss", default="ce", help=f"{losses}, or a sum such as focal+jaccard")
    flag("--class-weights", choices=("none", "inverse", "sqrt"), help="by rarity; default none, or "
         "sqrt for few labels and an EfficientNet with --weights")
    flag = parser.add_argument_group("network").add_argument
    networks = ", ".join(names("networks/__init__.py", "NETWORKS"))
    flag("--model", help=f"{networks}; default unet, or resunet with --encoder")
    flag("--encoder", help=f"{', '.join(encoder_names())}; default: the network's own")
    flag("--width", type=number(int, 1), default=16, help="channels of the U-Net's first level")
    flag("--depth", type=number(int, 1, 6), default=4, help="how often the U-Net halves its input")
    flag("--fusion", default="none", choices=("none", "concat", "sum"), help="multi-scale block at "
         "the U-Net's bottleneck")
    flag("--stem", type=int, default=1, choices=(1, 2), help="2: half resolution, about 3x as fast")
    flag("--weights", help="imagenet, or a file of published encoder weights")
    flag("--encoder-lr", type=number(float, 0, 1), help="share of --lr for the encoder; 0 freezes "
         "it; default 1, or 0.3 for an EfficientNet with --weights")
    flag = parser.add_argument_group("optimisation").add_argument
    flag("--schedule", default="cosine", choices=("cosine", "plateau", "constant"), help="of the "
         f"rate; plateau halves it when validation loss is not lower {PATIENCE + 1} times running")
    flag("--optimizer", default="adamw", choices=("adamw", "adam", "sgd"), help="sgd: momentum 0.9")
    flag("--weight-decay", type=number(float, 0, 1e6), default=1e-2, help="of convolution weights")
    flag("--ema", type=number(float, 0, 0.99999), default=0.0, help="score and keep averaged "
         "weights, with this decay per step, such as 0.99; 0 is off")
    flag("--accumulate", type=number(int, 1), default=1, help="parts a batch is cut into, to save "
         "memory; exact for ce and focal, but batch norm, dice and jaccard see parts")


def add_augmentation_flags(parser):
    """Flags of the augmentation."""
    flag = parser.add_argument_group("augmentation").add_argument
    flag("--no-flips", dest="flips", action="store_false", help="no mirror images, quarter turns")
    flag("--rotate", type=number(float, 0, 180), default=0.0, help="largest rotation, degrees")
    flag("--shift", type=number(float, 0, 1), default=0.1, help="largest shift, share of the tile")
    flag("--zoom", type=number(float, 1, 4), default=1.0, help="largest zoom factor; 1 is off")
    flag("--crop", type=number(int, 0), default=0, help="side of random crops, each with a label, "
         "px; 0 takes whole tiles")
    flag("--jitter", type=number(float, 0, 2), default=0.1, help="largest change of brightness and "
         "contrast, standard deviations of a band")


def add_run_flags(parser):
    """Flags of the run: where it writes, how it computes."""
    flag = parser.add_argument_group("run").add_argument
    flag("--out", help="the run's folder; default runs/<data>-<model>-<n>")
    flag("--resume", action="store_true", help="go on with the run in --out, with its flags")
    flag("--folds", type=number(int, 0), default=0, metavar="K", help="also train K networks that "
         "each lack a K-th of the labels, and score them there; 0: off")
    flag("--patience", type=number(int, 0), default=0, help="end after so many epochs without a "
         "better validation score; 0: off")
    flag("--stop-after", type=number(int, 0), default=0, help="pause after so many epochs; 0: off")
    flag("--final", default="best", choices=("best", "last"), help="weights that the closing test "
         "scores: best validation mean IoU, or last step")
    flag("--seed", type=number(int, 0, 2**31), default=0, help="of all that is random")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="mps is untested")
    flag("--amp", default="auto", choices=("auto", "bf16", "off"), help="precision: "
         "mixed on a GPU, float32 on a CPU; bf16: bfloat16, fast on CPUs with AVX512-BF16 or AMX")
    flag("--compile", action="store_true", help="compile the network first: a minute, then faster")
    flag("--tensorboard", action="store_true", help="also log to <out>/tb")


def default_rates(encoder, weights):
    """The peak learning rate, and the encoder's share of it, of a run that names none.

    Those of an EfficientNet with published weights were chosen on Dubai's training sites, see
    results/tune.md.

    Args:
        encoder, weights: as in `build_model`, or None.
    Returns:
        (rate, share 0..1).
    """
    return (2e-3, 0.3) if is_pretrained(encoder, weights) else (1e-3, 1.0)


def is_pretrained(encoder, weights):
    """Whether a run has the network that defaults of its own were chosen for.

    Args:
        encoder, weights: as in `build_model`, or None.
    """
    return weights is not None and encoder in names("networks/efficientnet.py", "EFFICIENTNETS")
