"""The networks side by side: what each costs, and what it learns from one and the same budget.

    python bench/networks.py --jobs 2                           the demo, made where it is missing, three seeds
    python bench/networks.py --dubai data/dubai                 and Dubai in its standard form, see baseline.py, once
    python bench/networks.py --only demo-unet-                  the runs whose names start so
    python bench/networks.py --measure                          speed and memory of all, a quarter of an hour

Rows go to results/networks.csv, one a run; what is there is skipped, so it goes on where it was stopped. The measured
costs go to results/networks_cost.csv. From both it then writes results/networks.md.

The budget is the same for all: the number of steps, the tiles and points of each, the learning rate, chosen for none of
them. What a step costs is not the same, and shown. No network starts from published weights.
"""

import argparse
import concurrent.futures
import csv
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, whose scenes.py is another

import torch
from run_table import (
    commit,
    difference,
    mean_and_spread,
    processor,
    read_rows,
    run_missing,
    scores_in_pairs,
)
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from engine.device import keep_freed_memory
from engine.device import peak_memory_mb
from losses import build_loss
from networks import OPTIONS, build_model, fold_batch_norm, freeze_encoder
from train import build_optimizer
from train import parse_args as train_args

TABLE, COSTS = ROOT / "results" / "networks.csv", ROOT / "results" / "networks_cost.csv"
BUDGET = "--points 20 --crop 96 --bs 8 --lr 1e-3 --final last".split()
DEMO = [*BUDGET, "--epochs", "8"]  # 192 steps
DUBAI = [*BUDGET, "--epochs", "5", "--loss", "ce+jaccard", "--jitter", "0.2"]  # 225 steps
CATALAN = "--model resunet --upsampling transposed"
NETWORKS = {  # name: flags; the network whose place it takes, to say what the change brings
    "unet-depth4": ("--model unet", None),
    "unet-depth3": ("--model unet --depth 3", "unet-depth4"),
    "unet-stem2": ("--model unet --stem 2", "unet-depth4"),
    "unet-depth5": ("--model unet --depth 5", "unet-depth4"),
    "unet-concat": ("--model unet --fusion concat", "unet-depth4"),
    "unet-sum": ("--model unet --fusion sum", "unet-depth4"),
    "unet-concat-at-skips": ("--model unet --fusion concat --fusion-at skips", "unet-depth4"),
    "unet-sum-at-skips": ("--model unet --fusion sum --fusion-at skips", "unet-depth4"),
    "resunet18": ("--model resunet", "unet-depth4"),
    "resunet18-transposed": (CATALAN, "resunet18"),
    "resunet18-transposed-no-skips": (f"{CATALAN} --no-skips", "resunet18-transposed"),  # the Catalan system's decoder
    "resunet50": ("--model resunet --encoder resnet50", "resunet18"),
    "fpn18": ("--model fpn", "resunet18"),
    "unetpp18": ("--model unetpp", "resunet18"),
    "linknet18": ("--model linknet", "resunet18"),
    "deeplabv3plus18": ("--model deeplabv3plus", "resunet18"),
    "segformer-b0": ("--model segformer", "resunet18"),
}
# What freezing saves is measured, not what it scores: an encoder frozen without weights has learned nothing.
FROZEN = {f"{name}-frozen": f"{NETWORKS[name][0]} --freeze-encoder" for name in ("resunet18", "resunet50")}
BANDS, CLASSES, SIDE, BATCH, ROUNDS = 3, 7, 256, 4, 5


def build(flags):
    """A network as train.py builds it, for BANDS and CLASSES, and its optimiser.

    Args:
        flags: train.py's flags in one string.
    Returns:
        (model, optimiser), the model channels-last and in training mode.
    """
    args = train_args(flags.split())
    takes = {"encoder", "weights", *OPTIONS}
    model = build_model(args.model, BANDS, CLASSES, **{key: value for key, value in vars(args).items() if key in takes})
    if args.freeze_encoder:
        freeze_encoder(model)
    model = model.to(memory_format=torch.channels_last).train()
    return model, build_optimizer(model, args)


def count(flags):
    """Parameters, and GFLOP of one forward pass of a SIDE px image, a multiply-add being two.

    Nothing is computed, for tensors on the device "meta" have a shape only. Attention is counted there as the two matrix
    products that it is; the CPU's own kernel for it goes uncounted.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model, _ = build(flags)
        model.eval()(torch.empty(1, BANDS, SIDE, SIDE))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 1e9


def training_step(model, optimizer):
    """A step on BATCH random images with 16 labelled pixels each."""
    images = torch.rand(BATCH, BANDS, SIDE, SIDE).to(memory_format=torch.channels_last)
    labels = torch.full((BATCH, SIDE, SIDE), 255, dtype=torch.uint8)
    labels[:, ::SIDE // 4, ::SIDE // 4] = 1
    build_loss("ce")(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()


def prediction(model):
    """Logits of BATCH images, batch norms folded, as predict.py does."""
    with torch.inference_mode():
        model(torch.rand(BATCH, BANDS, SIDE, SIDE).to(memory_format=torch.channels_last))


def peak_of_step(flags, threads):
    """What two training steps add to the process's peak memory, MB; meant for a process of its own."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as train.py does
    before = peak_memory_mb(torch.device("cpu"))
    model, optimizer = build(flags)
    for _ in range(2):  # the optimiser's state is there from the second on
        training_step(model, optimizer)
    return peak_memory_mb(torch.device("cpu")) - before


def second_call(act):
    """Seconds that the second call of a function takes; the first finds its kernels and its memory."""
    act()
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def speeds(networks):
    """Images a second in training and inference, the median over ROUNDS.

    The networks take turns, so that a busy minute of the machine hits all of them alike.

    Args:
        networks: dict of flags by name.
    Returns:
        dict of {"training_img_s", "inference_img_s"} by name.
    """
    seconds = {name: {"training_img_s": [], "inference_img_s": []} for name in networks}
    for name in tqdm(ROUNDS * list(networks), "measured", disable=None):
        model, optimizer = build(networks[name])
        seconds[name]["training_img_s"].append(second_call(lambda: training_step(model, optimizer)))
        fold_batch_norm(model.eval())
        seconds[name]["inference_img_s"].append(second_call(lambda: prediction(model)))
    return {name: {work: BATCH / statistics.median(times) for work, times in works.items()}
            for name, works in seconds.items()}


def measure(networks, threads):
    """Rows of COSTS, one a network: parameters, GFLOP, speed, and the memory of a training step in a process of its own.

    Args:
        networks: dict of flags by name; threads: for torch.
    Returns:
        list of dict.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    measured, rows = speeds(networks), []
    for name, flags in networks.items():
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            memory = alone.submit(peak_of_step, flags, threads).result()
        parameters, gflop = count(flags)
        rows.append({"name": name, "parameters": parameters, "gflop": f"{gflop:.4g}",
                     **{work: f"{speed:.3g}" for work, speed in measured[name].items()}, "training_mb": f"{memory:.0f}",
                     "batch": BATCH, "side_px": SIDE, "threads": threads, "processor": processor(),
                     "date": time.strftime("%Y-%m-%d"), "commit": commit(),
                     "command": f"python bench/networks.py --measure --threads {threads}"})
    return rows


def write_costs(rows):
    """Write the measured rows, all of one measurement, under a temporary name first."""
    COSTS.parent.mkdir(exist_ok=True)
    with open(f"{COSTS}.part", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(f"{COSTS}.part", COSTS)


def experiments(demo, dubai):
    """(name, flags) of every run; all networks once before the next seed, so that an early table is whole."""
    runs = [(f"demo-{name}-seed{seed}", ["--data", demo, *flags.split(), *DEMO, "--seed", seed])
            for seed in range(3) for name, (flags, _) in NETWORKS.items()]
    if dubai:
        runs += [(f"dubai-{name}-seed0", ["--data", dubai, *flags.split(), *DUBAI, "--seed", 0])
                 for name, (flags, _) in NETWORKS.items()]
    return runs


def scores_of(name, data, rows):
    """Mean IoU by seed, of the runs that have a row."""
    keys = {seed: f"{data}-{name}-seed{seed}" for seed in range(3)}
    return {seed: float(rows[key]["miou"]) for seed, key in keys.items() if key in rows}


def table_lines(rows, costs):
    """The tables in Markdown; a difference is paired, seed by seed, and none where it is under twice its spread.

    Args:
        rows, costs: dicts of rows by name, of TABLE and COSTS.
    Returns:
        list of str.
    """
    lines = ["| network | parameters | GFLOP | img/s, inference | img/s, training | training, MB | mean IoU, demo | seeds | "
             "difference, points of mean IoU | mean IoU, Dubai, one seed | s a run, demo |", "|---" * 11 + "|"]
    for name, (_, other) in NETWORKS.items():
        measured = " | ".join(costs.get(name, {}).get(column, "") for column in
                              ("parameters", "gflop", "inference_img_s", "training_img_s", "training_mb"))
        demo = scores_of(name, "demo", rows)
        pairs = scores_in_pairs([(f"demo-{name}-seed{seed}", f"demo-{other}-seed{seed}") for seed in demo], rows)
        gain = f"{difference(pairs)} over {other}" if pairs else ""
        took = [float(rows[f"demo-{name}-seed{seed}"]["train_s"]) for seed in demo]
        dubai = mean_and_spread(list(scores_of(name, "dubai", rows).values()))
        lines.append(f"| {name} | {measured} | {mean_and_spread(list(demo.values()))} | "
                     f"{len(demo) or ''} | {gain} | {dubai} | {mean_and_spread(took, '.0f')} |")
    lines += ["", "| training with a frozen encoder | s a step | MB | saves time | saves memory |", "|---" * 5 + "|"]
    for name in FROZEN:
        if name in costs:
            steps = [BATCH / float(costs[key]["training_img_s"]) for key in (name, name.removesuffix("-frozen"))]
            peaks = [float(costs[key]["training_mb"]) for key in (name, name.removesuffix("-frozen"))]
            lines.append(f"| {name} | {steps[0]:.2f} of {steps[1]:.2f} | {peaks[0]:.0f} of {peaks[1]:.0f} | "
                         f"{1 - steps[0] / steps[1]:.0%} | {1 - peaks[0] / peaks[1]:.0%} |")
    return lines


def parse_args(argv=None):
    """The command line; `python bench/networks.py --help` shows it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--demo", default="data/demo", help="the prepared demo; made where it is missing")
    parser.add_argument("--dubai", help="Dubai in its standard form, see baseline.py; not given: left out")
    parser.add_argument("--only", nargs="*", default=[""], metavar="START", help="run those whose names start so, such as "
                        "demo-unet-; a start that no name has writes the table alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run, and of --measure")
    parser.add_argument("--measure", action="store_true", help="measure speed and memory anew, train nothing")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    return parser.parse_args(argv)


def main(args):
    """Run or measure what is asked for, then write the tables."""
    wanted = [(name, flags) for name, flags in experiments(args.demo, args.dubai) if name.startswith(tuple(args.only))]
    if args.list:
        return print(*(f"{name}: {' '.join(map(str, flags))}" for name, flags in wanted), sep="\n")
    if args.measure:
        write_costs(measure({name: flags for name, (flags, _) in NETWORKS.items()} | FROZEN, args.threads))
    elif wanted:
        if any(name.startswith("demo-") for name, _ in wanted) and not (ROOT / args.demo).exists():
            subprocess.run([sys.executable, "prepare_data.py", "demo", "--out", args.demo], cwd=ROOT, check=True)
        run_missing(TABLE, wanted, ROOT / "runs" / "networks", args.jobs, args.threads)
    lines = ["Written by `python bench/networks.py` from networks.csv and networks_cost.csv; each row there holds its "
             f"command. GFLOP, img/s and MB are of {SIDE} px images with {BANDS} bands and {CLASSES} classes; img/s and MB in "
             f"batches of {BATCH}, float32, channels-last, inference with batch norms folded. MB is what training adds to a "
             "process. Frozen networks have no score, for an encoder frozen without weights has learned nothing.", "",
             *table_lines(read_rows(TABLE), read_rows(COSTS))]
    (ROOT / "results" / "networks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main(parse_args())
