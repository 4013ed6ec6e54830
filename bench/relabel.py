"""The same tiles under other labels: clicks that a network asked for, dense masks on few of them, its own map as labels.

    python bench/relabel.py --jobs 2                        the demo, made where it is missing
    python bench/relabel.py --roads data/roads              the roads too, prepared as few_points.py says
    python bench/relabel.py --dubai data/dubai              Dubai too, prepared as baseline.py says
    python bench/relabel.py --only demo-suggested           the runs whose names start so

suggested   1 random point a tile, and the 4 that suggest.py asks for after training on it; against 5 random ones, the
            first of which is the same
spaced      as suggested, from a network that doubts all pixels alike: what keeping a distance brings by itself
relabelled  1 random point a tile, and its network's own map where it is surer than on half of the class's pixels; against
            that network
dense       every label of so few tiles as take the annotation time of one point a class on all of them: 239.7 s against
            22.1 s an image, measured on photographs (Bearman 2016, "What's the point", section 4.1); against those points

Steps, flags and tiles a step are those of few_points.py, where the runs compared with come from too. Rows go to
results/relabel.csv; what is there is skipped. It ends with results/relabel.md.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, whose scenes.py is another

import torch
from few_points import BASELINE, DEMO, DUBAI, ROADS, flags_of
from few_points import TABLE as POINTS
from run_table import (
    difference,
    mean_and_spread,
    read_rows,
    run_missing,
    scores_in_pairs,
)

from data import TileDataset, choose_points, normalise
from engine.checkpoint import load_model
from weak.suggest import suggest_points

TABLE = ROOT / "results" / "relabel.csv"
DENSE_S, POINTS_S = 239.7, 22.1  # annotation time of an image, s
DRAWS = 3
FAMILIES = {"suggested": "5-partial-CE", "spaced": "5-partial-CE", "relabelled": "1-partial-CE", "dense": "1-per-class-partial-CE"}  # compared with


def main(args):
    """Make the sets, run what is missing, write the table."""
    sets = {"demo": (args.demo, DEMO), "roads": (args.roads, ROADS), "dubai": (args.dubai, DUBAI)}
    sets = {name: (folder, flags) for name, (folder, flags) in sets.items() if folder}
    if not (ROOT / args.demo).exists():
        subprocess.run([sys.executable, "prepare_data.py", "demo", "--out", args.demo], cwd=ROOT, check=True)
    for name, (folder, flags) in sets.items():
        flags = [*flags, *flags_of(name, BASELINE)]
        for draw in range(DRAWS):
            compared = [(f"{name}-1-partial-CE-draw{draw}", ["--points", 1]), (f"{name}-5-partial-CE-draw{draw}", ["--points", 5]),
                        (f"{name}-1-per-class-partial-CE-draw{draw}", ["--points", 1, "--points-per", "class"])]
            wanted = {family: f"{name}-{family}-draw{draw}" for family in FAMILIES
                      if f"{name}-{family}-draw{draw}".startswith(tuple(args.only))}
            if not wanted:
                continue
            needed = {compared[0][0], *(f"{name}-{FAMILIES[family]}-draw{draw}" for family in wanted)}
            run_missing(POINTS, [(run, ["--data", folder, *flags, *more, "--seed", draw]) for run, more in compared if run in needed],
                        ROOT / "runs" / "points", args.jobs)
            made = pathlib.Path("data/relabelled")
            start = ROOT / "runs" / "points" / compared[0][0] / "last.pt"
            for family, run in wanted.items():
                if run not in read_rows(TABLE):
                    write_set(ROOT / folder, ROOT / made / run, *LABELLED[family](TileDataset(ROOT / folder, "train"), draw, start))
            run_missing(TABLE, [(run, ["--data", made / run, *flags, "--points", 0, "--seed", draw])
                                for run in wanted.values()], ROOT / "runs" / "relabel", args.jobs)
    text = "\n".join(table_lines(sets, read_rows(TABLE), read_rows(POINTS))) + "\n"
    TABLE.with_suffix(".md").write_text("Written by `python bench/relabel.py` from relabel.csv and points.csv.\n\n" + text, "utf-8")
    print(text)


def probabilities_of(start, tiles):
    """What the network of a checkpoint gives for each tile: (K, H, W) tensors, one by one."""
    model, meta = load_model(start)
    with torch.inference_mode():
        for index in range(len(tiles)):
            yield model(normalise(tiles.get_batch([index])[0], meta["mean"], meta["std"], meta["nodata"]))[0].softmax(0)


def suggested(tiles, draw, start):
    """Each tile's first point, and four that the network asks for; a pixel without a label cannot be asked for.

    Args:
        tiles: Tiles with every label.
        draw: seed of the points.
        start: checkpoint of a network that learned from the first points.
    Returns:
        images (N, H, W, C) as stored, labels (N, H, W) uint8.
    """
    return tiles.images, first_and_asked(tiles, draw, probabilities_of(start, tiles))


def spaced(tiles, draw, _=None):
    """Each tile's first point, and four random ones that keep their distance; as `suggested`."""
    alike = torch.full((2, *tiles.labels.shape[1:]), 0.5)  # (K, H, W)
    return tiles.images, first_and_asked(tiles, draw, (alike for _ in range(len(tiles))))


def first_and_asked(tiles, draw, probabilities):
    """(N, H, W) uint8 labels: of each tile its first point and the four that suggest.py takes, given probabilities."""
    labels = torch.full_like(tiles.labels, tiles.ignore)
    for index, one in enumerate(probabilities):
        known = tiles.labels[index].numpy() != tiles.ignore
        first = choose_points(tiles.labels[index].numpy(), 1, draw, index)
        keep(labels[index], tiles.labels[index], [*first, *suggest_points(one, 4, first, where=known, seed=index)])
    return labels


def relabelled(tiles, draw, start):
    """Each tile's first point, and the network's map where it is surer than the median of the class it says; as `suggested`."""
    sure, labels = zip(*(probabilities.max(0) for probabilities in probabilities_of(start, tiles)))
    sure, labels = torch.stack(sure), torch.stack(labels).to(torch.uint8)  # (N, H, W) each
    for k in labels.unique():
        here = labels == k
        labels[here & (sure < sure[here].median())] = tiles.ignore
    for index, truth in enumerate(tiles.labels):
        keep(labels[index], truth, choose_points(truth.numpy(), 1, draw, index))
    return tiles.images, labels


def dense(tiles, draw, _=None):
    """Every label of a few tiles, repeated until they are as many as before: the same steps on fewer tiles; as `suggested`."""
    few = np.random.default_rng(draw).permutation(len(tiles))[:round(len(tiles) * POINTS_S / DENSE_S)]
    return tiles.get_batch(np.resize(few, len(tiles)))


LABELLED = {"suggested": suggested, "spaced": spaced, "relabelled": relabelled, "dense": dense}


def keep(labels, truth, positions):
    """Write the truth (H, W) into labels (H, W) at positions row * W + col."""
    labels.view(-1)[list(positions)] = truth.reshape(-1)[list(positions)]


def write_set(source, target, images, labels):
    """Write a prepared set with other training tiles; all else is linked to the one it comes from, tiles.csv too.

    Args:
        source, target: folders.
        images: (N, H, W, C); labels: (N, H, W) uint8.
    """
    target.mkdir(parents=True, exist_ok=True)
    meta = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    meta["pixels"]["train"] = np.bincount(labels.numpy().reshape(-1), minlength=256)[:len(meta["classes"])].tolist()
    for path in source.iterdir():
        if path.name not in ("dataset.json", "train_images.npy", "train_labels.npy") and not (target / path.name).exists():
            (target / path.name).symlink_to(path.resolve())
    np.save(target / "train_images.npy", images.numpy())
    np.save(target / "train_labels.npy", labels.numpy())
    (target / "dataset.json").write_text(json.dumps(meta), encoding="utf-8")


def table_lines(sets, rows, points):
    """A line a set and family in Markdown; differences are paired, draw by draw."""
    lines = ["| set | labels | mean IoU | compared with | mean IoU | difference, points of mean IoU | draws |", "|---|---|---|---|---|---|---|"]
    for name in sets:
        for family, other in FAMILIES.items():
            pairs = scores_in_pairs([(f"{name}-{family}-draw{draw}", f"{name}-{other}-draw{draw}") for draw in range(DRAWS)],
                                    rows, points)
            if pairs:
                ours, theirs = zip(*pairs)
                lines.append(f"| {name} | {family} | {mean_and_spread(ours, '.3f')} | {other.replace('-', ' ')} | "
                             f"{mean_and_spread(theirs, '.3f')} | {difference(pairs)} | {len(pairs)} |")
    return lines


def parse_args(argv=None):
    """The command line; `python bench/relabel.py --help` shows it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--demo", default="data/demo", help="the prepared demo; made where it is missing")
    parser.add_argument("--roads", help="the prepared road set, see few_points.py; not given: left out")
    parser.add_argument("--dubai", help="Dubai in its standard form, see baseline.py; not given: left out")
    parser.add_argument("--only", nargs="*", default=[""], metavar="START", help="run those whose names start so")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse_args())
