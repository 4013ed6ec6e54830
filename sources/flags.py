"""The flags of prepare_data.py, in groups; each kind of data set has some of them."""

import argparse
import pathlib

from engine.cli import number
from engine.prepared import FRACTIONS, verify_arrays
from sources.public import PUBLIC
from sources.raw import SUFFIXES
from sources.splits import LISTED_TILE, SPLIT_BY

POINTS_HELP = ("labelled points, lines or polygons: CSV with a class and x,y (map units), lon,lat, "
               "WKT or scene,row,col (px, from 0), GeoJSON, GeoPackage, or another vector file")
VERIFY_HELP = ("compare all values of a prepared data set with the digests in its dataset.json, "
               "and do nothing else")
TILE = {"demo": 128, **dict.fromkeys(PUBLIC, 256)}  # others: by the size of what is cut
SITES = {"demo": "place_01 to place_12", "dubai": "1+3, 2, 4+7+8, 5, 6",
         "sentinel2": "what the star stands for"}  # else the scenes' names


class Verify(argparse.Action):
    """The flag --verify FOLDER: check a prepared data set, then end."""

    def __call__(self, parser, namespace, folder, option_string=None):
        """Called by argparse at the flag."""
        size = verify_arrays(folder)
        if not size:
            raise ValueError(f"{folder} has no digests, because an earlier version prepared it: "
                             "prepare it again to have them")
        print(f"{folder}: {size / 1e6:,.1f} MB are as they were prepared")
        parser.exit()


def add_public_flags(parser):
    """Add the flags that name the files of a public data set."""
    group = parser.add_argument_group("scenes")
    group.add_argument("--src", required=True, metavar="DIR", help="the unpacked data set")
    group.add_argument("--points-file", metavar="FILE", help=POINTS_HELP + "; not given: the set's "
                       "masks")
    add_label_flags(group)


def add_label_flags(group):
    """Add the flags of how the file of points is read."""
    flag = group.add_argument
    flag("--class-column", metavar="NAME", help="the column that holds the class in the file of "
         "points, such as label; not given: the usual names")
    flag("--layer", metavar="NAME", help="layer of the file of points; not given: its only one")
    flag("--strict", action="store_true", help="stop if any point lies outside every scene; not "
         "given: if more than a tenth do")


def add_file_flags(parser, kind):
    """Add the flags that name images, labels and classes of one's own."""
    group = parser.add_argument_group("scenes")
    images = ("a folder of images, one image, a list of its files NAME.txt, or a quoted pattern "
              "such as 'DIR/*_sat.jpg'")
    classes = "table id,name,r,g,b with a row per class; not given: "
    by_default = "the classes that the file of points names"
    if kind == "folder":
        by_default += ", or one is printed to fill in, with what the masks hold"
    if kind == "sentinel2":
        images += "; one of these per season"
        by_default = "the land-cover map of Catalonia in twelve classes"
    if kind == "points":
        group.add_argument("files", nargs="*", metavar="IMAGES POINTS", help="the images and the "
                           "file of points, in place of --images and --points-file")
    group.add_argument("--images", required=kind != "points", nargs="+", metavar="IMAGES",
                       help=images)
    labels = group
    if kind != "points":
        labels = group.add_mutually_exclusive_group(required=True)
        labels.add_argument("--masks", help="likewise; masks pair with images by file name, or by "
                            "what the star stands for")
    labels.add_argument("--points-file", metavar="FILE", help=POINTS_HELP)
    add_label_flags(group)
    group.add_argument("--classes", metavar="CSV", help=classes + by_default)


def add_reading_flags(parser, kind):
    """Add the flags that say how files are read."""
    flag = parser.add_argument_group("how files are read").add_argument
    if kind != "points":
        flag("--threshold", type=float, help="read mask values above it as 255, all others as 0; "
             "not given: as they are")
        flag("--tolerance", type=number(int, 0, 255), default=0, help="how far off a mask's colour "
             "may be in red, green and blue, 0 to 255; 0: exact")
    flag("--gsd", type=number(float, 1e-6, 10**9), help="ground sample distance of the files, m "
         "per pixel; not given: as the files have it")
    flag("--nodata", type=nodata_value, help="value that means no data in a band, for scenes whose "
         "file names none; write a negative one in scientific notation as "
         "--nodata=-3.4e38")
    flag("--max-pixels", type=number(int, 1), default=2**31, help="largest PNG or JPEG to decode, "
         "px")


def nodata_value(word):
    """The `type` of --nodata: a number that float32 can hold, or nan."""
    try:
        value = float(word)
    except ValueError:
        value = float("inf")
    if abs(value) > 3.41e38:
        raise argparse.ArgumentTypeError(f"'{word}': give a number that float32 can hold, or nan")
    return value


def add_tile_flags(parser, kind):
    """Add the flags of what is written, and of the tiles."""
    flag = parser.add_argument_group("tiles").add_argument
    flag("--out", default=f"data/{kind}", help="folder to write")
    flag("--scale", type=number(float, 0.001, 16), default=1.0, help="resize scenes first, new "
         "side / old side: images by area, masks by nearest pixel")
    side = "side of the tiles, px after --scale"
    if kind in TILE:
        flag("--tile", type=number(int, 1, 2**14), default=TILE[kind], help=side)
    else:
        flag("--tile", type=number(int, 1, 2**14), help=side + "; not given: 256, or 128 with a "
             "file of points, or less where scenes or their blocks are smaller")
    flag("--overlap", type=number(int, 0), default=0, help="px that neighbouring tiles share")
    flag("--pad-edges", action="store_true", help="leave the last tiles of a scene where they are, "
         "and fill them up with the image mirrored; not given: they are moved inwards, and what "
         "they share with their neighbours has no label in them")
    flag("--min-labelled", type=number(int, 0), default=1, help="drop tiles with fewer labelled "
         "px; 0 drops none")
    flag("--drop-only", nargs="+", default=[], metavar="CLASS", help="drop tiles that show no "
         "other classes than these")
    flag("--drop-single-class", action="store_true", help="drop training tiles that show only one "
         "class")
    flag("--rgb", type=number(int, 1), nargs="+", metavar="BAND", help="bands shown as red, green, "
         "blue in pictures, from 1; not given: as the data set has them, else 1 2 3")


def add_split_flags(parser, kind):
    """Add the flags that decide which scenes train, validate and test."""
    group = parser.add_argument_group("splits")
    flag = group.add_argument
    flag("--fractions", type=number(float, 0), nargs=3, default=FRACTIONS, metavar="SHARE",
         help="train val test, where splits are drawn; 0 leaves a split empty")
    flag("--seed", type=number(int, 0), default=0, help="decides all that is drawn: splits, and "
         "the demo's scenes")
    flag("--val-places", nargs="+", default=[], metavar="NAME", help="sites to validate on, as for "
         "--test-places")
    flag = group.add_mutually_exclusive_group().add_argument
    names = SITES.get(kind, "the scenes' names")
    flag("--test-places", nargs="+", default=[], metavar="NAME", help=f"sites to test on: {names}; "
         "sites named for neither train")
    flag("--split-by", choices=SPLIT_BY, help="whole scenes, blocks of each site, single tiles "
         "(neighbours then stand on both sides, so scores are too high), polygons of sparse "
         "labels, or none: all is for training; not given: the data set's own split, else scene, "
         "else, where there are fewer sites than splits, polygon for points and block for masks")
    flag("--split-list", nargs="+", default=[], metavar="FILE", help="a CSV of scene,split; or "
         f"train.txt val.txt test.txt of lines SCENE_N, where N counts the scene's {LISTED_TILE} "
         "px tiles row by row from 0")


def take_positionals(args, parsers):
    """Read the images and the points of `points IMAGES POINTS` as if they had flags."""
    if args.kind != "points":
        return
    if args.files and (args.images or args.points_file):
        parsers["points"].error(f"{args.files[0]}: give the files alone, or --images and "
                                "--points-file")
    if args.files:
        *args.images, args.points_file = args.files
        if pathlib.Path(args.points_file).suffix.lower() in SUFFIXES:
            parsers["points"].error(f"{args.points_file} is an image: give the points last")
    for flag, value in (("--images", args.images), ("--points-file", args.points_file)):
        if not value:
            parsers["points"].error(f"{flag} is missing: give images and points, such as "
                                    "prepare_data.py points scene.tif points.csv")


SWITCHES = ("--drop-single-class", "--pad-edges", "--strict")


def kind_first(words, kinds):
    """Put the kind's name, one of `kinds`, before all flags, as sub-commands need it."""
    if not words or not words[0].startswith("--"):
        return words
    for place, word in enumerate(words[1:], 1):
        before = words[place - 1]
        is_value = before.startswith("--") and "=" not in before and before not in SWITCHES
        if word in kinds and not is_value:
            return [word, *words[:place], *words[place + 1:]]
    return words


def check_flags_of_kind(parsers, words):
    """Refuse a flag that only other kinds have.

    Args:
        parsers: {kind: its parser}; words: the command line, the kind first.
    """
    own = parsers.get(words[0]) if words else None
    if own is None:
        return
    flags = set().union(*(parser._option_string_actions for parser in parsers.values()))
    for word in words[1:]:
        flag = word.split("=")[0]
        if flag in flags and flag not in own._option_string_actions:
            own.error(f"{flag} is not for {words[0]}: leave it out")


def check_args(args):
    """Refuse flags that do not go together.

    Raises:
        ValueError: with their names.
    """
    if args.val_places and (args.split_by or args.split_list):
        raise ValueError("--val-places goes with --test-places or alone: leave out --split-by and "
                         "--split-list")
    if args.tile and args.overlap >= args.tile:
        raise ValueError(f"--overlap {args.overlap}: give less than --tile {args.tile}")
    if args.overlap and args.split_by == "tile":
        raise ValueError(f"--overlap {args.overlap}: with --split-by tile splits would share "
                         "pixels: leave one out")
    if not 0 < sum(args.fractions) < 1e9:
        raise ValueError(f"--fractions {args.fractions}: give at least one above 0, such as "
                         "0.7 0.2 0.1")
