"""What the speed commands share: calls timed in turns, synthetic prepared sets, rows of a table."""

import csv
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from run_table import ROOT, append, commit, processor


def wait_for_device():
    """Wait until CUDA has done what it was told; nothing on the CPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(calls, repeats):
    """Time calls in turns, so that whatever else the machine does meets all of them alike.

    Args:
        calls: {name: function without arguments}; each is called once before, untimed.
        repeats: turns.
    Returns:
        {name: median seconds}.
    """
    seconds = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            wait_for_device()
            start = time.perf_counter()
            call()
            wait_for_device()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measured(*command):
    """Run a script of ours as a process of its own; returns a dict of wall_s, cpu_s, and resident_mb at most."""
    command = list(map(str, command))
    done = subprocess.run([sys.executable, ROOT / "bench" / "process.py", *command], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    taken = json.loads(done.stdout)
    if taken.pop("status"):
        raise ValueError(f"{' '.join(command)} failed")
    return taken


def matrix_product(side, dtype=torch.float32, device="cpu"):
    """A call that multiplies two square matrices, and the floating-point operations it takes."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=result), 2 * side ** 3


def memory_copy(size, device="cpu"):
    """A call that copies `size` bytes, and the bytes it moves: each is read and written."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def synthetic_tiles(count, side, bands, classes, seed=0):
    """Tiles of blurred noise, which a PNG packs about as well as it does photographs, and labels in patches.

    Args:
        count, side: of the tiles, px; bands, classes: C, K.
    Returns:
        images (N, S, S, C) uint8, labels (N, S, S) uint8, every pixel labelled.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, -(-side // 16), -(-side // 16), bands), dtype=np.uint8)
    images = coarse.repeat(16, 1).repeat(16, 2)[:, :side, :side]
    labels = (coarse[..., 0] % classes).repeat(16, 1).repeat(16, 2)[:, :side, :side]
    return images + random.integers(0, 24, images.shape, dtype=np.uint8), labels


def write_synthetic_set(folder, counts, side=256, bands=3, classes=7):
    """Write a prepared data set of synthetic tiles, as prepare_data.py would.

    Args:
        folder: pathlib.Path.
        counts: {"train", "val", "test": tiles}.
        side: of the tiles, px; bands, classes: C, K.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {}
    for number, (split, count) in enumerate(counts.items()):
        images = np.lib.format.open_memmap(folder / f"{split}_images.npy", "w+", np.uint8, (count, side, side, bands))
        labels = np.lib.format.open_memmap(folder / f"{split}_labels.npy", "w+", np.uint8, (count, side, side))
        made = synthetic_tiles(min(count, 64), side, bands, classes, number)
        for start in range(0, count, 64):  # the same tiles over and over: what they show does not change the time
            size = min(64, count - start)
            images[start:start + size], labels[start:start + size] = (part[:size] for part in made)
        pixels[split] = np.bincount(labels.reshape(-1), minlength=classes).tolist()
    names = [{"name": f"class {k}", "colour": [9 * k, 0, 0]} for k in range(classes)]
    meta = {"format": 1, "name": folder.name, "classes": names, "ignore": 255, "bands": bands, "dtype": "uint8", "tile": side,
             "gsd_m": None, "rgb": [0, 1, 2] if bands > 2 else [0], "mean": [110.0] * bands, "std": [60.0] * bands, "tiles": counts, "pixels": pixels, "arguments": {}}
    (folder / "dataset.json").write_text(json.dumps(meta), encoding="utf-8")


def append_rows(path, rows, command, threads):
    """Append rows to a CSV, each with the command and what it ran on.

    Args:
        path: pathlib.Path; the header is written where the file is new.
        rows: list of dict of the same keys.
        command: as typed.
        threads: that torch uses on the CPU.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    origin = {"threads": threads, "processor": device, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
              "commit": commit(), "command": command}
    for row in rows:
        append(path, {**row, **origin})


def append_numbers(table, row):
    """Add a measurement to a CSV, one line a number, with where it was taken, and the command that is running.

    Args:
        table: pathlib.Path; the header is written where the file is new.
        row: dict; what is no number in it says what was measured.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    case = ", ".join(str(value) for key, value in row.items() if key not in numbers)
    with open(table, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(["case", "quantity", "value", "processor", "date", "commit", "command"])
        for key, value in numbers.items():
            writer.writerow([case, key, f"{value:.4g}", processor(), time.strftime("%Y-%m-%d"), commit(),
                             " ".join(["python", *sys.argv])])


def markdown(rows):
    """Rows, a list of dict of the same keys, as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0])] + [list(map(str, row.values())) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
