"""The files of a predicted scene: class map, legend, areas, overview, probabilities, points."""

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

OVERVIEW_SIDE = 2000  # px, the longer side of an overview at most
NO_DATA = 255  # in class maps; 0 in probabilities, because the best class of a pixel has more
ROWS = 512  # px, read at a time when a file is split into three

# bands: (h, W, N) uint8: the class; if asked for, its probability and those of K classes, 0..255.
# rgb: (h', W', 3) uint8, the pixels of these rows that the overview shows.
# uncertainty: (h, W) as from weak.suggest, or None.
RowBlock = collections.namedtuple("RowBlock", "bands rgb uncertainty")


def overview_stride(height, width):
    """Distance between the rows and columns of a scene that its overview shows, px."""
    return -(-max(height, width) // OVERVIEW_SIDE)


def check_free(out, stem, suggest):
    """Refuse to overwrite files that this program did not write, or that were filled in since.

    Args:
        out: folder of the maps.
        stem: the scene's name.
        suggest: whether pixels to label are written, to a file that people then fill in.
    Raises:
        ValueError: there is such a file.
    """
    classes = out / f"{stem}_classes.tif"
    legend = out / f"{stem}_classes.tif.aux.xml"  # which every map of ours has
    points = out / f"{stem}_points.csv"
    if classes.exists() and not legend.exists():
        raise ValueError(f"{classes} is there already and is no map of this program: give another "
                         "--out")
    if suggest and points.exists():
        raise ValueError(f"{points} is there already, and may hold classes that were filled in: "
                         "move it, or give another --out")


def write_maps(row_blocks, raster, meta, out, probabilities=False, suggest=0, file_size=None):
    """Write all files of one scene, which take their names when all of them are complete.

    Args:
        row_blocks: iterable of RowBlock, top to bottom.
        raster: the scene, at the scale it is predicted at.
        meta: data meta of the checkpoint.
        out: folder, exists.
        probabilities: whether the row blocks hold probabilities, to be written too.
        suggest: number of pixels to suggest for labelling.
        file_size: (H, W) of the scene's file, px; None: as the scene is predicted.
    Returns:
        path of the class map.
    Raises:
        ValueError, OSError: the scene is damaged or without data, or a file cannot be written.
    """
    name = raster.path.stem
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as work:
        stem = f"{work}/{name}"  # as text, because a path would lose the stem "."
        summary = Summary(raster, suggest)
        write_rasters(stem, row_blocks, raster, meta, probabilities, summary)
        write_legend(f"{stem}_classes.tif", meta["classes"], meta["colours"])
        write_areas(f"{stem}_areas.csv", meta["classes"], summary.counts, raster.gsd_m)
        save_png(overview(summary, raster, meta), f"{stem}_overlay.png")
        if suggest:
            points = summary.candidates.choose(suggest)
            file_size = file_size or (raster.height, raster.width)
            write_points(f"{stem}_points.csv", points, raster, meta["classes"], file_size)
            save_png(points_overview(points, summary.rgb, raster, meta), f"{stem}_points.png")
        files = sorted(os.listdir(work))
        for file in files:
            os.replace(pathlib.Path(work, file), pathlib.Path(out, file))
    print(*(pathlib.Path(out, file) for file in files), sep="\n")
    return pathlib.Path(out, f"{name}_classes.tif")


class Summary:
    """What overview, areas and points need of a scene, collected while its maps are written.

    Args:
        raster: the scene.
        suggest: number of pixels to suggest for labelling.
    Attributes:
        counts: (256,) pixels per class, and of NO_DATA.
        rgb, classes: the overview's (h, w, 3) and (h, w) uint8.
        candidates: suggest.Candidates, or None.
    """

    def __init__(self, raster, suggest=0):
        self.stride = overview_stride(raster.height, raster.width)
        self.counts = np.zeros(256, dtype=np.int64)
        self.candidates = Candidates(raster.height, raster.width) if suggest else None
        self.height = 0  # px, rows added so far
        self.parts = []  # (rgb, classes) of the overview, per row block

    def add(self, block):
        """Take a RowBlock into account, the next one below those before."""
        classes = block.bands[:, :, 0]
        self.counts += np.bincount(classes.reshape(-1), minlength=256)
        shown = classes[-self.height % self.stride::self.stride, ::self.stride]
        self.parts.append((block.rgb, shown.copy()))  # a view would keep the whole block in memory
        if self.candidates is not None:
            self.candidates.add(self.height, block.uncertainty, classes)
        self.height += len(classes)

    @property
    def rgb(self):
        """(h, w, 3) uint8, the overview of the image."""
        return np.concatenate([rgb for rgb, _ in self.parts])

    @property
    def classes(self):
        """(h, w) uint8, the overview of the classes."""
        return np.concatenate([classes for _, classes in self.parts])


def write_rasters(stem, row_blocks, raster, meta, probabilities, summary):
    """Write the class map and, if asked for, probabilities and confidence.

    The row blocks come once, but three files cannot be written side by side. Their bands are
    therefore written to one file first, which is then split.

    Args:
        stem: path that the files' names begin with.
        row_blocks, raster, meta, probabilities: as in `write_maps`.
        summary: Summary, to which all row blocks are added.
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

    def write(name, blocks, bands, **options):
        write_geotiff(f"{stem}{name}.tif", blocks, raster.height, raster.width, bands, "uint8",
                      georeference=raster.georeference, **options)

    if not probabilities:
        write("_classes", bands_of_blocks(), 1, palette=palette, nodata=NO_DATA)
        return
    write("", bands_of_blocks(), 2 + num_classes, level=1)
    with open_raster(f"{stem}.tif") as together:
        write("_classes", _split(together, "classes", 0, 1), 1, palette=palette, nodata=NO_DATA)
        write("_confidence", _split(together, "confidence", 1, 2), 1, nodata=0)
        write("_probabilities", _split(together, "probabilities", 2, 2 + num_classes), num_classes)
    os.remove(f"{stem}.tif")
    write_band_names(f"{stem}_probabilities.tif", meta["classes"])


def _split(raster, name, first, end):
    """Yield blocks of rows (h, W, end - first) of the bands from first to end of a raster."""
    rows = range(0, raster.height, ROWS)
    for row in tqdm(rows, f"writing {name}", unit="block", disable=None, leave=False):
        height = min(ROWS, raster.height - row)
        yield raster.read(row, 0, height, raster.width)[:, :, first:end]


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
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "pixels", "share_percent"] + (["area_ha"] if gsd_m else []))
        for name, count in zip(names, counts):
            row = [name, count, f"{100 * count / total:.3f}"]
            if gsd_m:
                row.append(f"{count * gsd_m ** 2 / 1e4:.4f}")
            writer.writerow(row)


def overview(summary, raster, meta):
    """The scene under its classes, with a legend of the classes found and their shares.

    Args:
        summary: Summary of the whole scene.
        raster: the scene; meta: data meta of the checkpoint.
    Returns:
        PIL.Image.
    """
    total = summary.counts[:NO_DATA].sum()
    entries = []
    for name, colour, count in zip(meta["classes"], meta["colours"], summary.counts):
        if count:
            entries.append((name, colour, f"{100 * count / total:.1f} %"))
    image = overlay(summary.rgb, summary.classes, meta["colours"])
    return with_legend(image, entries, raster.path.name)


def write_points(path, points, raster, names, file_size):
    """Write the pixels to label next as CSV, in the form that prepare_data.py --points-file reads.

    Rows and columns are of the scene as it lies in its file, x and y of the pixel's centre on the
    map, where there is one. "predicted" is the network's class. "class" is empty, to be filled in.

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
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["scene", "row", "col", *map_columns, "predicted", "class"])
        for row, col, k in np.transpose(points).tolist():
            on_map = georeference.to_map(row + 0.5, col + 0.5) if georeference else ()
            file_row = int((row + 0.5) * down)
            file_col = int((col + 0.5) * across)
            writer.writerow([raster.path.stem, file_row, file_col, *on_map, names[k], ""])


def points_overview(points, rgb, raster, meta):
    """The scene with the pixels to label next as discs in the colour of the class predicted.

    Args:
        points: as in `write_points`.
        rgb: (h, w, 3) uint8, the overview of the scene.
        raster: the scene; meta: data meta of the checkpoint.
    Returns:
        PIL.Image with a legend of the classes.
    """
    rows, cols, classes = points
    stride = overview_stride(raster.height, raster.width)
    labels = np.full(rgb.shape[:2], NO_DATA, dtype=np.uint8)
    labels[rows // stride, cols // stride] = classes
    entries = []
    for k in np.unique(classes):
        entries.append((meta["classes"][k], meta["colours"][k], str((classes == k).sum())))
    image = draw_points(rgb, labels, meta["colours"], size=max(3, max(rgb.shape) // 200))
    return with_legend(image, entries, f"{raster.path.name}: label these next")
