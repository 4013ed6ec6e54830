"""Which ground goes to which split: shares, blocks, tiles, and polygons whose labels never part."""

import pytest

from prepare_data import parse_args
from scenes import Region
from splits import cut, cut_blocks, draw


def test_cut_covers_a_region_and_stays_inside():
    tiles = cut(Region("train", 0, 100, 200, 20, 9), 8, 2)
    assert [(tile.row, tile.col, tile.height, tile.width) for tile in tiles] == [
        (100, 200, 8, 8), (100, 206, 8, 3), (106, 200, 8, 8), (106, 206, 8, 3), (112, 200, 8, 8), (112, 206, 8, 3)]
    assert len(cut(Region("train", 0, 0, 0, 8, 8), 8, 2)) == 1  # nothing is left over
    assert len(cut(Region("train", 0, 0, 0, 1, 1), 8, 2)) == 1


def test_draw_gives_the_fractions_and_leaves_no_split_out():
    def counts(splits):
        return [splits.count(name) for name in ("train", "val", "test")]

    assert counts(draw(100, (.7, .2, .1), 0)) == [70, 20, 10]
    assert counts(draw(3, (.7, .2, .1), 0)) == [1, 1, 1]
    assert counts(draw(5, (8, 0, 2), 0)) == [4, 0, 1]
    assert draw(50, (.7, .2, .1), 1) == draw(50, (.7, .2, .1), 1) != draw(50, (.7, .2, .1), 2)
    with pytest.raises(ValueError, match="2 scenes or tiles do not fill 3 splits"):
        draw(2, (.7, .2, .1), 0)


def test_blocks_of_two_seasons_of_a_place_lie_on_the_same_ground(tmp_path):
    class Season:
        place, image = "village", "x.tif"

    args = parse_args(["folder", "--seed", "3"])
    assert cut_blocks(Region("", 0, 0, 0, 300, 200), Season, args) == [
        block._replace(scene=0) for block in cut_blocks(Region("", 1, 0, 0, 300, 200), Season, args)]
    with pytest.raises(ValueError, match="too small"):
        cut_blocks(Region("", 0, 0, 0, 20, 20), Season, args)
