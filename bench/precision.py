"""What bfloat16 changes: mean IoU of training in it, and the pixels of maps that change class.

    python bench/precision.py                              train on the demo, made if it is missing
    python bench/precision.py --sets demo dubai            and on Dubai, prepared as in points.py
    python bench/precision.py --tables-only                the differences from the rows there are
    python bench/precision.py --maps RUN... --scene FILE   predict a scene in both precisions

Rows of training go to results/precision.csv. Both precisions start from the same seed, see the same
batches, and are scored on the whole test split. Rows of maps go to results/precision_maps.csv.
"""

import pathlib
import tempfile
import time

from experiments import (
    RESULTS, Experiment, append, call, difference, experiment_parser, listed, make_demo,
    mean_and_spread, numbered, origin, paired_gains, processor, read_rows, run_missing, scores_of)

from geo.raster import open_raster

RECIPES = {"demo": "",  # the defaults
           "dubai": "--points 20 --stem 2 --crop 160 --epochs 8 --bs 8 --lr 3e-3 --loss ce+jaccard "
                    "--jitter 0.2 --final last"}
PRECISIONS = {"float32": "off", "bfloat16": "bf16"}


def experiments_of(data):
    """{precision: Experiment} of a set, three seeds each."""
    return {name: Experiment(numbered(f"{data}-{name}"),
                             f"--data data/{data} {RECIPES[data]} --amp {amp}")
            for name, amp in PRECISIONS.items()}


def print_differences(rows):
    """Print the mean IoU of both precisions per set, and their paired differences in points."""
    for data in RECIPES:
        runs = {name: one.runs for name, one in experiments_of(data).items()}
        for name in PRECISIONS:
            print(f"{data}, {name}: mean IoU {mean_and_spread(scores_of(runs[name], rows))}")
        gains = paired_gains(runs["bfloat16"], runs["float32"], rows)
        print(f"{data}, points of mean IoU: {difference(gains)} ({listed(gains)})")


def class_map_in(amp, checkpoint, scene):
    """(H, W, 1) uint8 classes that predict.py maps on a scene with --amp."""
    with tempfile.TemporaryDirectory() as out:
        call("predict.py", "--checkpoint", checkpoint, "--device", "cpu", "--amp", amp, "--out",
             out, scene)
        with open_raster(pathlib.Path(out) / f"{pathlib.Path(scene).stem}_classes.tif") as raster:
            return raster.read(0, 0, raster.height, raster.width)


def compare_maps(checkpoint, scene):
    """Append the share of a scene's pixels whose class bfloat16 changes."""
    exact, rounded = (class_map_in(amp, checkpoint, scene) for amp in PRECISIONS.values())
    changed = 100 * float((exact != rounded).mean())
    print(f"{checkpoint}, {scene}: {changed:.3f} % of the pixels change class", flush=True)
    append(RESULTS / "precision_maps.csv", {
        "checkpoint": checkpoint, "scene": pathlib.Path(scene).name,
        "megapixels": exact.size / 1e6, "changed_percent": f"{changed:.3g}",
        "processor": processor(), "date": time.strftime("%Y-%m-%d"),
        **origin("bench/precision.py", "--maps", checkpoint, "--scene", scene)})


def main(args):
    """Train what is missing and print the differences, or compare maps."""
    if args.maps:
        for checkpoint in args.maps:
            compare_maps(checkpoint, args.scene)
        return
    if not args.tables_only:
        make_demo(args)
        for data in args.sets:
            run_missing(RESULTS / "precision.csv", experiments_of(data).values(), args)
    print_differences(read_rows(RESULTS / "precision.csv"))


if __name__ == "__main__":
    parser = experiment_parser(__doc__)
    parser.add_argument("--maps", nargs="+", metavar="RUN", help="predict with these instead")
    parser.add_argument("--scene", metavar="FILE", help="that --maps predicts")
    main(parser.parse_args())
