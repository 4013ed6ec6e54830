"""Score a checkpoint on a split of a prepared data set, compare runs on it, or check a map.

    python evaluate.py --checkpoint runs/demo-unet-1 --split test
    python evaluate.py --compare runs/demo-unet-1 runs/demo-unet-2
    python evaluate.py --map maps/scene_classes.tif --check-points checked.geojson

The first prints tables and writes metrics_<split>.json, scenes_<split>.csv, areas_<split>.csv,
confusion.png, panels.png and reliability.png beside the checkpoint. The second writes
comparison.csv and comparison.png. The network, its classes and its normalisation come from the
checkpoint. The third needs no checkpoint: it scores any class map, see sources/map_check.py.
"""

import engine.startup  # first: what may happen while torch is imported
import pathlib
import sys
from typing import NamedTuple

from engine.cli import Parser, number, one_line_errors, parse_first


def parse_args(argv=None):
    """The command line; `python evaluate.py --help` shows it."""
    parser = Parser(
        description="Score a checkpoint on a prepared data set, compare runs on it, check a map.",
        epilog="example: python evaluate.py --checkpoint runs/demo-unet-1 --split val")
    group = parser.add_argument_group("what to score, one of the three")
    flag = group.add_mutually_exclusive_group(required=True).add_argument
    flag("--checkpoint", metavar="RUN", help="a run's folder (its best.pt, else its last.pt), or "
         "one of its .pt files")
    flag("--compare", nargs="+", metavar="RUN", help="two or more runs, each scored with the "
         "weights that its metrics.json is of, else best.pt; or .pt files; differences are to the "
         "first")
    flag("--map", metavar="TIF", help="a finished class map of any program, one band of class ids; "
         "with --check-points")
    flag = parser.add_argument_group("on what").add_argument
    flag("--check-points", metavar="FILE", help="with --map: points of known class that no "
         "training used, in a form that prepare_data.py points reads")
    flag("--classes", metavar="CSV", help="with --map: ids and names of the map's classes, as for "
         "prepare_data.py; default: the names beside the map (.aux.xml), else its ids")
    flag("--class-column", metavar="NAME", help="of --check-points: the column of the classes")
    flag("--layer", metavar="NAME", help="of --check-points: the layer, where there are several")
    flag("--data", metavar="FOLDER", help="prepared data set; default: the one the checkpoint was "
         "trained on")
    flag("--split", default="test", choices=("train", "val", "test"), help="tiles to score")
    flag("--areas", nargs="+", metavar="CSV", help="tables of areas that predict.py wrote for a "
         "map, to be adjusted for its errors; default: the labelled pixels of this split")
    flag = parser.add_argument_group("how").add_argument
    flag("--out", metavar="FOLDER", help="where the files go; default: the checkpoint's folder, or "
         "with --compare the working folder")
    flag("--tta", action="store_true", help="average the probabilities over the eight symmetries "
         "of the square, as predict.py --tta does")
    flag("--calibrate", action="store_true", help="fit a temperature to the split, best val, and "
         "write it into the checkpoint: probabilities are then as high as they are often right")
    flag("--bs", type=number(int, 1), default=16, help="tiles per batch")
    flag("--amp", choices=("auto", "bf16", "off"), help="precision, as train.py --amp; default: "
         "the one in which the run was trained")
    flag("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="mps is untested")
    return parser.parse_args(argv)


if __name__ == "__main__":  # before torch is imported, which takes seconds
    ARGS = parse_first(parse_args)

import torch
from tqdm import tqdm

from data import TileDataset, normalise, prefetch
from engine.checkpoint import find_checkpoint, load_checkpoint, load_model
from engine.device import amp_dtype, autocast, describe_amp, pick_device
from engine.distributed import all_reduce, disable_tqdm, init_distributed, rank_and_size
from engine.files import whole_files
from engine.meta import checkpoint_meta
from engine.prepared import load_meta, tile_positions
from geo.windows import averaged_logits
from losses import build_loss, count_labelled
from metrics import ConfusionMatrix, class_map


def main(args):
    """Score and write; return the scores as written, with --compare a list of them."""
    if args.compare and (len(args.compare) < 2 or args.areas):
        raise ValueError("--compare: give two or more runs, and no --areas")
    if bool(args.map) != bool(args.check_points):
        raise ValueError("--map and --check-points: give both, or none")
    if args.calibrate and args.tta:
        raise ValueError("--calibrate: the temperature is that of the network without --tta: leave "
                         "--tta out")
    if args.map:
        from sources.map_check import check_map
        return check_map(args.map, args.check_points, args.classes, args.out, args.class_column,
                         args.layer)
    device = pick_device(args.device)
    rank, _ = init_distributed(device)
    if args.compare:
        return compare_runs(args, device, rank)
    run = score(find_checkpoint(args.checkpoint), args.data, args, device)
    if args.calibrate and not rank:
        from report.calibration import calibrate
        return calibrate(run, args.split, args.bs, device)
    return None if rank else report_run(run, args, device)


class ScoredRun(NamedTuple):
    """A checkpoint, and the counts of one pass over a split."""
    checkpoint: pathlib.Path
    model: torch.nn.Module
    meta: dict  # the checkpoint's
    trained: dict  # flags of the training
    labelled_pixels: int  # that the network learned from
    data: str  # folder of the data set
    tiles: TileDataset
    positions: list  # (scene, row, col) of each tile, px
    matrix: ConfusionMatrix
    loss: float
    stats: object  # report.stats.EvalStats


def score(checkpoint, data, args, device):
    """Score a checkpoint in one pass over a split.

    Args:
        checkpoint: its path.
        data: folder of the data set, or None for the one it was trained on.
        args: the command's; device: torch.device.
    Returns:
        ScoredRun.
    """
    from report.compare import check_same_data
    from report.stats import EvalStats, contiguous_blocks
    content = load_checkpoint(checkpoint)
    model, meta = load_model(checkpoint, device)
    try:
        criterion = build_loss(content["args"]["loss"])
        labelled_pixels = int(content["train"]["labelled_pixels"])
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError(f"{checkpoint} lacks its loss or its number of labelled pixels: give "
                         "another checkpoint of the run") from None
    data = data or str(content["args"].get("data"))
    if "scores" in meta and not load_meta(data)["tiles"][args.split]:
        raise ValueError(f"--split {args.split}: {data} has no {args.split} tile; the scores of "
                         f"the folds are in {checkpoint.parent / 'metrics.json'}")
    tiles = TileDataset(data, args.split)
    if args.split == "train" and not (args.data or args.calibrate):
        print("warning: the network has learned from the labels of the train split: its scores "
              "there, and their intervals, say nothing of other ground", file=sys.stderr)
    check_same_data(meta, checkpoint_meta(tiles.meta), checkpoint, data)
    if not args.data and [meta["mean"], meta["std"]] != [tiles.meta["mean"], tiles.meta["std"]]:
        print(f"warning: {data} was prepared anew since the training, so the network may have "
              f"learned from tiles that are in {args.split} now", file=sys.stderr)
    positions = tile_positions(data, args.split, len(tiles))
    # A comparison draws whole sites; a report keeps the scenes of a site apart.
    site_of = tiles.meta.get("places") if args.compare else None
    blocks = contiguous_blocks(positions, tiles.meta["tile"], site_of)
    stats = EvalStats(len(meta["classes"]), blocks, tiles.ignore, model.temperature)
    amp = args.amp or content["args"].get("amp")  # as the run scored itself
    print(f"scoring {checkpoint} on {describe_amp(device, amp)}")
    matrix, loss = evaluate(model, tiles, meta, device, args.bs, criterion, amp_dtype(device, amp),
                            stats, args.tta)
    return ScoredRun(checkpoint, model, meta, content["args"], labelled_pixels, data, tiles,
                     positions, matrix, loss, stats)


def evaluate(model, tiles, meta, device, batch_size=16, criterion=None, amp=None, stats=None,
             tta=False):
    """Run a model over a split, each tile once, and count what it predicts.

    Under torchrun each process takes its share of the batches, and all return the whole counts.

    Args:
        model: (B, C, H, W) -> (B, K, H, W) logits; left in eval mode.
        tiles: data.TileDataset.
        meta: dict with mean, std and classes, the checkpoint's.
        device: torch.device; batch_size: tiles per batch.
        criterion: from `losses.build_loss`, or None.
        amp: torch.bfloat16 or torch.float16 for the network, or None for float32.
        stats: report.stats.EvalStats to update as well, or None.
        tta: average the probabilities over the eight symmetries of the square.
    Returns:
        (ConfusionMatrix, mean loss over the labelled pixels; NaN without a criterion or labels).
    """
    model.eval()
    matrix = ConfusionMatrix(len(meta["classes"]), tiles.ignore)
    loss_sum = torch.tensor(0.0)
    num_labelled = torch.tensor(0.0)
    nodata = tiles.meta.get("nodata")
    rank, world_size = rank_and_size()
    starts = range(0, len(tiles), batch_size)[rank::world_size]  # first tile of each batch

    def read(start):
        return tiles.get_batch(range(start, min(start + batch_size, len(tiles))))

    progress = tqdm(prefetch(read, starts), "scoring", len(starts), unit="batch",
                    disable=disable_tqdm(), leave=False)
    with torch.inference_mode():
        for start, (images, labels) in zip(starts, progress):
            labels = labels.to(device)
            images = normalise(images.to(device), meta["mean"], meta["std"], nodata)
            with autocast(device, amp):
                logits = averaged_logits(model, images) if tta else model(images)
            prediction = class_map(logits)
            matrix.update(prediction, labels)
            if stats:
                stats.update(start, logits.float(), prediction, labels)
            if criterion:
                labelled = count_labelled(labels, ignore=tiles.ignore)
                loss_sum = loss_sum + criterion(logits.float(), labels) * labelled
                num_labelled = num_labelled + labelled
    totals = torch.tensor([float(loss_sum), float(num_labelled)], dtype=torch.float64)
    if world_size > 1:
        for counts in [matrix.counts, totals, *(stats.tensors() if stats else [])]:
            counts.copy_(all_reduce(counts.to(device)))
    return matrix, float(totals[0] / totals[1])  # 0 / 0 is NaN


def report_run(run, args, device):
    """Print a scored run's tables; write its scores, tables and pictures.

    Returns:
        the dict of metrics_<split>.json.
    """
    from report.areas import read_areas
    from report.evaluation import split_tables, tables_text, write_files
    from report.closing import write_scores
    from report.floors import floor_scores, score_report, training_tiles
    from report.panels import is_point_set
    split = args.split
    names = run.meta["classes"]
    mapped = read_areas(args.areas, names) if args.areas else None
    floors = floor_scores(training_tiles(run.trained), run.meta, run.tiles)
    text, worth, admission = score_report(run.matrix, run.meta, run.tiles, floors)
    tables = split_tables(run.stats, run.matrix.counts, run.positions, names,
                          run.tiles.meta.get("gsd_m"), mapped,
                          worth.get("intervals", {}).get("observations"))
    print(f"{run.checkpoint} on {run.data}, split {split}: {len(run.tiles)} tiles, "
          f"{run.tiles.labelled_pixels:,} labelled px, loss {run.loss:.4f}")
    print(text, tables_text(tables, is_point_set(run.tiles), bool(mapped)), sep="\n\n")
    extra = {key: table for key, table in tables.items() if key != "scenes"}
    with whole_files(pathlib.Path(args.out or run.checkpoint.parent)) as out:
        path = out / f"metrics_{split}.json"
        scores = write_scores(path, run.matrix, run.meta, run.labelled_pixels, split,
                              run.checkpoint, {"tta": args.tta, **extra, **worth})
        paths = [path, *write_files(out, run, split, tables, device)]
    next_step = f"next: python predict.py --checkpoint {run.checkpoint} SCENE.tif --out maps"
    print(*(out.parent / path.name for path in paths), next_step, *admission, sep="\n")
    return scores


def compare_runs(args, device, rank):
    """Score the runs of --compare on the same tiles; print and write how far apart they are.

    Returns:
        list of dict, the rows of comparison.csv; None on ranks above 0.
    """
    from report.compare import common_data, run_checkpoint, write_comparison
    checkpoints = [run_checkpoint(run) for run in args.compare]
    data = args.data or common_data(checkpoints)
    runs = [score(checkpoint, data, args, device) for checkpoint in checkpoints]
    if rank:
        return None
    return write_comparison(pathlib.Path(args.out or "."), args.compare, checkpoints,
                            [run.stats for run in runs], [run.labelled_pixels for run in runs],
                            runs[0].meta["classes"])


if __name__ == "__main__":
    with one_line_errors("evaluate.py", "run it again", "lower --bs"):
        main(ARGS)
