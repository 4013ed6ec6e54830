"""Speed beside what people write.

    python bench/speed.py                                     the CPU, ten minutes if it is quiet
    python bench/speed.py --only loss confusion               some of the rows
    python bench/speed.py --device cuda --bs 32 --width 64    a card, in mixed precision

We and the peers take turns, and each row of results/speed.csv contains the medians. On the CPU the
peers run in a process of their own with the C library's memory settings, because ours keeps freed
memory (engine/device.py).
"""

import argparse
import copy
import functools
import importlib
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
import typing

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from experiments import RESULTS, append, markdown, origin, processor
from measure import in_turns, synthetic_tiles, write_synthetic_set
from PIL import Image
from scenes import imagery

import train
from data import TileDataset, normalise
from engine.device import amp_dtype, autocast, cpu_has_bfloat16, pick_device
from geo.raster import open_raster
from losses import build_loss, partial_cross_entropy
from metrics import ConfusionMatrix, class_map
from networks import build_model, fold_batch_norm

BANDS, CLASSES, SIDE, POINTS = 3, 7, 256, 20
PLAIN = "plain PyTorch, NCHW"


class Work(typing.NamedTuple):
    """One piece of work, done by us and by others.

    Attributes:
        name: what is done.
        amount, unit: how much of it one call does, such as 4 images.
        ours: function without arguments.
        peers: {name: (function, or None if it is not installed; the ratio we aim at, or "-")}.
            Ours in another form are called "ours ...".
    """
    name: str
    amount: float
    unit: str
    ours: typing.Callable
    peers: dict


class PeerProcess:
    """A process that makes the same works in the same order, and calls their peers when asked."""

    def __init__(self, args):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, args), daemon=True).start()
        theirs.close()  # so that waiting for a process that has died is an EOFError

    def call(self, name):
        """Have a peer called, and wait for it; "" goes on to the next work."""
        self.pipe.send(name)
        self.pipe.recv()


def serve(pipe, args):
    """In that process: call the peers whose names come, of one work until "" comes."""
    torch.set_num_threads(args.threads)
    for work in works(args, torch.device("cpu")):
        while name := pipe.recv():
            work.peers[name][0]()
            pipe.send(name)
        pipe.send("")


def works(args, device):
    """All Work that the command line asks for, one after the other."""
    for group in args.only:
        yield from GROUPS[group](args, device)


def measure(work, repeats, peer_process):
    """Time one Work; return a row per peer."""
    calls = {"ours": work.ours}
    for name, (call, _) in work.peers.items():
        if call and peer_process and not name.startswith("ours"):
            calls[name] = functools.partial(peer_process.call, name)
        elif call:
            calls[name] = call
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = in_turns(calls, repeats, wait)
    rows = []
    for name, (_, aim) in work.peers.items():
        row = {"work": work.name, "unit": f"{work.unit}/s",
               "ours": f"{work.amount / seconds['ours']:.4g}", "peer": name,
               "peer's": "not installed", "ratio": "-", "aim": aim}
        if name in seconds:
            row["peer's"] = f"{work.amount / seconds[name]:.4g}"
            row["ratio"] = f"{seconds[name] / seconds['ours']:.2f}"
        rows.append(row)
    return rows


def batch(count, device):
    """A normalised batch and its labels, 20 points per tile."""
    images, truth = map(torch.from_numpy, synthetic_tiles(count, SIDE, BANDS, CLASSES))
    chosen = torch.from_numpy(np.random.default_rng(0).integers(0, SIDE ** 2, (count, POINTS)))
    flat = truth.reshape(count, -1)
    labels = torch.full_like(flat, 255).scatter_(1, chosen, flat.gather(1, chosen))
    images = normalise(images, [110.0] * BANDS, [60.0] * BANDS)
    return images.to(device), labels.reshape(truth.shape).to(device)


def our_step(model, images, labels, precision="auto"):
    """A training step as train.py makes it with --amp, without input and augmentation."""
    args = train.parse_args([])
    device = images.device
    amp = amp_dtype(device, precision)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer, criterion = train.build_optimizer(model, args), build_loss(args.loss)

    def step():
        with autocast(device, amp):
            logits = model(images)
        criterion(logits.float(), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.GRADIENT_CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return step


def plain_step(model, images, labels, memory_format=torch.contiguous_format):
    """A training step as most people write it: NCHW, the loss read after every step.

    On a card in float16 with a scaler.
    """
    device = images.device
    images = images.contiguous(memory_format=memory_format)
    labels = labels.long()
    model = model.to(device, memory_format=memory_format).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    cuda = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=cuda)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.float16, enabled=cuda):
            loss = F.cross_entropy(model(images), labels, ignore_index=255)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()
    return step


def training(args, device):
    """Training steps of the U-Net: as it is, compiled, and at half resolution."""
    images, labels = batch(args.bs, device)
    model = build_model("unet", BANDS, CLASSES, width=args.width)
    half = build_model("unet", BANDS, CLASSES, width=args.width, stem=2)
    compiled = copy.deepcopy(model)
    compiled.compile()
    plain = plain_step(copy.deepcopy(model), images, labels)
    ours = our_step(model, images, labels)
    name = f"training step, U-Net width {args.width}, 256 px"
    yield Work(name, args.bs, "images", ours, {PLAIN: (plain, 1.25)})
    yield Work(f"{name}, --compile", args.bs, "images", our_step(compiled, images, labels),
               {PLAIN: (plain, 1.4)})
    yield Work("the same with --stem 2", args.bs, "images", our_step(half, images, labels),
               {"ours without --stem 2": (ours, "-")})


def encoders(args, device):
    """Training steps of U-Nets on an encoder, beside those of segmentation_models.pytorch."""
    smp = installed("segmentation_models_pytorch")
    images, labels = batch(args.bs, device)
    aims = {"resnet18": (1.1, "-"), "resnet50": (1.1, "-"), "efficientnet_lite0": (2, 1.4)}
    for encoder, (aim, aim_channels_last) in aims.items():
        ours = our_step(build_model("resunet", BANDS, CLASSES, encoder=encoder), images, labels)

        def theirs(memory_format, encoder=encoder):
            if not smp:
                return None
            name = encoder if encoder.startswith("resnet") else f"tu-tf_{encoder}"
            peer = smp.Unet(name, encoder_weights=None, in_channels=BANDS, classes=CLASSES)
            return plain_step(peer, images, labels, memory_format)

        yield Work(f"training step, {encoder} U-Net, 256 px", args.bs, "images", ours, {
            "segmentation_models.pytorch, NCHW": (theirs(torch.contiguous_format), aim),
            "segmentation_models.pytorch, channels-last":
                (theirs(torch.channels_last), aim_channels_last)})


def logits(model, images, precision="auto"):
    """The logits of a network in the precision of --amp."""
    with torch.inference_mode(), autocast(images.device, amp_dtype(images.device, precision)):
        return model(images)


def inference(args, device):
    """Images to logits, with batch norms folded as in predict.py."""
    images, _ = batch(args.bs, device)
    for width in (args.width, args.width // 2):
        plain = build_model("unet", BANDS, CLASSES, width=width).to(device).eval()
        unfolded = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        folded = fold_batch_norm(copy.deepcopy(unfolded))
        compiled = copy.deepcopy(folded)
        compiled.compile()
        ours = functools.partial(logits, folded, images)
        theirs = functools.partial(logits, plain, images.contiguous())
        name = f"inference, U-Net width {width}, 256 px"
        yield Work(name, args.bs, "images", ours, {
            PLAIN: (theirs, 1.7),
            "ours without folding": (functools.partial(logits, unfolded, images), "-")})
        yield Work(f"{name}, --compile", args.bs, "images",
                   functools.partial(logits, compiled, images), {PLAIN: (theirs, 1.7)})


def loss(args, device):
    """Partial cross-entropy and its gradient on 16 tiles, channels-last logits as ours are."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(16, CLASSES, SIDE, SIDE, generator=random).to(device)
    truth = torch.randint(0, CLASSES, (16, SIDE, SIDE), generator=random, dtype=torch.uint8)
    chance = torch.rand(truth.shape, generator=random)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    plain = functools.partial(F.cross_entropy, ignore_index=255)

    def gradient(loss_function, values, labels):
        values = values.detach().requires_grad_()

        def call():
            values.grad = None
            loss_function(values, labels).backward()
        return call

    for percent, aim in ((0.1, 8), (1, "-"), (10, "-"), (100, 0.95)):
        labels = torch.where(chance < percent / 100, truth, 255).to(device)
        yield Work(f"cross-entropy and gradient, {percent} % labelled", truth.numel() / 1e6, "MPix",
                   gradient(partial_cross_entropy, channels_last, labels), {
                       "F.cross_entropy(ignore_index), NCHW":
                           (gradient(plain, logits, labels.long()), aim),
                       "F.cross_entropy(ignore_index), channels-last":
                           (gradient(plain, channels_last, labels.long()), aim)})


def confusion(args, device):
    """Logits of 16 tiles to an updated confusion matrix."""
    torchmetrics = installed("torchmetrics")
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(16, CLASSES, SIDE, SIDE, generator=random).to(device)
    truth = torch.from_numpy(synthetic_tiles(16, SIDE, 1, CLASSES)[1]).to(device)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    target = truth.long()
    matrix = ConfusionMatrix(CLASSES)

    def theirs(**options):
        if not torchmetrics:
            return None
        metric = torchmetrics.classification.MulticlassConfusionMatrix(CLASSES, **options)
        metric = metric.to(device)
        return lambda: metric.update(logits.argmax(1), target)

    yield Work("logits to confusion matrix", truth.numel() / 1e6, "MPix",
               lambda: matrix.update(class_map(channels_last), truth), {
                   "argmax(1) + torchmetrics": (theirs(), 10),
                   "argmax(1) + torchmetrics, validate_args=False":
                       (theirs(validate_args=False), 3)})


def batches(args, device):
    """Random batches of 16 tiles, normalised, from a prepared set and from PNG files."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        counts = {"train": 64, "val": 1, "test": 1}
        write_synthetic_set(folder / "set", counts, SIDE, BANDS, CLASSES)
        tiles = TileDataset(folder / "set", "train")
        for index in range(len(tiles)):
            Image.fromarray(tiles.images[index].numpy()).save(folder / f"image{index}.png")
            Image.fromarray(tiles.labels[index].numpy()).save(folder / f"label{index}.png")
        order = np.random.default_rng(0)

        def ours():
            images, labels = tiles.get_batch(order.integers(0, len(tiles), 16))
            return normalise(images, tiles.meta["mean"], tiles.meta["std"]), labels

        def theirs():
            chosen = order.integers(0, len(tiles), 16)
            images, labels = (np.stack([np.asarray(Image.open(folder / f"{kind}{index}.png"))
                                        for index in chosen]) for kind in ("image", "label"))
            images = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            return images.sub_(110.0).div_(60.0).contiguous(), torch.from_numpy(labels).long()

        yield Work("random batches of 16 tiles, normalised", 16, "images", ours,
                   {"a folder of PNG files, by Pillow": (theirs, 6)})


def reading(args, device):
    """A file of LZW tiles with predictor in windows of 1024 px, beside rasterio."""
    rasterio = installed("rasterio")
    side, window = 2048, 1024
    corners = [(row, col) for row in range(0, side, window) for col in range(0, side, window)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "scene.tif")
        tifffile.imwrite(path, imagery(side, side, 4, 0), compression="lzw", predictor=True,
                         tile=(256, 256), photometric="minisblack", planarconfig="contig")

        def ours():
            with open_raster(path) as raster:
                for row, col in corners:
                    raster.read(row, col, window, window)

        def theirs():
            with rasterio.open(path) as file:
                for row, col in corners:
                    file.read(window=rasterio.windows.Window(col, row, window, window))

        yield Work("windows of LZW tiles with predictor, uint16", side**2 / 1e6, "MPix", ours,
                   {"rasterio": (theirs if rasterio else None, 1)})


def bfloat16(args, device):
    """Ours in bfloat16 beside ours in float32, and matrix products; on a CPU that has bfloat16."""
    if device.type == "cpu" and not cpu_has_bfloat16():
        return
    side = 2048
    exact = torch.ones(side, side, device=device)
    rounded = exact.bfloat16()
    in_float32 = "ours in float32"
    yield Work(f"matrix product, {side} x {side}, bfloat16", 2 * side**3 / 1e9, "GFLOP",
               lambda: rounded @ rounded, {in_float32: (lambda: exact @ exact, "-")})
    images, labels = batch(args.bs, device)
    networks = {f"U-Net width {width}": {"name": "unet", "width": width} for width in (16, 64)}
    for encoder in ("resnet18", "efficientnet_lite0"):
        networks[f"{encoder} U-Net"] = {"name": "resunet", "encoder": encoder}
    for name, options in networks.items():
        model = build_model(bands=BANDS, classes=CLASSES, **options).to(device)
        folded = fold_batch_norm(copy.deepcopy(model).eval()).to(memory_format=torch.channels_last)
        step = our_step(copy.deepcopy(model), images, labels, "off")
        yield Work(f"training step, {name}, 256 px, bfloat16", args.bs, "images",
                   our_step(model, images, labels, "bf16"), {in_float32: (step, "-")})
        yield Work(f"inference, {name}, 256 px, bfloat16", args.bs, "images",
                   functools.partial(logits, folded, images, "bf16"),
                   {in_float32: (functools.partial(logits, folded, images, "off"), "-")})


GROUPS = {group.__name__: group for group in
          (training, encoders, inference, loss, confusion, batches, reading, bfloat16)}


def installed(name):
    """A module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flag = parser.add_argument
    flag("--device", default="cpu", choices=("cpu", "cuda"), help="what to measure")
    flag("--only", nargs="+", default=list(GROUPS), choices=GROUPS, help="rows to measure")
    flag("--repeats", type=int, default=5, help="turns")
    flag("--bs", type=int, default=4, help="images per step")
    flag("--width", type=int, default=16, help="of the U-Net")
    flag("--threads", type=int, default=os.cpu_count(), help="of torch on the CPU")
    flag("--table", type=pathlib.Path, default=RESULTS / "speed.csv", help="rows are added to it")
    return parser.parse_args(argv)


def main(args):
    """Measure, append the rows, print the table."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = pick_device(args.device)
    cuda = device.type == "cuda"
    peer_process = None if cuda else PeerProcess(args)
    table = []
    for work in works(args, device):
        rows = measure(work, args.repeats, peer_process)
        for row in rows:
            name = torch.cuda.get_device_name() if cuda else processor()
            append(args.table, {**row, "threads": args.threads, "processor": name,
                                "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
                                **origin(*sys.argv)})
        if peer_process:
            peer_process.call("")
        table += rows
    print(*markdown(table), sep="\n")


if __name__ == "__main__":
    main(parse_args())
