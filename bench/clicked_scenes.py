"""Scenes whose labels are known, and clicks drawn from these labels: the input of bench/clicks.py.

FOLDER has these subfolders, as they were published:

dubai           Tile 8/images/image_part_005.jpg and its mask (Humans in the Loop, MBRSC)
dunes           images, masks: see bench/pretrained.py; two strips of tiles, one below the other
rachel_carson   eight bands of a Sentinel-2 scene, and 598 px that were labelled by hand as polygons
                (open-geo-tutorial)
zurich          images/13.tif, gt/13.tif: a scene of the Zurich Summer data set

Clicks are drawn from the mask: five of each class, then uniformly over all labelled pixels, each at
least 8 px from all others. They are written as a GeoPackage in degrees, or as a CSV of pixels where
the scene has no place. Classes of at most 0.1 % of the labels are left out. Of the Rachel Carson
scene half of the polygons of each class are drawn, rounded up.
"""

import contextlib
import pathlib
import shutil
import sqlite3
import struct

import numpy as np
from experiments import ROOT, read_csv
from PIL import Image
from pretrained import DUNES, write_csv

from geo.crs import WGS84, convert, crs_of
from geo.geopackage import SETTINGS, TABLES, WGS_84, write_geopackage
from geo.polygons import map_polygons
from geo.raster import open_raster, write_geotiff
from sources.geometry import polygon_runs, spread
from sources.public import DUBAI

NO_LABEL = 255
CLICKED = ("dubai", "zurich", "dunes-north", "dunes-south")
POLYGONS = ("rachel",)  # scenes labelled by polygons, half of which are drawn
SCENES = CLICKED + POLYGONS
STRIPS = {"dunes-north": ("x15808", range(9728, 12161, 608)),
          "dunes-south": ("x13984", range(27968, 31009, 608))}  # offsets in the mosaic, px
ZURICH = {"water": (0, 0, 150), "building": (100, 100, 100), "background": (255, 255, 255),
          "road": (0, 0, 0), "tree": (0, 125, 0), "grass": (0, 255, 0)}
RACHEL = ("emergent wetland", "forested wetland", "herbaceous", "sand", "subtidal haline",
          "wet sand")  # ids from 1 on
RARE = 1e-3  # share of the labels up to which a class is left out
EACH = 5  # clicks of each class before others are drawn
APART = 8  # px, between two clicks


# Scenes

def make_scene(name, source):
    """Write a scene as data/clicks/NAME/scene.tif with truth.tif and classes.csv, unless it exists.

    Class indices follow the alphabet, as prepare_data.py numbers the names in a file of points.

    Args:
        name: one of SCENES.
        source: folder of the published images.
    """
    folder = ROOT / "data" / "clicks" / name
    if (folder / "classes.csv").exists():
        return
    if source is None:
        raise ValueError(f"{folder} is missing: give --source FOLDER, with the published images")
    read = {"dubai": read_dubai, "zurich": read_zurich, "rachel": read_rachel}
    source = pathlib.Path(source)
    image, labels, names, place = (read[name](source) if name in read
                                   else read_dunes(source, *STRIPS[name]))
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(names))
    classes = sorted(name for name, count in zip(names, counts) if count > RARE * counts.sum())
    index_of = np.full(256, NO_LABEL, np.uint8)
    index_of[:len(names)] = [classes.index(name) if name in classes else NO_LABEL for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    height, width, bands = image.shape
    write_geotiff(folder / "scene.tif", [image], height, width, bands, image.dtype,
                  georeference=place)
    write_geotiff(folder / "truth.tif", [index_of[labels]], height, width, 1, "uint8",
                  nodata=NO_LABEL, georeference=place)
    write_csv(folder / "classes.csv", ["id", "name"], enumerate(classes))


def read_dubai(source):
    """Image (H, W, 3) and labels (H, W) of Dubai at half scale, K names, no place."""
    tile = source / "dubai" / "Tile 8"
    image = Image.open(tile / "images" / "image_part_005.jpg").convert("RGB").reduce(2)
    mask = np.asarray(Image.open(tile / "masks" / "image_part_005.png").convert("RGB"))
    colours = {row.name: row.rgb for row in DUBAI if row.name != "ignore"}
    return np.asarray(image), labels_of_colours(mask[::2, ::2], colours), list(colours), None


def labels_of_colours(mask, colours):
    """(H, W) uint8 indices of the colours of a mask (H, W, 3); NO_LABEL for all others."""
    labels = np.full(mask.shape[:2], NO_LABEL, np.uint8)
    for index, colour in enumerate(colours.values()):
        labels[(mask == colour).all(axis=2)] = index
    return labels


def read_zurich(source):
    """Image (H, W, 4) and labels (H, W) of the Zurich scene, K names, and its Georeference."""
    image, place = read_raster(source / "zurich" / "images" / "13.tif")
    mask, _ = read_raster(source / "zurich" / "gt" / "13.tif")
    return image, labels_of_colours(mask, ZURICH), list(ZURICH), place


def read_raster(path):
    """The pixels (H, W, C) of a raster, and its Georeference."""
    with open_raster(path) as raster:
        return raster.read(0, 0, raster.height, raster.width), raster.georeference


def read_dunes(source, column, rows):
    """Image (H, W, 3) and labels (H, W) of a strip of tiles at half scale, K names, no place."""
    images, masks = [], []
    for row in rows:
        tile = f"{column}_y{row:05d}"
        images.append(Image.open(source / "dunes" / "images" / f"{tile}.jpg").reduce(2))
        masks.append(np.asarray(Image.open(source / "dunes" / "masks" / f"{tile}.png"))[::2, ::2])
    names = sorted(set(DUNES.values()))
    merged = np.full(256, NO_LABEL, np.uint8)
    merged[1:len(DUNES) + 1] = [names.index(name) for name in DUNES.values()]
    return np.concatenate(images), merged[np.concatenate(masks)], names, None


def read_rachel(source):
    """Image (H, W, 8) and labels (H, W) of the Rachel Carson scene, K names, its Georeference."""
    folder = source / "rachel_carson"
    bands, places = zip(*map(read_raster, sorted(folder.glob("*_B*.tiff"))))
    ids, _ = read_raster(folder / "rcr_landcover_rasterized.tif")
    labels = ids[:, :, 0].astype(np.uint8) - np.uint8(1)  # 0, no label, becomes 255
    return np.concatenate(bands, axis=2), labels, list(RACHEL), places[0]


def read_scene(scene):
    """Image (H, W, C), labels (H, W), K names and Georeference or None of a scene made here."""
    folder = ROOT / "data" / "clicks" / scene
    image, place = read_raster(folder / "scene.tif")
    labels = read_raster(folder / "truth.tif")[0][:, :, 0]
    names = [row["name"] for row in read_csv(folder / "classes.csv")]
    return image, labels, names, place


# Clicks

def click(folder, labels, names, place, count, draw):
    """Draw clicks, or polygons without a count, and write them to an empty folder.

    Returns:
        path of the file; and (N, 2) rows and columns of the labelled pixels, px.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if count is None:
        return write_polygons(folder, labels, names, place, draw)
    clicked = draw_clicks(labels, count, draw)
    return write_clicks(folder, labels, names, place, clicked), clicked


def draw_clicks(labels, count, seed):
    """Draw pixels to click: EACH of every class, then any that is labelled, all of them apart.

    Args:
        labels: (H, W) uint8.
        count: how many; there are fewer if no more have room.
        seed: of the draw.
    Returns:
        (N, 2) rows and columns, px.
    """
    places = np.random.default_rng(seed).permutation(np.argwhere(labels != NO_LABEL))
    classes = labels[tuple(places.T)]
    free = np.ones(labels.shape, bool)
    chosen = []

    def take(candidates, most):
        for row, col in candidates:
            if len(chosen) == most:
                return
            if free[row, col]:
                chosen.append((row, col))
                top, left = max(0, row - APART), max(0, col - APART)
                free[top:row + APART + 1, left:col + APART + 1] = False

    for k in np.unique(classes):
        take(places[classes == k], len(chosen) + EACH)
    take(places, count)
    return np.array(chosen)


def write_clicks(folder, labels, names, place, clicks):
    """Write clicks as clicks.gpkg in degrees, or as clicks.csv in pixels without a place.

    Args:
        folder: Path.
        labels: (H, W); names: K; place: Georeference or None.
        clicks: (N, 2) rows and columns, px.
    Returns:
        path of the file.
    """
    classes = [names[index] for index in labels[tuple(clicks.T)]]
    if place is None:
        rows = [("scene", row, col, name) for (row, col), name in zip(clicks, classes)]
        write_csv(folder / "clicks.csv", ["scene", "row", "col", "class"], rows)
        return folder / "clicks.csv"
    x, y = place.to_map(*(clicks.T + 0.5))
    lon, lat = convert(x, y, crs_of(place), WGS84)
    path = folder / "clicks.gpkg"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(SETTINGS + TABLES + "CREATE TABLE clicks (fid INTEGER PRIMARY KEY, "
                           "geom POINT, class TEXT);")
        file.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", WGS_84)
        file.execute("INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) "
                     "VALUES ('clicks', 'features', 'clicks', 4326)")
        file.execute("INSERT INTO gpkg_geometry_columns VALUES "
                     "('clicks', 'geom', 'POINT', 4326, 0, 0)")
        points = [struct.pack("<2sBBiBI2d", b"GP", 0, 1, 4326, 1, 1, *position)
                  for position in zip(lon, lat)]
        file.executemany("INSERT INTO clicks (geom, class) VALUES (?, ?)", zip(points, classes))
    return path


def write_polygons(folder, labels, names, place, seed):
    """Write half of the polygons of each class, rounded up, as clicks.gpkg in degrees.

    Args:
        folder, labels, names, place: as for `write_clicks`.
        seed: of the draw.
    Returns:
        path of the file; and (N, 2) rows and columns of the polygons' pixels, px.
    """
    polygons = list(map_polygons([(labels, None)], labels.shape[1]))
    order = np.random.default_rng(seed).permutation(len(polygons))
    classes = np.array([polygons[number].class_id for number in order])
    drawn = []
    pixels = []
    for k in np.unique(classes):
        of_class = order[classes == k]
        for polygon in (polygons[number] for number in of_class[:-(-len(of_class) // 2)]):
            corners = [ring[:, ::-1] * (-1, 1) for ring in polygon.rings]  # rows, columns
            rows, starts, ends = polygon_runs(corners, *labels.shape)
            cols, runs = spread(starts, ends)
            pixels.append(np.stack([rows[runs], cols], axis=1))
            rings = [np.stack(place.to_map(*ring.T), axis=1) for ring in corners]
            drawn.append(polygon._replace(rings=rings))
    path = folder / "clicks.gpkg"
    path.unlink(missing_ok=True)
    write_geopackage(path, drawn, names, WGS_84)
    return path, np.concatenate(pixels)
