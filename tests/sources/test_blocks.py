"""Blocks of a site: apart from each other, and with each class in each split where it can be."""

import numpy as np
import pytest

from prepare_data import parse_args
from sources import blocks
from sources.blocks import BLOCK_GAP, Frame, best_layout, split_by_block
from sources.labels import NO_LABEL, land_classes
from sources.overlap import footprints, join_sites
from sources.raw import RawDataset, Region, Scene
from test_overlap import grid

ARGS = parse_args(["demo"])
CLASSES = [(0, "a", None), (1, "b", None)]


def frame_of(height, width):
    return Frame(height, width, [(0, 1)], [(0, 1)])


def apart(one, other):
    """px between two rectangles (top, left, bottom, right), at least 0."""
    return max(one[0] - other[2], other[0] - one[2], one[1] - other[3], other[1] - one[3])


def check_gaps(laid, height, width):
    for one in laid:
        assert 0 <= one.top < one.bottom <= height and 0 <= one.left < one.right <= width
        for other in laid:
            assert one.split == other.split or apart(one[1:], other[1:]) >= BLOCK_GAP


@pytest.mark.parametrize("height, width", [(300, 100), (100, 300)])
def test_best_layout__dense_labels_are_cut_once_for_each_split(height, width):
    counts = np.ones((2, height, width), int)
    laid = best_layout("s", frame_of(height, width), counts, 1, ARGS)
    check_gaps(laid, height, width)
    assert sorted(block.split for block in laid) == ["test", "train", "val"]
    sizes = {block.split: (block.bottom - block.top) * (block.right - block.left) for block in laid}
    assert sizes["train"] > sizes["val"] > sizes["test"]


def points(places, size=(400, 400)):
    """(K, H, W) counts of points, {class: [(row, col)]}."""
    counts = np.zeros((len(places), *size), int)
    for kind, found in places.items():
        for row, col in found:
            counts[kind, row, col] += 1
    return counts


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "places",
    [
        # One class from north to south, the other from west to east: no strips have both.
        {0: [(r, 60) for r in range(20, 400, 30)], 1: [(60, c) for c in range(20, 400, 30)]},
        {0: [(r, c) for r in range(10, 400, 40) for c in range(10, 400, 40)],
         1: [(10, 10), (200, 210), (390, 390)]},
        {0: [(10, c) for c in range(10, 400, 20)], 1: [(390, c) for c in range(10, 400, 20)]}],
)
def test_best_layout__each_split_has_each_class(places, seed):
    counts = points(places)
    args = parse_args(["demo", "--seed", str(seed)])
    laid = best_layout("s", frame_of(400, 400), counts, 1, args)
    check_gaps(laid, 400, 400)
    for split in ("train", "val", "test"):
        found = sum(blocks.count_in_block(counts, 1, block) for block in laid
                    if block.split == split)
        assert (found > 0).all()


def test_best_layout__a_class_with_one_point_is_trained():
    counts = points({0: [(r, 200) for r in range(5, 400, 10)], 1: [(330, 50)]})
    for seed in range(4):
        args = parse_args(["demo", "--seed", str(seed)])
        laid = best_layout("s", frame_of(400, 400), counts, 1, args)
        owner = [block.split for block in laid
                 if block.top <= 330 < block.bottom and block.left <= 50 < block.right]
        assert owner == ["train"]


def test_best_layout__refuses_a_site_that_is_too_small():
    with pytest.raises(ValueError, match="'s' is 20 x 20 px, too small to be cut into blocks"):
        best_layout("s", frame_of(20, 20), np.ones((1, 20, 20), int), 1, ARGS)


class Everywhere:
    """A SceneReader whose pixels are all labelled 0."""

    def __init__(self, scene, source):
        pass

    def read_labels(self, region):
        labels = np.full((region.height, region.width), NO_LABEL, np.uint8)
        labels[::2] = 0
        return labels

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_split_by_block__scenes_that_overlap_are_cut_on_the_ground(monkeypatch):
    monkeypatch.setattr(blocks, "SceneReader", Everywhere)
    places = [grid(0, 0), grid(150, 0, 0.5)]  # the second half as coarse
    scenes = [Scene(name, None, None, name) for name in "ab"]
    source = RawDataset(land_classes(CLASSES), scenes)
    sizes = [(100, 200), (200, 400)]
    source = join_sites(source, footprints(source, sizes, places))
    whole = [Region("", number, 0, 0, *size) for number, size in enumerate(sizes)]
    regions = split_by_block(source, whole, ARGS)
    assert {region.split for region in regions} == {"train", "val", "test"}
    assert len({region.scene for region in regions}) == 2
    for one in regions:
        for other in regions:
            ground = [source.scenes[region.scene].footprint.bounds(*region.window)
                      for region in (one, other)]
            assert one.split == other.split or apart(*ground) >= BLOCK_GAP


def test_split_by_block__seasons_are_cut_alike(monkeypatch):
    monkeypatch.setattr(blocks, "SceneReader", Everywhere)
    scenes = [Scene(name, None, None, "village") for name in ("spring", "autumn")]
    source = RawDataset(land_classes(CLASSES), scenes, aligned=True)
    regions = split_by_block(source, [Region("", n, 0, 0, 300, 200) for n in (0, 1)], ARGS)
    assert [region for region in regions if region.scene == 1] == [
        region._replace(scene=1) for region in regions if region.scene == 0]


def test_split_by_block__refuses_images_that_lie_nowhere():
    scenes = [Scene("1_a", "a.jpg", "a.png", "1+3"), Scene("3_a", "b.jpg", "b.png", "1+3")]
    with pytest.raises(ValueError, match=r"--split-by block: the images of place '1\+3'"):
        split_by_block(RawDataset([], scenes), [Region("", n, 0, 0, 9, 9) for n in (0, 1)], ARGS)


