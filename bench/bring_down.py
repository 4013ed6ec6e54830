"""Bring a class mask down by ten by the most frequent class, with our code or with GDAL; scenes.py measures it.

    python bench/bring_down.py ours mask.tif        as a process of its own, so that the memory it takes can be told
    python bench/bring_down.py gdal mask.tif        through rasterio

Imports nothing but what the work needs: torch alone takes more memory than either.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from geo.raster import downscale_classes, open_raster  # noqa: E402


def ours(path):
    """(h, w) uint8, the mask brought down by our code."""
    with open_raster(path) as raster:
        return np.concatenate(list(downscale_classes(raster, 10, "mode")))


def gdal(path):
    """(h, w) uint8, the mask brought down by GDAL."""
    import rasterio
    with rasterio.open(path) as file:
        return file.read(1, out_shape=(-(-file.height // 10), -(-file.width // 10)), resampling=rasterio.enums.Resampling.mode)


if __name__ == "__main__":
    {"ours": ours, "gdal": gdal}[sys.argv[1]](sys.argv[2])
