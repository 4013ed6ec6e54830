"""What a TIFF's tags state of its bands, by the TIFF standard and by GDAL's conventions."""

from xml.etree import ElementTree

import numpy as np

PLACED_OTHERWISE = "is placed by {}, which are not read: warp it first, such as with gdalwarp"


def alpha_band(page):
    """The band of a page that is alpha, by its ExtraSamples; None without one."""
    kinds = list(page.extrasamples)
    for number, kind in enumerate(kinds):
        if kind in (1, 2):  # associated, unassociated
            return page.samplesperpixel - len(kinds) + number
    return None


def parse_metadata(text, bands, alpha):
    """(scale, offset) per band, or None, and the alpha band, from GDAL's metadata.

    Args:
        text: XML, or None.
        bands: C.
        alpha: the alpha band by its ExtraSamples; a colour interpretation in the XML comes first.
    """
    pairs = [[1.0, 0.0] for _ in range(bands)]
    for item in ElementTree.fromstring(text.strip("\0 \n")) if text else ():
        role = item.get("role")
        band = int(item.get("sample", bands))
        if band >= bands:
            continue  # of the whole image
        if role in ("scale", "offset"):
            pairs[band][role == "offset"] = float(item.text)
        elif role == "colorinterp":
            is_alpha = (item.text or "").lower() == "alpha"
            if is_alpha or band == alpha:
                alpha = band if is_alpha else None
    scales = tuple(map(tuple, pairs))
    return (scales if scales != ((1.0, 0.0),) * bands else None), alpha


def parse_nodata(text, dtype):
    """GDAL's nodata as a float; None if there is none, or one that no pixel of dtype can have."""
    try:
        value = float(text)
        with np.errstate(over="ignore"):
            stored = float(dtype.type(value if dtype.kind == "f" else int(value)))
    except (TypeError, ValueError, OverflowError):
        return None
    return stored if dtype.kind == "f" or stored == value else None
