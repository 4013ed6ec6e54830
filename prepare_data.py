"""Raw scenes and masks -> a prepared data set: tiles in memory-mapped arrays, split so that no ground is on two sides.

    python prepare_data.py demo                                      procedural scenes, made in seconds
    python prepare_data.py folder --images DIR --masks DIR --classes classes.csv --out data/NAME
    python prepare_data.py folder --images DIR --points-file points.csv --classes classes.csv --out data/NAME
    python prepare_data.py dubai --src DIR --scale 0.5
    python prepare_data.py sentinel2 --images spring.tif autumn.tif --masks landcover_1m.tif --split-by block

classes.csv has the columns id,name,r,g,b. The id is the value in the mask, any number; masks may as well be written in
the colours; rows named "ignore" stand for no label. In what is written a class is its row, 0 to K-1, and 255 no label.

The way: all scenes are opened and compared; regions of them are given to the splits; each region is cut into tiles, of
which those without labels are dropped; the others are written, counted on the screen, and shown in preview.png.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.cli import HelpFormatter
from engine.meta import SPARSE_SHARE, SPLITS, display_limits
from report.figures import (
    colour_map,
    default_colours,
    draw_points,
    panel_grid,
    save_png,
    to_rgb,
)
from sources import public, sentinel2
from sources.demo import demo
from sources.labels import NO_LABEL, name_scenes, read_points
from sources.scenes import SceneReader, check_scenes, shared_nodata
from sources.splits import FRACTIONS, cut, plan_regions


def parse_args(argv=None):
    """The command line; `python prepare_data.py --help` shows it."""
    parser = argparse.ArgumentParser(description="Raw scenes and masks -> a prepared data set.",
                                     epilog="example: python prepare_data.py dubai --src dubai --scale 0.5",
                                     formatter_class=HelpFormatter)
    parser.add_argument("kind", choices=["demo", "folder", "sentinel2", *public.PUBLIC], help="what to prepare")
    flag = parser.add_argument_group("scenes").add_argument
    flag("--src", help="the unpacked public data set")
    flag("--images", nargs="+", metavar="IMAGES", help="folder: a folder of images, one image, a list of its files "
         "NAME.txt, or a quoted pattern such as 'DIR/*_sat.jpg'; sentinel2: one of these for each season")
    flag("--masks", help="likewise; they pair with images by file name, or by what the star stands for")
    flag("--classes", help="the classes.csv; sentinel2: not given: the land-cover map of Catalonia in twelve classes")
    flag("--points-file", help="labelled points in place of masks: CSV of scene,row,col,class (px, from 0), or of "
         "x,y,class (map units), or GeoJSON points in the scenes' CRS")
    flag("--threshold", type=float, help="read mask values above it as 255, all others as 0; not given: as they are")
    flag("--tolerance", type=int, default=0, help="how far off in r, g and b a mask's colour may be, 0 to 255")
    flag("--gsd", type=float, help="ground sample distance of the files, m; not given: as they say")
    flag("--rgb", type=int, nargs="+", metavar="BAND", help="bands shown as red, green, blue, from 1; not given: "
         "as the data set has them, else 1 2 3")
    flag("--nodata", type=float, help="value that stands, in every band, for no data in scenes of which no file names one; "
         "a negative one in scientific notation as --nodata=-3.4e38")
    flag("--max-pixels", type=int, default=2**31, help="largest PNG or JPEG to decode, px")
    flag = parser.add_argument_group("tiles").add_argument
    flag("--out", help="folder to write; not given: data/<kind>")
    flag("--scale", type=float, default=1.0, help="resize scenes first: images by area, masks by nearest pixel")
    flag("--tile", type=int, help="side of the tiles, px after --scale; not given: 256, demo 128")
    flag("--overlap", type=int, default=0, help="px that neighbouring tiles share")
    flag("--min-labelled", type=int, default=1, help="drop tiles with fewer labelled px; 0 drops none")
    flag("--drop-only", nargs="+", default=[], metavar="CLASS", help="drop tiles that show no other classes than these")
    flag("--drop-single-class", action="store_true", help="drop training tiles that show one class alone")
    group = parser.add_argument_group("splits")
    flag = group.add_argument
    flag("--fractions", type=float, nargs=3, default=FRACTIONS, metavar="SHARE", help="train val test, of splits that are "
         "drawn; 0 is none")
    flag("--val-places", nargs="+", default=[], metavar="NAME", help="scenes to validate on, as for --test-places")
    flag("--seed", type=int, default=0, help="decides what is drawn: splits, and the demo's scenes")
    flag = group.add_mutually_exclusive_group().add_argument
    flag("--split-by", choices=("scene", "block", "tile", "polygon"), help="whole scenes, blocks of each scene, "
         "single tiles, whose neighbours leak, or polygons of sparse labels; not given: the data set's own split, else "
         "scene")
    flag("--test-places", nargs="+", default=[], metavar="NAME", help="scenes to test on (dubai: 1+3, 2, 4+7+8, 5, 6); "
         "what is named for neither trains")
    flag("--split-list", nargs="+", default=[], metavar="FILE", help="a CSV of scene,split; or train.txt val.txt "
         f"test.txt of SCENE_N, where N counts the scene's {public.LISTED_TILE} px tiles row by row from 0")
    sentinel2.add_arguments(parser)
    return parser.parse_args(argv)


def check_args(args):
    """Fill in what depends on the kind, and refuse what makes no sense.

    Raises:
        ValueError: with the flag that is missing, out of range or out of place.
    """
    args.out = args.out or f"data/{args.kind}"
    args.tile = args.tile if args.tile is not None else 128 if args.kind == "demo" else 256
    needs = {"demo": [], "folder": ["images", "classes", "masks"], "sentinel2": ["images", "masks"]}
    needs = needs.get(args.kind, ["src"])
    for name in ("src", "images", "classes", "masks"):
        if getattr(args, name) and name not in needs and (args.kind, name) != ("sentinel2", "classes"):
            raise ValueError(f"--{name} is not for {args.kind}: leave it out")
        if not getattr(args, name) and name in needs and not (name == "masks" and args.points_file):
            raise ValueError(f"{args.kind} needs --{name}" + (" or --points-file" if name == "masks" else ""))
    if args.masks and args.points_file:
        raise ValueError("--masks and --points-file both say where the labels are: give one of them")
    if args.kind != "sentinel2":
        if args.images and len(args.images) > 1:
            raise ValueError("--images takes several for sentinel2 alone: quote a pattern such as 'DIR/*.tif'")
        for name, default in sentinel2.DEFAULTS.items():
            if getattr(args, name) != default:
                raise ValueError(f"--{name.replace('_', '-')} is for sentinel2: leave it out")
    if args.val_places and (args.split_by or args.split_list):
        raise ValueError("--val-places goes with --test-places or alone: leave out --split-by and --split-list")
    if args.overlap and args.split_by == "tile":
        raise ValueError(f"--overlap {args.overlap}: with --split-by tile splits would share pixels: leave one out")
    fine = {"scale": 0 < args.scale <= 16, "tile": 0 < args.tile <= 2**14, "overlap": 0 <= args.overlap < args.tile,
            "tolerance": 0 <= args.tolerance <= 255, "gsd": args.gsd is None or 0 < args.gsd < 1e9, "seed": args.seed >= 0,
            "max_cloud": 0 <= args.max_cloud <= 1, "reflectance": args.reflectance is None or args.reflectance > 0,
            "nodata": args.nodata is None or abs(args.nodata) < 3.41e38 or args.nodata != args.nodata,
            "fractions": min(args.fractions) >= 0 and 0 < sum(args.fractions) < 1e9}
    for name in fine:
        if not fine[name]:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} makes no sense: see --help")


def main(args):
    """Prepare a data set, in a folder beside --out that takes the name --out when all of it is written."""
    check_args(args)
    out = Path(args.out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is in use: give another --out, or remove it")
    work = out.with_name(f"{out.name}.partial-{os.getpid()}")
    work.mkdir(parents=True)
    try:
        source = find_source(args, work)
        sizes, measured, missing = check_scenes(source, args.gsd)
        meta = {**build_meta(source, measured["bands"], args), **measured}
        regions = plan_regions(source, sizes, args)
        tiles, counts = choose_tiles(source, regions, meta["gsd_m"], args)
        meta.update(counts, nodata=shared_nodata(source, tiles, missing, meta["dtype"]))
        meta.update(write_tiles(work, source, tiles, meta))
        save_png(contact_sheet(work, meta), work / "preview.png")
        (work / "dataset.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        work.rename(out)
    except ValueError as error:  # a place's list of seasons or finer mask, made in `work`, is gone when this is read
        made = re.escape(str(work)) + r"[/\\](?:scenes|masks)[/\\]([^/\\]+?)\.(?:txt|tif)"
        raise ValueError(re.sub(made, r"place '\1'", str(error))) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(frequency_table(meta))
    for number, entry in enumerate(meta["classes"]):
        if not any(meta["pixels"][split][number] for split in SPLITS):
            print(f"warning: not one pixel is labelled {entry['name']}: look at the masks' values", file=sys.stderr)
    print(f"written to {out}; look at {out / 'preview.png'} before you train")


def make_demo(out, seed=0):
    """Prepare the demo in the folder `out`."""
    main(parse_args(["demo", "--out", str(out), "--seed", str(seed)]))


def find_source(args, work):
    """The RawDataset that the arguments name; the demo's scenes are written first, to work/scenes."""
    if args.kind == "demo":
        source = demo(work / "scenes", args.seed)
    elif args.kind == "folder":
        source = public.folder(args.images[0], args.masks, args.classes)
    elif args.kind == "sentinel2":
        source = sentinel2.sentinel2(args, work)
    else:
        source = public.PUBLIC[args.kind](args.src)
    source.scale, source.tolerance, source.max_pixels = args.scale, args.tolerance, args.max_pixels
    source.nodata = args.nodata
    if args.threshold is not None:
        source.threshold = args.threshold
    if args.points_file:
        source.points = name_scenes(read_points(args.points_file, source.rows), source.scenes)
    return source


def build_meta(source, bands, args):
    """What dataset.json holds that is said, not measured: names, colours, tile size, bands to show, places.

    Raises:
        ValueError: --rgb names bands that are not there.
    """
    shown = args.rgb or source.rgb or ([1, 2, 3] if bands >= 3 else [1])
    if len(shown) not in (1, 3) or not 1 <= min(shown) <= max(shown) <= bands:
        raise ValueError(f"--rgb {' '.join(map(str, shown))}: give three bands, or one, from 1 to {bands}")
    classes = [{"name": row.name, "colour": list(row.colour.to_bytes(3, "big") if row.colour is not None else colour)}
               for row, colour in zip(source.classes, default_colours(len(source.classes)))]
    places = {scene.name: scene.place for scene in source.scenes if scene.place != scene.name}
    return {"format": 1, "name": Path(args.out).resolve().name, "classes": classes, "ignore": NO_LABEL, "tile": args.tile,
            "rgb": [band - 1 for band in shown], "places": places, "arguments": vars(args)}


def choose_tiles(source, regions, gsd_m, args):
    """Cut the regions into tiles, count their labels, and drop those with too little to learn from.

    Returns:
        list of Region, scene by scene; and a dict of each split's tiles, its pixels and km2 by class, where ground that
        several tiles show (--overlap, seasons) counts each time, and what was dropped.
    Raises:
        ValueError: a scene without data, a split without tiles, or --drop-only names no class.
    """
    for name in args.drop_only:
        if name not in [row.name for row in source.classes]:
            raise ValueError(f"--drop-only {name}: give one of {', '.join(row.name for row in source.classes)}")
    others = np.array([row.name not in args.drop_only for row in source.classes])
    kept, dropped, tiles_of = [], {split: Counter() for split in SPLITS}, [[] for _ in source.scenes]
    pixels = {split: np.zeros(len(source.classes), int) for split in SPLITS}
    for region in regions:
        tiles_of[region.scene] += cut(region, args.tile, args.overlap)
    for scene, tiles in zip(tqdm(source.scenes, "counting", unit="scene", disable=None), tiles_of):
        with SceneReader(scene, source) as reader:
            if tiles and reader.is_empty(tiles):
                raise ValueError(f"{scene.image} holds no data: all of it is NaN, nodata or transparent; leave it out")
            for tile in tiles:
                counts = np.bincount(reader.read_labels(tile).ravel(), minlength=256)[:len(source.classes)]
                if reader.is_empty([tile]):
                    dropped[tile.split]["without data"] += 1
                elif counts.sum() < args.min_labelled:
                    dropped[tile.split][f"fewer than {args.min_labelled} labelled px"] += 1
                elif args.drop_only and counts.any() and not counts[others].any():
                    dropped[tile.split][f"only {', '.join(args.drop_only)}"] += 1
                elif args.max_cloud < 1 and sum(source.clouds.shares(*reader.read_image(tile))) > args.max_cloud:
                    dropped[tile.split][f"more than {100 * args.max_cloud:g} % cloud or snow"] += 1
                elif args.drop_single_class and tile.split == "train" and np.count_nonzero(counts) == 1:
                    dropped[tile.split]["of train, one class alone"] += 1
                else:
                    kept.append(tile)
                    pixels[tile.split] += counts
    tiles = Counter(tile.split for tile in kept)
    for split in sorted({region.split for region in regions} - set(tiles)):
        why = ", ".join(f"{count} tiles: {reason}" for reason, count in dropped[split].items())
        raise ValueError(f"no tile of {split} is left, dropped were {why}; split otherwise or drop less")
    return kept, {"tiles": {split: tiles[split] for split in SPLITS},
                  "pixels": {split: pixels[split].tolist() for split in SPLITS},
                  "km2": gsd_m and {split: (pixels[split] * gsd_m ** 2 / 1e6).tolist() for split in SPLITS},
                  "dropped": dict(sum(dropped.values(), Counter()))}


def write_tiles(folder, source, tiles, meta):
    """Write the tiles' images and labels, and where each comes from.

    Smaller tiles are filled up at the right and bottom, with the image mirrored and without labels. Pixels that are no
    data by their scene's nodata value or alpha band get the set's nodata value, or NaN where it has none.

    Args:
        folder: Path, where {train,val,test}_{images,labels}.npy and tiles.csv are made.
        source: RawDataset.
        tiles: list of Region, scene by scene.
        meta: dict with bands, dtype, nodata, and tiles by split.
    Returns:
        dict of mean and std of each band over the training tiles' valid pixels, std being 1 where the band is constant;
        and cloud_and_snow, the mean share of each in a split's tiles, None where it is not known.
    """
    side, bands = meta["tile"], meta["bands"]
    header = ("split", "index", "scene", "row", "col", *(("cloud", "snow") if source.clouds else ()))
    written, rows, clouds = Counter(), [header], {split: np.zeros(2) for split in meta["tiles"]}
    count, total, squares = 0, np.zeros(bands), np.zeros(bands)
    with ExitStack() as stack:
        images, labels = {}, {}
        for split, number in meta["tiles"].items():
            for arrays, kind, dtype, shape in ((images, "images", meta["dtype"], (number, side, side, bands)),
                                               (labels, "labels", "uint8", (number, side, side))):
                arrays[split] = stack.enter_context(start_array(folder / f"{split}_{kind}.npy", dtype, shape))
        for number, group in groupby(tqdm(tiles, "writing", unit="tile", disable=None), lambda tile: tile.scene):
            with SceneReader(source.scenes[number], source) as reader:
                for tile in group:
                    pixels, valid = reader.read_image(tile)
                    marked = ~valid & np.isfinite(pixels).all(axis=2)
                    if marked.any():
                        pixels[marked] = np.nan if meta["nodata"] is None else meta["nodata"]
                    missing = [(0, side - tile.height), (0, side - tile.width)]
                    images[tile.split].write(np.pad(pixels, [*missing, (0, 0)], mode="reflect").tobytes())
                    classes = np.pad(reader.read_labels(tile), missing, constant_values=NO_LABEL)
                    labels[tile.split].write(classes.tobytes())
                    shares = source.clouds.shares(pixels, valid) if source.clouds else ()
                    rows.append((tile.split, written[tile.split], source.scenes[number].name, tile.row, tile.col,
                                 *np.round(shares, 4)))
                    clouds[tile.split] += shares or 0
                    written[tile.split] += 1
                    if tile.split == "train":
                        known = pixels[valid].astype(np.float64)  # (n, C)
                        count, total, squares = count + len(known), total + known.sum(0), squares + (known ** 2).sum(0)
    with open(folder / "tiles.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean ** 2, 0))
    if not std.max() < 1e30:
        raise ValueError(f"the training tiles hold values whose spread is {std.max():.3g}: if some are no data, name their "
                         "value by --nodata")
    cloudy = {split: (clouds[split] / max(written[split], 1)).tolist() for split in clouds} if source.clouds else None
    return {"mean": mean.tolist(), "std": np.where(std > 1e-6 * np.abs(mean), std, 1).tolist(),  # rounding is no spread
            "cloud_and_snow": cloudy}


def start_array(path, dtype, shape):
    """Open an .npy file to which the bytes of its items are then written, one after the other.

    As a memory map it would fill the memory with what was written.
    """
    file = open(path, "wb")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file


def contact_sheet(folder, meta):
    """Tiles from all over the set, each beside its labels, as a picture with the legend."""
    limits, colours = display_limits(meta), [entry["colour"] for entry in meta["classes"]]
    rows, titles = [], []
    for split, part in (("train", 0), ("train", 1), ("val", 0), ("test", 0)):
        images, labels = (np.load(folder / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "labels"))
        step = max(len(images) // 6, 1)
        row = []
        for index in range(part * step, len(images), 2 * step)[:3]:
            rgb, tile = to_rgb(images[index], meta["rgb"], limits), labels[index]
            sparse = np.mean(tile != NO_LABEL) < SPARSE_SHARE
            row += [rgb, draw_points(rgb, tile, colours) if sparse else colour_map(tile, colours)]
        if row:
            rows.append(row + [np.full_like(row[0], 255)] * (6 - len(row)))
            titles.append(split)
    legend = [(entry["name"], entry["colour"]) for entry in meta["classes"]]
    return panel_grid(rows, ["image", "labels"] * 3, legend, titles)


def frequency_table(meta):
    """Tiles of each split, how often each class is labelled there, and what was dropped, as text."""
    gsd = meta["gsd_m"]
    ground = (f"{gsd:g} m a pixel; km2 of tiles, where ground shown by several of them counts each time" if gsd
              else "size of a pixel unknown (--gsd)")
    lines = [f"{meta['name']}: {meta['tile']} px tiles, {meta['bands']} bands of {meta['dtype']}, {ground}",
             f"{'':20}" + "".join(f"{split:>24}" for split in SPLITS),
             f"{'tiles':20}" + "".join(f"{meta['tiles'][split]:24,}" for split in SPLITS),
             f"{'labelled px':20}" + "".join(f"{sum(meta['pixels'][split]):24,}" for split in SPLITS)]
    for number, entry in enumerate(meta["classes"]):
        line = f"{entry['name'][:19]:20}"
        for split in SPLITS:
            pixels = meta["pixels"][split]
            area = f"{meta['km2'][split][number]:.3g} km2" if gsd else ""
            line += f"{100 * pixels[number] / max(sum(pixels), 1):8.2f} %{area:>14}"
        lines.append(line.rstrip())
    for number, name in enumerate(("cloud", "snow") if meta["cloud_and_snow"] else ()):
        shares = [100 * meta["cloud_and_snow"][split][number] for split in SPLITS]
        lines.append(f"{name:20}" + "".join(f"{share:22.2f} %" for share in shares))
    return "\n".join(lines + [f"dropped {count} tiles: {why}" for why, count in meta["dropped"].items()])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end it as Ctrl-C does: what is half-written is removed
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        print(f"prepare_data.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print("prepare_data.py: out of memory: lower --scale, or give scenes as tiled TIFFs", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prepare_data.py: interrupted; nothing is left of the set under way", file=sys.stderr)
        sys.exit(130)
