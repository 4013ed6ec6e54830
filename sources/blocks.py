"""One site in several splits: blocks with gaps between them, laid so that each has all classes."""

import itertools
from typing import NamedTuple

import numpy as np

from engine.prepared import SPLITS
from sources.labels import NO_LABEL
from sources.scenes import SceneReader

BLOCK_GAP = 16  # px left out between blocks, because shadow, blur and compression cross a cut
LEAST_SIDE = 32  # px: where a site is cut more than once for each split, blocks are not smaller
READ_SIDE = 1024  # px, of the parts in which labels are read
CELLS = 512  # along the longer side of a site: labels are counted in cells, not by pixel
TRAIN_WEIGHT = 2  # a class missing from training is worse than one missing from another split
GAP_WEIGHT = 3  # what all labels outside gaps are worth, in classes that a split has
MORE_BLOCKS = 0.1  # what a finer cut must gain, in classes that a split has


class Block(NamedTuple):
    """A rectangle of a site's frame, px, and its split."""

    split: str
    top: float
    left: float
    bottom: float
    right: float


class Frame(NamedTuple):
    """The plane in which a site's blocks are laid: pixels of its first scene.

    `rows` and `cols` hold (offset, factor) of each scene: a pixel of it is offset + factor * row.
    """

    height: int
    width: int
    rows: list
    cols: list


def split_by_block(source, whole, args):
    """Cut each site into blocks, several for each split if that gives each split more classes.

    Args:
        source: RawDataset with footprints.
        whole: list of Region, each a whole scene.
        args: fractions and seed.
    Returns:
        list of Region.
    Raises:
        ValueError: a site is too small, or its scenes do not lie in one plane.
    """
    sites = {}
    for region in whole:
        sites.setdefault(source.scenes[region.scene].site, []).append(region)
    blocks = []
    for site, regions in sites.items():
        frame = find_frame(source, site, regions)
        counts, cell = count_in_cells(source, frame, regions)
        laid = best_layout(site, frame, counts, cell, args)
        lost = counts.sum() - sum(count_in_block(counts, cell, block).sum() for block in laid)
        if lost > 0:
            print(f"{site}: {'about ' if cell > 1 else ''}{lost:,} labelled px lie in the "
                  f"{BLOCK_GAP} px between blocks and are left out")
        for number, region in enumerate(regions):
            for block in laid:
                part = region_of_block(region, block, frame.rows[number], frame.cols[number])
                if part.height > 0 and part.width > 0:
                    blocks.append(part)
    return blocks


def find_frame(source, site, regions):
    """The Frame of a site: its scenes' pixels where they have one grid, else the ground."""
    scenes = [source.scenes[region.scene] for region in regions]
    if len({source.grid_of(scene) for scene in scenes}) == 1:
        same = [(0, 1)] * len(regions)
        return Frame(regions[0].height, regions[0].width, same, same)
    places = [scene.footprint for scene in scenes]
    maps = {place and (place.plane, place.crs) for place in places}
    if None in maps or len(maps) > 1 or any(place.affine[1:4:2] != (0, 0) for place in places):
        raise ValueError(f"--split-by block: the images of place '{site}' show ground of each "
                         "other's, but do not lie upright in one coordinate system: bring them to "
                         "one, or use --split-by scene, tile or none")
    bounds = np.array([place.map_bounds(0, 0, place.height, place.width) for place in places])
    left = bounds[:, 0].min()
    high = bounds[:, 3].max()
    across = abs(places[0].affine[0])
    down = abs(places[0].affine[4])
    rows = [((high - place.affine[5]) / down, -place.affine[4] / down) for place in places]
    cols = [((place.affine[2] - left) / across, place.affine[0] / across) for place in places]
    height = round((high - bounds[:, 1].min()) / down)
    width = round((bounds[:, 2].max() - left) / across)
    return Frame(height, width, rows, cols)


def count_in_cells(source, frame, regions):
    """Count the labels of a site's scenes by class in square cells of its frame.

    Returns:
        (K, h, w) labelled px, the labels of a grid once; and the side of a cell, px.
    """
    cell = -(-max(frame.height, frame.width) // CELLS)
    shape = (-(-frame.height // cell), -(-frame.width // cell))
    num_classes = len(source.classes)
    counts = np.zeros(num_classes * shape[0] * shape[1], np.int64)
    counted = set()
    for region, to_row, to_col in zip(regions, frame.rows, frame.cols):
        scene = source.scenes[region.scene]
        labels = source.grid_of(scene), scene.mask
        if labels in counted:
            continue
        counted.add(labels)
        for classes, rows, cols in read_labelled_pixels(source, region):
            rows = ((to_row[0] + to_row[1] * (rows + 0.5)) // cell).astype(int)
            cols = ((to_col[0] + to_col[1] * (cols + 0.5)) // cell).astype(int)
            rows = rows.clip(0, shape[0] - 1)
            cols = cols.clip(0, shape[1] - 1)
            places = (classes * shape[0] + rows) * shape[1] + cols
            counts += np.bincount(places, minlength=len(counts))
    return counts.reshape(num_classes, *shape), cell


def read_labelled_pixels(source, region):
    """Yield classes, rows and columns, (n,) each, of a scene's labelled pixels, part by part."""
    tops = range(0, region.height, READ_SIDE)
    lefts = range(0, region.width, READ_SIDE)
    with SceneReader(source.scenes[region.scene], source) as reader:
        for top, left in itertools.product(tops, lefts):
            height = min(READ_SIDE, region.height - top)
            width = min(READ_SIDE, region.width - left)
            part = region._replace(row=top, col=left, height=height, width=width)
            labels = reader.read_labels(part)
            rows, cols = np.nonzero(labels != NO_LABEL)
            yield labels[rows, cols].astype(np.int64), rows + top, cols + left


def best_layout(site, frame, counts, cell, args):
    """The blocks that give each split most of the classes; of equal ones the coarsest.

    Returns:
        list of Block.
    """
    fractions = dict(zip(SPLITS, args.fractions))
    random = np.random.default_rng([args.seed, *site.encode()])
    drawn = [SPLITS[number] for number in random.permutation(3) if args.fractions[number]]
    orders = sorted(itertools.permutations(drawn), key=lambda order: order != tuple(drawn))
    down = frame.height >= frame.width
    layouts = []  # (how much finer than the coarsest, blocks)
    for rounds, axis, order in itertools.product((1, 2, 3), (down, not down), orders):
        layouts.append((rounds - 1, lay_strips(frame, order, fractions, rounds, axis)))
    for side in (3, 4, 6):
        layouts.append((side, lay_cells(frame, drawn, fractions, side, counts, cell)))
    best = None
    most = -np.inf
    for finer, blocks in layouts:
        shortest = min(min(block.bottom - block.top, block.right - block.left)
                       for block in blocks)
        if shortest < (LEAST_SIDE if finer else 1):
            continue
        score = score_layout(blocks, counts, cell, fractions) - MORE_BLOCKS * finer
        if score > most + 1e-9:
            best = blocks
            most = score
    if best is None:
        raise ValueError(f"place '{site}' is {frame.height} x {frame.width} px, too small to be "
                         "cut into blocks: use --split-by tile, or none to train on all of it")
    return best


def lay_strips(frame, order, fractions, rounds, down):
    """Strips across a site, in this order of the splits, `rounds` times."""
    length = frame.height if down else frame.width
    shares = [fractions[split] for split in order] * rounds
    ends = (np.cumsum(shares) / sum(shares) * length).round().astype(int).tolist()
    blocks = []
    start = 0
    for split, end in zip(order * rounds, ends):
        if down:
            blocks.append(Block(split, start, 0, end, frame.width))
        else:
            blocks.append(Block(split, 0, start, frame.height, end))
        start = end + BLOCK_GAP
    return blocks


def lay_cells(frame, wanted, fractions, side, counts, cell):
    """Deal out side x side blocks to the splits. Blocks of one split may touch.

    Each goes to the split that has least of its share of the block's rarest class so far, or, of
    equal ones, least labels, or the largest fraction. Blocks with rare classes come first, and of
    those the ones with most of it.
    """
    rows = np.linspace(0, frame.height, side + 1).round().astype(int).tolist()
    cols = np.linspace(0, frame.width, side + 1).round().astype(int).tolist()
    blocks = {(i, j): Block("", rows[i], cols[j], rows[i + 1], cols[j + 1])
              for i, j in itertools.product(range(side), repeat=2)}
    found = {place: count_in_block(counts, cell, block) for place, block in blocks.items()}  # (K,)
    totals = counts.sum(axis=(1, 2))  # (K,)
    given = {split: np.zeros(len(totals)) for split in wanted}  # (K,) labels so far

    def rarest_class(place):
        return np.where(found[place] > 0, totals, np.inf).argmin()

    def rarest_first(place):
        rarest = rarest_class(place)
        return totals[rarest], -found[place][rarest]

    for place in sorted(blocks, key=rarest_first):
        rarest = rarest_class(place)

        def neediest_first(split):
            share = given[split] / fractions[split]  # (K,)
            return share[rarest], given[split].sum() / fractions[split], -fractions[split]

        split = min(wanted, key=neediest_first)
        blocks[place] = blocks[place]._replace(split=split)
        given[split] += found[place]
    return [leave_gaps(blocks, place) for place in blocks]


def leave_gaps(blocks, place):
    """A block of {(row, col): Block}, less the gaps to those of other splits above and before."""
    block = blocks[place]
    i, j = place

    def differs(*other):
        return other in blocks and blocks[other].split != block.split

    before = differs(i, j - 1)
    above = differs(i - 1, j) or (differs(i - 1, j - 1) and not before)
    return block._replace(top=block.top + above * BLOCK_GAP, left=block.left + before * BLOCK_GAP)


def count_in_block(counts, cell, block):
    """(K,) labelled px in a Block, counted in whole cells."""
    top, left, bottom, right = (round(side / cell) for side in block[1:])
    return counts[:, top:bottom, left:right].sum(axis=(1, 2))


def score_layout(blocks, counts, cell, fractions):
    """How many classes the splits have, and which share of the labels lies in no gap.

    A split has a class fully if it has half of its share of it.
    """
    totals = counts.sum(axis=(1, 2))  # (K,)
    kept = sum(count_in_block(counts, cell, block).sum() for block in blocks)
    score = GAP_WEIGHT * kept / max(totals.sum(), 1)
    for split, fraction in fractions.items():
        if fraction:
            found = sum(count_in_block(counts, cell, block) for block in blocks
                        if block.split == split)
            enough = np.maximum(totals * fraction / sum(fractions.values()) / 2, 1)
            weight = TRAIN_WEIGHT if split == "train" else 1
            score += weight * np.minimum(found / enough, 1).sum()
    return score


def region_of_block(region, block, to_row, to_col):
    """The part of a scene, a Region, that lies in a block."""
    rows = sorted((edge - to_row[0]) / to_row[1] for edge in (block.top, block.bottom))
    cols = sorted((edge - to_col[0]) / to_col[1] for edge in (block.left, block.right))
    top, left = (max(int(np.ceil(edges[0] - 1e-6)), 0) for edges in (rows, cols))
    bottom = min(int(np.floor(rows[1] + 1e-6)), region.height)
    right = min(int(np.floor(cols[1] + 1e-6)), region.width)
    return region._replace(split=block.split, row=top, col=left, height=bottom - top,
                           width=right - left)
