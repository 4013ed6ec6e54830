"""The leak control: train.py, but with points drawn anew at every visit of a tile, as much public code does it.

It sees k x epochs labels a tile and calls them k. Where it scores no higher than a run on frozen points, the schedule is too
short to tell methods apart. Takes train.py's flags; not for use, and not resumed to the bit.
"""

import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import train
from data import point_labels


class FreshTiles(train.TileDataset):
    """Tiles whose points are another draw at each visit."""

    def __init__(self, folder, split, points=0, per="image", seed=0, jitter=0.0):
        super().__init__(folder, split, points, per, seed, jitter)
        self.draw, self.visits = (points, per, seed), np.zeros(len(self), dtype=np.int64)

    def get_batch(self, indices):
        images, labels = super().get_batch(indices)
        points, per, seed = self.draw
        if points:
            for place, index in enumerate(map(int, indices)):
                key = index + len(self) * int(self.visits[index])  # of a tile of its own, as far as the draw can tell
                labels[place] = torch.from_numpy(point_labels(self.labels[index].numpy(), points, seed, key, per, self.ignore))
                self.visits[index] += 1
        return images, labels


if __name__ == "__main__":
    train.TileDataset = FreshTiles
    train.main(train.parse_args())
