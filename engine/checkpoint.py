"""Checkpoints: one file of plain types from which a model is rebuilt without any flag.

    {"format": 1, "model": {"name", "kwargs", "state"}, "data": {what prediction must know of the data set},
     "train": {epoch, step, ..., optimiser and schedule}, "args": {the command's}, "sha256": of all that}
"""

import hashlib
import os
import pathlib

import torch

from engine.device import out_of_memory
from engine.meta import check_checkpoint_meta
from networks import build_model

# Options of networks in earlier versions, at the only value that a network of today can stand for.
REMOVED_OPTIONS = {"fusion_at": "bottleneck", "skips": True, "output_stride": 16}


def save_checkpoint(path, model, data, train, args):
    """Write a checkpoint under a temporary name, flush it to the disk, rename it: the old file lives until then.

    Args:
        path: where to; the folder exists.
        model: {"name", "kwargs", "state"}; data: see `checkpoint_meta`.
        train: progress, optimiser, schedule; args: the command's; dicts of plain types and tensors.
    Raises:
        OSError: the disk is full or not writable; the file that was there before is untouched.
    """
    content = {"format": 1, "model": model, "data": data, "train": train, "args": args}
    content["sha256"] = _digest(content)
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error!r:.80}): free some space; the file before it is kept") from None


def load_checkpoint(path, device="cpu"):
    """Read a checkpoint and verify it.

    Returns: the dict described at the top of this file, its tensors on `device`.
    Raises:
        ValueError, OSError: missing, not a checkpoint, of another format, damaged, or holding code; one line.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the best.pt or last.pt of a run")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        digest = _digest({part: value for part, value in content.items() if part != "sha256"})
    except Exception as error:  # of a dozen kinds, by where in the archive or the pickle the damage is
        if out_of_memory(error):
            raise
        raise ValueError(f"{path} is not a checkpoint of this project, or is damaged ({error!r:.80}): "
                         "give the best.pt or last.pt of a run") from None
    if content.get("format") != 1 or not all(
            isinstance(content.get(part), dict) for part in ("model", "data", "train", "args")):
        raise ValueError(f"{path} is not a checkpoint of format 1: give the best.pt or last.pt of a run")
    if content.get("sha256") != digest:
        raise ValueError(f"{path} is damaged: what it holds does not match its checksum; use another checkpoint of the run")
    return content


def load_model(path, device="cpu"):
    """Rebuild the model of a checkpoint, with the averaged weights where it has them; all that prediction needs.

    Args:
        path: a checkpoint; device: where the model goes.
    Returns:
        (model in eval mode, dict of data meta: classes, colours, ignore, mean, std, bands, dtype, gsd_m, rgb, nodata).
    Raises: ValueError, OSError as `load_checkpoint`.
    """
    content = load_checkpoint(path, device)
    try:
        kwargs = dict(content["model"]["kwargs"])
        if "weights" in kwargs:
            raise ValueError("it asks for another file")
        kwargs.pop("dropout", None)  # of earlier versions, without effect in eval mode
        for option, value in REMOVED_OPTIONS.items():
            if kwargs.get(option) == value:
                del kwargs[option]
        with torch.device("meta"):  # takes no memory: a file must not ask for more than it holds
            model = build_model(content["model"]["name"], **kwargs)
        model.load_state_dict(content["train"].get("ema") or content["model"]["state"], assign=True)
        check_checkpoint_meta(**content["data"])
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise ValueError("its weights are not finite")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} does not fit this version's networks ({error!r:.80}): train again") from None
    return model.to(device, torch.float32, memory_format=torch.channels_last).eval(), content["data"]


def _digest(content):
    """SHA-256 of every value in a checkpoint, with the path of keys that leads to it; ValueError for no plain tensor."""
    digest = hashlib.sha256()

    def walk(value, path):
        if isinstance(value, torch.Tensor):
            held = value.untyped_storage().nbytes() if value.layout == torch.strided and not value.is_meta else -1
            if value.numel() * value.element_size() > held:  # spread out, it would take memory that no file has paid for
                raise ValueError("a tensor holds less than its shape says")
            digest.update(f"{path} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            for key in value:
                walk(value[key], f"{path}/{key}")
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                walk(item, f"{path}/{index}")
        else:
            digest.update(f"{path} {value!r}".encode())

    walk(content, "")
    return digest.hexdigest()


def find_checkpoint(path):
    """The checkpoint at a path: the file itself, or of a run folder its best.pt, else its last.pt.

    Args:
        path: a checkpoint or a run folder.
    Returns:
        pathlib.Path; a file that is missing is reported when it is loaded.
    Raises:
        FileNotFoundError: the folder holds neither.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return path
    for name in ("best.pt", "last.pt"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"{path} holds no best.pt or last.pt: give the folder of a run")
