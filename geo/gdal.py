"""Rasters of any format that GDAL reads, through the optional package rasterio."""

import re

import numpy as np
import rasterio
import tifffile
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import MemoryFile
from rasterio.windows import Window

from engine.files import check_beside
from geo.georeference import GEO_TAGS, Georeference
from geo.metadata import PLACED_OTHERWISE, parse_nodata


class GdalSource:
    """The bands of a file, read by rasterio.

    Args:
        dataset: rasterio's, open.
        mask: whether to read its mask of valid pixels instead, as one band of 0 and 255.
    """

    def __init__(self, dataset, mask=False):
        self.dataset = dataset
        self.mask = mask
        self.dtype = np.dtype(np.uint8 if mask else dataset.dtypes[0])

    def copy(self, row, col, window):
        """Copy the pixels at row, col into window (h, w, C)."""
        height, width = window.shape[:2]
        place = Window(col, row, width, height)
        if self.mask:
            window[:, :, 0] = self.dataset.read_masks(1, window=place)
        else:
            window[:] = np.moveaxis(self.dataset.read(window=place), 0, 2)


def open_with_gdal(path):
    """The fields of a Raster of a file that GDAL reads, such as JPEG 2000, VRT, ENVI or /vsi names.

    Returns:
        dict of the arguments of `raster.Raster`.
    Raises:
        ValueError: GDAL cannot read it, or its bands are of several dtypes.
    """
    dataset = _open(path.as_posix())
    if dataset.count == 0:
        raise ValueError("it holds no bands of its own: give one of its subdatasets, "
                         f"{', '.join(dataset.subdatasets[:3])}")
    if len(set(dataset.dtypes)) > 1:
        raise ValueError(f"its bands are of {', '.join(sorted(set(dataset.dtypes)))}: give them "
                         "one type")
    dtype = np.dtype(dataset.dtypes[0])
    alpha = None
    if ColorInterp.alpha in dataset.colorinterp:
        alpha = dataset.colorinterp.index(ColorInterp.alpha)
    palette = None
    if dataset.colorinterp[0] == ColorInterp.palette:
        colours = dataset.colormap(1)
        palette = np.array([colours.get(value, (0, 0, 0))[:3] for value in range(256)], np.uint8)
    flags = dataset.mask_flag_enums[0]
    has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    scales = tuple(zip(dataset.scales, dataset.offsets))
    return {
        "path": path, "source": GdalSource(dataset), "height": dataset.height,
        "width": dataset.width, "bands": dataset.count, "dtype": dtype,
        "segment": dataset.block_shapes[0],
        "nodata": _common([parse_nodata(value, dtype) for value in dataset.nodatavals]),
        "alpha": alpha, "palette": palette, "georeference": _georeference(dataset),
        "masks": (GdalSource(dataset, mask=True),) if has_mask else (),
        "scales": scales if set(scales) != {(1.0, 0.0)} else None,
        "unread": _placed_otherwise(dataset),
    }


def _open(name):
    """The rasterio dataset of a name; pathlib left one slash of two in names such as /vsizip//a."""
    names = [name]
    if name.startswith("/vsi"):
        names = [re.sub(r"(https?|ftp):/(?!/)", r"\1://", name),
                 re.sub(r"^/(vsi\w+)/", r"/\1//", name)]
    else:
        check_beside(name)
    for name in names:
        try:
            return rasterio.open(name)
        except rasterio.errors.RasterioIOError as caught:
            error = caught  # Python forgets the name of a caught error
    raise ValueError(f"it is no TIFF, PNG or JPEG, and rasterio cannot read it: {error}")


def _common(values):
    """One value where all are the same, else a tuple of them."""
    return values[0] if len(set(map(str, values))) == 1 else tuple(values)


def _placed_otherwise(dataset):
    """What places a rasterio dataset on the map and is not read, in words; "" if nothing does."""
    if not dataset.transform.is_identity:
        return ""
    if dataset.gcps[0]:
        return PLACED_OTHERWISE.format("control points")
    return PLACED_OTHERWISE.format("the polynomials of a camera (RPC)") if dataset.rpcs else ""


def georeference_of(path):
    """Georeference of a raster file that rasterio opens, or None."""
    with rasterio.open(path) as dataset:
        return _georeference(dataset)


def _georeference(dataset):
    """Georeference of a rasterio dataset, or None.

    GDAL writes its GeoTIFF tags into a file of one pixel, because it knows every coordinate system.
    """
    if dataset.transform.is_identity:
        return None
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", height=1, width=1, count=1, dtype="uint8",
                         crs=dataset.crs, transform=dataset.transform) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        with tifffile.TiffFile(memory) as file:
            tags = {tag.code: tag.value for tag in file.pages[0].tags}
    return Georeference({code: tags[code] for code in GEO_TAGS if code in tags})
