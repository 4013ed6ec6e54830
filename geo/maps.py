"""The files of a predicted scene: class map, polygons, legend, areas, overview, probabilities."""

import collections
import csv
import math
import os
import pathlib
import sys
import tempfile
from xml.etree import ElementTree

import numpy as np
from tqdm import tqdm

from engine.files import check_name, spreadsheet_text, writing
from geo.geopackage import spatial_reference, write_geopackage
from geo.overviews import add_overviews
from geo.polygons import map_polygons
from geo.raster import open_raster, write_geotiff
from report.figures import save_png
from report.overviews import map_overview, points_overview
from weak.suggest import DISTANCE, RandomPoints

OVERVIEW_SIDE = 2000  # px, the longer side of an overview at most
NO_DATA = 255  # in class maps; 0 in probabilities, because the best class of a pixel has more
ROWS = 512  # px, read at a time when a file is split into three

# bands: (h, W, N) uint8: the class; if asked for, its probability and those of K classes, 0..255,
#     and the mutual information of an ensemble's members.
# rgb: (h', W', 3) uint8, the pixels of these rows that the overview shows.
RowBlock = collections.namedtuple("RowBlock", "bands rgb")

# min_pixels: polygons of fewer join a neighbour; simplify: px, as in polygons.map_polygons.
PolygonSettings = collections.namedtuple("PolygonSettings", "min_pixels simplify")

CONTENTS = {  # of the files of a scene, by the end of their names
    "_classes.tif": "class of every pixel, 255 is no data",
    "_classes.tif.aux.xml": "its class names, read by GDAL",
    "_classes.qml": "its legend, read by QGIS",
    "_classes.gpkg": "polygons with class, size and confidence",
    "_areas.csv": "pixels, share and area per class",
    "_overlay.png": "picture of the scene under its classes",
    "_probabilities.tif": "probability of each class, 0 to 255",
    "_probabilities.tif.aux.xml": "its band names, read by GDAL",
    "_confidence.tif": "probability of the class on the map, 1 to 255, 0 is no data",
    "_mutual_information.tif": "how far the checkpoints differ, 0 to 255 for 0 to ln K",
    "_points.csv": "pixels to label next: fill in their class",
    "_points.png": "picture of these pixels"}
MAPS = [end for end in CONTENTS if not end.startswith("_points")]  # to be replaced by a new map

# Ends of names of what GDAL, QGIS and SQLite put beside a file.
SIDECARS = (".aux.xml", ".ovr", "-journal", "-wal", "-shm")


def overview_stride(height, width):
    """Distance between the rows and columns of a scene that its overview shows, px."""
    return -(-max(height, width) // OVERVIEW_SIDE)


def check_names(scenes):
    """Refuse scenes whose maps would have the same name, or none: ValueError."""
    stems = [pathlib.Path(scene).stem for scene in scenes]
    for scene, stem in zip(scenes, stems):
        if stems.count(stem) > 1:
            raise ValueError(f"two scenes are called {stem}, and one map would overwrite the "
                             "other: give them in two calls with different --out")
        if not stem.strip("."):
            raise ValueError(f"{scene} has no name that its maps could take: rename it")
        check_name(stem, pathlib.Path(scene).parent)


def check_free(out, stem, suggest):
    """Refuse to overwrite files that this program did not write, or that were filled in since.

    Args:
        out: folder of the maps.
        stem: the scene's name.
        suggest: whether pixels to label are written, to a file that people then fill in.
    Raises:
        ValueError: there is such a file.
    """
    legend = out / f"{stem}_classes.tif.aux.xml"  # every map of ours has one, with class names
    is_ours = legend.is_file() and b"<Category>" in legend.read_bytes()
    points = out / f"{stem}_points.csv"
    for end in MAPS:
        path = out / f"{stem}{end}"
        if path.exists() and not is_ours:
            raise ValueError(f"{path} is there already and belongs to no map of this program: give "
                             "another --out")
    if suggest and points.exists():
        raise ValueError(f"{points} is there already, and may hold classes that were filled in: "
                         "move it, or give another --out")


def count_levels(meta):
    """Number of 8-bit values per pixel: K probabilities, and an ensemble's mutual information."""
    return len(meta["classes"]) + (meta.get("members", 1) > 1)


def polygon_settings(args, raster):
    """PolygonSettings for a scene; None if no polygons are asked for.

    Args:
        args: with polygons, min_area as from `engine.cli.area`, and simplify, px.
        raster: the scene, at the scale it is predicted at.
    Raises:
        ValueError: an area in m2, and it is not known how large the scene's pixels are; or the
            flags contradict one another.
    """
    area, unit = args.min_area
    if not args.polygons:
        if area or args.simplify:
            raise ValueError("--min-area and --simplify are for polygons: add --polygons")
        return None
    if unit == "px" or area == 0:
        return PolygonSettings(math.ceil(area), args.simplify)
    if not raster.gsd_m:
        raise ValueError(f"--min-area {area:g}: {raster.path} does not state the size of its "
                         "pixels on the ground: give a number of pixels, such as 20px")
    return PolygonSettings(math.ceil(area / raster.gsd_m**2), args.simplify)


def write_maps(row_blocks, raster, meta, out, probabilities=False, suggest=0, file_size=None,
               polygons=None):
    """Write all files of one scene, which take their names when all of them are complete.

    Args:
        row_blocks: iterable of RowBlock, top to bottom.
        raster: the scene, at the scale it is predicted at.
        meta: data meta of the checkpoint.
        out: folder, exists.
        probabilities: whether the row blocks hold probabilities, to be written too.
        suggest: number of pixels to suggest for labelling.
        file_size: (H, W) of the scene's file, px; None: as the scene is predicted.
        polygons: PolygonSettings, if the row blocks hold confidence and polygons are asked for.
    Returns:
        path of the class map.
    Raises:
        ValueError, OSError: the scene is damaged or without data, or a file cannot be written.
    """
    name = raster.path.stem
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as work:
        stem = f"{work}/{name}"  # as text, because a path would lose the stem "."
        summary = Summary(raster, suggest)
        write_rasters(stem, row_blocks, raster, meta, probabilities, summary, polygons is not None)
        write_legend(f"{stem}_classes.tif", meta["classes"], meta["colours"])
        write_areas(f"{stem}_areas.csv", meta["classes"], summary.counts, raster.gsd_m)
        if polygons:
            write_polygons(stem, raster, meta["classes"], polygons)
        picture = map_overview(summary.rgb, summary.classes, meta, summary.counts, raster.path.name)
        save_png(picture, f"{stem}_overlay.png")
        if suggest:
            file_size = file_size or (raster.height, raster.width)
            write_suggested(stem, summary, raster, meta, file_size)
        files = sorted(os.listdir(work))
        remove_old(out, name, files)
        for file in files:
            os.replace(pathlib.Path(work, file), pathlib.Path(out, file))
    list_files(out, name, files)
    return pathlib.Path(out, f"{name}_classes.tif")


def write_suggested(stem, summary, raster, meta, file_size):
    """Write the points to label next and their picture; the arguments are those of `write_maps`."""
    rows, cols, classes = points = summary.points.choose()
    if len(rows) < summary.points.count:
        print(f"{raster.path.name}: {len(rows)} points to label in place of {summary.points.count}, "
              f"because there is no room for more that lie {DISTANCE} px apart")
    write_points(f"{stem}_points.csv", points, raster, meta["classes"], file_size)
    stride = summary.stride
    picture = points_overview(summary.rgb, rows // stride, cols // stride, classes, meta,
                              f"{raster.path.name}: label these next")
    save_png(picture, f"{stem}_points.png")


def remove_old(out, name, files):
    """Remove what belongs to an earlier map of a scene and would not fit the new one.

    Pixels to label stay, because classes may have been filled in.

    Args:
        out: folder of the maps.
        name: the scene's.
        files: names of the files that are about to be written.
    """
    for end in MAPS:
        for beside in ("", *SIDECARS):
            path = pathlib.Path(out, f"{name}{end}{beside}")
            if path.exists() and path.name not in files:
                path.unlink()
                print(f"removed {path}: it belonged to the map before")


def list_files(out, name, files):
    """Print the files written for the scene of a name, with what each of them holds."""
    paths = [str(pathlib.Path(out, file)) for file in files]
    width = max(map(len, paths))
    for path, file in zip(paths, files):
        print(f"{path:{width}}  {CONTENTS.get(file.removeprefix(name), '')}".rstrip())


class Summary:
    """What overview, areas and points need of a scene, collected while its maps are written.

    Args:
        raster: the scene.
        suggest: number of pixels to suggest for labelling.
    Attributes:
        counts: (256,) pixels per class, and of NO_DATA.
        rgb, classes: the overview's (h, w, 3) and (h, w) uint8.
        points: suggest.RandomPoints, or None.
    """

    def __init__(self, raster, suggest=0):
        self.stride = overview_stride(raster.height, raster.width)
        self.counts = np.zeros(256, dtype=np.int64)
        self.points = RandomPoints(raster.height, raster.width, suggest) if suggest else None
        self.height = 0  # px, rows added so far
        self.parts = []  # (rgb, classes) of the overview, per row block

    def add(self, block):
        """Take a RowBlock into account, the next one below those before."""
        classes = block.bands[:, :, 0]
        self.counts += np.bincount(classes.reshape(-1), minlength=256)
        shown = classes[-self.height % self.stride::self.stride, ::self.stride]
        self.parts.append((block.rgb, shown.copy()))  # a view would keep the whole block in memory
        if self.points is not None:
            self.points.add(self.height, classes)
        self.height += len(classes)

    @property
    def rgb(self):
        """(h, w, 3) uint8, the overview of the image."""
        return np.concatenate([rgb for rgb, _ in self.parts])

    @property
    def classes(self):
        """(h, w) uint8, the overview of the classes."""
        return np.concatenate([classes for _, classes in self.parts])


def write_rasters(stem, row_blocks, raster, meta, probabilities, summary, confidence=False):
    """Write the class map and, if asked for, probabilities and confidence, all with overviews.

    The row blocks come once, but three files cannot be written side by side. Their bands are
    therefore written to one file first, which is then split.

    Args:
        stem: path that the files' names begin with.
        row_blocks, raster, meta, probabilities: as in `write_maps`.
        summary: Summary, to which all row blocks are added.
        confidence: whether the row blocks hold confidence, also without probabilities.
    Raises:
        ValueError: no pixel holds data.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:len(meta["colours"])] = meta["colours"]
    num_classes = len(meta["classes"])

    def bands_of_blocks():
        for block in row_blocks:
            summary.add(block)
            yield block.bands
        if summary.counts[:NO_DATA].sum() == 0:
            raise ValueError(f"{raster.path} holds no data at all, every pixel is NaN or nodata: "
                             "nothing to predict")

    def write(name, blocks, bands, overviews=None, **options):
        write_geotiff(f"{stem}{name}.tif", blocks, raster.height, raster.width, bands, "uint8",
                      georeference=raster.georeference, **options)
        if overviews:
            add_overviews(f"{stem}{name}.tif", overviews)

    class_options = {"overviews": "mode", "palette": palette, "nodata": NO_DATA}
    if not probabilities and not confidence:
        write("_classes", bands_of_blocks(), 1, **class_options)
        return
    end = 2 + num_classes
    write("", bands_of_blocks(), 2 + count_levels(meta) if probabilities else 2, level=1)
    with open_raster(f"{stem}.tif") as together:
        write("_classes", _split(together, "classes", 0, 1), 1, **class_options)
        write("_confidence", _split(together, "confidence", 1, 2), 1, "mean", nodata=0)
        if probabilities:
            write("_probabilities", _split(together, "probabilities", 2, end), num_classes, "mean")
        if probabilities and count_levels(meta) > num_classes:
            write("_mutual_information", _split(together, "mutual information", end, end + 1), 1,
                  "mean")
    os.remove(f"{stem}.tif")
    if probabilities:
        write_band_names(f"{stem}_probabilities.tif", meta["classes"])


def _split(raster, name, first, end):
    """Yield blocks of rows (h, W, end - first) of the bands from first to end of a raster.

    A bar with the name of what is written shows the progress, if there is a name.
    """
    rows = range(0, raster.height, ROWS)
    is_silent = None if name else True  # None: silent unless it is a terminal
    for row in tqdm(rows, f"writing {name}", unit="block", disable=is_silent, leave=False):
        height = min(ROWS, raster.height - row)
        yield raster.read(row, 0, height, raster.width)[:, :, first:end]


def write_polygons(stem, raster, names, settings):
    """Write the polygons of a class map and its confidence, which are written, as a GeoPackage.

    Args:
        stem: path that the files' names begin with.
        raster: the scene; names: K class names.
        settings: PolygonSettings.
    """
    path = f"{stem}_classes.gpkg"
    georeference = raster.georeference
    gsd_m = raster.gsd_m
    if not gsd_m:
        print(f"warning: {raster.path} does not state the size of its pixels on the ground: its "
              "polygons have a number of pixels, and no area_m2", file=sys.stderr)
    with (open_raster(f"{stem}_classes.tif") as classes,
          open_raster(f"{stem}_confidence.tif") as confidence):
        # Each block is read from both files, (h, W) and (h, W).
        blocks = zip(_split(classes, "polygons", 0, 1), _split(confidence, "", 0, 1))
        blocks = ((one[:, :, 0], other[:, :, 0]) for one, other in blocks)
        polygons = map_polygons(blocks, raster.width, *settings,
                                to_map=georeference and georeference.to_map,
                                folder=os.path.dirname(stem))
        srs = spatial_reference(georeference, f"{stem}_classes.tif")
        write_geopackage(path, polygons, names, srs, gsd_m and gsd_m**2)


def write_legend(path, names, colours):
    """Write the class names beside a class map, where GDAL and QGIS look for them.

    GDAL reads <path>.aux.xml, its "persistent auxiliary metadata". QGIS reads the style of the
    map's name, .qml.

    Args:
        path: the class map, .tif.
        names, colours: K names, K (r, g, b).
    """
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    style = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(style, "pipe")
    renderer = ElementTree.SubElement(pipe, "rasterrenderer", type="paletted", band="1",
                                      opacity="1", alphaBand="-1", nodataColor="")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(names, colours)):
        name = _printable(name)
        hex_colour = "#{:02x}{:02x}{:02x}".format(*colour)
        ElementTree.SubElement(categories, "Category").text = name
        ElementTree.SubElement(palette, "paletteEntry", value=str(value), label=name, alpha="255",
                               color=hex_colour)
    _write_xml(dataset, f"{path}.aux.xml")
    _write_xml(style, str(pathlib.Path(path).with_suffix(".qml")))


def write_band_names(path, names):
    """Write the names of a raster's bands to <path>.aux.xml, where GDAL looks for them."""
    dataset = ElementTree.Element("PAMDataset")
    for number, name in enumerate(names, 1):
        band = ElementTree.SubElement(dataset, "PAMRasterBand", band=str(number))
        ElementTree.SubElement(band, "Description").text = _printable(name)
    _write_xml(dataset, f"{path}.aux.xml")


def _printable(name):
    """A name without control characters, which XML cannot hold."""
    return "".join(character for character in name if character.isprintable())


def _write_xml(root, path):
    """Write an element as an indented file, without an XML declaration, which GDAL refuses."""
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)


def write_areas(path, names, counts, gsd_m):
    """Write pixels, share and area of each class as CSV.

    Args:
        path: the file to write.
        names: K class names.
        counts: (256,) pixels per value; NO_DATA has no part in the shares.
        gsd_m: side of a pixel, m, or None.
    """
    total = counts[:NO_DATA].sum()
    with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pixels", "share_percent"] + (["area_ha"] if gsd_m else []))
        for name, count in zip(names, counts):
            row = [spreadsheet_text(name), count, f"{100 * count / total:.3f}"]
            if gsd_m:
                row.append(f"{count * gsd_m ** 2 / 1e4:.4f}")
            writer.writerow(row)


def write_points(path, points, raster, names, file_size):
    """Write the pixels to label next as CSV, in the form that prepare_data.py --points-file reads.

    Rows and columns are of the scene as it lies in its file, x and y of the pixel's centre on the
    map, where there is one. "number" is that in the picture, "predicted" is the network's class.
    "class" is empty, to be filled in.

    Args:
        path: the file to write.
        points: rows, columns, predicted classes, (N,) each, px of `raster`.
        raster: the scene, at the scale it was predicted at.
        names: K class names.
        file_size: (H, W) of the scene's file, px.
    """
    down = file_size[0] / raster.height
    across = file_size[1] / raster.width
    georeference = raster.georeference
    map_columns = ["x", "y"] if georeference else []
    scene = spreadsheet_text(raster.path.stem)
    with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "scene", "row", "col", *map_columns, "predicted", "class"])
        for number, (row, col, k) in enumerate(np.transpose(points).tolist(), 1):
            on_map = georeference.to_map(row + 0.5, col + 0.5) if georeference else ()
            file_row = int((row + 0.5) * down)
            file_col = int((col + 0.5) * across)
            predicted = spreadsheet_text(names[k])
            writer.writerow([number, scene, file_row, file_col, *on_map, predicted, ""])
