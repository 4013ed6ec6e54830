"""Which ground goes to which split: whole scenes, contiguous blocks, tiles, or polygons of a sparse mask."""

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.meta import SPLITS
from sources import public
from sources.labels import NO_LABEL, read_csv
from sources.scenes import Region, SceneReader, scaled

FRACTIONS = (0.7, 0.2, 0.1)  # of training, validation and test, unless --fractions says otherwise
BLOCK_GAP = 16  # px left out between the blocks of a scene, for what reaches across a cut: shadow, blur, compression
MOST_LABELLED = 10**6  # px of a place that --split-by polygon takes


def plan_regions(source, sizes, args):
    """Which parts of which scenes belong to which split; tiles never reach out of their region.

    Args:
        source: RawDataset.
        sizes: (height, width) of each scene's file, px.
        args: the flags of the splits, and those of the tiles.
    Returns:
        list of Region.
    Raises:
        ValueError, OSError: there is too little to split, or a list that does not fit the scenes.
    """
    lists = args.split_list or ([] if args.split_by or args.test_places or args.val_places else source.tile_lists)
    named = lists or args.test_places or args.val_places or not args.split_by and source.scenes[0].split
    if named and tuple(args.fractions) != FRACTIONS:
        raise ValueError("--fractions: the splits are named here, and none is drawn: leave it out, or give --split-by")
    if lists and Path(lists[0]).suffix == ".txt":
        return public.listed_tiles(source, sizes, lists)
    whole = [Region("", number, 0, 0, scaled(height, args.scale), scaled(width, args.scale))
             for number, (height, width) in enumerate(sizes)]
    if args.split_by == "tile":
        tiles = [tile for region in whole for tile in cut(region, args.tile, args.overlap)]
        grounds = [(site_of(source, tile), tile.row, tile.col) for tile in tiles]
        drawn = dict.fromkeys(grounds)
        drawn = dict(zip(drawn, draw(len(drawn), args.fractions, args.seed)))
        return [tile._replace(split=drawn[ground]) for tile, ground in zip(tiles, grounds)]
    if args.split_by == "polygon":
        polygons = split_polygons(source, whole, args)
        source.polygons = {source.scenes[region.scene].name: polygons[site_of(source, region)] for region in whole}
        return [region._replace(split=split) for region in whole for split in polygons[site_of(source, region)]]
    if args.split_by == "block":
        shown = Counter(scene.place for scene in source.scenes)
        if not source.aligned and max(shown.values()) > 1:
            raise ValueError(f"--split-by block: the images of place '{max(shown, key=shown.get)}' show ground of each other's, "
                             "and blocks of them would share it: split by scene")
        return [block for region in whole for block in cut_blocks(region, source.scenes[region.scene], args)]
    splits = scene_splits(source, args)
    return [region._replace(split=split) for region, split in zip(whole, splits) if split]


def site_of(source, region):
    """What scenes that show the same ground have in common: their place where they are its seasons, else the name."""
    scene = source.scenes[region.scene]
    return scene.place if source.aligned else scene.name


def draw(count, fractions, seed):
    """Draw a split for each of `count` things, by fractions as near as whole numbers come.

    Returns:
        list of count split names, each at least once whose fraction is above 0.
    Raises:
        ValueError: there are fewer things than splits.
    """
    shares = np.diff(np.round(np.cumsum(fractions) / sum(fractions) * count), prepend=0).astype(int)
    wanted = np.array(fractions) > 0
    if count < wanted.sum():
        raise ValueError(f"{count} scenes or tiles do not fill {wanted.sum()} splits: use --split-by block, or set "
                         "one of the --fractions to 0")
    for missing in np.flatnonzero(wanted & (shares == 0)):
        shares[shares.argmax()] -= 1
        shares[missing] += 1
    return np.random.default_rng(seed).permutation(np.repeat(SPLITS, shares)).tolist()


def scene_splits(source, args):
    """The split of each scene: as a list or the flags name it, as the data set has it, or drawn, place by place.

    Returns:
        a split name for each scene; None for one that a list leaves out.
    Raises:
        ValueError, OSError: a name that is no scene, place or split, or one given to two splits.
    """
    if args.split_list:
        if len(args.split_list) > 1:
            raise ValueError(f"--split-list {' '.join(map(str, args.split_list))}: give one CSV of scene,split")
        listed = {}
        for number, line in read_csv(args.split_list[0], ["scene", "split"]):
            listed[line["scene"]] = line["split"]
            if line["split"] not in SPLITS or line["scene"] not in [scene.name for scene in source.scenes]:
                raise ValueError(f"{args.split_list[0]}, line {number}: give a scene's name, and train, val or test")
        splits = [listed.get(scene.name) for scene in source.scenes]
        for place in {scene.place for scene in source.scenes if source.aligned}:
            if len({split for scene, split in zip(source.scenes, splits) if scene.place == place and split}) > 1:
                raise ValueError(f"{args.split_list[0]}: seasons of '{place}' are in several splits, but show the same "
                                 "ground: keep them together")
        return splits
    places = sorted({scene.place for scene in source.scenes})
    if args.test_places or args.val_places:
        named = {**dict.fromkeys(args.val_places, "val"), **dict.fromkeys(args.test_places, "test")}
        for place in set(args.val_places) & set(args.test_places):
            raise ValueError(f"place '{place}' is in both --val-places and --test-places: give it to one")
        for place in named.keys() - set(places):
            raise ValueError(f"no place is called '{place}': choose from {', '.join(places[:30])}")
        return [named.get(scene.place, "train") for scene in source.scenes]
    if args.split_by is None and source.scenes[0].split:
        return [scene.split for scene in source.scenes]
    drawn = dict(zip(places, draw(len(places), args.fractions, args.seed)))
    return [drawn[scene.place] for scene in source.scenes]


def cut_blocks(region, scene, args):
    """Cut a scene across its longer side: a block for each split, in an order drawn by place, and gaps between them.

    Raises:
        ValueError: the scene is too short for that.
    """
    down = region.height >= region.width
    random = np.random.default_rng([args.seed, *scene.place.encode()])  # two seasons of a place are cut alike
    order = [split for split in random.permutation(3) if args.fractions[split]]
    ends = np.cumsum([args.fractions[split] for split in order]) / sum(args.fractions)
    ends *= region.height if down else region.width
    blocks, start = [], 0
    for split, end in zip(order, ends.round().astype(int).tolist()):
        if start >= end:
            raise ValueError(f"{scene.image} is too small to be cut into blocks: use --split-by scene")
        extent = {"row": start, "height": end - start} if down else {"col": start, "width": end - start}
        blocks.append(region._replace(split=SPLITS[split], **extent))
        start = end + BLOCK_GAP
    return blocks


def cut(region, tile, overlap):
    """The tiles of a region, row by row; what is left at its right and bottom makes smaller ones.

    Args:
        region: Region.
        tile, overlap: px; 0 <= overlap < tile.
    Returns:
        list of Region of at most tile x tile px.
    """
    rows, cols = (range(0, max(length - overlap, 1), tile - overlap) for length in (region.height, region.width))
    return [region._replace(row=region.row + row, col=region.col + col, height=min(tile, region.height - row),
                            width=min(tile, region.width - col)) for row in rows for col in cols]


def split_polygons(source, regions, args):
    """Draw a split for each polygon of sparse labels: pixels that touch, if only at a corner, whatever their classes.

    Class by class the polygons go, the largest first, to the split that has least of its share so far. So a class of
    one polygon is trained on and not tested. The labels of a place's seasons are drawn together.

    Args:
        source: Source, as yet without polygons.
        regions: list of Region, the whole scenes.
        args: the flags fractions and seed; a split of fraction 0 gets none.
    Returns:
        {ground: {split: (2, N) rows and columns of its labelled pixels, px}}, the ground as `site_of` has it.
    Raises:
        ValueError: there are too many labelled pixels: the labels are not sparse.
    """
    labelled = {}  # {ground: {(row, col): class}}
    for region in tqdm(regions, "finding polygons", unit="scene", disable=None, leave=False):
        scene, pixels = source.scenes[region.scene], labelled.setdefault(site_of(source, region), {})
        with SceneReader(scene, source) as reader:
            for tile in cut(region, 1024, 0):
                classes = reader.labels.read(*tile.window)
                rows, cols = np.nonzero(classes != NO_LABEL)
                places = zip((rows + tile.row).tolist(), (cols + tile.col).tolist())
                pixels.update(zip(places, classes[rows, cols].tolist()))
                if len(pixels) > MOST_LABELLED:
                    raise ValueError(f"{scene.mask or args.points_file} labels more than {MOST_LABELLED:,} px: "
                                     "--split-by polygon is for sparse labels, use --split-by block")
    shares = dict(zip(SPLITS, args.fractions))
    wanted = [split for split in ("train", "test", "val") if shares[split]]  # who comes first where a class has few
    random, found = np.random.default_rng(args.seed), {}
    for ground, pixels in labelled.items():
        polygons, given = find_polygons(pixels), Counter()
        order = sorted(random.permutation(len(polygons)).tolist(), key=lambda number: -len(polygons[number]))
        found[ground] = {split: [] for split in wanted}
        for polygon in (polygons[number] for number in order):
            land = Counter(pixels[pixel] for pixel in polygon).most_common(1)[0][0]
            split = min(wanted, key=lambda split: given[land, split] / shares[split])
            given[land, split] += len(polygon)
            found[ground][split] += polygon
    return {ground: {split: np.array(pixels, int).reshape(-1, 2).T for split, pixels in splits.items()}
            for ground, splits in found.items()}


def find_polygons(pixels):
    """Lists of those pixels (row, col) that touch each other, if only at a corner.

    Args:
        pixels: iterable of (row, col).
    """
    left, polygons = dict.fromkeys(pixels), []
    while left:
        polygon = [left.popitem()[0]]
        for row, col in polygon:  # grows while it is walked
            for pixel in ((row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)):
                if pixel in left:
                    del left[pixel]
                    polygon.append(pixel)
        polygons.append(polygon)
    return polygons
