"""Train a network on a prepared data set, from every label or from a few points a tile.

    python train.py --lr 1e-3 --bs 16                     the procedural demo, from 20 points a tile, in minutes
    python train.py --data data/dubai --points 20         your own set, made by prepare_data.py
    python train.py --out runs/demo-unet-1 --resume       go on where a run was stopped

A run leaves args.json, log.csv, last.pt, best.pt, metrics.json, curves.png and preview.png in its folder. Everything random
is a function of (seed, epoch, step), so a run that was stopped and resumed ends as one that never was.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import math
import pathlib
import resource
import signal
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

from checkpoint import data_facts, load_checkpoint, load_model, save_checkpoint
from data import (SPARSE_SHARE, Augmentation, Tiles, augment, epoch_order, load_facts, normalise, pick_device, prefetch,
                  sampling_weights)
from evaluate import amp_dtype, evaluate, learning_curves, preview, write_scores
from figures import save_png
from losses import build_loss, class_weights, labelled_weight
from metrics import score_table
from models import build_model, freeze_encoder
from prepare_data import make_demo

DEMO = "data/demo"
WARM_UP = 0.05  # share of the cosine schedule's steps in which the rate rises to its peak
MAY_CHANGE_ON_RESUME = ("out", "resume", "stop_after", "device", "save_every", "final")


def parse_args(argv=None):
    """The command line; `python train.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Train a network on a prepared data set, from every label or a few points.",
                                     epilog="example: python train.py --data data/dubai --points 20 --lr 1e-3 --bs 16",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_model_flags(parser)
    flag = parser.add_argument_group("optimisation").add_argument
    flag("--lr", type=float, default=1e-3, help="peak learning rate")
    flag("--bs", type=int, default=16, help="tiles a step")
    flag("--accumulate", type=int, default=1, help="parts a batch is cut into, one after the other, to save memory")
    flag("--epochs", type=int, default=20, help="passes over the training tiles; the schedule spans them")
    flag("--stop-after", type=int, default=0, help="stop after this many epochs, to go on later; 0 does not stop")
    flag("--schedule", default="cosine", choices=("cosine", "plateau", "constant"), help="cosine, after a warm-up; plateau "
         "halves the rate when the validation loss has not improved for more than 3 epochs")
    flag("--optimizer", default="adamw", choices=("adamw", "adam", "sgd"), help="sgd has momentum 0.9")
    flag("--weight-decay", type=float, default=1e-2, help="of convolution weights; norms and biases have none")
    flag("--clip", type=float, default=1.0, help="largest gradient norm; 0 does not clip")
    flag = parser.add_argument_group("augmentation").add_argument
    flag("--no-flips", dest="flips", action="store_false", help="no mirror images and quarter turns")
    flag("--rotate", type=float, default=0.0, help="free rotation up to this either way, degrees")
    flag("--shift", type=float, default=0.1, help="shift up to this share of the tile's side")
    flag("--zoom", type=float, default=1.0, help="ground up to this factor smaller or larger; 1 is off")
    flag("--crop", type=int, default=0, help="side of random crops, px; 0 takes whole tiles")
    flag("--jitter", type=float, default=0.1, help="brightness and contrast, standard deviations")
    flag = parser.add_argument_group("run").add_argument
    flag("--out", help="the run's folder; not given: runs/<data>-<model>-<n>, the next free n")
    flag("--resume", action="store_true", help="go on with the run in --out")
    flag("--final", default="best", choices=("best", "last"), help="weights that the closing test table is of: best "
         "validation mean IoU, or last step")
    flag("--seed", type=int, default=0, help="decides first weights, points, order and augmentation")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="mps is not tested")
    flag("--amp", default="auto", choices=("auto", "off"), help="on CUDA: bfloat16 where the card has it, else float16")
    flag("--compile", action="store_true", help="compile the network first: a minute or more, then faster")
    flag("--save-every", type=int, default=100, help="steps between two checkpoints within an epoch")
    flag("--limit-batches", type=int, default=0, help="train and validate on so few batches an epoch; 0 is all")
    return parser.parse_args(argv)


def add_model_flags(parser):
    """Flags for what is learned: the labels, the network, the loss."""
    flag = parser.add_argument_group("data").add_argument
    flag("--data", default=DEMO, help="folder that prepare_data.py wrote; the demo is made where it is missing")
    flag("--points", type=int, help="labelled pixels kept of each training tile; 0 keeps every label; not given: 20, or 0 "
         "where under 1 %% of the pixels are labelled to begin with")
    flag("--points-per", default="image", choices=("image", "class"), help="what --points counts")
    flag("--oversample", nargs="+", default=[], metavar="CLASS", help="rare classes whose tiles are visited more often")
    flag("--oversample-above", type=float, default=0.05, help="share of a tile's labelled pixels that must be of them, 0 to 1")
    flag("--oversample-factor", type=float, default=3.0, help="how much more often")
    flag = parser.add_argument_group("network").add_argument
    flag("--model", default="unet", help="unet, resunet, fpn, unetpp, linknet, deeplabv3plus or segformer")
    flag("--encoder", help="resnet18, resnet34, resnet50, mit_b0, mit_b1 or mit_b2; not given: the network's own")
    flag("--width", type=int, default=16, help="channels of the U-Net's first level")
    flag("--depth", type=int, default=4, help="how often the U-Net halves its input, 1 to 6")
    flag("--fusion", default="none", choices=("none", "concat", "sum"), help="multi-scale block at the U-Net's bottleneck")
    flag("--stem", type=int, default=1, choices=(1, 2), help="2: the U-Net works at half resolution, about 4x cheaper")
    flag("--dropout", type=float, default=0.0, help="share of channels dropped at the deepest map, 0 to 1")
    flag("--weights", help="imagenet, or a file of the encoder's published weights; not given: none")
    flag("--freeze-encoder", action="store_true", help="the encoder's weights and batch-norm statistics stay as they are")
    flag("--encoder-lr", type=float, default=1.0, help="share of --lr for the encoder, 0 to 1")
    flag = parser.add_argument_group("loss").add_argument
    flag("--loss", default="ce", help="ce, focal, dice, jaccard, or a sum such as focal+jaccard")
    flag("--class-weights", default="none", choices=("none", "inverse", "sqrt"), help="from how often each class is labelled")
    flag("--hardest", type=float, default=1.0, help="share of labelled pixels that ce keeps, those it does worst on")


def check_args(args):
    """Refuse numbers that make no sense: ValueError with the flag, what was given and what it may be."""
    limits = {"points": (0, None), "width": (1, None), "depth": (1, 6), "lr": (1e-12, 1e6), "bs": (1, None),
              "seed": (0, 2**31), "accumulate": (1, args.bs), "epochs": (1, None), "stop_after": (0, None),
              "weight_decay": (0, 1e6), "dropout": (0, 0.99), "clip": (0, None), "rotate": (0, 180), "shift": (0, 1),
              "zoom": (1, 4), "crop": (0, None), "jitter": (0, 2), "save_every": (1, None), "limit_batches": (0, None),
              "oversample_above": (0, 1), "oversample_factor": (1, None),
              "encoder_lr": (0, 1)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= (high or sys.float_info.max):
            allowed = f"a number of {low} or more" if high is None else f"a number from {low} to {high}"
            raise ValueError(f"--{name.replace('_', '-')} {value}: give {allowed}")
    build_loss(args.loss, hardest=args.hardest)


def main(args):
    """Train, then score on the test split; returns the dict of metrics.json, or None where the run ends without a score."""
    check_args(args)
    device = pick_device(args.device)
    if args.data == DEMO and not pathlib.Path(DEMO).exists():
        print("making the demo data set: procedural scenes, some seconds", flush=True)
        make_demo(DEMO)
    facts = load_facts(args.data)
    if args.points is None:
        labelled = sum(facts["pixels"]["train"]) / max(1, facts["tiles"]["train"] * facts["tile"] ** 2)
        args.points = 0 if labelled < SPARSE_SHARE else 20
    train_tiles, val_tiles = Tiles(args.data, "train", args.points, args.points_per, args.seed), Tiles(args.data, "val")
    if train_tiles.labelled_pixels == 0:
        raise ValueError(f"{args.data} has not one labelled training pixel: look at its preview.png and at the masks")
    facts = data_facts(facts)
    run = start_run(args, facts, train_tiles, device)
    if run.epoch >= args.epochs:
        print(f"{args.out} is finished: all its {args.epochs} epochs are done")
        return None
    describe(args, run, train_tiles, val_tiles, device)
    if device.type == "cuda" and 2 * train_tiles.images.nbytes < torch.cuda.mem_get_info(device)[0]:
        train_tiles.to(device)
    with noted_signals() as stop_signals:
        for _ in range(run.epoch, min(args.epochs, args.stop_after or args.epochs)):
            speed = train_one_epoch(run, train_tiles, facts, args, device, stop_signals)
            finish_epoch(run, val_tiles, facts, args, device, speed)
    if run.epoch < args.epochs:
        print(f"stopped after {run.epoch} of {args.epochs} epochs; go on with: --out {args.out} --resume")
        return None
    return report(run, args, facts, device)


@dataclasses.dataclass
class Run:
    """What changes while training; all of it but `kwargs`, `weight` and `sampling` goes into last.pt."""
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    kwargs: dict  # build_model's, to rebuild the model from the checkpoint alone
    weight: torch.Tensor | None  # (K,) class weights
    sampling: np.ndarray | None  # (N,) how often each tile is visited
    record: torch.Tensor  # (2, steps) loss and gradient norm of each step of this epoch, on the device
    labelled_pixels: int
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the one under way
    best: float = -1.0  # highest validation mean IoU
    plateau: dict = dataclasses.field(default_factory=lambda: {"lowest": math.inf, "epochs": 0, "factor": 1.0})


def start_run(args, facts, tiles, device):
    """Build everything a run needs, in a new folder, or as its last checkpoint left it."""
    torch.manual_seed(args.seed)
    kwargs = {"bands": facts["bands"], "classes": len(facts["classes"]), "encoder": args.encoder, "width": args.width,
              "depth": args.depth, "fusion": args.fusion, "stem": args.stem, "dropout": args.dropout}
    model = build_model(args.model, weights=args.weights, **kwargs).to(device, memory_format=torch.channels_last)
    if args.freeze_encoder:
        freeze_encoder(model)
        if not args.weights:
            print("warning: --freeze-encoder without --weights keeps an encoder that has learned nothing", file=sys.stderr)
    weight = class_weights(tiles.class_counts, args.class_weights)
    sampling = sampling_weights(tiles, args.oversample, args.oversample_above, args.oversample_factor)
    steps = max(1, len(tiles) // args.bs)  # a ragged last batch is dropped, unless it is the only one
    steps = min(steps, args.limit_batches or steps)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device, args.amp) == torch.float16)
    run = Run(model, build_optimizer(model, args), scaler, kwargs, None if weight is None else weight.to(device), sampling,
              torch.zeros(2, steps, device=device), tiles.labelled_pixels)
    if args.resume:
        resume(run, args, facts, device)
    else:
        make_folder(args)
    if args.compile:
        model.compile()
    return run


def build_optimizer(model, args):
    """The optimiser of --optimizer; decay pulls on convolution weights only, for norms and biases have no scale to lose."""
    encoder = {id(p) for p in model.encoder.parameters()} if hasattr(model, "encoder") else set()
    kinds = {}
    for p in model.parameters():
        if p.requires_grad:
            kinds.setdefault((id(p) in encoder, p.ndim > 1), []).append(p)
    groups = [{"params": params, "weight_decay": args.weight_decay * matrices, "share": args.encoder_lr if inside else 1.0}
              for (inside, matrices), params in kinds.items()]
    if args.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=args.lr, momentum=0.9)
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=args.lr, fused=next(model.parameters()).is_cuda)


def learning_rate(args, step, steps, plateau_factor):
    """The rate of step `step` of a run of `steps`; `plateau_factor` is what the plateau schedule has come down to, 0..1.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, one cycle down to 0; differs from the paper in the warm-up.
    """
    if args.schedule == "plateau":
        return args.lr * plateau_factor
    if args.schedule == "constant":
        return args.lr
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return args.lr * (step + 1) / warm_up
    return args.lr * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train_one_epoch(run, tiles, facts, args, device, stop_signals):
    """One pass over the training tiles, from run.step on; returns its seconds, images/s and share of waiting for input."""
    how = Augmentation(args.flips, args.rotate, args.shift, args.zoom, args.crop, args.jitter)
    loss_function = build_loss(args.loss, tiles.ignore, run.weight, args.hardest)
    amp, steps, first_step = amp_dtype(device, args.amp), run.record.shape[1], run.step
    order = epoch_order(len(tiles), args.seed, run.epoch, run.sampling)
    batches = prefetch(lambda step: tiles.take(order[step * args.bs:(step + 1) * args.bs]), range(run.step, steps))
    run.model.train()
    started, waited = time.perf_counter(), 0.0
    for step in tqdm(range(run.step, steps), f"epoch {run.epoch + 1}/{args.epochs}", disable=None, leave=False, unit="step"):
        asked = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - asked
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        places = range(step * args.bs, step * args.bs + len(images))
        images = normalise(images, facts["mean"], facts["std"], facts["nodata"])
        images, labels = augment(images, labels, how, args.seed, run.epoch, places, tiles.ignore)
        torch.manual_seed(args.seed + run.epoch * steps + step)  # dropout, too, is a function of the step
        total = labelled_weight(labels, run.weight, tiles.ignore)
        parts = len(images.chunk(args.accumulate))
        for part_images, part_labels in zip(images.chunk(args.accumulate), labels.chunk(args.accumulate)):
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                logits = run.model(part_images)
            loss = loss_function(logits.float(), part_labels, total, parts)
            run.scaler.scale(loss).backward()
            run.record[0, step] += loss.detach()
        run.scaler.unscale_(run.optimizer)
        run.record[1, step] = torch.nn.utils.clip_grad_norm_(run.model.parameters(), args.clip or math.inf)
        rate = learning_rate(args, run.epoch * steps + step, args.epochs * steps, run.plateau["factor"])
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
        run.step = step + 1
        if stop_signals or run.step % args.save_every == 0 or run.step == steps:
            check_losses(run, order, args)
            save("last.pt", run, facts, args)
        if stop_signals:
            raise SystemExit(f"stopped in epoch {run.epoch + 1} after step {run.step}; go on with: --out {args.out} --resume")
    seconds = time.perf_counter() - started
    images = (steps - first_step) * min(args.bs, len(tiles))
    return {"seconds": seconds, "waiting_share": waited / seconds, "images_per_s": images / seconds}


def check_losses(run, order, args):
    """Stop the run where a loss was not a number: ValueError naming the step and its tiles; the checkpoint before it stays."""
    wrong = (~run.record[0, :run.step].isfinite()).nonzero()
    if len(wrong):
        step = int(wrong[0])
        raise ValueError(f"the loss of epoch {run.epoch + 1}, step {step + 1} is {float(run.record[0, step])} (train tiles "
                         f"{', '.join(map(str, order[step * args.bs:(step + 1) * args.bs]))}): try a lower --lr; "
                         f"{args.out}/last.pt is from before")
    if not all(bool(p.isfinite().all()) for p in run.model.parameters()):
        raise ValueError(f"weights are not finite after step {run.step} of epoch {run.epoch + 1}: try a lower --lr")


def finish_epoch(run, val_tiles, facts, args, device, speed):
    """Validate, log, keep the best, count the epoch as done."""
    matrix, loss = evaluate(run.model, val_tiles, facts, device, args.bs, build_loss(args.loss, val_tiles.ignore),
                            amp_dtype(device, args.amp), args.limit_batches)
    train_loss, gradient_norm = run.record.mean(1).tolist()
    row = {"epoch": run.epoch + 1, "train_loss": train_loss, "val_loss": loss, "val_accuracy": matrix.pixel_accuracy(),
           "val_miou": matrix.miou(), "lr": run.optimizer.param_groups[0]["lr"], "gradient_norm": gradient_norm,
           **speed, "peak_memory_mb": peak_memory_mb(device)}
    log = pathlib.Path(args.out, "log.csv")
    with open(log, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
    print(f"epoch {run.epoch + 1:>3}/{args.epochs}  loss {train_loss:.3f}  validation: loss {loss:.3f}, accuracy "
          f"{row['val_accuracy']:.3f}, mean IoU {row['val_miou']:.3f}  ({speed['seconds']:.1f} s, "
          f"{speed['images_per_s']:.1f} images/s)", flush=True)
    improved = loss < run.plateau["lowest"] * (1 - 1e-4)
    run.plateau["epochs"] = 0 if improved else run.plateau["epochs"] + 1
    run.plateau["lowest"] = min(run.plateau["lowest"], loss)
    if run.plateau["epochs"] > 3:
        run.plateau.update(epochs=0, factor=run.plateau["factor"] * 0.5)
    run.epoch, run.step, run.record = run.epoch + 1, 0, torch.zeros_like(run.record)
    score = 0.0 if math.isnan(row["val_miou"]) else row["val_miou"]
    if score > run.best:
        run.best = score
        save("best.pt", run, facts, args)
    save("last.pt", run, facts, args)


def save(name, run, facts, args):
    """Write best.pt, which is the model and what it takes to use it, or last.pt, which also goes on from here."""
    train = {"epoch": run.epoch, "step": run.step, "best": run.best, "labelled_pixels": run.labelled_pixels}
    if name == "last.pt":
        train.update(optimizer=run.optimizer.state_dict(), scaler=run.scaler.state_dict(), scheduler=run.plateau,
                     record=run.record)
    model = {"name": args.model, "kwargs": run.kwargs, "state": run.model.state_dict()}
    save_checkpoint(pathlib.Path(args.out, name), model, facts, train, vars(args))


def resume(run, args, facts, device):
    """Put a run back to where its last.pt left it, and cut log.csv back to the epochs that were finished then."""
    if not args.out:
        raise ValueError("--resume: give the run's folder with --out")
    content = load_checkpoint(pathlib.Path(args.out, "last.pt"), device)
    for key, value in vars(args).items():
        if key not in MAY_CHANGE_ON_RESUME and content["args"].get(key) != value:
            raise ValueError(f"--{key.replace('_', '-')} was {content['args'].get(key)} and is {value} now: resume with what "
                             f"{args.out}/args.json says, or start a new run")
    if content["data"] != facts:
        raise ValueError(f"{args.data} is not the data set that {args.out} was started on: start a new run")
    train = content["train"]
    try:
        run.model.load_state_dict(content["model"]["state"])
        run.optimizer.load_state_dict(train["optimizer"])
        run.scaler.load_state_dict(train["scaler"])
        run.plateau.update(train["scheduler"])
        run.record.copy_(train["record"])
        run.epoch, run.step, run.best = int(train["epoch"]), int(train["step"]), float(train["best"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{args.out}/last.pt lacks what going on takes ({error!r:.60}): start a new run") from None
    log = pathlib.Path(args.out, "log.csv")
    if log.exists():
        log.write_text("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:run.epoch + 1]), encoding="utf-8")


def make_folder(args):
    """Make the run's folder, the next free one where --out does not name it, and write args.json."""
    if args.out is None:
        stem = f"{pathlib.Path(args.data).resolve().name}-{args.model}-"
        taken = [int(path.name[len(stem):]) for path in pathlib.Path("runs").glob(stem + "*")
                 if path.name[len(stem):].isdecimal()]
        args.out = f"runs/{stem}{max(taken, default=0) + 1}"
    folder = pathlib.Path(args.out)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--out {folder} holds a run already: give --resume to go on with it, or another folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("args.json").write_text(json.dumps(vars(args), indent=1) + "\n", encoding="utf-8")


def describe(args, run, train_tiles, val_tiles, device):
    """Print what is about to be learned, from how many labels, where."""
    facts, counted = train_tiles.facts, "tile" if args.points_per == "image" else "class and tile"
    kept = f"{args.points} points a {counted}" if args.points else "every one there is"
    share = train_tiles.labelled_pixels / (len(train_tiles) * facts["tile"] ** 2)
    print(f"{args.data}: {len(train_tiles)} train and {len(val_tiles)} validation tiles of {facts['tile']} px, {facts['bands']} "
          f"bands, {len(facts['classes'])} classes\nlabels: {train_tiles.labelled_pixels:,} px, {share:.3%} of the training "
          f"tiles, {kept}; validation uses every label of its tiles\n{args.model}, "
          f"{sum(p.numel() for p in run.model.parameters()):,} parameters, on {device.type}; {run.record.shape[1]} steps of "
          f"{args.bs} tiles an epoch -> {args.out}", flush=True)


@contextlib.contextmanager
def noted_signals():
    """Within it, SIGINT and SIGTERM only go into the list it yields: the loop saves after the step under way, then leaves."""
    noted, before = [], {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, lambda received, frame: noted.append(received))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def peak_memory_mb(device):
    """Most memory ever held, MB: the card's by torch's count, or this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # Linux counts in kB


def report(run, args, facts, device):
    """Score the chosen weights on the test split; write metrics.json and the pictures; print table and paths."""
    folder = pathlib.Path(args.out)
    checkpoint = folder / f"{args.final}.pt"
    model, _ = load_model(checkpoint, device)
    split = "test" if load_facts(args.data)["tiles"]["test"] else "val"
    tiles, pointed = Tiles(args.data, split), Tiles(args.data, split, args.points, args.points_per, args.seed)
    matrix, _ = evaluate(model, tiles, facts, device, args.bs, amp=amp_dtype(device, args.amp))
    scores = write_scores(folder / "metrics.json", matrix, facts, run.labelled_pixels, split, checkpoint)
    save_png(learning_curves(folder / "log.csv"), folder / "curves.png")
    save_png(preview(model, tiles, pointed, facts, device), folder / "preview.png")
    print(f"{split} split, {checkpoint}:\n{score_table(matrix, facts['classes'])}")
    print(*(folder / name for name in ("preview.png", "curves.png", "metrics.json")), sep="\n")
    return scores


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
