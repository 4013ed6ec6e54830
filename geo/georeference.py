"""Where a raster lies on the map: the tags of a GeoTIFF, moved with windows and written back exactly."""

import numpy as np

GEO_TAGS = {33550: "d", 33922: "d", 34264: "d", 34735: "H", 34736: "d", 34737: "s"}  # code: type in the file
MOST = 1e100  # a tag's number from which it is damage; scaling such a one would overflow
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # EPSG code of a linear unit: metre, foot, US check_scenes foot
UTM = (*range(32601, 32661), *range(32701, 32761))  # EPSG codes of the zones on WGS 84, north and south


class Georeference:
    """Where a raster lies on the map, kept as GeoTIFF tags {code: value} (see GEO_TAGS) to be written back exactly.

    Pixel coordinates are (row, col) floats; (0, 0) is the outer corner of the top left pixel, also where the file
    itself counts from pixel centres (PixelIsPoint).
    """

    def __init__(self, tags):
        self.tags = tags
        entries = np.reshape(tags.get(34735, ()), (-1, 4))[1:].tolist()  # (key, tag that holds it, count, value)
        self.keys = {key: value for key, holder, _, value in entries if holder == 0}
        self.centre = 0.5 if self.keys.get(1025) == 2 else 0.0  # PixelIsPoint: the file's (0, 0) is a pixel's centre
        if {33550, 33922} <= tags.keys():
            (a, e, *_), (i, j, _, x, y, *_) = tags[33550], tags[33922]
            e = abs(e)  # rows go down the map, as GDAL has it, whatever sign a writer gave their height
            self.affine = (a, 0.0, x - (i + self.centre) * a, 0.0, -e, y + (j + self.centre) * e)
        else:
            a, b, _, c, d, e, _, f = tags[34264][:8]
            self.affine = (a, b, c - self.centre * (a + b), d, e, f - self.centre * (d + e))
        numbers = [*self.affine, *tags.get(33550, ()), *tags.get(33922, ()), *tags.get(34264, ())]
        if not np.abs(numbers).max() < MOST or self.affine[0] * self.affine[4] == self.affine[1] * self.affine[3]:
            raise ValueError("its georeference makes no sense: a pixel has no size, or lies nowhere")

    def window(self, row, col, factor=1):
        """Georeference of a window whose pixels each cover factor x factor pixels of this raster.

        Args:
            row, col: top left pixel of the window, px of this raster; factor: how much coarser the window is, one number
                or (down, across).
        Returns:
            Georeference.
        """
        tags, centre, (down, across) = dict(self.tags), self.centre, np.broadcast_to(factor, 2).tolist()
        if {33550, 33922} <= tags.keys():
            # The tie points move in pixels, which is exact, not on the map, where it would be rounded.
            ties = np.reshape(tags[33922], (-1, 6)).astype(float)  # (n, 6): i, j, k, x, y, z
            ties[:, :2] = (ties[:, :2] + centre - (col, row)) / (across, down) - centre
            wide, high, *up = tags[33550]
            tags.update({33922: tuple(ties.ravel().tolist()), 33550: (wide * across, high * down, *up)})
        else:
            (x, y), (a, b, g, _, d, e, h, _, *rest) = self.to_map(row, col), tags[34264]
            a, b, d, e = a * across, b * down, d * across, e * down
            tags[34264] = (a, b, g, x + centre * (a + b), d, e, h, y + centre * (d + e), *rest)
        return Georeference(tags)

    def to_map(self, row, col):
        """(x, y) on the map of the pixel coordinates row, col: floats or arrays."""
        a, b, c, d, e, f = self.affine
        return a * col + b * row + c, d * col + e * row + f

    def to_pixel(self, x, y):
        """(row, col) of the map coordinates x, y: floats or arrays; the inverse of to_map."""
        a, b, c, d, e, f = self.affine
        x, y, area = x - c, y - f, a * e - b * d
        return (a * y - d * x) / area, (e * x - b * y) / area

    @property
    def gsd_m(self):
        """Side of a pixel on the ground, m; None where a map unit is no known length (degrees, Web Mercator).

        A file may leave its unit to the projection's EPSG code; that is followed for UTM, which is in metres.
        """
        projection = self.keys.get(3072)
        unit = METRES.get(self.keys.get(3076, 9001 if projection in UTM else None))
        if self.keys.get(1024) != 1 or unit is None or projection in (3857, 3785, 900913):
            return None
        a, b, _, d, e, _ = self.affine
        return abs(a * e - b * d) ** 0.5 * unit
