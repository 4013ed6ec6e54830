"""Which ground goes to which split: whole scenes, contiguous blocks, tiles, or polygons of a sparse mask."""

from pathlib import Path

import numpy as np

import datasets
from data import SPLITS
from labels import read_csv
from scenes import Region, scaled

BLOCK_GAP = 16  # px left out between the blocks of a scene, for what reaches across a cut: shadow, blur, compression


def plan_regions(source, sizes, args):
    """Which parts of which scenes belong to which split; tiles never reach out of their region.

    Args:
        source: Source.
        sizes: (height, width) of each scene's file, px.
        args: the flags of the splits, and those of the tiles.
    Returns:
        list of Region.
    """
    lists = args.split_list or ([] if args.split_by or args.test_places or args.val_places else source.tile_lists)
    if lists and Path(lists[0]).suffix == ".txt":
        return datasets.listed_tiles(source, sizes, lists)
    whole = [Region("", number, 0, 0, scaled(height, args.scale), scaled(width, args.scale))
             for number, (height, width) in enumerate(sizes)]
    if args.split_by == "tile":
        tiles = [tile for region in whole for tile in cut(region, args.tile, args.overlap)]
        return [tile._replace(split=split) for tile, split in zip(tiles, draw(len(tiles), args.fractions, args.seed))]
    if args.split_by == "block":
        return [block for region in whole for block in cut_blocks(region, source.scenes[region.scene], args)]
    splits = scene_splits(source, args)
    return [region._replace(split=split) for region, split in zip(whole, splits) if split]


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
        ValueError, OSError: a name that is no scene, place or split.
    """
    if args.split_list:
        listed = {}
        for number, line in read_csv(args.split_list[0], ["scene", "split"]):
            listed[line["scene"]] = line["split"]
            if line["split"] not in SPLITS or line["scene"] not in [scene.name for scene in source.scenes]:
                raise ValueError(f"{args.split_list[0]}, line {number}: give a scene's name, and train, val or test")
        return [listed.get(scene.name) for scene in source.scenes]
    places = sorted({scene.place for scene in source.scenes})
    if args.test_places or args.val_places:
        named = {**dict.fromkeys(args.val_places, "val"), **dict.fromkeys(args.test_places, "test")}
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
