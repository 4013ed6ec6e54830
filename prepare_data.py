"""Raw scenes and masks -> a prepared data set: tiles in memory-mapped arrays, split so that no ground is on two sides.

    python prepare_data.py demo                                      procedural scenes, made in seconds
    python prepare_data.py folder --images DIR --masks DIR --classes classes.csv --out data/NAME
    python prepare_data.py folder --images DIR --points-file points.csv --classes classes.csv --out data/NAME
    python prepare_data.py dubai --src DIR --scale 0.5

classes.csv has the columns id,name,r,g,b. The id is the value in the mask, any number; masks may as well be written in
the colours; rows named "ignore" stand for no label. In what is written a class is its row, 0 to K-1, and 255 no label.

The way: all scenes are opened and compared; regions of them are given to the splits; each region is cut into tiles, of
which those without labels are dropped; the others are written, counted on the screen, and shown in preview.png.
"""

import argparse
import csv
import json
import os
import shutil
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

import datasets
from data import SPARSE_SHARE, SPLITS, display_limits
from figures import colour_map, default_colours, draw_points, panel_grid, save_png, to_rgb
from scenes import NO_LABEL, Region, SceneReader, read_csv, read_points, scaled, survey

BLOCK_GAP = 16  # px left out between the blocks of a scene, for what reaches across a cut: shadow, blur, compression


def parse_args(argv=None):
    """The command line; `python prepare_data.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Raw scenes and masks -> a prepared data set.",
                                     epilog="example: python prepare_data.py dubai --src dubai --scale 0.5",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("kind", choices=["demo", "folder", *datasets.PUBLIC], help="what to prepare")
    flag = parser.add_argument_group("scenes").add_argument
    flag("--src", help="the unpacked public data set")
    flag("--images", help="folder: a folder of images, one image, or a quoted pattern such as 'DIR/*_sat.jpg'")
    flag("--masks", help="folder: likewise; they pair with images by file name, or by what the star stands for")
    flag("--classes", help="folder: the classes.csv")
    flag("--points-file", help="labelled points in place of masks: CSV of scene,row,col,class (px, from 0), or of "
         "x,y,class (map units), or GeoJSON points in the scenes' CRS")
    flag("--threshold", type=float, help="read mask values above it as 255, all others as 0; not given: as they are")
    flag("--tolerance", type=int, default=0, help="how far off in r, g and b a mask's colour may be, 0 to 255")
    flag("--gsd", type=float, help="ground sample distance of the files, m; not given: as they say")
    flag("--rgb", type=int, nargs="+", metavar="BAND", help="bands shown as red, green, blue, from 1; not given: 1 2 3")
    flag = parser.add_argument_group("tiles").add_argument
    flag("--out", help="folder to write; not given: data/<kind>")
    flag("--scale", type=float, default=1.0, help="resize scenes first: images by area, masks by nearest pixel")
    flag("--tile", type=int, help="side of the tiles, px after --scale; not given: 256, demo 128")
    flag("--overlap", type=int, default=0, help="px that neighbouring tiles share")
    flag("--min-labelled", type=int, default=1, help="drop tiles with fewer labelled px; 0 drops none")
    flag("--drop-single-class", action="store_true", help="drop training tiles that show one class alone")
    group = parser.add_argument_group("splits")
    flag = group.add_argument
    flag("--fractions", type=float, nargs=3, default=(0.7, 0.2, 0.1), metavar="SHARE", help="train val test; 0 is none")
    flag("--val-places", nargs="+", default=[], metavar="NAME", help="scenes to validate on, as for --test-places")
    flag("--seed", type=int, default=0, help="decides what is drawn: splits, and the demo's scenes")
    flag = group.add_mutually_exclusive_group().add_argument
    flag("--split-by", choices=("scene", "block", "tile"), help="whole scenes, blocks of each scene, or single tiles, "
         "whose neighbours leak; not given: the data set's own split, else scene")
    flag("--test-places", nargs="+", default=[], metavar="NAME", help="scenes to test on (dubai: 1+3, 2, 4+7+8, 5, 6); "
         "what is named for neither trains")
    flag("--split-list", nargs="+", default=[], metavar="FILE", help="a CSV of scene,split; or train.txt val.txt "
         f"test.txt of SCENE_N, where N counts the scene's {datasets.LISTED_TILE} px tiles row by row from 0")
    return parser.parse_args(argv)


def check_args(args):
    """Fill in what depends on the kind, and refuse what makes no sense.

    Raises:
        ValueError: with the flag that is missing, out of range or out of place.
    """
    args.out = args.out or f"data/{args.kind}"
    args.tile = args.tile if args.tile is not None else 128 if args.kind == "demo" else 256
    needs = {"demo": [], "folder": ["images", "classes", "masks"]}.get(args.kind, ["src"])
    for name in ("src", "images", "classes", "masks"):
        if getattr(args, name) and name not in needs:
            raise ValueError(f"--{name} is not for {args.kind}: leave it out")
        if not getattr(args, name) and name in needs and not (name == "masks" and args.points_file):
            raise ValueError(f"{args.kind} needs --{name}" + (" or --points-file" if name == "masks" else ""))
    if args.val_places and (args.split_by or args.split_list):
        raise ValueError("--val-places goes with --test-places or alone: leave out --split-by and --split-list")
    fine = {"scale": 0 < args.scale <= 16, "tile": 0 < args.tile <= 2**14, "overlap": 0 <= args.overlap < args.tile,
            "tolerance": 0 <= args.tolerance <= 255, "gsd": args.gsd is None or 0 < args.gsd < 1e9, "seed": args.seed >= 0,
            "fractions": min(args.fractions) >= 0 and 0 < sum(args.fractions) < 1e9}
    for name in fine:
        if not fine[name]:
            raise ValueError(f"--{name} {getattr(args, name)} makes no sense: see --help")


def main(args):
    """Prepare a data set, in a folder beside --out that takes the name --out when all of it is written."""
    check_args(args)
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is in use: give another --out, or remove it")
    work = out.with_name(f"{out.name}.partial-{os.getpid()}")
    work.mkdir(parents=True)
    try:
        source = find_source(args, work)
        sizes, measured = survey(source, args.gsd)
        facts = {**name_facts(source, measured["bands"], args), **measured}
        regions = plan_regions(source, sizes, args)
        tiles, counts = choose_tiles(source, regions, facts["gsd_m"], args)
        facts.update(counts)
        facts.update(write_tiles(work, source, tiles, facts))
        save_png(contact_sheet(work, facts), work / "preview.png")
        (work / "dataset.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(frequency_table(facts))
    print(f"written to {out}; look at {out / 'preview.png'} before you train")


def make_demo(out, seed=0):
    """Prepare the demo in the folder `out`."""
    main(parse_args(["demo", "--out", str(out), "--seed", str(seed)]))


def find_source(args, work):
    """The Source that the arguments name; the demo's scenes are written first, to work/scenes."""
    if args.kind == "demo":
        source = datasets.demo(work / "scenes", args.seed)
    elif args.kind == "folder":
        source = datasets.folder(args.images, args.masks, args.classes)
    else:
        source = datasets.PUBLIC[args.kind](args.src)
    source.scale, source.tolerance = args.scale, args.tolerance
    if args.threshold is not None:
        source.threshold = args.threshold
    if args.points_file:
        source.points = read_points(args.points_file, source.rows)
    return source


def name_facts(source, bands, args):
    """What dataset.json holds that is said, not measured: names, colours, tile size, and the bands to show.

    Raises:
        ValueError: --rgb names bands that are not there.
    """
    shown = args.rgb or ([1, 2, 3] if bands >= 3 else [1])
    if len(shown) not in (1, 3) or not 1 <= min(shown) <= max(shown) <= bands:
        raise ValueError(f"--rgb {' '.join(map(str, shown))}: give three bands, or one, from 1 to {bands}")
    classes = [{"name": row.name, "colour": list(row.colour.to_bytes(3, "big") if row.colour is not None else colour)}
               for row, colour in zip(source.classes, default_colours(len(source.classes)))]
    return {"format": 1, "name": Path(args.out).name, "classes": classes, "ignore": NO_LABEL, "tile": args.tile,
            "rgb": [band - 1 for band in shown], "arguments": vars(args)}


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


def choose_tiles(source, regions, gsd_m, args):
    """Cut the regions into tiles, count their labels, and drop those with too little to learn from.

    Returns:
        list of Region, scene by scene; and a dict of each split's tiles, its pixels and km2 by class, and what was
        dropped.
    Raises:
        ValueError: a scene without data, or a split without tiles.
    """
    kept, dropped, tiles_of = [], Counter(), [[] for _ in source.scenes]
    pixels = {split: np.zeros(len(source.classes), int) for split in SPLITS}
    for region in regions:
        tiles_of[region.scene] += cut(region, args.tile, args.overlap)
    for scene, tiles in zip(tqdm(source.scenes, "counting", unit="scene", disable=None), tiles_of):
        with SceneReader(scene, source) as reader:
            if tiles and reader.is_empty(tiles):
                raise ValueError(f"{scene.image} holds no data: all of it is NaN, nodata or transparent; leave it out")
            for tile in tiles:
                counts = np.bincount(reader.read_labels(tile).ravel(), minlength=256)[:len(source.classes)]
                if counts.sum() < args.min_labelled:
                    dropped[f"fewer than {args.min_labelled} labelled px"] += 1
                elif args.drop_single_class and tile.split == "train" and np.count_nonzero(counts) == 1:
                    dropped["of train, one class alone"] += 1
                else:
                    kept.append(tile)
                    pixels[tile.split] += counts
    tiles = Counter(tile.split for tile in kept)
    for split in sorted({region.split for region in regions} - set(tiles)):
        raise ValueError(f"no tile of {split} has enough labels: split otherwise, or lower --min-labelled")
    return kept, {"tiles": {split: tiles[split] for split in SPLITS},
                  "pixels": {split: pixels[split].tolist() for split in SPLITS},
                  "km2": gsd_m and {split: (pixels[split] * gsd_m ** 2 / 1e6).tolist() for split in SPLITS},
                  "dropped": dict(dropped)}


def write_tiles(folder, source, tiles, facts):
    """Write the tiles' images and labels, and where each comes from.

    Smaller tiles are filled up at the right and bottom, with the image mirrored and without labels.

    Args:
        folder: Path, where {train,val,test}_{images,labels}.npy and tiles.csv are made.
        source: Source.
        tiles: list of Region, scene by scene.
        facts: dict with bands, dtype, and tiles by split.
    Returns:
        dict of mean and std of each band over the training tiles' valid pixels; std is 1 where the band is constant.
    """
    side, bands = facts["tile"], facts["bands"]
    images, labels = {}, {}
    for split, tile_count in facts["tiles"].items():
        shape = (tile_count, side, side)
        images[split] = open_memmap(folder / f"{split}_images.npy", "w+", facts["dtype"], (*shape, bands))
        labels[split] = open_memmap(folder / f"{split}_labels.npy", "w+", np.uint8, shape)
    written, rows = Counter(), [("split", "index", "scene", "row", "col")]
    count, total, squares = 0, np.zeros(bands), np.zeros(bands)
    for number, group in groupby(tqdm(tiles, "writing", unit="tile", disable=None), lambda tile: tile.scene):
        with SceneReader(source.scenes[number], source) as reader:
            for tile in group:
                pixels, valid = reader.read_image(tile)
                missing = [(0, side - tile.height), (0, side - tile.width)]
                index = written[tile.split]
                images[tile.split][index] = np.pad(pixels, [*missing, (0, 0)], mode="reflect")
                labels[tile.split][index] = np.pad(reader.read_labels(tile), missing, constant_values=NO_LABEL)
                rows.append((tile.split, index, source.scenes[number].name, tile.row, tile.col))
                written[tile.split] += 1
                if tile.split == "train":
                    known = pixels[valid].astype(np.float64)  # (n, C)
                    count, total, squares = count + len(known), total + known.sum(0), squares + (known ** 2).sum(0)
    with open(folder / "tiles.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean ** 2, 0))
    return {"mean": mean.tolist(), "std": np.where(std > 1e-6 * np.abs(mean), std, 1).tolist()}  # rounding is no spread


def contact_sheet(folder, facts):
    """Tiles from all over the set, each beside its labels, as a picture with the legend."""
    limits, colours = display_limits(facts), [entry["colour"] for entry in facts["classes"]]
    rows, titles = [], []
    for split, part in (("train", 0), ("train", 1), ("val", 0), ("test", 0)):
        images, labels = (np.load(folder / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "labels"))
        step = max(len(images) // 6, 1)
        row = []
        for index in range(part * step, len(images), 2 * step)[:3]:
            rgb, tile = to_rgb(images[index], facts["rgb"], limits), labels[index]
            sparse = np.mean(tile != NO_LABEL) < SPARSE_SHARE
            row += [rgb, draw_points(rgb, tile, colours) if sparse else colour_map(tile, colours)]
        if row:
            rows.append(row + [np.full_like(row[0], 255)] * (6 - len(row)))
            titles.append(split)
    legend = [(entry["name"], entry["colour"]) for entry in facts["classes"]]
    return panel_grid(rows, ["image", "labels"] * 3, legend, titles)


def frequency_table(facts):
    """Tiles of each split, how often each class is labelled there, and what was dropped, as text."""
    gsd = facts["gsd_m"]
    ground = f"{gsd:g} m a pixel" if gsd else "size of a pixel unknown (--gsd)"
    lines = [f"{facts['name']}: {facts['tile']} px tiles, {facts['bands']} bands of {facts['dtype']}, {ground}",
             f"{'':20}" + "".join(f"{split:>24}" for split in SPLITS),
             f"{'tiles':20}" + "".join(f"{facts['tiles'][split]:24,}" for split in SPLITS),
             f"{'labelled px':20}" + "".join(f"{sum(facts['pixels'][split]):24,}" for split in SPLITS)]
    for number, entry in enumerate(facts["classes"]):
        line = f"{entry['name'][:19]:20}"
        for split in SPLITS:
            pixels = facts["pixels"][split]
            area = f"{facts['km2'][split][number]:.3g} km2" if gsd else ""
            line += f"{100 * pixels[number] / max(sum(pixels), 1):8.2f} %{area:>14}"
        lines.append(line.rstrip())
    return "\n".join(lines + [f"dropped {count} tiles: {why}" for why, count in facts["dropped"].items()])


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"prepare_data.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
