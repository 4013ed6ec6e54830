"""What the commands that measure share: processes, their rows, calls in turns, synthetic tiles.

Also run as a process of its own, which has to be small: so it imports numpy in functions only.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from experiments import ROOT, append, origin, processor


def measured(*command):
    """Run a script of the project; return its wall_s, cpu_s and largest resident_mb.

    Linux counts what the starting process holds to the memory of the one it starts, so this file
    is run in between. Linux and macOS.
    """
    command = [str(word) for word in command]
    done = subprocess.run([sys.executable, __file__, *command], cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed")
    return json.loads(done.stdout)


def run_and_measure(command):
    """Run a Python command and print what it took as JSON; return its exit code."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024  # bytes there, KiB on Linux
    print(json.dumps({"wall_s": time.perf_counter() - started,
                      "cpu_s": usage.ru_utime + usage.ru_stime,
                      "resident_mb": usage.ru_maxrss / unit}))
    return min(status, 1)


def append_numbers(table, case, quantities):
    """Print and append a row per number of a case.

    Args:
        table: path of the CSV.
        case: what was measured, in words.
        quantities: {name: number}, such as from `measured`.
    """
    for quantity, value in quantities.items():
        print(f"{case}: {quantity} {value:.4g}", flush=True)
        append(table, {"case": case, "quantity": quantity, "value": f"{value:.4g}",
                       "processor": processor(), "date": time.strftime("%Y-%m-%d"),
                       **origin(*sys.argv)})


def in_turns(calls, repeats, wait=lambda: None):
    """Time calls in turns, so that whatever else the machine does meets all of them alike.

    Args:
        calls: {name: function without arguments}; each is called once before, untimed.
        repeats: turns.
        wait: called before the clock is read, such as torch.cuda.synchronize.
    Returns:
        {name: median seconds}.
    """
    seconds = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            wait()
            started = time.perf_counter()
            call()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(turns) for name, turns in seconds.items()}


def synthetic_tiles(count, side, bands, classes):
    """Tiles of blurred noise, which packs about as well as photographs, with labels in patches.

    Returns:
        images (N, S, S, C) uint8, labels (N, S, S) uint8, every pixel labelled.
    """
    import numpy as np
    random = np.random.default_rng(0)
    patches = -(-side // 16)
    coarse = random.integers(0, 200, (count, patches, patches, bands), dtype=np.uint8)
    images = coarse.repeat(16, 1).repeat(16, 2)[:, :side, :side]
    labels = (coarse[..., 0] % classes).repeat(16, 1).repeat(16, 2)[:, :side, :side]
    return images + random.integers(0, 24, images.shape, dtype=np.uint8), labels


def write_synthetic_set(folder, counts, side, bands, classes):
    """Write a prepared set of synthetic tiles; counts: {"train": tiles, ...}."""
    from data import write_prepared
    images, labels = synthetic_tiles(sum(counts.values()), side, bands, classes)
    splits = [split for split, count in counts.items() for _ in range(count)]
    write_prepared(folder, images, labels, [f"class {k}" for k in range(classes)], splits)


if __name__ == "__main__":
    sys.exit(run_and_measure(sys.argv[1:]))
