"""What `python bench/speed.py --device cuda` measures: steps beside peers, an epoch, who waits for whom. Not run on a card yet."""

import contextlib
import copy
import importlib
import importlib.util
import pathlib
import sys
import tempfile
import warnings

import torch
import torch.nn.functional as F
from measure import markdown, matrix_product, wait_for_device, write_synthetic_set
from speed import BANDS, CLASSES, Work, batch, installed, measure, operations

import train
from data import TileDataset
from engine.meta import checkpoint_meta, load_meta
from losses import build_loss, count_labelled
from networks import build_model

TILES, EPOCH_BATCH = 15_000, 64


def fast_step(model, images, labels):
    """A training step as train.py makes it on CUDA: bfloat16, channels-last, fused AdamW, nothing read back."""
    args = train.parse_args([])
    model = model.to(images.device, memory_format=torch.channels_last).train()
    optimizer, loss_function = train.build_optimizer(model, args), build_loss(args.loss)

    def step():
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            logits = model(images)
        loss_function(logits.float(), labels, count_labelled(labels)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        optimizer.zero_grad()
    return step


def usual_step(model, images, labels):
    """A training step as it is most often written: float16 autocast with a scaler, the loss read after every step."""
    model, labels = model.to(images.device).train(), labels.long()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler(images.device.type)

    def step():
        optimizer.zero_grad()
        with torch.autocast(images.device.type, dtype=torch.float16):
            loss = F.cross_entropy(model(images), labels, ignore_index=255)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()
    return step


def compiled(model):
    """The model, in channels-last memory, that compiles itself at its first call."""
    model = model.to(memory_format=torch.channels_last)
    model.compile()
    return model


def pytorch_unet(folder):
    """The network of a clone of milesial/Pytorch-UNet; its package is called unet, as a file of ours is, so it gets another name."""
    package = pathlib.Path(folder, "unet")
    specification = importlib.util.spec_from_file_location("pytorch_unet", package / "__init__.py",
                                                           submodule_search_locations=[str(package)])
    module = sys.modules["pytorch_unet"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return importlib.import_module("pytorch_unet.unet_model").UNet(BANDS, CLASSES)


def unet_work(device, count, folder=None, width=64):
    """Training steps of the U-Net, beside a plain loop and Pytorch-UNet's network, if the folder of its clone is given."""
    images, labels = (part.to(device) for part in batch(count))
    model = build_model("unet", BANDS, CLASSES, width=width).to(device)
    theirs = folder and usual_step(pytorch_unet(folder), images.contiguous(memory_format=torch.channels_last), labels)
    plain = usual_step(copy.deepcopy(model), images.contiguous(), labels)
    total = operations(plain)
    return Work(f"training step, U-Net width {width}, 256 px, batch {count}", count, "images",
                fast_step(compiled(model), images, labels),
                {"the same network, NCHW, float16": (plain, None), "milesial/Pytorch-UNet, float16": (theirs, 2)}, total)


def resnet_work(device, count):
    """Training steps of the ResNet-50 U-Net, beside segmentation_models.pytorch's as people run it and at its best."""
    smp = installed("segmentation_models_pytorch")
    images, labels = (part.to(device) for part in batch(count))

    def theirs():
        return smp.Unet("resnet50", encoder_weights=None, in_channels=BANDS, classes=CLASSES).to(device)
    model = build_model("resunet", BANDS, CLASSES, encoder="resnet50").to(device)
    total = operations(fast_step(copy.deepcopy(model), images, labels))
    return Work(f"training step, ResNet-50 U-Net, 256 px, batch {count}", count, "images",
                fast_step(compiled(model), images, labels),
                {"segmentation_models.pytorch, float16": (smp and usual_step(theirs(), images.contiguous(), labels), None),
                 "the same, channels-last, compiled": (smp and usual_step(compiled(theirs()), images, labels), 1.3)}, total)


@contextlib.contextmanager
def epoch(device, count, width, *flags):
    """An epoch of train.py's loop on a synthetic set, which is there as long as the context is.

    Args:
        device: torch.device; count: training tiles; width: of the U-Net; flags: more of train.py's.
    Yields:
        a function that runs an epoch, and returns its speed as train_one_epoch does.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, out = pathlib.Path(folder, "set"), pathlib.Path(folder, "run")
        write_synthetic_set(data, {"train": count, "val": 1, "test": 1}, 256, BANDS, CLASSES)
        args = train.parse_args(["--data", str(data), "--out", str(out), "--bs", str(min(count, EPOCH_BATCH)), "--width", str(width),
                                 "--save-every", "1000000", *flags])
        out.mkdir()
        meta, tiles = checkpoint_meta(load_meta(data)), TileDataset(data, "train", 20)
        run = train.build_run(args, meta, tiles, device)
        run.rank, run.size = 0, 1
        if device.type == "cuda":
            tiles.to(device)

        def one():
            run.step = 0
            return train.train_one_epoch(run, tiles, meta, args, device, [])
        one()  # compiles, and chooses kernels
        yield one


def kernel_times(call):
    """Run a call under torch's profiler: ({kernel: seconds}, busy seconds: those in which any kernel ran)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        wait_for_device()
    spans, kernels = [], {}
    for event in profiler.events():
        # An annotation, such as a compiled region's, spans kernels and the gaps between them.
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation:
            start, end = event.time_range.start, event.time_range.end  # microseconds
            spans.append((start, end))
            kernels[event.name] = kernels.get(event.name, 0) + (end - start) / 1e6
    return kernels, covered(spans) / 1e6


def covered(spans):
    """The length of what (start, end) pairs cover together: where they overlap counts once."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def waits(call):
    """How often, and where, a call makes the host wait for the card: {place: times}."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{pathlib.Path(warning.filename).name}:{warning.lineno}" for warning in caught if "synchroniz" in str(warning.message)]
    return {place: places.count(place) for place in places}


def measure_card(args):
    """All rows on CUDA; prints where an epoch's time goes and what waits; returns the rows of the table."""
    if not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has none that torch can use")
    limit, rows = matrix_product(8192, torch.bfloat16, "cuda"), []
    device = torch.device("cuda")
    for work in (unet_work(device, count, args.pytorch_unet) for count in (16, 32, 64)):
        rows += measure(work, args.repeats, limit)
    rows += measure(resnet_work(device, 32), args.repeats, limit)
    with epoch(device, TILES, 64, "--compile") as one:
        speed = one()
        kernels, busy = kernel_times(one)
        print(f"an epoch of {TILES} tiles: {speed['seconds']:.1f} s, {speed['images_per_s']:.0f} images/s, waiting for input "
              f"{speed['waiting_share']:.1%}; the card is busy {busy / speed['seconds']:.1%} of it (aim 95%)")
        longest = sorted(kernels.items(), key=lambda item: -item[1])[:12]
        print(markdown([{"kernel": name[:80].replace("|", "/"), "share of busy time": f"{seconds / sum(kernels.values()):.1%}"}
                        for name, seconds in longest]))
        print(f"the host waited for the card at: {waits(one) or 'no place'}")
    return rows
