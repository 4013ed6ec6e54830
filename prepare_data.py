"""Raw scenes and labels -> a prepared data set: tiles in memory-mapped arrays, split by site.

    python prepare_data.py demo                               procedural scenes, made in seconds
    python prepare_data.py folder --images DIR --masks DIR --classes classes.csv --out data/NAME
    python prepare_data.py points --images DIR --points-file points.csv --classes classes.csv
    python prepare_data.py dubai --src DIR --scale 0.5
    python prepare_data.py sentinel2 --images spring.tif autumn.tif --masks landcover_1m.tif

Each kind has flags of its own: python prepare_data.py KIND --help. docs/data.md explains them, and
the format of what is written.

First all scenes are opened and compared. Then regions of them are given to the splits, and each
region is cut into tiles. Tiles without labels are dropped. The others are written, counted on the
screen, and shown in preview.png.
"""

import dataclasses
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.cli import Parser, one_line_errors, plural
from engine.prepared import SPLITS, BandStatistics, TileWriter, new_folder, write_meta
from report.figures import default_colours, save_png
from sources import flags, sentinel2
from sources.demo import demo
from sources.labels import NO_LABEL, name_scenes, read_classes, read_points
from sources.public import PUBLIC
from sources.raw import RawDataset, pair_scenes
from sources.scenes import SceneReader, check_scenes, each_tile, shared_nodata
from sources.splits import cut, plan_regions
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
    return parser.parse_args(words)


def check_args(args):
    """Refuse flags that do not go together.

    Raises:
        ValueError: with their names.
    """
    if args.kind in ("folder", "points") and len(args.images) > 1:
        raise ValueError("--images takes several for sentinel2 alone: quote a pattern such as "
                         "'DIR/*.tif'")
    if args.val_places and (args.split_by or args.split_list):
        raise ValueError("--val-places goes with --test-places or alone: leave out --split-by and "
                         "--split-list")
    if args.overlap >= args.tile:
        raise ValueError(f"--overlap {args.overlap}: give less than --tile {args.tile}")
    if args.overlap and args.split_by == "tile":
        raise ValueError(f"--overlap {args.overlap}: with --split-by tile splits would share "
                         "pixels: leave one out")
    if not 0 < sum(args.fractions) < 1e9:
        raise ValueError(f"--fractions {args.fractions}: give at least one above 0, such as "
                         "0.7 0.2 0.1")


def main(args):
    """Prepare a data set in a temporary folder that is renamed to --out when all is written."""
    check_args(args)
    out = Path(args.out).resolve()
    with new_folder(out) as work:
        try:
            meta = prepare(args, work)
        except ValueError as error:
            raise ValueError(name_sites(str(error), work)) from error
    print(frequency_table(meta))
    for index, entry in enumerate(meta["classes"]):
        if not any(meta["pixels"][split][index] for split in SPLITS):
            print(f"warning: not one pixel is labelled {entry['name']}: look at the masks' values",
                  file=sys.stderr)
    print(f"written to {out}; look at {out / 'preview.png'} before you train")
    print(f"next: python train.py --data {shlex.quote(str(args.out))}")


def make_demo(out, seed=0):
    """Prepare the demo in the folder `out`."""
    main(parse_args(["demo", "--out", str(out), "--seed", str(seed)]))


def prepare(args, folder):
    """Write a prepared data set to an existing folder; returns what dataset.json holds."""
    source = find_source(args, folder)
    sizes, measured, missing = check_scenes(source, args.gsd)
    meta = {**build_meta(source, measured["bands"], args), **measured}
    regions = plan_regions(source, sizes, args)
    tiles, counts = choose_tiles(source, regions, meta["gsd_m"], args)
    meta.update(counts)
    meta["nodata"] = shared_nodata(source, tiles, missing, meta["dtype"])
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
        class_table = read_classes(args.classes)
        source = RawDataset(class_table, pair_scenes(args.images[0], args.masks))
    options = {"scale": args.scale, "tolerance": args.tolerance, "nodata": args.nodata,
               "max_pixels": args.max_pixels}
    if args.threshold is not None:
        options["threshold"] = args.threshold
    if args.points_file:
        points = read_points(args.points_file, source.class_table)
        options["points"] = name_scenes(points, source.scenes)
    return dataclasses.replace(source, **options)


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
        tiles_of[region.scene] += cut(region, args.tile, args.overlap)
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
        cloud, snow = source.clouds.shares(*reader.read_image(tile))
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
                             "split otherwise or drop less")


def write_tiles(folder, source, tiles, meta):
    """Write the tiles' images and labels, and where each comes from.

    Smaller tiles are filled up at the right and bottom, with the image mirrored and without labels.

    Args:
        folder: Path.
        source: RawDataset.
        tiles: list of Region, scene by scene.
        meta: dict with bands, dtype, nodata, tile, and tiles by split.
    Returns:
        dict of mean and std of each band over the training tiles' valid pixels; and cloud_and_snow,
        the mean share of each in a split's tiles, None where it is not known.
    """
    side = meta["tile"]
    columns = ["scene", "row", "col"] + (["cloud", "snow"] if source.clouds else [])
    statistics = BandStatistics(meta["bands"])
    cloudy = {split: np.zeros(2) for split in SPLITS}
    progress = tqdm(tiles, "writing", unit="tile", disable=None)
    with TileWriter(folder, meta["tiles"], side, meta["bands"], meta["dtype"], columns) as writer:
        for tile, reader in each_tile(source, progress):
            image, valid = reader.read_image(tile)
            labels = reader.read_labels(tile)
            row = [source.scenes[tile.scene].name, tile.row, tile.col]
            if source.clouds:
                shares = source.clouds.shares(image, valid)
                cloudy[tile.split] += shares
                row += list(np.round(shares, 4))
            if tile.split == "train":
                statistics.add(image[valid])
            mark_missing(image, valid, meta["nodata"])
            filling = [(0, side - tile.height), (0, side - tile.width)]
            image = np.pad(image, [*filling, (0, 0)], mode="reflect")
            labels = np.pad(labels, filling, constant_values=NO_LABEL)
            writer.write(tile.split, image, labels, row)
    mean, std = statistics.mean_and_std()
    clouds = None
    if source.clouds:
        for split, count in meta["tiles"].items():
            cloudy[split] /= max(count, 1)
        clouds = {split: shares.tolist() for split, shares in cloudy.items()}
    return {"mean": mean, "std": std, "cloud_and_snow": clouds}


def mark_missing(image, valid, nodata):
    """Give pixels without data one value in every band, unless one of their bands is not finite.

    Args:
        image: (h, w, C), changed in place.
        valid: (h, w) bool.
        nodata: the set's value, or None for NaN.
    """
    marked = ~valid & np.isfinite(image).all(axis=2)
    if marked.any():
        image[marked] = np.nan if nodata is None else nodata


if __name__ == "__main__":
    with one_line_errors("prepare_data.py", "nothing is left of the set under way",
                         "lower --scale, or give scenes as tiled TIFFs"):
        main(parse_args())
