"""NumPy arrays of scenes, such as an eo-learn patch, as GeoTIFFs that prepare_data.py reads.

    python bench/arrays_to_tiff.py DIR/REFERENCE_SCENES.npy DIR/LULC.npy --out data/slovenia-tiff

An array of (dates, H, W, C) becomes a file for each date, NAME_0.tif and so on; one of (H, W, C) or (H, W) becomes NAME.tif.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from geo.raster import write_geotiff  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arrays", nargs="+", type=pathlib.Path, help=".npy files")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the GeoTIFFs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.arrays:
        array = np.load(path)
        scenes = [(f"_{date}", scene) for date, scene in enumerate(array)] if array.ndim == 4 else [("", array)]
        for suffix, scene in scenes:
            height, width, *bands = scene.shape
            write_geotiff(args.out / f"{path.stem}{suffix}.tif", [scene], height, width, *(bands or [1]), scene.dtype)


if __name__ == "__main__":
    main()
