"""Losses beyond the labelled pixels: superpixel labels, and a teacher's pseudo labels.

    superpixels   a point's class, given to the patch of similar colour around it; fades out,
                  because patches are partly wrong
    teacher       classes of which the averaged weights are confident, asked of the network on a
                  view in other light with parts of other images pasted in (CutMix)

Both are off unless asked for. Each adds one term to the loss of the points.
"""

import torch

from data import crop_labels, missing_pixels
from engine.distributed import all_reduce
from losses import count_labelled, partial_cross_entropy
from weak.superpixels import superpixel_labels
from weak.teacher import cutmix, cutmix_masks, pseudo_labels, strong_augment

SUPERPIXEL_WEIGHT = 0.5  # at the start
SUPERPIXEL_END = 0.6  # share of training after which the superpixels' weight is 0
TEACHER_START = 0.2  # shares of training between which the teacher's weight rises from 0 to 1
TEACHER_FULL = 0.4


def superpixel_weight(progress):
    """Weight of the superpixels' loss; progress: share of all steps that are done, 0..1."""
    return SUPERPIXEL_WEIGHT * (1 - _ramp(progress, 0, SUPERPIXEL_END))


def teacher_weight(progress):
    """Weight of the teacher's loss; progress: share of all steps that are done, 0..1."""
    return _ramp(progress, TEACHER_START, TEACHER_FULL)


def _ramp(progress, start, end):
    """0 before start, 1 after end, linear between."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


class WeakSupervision:
    """The additional losses of a run: `begin_batch` once per batch, then `loss` for each part.

    Args:
        tiles: TileDataset to train on.
        superpixels: side of superpixels, px; 0 is off.
        threshold: confidence from which the teacher is followed, 0..1; 0 is off.
        seed: the run's.
        class_weight: (K,) of the points' loss, or None; superpixels take the same.
    """

    def __init__(self, tiles, superpixels, threshold, seed, class_weight=None):
        self.ignore = tiles.ignore
        self.nodata = tiles.meta.get("nodata")
        self.label_maps = superpixel_labels(tiles, superpixels) if superpixels else None
        self.threshold = threshold
        self.seed = seed
        self.class_weight = class_weight

    def begin_batch(self, batch, epoch, progress, device):
        """Prepare the targets of a batch, and count what the losses are divided by.

        Args:
            batch: data.Batch; epoch: the run's.
            progress: share of all steps of the run that are done, 0..1.
            device: where the network computes.
        """
        self.epoch = epoch
        self.places = batch.places
        self.superpixel_weight = superpixel_weight(progress) if self.label_maps is not None else 0
        self.teacher_weight = teacher_weight(progress) if self.threshold else 0
        missing = missing_pixels(batch.images, self.nodata).cpu()  # (B, H, W)
        if self.superpixel_weight:
            labels = self.label_maps[batch.indices].masked_fill(missing, self.ignore)
            self.labels = crop_labels(labels.to(device), batch.views, self.ignore)
            self.num_labelled = count_labelled(self.labels, self.class_weight, self.ignore)
            all_reduce(self.num_labelled)
        if self.teacher_weight:
            ground = torch.zeros_like(batch.labels).masked_fill(missing, self.ignore)
            self.valid = crop_labels(ground.to(device), batch.views, self.ignore) != self.ignore
            self.num_valid = all_reduce(self.valid.count_nonzero().float())

    def loss(self, part, images, labels, logits, model, teacher):
        """The additional loss of a part of the batch.

        Args:
            part: slice of the batch.
            images: (B', C, H, W); labels: (B', H, W) of the points.
            logits: (B', K, H, W) of the network on these images.
            model: the network; teacher: its averaged weights, in eval mode, or None.
        Returns:
            () loss, or 0.0 while both weights are 0.
        """
        loss = 0.0
        if self.superpixel_weight:
            loss = self.superpixel_weight * partial_cross_entropy(
                logits.float(), self.labels[part], self.ignore, self.class_weight,
                self.num_labelled)
        if self.teacher_weight:
            loss = loss + self.teacher_weight * self._teacher_loss(part, images, labels, model,
                                                                   teacher)
        return loss

    def _teacher_loss(self, part, images, labels, model, teacher):
        """Cross-entropy of a strong view against the teacher's pseudo labels of the plain one.

        Divided by all valid pixels: the fewer pixels the teacher is confident of, the smaller the
        loss. Source: Yang et al. 2023, "Revisiting Weak-to-Strong Consistency" (UniMatch).
        """
        with torch.no_grad():
            targets = pseudo_labels(teacher(images).float(), labels, self.valid[part],
                                    self.threshold, self.ignore)
        places = self.places[part]
        masks = cutmix_masks(self.seed, self.epoch, places, *images.shape[2:]).to(images.device)
        view = cutmix(strong_augment(images, self.seed, self.epoch, places), masks)
        logits = model(view.contiguous(memory_format=torch.channels_last))
        return partial_cross_entropy(logits.float(), cutmix(targets, masks), self.ignore,
                                     num_labelled=self.num_valid)
