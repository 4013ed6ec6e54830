"""Write polygons as a GeoPackage: an SQLite file that QGIS, GDAL and others open.

Source: OGC 12-128r18, "GeoPackage Encoding Standard", clauses 1.1 and 2.1.
"""

import contextlib
import sqlite3
import struct

import numpy as np

from geo.georeference import GEOGRAPHIC_CRS, PRIVATE, PROJECTION

OWN_SRS = 100000  # id of a system without an EPSG code

UNDEFINED_SRS = ("Undefined Cartesian", -1, "NONE", -1, "undefined")
WGS_84 = ("WGS 84", 4326, "EPSG", 4326,
          ('GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
           'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,'
           'AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],'
           'AUTHORITY["EPSG","4326"]]'))

# The file is renamed when complete, so no journal is needed to undo a part of it.
SETTINGS = """
PRAGMA application_id = 0x47504B47;  -- GPKG
PRAGMA user_version = 10300;  -- of the standard, 1.3
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
"""
TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
    organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
    definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL,
    identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
    CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
    geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL,
    m TINYINT NOT NULL, CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
    CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
"""
POLYGONS = """
CREATE TABLE polygons (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON,
    class TEXT, class_id INTEGER, pixels INTEGER, area_m2 REAL, confidence REAL);
"""


def write_geopackage(path, polygons, names, srs=UNDEFINED_SRS, pixel_m2=None):
    """Write polygons with their class, its name, size and mean confidence.

    It is not kept if it is not complete: write it where nobody looks, and rename it.

    Args:
        path: the file to write, which does not exist.
        polygons: iterable of polygons.Polygon, in map coordinates.
        names: K class names.
        srs: as from `spatial_reference`.
        pixel_m2: area of a pixel on the ground, m2; None where it is not known: area_m2 is null.
    Raises:
        OSError: the file cannot be written.
    """
    low = np.full(2, np.inf)
    high = np.full(2, -np.inf)

    def rows():
        for polygon in polygons:
            least = polygon.rings[0].min(axis=0)
            most = polygon.rings[0].max(axis=0)
            np.minimum(low, least, out=low)
            np.maximum(high, most, out=high)
            geometry = encode(polygon.rings, least, most, srs[1])
            area = polygon.pixels * pixel_m2 if pixel_m2 else None
            yield (geometry, names[polygon.class_id], polygon.class_id, polygon.pixels, area,
                   polygon.confidence)

    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.executescript(SETTINGS + TABLES + POLYGONS)
            file.executemany(
                "INSERT OR REPLACE INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)",
                [UNDEFINED_SRS, ("Undefined geographic", 0, "NONE", 0, "undefined"), srs, WGS_84])
            file.execute("BEGIN")
            file.executemany(
                "INSERT INTO polygons (geom, class, class_id, pixels, area_m2, confidence) "
                "VALUES (?, ?, ?, ?, ?, ?)", rows())
            file.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, min_y, "
                "max_x, max_y, srs_id) VALUES ('polygons', 'features', 'polygons', ?, ?, ?, ?, ?)",
                (*low.tolist(), *high.tolist(), srs[1]))
            file.execute("INSERT INTO gpkg_geometry_columns VALUES "
                         "('polygons', 'geom', 'POLYGON', ?, 0, 0)", (srs[1],))
            file.execute("COMMIT")
    except sqlite3.Error as error:  # such as a full disk
        raise OSError(f"{path}: cannot be written ({error})") from error


def encode(rings, low, high, srs_id):
    """A polygon as a GeoPackage binary.

    Args:
        rings: list of (n, 2) float64 arrays of (x, y), closed.
        low, high: (2,) least and greatest x and y.
        srs_id: of the spatial reference system.
    """
    # Version 0; flags: little-endian numbers (1), and an envelope of x and y (2).
    header = struct.pack("<2sBBi", b"GP", 0, 0b11, srs_id)
    envelope = struct.pack("<4d", low[0], high[0], low[1], high[1])
    parts = [header, envelope, struct.pack("<BII", 1, 3, len(rings))]  # little-endian, a polygon
    for ring in rings:
        parts.append(struct.pack("<I", len(ring)))
        parts.append(ring.tobytes())
    return b"".join(parts)


def spatial_reference(georeference, path):
    """The row (name, id, organisation, its code, definition) of a map's reference system.

    QGIS and GDAL look up an EPSG code. The definition needs the package rasterio, and so do systems
    without a code.

    Args:
        georeference: Georeference of the map, or None.
        path: a GeoTIFF with this georeference.
    """
    if georeference is None:
        return UNDEFINED_SRS
    keys = georeference.keys
    code = keys.get(PROJECTION) or keys.get(GEOGRAPHIC_CRS) or PRIVATE
    try:
        import rasterio
        with rasterio.open(path) as file:
            definition = file.crs.to_wkt() if file.crs else "undefined"
    except ImportError:
        definition = "undefined"
    if code != PRIVATE:
        return f"EPSG:{code}", code, "EPSG", code, definition
    if definition != "undefined":
        return "the scene's own", OWN_SRS, "NONE", OWN_SRS, definition
    return UNDEFINED_SRS
