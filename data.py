"""Prepared tiles as batches: memory-mapped, labelled by points, normalised, augmented.

    tiles = TileDataset("data/demo", "train", points=20)    one split, with its training labels
    images, labels = tiles.get_batch([3, 1, 4])             (B, H, W, C) as stored, (B, H, W) uint8
    views = draw_views(labels, C, how, seed, epoch, places) where each crop lies, and its light
    images = normalise(images, mean, std)                   (B, C, H, W) float32, channels-last
    images, labels = augment(images, labels, views)         the whole batch at once

Nothing is decoded while training, so there are no worker processes: one thread gathers rows of a
memory-mapped file while the network works on the batch before. Everything random is a function of
(seed, epoch, place in the epoch).

Points are frozen and nested. The labelled pixels of a tile are ranked once, by a shuffle that
depends on the seed and the tile's index alone, and k points are the first k of that ranking: the
same in every epoch, and those of k = 5 are among those of k = 20. Drawing new points at every visit
would show the network k x epochs labels and call them k.
"""

import math
import pathlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from engine.device import to_device
from engine.prepared import (
    FRACTIONS, SPLITS, check_options, check_tiles, class_entries, draw_splits, load_meta,
    new_folder, open_array, write_arrays, write_meta)


def choose_points(labels, points, seed, index, per="image", ignore=255):
    """Choose the pixels of one tile that keep their label.

    Args:
        labels: (H, W) integers, `ignore` where nothing is known.
        points: how many to keep, 0 or more; all labelled pixels if there are fewer.
        seed: the draw, 0 or more; runs with one seed share their points.
        index: the tile's index in its split, 0 or more.
        per: "image", uniformly over the tile's labelled pixels; or "class", that many of every
            class present, which tells the network what is present.
    Returns:
        (P,) int64 positions row * W + col, best-ranked first within the image or the class.
    Raises:
        ValueError: `points` is negative, or `per` is unknown.
    """
    if points < 0:
        raise ValueError(f"{points} points: give 0 or more")
    if per not in ("image", "class"):
        raise ValueError(f"points per '{per}': choose image or class")
    labels = np.asarray(labels).reshape(-1)  # (H * W,)
    labelled = labels != ignore
    if per == "image":
        candidates = np.flatnonzero(labelled)
        ranking = np.random.default_rng([seed, index]).permutation(candidates)
        return ranking[:points].copy()  # a view would keep the whole ranking in memory
    chosen = [np.empty(0, dtype=np.int64)]
    for k in np.unique(labels[labelled]):
        candidates = np.flatnonzero(labels == k)
        ranking = np.random.default_rng([seed, index, int(k)]).permutation(candidates)
        chosen.append(ranking[:points])
    return np.concatenate(chosen)


def point_labels(labels, points, seed, index, per="image", ignore=255):
    """The label map of one tile with only its points.

    Args:
        labels: (H, W) uint8.
        points, seed, index, per, ignore: as in `choose_points`.
    Returns:
        (H, W) uint8: the label at each chosen point, `ignore` elsewhere.
    """
    labels = np.asarray(labels)
    chosen = choose_points(labels, points, seed, index, per, ignore)
    return keep_points(labels, chosen, ignore)


def keep_points(labels, chosen, ignore=255):
    """A label map (H, W) with `ignore` everywhere but at the chosen positions row * W + col."""
    kept = np.full_like(labels, ignore)
    kept.flat[chosen] = labels.flat[chosen]
    return kept


class TileDataset:
    """One split of a prepared data set, with the labels that a run may see.

    Args:
        folder: the prepared data set.
        split: "train", "val" or "test".
        points: labelled pixels kept of each tile; 0 keeps every label.
        per: "image" or "class", what `points` counts.
        seed: the draw of the points.
        may_be_empty: accept a split without tiles.
    Attributes:
        folder: its path.
        meta: content of its dataset.json; its classes are dicts, a checkpoint's are names.
        images: (N, S, S, C) as stored.
        labels: (N, S, S) uint8, also those that this run does not see; see `get_batch`.
        points: list of N arrays of positions row * W + col, see `choose_points`; None with
            points=0.
        labelled_pixels: number of labelled pixels in all tiles, after points were drawn.
        class_counts: (K,) int64, the same by class.
    Raises:
        ValueError, OSError: as `load_meta`, or the split has no tile.
    """

    def __init__(self, folder, split, points=0, per="image", seed=0, may_be_empty=False):
        self.folder = pathlib.Path(folder)
        self.meta = load_meta(folder)
        self.ignore = self.meta["ignore"]
        count = self.meta["tiles"][split]
        side = self.meta["tile"]
        if count == 0 and not may_be_empty:
            raise ValueError(f"{folder} has no {split} tile: prepare it with a larger share for "
                             f"'{split}', or train with --folds 5 to score by the training labels")
        images = self.folder / f"{split}_images.npy"
        shape = (count, side, side, self.meta["bands"])
        self.images = open_array(images, shape, self.meta["dtype"])
        labels = self.folder / f"{split}_labels.npy"
        self.labels = open_array(labels, (count, side, side), "uint8")
        self.points = None
        self.class_counts = np.array(self.meta["pixels"][split], dtype=np.int64)
        if points:
            self.points = []
            self.class_counts[:] = 0
            for index, labels in enumerate(self.labels.numpy()):
                chosen = choose_points(labels, points, seed, index, per, self.ignore)
                self.points.append(chosen)
                classes = self.tile_labels(index).flat[chosen]
                self.class_counts += np.bincount(classes, minlength=len(self.class_counts))
        self.labelled_pixels = int(self.class_counts.sum())

    def __len__(self):
        return len(self.images)

    def images_to(self, device):
        """Keep the images in the device's memory, where gathering a batch costs next to nothing."""
        self.images = self.images.to(device)

    def get_batch(self, indices):
        """Gather some tiles.

        Args:
            indices: (B,) tile indices.
        Returns:
            images (B, H, W, C) as stored; labels (B, H, W) uint8 on the CPU, `ignore` at all
            pixels whose label this run does not see.
        Raises:
            ValueError: a label that is no class.
        """
        indices = np.asarray(indices, dtype=np.int64)
        images = _gather(self.images, to_device(indices, self.images.device))
        labels = np.stack([self.tile_labels(index) for index in indices])
        return images, torch.from_numpy(labels)

    def tile_labels(self, index):
        """The labels of one tile as in `get_batch`, which gathers several: (H, W) uint8."""
        labels = self.labels[index].numpy()
        if self.points is not None:
            labels = keep_points(labels, self.points[index], self.ignore)
        num_classes = len(self.meta["classes"])
        if (labels + np.uint8(1)).max() > num_classes:  # 255, no label, becomes 0
            raise ValueError(f"{self.meta['name']}: tile {index} contains a label that is none of "
                             f"its {num_classes} classes: prepare the data set again")
        return labels


def missing_pixels(images, nodata=None):
    """Find the pixels without data, whose every band is `nodata` or not finite: (B, H, W) bool.

    Args:
        images: (B, H, W, C) stored values; nodata: as for `normalise`.
    """
    values = images.float()
    missing = ~values.isfinite()
    if nodata is not None:
        missing |= values == torch.as_tensor(nodata, device=values.device)
    return missing.all(-1)


def normalise(images, mean, std, nodata=None):
    """Turn stored values into what the networks take: zero mean, unit deviation, bands first.

    Missing values become 0, the band's mean: values that are not finite, and pixels whose every
    band is `nodata`. A list of C numbers marks missing values of single bands, each of its own.

    Args:
        images: (B, H, W, C), any dtype; nodata: a number, C numbers, or None.
        mean, std: (C,) in the images' units.
    Returns:
        (B, C, H, W) float32; a view of bands-last memory, so channels-last already.
    """
    device = images.device
    mean = to_device(torch.as_tensor(mean, dtype=torch.float32), device)
    std = to_device(torch.as_tensor(std, dtype=torch.float32), device)
    values = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    # By whole rows of pixels, because loops as short as the bands are slow.
    width = images.shape[2]
    rows = values.flatten(2)  # (B, H, W * C), a view
    rows.sub_(mean.repeat(width))
    rows.mul_((1 / std).repeat(width))
    if images.is_floating_point():
        values = torch.where(values.isfinite(), values, 0.0)
    if isinstance(nodata, list):
        missing = images.float() == to_device(torch.tensor(nodata), device)  # (B, H, W, C)
        values.masked_fill_(missing, 0.0)
    elif nodata is not None:
        missing = missing_pixels(images, nodata)[..., None]  # (B, H, W, 1)
        values.masked_fill_(missing, 0.0)
    return values.permute(0, 3, 1, 2)  # (B, C, H, W)


@dataclass(frozen=True)
class Augmentation:
    """How far a batch is moved and jittered; each 0 (or False, or zoom 1) is off.

    Attributes:
        flips: mirror images and quarter turns, all eight symmetries equally likely.
        rotate: free rotation, up to this many degrees either way.
        shift: up to this share of the tile's side either way.
        zoom: the ground seen is up to this factor smaller or larger, log-uniform; 1 or more.
        crop: side of the square that is cut out, px; 0 keeps the tile's.
        jitter: how far brightness and contrast go either way, all bands together and half as far
            each, in standard deviations of a band.
    """
    flips: bool = True
    rotate: float = 0.0
    shift: float = 0.1
    zoom: float = 1.0
    crop: int = 0
    jitter: float = 0.1


class Views(NamedTuple):
    """Where the crops of a batch lie in their tiles, and in what light they are seen."""
    frames: torch.Tensor  # (B, 2, 3) affine maps from a crop's coordinates, -1 to 1, to its tile's
    gains: torch.Tensor  # (B, C)
    offsets: torch.Tensor  # (B, C)
    side: int  # of the crops, px


def draw_views(labels, bands, how, seed, epoch, places, ignore=255):
    """Draw Views: a crop and its light for each image of a batch.

    A crop that would hold no label of its tile is moved to where it holds one: with one point per
    tile, every second crop would teach nothing. In a crop that is turned freely or zoomed, a single
    labelled pixel may still be missed, or be taken several times.

    Args:
        labels: (B, S, S) uint8 on the CPU; bands: C.
        how: an Augmentation.
        seed, epoch: the run's.
        places: (B,) each image's place in the epoch's order; with seed and epoch it decides all
            that is random.
    """
    side = how.crop or labels.shape[-1]
    drawn = []
    for label, place in zip(labels.numpy(), places):
        random = np.random.default_rng([seed, epoch, int(place)])
        drawn.append(_draw_view(label != ignore, side, bands, how, random))
    frames, gains, offsets = zip(*drawn)
    return Views(_float_batch(frames), _float_batch(gains), _float_batch(offsets), side)


def _float_batch(arrays):
    """Arrays of one shape as a float32 tensor (B, ...)."""
    return torch.from_numpy(np.stack(arrays)).float()


def _draw_view(labelled, side, bands, how, random):
    """Draw one image's frame (2, 3), gains (C,) and offsets (C,).

    Positions are (x, y) from -1 to 1, in the tile and in the crop. What the crop shows at p lies in
    the tile at size * turn @ p + centre.

    Args:
        labelled: (S, S) bool, the tile's labelled pixels.
        side: of the crop, px.
        random: the image's own generator.
    """
    tile = len(labelled)  # px
    mirror = random.choice([-1.0, 1.0]) if how.flips else 1.0
    quarter_turns = random.integers(4) if how.flips else 0
    angle = math.radians(90 * quarter_turns + random.uniform(-how.rotate, how.rotate))
    cos = math.cos(angle)
    sin = math.sin(angle)
    turn = np.array([[mirror * cos, -sin], [mirror * sin, cos]])  # its inverse is its transpose
    zoom = math.exp(random.uniform(-1, 1) * math.log(how.zoom))
    size = side / tile * zoom  # half side of the crop
    room = max(0.0, 1 - size) + 2 * how.shift  # how far the centre may lie from the tile's
    centre = _to_whole_pixels(random.uniform(-room, room, 2), tile, side)
    light_of_all = random.uniform(-how.jitter, how.jitter, (2, 1))
    light_of_band = random.uniform(-how.jitter, how.jitter, (2, bands)) / 2
    log_gains, offsets = light_of_all + light_of_band
    if not _sees_label(labelled, centre, turn, size):
        centre = _recenter_on_label(labelled, turn, size, room, random)
        centre = _to_whole_pixels(centre, tile, side)
    frame = np.concatenate([size * turn, centre[:, None]], 1)
    return frame, np.exp(log_gains), offsets


def _to_whole_pixels(centre, tile, side):
    """Round a crop's centre so that, unless turned freely or zoomed, it copies whole pixels."""
    middle = (tile - side) / 2  # px, the corner of a crop in the tile's middle
    corner = (centre * tile / 2 + middle).round()
    return (corner - middle) * 2 / tile


def _label_positions(labelled):
    """Positions (P, 2) of the labelled pixels of a tile, see `_draw_view`."""
    rows, cols = np.nonzero(labelled)
    return (np.stack([cols, rows], 1) + 0.5) * 2 / len(labelled) - 1


def _sees_label(labelled, centre, turn, size):
    """Whether a crop contains a labelled pixel of its tile, or the tile has none at all."""
    tile = len(labelled)
    col, row = ((centre + 1) * tile / 2).astype(int).clip(0, tile - 1)
    if labelled[row, col]:  # the first look, which is enough where most pixels are labelled
        return True
    positions = _label_positions(labelled)
    turned_back = (positions - centre) @ turn  # (P, 2), along the sides of the crop
    inside = (np.abs(turned_back) < size).all(1)  # (P,)
    return len(positions) == 0 or inside.any()


def _recenter_on_label(labelled, turn, size, room, random):
    """Draw a centre whose crop contains one labelled pixel, which is drawn first."""
    positions = _label_positions(labelled)
    label = positions[random.integers(len(positions))]  # (2,)
    reach = size / np.abs(turn[0]).sum()  # half side of the upright square inside a turned crop
    room = np.maximum(room, np.abs(label) - reach)
    lowest = np.maximum(-room, label - reach)
    highest = np.minimum(room, label + reach)
    return random.uniform(lowest, highest)


def augment(images, labels, views, ignore=255):
    """Cut the crops of a batch out of its tiles, and change their light.

    The image is reflected beyond the tile's edge, and the label there is `ignore`, because that
    ground was not seen. Labels move by nearest pixel.

    Args:
        images: (B, C, S, S) float32, normalised.
        labels: (B, S, S) uint8.
        views: from `draw_views`; the crops' side is S'.
    Returns:
        images (B, C, S', S') channels-last, labels (B, S', S').
    """
    device = images.device
    frames = to_device(views.frames, device)
    shape = (len(frames), 1, views.side, views.side)
    grid = F.affine_grid(frames, shape, align_corners=False)  # (B, S', S', 2): places in the tile
    images = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
    gains = to_device(views.gains, device)[:, :, None, None]
    images = images * gains + to_device(views.offsets, device)[:, :, None, None]
    images = images.contiguous(memory_format=torch.channels_last)
    values = labels[:, None] + 1.0  # (B, 1, S, S); 0 is left for what lies beyond the tile
    values = F.grid_sample(values, grid, "nearest", "zeros", align_corners=False)[:, 0]
    return images, torch.where(values == 0, ignore, values - 1).to(torch.uint8)


def epoch_order(count, seed, epoch, passes=1):
    """The order in which an epoch visits its tiles: (passes * N,) int64, one pass after another."""
    random = np.random.default_rng([seed, epoch])
    return np.concatenate([random.permutation(count) for _ in range(passes)])


class Batch(NamedTuple):
    """What one training step learns from: (B,) tiles, as `TileDataset.get_batch` returns them."""
    step: int  # of the epoch, from 0
    images: torch.Tensor  # (B, H, W, C) as stored
    labels: torch.Tensor  # (B, H, W) uint8
    views: Views


def training_batches(tiles, how, seed, epoch, batch_size, steps, rank=0, world_size=1, passes=1):
    """Yield each Batch of an epoch, made by a thread while the network works on the last.

    Args:
        tiles: TileDataset; how: an Augmentation.
        seed, epoch: the run's.
        batch_size: tiles per step, over all processes.
        steps: range of the steps to do.
        rank, world_size: of several processes, each takes every world_size-th image of a batch.
        passes: over the tiles, in one epoch.
    """
    order = epoch_order(len(tiles), seed, epoch, passes)

    def make(step):
        first = step * batch_size
        end = min(first + batch_size, len(order))
        places = np.arange(first + rank, end, world_size)
        images, labels = tiles.get_batch(order[places])
        views = draw_views(labels, images.shape[-1], how, seed, epoch, places, tiles.ignore)
        return Batch(step, images, labels, views)

    return prefetch(make, steps)


def prefetch(make, items):
    """Yield make(item) per item; a thread makes the next one while the caller uses the last."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = None
        for item in items:
            started = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = started
        if waiting is not None:
            yield waiting.result()


def _gather(array, indices):
    """index_select that also takes uint16, for which torch lacks it."""
    if array.dtype == torch.uint16:
        return array.view(torch.int16).index_select(0, indices).view(torch.uint16)
    return array.index_select(0, indices)


# Writing: arrays become a prepared data set. prepare_data.py makes one from files of scenes.


def write_prepared(folder, images, labels, classes, splits=None, gsd_m=None, nodata=None):
    """Write arrays as a prepared data set, which train.py and the other commands read.

    A pixel without data (each band is `nodata` or not finite) gets no label.

    Args:
        folder: the folder to make; it may exist if it is empty.
        images: (N, S, S, C) array, or list of N (S, S, C) arrays, of uint8, uint16, int16 or
            float32.
        labels: (N, S, S) integers: 0 to K - 1, or 255 where there is no label.
        classes: K names, or K dicts {"name": text, "colour": [r, g, b]} with 0 to 255.
        splits: N times "train", "val" or "test". None draws 70, 20 and 10 % of the tiles with a
            fixed seed, which is too optimistic where tiles are neighbours: name the splits there.
        gsd_m: ground sample distance (the side of a pixel), m, or None.
        nodata: the value of what is missing, or None.
    Returns:
        dict, the content of dataset.json.
    Raises:
        ValueError: an argument that does not fit. Nothing is written then.
    """
    images, labels = list(images), list(labels)
    if any(map(np.ma.isMaskedArray, images + labels)):
        raise ValueError("masked arrays: fill what is masked, in labels by 255, in images by nodata")
    images = [np.asarray(image) for image in images]
    labels = [np.asarray(label) for label in labels]
    classes = class_entries(classes)
    check_tiles(images, labels, len(classes))
    side, _, bands = images[0].shape
    dtype = images[0].dtype.name
    if splits is None:
        splits = draw_splits(len(images), FRACTIONS, seed=0)
    splits = [str(split) for split in splits]
    nodata = None if nodata is None else float(nodata)
    check_options(splits, len(images), dtype, gsd_m, nodata)
    meta = {
        "format": 1, "name": pathlib.Path(folder).resolve().name, "classes": classes,
        "ignore": 255, "tile": side, "rgb": [0, 1, 2] if bands >= 3 else [0], "bands": bands,
        "dtype": dtype, "gsd_m": gsd_m and float(gsd_m), "nodata": nodata,
        "tiles": {split: splits.count(split) for split in SPLITS},
    }
    with new_folder(folder) as work:
        meta.update(write_arrays(work, images, labels, splits, meta))
        write_meta(work, meta)
    return meta
