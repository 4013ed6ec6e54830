"""Train a network on a prepared data set, from all labels or from a few points per tile.

    python train.py --lr 1e-3 --bs 16                the synthetic demo, 20 points per tile
    python train.py --data data/dubai --points 20    your own set, made by prepare_data.py
    python train.py --out runs/demo-unet-1 --resume  go on where a run was stopped
    python train.py --data data/mine --folds 5       all labels for the map, scored by five others
    torchrun --nproc-per-node 2 train.py --bs 16     two processes share each batch

A run writes args.json, log.csv, last.pt, best.pt, metrics.json, curves.png and preview.png into its
folder (see engine/runs.py). Everything random is a function of (seed, epoch, step), so a run that
was stopped and resumed ends like one that never was.
"""

import engine.startup  # first: what may happen while torch is imported
import copy
import math
import pathlib
import time

from engine.cli import one_line_errors, parse_first
from engine.flags import DEMO, PATIENCE, parse_args

if __name__ == "__main__":  # before torch is imported, which takes seconds
    ARGS = parse_first(parse_args)

import torch

from data import Augmentation, TileDataset, augment, normalise, training_batches
from engine import runs
from engine.checks import check_args, check_data, default_class_weights
from engine.device import amp_dtype, autocast, compile_network, pick_device
from engine.distributed import (
    all_reduce, average_buffers, broadcast, data_parallel, init_distributed, rank_and_size)
from engine.folds import take_fold, train_folds
from engine.length import TimeLeft, choose_length
from engine.meta import checkpoint_meta
from engine.prepared import data_fingerprint, default_points, load_meta
from evaluate import evaluate
from losses import build_loss, class_weights, count_labelled
from networks import build_model, freeze_encoder
from weak.ema import update_ema

WARM_UP = 0.05  # share of the cosine schedule's steps in which the rate rises to its peak
GRADIENT_CLIP = 1.0  # largest gradient norm
SAVE_EVERY = 100  # steps between checkpoints


def main(args):
    """Train, then score on the test split.

    Returns:
        the dict of metrics.json, or None if the run ends without a score.
    """
    check_args(args)
    device = pick_device(args.device)
    rank, world_size = init_distributed(device)
    make_missing_demo(args, rank)
    train_tiles, val_tiles = open_tiles(args)
    check_data(args, train_tiles, val_tiles, world_size)
    held_out = None
    if args.folds:
        train_tiles, held_out = take_fold(train_tiles, args.folds, args.fold)
    meta = checkpoint_meta(train_tiles.meta)
    run = build_run(args, meta, train_tiles, device)
    with runs.run_dir_lock(args, rank) as lock:
        run.lock = lock
        args.out = broadcast(args.out)
        if args.resume:
            runs.resume(run, args, meta, device)
        else:
            runs.save("last.pt", run, meta, args)
        if has_ended(run, args) and pathlib.Path(args.out, "metrics.json").exists():
            then = "predict.py SCENE.tif --out maps" if args.folds else "evaluate.py"
            print(f"finished; next: python {then} --checkpoint {args.out}/{args.final}.pt")
            return None
        if args.tensorboard and rank == 0:
            run.writer = runs.open_tensorboard(args, run)
        runs.print_summary(args, run, train_tiles, val_tiles, device)
        if args.folds and not args.fold:
            train_folds(main, args, train_tiles)
        train(run, train_tiles, val_tiles, meta, args, device)
        if not has_ended(run, args):
            print(f"paused after {run.epoch} of {args.epochs} epochs; go on with: python train.py "
                  f"--out {args.out} --resume")
            return None
        return finish_run(run, args, meta, device, held_out)


def make_missing_demo(args, rank):
    """Make the demo data set if a new run is to learn from it and it is not there yet."""
    if args.data == DEMO and rank == 0 and not (args.resume or pathlib.Path(DEMO).exists()):
        from prepare_data import make_demo
        print("making the demo data set: synthetic scenes, some seconds", flush=True)
        make_demo(DEMO)
    broadcast("rank 0 has written the data")


def open_tiles(args):
    """Open the training and the validation tiles, and choose what the flags leave open."""
    if args.points is None:
        args.points = default_points(load_meta(args.data))
    train_tiles = TileDataset(args.data, "train", args.points, args.points_per, args.seed)
    val_tiles = TileDataset(args.data, "val", may_be_empty=True)
    args.class_weights = args.class_weights or default_class_weights(args, train_tiles)
    choose_length(args, len(train_tiles))
    if not len(val_tiles):
        args.final = "last"
    return train_tiles, val_tiles


def has_ended(run, args):
    """Whether a run has made its last epoch, which may be one that --patience ends it after."""
    return run.epoch == args.epochs or 0 < args.patience <= run.waited


def build_run(args, meta, tiles, device):
    """Build everything that a run trains with, as it is before the first step."""
    torch.manual_seed(args.seed)
    kwargs = {"bands": meta["bands"], "classes": len(meta["classes"]), "encoder": args.encoder,
              "width": args.width, "depth": args.depth, "fusion": args.fusion, "stem": args.stem}
    model = build_network(args, kwargs, device)
    ema_model = None
    if args.ema:
        ema_model = copy.deepcopy(model).requires_grad_(False).eval()
    if args.compile:
        compile_network(model, device)
    optimizer = build_optimizer(model, args)
    scheduler = None
    if args.schedule == "plateau":
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5,
                                                               patience=PATIENCE)
    amp = amp_dtype(device, args.amp)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    class_weight = class_weights(tiles.class_counts, args.class_weights)
    if class_weight is not None:
        class_weight = class_weight.to(device)
    steps = max(1, args.passes * len(tiles) // args.bs)  # an incomplete last batch is dropped
    rank, world_size = rank_and_size()
    return runs.TrainState(
        model=model, parallel=data_parallel(model, device), ema_model=ema_model,
        optimizer=optimizer, scheduler=scheduler, scaler=scaler, amp=amp, kwargs=kwargs,
        criterion=build_loss(args.loss, tiles.ignore, class_weight), class_weight=class_weight,
        step_log=torch.zeros(2, steps, device=device),
        labelled_pixels=tiles.labelled_pixels, fingerprint=data_fingerprint(args.data),
        rank=rank, world_size=world_size)


def build_network(args, kwargs, device):
    """Build the network of `kwargs`, with --weights in its encoder, which may be frozen."""
    weights = None if args.resume else args.weights
    model = build_model(args.model, weights=weights, **kwargs)
    model = model.to(device, memory_format=torch.channels_last)
    if args.encoder_lr == 0:
        freeze_encoder(model)
        if not args.weights:
            print("warning: --encoder-lr 0 without --weights keeps a random encoder", flush=True)
    return model


def build_optimizer(model, args):
    """The optimiser of --optimizer.

    Weight decay applies to the weights of convolutions and linear layers, not to biases and norms.
    The encoder may have a rate of its own.
    """
    in_encoder = set()  # ids of parameters
    if hasattr(model, "encoder"):
        in_encoder = {id(p) for p in model.encoder.parameters() if p.requires_grad}
    if 0 < args.encoder_lr < 1 and not in_encoder:
        raise ValueError(f"--encoder-lr {args.encoder_lr}: --model {args.model} has no encoder "
                         "that is trained: leave it out")
    groups = {}  # {(in the encoder, weights and not biases or norms): parameters}
    for p in model.parameters():
        if p.requires_grad:
            kind = (id(p) in in_encoder, p.ndim > 1)
            groups.setdefault(kind, []).append(p)
    settings = []
    for (is_encoder, is_matrix), parameters in groups.items():
        share = args.encoder_lr if is_encoder else 1.0
        decay = args.weight_decay if is_matrix else 0.0
        settings.append({"params": parameters, "share": share, "lr": args.lr * share,
                         "weight_decay": decay})
    if args.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=0.9)
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, fused=next(model.parameters()).is_cuda)


def learning_rate(args, step, steps):
    """The rate of step `step` of a run of `steps`, from 0.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, one cycle down to 0; differs from the
        paper in the warm-up.
    """
    if args.schedule == "constant":
        return args.lr
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return args.lr * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return args.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(run, train_tiles, val_tiles, meta, args, device):
    """Train until the last epoch, or the one of --stop-after."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)  # bytes
        if 2 * train_tiles.images.nbytes < free:
            train_tiles.images_to(device)
    last = min(args.epochs, args.stop_after or args.epochs)
    run.time_left = TimeLeft(run, args.epochs)
    with runs.catch_signals() as stop_signals:
        while run.epoch < last and not has_ended(run, args):
            speed = train_one_epoch(run, train_tiles, meta, args, device, stop_signals)
            finish_epoch(run, val_tiles, meta, args, device, speed)
    if stop_signals:  # during the last validation
        raise KeyboardInterrupt(f"stopped after epoch {run.epoch}; go on with: python train.py "
                                f"--out {args.out} --resume")


def train_one_epoch(run, tiles, meta, args, device, stop_signals):
    """Train on all tiles once, from run.step on; returns the seconds and images per second."""
    how = Augmentation(args.flips, args.rotate, args.shift, args.zoom, args.crop, args.jitter)
    steps = range(run.step, run.steps)
    batches = training_batches(tiles, how, args.seed, run.epoch, args.bs, steps, run.rank,
                               run.world_size, args.passes)
    run.model.train()
    started = time.perf_counter()
    for batch in run.time_left.watch(batches, len(steps)):
        done = run.epoch * run.steps + batch.step  # steps of the run before this one
        torch.manual_seed(args.seed + done)  # dropout, too, is a function of the step
        images = normalise(batch.images.to(device), meta["mean"], meta["std"], meta["nodata"])
        images, labels = augment(images, batch.labels.to(device), batch.views)
        num_labelled = all_reduce(count_labelled(labels, run.class_weight))  # of the whole batch
        parts = slices(len(images), args.accumulate)
        num_parts = len(parts) * run.world_size
        for part in parts:
            with autocast(device, run.amp):
                logits = run.parallel(images[part]).float()
            loss = run.criterion(logits, labels[part], num_labelled, num_parts)
            # Several processes average their gradients, and the loss wants their sum.
            run.scaler.scale(loss * run.world_size).backward()
            run.step_log[0, batch.step] += loss.detach()
        optimizer_step(run, args, done)
        run.step = batch.step + 1
        save_if_due(run, meta, args, stop_signals)
    seconds = time.perf_counter() - started
    images_seen = len(steps) * min(args.bs, args.passes * len(tiles))
    return {"seconds": seconds, "images_per_s": images_seen / seconds}


def slices(count, parts):
    """Cut `count` images into at most `parts` slices of equal size; the last may be smaller."""
    size = math.ceil(count / parts)
    return [slice(start, start + size) for start in range(0, count, size)]


def optimizer_step(run, args, done):
    """Clip the gradients, set the rate, update the weights and their average.

    Args:
        done: steps that the run has made before this one.
    """
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), GRADIENT_CLIP)
    run.step_log[1, done % run.steps] = norm
    if run.scheduler is None:  # else `finish_epoch` sets the rate
        rate = learning_rate(args, done, args.epochs * run.steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group["share"]
    run.scaler.step(run.optimizer)  # leaves the step out where float16 overflowed
    run.scaler.update()
    run.optimizer.zero_grad()
    average_buffers(run.model)
    if run.ema_model:
        update_ema(run.ema_model, run.model, args.ema, done + 1)


def save_if_due(run, meta, args, stop_signals):
    """Save every SAVE_EVERY steps, after an epoch, and before a signal ends the run."""
    due = run.step % SAVE_EVERY == 0 or run.step == run.steps
    interrupted = stop_signals and run.world_size == 1  # several processes leave where they save
    if not (due or interrupted):
        return
    runs.check_step_log(run, args)
    runs.save("last.pt", run, meta, args)
    if all_reduce(torch.tensor(len(stop_signals), device=run.step_log.device)):
        raise KeyboardInterrupt(f"stopped in epoch {run.epoch + 1} after step {run.step}; go on "
                                f"with: python train.py --out {args.out} --resume")


def finish_epoch(run, val_tiles, meta, args, device, speed):
    """Validate, log, keep the best weights, count the epoch as done."""
    scored = run.ema_model or run.model
    criterion = build_loss(args.loss, val_tiles.ignore)
    matrix, val_loss = evaluate(scored, val_tiles, meta, device, args.bs, criterion, run.amp)
    row = runs.log_row(run, matrix, val_loss, device, speed)
    runs.print_epoch(run, args, row)
    runs.log_epoch(run, args, row)
    if run.writer:
        from report.panels import preview
        iou = dict(zip(meta["classes"], matrix.iou().tolist()))
        picture = preview(scored, val_tiles, val_tiles, meta, device) if len(val_tiles) else None
        runs.log_tensorboard(run.writer, row, iou, picture)
    if run.scheduler:
        run.scheduler.step(val_loss)
    run.epoch += 1
    run.step = 0
    run.step_log = torch.zeros_like(run.step_log)
    run.waited += 1
    score = 0.0 if math.isnan(row["val_miou"]) else row["val_miou"]
    if val_tiles.labelled_pixels and (score, -val_loss) > (run.best, -run.best_loss):
        run.best = score
        run.best_loss = val_loss
        run.waited = 0
        runs.save("best.pt", run, meta, args)
    runs.save("last.pt", run, meta, args)
    if run.epoch < args.epochs and has_ended(run, args):
        print(f"the schedule ends after {run.epoch} of {args.epochs} epochs: no better validation "
              f"score in {args.patience} (--patience)", flush=True)


def finish_run(run, args, meta, device, held_out=None):
    """Score the chosen weights on the test split, or on `held_out` of a fold; write the results.

    Args:
        held_out: TileDataset of the labels that only the networks of other folds learn from.
    Returns:
        the dict of metrics.json, or None without a split to score, and on ranks above 0.
    """
    from engine.checkpoint import load_model
    from report.closing import next_command, report_folds, save_pictures, write_report
    from report.floors import floor_scores, training_tiles
    from report.panels import preview
    broadcast("rank 0 has written the checkpoint")
    if args.folds and not args.fold:
        return report_folds(run, args, meta, device)
    model, _ = load_model(pathlib.Path(args.out, f"{args.final}.pt"), device)
    if args.fold:
        split = f"fold {args.fold} of {args.folds}"
        tiles = pointed = held_out
    else:
        count = load_meta(args.data)["tiles"]
        split = next(name for name in ("test", "val", "train") if count[name])
        tiles = TileDataset(args.data, split)
        pointed = TileDataset(args.data, split, args.points, args.points_per, args.seed)
    if split == "train":  # no tile is left to score
        if run.rank == 0:
            picture = preview(model, tiles, pointed, meta, device, title=args.out)
            save_pictures(run, args, picture)
            print(f"{args.data} has no test and no validation split: no scores, unless with "
                  f"--folds\n{next_command(args)}")
        return None
    matrix, _ = evaluate(model, tiles, meta, device, args.bs, amp=run.amp)
    if run.rank:
        return None
    picture = preview(model, tiles, pointed, meta, device, title=args.out)
    floors = floor_scores(training_tiles(vars(args)), meta, tiles)
    return write_report(run, args, meta, split, tiles, matrix, floors, picture)


if __name__ == "__main__":
    with one_line_errors("train.py", "a run that has begun goes on with --out RUN --resume",
                         "lower --bs, raise --accumulate, or prepare smaller tiles"):
        main(ARGS)
