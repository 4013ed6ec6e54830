"""The size of a pixel on the ground, which is that on the map only where the map is true to scale.

UTM, national grids and equal-area projections are, to about one part in a hundred of an area. Web
Mercator stretches by 1 / cos(latitude), a square kilometre at 60 degrees to four. Degrees have no
length of their own.
"""

import math

import numpy as np

from geo.crs import ETRS89_UTM
from geo.georeference import (
    LINEAR_UNIT, METHOD, METRES, MODEL_TYPE, PRIVATE, PROJECTION, UTM, WEB_MERCATOR)

EQUATOR_M = 6378137.0  # radius of the ellipsoid WGS 84 at the equator
SQUARED_ECCENTRICITY = 0.00669437999
ANGULAR_UNIT = 2054
DEGREE = 9102
UTM_REACH_M = 600_000  # from the zone's meridian; beyond it areas are wrong by 1 %
TOLERANCE = 0.01  # of an area: a map is true to scale within it
VARIATION = 0.02  # of a pixel's area within one scene, from the smallest to the largest

# EPSG codes whose areas are wrong by more than 2 % inside their own area of use, as PROJ 9 computes
# it: Mercator, equidistant and polar maps, and conic maps of continents.
DISTORTED = {
    3031, 3032, 3034, 3112, 3347, 3348, 3349, 3388, 3395, 3411, 3412, 3413, 3580, 3581, 3786, 3797,
    3798, 3799, 3832, 3851, 3976, 3978, 3979, 3994, 3995, 3996, 4087, 4088, 4462, 5041, 5042, 5530,
    5632, 5634, 5637, 5639, 5880, 5890, 5936, 5937, 5938, 5939, 5940, 6996, 6997, 7755, 7845, 9040,
    9354, 9377, *range(27701, 27708), 29100, 29101, 32661, 32662, 32663, 32761}
# Methods of projections without a code (GeoKey 3075): transverse and oblique Mercator, Lambert
# azimuthal equal-area, Albers, sinusoidal, cylindrical equal-area.
TRUE_METHODS = (1, 3, 10, 11, 24, 28)


def ground_sample_distance(georeference, height, width):
    """The side of a scene's pixels on the ground.

    Args:
        georeference: Georeference, or None.
        height, width: of the scene, px.
    Returns:
        (m, ""), the square root of a pixel's area at the scene's centre; or (None, why it is not
        known).
    """
    if georeference is None:
        return None, "it has no georeference"
    a, b, _, d, e, _ = georeference.affine
    side = abs(a * e - b * d) ** 0.5  # map units
    rows = np.array([height / 2, 0, 0, height, height])
    cols = np.array([width / 2, 0, width, 0, width])
    xs, ys = georeference.to_map(rows, cols)  # (5,) of the centre and the corners
    keys = georeference.keys
    code = keys.get(PROJECTION)
    if keys.get(MODEL_TYPE) == 2:
        if keys.get(ANGULAR_UNIT, DEGREE) != DEGREE or np.abs(ys).max() > 90:
            return None, "its coordinates are angles, but not degrees"
        return _at_centre(side * math.radians(1) * np.sqrt(np.prod(_radii(ys), axis=0)))
    unit = METRES.get(keys[LINEAR_UNIT]) if LINEAR_UNIT in keys else _unit_of_code(code)
    if unit is None and MODEL_TYPE not in keys:
        return None, "its file states no coordinate system"
    if unit is None:
        return None, "the length of its map unit is not known"
    if code in WEB_MERCATOR:
        phi = np.arctan(np.sinh(ys / EQUATOR_M))  # latitude, radians
        north, east = _radii(np.degrees(phi))
        return _at_centre(side * np.sqrt(north * np.cos(phi) * east) / EQUATOR_M)
    if code in UTM:
        distance = abs(xs[0] * unit - 500_000)
        if distance > UTM_REACH_M:
            return None, f"it lies {distance / 1000:.0f} km from the meridian of its UTM zone"
        return side * unit, ""
    areal_scales = _areal_scales(georeference, xs, ys)
    if areal_scales is None:
        return (side * unit, "") if _is_trusted(keys) else (None, _why_distorted(georeference))
    if np.abs(areal_scales - 1).max() < TOLERANCE:
        return side * unit, ""
    return _at_centre(side * unit / np.sqrt(areal_scales))


def _unit_of_code(code):
    """Metres per map unit of a projection that its EPSG code alone names; None if not known.

    GDAL leaves the unit out of a system with heights, such as EPSG:25832+7837.
    """
    if code in UTM or code in ETRS89_UTM:
        return 1.0
    try:
        from pyproj import CRS
        from pyproj.exceptions import CRSError
    except ImportError:
        return None
    try:
        system = CRS.from_epsg(code)
    except CRSError:  # no code, or none of EPSG's
        return None
    return system.axis_info[0].unit_conversion_factor if system.is_projected else None


def _at_centre(sides):
    """(side at the centre, ""), or (None, why) where the (5,) sides of a scene differ too much."""
    areas = sides ** 2
    if not areas.max() <= (1 + VARIATION) * areas.min():
        return None, ("the area of its pixels varies too much from one side of the scene to the "
                      "other: reproject it to an equal-area projection")
    return float(sides[0]), ""


def _radii(latitudes):
    """Metres per radian to the north and to the east on WGS 84, at latitudes in degrees."""
    phi = np.radians(latitudes)
    root = np.sqrt(1 - SQUARED_ECCENTRICITY * np.sin(phi) ** 2)
    north = EQUATOR_M * (1 - SQUARED_ECCENTRICITY) / root ** 3
    east = EQUATOR_M * np.cos(phi) / root
    return north, east


def _areal_scales(georeference, xs, ys):
    """Area on the map by area on the ground at map coordinates; None without pyproj or a system."""
    system = georeference.crs_text()
    try:
        from pyproj import CRS, Proj
        from pyproj.exceptions import ProjError
    except ImportError:
        return None
    try:
        projection = Proj(CRS.from_user_input(system))
        scales = projection.get_factors(*projection(xs, ys, inverse=True)).areal_scale
    except ProjError:
        return None
    return scales if np.isfinite(scales).all() else None


def _is_trusted(keys):
    """Whether a projection counts as true to scale where PROJ cannot be asked."""
    code = keys.get(PROJECTION, PRIVATE)
    if code == PRIVATE:
        is_named = METHOD in keys or keys.get(MODEL_TYPE) != 1
        return keys.get(METHOD) in TRUE_METHODS or not is_named
    return code not in DISTORTED


def _why_distorted(georeference):
    """Why the scale of a map is not known."""
    code = georeference.keys.get(PROJECTION, PRIVATE)
    name = "its projection" if code == PRIVATE else f"its projection EPSG:{code}"
    return (f"{name} may not be true to scale there: install pyproj to compute the scale, or "
            "reproject the scene to UTM")
