"""The report on one scored split: class boundaries, calibration, scenes, areas, pictures."""

import math

from metrics import ConfusionMatrix, plain
from report.areas import area_rows
from report.figures import save_png
from report.matrices import confusion_figure
from report.panels import reliability_figure, tile_panels
from report.stats import BOUNDARY_WIDTH, expected_calibration_error
from report.tables import text_table, write_rows

SHOWN_SCENES = 10  # in the terminal; the file has all of them


def split_tables(stats, counts, positions, names, gsd_m=None, mapped=None, observations=None):
    """Everything that is reported of a split beside its confusion matrix, as plain types.

    Args:
        stats: EvalStats.
        counts: (K, K) confusion matrix of the split.
        positions: list of (scene, row, col) of each tile.
        names: K class names.
        gsd_m: size of a pixel, m, or None where it is not known.
        mapped: mapped areas and their sum, as `read_areas` returns them; None: those of the
            labelled pixels.
        observations: how many independent observations the counts are worth; None: each is one.
    Returns:
        {"boundary", "calibration_error", "uncalibrated_error", "areas", "scenes"}.
    """
    if mapped is None:
        # Only labelled pixels, because tiles at a scene's edge are filled up by mirroring.
        total_ha = int(counts.sum()) * gsd_m ** 2 / 1e4 if gsd_m else None
        mapped = counts.sum(0).tolist(), total_ha
    areas, total_ha = mapped
    sample = counts.double()
    if observations is not None:
        sample = sample * observations / counts.sum()
    return {"boundary": boundary_scores(stats, names),
            "calibration_error": plain(stats.calibration_error()),
            "uncalibrated_error": plain(expected_calibration_error(stats.uncalibrated_bins)),
            "areas": area_rows(sample, areas, names, total_ha),
            "scenes": scene_rows(stats, positions, names)}


def boundary_scores(stats, names):
    """Mean IoU and IoU per class near the class boundaries of the truth, and beyond.

    Args:
        stats: EvalStats.
        names: K class names.
    Returns:
        {"width_px", "within": {"pixels", "miou", "iou": {name: IoU}}, "beyond": the same}; NaN is
        None.
    """
    within = stats.boundary_confusion
    beyond = stats.counts.sum(0) - within
    scores = {"width_px": BOUNDARY_WIDTH}
    for where, counts in (("within", within), ("beyond", beyond)):
        matrix = ConfusionMatrix(len(names), counts=counts)
        scores[where] = {"pixels": matrix.labelled_pixels(), "miou": plain(matrix.miou()),
                         "iou": class_iou(matrix, names)}
    return scores


def class_iou(matrix, names):
    """{class name: IoU} of a ConfusionMatrix; NaN is None."""
    return {name: plain(value) for name, value in zip(names, matrix.iou())}


def scene_rows(stats, positions, names):
    """The scores of each scene, the worst first.

    Args:
        stats: EvalStats, whose blocks are within scenes.
        positions: list of (scene, row, col) of each tile.
        names: K class names.
    Returns:
        list of {"scene", "tiles", "pixels", "miou", "pixel_accuracy", and "iou_<class>" per
        class}; NaN is None.
    """
    tiles_of = {}
    for tile, (scene, _, _) in enumerate(positions):
        tiles_of.setdefault(scene, []).append(tile)
    rows = []
    for scene, tiles in tiles_of.items():
        blocks = stats.blocks[tiles].unique()
        matrix = ConfusionMatrix(len(names), counts=stats.counts[blocks].sum(0))
        row = {"scene": scene, "tiles": len(tiles), "pixels": matrix.labelled_pixels(),
               "miou": plain(matrix.miou()), "pixel_accuracy": plain(matrix.pixel_accuracy())}
        row |= {f"iou_{name}": value for name, value in class_iou(matrix, names).items()}
        rows.append(row)
    return sorted(rows, key=lambda row: math.inf if row["miou"] is None else row["miou"])


def tables_text(tables, are_points=False, of_map=False):
    """Format the tables of `split_tables` as text, without a newline at its end.

    Args:
        tables: of `split_tables`.
        are_points: whether the split is labelled by points, which have no class boundaries.
        of_map: whether the areas are those of a map, not of the labelled pixels.
    """
    boundary, scenes = tables["boundary"], tables["scenes"]
    error = _three_digits(tables["calibration_error"])
    without = _three_digits(tables["uncalibrated_error"])
    pixels = sum(row["pixels"] for row in scenes)
    shown = ""
    if len(scenes) > SHOWN_SCENES:
        shown = f", the worst {SHOWN_SCENES} of {len(scenes)}"
    lines = []
    if not are_points:
        rows = [{"class boundaries": f"within {boundary['width_px']} px", **boundary["within"]},
                {"class boundaries": "beyond", **boundary["beyond"]}]
        lines += [text_table(rows, ["class boundaries", "pixels", "miou"]), ""]
    lines += [
        f"expected calibration error {error} over {pixels:,} labelled pixels"
        + (f", without the temperature {without}" if without != error else ""),
        "",
        f"scenes{shown}:",
        text_table(scenes[:SHOWN_SCENES], ["scene", "tiles", "pixels", "miou", "pixel_accuracy"]),
        "pixels are labelled pixels, and miou is over the classes in their truth or prediction"]
    if are_points and not of_map:
        return "\n".join([*lines, "", "no areas, because points cover none: predict a scene, then "
                          "give its table by --areas maps/SCENE_areas.csv"])
    lines += ["", "mapped areas, adjusted for the map's errors (Olofsson et al. 2014), with half "
              "their 95 % interval:", text_table(tables["areas"])]
    if are_points:
        lines += ["These take the points as a random sample of the map, or of each of its classes.",
                  "Points that were chosen by hand make a map look better than it is."]
    else:
        lines += ["These take the labelled pixels of the split as a random sample of the mapped "
                  "area.",
                  "They lie side by side and neighbours are alike: the true intervals are wider."]
    return "\n".join(lines)


def _three_digits(value):
    """A number as text, None as a dash."""
    return "-" if value is None else f"{value:.3f}"


def write_files(out, run, split, tables, device):
    """Write a scored run's tables of scenes and areas, and its pictures.

    Args:
        out: the folder, pathlib.Path.
        run: evaluate.ScoredRun.
        split: its name, for the titles.
        tables: of `split_tables`.
        device: torch.device.
    Returns:
        list of the paths.
    """
    paths = []
    for name in ("scenes", "areas"):
        paths.append(out / f"{name}_{split}.csv")
        write_rows(paths[-1], tables[name])
    title = f"{run.checkpoint.resolve().parent.name} on {run.data}, {split} split"
    confusion = confusion_figure(run.matrix.counts, run.meta["classes"], title)
    panels = tile_panels(run.model, run.tiles, run.stats, run.positions, run.meta, device, split,
                         title=title)
    reliability = reliability_figure(run.stats, title)
    pictures = {"confusion.png": confusion, "panels.png": panels, "reliability.png": reliability}
    for name, picture in pictures.items():
        paths.append(out / name)
        save_png(picture, paths[-1])
    return paths
