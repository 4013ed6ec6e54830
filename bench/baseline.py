"""The baselines of the README: Dubai in its standard form and the demo, from every label and from points, three seeds.

    python bench/baseline.py --dubai data/dubai --jobs 2

Dubai is prepared by `python prepare_data.py dubai --src FOLDER --out data/dubai --scale 0.5 --tile 256 --min-labelled 20000`,
which leaves out the slivers at the images' edges. Its test places are scored once, with the weights of the last step: its
validation place is too small to choose by. Rows go to results/baseline.csv; runs that are there are skipped.

Flags were chosen on training places held out from training (train on 4, 5, 7, 8, score on 2 and 6; train on 4, 6, 7, 8,
score on 2 and 5), never on the test places. Rows of other names are of earlier settings: dubai-0-seed0 with the slivers
in, dubai-standard-* for 20 epochs, with crops that were moved by parts of a pixel and so blurred, dubai-fine-* without
--stem 2. Each row has its command and commit.
"""

import argparse
import statistics
import subprocess
import sys

from run_table import ROOT, run_missing

DUBAI = "--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 40 --loss ce+jaccard --jitter 0.2 --final last".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dubai", help="the prepared set; not given: the demo only")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other, of one thread each")
    args = parser.parse_args()
    families = {}
    for points in (0, 20) if args.dubai else ():
        families[f"dubai, {f'{points} points a tile' if points else 'every label'}"] = [
            (f"dubai-long-{points}-seed{seed}", ["--data", args.dubai, "--points", points, "--seed", seed, *DUBAI])
            for seed in range(3)]
    families["demo, 20 points a tile"] = [(f"demo-20-seed{seed}", ["--points", 20, "--seed", seed]) for seed in range(3)]
    if not (ROOT / "data" / "demo").exists():
        subprocess.run([sys.executable, "prepare_data.py", "demo"], cwd=ROOT, check=True)
    rows = run_missing(ROOT / "results" / "baseline.csv", sum(families.values(), []), ROOT / "runs" / "baseline", args.jobs)
    by_name = {row["name"]: row for row in rows}
    print("| labels | labelled px | mean IoU | minutes on one thread |\n|---|---|---|---|")
    for family, cells in families.items():
        scores = [float(by_name[name]["miou"]) for name, _ in cells]
        minutes = statistics.mean(float(by_name[name]["train_s"]) for name, _ in cells) / 60
        print(f"| {family} | {int(by_name[cells[0][0]]['labelled_pixels']):,} | {statistics.mean(scores):.3f} "
              f"+- {statistics.stdev(scores):.3f} | {minutes:.1f} |")


if __name__ == "__main__":
    main()
