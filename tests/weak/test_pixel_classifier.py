"""The pixel classifier learns colour and texture, and nothing else."""

import numpy as np
import pytest
import torch
from helpers import write_set

from data import TileDataset
from engine.meta import checkpoint_meta
from weak import pixel_classifier
from weak.pixel_classifier import PixelClassifier, neighbourhood


def test_pixel_classifier__with_its_square_tells_textures_apart(tmp_path):
    """A chequered half and a random one: no pixel shows its class, but its square does."""
    write_set(tmp_path, count=2, side=12, bands=1, classes=2)
    images = 60 + 80 * (np.indices((12, 12)).sum(0) % 2)
    images = np.repeat(images[None, :, :, None], 2, 0).astype(np.uint8)
    images[:, :, 6:] = np.random.default_rng(0).choice([60, 100, 140], (2, 12, 6, 1))
    labels = np.zeros((2, 12, 12), np.uint8)
    labels[:, :, 6:] = 1
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", images)
        np.save(tmp_path / f"{split}_labels.npy", labels)
    tiles = TileDataset(tmp_path, "test")
    meta = checkpoint_meta(tiles.meta)
    accuracy = [PixelClassifier(tiles, meta, radius).score(tiles).pixel_accuracy()
                for radius in (0, 2)]
    assert accuracy[0] < 0.75
    assert accuracy[1] > 0.85


def test_pixel_classifier__of_many_pixels_takes_some_everywhere(tmp_path, monkeypatch):
    """Classes by brightness; a column that is all one class, as wide apart as every 12th pixel."""
    write_set(tmp_path, count=8, side=12, bands=1, classes=2)
    images = np.random.default_rng(0).choice([60, 140], (8, 12, 12, 1)).astype(np.uint8)
    labels = images[..., 0] // 100
    labels[:, :, 0] = 0
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", images)
        np.save(tmp_path / f"{split}_labels.npy", labels)
    monkeypatch.setattr(pixel_classifier, "MAX_PIXELS", 8 * 12)
    tiles = TileDataset(tmp_path, "train")
    classifier = PixelClassifier(tiles, checkpoint_meta(tiles.meta), 0)
    assert classifier.score(tiles).pixel_accuracy() > 0.9


def test_neighbourhood__by_hand_and_cut_at_the_edge():
    values = torch.tensor([[[[0.0, 3.0, 0.0, 3.0]]]])
    mean, deviation = neighbourhood(values, 1)
    assert mean[0, 0, 0].tolist() == [1.5, 1, 2, 1.5]
    assert deviation[0, 0, 0, 0] == 1.5


def test_pixel_classifier__without_labels_is_an_error(tmp_path):
    write_set(tmp_path, ignore_share=1)
    tiles = TileDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="no labelled pixel"):
        PixelClassifier(tiles, checkpoint_meta(tiles.meta))
