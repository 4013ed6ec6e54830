"""Forty inputs that people have, and what happens to each: makes small files and runs the commands.

    python bench/inputs.py              prints the table
    python bench/inputs.py --write      writes it to docs/data.md

Every scene shows soil on its left and wood on its right. Where a command reads the input, its
labels are compared with that, pixel by pixel.
"""

import argparse
import contextlib
import csv
import io
import json
import pathlib
import re
import sqlite3
import struct
import tempfile

import numpy as np
import tifffile
from experiments import ROOT
from PIL import Image

import predict
import prepare_data
import train
from engine.prepared import SPLITS
from geo.crs import convert
from geo.georeference import Georeference
from geo.raster import write_geotiff

PAGE = ROOT / "docs" / "data.md"
START = "<!-- bench/inputs.py starts -->\n"
END = "<!-- bench/inputs.py ends -->"
SIDE = 64  # px, of a scene
LEFT, TOP = 500000.0, 5400000.0  # its corner in UTM zone 32
COLOURS = np.array([(200, 150, 100), (0, 100, 0)], np.uint8)
POINTS = [(row, col) for row in range(4, SIDE, 9) for col in (5, 20, 40, 60)]  # clicked pixels
CLASSES = "id,name,r,g,b\n0,soil,200,150,100\n1,wood,0,100,0\n"
TRUTH = np.zeros((SIDE, SIDE), np.uint8)
TRUTH[:, SIDE // 2:] = 1
HIDDEN = np.full((SIDE, SIDE), 255, np.uint8)
HIDDEN[:16] = 0  # rows that a mask hides
ROWS = []  # (kind, title, maker)


def row(kind, title):
    """Put a function into the table. It makes files in a folder and returns the words to type.

    It may also return what labels are right, (H, W), instead of all of TRUTH or its clicked pixels.
    """
    def add(maker):
        ROWS.append((kind, title, maker))
        return maker
    return add


def position(x=LEFT, gsd=1.0, code=32632, y=TOP):
    """Georeference of a scene's top left corner; in degrees for code 4326."""
    model, key = (2, 2048) if code == 4326 else (1, 3072)
    return Georeference({33550: (gsd, gsd, 0.0), 33922: (0.0, 0.0, 0.0, x, y, 0.0),
                         34735: (1, 1, 0, 2, 1024, 0, 1, model, key, 0, 1, code)})


def picture(bands=3, dtype="uint8"):
    """(H, W, C) of a scene: dark on the left, bright on the right, with noise."""
    noise = np.random.default_rng(0).integers(-20, 20, (SIDE, SIDE, bands))
    return (np.where(TRUTH, 170, 60)[:, :, None] + noise).astype(dtype)


def scene(folder, name="images/s.tif", pixels=None, place=position(), **how):
    """Write a scene as a GeoTIFF."""
    pixels = picture() if pixels is None else pixels
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_geotiff(path, [pixels], *pixels.shape, pixels.dtype, georeference=place, **how)


def image(folder, name, pixels, mode=None, **how):
    """Write an image with Pillow."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **how)


def pages(folder, name, arrays, masks=(), **how):
    """Write the pages of a TIFF, those of `masks` as masks of the others."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for array in arrays:
            file.write(array, metadata=None, **{"photometric": "minisblack", **how})
        for array in masks:
            file.write(array > 0, subfiletype=4, photometric="mask", metadata=None)


def with_masks(folder, *words, hidden=False):
    """The words of a command that reads masks; what is right where some rows are hidden."""
    write(folder, "classes.csv", CLASSES)
    right = TRUTH.copy()
    if hidden:
        right[HIDDEN == 0] = 255
    return ["folder", "--images", "images", "--masks", "masks", "--classes", "classes.csv",
            *words], right


def with_points(*words):
    """The words of a command that reads points; what is right at them."""
    right = np.full((SIDE, SIDE), 255, np.uint8)
    for place in POINTS:
        right[place] = TRUTH[place]
    return ["points", "images", *words], right


def write(folder, name, text, **how):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, newline="", **{"encoding": "utf-8", **how})


def clicks(code=32632):
    """[(x, y, class name)] of the clicked pixels' centres in a coordinate system."""
    rows, cols = np.array(POINTS, float).T + 0.5
    x, y = convert(LEFT + cols, TOP - rows, "EPSG:32632", f"EPSG:{code}")
    names = [("soil", "wood")[TRUTH[place]] for place in POINTS]
    return list(zip(np.round(x, 9).tolist(), np.round(y, 9).tolist(), names))


def geojson(geometries, property_name="class", **members):
    """Text of a GeoJSON of [(geometry, class name)]."""
    features = [{"type": "Feature", "properties": {property_name: name}, "geometry": geometry}
                for geometry, name in geometries]
    return json.dumps({"type": "FeatureCollection", **members, "features": features})


def geojson_points(code=4326, **members):
    return geojson([({"type": "Point", "coordinates": [x, y]}, name)
                    for x, y, name in clicks(code)], **members)


# Masks


@row("mask", "PNG of ids")
def mask_of_ids(folder):
    scene(folder)
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder)


@row("mask", "palette PNG, ids in classes.csv")
def mask_of_palette(folder):
    scene(folder)
    picture = Image.fromarray(TRUTH, "P")
    picture.putpalette(COLOURS.tobytes())
    (folder / "masks").mkdir()
    picture.save(folder / "masks/s.png")
    return with_masks(folder)


@row("mask", "PNG of the classes' colours")
def mask_of_colours(folder):
    scene(folder)
    image(folder, "masks/s.png", COLOURS[TRUTH])
    return with_masks(folder)


@row("mask", "PNG of colours, and no classes.csv")
def mask_without_classes(folder):
    scene(folder)
    image(folder, "masks/s.png", COLOURS[TRUTH])
    words, right = with_masks(folder)
    return words[:-2], right


@row("mask", "ids saved as grey RGB")
def mask_of_grey(folder):
    scene(folder)
    image(folder, "masks/s.png", TRUTH[:, :, None].repeat(3, 2))
    return with_masks(folder)


@row("mask", "colours blurred by JPEG")
def mask_of_blurred_colours(folder):
    scene(folder)
    image(folder, "masks/s.jpg", COLOURS[TRUTH], quality=90)
    return with_masks(folder)


@row("mask", "0 and 255 blurred by JPEG")
def mask_of_jpeg(folder):
    scene(folder)
    image(folder, "masks/s.jpg", (np.hypot(*np.indices(TRUTH.shape) - 30) < 20) * np.uint8(255))
    words, right = with_masks(folder)
    write(folder, "classes.csv", "id,name\n0,soil\n255,wood\n")
    return words, right


@row("mask", "the same, with `--threshold 127`")
def mask_with_threshold(folder):
    words, _ = mask_of_jpeg(folder)
    disc = np.hypot(*np.indices(TRUTH.shape) - 30) < 20
    return [*words, "--threshold", "127"], disc.astype(np.uint8)


@row("mask", "grey or coloured PNG with transparent parts")
def mask_of_alpha(folder):
    scene(folder)
    image(folder, "masks/s.png", np.dstack([COLOURS[TRUTH], HIDDEN]), "RGBA")
    return with_masks(folder, hidden=True)


@row("mask", "GeoTIFF with an internal mask")
def mask_of_internal_mask(folder):
    scene(folder)
    pages(folder, "masks/s.tif", [TRUTH], [HIDDEN])
    return with_masks(folder, hidden=True)


@row("mask", "GeoTIFF with a mask in a file beside it, `.msk`")
def mask_with_msk(folder):
    scene(folder)
    pages(folder, "masks/s.tif", [TRUTH])
    pages(folder, "masks/s.tif.msk", [HIDDEN])
    return with_masks(folder, hidden=True)


@row("mask", "GeoTIFF whose nodata value is a class")
def mask_of_nodata(folder):
    scene(folder)
    scene(folder, "masks/s.tif", TRUTH[:, :, None], nodata=0)
    return with_masks(folder)


@row("mask", "one page per class (one-hot)")
def mask_of_pages(folder):
    scene(folder)
    pages(folder, "masks/s.tif", [(TRUTH == 0).astype(np.uint8), TRUTH])
    return with_masks(folder)


@row("mask", "another size than the image")
def mask_of_another_size(folder):
    scene(folder)
    image(folder, "masks/s.png", TRUTH[::2, ::2])
    return with_masks(folder)


@row("mask", "shifted by half a scene on the map")
def mask_that_is_shifted(folder):
    scene(folder)
    scene(folder, "masks/s.tif", TRUTH[:, :, None], position(LEFT + 32))
    return with_masks(folder)


@row("names", "s_sat.png and s_mask.png in one folder")
def names_in_one_folder(folder):
    for name in "st":
        image(folder, f"images/{name}_sat.png", picture())
        image(folder, f"images/{name}_mask.png", TRUTH)
    words, right = with_masks(folder)
    words[words.index("masks")] = "images"
    return words, right


@row("names", "top_potsdam_2_10_RGB.tif and top_potsdam_2_10_label.tif")
def names_of_potsdam(folder):
    for number in (10, 11):
        scene(folder, f"images/top_potsdam_2_{number}_RGB.tif", place=None)
        image(folder, f"masks/top_potsdam_2_{number}_label.tif", COLOURS[TRUTH])
    return with_masks(folder)


@row("names", "a folder per scene, patterns with a star for the folder")
def names_in_folders(folder):
    for name in "st":
        scene(folder, f"sites/{name}/image.tif", place=None)
        image(folder, f"sites/{name}/mask.png", TRUTH)
    words, right = with_masks(folder)
    words[words.index("images")] = "sites/*/image.tif"
    words[words.index("masks")] = "sites/*/mask.png"
    return words, right


# Points


@row("points", "CSV from QGIS: `X,Y,fid,class`")
def points_of_qgis(folder):
    scene(folder)
    lines = [f"{x},{y},{number},{name}\n" for number, (x, y, name) in enumerate(clicks())]
    write(folder, "p.csv", "X,Y,fid,class\n" + "".join(lines))
    return with_points("p.csv")


@row("points", "CSV from Excel: `;`, decimal comma, byte order mark")
def points_of_excel(folder):
    scene(folder)
    lines = [f"{x};{y};{name}\r\n".replace(".", ",") for x, y, name in clicks()]
    write(folder, "p.csv", "x;y;class\r\n" + "".join(lines), encoding="utf-8-sig")
    return with_points("p.csv")


@row("points", "CSV of longitude and latitude")
def points_in_degrees(folder):
    scene(folder)
    lines = [f"{y},{x},{name}\n" for x, y, name in clicks(4326)]
    write(folder, "p.csv", "lat,lon,label\n" + "".join(lines))
    return with_points("p.csv")


@row("points", "CSV of pixels: `scene,row,col,class`")
def points_in_pixels(folder):
    image(folder, "images/s.png", picture())
    lines = [f"s,{place[0]},{place[1]},{TRUTH[place]}\n" for place in POINTS]
    write(folder, "p.csv", "scene,row,col,class\n" + "".join(lines))
    write(folder, "classes.csv", CLASSES)
    return with_points("p.csv", "--classes", "classes.csv")


@row("points", "CSV that is filled in by half")
def points_half_filled(folder):
    scene(folder)
    lines = [f"{x},{y},{name if number % 2 else ''}\n"
             for number, (x, y, name) in enumerate(clicks())]
    write(folder, "p.csv", "x,y,class\n" + "".join(lines))
    words, right = with_points("p.csv")
    for place in POINTS[::2]:
        right[place] = 255
    return words, right


@row("points", "GeoJSON from geojson.io, degrees")
def points_of_geojson(folder):
    scene(folder)
    write(folder, "p.geojson", geojson_points())
    return with_points("p.geojson")


@row("points", "GeoJSON with a `crs` of another zone")
def points_of_another_zone(folder):
    scene(folder)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}}
    write(folder, "p.geojson", geojson_points(32631, crs=crs))
    return with_points("p.geojson")


@row("points", "GeoJSON of polygons")
def points_of_polygons(folder):
    scene(folder)
    areas = []
    for left, right, name in ((8, 24, "soil"), (40, 56, "wood")):
        xs = np.array([left, right, right, left, left]) + LEFT
        ys = TOP - np.array([8, 8, 24, 24, 8])
        ring = np.stack(convert(xs, ys.astype(float), "EPSG:32632", "EPSG:4326"), 1).tolist()
        areas.append(({"type": "Polygon", "coordinates": [ring]}, name))
    write(folder, "p.geojson", geojson(areas))
    right = np.full_like(TRUTH, 255)
    right[8:24, 8:24] = 0
    right[8:24, 40:56] = 1
    return ["points", "images", "p.geojson"], right


@row("points", "GeoPackage")
def points_of_geopackage(folder):
    scene(folder)
    with contextlib.closing(sqlite3.connect(folder / "p.gpkg")) as file:
        file.executescript(
            "PRAGMA application_id = 0x47504B47;"
            "CREATE TABLE gpkg_contents (table_name, data_type, srs_id);"
            "CREATE TABLE gpkg_geometry_columns (table_name, column_name, geometry_type_name,"
            " srs_id, z, m);"
            "CREATE TABLE gpkg_spatial_ref_sys (srs_name, srs_id, organization,"
            " organization_coordsys_id, definition);"
            "CREATE TABLE clicked (fid INTEGER PRIMARY KEY, geom, class);"
            "INSERT INTO gpkg_contents VALUES ('clicked', 'features', 4326);"
            "INSERT INTO gpkg_geometry_columns VALUES ('clicked', 'geom', 'POINT', 4326, 0, 0);"
            "INSERT INTO gpkg_spatial_ref_sys VALUES ('WGS 84', 4326, 'EPSG', 4326, '');")
        for x, y, name in clicks(4326):
            geometry = b"GP\0\1" + struct.pack("<i", 4326) + struct.pack("<BI2d", 1, 1, x, y)
            file.execute("INSERT INTO clicked (geom, class) VALUES (?, ?)", (geometry, name))
        file.commit()
    return with_points("p.gpkg")


@row("points", "KML from Google Earth")
def points_of_kml(folder):
    scene(folder)
    marks = [f"<Placemark><name>{name}</name><Point><coordinates>{x},{y},0</coordinates></Point>"
             "</Placemark>" for x, y, name in clicks(4326)]
    write(folder, "p.kml", '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2">'
          f"<Document>{''.join(marks)}</Document></kml>")
    return with_points("p.kml")


@row("points", "one point in ten outside every scene")
def points_outside(folder):
    scene(folder)
    lines = [f"{x},{y},{name}\n" for x, y, name in clicks()]
    lines += [f"{x + 5000},{y},{name}\n" for x, y, name in clicks()[:3]]
    write(folder, "p.csv", "x,y,class\n" + "".join(lines))
    return with_points("p.csv")


# Scenes


@row("scene", "one scene of 512 px alone, and no flag")
def scene_alone(folder):
    scene(folder, pixels=picture().repeat(8, 0).repeat(8, 1))
    lines = [f"{LEFT + 8 * (x - LEFT)},{TOP + 8 * (y - TOP)},{name}\n" for x, y, name in clicks()]
    write(folder, "p.csv", "x,y,class\n" + "".join(lines))
    return with_points("p.csv")[0], None


@row("scene", "two scenes that overlap")
def scenes_that_overlap(folder):
    for number in range(4):
        scene(folder, f"images/s{number}.tif", place=position(LEFT + (0, 32, 500, 900)[number]))
        image(folder, f"masks/s{number}.png", TRUTH)
    return with_masks(folder)[0], None


@row("scene", "RGB with alpha")
def scene_with_alpha(folder):
    (folder / "images").mkdir()
    image(folder, "images/s.png", np.dstack([picture(), HIDDEN]), "RGBA")
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder, hidden=True)


@row("scene", "nodata in one band only")
def scene_with_nodata_in_a_band(folder):
    pixels = picture(4, "int16")
    pixels[:16, :, 3] = -9999
    scene(folder, pixels=pixels, nodata=-9999)
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder)


@row("scene", "JPEG with a world file")
def scene_with_world_file(folder):
    image(folder, "images/s.jpg", picture())
    write(folder, "images/s.jgw", f"1\n0\n0\n-1\n{LEFT + 0.5}\n{TOP - 0.5}\n")
    lines = [f"{x},{y},{name}\n" for x, y, name in clicks()]
    write(folder, "p.csv", "x,y,class\n" + "".join(lines))
    return with_points("p.csv")


@row("scene", "bands as pages of one TIFF")
def scene_of_pages(folder):
    pages(folder, "images/s.tif", np.moveaxis(picture(5, "uint16"), 2, 0))
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder)


@row("scene", "JPEG 2000")
def scene_of_jpeg2000(folder):
    image(folder, "images/s.jp2", picture(), irreversible=False)
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder)


@row("scene", "a file that was copied by half")
def scene_cut_short(folder):
    scene(folder)
    path = folder / "images/s.tif"
    path.write_bytes(path.read_bytes()[:3000])
    image(folder, "masks/s.png", TRUTH)
    return with_masks(folder)


# Maps


@row("map", "a scene with alpha, the network trained without")
def map_with_alpha(folder):
    image(folder, "s.png", np.dstack([picture(), HIDDEN]), "RGBA")
    return ["s.png"], None


@row("map", "a scene in degrees")
def map_in_degrees(folder):
    scene(folder, "s.tif", place=position(9.0, 1e-5, 4326, 48.0))
    return ["s.tif"], None


@row("map", "a scene of four bands, the network trained on three")
def map_of_other_bands(folder):
    scene(folder, "s.tif", picture(4))
    return ["s.tif"], None


def run(command, words):
    """Run a command in this process as its script does.

    Returns:
        the line with which it refused, or None; and its warnings and printed lines.
    """
    printed = io.StringIO()
    warned = io.StringIO()
    refused = None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(warned):
        try:
            command.main(command.parse_args(words))
        except (ValueError, OSError) as error:
            refused = " ".join(str(error).split())
        except SystemExit as error:
            refused = warned.getvalue().strip() or str(error)
    warnings = [line for line in warned.getvalue().splitlines() if line.startswith("warning: ")]
    return refused, warnings, printed.getvalue().splitlines()


def labels_of(prepared):
    """{scene: (H, W) labels} of a prepared set, 255 where no tile has a label."""
    found = {}
    splits = {split: np.load(prepared / f"{split}_labels.npy") for split in SPLITS}
    with open(prepared / "tiles.csv", newline="", encoding="utf-8") as file:
        for tile in csv.DictReader(file):
            labels = splits[tile["split"]][int(tile["index"])]
            view = found.setdefault(tile["scene"], np.full((SIDE, SIDE), 255, np.uint8))
            top, left = int(tile["row"]), int(tile["col"])
            part = view[top:top + len(labels), left:left + len(labels)]
            labels = labels[:part.shape[0], :part.shape[1]]
            part[labels != 255] = labels[labels != 255]
    return found


def train_network(folder):
    """Train a tiny network on a scene for a step; returns its checkpoint."""
    words, _ = mask_of_ids(folder)
    run(prepare_data, [*in_folder(folder, words), "--split-by", "tile", "--tile", "16", "--out",
                       str(folder / "set")])
    refused, _, _ = run(train, ["--data", str(folder / "set"), "--out", str(folder / "run"),
                                *"--width 2 --depth 1 --epochs 1 --bs 4 --device cpu".split()])
    if refused:
        raise RuntimeError(refused)
    return folder / "run" / "last.pt"


def in_folder(folder, words):
    """The words of a command line with the paths of files that are in the folder."""
    return [str(folder / word) if word[0] != "-" and (folder / word.split("*")[0]).exists()
            else word for word in words]


def describe_map(folder, maker, checkpoint):
    """What happens to a scene that is mapped, in words."""
    words, _ = maker(folder)
    words = ["--checkpoint", str(checkpoint), *in_folder(folder, words), "--out",
             str(folder / "maps"), "--device", "cpu"]
    refused, warnings, _ = run(predict, words)
    if refused:
        return "refused: " + shorten(refused)
    areas = (folder / "maps" / "s_areas.csv").read_text(encoding="utf-8").splitlines()
    told = [shorten(line) for line in warnings]
    unit = "ha" if "area_ha" in areas[0] else "pixels alone"
    return ". ".join([f"mapped, areas in {unit}", *told])


def describe(folder, maker):
    """What happens to an input that is prepared, in words."""
    words, right = maker(folder)
    words = in_folder(folder, words)
    whole = ["--split-by", "none", "--tile", "32"] if right is not None else []
    refused, warnings, printed = run(prepare_data, [*words, *whole, "--out", str(folder / "out")])
    if refused:
        return "refused: " + shorten(refused)
    told = [shorten(line) for line in warnings]
    if right is None:  # a row on splits
        told += [shorten(line) for line in printed if re.search(
            r"need as many sites|between blocks|one site|ground that|^tiles of", line)]
        return "read. " + ". ".join(told)
    found = labels_of(folder / "out")
    labelled = sum((labels != 255).sum() for labels in found.values())
    wrong = sum((labels != right).sum() for labels in found.values())
    outcome = f"read: {labelled:,} px labelled, " + (f"{wrong:,} WRONG" if wrong else "all right")
    return ". ".join([outcome, *told])


def shorten(line):
    """A message as a cell of the table: without the temporary folder."""
    temporary = re.escape(tempfile.gettempdir()) + r"/tmp\w+/?"
    line = re.sub(temporary, "", line.replace("\\", "/"))
    return line.replace("|", "\\|").replace("<", "&lt;")


def table():
    """The lines of the table."""
    lines = ["| | you have | what happens |", "|---|---|---|"]
    network = tempfile.TemporaryDirectory()
    checkpoint = train_network(pathlib.Path(network.name))
    for number, (kind, title, maker) in enumerate(ROWS, 1):
        with tempfile.TemporaryDirectory() as folder:
            if kind == "map":
                outcome = describe_map(pathlib.Path(folder), maker, checkpoint)
            else:
                outcome = describe(pathlib.Path(folder), maker)
        lines.append(f"| {kind} {number} | {title} | {outcome} |")
        print(lines[-1], flush=True)
    return lines


def main(args):
    """Print the table; with --write, put it into docs/data.md."""
    lines = table()
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(START)
        after = rest.split(END)[1]
        PAGE.write_text(before + START + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table to docs/data.md")
    main(parser.parse_args())
