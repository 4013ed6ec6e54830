"""The labels of a scene: classes.csv, and points of CSV or GeoJSON."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

NO_LABEL = 255


class LandClass(NamedTuple):
    """A class: its index in prepared labels (255 is no label), and its id and colour in masks."""

    index: int
    value: float | None  # the id
    name: str
    colour: int | None  # 0xRRGGBB

    @property
    def rgb(self):
        """[r, g, b], 0 to 255, or None."""
        return None if self.colour is None else list(self.colour.to_bytes(3, "big"))


def land_classes(rows):
    """Number (value, name, colour) rows as LandClass; those named "ignore" get index 255."""
    table = []
    count = 0
    for value, name, colour in rows:
        ignored = name == "ignore"
        table.append(LandClass(NO_LABEL if ignored else count, value, name, colour))
        count += not ignored
    return table


def read_csv(path, columns=()):
    """Read a CSV file with a header, as [(line number, {column: text})].

    Raises:
        ValueError, OSError: no such file, no text, or one of the columns is missing.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = reader.fieldnames or []
            lines = [(reader.line_num, line) for line in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is not a CSV text ({error}); save it as CSV, UTF-8") from None
    for column in columns:
        if column not in header:
            raise ValueError(f"{path} has no column '{column}'; name the columns in its first line")
    return lines


def read_classes(path):
    """Read a classes.csv with the columns id,name,r,g,b.

    The id is the value in the mask, any number. The colours may be left out, and so may the ids
    where masks are written in colours. Any number of rows may be named "ignore": no label.

    Returns:
        list of LandClass; the index of a class is its place among the rows.
    Raises:
        ValueError, OSError: no such file, or an entry is bad or repeated, with its line.
    """
    rows = []
    for number, line in read_csv(path, ["name"]):
        place = f"{path}, line {number}"
        try:
            row = _read_class(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{place}: give a name, a number as id, and r, g, b from 0 to "
                             "255") from None
        value, name, colour = row
        if value is None and colour is None:
            raise ValueError(f"{place}: '{name}' has neither id nor colour; give one of them")
        for kind, entry in enumerate(row):
            if entry not in (None, "ignore") and entry in [earlier[kind] for earlier in rows]:
                raise ValueError(f"{place}: '{name}' repeats an earlier id, name or colour")
        rows.append(row)
    if not 1 <= sum(name != "ignore" for _, name, _ in rows) <= NO_LABEL:
        raise ValueError(f"{path} lists no class, or more than {NO_LABEL}; give a line "
                         "id,name,r,g,b per class")
    return land_classes(rows)


def _read_class(line):
    """(value, name, colour) of a line of classes.csv; some kind of error where it is not right."""
    value = float(line["id"]) if line.get("id") else None
    name = line["name"]
    if not np.isfinite(value or 0) or not name.strip() or not name.isprintable():
        raise ValueError
    colour = None
    if line.get("r"):
        colour = int.from_bytes(bytes(int(line[band]) for band in "rgb"), "big")
    return value, name, colour


class Points(NamedTuple):
    """N labelled points of a file."""

    places: tuple  # (N,) where in the file each is written, for messages
    scenes: np.ndarray  # (N,) scene names, "" for any
    first: np.ndarray  # (N,) float64 x on the map, or rows in px of the file
    second: np.ndarray  # (N,) float64 y, or columns
    indices: np.ndarray  # (N,) uint8 classes
    on_map: bool


def read_points(path, class_table):
    """Read labelled points from CSV or GeoJSON.

    CSV has the columns scene,row,col,class (px of the scene's file, from 0 at the top left), or
    x,y,class in units of the scenes' map. GeoJSON has point features with the property "class".
    With x and y a scene may be named as well. A point that names none counts in every scene in
    which it lies.

    Args:
        path: the file.
        class_table: list of LandClass; points give a class by its name or its id.
    Returns:
        Points.
    Raises:
        ValueError, OSError: a column, number or class that is not as it should be, with its line.
    """
    if Path(path).suffix.lower() in (".json", ".geojson"):
        lines = read_geojson(path)
    else:
        lines = [(f"{path}, line {number}", line) for number, line in read_csv(path, ["class"])]
    if not lines:
        raise ValueError(f"{path} holds no points: give some")
    on_map = "x" in lines[0][1]
    axes = ("x", "y") if on_map else ("row", "col")
    known = {row.value: row.index for row in class_table}
    known |= {row.name: row.index for row in class_table}
    found = []
    for place, line in lines:
        try:
            found.append((place, *_read_point(line, axes, known)))
        except (KeyError, ValueError, TypeError):
            needed = ", ".join(axes if on_map else ("scene", *axes))
            raise ValueError(f"{place}: give {needed}, and a class by its name or id") from None
    places, scenes, first, second, indices = zip(*found)
    return Points(places, np.array(scenes), np.array(first), np.array(second),
                  np.array(indices, np.uint8), on_map)


def _read_point(line, axes, known):
    """(scene, first, second, class index) of a point; some kind of error where it is not right."""
    name = str(line["class"]).strip()
    index = known[name] if name in known else known[float(name)]
    scene = line.get("scene") or ""
    if axes == ("row", "col") and not scene:
        raise ValueError
    first = float(line[axes[0]])
    second = float(line[axes[1]])
    if not abs(first) < 1e15 or not abs(second) < 1e15:  # px or map units; NaN is not below it
        raise ValueError
    return str(scene), first, second, index


def read_geojson(path):
    """The point features of a GeoJSON file, as [(place in the file, {"x", "y", properties})]."""
    lines = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            features = json.load(file)["features"]
        for number, feature in enumerate(features, 1):
            geometry = feature["geometry"]
            if geometry["type"] != "Point":
                raise ValueError(f"feature {number} is a {geometry['type']}")
            x, y = geometry["coordinates"][:2]
            line = {**feature["properties"], "x": x, "y": y}
            lines.append((f"{path}, feature {number}", line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not GeoJSON of points ({error}): export it as a collection "
                         "of points") from None
    return lines


def name_scenes(points, scenes):
    """Rename the points' scenes where they are named by their file, as predict.py does.

    Args:
        points: Points.
        scenes: list of Scene.
    Returns:
        Points; a file's name is replaced where it is that of one scene only.
    """
    names = {scene.name for scene in scenes}
    stems = [Path(scene.image).stem for scene in scenes]
    known = {}
    for stem, scene in zip(stems, scenes):
        if stems.count(stem) == 1 and stem not in names:
            known[stem] = scene.name
    renamed = [known.get(name, name) for name in points.scenes.tolist()]
    return points._replace(scenes=np.array(renamed))


class SparseLabels(NamedTuple):
    """A few labelled pixels of a scene at its final scale; the last counts where two are in one."""

    rows: np.ndarray  # (N,) px
    cols: np.ndarray  # (N,) px
    indices: np.ndarray  # (N,) uint8 classes

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label."""
        labels = np.full((height, width), NO_LABEL, np.uint8)
        rows = self.rows - row
        cols = self.cols - col
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        labels[rows[inside], cols[inside]] = self.indices[inside]
        return labels


def points_in_scene(points, scene, image):
    """The points that lie in a scene.

    Args:
        points: Points.
        scene: Scene.
        image: ScaledRaster, the scene's.
    Returns:
        SparseLabels, and (N,) bool, which points they are.
    Raises:
        ValueError: the points are given on the map, and the scene is not on it.
    """
    if not points.on_map:
        rows = points.first + 0.5
        cols = points.second + 0.5
    elif image.raster.georeference is None:
        raise ValueError(f"{scene.image} has no georeference: give its points as scene,row,col")
    else:
        rows, cols = image.raster.georeference.to_pixel(points.first, points.second)
    rows = np.floor(rows * image.height / image.raster.height).astype(int)
    cols = np.floor(cols * image.width / image.raster.width).astype(int)
    inside = (rows >= 0) & (rows < image.height) & (cols >= 0) & (cols < image.width)
    inside &= (points.scenes == "") | (points.scenes == scene.name)
    labels = SparseLabels(rows[inside], cols[inside], points.indices[inside])
    return labels, inside
