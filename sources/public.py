"""The public data sets known by name: classes, colours, how their files pair, official splits."""

from pathlib import Path

from sources.labels import land_classes
from sources.raw import RawDataset, pair_scenes

# Each class: its value in the mask, its name, its colour as 0xRRGGBB. "ignore" is read as no label.
DUBAI = land_classes([
    (None, "building", 0x3C1098), (None, "land", 0x8429F6), (None, "road", 0x6EC1E4),
    (None, "vegetation", 0xFEDD3A), (None, "water", 0xE2A929), (None, "ignore", 0x9B9B9B),
    (None, "ignore", 0x000000)])
DEEPGLOBE = land_classes([
    (None, "urban", 0x00FFFF), (None, "agriculture", 0xFFFF00), (None, "rangeland", 0xFF00FF),
    (None, "forest", 0x00FF00), (None, "water", 0x0000FF), (None, "barren", 0xFFFFFF),
    (None, "ignore", 0x000000)])
LANDCOVERAI = land_classes([
    (0, "background", None), (1, "building", None), (2, "woodland", None), (3, "water", None),
    (4, "road", None)])
DRONE = land_classes([
    (0, "ignore", 0x000000), (1, "paved area", 0x804080), (2, "dirt", 0x824C00),
    (3, "grass", 0x006600), (4, "gravel", 0x706757), (5, "water", 0x1C2AA8),
    (6, "rocks", 0x30291E), (7, "pool", 0x003259), (8, "vegetation", 0x6B8E23),
    (9, "roof", 0x464646), (10, "wall", 0x66669C), (11, "window", 0xFEE40C),
    (12, "door", 0xFE940C), (13, "fence", 0xBE9999), (14, "fence pole", 0x999999),
    (15, "person", 0xFF1660), (16, "dog", 0x663300), (17, "car", 0x098F96),
    (18, "bicycle", 0x770B20), (19, "tree", 0x333300), (20, "bald tree", 0xBEFABE),
    (21, "ar marker", 0x709692), (22, "obstacle", 0x028773), (23, "ignore", 0xFF0000)])

DUBAI_SITES = {"1": "1+3", "3": "1+3", "4": "4+7+8", "7": "4+7+8", "8": "4+7+8"}
DUBAI_SPLITS = {"1": "test", "2": "val", "3": "test"}  # the others train


def dubai(src):
    """Humans in the Loop and MBRSC: 72 images, `Tile N/images/*.jpg` and `Tile N/masks/*.png`.

    Tiles 1 and 3 show the same ground in part, and so do 4, 7 and 8: each of these groups is one
    site. The split is ours and fixed: train on 4 to 8, validate on 2, test on 1 and 3.
    """
    scenes = []
    for tile in sorted(Path(src).glob("Tile *")):
        number = tile.name.split()[-1]
        site = DUBAI_SITES.get(number, number)
        split = DUBAI_SPLITS.get(number, "train")
        for scene in pair_scenes(tile / "images", tile / "masks"):
            scenes.append(scene._replace(name=f"{number}_{scene.name}", site=site, split=split))
    if not scenes:
        raise FileNotFoundError(f"{src} has no folder 'Tile 1': give the unpacked set as --src")
    return RawDataset(DUBAI, scenes)


def deepglobe(src):
    """DeepGlobe land cover (Demir 2018): `N_sat.jpg` and `N_mask.png` in one folder.

    Colours are cut at 128, because the masks are blurred.
    """
    base = Path(src)
    if (base / "train").is_dir():
        base = base / "train"
    scenes = pair_scenes(base / "*_sat.jpg", base / "*_mask.png")
    return RawDataset(DEEPGLOBE, scenes, threshold=127)


def landcoverai(src):
    """LandCover.ai (Boguszewski 2021): `images/*.tif`, `masks/*.tif`, official lists beside."""
    scenes = pair_scenes(Path(src, "images"), Path(src, "masks"))
    lists = [Path(src, f"{split}.txt") for split in ("train", "val", "test")]
    lists = [path for path in lists if path.is_file()]
    return RawDataset(LANDCOVERAI, scenes, tile_lists=lists)


def drone(src):
    """TU Graz semantic drone data set: photographs, and masks of ids or of colours.

    Their folders may lie anywhere in src.
    """
    images = _first_folder(src, "original_images", "images")
    masks = _first_folder(src, "label_images_semantic", "label_images", "RGB_color_image_masks")
    return RawDataset(DRONE, pair_scenes(images, masks))


def _first_folder(src, *names):
    """The first folder in src that has one of these names."""
    for name in names:
        for path in sorted(Path(src).rglob(name)):
            return path
    raise FileNotFoundError(f"{src} has no folder '{names[0]}': give the unpacked set as --src")


PUBLIC = {"dubai": dubai, "deepglobe": deepglobe, "landcoverai": landcoverai, "drone": drone}
