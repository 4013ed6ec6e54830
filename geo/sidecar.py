"""Files beside a raster that state where it lies: world files, GDAL's .aux.xml, camera models."""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from engine.files import check_text_file, read_text
from geo.georeference import from_affine

UNITS = {1.0: 9001, 0.3048: 9002, 0.3048006096: 9003}  # EPSG codes by length, m


class Sidecar(NamedTuple):
    """What GDAL's NAME.aux.xml states of a raster, which need not be of all its bands."""

    georeference: object = None  # Georeference
    nodata: dict = {}  # {band: value}
    alpha: int | None = None  # the band of validity
    scales: dict = {}  # {band: (scale, offset)}
    has_control_points: bool = False


def read_sidecar(path):
    """Read NAME.aux.xml beside a raster, in which GDAL keeps what a format cannot hold.

    Returns:
        Sidecar.
    Raises:
        ValueError: the file is damaged.
    """
    beside = Path(f"{path}.aux.xml")
    if not beside.is_file():
        return Sidecar()
    try:
        check_text_file(beside)
        root = ElementTree.parse(beside).getroot()
        affine = root.findtext("GeoTransform")
        system = root.findtext("SRS") or ""
        georeference = None
        if affine:
            c, a, b, f, d, e = (float(number) for number in affine.split(","))
            georeference = from_affine((a, b, c, d, e, f), *parse_wkt(system))
            if system and parse_wkt(system)[0] is None:  # it has no EPSG code
                georeference = _georeference_by_gdal(path) or georeference
        bands = {int(band.get("band", 0)) - 1: band for band in root.findall("PAMRasterBand")}
        nodata = {number: float(band.findtext("NoDataValue")) for number, band in bands.items()
                  if band.findtext("NoDataValue")}
        alpha = [number for number, band in bands.items()
                 if band.findtext("ColorInterp") == "Alpha"]
        scales = {number: (float(band.findtext("Scale") or 1), float(band.findtext("Offset") or 0))
                  for number, band in bands.items()
                  if band.findtext("Scale") or band.findtext("Offset")}
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{beside.name} beside it is damaged: {error}") from None
    return Sidecar(georeference, nodata, alpha[0] if alpha else None, scales,
                   root.find("GCPList") is not None)


def _georeference_by_gdal(path):
    """The georeference of a raster as GDAL reads it; None without the package rasterio."""
    try:
        from geo.gdal import georeference_of
    except ImportError:
        return None
    return georeference_of(path)


def parse_wkt(text):
    """EPSG code of a coordinate system in WKT, whether it is geographic, and its map unit's code.

    Returns:
        (code or None, bool, code of `georeference.METRES` or None).
    """
    is_geographic = text.lstrip().startswith(("GEOGCS", "GEOGCRS"))
    # Of the whole system, not of one of its parts: it stands before the last bracket.
    code = re.search(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]\s*$', text)
    units = re.findall(r'(?:LENGTHUNIT|UNIT)\["[^"]*",\s*([-+.\deE]+)', text)
    unit = None
    if units and not is_geographic:
        unit = next((epsg for length, epsg in UNITS.items()
                     if abs(float(units[-1]) / length - 1) < 1e-9), None)
    return int(code[1]) if code else None, is_geographic, unit


def read_world_file(path):
    """Read the world file beside a raster: six numbers in a .tfw, .jgw, .pgw or .wld file.

    Returns:
        Georeference without a coordinate system; None without such a file.
    Raises:
        ValueError: there are not six numbers, or they make no sense.
    """
    beside = find_beside(path, world_endings(Path(path).suffix))
    if beside is None:
        return None
    try:
        words = read_text(beside).replace(",", ".").split()
        a, d, b, e, x, y = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"{beside.name} beside it is no world file of six numbers") from None
    corner = x - (a + b) / 2, y - (d + e) / 2  # the file counts from the first pixel's centre
    return from_affine((a, b, corner[0], d, e, corner[1]))


def world_endings(suffix):
    """The endings of world files of images .SUFFIX: .tif has .tfw, .tifw and .wld."""
    letters = suffix[1:]
    return (f".{letters[:1]}{letters[-1:]}w", f".{letters}w", ".wld")


def find_beside(path, endings):
    """The first file that exists with an image's name and one of these endings, in any case."""
    path = Path(path)
    for ending in endings:
        for variant in (ending, ending.lower(), ending.upper()):
            beside = path.with_suffix(variant)
            if beside.is_file() and beside != path:
                return beside
    return None


def camera_model(path):
    """The file beside an image with the rational polynomials (RPC) of its camera, or None."""
    stem = Path(path).with_suffix("")
    names = [f"{stem}.RPB", f"{stem}.rpb", f"{stem}_RPC.TXT", f"{stem}_rpc.txt"]
    return next((Path(name) for name in names if Path(name).is_file()), None)
