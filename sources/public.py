"""The public data sets known by name (classes, colours, how files pair, official lists).

Whatever its origin, a data set on its way in is a `RawDataset`: classes, and scenes whose images and masks lie in files.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sources.labels import NO_LABEL, land_classes, read_classes
from sources.scenes import Region, scaled

LISTED_TILE = 512  # px, side of the tiles that official tile lists count
SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}

# Each class: its value in the mask, its name, its colour as 0xRRGGBB. "ignore" is what is read as no label.
DUBAI = [(None, "building", 0x3C1098), (None, "land", 0x8429F6), (None, "road", 0x6EC1E4),
         (None, "vegetation", 0xFEDD3A), (None, "water", 0xE2A929), (None, "ignore", 0x9B9B9B),
         (None, "ignore", 0x000000)]
DEEPGLOBE = [(None, "urban", 0x00FFFF), (None, "agriculture", 0xFFFF00), (None, "rangeland", 0xFF00FF),
             (None, "forest", 0x00FF00), (None, "water", 0x0000FF), (None, "barren", 0xFFFFFF),
             (None, "ignore", 0x000000)]
LANDCOVERAI = [(0, "background", None), (1, "building", None), (2, "woodland", None), (3, "water", None),
               (4, "road", None)]
DRONE = [(0, "ignore", 0x000000), (1, "paved area", 0x804080), (2, "dirt", 0x824C00), (3, "grass", 0x006600),
         (4, "gravel", 0x706757), (5, "water", 0x1C2AA8), (6, "rocks", 0x30291E), (7, "pool", 0x003259),
         (8, "vegetation", 0x6B8E23), (9, "roof", 0x464646), (10, "wall", 0x66669C), (11, "window", 0xFEE40C),
         (12, "door", 0xFE940C), (13, "fence", 0xBE9999), (14, "fence pole", 0x999999), (15, "person", 0xFF1660),
         (16, "dog", 0x663300), (17, "car", 0x098F96), (18, "bicycle", 0x770B20), (19, "tree", 0x333300),
         (20, "bald tree", 0xBEFABE), (21, "ar marker", 0x709692), (22, "obstacle", 0x028773), (23, "ignore", 0xFF0000)]


class Scene(NamedTuple):
    """An image and what is known of it. Scenes of one place show the same ground: they never part in a split."""

    name: str
    image: Path
    mask: Path | None
    place: str
    split: str | None = None


@dataclass
class RawDataset:
    """A data set before it is cut into tiles.

    Attributes:
        name: short name.
        rows: list of LandClass, those that mean "no label" included.
        scenes: list of Scene.
        tile_lists: paths of the official train.txt, val.txt and test.txt, if there are any.
        threshold: mask values above it are read as 255, the others as 0; None: as they are.
        tolerance: how far off in red, green and blue a mask's colour may be from its class's, 0..255.
        scale: what images and masks are resized to, new side / old side.
        points: Points that stand in place of masks, or None.
        aligned: whether scenes of one place show exactly the same ground, pixel by pixel: its seasons.
        rgb: numbers of the bands to show as red, green and blue, from 1; None: the first three.
        clouds: sentinel2.CloudTest, or None.
        polygons: {scene name: {split: (2, N) rows and columns, px after scaling}} of the labelled pixels, where these
            are split polygon by polygon.
        max_pixels: largest PNG or JPEG to decode, px.
        nodata: the value that stands for no data in images whose file names none, or None.
    """

    name: str
    rows: list
    scenes: list
    tile_lists: list = field(default_factory=list)
    threshold: float | None = None
    tolerance: int = 0
    scale: float = 1.0
    points: object = None
    aligned: bool = False
    rgb: list | None = None
    clouds: object = None
    polygons: dict = field(default_factory=dict)
    max_pixels: int = 2**31
    nodata: float | None = None

    @property
    def classes(self):
        """The rows that are classes: those of index 0..K-1, in that order."""
        return [row for row in self.rows if row.index != NO_LABEL]


def find_files(pattern):
    """The images of a folder, of a pattern such as DIR/*_sat.jpg, or one single file, as {scene name: path}.

    A scene is called what the star stands for, or like the file without its ending.

    Raises:
        ValueError, OSError: nothing is there, two files of one name, or two stars.
    """
    pattern = Path(pattern)
    if pattern.is_dir():
        named = [(path.stem, path) for path in sorted(pattern.iterdir()) if path.suffix.lower() in SUFFIXES
                 and not path.name.startswith(".")]
    elif pattern.name.count("*") > 1:
        raise ValueError(f"{pattern}: give one star, which stands for the scene's name")
    elif "*" in pattern.name:
        before, after = pattern.name.split("*", 1)
        named = [(path.name[len(before):len(path.name) - len(after)], path)
                 for path in sorted(pattern.parent.glob(pattern.name))]
    else:
        named = [(pattern.stem, pattern)] if pattern.is_file() else []
    found = {}
    for name, path in named:
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both be scene '{name}': rename one of them")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{pattern}: no TIFF, PNG or JPEG is there; check the path")
    return found


def pair_scenes(images, masks):
    """Pair images and masks by scene name; a single image and a single mask are a pair whatever their names.

    Args:
        images, masks: as `find_files` takes them; masks None: there are none.
    Returns:
        list of Scene, each a place of its own.
    Raises:
        ValueError, OSError: a file without its partner.
    """
    found = find_files(images)
    partners = dict.fromkeys(found) if masks is None else find_files(masks)
    if masks and Path(images).is_file() and Path(masks).is_file():
        partners = dict(zip(found, partners.values()))
    for name in sorted(found.keys() ^ partners.keys()):
        there, missing = (found[name], masks) if name in found else (partners[name], images)
        raise ValueError(f"{there} has no partner '{name}' in {missing}: add it, or take this file away")
    return [Scene(name, image, partners[name], place=name) for name, image in found.items()]


def folder(images, masks, classes):
    """Any images and masks that pair by name, with a classes.csv."""
    return RawDataset("folder", read_classes(classes), pair_scenes(images, masks))


def dubai(src):
    """Humans in the Loop and MBRSC: 72 images of eight scenes, `Tile N/images/*.jpg` and `Tile N/masks/*.png`.

    Scenes 1 and 3 show the same ground in part, and so do 4, 7 and 8: each of these groups is one place here. The split
    is fixed: train on 4 to 8, validate on 2, test on 1 and 3.
    """
    places = {"1": "1+3", "3": "1+3", "4": "4+7+8", "7": "4+7+8", "8": "4+7+8"}
    scenes = []
    for tile in sorted(Path(src).glob("Tile *")):
        number = tile.name.split()[-1]
        split = {"1": "test", "2": "val", "3": "test"}.get(number, "train")
        scenes += [scene._replace(name=f"{number}_{scene.name}", place=places.get(number, number), split=split)
                   for scene in pair_scenes(tile / "images", tile / "masks")]
    if not scenes:
        raise FileNotFoundError(f"{src} holds no folder 'Tile 1': give the unpacked data set as --src")
    return RawDataset("dubai", land_classes(DUBAI), scenes)


def deepglobe(src):
    """DeepGlobe land cover (Demir 2018): `N_sat.jpg` and `N_mask.png` in one folder; colours are cut at 128."""
    base = Path(src, "train") if Path(src, "train").is_dir() else Path(src)
    scenes = pair_scenes(base / "*_sat.jpg", base / "*_mask.png")
    return RawDataset("deepglobe", land_classes(DEEPGLOBE), scenes, threshold=127)


def landcoverai(src):
    """LandCover.ai (Boguszewski 2021): `images/*.tif`, `masks/*.tif`, and official tile lists where they lie beside."""
    lists = [Path(src, f"{split}.txt") for split in ("train", "val", "test")]
    return RawDataset("landcoverai", land_classes(LANDCOVERAI), pair_scenes(Path(src, "images"), Path(src, "masks")),
                  tile_lists=[path for path in lists if path.is_file()])


def drone(src):
    """TU Graz semantic drone data set: photographs, and masks of ids or colours, wherever in src their folders lie."""
    def first_folder(*names):
        for path in [path for name in names for path in sorted(Path(src).rglob(name))]:
            return path
        raise FileNotFoundError(f"{src} holds no folder '{names[0]}': give the unpacked data set as --src")

    images = first_folder("original_images", "images")
    masks = first_folder("label_images_semantic", "label_images", "RGB_color_image_masks")
    return RawDataset("drone", land_classes(DRONE), pair_scenes(images, masks))


PUBLIC = {"dubai": dubai, "deepglobe": deepglobe, "landcoverai": landcoverai, "drone": drone}  # each takes --src


def listed_tiles(source, sizes, lists):
    """The regions that official tile lists name in lines SCENE_N.

    N counts the scene's tiles of 512 px before --scale, row by row from 0, those that its end cuts short included.

    Raises:
        ValueError, OSError: a list that is not called after a split, a line that is no tile, or a tile that is listed
            twice or whose ground is in another list, too.
    """
    regions, numbers, listed = [], {scene.name: number for number, scene in enumerate(source.scenes)}, {}
    for path in map(Path, lists):
        try:
            lines = path.read_text(encoding="utf-8-sig").split()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text in UTF-8: save it as such") from None
        for line in lines:
            name, _, count = line.rpartition("_")
            if path.stem not in ("train", "val", "test") or name not in numbers or not count.isdecimal():
                raise ValueError(f"{path}: '{line}' is no tile of these scenes (and lists are train, val or test.txt)")
            place = source.scenes[numbers[name]].place if source.aligned else name
            before = listed.setdefault((place, int(count)), {})  # {scene: list that has this tile of it}
            for other in before.values():
                if name in before or other != path:
                    raise ValueError(f"{path}: '{line}' is in {other} already, or the same ground is: list it once")
            before[name] = path
            height, width = sizes[numbers[name]]
            row, col = (LISTED_TILE * place for place in divmod(int(count), -(-width // LISTED_TILE)))
            if row >= height:
                raise ValueError(f"{path}: '{line}' is beyond the end of its scene")
            top, bottom, left, right = (scaled(end, source.scale) for end in (
                row, min(row + LISTED_TILE, height), col, min(col + LISTED_TILE, width)))
            regions.append(Region(path.stem, numbers[name], top, left, bottom - top, right - left))
    return regions
