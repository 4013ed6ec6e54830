"""Prepared data sets on the disk: dataset.json and arrays of tiles, read and written whole."""

import colorsys
import contextlib
import csv
import hashlib
import json
import os
import pathlib
import shutil
import sys
import zlib

import numpy as np

from engine.files import MAX_NAME, check_file, check_path, read_table, read_text, writing
from engine.lock import locked_beside
from engine.meta import fits, is_colour, is_nodata, is_normalisation, is_shown

SPLITS = ("train", "val", "test")
POINTS = 20  # per training tile, unless the labels are points already
SPARSE_SHARE = 0.01  # below this labelled share, a set counts as labelled by points already
META_TYPES = {"name": str, "classes": list, "ignore": int, "bands": int, "dtype": str, "tile": int,
              "rgb": list, "mean": list, "std": list, "tiles": dict, "pixels": dict}
CONSTANT = 1e30  # deviation given to a constant band, as images are divided by it
OFTEN_NODATA = (-9999, -32768)
FRACTIONS = (0.7, 0.2, 0.1)  # of training, validation and test, unless others are asked for


def load_meta(folder):
    """Read and validate dataset.json, and compare it with the headers of its arrays.

    Args:
        folder: a prepared data set.
    Returns:
        dict: name, classes [{name, colour}], ignore 255, bands, dtype, tile (px), mean and std per
        band, rgb (bands to show), tiles and pixels per split, and perhaps gsd_m, nodata, places,
        arguments; docs/data.md describes each.
    Raises:
        ValueError, OSError: not a prepared data set, another format, or arrays of other shapes or
            types; one line.
    """
    path = pathlib.Path(folder) / "dataset.json"
    again = "prepare the data set again"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a prepared data set (it has no dataset.json): "
                                "make one with prepare_data.py")
    try:
        meta = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {again}") from None
    if not isinstance(meta, dict) or meta.get("format") != 1:
        raise ValueError(f"{path} is not of format 1, the one this version reads: {again}")
    for key, kind in META_TYPES.items():
        if not isinstance(meta.get(key), kind):
            raise ValueError(f"{path}: '{key}' is missing or not a {kind.__name__}: {again}")
    wrong = wrong_entry(meta)
    if wrong:
        raise ValueError(f"{path}: its entries make no sense ({wrong}): {again}")
    for split in SPLITS:
        shape = (meta["tiles"][split], meta["tile"], meta["tile"])
        open_array(path.parent / f"{split}_images.npy", (*shape, meta["bands"]), meta["dtype"])
        open_array(path.parent / f"{split}_labels.npy", shape, "uint8")
    return meta


def tile_positions(folder, split, count):
    """Read from tiles.csv where each tile of a split lies.

    Args:
        folder: a prepared data set.
        split: "train", "val" or "test".
        count: number of its tiles.
    Returns:
        list of (scene, row, col), px, in the order of the tiles.
    Raises:
        ValueError, OSError: tiles.csv is missing or damaged; one line.
    """
    path = pathlib.Path(folder) / "tiles.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: prepare the data set again")
    positions = {}
    try:
        for row in read_table(path):
            if row["split"] == split:
                position = (row["scene"], int(row["row"]), int(row["col"]))
                positions[int(row["index"])] = position
        return [positions[index] for index in range(count)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__} {error}): prepare the data "
                         "set again") from None


def classes_without_labels(meta):
    """Describe the classes that cannot be learned or scored, one line for each reason.

    Args:
        meta: content of dataset.json. Splits without tiles are left out.
    """
    pixels = {split: meta["pixels"][split] for split in SPLITS if meta["tiles"][split]}
    names = [entry["name"] for entry in meta["classes"]]
    nowhere = [name for name, *counts in zip(names, *pixels.values()) if not any(counts)]
    lines = []
    if nowhere:
        lines.append(f"not one pixel is labelled {', '.join(nowhere)}: look at the labels' values")
    for split, effect in (("train", "it cannot be learned"), ("test", "its score is not known")):
        counts = pixels.get(split, [])
        without = [name for name, count in zip(names, counts) if not count and name not in nowhere]
        if without:
            lines.append(f"{', '.join(without)} has no label in {split}, so that {effect}: split "
                         "otherwise, or label more of it")
    return lines


def default_points(meta):
    """Points per training tile unless --points is given; 0, all labels, where these are points.

    Args:
        meta: content of dataset.json.
    """
    pixels = meta["tiles"]["train"] * meta["tile"] ** 2
    share = sum(meta["pixels"]["train"]) / max(1, pixels)
    return 0 if share < SPARSE_SHARE else POINTS


def wrong_entry(meta):
    """The first entry of a dataset.json that makes no sense, or None."""
    checks = {
        "bands": lambda: meta["bands"] > 0,
        "tile": lambda: meta["tile"] > 0,
        "ignore": lambda: meta["ignore"] == 255,
        "dtype": lambda: meta["dtype"] in ("uint8", "uint16", "int16", "float32"),
        "gsd_m": lambda: 0 < (meta.get("gsd_m") or 1) < 1e9,
        "mean, std": lambda: is_normalisation(meta["mean"], meta["std"], meta["bands"]),
        "rgb": lambda: is_shown(meta["rgb"], meta["bands"]),
        "nodata": lambda: is_nodata(meta.get("nodata"), meta["bands"], meta["dtype"]),
        "classes": lambda: 0 < len(meta["classes"]) <= 255 and all(
            entry["name"].isprintable() and len(entry["name"]) <= MAX_NAME
            and is_colour(entry["colour"]) for entry in meta["classes"]),
        "tiles, pixels": lambda: all(are_counts(meta, split) for split in SPLITS),
        "digests": lambda: are_digests(meta.get("digests")),
        "places": lambda: all(isinstance(site, str) for site in meta.get("places", {}).values()),
        "grids": lambda: all(len(place) == 3 and all(map(is_position, place))
                             for place in meta.get("grids", {}).values()),
        "arguments": lambda: 0 < meta.get("arguments", {}).get("scale", 1.0) <= 16,
    }
    for entry, holds in checks.items():
        try:
            if not holds():
                return entry
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError):
            return entry
    return None


def is_position(value):
    """Whether a value is a whole number that rows and columns of one plane do not exceed."""
    return type(value) is int and abs(value) < 2**28


def are_counts(meta, split):
    """Whether the labelled pixels of a split, by class, fit into its tiles."""
    counts = meta["pixels"][split]
    most = meta["tiles"][split] * meta["tile"] ** 2
    return len(counts) == len(meta["classes"]) and min(counts) >= 0 and sum(counts) <= most


def are_digests(value):
    """Whether a value is None, as in sets of earlier versions, or {array: number} of all arrays."""
    if value is None:
        return True
    names = {f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")}
    return value.keys() == names and all(type(digest) is int for digest in value.values())


def open_array(path, shape, dtype):
    """Memory-map a .npy file as a tensor, if it has the shape and type that dataset.json states.

    Raises:
        ValueError, OSError: missing, damaged, or of another shape or type; one line.
    """
    again = "prepare the data set again"
    try:
        check_file(path)
        # Mode "c" (changes stay in memory): torch warns about arrays that it must not write to.
        array = np.load(path, mmap_mode="c" if shape[0] else None, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: {again}") from None
    except Exception as error:  # of half a dozen kinds, depending on where the damage is
        raise ValueError(f"{path} is damaged ({error}): {again}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays: {again}")
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, but dataset.json "
                         f"states {dtype} of shape {tuple(shape)}: {again}")
    import torch  # not needed to prepare a data set, and slow to import
    return torch.from_numpy(array)


def data_fingerprint(folder):
    """Fingerprint of a prepared data set, by which a run that goes on notices other data.

    Returns:
        {"tiles of train": count, "pixels of train": K counts, "look of train": digest of eight
        tiles, "digests of train": {array: digest of all of it}, ...}, likewise of val and test.
        Digests are those that dataset.json states, and missing in sets of earlier versions. "files"
        is {file: [bytes, time of the last change, ns]}, see `changed_data`.
    Raises:
        ValueError, OSError: as `load_meta`.
    """
    meta = load_meta(folder)
    fingerprint = {"files": {}}
    for split in SPLITS:
        count = meta["tiles"][split]
        digest = hashlib.sha256()
        for kind in ("images", "labels"):
            path = pathlib.Path(folder, f"{split}_{kind}.npy")
            status = path.stat()
            fingerprint["files"][path.name] = [status.st_size, status.st_mtime_ns]
            if count:
                array = np.load(path, mmap_mode="r")
                digest.update(array[np.linspace(0, count - 1, 8).astype(int)].tobytes())
        fingerprint[f"tiles of {split}"] = count
        fingerprint[f"pixels of {split}"] = meta["pixels"][split]
        fingerprint[f"look of {split}"] = digest.hexdigest()
        if "digests" in meta:
            stated = meta["digests"]
            fingerprint[f"digests of {split}"] = {
                name: stated[name] for name in stated if name.startswith(split)}
    return fingerprint


def changed_data(folder, known, now):
    """Compare two fingerprints of a data set, and all of its arrays if a file changed in between.

    Args:
        folder: the prepared data set.
        known: the fingerprint of an earlier time, which may lack entries of this version.
        now: the present one.
    Returns:
        list of the entries that differ.
    Raises:
        ValueError: an array is not what dataset.json states; one line.
    """
    changed = [key for key in known if key != "files" and now.get(key) != known[key]]
    if not changed and now.get("files") != known.get("files"):
        verify_arrays(folder)
    return changed


def verify_arrays(folder):
    """Compare every array of a prepared data set with its digest in dataset.json.

    Returns:
        number of bytes that were compared; 0 for a data set of an earlier version, without digests.
    Raises:
        ValueError, OSError: as `load_meta`, or an array was changed; one line.
    """
    meta = load_meta(folder)
    size = 0
    for name, stated in meta.get("digests", {}).items():
        path = pathlib.Path(folder, f"{name}.npy")
        digest = 0
        for tile in np.load(path, mmap_mode="r"):
            digest = zlib.crc32(np.ascontiguousarray(tile), digest)
            size += tile.nbytes
        if digest != stated:
            raise ValueError(f"{path} is not what was prepared: its values were changed or damaged "
                             "since; prepare the data set again")
    return size


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
        BlockingIOError: another process makes it.
    """
    out = pathlib.Path(out).resolve()
    check_path(out)
    in_use = ValueError(f"{out} holds other files: give another folder, or remove it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise in_use
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked_beside(out):
        remove_leftovers(out)
        work = out.with_name(f"{out.name}.partial-{os.getpid()}")
        work.mkdir()
        try:
            yield work
            try:
                if out.exists():
                    out.rmdir()
                work.rename(out)
            except OSError:  # something was put there meanwhile
                raise in_use from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def remove_leftovers(out):
    """Remove what killed processes left that made the folder `out`, whose lock is held."""
    for path in out.parent.iterdir():
        if path.name.startswith(f"{out.name}.partial-"):
            print(f"warning: removing {path}, left by a process that was killed", file=sys.stderr)
            shutil.rmtree(path, ignore_errors=True)


def write_meta(folder, meta):
    """Write dataset.json."""
    path = pathlib.Path(folder, "dataset.json")
    with writing(path):
        path.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


class BandStatistics:
    """Mean and standard deviation of each band, from pixels added part by part.

    Args:
        bands: C.
    """

    def __init__(self, bands):
        self.count = np.zeros(bands)
        self.total = np.zeros(bands)
        self.squares = np.zeros(bands)
        self.lowest = np.full(bands, np.inf)

    def add(self, pixels, known):
        """Add (n, C) pixels; known: (n, C) bool, which of their values are data."""
        lowest = np.where(known, pixels, np.inf).min(axis=0, initial=np.inf)
        pixels = np.where(known, pixels, 0).astype(np.float64)
        self.count += known.sum(axis=0)
        self.total += pixels.sum(axis=0)
        self.squares += (pixels ** 2).sum(axis=0)
        self.lowest = np.minimum(self.lowest, lowest)

    def mean_and_std(self):
        """Two lists of C numbers; warns if the lowest value is one that often means no data.

        A band that is constant, or has no data, has the deviation CONSTANT, so that it is 0 after
        normalising: the network never saw it vary, and must not follow it where it does.

        Raises:
            ValueError: the values spread so far that some cannot be data.
        """
        count = np.maximum(self.count, 1)
        mean = self.total / count
        std = np.sqrt(np.maximum(self.squares / count - mean ** 2, 0))
        if not std.max() < 1e30:
            raise ValueError(f"the training tiles hold values whose spread is {std.max():.3g}: if "
                             "some are no data, name their value by --nodata")
        for value in OFTEN_NODATA:
            if value in self.lowest:
                print(f"warning: {value} is learned from as data, because no file names it as "
                      f"nodata: if it means no data, prepare again with --nodata={value}",
                      file=sys.stderr)
        constant = std <= 1e-6 * np.abs(mean)  # rounding is no spread
        return mean.tolist(), np.where(constant, CONSTANT, std).tolist()


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
        self.digests = {}  # {array: CRC-32 of its values}, for dataset.json
        self.files = contextlib.ExitStack()
        for split, count in tiles.items():
            shape = (count, side, side)
            self.images[split] = self._start(f"{split}_images", dtype, (*shape, bands))
            self.labels[split] = self._start(f"{split}_labels", np.uint8, shape)

    def _start(self, name, dtype, shape):
        """Open an .npy file and write its header."""
        path = self.folder / f"{name}.npy"
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        with writing(path):
            file = self.files.enter_context(open(path, "wb"))
            np.lib.format.write_array_header_1_0(file, header)
        self.digests[name] = 0
        return file

    def write(self, split, image, labels, row):
        """Append a tile: image (S, S, C), labels (S, S) uint8, row: the values of `columns`."""
        self._append(self.images[split], f"{split}_images", image)
        self._append(self.labels[split], f"{split}_labels", labels)
        self.rows.append((split, self.written[split], *row))
        self.written[split] += 1

    def _append(self, file, name, array):
        """Append an array's values to a file, and to its digest."""
        values = array.tobytes()
        with writing(self.folder / f"{name}.npy"):
            file.write(values)
        self.digests[name] = zlib.crc32(values, self.digests[name])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        with writing(self.folder):  # what the files have not written yet
            self.files.close()
        if kind is None:
            path = self.folder / "tiles.csv"
            with writing(path), open(path, "w", newline="", encoding="utf-8") as file:
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
    if isinstance(classes, (str, dict)):
        raise ValueError(f"classes {classes!r:.60}: give a list of names, in the order of their ids")
    entries = []
    for number, entry in enumerate(classes):
        if isinstance(entry, str):
            hue = number * 0.618 % 1  # the golden ratio: neighbours differ, and none comes twice
            colour = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.7, 0.9)]
            entry = {"name": entry, "colour": colour}
        try:
            entry = {"name": entry["name"], "colour": list(bytes([*entry["colour"]]))}
            fine = entry["name"].strip() and entry["name"].isprintable()
            fine = fine and len(entry["name"]) <= MAX_NAME
        except (TypeError, ValueError, KeyError, AttributeError):
            fine = False
        if not fine or len(entry["colour"]) != 3:
            raise ValueError(f"classes: {entry!r:.80}; give names of at most {MAX_NAME} "
                             "characters, or dicts of a name and a colour [r, g, b] from 0 to 255")
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
    if nodata is not None and not fits(nodata, dtype):
        raise ValueError(f"nodata {nodata}: give a value that {dtype} can hold, or None")


def write_arrays(folder, images, labels, splits, meta):
    """Write the arrays and tiles.csv; return what dataset.json holds of them."""
    num_classes = len(meta["classes"])
    pixels = {split: np.zeros(num_classes, int) for split in SPLITS}
    statistics = BandStatistics(meta["bands"])
    nodata = meta["nodata"]
    has_partial = False  # whether nodata stands in single bands of a pixel
    with TileWriter(folder, meta["tiles"], meta["tile"], meta["bands"], meta["dtype"]) as writer:
        for number, (image, label, split) in enumerate(zip(images, labels, splits)):
            known = np.isfinite(image)  # (S, S, C)
            if nodata is not None:
                known &= image != nodata
            valid = known.any(axis=2)
            has_partial |= bool((~known & np.isfinite(image))[valid].any())
            label = np.where(valid, label, 255).astype(np.uint8)
            pixels[split] += np.bincount(label[label != 255], minlength=num_classes)
            if split == "train":
                statistics.add(image[valid], known[valid])
            source = (f"tile {number}", 0, 0)  # each tile is a scene of its own
            writer.write(split, image.astype(meta["dtype"]), label, source)
    mean, std = statistics.mean_and_std()
    counts = {split: pixels[split].tolist() for split in SPLITS}
    reading = {"scene_nodata": nodata, "scales": None}
    if has_partial:
        nodata = [nodata] * meta["bands"]
    return {"pixels": counts, "mean": mean, "std": std, "nodata": nodata, **reading,
            "digests": writer.digests}
