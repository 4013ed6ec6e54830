"""The leak control: train.py, but with points drawn anew at every visit of a tile.

Public code often does so. It sees k x epochs labels per tile and calls them k. Where it scores no
higher than a run on frozen points, the schedule is too short to tell methods apart. Takes the
flags of train.py; not for use, and not resumed to the bit.
"""

import experiments  # noqa: F401, which puts the project on the path
import torch

import train
from data import TileDataset, point_labels


class FreshPoints(TileDataset):
    """Tiles whose points are another draw at each visit."""

    def __init__(self, folder, split, points=0, per="image", seed=0, may_be_empty=False):
        super().__init__(folder, split, points, per, seed, may_be_empty)
        self.draw = (points, per, seed)
        self.visits = [0] * len(self)

    def get_batch(self, indices):
        images, labels = super().get_batch(indices)
        points, per, seed = self.draw
        for place, index in enumerate(map(int, indices) if points else ()):
            draw = index + len(self) * self.visits[index]  # another index is another draw
            points_now = point_labels(self.labels[index].numpy(), points, seed, draw, per,
                                      self.ignore)
            labels[place] = torch.from_numpy(points_now)
            self.visits[index] += 1
        return images, labels


if __name__ == "__main__":
    train.TileDataset = FreshPoints
    train.main(train.parse_args())
