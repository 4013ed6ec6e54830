"""Points to label next: drawn at random, well apart. Nothing that was tried is better.

Points where a network is unsure, and points of classes drawn first, did not beat random points that
keep their distance (results/relabel.md, results/pretrained.md). So the network has no say here.
"""

import numpy as np

DISTANCE = 16  # px, least distance between two points
DRAWS = 100  # pixels drawn per point asked for, before there seems to be no room for more
NO_DATA = 255


class RandomPoints:
    """Points of a scene whose class map comes in blocks of rows.

    Args:
        height, width: of the scene, px.
        count: number of points.
        seed: of the draw.
    """

    def __init__(self, height, width, count, seed=0):
        random = np.random.default_rng(seed)
        self.count = count
        self.rows = random.integers(height, size=DRAWS * count)  # (D,), px
        self.cols = random.integers(width, size=DRAWS * count)
        self.classes = np.full(DRAWS * count, NO_DATA, np.uint8)

    def add(self, top, classes):
        """Look up the classes (h, W) of a block of rows that begins at row top, px."""
        inside = (self.rows >= top) & (self.rows < top + len(classes))
        self.classes[inside] = classes[self.rows[inside] - top, self.cols[inside]]

    def choose(self):
        """Rows, columns and classes, (N,) each, in the order drawn; fewer if there is no room."""
        chosen = []
        for index in np.flatnonzero(self.classes != NO_DATA):
            distances = np.hypot(self.rows[chosen] - self.rows[index],
                                 self.cols[chosen] - self.cols[index])
            if (distances >= DISTANCE).all():
                chosen.append(index)
            if len(chosen) == self.count:
                break
        return self.rows[chosen], self.cols[chosen], self.classes[chosen]
