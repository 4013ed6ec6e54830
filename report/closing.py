"""The closing report of a run: its pictures, metrics.json, tables and the next command."""

import json
import pathlib

from engine.folds import add_scores
from report.figures import save_png
from report.floors import score_report, training_tiles
from report.folds import fold_networks, pooled_scores
from report.panels import learning_curves, previews


def report_folds(run, args, meta, device):
    """Give the network that learned from all labels the scores of those of the folds.

    Args:
        run: engine.runs.TrainState; args: its flags.
        meta: the checkpoint's metadata; device: torch.device.
    Returns:
        the dict of metrics.json.
    """
    tiles = training_tiles(vars(args))
    matrix, floors = pooled_scores(args.out, args.folds, tiles)
    sources = [(model, held_out, held_out)
               for model, held_out in fold_networks(args.out, vars(args), device)]
    split = f"{args.folds} folds"
    picture = previews(sources, meta, device, title=f"{args.out}, held out by {split},")
    return write_report(run, args, meta, split, tiles, matrix, floors, picture)


def write_report(run, args, meta, split, tiles, matrix, floors, picture):
    """Write and print the scores of a run: a folder with metrics.json is a finished run.

    Args:
        run, args, meta: as for `report_folds`.
        split: name of what was scored; tiles: its TileDataset; matrix: its ConfusionMatrix.
        floors: see `score_report`; picture: preview.png.
    Returns:
        the dict of metrics.json.
    """
    folder = pathlib.Path(args.out)
    checkpoint = folder / f"{args.final}.pt"
    paths = save_pictures(run, args, picture)
    text, worth, admission = score_report(matrix, meta, tiles, floors)
    if args.folds and not args.fold:
        worth["folds"] = args.folds
        add_scores(checkpoint, {**matrix.scores(meta["classes"]), **worth})
    scores = write_scores(folder / "metrics.json", matrix, meta, run.labelled_pixels, split,
                          checkpoint, worth)
    if args.fold:
        print(f"{split}: accuracy {matrix.pixel_accuracy():.3f}, mean IoU {matrix.miou():.3f} over "
              f"the {matrix.labelled_pixels():,} labelled px that it held out")
        return scores
    print(f"{split}{'' if args.folds else ' split'}, {checkpoint}:\n{text}")
    if split == "val" and args.final == "best":
        print("there is no test split, and the validation split chose the weights: scores on new "
              "ground tend to be lower (--final last chooses none)")
    print(*paths, folder / "metrics.json", next_command(args), *admission, sep="\n")
    return scores


def save_pictures(run, args, picture):
    """Write preview.png, which is given, and curves.png; return their paths."""
    run.check_folder()
    folder = pathlib.Path(args.out)
    save_png(learning_curves(folder / "log.csv"), folder / "curves.png")
    save_png(picture, folder / "preview.png")
    return folder / "preview.png", folder / "curves.png"


def next_command(args):
    """The line that names the command after this one."""
    return f"next: python predict.py --checkpoint {args.out}/{args.final}.pt SCENE.tif --out maps"


def write_scores(path, matrix, meta, labelled_pixels, split, checkpoint, extra=None):
    """Write metrics.json: every score, and what was scored.

    Args:
        path: the file to write.
        matrix: ConfusionMatrix.
        meta: the checkpoint's metadata.
        labelled_pixels: labelled training pixels that the run was given.
        split, checkpoint: what was scored.
        extra: dict of more to write, plain types.
    Returns:
        the dict that was written.
    """
    scores = {**matrix.scores(meta["classes"]), "labelled_pixels": int(labelled_pixels),
              "split": split, "checkpoint": str(checkpoint), **(extra or {})}
    temporary = pathlib.Path(f"{path}.tmp")
    text = json.dumps(scores, indent=1, allow_nan=False) + "\n"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return scores
