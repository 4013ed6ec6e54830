"""Train a network on a prepared data set, from every label or from a few points a tile.

    python train.py --lr 1e-3 --bs 16                     the procedural demo, from 20 points a tile, in minutes
    python train.py --data data/dubai --points 20         your own set, made by prepare_data.py
    python train.py --out runs/demo-unet-1 --resume       go on where a run was stopped

A run leaves args.json, log.csv, last.pt, best.pt, metrics.json, curves.png and preview.png in its folder (see runs.py).
Everything random is a function of (seed, epoch, step), so a run that was stopped and resumed ends as one that never was.
Under torchrun several processes share each batch out among them (see ranks.py).
"""

import argparse
import contextlib
import copy
import importlib.util
import math
import os
import pathlib
import signal
import sys
import time

import torch
from tqdm import tqdm

from data import (
    Augmentation,
    TileDataset,
    augment,
    epoch_order,
    normalise,
    prefetch,
    sampling_weights,
    thin_labels,
)
from engine.checkpoint import load_model
from engine.cli import HelpFormatter
from engine.device import amp_dtype, compile_network, out_of_memory, pick_device
from engine.distributed import (
    all_reduce,
    broadcast,
    disable_tqdm,
    join,
    sum_gradients,
)
from engine.meta import SPARSE_SHARE, checkpoint_meta, load_meta
from engine.runs import (
    Run,
    append_row,
    catch_signals,
    check_record,
    check_resumable,
    describe,
    log_tensorboard,
    open_tensorboard,
    peak_memory_mb,
    resume,
    run_dir_lock,
    save,
    started_flags,
)
from evaluate import evaluate, write_scores
from losses import build_loss, class_weights
from metrics import score_table
from networks import build_model, freeze_encoder
from prepare_data import make_demo
from report.figures import save_png
from report.panels import learning_curves, preview
from weak.ema import update_ema
from weak.superpixels import add_superpixel_labels
from weak.teacher import divisors, learn_beyond, term_weights

DEMO = "data/demo"
WARM_UP = 0.05  # share of the cosine schedule's steps in which the rate rises to its peak


def parse_args(argv=None):
    """The command line; `python train.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Train a network on a prepared data set, from every label or a few points.",
                                     epilog="example: python train.py --data data/dubai --points 20 --lr 1e-3 --bs 16",
                                     formatter_class=HelpFormatter, allow_abbrev=False)
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
    flag("--ema", type=float, default=0.0, help="score and keep an exponential moving average of the weights with this decay "
         "a step, such as 0.99; 0 is off")
    flag = parser.add_argument_group("beyond the points (see weak.py)").add_argument
    flag("--superpixels", type=int, default=0, help="side of superpixels that take the class of their points, px, such as 16; "
         "0 is off")
    flag("--teacher", type=float, default=0.0, help="confidence, 0 to 1, from which the averaged weights of --ema teach the "
         "network on pixels without a label, such as 0.9; 0 is off")
    flag("--crf", type=float, default=0.0, help="weight of the gated CRF, such as 0.03; 0 is off")
    flag = parser.add_argument_group("augmentation").add_argument
    flag("--no-flips", dest="flips", action="store_false", help="no mirror images and quarter turns")
    flag("--rotate", type=float, default=0.0, help="free rotation up to this either way, degrees")
    flag("--shift", type=float, default=0.1, help="shift up to this share of the tile's side")
    flag("--zoom", type=float, default=1.0, help="ground up to this factor smaller or larger; 1 is off")
    flag("--crop", type=int, default=0, help="side of random crops, each of which holds a label, px; 0 takes whole tiles")
    flag("--jitter", type=float, default=0.1, help="brightness and contrast up to this far either way, in deviations of a band")
    flag = parser.add_argument_group("run").add_argument
    flag("--out", help="the run's folder; not given: runs/<data>-<model>-<n>, the next free n")
    flag("--resume", action="store_true", help="go on with the run in --out, whose flags hold unless given again")
    flag("--final", default="best", choices=("best", "last"), help="weights that the closing test table is of: best "
         "validation mean IoU, or last step")
    flag("--seed", type=int, default=0, help="decides first weights, points, order and augmentation")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="mps is not tested")
    flag("--amp", default="auto", choices=("auto", "off"), help="on CUDA: bfloat16 where the card has it, else float16")
    flag("--sync-bn", action="store_true", help="batch norm over the tiles of all processes; torchrun on CUDA")
    flag("--deterministic", action="store_true", help="on CUDA: the same bits for the same command, slower; the CPU always is")
    flag("--tensorboard", action="store_true", help="also log to <out>/tb; needs the package tensorboard")
    flag("--compile", action="store_true", help="compile the network first: a minute or more, then faster")
    flag("--save-every", type=int, default=100, help="steps between two checkpoints within an epoch")
    flag("--limit-batches", type=int, default=0, help="train and validate on so few batches an epoch; 0 is all")
    args = parser.parse_args(argv)
    if args.resume and args.out:
        typed = sys.argv[1:] if argv is None else list(argv)
        args = parser.parse_args(started_flags(args.out, vars(parser.parse_args([]))) + typed)
    return args


def add_model_flags(parser):
    """Flags for what is learned: the labels, the network, the loss."""
    flag = parser.add_argument_group("data").add_argument
    flag("--data", default=DEMO, help="folder that prepare_data.py wrote; the demo is made where it is missing")
    flag("--points", type=int, help="labelled pixels kept of each training tile; 0 keeps every label; not given: 20, or 0 "
         "where under 1 %% of the pixels are labelled to begin with")
    flag("--points-per", default="image", choices=("image", "class"), help="what --points counts")
    flag("--points-share", type=float, default=1.0, help="share of a tile's labels that a step learns from, others each time, "
         "0 to 1")
    flag("--point-jitter", type=float, default=0.0, help="how far off the points are put, px, standard deviation, while their "
         "labels stay: what wrong clicks cost")
    flag("--oversample", nargs="+", default=[], metavar="CLASS", help="rare classes whose tiles are visited more often")
    flag("--oversample-above", type=float, default=0.05, help="share of a tile's labelled pixels that must be of them, 0 to 1")
    flag("--oversample-factor", type=float, default=3.0, help="how much more often")
    flag = parser.add_argument_group("network").add_argument
    flag("--model", default="unet", help="unet, resunet, fpn, unetpp, linknet, deeplabv3plus or segformer")
    flag("--encoder", help="resnet18, resnet34, resnet50, mit_b0, mit_b1 or mit_b2; not given: the network's own")
    flag("--width", type=int, default=16, help="channels of the U-Net's first level")
    flag("--depth", type=int, default=4, help="how often the U-Net halves its input, 1 to 6")
    flag("--fusion", default="none", choices=("none", "concat", "sum"), help="multi-scale block of the U-Net")
    flag("--fusion-at", default="bottleneck", choices=("bottleneck", "skips"), help="where that block stands")
    flag("--upsampling", choices=("bilinear", "transposed"), help="of unet and resunet; not given: the network's own")
    flag("--no-skips", dest="skips", action="store_false", help="resunet without connections from encoder to decoder")
    flag("--output-stride", type=int, default=16, choices=(8, 16), help="of deeplabv3plus's encoder, px")
    flag("--stem", type=int, default=1, choices=(1, 2), help="2: the U-Net works at half resolution, about 4x cheaper")
    flag("--dropout", type=float, default=0.0, help="share of channels dropped at the deepest map, 0 to 1")
    flag("--weights", help="imagenet, for a ResNet, or a file of an encoder's published weights; not given: none. Those of "
         "the mit encoders come with github.com/NVlabs/SegFormer, whose licence is for non-commercial use only")
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
              "zoom": (1, 4), "crop": (2 if args.crop else 0, None), "jitter": (0, 2), "save_every": (1, None),
              "limit_batches": (0, None), "oversample_above": (0, 1), "oversample_factor": (1, None), "encoder_lr": (0, 1),
              "ema": (0, 0.99999), "superpixels": (0, 256), "teacher": (0, 1), "crf": (0, 10), "point_jitter": (0, 1000),
              "points_share": (1e-6, 1)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= (high or sys.float_info.max):
            allowed = f"a number of {low} or more" if high is None else f"a number from {low} to {high}"
            raise ValueError(f"--{name.replace('_', '-')} {value}: give {allowed}")
    if args.teacher and not args.ema:
        raise ValueError("--teacher is the average of the weights: give its decay too, such as --ema 0.99")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard: the package is missing; pip install tensorboard")
    build_loss(args.loss, hardest=args.hardest)
    if args.class_weights != "none" and not args.superpixels and not {"ce", "focal"} & set(args.loss.split("+")):
        raise ValueError(f"--class-weights: --loss {args.loss} weighs every class alike already; leave it out")
    check_resumable(args)


def check_tiles(args, train_tiles, val_tiles):
    """Refuse a set without labels, and flags that do not fit it: ValueError naming them."""
    if train_tiles.labelled_pixels == 0:
        raise ValueError(f"{args.data} has not one labelled training pixel: look at its preview.png and at the masks")
    if val_tiles.labelled_pixels == 0 and args.final == "best":
        raise ValueError(f"{args.data} has not one labelled validation pixel, so no epoch is best: give --final last")
    if args.crop > train_tiles.meta["tile"]:
        raise ValueError(f"--crop {args.crop}: the tiles are of {train_tiles.meta['tile']} px; give that at most")
    if not args.points and (args.point_jitter or args.points_per != "image"):
        raise ValueError("--point-jitter and --points-per are of points that are drawn: give --points too, or leave them out")


def check_ranks(args, tiles, device, size):
    """Refuse what several processes cannot share out: ValueError naming the flag."""
    if min(args.bs, len(tiles)) % size:
        raise ValueError(f"--bs {args.bs}: {size} processes share a batch of {min(args.bs, len(tiles))} tiles equally: give a "
                         f"multiple of {size}, not above the number of training tiles")
    if args.sync_bn and (device.type != "cuda" or size == 1):
        raise ValueError("--sync-bn is for torchrun on CUDA: leave it out")


def main(args):
    """Train, then score on the test split; returns the dict of metrics.json, or None where the run ends without a score."""
    check_args(args)
    device = pick_device(args.device)
    rank, size = join(device)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA's first matrix product
        torch.use_deterministic_algorithms(True)
    if args.data == DEMO and rank == 0 and not pathlib.Path(DEMO).exists():
        print("making the demo data set: procedural scenes, some seconds", flush=True)
        make_demo(DEMO)
    broadcast(None)  # nobody reads what rank 0 is still writing
    meta = load_meta(args.data)
    if args.points is None:
        labelled = sum(meta["pixels"]["train"]) / max(1, meta["tiles"]["train"] * meta["tile"] ** 2)
        args.points = 0 if labelled < SPARSE_SHARE else 20
    train_tiles = TileDataset(args.data, "train", args.points, args.points_per, args.seed, args.point_jitter)
    val_tiles = TileDataset(args.data, "val")
    check_tiles(args, train_tiles, val_tiles)
    meta = checkpoint_meta(meta)
    if args.superpixels:
        add_superpixel_labels(train_tiles, args.superpixels)
    check_ranks(args, train_tiles, device, size)
    run = build_run(args, meta, train_tiles, device)
    run.rank, run.size = rank, size
    with run_dir_lock(args) if rank == 0 else contextlib.nullcontext():
        args.out = broadcast(args.out)
        if args.resume:
            resume(run, args, meta, device)
        else:
            save("last.pt", run, meta, args)
        if run.epoch >= args.epochs and pathlib.Path(args.out, "metrics.json").exists():
            print(f"{args.out} is finished: all its {args.epochs} epochs are done; evaluate.py scores either checkpoint")
            return None
        run.board = open_tensorboard(args, run) if args.tensorboard and rank == 0 else None
        describe(args, run, train_tiles, val_tiles, device)
        if device.type == "cuda" and 2 * train_tiles.images.nbytes < torch.cuda.mem_get_info(device)[0]:
            train_tiles.to(device)
        with catch_signals() as stop_signals:
            for _ in range(run.epoch, min(args.epochs, args.stop_after or args.epochs)):
                speed = train_one_epoch(run, train_tiles, meta, args, device, stop_signals)
                finish_epoch(run, val_tiles, meta, args, device, speed)
        if stop_signals:  # that came while the last epoch was validated
            raise SystemExit(f"stopped after epoch {run.epoch}; go on with: --out {args.out} --resume")
        if run.epoch < args.epochs:
            print(f"stopped after {run.epoch} of {args.epochs} epochs; go on with: --out {args.out} --resume")
            return None
        return report(run, args, meta, device)


def build_run(args, meta, tiles, device):
    """Build all that a run trains with, as it is before the first step."""
    torch.manual_seed(args.seed)
    kwargs = {"bands": meta["bands"], "classes": len(meta["classes"]), "encoder": args.encoder, "width": args.width,
              "depth": args.depth, "fusion": args.fusion, "stem": args.stem, "dropout": args.dropout,
              "fusion_at": args.fusion_at, "upsampling": args.upsampling, "skips": args.skips,
              "output_stride": args.output_stride}
    model = build_model(args.model, weights=None if args.resume else args.weights, **kwargs)
    model = model.to(device, memory_format=torch.channels_last)
    if args.sync_bn:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if args.freeze_encoder:
        freeze_encoder(model)
        if not args.weights:
            print("warning: --freeze-encoder without --weights keeps an encoder that has learned nothing", file=sys.stderr)
    weight = class_weights(tiles.class_counts, args.class_weights)
    sampling = sampling_weights(tiles, args.oversample, args.oversample_above, args.oversample_factor)
    steps = max(1, len(tiles) // args.bs)  # a ragged last batch is dropped, unless it is the only one
    steps = min(steps, args.limit_batches or steps)
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(device, args.amp) == torch.float16)
    average = copy.deepcopy(model).requires_grad_(False).eval() if args.ema else None
    if args.compile:
        compile_network(model, device)
    return Run(model, average, build_optimizer(model, args), scaler, kwargs, None if weight is None else weight.to(device),
               sampling, torch.zeros(2, steps, device=device), tiles.labelled_pixels)


def build_optimizer(model, args):
    """The optimiser of --optimizer; decay pulls on convolution weights only, for norms and biases have no scale to lose."""
    encoder = {id(p) for p in model.encoder.parameters() if p.requires_grad} if hasattr(model, "encoder") else set()
    if args.encoder_lr < 1 and not encoder:
        raise ValueError(f"--encoder-lr {args.encoder_lr}: --model {args.model} has no encoder that learns, leave it out")
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


def train_one_epoch(run, tiles, meta, args, device, stop_signals):
    """One pass over the training tiles, from run.step on; returns its seconds, images/s and share of waiting for input."""
    how = Augmentation(args.flips, args.rotate, args.shift, args.zoom, args.crop, args.jitter)
    loss_function = build_loss(args.loss, tiles.ignore, run.weight, args.hardest)
    amp, steps, first_step, count = amp_dtype(device, args.amp), run.record.shape[1], run.step, min(args.bs, len(tiles))
    order = epoch_order(len(tiles), args.seed, run.epoch, run.sampling)
    mine = range(run.rank, count, run.size)  # of each batch, the places that are this process's
    take = tiles.take_layers if args.superpixels or args.teacher or args.crf else tiles.get_batch
    batches = prefetch(lambda step: take([order[step * args.bs + place] for place in mine]), range(run.step, steps))
    run.model.train()
    started, waited = time.perf_counter(), 0.0
    for step in tqdm(range(run.step, steps), f"epoch {run.epoch + 1}/{args.epochs}", disable=disable_tqdm(), leave=False, unit="step"):
        asked = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - asked
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        images = normalise(images, meta["mean"], meta["std"], meta["nodata"])
        places = [step * args.bs + place for place in mine]
        images, labels = augment(images, labels, how, args.seed, run.epoch, places, tiles.ignore)
        torch.manual_seed(args.seed + run.epoch * steps + step)  # dropout, too, is a function of the step
        layers = labels if labels.ndim == 4 else labels[:, None]  # (B, L, S', S'): the points first
        if args.points_share < 1:
            layers[:, 0] = thin_labels(layers[:, 0], args.points_share, args.seed, run.epoch, places, tiles.ignore)
        totals = all_reduce(divisors(layers, run.weight, tiles.ignore))
        chunks = [part.chunk(args.accumulate) for part in (images, layers, torch.tensor(places))]
        beyond = term_weights((run.epoch + step / steps) / args.epochs, args.superpixels, args.teacher, args.crf)
        for part_images, part_layers, part_places in zip(*chunks):
            with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                logits, extra = learn_beyond(run.model, run.average, part_images, part_layers, part_places, beyond, totals,
                                             args.teacher, (args.seed, run.epoch), run.weight, tiles.ignore)
            loss = loss_function(logits.float(), part_layers[:, 0], totals[0], len(chunks[0]) * run.size) + extra
            run.scaler.scale(loss).backward()
            run.record[0, step] += loss.detach()
        sum_gradients(run.model, run.size)
        take_step(run, args, step)
        run.step = step + 1
        save_now = run.step % args.save_every == 0 or run.step == steps
        if save_now or stop_signals and run.size == 1:  # several processes leave together, where all of them save
            check_record(run, order, args)
            save("last.pt", run, meta, args)
            if all_reduce(torch.tensor(len(stop_signals), device=device)):
                raise SystemExit(f"stopped in epoch {run.epoch + 1} after step {run.step}; go on with: --out {args.out} "
                                 "--resume")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "waiting_share": waited / seconds, "images_per_s": (steps - first_step) * count / seconds}


def take_step(run, args, step):
    """Clip the gradients, set the rate, let the optimiser move the weights, and their average with them."""
    steps = run.record.shape[1]
    run.scaler.unscale_(run.optimizer)
    run.record[1, step] = torch.nn.utils.clip_grad_norm_(run.model.parameters(), args.clip or math.inf)
    rate = learning_rate(args, run.epoch * steps + step, args.epochs * steps, run.plateau["factor"])
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    run.scaler.step(run.optimizer)  # leaves the step out where float16 overflowed
    run.scaler.update()
    run.optimizer.zero_grad()
    if run.average:
        update_ema(run.average, run.model, args.ema, run.epoch * steps + step + 1)


def finish_epoch(run, val_tiles, meta, args, device, speed):
    """Validate, log, keep the best, count the epoch as done."""
    scored = run.average or run.model
    matrix, loss = evaluate(scored, val_tiles, meta, device, args.bs, build_loss(args.loss, val_tiles.ignore),
                            amp_dtype(device, args.amp), args.limit_batches)
    taken = run.record[1].isfinite()  # all others overflowed
    row = {"epoch": run.epoch + 1, "train_loss": all_reduce(run.record[0].mean()).item(), "val_loss": loss,
           "val_accuracy": matrix.pixel_accuracy(), "val_miou": matrix.miou(),
           "lr": max(group["lr"] for group in run.optimizer.param_groups), "gradient_norm": run.record[1, taken].mean().item(),
           "overflows": int((~taken).sum()), **speed, "peak_memory_mb": peak_memory_mb(device)}
    print(f"epoch {run.epoch + 1:>3}/{args.epochs}  loss {row['train_loss']:.3f}  validation: loss {loss:.3f}, accuracy "
          f"{row['val_accuracy']:.3f}, mean IoU {row['val_miou']:.3f}  ({speed['seconds']:.1f} s, "
          f"{speed['images_per_s']:.1f} images/s)", flush=True)
    if run.rank == 0:
        append_row(pathlib.Path(args.out, "log.csv"), row)
    if run.board:
        log_tensorboard(run.board, row, dict(zip(meta["classes"], matrix.iou().tolist())),
                   preview(scored, val_tiles, val_tiles, meta, device))
    improved = loss < run.plateau["lowest"] * (1 - 1e-4)
    run.plateau["epochs"] = 0 if improved else run.plateau["epochs"] + 1
    run.plateau["lowest"] = min(run.plateau["lowest"], loss)
    if run.plateau["epochs"] > 3:
        run.plateau.update(epochs=0, factor=run.plateau["factor"] * 0.5)
    run.epoch, run.step, run.record = run.epoch + 1, 0, torch.zeros_like(run.record)
    score = 0.0 if math.isnan(row["val_miou"]) else row["val_miou"]
    if score > run.best:
        run.best = score
        save("best.pt", run, meta, args)
    save("last.pt", run, meta, args)


def report(run, args, meta, device):
    """Score the chosen weights on the test split; write metrics.json and the pictures; print table and paths."""
    broadcast(None)  # rank 0 has written the checkpoint by now
    folder = pathlib.Path(args.out)
    checkpoint = folder / f"{args.final}.pt"
    model, _ = load_model(checkpoint, device)
    split = "test" if load_meta(args.data)["tiles"]["test"] else "val"
    tiles, pointed = TileDataset(args.data, split), TileDataset(args.data, split, args.points, args.points_per, args.seed, args.point_jitter)
    matrix, _ = evaluate(model, tiles, meta, device, args.bs, amp=amp_dtype(device, args.amp))
    if run.rank:
        return None
    save_png(learning_curves(folder / "log.csv"), folder / "curves.png")
    save_png(preview(model, tiles, pointed, meta, device), folder / "preview.png")
    scores = write_scores(folder / "metrics.json", matrix, meta, run.labelled_pixels, split, checkpoint)  # ends the run
    print(f"{split} split, {checkpoint}:\n{score_table(matrix, meta['classes'])}")
    print(*(folder / name for name in ("preview.png", "curves.png", "metrics.json")), sep="\n")
    return scores


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # outside the steps it ends a run as Ctrl-C does
    try:
        main(parse_args())
    except KeyboardInterrupt:
        print("train.py: interrupted; a run that has begun goes on with --out RUN --resume", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if "deterministic implementation" in str(error):
            print(f"train.py: --deterministic: {str(error).split(',')[0]}: leave it out", file=sys.stderr)
        elif out_of_memory(error):
            print("train.py: out of memory: lower --bs, or cut the batch by --accumulate, or prepare smaller tiles by --tile "
                  f"({str(error)[:100]!r})", file=sys.stderr)
        else:
            raise
        sys.exit(2)
