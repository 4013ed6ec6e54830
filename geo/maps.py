"""From the predicted strips of a scene to its files: class map, legend, areas, overview, probabilities, points."""

import collections
import csv
import os
import pathlib
import tempfile
from xml.etree import ElementTree

import numpy as np
from tqdm import tqdm

from geo.raster import open_raster, write_geotiff
from report.figures import draw_points, overlay, save_png, with_legend
from weak.suggest import Candidates

OVERVIEW_SIDE = 2000  # px, most of an overview's side
NO_DATA = 255  # in class maps; no data in probabilities and confidence is 0, which no pixel's best class can have
ROWS = 512  # px, read at a time of a file that is taken apart

# layers: (h, W, N) uint8, the class; and if asked for its probability and those of all K classes, 0..255.
# rgb: (h', W', 3) uint8, every so many-th row and column of the image. doubt: (h, W) as in `suggest`, or None.
RowBlock = collections.namedtuple("RowBlock", "layers rgb doubt")


def overview_stride(height, width):
    """Of a scene of this size, px, the overview shows each so many-th row and column."""
    return -(-max(height, width) // OVERVIEW_SIDE)


def write_maps(strips, raster, meta, out, probabilities=False, suggest=0, file_size=None):
    """Write all files of one scene: under their names when all of them are whole, none before.

    Args:
        strips: iterable of RowBlock, top to bottom.
        raster: the scene, at the scale it is predicted at.
        meta: data meta of the checkpoint.
        out: folder, exists.
        probabilities: whether the strips hold them, to be written too.
        suggest: how many pixels to name that would best be labelled next.
        file_size: (H, W) of the scene's file, px; not given: as the scene is predicted.
    Returns:
        path of the class map.
    Raises:
        ValueError, OSError: the scene is damaged or holds no data, or a file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=f".{raster.path.stem}-", dir=out) as work:
        stem = f"{work}/{raster.path.stem}"  # as text, for a path would lose the stem "."
        candidates = Candidates(raster.height, raster.width) if suggest else None
        counts, rgb, classes = write_rasters(stem, strips, raster, meta, probabilities, candidates)
        write_legend(f"{stem}_classes.tif", meta["classes"], meta["colours"])
        write_areas(f"{stem}_areas.csv", meta["classes"], counts, raster.georeference and raster.georeference.gsd_m)
        entries = [(name, colour, f"{100 * count / counts[:NO_DATA].sum():.1f} %")
                   for name, colour, count in zip(meta["classes"], meta["colours"], counts) if count]
        save_png(with_legend(overlay(rgb, classes, meta["colours"]), entries, raster.path.name), f"{stem}_overlay.png")
        if suggest:
            points = candidates.choose(suggest)
            write_points(f"{stem}_points.csv", points, raster, meta["classes"], file_size or (raster.height, raster.width))
            save_png(points_overview(points, rgb, raster, meta), f"{stem}_points.png")
        names = sorted(os.listdir(work))
        for name in names:
            os.replace(pathlib.Path(work, name), pathlib.Path(out, name))
    print(*(pathlib.Path(out, name) for name in names), sep="\n")
    return pathlib.Path(out, f"{raster.path.stem}_classes.tif")


def write_rasters(stem, strips, raster, meta, probabilities, candidates):
    """Write the class map and, if asked for, probabilities and confidence; keep what the other files need.

    Three files cannot be written from one stream of strips; so they are written as the bands of one, and then apart.

    Args:
        stem: path that the files' names begin with.
        strips, raster, meta, probabilities: as in `write_maps`.
        candidates: suggest.Candidates that see every strip, or None.
    Returns:
        (256,) pixels per class; the overview's (h, w, 3) uint8 of the image and (h, w) classes.
    Raises:
        ValueError: no pixel holds data.
    """
    counts, small_rgb, small_classes = np.zeros(256, dtype=np.int64), [], []
    every = overview_stride(raster.height, raster.width)

    def layers():
        top = 0
        for strip in strips:
            classes = strip.layers[:, :, 0]
            counts[:] += np.bincount(classes.reshape(-1), minlength=256)
            small_rgb.append(strip.rgb)
            small_classes.append(classes[-top % every::every, ::every].copy())  # a view would keep the strip, and so the scene
            if candidates is not None:
                candidates.add(top, strip.doubt, classes)
            top += len(classes)
            yield strip.layers
        if counts[:NO_DATA].sum() == 0:
            raise ValueError(f"{raster.path} holds no data at all, every pixel is NaN or nodata: nothing to predict")

    def write(path, strips, bands, **options):
        write_geotiff(path, strips, raster.height, raster.width, bands, "uint8", georeference=raster.georeference,
                      **options)

    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:len(meta["colours"])] = meta["colours"]
    if not probabilities:
        write(f"{stem}_classes.tif", layers(), 1, palette=palette, nodata=NO_DATA)
        return counts, np.concatenate(small_rgb), np.concatenate(small_classes)
    count, together = len(meta["classes"]), f"{stem}.tif"
    write(together, layers(), 2 + count, level=1)
    with open_raster(together) as bands:
        for name, first, end, options in [("classes", 0, 1, {"palette": palette, "nodata": NO_DATA}),
                                          ("confidence", 1, 2, {"nodata": 0}), ("probabilities", 2, 2 + count, {})]:
            rows = tqdm(range(0, raster.height, ROWS), f"writing {name}", unit="strip", disable=None, leave=False)
            parts = (bands.read(row, 0, min(ROWS, raster.height - row), raster.width)[:, :, first:end] for row in rows)
            write(f"{stem}_{name}.tif", parts, end - first, **options)
    os.remove(together)
    write_band_names(f"{stem}_probabilities.tif", meta["classes"])
    return counts, np.concatenate(small_rgb), np.concatenate(small_classes)


def write_legend(path, names, colours):
    """Write the class names beside a class map where GDAL and QGIS look for them, so that its legend appears.

    GDAL reads them from <path>.aux.xml, its "persistent auxiliary metadata"; QGIS takes the style of the same name.

    Args:
        path: the class map, .tif.
        names, colours: K names, K (r, g, b).
    """
    dataset = ElementTree.Element("PAMDataset")
    categories = ElementTree.SubElement(ElementTree.SubElement(dataset, "PAMRasterBand", band="1"), "CategoryNames")
    style = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(style, "pipe")
    renderer = ElementTree.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1",
                                      nodataColor="")
    entries = ElementTree.SubElement(renderer, "colorPalette")
    for value, (name, colour) in enumerate(zip(map(_printable, names), colours)):
        ElementTree.SubElement(categories, "Category").text = name
        ElementTree.SubElement(entries, "paletteEntry", value=str(value), label=name, alpha="255",
                               color="#{:02x}{:02x}{:02x}".format(*colour))
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
    """An element as an indented file, markup in names escaped; GDAL reads nothing that begins with a declaration."""
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)


def write_areas(path, names, counts, gsd_m):
    """Write pixels, share and area of each class as CSV.

    Args:
        path: where to.
        names: K class names.
        counts: (256,) pixels per value; NO_DATA is not counted in the shares.
        gsd_m: side of a pixel, m, or None.
    """
    total = counts[:NO_DATA].sum()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pixels", "share_percent"] + (["area_ha"] if gsd_m else []))
        for name, count in zip(names, counts):
            area = [f"{count * gsd_m ** 2 / 1e4:.4f}"] if gsd_m else []
            writer.writerow([name, count, f"{100 * count / total:.3f}"] + area)


def write_points(path, points, raster, names, file_size):
    """Write the pixels to label next as CSV, in the form that prepare_data.py --points-file reads.

    Rows and columns are of the scene as it lies in its file, x and y of the pixel's centre on the map, where there is
    one. The column "class" is empty: what the network predicts stands beside it, a person says what is there.

    Args:
        path: where to.
        points: rows, columns, predicted classes, (N,) each, px of `raster`.
        raster: the scene, at the scale it was predicted at.
        names: K class names.
        file_size: (H, W) of the scene's file, px.
    """
    down, across = file_size[0] / raster.height, file_size[1] / raster.width
    place = raster.georeference
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["scene", "row", "col"] + (["x", "y"] if place else []) + ["predicted", "class"])
        for row, col, k in np.transpose(points).tolist():
            on_map = place.to_map(row + 0.5, col + 0.5) if place else ()
            in_file = int((row + 0.5) * down), int((col + 0.5) * across)
            writer.writerow([raster.path.stem, *in_file, *on_map, names[k], ""])


def points_overview(points, rgb, raster, meta):
    """The scene with the pixels to label next as discs of the class that is predicted there.

    Args:
        points: as in `write_points`.
        rgb: (h, w, 3) uint8, each so many-th row and column of the scene.
        raster: the scene; meta: data meta of the checkpoint.
    Returns:
        PIL.Image with a legend of the classes.
    """
    rows, cols, classes = points
    every = overview_stride(raster.height, raster.width)
    labels = np.full(rgb.shape[:2], NO_DATA, dtype=np.uint8)
    labels[rows // every, cols // every] = classes
    entries = [(meta["classes"][k], meta["colours"][k], str((classes == k).sum())) for k in np.unique(classes)]
    shown = draw_points(rgb, labels, meta["colours"], size=max(3, max(rgb.shape) // 200))
    return with_legend(shown, entries, f"{raster.path.name}: label these next")
