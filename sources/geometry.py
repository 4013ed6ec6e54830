"""Points, lines and polygons: read from WKT, WKB and GeoJSON, and turned into pixels.

A geometry is a dict as in GeoJSON: {"type": "Point", "coordinates": [x, y]}. A part of it is a
point, a line, or a polygon with its holes, given as rings: (n, 2) arrays of positions.
"""

import json
import re
import struct

import numpy as np

POINT = 0
LINE = 1
POLYGON = 2
# WKB's number of each type is its place here.
TYPES = ("", "Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon",
         "GeometryCollection")
KINDS = {"Point": POINT, "LineString": LINE, "Polygon": POLYGON}
MAX_LINE = 2**29  # px: a line is cut off so far from its raster, or its numbers would overflow
LARGEST = 1e15  # degrees, metres or px: a larger coordinate is damage


def from_wkt(text):
    """Read a geometry from WKT, such as "POINT Z (7.1 50.2 90)".

    Returns:
        the geometry, and the coordinate system's code of "SRID=4326;POINT (7.1 50.2)" or None.
    Raises:
        ValueError: it is no point, line or polygon, or a collection of several types.
    """
    match = re.fullmatch(r"\s*(?:SRID=(\d+);)?\s*([A-Z]+?)\s*(?:Z|M|ZM)?\s*(EMPTY|\(.*\))\s*", text,
                         re.I | re.S)
    names = {name.upper(): name for name in TYPES[1:7]}
    if match is None or match[2].upper() not in names:
        raise ValueError(f"'{text[:40]}' is no point, line or polygon in WKT")
    name = names[match[2].upper()]
    if match[3].upper() == "EMPTY":
        return {"type": name, "coordinates": []}, match[1]
    numbers = re.sub(r"[^\s(),]+(?:\s+[^\s(),]+)+", _as_list, match[3])
    coordinates = json.loads(numbers.replace("(", "[").replace(")", "]"))
    if name == "Point":
        coordinates = coordinates[0]
    elif name == "MultiPoint":  # written as (1 2, 3 4) or ((1 2), (3 4))
        coordinates = [np.ravel(point).tolist() for point in coordinates]
    return {"type": name, "coordinates": coordinates}, match[1]


def _as_list(match):
    """The numbers that a match of a regular expression holds, as a list in JSON."""
    return json.dumps([float(word) for word in match[0].split()])


def from_wkb(content):
    """Read a geometry from WKB or EWKB (bytes), with Z and M or without, in either byte order.

    Raises:
        ValueError: it is damaged, or of a type that is no point, line or polygon.
    """
    try:
        return _WkbReader(content).geometry()
    except (struct.error, IndexError):
        raise ValueError("its geometry is damaged") from None


class _WkbReader:
    """Reads WKB from its beginning on; a geometry may hold others, each with a byte order."""

    def __init__(self, content):
        self.content = content
        self.start = 0  # byte that is read next
        self.order = "<"  # little endian
        self.dimensions = 2  # numbers per position

    def geometry(self):
        """The geometry that begins here."""
        self.order = "<" if self.content[self.start] == 1 else ">"
        self.start += 1
        code = self.count()
        if code & 0x20000000:  # EWKB: the coordinate system's code follows
            self.count()
        number = code & 0x0FFFFFFF  # without the flags of EWKB; 1001 is a point with Z
        has_z_and_m = (code >> 31) + (code >> 30 & 1)
        self.dimensions = 2 + has_z_and_m + (0, 1, 1, 2)[number // 1000 % 4]
        number %= 1000
        if not 1 <= number < len(TYPES):
            raise ValueError(f"its geometry is of type {number}, no point, line or polygon")
        name = TYPES[number]
        if name == "GeometryCollection":
            return {"type": name, "geometries": self.members()}
        if name == "Point":
            position = self.positions(1)[0]
            coordinates = [] if np.isnan(position).all() else position  # NaN: empty
        elif name == "LineString":
            coordinates = self.positions(self.count())
        elif name == "Polygon":
            coordinates = [self.positions(self.count()) for _ in range(self.count())]
        else:
            coordinates = [member["coordinates"] for member in self.members()]
        return {"type": name, "coordinates": coordinates}

    def members(self):
        """The geometries of a collection."""
        return [self.geometry() for _ in range(self.count())]

    def count(self):
        """The next whole number of four bytes."""
        number, = struct.unpack_from(f"{self.order}I", self.content, self.start)
        self.start += 4
        return number

    def positions(self, count):
        """The next positions, (count, dimensions) float64."""
        end = self.start + 8 * self.dimensions * count
        if end > len(self.content):
            raise IndexError
        numbers = np.frombuffer(self.content[self.start:end], f"{self.order}f8")
        self.start = end
        return numbers.reshape(count, self.dimensions)


def parts_of(geometry):
    """Split a geometry into points, lines and polygons.

    Returns:
        list of (POINT, LINE or POLYGON, list of (n, 2) float64 rings); [] for an empty geometry.
    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is not as GeoJSON has it.
    """
    name = geometry["type"]
    if name == "GeometryCollection":
        return [part for member in geometry["geometries"] for part in parts_of(member)]
    members = [geometry["coordinates"]]
    if name in ("MultiPoint", "MultiLineString", "MultiPolygon"):
        members = geometry["coordinates"]
        name = name.removeprefix("Multi")
    if name not in KINDS:
        raise ValueError(f"it is a {name}")
    parts = []
    for coordinates in members:
        if len(coordinates) == 0:
            continue
        rings = coordinates
        if name == "Point":
            rings = [[coordinates]]
        elif name == "LineString":
            rings = [coordinates]
        least = {"Point": 1, "LineString": 2, "Polygon": 3}[name]
        rings = [_ring(ring, least) for ring in rings if len(ring)]
        parts.append((KINDS[name], rings))
    return parts


def _ring(positions, least):
    """Positions as (n, 2) float64, at least so many; Z and M are left out."""
    ring = np.array([position[:2] for position in positions], np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < least:
        raise ValueError("its coordinates are incomplete")
    if not (np.abs(ring) < LARGEST).all():
        raise ValueError("its coordinates are no numbers")
    return ring


def polygon_runs(rings, height, width):
    """The pixels whose centres a polygon covers, row by row.

    Args:
        rings: list of (n, 2) of rows and columns, px; a ring inside another is a hole.
        height, width: of the raster, px.
    Returns:
        (R,) rows, first columns, and columns after the last: int64 runs of pixels in a row.
    """
    begin = np.concatenate(rings)  # (E, 2) edges from here ...
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])  # ... to here
    upper = np.minimum(begin[:, 0], end[:, 0])
    lower = np.maximum(begin[:, 0], end[:, 0])
    first = np.ceil(upper - 0.5).clip(0, height).astype(int)  # rows whose centre line it crosses
    after = np.ceil(lower - 0.5).clip(0, height).astype(int)
    rows, edge = spread(first, after)
    down = rows + 0.5 - begin[edge, 0]
    slope = (end - begin)[edge, 1] / (end - begin)[edge, 0]
    crossing = begin[edge, 1] + down * slope
    cols = np.ceil(crossing - 0.5).clip(0, width).astype(int)  # the first centre at its right
    order = np.lexsort((cols, rows))
    rows = rows[order][::2]  # the polygon lies between the first crossing and the second, ...
    starts, ends = cols[order].reshape(-1, 2).T
    some = starts < ends
    return rows[some], starts[some], ends[some]


def spread(first, after):
    """All whole numbers of N ranges from first to after, and the range that each belongs to."""
    lengths = (after - first).clip(min=0)
    ranges = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.cumsum(lengths) - lengths
    return np.arange(len(ranges)) - begins[ranges] + first[ranges], ranges


def line_pixels(line, height, width):
    """The pixels along a line, as Pillow and GDAL draw it: from pixel to pixel.

    Args:
        line: (n, 2) rows and columns, px.
        height, width: of the raster, px.
    Returns:
        (N, 2) int64 rows and columns inside the raster.
    Source: Bresenham 1965, "Algorithm for computer control of a digital plotter".
    """
    size = np.array([height, width])
    pixels = np.floor(line).clip(-MAX_LINE, MAX_LINE).astype(int)
    found = []
    for begin, end in zip(pixels[:-1], pixels[1:]):
        way = np.abs(end - begin)
        sign = np.sign(end - begin)
        axis = way.argmax()  # the line is as many pixels long as it is on its longer axis
        length = max(way[axis], 1)
        ends = np.sort([-begin[axis] * sign[axis], (size[axis] - 1 - begin[axis]) * sign[axis]])
        low, high = ends.clip(0, way[axis])  # only steps that may lie inside
        steps = np.arange(low, high + 1)[:, None]
        found.append(begin + sign * ((2 * way * steps + length) // (2 * length)))
    found = np.concatenate(found)
    inside = ((found >= 0) & (found < size)).all(axis=1)
    return found[inside]
