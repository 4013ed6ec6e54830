"""The baselines of the README: Dubai in its standard form and the demo, from every label and from points, three seeds.

    python bench/baseline.py --dubai data/dubai --jobs 2
    python bench/baseline.py --dubai data/dubai --only dubai-fullres-0      the runs whose names start so

Dubai is prepared by `python prepare_data.py dubai --src FOLDER --out data/dubai --scale 0.5 --tile 256 --min-labelled 20000`,
which leaves out the slivers at the images' edges. Its test places are scored once, with the weights of the last step: its
validation place is too small to choose by. Rows go to results/baseline.csv; runs that are there are skipped.

Flags were chosen on training places held out from training (train on 4, 5, 7, 8, score on 2 and 6; train on 4, 6, 7, 8,
score on 2 and 5; train on 4 to 8, score on 2), never on the test places; bench/tune.py has the last of these choices, between
dubai-long-*, 40 epochs at half resolution, dubai-fullres-*, 15 at full, which take about as long, and dubai-turned-*, 40 with free
rotation and zoom. Rows of other names are of earlier settings: dubai-0-seed0 with the slivers in, dubai-standard-* for 20 epochs,
with crops that were moved by parts of a pixel and so blurred, dubai-fine-* the same without --stem 2, dubai-longer-* for 56. Each
row has its command and commit.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from run_table import ROOT, append, commit, mean_and_spread, read_rows, run_missing

DUBAI = "--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 40 --loss ce+jaccard --jitter 0.2 --final last".split()
FULL = [*DUBAI, "--stem", "1", "--epochs", "15"]  # of a flag given twice the last counts
TURNED = [*DUBAI, "--rotate", "15", "--zoom", "1.3"]
RECIPES = (("long", 0, DUBAI), ("long", 20, DUBAI), ("fullres", 0, FULL), ("turned", 0, TURNED))  # name, points a tile, flags


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dubai", help="the prepared set; not given: the demo only")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other, of one thread each")
    parser.add_argument("--only", nargs="*", default=[""], metavar="START", help="the runs whose names start so")
    args = parser.parse_args()
    families = {}
    for recipe, points, flags in RECIPES if args.dubai else ():
        families[f"dubai, {f'{points} points a tile' if points else 'every label'}, {recipe}"] = [
            (f"dubai-{recipe}-{points}-seed{seed}", ["--data", args.dubai, "--points", points, "--seed", seed, *flags])
            for seed in range(3)]
    families["demo, 20 points a tile"] = [(f"demo-20-seed{seed}", ["--points", 20, "--seed", seed]) for seed in range(3)]
    families = {family: wanted for family, cells in families.items()
                if (wanted := [cell for cell in cells if cell[0].startswith(tuple(args.only))])}
    if not (ROOT / "data" / "demo").exists():
        subprocess.run([sys.executable, "prepare_data.py", "demo"], cwd=ROOT, check=True)
    rows = run_missing(ROOT / "results" / "baseline.csv", sum(families.values(), []), ROOT / "runs" / "baseline", args.jobs)
    by_name = {row["name"]: row for row in rows}
    for name in by_name:
        by_name[name]["miou_tta"] = score_symmetries(name)
    print("| labels | labelled px | mean IoU | over eight symmetries | minutes on one thread |\n|---|---|---|---|---|")
    for family, cells in families.items():
        minutes = statistics.mean(float(by_name[name]["train_s"]) for name, _ in cells) / 60
        print(f"| {family} | {int(by_name[cells[0][0]]['labelled_pixels']):,}", end=" | ")
        for column in ("miou", "miou_tta"):
            scores = [float(by_name[name][column]) for name, _ in cells]
            print(mean_and_spread(scores, ".3f"), end=" | ")
        print(f"{minutes:.1f} |")


def score_symmetries(name):
    """Test mean IoU of a finished run with probabilities averaged over the eight symmetries; a row is kept of it."""
    table, run = ROOT / "results" / "baseline_tta.csv", ROOT / "runs" / "baseline" / name
    if name not in read_rows(table):
        weights = pathlib.Path(json.loads((run / "metrics.json").read_text())["checkpoint"]).name
        folder = run.relative_to(ROOT)
        command = ["evaluate.py", "--checkpoint", f"{folder}/{weights}", "--tta", "--out", f"{folder}/tta"]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
        scores = json.loads((run / "tta" / "metrics_test.json").read_text())
        append(table, {"name": name, "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"],
                       "class_iou": json.dumps({entry["name"]: round(entry["iou"], 4) for entry in scores["classes"]}),
                       "commit": commit(), "command": " ".join(["python", *command])})
    return read_rows(table)[name]["miou"]


if __name__ == "__main__":
    main()
