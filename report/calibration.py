"""Temperature scaling: a network whose confidence is how often it is right.

    python evaluate.py --checkpoint runs/demo-unet-1 --split val --calibrate

Logits are divided by one number, the temperature, before the softmax. The most likely class of a
pixel stays the same, only its probability changes: above 1 the network becomes less sure.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

import math

import numpy as np
import torch

from data import normalise
from engine.checkpoint import load_checkpoint, save_checkpoint
from report.folds import fold_networks
from report.stats import count_by_confidence, expected_calibration_error

SAMPLE = 2**20  # labelled pixels at most that a temperature is fitted to
LOWEST, HIGHEST = 0.1, 10.0  # temperatures


def fit_temperature(logits, labels):
    """The temperature under which the labels are most likely.

    In b = 1 / temperature the mean cross-entropy is convex. Its derivative is the mean over pixels
    of sum_k softmax(b * z)_k * z_k - z_label, and changes its sign once: bisection finds where.

    Args:
        logits: (P, K); labels: (P,) classes.
    Returns:
        float from LOWEST to HIGHEST.
    """
    logits = logits.double()
    of_label = logits.gather(1, labels.long()[:, None]).mean()
    low, high = LOWEST, HIGHEST
    for _ in range(30):
        temperature = math.sqrt(low * high)
        expected = ((logits / temperature).softmax(1) * logits).sum(1).mean()
        if expected > of_label:  # too sure: the classes with high logits are too often wrong
            low = temperature
        else:
            high = temperature
    return math.sqrt(low * high)


@torch.inference_mode()
def labelled_logits(model, tiles, meta, batch_size, device):
    """The logits of a split's labelled pixels, or of some drawn at random where they are many.

    Args:
        model: in eval mode; tiles: data.TileDataset.
        meta: dict with mean and std, the checkpoint's.
        batch_size: tiles per batch; device: torch.device.
    Returns:
        (P, K) float32 and (P,) uint8 on the CPU, P at most about SAMPLE.
    """
    random = np.random.default_rng(0)
    share = SAMPLE / max(1, tiles.labelled_pixels)
    parts = []
    for start in range(0, len(tiles), batch_size):
        images, labels = tiles.get_batch(range(start, min(start + batch_size, len(tiles))))
        images = normalise(images.to(device), meta["mean"], meta["std"], tiles.meta.get("nodata"))
        logits = model(images).permute(0, 2, 3, 1).cpu()  # (B, H, W, K)
        labelled = labels != tiles.ignore
        taken = torch.from_numpy(random.random(int(labelled.sum())) < share)
        parts.append((logits[labelled][taken], labels[labelled][taken]))
    logits, labels = zip(*parts)
    return torch.cat(logits), torch.cat(labels)


def calibration_error(logits, labels, temperature=1.0):
    """Expected calibration error of (P, K) logits and (P,) labels at a temperature, 0..1."""
    right = logits.argmax(1) == labels
    return expected_calibration_error(count_by_confidence(logits / temperature, right))


def calibrate(run, split, batch_size, device):
    """Fit a temperature to a scored run's split and write it into the run's checkpoint.

    It is not written if the calibration error is no lower with it.

    Args:
        run: evaluate.ScoredRun; split: its name.
        batch_size: tiles per batch; device: torch.device.
    Returns:
        dict of temperature, error_before, error_after, pixels and written.
    Raises:
        ValueError: the network has learned from the split, and is not one of folds, whose networks
            held it out; or the split has no label.
    """
    has_folds = "scores" in run.meta
    if split == "train" and not has_folds:
        raise ValueError("--calibrate: the network has learned from the train split and is surer "
                         "there than elsewhere: give --split val")
    if run.tiles.labelled_pixels == 0:
        raise ValueError(f"--calibrate: the {split} split of {run.data} has no labelled pixel")
    if split == "train":
        split = "train, each by the network of the fold that held it out"
        parts = [labelled_logits(model, held_out, run.meta, batch_size, device)
                 for model, held_out in fold_networks(run.checkpoint.parent, run.trained, device)]
        logits, labels = (torch.cat(part) for part in zip(*parts))
    else:
        logits, labels = labelled_logits(run.model, run.tiles, run.meta, batch_size, device)
    temperature = fit_temperature(logits, labels)
    before = calibration_error(logits, labels)
    after = calibration_error(logits, labels, temperature)
    print(f"temperature {temperature:.3f}, fitted to {len(labels):,} labelled pixels of the split "
          f"{split}: expected calibration error {after:.3f}, without it {before:.3f}")
    written = after < before
    if written:
        content = load_checkpoint(run.checkpoint)
        content["model"]["temperature"] = temperature
        save_checkpoint(run.checkpoint, content["model"], content["data"], content["train"],
                        content["args"])
        print(f"{run.checkpoint}: the temperature is in it")
        then = "predict.py SCENE.tif --out maps" if has_folds else "evaluate.py --split test"
        print(f"next: python {then} --checkpoint {run.checkpoint}")
    else:  # the most likely labels and the least error need not meet at one temperature
        print(f"{run.checkpoint} stays as it is, because this temperature does not help it")
    return {"temperature": temperature, "error_before": before, "error_after": after,
            "pixels": len(labels), "written": written}
