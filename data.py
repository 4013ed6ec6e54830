"""Prepared tiles as batches: memory-mapped, labelled by points, normalised, augmented.

    tiles = TileDataset("data/demo", "train", points=20)      one split, with the labels that training may see
    images, labels = tiles.get_batch([3, 1, 4])              (B, H, W, C) as stored, (B, H, W) uint8
    images = normalise(images, mean, std)               (B, C, H, W) float32, channels-last
    images, labels = augment(images, labels, ...)       moved and jittered, the whole batch at once

Nothing is decoded while training, so there are no worker processes: rows of a memory-mapped file are gathered by one thread
while the network works on the batch before. Everything random is a function of (seed, epoch, place in the epoch).

Points are frozen and nested. The labelled pixels of a tile are ranked once, by a shuffle that depends on the seed and the
tile's index alone, and k points are the first k of that ranking: the same in every epoch, and those of k = 5 are among
those of k = 20. Drawing new points at every visit would show the network k x epochs labels and call them k.
"""

import dataclasses
import math
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from engine.device import to_device
from engine.meta import load_meta, open_array


def choose_points(labels, points, seed, index, per="image", ignore=255):
    """Where the point labels of one tile lie.

    Args:
        labels: (H, W) integers, `ignore` where nothing is known.
        points: how many to keep, 0 or more; all labelled pixels where there are fewer.
        seed: the draw, 0 or more; runs with one seed share their points.
        index: the tile's index in its split, 0 or more.
        per: "image", uniformly over the tile's labelled pixels; or "class", that many of every class present, which tells
            the network what is present.
    Returns:
        (P,) int64 positions row * W + col, best-ranked first within the image or the class.
    Raises:
        ValueError: `points` negative or an unknown `per`.
    """
    if points < 0:
        raise ValueError(f"{points} points: give 0 or more")
    if per not in ("image", "class"):
        raise ValueError(f"points per '{per}': choose image or class")
    labels = np.asarray(labels).reshape(-1)  # (H * W,)
    if per == "image":
        return _first_of_shuffle(np.flatnonzero(labels != ignore), points, [seed, index])
    return np.concatenate([np.empty(0, dtype=np.int64)] + [
        _first_of_shuffle(np.flatnonzero(labels == k), points, [seed, index, int(k)])
        for k in np.unique(labels[labels != ignore])])


def point_labels(labels, points, seed, index, per="image", ignore=255):
    """The label map of one tile with all but its points forgotten.

    Args:
        labels: (H, W) uint8.
        points, seed, index, per, ignore: as in `choose_points`.
    Returns:
        (H, W) uint8: the label at each chosen point, `ignore` elsewhere.
    """
    labels = np.asarray(labels)
    kept = np.full(labels.shape, ignore, labels.dtype)  # not full_like: of a transposed map, reshape would be a copy
    chosen = choose_points(labels, points, seed, index, per, ignore)
    kept.reshape(-1)[chosen] = labels.reshape(-1)[chosen]
    return kept


def _first_of_shuffle(candidates, points, key):
    """The first `points` of the candidates, shuffled by a generator that `key` alone decides."""
    return np.random.default_rng(key).permutation(candidates)[:points]


def move_points(positions, shape, jitter, seed, index):
    """Points as an unsteady hand or a poor GPS puts them: off by a Gaussian error, while their labels stay the true ones'.

    Errors are frozen, and go with a point's place: of points per image those of k = 5 are among those of k = 20, of points
    per class they are not, for there the second class's begin elsewhere. A point that would leave the tile stays on its
    edge; one that falls on a better-ranked one is lost, for a pixel has one label.

    Args:
        positions: (P,) int64 row * W + col, best-ranked first.
        shape: (H, W) of the tile, px.
        jitter: standard deviation along each axis, px, 0 or more.
        seed, index: as in `choose_points`.
    Returns:
        kept (Q,) int64 places in `positions`, ascending, and their new positions (Q,) int64; Q is at most P.
    """
    errors = np.random.default_rng([seed, index, 256]).normal(0, jitter, (len(positions), 2))  # 256: no class's own stream
    rows_cols = np.stack(np.unravel_index(positions, shape), 1) + errors.round().astype(np.int64)  # (P, 2)
    moved = np.ravel_multi_index(tuple(rows_cols.T), shape, mode="clip")  # (P,)
    kept = np.sort(np.unique(moved, return_index=True)[1])
    return kept, moved[kept]


class TileDataset:
    """One split of a prepared set, with the labels that a run may see.

    Args:
        folder: the prepared set.
        split: "train", "val" or "test".
        points: labelled pixels kept of each tile (see points.py); 0 keeps every label.
        per: "image" or "class", what `points` counts.
        seed: the draw of the points.
        jitter: how far points lie beside where they were meant, px, standard deviation; their labels stay.
    Attributes:
        meta: dataset.json.
        patches: (N, H, W) uint8, labels that superpixels lend; None before `weak.superpixels.add_superpixel_labels`.
        labelled_pixels: labelled pixels a run is given, over all tiles.
        class_counts: (K,) int64, the same by class.
        tile_counts: (N, K) int64, the same by tile and class; None with points=0, where all labels would be read.
    Raises:
        ValueError, OSError: as `load_meta`, or no tile in this split.
    """

    def __init__(self, folder, split, points=0, per="image", seed=0, jitter=0.0):
        self.meta = load_meta(folder)
        count, side, bands = self.meta["tiles"][split], self.meta["tile"], self.meta["bands"]
        if count == 0:
            raise ValueError(f"{folder} has no {split} tile: prepare it with a larger share for '{split}'")
        self.ignore = self.meta["ignore"]
        folder = pathlib.Path(folder)
        self.images = open_array(folder / f"{split}_images.npy", (count, side, side, bands), self.meta["dtype"])
        self.labels = open_array(folder / f"{split}_labels.npy", (count, side, side), "uint8")
        self.positions = self.classes = self.tile_counts = self.patches = None
        self.class_counts = np.array(self.meta["pixels"][split], dtype=np.int64)
        if points:
            self._keep_points(points, per, seed, jitter)
        self.labelled_pixels = int(self.class_counts.sum())

    def __len__(self):
        return len(self.images)

    def _keep_points(self, points, per, seed, jitter):
        """Draw each tile's points once, and keep where they are in place of the dense maps."""
        chosen = [choose_points(tile, points, seed, index, per, self.ignore) for index, tile in enumerate(self.labels.numpy())]
        off = self.meta["tile"] ** 2  # one past the tile's last pixel: where tiles with fewer points put the rest
        positions = np.full((len(chosen), max(map(len, chosen))), off, dtype=np.int64)
        classes = np.full(positions.shape, self.ignore, dtype=np.uint8)
        counts = np.zeros((len(chosen), 256), dtype=np.int64)
        for index, where in enumerate(chosen):
            kept, moved = move_points(where, self.labels.shape[1:], jitter, seed, index)
            positions[index, :len(kept)] = moved
            classes[index, :len(kept)] = self.labels[index].numpy().reshape(-1)[where[kept]]
            counts[index] = np.bincount(classes[index, :len(kept)], minlength=256)
        self.positions, self.classes = torch.from_numpy(positions), torch.from_numpy(classes)  # (N, P), (N, P)
        self._check_labels(self.classes, range(len(chosen)))
        self.tile_counts = counts[:, :len(self.meta["classes"])]
        self.class_counts = self.tile_counts.sum(0)

    def _check_labels(self, labels, indices):
        """Refuse uint8 labels (B, ...) of these tiles that are neither a class nor `ignore`."""
        known = len(self.meta["classes"])
        if labels.numel() and (labels + 1).max() > known:  # uint8: 255, no label, becomes 0
            tile = indices[int(((labels + 1).flatten(1) > known).any(1).long().argmax())]
            raise ValueError(f"{self.meta['name']}: tile {int(tile)} holds a label that is none of its {known} "
                             "classes: prepare the data set again")

    def to(self, device):
        """Keep this split in the device's memory, where gathering a batch costs next to nothing; returns self."""
        self.images = self.images.to(device)
        self.patches = None if self.patches is None else self.patches.to(device)
        if self.positions is None:
            for index, labels in enumerate(self.labels):  # here, as looking at them on the device would make it wait
                self._check_labels(labels[None], [index])
            self.labels = self.labels.to(device)
        else:
            self.positions, self.classes = self.positions.to(device), self.classes.to(device)
        return self

    def get_batch(self, indices):
        """Gather some tiles.

        Args:
            indices: (B,) tile indices.
        Returns:
            images (B, H, W, C) as stored, labels (B, H, W) uint8 with 255 wherever the run may not look.
        Raises:
            ValueError: a label that is no class.
        """
        indices = to_device(np.asarray(indices), self.images.device)
        images = _gather(self.images, indices)
        if self.positions is None:
            labels = self.labels.index_select(0, indices)
            if labels.device.type == "cpu":  # what went to a device was looked at on the way
                self._check_labels(labels, indices)
            return images, labels
        side = self.meta["tile"]
        labels = torch.full((len(indices), side * side + 1), self.ignore, dtype=torch.uint8, device=indices.device)
        labels.scatter_(1, self.positions[indices], self.classes[indices])
        return images, labels[:, :-1].reshape(-1, side, side)  # (B, H, W)

    def take_layers(self, indices):
        """As `take`, but labels (B, 3, H, W): the points, their superpixels, and 0 where there is ground, 255 where no data."""
        images, labels = self.get_batch(indices)
        missing = _no_data(images, self.meta.get("nodata"))
        patches = labels if self.patches is None else self.patches[indices].masked_fill(missing, self.ignore)
        return images, torch.stack([labels, patches, torch.zeros_like(labels).masked_fill_(missing, self.ignore)], 1)


def normalise(images, mean, std, nodata=None):
    """Stored values -> what the networks take: zero mean, unit deviation, bands first.

    Values that are not finite, and pixels whose every band is `nodata`, become 0, which is the band's mean.

    Args:
        images: (B, H, W, C), any dtype; nodata: the value of missing pixels, or None.
        mean, std: (C,) in the images' units.
    Returns:
        (B, C, H, W) float32; a view of bands-last memory, so channels-last already.
    """
    mean, std = (to_device(torch.as_tensor(part, dtype=torch.float32), images.device) for part in (mean, std))
    values = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # (B, H, W, C)
    # Row by row of pixels, for the processor is slow at loops as short as the bands.
    values.flatten(2).sub_(mean.repeat(values.shape[2])).mul_((1 / std).repeat(values.shape[2]))
    if images.is_floating_point():
        values = torch.where(values.isfinite(), values, 0.0)
    if nodata is not None:
        values = values.masked_fill(_no_data(images, nodata)[..., None], 0.0)
    return values.permute(0, 3, 1, 2)  # (B, C, H, W)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a batch is moved and jittered; each 0 (or False, or zoom 1) is off.

    Attributes:
        flips: mirror images and quarter turns, all eight symmetries alike.
        rotate: free rotation, up to this many degrees either way.
        shift: up to this share of the tile's side either way.
        zoom: the ground seen is up to this factor smaller or larger, log-uniform; 1 or more.
        crop: side of the square that is cut out, px; 0 keeps the tile's.
        jitter: how far brightness and contrast go either way, all bands together and half as far each, in deviations of a band.
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
    `ignore`: what lies there was not seen. A frame that would hold no label of its tile is moved to where it holds one:
    with one point a tile, every second crop would teach nothing. In a frame that is turned freely or zoomed, a single
    labelled pixel may still be missed, or be taken several times.

    Args:
        images: (B, C, S, S) float32, normalised.
        labels: (B, S, S) or (B, L, S, S) uint8.
        how: an Augmentation.
        seed, epoch: the run's.
        places: (B,) each image's place in the epoch's order; with seed and epoch it decides all that is random.
    Returns:
        images (B, C, S', S') channels-last, labels (B, S', S') or (B, L, S', S'); S' is how.crop or S.
    """
    side = labels.shape[-1]
    target = how.crop or side
    draws = [_draw(how, side, target, images.shape[1], np.random.default_rng([seed, epoch, int(place)])) for place in places]
    frames, gains, offsets, again = (to_device(np.stack(part), images.device).float() for part in zip(*draws))
    frames = recenter_on_label(frames, labels.reshape(len(labels), -1, side, side)[:, 0] != ignore, again, how.shift, target)
    grid = F.affine_grid(frames, (len(images), 1, target, target), align_corners=False)  # (B, S', S', 2)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    images = images * gains[:, :, None, None] + offsets[:, :, None, None]
    layers = labels.reshape(len(labels), -1, side, side) + 1.0  # (B, L, S, S) float32
    moved = F.grid_sample(layers, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    moved = torch.where(moved == 0, ignore, moved - 1).to(torch.uint8).reshape(labels.shape[:-2] + (target, target))
    return images.contiguous(memory_format=torch.channels_last), moved


def _draw(how, side, target, bands, random):
    """One image's frame (2, 3), gain (C,) and offset (C,), and four draws from 0 to 1 for `recenter_on_label`.

    The frame maps the output's coordinates, -1 to 1 across, to the tile's, as torch's affine_grid takes it.
    """
    mirror = random.choice([-1.0, 1.0]) if how.flips else 1.0
    quarter = random.integers(4) if how.flips else 0
    angle = math.radians(90 * quarter + random.uniform(-how.rotate, how.rotate))
    size = target / side * math.exp(random.uniform(-1, 1) * math.log(how.zoom))
    room = max(0.0, 1 - size) + 2 * how.shift
    column, row = _whole_pixels(random.uniform(-room, room, 2), side, target)
    cos, sin = size * math.cos(angle), size * math.sin(angle)
    frame = np.array([[mirror * cos, -sin, column], [mirror * sin, cos, row]])
    light = random.uniform(-how.jitter, how.jitter, (2, 1)) + random.uniform(-how.jitter, how.jitter, (2, bands)) / 2
    return frame, np.exp(light[0]), light[1], random.random(4)


def _whole_pixels(centre, side, target):
    """Centres rounded so that a frame of `target` px that is neither turned freely nor zoomed copies pixels, and blurs none."""
    spare = (side - target) / 2
    return ((centre * side / 2 + spare).round() - spare) * 2 / side


def recenter_on_label(frames, known, draws, shift, target):
    """Move each frame that holds no labelled pixel to where it holds one, drawn at random; none but the centres change.

    Args:
        frames: (B, 2, 3), as `_draw` gives them; draws: (B, 4), 0 to 1.
        known: (B, S, S) bool, True at labelled pixels.
        shift, target: Augmentation.shift, the frames' side in px.
    """
    side, size, centre = known.shape[-1], frames[:, 0, :2].norm(dim=1, keepdim=True), frames[:, :, 2]  # (B, 1), (B, 2)
    pixels = (torch.arange(side, device=known.device) + 0.5) * 2 / side - 1  # where they lie, -1 to 1
    back = frames[:, :, :2, None, None] / size[:, :, None, None, None] ** 2  # (B, 2, 2, 1, 1): a turn's inverse is its transpose
    off = pixels - centre[:, :, None]  # (B, 2, S)
    inside = (back[:, 0] * off[:, 0, None, None] + back[:, 1] * off[:, 1, None, :, None]).abs() < 1  # (B, 2, S, S)
    held = (known & inside.all(1)).flatten(1).any(1, keepdim=True)  # (B, 1)
    row = _draw_one(known.sum(2), draws[:, :1])
    column = _draw_one(known.take_along_dim(row[:, :, None], 1)[:, 0], draws[:, 1:2])
    label = torch.cat([pixels[column], pixels[row]], 1)  # (B, 2)
    reach = size ** 2 / frames[:, 0, :2].abs().sum(1, keepdim=True)  # (B, 1): of the upright square inside a turned frame
    room = torch.maximum((1 - size).clamp(min=0) + 2 * shift, label.abs() - reach)  # (B, 2)
    low, high = torch.maximum(-room, label - reach), torch.minimum(room, label + reach)
    moved = _whole_pixels(low + draws[:, 2:] * (high - low), side, target)
    stays = held | ~known.flatten(1).any(1, keepdim=True)
    return torch.cat([frames[:, :, :2], torch.where(stays, centre, moved)[:, :, None]], 2)


def _draw_one(counts, draws):
    """Index (B, 1) drawn from each row of counts (B, N), as often as they say; draws: (B, 1), 0 to 1."""
    sums = counts.cumsum(1)
    return torch.searchsorted(sums, (draws * sums[:, -1:]).long() + 1).clamp(max=counts.shape[1] - 1)


def thin_labels(labels, share, seed, epoch, places, ignore=255):
    """Forget labels at random, others at each visit, so that a step learns from a part of a tile's points.

    Args:
        labels: (B, H, W) uint8.
        share: kept of them, each by a draw of its own, 0 to 1.
        seed, epoch, places: as in `augment`.
    Returns:
        (B, H, W) uint8.
    """
    kept = np.stack([np.random.default_rng([seed, epoch, int(place), 3]).random(labels.shape[1:], np.float32) < share
                     for place in places])  # 3: a stream of its own; augment and weak.py draw from others
    return torch.where(to_device(kept, labels.device), labels, ignore).to(torch.uint8)


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
        tiles: TileDataset, of which only the labels count that the run is given: the points, or with points=0 every one.
        rare: class names; none: every tile is visited once.
        threshold: share of a tile's labelled pixels that must be of rare classes, 0..1; more than this counts.
        factor: how much more often such a tile is drawn.
    Returns:
        (N,) float64, or None without rare classes.
    Raises:
        ValueError: a class that the set does not have.
    """
    if not rare:
        return None
    names = [entry["name"] for entry in tiles.meta["classes"]]
    strangers = [name for name in rare if name not in names]
    if strangers:
        raise ValueError(f"--oversample {strangers[0]}: {tiles.meta['name']} has the classes {', '.join(names)}")
    counts = tiles.tile_counts
    if counts is None:
        counts = np.array([np.bincount(tile.reshape(-1), minlength=256)[:len(names)] for tile in tiles.labels.numpy()])
    share = counts[:, [names.index(name) for name in rare]].sum(1) / np.maximum(counts.sum(1), 1)
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


def _no_data(images, nodata):
    """(B, H, W) bool, True where every band of (B, H, W, C) stored values is `nodata` (or None) or not finite."""
    return ((images.float() == (math.nan if nodata is None else nodata)) | ~images.float().isfinite()).all(-1)


def _gather(array, indices):
    """index_select that also takes uint16, for which torch has conversion and little else."""
    if array.dtype == torch.uint16:
        return array.view(torch.int16).index_select(0, indices).view(torch.uint16)
    return array.index_select(0, indices)
