"""A run's folder: claimed by one process, written so that nothing is lost, gone on with as if never stopped.

    args.json   the command; also what a running process holds locked
    log.csv     a row an epoch
    last.pt     all it takes to go on from the last save, to the bit
    best.pt     the model of the best epoch, all it takes to use it
"""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import pathlib
import resource
import signal
import sys

import numpy as np
import torch

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.device import out_of_memory
from engine.distributed import all_reduce
from engine.meta import SPLITS, load_meta

MAY_CHANGE_ON_RESUME = ("out", "resume", "stop_after", "device", "save_every", "final", "tensorboard")
SAID_BY_NO = ("flips", "skips")  # flags that take something away: --no-flips


@dataclasses.dataclass
class Run:
    """What changes while training; all that cannot be had again from the command goes into last.pt."""
    model: torch.nn.Module
    average: torch.nn.Module | None  # of --ema; where there is one, it is what is scored and kept as best
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
    rank: int = 0  # of this process, and how many there are: not kept, a run may go on with another number of them
    size: int = 1
    board: object = None  # of --tensorboard
    counts: dict | None = None  # see `data_fingerprint`; read at the first save or on resume


def started_flags(out, defaults):
    """The flags that the run in a folder was started with, as words to stand before the command's own.

    Args:
        out: the run's folder; defaults: {name: value} of this version's flags.
    Returns:
        list of str, so that they are checked as if they were typed; empty where there is no readable args.json.
    """
    try:
        saved, words = json.loads(pathlib.Path(out, "args.json").read_text(encoding="utf-8")), []
    except (OSError, ValueError, RecursionError):
        return []
    names = defaults.keys() - {"out", "resume", "stop_after"}
    for name, value in saved.items() if isinstance(saved, dict) else ():
        flag = name.replace("_", "-")
        if name not in names or value is None or value == defaults[name]:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value)] if isinstance(value, list) else [f"--{flag}={value}"]
    return words


@contextlib.contextmanager
def locked(path):
    """Within it, no other process has a file's lock, which is the operating system's: it ends with the process, however.

    Returns: the file, opened to append to.
    Raises: BlockingIOError, an OSError: another process has it.
    """
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process writes to {path.parent}: let it end, or give another --out") from None
        yield file


def check_resumable(args):
    """Refuse --resume where there is nothing to go on from: ValueError."""
    if args.resume and not args.out:
        raise ValueError("--resume: give the run's folder with --out")
    if args.resume and not pathlib.Path(args.out, "last.pt").exists():
        raise ValueError(f"--resume: there is no checkpoint {args.out}/last.pt to go on from: look at --out")


@contextlib.contextmanager
def run_dir_lock(args):
    """Within it, the run's folder is there and no other process writes to it, for args.json is locked.

    Without --out the next free runs/<data>-<model>-<n> is taken, and `args.out` says which.

    Raises:
        ValueError: the folder holds a run already and --resume is not given; BlockingIOError: another process has it.
    """
    if args.out is None:
        stem = f"{pathlib.Path(args.data).resolve().name}-{args.model}-"
        there = [path.name for path in pathlib.Path("runs").iterdir()] if pathlib.Path("runs").is_dir() else []
        taken = [int(name[len(stem):]) for name in there if name.startswith(stem) and name[len(stem):].isdecimal()]
        args.out = f"runs/{stem}{max(taken, default=0) + 1}"
    folder = pathlib.Path(args.out)
    # args.json alone is a run that ended before its first checkpoint: there is nothing in it to lose.
    if not args.resume and folder.exists() and {path.name for path in folder.iterdir()} - {"args.json", "last.pt.tmp"}:
        raise ValueError(f"--out {folder} holds a run already: give --resume to go on with it, or another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "args.json") as file:
        if not args.resume:
            file.truncate(0)
            file.write(json.dumps(vars(args), indent=1) + "\n")
            file.flush()
        yield


def describe(args, run, train_tiles, val_tiles, device):
    """Print what is about to be learned, from how many labels, where; a digest tells one draw of the points from another."""
    meta, counted = train_tiles.meta, "tile" if args.points_per == "image" else "class and tile"
    kept = "every one there is"
    if args.points:
        drawn = train_tiles.positions.cpu().numpy().tobytes() + train_tiles.classes.cpu().numpy().tobytes()
        kept = f"{args.points} points a {counted}, draw {hashlib.sha256(drawn).hexdigest()[:8]}"
    share = train_tiles.labelled_pixels / (len(train_tiles) * meta["tile"] ** 2)
    print(f"{args.data}: {len(train_tiles)} train and {len(val_tiles)} validation tiles of {meta['tile']} px, "
          f"{meta['bands']} bands, {len(meta['classes'])} classes\nlabels: {train_tiles.labelled_pixels:,} px, "
          f"{share:.3%} of the training tiles, {kept}; validation uses every label of its tiles\n{args.model}, "
          f"{sum(p.numel() for p in run.model.parameters()):,} parameters, on {device.type}; {run.record.shape[1]} steps of "
          f"{min(args.bs, len(train_tiles))} tiles an epoch -> {args.out}", flush=True)


def data_fingerprint(folder):
    """By what another prepared set under the same path is told: its tiles, its labelled pixels, how some tiles look.

    Returns:
        {"tiles of train": count, "pixels of train": K counts, "look of train": digest of eight tiles, ...}, of each split.
    Raises:
        ValueError, OSError: as `load_meta`.
    """
    meta = load_meta(folder)
    counts = {f"{key} of {split}": meta[key][split] for key in ("tiles", "pixels") for split in SPLITS}
    for split in SPLITS:
        tiles, digest = meta["tiles"][split], hashlib.sha256()
        for kind in ("images", "labels") if tiles else ():
            array = np.load(pathlib.Path(folder, f"{split}_{kind}.npy"), mmap_mode="r")
            digest.update(array[np.linspace(0, tiles - 1, 8).astype(int)].tobytes())
        counts[f"look of {split}"] = digest.hexdigest()
    return counts


def save(name, run, meta, args):
    """Rank 0 writes best.pt, which is the model and what it takes to use it, or last.pt, which also goes on from here."""
    if run.rank:
        return
    train = {"epoch": run.epoch, "step": run.step, "best": run.best, "labelled_pixels": run.labelled_pixels}
    scored = run.average or run.model
    state = run.model.state_dict() if name == "last.pt" else scored.state_dict()
    if name == "last.pt":
        run.counts = run.counts or data_fingerprint(args.data)
        train.update(optimizer=run.optimizer.state_dict(), scaler=run.scaler.state_dict(), scheduler=run.plateau,
                     record=run.record, counts=run.counts, ema=run.average.state_dict() if run.average else None)
    model = {"name": args.model, "kwargs": run.kwargs, "state": state}
    save_checkpoint(pathlib.Path(args.out, name), model, meta, train, vars(args))


def change(name, before, now):
    """What differs in a flag, by the name it has on the command line: "--lr was 0.1 and is 0.2 now"."""
    if name in SAID_BY_NO:
        name, before, now = f"no-{name}", not before, not now
    before, now = ({True: "on", False: "off"}[value] if isinstance(value, bool) else value for value in (before, now))
    return f"--{name.replace('_', '-')} was {before} and is {now} now"


def resume(run, args, meta, device):
    """Put a run back to where its last.pt left it; rank 0 cuts log.csv back to the epochs that were finished then.

    A last.pt from before the data's counts were kept, or from before a flag, is believed without them.

    Raises:
        ValueError: another command, or other data, than the run was started with; one line that says in what.
    """
    content = load_checkpoint(pathlib.Path(args.out, "last.pt"), device)
    flags = content["args"]
    changed = [change(key, flags[key], value) for key, value in vars(args).items()
               if key not in MAY_CHANGE_ON_RESUME and flags.get(key, value) != value]
    if changed:
        raise ValueError(f"{'; '.join(changed)}: resume with what {args.out}/args.json says, or start a new run")
    train, run.counts = content["train"], data_fingerprint(args.data)
    kept = train["counts"] if isinstance(train.get("counts"), dict) else run.counts
    data, known = meta | run.counts, content["data"] | run.counts | kept
    changed = [key for key in data | known if data.get(key) != known.get(key)]
    if changed:
        raise ValueError(f"{args.data} is not the data set that {args.out} was started on "
                         f"({', '.join(map(str, changed[:3]))} differ): start a new run")
    try:
        run.model.load_state_dict(content["model"]["state"])
        if run.average:
            run.average.load_state_dict(train["ema"])
        groups = [group | {"lr": float(before["lr"])} for group, before in  # all else as the command says, now as then
                  zip(run.optimizer.state_dict()["param_groups"], train["optimizer"]["param_groups"])]
        run.optimizer.load_state_dict({"state": train["optimizer"]["state"], "param_groups": groups})
        check_optimizer(run.optimizer)
        run.scaler.load_state_dict(train["scaler"])
        run.plateau = {key: type(value)(train["scheduler"][key]) for key, value in run.plateau.items()}
        run.epoch, run.step, run.best = int(train["epoch"]), int(train["step"]), float(train["best"])
        if not (0 <= run.epoch <= args.epochs and 0 <= run.step <= run.record.shape[1] == train["record"].shape[1]):
            raise ValueError(f"epoch {run.epoch}, step {run.step}")
        run.record.copy_(train["record"])
        if run.rank:
            run.record[0] = 0  # rank 0 goes on with the losses of all, see `check_record`
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        if out_of_memory(error):
            raise
        raise ValueError(f"{args.out}/last.pt lacks what going on takes ({error!r:.60}): start a new run") from None
    if run.rank == 0:
        cut_log(pathlib.Path(args.out, "log.csv"), run.epoch)


def cut_log(path, epochs):
    """Cut log.csv back to the rows of so many epochs; the header too goes where there is none: it may be torn.

    Raises:
        ValueError: it holds fewer.
    """
    rows = path.read_bytes().splitlines(keepends=True)[:epochs + 1 if epochs else 0] if path.exists() else []
    if epochs and len(rows) <= epochs:
        raise ValueError(f"{path} holds {max(0, len(rows) - 1)} of its {epochs} epochs: put it back, or start a new run")
    if path.exists():
        os.truncate(path, sum(map(len, rows)))  # nothing is written anew, so nothing can be lost on a full disk


def check_optimizer(optimizer):
    """Raise ValueError where an optimiser's state is not of every parameter alike, which is seen only when it steps.

    No state at all is that of a run whose every step so far overflowed in float16.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state.get(p, {}) for p in parameters]
    expected = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    if any(states) and any(state.keys() != expected or any(value.shape != (() if key == "step" else p.shape)
                                                         for key, value in state.items())
                           for p, state in zip(parameters, states)):
        raise ValueError("the optimiser's state")


def append_row(path, row):
    """Add a row to a CSV file, with the header first where the file is new or empty, and see it onto the disk."""
    try:
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())  # last.pt, which counts on this row, must not come to be there without it
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror}): free some space, then --resume") from None


def check_record(run, order, args):
    """Stop the run where a loss or gradient was not a number; the checkpoint before it stays. Rank 0 then keeps all losses.

    Float16 gradients may overflow: the scaler leaves such a step out and halves its scale, and log.csv counts it. Under a
    scale of 1 it is not the scale that makes them overflow, and no step would be taken again.

    Raises:
        ValueError: one line with the step and its tiles.
    """
    losses = all_reduce(run.record[0, :run.step])  # of the whole batches, which is what a checkpoint has to hold
    if run.rank:
        losses = losses.clone()
        run.record[0, :run.step] = 0
    wrong = ~losses.isfinite()
    if not run.scaler.is_enabled():
        wrong |= ~run.record[1, :run.step].isfinite()
    if wrong.any():
        step = int(wrong.nonzero()[0])
        raise ValueError(f"epoch {run.epoch + 1}, step {step + 1}: the loss is {float(losses[step])} and the gradient's norm "
                         f"{float(run.record[1, step])} (train tiles "
                         f"{', '.join(map(str, order[step * args.bs:(step + 1) * args.bs]))}): try a lower --lr, or --clip; "
                         f"{args.out}/last.pt is from before")
    if run.scaler.is_enabled() and run.scaler.get_scale() < 1:
        raise ValueError(f"epoch {run.epoch + 1}, step {run.step}: the gradients overflow float16 without any scale: try a "
                         f"lower --lr, or --amp off; {args.out}/last.pt is from before")
    if not torch.stack([values.isfinite().all() for values in run.model.state_dict().values()]).all():
        raise ValueError(f"weights, or batch norm's statistics, are not finite after step {run.step} of epoch {run.epoch + 1}: "
                         f"try a lower --lr; {args.out}/last.pt is from before")


def open_tensorboard(args, run):
    """TensorBoard's writer on <out>/tb; what it shows of epochs that are about to be done again is dropped."""
    from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    return SummaryWriter(pathlib.Path(args.out, "tb"), purge_step=run.epoch + 1)


def log_tensorboard(board, row, iou, picture):
    """Put an epoch on TensorBoard.

    Args:
        board: from `open_tensorboard`.
        row: dict, the epoch's row of log.csv.
        iou: dict of class name -> validation IoU.
        picture: PIL.Image of some validation tiles.
    """
    for name, value in row.items():
        board.add_scalar(name, value, row["epoch"])
    for name, value in iou.items():
        board.add_scalar(f"val_iou/{name}", value, row["epoch"])
    board.add_image("preview", np.asarray(picture), row["epoch"], dataformats="HWC")
    board.flush()


@contextlib.contextmanager
def catch_signals():
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
    try:  # Linux, whose ru_maxrss starts at what the process that started this one held
        return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6  # KiB
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
