"""What several test files share."""

import csv
import hashlib
import importlib
import json
import pathlib
import sqlite3
import struct

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

import train
from engine.checkpoint import _digest, load_checkpoint
from engine.distributed import all_reduce, average_buffers, data_parallel
from losses import build_loss, count_labelled
from networks import build_model
from report import closing, panels


def write_set(folder, count=6, side=8, bands=3, dtype="uint8", classes=3, ignore_share=0.0):
    """A prepared set of random images and labels; returns the content of its dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    pixels = {}
    for split in ("train", "val", "test"):
        images = random.integers(0, 200, (count, side, side, bands)).astype(dtype)
        labels = random.integers(0, classes, (count, side, side)).astype(np.uint8)
        labels[random.random(labels.shape) < ignore_share] = 255
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
        pixels[split] = np.bincount(labels.reshape(-1), minlength=256)[:classes].tolist()
    meta = {"format": 1, "name": "made",
            "classes": [{"name": f"c{k}", "colour": [k, 0, 0]} for k in range(classes)],
            "ignore": 255, "bands": bands, "dtype": dtype, "tile": side, "gsd_m": None,
            "rgb": [0, 1, 2][:bands], "mean": [100.0] * bands, "std": [50.0] * bands,
            "tiles": {split: count for split in pixels}, "pixels": pixels, "arguments": {}}
    (folder / "dataset.json").write_text(json.dumps(meta))
    return meta


def edit(folder, key, value):
    meta = json.loads((folder / "dataset.json").read_text())
    meta[key] = value
    (folder / "dataset.json").write_text(json.dumps(meta))


def spoil_bytes(path, random):
    """Cut a file short, empty it, flip some of its bytes, double or replace it."""
    content = bytearray(path.read_bytes())
    how = random.integers(6)
    if how == 0:
        content = content[:random.integers(len(content))]
    elif how == 1:
        content = b""
    elif how == 2:
        content = content + content[random.integers(len(content)):]
    elif how == 3:
        content = random.bytes(random.integers(1, 200))
    else:
        reach = len(content) if how == 4 else min(len(content), 300)  # anywhere, or in the header
        for place in random.integers(reach, size=random.integers(1, 9)):
            flipped = content[place] ^ 1 << random.integers(8)
            content[place] = random.choice([0, 1, 255, random.integers(256), flipped])
    path.write_bytes(content)


def geopackage_bytes(x, y, order="<", envelope=0, is_empty=False):
    """A point as GeoPackage stores it: header, envelope, WKB."""
    flags = (order == "<") | envelope << 1 | is_empty << 4
    header = b"GP" + struct.pack(f"{order}BBi", 0, flags, 32632)
    header += bytes((0, 32, 48, 48, 64)[envelope])
    return header + struct.pack(f"{order}BIdd", order == "<", 1, x, y)


def geopackage(path, **layers):
    """Write layers of (class, bytes) rows in EPSG:32632."""
    database = sqlite3.connect(path)
    database.executescript(
        "PRAGMA synchronous = OFF;"
        "CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id);"
        "CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id,"
        " definition);"
        "INSERT INTO gpkg_spatial_ref_sys VALUES (7, 'EPSG', 32632, ''), (-1, 'NONE', -1, ''),"
        " (8, 'own', 8, 'ENGCRS[\"local\"]');")
    for name, rows in layers.items():
        database.execute(f'CREATE TABLE "{name}" (fid INTEGER PRIMARY KEY, geom, class)')
        database.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 7)", [name])
        database.executemany(f'INSERT INTO "{name}" (geom, class) VALUES (?, ?)',
                             [(content, label) for label, content in rows])
    database.commit()
    database.close()
    return path


def reference(module):
    """An independent implementation, or a skip where it does not import, for whatever reason."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # half-installed packages fail in many ways
        pytest.skip(f"{module} does not import here: {error}")


def randomise(model):
    """Draw norms and biases, so that a comparison sees them; the model in float64, eval mode."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
        if isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, std=0.1)
    return model.double().eval()


def without_cancelling(model):
    """Make all weights positive, biases 0: what sees light is above 0; the model in float64."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.double().abs() * (not name.endswith("bias"))
    return model.double().eval()


def digest(state):
    """Number of keys, and a fingerprint of all names and shapes."""
    lines = sorted(f"{key}:{tuple(value.shape)}" for key, value in state.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def picture(height=70, width=90, bands=3, dtype=np.uint8):
    """(H, W, C) smooth values with noise, all different from 0."""
    rows, cols = np.mgrid[:height, :width]
    waves = 60 + 40 * np.sin(rows[..., None] / 9 + np.arange(bands))
    waves += 20 * np.cos(cols[..., None] / 7)
    noise = np.random.default_rng(0).integers(0, 20, (height, width, bands))
    return (waves + noise).astype(dtype)


def write_tiff(path, pixels, **options):
    """Write (H, W, C) with tifffile; options as there."""
    planar = "contig" if pixels.shape[2] > 1 else None
    options = {"photometric": "minisblack", "planarconfig": planar, **options}
    data = np.moveaxis(pixels, 2, 0) if options["planarconfig"] == "separate" else pixels
    tifffile.imwrite(path, data[..., 0] if pixels.shape[2] == 1 else data, metadata=None, **options)
    return path


TINY = ["--width", "4", "--depth", "1", "--bs", "2", "--points", "5", "--device", "cpu"]


def run(data, out, *flags, pictures=False):
    """Train a tiny network on a prepared set; returns its scores. Pictures double its time."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(panels, "preview", lambda *_, **__: None)
            patch.setattr(closing, "save_pictures", lambda *_: ())
        return train.main(train.parse_args(["--data", data, "--out", str(out), *TINY, *flags]))


def weights(out):
    """The weights in a run's last.pt."""
    return load_checkpoint(out / "last.pt")["model"]["state"]


def log(out, *without):
    """The rows of a run's log.csv, without some columns."""
    with open(out / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in without} for row in rows]


MEASURED = ("seconds", "images_per_s", "peak_memory_mb")  # columns that differ between equal runs


def same_run(one, other, names=("last.pt", "best.pt")):
    """Compare the logs of two runs, and all of their checkpoints, bit for bit."""
    assert log(one, *MEASURED) == log(other, *MEASURED)
    for name in names:
        contents = [load_checkpoint(folder / name) for folder in (one, other)]
        for part in ("model", "data", "train"):
            one_digest, other_digest = (_digest(content[part]) for content in contents)
            assert one_digest == other_digest, (name, part)


def has_colour(image, colour):
    return bool((np.asarray(image) == colour).all(-1).any())


def ink_box(image):
    """(left, top, right, bottom) of what is not white, px from each side of the image."""
    rows, cols = np.nonzero((np.asarray(image.convert("RGB")) != 255).any(-1))
    return cols.min(), rows.min(), image.width - 1 - cols.max(), image.height - 1 - rows.max()


def random_images(batch=2, bands=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, bands, side, side, generator=generator, dtype=torch.float64)


BENCH = pathlib.Path(__file__).resolve().parents[1] / "bench"


def gradients(case, rank, world_size):
    """One backward pass over this process's share of a batch of four, in float64.

    Returns:
        (gradients, batch-norm statistics), lists of tensors.
    """
    torch.manual_seed(0)
    model = build_model("unet", bands=3, classes=4, width=4, depth=1).double()
    model.train(case == "statistics")
    images = torch.randn(4, 3, 8, 8).double()
    labels = torch.randint(0, 4, (4, 8, 8)).to(torch.uint8)
    labels[1, 2:] = 255  # unequal shares
    if case == "nothing":
        labels[1::2] = 255  # rank 1 has not one labelled pixel
    images = images[rank::world_size]
    labels = labels[rank::world_size]
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    num_labelled = all_reduce(count_labelled(labels, weight))
    criterion = build_loss("ce", weight=weight)
    parallel = data_parallel(model, torch.device("cpu"))  # averages as long as it lives
    loss = criterion(parallel(images), labels, num_labelled, world_size)
    (loss * world_size).backward()  # as train.py does: gradients are averaged, and the sum wanted
    average_buffers(model)
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return [p.grad for p in model.parameters()], statistics
