"""Prepared tiles as batches: memory-mapped, labelled by points, normalised, augmented.

    tiles = Tiles("data/demo", "train", points=20)      one split, with the labels that training may see
    images, labels = tiles.take([3, 1, 4])              (B, H, W, C) as stored, (B, H, W) uint8
    images = normalise(images, mean, std)               (B, C, H, W) float32, channels-last
    images, labels = augment(images, labels, ...)       moved and jittered, the whole batch at once

Nothing is decoded while training, so there are no worker processes: rows of a memory-mapped file are gathered by one thread
while the network works on the batch before. Everything random is a function of (seed, epoch, place in the epoch).
"""

import dataclasses
import json
import math
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from points import choose_points

SPLITS = ("train", "val", "test")
SPARSE_SHARE = 0.01  # a set with less than this share of its pixels labelled was labelled by points already
FACT_TYPES = {"name": str, "classes": list, "ignore": int, "bands": int, "dtype": str, "tile": int, "rgb": list,
              "mean": list, "std": list, "tiles": dict, "pixels": dict}


def load_facts(folder):
    """Read a prepared set's dataset.json, and see that its arrays are what it says.

    Only the arrays' headers are read, so this takes milliseconds on a set of any size.

    Args:
        folder: a folder that prepare_data.py wrote.
    Returns:
        dict as DESIGN of dataset.json: classes, ignore, bands, dtype, tile (px), gsd_m, mean, std, tiles, pixels, ...
    Raises:
        ValueError, OSError: not a prepared set, another format, or arrays of other shapes or types; one line each.
    """
    path = pathlib.Path(folder) / "dataset.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a prepared data set (it has no dataset.json): make one with prepare_data.py")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): prepare the data set again") from None
    if not isinstance(facts, dict) or facts.get("format") != 1:
        raise ValueError(f"{path} is not of format 1, the one this version reads: prepare the data set again")
    for key, kind in FACT_TYPES.items():
        if not isinstance(facts.get(key), kind):
            raise ValueError(f"{path}: '{key}' is missing or not a {kind.__name__}: prepare the data set again")
    _check_facts(path, facts)
    for split in SPLITS:
        count, side, bands = facts["tiles"][split], facts["tile"], facts["bands"]
        _open_array(path.parent / f"{split}_images.npy", (count, side, side, bands), facts["dtype"])
        _open_array(path.parent / f"{split}_labels.npy", (count, side, side), "uint8")
    return facts


def _check_facts(path, facts):
    """Refuse a dataset.json whose entries are of the right types, but make no sense."""
    bands, classes, tiles, pixels = facts["bands"], facts["classes"], facts["tiles"], facts["pixels"]
    try:
        mean, std = np.array([facts["mean"], facts["std"]], float).reshape(2, bands)
        fine = {"bands": bands > 0, "tile": facts["tile"] > 0, "ignore": facts["ignore"] == 255,
                "dtype": facts["dtype"] in ("uint8", "uint16", "int16", "float32"),
                "mean": np.abs(mean).max() < 1e38, "std": 1e-38 < std.min() <= std.max() < 1e38,
                "rgb": len(facts["rgb"]) in (1, 3) and set(facts["rgb"]) <= set(range(bands)),
                "nodata": facts.get("nodata") is None or abs(facts["nodata"]) <= 3.5e38,
                "classes": 0 < len(classes) <= 255 and all(
                    entry["name"].isprintable() and len(bytes(entry["colour"])) == 3 for entry in classes),
                "pixels": all(len(pixels[split]) == len(classes) and min(pixels[split]) >= 0 <= tiles[split]
                              and sum(pixels[split]) <= tiles[split] * facts["tile"] ** 2 for split in SPLITS),
                "arguments": 0 < facts.get("arguments", {}).get("scale", 1.0) <= 16}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        fine = {f"bands, mean, std, classes, rgb, tiles or pixels: {error}": False}
    wrong = [key for key, holds in fine.items() if not holds]
    if wrong:
        raise ValueError(f"{path}: its entries make no sense ({wrong[0]}): prepare the data set again")


class Tiles:
    """One split of a prepared set, with the labels that a run may see.

    Args:
        folder: the prepared set.
        split: "train", "val" or "test".
        points: labelled pixels kept of each tile (see points.py); 0 keeps every label.
        per: "image" or "class", what `points` counts.
        seed: the draw of the points.
    Attributes:
        facts: dataset.json.
        labelled_pixels: labelled pixels a run is given, over all tiles.
        class_counts: (K,) int64, the same by class.
        tile_counts: (N, K) int64, the same by tile and class; None with points=0.
    Raises:
        ValueError, OSError: as `load_facts`, or no tile in this split.
    """

    def __init__(self, folder, split, points=0, per="image", seed=0):
        self.facts = load_facts(folder)
        count, side, bands = self.facts["tiles"][split], self.facts["tile"], self.facts["bands"]
        if count == 0:
            raise ValueError(f"{folder} has no {split} tile: prepare it with a larger share for '{split}'")
        self.ignore = self.facts["ignore"]
        folder = pathlib.Path(folder)
        self.images = _open_array(folder / f"{split}_images.npy", (count, side, side, bands), self.facts["dtype"])
        self.labels = _open_array(folder / f"{split}_labels.npy", (count, side, side), "uint8")
        self.positions = self.classes = self.tile_counts = None
        self.class_counts = np.array(self.facts["pixels"][split], dtype=np.int64)
        if points:
            self._keep_points(points, per, seed)
        self.labelled_pixels = int(self.class_counts.sum())

    def __len__(self):
        return len(self.images)

    def _keep_points(self, points, per, seed):
        """Draw each tile's points once, and keep where they are in place of the dense maps."""
        chosen = [choose_points(tile, points, seed, index, per, self.ignore) for index, tile in enumerate(self.labels.numpy())]
        most = max(map(len, chosen))
        off = self.facts["tile"] ** 2  # one past the tile's last pixel: where tiles with fewer points put the rest
        positions = np.full((len(chosen), most), off, dtype=np.int64)
        classes = np.full((len(chosen), most), self.ignore, dtype=np.uint8)
        counts = np.zeros((len(chosen), 256), dtype=np.int64)
        for index, where in enumerate(chosen):
            positions[index, :len(where)] = where
            classes[index, :len(where)] = self.labels[index].numpy().reshape(-1)[where]
            counts[index] = np.bincount(classes[index, :len(where)], minlength=256)
        known = len(self.facts["classes"])
        if counts[:, known:].any():
            raise ValueError(f"{self.facts['name']}: tile {int(counts[:, known:].any(1).argmax())} holds a label that is "
                             f"none of its {known} classes: prepare the data set again")
        self.positions, self.classes = torch.from_numpy(positions), torch.from_numpy(classes)  # (N, P), (N, P)
        self.tile_counts = counts[:, :known]
        self.class_counts = self.tile_counts.sum(0)

    def to(self, device):
        """Keep this split in the device's memory, where gathering a batch costs next to nothing; returns self."""
        self.images = self.images.to(device)
        if self.positions is None:
            self.labels = self.labels.to(device)
        else:
            self.positions, self.classes = self.positions.to(device), self.classes.to(device)
        return self

    def take(self, indices):
        """Gather some tiles.

        Args:
            indices: (B,) tile indices.
        Returns:
            images (B, H, W, C) as stored, labels (B, H, W) uint8 with 255 wherever the run may not look.
        """
        indices = torch.as_tensor(indices, device=self.images.device)
        images = _gather(self.images, indices)
        if self.positions is None:
            return images, self.labels.index_select(0, indices)
        side = self.facts["tile"]
        labels = torch.full((len(indices), side * side + 1), self.ignore, dtype=torch.uint8, device=indices.device)
        labels.scatter_(1, self.positions[indices], self.classes[indices])
        return images, labels[:, :-1].reshape(-1, side, side)  # (B, H, W)


def normalise(images, mean, std, nodata=None):
    """Stored values -> what the networks take: zero mean, unit deviation, bands first.

    Values that are not finite, and pixels whose every band is `nodata`, become 0, which is the band's mean.

    Args:
        images: (B, H, W, C), any dtype.
        mean, std: (C,) in the images' units.
        nodata: the value of missing pixels, or None.
    Returns:
        (B, C, H, W) float32; a view of bands-last memory, so channels-last already.
    """
    mean = torch.as_tensor(mean, dtype=torch.float32, device=images.device)
    scale = 1 / torch.as_tensor(std, dtype=torch.float32, device=images.device)
    values = (images.float() - mean).mul_(scale)  # (B, H, W, C)
    if images.is_floating_point():
        values = torch.where(values.isfinite(), values, 0.0)
    if nodata is not None:
        values = values.masked_fill((images.float() == nodata).all(-1, keepdim=True), 0.0)
    return values.permute(0, 3, 1, 2)  # (B, C, H, W)


def display_limits(facts):
    """What to show as black and as white in each displayed band: two deviations about its mean.

    Args:
        facts: dict with dtype, mean, std, rgb.
    Returns:
        list of (low, high), one a displayed band; None for 8-bit images, which are shown as they are.
    """
    if facts["dtype"] == "uint8":
        return None
    return [(facts["mean"][band] - 2 * facts["std"][band], facts["mean"][band] + 2 * facts["std"][band]) for band in facts["rgb"]]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a batch is moved and jittered; each 0 (or False, or zoom 1) is off.

    Attributes:
        flips: mirror images and quarter turns, all eight symmetries alike.
        rotate: free rotation, up to this many degrees either way.
        shift: up to this share of the tile's side either way.
        zoom: the ground seen is up to this factor smaller or larger, log-uniform; 1 or more.
        crop: side of the square that is cut out, px; 0 keeps the tile's.
        jitter: brightness and contrast, of all bands and of each, in standard deviations.
    """
    flips: bool = True
    rotate: float = 0.0
    shift: float = 0.1
    zoom: float = 1.0
    crop: int = 0
    jitter: float = 0.1


def augment(images, labels, how, seed, epoch, places, ignore=255):
    """Move and jitter a batch: one affine map an image for the geometry, one gain and offset a band for the light.

    Labels move by nearest pixel. Where the moved frame reaches beyond the tile the image is reflected, and the label is
    `ignore`: what lies there was not seen.

    Args:
        images: (B, C, S, S) float32, normalised.
        labels: (B, S, S) uint8.
        how: an Augmentation.
        seed, epoch: the run's.
        places: (B,) each image's place in the epoch's order; with seed and epoch it decides all that is random.
    Returns:
        images (B, C, S', S') channels-last, labels (B, S', S'); S' is how.crop or S.
    """
    side = labels.shape[-1]
    target = how.crop or side
    draws = [_draw(how, side, target, images.shape[1], np.random.default_rng([seed, epoch, int(place)])) for place in places]
    frames, gains, offsets = (torch.from_numpy(np.stack(part)).float().to(images.device) for part in zip(*draws))
    grid = F.affine_grid(frames, (len(images), 1, target, target), align_corners=False)  # (B, S', S', 2)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    images = images * gains[:, :, None, None] + offsets[:, :, None, None]
    moved = F.grid_sample(labels[:, None].float() + 1, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    moved = torch.where(moved == 0, ignore, moved - 1)[:, 0].to(torch.uint8)  # (B, S', S')
    return images.contiguous(memory_format=torch.channels_last), moved


def _draw(how, side, target, bands, random):
    """One image's frame (2, 3), gain (C,) and offset (C,).

    The frame maps the output's coordinates, -1 to 1 across, to the tile's, as torch's affine_grid takes it.
    """
    mirror = random.choice([-1.0, 1.0]) if how.flips else 1.0
    quarter = random.integers(4) if how.flips else 0
    angle = math.radians(90 * quarter + random.uniform(-how.rotate, how.rotate))
    size = target / side * math.exp(random.uniform(-1, 1) * math.log(how.zoom))
    room = max(0.0, 1 - size) + 2 * how.shift
    column, row = random.uniform(-room, room, 2)
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    frame = np.array([[mirror * cos, -sin, column], [mirror * sin, cos, row]])
    light = random.uniform(-how.jitter, how.jitter, (2, 1)) + random.uniform(-how.jitter, how.jitter, (2, bands)) / 2
    return frame, np.exp(light[0]), light[1]


def pick_device(name="auto"):
    """The device a command's --device names.

    Args:
        name: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "mps" (float32 only, not tested).
    Returns:
        torch.device.
    Raises:
        ValueError: the device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available() or name == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: this machine has none that torch can use; choose cpu or auto")
    return torch.device(name)


def epoch_order(count, seed, epoch, weights=None):
    """In which order an epoch visits the tiles.

    Args:
        count: number of tiles N.
        weights: (N,) how much more often a tile is drawn than one of weight 1, or None for each exactly once.
    Returns:
        (N,) int64 tile indices.
    """
    random = np.random.default_rng([seed, epoch])
    if weights is None:
        return random.permutation(count)
    return random.choice(count, count, p=weights / weights.sum())


def sampling_weights(tiles, rare, threshold, factor):
    """Weights that visit tiles holding rare classes more often, in place of copies on disk.

    Args:
        tiles: Tiles with points, whose labels the run is given; of the others it may not look which holds what.
        rare: class names; none: every tile is visited once.
        threshold: share of a tile's labelled pixels that must be of rare classes, 0..1; more than this counts.
        factor: how much more often such a tile is drawn.
    Returns:
        (N,) float64, or None without rare classes.
    Raises:
        ValueError: a class that the set does not have, or tiles without points.
    """
    if not rare:
        return None
    names = [entry["name"] for entry in tiles.facts["classes"]]
    strangers = [name for name in rare if name not in names]
    if strangers:
        raise ValueError(f"--oversample {strangers[0]}: {tiles.facts['name']} has the classes {', '.join(names)}")
    if tiles.tile_counts is None:
        raise ValueError("--oversample counts points, tile by tile: give --points")
    share = tiles.tile_counts[:, [names.index(name) for name in rare]].sum(1) / np.maximum(tiles.tile_counts.sum(1), 1)
    return np.where(share > threshold, float(factor), 1.0)


def prefetch(make, items):
    """Yield make(item) for each item, the next one being made by a thread while the caller uses the last."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = None
        for item in items:
            made, ahead = ahead, thread.submit(make, item)
            if made is not None:
                yield made.result()
        if ahead is not None:
            yield ahead.result()


def _gather(array, indices):
    """index_select that also takes uint16, for which torch has conversion and little else."""
    if array.dtype == torch.uint16:
        return array.view(torch.int16).index_select(0, indices).view(torch.uint16)
    return array.index_select(0, indices)


def _open_array(path, shape, dtype):
    """A memory-mapped .npy file as a tensor, after its shape and type were compared with what dataset.json says."""
    try:
        # Mode "c" (changes stay in memory): torch warns about arrays that it must not write to.
        array = np.load(path, mmap_mode="c" if shape[0] else None, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: prepare the data set again") from None
    except Exception as error:  # of half a dozen kinds, by where in the header the damage is
        raise ValueError(f"{path} is damaged ({error}): prepare the data set again") from None
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape) or array.dtype != dtype:
        held = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path} holds {held}, but dataset.json says {dtype} of shape "
                         f"{tuple(shape)}: prepare the data set again")
    return torch.from_numpy(array)
