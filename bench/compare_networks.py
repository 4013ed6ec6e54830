"""The networks side by side: what each costs, and what it learns from one and the same budget.

    python bench/compare_networks.py --jobs 2              the demo, three seeds
    python bench/compare_networks.py --sets demo dubai     and Dubai, prepared as in points.py, once
    python bench/compare_networks.py --measure             speed and memory, a quarter of an hour

Rows go to results/networks.csv, measured costs to networks_cost.csv; both make networks.md. The
budget is the same for all: the steps, the tiles and points of each, and the learning rate, which
was chosen for none of them. No network starts from published weights.
"""

import concurrent.futures
import multiprocessing
import statistics
import time

import torch
from experiments import (
    RESULTS, Experiment, append, difference, experiment_parser, listed, make_demo, markdown,
    mean_and_spread, numbered, origin, paired_gains, processor, read_rows, run_missing, scores_of,
    write_report)
from measure import in_turns
from speed import BANDS, CLASSES, SIDE, batch, our_step
from torch.utils.flop_counter import FlopCounterMode

from engine.device import keep_freed_memory, peak_memory_mb
from networks import build_model, fold_batch_norm, freeze_encoder
from train import parse_args as train_args

BUDGET = {  # 192 steps, 225 steps
    "demo": "--points 20 --crop 96 --bs 8 --lr 1e-3 --final last --epochs 8",
    "dubai": "--points 20 --crop 96 --bs 8 --lr 1e-3 --final last --epochs 5 --loss ce+jaccard"
             " --jitter 0.2",
}
NETWORKS = {  # name: flags, and the network it is compared with; None as in Experiment
    "unet-depth4": ("--model unet", "unet-depth4"),
    "unet-depth3": ("--model unet --depth 3", "unet-depth4"),
    "unet-depth5": ("--model unet --depth 5", "unet-depth4"),
    "unet-stem2": ("--model unet --stem 2", "unet-depth4"),
    "unet-concat": ("--model unet --fusion concat", "unet-depth4"),
    "unet-sum": ("--model unet --fusion sum", "unet-depth4"),
    "unet-concat-at-skips": (None, "unet-depth4"),
    "unet-sum-at-skips": (None, "unet-depth4"),
    "resunet18": ("--model resunet", "unet-depth4"),
    "resunet18-transposed": (None, "resunet18"),
    "resunet18-transposed-no-skips": (None, "resunet18-transposed"),
    "resunet50": ("--model resunet --encoder resnet50", "resunet18"),
    "fpn18": ("--model fpn", "resunet18"),
    "unetpp18": ("--model unetpp", "resunet18"),
    "linknet18": ("--model linknet", "resunet18"),
    "deeplabv3plus18": ("--model deeplabv3plus", "resunet18"),
    "segformer-b0": ("--model segformer", "resunet18"),
}
# An encoder frozen without weights has learned nothing: its cost is measured, not its score.
FROZEN = {f"{name}-frozen": f"{NETWORKS[name][0]} --encoder-lr 0"
          for name in ("resunet18", "resunet50")}
BATCH, ROUNDS = 4, 5
CPU = torch.device("cpu")
HEAD = """Written by `python bench/compare_networks.py` from networks.csv and networks_cost.csv.

GFLOP, img/s and MB: images of 256 px with 3 bands and 7 classes, img/s and MB in batches of 4,
float32, channels-last, inference with batch norms folded. MB is what training adds to a process.
Differences are in points of mean IoU, paired by seed, with a 95 % t interval and the p value of a
paired t test. With three seeds such an interval is wide: one that contains 0 means "not shown".
"""


def build(flags):
    """A network as train.py builds it from its flags."""
    args = train_args(flags.split())
    model = build_model(args.model, BANDS, CLASSES, encoder=args.encoder, width=args.width,
                        depth=args.depth, fusion=args.fusion, stem=args.stem)
    if args.encoder_lr == 0:
        freeze_encoder(model)
    return model


def count(flags):
    """Parameters, and GFLOP of one forward pass of an image; a multiply-add is two operations."""
    # On "meta" tensors have a shape only, and attention is counted as its two matrix products.
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = build(flags).eval()
        model(torch.empty(1, BANDS, SIDE, SIDE))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 1e9


def speeds(networks):
    """{name: (img/s in training, in inference)}, medians of ROUNDS in which all take turns."""
    images, labels = batch(BATCH, CPU)
    seconds = {name: ([], []) for name in networks}
    for _ in range(ROUNDS):
        for name, flags in networks.items():
            model = build(flags)
            step = our_step(model, images, labels)
            seconds[name][0].append(in_turns({"step": step}, 1)["step"])
            model = fold_batch_norm(model.eval())
            with torch.inference_mode():
                seconds[name][1].append(in_turns({"logits": lambda: model(images)}, 1)["logits"])
    return {name: [BATCH / statistics.median(part) for part in both]
            for name, both in seconds.items()}


def peak_of_step(flags, threads):
    """MB that two training steps add to the peak memory of this process, meant to be a new one."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as train.py does
    before = peak_memory_mb(CPU)
    step = our_step(build(flags), *batch(BATCH, CPU))
    for _ in range(2):  # the second finds the optimiser's state
        step()
    return peak_memory_mb(CPU) - before


def measure(networks, threads):
    """Measure the cost of networks, {name: flags}, and append their rows."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    measured = speeds(networks)
    for name, flags in networks.items():
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as alone:
            memory = alone.submit(peak_of_step, flags, threads).result()
        parameters, gflop = count(flags)
        training, inference = measured[name]
        append(RESULTS / "networks_cost.csv", {
            "name": name, "parameters": parameters, "gflop": f"{gflop:.4g}",
            "training_img_s": f"{training:.3g}", "inference_img_s": f"{inference:.3g}",
            "training_mb": f"{memory:.0f}", "batch": BATCH, "side_px": SIDE, "threads": threads,
            "processor": processor(), "date": time.strftime("%Y-%m-%d"),
            **origin("bench/compare_networks.py", "--measure", "--threads", threads)})


def runs_of(data, name):
    """Names of a network's runs on a set: three seeds on the demo, one on Dubai."""
    return numbered(f"{data}-{name}", 3 if data == "demo" else 1)


def experiments_of(data):
    """The experiments on a set, one per network."""
    return [Experiment(runs_of(data, name), flags and f"--data data/{data} {flags} {BUDGET[data]}")
            for name, (flags, _) in NETWORKS.items()]


def network_table(rows, costs):
    """The table of all networks; rows and costs are dicts of rows by name."""
    table = []
    for name, (_, other) in NETWORKS.items():
        cost = costs.get(name, {})
        gains = paired_gains(runs_of("demo", name), runs_of("demo", other), rows)
        table.append({
            "network": name,
            **{title: cost.get(key, "") for title, key in (
                ("parameters", "parameters"), ("GFLOP", "gflop"),
                ("img/s, inference", "inference_img_s"), ("img/s, training", "training_img_s"),
                ("training, MB", "training_mb"))},
            "mean IoU, demo": mean_and_spread(scores_of(runs_of("demo", name), rows)),
            "difference": f"{difference(gains)} to {other}" if gains else "",
            "by seed": listed(gains),
            "Dubai, one seed": mean_and_spread(scores_of(runs_of("dubai", name), rows))})
    return table


def frozen_table(costs):
    """What a frozen encoder saves in training."""
    table = []
    for name in (name for name in FROZEN if name in costs):
        frozen, whole = costs[name], costs[name.removesuffix("-frozen")]
        step, other = (BATCH / float(row["training_img_s"]) for row in (frozen, whole))
        memory, other_memory = (float(row["training_mb"]) for row in (frozen, whole))
        table.append({"frozen encoder": name,
                      "s per step": f"{step:.2f} of {other:.2f}",
                      "MB": f"{memory:.0f} of {other_memory:.0f}",
                      "saves time": f"{1 - step / other:.0%}",
                      "saves memory": f"{1 - memory / other_memory:.0%}"})
    return table


def report_lines():
    """The lines of networks.md."""
    rows, costs = read_rows(RESULTS / "networks.csv"), read_rows(RESULTS / "networks_cost.csv")
    return [HEAD, *markdown(network_table(rows, costs)), "", *markdown(frozen_table(costs))]


def main(args):
    """Run or measure, then write the tables."""
    if args.measure:
        current = {name: flags for name, (flags, _) in NETWORKS.items() if flags}
        measure(current | FROZEN, args.threads)
    elif not args.tables_only:
        make_demo(args)
        for data in args.sets:
            run_missing(RESULTS / "networks.csv", experiments_of(data), args)
    write_report("networks.md", report_lines())


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.add_argument("--measure", action="store_true", help="measure costs, train nothing")
    parser.add_argument("--threads", type=int, default=2, help="of torch with --measure")
    main(parser.parse_args())
