"""Run the same short commands on two checkouts and compare all that they write, bit for bit.

    python bench/witness.py OLD_CHECKOUT NEW_CHECKOUT

This shows whether moved or rewritten code still computes the same. Each checkout works in its own
temporary folder, on one CPU thread, 2 to 3 minutes together. Only a picture (.png) may differ: any
other difference makes the exit code 1. Left out are args.json and the entries IGNORED below.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import tifffile
import torch

TRAIN = "train.py --points 20 --bs 96 --epochs 2 --stem 2 --width 8 --out runs/"
COMMANDS = [
    "prepare_data.py demo --out data/demo",
    TRAIN + "points",
    TRAIN + "accumulate --accumulate 2",
    TRAIN + "weak --ema 0.9",
    TRAIN + "stopped --stop-after 1",
    "train.py --out runs/stopped --resume",
    "evaluate.py --checkpoint runs/points/best.pt",
    ("predict.py --checkpoint runs/points/best.pt --probabilities --out maps"
     " data/demo/scenes/images/place_11_summer.tif"),
]
IGNORED = {"args", "arguments", "kwargs", "checkpoint", "sha256",  # flags, paths, digest of both
           "files",  # with the times at which they were written
           "seconds", "waiting_share", "images_per_s", "peak_memory_mb"}  # measured
READERS = {
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".csv": lambda path: list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())),
    ".npy": np.load,
    ".tif": tifffile.imread,
}


def main(args):
    """Run both checkouts and print a line per file; return the exit code."""
    top = pathlib.Path(tempfile.mkdtemp(prefix="witness-"))
    print(f"working in {top}, which stays if anything differs", file=sys.stderr)
    old_files = run_commands(pathlib.Path(args.old).resolve(), top / "old")
    new_files = run_commands(pathlib.Path(args.new).resolve(), top / "new")
    differ = {"file": 0, "picture": 0}
    for name in sorted(old_files | new_files):
        kind = "picture" if name.endswith(".png") else "file"
        result = compare(top / "old" / name, top / "new" / name)
        differ[kind] += result != "same"
        print(f"{kind:7} {name}: {result}")
    print(f"{differ['file']} files and {differ['picture']} pictures differ")
    if not any(differ.values()):
        shutil.rmtree(top)
    return 1 if differ["file"] else 0


def run_commands(checkout, folder):
    """Run COMMANDS of a checkout in a new folder; return the names of the files they wrote."""
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    python = [sys.executable, "-B", "-E"]  # no bytecode in the checkout, no PYTHONPATH
    for command in COMMANDS:
        print(f"{checkout.name}: {command}", file=sys.stderr)
        script, *words = command.split()
        done = subprocess.run([*python, checkout / script, *words], cwd=folder, env=environment,
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{checkout}: {command} failed: {done.stderr.strip()[-500:]}")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "args.json"]
    return {path.relative_to(folder).as_posix() for path in paths}


def compare(old, new):
    """Compare two files; return "same" or one line with what differs and by how much at most."""
    if not (old.exists() and new.exists()):
        return "only in " + ("the old" if old.exists() else "the new")
    if old.read_bytes() == new.read_bytes():
        return "same"
    if old.suffix not in READERS:
        return "the bytes differ"
    values = [flatten(READERS[path.suffix](path)) for path in (old, new)]
    gaps = {}
    for name in sorted(values[0].keys() | values[1].keys()):
        pair = [side.get(name, "missing") for side in values]
        if bits(pair[0]) != bits(pair[1]):
            gaps[name] = difference(*pair)
    if gaps:
        return f"{len(gaps)} values differ by up to {max(gaps.values()):.3g}, first {min(gaps)}"
    return "same" if old.suffix in (".pt", ".json") or old.name == "log.csv" else "the bytes differ"


def flatten(value, name=""):
    """Flatten nested dicts and lists to {dotted name: array or plain value} without IGNORED."""
    if not isinstance(value, (dict, list, tuple)):
        return {name or "array": value.numpy() if isinstance(value, torch.Tensor) else value}
    flat = {}
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in IGNORED:
            flat |= flatten(entry, f"{name}.{key}" if name else str(key))
    return flat


def bits(value):
    """Type, shape and bytes of an array or a plain value."""
    array = np.asarray(value)
    return array.dtype, array.shape, array.tobytes()


def difference(old, new):
    """Largest absolute difference of two arrays or numbers; infinite where they have none."""
    try:
        return np.abs(np.asarray(old, np.float64) - np.asarray(new, np.float64)).max()
    except (TypeError, ValueError):  # texts, or other shapes
        return np.inf


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare what two checkouts compute, bit for bit.")
    parser.add_argument("old", help="folder of the checkout to compare with")
    parser.add_argument("new", help="folder of the checkout that must compute the same")
    sys.exit(main(parser.parse_args()))
