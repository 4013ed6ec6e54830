"""Speed beside what people write, and beside what the machine can do.

    python bench/speed.py                              the CPU, all rows, some ten minutes on a quiet machine
    python bench/speed.py --only loss confusion        some of them
    python bench/speed.py --device cuda                one NVIDIA card: see speed_gpu.py

Each row is measured in one run in which we, the peers and the limit take turns, and holds medians. On the CPU peers run in a
process of their own, with the memory of the C library as people have it: ours keeps what is freed. The limit is the rate of a
large float32 matrix product for networks, of a copy in memory for the rest: "share of limit" is the least time that the row's
operations, or the bytes it must read and write, can take, over the time it took, and the limit's own rate in these turns.
Peers that are not installed are named so.
"""

import argparse
import copy
import dataclasses
import functools
import importlib
import multiprocessing
import os
import pathlib
import sys
import tempfile
import typing

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # before bench: scenes.py is the project's

from measure import (
    append_rows,
    in_turns,
    markdown,
    matrix_product,
    memory_copy,
    synthetic_tiles,
    write_synthetic_set,
)
from run_table import ROOT

import train
from data import TileDataset, normalise
from engine.cli import HelpFormatter
from engine.device import keep_freed_memory
from losses import build_loss, partial_cross_entropy
from metrics import ConfusionMatrix, class_map
from networks import build_model, fold_batch_norm

BANDS, CLASSES, SIDE, POINTS = 3, 7, 256, 20
PLAIN = "plain PyTorch, NCHW"


@dataclasses.dataclass
class Work:
    """One piece of work, done by us and by others.

    Attributes:
        name: what is done.
        amount, unit: how much of it one call does, such as 4 images.
        ours: function without arguments.
        peers: {name: (function, or None where it is not installed; how many times faster we mean to be, or None)}; ours
            in another form are called "ours ...".
        operations: floating-point operations of a call of ours; 0 where memory is the limit.
        moved: bytes that a call of ours must read and write, where memory is the limit.
    """
    name: str
    amount: float
    unit: str
    ours: typing.Callable
    peers: dict
    operations: int = 0
    moved: int = 0


def installed(name):
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class Elsewhere:
    """A process that does the same works beside this one, and calls their peers when it is asked to.

    Args:
        groups: names out of GROUPS, in the order in which this process does them; args: the command's.
    """

    def __init__(self, groups, args):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, groups, args), daemon=True).start()
        theirs.close()  # so that waiting for a process that has died is an EOFError

    def call(self, name):
        """Have the peer called, and wait for it; "" goes on to the next work."""
        self.pipe.send(name)
        self.pipe.recv()


def serve(pipe, groups, args):
    """In that process: call the peers that come by name, a Work after the other, each until an empty name comes; answer each."""
    torch.set_num_threads(args.threads)
    for work in (work for group in groups for work in GROUPS[group](args)):
        while name := pipe.recv():
            work.peers[name][0]()
            pipe.send(name)
        pipe.send("")


def measure(work, repeats, limit, elsewhere=None):
    """Time one Work.

    Args:
        work: Work; repeats: turns.
        limit: (function without arguments, what it does a call): a matrix product, or a copy.
        elsewhere: an `Elsewhere` that calls the peers; None: they are called here.
    Returns:
        list of dict, a row a peer.
    """
    limit_call, limit_amount = limit
    there = {name: functools.partial(elsewhere.call, name) if elsewhere and not name.startswith("ours") else call
             for name, (call, _) in work.peers.items() if call is not None}
    seconds = in_turns({"ours": work.ours, **there, "limit": limit_call}, repeats)
    fastest = limit_amount / seconds["limit"]  # operations, or bytes, a second
    share = (work.operations or work.moved) / seconds["ours"] / fastest
    rate = f"{fastest / 1e9:.4g} {'GFLOP/s' if work.operations else 'GB/s'}"
    rows = []
    for name, (_, aim) in work.peers.items():
        known = name in seconds
        rows.append({"work": work.name, "unit": f"{work.unit}/s", "ours": f"{work.amount / seconds['ours']:.4g}", "peer": name,
                     "peer's": f"{work.amount / seconds[name]:.4g}" if known else "not installed",
                     "ratio": f"{seconds[name] / seconds['ours']:.2f}" if known else "-",
                     "aim": "-" if aim is None else aim, "share of limit": f"{share:.0%} of {rate}"})
    return rows


def batch(count):
    """A normalised batch and its labels, 20 points a tile: (B, C, H, W) channels-last, (B, H, W) uint8."""
    images, truth = map(torch.from_numpy, synthetic_tiles(count, SIDE, BANDS, CLASSES))
    where = torch.from_numpy(np.random.default_rng(0).integers(0, SIDE ** 2, (count, POINTS)))
    flat = truth.reshape(count, -1)
    labels = torch.full_like(flat, 255).scatter_(1, where, flat.gather(1, where))
    return normalise(images, [110.0] * BANDS, [60.0] * BANDS), labels.reshape(truth.shape)


def our_step(model, images, labels):
    """A training step as train.py makes it, without input and augmentation."""
    args = train.parse_args([])
    model = model.to(memory_format=torch.channels_last).train()
    optimizer, loss_function = train.build_optimizer(model, args), build_loss(args.loss)

    def step():
        loss_function(model(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        optimizer.zero_grad()
    return step


def plain_step(model, images, labels):
    """A training step as it is most often written: NCHW, F.cross_entropy, the loss read after every step."""
    images, labels, model = images.contiguous(), labels.long(), model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def operations(call):
    """Floating-point operations of a call, by torch's own count of its convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def training(args):
    """Training steps of the U-Net of width 16: as it is, and at half resolution."""
    images, labels = batch(args.bs)
    model, half = (build_model("unet", BANDS, CLASSES, stem=stem) for stem in (1, 2))
    ours = our_step(copy.deepcopy(model), images, labels)
    yield Work("training step, U-Net width 16, 256 px", args.bs, "images", ours,
               {PLAIN: (plain_step(copy.deepcopy(model), images, labels), 1.25)}, operations(ours))
    small = our_step(half, images, labels)
    yield Work("the same with --stem 2", args.bs, "images", small, {"ours without --stem 2": (ours, None)}, operations(small))


def compiled(args):
    """The training step with --compile."""
    images, labels = batch(args.bs)
    model = build_model("unet", BANDS, CLASSES)
    plain = plain_step(copy.deepcopy(model), images, labels)
    count = operations(plain)
    model.compile()
    yield Work("training step, U-Net width 16, 256 px, --compile", args.bs, "images", our_step(model, images, labels),
               {PLAIN: (plain, 1.4)}, count)


def resnets(args):
    """Training steps of ResNet U-Nets, beside segmentation_models.pytorch's of the same encoder and decoder widths."""
    smp = installed("segmentation_models_pytorch")
    images, labels = batch(args.bs)
    for encoder in ("resnet18", "resnet50"):
        ours = our_step(build_model("resunet", BANDS, CLASSES, encoder=encoder), images, labels)
        theirs = smp and plain_step(smp.Unet(encoder, encoder_weights=None, in_channels=BANDS, classes=CLASSES), images, labels)
        yield Work(f"training step, {encoder} U-Net, 256 px", args.bs, "images", ours,
                   {"segmentation_models.pytorch, NCHW": (theirs, 1.1)}, operations(ours))


def inference(args):
    """Images to logits, with batch norms folded as predict.py does."""
    images, _ = batch(args.bs)
    for name, width in (("U-Net width 16", 16), ("U-Net width 8", 8)):
        plain = build_model("unet", BANDS, CLASSES, width=width).eval()
        unfolded = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        folded = fold_batch_norm(copy.deepcopy(unfolded))
        faster = copy.deepcopy(folded)
        faster.compile()
        ours, theirs, between, fastest = (torch.inference_mode()(functools.partial(model, inputs)) for model, inputs in
                                          ((folded, images), (plain, images.contiguous()), (unfolded, images), (faster, images)))
        count = operations(ours)
        yield Work(f"inference, {name}, 256 px", args.bs, "images", ours,
                   {PLAIN: (theirs, 1.7), "ours without folding": (between, None)}, count)
        yield Work(f"inference, {name}, 256 px, --compile", args.bs, "images", fastest, {PLAIN: (theirs, 1.7)}, count)


def loss(args):
    """Partial cross-entropy forward and backward on 16 tiles, from logits as our networks give them and as theirs do."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(16, CLASSES, SIDE, SIDE, generator=random)
    truth = torch.randint(0, CLASSES, (16, SIDE, SIDE), generator=random, dtype=torch.uint8)
    chance = torch.rand(truth.shape, generator=random)

    def forward_backward(loss_function, values, labels):
        values = values.detach().requires_grad_()

        def call():
            values.grad = None
            loss_function(values, labels).backward()
        return call

    for percent, aim in ((0.1, 8), (1, None), (10, None), (100, 0.95)):
        labels = torch.where(chance < percent / 100, truth, 255)
        ours = forward_backward(partial_cross_entropy, logits.contiguous(memory_format=torch.channels_last), labels)
        plain, rows = functools.partial(F.cross_entropy, ignore_index=255), logits.contiguous(memory_format=torch.channels_last)
        theirs, same = (forward_backward(plain, values, labels.long()) for values in (logits, rows))
        # The gradient is written whatever happens; all logits are read only where all pixels count.
        yield Work(f"cross-entropy and gradient, {percent} % labelled", truth.numel() / 1e6, "MPix", ours,
                   {"F.cross_entropy(ignore_index), NCHW": (theirs, aim),
                    "F.cross_entropy(ignore_index), channels-last": (same, aim)},
                   moved=logits.nbytes * (1 + percent / 100) + truth.nbytes)


def confusion(args):
    """Logits of 16 tiles to an updated confusion matrix."""
    torchmetrics = installed("torchmetrics")
    logits = torch.randn(16, CLASSES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    truth = torch.from_numpy(synthetic_tiles(16, SIDE, 1, CLASSES)[1])
    rows, target, matrix = logits.contiguous(memory_format=torch.channels_last), truth.long(), ConfusionMatrix(CLASSES)

    def theirs(**options):
        metric = torchmetrics and torchmetrics.classification.MulticlassConfusionMatrix(CLASSES, **options)
        return metric and (lambda: metric.update(logits.argmax(1), target))

    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)

    def by_hand():
        keys = target * CLASSES + logits.argmax(1)
        counts.add_(torch.bincount(keys.flatten(), minlength=CLASSES ** 2).reshape(CLASSES, CLASSES))
    yield Work("logits to confusion matrix", truth.numel() / 1e6, "MPix", lambda: matrix.update(class_map(rows), truth),
               {"argmax(1) + torchmetrics": (theirs(), 10),
                "argmax(1) + torchmetrics, validate_args=False": (theirs(validate_args=False), 3),
                "argmax(1) + torch.bincount": (by_hand, None)}, moved=logits.nbytes + truth.nbytes)


def batches(args):
    """Random batches of 16 tiles, normalised, from the prepared set and from a folder of PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder, "set")
        write_synthetic_set(folder, {"train": 256, "val": 1, "test": 1}, SIDE, BANDS, CLASSES)
        tiles = TileDataset(folder, "train")
        for kind, array in (("image", tiles.images), ("label", tiles.labels)):
            for index, tile in enumerate(array.numpy()):
                Image.fromarray(tile).save(folder / f"{kind}{index}.png")
        order = np.random.default_rng(0)

        def ours():
            images, labels = tiles.get_batch(order.integers(0, len(tiles), 16))
            return normalise(images, tiles.meta["mean"], tiles.meta["std"]), labels

        def theirs():
            chosen = order.integers(0, len(tiles), 16)
            images, labels = (np.stack([np.asarray(Image.open(folder / f"{kind}{index}.png")) for index in chosen])
                              for kind in ("image", "label"))
            images = torch.from_numpy(images).permute(0, 3, 1, 2).float().sub_(110.0).div_(60.0).contiguous()
            return images, torch.from_numpy(labels).long()
        pixels = 16 * SIDE ** 2
        yield Work("random batches of 16 tiles, normalised", 16, "images", ours, {"a folder of PNG files, by Pillow": (theirs, 6)},
                   moved=pixels * (BANDS * (1 + 4) + 2))


GROUPS = {group.__name__: group for group in (training, compiled, resnets, inference, loss, confusion, batches)}


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="what to measure")
    parser.add_argument("--only", nargs="+", default=list(GROUPS), choices=GROUPS, help="rows to measure, on the CPU")
    parser.add_argument("--repeats", type=int, default=5, help="turns, of which the median is taken")
    parser.add_argument("--bs", type=int, default=4, help="images a step, on the CPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch on the CPU")
    parser.add_argument("--pytorch-unet", metavar="FOLDER", help="a clone of github.com/milesial/Pytorch-UNet, a peer on CUDA")
    parser.add_argument("--table", type=pathlib.Path, default=ROOT / "results" / "speed.csv", help="rows are added to it")
    return parser.parse_args(argv)


def main(args):
    """Measure, print the table, append its rows; returns them."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.device == "cuda":
        from speed_gpu import measure_card  # here: it imports from this file
        rows = measure_card(args)
    else:
        keep_freed_memory()  # as train.py and predict.py do
        elsewhere = Elsewhere(args.only, args)
        limits = {"product": matrix_product(2048), "copy": memory_copy(2**28)}
        rows = []
        for group in args.only:
            for work in GROUPS[group](args):
                print(f"{work.name} ...", file=sys.stderr, flush=True)
                rows += measure(work, args.repeats, limits["product" if work.operations else "copy"], elsewhere)
                elsewhere.call("")
    print(markdown(rows))
    append_rows(args.table, rows, " ".join(["python", *sys.argv]), args.threads)
    return rows


if __name__ == "__main__":
    main(parse_args())
