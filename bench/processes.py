"""What processes cost: a sweep beside a train.py per run, and two processes beside each other.

    python bench/processes.py --only sweep      18 runs of two steps, beside 18 times train.py
    python bench/processes.py --only batches    two processes that share batches, of a thread each

Ours and the peers take turns, and rows are added to results/speed.csv, as bench/speed.py does.
"""

import argparse
import copy
import functools
import multiprocessing
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed
from experiments import RESULTS, ROOT, append, markdown, origin, processor
from measure import in_turns, synthetic_tiles, write_synthetic_set

import train
from data import normalise
from engine.device import pick_device
from engine.distributed import all_reduce, average_buffers, data_parallel, init_distributed
from losses import count_labelled, partial_cross_entropy
from networks import build_model

RATES = [f"{rate}e-4" for rate in range(1, 19)]  # one run each
RUN = "--data set --epochs 1 --bs 8 --width 4 --depth 2 --device cpu".split()
SIDE, BANDS, CLASSES = 128, 3, 7
STEPS = 8  # of training per turn


def sweep(args):
    """Seconds of a sweep of 18 runs of two steps, and of 18 times train.py."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_synthetic_set(folder / "set", {"train": 16, "val": 2, "test": 2}, 32, BANDS, CLASSES)
        outputs = (f"out{number}" for number in range(100))

        def command(script, *words):
            subprocess.run([sys.executable, ROOT / script, *RUN, *words], cwd=folder, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def one_by_one():
            out = next(outputs)
            for rate in RATES:
                command("train.py", "--lr", rate, "--out", f"{out}/{rate}")

        calls = {"ours": lambda: command("sweep.py", "--lr", *RATES, "--out", next(outputs)),
                 "a train.py per run": one_by_one}
        seconds = {name: [] for name in calls}
        for _ in range(args.repeats):  # minutes each, and nothing to warm up
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - started)
    return {name: len(RATES) / statistics.median(turns) for name, turns in seconds.items()}


def batches(args):
    """Images per second of two processes, in several ways of exchanging gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(free.getsockname()[1]))
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    processes = [spawn.Process(target=share_batches, args=(rank, args, results))
                 for rank in range(2)]
    for process in processes:
        process.start()
    found = results.get()
    for process in processes:
        process.join()
    return found


def share_batches(rank, args, results):
    """One of the two processes: time the same steps in turns with the other."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    device = pick_device("cpu")
    init_distributed(device)
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, synthetic_tiles(args.bs, SIDE, BANDS, CLASSES))
    images = normalise(images, [110.0] * BANDS, [60.0] * BANDS)
    model = build_model("unet", BANDS, CLASSES, width=args.width)
    model = model.to(memory_format=torch.channels_last).train()
    calls = {}
    for name, (wrap, exchange) in {
            "ours": (lambda model: data_parallel(model, device), average_buffers),
            "two processes on their own": (lambda model: model, None),
            "two that exchange gradients after backward()": (lambda model: model, sum_gradients),
            }.items():
        own = copy.deepcopy(model)
        optimizer = train.build_optimizer(own, train.parse_args([]))
        calls[name] = functools.partial(train_steps, own, wrap(own), optimizer, exchange, images,
                                        labels)
    seconds = in_turns(calls, args.repeats, torch.distributed.barrier)
    if rank == 0:
        results.put({name: 2 * STEPS * args.bs / value for name, value in seconds.items()})
    torch.distributed.barrier()


def train_steps(model, parallel, optimizer, exchange, images, labels):
    """Training steps of one of the processes, as train.py makes them."""
    for _ in range(STEPS):
        num_labelled = count_labelled(labels)
        if exchange:
            all_reduce(num_labelled)
        partial_cross_entropy(parallel(images), labels, num_labelled=num_labelled).backward()
        if exchange:
            exchange(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.GRADIENT_CLIP)
        optimizer.step()
        optimizer.zero_grad()


def sum_gradients(model):
    """Add up the gradients of both processes, all at once, then average the statistics."""
    gradients = [p.grad for p in model.parameters()]
    flat = all_reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(total.view_as(gradient))
    average_buffers(model)


GROUPS = {"sweep": (sweep, "a sweep of 18 runs of two steps", "runs", {"a train.py per run": 3}),
          "batches": (batches, f"training in two processes, {SIDE} px", "images",
                      {"two processes on their own": 0.9,
                       "two that exchange gradients after backward()": 1})}


def parse_args(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flag = parser.add_argument
    flag("--only", nargs="+", default=list(GROUPS), choices=GROUPS, help="rows to measure")
    flag("--repeats", type=int, default=5, help="turns")
    flag("--bs", type=int, default=4, help="images per step and process")
    flag("--width", type=int, default=16, help="of the U-Net")
    flag("--table", type=pathlib.Path, default=RESULTS / "speed.csv", help="rows are added to it")
    return parser.parse_args(argv)


def main(args):
    """Measure, append the rows, print the table."""
    table = []
    for group in args.only:
        measure, work, unit, aims = GROUPS[group]
        found = measure(args)
        for peer, aim in aims.items():
            table.append({
                "work": work, "unit": f"{unit}/s", "ours": f"{found['ours']:.4g}", "peer": peer,
                "peer's": f"{found[peer]:.4g}", "ratio": f"{found['ours'] / found[peer]:.2f}",
                "aim": aim})
    for row in table:
        threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
        append(args.table, {**row, "threads": threads, "processor": processor(),
                            "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
                            **origin(*sys.argv)})
    print(*markdown(table), sep="\n")


if __name__ == "__main__":
    main(parse_args())
