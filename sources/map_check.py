"""Check a finished class map, of any program, against points of known class.

    python evaluate.py --map maps/scene_classes.tif --check-points checked.geojson

prints the confusion matrix, accuracies and areas, and writes NAME_check.json, NAME_check.csv and
NAME_confusion.png beside the map. A point is right if the pixel below it has its class.
"""

import json
import pathlib
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import torch

from engine.files import check_name, check_text_file, whole_files
from geo.raster import open_raster
from metrics import ConfusionMatrix, plain
from report.areas import area_rows, stratified_accuracy
from report.figures import save_png
from report.intervals import plain_intervals
from report.matrices import confusion_figure
from report.tables import text_table, write_rows
from sources.geometry import POINT
from sources.labels import NO_LABEL, class_name, land_classes, read_classes
from sources.placing import points_in_scene
from sources.points import name_scenes, read_points
from sources.raw import Scene

ROWS = 512  # px, of the map that are read at a time
ENOUGH = 50  # points per mapped class, of which intervals by area hold: see docs/evaluation.md
SAMPLE = ("These take the points as drawn at random from the map, or from each of its classes, and "
          "as unseen in training.\nPoints that were chosen by hand make a map look better than it "
          "is.")


def check_map(map_path, points_path, classes_path=None, out=None, class_column=None, layer=None):
    """Score a class map at points of known class; print and write the results.

    Args:
        map_path: a raster of class ids in its first and only band.
        points_path: points, as `sources.labels.read_points` reads them.
        classes_path: a classes.csv with the map's ids and names; None: the names beside the map,
            or its ids themselves.
        out: folder of the files; None: the map's.
        class_column, layer: of the points, as `read_points` takes them.
    Returns:
        the dict that was written as NAME_check.json.
    Raises:
        ValueError, OSError: a file is not as it should be, or no point lies on the map, or some
            shapes are no points.
    """
    path = pathlib.Path(map_path)
    with open_raster(path) as raster:  # first, so that a mistyped path is what is named
        table = class_table(path, classes_path)
        points = read_points(points_path, table, class_column, layer)
        others = int((points.kinds != POINT).sum())
        if others:
            raise ValueError(f"{points_path}: {others} of its {len(points.kinds)} shapes are lines "
                             "or polygons, whose pixels are alike and no sample of the map: give "
                             "points")
        scene = Scene(path.stem.removesuffix("_classes"), path, None, path.stem)
        image = SimpleNamespace(raster=raster, height=raster.height, width=raster.width)
        found = points_in_scene(name_scenes(points, [scene]), scene, image)
        rows, cols, shapes = found.pixels(0, 0, raster.height, raster.width)
        mapped, predicted = read_map(raster, table, rows, cols)
        gsd_m = raster.gsd_m
    outside = int((~found.inside).sum())
    if not points.on_map:
        size = f"the map's {raster.height:,} x {raster.width:,} px"
        if outside > points.max_outside * len(found.inside):
            raise ValueError(f"{points_path}: {outside} of {len(found.inside)} points lie outside "
                             f"{size}: give rows and columns of the map, or positions x,y")
        print(f"{points_path}: rows and columns are taken as those of {size} (after --scale they "
              "are not the scene's)")
    truth = found.indices[shapes]
    used = (predicted != NO_LABEL) & (truth != NO_LABEL)
    if not used.any():
        raise ValueError(f"{points_path}: none of its {len(found.inside)} points lies on a class "
                         f"of {path}: are their coordinates the map's?")
    names = names_of(table)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (truth[used], predicted[used]), 1)
    if not classes_path and len(names) == NO_LABEL:  # ids without names: only those that occur
        print(f"{path}: no {path.name}.aux.xml names its classes, so points give their ids in the "
              "map (--classes names them)")
        occurs = np.flatnonzero(mapped + counts.sum(0) + counts.sum(1))
        names = [names[index] for index in occurs]
        counts = counts[np.ix_(occurs, occurs)]
        mapped = mapped[occurs]
    left_out = {"outside the map": outside,
                "where the map has no class": int((~used).sum()), **points.skipped}
    return write_check(path, pathlib.Path(out or path.parent), counts, mapped, names, gsd_m,
                       {"check_points": str(points_path), "left_out": left_out})


def class_table(path, classes_path=None):
    """The classes of a map: those of a classes.csv, else named beside the map, else all ids.

    Returns:
        list of sources.labels.LandClass.
    """
    if classes_path:
        table = read_classes(classes_path)
        if any(row.value is None for row in table):
            raise ValueError(f"{classes_path}: give every class its id in the map")
        return table
    beside = pathlib.Path(f"{path}.aux.xml")
    names = []
    if beside.is_file():
        try:
            check_text_file(beside)
            names = [class_name(node.text or "")
                     for node in ElementTree.parse(beside).iter("Category")]
        except ElementTree.ParseError:
            raise ValueError(f"{beside} is damaged: give --classes") from None
    for name in names:
        check_name(name, beside)
    names = names or [None] * NO_LABEL
    return land_classes([(value, name or str(value), None) for value, name in enumerate(names)])


def names_of(table):
    """The name of each class index; several ids of one name are one class."""
    return list(dict.fromkeys(row.name for row in table if row.index != NO_LABEL))


def read_map(raster, table, rows, cols):
    """Read a class map once.

    Args:
        raster: an open Raster of class ids.
        table: list of LandClass.
        rows, cols: (N,) px of the points.
    Returns:
        (K,) int64 pixels per class, and (N,) uint8 class index at each point, 255 without a class.
    Raises:
        ValueError: more than one band, or an id that no class has.
    """
    if raster.bands != 1:
        raise ValueError(f"{raster.path} has {raster.bands} bands: give a map of class ids in one")
    index_of = {NO_LABEL: NO_LABEL} | {row.value: row.index for row in table}
    mapped = np.zeros(256, np.int64)
    predicted = np.full(len(rows), NO_LABEL, np.uint8)
    for top in range(0, raster.height, ROWS):
        height = min(ROWS, raster.height - top)
        pixels, missing = raster.read_masked(top, 0, height, raster.width)
        is_data = ~missing[:, :, 0]
        values, inverse = np.unique(pixels[is_data], return_inverse=True)
        for value in values.tolist():
            if value not in index_of:
                raise ValueError(f"{raster.path} holds the id {value}, which is no class: name it "
                                 "by --classes, as 'ignore' if it means no data")
        indices = np.array([index_of[value] for value in values.tolist()], np.uint8)
        block = np.full(is_data.shape, NO_LABEL, np.uint8)
        block[is_data] = indices[inverse.reshape(-1)]
        mapped += np.bincount(block.ravel(), minlength=256)
        here = (rows >= top) & (rows < top + height)
        predicted[here] = block[rows[here] - top, cols[here]]
    return mapped[:len(names_of(table))], predicted


def write_check(path, out, counts, mapped, names, gsd_m, extra):
    """Print the scores of a map at its check points; write them with a picture.

    Args:
        path: the map's; out: the folder of the files.
        counts: (K, K) points, rows are the truth, columns the map.
        mapped: (K,) px.
        names: K class names.
        gsd_m: side of a pixel, m, or None.
        extra: dict of more to write; its "left_out" is printed too.
    Returns:
        dict.
    """
    matrix = ConfusionMatrix(len(names), counts=torch.from_numpy(counts))
    weighted = stratified_accuracy(counts, mapped)
    total_ha = int(mapped.sum()) * gsd_m ** 2 / 1e4 if gsd_m else None
    areas = area_rows(counts, mapped.tolist(), names, total_ha)
    intervals = plain_intervals(matrix, matrix.labelled_pixels(), names)
    print(check_text(path, matrix, names, intervals, weighted, areas, extra["left_out"]))
    scores = {"map": str(path), "points": matrix.labelled_pixels(), **extra,
              **matrix.scores(names), "intervals": intervals, "areas": areas}
    scores["weighted_by_area"] = {
        key: plain(value) if np.ndim(value) == 0 else [plain(number) for number in value]
        for key, value in weighted.items()}
    stem = f"{path.stem}_check"
    title = f"{path.name} at {matrix.labelled_pixels():,} check points"
    text = json.dumps(scores, indent=1, allow_nan=False) + "\n"
    with whole_files(out) as work:
        write_rows(work / f"{stem}.csv", areas)
        save_png(confusion_figure(counts, names, title, "points"), work / f"{stem}.png")
        (work / f"{stem}.json").write_text(text, encoding="utf-8")
    for suffix in ("json", "csv", "png"):
        print(out / f"{stem}.{suffix}")
    return scores


def check_text(path, matrix, names, intervals, weighted, areas, left_out):
    """Format the scores of a map at its check points as text; arguments as in `write_check`."""
    table = []
    for truth, row in zip(names, matrix.counts.tolist()):
        table.append({"truth / map": truth, **dict(zip(names, row)), "points": sum(row)})
    table.append({"truth / map": "points", **dict(zip(names, matrix.counts.sum(0).tolist())),
                  "points": matrix.labelled_pixels()})
    classes = []
    for k, name in enumerate(names):
        found = intervals["classes"][k]
        classes.append({"class": name, "user's": plain(matrix.precision()[k]),
                        "95 % interval": _interval(found["precision"]),
                        "producer's": plain(matrix.recall()[k]),
                        "95 % interval ": _interval(found["recall"]),
                        "by area": plain(weighted["producers"][k]),
                        "+-": plain(weighted["producers_interval"][k])})
    skipped = [f"{count} {where}" for where, count in left_out.items() if count]
    overall = f"{matrix.pixel_accuracy():.3f} ({_interval(intervals['pixel_accuracy'])})"
    weighted_overall, reach, kappa = map(
        _three_digits, (weighted["overall"], weighted["overall_interval"], matrix.kappa()))
    untested = [name for name, count in zip(names, matrix.counts.sum(1)) if not count]
    points_of = {row["class"]: int(count) for row, count in zip(areas, matrix.counts.sum(0))
                 if row["mapped_percent"]}
    unseen = [name for name, count in points_of.items() if count < 2]
    few = [name for name, count in points_of.items() if 2 <= count < ENOUGH]
    return "\n".join([
        f"{path} at {matrix.labelled_pixels():,} check points"
        + (f"; left out: {', '.join(skipped)}" if skipped else ""),
        text_table(table), "",
        f"overall accuracy {overall} of the points, {weighted_overall} +- {reach} by area, "
        f"kappa {kappa}",
        text_table(classes),
        "user's accuracy: of what the map shows as a class, the share that is. producer's: of what "
        "is a class, the share that the map shows.",
        *([f"no check point, so not tested: {', '.join(untested)}"] if untested else []), "",
        "mapped areas, adjusted for the map's errors (Olofsson et al. 2014), with half their 95 % "
        "interval:", text_table(areas),
        *(["not adjusted, or without interval: fewer than two check points lie where the map shows "
           + ", ".join(unseen)] if unseen else []),
        *([f"every +- is too small, because fewer than {ENOUGH} check points lie where the map "
           f"shows {', '.join(few)}"] if few else []), SAMPLE])


def _three_digits(value):
    """A number as text, NaN as a dash."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def _interval(bounds):
    """An interval of two numbers or None as text."""
    low, high = bounds
    return "-" if low is None else f"{low:.3f} to {high:.3f}"
