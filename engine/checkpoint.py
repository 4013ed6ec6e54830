"""Checkpoints: one file of plain types from which a model is rebuilt without any flag.

    {"format": 1,
     "model": {"name", "kwargs", "state"}, and "temperature" once it is calibrated,
     "data": what prediction must know of the data set, see meta.py,
     "train": epoch, step, ..., optimiser and schedule,
     "args": the command's flags,
     "sha256": checksum of all that}
"""

import hashlib
import os
import pathlib

import torch

from engine.device import out_of_memory
from engine.meta import check_checkpoint_meta
from networks import build_model
from networks.weights import check_sizes

# Options of earlier versions, with the defaults under which their networks are today's.
REMOVED_OPTIONS = {"fusion_at": "bottleneck", "skips": True, "output_stride": 16}


def save_checkpoint(path, model, data, train, args):
    """Write a checkpoint under a temporary name, flush it to the disk, rename it.

    Args:
        path: where to; the folder exists. A file there lives until the new one is whole.
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
        raise OSError(f"{path} could not be written ({error!r:.80}): free some space; the file "
                      "before it is kept") from None


def load_checkpoint(path, device="cpu"):
    """Read a checkpoint and verify it.

    Returns: the dict described at the top of this file, its tensors on `device`.
    Raises:
        ValueError, OSError: missing, not a checkpoint, of another format, damaged, or holding code;
            one line.
    """
    advice = "give the best.pt or last.pt of a run"
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: {advice}")
    try:
        check_sizes(path)
        content = torch.load(path, map_location=device, weights_only=True)
        expected = content.pop("sha256", None)
        digest = _digest(content)
    except Exception as error:  # of a dozen kinds, depending on where the damage is
        if out_of_memory(error):
            raise
        raise ValueError(f"{path} is not a checkpoint of this project, or is damaged "
                         f"({error!r:.80}): {advice}") from None
    parts = [content.get(part) for part in ("model", "data", "train", "args")]
    if content.get("format") != 1 or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{path} is not a checkpoint of format 1: {advice}")
    if digest != expected:
        raise ValueError(f"{path} is damaged: its content does not match its checksum; use another "
                         "checkpoint of the run")
    return content


def load_model(path, device="cpu"):
    """Rebuild the model of a checkpoint, with the averaged weights if it has them.

    Args:
        path: a checkpoint; device: where the model goes.
    Returns:
        (model in eval mode, metadata: see `checkpoint_meta`); all that prediction needs. The
        model's `temperature` divides its logits before the softmax, see report/calibration.py.
    Raises: ValueError, OSError as `load_checkpoint`.
    """
    content = load_checkpoint(path, device)
    state = content["train"].get("ema") or content["model"].get("state")
    try:
        # On "meta" a model takes no memory: a file must not ask for more than it holds.
        with torch.device("meta"):
            model = build_model(content["model"]["name"],
                                **_current_options(content["model"]["kwargs"]))
        model.load_state_dict(state, assign=True)
        check_checkpoint_meta(**content["data"])
        num_classes = len(content["data"]["classes"])
        if content["model"]["kwargs"].get("classes", num_classes) != num_classes:
            raise ValueError(f"it names {num_classes} classes, and its network has others")
        model.temperature = float(content["model"].get("temperature", 1.0))
        if not 0.01 <= model.temperature <= 100:
            raise ValueError(f"temperature {model.temperature}")
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f"{name} is not finite")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} does not fit this version's networks ({error!r:.200}): use "
                         "the version or fork that it was trained with, or train again") from None
    model = model.to(device, torch.float32, memory_format=torch.channels_last).eval()
    return model, content["data"]


def _current_options(kwargs):
    """build_model's options of a checkpoint, without those of earlier versions."""
    if "weights" in kwargs:
        raise ValueError("it asks for another file")
    options = {name: value for name, value in kwargs.items() if name != "dropout"}
    for name, default in REMOVED_OPTIONS.items():
        if options.pop(name, default) != default:
            raise ValueError(f"--{name.replace('_', '-')} no longer exists")
    return options


def _digest(content):
    """SHA-256 of every value in nested plain types, with the path of keys that leads to it.

    Raises:
        ValueError: a tensor that holds less than its shape claims.
    """
    digest = hashlib.sha256()

    def walk(value, path):
        if isinstance(value, torch.Tensor):
            _check_storage(value)
            digest.update(f"{path} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
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


def _check_storage(tensor):
    """Refuse a tensor that would take more memory than its file holds, such as an expanded one."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError("a tensor is not plain")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor holds less than its shape claims")


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
