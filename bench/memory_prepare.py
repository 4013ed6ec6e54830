"""Peak memory of preparing a scene whose class mask is 300 000 x 300 000 px, ten times finer than the image; Linux and macOS.

    python bench/memory_prepare.py --folder data/memory

Image (10 bands of uint16) and mask are sparse tiled BigTIFFs, of which a few tiles hold something: their size on disk is
small, what has to be read is not. A smaller scene comes first, to see that memory does not grow with it.
"""

import argparse
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import tifffile

ROOT = pathlib.Path(__file__).resolve().parents[1]
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
    args = parser.parse_args()
    print("| mask, px | image, px | minutes | peak memory so far, MiB |\n|---|---|---|---|")
    for side in args.sides:
        shutil.rmtree(args.folder, ignore_errors=True)
        args.folder.mkdir(parents=True)
        write_sparse(args.folder / "image.tif", side // 10, 10, np.uint16, 10.0, 3)
        write_sparse(args.folder / "mask.tif", side, 1, np.uint8, 1.0, 16)
        start = time.perf_counter()
        command = ["prepare_data.py", "sentinel2", "--images", args.folder / "image.tif", "--masks", args.folder / "mask.tif",
                   "--downscale", args.downscale, "--split-by", "block", "--fractions", 1, 1, 1, "--out",
                   args.folder / "set"]
        subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
        print(f"| {side:,} x {side:,} | {side // 10:,} x {side // 10:,} | {(time.perf_counter() - start) / 60:.1f} | {peak:.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
