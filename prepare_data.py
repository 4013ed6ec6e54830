"""Raw scenes and labels -> a prepared data set: tiles in memory-mapped arrays, split by site.

    python prepare_data.py demo                               procedural scenes, made in seconds
    python prepare_data.py folder --images DIR --masks DIR --classes classes.csv --out data/NAME
    python prepare_data.py points scene.tif points.csv --classes classes.csv --out data/NAME
    python prepare_data.py dubai --src DIR --scale 0.5
    python prepare_data.py sentinel2 --images spring.tif autumn.tif --masks landcover_1m.tif

Each kind has flags of its own: python prepare_data.py KIND --help. docs/data.md explains them, and
the format of what is written.

First all scenes are opened and compared. Then regions of them are given to the splits, and each
region is cut into tiles. Tiles without labels are dropped. The others are written, counted on the
screen, and shown in preview.png.
"""

import engine.startup  # first: what may happen while torch is imported
import dataclasses
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.cli import Parser, one_line_errors, plural
from engine.prepared import (
    SPLITS, BandStatistics, TileWriter, classes_without_labels, new_folder, write_meta)
from report.figures import default_colours, save_png
from sources import flags, sentinel2
from sources.demo import demo
from sources.labels import NO_LABEL, read_classes
from sources.masks import propose_classes
from sources.missing import mark_missing, one_nodata, shared_nodata
from sources.overlap import (
    footprints, join_sites, pixel_grids, shared_ground, warn_of_shared_ground)
from sources.points import points_and_classes
from sources.public import PUBLIC
from sources.raw import RawDataset, pair_scenes
from sources.scenes import ScaledRaster, SceneReader, check_scenes, each_tile
from sources.splits import POINTS_TILE, TILES, cut, guess_tile, plan_regions
from sources.summary import contact_sheet, frequency_table

KINDS = {
    "demo": "twelve procedural sites in two seasons, made without a download",
    "folder": "your own images, with masks or points",
    "points": "your own images, with points only",
    "sentinel2": "seasons of a site, and masks that may be finer than the images",
    "dubai": "Humans in the Loop and MBRSC: satellite images, 5 classes",
    "deepglobe": "DeepGlobe land cover: satellite images, 6 classes",
    "landcoverai": "LandCover.ai: aerial images, 5 classes",
    "drone": "TU Graz semantic drone data set: photographs, 22 classes",
}
UNSET = {"masks": None, "points_file": None, "threshold": None, "tolerance": 0, "gsd": None,
         "nodata": None, "max_pixels": 2**31, "max_cloud": 1.0}  # for kinds without these flags


def parse_args(argv=None):
    """Parse the command line; the kind's name may stand behind flags, as it once could."""
    parser = Parser(prog="prepare_data.py",
                    description="Raw scenes and labels -> a prepared data set.",
                    epilog="python prepare_data.py KIND --help shows the flags of a kind; "
                    "example: python prepare_data.py dubai --src dubai --scale 0.5")
    parser.add_argument("--verify", action=flags.Verify, metavar="FOLDER", help=flags.VERIFY_HELP)
    parser.set_defaults(**UNSET)
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, text in KINDS.items():
        own = kinds.add_parser(kind, help=text, description=text)
        if kind in PUBLIC:
            flags.add_public_flags(own)
        elif kind != "demo":
            flags.add_file_flags(own, kind)
        if kind != "demo":
            flags.add_reading_flags(own, kind)
        if kind == "sentinel2":
            sentinel2.add_arguments(own)
        flags.add_tile_flags(own, kind)
        flags.add_split_flags(own, kind)
    words = flags.kind_first(sys.argv[1:] if argv is None else argv, KINDS)
    flags.check_flags_of_kind(kinds.choices, words)
    args = parser.parse_args(words)
    flags.take_positionals(args, kinds.choices)
    return args


def main(args):
    """Prepare a data set in a temporary folder that is renamed to --out when all is written."""
    flags.check_args(args)
    out = Path(args.out).resolve()
    with new_folder(out) as work:
        try:
            meta = prepare(args, work)
        except ValueError as error:
            raise ValueError(name_sites(str(error), work)) from error
    print(frequency_table(meta))
    for line in [*classes_without_labels(meta), *warn_of_shared_ground(meta["shared_ground"])]:
        print(f"warning: {line}", file=sys.stderr)
    print(f"written to {out}; look at {out / 'preview.png'} before you train")
    folds = "" if meta["tiles"]["val"] or meta["tiles"]["test"] else " --folds 5"  # to have scores
    print(f"next: python train.py --data {shlex.quote(str(args.out))}{folds}")


def make_demo(out, seed=0):
    """Prepare the demo in the folder `out`."""
    main(parse_args(["demo", "--out", str(out), "--seed", str(seed)]))


def prepare(args, folder):
    """Write a prepared data set to an existing folder; returns what dataset.json holds."""
    source = find_source(args, folder)
    sizes, georeferences, measured, missing = check_scenes(source, args.gsd)
    source = join_sites(source, footprints(source, sizes, georeferences))
    regions = plan_regions(source, sizes, args)
    largest = POINTS_TILE if args.points_file else TILES[0]
    args.tile = args.tile or guess_tile(regions, args.overlap, largest)
    meta = {**build_meta(source, measured["bands"], args), **measured}
    meta["grids"] = pixel_grids(source.scenes)
    meta["shared_ground"] = shared_ground(source.scenes, regions)
    tiles, counts = choose_tiles(source, regions, meta["gsd_m"], args)
    meta.update(counts)
    meta["nodata"] = shared_nodata(source, tiles, missing, meta["dtype"])
    meta["scene_nodata"] = one_nodata(missing)
    meta.update(write_tiles(folder, source, tiles, meta))
    save_png(contact_sheet(folder, meta), folder / "preview.png")
    write_meta(folder, meta)
    return meta


def name_sites(message, folder):
    """Replace the paths of files made in `folder`, which is gone when the message is read."""
    made = re.escape(str(folder)) + r"[/\\](?:scenes|masks)[/\\]([^/\\]+?)\.(?:txt|tif)"
    return re.sub(made, r"place '\1'", message)


def find_source(args, folder):
    """Find the scenes and classes that the arguments name.

    Args:
        args: of the command line.
        folder: Path, where the demo's scenes and downsampled masks are written.
    Returns:
        RawDataset.
    """
    if args.kind == "demo":
        source = demo(folder / "scenes", args.seed)
    elif args.kind == "sentinel2":
        source = sentinel2.sentinel2(args, folder)
    elif args.kind in PUBLIC:
        source = PUBLIC[args.kind](args.src)
    else:
        scenes = pair_scenes(args.images, args.masks)
        if args.masks and not args.classes:
            ask_for_classes(scenes, args)
        source = RawDataset(read_classes(args.classes), scenes)
    options = {"scale": args.scale, "tolerance": args.tolerance, "nodata": args.nodata,
               "max_pixels": args.max_pixels}
    if args.threshold is not None:
        options["threshold"] = args.threshold
    if args.points_file:
        options.update(points_and_classes(args, source))
    if not source.class_table:
        names = [row.name for row in options["class_table"]]
        print(f"classes, as the file of points names them: {', '.join(names)} (--classes)")
    return dataclasses.replace(source, **options)


def ask_for_classes(scenes, args):
    """Print what masks hold as a classes.csv to fill in, and end with an error."""
    source = RawDataset([], [], max_pixels=args.max_pixels)
    print(propose_classes(ScaledRaster(scene.mask, source, smooth=False) for scene in scenes))
    raise ValueError("--classes: masks do not name their classes; fill in the names above, without "
                     "the last column if you like, save this as classes.csv, and give it")


def build_meta(source, bands, args):
    """The part of dataset.json that is given, not measured: classes, tile size, bands to show.

    Raises:
        ValueError: --rgb names bands that are not there.
    """
    shown = args.rgb or source.rgb or ([1, 2, 3] if bands >= 3 else [1])
    if len(shown) not in (1, 3) or max(shown) > bands:
        raise ValueError(f"--rgb {' '.join(map(str, shown))}: give three bands, or one, from 1 to "
                         f"{bands}")
    classes = []
    for row, colour in zip(source.classes, default_colours(len(source.classes))):
        classes.append({"name": row.name, "colour": row.rgb or list(colour)})
    return {
        "format": 1,
        "name": Path(args.out).resolve().name,
        "classes": classes,
        "ignore": NO_LABEL,
        "tile": args.tile,
        "rgb": [band - 1 for band in shown],
        "places": {scene.name: scene.site for scene in source.scenes if scene.site != scene.name},
        "arguments": vars(args),
    }


def choose_tiles(source, regions, gsd_m, args):
    """Cut the regions into tiles, count their labels, and drop those with too little to learn from.

    Returns:
        list of Region, scene by scene; and a dict of each split's tiles, its pixels and km2 by
        class, and what was dropped. Ground that several tiles show counts each time.
    Raises:
        ValueError: a scene without data, a split without tiles, or --drop-only names no class.
    """
    names = [row.name for row in source.classes]
    for name in args.drop_only:
        if name not in names:
            raise ValueError(f"--drop-only {name}: give one of {', '.join(names)}")
    tiles_of = [[] for _ in source.scenes]
    for region in regions:
        tiles_of[region.scene] += cut(region, args.tile, args.overlap, args.pad_edges)
    kept = []
    pixels = {split: np.zeros(len(names), int) for split in SPLITS}
    dropped = {split: Counter() for split in SPLITS}
    progress = tqdm(source.scenes, "counting", unit="scene", disable=None)
    for scene, tiles in zip(progress, tiles_of):
        with SceneReader(scene, source) as reader:
            if tiles and reader.is_empty(tiles):
                raise ValueError(f"{scene.image} holds no data: all of it is NaN, nodata or "
                                 "transparent; leave it out")
            for tile in tiles:
                labels = reader.read_labels(tile)
                counts = np.bincount(labels.ravel(), minlength=256)[:len(names)]
                reason = why_dropped(tile, counts, reader, source, args)
                if reason:
                    dropped[tile.split][reason] += 1
                else:
                    kept.append(tile)
                    pixels[tile.split] += counts
    number_of_tiles = Counter(tile.split for tile in kept)
    check_splits_have_tiles(regions, number_of_tiles, dropped)
    return kept, {
        "tiles": {split: number_of_tiles[split] for split in SPLITS},
        "pixels": {split: pixels[split].tolist() for split in SPLITS},
        "km2": gsd_m and {split: (pixels[split] * gsd_m ** 2 / 1e6).tolist() for split in SPLITS},
        "dropped": dict(sum(dropped.values(), Counter())),
    }


def why_dropped(tile, counts, reader, source, args):
    """The reason why a tile is dropped, or None.

    Args:
        tile: Region.
        counts: (K,) its labelled px by class.
        reader: SceneReader of its scene.
        source: RawDataset.
        args: of the command line.
    """
    if reader.is_empty([tile]):
        return "without data"
    if counts.sum() < args.min_labelled:
        return f"fewer than {args.min_labelled} labelled px"
    shown = {source.classes[index].name for index in np.flatnonzero(counts)}
    if args.drop_only and shown and shown <= set(args.drop_only):
        return f"only {', '.join(args.drop_only)}"
    if args.max_cloud < 1:
        image, known = reader.read_image(tile)
        cloud, snow = source.clouds.shares(image, known.any(axis=2))
        if cloud + snow > args.max_cloud:
            return f"more than {100 * args.max_cloud:g} % cloud or snow"
    if args.drop_single_class and tile.split == "train" and len(shown) == 1:
        return "of train, one class alone"
    return None


def check_splits_have_tiles(regions, number_of_tiles, dropped):
    """Refuse a plan of which a split has no tile left, with the reasons.

    Args:
        regions: list of Region.
        number_of_tiles: {split: tiles that are kept}.
        dropped: {split: Counter of reasons}.
    """
    for split in sorted({region.split for region in regions}):
        if not number_of_tiles[split]:
            reasons = [f"{plural(count, 'tile')}: {why}" for why, count in dropped[split].items()]
            raise ValueError(f"no tile of {split} is left, dropped were {', '.join(reasons)}; "
                             "split otherwise, drop less, or train on all by --split-by none")


def write_tiles(folder, source, tiles, meta):
    """Write the tiles' images and labels, and where each comes from.

    Smaller tiles are filled up at the right and bottom, with the image mirrored and without labels.

    Args:
        folder: Path.
        source: RawDataset.
        tiles: list of Region, scene by scene.
        meta: dict with bands, dtype, nodata, tile, and tiles by split.
    Returns:
        dict of mean and std of each band over the training tiles' valid pixels; nodata, per band
        where single bands of a pixel have it; and cloud_and_snow, the mean share of each in a
        split's tiles, None where it is not known.
    """
    side = meta["tile"]
    columns = ["scene", "row", "col"] + (["cloud", "snow"] if source.clouds else [])
    statistics = BandStatistics(meta["bands"])
    has_partial = False  # whether nodata stands in single bands of a pixel
    cloudy = {split: np.zeros(2) for split in SPLITS}
    progress = tqdm(tiles, "writing", unit="tile", disable=None)
    with TileWriter(folder, meta["tiles"], side, meta["bands"], meta["dtype"], columns) as writer:
        for tile, reader in each_tile(source, progress):
            image, known = reader.read_image(tile)
            valid = known.any(axis=2)
            labels = reader.read_labels(tile)
            row = [source.scenes[tile.scene].name, tile.row, tile.col]
            if source.clouds:
                shares = source.clouds.shares(image, valid)
                cloudy[tile.split] += shares
                row += list(np.round(shares, 4))
            counted = valid & tile.counted
            if tile.split == "train":
                statistics.add(image[counted], known[counted])
            has_partial = mark_missing(image, known, meta["nodata"]) or has_partial
            filling = [(0, side - tile.height), (0, side - tile.width)]
            image = np.pad(image, [*filling, (0, 0)], mode="reflect")
            labels = np.pad(labels, filling, constant_values=NO_LABEL)
            writer.write(tile.split, image, labels, row)
    mean, std = statistics.mean_and_std()
    clouds = None
    if source.clouds:
        clouds = {split: (cloudy[split] / max(count, 1)).tolist()
                  for split, count in meta["tiles"].items()}
    nodata = meta["nodata"]
    if has_partial and nodata is not None and nodata == meta["scene_nodata"]:
        nodata = [nodata] * meta["bands"]
    return {"mean": mean, "std": std, "nodata": nodata, "cloud_and_snow": clouds,
            "digests": writer.digests}


if __name__ == "__main__":
    with one_line_errors("prepare_data.py", "nothing is left of the set under way",
                         "lower --scale, or give scenes as tiled TIFFs"):
        main(parse_args())
