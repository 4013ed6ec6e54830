"""The flags of prepare_data.py, in groups; each kind of data set has some of them."""

import argparse

from engine.cli import number
from engine.prepared import FRACTIONS, verify_arrays
from sources.splits import LISTED_TILE, SPLIT_BY

POINTS_HELP = ("labelled points: CSV of scene,row,col,class (px, from 0) or of x,y,class (map "
               "units), or GeoJSON points in the scenes' coordinate system")
VERIFY_HELP = ("compare all values of a prepared data set with the digests in its dataset.json, "
               "and do nothing else")
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
    flag = parser.add_argument_group("scenes").add_argument
    flag("--src", required=True, metavar="DIR", help="the unpacked data set")
    flag("--points-file", metavar="FILE", help=POINTS_HELP + "; not given: the set's masks")


def add_file_flags(parser, kind):
    """Add the flags that name images, labels and classes of one's own."""
    group = parser.add_argument_group("scenes")
    images = ("a folder of images, one image, a list of its files NAME.txt, or a quoted pattern "
              "such as 'DIR/*_sat.jpg'")
    classes = "table id,name,r,g,b with a row per class"
    if kind == "sentinel2":
        images += "; one of these per season"
        classes += "; not given: the land-cover map of Catalonia in twelve classes"
    group.add_argument("--images", required=True, nargs="+", metavar="IMAGES", help=images)
    labels = group
    if kind != "points":
        labels = group.add_mutually_exclusive_group(required=True)
        labels.add_argument("--masks", help="likewise; masks pair with images by file name, or by "
                            "what the star stands for")
    labels.add_argument("--points-file", required=kind == "points", metavar="FILE",
                        help=POINTS_HELP)
    group.add_argument("--classes", required=kind != "sentinel2", metavar="CSV", help=classes)


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
    flag("--nodata", type=nodata_value, help="value that means no data if all bands have it, for "
         "scenes whose file names none; write a negative one in scientific notation as "
         "--nodata=-3.4e38")
    flag("--max-pixels", type=number(int, 1), default=2**31, help="largest PNG or JPEG to decode, "
         "px")


def nodata_value(word):
    """The `type` of --nodata: a number that float32 can hold, or nan."""
    value = float(word)
    if abs(value) > 3.41e38:
        raise ValueError
    return value


def add_tile_flags(parser, kind):
    """Add the flags of what is written, and of the tiles."""
    flag = parser.add_argument_group("tiles").add_argument
    flag("--out", default=f"data/{kind}", help="folder to write")
    flag("--scale", type=number(float, 0.001, 16), default=1.0, help="resize scenes first, new "
         "side / old side: images by area, masks by nearest pixel")
    flag("--tile", type=number(int, 1, 2**14), default=128 if kind == "demo" else 256,
         help="side of the tiles, px after --scale")
    flag("--overlap", type=number(int, 0), default=0, help="px that neighbouring tiles share")
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
    flag("--split-by", choices=SPLIT_BY, help="whole scenes, blocks of each scene, single tiles "
         "(neighbours then stand on both sides, so scores are too high), or polygons of sparse "
         "labels; not given: the data set's own split, else scene")
    flag("--split-list", nargs="+", default=[], metavar="FILE", help="a CSV of scene,split; or "
         f"train.txt val.txt test.txt of lines SCENE_N, where N counts the scene's {LISTED_TILE} "
         "px tiles row by row from 0")


def kind_first(words, kinds):
    """Put the kind's name, one of `kinds`, before all flags, as sub-commands need it."""
    if not words or not words[0].startswith("--"):
        return words
    for place, word in enumerate(words[1:], 1):
        before = words[place - 1]
        is_value = before.startswith("--") and "=" not in before and before != "--drop-single-class"
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
