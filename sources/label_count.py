"""A count of what became of the labels of a file: used, outside every scene, on no data, covered.

    count = LabelCount(shapes)
    count.add(scene, reader)        for each scene
    count.report()
"""

import sys
from typing import NamedTuple

import numpy as np

from geo.crs import crs_of, short_name
from sources.geometry import POINT
from sources.placing import to_pixels
from sources.raw import Region

BLOCK = 512  # px, side of the blocks in which labels are counted
SHOWN = 5  # places named in a message


class Footprint(NamedTuple):
    """What `to_pixels` needs of a scene's raster."""

    georeference: object  # Georeference or None
    height: int  # px
    width: int


class LabelCount:
    """Count what becomes of the shapes of a file: each is used, outside, without data or covered.

    Args:
        shapes: Shapes.
    """

    USED = "used"
    CONTRADICTING = "contradicting a later one"
    COVERED = "in another one's pixels"
    NO_DATA = "on no data"
    SMALL = "smaller than a pixel"
    OUTSIDE = "outside every scene"

    def __init__(self, shapes):
        self.shapes = shapes
        number = len(shapes.places)
        outcomes = (self.USED, self.CONTRADICTING, self.COVERED, self.NO_DATA)
        self.pixels = {outcome: np.zeros(number, int) for outcome in outcomes}
        self.inside = np.zeros(number, bool)
        self.scenes = []  # (Scene, Footprint)

    def add(self, scene, reader):
        """Count the labels of a scene, by its SceneReader."""
        raster = reader.raster
        self.scenes.append((scene, Footprint(raster.georeference, raster.height, raster.width)))
        labels = reader.labels
        self.inside |= labels.inside
        for row in range(0, reader.image.height, BLOCK):
            height = min(BLOCK, reader.image.height - row)
            near = (labels.rows >= row) & (labels.rows < row + height)
            if not near.any():
                continue
            runs = labels._replace(rows=labels.rows[near], starts=labels.starts[near],
                                   ends=labels.ends[near], shapes=labels.shapes[near])
            for col in range(0, reader.image.width, BLOCK):
                width = min(BLOCK, reader.image.width - col)
                self._add_block(runs, reader, (row, col, height, width))

    def _add_block(self, labels, reader, window):
        """Count the labelled pixels of a window, (row, col, height, width)."""
        rows, cols, numbers = labels.pixels(*window)
        if len(rows) == 0:
            return
        last = np.empty(window[2:], int)  # the shape that each pixel's label comes from
        last[rows, cols] = numbers
        winner = last[rows, cols]
        indices = self.shapes.indices
        found = reader.read_labels(Region("", 0, *window))[rows, cols]
        valid = found == indices[winner]  # else there is no data, and no label
        used = valid & (winner == numbers)
        contradicted = valid & (indices[winner] != indices[numbers])
        covered = valid & ~used & ~contradicted
        for outcome, pixels in zip(self.pixels, (used, contradicted, covered, ~valid)):
            self.pixels[outcome] += np.bincount(numbers[pixels], minlength=len(indices))

    def report(self):
        """Print in one line what became of the shapes.

        Raises:
            ValueError: too many lie outside every scene, or the file states no coordinate system
                and the scenes have several.
        """
        shapes = self.shapes
        self._check_systems()
        outcomes = np.where(self.inside, self.SMALL, self.OUTSIDE).astype(object)  # (N,)
        for outcome in reversed(self.pixels):
            outcomes[self.pixels[outcome] > 0] = outcome
        outside = outcomes == self.OUTSIDE
        if outside.mean() > shapes.max_outside:
            self._refuse(outside)
        total = len(outcomes)
        kind = "points" if (shapes.kinds == POINT).all() else "shapes"
        parts = [f"{(outcomes == self.USED).sum()} used"]
        for outcome in (self.OUTSIDE, self.NO_DATA, self.COVERED, self.CONTRADICTING, self.SMALL):
            some = outcomes == outcome
            if some.any():
                parts.append(f"{some.sum()} {outcome} ({self._places(some)})")
        parts += [f"{count} more {why}" for why, count in shapes.skipped.items() if count]
        if kind == "shapes":
            pixels = {outcome: counts.sum() for outcome, counts in self.pixels.items()}
            parts.append(f"{pixels[self.USED]:,} px labelled, of which several shapes cover "
                         f"{pixels[self.COVERED] + pixels[self.CONTRADICTING]:,} px")
        print(f"{shapes.path}: {total} {kind}: {', '.join(parts)}")
        warnings = {"lie outside every scene ({}): with --strict this is an error": outside,
                    "have another class than a later one in their pixels ({}), which counts":
                    outcomes == self.CONTRADICTING}
        for text, some in warnings.items():
            if some.any():
                print(f"warning: {shapes.path}: {some.sum()} of {total} {kind} "
                      + text.format(self._places(some)), file=sys.stderr)

    def _places(self, some):
        """Where in the file some shapes stand, the first few."""
        places = [self.shapes.places[number] for number in np.flatnonzero(some)[:SHOWN]]
        return ", ".join(places) + (", ..." if some.sum() > SHOWN else "")

    def _check_systems(self):
        """Refuse positions without a coordinate system if the scenes have several."""
        shapes = self.shapes
        if not shapes.on_map or shapes.crs is not None or (shapes.scenes != "").all():
            return
        scene_of = {}  # {coordinate system: a scene in it}
        for scene, raster in self.scenes:
            if raster.georeference is not None and raster.georeference.keys:
                scene_of[crs_of(raster.georeference, scene.image)] = scene.image
        if len(scene_of) > 1:
            found = ", ".join(f"{path} is in {short_name(crs)}" for crs, path in scene_of.items())
            raise ValueError(f"{shapes.path} states no coordinate system, and the scenes have "
                             f"several ({found}): name each point's scene, or give lon,lat")

    def _refuse(self, outside):
        """Raise an error that states where the shapes and the scenes lie, and what may be wrong."""
        shapes = self.shapes
        first = int(outside.argmax())
        x, y = shapes.positions[shapes.owners[shapes.rings] == first][0]
        scene, raster = self.scenes[0]
        name = shapes.scenes[first]
        message = f"{shapes.path}, {shapes.places[first]}: no scene "
        message += f"of that name, '{name}', " if name else ""
        message += f"covers the point ({outside.sum()} of {len(outside)} lie outside): "
        if not shapes.on_map:
            raise ValueError(f"{message}it is row {y:g}, column {x:g}, and {scene.name} is one of "
                             f"the scenes, {raster.height} x {raster.width} px")
        system = short_name(shapes.crs) if shapes.crs else "the scene's system"
        xs, ys = raster.georeference.to_map(np.array([0, 0, 1, 1]) * raster.height,
                                            np.array([0, 1, 0, 1]) * raster.width)
        message += (f"it lies at {x:.10g}, {y:.10g} in {system}, and {scene.image} at "
                    f"x {min(xs):.10g} to {max(xs):.10g}, y {min(ys):.10g} to {max(ys):.10g} in "
                    f"{short_name(crs_of(raster.georeference, scene.image))}")
        raise ValueError(message + self._advice())

    def _advice(self):
        """What may be wrong with positions on the map, to end a message; "" if it is not seen."""
        shapes = self.shapes
        if shapes.crs is None and (np.abs(shapes.positions) <= (180, 90)).all():
            return ("; the positions look like degrees: name the columns of a CSV lon,lat, or "
                    "export with a coordinate system")
        exchanged = shapes._replace(positions=shapes.positions[:, ::-1])
        for scene, raster in self.scenes:
            try:
                rows, cols = to_pixels(exchanged, scene, raster)
            except ValueError:
                continue
            inside = (rows >= 0) & (rows < raster.height) & (cols >= 0) & (cols < raster.width)
            if inside.any():
                return "; with x and y exchanged they would lie inside"
        return ""
