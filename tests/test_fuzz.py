"""Damaged files and arguments, by the hundred: each ends in success or in one clear line.

Every case is a function of its number: it copies a small project (scenes, masks, points, a prepared
set, a run, a sweep, a map, published weights), damages one thing in it, runs the command that reads
it, its `__main__` block too, and looks at what is left.

    python -m pytest tests/test_fuzz.py --slow --fuzz 1000

Without --slow, one case of each kind of damage is tried.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import traceback
import warnings
import zlib

import numpy as np
import pytest
import tifffile
import torch
from helpers import geopackage, geopackage_bytes, spoil_bytes
from PIL import Image

import predict
import prepare_data
import sweep
import train
from engine import processes
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.prepared import load_meta
from networks.segformer import MixTransformer

resource = pytest.importorskip("resource", reason="memory cannot be limited here")
ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 60  # that a command on these tiny files may take
MEGABYTES = 1024  # likewise, beyond what Python and torch hold already
FOLDER = (
    "folder --images images --masks masks --classes classes.csv --tile 16 "
    "--fractions 0.5 0.25 0.25 --out out"
).split()
POINTED = [word for word in FOLDER if "masks" not in word] + ["--points-file"]
TRAIN = (
    "--data data --width 2 --depth 1 --bs 2 --points 3 --epochs 1 --device cpu --out out".split()
)
WEIGHTS = (
    "--data data --model segformer --weights weights.pth --encoder-lr 0 --bs 2 --points 3 "
    "--epochs 1 --device cpu --out out"
).split()
EVALUATE = "--checkpoint run/best.pt --data data --out out".split()
PREDICT = "--checkpoint run/best.pt --window 16 --margin 0 --out out".split()
CHECK = "--map maps/s0_classes.tif --out out --check-points".split()
SWEEP = (
    "--data data --lr 1e-3 1e-2 --epochs 2 --width 2 --depth 1 --bs 2 --points 3 --device cpu "
    "--out sweep"
).split()
NUMBERS = [
    "-1",
    "0",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-300",
    "99999999999999999999",
    "1000000",
    "3",
    "",
    "x",
]
VALUES = [
    None,
    True,
    -1,
    0,
    1,
    7,
    255,
    300,
    2**40,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a\nb",
    "../x",
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    ["a", "a"],
    [float("nan")] * 3,
    [0.0, 0.0, 0.0],
]


class TookTooLong(BaseException):
    """Raised by the alarm; no script catches it."""


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = range(metafunc.config.getoption("--fuzz"))
        slow = pytest.mark.slow
        metafunc.parametrize(
            "case",
            [case if case < len(SPOILERS) else pytest.param(case, marks=slow) for case in cases],
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small project with nothing wrong: scenes, points, weights, a prepared set, a run."""
    folder, random = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    before = os.getcwd()
    os.chdir(folder)
    for name in ("images", "masks"):
        pathlib.Path(name).mkdir()
    for number in range(4):
        tags = [
            (33550, 12, 3, (0.5, 0.5, 0.0), True),
            (33922, 12, 6, (0.0, 0.0, 0.0, 1000.0 + 20 * number, 2000.0, 0.0), True),
        ]
        write_tiff(
            f"images/s{number}.tif", random.integers(0, 255, (20, 24, 3), np.uint8), extratags=tags
        )
        Image.fromarray(random.choice(np.array([10, 30], np.uint8), (20, 24))).save(
            f"masks/s{number}.png"
        )
    pathlib.Path("classes.csv").write_text("id,name,r,g,b\n10,water,0,0,255\n30,wood,0,120,0\n")
    pathlib.Path("points.csv").write_text(
        "scene,row,col,class\n"
        + "".join(
            f"s{number},{3 * row},{row},{name}\n"
            for number in range(4)
            for row, name in enumerate(["water", "wood", "30"])
        )
    )
    pathlib.Path("points.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "properties": {"class": "water"},
                        "geometry": {"type": "Point", "coordinates": [1003 + 20 * n, 1998]},
                    }
                    for n in range(4)
                ],
            }
        )
    )
    pathlib.Path("splits.csv").write_text("scene,split\ns0,train\ns1,train\ns2,val\ns3,test\n")
    pathlib.Path("scene.txt").write_text("images/s0.tif\n")
    pathlib.Path("checked.csv").write_text("scene,row,col,class\ns0,3,4,water\ns0,9,9,wood\n")
    write_vectors()
    encoder, number = (
        MixTransformer("mit_b0", 3),
        torch.tensor(0.01),
    )  # for all weights alike: the file is small
    torch.save(
        {key: number.expand(tensor.shape) for key, tensor in encoder.state_dict().items()},
        "weights.pth",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_data.main(prepare_data.parse_args([*FOLDER[:-1], "data"]))
        train.main(train.parse_args([*TRAIN[:-1], "run", "--epochs", "2", "--stop-after", "1"]))
        predict.main(predict.parse_args([*PREDICT[:-1], "maps", "images/s0.tif"]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "start_script", Pretended)
            sweep.main(sweep.parse_args(SWEEP))
    pathlib.Path("calls.txt").unlink()
    os.chdir(before)
    return folder


class Pretended:
    """pretend_train.py in place of a run of a sweep; see `processes.start_script`."""

    def __init__(self, words, output, threads):
        words = [sys.executable, ROOT / "tests" / "pretend_train.py", *words[1:]]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with open(output, "a", encoding="utf-8") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
        self.terminate = self.process.terminate
        self.join = self.process.wait

    @property
    def exitcode(self):
        return self.process.poll()


def write_vectors():
    """Write points.gpkg and, where pyogrio is installed, points.shp: a point in each scene."""
    places = [(1003.0 + 20 * number, 1998.0) for number in range(4)]
    rows = [("water", geopackage_bytes(*place)) for place in places]
    geopackage("points.gpkg", points=rows)
    with sqlite3.connect("points.gpkg") as database:  # in the scenes' own coordinates
        database.execute("UPDATE gpkg_geometry_columns SET srs_id = -1")
    database.close()
    with contextlib.suppress(ImportError), warnings.catch_warnings(action="ignore"):
        import pyogrio.raw

        geometry = [struct.pack("<BIdd", 1, 1, *place) for place in places]
        pyogrio.raw.write(
            "points.shp",
            np.array(geometry, object),
            [np.array(["water"] * 4, object)],
            ["class"],
            geometry_type="Point",
        )


def write_tiff(path, pixels, **options):
    """A plain TIFF; more than two bands are colours only where there are three of them."""
    options.setdefault(
        "photometric", "rgb" if pixels.ndim == 3 and pixels.shape[2] == 3 else "minisblack"
    )
    tifffile.imwrite(
        path, pixels, planarconfig="contig" if pixels.ndim == 3 else None, metadata=None, **options
    )


def spoil_picture(path, random):
    """Replace an image by one of another size, type, format, georeference or name."""
    height, width = random.choice([1, 7, 20, 24, 100], 2)
    how, shape = random.integers(8), (20, 24)
    path.unlink()
    if how == 0:  # a header that promises more than there is, or nothing
        size = struct.pack(">II", *random.choice([0, 1, 24, 40_000, 2**31 - 1], 2))
        header = b"IHDR" + size + bytes([8, random.choice([0, 2, 3]), 0, 0, 0])
        data = b"IDAT" + zlib.compress(bytes(100))[:-6]
        path.with_suffix(".png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
                for part in (header, data, b"IEND")
            )
        )
    elif how == 1:  # the same for a TIFF
        write_tiff(
            path.with_suffix(".tif"),
            np.zeros((20, 24), np.uint8),
            compression=random.choice([None, "zlib"]),
        )
        with tifffile.TiffFile(path.with_suffix(".tif"), mode="r+b") as file:
            for name in random.choice(
                ["ImageWidth", "ImageLength", "RowsPerStrip", "SamplesPerPixel"], 2
            ):
                with contextlib.suppress(Exception):
                    file.pages[0].tags[name].overwrite(
                        int(random.choice([0, 1, 60_000])), dtype=random.choice([3, 4])
                    )
    elif how == 2:
        kind = random.choice(
            [
                "bool",
                "int8",
                "uint16",
                "int16",
                "uint32",
                "int64",
                "float16",
                "float32",
                "float64",
                "complex64",
            ]
        )
        write_tiff(
            path.with_suffix(".tif"),
            random.integers(0, 2, (*shape, random.choice([1, 3]))).squeeze().astype(kind) * 10,
        )
    elif how == 3:
        pixels = random.choice(
            np.array([10, 30, np.nan, np.inf, -np.inf, 3e38], np.float32),
            (*shape, random.choice([1, 3])),
        )
        write_tiff(path.with_suffix(".tif"), pixels.squeeze())
    elif how == 4:
        pixels = random.choice([10, 30], (height, width, random.choice([2, 3, 4, 9])))
        write_tiff(
            path.with_suffix(".tif"), pixels.astype(random.choice(["uint8", "uint8", "uint16"]))
        )
    elif how == 5:
        numbers = [0.0, 0.5, -1.0, 1e308, 1e-308, float("nan"), float("inf")]
        tags = [
            (33550, 12, 3, tuple(random.choice(numbers, 3)), True),
            (33922, 12, 6, tuple(random.choice(numbers, 6)), True),
            (34735, 3, 8, tuple(random.choice([0, 1, 2, 1024, 3076, 9001, 65535], 8)), True),
            (42113, 2, 0, random.choice(["nan", "10", "-9999", "1e400", "x", ""]), True),
        ]
        write_tiff(
            path.with_suffix(".tif"),
            random.integers(0, 255, (*shape, 3), np.uint8),
            extratags=[tag for tag in tags if random.random() < 0.8],
        )
    elif how == 6:
        mode = random.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
        Image.fromarray(random.choice(np.array([10, 30], np.uint8), shape)).convert(mode).save(
            path.with_suffix(".png")
        )
    else:
        name = random.choice(
            ["two words", "line\nbreak", "..", "...", "-x", "ü", "x" * 200, "a,b", '"', "*", "s1"]
        )
        Image.fromarray(random.choice(np.array([10, 30], np.uint8), (*shape, 3))).save(
            path.with_name(name + ".png"), "PNG"
        )


def spoil_text(path, random):
    """Change a cell or a line of a CSV file."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, how = rows[random.integers(len(rows))], random.integers(5)
    words = [
        "",
        " ",
        "nan",
        "inf",
        "-1",
        "256",
        "1e400",
        "99999999999999999999",
        "water",
        "ignore",
        "s0",
        "..",
        "a b",
        '"a\nb"',
        '"',
        "\0",
        "x" * 200_000,
        "\ufeff",
        "0x10",
        "1_0",
        "½",
    ]
    if how < 3:
        row[random.integers(len(row))] = random.choice(words)
    elif how == 3:
        rows.append(row + ["more"] * random.integers(2))
    else:
        rows.remove(row)
        row.pop()
    path.write_text("\n".join(map(",".join, rows)), encoding="utf-8")


def spoil_value(value, random, deep=True):
    """Replace something somewhere in nested dicts and lists, or take it away."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    if not len(keys):
        return
    key = keys[random.integers(len(keys))]
    if deep and isinstance(value[key], (dict, list)) and random.random() < 0.7:
        spoil_value(value[key], random)
    elif isinstance(value, dict) and random.random() < 0.2:
        del value[key]
    else:
        value[key] = VALUES[random.integers(len(VALUES))]


def spoil_json(path, random):
    """Change a value in a JSON file."""
    content = json.loads(path.read_text())
    spoil_value(content, random)
    path.write_text(json.dumps(content) if random.random() < 0.95 else "[" * 100_000)


def spoil_array(path, random):
    """Replace a .npy file by another shape or type, an archive, or labels that are no class."""
    array, how = np.load(path), random.integers(6)
    if how == 0:
        array = array.astype(random.choice([">u2", "float64", "int8", "bool", "complex64", "U3"]))
    elif how == 1:
        array = np.full_like(array, random.integers(256))
    elif how == 2:
        array = array.repeat(2, random.integers(array.ndim))
    elif how == 3:
        array = array[random.choice([0, 1]) : 0]
    if how == 4:
        with open(path, "wb") as file:
            np.savez(file, array)
    elif how == 5:
        count = random.choice([0, 2**40])
        order = random.choice([True, False])
        header = f"{{'descr': '|u1', 'fortran_order': {order}, 'shape': ({count}, 16, 16)}}"
        path.write_bytes(
            b"\x93NUMPY\x01\0"
            + struct.pack("<H", len(header) + 1)
            + header.encode()
            + b"\n"
            + bytes(256)
        )
    else:
        np.save(path, array)


def spoil_checkpoint(path, random):
    """Another value somewhere in a checkpoint, whose checksum fits again."""
    content = torch.load(path, weights_only=True)
    part = random.choice(["model", "data", "train", "args"])
    if random.random() < 0.3:
        tensor = list(content["model"]["state"].values())[0]
        tensor[(0,) * tensor.ndim] = random.choice([np.nan, np.inf, 1e38])
    elif random.random() < 0.1:
        content[part] = VALUES[random.integers(len(VALUES))]
    else:
        spoil_value(content[part], random, deep=part != "train")
    save_checkpoint(path, *(content[part] for part in ("model", "data", "train", "args")))


def spoil_kind(path, random):
    """Put something else in the place of a file, or nothing."""
    path.unlink()
    how = random.integers(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to("/dev/zero")
    elif how == 3:
        path.symlink_to(path.name)  # to itself


def spoil_number(path, random):
    """Replace a number in a text."""
    text = path.read_text()
    found = list(re.finditer(r"-?\d+(\.\d+)?", text))
    start, end = found[random.integers(len(found))].span()
    path.write_text(text[:start] + NUMBERS[random.integers(len(NUMBERS))] + text[end:])


def spoil_database(path, random):
    """Replace a value in an SQLite file, drop a table, or rename one."""
    with sqlite3.connect(path) as database:
        names = [name for name, in database.execute("SELECT name FROM sqlite_master")]
        name = names[random.integers(len(names))]
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
        how = random.integers(4)
        if how == 0:
            database.execute(f"DROP TABLE {name}")
        elif how == 1:
            database.execute(f"ALTER TABLE {name} RENAME TO other")
        else:
            plain = [value for value in VALUES if not isinstance(value, (list, dict))]
            values = [value for value in plain if value != 2**70] + [random.bytes(30), "a;b'\"c"]
            column = columns[random.integers(len(columns))]
            value = values[random.integers(len(values))]
            with contextlib.suppress(sqlite3.IntegrityError):  # an id that must be a number
                database.execute(f"UPDATE {name} SET {column} = ?", [value])
    database.close()


def spoil_vectors(random):
    """Damage a file of points; returns the command that reads it."""
    path = random.choice(sorted(pathlib.Path().glob("points.*")))
    spoil = {
        ".csv": spoil_text,
        ".geojson": spoil_json,
        ".gpkg": spoil_database,
    }.get(path.suffix, spoil_bytes)
    random.choice([spoil, spoil_bytes, spoil_kind], p=[0.6, 0.25, 0.15])(path, random)
    if path.suffix not in (".csv", ".geojson", ".gpkg"):
        path = path.with_suffix(".shp")
    if path.suffix != ".csv" and random.random() < 0.3:
        return ["evaluate.py", *CHECK, path]
    return ["prepare_data.py", *POINTED, path]


def spoil_sidecar(random):
    """A file beside an image or a mask with something wrong; returns the command that reads it."""
    path = pathlib.Path(
        random.choice(
            [
                "masks/s0.pgw",
                "masks/s0.wld",
                "masks/s0.png.aux.xml",
                "images/s0.tif.aux.xml",
                "images/s0.tif.msk",
                "maps/s0_classes.tif.aux.xml",
            ]
        )
    )
    spoil = spoil_number
    if path.suffix == ".msk":
        write_tiff(path, random.choice(np.array([0, 255], np.uint8), (20, 24)))
        spoil = spoil_bytes
    elif path.suffix == ".xml":
        path.write_text(
            "<PAMDataset><GeoTransform>1000, 0.5, 0, 2000, 0, -0.5</GeoTransform><PAMRasterBand "
            'band="1"><NoDataValue>7</NoDataValue><Scale>1</Scale><Offset>0</Offset><CategoryNames>'
            "<Category>water</Category><Category>wood</Category></CategoryNames></PAMRasterBand>"
            "</PAMDataset>"
        )
    else:
        path.write_text("0.5\n0\n0\n-0.5\n1000.25\n1999.75\n")
    random.choice([spoil, spoil_bytes, spoil_kind], p=[0.6, 0.3, 0.1])(path, random)
    if path.parts[0] == "maps":
        return ["evaluate.py", *CHECK, "checked.csv"]
    if path.parts[0] == "images" and random.random() < 0.5:
        return ["predict.py", *PREDICT, "images/s0.tif"]
    return ["prepare_data.py", *FOLDER]


def spoil_map(random):
    """Damage a finished map, or what is given with it; returns the command that checks it."""
    path = pathlib.Path(
        random.choice(["maps/s0_classes.tif", "checked.csv", "classes.csv"], p=[0.6, 0.2, 0.2])
    )
    if path.suffix == ".tif":
        spoils = [spoil_bytes, spoil_picture, spoil_kind]
        random.choice(spoils, p=[0.4, 0.55, 0.05])(path, random)
    else:
        random.choice([spoil_text, spoil_bytes, spoil_kind])(path, random)
    more = ["--classes", "classes.csv"] if path.stem == "classes" or random.random() < 0.3 else []
    (path,) = set(pathlib.Path("maps").glob("*.[tp][in][fg]")) - {
        pathlib.Path("maps/s0_overlay.png")
    } or {pathlib.Path("maps/s0_classes.tif")}
    return ["evaluate.py", "--map", path, *CHECK[2:], "checked.csv", *more]


def spoil_sweep(random):
    """Damage a file of a finished sweep; returns the command that goes on with it."""
    found = sorted(pathlib.Path("sweep").rglob("*"))
    path = random.choice([path for path in found if path.is_file() and path.stat().st_size])
    spoil = {".csv": spoil_text, ".json": spoil_json, ".lock": spoil_json}.get(
        path.suffix, spoil_bytes
    )
    random.choice([spoil, spoil_bytes, spoil_kind], p=[0.6, 0.25, 0.15])(path, random)
    more = ["--retry"] if random.random() < 0.2 else []
    return ["sweep.py", *SWEEP, *more]


def spoil_scenes(random):
    """Damage an image, a mask or a list; returns the command that reads it."""
    which = random.choice(
        ["images", "masks", "classes.csv", "points.csv", "points.geojson", "splits.csv"],
        p=[0.25, 0.25, 0.2, 0.1, 0.1, 0.1],
    )
    path = pathlib.Path(which)
    if path.is_dir():
        path = sorted(path.iterdir())[random.integers(4)]
        random.choice([spoil_bytes, spoil_picture, spoil_picture])(path, random)
    else:
        spoil = spoil_json if which.endswith("json") else spoil_text
        random.choice([spoil_bytes, spoil, spoil_kind], p=[0.4, 0.4, 0.2])(path, random)
    more = ["--split-list", which] if which == "splits.csv" else []
    return (
        ["prepare_data.py", *POINTED, which]
        if "points" in which
        else ["prepare_data.py", *FOLDER, *more]
    )


def spoil_set(random):
    """A prepared set with something wrong; returns the command that reads it."""
    path = random.choice(sorted(pathlib.Path("data").glob("*.*")))
    spoil = {".json": spoil_json, ".npy": spoil_array, ".csv": spoil_text}.get(
        path.suffix, spoil_bytes
    )
    random.choice([spoil, spoil_bytes, spoil_kind], p=[0.6, 0.3, 0.1])(path, random)
    return [
        ["train.py", *TRAIN],
        ["evaluate.py", *EVALUATE, "--split", random.choice(["train", "val", "test"])],
    ][random.integers(2)]


def spoil_run(random):
    """Damage a checkpoint or another file of a run; returns the command that reads it."""
    path = pathlib.Path(
        "run", random.choice(["best.pt", "last.pt", "log.csv", "args.json"], p=[0.3, 0.3, 0.2, 0.2])
    )
    spoil = {".pt": spoil_checkpoint, ".csv": spoil_text, ".json": spoil_json}[path.suffix]
    shutil.copytree("run", "other")
    random.choice([spoil, spoil_bytes, spoil_kind], p=[0.6, 0.3, 0.1])(path, random)
    if random.random() < 0.2:
        return ["evaluate.py", "--compare", "run", "other", "--data", "data", "--out", "out"]
    if random.random() < 0.1 and path.name != "last.pt":
        shutil.copy("run/best.pt", "run/last.pt")
        path = pathlib.Path("run/last.pt")
    if path.name == "best.pt":
        return [["evaluate.py", *EVALUATE], ["predict.py", *PREDICT, "images/s0.tif"]][
            random.integers(2)
        ]
    return ["train.py", *TRAIN[:-1], "run", "--epochs", "2", "--resume"]


def spoil_weights(random):
    """A file of published weights with something wrong; returns the command that reads it."""
    path = pathlib.Path("weights.pth")
    state = torch.load(path, weights_only=True)
    key = str(random.choice(list(state)))
    odd = [
        state[key] + np.nan,
        state[key].double() + 1e300,
        state[key] + 0j,
        state[key].to("meta"),
        state[key].to_sparse(),
        state[key][None],
        state[key][:0],
        state[key] + 1e38,
    ]
    how = random.integers(3)
    if how == 0:
        spoil_value(state, random, deep=False)
    elif how == 1:
        state[key if random.random() < 0.9 else 1] = odd[random.integers(len(odd))]
    torch.save(state, path)
    if how == 2:
        spoil_bytes(path, random)
    return ["train.py", *WEIGHTS]


def spoil_predicted(random):
    """A spoilt scene, or list of a scene's files, to predict; returns the command."""
    if random.random() < 0.1:
        random.choice([spoil_text, spoil_bytes, spoil_kind])(pathlib.Path("scene.txt"), random)
        return ["predict.py", *PREDICT, "scene.txt"]
    path = pathlib.Path("images/s0.tif")
    random.choice([spoil_bytes, spoil_picture, spoil_picture])(path, random)
    (path,) = set(pathlib.Path("images").iterdir()) - {
        pathlib.Path(f"images/s{number}.tif") for number in (1, 2, 3)
    } or {path}
    return ["predict.py", *PREDICT, str(path), "--scale", random.choice(["1", "0.5", "2"])]


def spoil_arguments(random):
    """A command with one flag that makes no sense, perhaps."""
    words = {
        "prepare_data.py": FOLDER,
        "train.py": TRAIN,
        "evaluate.py": EVALUATE,
        "predict.py": [*PREDICT, "images/s0.tif"],
    }
    flags = {
        "prepare_data.py": "tile overlap scale gsd rgb threshold tolerance min-labelled seed "
        "split-by fractions split-list "
        "test-places val-places masks images classes out",
        "train.py": "lr bs width depth points seed crop zoom rotate shift jitter weight-decay "
        "accumulate patience folds stop-after epochs ema loss "
        "model encoder fusion stem data weights out",
        "evaluate.py": "bs split data checkpoint out device",
        "predict.py": "window margin scale max-pixels checkpoint out",
    }
    script = random.choice(list(words))
    flag = random.choice(flags[script].split())
    value = random.choice(
        [
            "a b",
            "new\nline",
            "sub/../out",
            "classes.csv",
            "images",
            "data",
            "run/best.pt",
            ".",
            "..",
        ]
        if flag in "masks images classes out data checkpoint weights split-list"
        else NUMBERS
    )
    values = random.choice(NUMBERS, 3).tolist() if flag in ("fractions", "rgb") else [value]
    return [
        script,
        *words[script],
        *([f"--{flag}", *values] if len(values) > 1 else [f"--{flag}={value}"]),
    ]


SPOILERS = [
    spoil_scenes,
    spoil_set,
    spoil_run,
    spoil_predicted,
    spoil_arguments,
    spoil_weights,
    spoil_vectors,
    spoil_sidecar,
    spoil_map,
    spoil_sweep,
]


def run_here(words):
    """Run a script in this process; returns (exit code or traceback, errors)."""
    errors, soft = io.StringIO(), resource.getrlimit(resource.RLIMIT_AS)
    held = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def too_long(*_):
        raise TookTooLong

    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter(
            "error", RuntimeWarning
        )  # which would be a second line, and no clear one
        patch.setattr(sys, "argv", list(words))
        patch.setattr(sys, "stderr", errors)
        patch.setattr(processes, "start_script", Pretended)
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (held + MEGABYTES * 2**20, soft[1]))
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except (Exception, TookTooLong):
            code = traceback.format_exc()
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, soft)
    return code, errors.getvalue()


def files():
    """The files in the working folder: {path: (size, time of the last change)}."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in pathlib.Path().rglob("*")
        if path.is_file()
    }


def see_that_what_is_there_is_whole(out, script, code, before):
    """What a command left is complete, whether it succeeded or not."""
    assert not [
        path
        for path in pathlib.Path().rglob("*")
        if path.suffix in (".tmp", ".part") or ".partial" in path.name
    ]
    if script == "prepare_data.py":
        assert (out / "dataset.json").exists() == (code == 0 or str(out / "dataset.json") in before)
        if code == 0:
            meta = load_meta(out)
            json.loads((out / "dataset.json").read_text(), parse_constant=pytest.fail)
            for split in ("train", "val", "test"):
                counts = np.bincount(
                    np.load(out / f"{split}_labels.npy").reshape(-1), minlength=256
                )
                assert counts[:255].sum() == sum(meta["pixels"][split])
                assert counts[: len(meta["classes"])].tolist() == meta["pixels"][split]
    for path in out.rglob("*.pt") if out.is_dir() and script == "train.py" and code == 0 else []:
        state = load_checkpoint(path)["model"]["state"]
        assert not [name for name, tensor in state.items() if not tensor.isfinite().all()]
    written = [pathlib.Path(path) for path, state in files().items() if before.get(path) != state]
    if script == "evaluate.py" and code:
        assert not written  # all files or none
    for path in written if code == 0 else []:
        if path.suffix == ".json" and out in path.parents:
            json.loads(path.read_text(), parse_constant=pytest.fail)
    for path in out.rglob("*_classes.tif") if out.is_dir() else []:
        assert set(np.unique(tifffile.imread(path))) <= {0, 1, 255}


def test_commands__damaged_input_ends_in_success_or_one_line(whole, case, tmp_path, monkeypatch):
    random = np.random.default_rng(case)
    monkeypatch.chdir(shutil.copytree(whole, tmp_path / "copy"))
    words = [str(word) for word in SPOILERS[case % len(SPOILERS)](random)]
    before = files()
    code, errors = run_here(words)
    pathlib.Path("calls.txt").unlink(missing_ok=True)  # of pretend_train.py
    if code == 1 and words[0] == "sweep.py":  # a run failed, which its table shows
        code = 0
    assert code in (0, 2), f"{words}\n{code}"
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    if code == 2 and not errors.startswith("usage:"):
        assert len(lines) == 1 and lines[0].startswith(words[0]), f"{words}\n{errors}"
    assert code == 2 or all(line.startswith("warning: ") for line in lines), errors
    outs = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--out"]
    outs += [word[6:] for word in words if word.startswith("--out=")]
    out = pathlib.Path(os.path.normpath(outs[-1] or "."))
    after = files()
    strangers = [
        path
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path) and out not in pathlib.Path(path).parents
    ]
    assert not strangers, f"{words}\n{strangers}"
    if out.parts[:1] != ("..",):
        assert [path.name for path in tmp_path.iterdir()] == ["copy"], words
    see_that_what_is_there_is_whole(out, words[0], code, before)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, 50, 7))
def test_commands__a_sample_in_processes_of_their_own(whole, number, tmp_path, monkeypatch):
    """As a person starts them, within 4 GB of addresses, most of them torch's own libraries."""
    monkeypatch.chdir(shutil.copytree(whole, tmp_path / "copy"))
    script, *rest = [
        str(word) for word in SPOILERS[number % len(SPOILERS)](np.random.default_rng(number))
    ]
    done = subprocess.run(
        [sys.executable, ROOT / script, *rest],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)),
    )
    assert done.returncode in (0, 2) and "Traceback" not in done.stderr, done.stderr
