"""Labelled points, lines and polygons in the pixels of a scene."""

from typing import NamedTuple

import numpy as np

from geo.crs import convert, crs_of, short_name
from geo.georeference import MODEL_TYPE
from sources.geometry import LINE, POINT, line_pixels, polygon_runs, spread
from sources.labels import NO_LABEL


class RunLabels(NamedTuple):
    """Labels of a scene at its final scale: runs of pixels in a row; the last counts."""

    rows: np.ndarray  # (R,) px
    starts: np.ndarray  # (R,) first column, px
    ends: np.ndarray  # (R,) column after the last, px
    shapes: np.ndarray  # (R,) number of the shape that each belongs to, ascending
    indices: np.ndarray  # (N,) uint8 classes of the shapes
    inside: np.ndarray  # (N,) bool, which shapes lie in the scene, if only with a corner

    def pixels(self, row, col, height, width):
        """The labelled pixels of a window: (P,) rows, columns inside it, and their shapes."""
        rows = self.rows - row
        starts = (self.starts - col).clip(0, width)
        ends = (self.ends - col).clip(0, width)
        inside = (rows >= 0) & (rows < height)
        cols, runs = spread(starts[inside], ends[inside])
        return rows[inside][runs], cols, self.shapes[inside][runs]

    def read(self, row, col, height, width):
        """The class indices of a window, (height, width) uint8, 255 for no label."""
        labels = np.full((height, width), NO_LABEL, np.uint8)
        rows, cols, shapes = self.pixels(row, col, height, width)
        labels[rows, cols] = self.indices[shapes]
        return labels


def points_in_scene(shapes, scene, image):
    """The labels of a scene.

    A polygon labels the pixels whose centres it covers, a line those along it.

    Args:
        shapes: Shapes.
        scene: Scene.
        image: ScaledRaster, the scene's.
    Returns:
        RunLabels.
    Raises:
        ValueError: positions are given on the map, and the scene is not on it or in another
            coordinate system that they cannot be converted to.
    """
    here = (shapes.scenes == "") | (shapes.scenes == scene.name)  # (N,)
    if not here.any():
        return RunLabels(*np.empty((4, 0), int), shapes.indices, here)
    rows, cols = to_pixels(shapes, scene, image.raster)  # (V,) each
    rows = rows * image.height / image.raster.height
    cols = cols * image.width / image.raster.width
    owner = shapes.owners[shapes.rings]  # (V,)
    inside = (rows >= 0) & (rows < image.height) & (cols >= 0) & (cols < image.width)  # not of NaN
    point = inside & here[owner] & (shapes.kinds[owner] == POINT)  # (V,)
    point_rows = np.floor(rows[point]).astype(int)
    point_cols = np.floor(cols[point]).astype(int)
    found = [(point_rows, point_cols, point_cols + 1, owner[point])]
    others = np.flatnonzero(here & (shapes.kinds != POINT))
    positions = np.stack([rows, cols], axis=1)  # (V, 2)
    for number, rings in _rings_of(shapes, others, positions):
        runs = _runs_of(shapes.kinds[number], rings, image)
        found.append((*runs, np.full(len(runs[0]), number)))
    rows, starts, ends, numbers = (np.concatenate(arrays) for arrays in zip(*found))
    order = np.argsort(numbers, kind="stable")
    in_scene = np.zeros(len(here), bool)
    in_scene[owner[inside]] = True
    in_scene[numbers] = True
    return RunLabels(rows[order], starts[order], ends[order], numbers[order], shapes.indices,
                     in_scene & here)


def _runs_of(kind, rings, image):
    """The (R,) rows, first columns and columns after the last of a line or polygon, px."""
    if not all(np.isfinite(ring).all() for ring in rings):  # it leaves the coordinate system
        return np.empty((3, 0), int)
    if kind == LINE:
        rows, cols = line_pixels(rings[0], image.height, image.width).T
        return rows, cols, cols + 1
    return polygon_runs(rings, image.height, image.width)


def _rings_of(shapes, numbers, positions):
    """Yield each of the shapes named, and the list of its rings, (n, 2) of the positions."""
    if len(numbers) == 0:
        return
    breaks = np.flatnonzero(np.diff(shapes.rings)) + 1
    rings = np.split(positions, breaks)
    first = np.searchsorted(shapes.owners, numbers)
    after = np.searchsorted(shapes.owners, numbers, side="right")
    for number, begin, end in zip(numbers, first, after):
        yield number, rings[begin:end]


def to_pixels(shapes, scene, raster):
    """Where the shapes' positions lie in a scene's file.

    Args:
        shapes: Shapes.
        scene: Scene.
        raster: Raster, the scene's.
    Returns:
        (V,) rows, (V,) columns, px, from the outer corner of the top left pixel; not finite where
        a position has no place in the scene's coordinate system.
    """
    x, y = shapes.positions.T
    if not shapes.on_map:
        return y + 0.5, x + 0.5
    georeference = raster.georeference
    if georeference is None:
        raise ValueError(f"{scene.image} has no georeference: give its points as scene,row,col")
    if shapes.crs is not None:
        own = crs_of(georeference, scene.image)
        if own is None:
            raise ValueError(f"{shapes.path} is in {short_name(shapes.crs)}, but {scene.image} "
                             "states no coordinate system that is known: give it an EPSG code, "
                             "or give the points as a CSV of x,y in the scene's coordinates")
        try:
            x, y = convert(x, y, shapes.crs, own)
        except ValueError as error:
            raise ValueError(f"{shapes.path} cannot be placed in {scene.image}: {error}; or export "
                             f"the points in {short_name(own)}") from None
    if georeference.keys.get(MODEL_TYPE) == 2:  # degrees, of which 360 make no difference
        middle, _ = georeference.to_map(raster.height / 2, raster.width / 2)
        x = x + 360 * np.round((middle - x) / 360)
    return georeference.to_pixel(x, y)
