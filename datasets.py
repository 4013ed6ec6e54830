"""The public data sets known by name (classes, colours, how files pair, official lists), and the demo's scenes.

Whatever its origin, a data set on its way in is a `Source`: classes, and scenes whose images and masks lie in files.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labels import NO_LABEL, land_classes, read_classes
from raster import Georeference, write_geotiff
from scenes import Region, scaled

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
DEMO = [(0, "field", 0xDECB78), (1, "wood", 0x28783C), (2, "water", 0x3C6EC8), (3, "road", 0x5A5A5A),
        (4, "building", 0xD23C32)]


class Scene(NamedTuple):
    """An image and what is known of it. Scenes of one place show the same ground: they never part in a split."""

    name: str
    image: Path
    mask: Path | None
    place: str
    split: str | None = None


@dataclass
class Source:
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
    return Source("folder", read_classes(classes), pair_scenes(images, masks))


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
    return Source("dubai", land_classes(DUBAI), scenes)


def deepglobe(src):
    """DeepGlobe land cover (Demir 2018): `N_sat.jpg` and `N_mask.png` in one folder; colours are cut at 128."""
    base = Path(src, "train") if Path(src, "train").is_dir() else Path(src)
    scenes = pair_scenes(base / "*_sat.jpg", base / "*_mask.png")
    return Source("deepglobe", land_classes(DEEPGLOBE), scenes, threshold=127)


def landcoverai(src):
    """LandCover.ai (Boguszewski 2021): `images/*.tif`, `masks/*.tif`, and official tile lists where they lie beside."""
    lists = [Path(src, f"{split}.txt") for split in ("train", "val", "test")]
    return Source("landcoverai", land_classes(LANDCOVERAI), pair_scenes(Path(src, "images"), Path(src, "masks")),
                  tile_lists=[path for path in lists if path.is_file()])


def drone(src):
    """TU Graz semantic drone data set: photographs, and masks of ids or colours, wherever in src their folders lie."""
    def first_folder(*names):
        for path in [path for name in names for path in sorted(Path(src).rglob(name))]:
            return path
        raise FileNotFoundError(f"{src} holds no folder '{names[0]}': give the unpacked data set as --src")

    images = first_folder("original_images", "images")
    masks = first_folder("label_images_semantic", "label_images", "RGB_color_image_masks")
    return Source("drone", land_classes(DRONE), pair_scenes(images, masks))


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


# The demo. Its classes share colours on purpose: ploughed field and autumn wood, wet soil and clear water, road and
# silty water; and the sensor is noisy. So no pixel tells its class by itself; texture, shape and surroundings do.
SIZE, GSD_M = (384, 512), 0.5  # px; m
PLACES, SEASONS = 12, ("summer", "autumn")
FIELD, WOOD, WATER, ROAD, BUILDING = range(5)
# Reflectance in red, green, blue and near infrared.
CROPS = np.array([(.30, .24, .17, .33), (.15, .14, .12, .15), (.42, .37, .23, .43), (.14, .20, .09, .42)])
CROP_SHARES = (.2, .1, .3, .4), (.45, .2, .1, .25)  # in each season: ploughed, wet, ripe, green
TREES = np.array([[(.09, .14, .06, .36), (.08, .12, .06, .31)],  # in each season: leafy, needled
                  [(.26, .17, .08, .31), (.10, .13, .06, .28)]])
WATERS = np.array([(.09, .13, .14, .11), (.21, .22, .18, .17)])  # clear, silty
ASPHALT = np.array((.24, .23, .23, .25))
ROOFS = np.array([(.42, .16, .11, .31), (.16, .18, .25, .19), (.50, .50, .50, .50)])  # tiles, slate, metal


def smooth_noise(rng, scale):
    """(H, W) random hills about `scale` px wide, of mean 0 and deviation 1: white noise through a Gaussian."""
    rows, cols = np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1])
    blur = np.exp(-2 * (np.pi * scale) ** 2 * (rows ** 2 + cols ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(SIZE)) * blur, s=SIZE)
    return (noise - noise.mean()) / noise.std()


def tree_crowns(rng, cell=13):
    """One round crown in each cell of a jittered grid: (H, W) height 0..1 and (H, W) brightness of the tree."""
    rows, cols = np.indices(SIZE)
    grid = (SIZE[0] // cell + 3, SIZE[1] // cell + 3)
    row_shift, col_shift, tone = rng.uniform(0, cell, grid), rng.uniform(0, cell, grid), rng.uniform(.75, 1.25, grid)
    nearest, brightness = np.full(SIZE, np.inf), np.ones(SIZE)
    for down, right in np.ndindex(3, 3):  # of the pixel's own cell and its eight neighbours the nearest tree
        i, j = rows // cell + down, cols // cell + right
        distance = np.hypot((i - 1) * cell + row_shift[i, j] - rows, (j - 1) * cell + col_shift[i, j] - cols)
        brightness = np.where(distance < nearest, tone[i, j], brightness)
        nearest = np.minimum(nearest, distance)
    return np.clip(1 - (nearest / (.75 * cell)) ** 2, 0, 1), brightness


def add_buildings(rng, labels, roofs, ridge, beside, along, pitch=58, lots=40):
    """Set houses on both sides of a road, where nothing but field is in their way; changes the three arrays.

    Args:
        labels, roofs, ridge: (H, W) class, number of the roof, and -1 or 1 for its two slopes.
        beside, along: (H, W) signed distance from the road and position along it, px.
        pitch, lots: px from house to house, and how many lots a side of the road has.
    """
    lot = np.floor(along / pitch).astype(int) % lots + lots * (beside > 0)  # (H, W)
    half_length, half_width, setback = rng.uniform([[20], [16], [12]], [[26], [21], [16]], (3, 2 * lots))
    length = np.abs(along % pitch - pitch / 2) - half_length[lot]
    across = np.abs(beside) - (setback + half_width)[lot]
    width = np.abs(across) - half_width[lot]
    taken = np.unique(lot[(length < 3) & (width < 3) & (labels != FIELD)])
    house = (length < 0) & (width < 0) & (rng.random(2 * lots) < .95)[lot] & ~np.isin(lot, taken)
    labels[house], ridge[house] = BUILDING, np.sign(across[house] * beside[house])
    roofs[house] = roofs.max() + 1 + lot[house]


def lay_out(rng):
    """What stands where in one place, the same in both seasons.

    Returns:
        dict of (H, W) arrays: labels, parcel and roofs (numbers), ridge (-1 or 1), along and across (px, in the
        direction of the fields), tall (height, px), crown (0..1), tone (brightness of the tree), needled (bool);
        and roof_colour, (N, 4) by number.
    """
    rows, cols = np.indices(SIZE) - np.array(SIZE).reshape(2, 1, 1) / 2
    angle = rng.uniform(0, np.pi)
    along = cols * np.cos(angle) + rows * np.sin(angle) + 8 * smooth_noise(rng, 70)
    across = rows * np.cos(angle) - cols * np.sin(angle) + 8 * smooth_noise(rng, 70)
    borders = np.cumsum(rng.uniform(80, 150, 14)) - 800  # of strips of fields, each of which is cut up on its own
    strip = np.searchsorted(borders, across)
    cuts = np.cumsum(rng.uniform(90, 200, (15, 14)), axis=1) - 1000
    parcel = strip * 15 + (along[..., None] > cuts[strip]).sum(-1)
    labels = np.full(SIZE, FIELD, np.uint8)
    planted = rng.random(225) < .12
    labels[(smooth_noise(rng, 40) + .2 * smooth_noise(rng, 9) > .8) | planted[parcel]] = WOOD
    labels[smooth_noise(rng, 45) > 1.25] = WATER
    bends = 26 * np.sin(along / rng.uniform(40, 80) + rng.uniform(0, 6))
    river = np.abs(across - bends - rng.uniform(-130, 130)) < rng.uniform(16, 28)
    labels[river & (rng.random() < .6)] = WATER
    roads = [(across - rng.choice(borders[np.abs(borders) < 160]), along),
             (along - rng.uniform(-180, -40), across), (along - rng.uniform(40, 180), across)]
    for beside, _ in roads:
        labels[np.abs(beside) < rng.uniform(7.5, 10)] = ROAD
    roofs, ridge = np.zeros(SIZE, int), np.zeros(SIZE)
    for beside, position in roads:
        add_buildings(rng, labels, roofs, ridge, beside, position)
    crown, tone = tree_crowns(rng)
    tall = np.select([labels == WOOD, labels == BUILDING], [3 + 5 * crown, rng.uniform(8, 14, 999)[roofs]], 0)
    return {"labels": labels, "parcel": parcel, "roofs": roofs, "ridge": ridge, "along": along, "across": across,
            "tall": tall, "crown": crown, "tone": tone, "needled": smooth_noise(rng, 25) < 0,
            "roof_colour": ROOFS[rng.integers(3, size=999)] * rng.uniform(.85, 1.15, (999, 1))}


def cast_shadow(tall, azimuth, fall, reach=16):
    """(H, W) bool: where something towards the sun is so tall that its shadow, `fall` px lower each px, covers it."""
    padded = np.pad(tall, reach, mode="edge")
    hidden = np.zeros(tall.shape, bool)
    for step in range(1, reach):
        row, col = reach + round(step * np.sin(azimuth)), reach + round(step * np.cos(azimuth))
        hidden |= padded[row:row + tall.shape[0], col:col + tall.shape[1]] - fall * step > tall
    return hidden


def photograph(rng, land, season):
    """(H, W, 4) uint8 image of a place in season 0 or 1: colours, textures, shadows, haze and the sensor's noise."""
    labels, parcel = land["labels"], land["parcel"]
    crops = CROPS[rng.choice(4, 225, p=CROP_SHARES[season])]
    crops = crops * rng.uniform(.85, 1.15, (225, 1))
    ploughed = np.where((rng.random(225) < .5)[parcel], land["across"], land["along"])
    furrows = np.sin(2 * np.pi * ploughed / rng.uniform(8, 12, 225)[parcel])
    colour = np.select([labels[..., None] == number for number in range(5)],
                       [crops[parcel], TREES[season][land["needled"].astype(int)], WATERS[rng.integers(2)], ASPHALT,
                        land["roof_colour"][land["roofs"]]])  # (H, W, 4)
    texture = np.select([labels == number for number in range(5)],
                        [1 + rng.uniform(.12, .25, 225)[parcel] * furrows, (.5 + .8 * land["crown"]) * land["tone"],
                         1 + .1 * smooth_noise(rng, 30) + .03 * smooth_noise(rng, 2), 1 + .04 * smooth_noise(rng, 4),
                         1 + .3 * land["ridge"]])
    shadow = cast_shadow(land["tall"], rng.uniform(0, 2 * np.pi), rng.uniform(.9, 1.4))
    light = np.where(shadow, .55, 1) * (1 + .06 * smooth_noise(rng, 80))
    image = colour * (texture * light)[..., None] * rng.uniform(.9, 1.1) * rng.uniform(.96, 1.04, 4)
    image += rng.uniform(0, .02) + rng.normal(0, .03, image.shape)
    return np.clip(np.rint(420 * image), 0, 255).astype(np.uint8)


def demo(folder, seed):
    """Write the scenes of the demo, 12 places in two seasons, to a folder of GeoTIFFs: images/*.tif and masks/*.tif.

    Returns:
        Source; places 1 to 8 train, 9 and 10 validate, 11 and 12 test.
    """
    for name in ("images", "masks"):
        Path(folder, name).mkdir(parents=True)
    scenes, (height, width) = [], SIZE
    palette = np.zeros((256, 3), np.uint8)
    palette[:len(DEMO)] = [tuple(colour.to_bytes(3, "big")) for _, _, colour in DEMO]
    for place in range(PLACES):
        land = lay_out(np.random.default_rng((seed, place)))
        ground = Georeference({33550: (GSD_M, GSD_M, 0.0), 33922: (0.0, 0.0, 0.0, 5e5 + 400 * place, 4.6e6, 0.0),
                               34735: (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631, 3076, 0, 1, 9001)})
        for season, name in enumerate(SEASONS):
            name = f"place_{place + 1:02d}_{name}"
            scene = Scene(name, Path(folder, "images", f"{name}.tif"), Path(folder, "masks", f"{name}.tif"),
                          f"place_{place + 1:02d}", "train" if place < 8 else "val" if place < 10 else "test")
            image = photograph(np.random.default_rng((seed, place, 1 + season)), land, season)
            write_geotiff(scene.image, [image], height, width, 4, np.uint8, georeference=ground, level=1)
            write_geotiff(scene.mask, [land["labels"]], height, width, 1, np.uint8, palette, georeference=ground)
            scenes.append(scene)
    return Source("demo", land_classes(DEMO), scenes, aligned=True)
