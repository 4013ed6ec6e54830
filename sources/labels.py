"""The classes of labels, as classes.csv lists them, and the few labelled pixels of a scene."""

import re
import unicodedata
from typing import NamedTuple

import numpy as np

from engine.files import check_name
from sources.tables import find_column, read_csv, to_float

NO_LABEL = 255
# Names of the columns of classes.csv, and what others call them.
COLUMNS = {"id": ("id", "value", "code", "class_id"),
           "name": ("name", "class", "label", "class_name"),
           "r": ("r", "red"), "g": ("g", "green"), "b": ("b", "blue")}


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


def class_name(text):
    """A class's name in one spelling, so that names that look alike are equal.

    Letters with accents are one character (NFC), spaces are single, and "Ignore" is "ignore".
    """
    name = re.sub(r"[^\S\r\n]+", " ", unicodedata.normalize("NFC", text)).strip()
    return "ignore" if name.casefold() == "ignore" else name


def land_classes(rows):
    """Number (value, name, colour) rows as LandClass; those named "ignore" get index 255.

    Rows of one name are one class: they have one index.
    """
    index_of = {"ignore": NO_LABEL}
    for _, name, _ in rows:
        index_of.setdefault(name, len(index_of) - 1)
    return [LandClass(index_of[name], value, name, colour) for value, name, colour in rows]


def read_classes(path):
    """Read a classes.csv with the columns id,name,r,g,b.

    The id is the value in the mask, any number. The colours may be left out, and so may the ids
    where masks are written in colours. Rows of one name are one class, in the colour of the first.
    Any number of rows may be named "ignore": no label.

    Returns:
        list of LandClass; the index of a class is its place among the names. Without a file: [].
    Raises:
        ValueError, OSError: no such file, or an entry is bad or repeated, with its line.
    """
    if path is None:
        return []
    rows = []
    class_of = {}  # {id or colour: name}
    for number, line in read_csv(path):
        place = f"{path}, line {number}"
        value, name, colour = _read_class(path, place, line)
        if value is None and colour is None:
            raise ValueError(f"{place}: '{name}' has neither id nor colour; give one of them")
        for code in (("id", value), ("colour", colour)):
            if code[1] is not None and class_of.setdefault(code, name) != name:
                raise ValueError(f"{place}: '{name}' repeats the {code[0]} of '{class_of[code]}'")
        rows.append((value, name, colour))
    if not 1 <= len({name for _, name, _ in rows} - {"ignore"}) <= NO_LABEL:
        raise ValueError(f"{path} lists no class, or more than {NO_LABEL}; give a line "
                         "id,name,r,g,b per class")
    return land_classes(rows)


def _read_class(path, place, line):
    """(value, name, colour) of a line of classes.csv."""
    found = {column: line.get(find_column(line, names)) for column, names in COLUMNS.items()}
    if found["name"] is None:
        raise ValueError(f"{path} has no column 'name': its first line must be id,name,r,g,b")
    name = class_name(found["name"])
    try:
        value = to_float(found["id"]) if found["id"] else None
        colour = None
        if found["r"]:
            colour = int.from_bytes(bytes(int(found[band]) for band in "rgb"), "big")
        if not np.isfinite(value or 0) or not name or not name.isprintable():
            raise ValueError
    except (ValueError, TypeError):
        raise ValueError(f"{place}: give a name, a number as id, and r, g, b from 0 to "
                         "255") from None
    check_name(name, place)
    return value, name, colour


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
