"""Run folders: locking, checkpoints, resume.

    args.json   the command; a running process holds this file locked
    log.csv     one row per epoch
    last.pt     all that is needed to go on from the last save, bit for bit
    best.pt     the model of the best epoch, and all that is needed to use it
"""

import contextlib
import csv
import dataclasses
import glob
import hashlib
import json
import math
import os
import pathlib
import signal
import sys

import numpy as np
import torch

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.cli import plural
from engine.device import describe_amp, out_of_memory, peak_memory_mb
from engine.distributed import all_reduce
from engine.files import check_file, read_text, writing
from engine.length import describe_length
from engine.lock import check_lock, locked
from engine.prepared import changed_data, classes_without_labels

MAY_CHANGE_ON_RESUME = ("out", "resume", "stop_after", "device", "final", "tensorboard")
ADAM_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of each parameter
MOMENTS = {torch.optim.Adam: ADAM_MOMENTS, torch.optim.AdamW: ADAM_MOMENTS,
           torch.optim.SGD: {"momentum_buffer"}}
SCALAR_MOMENTS = {"step", "mu_product"}  # of torch's optimisers; the second is NAdam's
SWITCHED_OFF = ("flips", "skips")  # typed as --no-flips, --no-skips
# Flags of earlier versions, with their defaults: a run that used one cannot go on here.
REMOVED_FLAGS = {"points_share": 1.0, "point_jitter": 0.0, "oversample": [], "dropout": 0.0,
                 "fusion_at": "bottleneck", "upsampling": None, "skips": True, "output_stride": 16,
                 "hardest": 1.0, "crf": 0.0, "sync_bn": False, "deterministic": False,
                 "limit_batches": 0, "clip": 1.0, "freeze_encoder": False, "teacher": 0.0,
                 "superpixels": 0}


@dataclasses.dataclass
class TrainState:
    """The state of a run while it trains: network, optimiser, losses and progress."""
    model: torch.nn.Module
    parallel: torch.nn.Module  # the model as several processes run it; see `data_parallel`
    ema_model: torch.nn.Module | None  # of --ema; if there is one, it is scored and kept as best
    optimizer: torch.optim.Optimizer
    scheduler: object  # torch's ReduceLROnPlateau, for --schedule plateau
    scaler: torch.amp.GradScaler
    amp: torch.dtype | None  # in which the network computes, see `device.amp_dtype`
    kwargs: dict  # build_model's, to rebuild the model from the checkpoint alone
    criterion: object  # of the training labels, see `losses.build_loss`
    class_weight: torch.Tensor | None  # (K,)
    step_log: torch.Tensor  # (2, steps) loss and gradient norm per step of this epoch
    labelled_pixels: int
    fingerprint: dict  # of the data set, see `prepared.data_fingerprint`
    rank: int = 0  # of this process
    world_size: int = 1  # number of processes; a run may go on with another number
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the current epoch
    best: float = -1.0  # highest validation mean IoU
    best_loss: float = math.inf  # validation loss of that epoch; the lower of equal scores is best
    waited: int = 0  # epochs since then
    time_left: object = None  # engine.length.TimeLeft
    writer: object = None  # of --tensorboard
    lock: object = None  # args.json, which rank 0 holds locked

    @property
    def steps(self):
        """Steps per epoch."""
        return self.step_log.shape[1]

    def check_folder(self):
        """Stop if the run's folder was removed or taken by another run: FileNotFoundError."""
        if self.lock:
            check_lock(self.lock)


def resumed_flags(out):
    """The flags that the run in a folder was started with, from its last.pt.

    Returns:
        {name: value}.
    Raises:
        ValueError, OSError: no folder or no checkpoint in it, or a flag that no longer exists.
    """
    if not out:
        raise ValueError("--resume: give the run's folder with --out")
    path = pathlib.Path(out, "last.pt")
    if not path.exists():
        raise ValueError(f"--resume: there is no checkpoint {path} to go on from: look at --out")
    flags = load_checkpoint(path)["args"]
    for name, default in REMOVED_FLAGS.items():
        if flags.get(name, default) != default:
            raise ValueError(f"--resume: {out} was started with {flag_of(name)}, which no longer "
                             "exists: start a new run")
    return flags


def parse_resumed(parser, argv, args):
    """Parse a command with --resume again, with the flags of the run in its folder as defaults.

    Args:
        parser: train.py's; argv: the words; args: what they mean without the run's flags.
    Returns:
        Namespace.
    Raises:
        ValueError, OSError: as `resumed_flags`.
    """
    known = vars(args).keys() - {"out", "resume", "stop_after"}
    flags = resumed_flags(args.out)
    parser.set_defaults(**{name: flags[name] for name in known & flags.keys()})
    args = parser.parse_args(argv)
    if args.amp == "auto":  # means what it meant when the run began
        args.amp = flags.get("amp", "auto")
    return args


def flag_of(name):
    """A flag as it is typed: --no-flips stands for what is called `flips` in the code."""
    return f"--{'no-' if name in SWITCHED_OFF else ''}{name.replace('_', '-')}"


def describe_change(name, before, now):
    """The difference in one flag, such as "--lr was 0.1 and is 0.2 now"."""
    if name in SWITCHED_OFF:
        before = not before
        now = not now
    words = {True: "on", False: "off"}
    before, now = (words[value] if isinstance(value, bool) else value for value in (before, now))
    return f"{flag_of(name)} was {before} and is {now} now"


def next_free_folder(data, model):
    """The next free runs/<data>-<model>-<n>."""
    stem = f"{pathlib.Path(data).resolve().name}-{model}-"
    numbers = [0]
    for path in pathlib.Path("runs").glob(f"{glob.escape(stem)}*"):
        number = path.name[len(stem):]
        if number.isdecimal():
            numbers.append(int(number))
    return f"runs/{stem}{max(numbers) + 1}"


def make_free_folder(data, model):
    """Make the next free runs/<data>-<model>-<n>, and no other process makes the same one."""
    while True:
        folder = next_free_folder(data, model)
        try:
            pathlib.Path(folder).mkdir(parents=True)
        except FileExistsError:  # another run was faster
            continue
        return folder


@contextlib.contextmanager
def run_dir_lock(args, rank=0):
    """Within it, the run's folder exists and no other process writes to it; args.json is locked.

    Only rank 0 of several processes locks. Without --out the next free folder is taken.

    Yields: args.json, opened for appending, on rank 0; see `TrainState.check_folder`.
    Raises:
        ValueError: the folder holds a run already and --resume is not given.
        BlockingIOError: another process has it.
    """
    if rank:
        yield None
        return
    args.out = args.out or make_free_folder(args.data, args.model)
    folder = pathlib.Path(args.out)
    check_free(folder, args.resume)  # before a lock is left in the folder of something else
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "args.json") as file:
        check_free(folder, args.resume)  # again: a run may have come and gone
        if not args.resume or not is_whole(folder / "args.json"):
            file.truncate(0)
            file.write(json.dumps(vars(args), indent=1) + "\n")
            file.flush()
        yield file


def is_whole(path):
    """Whether an args.json holds flags."""
    try:
        return isinstance(json.loads(read_text(path)), dict)
    except (ValueError, RecursionError):
        return False


def check_free(folder, is_resumed):
    """Refuse a folder that holds a run already, unless that is resumed: ValueError."""
    if is_resumed or not folder.exists():
        return
    # A run that ended before its first checkpoint leaves nothing that could be lost.
    worthless = {"args.json", "last.pt.tmp"}
    if {path.name for path in folder.iterdir()} - worthless:
        raise ValueError(f"--out {folder} holds a run already: give --resume to go on with it, "
                         "or another folder")


def print_summary(args, run, train_tiles, val_tiles, device):
    """Print what is about to be learned, from how many labels, where."""
    meta = train_tiles.meta
    kept = "all of them"
    validation = "validation uses all labels of its tiles"
    if not len(val_tiles):
        validation = "no validation split, so the weights of the last step are kept (last.pt)"
    if args.points:
        # The digest tells one draw of the points from another.
        digest = hashlib.sha256(np.concatenate(train_tiles.points).tobytes()).hexdigest()[:8]
        unit = "tile" if args.points_per == "image" else "class and tile"
        kept = f"{plural(args.points, 'point')} per {unit}, draw {digest}"
    if args.fold:
        kept += f", without fold {args.fold}"
    share = train_tiles.labelled_pixels / (len(train_tiles) * meta["tile"] ** 2)
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{args.data}: {len(train_tiles)} train and {len(val_tiles)} validation tiles of "
          f"{meta['tile']} px, {plural(meta['bands'], 'band')}, {len(meta['classes'])} classes")
    print(f"labels: {train_tiles.labelled_pixels:,} px, {share:.3%} of the training tiles, {kept}; "
          f"{validation}")
    if args.class_weights != "none":
        print(f"class weights {args.class_weights}: rare classes count more; --class-weights none: "
              "all alike")
    print(f"{args.model}, {parameters:,} parameters, on "
          f"{describe_amp(device, args.amp)} -> {args.out}")
    print(describe_length(args, run, len(train_tiles)), flush=True)
    if run.rank == 0 and not args.fold:
        for line in classes_without_labels(meta):
            print(f"warning: {line}", file=sys.stderr)


def print_epoch(run, args, row):
    """Print a row of log.csv and the time that is left."""
    scores = "no validation"
    if not math.isnan(row["val_loss"]):
        scores = (f"validation: loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:.3f}, "
                  f"mean IoU {row['val_miou']:.3f}")
    print(f"epoch {row['epoch']:>3}/{args.epochs}  loss {row['train_loss']:.3f}  {scores}  "
          f"({row['seconds']:.1f} s, {row['images_per_s']:.1f} images/s, {run.time_left})",
          flush=True)


def save(name, run, meta, args):
    """Rank 0 writes best.pt, the model and how to use it, or last.pt, which can also go on."""
    if run.rank:
        return
    run.check_folder()
    train = {"epoch": run.epoch, "step": run.step, "best": run.best,
             "best_loss": run.best_loss, "waited": run.waited,
             "labelled_pixels": run.labelled_pixels}
    scored = run.ema_model or run.model
    state = scored.state_dict()
    if name == "last.pt":
        state = run.model.state_dict()
        train["optimizer"] = run.optimizer.state_dict()
        train["scheduler"] = run.scheduler.state_dict() if run.scheduler else None
        train["scaler"] = run.scaler.state_dict()
        train["record"] = run.step_log
        train["counts"] = run.fingerprint
        train["ema"] = run.ema_model.state_dict() if run.ema_model else None
    model = {"name": args.model, "kwargs": run.kwargs, "state": state}
    save_checkpoint(pathlib.Path(args.out, name), model, meta, train, vars(args))


def resume(run, args, meta, device):
    """Restore the state of last.pt; rank 0 cuts log.csv back to the epochs that it had finished.

    Raises:
        ValueError: another command, or other data, than the run was started with, or a damaged
            run; one line.
    """
    path = pathlib.Path(args.out, "last.pt")
    content = load_checkpoint(path, device)
    check_same_command(args, content["args"])
    check_same_data(args, content, meta | run.fingerprint)
    try:
        run.model.load_state_dict(content["model"]["state"])
        restore_progress(run, content["train"], args)
    except Exception as error:  # of many kinds, depending on what is missing
        if out_of_memory(error):
            raise
        raise ValueError(f"{path} lacks what going on needs ({error!r:.60}): start a new run"
                         ) from None
    if run.rank:
        run.step_log[0] = 0  # rank 0 goes on with the losses of all, see `check_step_log`
    else:
        cut_log(pathlib.Path(args.out, "log.csv"), run.epoch)


def check_same_command(args, saved):
    """Refuse to go on with other flags than the run was started with: ValueError naming them."""
    changed = []
    for name, value in vars(args).items():
        before = saved.get(name, value)
        if name not in MAY_CHANGE_ON_RESUME and before != value:
            changed.append(describe_change(name, before, value))
    if changed:
        raise ValueError(f"{'; '.join(changed)}: resume with the flags in {args.out}/args.json, or "
                         "start a new run")


def check_same_data(args, content, now):
    """Refuse to go on with other data than the run was started on: ValueError naming what differs.

    Args:
        content: of last.pt.
        now: metadata and fingerprint of the data set, as last.pt keeps them.
    """
    counts = content["train"].get("counts") or {}  # missing in older files
    if not isinstance(counts, dict):
        raise ValueError(f"{args.out}/last.pt lacks what going on needs (counts): start a new run")
    known = content["data"] | counts
    known.pop("scores", None)  # see `folds.add_scores`
    changed = changed_data(args.data, known, now)
    if changed:
        raise ValueError(f"{args.data} is not the data set that {args.out} was started on "
                         f"({', '.join(map(str, changed[:3]))} differ): start a new run")


def restore_progress(run, train, args):
    """Restore all but the weights of a run from what `save` has put into last.pt.

    Raises:
        an error of any kind: something is missing or makes no sense.
    """
    if run.ema_model:
        run.ema_model.load_state_dict(train["ema"])
    load_optimizer(run.optimizer, train["optimizer"])
    run.scaler.load_state_dict(train["scaler"])
    if run.scheduler:
        load_scheduler(run.scheduler, train["scheduler"], args.lr)
    run.step_log.copy_(train["record"])
    run.epoch = int(train["epoch"])
    run.step = int(train["step"])
    run.best = float(train["best"])
    # Earlier versions kept the first of equal scores, and no loss.
    run.best_loss = float(train.get("best_loss", -math.inf))
    run.waited = int(train.get("waited", 0))
    if not (0 <= run.epoch <= args.epochs and 0 <= run.step <= run.steps):
        raise ValueError(f"epoch {run.epoch}, step {run.step}")


def load_optimizer(optimizer, saved):
    """Load an optimiser's state: its learning rates, and the moments of every parameter.

    Everything else of the groups stays as the command gives it. No moments at all are those of a
    run whose every step so far overflowed in float16.

    Raises:
        ValueError: moments are missing or of another shape, which torch sees only when it steps.
    """
    groups = optimizer.state_dict()["param_groups"]
    for group, before in zip(groups, saved["param_groups"], strict=True):
        group["lr"] = float(before["lr"])
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    first = next(iter(optimizer.state.values()), {})
    expected = MOMENTS.get(type(optimizer), first.keys())  # a fork may add an optimiser
    for p in parameters if optimizer.state else ():
        moments = optimizer.state.get(p, {})
        if moments.keys() != expected:
            raise ValueError("the optimiser's moments are incomplete")
        if any(moments[key].shape != p.shape for key in expected - SCALAR_MOMENTS):
            raise ValueError("the optimiser's moments are of other shapes")


def load_scheduler(scheduler, saved, lr):
    """Load the state of --schedule plateau, of this version or of those that kept it by hand.

    Args:
        scheduler: torch's ReduceLROnPlateau; saved: its state.
        lr: the run's --lr, of which earlier versions kept the share that is left.
    """
    if "lowest" in saved:
        for group in scheduler.optimizer.param_groups:
            group["lr"] = lr * saved["factor"] * group["share"]
        saved = {"best": saved["lowest"], "num_bad_epochs": saved["epochs"]}
    scheduler.load_state_dict(saved)


def cut_log(path, epochs):
    """Cut log.csv back to the rows of `epochs` epochs; with 0 its header goes too.

    Raises:
        ValueError: it holds fewer, or no table.
    """
    lines = []
    if path.exists():
        check_file(path)
        lines = path.read_bytes().splitlines(keepends=True)
    if epochs and len(lines) <= epochs:
        raise ValueError(f"{path} holds {max(0, len(lines) - 1)} of its {epochs} epochs: put it "
                         "back, or start a new run")
    kept = lines[:epochs + 1] if epochs else []
    try:
        list(csv.reader(line.decode(errors="replace") for line in kept))
    except csv.Error as error:
        raise ValueError(f"{path} is damaged ({error}): put it back, or start a new run") from None
    if path.exists():
        # Nothing is written anew, so nothing can be lost on a full disk.
        os.truncate(path, sum(map(len, kept)))


def log_row(run, matrix, val_loss, device, speed):
    """The row of log.csv of the epoch that was just trained.

    Args:
        matrix, val_loss: of the validation split, see `evaluate.evaluate`.
        speed: dict of seconds and images_per_s.
    Returns:
        {column: number}.
    """
    losses, norms = run.step_log
    losses = all_reduce(losses.clone())  # 0 where a step had no label
    taken = norms.isfinite()  # the other steps overflowed
    return {
        "epoch": run.epoch + 1,
        "train_loss": (losses.sum() / losses.count_nonzero().clamp(min=1)).item(),
        "val_loss": val_loss,
        "val_accuracy": matrix.pixel_accuracy(),
        "val_miou": matrix.miou(),
        "lr": max(group["lr"] for group in run.optimizer.param_groups),
        "gradient_norm": norms[taken].mean().item(),
        "overflows": int((~taken).sum()),
        **speed,
        "peak_memory_mb": peak_memory_mb(device),
    }


def log_epoch(run, args, row):
    """Rank 0 appends an epoch's row to the run's log.csv."""
    if run.rank == 0:
        run.check_folder()
        append_row(pathlib.Path(args.out, "log.csv"), row)


def append_row(path, row):
    """Append a row to a CSV file and flush it to the disk; a new file gets a header first.

    Args:
        path: the file; the columns of an existing one stay as they are.
        row: {column: value}.
    """
    with writing(path), open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        header = next(csv.reader(file), None)
        file.seek(0, os.SEEK_END)
        writer = csv.DictWriter(file, header or list(row), extrasaction="ignore")
        if header is None:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())  # last.pt, written next, relies on this row


def check_step_log(run, args):
    """Stop the run at a loss or gradient that is not finite; the checkpoint before it stays.

    Rank 0 then keeps the losses of all processes. Float16 gradients may overflow: the scaler
    leaves such a step out and halves its scale. Below a scale of 1 that would never end.

    Raises:
        ValueError: one line with the step.
    """
    advice = f"try a lower --lr; {args.out}/last.pt is from before"
    losses = all_reduce(run.step_log[0, :run.step])  # of the whole batches
    norms = run.step_log[1, :run.step]
    finite = losses.isfinite()
    if not run.scaler.is_enabled():
        finite = finite & norms.isfinite()
    if not finite.all():
        step = int((~finite).nonzero()[0])
        raise ValueError(f"epoch {run.epoch + 1}, step {step + 1}: the loss is "
                         f"{float(losses[step])} and the gradient's norm {float(norms[step])}: "
                         f"{advice}")
    if run.scaler.is_enabled() and run.scaler.get_scale() < 1:
        raise ValueError(f"epoch {run.epoch + 1}, step {run.step}: the gradients overflow float16 "
                         f"at any scale: {advice}, or --amp off")
    for name, values in run.model.state_dict().items():
        if not values.isfinite().all():
            raise ValueError(f"{name} is not finite after step {run.step} of epoch "
                             f"{run.epoch + 1}: {advice}")
    if run.rank:
        run.step_log[0, :run.step] = 0


def open_tensorboard(args, run):
    """TensorBoard's writer on <out>/tb; epochs that are about to be done again are dropped."""
    from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    return SummaryWriter(pathlib.Path(args.out, "tb"), purge_step=run.epoch + 1)


def log_tensorboard(writer, row, iou, picture):
    """Put an epoch on TensorBoard.

    Args:
        writer: from `open_tensorboard`.
        row: dict, the epoch's row of log.csv.
        iou: dict of class name -> validation IoU.
        picture: PIL.Image of some validation tiles, or None.
    """
    for name, value in row.items():
        writer.add_scalar(name, value, row["epoch"])
    for name, value in iou.items():
        writer.add_scalar(f"val_iou/{name}", value, row["epoch"])
    if picture:
        writer.add_image("preview", np.asarray(picture), row["epoch"], dataformats="HWC")
    writer.flush()


@contextlib.contextmanager
def catch_signals():
    """Within it, SIGINT and SIGTERM are only appended to the list that it yields."""
    caught = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.signal(number, lambda received, frame: caught.append(received))
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
