"""Writing a prepared data set: splits, statistics, arrays of tiles, a folder that appears whole."""

import colorsys
import contextlib
import csv
import json
import os
import pathlib
import shutil

import numpy as np

from engine.meta import SPLITS

FRACTIONS = (0.7, 0.2, 0.1)  # of training, validation and test, unless others are asked for


def draw_splits(count, fractions, seed):
    """Draw a split for each of `count` things, by fractions as near as whole numbers come.

    Args:
        count: number of scenes, tiles or sites.
        fractions: (3,) of train, val and test, in any unit; 0 draws none.
        seed: 0 or more.
    Returns:
        list of `count` split names, each at least once whose fraction is above 0.
    Raises:
        ValueError: there are fewer things than splits.
    """
    ends = np.round(np.cumsum(fractions) / sum(fractions) * count)
    shares = np.diff(ends, prepend=0).astype(int)
    wanted = np.array(fractions) > 0
    if count < wanted.sum():
        raise ValueError(f"{count} scenes or tiles do not fill {wanted.sum()} splits: name the "
                         "splits, set one of the fractions to 0, or use --split-by block")
    for missing in np.flatnonzero(wanted & (shares == 0)):
        shares[shares.argmax()] -= 1
        shares[missing] += 1
    return np.random.default_rng(seed).permutation(np.repeat(SPLITS, shares)).tolist()


@contextlib.contextmanager
def new_folder(out):
    """Yield a temporary folder that becomes `out` when the block ends, and is removed if it fails.

    Raises:
        ValueError: `out` exists and is not an empty folder.
    """
    out = pathlib.Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is in use: give another folder, or remove it")
    work = out.with_name(f"{out.name}.partial-{os.getpid()}")
    work.mkdir(parents=True)
    try:
        yield work
        if out.exists():
            out.rmdir()
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_meta(folder, meta):
    """Write dataset.json."""
    text = json.dumps(meta, indent=1) + "\n"
    pathlib.Path(folder, "dataset.json").write_text(text, encoding="utf-8")


class BandStatistics:
    """Mean and standard deviation of each band, from pixels added part by part.

    Args:
        bands: C.
    """

    def __init__(self, bands):
        self.count = 0
        self.total = np.zeros(bands)
        self.squares = np.zeros(bands)

    def add(self, pixels):
        """Add (n, C) pixels that hold data."""
        pixels = pixels.astype(np.float64)
        self.count += len(pixels)
        self.total += pixels.sum(axis=0)
        self.squares += (pixels ** 2).sum(axis=0)

    def mean_and_std(self):
        """Two lists of C numbers; a constant band has deviation 1, as images are divided by it.

        Raises:
            ValueError: the values spread so far that some cannot be data.
        """
        count = max(self.count, 1)
        mean = self.total / count
        std = np.sqrt(np.maximum(self.squares / count - mean ** 2, 0))
        if not std.max() < 1e30:
            raise ValueError(f"the training tiles hold values whose spread is {std.max():.3g}: if "
                             "some are no data, name their value by --nodata")
        constant = std <= 1e-6 * np.abs(mean)  # rounding is no spread
        return mean.tolist(), np.where(constant, 1, std).tolist()


class TileWriter:
    """Write tiles to {train,val,test}_{images,labels}.npy, and where each comes from to tiles.csv.

    A context manager. Tiles are appended to files, because a memory map would fill the memory with
    what was written.

    Args:
        folder: an existing folder.
        tiles: {split: number of tiles that will be written}.
        side: of the tiles, px.
        bands, dtype: of the images.
        columns: the columns of tiles.csv after split and index.
    """

    def __init__(self, folder, tiles, side, bands, dtype, columns=("scene", "row", "col")):
        self.folder = pathlib.Path(folder)
        self.rows = [("split", "index", *columns)]
        self.written = dict.fromkeys(tiles, 0)
        self.images = {}
        self.labels = {}
        self.files = contextlib.ExitStack()
        for split, count in tiles.items():
            shape = (count, side, side)
            self.images[split] = self._start(f"{split}_images.npy", dtype, (*shape, bands))
            self.labels[split] = self._start(f"{split}_labels.npy", np.uint8, shape)

    def _start(self, name, dtype, shape):
        """Open an .npy file and write its header."""
        file = self.files.enter_context(open(self.folder / name, "wb"))
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return file

    def write(self, split, image, labels, row):
        """Append a tile: image (S, S, C), labels (S, S) uint8, row: the values of `columns`."""
        self.images[split].write(image.tobytes())
        self.labels[split].write(labels.tobytes())
        self.rows.append((split, self.written[split], *row))
        self.written[split] += 1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.files.close()
        if kind is None:
            path = self.folder / "tiles.csv"
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self.rows)


def check_tiles(images, labels, num_classes):
    """Refuse arrays that cannot be tiles of one prepared set.

    Args:
        images, labels: lists of N arrays; see `data.write_prepared`.
        num_classes: K.
    Raises:
        ValueError: which argument, and which of its arrays.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"images, labels: {len(images)} images and {len(labels)} labels; give as "
                         "many of each, and one at least")
    first = images[0]
    if first.ndim != 3 or first.shape[0] != first.shape[1] or not first.size:
        raise ValueError(f"images: the first has shape {first.shape}; give squares (S, S, C)")
    if first.dtype.name not in ("uint8", "uint16", "int16", "float32"):
        raise ValueError(f"images: {first.dtype}; convert to uint8, uint16, int16 or float32")
    for number, (image, label) in enumerate(zip(images, labels)):
        if image.shape != first.shape or image.dtype.name != first.dtype.name:
            raise ValueError(f"images: number {number} is {image.dtype} of shape {image.shape}, "
                             f"the first {first.dtype} of {first.shape}; make them alike")
        if label.shape != first.shape[:2] or label.dtype.kind not in "iu":
            raise ValueError(f"labels: number {number} is {label.dtype} of shape {label.shape}; "
                             f"give integers of shape {first.shape[:2]}")
        wrong = label[(label != 255) & ((label < 0) | (label >= num_classes))]
        if wrong.size:
            raise ValueError(f"labels: number {number} holds {wrong[0]}; give 0 to "
                             f"{num_classes - 1}, or 255 where there is no label")


def class_entries(classes):
    """Bring K names, or K dicts of name and colour, into the form of dataset.json.

    Returns:
        list of {"name": text, "colour": [r, g, b]}; a name alone gets a colour.
    Raises:
        ValueError: an entry is neither, or a name comes twice.
    """
    entries = []
    for number, entry in enumerate(classes):
        if isinstance(entry, str):
            hue = number * 0.618 % 1  # the golden ratio: neighbours differ, and none comes twice
            colour = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.7, 0.9)]
            entry = {"name": entry, "colour": colour}
        try:
            entry = {"name": entry["name"], "colour": list(bytes([*entry["colour"]]))}
            fine = entry["name"].strip() and entry["name"].isprintable()
        except (TypeError, ValueError, KeyError, AttributeError):
            fine = False
        if not fine or len(entry["colour"]) != 3:
            raise ValueError(f"classes: {entry!r}; give names, or dicts of a name and a colour "
                             "[r, g, b] from 0 to 255")
        entries.append(entry)
    names = {entry["name"] for entry in entries}
    if not 1 <= len(entries) <= 255 or len(names) < len(entries):
        raise ValueError("classes: give 1 to 255 different names")
    return entries


def check_options(splits, count, dtype, gsd_m, nodata):
    """Refuse options of `data.write_prepared` that do not fit `count` images of a dtype."""
    if len(splits) != count or not set(splits) <= set(SPLITS):
        raise ValueError(f"splits: give train, val or test for each of {count} images")
    if gsd_m is not None and not 0 < gsd_m < 1e9:
        raise ValueError(f"gsd_m {gsd_m}: give metres above 0, or None")
    if nodata is None:
        return
    limits = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    whole = isinstance(limits, np.finfo) or nodata == np.round(nodata)
    if not limits.min <= nodata <= limits.max or not whole:
        raise ValueError(f"nodata {nodata}: give a value that {dtype} can hold, or None")
