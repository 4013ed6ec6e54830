"""Where a raster lies on the map: GeoTIFF tags, moved with windows and written back exactly."""

import re

import numpy as np

# GeoTIFF tags and their type in the file.
PIXEL_SCALE = 33550  # (width, height, depth) of a pixel, map units
TIE_POINTS = 33922  # (i, j, k, x, y, z) per point: pixel coordinates and where they lie on the map
MATRIX = 34264  # 4 x 4, row by row, from pixel coordinates to the map
KEYS = 34735  # (key, tag that holds it, count, value) per entry
TEXTS = 34737  # texts that KEYS points to, such as the name of the coordinate system
GEO_TAGS = {PIXEL_SCALE: "d", TIE_POINTS: "d", MATRIX: "d", KEYS: "H", 34736: "d", TEXTS: "s"}

# GeoKeys, and the EPSG codes that stand in them.
MODEL_TYPE = 1024  # 1: projected, 2: geographic
RASTER_TYPE = 1025  # 2: PixelIsPoint
GEOGRAPHIC_CRS = 2048
PROJECTION = 3072
METHOD = 3075  # of a projection that has no code
LINEAR_UNIT = 3076
PRIVATE = 32767  # stands in place of a code
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # metre, foot, US survey foot
WEB_MERCATOR = (3857, 3785)
UTM = (*range(32601, 32661), *range(32701, 32761))  # zones on WGS 84, north and south

MAX_NUMBER = 1e100  # a larger number in a tag is damage, and would overflow when it is scaled


class Georeference:
    """Where a raster lies on the map, as GeoTIFF tags {code: value}, to be written back exactly.

    Pixel coordinates are (row, col) floats. (0, 0) is the outer corner of the top left pixel, also
    where the file itself counts from pixel centres (PixelIsPoint).

    Attributes:
        tags: those in GEO_TAGS, at least a matrix, or the pixel scale and tie points.
        keys: {GeoKey: value} of those that hold one short integer.
        affine: (a, b, c, d, e, f) with x = a * col + b * row + c, y = d * col + e * row + f.
    """

    def __init__(self, tags):
        self.tags = tags
        entries = np.reshape(tags.get(KEYS, ()), (-1, 4))[1:].tolist()
        self.keys = {key: value for key, holder, _, value in entries if holder == 0}
        is_point = self.keys.get(RASTER_TYPE) == 2
        self.centre = 0.5 if is_point else 0.0  # where the file's (0, 0) lies in its pixel, px
        self.has_tie_points = PIXEL_SCALE in tags and TIE_POINTS in tags
        self.affine = self._affine()
        a, b, _, d, e, _ = self.affine
        numbers = [*self.affine]
        for code in (PIXEL_SCALE, TIE_POINTS, MATRIX):
            numbers.extend(tags.get(code, ()))
        if not np.abs(numbers).max() < MAX_NUMBER or a * e == b * d:
            raise ValueError(
                "its georeference makes no sense: a pixel has no size, or lies nowhere")

    def _affine(self):
        """The coefficients of `affine` from the tags."""
        if self.has_tie_points:
            width, height = self.tags[PIXEL_SCALE][:2]
            height = abs(height)  # rows go down the map whatever its sign, as GDAL reads it
            i, j, _, x, y, _ = self.tags[TIE_POINTS][:6]
            left = x - (i + self.centre) * width
            top = y + (j + self.centre) * height
            return width, 0.0, left, 0.0, -height, top
        a, b, _, c, d, e, _, f = self.tags[MATRIX][:8]
        return a, b, c - self.centre * (a + b), d, e, f - self.centre * (d + e)

    def window(self, row, col, factor=1):
        """Georeference of a window whose pixels each cover factor x factor pixels of this raster.

        Args:
            row, col: top left pixel of the window, px of this raster.
            factor: how much coarser the window is, one number or (down, across).
        Returns:
            Georeference.
        """
        tags = dict(self.tags)
        down, across = np.broadcast_to(factor, 2).tolist()
        if self.has_tie_points:
            # The tie points move in pixels, which is exact. On the map they would be rounded.
            ties = np.reshape(tags[TIE_POINTS], (-1, 6)).astype(float)  # (n, 6)
            pixels = ties[:, :2] + self.centre - (col, row)
            ties[:, :2] = pixels / (across, down) - self.centre
            width, height, *depth = tags[PIXEL_SCALE]
            tags[TIE_POINTS] = tuple(ties.ravel().tolist())
            tags[PIXEL_SCALE] = (width * across, height * down, *depth)
        else:
            x, y = self.to_map(row, col)
            a, b, g, _, d, e, h, _, *rest = tags[MATRIX]
            a *= across
            d *= across
            b *= down
            e *= down
            c = x + self.centre * (a + b)
            f = y + self.centre * (d + e)
            tags[MATRIX] = (a, b, g, c, d, e, h, f, *rest)
        return Georeference(tags)

    def to_map(self, row, col):
        """(x, y) on the map of the pixel coordinates row, col: floats or arrays."""
        a, b, c, d, e, f = self.affine
        return a * col + b * row + c, d * col + e * row + f

    def to_pixel(self, x, y):
        """(row, col) of the map coordinates x, y: floats or arrays; the inverse of to_map."""
        a, b, c, d, e, f = self.affine
        x = x - c
        y = y - f
        area = a * e - b * d  # of a pixel
        return (a * y - d * x) / area, (e * x - b * y) / area

    def crs_text(self):
        """The coordinate system as PROJ takes it, "EPSG:CODE" or WKT; "" where none is named."""
        code = self.keys.get(PROJECTION) or self.keys.get(GEOGRAPHIC_CRS) or PRIVATE
        if code != PRIVATE:
            return f"EPSG:{code}"
        # GDAL writes systems that no GeoKeys describe as a text of this form.
        well_known = re.search(r"ESRI PE String = ([^|]+)", self.tags.get(TEXTS, ""))
        return well_known[1] if well_known else ""


def from_affine(affine, epsg=None, is_geographic=False, unit=None):
    """Georeference of a raster whose file has no GeoTIFF tags.

    Args:
        affine: (a, b, c, d, e, f) as in `Georeference`, from the corner of the top left pixel.
        epsg: code of the coordinate system, or None.
        is_geographic: whether it counts in degrees.
        unit: EPSG code of the map unit, a key of METRES, or None.
    """
    a, b, c, d, e, f = affine
    tags = {MATRIX: (a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0)}
    if b == d == 0 and a > 0 > e:
        tags = {PIXEL_SCALE: (a, -e, 0.0), TIE_POINTS: (0.0, 0.0, 0.0, c, f, 0.0)}
    if epsg is not None:
        entries = [(MODEL_TYPE, 0, 1, 2 if is_geographic else 1), (RASTER_TYPE, 0, 1, 1),
                   (GEOGRAPHIC_CRS if is_geographic else PROJECTION, 0, 1, epsg)]
        if unit is not None:
            entries.append((LINEAR_UNIT, 0, 1, unit))
        tags[KEYS] = (1, 1, 0, len(entries), *sum(entries, ()))
    return Georeference(tags)
