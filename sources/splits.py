"""Which part of which scene is in which split: scenes, blocks, tiles, or polygons of labels."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.prepared import FRACTIONS, SPLITS, draw_splits
from sources.blocks import split_by_block
from sources.labels import NO_LABEL, SparseLabels
from sources.raw import Region
from sources.scenes import SceneReader, scaled
from sources.tables import read_csv, read_text

MAX_LABELLED = 10**6  # px of a site that --split-by polygon takes
MAX_TILES = 2**22  # of a scene; more take gigabytes before the first is read
TILES = range(256, 32, -32)  # px, sides of tiles to choose from
POINTS_TILE = 128  # px, the largest for a file of points: bench/clicks.py measured its maps
FILLED = 0.99  # share of the ground that must fill its tiles
LISTED_TILE = 512  # px, side of the tiles that official tile lists count


def plan_regions(source, sizes, args):
    """Plan which regions of which scenes belong to which split; tiles stay inside their region.

    Args:
        source: RawDataset.
        sizes: (height, width) of each scene's file, px.
        args: the flags of the splits, and those of the tiles.
    Returns:
        list of Region.
    Raises:
        ValueError, OSError: there is too little to split, or a list does not fit the scenes.
    """
    lists = args.split_list
    named = args.test_places or args.val_places
    if not (lists or named or args.split_by):
        lists = source.tile_lists
    has_own_split = not args.split_by and source.scenes[0].split
    if (lists or named or has_own_split) and tuple(args.fractions) != FRACTIONS:
        raise ValueError("--fractions: the splits are named here, and none is drawn: leave it "
                         "out, or give --split-by")
    if lists and Path(lists[0]).suffix == ".txt":
        return listed_tiles(source, sizes, lists)
    whole = []
    for number, (height, width) in enumerate(sizes):
        size = scaled(height, source.scale), scaled(width, source.scale)
        whole.append(Region("", number, 0, 0, *size))
    sites = {scene.site for scene in source.scenes}
    wanted = sum(fraction > 0 for fraction in args.fractions)
    how = args.split_by or "scene"
    if not (args.split_by or lists or named or has_own_split) and len(sites) < wanted:
        why = f"{wanted} splits need as many sites, and there are {len(sites)}"
        if args.points_file and all(find_labels(source, region) for region in whole):
            how = "polygon"
            print(f"{why}: each point, line or polygon goes to one split, as by --split-by "
                  "polygon. Scores hold for ground between such labels. For ground farther away: "
                  "--split-by block")
        else:
            how = "block"
            print(f"{why}: each is cut into blocks, as by --split-by block")
    return SPLIT_BY[how](source, whole, args)


def split_by_scene(source, whole, args):
    """Give whole scenes to the splits: as named, as the data set has it, or drawn site by site."""
    if args.split_list:
        splits = listed_splits(source, args.split_list)
    elif args.test_places or args.val_places:
        splits = named_splits(source, args.val_places, args.test_places)
    elif args.split_by is None and source.scenes[0].split:
        splits = [scene.split for scene in source.scenes]
    else:
        splits = drawn_splits(source, args.fractions, args.seed)
    return [region._replace(split=split) for region, split in zip(whole, splits) if split]


def listed_splits(source, paths):
    """The split of each scene by a CSV of scene,split; None for a scene that it leaves out."""
    if len(paths) > 1:
        raise ValueError(f"--split-list {' '.join(map(str, paths))}: give one CSV of scene,split")
    path = paths[0]
    names = {scene.name for scene in source.scenes}
    listed = {}
    for number, line in read_csv(path, ["scene", "split"]):
        if line["split"] not in SPLITS or line["scene"] not in names:
            raise ValueError(f"{path}, line {number}: give a scene's name, and train, val or test")
        if listed.setdefault(line["scene"], line["split"]) != line["split"]:
            raise ValueError(f"{path}, line {number}: '{line['scene']}' is in "
                             f"{listed[line['scene']]} above: give each scene one split")
    splits_of = {}  # {grid: its splits}
    for scene in source.scenes:
        if scene.name in listed:
            splits_of.setdefault(source.grid_of(scene), set()).add(listed[scene.name])
    for grid, splits in splits_of.items():
        if len(splits) > 1:
            raise ValueError(f"{path}: seasons of '{grid}' are in several splits, but show the "
                             "same ground: keep them together")
    return [listed.get(scene.name) for scene in source.scenes]


def named_splits(source, val_sites, test_sites):
    """The split of each scene by its site's name, or by that of a scene of the site; what is named
    for neither trains."""
    site_of = {scene.name: scene.site for scene in source.scenes}
    site_of |= {scene.site: scene.site for scene in source.scenes}
    val_sites = [site_of.get(name, name) for name in val_sites]
    test_sites = [site_of.get(name, name) for name in test_sites]
    sites = sorted({scene.site for scene in source.scenes})
    for site in set(val_sites) & set(test_sites):
        raise ValueError(f"place '{site}' is in both --val-places and --test-places: give it to "
                         "one")
    for site in {*val_sites, *test_sites} - set(sites):
        raise ValueError(f"--val-places, --test-places: no place is called '{site}': choose from "
                         f"{', '.join(sites[:30])}")
    named = {**dict.fromkeys(val_sites, "val"), **dict.fromkeys(test_sites, "test")}
    return [named.get(scene.site, "train") for scene in source.scenes]


def drawn_splits(source, fractions, seed):
    """A split for each scene, drawn site by site."""
    sites = sorted({scene.site for scene in source.scenes})
    drawn = dict(zip(sites, draw_splits(len(sites), fractions, seed)))
    return [drawn[scene.site] for scene in source.scenes]


def split_by_tile(source, whole, args):
    """Draw a split for each tile, the same in all seasons of a site."""
    args.tile = args.tile or TILES[0]
    tiles = [tile for region in whole for tile in cut(region, args.tile, args.overlap, pad=True)]
    positions = []
    for tile in tiles:
        grid = source.grid_of(source.scenes[tile.scene])
        positions.append((grid, tile.row, tile.col))
    different = list(dict.fromkeys(positions))
    drawn = dict(zip(different, draw_splits(len(different), args.fractions, args.seed)))
    return [tile._replace(split=drawn[place]) for tile, place in zip(tiles, positions)]


def keep_in_train(source, whole, args):
    """Give everything to train."""
    return [region._replace(split="train") for region in whole]


def guess_tile(regions, overlap, largest=TILES[0]):
    """Choose the largest side of tiles, up to `largest` px, that almost all ground fills."""
    area = sum(region.height * region.width for region in regions)
    for side in range(largest, TILES.stop, TILES.step):
        large = [region for region in regions if min(region.height, region.width) >= side]
        if sum(region.height * region.width for region in large) >= FILLED * area or overlap:
            break
    why = "" if side == largest else f", because scenes or blocks are smaller than {largest} px"
    print(f"tiles of {side} px{why} (--tile)")
    return side


def cut(region, tile, overlap, pad=False):
    """Cut a region into tiles, row by row.

    The last tile of a row or column is moved inwards where the region is larger than a tile. What
    it shares with the tile before counts there alone.

    Args:
        region: Region.
        tile, overlap: px; 0 <= overlap < tile.
        pad: leave the last tiles where they are, and smaller.
    Returns:
        list of Region of at most tile x tile px.
    Raises:
        ValueError: there would be more than MAX_TILES.
    """
    number = len(_starts(region.height, tile, overlap)) * len(_starts(region.width, tile, overlap))
    if number > MAX_TILES:
        raise ValueError(f"{region.height} x {region.width} px make {number:,} tiles: give a "
                         "larger --tile, or less --overlap")
    tiles = []
    for row, height, shared_rows in _cut_line(region.height, tile, overlap, pad):
        for col, width, shared_cols in _cut_line(region.width, tile, overlap, pad):
            tiles.append(region._replace(
                row=region.row + row, col=region.col + col, height=height, width=width,
                shared_rows=shared_rows, shared_cols=shared_cols))
    return tiles


def _cut_line(length, tile, overlap, pad):
    """[(start, size, px at the start that count in the tile before)] of the tiles on a line."""
    tiles = []
    for start in _starts(length, tile, overlap):
        moved = start if pad else max(min(start, length - tile), 0)
        tiles.append((moved, min(tile, length - moved), start - moved))
    return tiles


def _starts(length, tile, overlap):
    """Where the tiles on a line begin, before the last is moved: a range."""
    return range(0, max(length - overlap, 1), tile - overlap)


def split_by_polygon(source, whole, args):
    """Draw a split for each polygon of sparse labels, whose pixels are never in two splits.

    A polygon is a group of labelled pixels that touch, if only at a corner, whatever their class.
    The polygons of a site's scenes are drawn together: what lies on the same ground is one polygon.

    Returns:
        list of Region: each scene once per split, with the labels of that split.
    Raises:
        ValueError: there are too many labelled pixels: the labels are not sparse.
    """
    cells = site_cells(source)
    class_of = {}  # {plane of a site: {place: class}}, in the order of the scenes
    labels_of = []  # SparseLabels of each scene, its plane, and the places of the labels
    for region in tqdm(whole, "finding polygons", unit="scene", disable=None, leave=False):
        scene = source.scenes[region.scene]
        plane = scene.site, scene.footprint.plane
        labels = find_labels(source, region)
        if labels is not None:
            pixels = class_of.setdefault(plane, {})
            places = label_places(labels, scene.footprint, cells[plane])
            pixels.update(zip(places, labels.indices.tolist()))
        if labels is None or len(pixels) > MAX_LABELLED:
            where = scene.mask or args.points_file
            raise ValueError(f"{where} labels more than {MAX_LABELLED:,} px: --split-by polygon "
                             "is for sparse labels, use --split-by block")
        labels_of.append((labels, plane, places))
    random = np.random.default_rng(args.seed)
    split_of = {plane: draw_polygons(pixels, args.fractions, random)
                for plane, pixels in class_of.items()}
    regions = []
    for region, (labels, plane, places) in zip(whole, labels_of):
        splits = np.array([split_of[plane][place] for place in places], str)  # (N,)
        for split in ("train", "test", "val"):
            if args.fractions[SPLITS.index(split)]:
                part = SparseLabels(*(array[splits == split] for array in labels))
                regions.append(region._replace(split=split, labels=part))
    return regions


def site_cells(source):
    """The size of the places in which labels of a site's scenes lie on the same ground.

    Returns:
        {(site, plane): (2,) x and y extent of the largest pixel, in units of the plane; None where
        all scenes have the same pixels}.
    """
    scenes_of = {}
    for scene in source.scenes:
        scenes_of.setdefault((scene.site, scene.footprint.plane), []).append(scene)
    cells = {}
    for plane, scenes in scenes_of.items():
        pixels = np.array([scene.footprint.bounds(0, 0, 1, 1) for scene in scenes])  # (N, 4)
        one_grid = len({source.grid_of(scene) for scene in scenes}) == 1
        cells[plane] = None if one_grid else (pixels[:, 2:] - pixels[:, :2]).max(axis=0)
    return cells


def label_places(labels, footprint, cell):
    """The place of each of N SparseLabels, as (row, col): its pixel, or the cell on the ground.

    Labels of one click in several scenes are in one cell, or in two that touch.

    Args:
        labels: SparseLabels; footprint: of their scene.
        cell: of `site_cells`.
    """
    rows, cols = labels.rows, labels.cols
    if cell is not None:
        xs, ys = footprint.to_plane(rows + 0.5, cols + 0.5)
        rows, cols = (ys // cell[1]).astype(int), (xs // cell[0]).astype(int)
    return list(zip(rows.tolist(), cols.tolist()))


def find_labels(source, region):
    """The labelled pixels of a region as SparseLabels; None if they are more than MAX_LABELLED."""
    found = []
    count = 0
    with SceneReader(source.scenes[region.scene], source) as reader:
        for tile in cut(region, 1024, 0, pad=True):
            indices = reader.labels.read(*tile.window)
            rows, cols = np.nonzero(indices != NO_LABEL)
            found.append((rows + tile.row, cols + tile.col, indices[rows, cols]))
            count += len(rows)
            if count > MAX_LABELLED:
                return None
    return SparseLabels(*(np.concatenate(arrays) for arrays in zip(*found)))


def draw_polygons(class_of, fractions, random):
    """Draw a split for each polygon of a site.

    The largest polygons come first. Each goes to the split that has least of its share of the
    polygon's commonest class so far. So a class of one polygon is trained on and not tested.

    Args:
        class_of: {(row, col): class} of the labelled pixels.
        fractions: (3,) of train, val and test; a split of fraction 0 gets none.
        random: numpy Generator, which orders polygons of one size.
    Returns:
        {(row, col): split}.
    """
    if not class_of:
        return {}
    shares = dict(zip(SPLITS, fractions))
    wanted = [split for split in ("train", "test", "val") if shares[split]]
    polygon_of = number_polygons(class_of)  # (N,)
    classes = np.array(list(class_of.values()))  # (N,)
    num_classes = classes.max() + 1
    pixels = np.bincount(polygon_of * num_classes + classes,
                         minlength=(polygon_of.max() + 1) * num_classes)
    pixels = pixels.reshape(-1, num_classes)  # (P, K)
    sizes = pixels.sum(axis=1)
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    given = np.zeros((num_classes, len(wanted)))  # px
    shares = np.array([shares[split] for split in wanted])
    split_of = np.empty(len(sizes), int)
    for polygon in order:
        commonest = pixels[polygon].argmax()
        split = (given[commonest] / shares).argmin()
        given[commonest, split] += sizes[polygon]
        split_of[polygon] = split
    return {place: wanted[split] for place, split in zip(class_of, split_of[polygon_of])}


def number_polygons(pixels):
    """Number the groups of pixels that touch each other, if only at a corner.

    Args:
        pixels: {(row, col): anything}.
    Returns:
        (N,) int64, the polygon of each pixel, from 0.
    """
    numbers = {}
    left = dict.fromkeys(pixels)
    count = 0
    while left:
        polygon = [left.popitem()[0]]
        for row, col in polygon:  # grows while it is walked
            numbers[row, col] = count
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    pixel = (row + down, col + right)
                    if pixel in left:
                        del left[pixel]
                        polygon.append(pixel)
        count += 1
    return np.array([numbers[pixel] for pixel in pixels], int)


SPLIT_BY = {"scene": split_by_scene, "block": split_by_block, "tile": split_by_tile,
            "polygon": split_by_polygon, "none": keep_in_train}


def listed_tiles(source, sizes, lists):
    """The regions that official tile lists name, by lines SCENE_N.

    N counts the scene's tiles of 512 px before --scale, row by row from 0, and includes those that
    its end cuts short.

    Args:
        source: RawDataset.
        sizes: (height, width) of each scene's file, px.
        lists: paths of train.txt, val.txt and test.txt, some of them.
    Returns:
        list of Region.
    Raises:
        ValueError, OSError: a list that is not named after a split, a line that names no tile, or a
            tile that is listed twice or whose ground is in another list too.
    """
    numbers = {scene.name: number for number, scene in enumerate(source.scenes)}
    listed = {}  # {(grid, tile): {scene: list that names this tile of it}}
    regions = []
    for path in map(Path, lists):
        for line in read_text(path).split():
            name, _, tile = line.rpartition("_")
            if path.stem not in SPLITS or name not in numbers or not tile.isdecimal():
                raise ValueError(f"{path}: '{line}' is no tile of these scenes (and lists are "
                                 "train, val or test.txt)")
            number = numbers[name]
            grid = source.grid_of(source.scenes[number])
            before = listed.setdefault((grid, int(tile)), {})
            for other in before.values():
                if name in before or other != path:
                    raise ValueError(f"{path}: '{line}' is in {other} already, or the same ground "
                                     "is: list it once")
            before[name] = path
            window = _listed_window(int(tile), *sizes[number], source.scale)
            if window is None:
                raise ValueError(f"{path}: '{line}' is beyond the end of its scene")
            regions.append(Region(path.stem, number, *window))
    return regions


def _listed_window(tile, height, width, scale):
    """(row, col, height, width) of a listed tile, px after scaling; None beyond the scene's end."""
    tiles_across = -(-width // LISTED_TILE)
    row = tile // tiles_across * LISTED_TILE
    col = tile % tiles_across * LISTED_TILE
    if row >= height:
        return None
    top = scaled(row, scale)
    left = scaled(col, scale)
    bottom = scaled(min(row + LISTED_TILE, height), scale)
    right = scaled(min(col + LISTED_TILE, width), scale)
    return top, left, bottom - top, right - left
