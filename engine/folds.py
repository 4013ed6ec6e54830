"""Cross-validation: scores from all labels, though the final network learns from all of them.

Network 1 to K learns from the labels of all folds but its own, which score it. Neighbouring pixels
are alike, so whole squares of ground go to one fold:

    cell   a square on the ground; all labels in it are in one fold
    gap    labels that lie this near to a held-out one are not learned from either
"""

import argparse
import copy
import math
import pathlib
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np

from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.prepared import tile_positions

CELLS_PER_FOLD = 8  # so many at least, if the labels lie apart
LEAST_CELL = 32.0  # side of a cell, px
BLOCK = 4  # px; nearness is that of blocks of this side
GAP_BLOCKS = 2  # so a gap is 8 to 12 px wide


class Labels(NamedTuple):
    """The labelled pixels of some tiles, (n,) int64 each."""
    tile: np.ndarray  # index
    place: np.ndarray  # in the tile, row * W + col
    site: np.ndarray  # number of the site
    row: np.ndarray  # in the scene, px
    col: np.ndarray
    label: np.ndarray  # class


def find_labels(tiles):
    """Find where the labels of training tiles lie on the ground.

    Sets of earlier versions do not state how scenes of a site lie to each other. All labels of such
    a site have one position, so that they are in one cell.

    Args:
        tiles: data.TileDataset of the split "train".
    Returns:
        Labels.
    """
    positions = tile_positions(tiles.folder, "train", len(tiles))
    site_of = tiles.meta.get("places", {})
    grids = tiles.meta.get("grids", {})
    scenes_in = Counter(site_of.get(scene, scene) for scene in {scene for scene, _, _ in positions})
    numbers = {}  # {grid or site: number}
    parts = []
    for index, (scene, top, left) in enumerate(positions):
        tile = tiles.labels[index].numpy()
        place = np.flatnonzero(tile != tiles.ignore)
        if tiles.points is not None:
            place = tiles.points[index]
        site = site_of.get(scene, scene)
        row, col = np.divmod(place, tile.shape[1]) + np.array([[top], [left]])
        if scene in grids:
            site, top, left = grids[scene]
            row, col = row + top, col + left
        elif scenes_in[site] > 1:
            row, col = np.zeros((2, len(place)), np.int64)
        number = numbers.setdefault(site, len(numbers))
        label = tile.reshape(-1)[place].astype(np.int64)
        parts.append((np.full_like(place, index), place, np.full_like(place, number), row, col,
                      label))
    labels = Labels(*map(np.concatenate, zip(*parts)))
    return labels._replace(row=labels.row - labels.row.min(initial=0),
                           col=labels.col - labels.col.min(initial=0))


def cell_keys(labels, side):
    """Number the squares of ground, `side` px wide, row by row.

    Args:
        labels: Labels.
        side: px.
    Returns:
        (n,) int64, the square of each label; and the difference between the numbers of a square and
        of the one below. Between rows, and between sites, some numbers belong to no square.
    """
    row = (labels.row // side).astype(np.int64)
    col = (labels.col // side).astype(np.int64)
    height = row.max() + 1 + 2 * GAP_BLOCKS
    width = col.max() + 1 + 2 * GAP_BLOCKS
    return (labels.site * height + row) * width + col, width


def find_cells(labels, wanted):
    """Cut the ground into the largest squares of which so many hold labels.

    Args:
        labels: Labels.
        wanted: number of cells; there are fewer where squares of LEAST_CELL are too few.
    Returns:
        (n,) the cell of each label, from 0; and the side of a cell, px.
    """
    side = max(LEAST_CELL, labels.row.max() + 1.0, labels.col.max() + 1.0)
    while True:
        keys, _ = cell_keys(labels, side)
        cells = np.unique(keys, return_inverse=True)[1]
        if side == LEAST_CELL or cells.max() + 1 >= wanted:
            return cells, side
        side = max(LEAST_CELL, side / math.sqrt(2))


def deal_cells(counts, folds):
    """Give cells to folds so that each class is spread over them as evenly as its cells allow.

    The rarest class comes first, and of its cells that with most labels. Each goes to the fold with
    fewest labels of the class, and of those to the one with fewest labels.

    Args:
        counts: (C, K) labels of each class in each cell; folds: their number, at most C.
    Returns:
        (C,) int64, the fold of each cell, from 1; no fold is empty.
    """
    fold_of = np.zeros(len(counts), np.int64)
    given = np.zeros((folds, counts.shape[1]), np.int64)
    for k in np.argsort(counts.sum(0), kind="stable"):
        for cell in np.argsort(-counts[:, k], kind="stable"):
            if counts[cell, k] and not fold_of[cell]:
                fold = min(range(folds), key=lambda fold: (given[fold, k], given[fold].sum()))
                given[fold] += counts[cell]
                fold_of[cell] = fold + 1
    return fold_of


def assign_folds(labels, folds, num_classes):
    """The fold (n,) of each of Labels, 1 to `folds`, and the side of a cell, px.

    Raises:
        ValueError: there are fewer cells than folds, or less than two folds.
    """
    cells, side = find_cells(labels, CELLS_PER_FOLD * folds if folds > 1 else math.inf)
    count = cells.max() + 1
    if not 2 <= folds <= count:
        advice = f"give 2 to {count}" if count > 1 else "label ground farther apart"
        raise ValueError(f"--folds {folds}: the labels lie in {count} squares of {side:.0f} px, "
                         f"and each is in one fold: {advice}")
    counts = np.zeros((count, num_classes), np.int64)
    np.add.at(counts, (cells, labels.label), 1)
    return deal_cells(counts, folds)[cells], side


def learned_labels(labels, fold_of, fold):
    """Which labels the network of a fold learns from: those beyond the gap around its own.

    Args:
        labels: Labels.
        fold_of: (n,) the fold of each.
        fold: which one, from 1.
    Returns:
        (n,) bool.
    Raises:
        ValueError: none is left.
    """
    keys, width = cell_keys(labels, BLOCK)
    held_out = np.unique(keys[fold_of == fold])
    blocks, block_of = np.unique(keys, return_inverse=True)
    near = np.zeros(len(blocks), bool)
    reach = range(-GAP_BLOCKS, GAP_BLOCKS + 1)
    for down in reach:
        for right in reach:
            near |= np.isin(blocks + down * width + right, held_out)
    if near.all():
        raise ValueError(f"--folds: all labels lie within {GAP_BLOCKS * BLOCK} px of those of fold "
                         f"{fold}: label ground farther apart")
    return ~near[block_of]


def take_fold(tiles, folds, fold):
    """Split training tiles into those that the network of a fold learns from, and the held-out.

    Args:
        tiles: data.TileDataset of the split "train", with all labels of the run.
        folds: their number.
        fold: which one, from 1; 0 is the network that learns from all of them.
    Returns:
        two TileDatasets; of fold 0 `tiles` itself and None.
    Raises:
        ValueError: as `assign_folds` and, of any fold, `learned_labels`.
    """
    labels = find_labels(tiles)
    fold_of, _ = assign_folds(labels, folds, len(tiles.class_counts))
    if fold == 0:
        for other in range(1, folds + 1):
            learned_labels(labels, fold_of, other)
        return tiles, None
    parts = []
    for chosen in (learned_labels(labels, fold_of, fold), fold_of == fold):
        ends = np.searchsorted(labels.tile[chosen], np.arange(1, len(tiles)))
        parts.append(keep_labels(tiles, np.split(labels.place[chosen], ends)))
    return parts


def keep_labels(tiles, points):
    """Copy tiles into memory with fewer labels, without tiles that have no label left.

    Args:
        tiles: data.TileDataset.
        points: list of N arrays of positions row * W + col, the labels to keep.
    Returns:
        TileDataset.
    """
    kept = [index for index, chosen in enumerate(points) if len(chosen)]
    part = copy.copy(tiles)
    part.points = points
    part.images, part.labels = part.get_batch(kept)
    part.points = [points[index] for index in kept]
    classes = part.labels[part.labels != tiles.ignore].numpy()
    part.class_counts = np.bincount(classes, minlength=len(tiles.class_counts))
    part.labelled_pixels = len(classes)
    return part


def describe_folds(tiles, folds):
    """Describe the folds in a line, and warn of classes that a network misses, a line each.

    Args:
        tiles, folds: as for `take_fold`.
    Returns:
        text; list of warnings.
    """
    names = [entry["name"] for entry in tiles.meta["classes"]]
    labels = find_labels(tiles)
    fold_of, side = assign_folds(labels, folds, len(names))
    sizes = np.bincount(fold_of, minlength=folds + 1)[1:]
    text = (f"{folds} folds of {sizes.min():,} to {sizes.max():,} labelled px, in squares of "
            f"{side:.0f} px; {folds} networks score them, and the last one learns from all")
    present = np.bincount(labels.label, minlength=len(names)) > 0
    warnings = []
    for fold in range(1, folds + 1):
        learned = labels.label[learned_labels(labels, fold_of, fold)]
        missed = present & (np.bincount(learned, minlength=len(names)) == 0)
        if missed.any():
            lost = ", ".join(name for name, is_missed in zip(names, missed) if is_missed)
            warnings.append(f"fold {fold} holds all labels of {lost}, so that its network never "
                            "sees them and scores too low there: label more of it elsewhere")
    absent = [name for name, is_present in zip(names, present) if not is_present]
    if absent:
        warnings.append(f"no label of {', '.join(absent)} is used, so that it is neither learned "
                        "nor scored")
    return text, warnings


def train_folds(train, args, tiles):
    """Train the network of each fold in a run folder of its own, <out>/fold-1 and so on.

    Args:
        train: function that trains the run of a Namespace of flags, or goes on with it.
        args: flags of the whole run; tiles: as for `take_fold`.
    Raises:
        KeyboardInterrupt: stopped by a signal.
    """
    text, warnings = describe_folds(tiles, args.folds)
    print(text)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    for fold in range(1, args.folds + 1):
        folder = pathlib.Path(args.out, f"fold-{fold}")
        if (folder / "metrics.json").exists():  # finished
            continue
        print(f"\nfold {fold} of {args.folds}:", flush=True)
        own = {"out": str(folder), "fold": fold, "resume": (folder / "last.pt").exists()}
        try:
            train(argparse.Namespace(**vars(args) | own))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped in fold {fold} of {args.folds}; go on with: python "
                                    f"train.py --out {args.out} --resume") from None
    print("\nthe network that learns from all labels:", flush=True)


def add_scores(path, scores):
    """Add a dict of scores, plain types, to the metadata of a checkpoint."""
    content = load_checkpoint(path)
    content["data"]["scores"] = scores
    save_checkpoint(path, content["model"], content["data"], content["train"], content["args"])
