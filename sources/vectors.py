"""Vector files: GeoJSON, GeoPackage and, by the package pyogrio, all others that GDAL reads.

    features, crs = read_vectors("fields.gpkg", layer="training")
"""

import contextlib
import json
import sqlite3
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.files import check_beside
from geo.crs import WGS84, crs_of_wkt, parse_crs
from sources.geometry import from_wkb, parts_of
from sources.tables import fold_columns, read_text

ENVELOPES = (0, 32, 48, 48, 64)  # bytes that the kinds of envelope take in a GeoPackage
SHEETS = (".xls", ".xlsx", ".ods")


class Feature(NamedTuple):
    """A feature of a file: where it stands in it, {folded name: value}, and its geometry."""

    place: str
    properties: dict
    parts: list  # as from `parts_of`; empty without a geometry


def read_vectors(path, layer=None):
    """Read all features of a vector file.

    Args:
        path: the file.
        layer: the name of one of its layers; None: the only one that has features.
    Returns:
        list of Feature; and the coordinate system, None where the file states none.
    Raises:
        ValueError, OSError: no such file or layer, a damaged feature, or a package is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".json", ".geojson"):
        return read_geojson(path)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if not Path(path).is_dir():  # as a file geodatabase is
        check_beside(path)
    if suffix == ".gpkg":
        return read_geopackage(path, layer)
    if suffix in SHEETS:
        raise ValueError(f"{path} is a spreadsheet: save it as CSV")
    return read_by_gdal(path, layer)


def make_feature(path, place, properties, geometry):
    """Make a Feature; `geometry` is as in GeoJSON, or None."""
    try:
        parts = parts_of(geometry) if geometry else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = error if type(error) is ValueError else "its geometry is not as it should be"
        raise ValueError(f"{path}, {place}: {why}: give points, lines or polygons") from None
    titles = [str(name) for name in properties or {}]
    values = list((properties or {}).values())
    properties = {name: values[number] for name, number in fold_columns(titles).items()}
    return Feature(place, properties, parts)


def read_geojson(path):
    """Read the features of a GeoJSON file, as `read_vectors` does.

    Without a "crs" the positions are degrees (RFC 7946, section 4). Where they cannot be degrees,
    the coordinate system is None.
    """
    try:
        content = json.loads(read_text(path))
        if "spatialReference" in content:  # the JSON of ArcGIS
            return read_by_gdal(path)
        if content["type"] == "Feature":
            content = {**content, "features": [content]}
        features = [make_feature(path, f"feature {number}", feature["properties"],
                                 feature["geometry"])
                    for number, feature in enumerate(content["features"], 1)]
        own = [feature["crs"] for feature in content["features"] if feature.get("crs")]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not GeoJSON ({type(error).__name__}: {error}): export it as "
                         "a collection of features") from None
    member = content.get("crs") or None
    if any(crs != member for crs in own):
        raise ValueError(f"{path}: a feature has a crs of its own: export it in one coordinate "
                         "system")
    if member is not None:
        return features, _crs_member(path, member)
    if are_degrees(features):
        return features, WGS84
    print(f"warning: {path} states no coordinate system, and its positions are no degrees: they "
          "are taken in the scenes' own", file=sys.stderr)
    return features, None


def are_degrees(features):
    """Whether all positions can be longitude and latitude."""
    rings = [ring for feature in features for _, rings in feature.parts for ring in rings]
    positions = np.concatenate(rings or [np.empty((0, 2))])
    return bool((np.abs(positions) <= (360, 90)).all())


def _crs_member(path, member):
    """The coordinate system of a GeoJSON file's "crs" (GeoJSON 2008, section 3)."""
    try:
        properties = member["properties"]
        return parse_crs(properties["name"] if "name" in properties else properties["code"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: its crs {str(member)[:100]} is not understood: export it in "
                         "EPSG:4326") from None


def read_geopackage(path, layer=None):
    """Read the features of a GeoPackage, as `read_vectors` does.

    Source: OGC 12-128, "GeoPackage encoding standard", 2.1.3 and 1.1.2.
    """
    # A database whose changes wait in a "-wal" file must be opened as usual, or they are missed.
    waiting = Path(f"{path}-wal").exists()
    mode = "mode=ro" if waiting else "mode=ro&immutable=1"
    address = f"{Path(path).resolve().as_uri()}?{mode}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            return _read_layer(database, path, layer)
    except (sqlite3.Error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a GeoPackage of features ({error}): export it "
                         "again") from None


def _read_layer(database, path, layer):
    """What `read_geopackage` returns, from an open database."""
    tables = dict(database.execute(
        "SELECT table_name, column_name FROM gpkg_geometry_columns ORDER BY table_name"))
    counts = {name: database.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]
              for name in tables}
    name = choose_layer(path, counts, layer)
    crs = _geopackage_crs(database, name)
    rows = database.execute(f"SELECT * FROM {_quoted(name)}")
    columns = [column[0] for column in rows.description]
    features = []
    for number, values in enumerate(rows, 1):
        properties = dict(zip(columns, values))
        place = f"layer {name}, feature {properties.get('fid', number)}"
        content = properties.pop(tables[name])
        geometry = _from_geopackage(path, place, content) if content else None
        features.append(make_feature(path, place, properties, geometry))
    return features, crs


def _quoted(name):
    """A table's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _geopackage_crs(database, table):
    """The coordinate system of a table; None where it is undefined."""
    found = database.execute(
        "SELECT organization, organization_coordsys_id, definition, s.srs_id"
        " FROM gpkg_geometry_columns g JOIN gpkg_spatial_ref_sys s ON g.srs_id = s.srs_id"
        " WHERE table_name = ?", [table]).fetchone()
    if found is None:
        raise KeyError(f"the coordinate system of {table} is missing")
    organization, code, definition, number = found
    if number in (0, -1):  # undefined: geographic, Cartesian
        return None
    if organization.upper() in ("EPSG", "ESRI"):
        return parse_crs(f"{organization}:{code}")
    return crs_of_wkt(definition)


def _from_geopackage(path, place, content):
    """The geometry in a GeoPackage's bytes, or None where it is empty."""
    try:
        flags = content[3]
        if content[:2] != b"GP" or flags & 0b100000:  # an extended type, of which no one knows
            raise ValueError("its geometry is not in the form of GeoPackage")
        if flags & 0b10000:
            return None
        return from_wkb(content[8 + ENVELOPES[flags >> 1 & 7]:])
    except (ValueError, IndexError, TypeError, struct.error, RecursionError) as error:
        raise ValueError(f"{path}, {place}: {error}") from None


def choose_layer(path, counts, layer):
    """The layer to read: the one asked for, or the only one that has features.

    Args:
        path: the file, for messages.
        counts: {layer: number of features}.
        layer: its name, or None.
    """
    names = ", ".join(f"'{name}'" for name in counts)
    if layer is not None:
        if layer not in counts:
            raise ValueError(f"--layer {layer}: {path} has the layers {names or 'none'}: choose "
                             "from these")
        return layer
    filled = [name for name, count in counts.items() if count]
    if len(filled) > 1:
        raise ValueError(f"{path} has the layers {names}: choose one by --layer, or, "
                         "to read all, merge them with a column class")
    if not filled:
        raise ValueError(f"{path} has no layer that holds features (its layers: "
                         f"{names or 'none'})")
    return filled[0]


def read_by_gdal(path, layer=None):
    """Read the features of a Shapefile, KML, FlatGeobuf and others, as `read_vectors` does."""
    try:
        import pyogrio
    except ImportError:
        raise ValueError(f"{path} needs the package pyogrio (pip install pyogrio): or export it as "
                         "GeoPackage, GeoJSON or CSV") from None
    counts = {}
    for name, kind in _call_gdal(pyogrio.list_layers, path):
        if kind is not None:
            info = _call_gdal(pyogrio.read_info, path, layer=name, force_feature_count=True)
            counts[name] = info["features"]
    name = choose_layer(path, counts, layer)
    meta, numbers, geometries, fields = _call_gdal(pyogrio.raw.read, path, layer=name,
                                                   return_fids=True)
    features = []
    for row, number in enumerate(numbers.tolist()):
        place = f"layer {name}, feature {number}"
        properties = {column: values[row] for column, values in zip(meta["fields"], fields)}
        try:
            geometry = from_wkb(geometries[row]) if geometries[row] else None
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from None
        features.append(make_feature(path, place, properties, geometry))
    return features, crs_of_wkt(meta["crs"])


def _call_gdal(function, path, **options):
    """Call a function of pyogrio on a file; its errors name the file."""
    try:
        return function(path, **options)
    except (RuntimeError, ValueError, NameError) as error:  # NameError: where a text is damaged
        raise ValueError(f"{path}: GDAL cannot read it ({error}): export it as GeoPackage, GeoJSON "
                         "or CSV") from None
