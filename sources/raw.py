"""A data set before it is cut into tiles: its classes, and scenes in files of images and masks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sources.labels import NO_LABEL, SparseLabels

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}


class Scene(NamedTuple):
    """An image and what is known of it.

    Scenes of one site show the same ground, at least in part. They are never in two splits.
    """

    name: str
    image: Path
    mask: Path | None
    site: str
    split: str | None = None


class Region(NamedTuple):
    """A rectangle of a scene, px after --scale, and its split. A tile is a small region."""

    split: str
    scene: int  # its number in RawDataset.scenes
    row: int
    col: int
    height: int
    width: int
    labels: SparseLabels | None = None  # in place of the scene's; see splits.split_by_polygon

    @property
    def window(self):
        """(row, col, height, width)."""
        return self.row, self.col, self.height, self.width


@dataclass(frozen=True)
class RawDataset:
    """A data set before it is cut into tiles.

    Attributes:
        class_table: list of LandClass, those that mean "no label" included.
        scenes: list of Scene.
        tile_lists: paths of the official train.txt, val.txt and test.txt, if there are any.
        threshold: mask values above it are read as 255, the others as 0; None changes nothing.
        tolerance: how far off a mask's colour may be in red, green and blue, 0 to 255.
        scale: new side / old side of images and masks, which are resized first.
        points: Points in place of masks, or None.
        aligned: whether scenes of one site show the same ground pixel by pixel, as seasons do.
        rgb: numbers of the bands shown as red, green and blue, from 1; None shows the first three.
        clouds: sentinel2.CloudTest, or None.
        max_pixels: largest PNG or JPEG to decode, px.
        nodata: the value of missing pixels in images whose file names none, or None.
    """

    class_table: list
    scenes: list
    tile_lists: list = field(default_factory=list)
    threshold: float | None = None
    tolerance: int = 0
    scale: float = 1.0
    points: object = None
    aligned: bool = False
    rgb: list | None = None
    clouds: object = None
    max_pixels: int = 2**31
    nodata: float | None = None

    @property
    def classes(self):
        """The K classes of the table, in the order of their indices."""
        return [row for row in self.class_table if row.index != NO_LABEL]

    def grid_of(self, scene):
        """A name that scenes share whose pixels lie on each other: their site's if aligned."""
        return scene.site if self.aligned else scene.name


def find_files(pattern):
    """Find the images that a path names.

    Args:
        pattern: a folder, one file, or a pattern such as DIR/*_sat.jpg.
    Returns:
        {scene name: path}. The name is what the star stands for, or the file's without its ending.
    Raises:
        ValueError, OSError: nothing is there, two files of one name, or two stars.
    """
    pattern = Path(pattern)
    named = []
    if pattern.is_dir():
        for path in sorted(pattern.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                named.append((path.stem, path))
    elif pattern.name.count("*") > 1:
        raise ValueError(f"{pattern}: give one star, which stands for the scene's name")
    elif "*" in pattern.name:
        before, after = pattern.name.split("*")
        for path in sorted(pattern.parent.glob(pattern.name)):
            named.append((path.name[len(before):len(path.name) - len(after)], path))
    elif pattern.is_file():
        named.append((pattern.stem, pattern))
    found = {}
    for name, path in named:
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both be scene '{name}': rename one")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{pattern}: no TIFF, PNG or JPEG is there; check the path")
    return found


def pair_scenes(images, masks):
    """Pair images and masks by scene name; one image and one mask pair whatever their names.

    Args:
        images, masks: as `find_files` takes them; masks may be None.
    Returns:
        list of Scene, each a site of its own.
    Raises:
        ValueError, OSError: a file without its partner.
    """
    found = find_files(images)
    partners = dict.fromkeys(found) if masks is None else find_files(masks)
    if masks and Path(images).is_file() and Path(masks).is_file():
        partners = dict(zip(found, partners.values()))
    for name in sorted(found.keys() ^ partners.keys()):
        path, other = (found[name], masks) if name in found else (partners[name], images)
        raise ValueError(f"{path} has no partner '{name}' in {other}: add it, or remove this file")
    return [Scene(name, path, partners[name], site=name) for name, path in found.items()]
