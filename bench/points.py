"""Few points against every label: the same methods on the same frozen points, over several draws.

    python bench/points.py --jobs 2                    the demo, made if it is missing
    python bench/points.py --sets demo dubai roads     and real images, prepared as said below
    python bench/points.py --only demo-1-              the runs whose names start so
    python bench/points.py --tables-only               tables from the rows there are

Rows go to results/points.csv, those of Dubai's recipes to baseline.csv and with --tta to
baseline_tta.csv. All of them make results/points.md. One seed is one draw of
points for every method. The test split is scored with the weights of the last step.

    python prepare_data.py dubai --src FOLDER --out data/dubai --scale 0.5 --tile 256 \
        --pad-edges --min-labelled 20000
    python prepare_data.py folder --images FOLDER/images --masks FOLDER/groundtruth \
        --classes roads.csv --threshold 127 --tile 200 --pad-edges --out data/roads

roads.csv has the lines id,name,r,g,b and 0,background,190,190,190 and 255,road,230,60,40.
"""

import json
import statistics

from experiments import (
    RESULTS, Experiment, class_iou, difference, experiment_parser, listed, make_demo, markdown,
    mean_and_spread, numbered, paired_gains, paired_p, read_rows, run_missing, score_again,
    scores_of, write_report)

SHORT = "--stem 2 --crop 96 --bs 8 --lr 3e-3 --epochs 20 --final last"
LONG = ("--stem 2 --crop 160 --bs 8 --lr 3e-3 --epochs 40 --loss ce+jaccard --jitter 0.2"
        " --final last")
RECIPES = {"demo": SHORT, "dubai": LONG, "roads": SHORT}
POINTS = {"demo": (1, 5, 20, 100), "dubai": (1, 5, 20), "roads": (1, 5, 20)}  # per tile

FULL, FULL_TWICE = "every label", "every label, twice the epochs"
BASE, LAST, TWICE = "partial CE", "partial CE, last weights", "partial CE, twice the epochs"
WEIGHTS, BEST = "partial CE, class weights", "superpixels, class weights"
PIXELS, FRESH = "pixel classifier", "points drawn anew at each visit"
METHODS = {  # flags beside the recipe; None: its flag left the project
    PIXELS: "",
    LAST: "",
    BASE: "",
    WEIGHTS: "--class-weights sqrt",
    "superpixels": None,
    BEST: None,
    "teacher": None,
    "gated CRF": None,
    "superpixels, class weights, teacher": None,
    TWICE: "--epochs 40",
}
OTHERS = {FULL: "", FULL_TWICE: "--epochs 40", FRESH: ""}
SCRIPTS = {PIXELS: "bench/pixel_classifier.py", FRESH: "bench/fresh_points.py"}
TRIED = {"demo": list(METHODS), "dubai": [PIXELS, BASE, BEST],
         "roads": [PIXELS, BASE, WEIGHTS, "superpixels", BEST]}
BASELINES = {  # Dubai's recipes; standard and fine had crops moved by parts of a pixel
    "dubai-long-0": f"{LONG} --points 0",
    "dubai-long-20": f"{LONG} --points 20",
    "dubai-fullres-0": f"{LONG} --points 0 --stem 1 --epochs 15",
    "dubai-turned-0": f"{LONG} --points 0 --rotate 15 --zoom 1.3",
    "dubai-longer-0": None,
    "dubai-standard-0": None,
    "dubai-standard-20": None,
    "dubai-fine-0": None,
}
SAME = {("dubai", 0, "", FULL): "dubai-long-0", ("dubai", 20, "", BASE): "dubai-long-20"}
RELABELLED = [("demo", "suggested", "5-partial-CE"), ("demo", "spaced", "5-partial-CE"),
              ("demo", "relabelled", "1-partial-CE"), ("demo", "dense", "1-per-class-partial-CE"),
              ("roads", "suggested", "5-partial-CE"), ("roads", "spaced", "5-partial-CE")]
RELABEL_HEAD = """Written by `python bench/points.py` from relabel.csv and points.csv.

The rows were made by `bench/relabel.py` at their commits. Labels: suggested, one random point per
tile and four that a network trained on these asked for; spaced, the same point and four random ones
at least 16 px apart; relabelled, the network's own map, the surer half of each class; dense, every
label of as few tiles as take the time of one point per class on all. Differences are in points of
mean IoU, paired by draw, with a 95 % t interval and the p value of a paired t test.
"""
HEAD = """Written by `python bench/points.py` from points.csv, baseline.csv and baseline_tta.csv.

Mean ± standard deviation over draws (seeds). Differences are in points of mean IoU, paired by
draw, with a 95 % t interval and the p value of a paired t test. An interval that contains 0 means
"not shown", not "no effect". Distance covered is from the pixel classifier on the same points to
every label, at the same number of epochs.
"""


def experiments_of(data):
    """{(points per tile, family, method): Experiment} of a set, in the order of its table.

    The family is "" for points drawn uniformly over the tile, "jitter" for points displaced by
    4 px (the flag left the project), or "per class" for so many points of each class.
    """
    lines = [(0, "", FULL)]
    lines += [(points, "", method) for points in POINTS[data] for method in TRIED[data]]
    lines += [(1, "", FRESH), (5, "jitter", BASE)]
    if data == "demo":
        lines += [(0, "", FULL_TWICE), (5, "jitter", BEST), (5, "", FRESH)]
        lines += [(1, "per class", BASE), (1, "per class", BEST)]
    return {line: experiment(data, *line) for line in lines}


def experiment(data, points, family, method):
    """The Experiment of one line of `experiments_of`."""
    if (data, points, family, method) in SAME:  # trained as one of BASELINES
        return Experiment(numbered(SAME[data, points, family, method]), None)
    words = [data, str(points), *family.split(), *method.replace(",", "").split()]
    five = points == 1 if data == "demo" else points in (1, 5) and method in (BASE, PIXELS)
    runs = numbered("-".join(words), 5 if five else 3, "draw")
    more = (METHODS | OTHERS)[method]
    if more is None or family == "jitter":
        return Experiment(runs, None)
    flags = f"--data data/{data} {RECIPES[data]} {more} --points {points}"
    if data != "dubai" and method != LAST:  # the baseline too: a method adds something else
        flags += " --ema 0.98"
    if family:
        flags += " --points-per class"
    return Experiment(runs, flags, SCRIPTS.get(method, "train.py"))


def score_with_tta(rows):
    """Score the finished runs of Dubai's recipes with --tta."""
    for name, row in rows.items():
        if name.startswith(tuple(BASELINES)):
            score_again(RESULTS / "baseline_tta.csv", row, lambda scores: {
                "miou": scores["miou"], "pixel_accuracy": scores["pixel_accuracy"],
                "class_iou": class_iou(scores)}, "--tta")


def set_table(data, rows, p_values):
    """The table of a set, a list of dict; adds the p value of each comparison to p_values."""
    experiments = experiments_of(data)
    table = []
    for (points, family, method), one in experiments.items():
        there = [rows[name] for name in one.runs if name in rows]
        if not there:
            continue
        # Partial CE of another family is compared with partial CE from uniform points.
        other = experiments.get((points, "" if method == BASE else family, BASE))
        gains = paired_gains(one.runs, other.runs, rows) if other else []
        if len(gains) > 1 and method not in (PIXELS, BASE):
            p_values.append(paired_p(gains))
        full = experiments.get((0, "", FULL_TWICE if method == TWICE else FULL))
        floor = experiments.get((points, family, PIXELS))
        share, distance = shares(*(scores_of(some.runs, rows) if some else []
                                   for some in (one, full, floor)))
        table.append({
            "points per tile": f"{points or 'all'} {family}".strip(),
            "method": method,
            "labelled px": f"{int(there[0]['labelled_pixels']):,}",
            "mean IoU": mean_and_spread(scores_of(one.runs, rows)),
            "of every label": share if points else "",
            "distance covered": distance if method != PIXELS else "",
            "difference to partial CE": difference(gains),
            "by draw": listed(gains),
            "IoU by class": class_means(there)})
    return table


def shares(scores, full, floor):
    """Share of every label's mean IoU, and of the distance from the floor to it, as text."""
    if not full:
        return "", ""
    score, full = statistics.mean(scores), statistics.mean(full)
    if not floor:
        return f"{score / full:.0%}", ""
    floor = statistics.mean(floor)
    return f"{score / full:.0%}", f"{(score - floor) / (full - floor):.0%}"


def class_means(rows):
    """IoU by class, mean ± standard deviation over rows, as text."""
    draws = [json.loads(row["class_iou"]) for row in rows]
    means = {name: mean_and_spread([draw[name] for draw in draws], 2) for name in draws[0]}
    return ", ".join(f"{name} {mean}" for name, mean in means.items())


def baseline_table(rows):
    """Dubai's recipes on its test split, and what --tta adds."""
    averaged = {name: row | {"scored_on": rows[name]["scored_on"]} for name, row
                in read_rows(RESULTS / "baseline_tta.csv").items()}
    first = numbered("dubai-long-0")
    return [{"rows": f"{name}-*",
             "mean IoU": mean_and_spread(scores_of(numbered(name), rows)),
             "difference to the first": difference(
                 paired_gains(numbered(name), first, rows)),
             "with --tta": mean_and_spread(scores_of(numbered(name), averaged)),
             "difference to the first with --tta": difference(
                 paired_gains(numbered(name), first, averaged)),
             "--tta adds": difference(
                 paired_gains(numbered(name), numbered(name), averaged, rows))}
            for name in BASELINES]


def relabel_table(rows):
    """Other labels of the same tiles, whose code left the project, against points."""
    relabelled = read_rows(RESULTS / "relabel.csv")
    table = []
    for data, labels, other in RELABELLED:
        runs = numbered(f"{data}-{labels}", word="draw")
        others = numbered(f"{data}-{other}", word="draw")
        gains = paired_gains(runs, others, relabelled, rows)
        table.append({
            "set": data,
            "labels": labels,
            "mean IoU": mean_and_spread(scores_of(runs, relabelled)),
            "compared with": other,
            "its mean IoU": mean_and_spread(scores_of(others, rows)),
            "difference": difference(gains),
            "by draw": listed(gains)})
    return table


def all_rows():
    """The rows of points.csv and of baseline.csv by name."""
    return read_rows(RESULTS / "baseline.csv") | read_rows(RESULTS / "points.csv")


def report_lines():
    """The lines of points.md."""
    rows = all_rows()
    lines = [HEAD, "## dubai, recipes", "", *markdown(baseline_table(rows))]
    p_values = []
    for data in RECIPES:
        lines += ["", f"## {data}", "", *markdown(set_table(data, rows, p_values))]
    smallest = min(p_values, default=1)
    return [*lines, "", f"{len(p_values)} methods are compared with partial CE. The smallest p is "
            f"{smallest:.2g}, after Holm's correction {min(1, len(p_values) * smallest):.2g}."]


def main(args):
    """Run what is missing, then write the tables from all rows."""
    if not args.tables_only:
        make_demo(args)
        if "dubai" in args.sets:
            run_missing(RESULTS / "baseline.csv", [
                Experiment(numbered(name), flags and f"--data data/dubai {flags}")
                for name, flags in BASELINES.items()], args)
        for data in args.sets:
            run_missing(RESULTS / "points.csv", experiments_of(data).values(), args)
        score_with_tta(all_rows())
    write_report("points.md", report_lines())
    write_report("relabel.md", [RELABEL_HEAD, *markdown(relabel_table(all_rows()))])


if __name__ == "__main__":
    main(experiment_parser(__doc__).parse_args())
