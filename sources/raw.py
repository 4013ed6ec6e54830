"""A data set before it is cut into tiles: its classes, and scenes in files of images and masks."""

import glob
import itertools
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.files import check_name
from sources.labels import NO_LABEL, SparseLabels

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2"}
MASK_WORDS = {"mask", "masks", "label", "labels", "labelids", "gt", "truth", "seg", "target", "m"}


class Scene(NamedTuple):
    """An image and what is known of it.

    Scenes of one site show the same ground, at least in part. They are never in two splits.
    """

    name: str
    image: Path
    mask: Path | None
    site: str
    split: str | None = None
    grid: str | None = None  # see RawDataset.grid_of
    footprint: object = None  # see overlap.Footprint


class Region(NamedTuple):
    """A rectangle of a scene, px after --scale, and its split. A tile is a small region."""

    split: str
    scene: int  # its number in RawDataset.scenes
    row: int
    col: int
    height: int
    width: int
    labels: SparseLabels | None = None  # in place of the scene's; see splits.split_by_polygon
    shared_rows: int = 0  # px at its top and left that count in the tile before; see splits.cut
    shared_cols: int = 0

    @property
    def window(self):
        """(row, col, height, width)."""
        return self.row, self.col, self.height, self.width

    @property
    def counted(self):
        """(h, w) bool, which pixels do not count in the tile before."""
        own = np.ones((self.height, self.width), bool)
        own[:self.shared_rows] = False
        own[:, :self.shared_cols] = False
        return own


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
        points: Shapes in place of masks, or None.
        aligned: whether scenes of one site show the same ground pixel by pixel, as seasons do.
        rgb: numbers of the bands shown as red, green and blue, from 1; None shows the first three.
        clouds: sentinel2.CloudTest, or None.
        max_pixels: largest PNG or JPEG to decode, px.
        nodata: the value of missing pixels in images whose file names none, or None.
        warned: the kinds of warnings that were given.
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
    warned: set = field(default_factory=set)

    def warn(self, kind, message):
        """Print a warning, unless one of its kind was printed for another scene."""
        if kind not in self.warned:
            print(f"warning: {message}", file=sys.stderr)
            self.warned.add(kind)

    @property
    def classes(self):
        """The K classes of the table, in the order of their indices: the first row of each."""
        rows = {}
        for row in self.class_table:
            rows.setdefault(row.index, row)
        return [rows[index] for index in sorted(rows) if index != NO_LABEL]

    def grid_of(self, scene):
        """A name that scenes share whose pixels lie on each other: their site's if aligned."""
        return scene.grid or (scene.site if self.aligned else scene.name)


def find_files(pattern):
    """Find the images that a path names.

    Args:
        pattern: a folder, one file, a pattern such as DIR/*_sat.jpg or DIR/*/*.tif, or several of
            these as a list.
    Returns:
        {scene name: path}. The name is what the stars stand for, joined by _, or the file's without
        its ending.
    Raises:
        ValueError, OSError: nothing is there, or two files of one name.
    """
    if isinstance(pattern, list):
        named = [item for one in pattern for item in find_files(one).items()]
    else:
        named = _find_named(Path(pattern))
    found = {}
    for name, file in named:
        check_name(name, file.parent)
        if name in found:
            raise ValueError(f"{found[name]} and {file} would both be scene '{name}': rename one, "
                             f"or give a pattern such as '{file.parent / ('*' + file.suffix)}'")
        found[name] = file
    return found


def _find_named(path):
    """[(scene name, path)] of one folder, file or pattern; an error where nothing is there."""
    named = []
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                named.append((file.stem, file))
    elif "*" in str(path):
        named = match_stars(path.as_posix())
    elif path.is_file():
        named = [(path.stem, path)]
    if not named:
        deeper = path.is_dir() and any(child.is_dir() for child in path.iterdir())
        advice = "check the path, capital letters too"
        if path.is_dir():  # perhaps with files in a format of GDAL's
            pattern = path / "*" / "*.tif" if deeper else path / "*.vrt"
            advice = f"give a pattern such as '{pattern}'"
        raise FileNotFoundError(f"{path}: no TIFF, PNG or JPEG is there; {advice}")
    return named


def match_stars(pattern):
    """The files of a pattern, as [(what its stars stand for, path)]; ** stands for any folders."""
    parts = re.split(r"(\*+)", pattern)
    to_find = "".join(part if "*" in part else glob.escape(part) for part in parts)
    to_name = "".join(f"({'.*' if part == '**' else '[^/]*'})" if "*" in part else re.escape(part)
                      for part in parts)
    to_name = to_name.replace("(.*)/", "(?:(.*)/)?")  # ** may stand for no folder at all
    named = []
    for file in sorted(glob.glob(to_find, recursive=True)):
        words = re.fullmatch(to_name, Path(file).as_posix()).groups()
        if Path(file).is_file():
            named.append(("_".join(word.replace("/", "_") for word in words if word), Path(file)))
    return named


def pair_scenes(images, masks):
    """Pair images and masks by scene name; one image and one mask pair whatever their names.

    Where no names are alike, they are compared without the words that all images, and all masks,
    have at their ends: 7_sat and 7_mask, image_7 and label_7, 7 and 7_m. Then a name may also be
    the start or end of its partner's: 7 and S2A_20180510_7.

    Args:
        images, masks: as `find_files` takes them; masks may be None.
    Returns:
        list of Scene, each a site of its own.
    Raises:
        ValueError, OSError: a file without its partner, or an image that is its own mask.
    """
    found = find_files(images)
    if masks is None:
        return [Scene(name, path, None, site=name) for name, path in found.items()]
    partners = find_files(masks)
    if isinstance(images, list):
        images = " ".join(map(str, images))
    found, partners = tell_apart(found, partners, images, masks)
    if len(found) == len(partners) == 1:
        partners = dict(zip(found, partners.values()))
    elif not found.keys() & partners.keys():
        found, partners = match_names(found, partners)
    for name in sorted(found.keys() ^ partners.keys()):
        path, other = (found[name], masks) if name in found else (partners[name], images)
        raise ValueError(f"{path} has no partner '{name}' in {other}: add it, remove this file, or "
                         "give patterns whose stars stand for the same in both, such as "
                         f"{example_patterns(found, partners)}")
    return [Scene(name, path, partners[name], site=name) for name, path in found.items()]


def tell_apart(found, partners, images, masks):
    """Take masks out of the images and images out of the masks where one path names both.

    Args:
        found, partners: {name: path}; images, masks: what they were found by.
    Returns:
        the two without files that they share. Where they share all, files with a word such as mask
        or label in their name are masks.
    """
    both = set(found.values()) & set(partners.values())
    masks_in_images = both if len(both) == len(partners) else set()
    images_in_masks = both if len(both) == len(found) else set()
    if both and masks_in_images and images_in_masks:
        words_of = {path: set(re.split(r"[\W_]", path.stem.lower())) for path in both}
        masks_in_images = {path for path, words in words_of.items() if words & MASK_WORDS}
        images_in_masks = both - masks_in_images
    found = {name: path for name, path in found.items() if path not in masks_in_images}
    partners = {name: path for name, path in partners.items() if path not in images_in_masks}
    left = set(found.values()) & set(partners.values())
    if left or not found or not partners:
        raise ValueError(f"--images {images} and --masks {masks} name the same files, so that an "
                         "image would be its own mask: give two patterns, such as --images "
                         "'DIR/*_sat.jpg' --masks 'DIR/*_mask.png'")
    return found, partners


def match_names(found, partners):
    """Shorten the names of images and masks until they are alike, if that is possible.

    Args:
        found, partners: {name: path}.
    Returns:
        the two with other names, or as they were.
    """
    options = itertools.product(cuts(list(found)), cuts(list(partners)))
    shortened = []
    for image_cut, mask_cut in sorted(options, key=lambda pair: sum(map(sum, pair))):
        shortened.append((shorten(found, image_cut), shorten(partners, mask_cut)))
    for images, masks in shortened:
        if images.keys() == masks.keys():
            return images, masks
    for images, masks in shortened:
        name_of = match_ends(images, masks)
        if name_of:
            return {name_of[name]: path for name, path in images.items()}, masks
        name_of = match_ends(masks, images)
        if name_of:
            return images, {name_of[name]: path for name, path in masks.items()}
    return found, partners


def shorten(files, cut):
    """{name: path} with letters cut off the start and the end of each name."""
    start, end = cut
    return {name[start:len(name) - end]: path for name, path in files.items()}


def match_ends(longer, shorter):
    """Find the one name in `shorter` that starts or ends each name in `longer`, by whole words.

    Returns:
        {longer: shorter}; None unless each name has one partner of its own.
    """
    name_of = {}
    for name in longer:
        borders = [match.span() for match in re.finditer(r"[\W_]+", name)]
        parts = {name[:start] for start, _ in borders} | {name[end:] for _, end in borders}
        matches = parts & shorter.keys()
        if len(matches) != 1:
            return None
        name_of[name] = matches.pop()
    is_one_to_one = len(longer) == len(shorter) == len(set(name_of.values()))
    return name_of if is_one_to_one else None


def cuts(names):
    """How many letters can be cut off the start and the end of all names: [(start, end)].

    What is cut off is common to all names and made of whole words. It holds no number that could
    tell scenes apart.
    """
    if len(names) < 2:
        return [(0, 0)]
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name[::-1] for name in names])[::-1]
    starts = [match.end() for match in re.finditer(r"[^\W\d_]+[\W_]+|[^\W\d_]+(?=\d|$)", start)]
    ends = [len(end) - match.start() for match in re.finditer(r"[\W_]+[^\W_]*", end)]
    starts = [cut for cut in starts if not re.search(r"\d", start[:cut])]
    ends = [cut for cut in ends if re.fullmatch(r"([\W_]+[^\W\d_]+(\d+[^\W\d_]+)*)+", end[-cut:])]
    return list(itertools.product([0, *starts], [0, *ends]))


def example_patterns(found, partners):
    """Flags to type for these files, with the star in the place of what differs by scene."""
    flags = []
    names = []
    for flag, files in (("--images", found), ("--masks", partners)):
        paths = list(files.values())
        start, end = max(cuts([path.stem for path in paths]), key=sum)
        ending = paths[0].stem[len(paths[0].stem) - end:] + paths[0].suffix
        flags.append(f"{flag} '{paths[0].parent / (paths[0].stem[:start] + '*' + ending)}'")
        names.append({path.stem[start:len(path.stem) - end] for path in paths})
    if names[0] & names[1]:
        return " ".join(flags)
    return "--images 'DIR/*_sat.jpg' --masks 'DIR/*_mask.png'"
