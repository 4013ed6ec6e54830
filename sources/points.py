"""Files of labelled points, lines and polygons: which columns hold class, scene and position."""

import json
import re
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from engine.files import check_name
from geo.crs import WGS84, parse_crs
from sources.geometry import LARGEST, POINT, from_wkt
from sources.labels import NO_LABEL, class_name, land_classes
from sources.tables import find_column, fold, read_csv, to_float
from sources.vectors import Feature, make_feature, read_vectors

TABLES = (".csv", ".txt", ".tsv")
MAX_OUTSIDE = 0.1  # share of the points that may lie outside every scene
MANY = 10  # so many classes are expected to have two labels each on average

# Columns by what they hold, the most likely first. All are folded, see `fold`.
CLASS = ("class", "label", "landcover", "land_cover", "category", "class_name", "classname",
         "klass", "klasse", "classe", "lulc", "landuse", "land_use", "cover", "class_id",
         "classid", "classvalue", "type", "code", "name")
X = ("x", "point_x", "xcoord", "x_coord", "coord_x", "easting", "east", "e", "utm_x", "utm_e",
     "rechtswert", "ostwert")
Y = ("y", "point_y", "ycoord", "y_coord", "coord_y", "northing", "north", "n", "utm_y", "utm_n",
     "hochwert", "nordwert")
LONGITUDE = ("lon", "long", "lng", "longitude", "gps_longitude", "gpslongitude", "lon_dd")
LATITUDE = ("lat", "latitude", "gps_latitude", "gpslatitude", "lat_dd")
WKT = ("wkt", "wkt_geom", "geometry", "geom", "the_geom")
GEOJSON = ("geo",)  # Earth Engine's column .geo
ROW = ("row",)
COL = ("col", "column")
SCENE = ("scene",)
FILE = ("scene", "image", "image_name", "file", "file_name", "filename", "path", "tile")
SYSTEM = ("epsg", "srid", "crs")
MISSING = ("", "nan", "null", "na", "<na>", "n/a", "#n/a")  # texts for nothing


class Shapes(NamedTuple):
    """N labelled points, lines and polygons of a file, with R rings of V positions together."""

    path: Path
    places: tuple  # (N,) where in the file each stands, for messages
    scenes: np.ndarray  # (N,) scene names, "" for any
    indices: np.ndarray  # (N,) uint8 classes
    kinds: np.ndarray  # (N,) POINT, LINE or POLYGON
    owners: np.ndarray  # (R,) number of the shape that a ring belongs to
    rings: np.ndarray  # (V,) number of the ring that a position belongs to
    positions: np.ndarray  # (V, 2) float64 x and y, or columns and rows in px of the scene's file
    on_map: bool  # whether positions are x and y
    crs: str | None  # of x and y; None: the scenes' own
    class_table: list  # of LandClass
    skipped: dict  # {why features are left out: how many}
    max_outside: float  # share that may lie outside every scene


def points_and_classes(args, source):
    """Read the file of points that a command line names.

    Args:
        args: with points_file, class_column, layer and strict.
        source: RawDataset.
    Returns:
        {"points": Shapes, "class_table": list of LandClass}, the changed fields of the source.
    """
    points = read_points(args.points_file, source.class_table, args.class_column, args.layer,
                         args.strict)
    return {"points": name_scenes(points, source.scenes), "class_table": points.class_table}


def read_points(path, class_table=(), class_column=None, layer=None, strict=False):
    """Read labelled points, lines and polygons from a table or a vector file.

    A table has columns for the class and for the position: x,y in units of the scenes' map, lon,lat
    in degrees, WKT, or scene,row,col (px of the scene's file, from 0 at the top left). Vector files
    have the class among their properties. A shape that names no scene counts in every scene in
    which it lies. Shapes without a class or without a position are left out and counted.

    Args:
        path: the file.
        class_table: list of LandClass; shapes give a class by its name or its id. Empty: the
            classes that the file names, sorted.
        class_column: the column of the classes; None: the first of CLASS that is filled in.
        layer: the layer of a vector file; None: its only one.
        strict: whether no shape may lie outside every scene.
    Returns:
        Shapes.
    Raises:
        ValueError, OSError: a column, number or class that is not as it should be, with its line.
    """
    on_map = True
    if Path(path).suffix.lower() in TABLES:
        features, crs, on_map = read_table(path)
    else:
        features, crs = read_vectors(path, layer)
    if not features:
        raise ValueError(f"{path} holds no points: give some")
    names = class_names(path, features, class_column)
    if not class_table:
        class_table = classes_of_names(path, names)
        if class_column is None:
            refuse_names_of_places(path, names, len(class_table))
    class_table = list(class_table)
    kept, skipped = _labelled(path, features, names, class_lookup(class_table))
    parts = [(feature, index, *part) for feature, index in kept for part in feature.parts]
    rings = [ring for *_, rings in parts for ring in rings]
    scene_column = find_column(_columns(features), SCENE if on_map else FILE)
    scenes = [_text(feature.properties.get(scene_column)) for feature, *_ in parts]
    return Shapes(
        path=path,
        places=tuple(feature.place for feature, *_ in parts),
        scenes=np.array(scenes),
        indices=np.array([index for _, index, *_ in parts], np.uint8),
        kinds=np.array([kind for _, _, kind, _ in parts]),
        owners=np.repeat(np.arange(len(parts)), [len(rings) for *_, rings in parts]),
        rings=np.repeat(np.arange(len(rings)), [len(ring) for ring in rings]),
        positions=np.concatenate(rings),
        on_map=on_map,
        crs=crs,
        class_table=class_table,
        skipped=skipped,
        max_outside=0.0 if strict else MAX_OUTSIDE,
    )


def _labelled(path, features, names, index_of):
    """The features that have a class and a position.

    Returns:
        list of (Feature, class index), and {why features are left out: how many}.
    """
    skipped = {"without a class yet": 0, "without a position": 0}
    kept = []
    for feature, name in zip(features, names):
        if name.casefold() in MISSING and name not in index_of:
            skipped["without a class yet"] += 1
        elif not feature.parts:
            skipped["without a position"] += 1
        else:
            kept.append((feature, _find_class(path, feature.place, name, index_of)))
    if not kept:
        reasons = ", ".join(f"{count} {why}" for why, count in skipped.items() if count)
        raise ValueError(f"{path} holds no labels, from {features[0].place} on: {reasons}; fill "
                         "them in")
    return kept, skipped


# Classes


def _columns(features):
    """All columns of the features, in the order in which they first appear."""
    return list(dict.fromkeys(name for feature in features for name in feature.properties))


def _text(value):
    """A property as text; "" where there is none, and 3 for 3.0."""
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)) and value.is_integer():
        value = int(value)
    return str(value).strip()


def class_names(path, features, class_column=None):
    """The class of each feature as text, "" where it has none.

    Raises:
        ValueError: no column holds classes.
    """
    columns = _columns(features)
    found = [name for word in CLASS for name in columns if fold(name) == word]
    if class_column is not None:  # as its title is written, or else as titles are folded
        found = [name for name in (class_column, fold(class_column)) if name in columns][:1]
    if not found:
        asked = f"--class-column {class_column}" if class_column else "class"
        raise ValueError(f"{path} has no column '{asked}': it has {', '.join(columns) or 'none'}; "
                         "name the right one by --class-column")
    filled = [name for name in found
              if any(_text(feature.properties.get(name)) for feature in features)]
    chosen = (filled or found)[0]
    others = [name for name in found if name != chosen]
    if others:
        print(f"{path}: classes are taken from '{chosen}', not from '{', '.join(others)}' "
              "(--class-column names another one)")
    return [class_name(_text(feature.properties.get(chosen))) for feature in features]


def classes_of_names(path, names):
    """The classes that a file names: numbers by size, then others by the alphabet.

    Returns:
        list of LandClass without colours. Names that differ in capitals only are one class.
    """
    spellings = {}
    for name in map(_whole, names):
        if name.casefold() not in MISSING:
            spellings.setdefault(name.casefold(), set()).add(name)
    rows = []
    for name in map(min, spellings.values()):
        if not name.isprintable():
            raise ValueError(f"{path}: {name[:40]!r} is no name of a class")
        check_name(name, path)
        rows.append((_number(name), name, None))
    rows.sort(key=lambda row: (row[0] is None, row[0] or 0, row[1].casefold()))
    if sum(name != "ignore" for _, name, _ in rows) > NO_LABEL:
        raise ValueError(f"{path} names more than {NO_LABEL} classes: is --class-column right?")
    return land_classes(rows)


def refuse_names_of_places(path, names, num_classes):
    """Refuse a column in which almost each feature has a name of its own, such as "Point 7".

    Args:
        names: of the features' classes, "" where there is none.
        num_classes: how many different ones there are.
    """
    filled = [name for name in names if name.casefold() not in MISSING]
    if num_classes > MANY and 2 * num_classes > len(filled):
        raise ValueError(f"{path} would have {num_classes} classes ('{filled[0][:40]}', ...) in "
                         f"{len(filled)} features: name the column of the classes by "
                         "--class-column, this one too if it is right, or give --classes")


def _number(text):
    """A finite number, or None where the text is none."""
    try:
        number = to_float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def class_lookup(class_table):
    """{name or id: class index}, also for names in small letters where only one is meant."""
    folded = {}
    for row in class_table:
        folded.setdefault(row.name.casefold(), set()).add(row.index)
    known = {name: indices.pop() for name, indices in folded.items() if len(indices) == 1}
    known |= {row.value: row.index for row in class_table if row.value is not None}
    known |= {row.name: row.index for row in class_table}
    return known


def _whole(name):
    """A class's name, where pandas or R have written 1 as 1.0, because other rows have none."""
    return re.sub(r"^(\d+)\.0+$", r"\1", name)


def _find_class(path, place, name, index_of):
    """The index of a class that is given by its name or id; a name comes first."""
    for key in (name, _whole(name), _number(name), name.casefold()):
        if key in index_of:
            return index_of[key]
    names = {index: key for key, index in index_of.items() if isinstance(key, str)}.values()
    raise ValueError(f"{path}, {place}: '{name[:40]}' is no class: give the name or id of one "
                     f"({', '.join(list(names)[:20])})")


# Positions in tables


def read_table(path):
    """Read the features of a table.

    Returns:
        list of Feature; their coordinate system, None where none is stated; and whether they are
        on the map, not in pixels.
    """
    rows = read_csv(path)
    if not rows:
        raise ValueError(f"{path} holds no points: give some")
    columns = list(rows[0][1])
    x, y = _find_pair(columns)
    lon, lat = find_column(columns, LONGITUDE), find_column(columns, LATITUDE)
    row, col = find_column(columns, ROW), find_column(columns, COL)
    geometry = find_column(columns, WKT + GEOJSON)
    crs = _stated_crs(path, rows)
    if geometry and (x and y or lon and lat) and _holds_areas(rows, geometry):
        positions = f"{x},{y}" if x and y else f"{lon},{lat}"
        print(f"{path}: lines and polygons are taken from {geometry}, nothing from {positions}")
        return *_read_geometries(path, rows, geometry, crs), True
    if x and y:
        if lon and lat:
            print(f"{path}: positions are taken from {x},{y}, not from {lon},{lat}")
        return _read_positions(path, rows, x, y), crs, True
    if lon and lat:
        return _read_positions(path, rows, lon, lat, degrees=True), crs or WGS84, True
    if geometry:
        return *_read_geometries(path, rows, geometry, crs), True
    if row and col:
        return _read_positions(path, rows, col, row, pixels=True), None, False
    raise ValueError(f"{path} has no columns of positions, such as x,y, lon,lat, scene,row,col or "
                     f"WKT: it has {', '.join(columns)[:200] or 'none'}")


def _find_pair(columns):
    """The columns of x and y; two that belong together, such as easting and northing, if any do."""
    pairs = [pair for pair in zip(X, Y) if set(pair) <= set(columns)]
    return pairs[0] if pairs else (find_column(columns, X), find_column(columns, Y))


def _holds_areas(rows, column):
    """Whether a column of WKT or GeoJSON describes lines or polygons, whose points x,y may be."""
    return any(re.search("LINESTRING|POLYGON", row[column].upper()) for _, row in rows)


def _read_positions(path, rows, x, y, degrees=False, pixels=False):
    """The features of a table that has a column for x and one for y."""
    most_x, most_y = (360, 90) if degrees else (LARGEST, LARGEST)
    features = []
    for number, row in rows:
        place = f"line {number}"
        parts = []
        if {row[x].casefold(), row[y].casefold()} - set(MISSING):
            position = _number(row[x]), _number(row[y])
            # 1,024 may be a pixel, or a little more than one.
            unclear = pixels and any(re.fullmatch(r"\d{1,3},\d{3}", row[name]) for name in (x, y))
            known = None not in position and not unclear
            if not known or abs(position[0]) > most_x or abs(position[1]) > most_y:
                needed = f"numbers as {y} and {x}" if pixels else f"numbers as {x} and {y}"
                if degrees:
                    needed += ", decimal degrees (metres would be x and y)"
                raise ValueError(f"{path}, {place}: {x} '{row[x]}', {y} '{row[y]}': give {needed}")
            parts = [(POINT, [np.array([position])])]
        features.append(Feature(place, row, parts))
    return features


def _read_geometries(path, rows, column, crs):
    """The features of a table that has a column of WKT, or of GeoJSON as Earth Engine writes it."""
    features = []
    systems = {crs}
    for number, row in rows:
        place = f"line {number}"
        geometry = None
        try:
            if row[column].casefold() in MISSING:
                pass
            elif column in GEOJSON:
                geometry = json.loads(row[column])
                systems.add(WGS84)
            else:
                geometry, code = from_wkt(row[column])
                systems.add(parse_crs(code) if code else crs)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, {place}: {error}") from None
        features.append(make_feature(path, place, row, geometry))
    stated = systems - {None}
    if len(stated) > 1:
        raise ValueError(f"{path} is in {len(stated)} coordinate systems ({', '.join(stated)}): "
                         "give each a file of its own")
    return features, stated.pop() if stated else None


def _stated_crs(path, rows):
    """The coordinate system that a column of its code states, or None."""
    column = find_column(rows[0][1], SYSTEM)
    codes = {row[column] for _, row in rows} if column else set()
    codes = [code for code in codes if code.casefold() not in MISSING]
    if len(codes) > 1:
        raise ValueError(f"{path}: its column {column} names {len(codes)} coordinate systems: give "
                         "each a file of its own")
    try:
        return parse_crs(*codes) if codes else None
    except ValueError as error:
        raise ValueError(f"{path}, column {column}: {error}") from None


# Scenes


def name_scenes(shapes, scenes):
    """Name the shapes' scenes as they are named here: files give a scene by its path as well.

    Args:
        shapes: Shapes.
        scenes: list of Scene.
    Returns:
        Shapes. A name that means no scene, or several, stays as it is.
    Raises:
        ValueError: positions in pixels, of which scene is not given.
    """
    named = {name: _find_scene(name, scenes) for name in set(shapes.scenes.tolist())}
    if not shapes.on_map and "" in named:
        if len(scenes) > 1:
            place = shapes.places[shapes.scenes.tolist().index("")]
            raise ValueError(f"{shapes.path}, {place}: give scene, row, col, because there are "
                             f"{len(scenes)} scenes")
        named[""] = scenes[0].name
    return shapes._replace(scenes=np.array([named[name] for name in shapes.scenes.tolist()]))


def _find_scene(name, scenes):
    """The name of the scene that is meant by its name, its file's, a path, or 0 for 000."""
    names = [scene.name for scene in scenes]
    if name in ("", *names):
        return name
    file = PureWindowsPath(name)  # which takes / and \ alike
    readings = (
        lambda scene: scene.image.stem == name,
        lambda scene: scene.image.name == file.name,
        lambda scene: file.stem in (scene.name, scene.image.stem),
        lambda scene: name.isdecimal() and scene.name.isdecimal() and int(scene.name) == int(name),
    )
    for reading in readings:
        found = [scene.name for scene in scenes if reading(scene)]
        if len(found) == 1:
            return found[0]
    return name
