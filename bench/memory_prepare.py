"""Peak memory of preparing a scene whose class mask is 300 000 x 300 000 px, ten times finer than the image; Linux and macOS.

    python bench/memory_prepare.py --folder data/memory
    python bench/memory_prepare.py --sides 5120 --table try.csv      a small one, to see that it runs

Image (10 bands of uint16) and mask are sparse tiled BigTIFFs, of which a few tiles hold something: their size on disk is
small, what has to be read is not. A smaller scene comes first, to see that memory does not grow with it. Each is prepared in
a process of its own, whose time and most resident memory go to --table.
"""

import argparse
import pathlib
import shutil

import numpy as np
import tifffile
from measure import append_numbers, measured
from run_table import ROOT

TILE = 512
UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32631, 3076, 0, 1, 9001)


def write_sparse(path, side, bands, dtype, gsd, every):
    """A square GeoTIFF of which each so-many-th tile along both sides holds noise; the others are left out."""
    across = -(-side // TILE)
    random = np.random.default_rng(0)
    shape = (TILE, TILE, bands) if bands > 1 else (TILE, TILE)
    noise = random.integers(1, 7, shape).astype(dtype)
    tiles = (noise if row % every == col % every == 0 else None for row in range(across) for col in range(across))
    tags = [(33550, "d", 3, (gsd, gsd, 0.0), True), (33922, "d", 6, (0, 0, 0, 240000.0, 4780000.0, 0), True),
            (34735, "H", len(UTM), UTM, True), (42113, "s", 0, "0", True)]
    tifffile.imwrite(path, tiles, shape=(side, side, *shape[2:]), dtype=dtype, tile=(TILE, TILE), compression="zlib",
                     bigtiff=True, photometric="minisblack", planarconfig="contig" if bands > 1 else None, extratags=tags,
                     metadata=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "data" / "memory", help="where to work; emptied first")
    parser.add_argument("--sides", type=int, nargs="+", default=[150_000, 300_000], help="of the masks, px, multiples of 10")
    parser.add_argument("--downscale", default="mode", choices=("nearest", "mode"))
    parser.add_argument("--table", type=pathlib.Path, default=ROOT / "results" / "scenes.csv", help="CSV that rows are added to")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    for side in args.sides:
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        write_sparse(args.folder / "image.tif", side // 10, 10, np.uint16, 10.0, 3)
        every = min(16, max(1, side // 5120))  # of a small mask more, or some split would have no label
        write_sparse(args.folder / "mask.tif", side, 1, np.uint8, 1.0, every)
        row = measured("prepare_data.py", "sentinel2", "--images", args.folder / "image.tif", "--masks", args.folder / "mask.tif",
                       "--downscale", args.downscale, "--split-by", "block", "--fractions", 1, 1, 1, "--out",
                       args.folder / "set")
        case = f"mask {side} x {side} px, image {side // 10} x {side // 10} px, {args.downscale}"
        print(f"{case}: {row['wall_s'] / 60:.1f} minutes, {row['resident_mb']:.0f} MB", flush=True)
        append_numbers(args.table, {"what": "prepare", "case": case, **row})


if __name__ == "__main__":
    main()
