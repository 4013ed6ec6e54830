"""Coordinate systems: which one a file states, and positions converted from one to another.

A coordinate system is a text here: "EPSG:32632", or what PROJ reads, such as WKT. Degrees of WGS 84
and ETRS89, Web Mercator and their UTM zones are converted by the formulas below. All others need
the package pyproj. Axes are x (east) before y (north) everywhere, longitude before latitude.
"""

import functools
import re
import sys
import warnings

import numpy as np

from geo.georeference import LINEAR_UNIT, MODEL_TYPE, PROJECTION, UTM

WGS84 = "EPSG:4326"
GEODETIC = 2048  # GeoKey: EPSG code of a system in degrees
ANGULAR_UNIT = 2054  # GeoKey
PRIVATE = 32767  # in place of an EPSG code: the file defines a system of its own

# The same system by another name.
SYNONYMS = {"OGC:CRS84": WGS84, "OGC:84": WGS84, "EPSG:4979": WGS84, "OGC:CRS83": "EPSG:4269",
            "OGC:CRS27": "EPSG:4267", "ESRI:102100": "EPSG:3857", "ESRI:102113": "EPSG:3857",
            "EPSG:900913": "EPSG:3857", "EPSG:102100": "EPSG:3857", "EPSG:3785": "EPSG:3857"}
DEGREES = (WGS84, "EPSG:4258")  # WGS 84 and ETRS89, which differ by less than a metre
WEB_MERCATOR = "EPSG:3857"
ETRS89_UTM = range(25828, 25839)  # zones 28 to 38

RADIUS = 6378137.0  # m, of the ellipsoids WGS 84 and GRS 80 at the equator
FLATTENING = 1 / 298.257223563  # of WGS 84; that of GRS 80 moves no point by a millimetre
UTM_SCALE = 0.9996  # on the central meridian
FAR = 60  # degrees from the central meridian: the series below do not hold beyond
COARSE = 2.0  # m: a conversion that PROJ rates less accurate than this is reported


def parse_crs(text):
    """Return the name of the coordinate system that a text states.

    Args:
        text: "EPSG:32632", "urn:ogc:def:crs:OGC:1.3:CRS84", an opengis.net address, WKT, or a code.
    Returns:
        "AUTHORITY:CODE" where the text holds it, else the text itself.
    Raises:
        ValueError: the text is no name of a coordinate system.
    """
    text = str(text).strip()
    if text.isdecimal():
        text = f"EPSG:{text}"
    name = re.fullmatch(r"(?:[^,]*[:/])?(EPSG|ESRI|OGC)(?:\.xml)?[:/#]+(?:[\d.]*[:/])?(\w+)",
                        text, re.I)
    if "[" in text:  # WKT, where the last entry of the outermost bracket names it
        name = re.search(r'(?:AUTHORITY|ID)\[\s*"(\w+)"\s*,\s*"?(\w+)"?\s*\]\s*\]\s*$', text)
    elif name is None and not text.startswith("+proj"):
        raise ValueError(f"'{text[:60]}' names no coordinate system, such as EPSG:4326")
    if name is None:
        return text
    name = f"{name[1]}:{name[2]}".upper()
    return SYNONYMS.get(name, name)


def crs_of(georeference, path=None):
    """The coordinate system of a raster.

    Args:
        georeference: the raster's Georeference.
        path: its file, which GDAL is asked about where the GeoKeys hold no code and the package
            rasterio is installed; None: GDAL is not asked.
    Returns:
        a coordinate system, or None where it is not known.
    """
    keys = georeference.keys
    projected = keys.get(PROJECTION)
    geodetic = keys.get(GEODETIC)  # stands beside a projection too, as what it is based on
    code = {1: projected, 2: geodetic}.get(keys.get(MODEL_TYPE), projected or geodetic)
    if code in (None, 0, PRIVATE):
        return path and _crs_by_gdal(path)
    crs = parse_crs(code)
    metric = crs == WEB_MERCATOR or utm_zone(crs)
    other_unit = metric and keys.get(LINEAR_UNIT, 9001) != 9001  # 9001: metre
    other_unit = other_unit or (crs in DEGREES and keys.get(ANGULAR_UNIT, 9102) != 9102)
    return None if other_unit or keys.get(MODEL_TYPE) == 3 else crs  # 3: geocentric


def _crs_by_gdal(path):
    """The coordinate system of a raster file as GDAL reads it; None without rasterio."""
    try:
        import rasterio
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without georeference
            with rasterio.open(path) as file:
                text = file.crs.to_wkt() if file.crs else None
    except rasterio.errors.RasterioError:
        return None
    return crs_of_wkt(text)


def crs_of_wkt(text):
    """As `parse_crs`, but None for no text and for a system that is bound to no place on earth."""
    is_local = text is None or text.startswith(("ENGCRS", "ENGINEERINGCRS", "LOCAL_CS"))
    return None if is_local else parse_crs(text)


def short_name(crs):
    """A coordinate system in a few words, for messages."""
    if crs is None:
        return "no coordinate system that is known"
    if crs in DEGREES:
        return f"{crs} (longitude, latitude)"
    name = re.search(r'\["([^"]+)"', crs)  # of WKT
    return name[1] if name else crs[:60]


def utm_zone(crs):
    """(zone 1 to 60, whether it is south of the equator) of a UTM system on WGS 84 or ETRS89."""
    authority, _, code = crs.partition(":")
    if authority != "EPSG" or not code.isdecimal():
        return None
    code = int(code)
    if code in UTM or code in ETRS89_UTM:
        return code % 100, code // 100 == 327
    return None


def convert(x, y, source, target):
    """Convert positions from one coordinate system to another.

    Args:
        x, y: (N,) float64, in degrees or in the units of the source.
        source, target: as from `parse_crs`.
    Returns:
        (N,) x and (N,) y; NaN where the target does not reach.
    Raises:
        ValueError: pyproj is needed and not installed, or it knows no way between the two.
    """
    if source == target:
        return x, y
    if not (has_formula(source) and has_formula(target)):
        return _convert_by_proj(x, y, source, target)
    with np.errstate(all="ignore"):  # positions far outside a system overflow, and become NaN
        x, y = _from_degrees(*_to_degrees(x, y, source), target)
    outside = ~np.isfinite(x + y)
    return np.where(outside, np.nan, x), np.where(outside, np.nan, y)


def has_formula(crs):
    """Whether a system is converted here, without pyproj."""
    return crs in DEGREES or crs == WEB_MERCATOR or utm_zone(crs) is not None


def _to_degrees(x, y, crs):
    """Longitude and latitude, degrees, of positions in a system that has a formula."""
    if crs in DEGREES:
        return x, y
    if crs == WEB_MERCATOR:
        return np.degrees(x / RADIUS), np.degrees(np.arctan(np.sinh(y / RADIUS)))
    zone, south = utm_zone(crs)
    return from_utm(x, y, zone, south)


def _from_degrees(lon, lat, crs):
    """Positions in a system that has a formula, of longitude and latitude, degrees."""
    if crs in DEGREES:
        return lon, lat
    if crs == WEB_MERCATOR:
        lon = np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon)
        return RADIUS * np.radians(lon), RADIUS * np.arcsinh(np.tan(np.radians(lat)))
    zone, south = utm_zone(crs)
    return to_utm(lon, lat, zone, south)


# Transverse Mercator: Karney 2011, "Transverse Mercator with an accuracy of a few nanometers",
# equations 7 to 21 and 35 to 36. The series end with the fourth power, 1e-6 m near the zone.
N = FLATTENING / (2 - FLATTENING)  # third flattening
ECCENTRICITY = (FLATTENING * (2 - FLATTENING)) ** 0.5
MERIDIAN_RADIUS = RADIUS / (1 + N) * (1 + N**2 / 4 + N**4 / 64)  # m
ALPHA = (N / 2 - 2 / 3 * N**2 + 5 / 16 * N**3 + 41 / 180 * N**4,
         13 / 48 * N**2 - 3 / 5 * N**3 + 557 / 1440 * N**4,
         61 / 240 * N**3 - 103 / 140 * N**4,
         49561 / 161280 * N**4)
BETA = (N / 2 - 2 / 3 * N**2 + 37 / 96 * N**3 - 1 / 360 * N**4,
        1 / 48 * N**2 + 1 / 15 * N**3 - 437 / 1440 * N**4,
        17 / 480 * N**3 - 37 / 840 * N**4,
        4397 / 161280 * N**4)


def to_utm(lon, lat, zone, south=False):
    """Easting and northing, m, in a UTM zone of longitude and latitude, degrees."""
    from_meridian = (lon - (6 * zone - 183) + 180) % 360 - 180
    angle = np.radians(from_meridian)
    tangent = _conformal(np.tan(np.radians(lat)))
    north = np.arctan2(tangent, np.cos(angle))
    east = np.arcsinh(np.sin(angle) / np.hypot(tangent, np.cos(angle)))
    sphere = north + 1j * east
    plane = sphere + sum(a * np.sin(2 * j * sphere) for j, a in enumerate(ALPHA, 1))
    plane = UTM_SCALE * MERIDIAN_RADIUS * plane
    within = (np.abs(from_meridian) <= FAR) & (np.abs(lat) <= 90)
    easting = np.where(within, 500_000 + plane.imag, np.nan)
    return easting, plane.real + 10_000_000 * south


def from_utm(easting, northing, zone, south=False):
    """Longitude and latitude, degrees, of easting and northing in a UTM zone, m."""
    plane = northing - 10_000_000 * south + 1j * (easting - 500_000)
    plane = plane / (UTM_SCALE * MERIDIAN_RADIUS)
    sphere = plane - sum(b * np.sin(2 * j * plane) for j, b in enumerate(BETA, 1))
    north = sphere.real
    east = np.sinh(sphere.imag)
    goal = np.sin(north) / np.hypot(east, np.cos(north))  # the conformal latitude's tangent
    tangent = goal / (1 - ECCENTRICITY**2)
    for _ in range(4):  # Newton's method: the error is squared by each step
        now = _conformal(tangent)
        slope = np.sqrt(1 + now**2) * np.sqrt(1 + tangent**2) * (1 - ECCENTRICITY**2)
        slope = slope / (1 + (1 - ECCENTRICITY**2) * tangent**2)
        tangent = tangent + (goal - now) / slope
    lon = 6 * zone - 183 + np.degrees(np.arctan2(east, np.cos(north)))
    within = np.abs(sphere.real) <= np.pi / 2  # beyond it lies the other side of the pole
    return np.where(within, lon, np.nan), np.degrees(np.arctan(tangent))


def _conformal(tangent):
    """The tangent of the conformal latitude from the latitude's."""
    length = np.sqrt(1 + tangent**2)
    sigma = np.sinh(ECCENTRICITY * np.arctanh(ECCENTRICITY * tangent / length))
    return tangent * np.sqrt(1 + sigma**2) - sigma * length


def _convert_by_proj(x, y, source, target):
    """As `convert`, by the package pyproj."""
    both = f"{short_name(source)} to {short_name(target)}"
    transformer, error = _transformer(source, target)
    if error:
        raise ValueError(f"{both} {error}")
    x, y = (np.asarray(axis, np.float64) for axis in transformer.transform(x, y))
    lost = ~np.isfinite(x + y)
    if lost.all():
        return np.full_like(x, np.nan), np.full_like(y, np.nan)
    accuracy = _accuracy(transformer)
    if accuracy > COARSE:
        _warn_of_accuracy(both, accuracy)
    return np.where(lost, np.nan, x), np.where(lost, np.nan, y)


def _accuracy(transformer):
    """How accurate the last conversion was, m; -1 where it is not known."""
    import pyproj
    try:
        return transformer.get_last_used_operation().accuracy
    except pyproj.exceptions.ProjError:  # nothing was done, as from heights to none
        return -1


@functools.lru_cache
def _transformer(source, target):
    """(pyproj's Transformer between two systems, None), or (None, why there is none)."""
    try:
        import pyproj
    except ImportError:
        return None, "needs the package pyproj (pip install pyproj)"
    try:
        # A ballpark conversion would leave out the shift between two datums, up to hundreds of m.
        return pyproj.Transformer.from_crs(source, target, always_xy=True,
                                           allow_ballpark=False), None
    except pyproj.exceptions.ProjError as error:
        return None, f"is a way that PROJ does not know ({error})"


@functools.lru_cache
def _warn_of_accuracy(both, accuracy):
    """Warn, once, that positions may be off by more than a metre or two."""
    print(f"warning: PROJ converts {both} to within {accuracy:g} m here, and labels may lie so far "
          "off", file=sys.stderr)
