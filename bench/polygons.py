"""Polygons and overviews of a class map of 10,000 px: time and memory beside GDAL's.

    python bench/polygons.py

Ours write a GeoPackage and a Cloud Optimized GeoTIFF. Beside it, rasterio.features.sieve and shapes
yield geometries that are not written, and build_overviews adds overviews to a file. Each runs in a
process of its own. Rows go to results/polygons.csv. Files are made in --folder, and the map stays
there. Needs rasterio.
"""

import argparse
import pathlib
import shutil

from experiments import RESULTS, ROOT
from measure import append_numbers, measured

from geo.geopackage import write_geopackage
from geo.overviews import add_overviews
from geo.polygons import map_polygons
from geo.raster import open_raster, write_geotiff

CLASSES = 8
ROWS = 512  # px, of a block
NO_DATA = 255


def write_map(path, side, noise):
    """Write a class map of patches of about 60 px with frayed edges, and noise where it is near."""
    import torch
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn(1, CLASSES, side // size + 3, side // size + 3, generator=generator)
                    for size in (64, 8))

    def enlarge(scores, size, top, height):
        rows = scores[:, :, top // size:top // size + height // size + 3]
        large = torch.nn.functional.interpolate(rows, scale_factor=size, mode="bilinear")
        return large[:, :, :height, :side]

    def blocks():
        for top in range(0, side, ROWS):
            height = min(ROWS, side - top)
            scores = enlarge(coarse, 64, top, height) + 0.5 * enlarge(fine, 8, top, height)
            scores += noise * torch.randn(scores.shape, generator=generator)
            yield scores.argmax(1)[0].byte().numpy()

    write_geotiff(path, blocks(), side, side, 1, "uint8", nodata=NO_DATA)


def ours_polygons(path, min_pixels, simplify):
    """Trace the polygons of a map, and write them."""
    target = path.with_suffix(".gpkg")
    target.unlink(missing_ok=True)
    with open_raster(path) as raster:
        blocks = ((raster.read(top, 0, min(ROWS, raster.height - top), raster.width)[:, :, 0], None)
                  for top in range(0, raster.height, ROWS))
        polygons = map_polygons(blocks, raster.width, min_pixels, simplify, folder=path.parent)
        write_geopackage(target, polygons, [f"class {k}" for k in range(CLASSES)])
    target.unlink()


def gdal_polygons(path, min_pixels, simplify):
    """The same by GDAL, as far as it goes: nothing is written, and corners stay."""
    import rasterio.features
    with rasterio.open(path) as file:
        classes = file.read(1)
    has_data = classes != NO_DATA
    if min_pixels:
        classes = rasterio.features.sieve(classes, min_pixels, mask=has_data)
    for _ in rasterio.features.shapes(classes, mask=has_data):
        pass


def ours_overviews(path, min_pixels, simplify):
    """Add overviews to a copy of a map."""
    copy = shutil.copy(path, path.with_suffix(".ours.tif"))
    add_overviews(copy, "mode")
    pathlib.Path(copy).unlink()


def gdal_overviews(path, min_pixels, simplify):
    """The same by GDAL, with all processors."""
    import rasterio
    copy = shutil.copy(path, path.with_suffix(".gdal.tif"))
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"), rasterio.open(copy, "r+") as file:
        file.build_overviews([2, 4, 8, 16, 32], rasterio.enums.Resampling.mode)
    pathlib.Path(copy).unlink()


WORK = {function.__name__: function
        for function in (ours_polygons, gdal_polygons, ours_overviews, gdal_overviews)}


def measure(args):
    """Yield (case, {quantity: value}) of each work, in turns."""
    cases = [("clean", 0, 0, "ours_overviews"), ("clean", 0, 0, "gdal_overviews"),
             ("clean", 0, 0, "ours_polygons"), ("clean", 0, 0, "gdal_polygons"),
             ("speckled", 10, 0, "ours_polygons"), ("speckled", 10, 0, "gdal_polygons"),
             ("speckled", 10, 1.5, "ours_polygons"),
             ("speckled", 0, 0, "ours_polygons"), ("speckled", 0, 0, "gdal_polygons")]
    for name, noise in (("clean", 0.0), ("speckled", 0.1)):
        path = args.folder / f"{name}_{args.side}.tif"
        if not path.exists():
            write_map(path, args.side, noise)
    for _ in range(args.repeats):
        for name, min_pixels, simplify, work in cases:
            path = args.folder / f"{name}_{args.side}.tif"
            yield (f"{work}, {name} map of {args.side} px, polygons from {min_pixels} px, "
                   f"simplified by {simplify} px",
                   measured("bench/polygons.py", "--work", work, "--map", path, "--min-pixels",
                            min_pixels, "--simplify", simplify))


def main(args):
    """Measure, and append a row per number; or do one piece of work, in a process of its own."""
    if args.work:
        WORK[args.work](args.map, args.min_pixels, args.simplify)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    for case, quantities in measure(args):
        append_numbers(args.table, case, quantities)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flag = parser.add_argument
    flag("--side", type=int, default=10000, help="of the map, px")
    flag("--folder", type=pathlib.Path, default=ROOT / "runs" / "polygons", help="for files")
    flag("--repeats", type=int, default=3, help="turns")
    flag("--table", type=pathlib.Path, default=RESULTS / "polygons.csv", help="rows are added")
    flag("--work", choices=WORK, help="do one piece of work instead, on the map of --map")
    flag("--map", type=pathlib.Path)
    flag("--min-pixels", type=int, default=0)
    flag("--simplify", type=float, default=0)
    main(parser.parse_args())
