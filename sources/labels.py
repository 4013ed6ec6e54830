"""The labels of a scene: classes.csv, masks of ids or colours, and points of CSV or GeoJSON."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

NO_LABEL = 255


class LandClass(NamedTuple):
    """A class: its index in prepared labels (255: no label), and its value and colour 0xRRGGBB in masks, or None."""

    index: int
    value: float | None
    name: str
    colour: int | None


def land_classes(rows):
    """Number (value, name, colour) rows as LandClass; those named "ignore" get index 255."""
    numbers = iter(range(NO_LABEL))
    return [LandClass(NO_LABEL if name == "ignore" else next(numbers), value, name, colour)
            for value, name, colour in rows]


def read_csv(path, columns=()):
    """The lines of a CSV file with a header, as [(line number, {column: text})].

    Raises:
        ValueError, OSError: no such file, no text, or one of the columns is missing.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file, skipinitialspace=True)
            header, lines = reader.fieldnames or [], [(reader.line_num, line) for line in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is not a CSV text ({error}); save it as CSV, UTF-8") from None
    for column in columns:
        if column not in header:
            raise ValueError(f"{path} has no column '{column}'; name the columns in its first line")
    return lines


def read_classes(path):
    """Read a classes.csv with the columns id,name,r,g,b; the class index is the row, the id is the value in the mask.

    The id may be any number. The colours may be left out, and so may the ids where masks are written in colours. Any
    number of rows may be named "ignore": what they stand for is no label.

    Returns:
        list of LandClass.
    Raises:
        ValueError, OSError: the file is missing, or an entry is bad or repeated; the line is named.
    """
    rows = []
    for number, line in read_csv(path, ["name"]):
        try:
            value = float(line["id"]) if line.get("id") else None
            if not np.isfinite(value or 0) or not line["name"].strip() or not line["name"].isprintable():
                raise ValueError
            colour = int.from_bytes(bytes(int(line[band]) for band in "rgb"), "big") if line.get("r") else None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}, line {number}: give a name, a number as id, and r, g, b from 0 to 255") from None
        if value is None and colour is None:
            raise ValueError(f"{path}, line {number}: '{line['name']}' has neither id nor colour; give one of them")
        for kind, entry in enumerate((value, line["name"], colour)):
            if entry not in (None, "ignore") and entry in [row[kind] for row in rows]:
                raise ValueError(f"{path}, line {number}: '{line['name']}' repeats an earlier id, name or colour")
        rows.append((value, line["name"], colour))
    if not 1 <= sum(name != "ignore" for _, name, _ in rows) <= NO_LABEL:
        raise ValueError(f"{path} lists no class, or more than {NO_LABEL}; give one line id,name,r,g,b for each")
    return land_classes(rows)


class MaskLabels:
    """The labels of a scene in its mask: ids, or the classes' colours in three bands; in a palette, where classes have no ids.

    What no class claims is an error, except 255, NaN and the file's nodata value among ids, which mean no label.

    Args:
        mask: ScaledRaster.
        source: Source, for its classes, threshold and tolerance.
    """

    def __init__(self, mask, source):
        self.mask, self.path, self.palette = mask, mask.path, mask.raster.palette
        self.threshold, self.tolerance = source.threshold, source.tolerance
        colours = {row.colour: row.index for row in source.rows if row.colour is not None}
        by_id = all(row.value is not None for row in source.rows)  # a palette is then for the eye alone
        self.coloured = bool(colours) and (mask.raster.bands >= 3 or self.palette is not None and not by_id)
        if self.coloured and mask.raster.dtype != np.uint8:
            raise ValueError(f"{self.path} is in colours of {mask.raster.dtype}: save it with 8 bits a band")
        table = colours if self.coloured else {row.value: row.index for row in source.rows if row.value is not None}
        if not table:
            raise ValueError(f"{self.path} holds ids, but the classes have only colours: give them ids as well")
        if self.threshold is not None and not self.coloured and set(table) != {0, 255}:
            raise ValueError(f"{self.path}: --threshold makes its values 0 and 255: give the classes these ids")
        self.codes = np.array(sorted(table))
        self.indices = np.array([table[code] for code in self.codes.tolist()], np.uint8)

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label.

        Raises:
            ValueError: a value or colour that no class has, and how many pixels have it.
        """
        codes = self._read_codes(row, col, height, width)
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        labels, unknown = self.indices[places], self.codes[places] != codes
        if unknown.any():
            strangers, inverse = np.unique(codes[unknown], return_inverse=True)
            labels[unknown] = np.array([self._guess(code) for code in strangers], np.uint8)[inverse]
        return labels

    def _read_codes(self, row, col, height, width):
        """(height, width) ids, or colours as numbers 0xRRGGBB."""
        pixels = self.mask.read(row, col, height, width)
        if self.coloured and self.palette is not None:
            pixels = self.palette[pixels[:, :, 0]]
        if self.threshold is not None:
            pixels = np.where(pixels > self.threshold, 255, 0)
        if self.coloured:
            return pixels[:, :, :3].astype(int) @ (1 << 16, 1 << 8, 1)
        if pixels.shape[2] >= 3 and (pixels[:, :, :3] != pixels[:, :, :1]).any():
            raise ValueError(f"{self.path} is in colours, but the classes have none: give r,g,b in classes.csv")
        return pixels[:, :, 0]

    def _guess(self, code):
        """The class index of a code that no class has: that of the nearest colour, or 255 for no label."""
        if self.coloured:
            parts, stranger = (np.stack([n >> 16, n >> 8 & 255, n & 255], -1) for n in (self.codes, code))
            distances = np.abs(parts - stranger).max(-1)
            if distances.min() <= self.tolerance:
                return self.indices[distances.argmin()]
        elif code in (NO_LABEL, self.mask.raster.nodata) or code != code:
            return NO_LABEL
        height, width = self.mask.height, self.mask.width
        count = sum(np.count_nonzero(self._read_codes(row, 0, min(512, height - row), width) == code)
                    for row in range(0, height, 512))
        what = f"colour {code >> 16},{code >> 8 & 255},{code & 255}" if self.coloured else f"value {code}"
        raise ValueError(f"{self.path}: {what} ({count} px) is no class: list it in classes.csv, maybe as 'ignore'"
                         + (", or allow blurred colours by --tolerance" if self.coloured else ""))


class Points(NamedTuple):
    """N labelled points of a file."""

    places: tuple  # (N,) where in the file each is written, for messages
    scenes: np.ndarray  # (N,) scene names, "" for any
    first: np.ndarray  # (N,) float64 x on the map, or rows in px of the file
    second: np.ndarray  # (N,) float64 y, or columns
    indices: np.ndarray  # (N,) uint8 classes
    on_map: bool


def read_points(path, rows):
    """Read labelled points, whose classes are given by name or by id, from CSV or GeoJSON.

    CSV has the columns scene,row,col,class (px of the scene as it lies in its file, from 0 at the top left) or
    x,y,class in units of the scenes' map; GeoJSON has point features with the property "class". With x and y a scene
    may be named as well; a point that names none counts in every scene that it lies in.

    Args:
        path: the file.
        rows: list of LandClass.
    Returns:
        Points.
    Raises:
        ValueError, OSError: the file, a column, a number or a class is not as it should be; the place is named.
    """
    if Path(path).suffix.lower() in (".json", ".geojson"):
        lines = read_geojson(path)
    else:
        lines = [(f"{path}, line {number}", line) for number, line in read_csv(path, ["class"])]
    if not lines:
        raise ValueError(f"{path} holds no points: give some")
    on_map = "x" in lines[0][1]
    first, second = ("x", "y") if on_map else ("row", "col")
    known = {row.value: row.index for row in rows} | {row.name: row.index for row in rows}
    found = []
    for place, line in lines:
        try:
            name = str(line["class"]).strip()
            index = known[name] if name in known else known[float(name)]
            scene = (line.get("scene") or "") if on_map else line["scene"]
            if not on_map and not scene:
                raise ValueError
            found.append((place, str(scene), float(line[first]), float(line[second]), index))
            if not all(abs(number) < 1e15 for number in found[-1][2:4]):  # px or map units, and NaN is not below it
                raise ValueError
        except (KeyError, ValueError, TypeError):
            needed = f"{first}, {second}" if on_map else f"scene, {first}, {second}"
            raise ValueError(f"{place}: give {needed}, and a class by its name or id") from None
    places, scenes, firsts, seconds, indices = zip(*found)
    return Points(places, np.array(scenes), np.array(firsts), np.array(seconds), np.array(indices, np.uint8), on_map)


def read_geojson(path):
    """The point features of a GeoJSON file, as [(place in the file, {"x", "y", and its properties})]."""
    lines = []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, feature in enumerate(json.load(file)["features"], 1):
                if feature["geometry"]["type"] != "Point":
                    raise ValueError(f"feature {number} is a {feature['geometry']['type']}")
                x, y = feature["geometry"]["coordinates"][:2]
                lines.append((f"{path}, feature {number}", {**feature["properties"], "x": x, "y": y}))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not GeoJSON of points ({error}): export it as a collection of points") from None
    return lines


def name_scenes(points, scenes):
    """Points that name a scene by its file, as predict.py does, name it as the data set does, where only one fits.

    Args:
        points: Points; scenes: list of Scene.
    Returns:
        Points.
    """
    stems, names = [Path(scene.image).stem for scene in scenes], {scene.name for scene in scenes}
    known = {stem: scene.name for stem, scene in zip(stems, scenes) if stems.count(stem) == 1 and stem not in names}
    return points._replace(scenes=np.array([known.get(name, name) for name in points.scenes.tolist()]))


class PointLabels:
    """The labels of a scene that points give; of several points in one pixel the last counts.

    Args:
        points: Points.
        scene: Scene.
        image: ScaledRaster, the scene's.
    Attributes:
        inside: (N,) bool, which points lie in the scene.
    Raises:
        ValueError: the points are given on the map, and the scene is not on it.
    """

    def __init__(self, points, scene, image):
        rows, cols = points.first + 0.5, points.second + 0.5
        if points.on_map:
            if image.raster.georeference is None:
                raise ValueError(f"{scene.image} has no georeference: give its points as scene,row,col")
            rows, cols = image.raster.georeference.to_pixel(points.first, points.second)
        rows = np.floor(rows * image.height / image.raster.height).astype(int)
        cols = np.floor(cols * image.width / image.raster.width).astype(int)
        self.inside = ((rows >= 0) & (rows < image.height) & (cols >= 0) & (cols < image.width)
                       & ((points.scenes == "") | (points.scenes == scene.name)))
        self.rows, self.cols, self.indices = rows[self.inside], cols[self.inside], points.indices[self.inside]

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label."""
        labels = np.full((height, width), NO_LABEL, np.uint8)
        here = (self.rows >= row) & (self.rows < row + height) & (self.cols >= col) & (self.cols < col + width)
        labels[self.rows[here] - row, self.cols[here] - col] = self.indices[here]
        return labels
