"""Where scenes lie on the ground: which of them overlap, and how much two splits share."""

import dataclasses
import sys
from typing import NamedTuple

import numpy as np

from engine.prepared import SPLITS
from geo.crs import WGS84, convert, crs_of, short_name
from sources.scenes import scaled

TOLERANCE = 0.5  # px: neighbours whose edges were rounded do not overlap
LISTED = 4  # sites that a joined site's name lists, and joined sites that are printed


class Footprint(NamedTuple):
    """Where a scene lies, after --scale."""

    plane: str  # a coordinate system, or a name; bounds in different planes do not compare
    affine: tuple  # (a, b, c, d, e, f): x = a * col + b * row + c, y = d * col + e * row + f
    height: int  # px
    width: int
    crs: str | None = None  # of the affine, if bounds are converted from it to the plane

    def map_bounds(self, row, col, height, width):
        """(left, low, right, high) of a window, px, on the scene's own map."""
        xs, ys = self._to_map(*_corners(row, col, height, width))
        return min(xs), min(ys), max(xs), max(ys)

    def bounds(self, row, col, height, width):
        """(left, low, right, high) of a window, px, in units of the plane."""
        xs, ys = self.to_plane(*_corners(row, col, height, width))
        return min(xs), min(ys), max(xs), max(ys)

    def to_plane(self, rows, cols):
        """xs and ys in units of the plane, of positions in px."""
        xs, ys = self._to_map(rows, cols)
        return convert(xs, ys, self.crs, self.plane) if self.crs else (xs, ys)

    def _to_map(self, rows, cols):
        """xs and ys on the scene's own map, of positions in px."""
        a, b, c, d, e, f = self.affine
        return a * cols + b * rows + c, d * cols + e * rows + f

    @property
    def whole(self):
        """(left, low, right, high) of the scene, in units of the plane."""
        return self.bounds(0, 0, self.height, self.width)


def _corners(row, col, height, width):
    """Rows (4,) and columns (4,) of the corners of a window."""
    return (np.array([row, row, row + height, row + height]),
            np.array([col, col + width, col, col + width]))


def footprints(source, sizes, georeferences):
    """Find where each scene lies: on the map, or in a plane of its own.

    Bounds of scenes in several coordinate systems are compared in degrees of WGS 84. A scene whose
    file names no system lies in the others', if these have but one.

    Args:
        source: RawDataset.
        sizes: [(height, width)] of the scenes' files, px.
        georeferences: [Georeference or None].
    Returns:
        list of Footprint.
    """
    systems = [georeference and crs_of(georeference, scene.image)
               for georeference, scene in zip(georeferences, source.scenes)]
    known = set(systems) - {None}
    apart = []
    if len(known) > 1:
        apart = [crs for crs in sorted(known) if not _can_compare(crs)]
    found = []
    for scene, (height, width), georeference, crs in zip(source.scenes, sizes, georeferences,
                                                         systems):
        size = scaled(height, source.scale), scaled(width, source.scale)
        if georeference is None:
            plane = f"pixels of {source.grid_of(scene)}"
            found.append(Footprint(plane, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), *size))
            continue
        affine = georeference.window(0, 0, (height / size[0], width / size[1])).affine
        if len(known) == 1:
            found.append(Footprint(*known, affine, *size))
        elif crs is None or crs in apart:
            found.append(Footprint(crs or "map", affine, *size))
        else:
            found.append(Footprint(WGS84, affine, *size, crs))
    return found


def _can_compare(crs):
    """Whether a coordinate system can be converted to degrees; warns if not."""
    try:
        convert(np.zeros(1), np.zeros(1), crs, WGS84)
        return True
    except ValueError as error:
        print(f"warning: it is not known whether scenes in {short_name(crs)} overlap those in "
              f"other systems ({error}); name the splits if they do", file=sys.stderr)
        return False


def join_sites(source, places):
    """Make one site of scenes that overlap on the ground.

    Args:
        source: RawDataset.
        places: list of Footprint.
    Returns:
        RawDataset whose scenes have their footprint, and the site that they are joined to.
    """
    sites = [scene.site for scene in source.scenes]
    bounds = np.array([place.whole for place in places])  # (N, 4)
    sizes = np.array([(place.width, place.height) for place in places])
    pixels = (bounds[:, 2:] - bounds[:, :2]) / sizes  # (N, 2) sides of a pixel
    planes = np.array([place.plane for place in places])
    first = {site: site for site in sites}  # a site it is joined to, or itself

    def find(site):
        while first[site] != site:
            first[site] = first[first[site]]
            site = first[site]
        return site

    for number in range(1, len(sites)):
        low = np.maximum(bounds[number, :2], bounds[:number, :2])
        high = np.minimum(bounds[number, 2:], bounds[:number, 2:])
        least = TOLERANCE * np.minimum(pixels[number], pixels[:number])
        overlaps = (high - low > least).all(axis=1) & (planes[:number] == planes[number])
        for other in np.flatnonzero(overlaps):
            first[find(sites[number])] = find(sites[other])
    members = {}
    for site in first:
        members.setdefault(find(site), []).append(site)
    scenes = []
    joined = {}
    grids = {}  # {Footprint: grid of its first scene}
    for scene, place in zip(source.scenes, places):
        together = members[find(scene.site)]
        site = "+".join(together[:LISTED])
        if len(together) > LISTED:
            site += f"+{len(together) - LISTED} more"
        joined[site] = len(together) > 1
        grid = grids.setdefault(place, source.grid_of(scene))
        scenes.append(scene._replace(site=site, grid=grid, footprint=place))
    shown = [site for site, is_joined in joined.items() if is_joined]
    if shown:
        print("scenes that overlap on the ground are one site, and are in one split together: "
              + ", ".join(shown[:LISTED]) + ", ..." * (len(shown) > LISTED))
    return dataclasses.replace(source, scenes=scenes)


def pixel_grids(scenes):
    """Find where scenes lie on grids of pixels that they share with their neighbours.

    Args:
        scenes: list of Scene with footprints.
    Returns:
        {scene: [number of its grid, row and column of its top left pixel]}, without the scenes of a
        site whose pixels differ in size or direction.
    """
    numbers = {}  # {plane, size and direction of a pixel: (number, x and y of the first scene)}
    found = {}
    grids_of = {}  # {site: numbers}
    for scene in scenes:
        place = scene.footprint
        a, b, x, d, e, y = place.affine
        pixel = tuple(f"{value:.9g}" for value in (a, b, d, e))
        number, *origin = numbers.setdefault((place.plane, place.crs, pixel), (len(numbers), x, y))
        col, row = np.linalg.solve([(a, b), (d, e)], [x - origin[0], y - origin[1]])
        found[scene.name] = [number, round(row), round(col)]
        grids_of.setdefault(scene.site, set()).add(number)
    return {scene.name: found[scene.name] for scene in scenes if len(grids_of[scene.site]) == 1}


def shared_ground(scenes, regions):
    """The share of the ground of val and of test that train shows too.

    Args:
        scenes: list of Scene with footprints.
        regions: list of Region.
    Returns:
        {split: 0 to 1}, without splits that have no region.
    """
    found = {}  # {(split, plane): [(number of the grid, bounds, pixels)]}
    numbers = {}  # {grid: number}
    for region in regions:
        scene = scenes[region.scene]
        row, col, height, width = region.window
        number = numbers.setdefault(scene.grid or scene.name, len(numbers))
        bounds = scene.footprint.bounds(*region.window)
        own = found.setdefault((region.split, scene.footprint.plane), [])
        own.append((number, *bounds, col, row, col + width, row + height))
    found = {key: np.array(own, float) for key, own in found.items()}  # (N, 9)
    shares = {}
    for split in SPLITS[1:]:
        total = 0
        shared = 0
        for (owner, plane), own in found.items():
            trained = found.get(("train", plane), np.zeros((0, 9)))
            for region in own if owner == split else ():
                # In one grid by pixels, because the bounds of turned rectangles overlap.
                same = trained[:, 0] == region[0]
                share = (_covered_share(region[5:], trained[same, 5:])
                         + _covered_share(region[1:5], trained[~same, 1:5]))
                area = _area(region[1:5])
                total += area
                shared += min(share, 1) * area
        if total:
            shares[split] = float(shared / total)
    return shares


def _area(rectangles):
    """Areas of rectangles (..., 4): left, low, right, high; 0 where they are turned inside out."""
    return (rectangles[..., 2:] - rectangles[..., :2]).clip(0).prod(axis=-1)


def _covered_share(rectangle, others):
    """The share of a rectangle (4,) that others (N, 4) cover, above 1 where they overlap."""
    low = np.maximum(rectangle[:2], others[:, :2])
    high = np.minimum(rectangle[2:], others[:, 2:])
    return _area(np.hstack([low, high])).sum() / _area(rectangle)


def warn_of_shared_ground(shares):
    """Describe what of `shared_ground` makes scores too high, one line for each split."""
    return [f"train shows {100 * share:.3g} % of the ground of {split} too, so that scores are "
            "higher than on new ground" for split, share in shares.items() if share > 0.0005]
