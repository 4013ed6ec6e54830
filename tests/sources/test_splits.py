"""Which ground goes to which split: shares, blocks, tiles, and polygons whose labels never part."""

import csv

import numpy as np
import pytest

from geo.raster import write_geotiff
from prepare_data import main, parse_args
from sources import public as datasets
from sources import splits
from sources.public import RawDataset, Scene
from sources.scenes import Region
from sources.splits import cut, cut_blocks, draw, find_polygons, plan_regions


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


def test_fractions_are_refused_where_splits_are_named():
    source = RawDataset("x", [], [Scene("a", "a.tif", "m.tif", "a", "train"), Scene("b", "b.tif", "n.tif", "b", "test")])
    sizes = [(9, 9), (9, 9)]
    for words in ([], ["--test-places", "a"], ["--split-list", "list.csv"]):
        with pytest.raises(ValueError, match="--fractions: the splits are named here"):
            plan_regions(source, sizes, parse_args(["folder", "--fractions", "0.5", "0.25", "0.25", *words]))
    assert [region.split for region in plan_regions(source, sizes, parse_args(["folder"]))] == ["train", "test"]


def test_blocks_of_images_that_show_each_other_s_ground_are_refused():
    source = RawDataset("x", [], [Scene("1_a", "a.jpg", "a.png", "1+3"), Scene("3_a", "b.jpg", "b.png", "1+3")])
    with pytest.raises(ValueError, match=r"--split-by block: the images of place '1\+3' show ground of each other's"):
        plan_regions(source, [(300, 300), (300, 300)], parse_args(["dubai", "--split-by", "block"]))


def test_polygons_are_pixels_that_touch():
    pixels = [(0, 0), (1, 1), (1, 2), (5, 5), (5, 7), (6, 6), (9, 0)]
    found = sorted(sorted(polygon) for polygon in find_polygons(pixels))
    assert found == [[(0, 0), (1, 1), (1, 2)], [(5, 5), (5, 7), (6, 6)], [(9, 0)]]
    assert find_polygons([]) == []


def write_polygons(folder, count=30, side=120):
    """Two seasons of a place, and a mask of `count` rectangles of three classes, of which no two touch; returns it."""
    rng = np.random.default_rng(0)
    mask = np.full((side, side), 255, np.uint8)
    for number, cell in enumerate(rng.permutation(36)[:count].tolist()):  # one in each cell of 20 px at most
        row, col, height, width = cell // 6 * 20, cell % 6 * 20, *rng.integers(1, 18, 2)
        mask[row:row + height, col:col + width] = number % 3
    for season in ("spring", "autumn"):
        (folder / season).mkdir()
        image = rng.integers(1, 200, (side, side, 2)).astype(np.uint8)
        write_geotiff(folder / season / "p.tif", [image], side, side, 2, "uint8")
    write_geotiff(folder / "p.tif", [mask], side, side, 1, "uint8")
    (folder / "classes.csv").write_text("id,name\n0,a\n1,b\n2,c\n")
    return mask


@pytest.mark.parametrize("overlap", [0, 7])
def test_no_pixel_of_a_polygon_is_labelled_in_two_splits(tmp_path, overlap):
    mask = write_polygons(tmp_path)
    main(parse_args(["sentinel2", "--images", str(tmp_path / "spring"), str(tmp_path / "autumn"), "--masks",
                     str(tmp_path / "p.tif"), "--classes", str(tmp_path / "classes.csv"), "--out", str(tmp_path / "out"),
                     "--tile", "32", "--overlap", str(overlap), "--split-by", "polygon", "--fractions", "5", "3", "2"]))
    seen = {}  # what each season's tiles of each split show of the place
    with open(tmp_path / "out/tiles.csv", newline="") as file:
        for tile in csv.DictReader(file):
            view = seen.setdefault((tile["scene"], tile["split"]), np.full((160, 160), 255))
            row, col = int(tile["row"]), int(tile["col"])
            labels = np.load(tmp_path / f"out/{tile['split']}_labels.npy")[int(tile["index"])]
            assert (labels != 255).any()
            part = view[row:row + 32, col:col + 32]
            part[labels != 255] = labels[labels != 255]
    assert len(seen) == 6
    for scene in ("spring_p", "autumn_p"):
        views = np.stack([seen[scene, split][:120, :120] for split in ("train", "val", "test")])  # (3, H, W)
        assert ((views != 255).sum(0) == (mask != 255)).all()  # each labelled pixel in one split alone
        assert (views.min(0) == mask).all()
        for polygon in find_polygons(zip(*np.nonzero(mask != 255))):
            assert len({(views[:, row, col] != 255).argmax() for row, col in polygon}) == 1
        assert all(set(np.unique(view)) == {0, 1, 2, 255} for view in views)  # each class is in each split
    for split in ("train", "val", "test"):
        assert (seen["spring_p", split] == seen["autumn_p", split]).all()


def test_masks_that_are_not_sparse_are_not_split_by_polygon(tmp_path, monkeypatch):
    write_polygons(tmp_path)
    monkeypatch.setattr(splits, "MOST_LABELLED", 100)
    with pytest.raises(ValueError, match="p.tif labels more than 100 px: --split-by polygon is for sparse"):
        main(parse_args(["folder", "--images", str(tmp_path / "spring"), "--masks", str(tmp_path / "p.tif"), "--classes",
                         str(tmp_path / "classes.csv"), "--out", str(tmp_path / "out"), "--split-by", "polygon"]))


def test_scenes_of_a_place_are_drawn_together():
    scenes = [datasets.Scene(f"s{number}", None, None, f"place{number // 2}") for number in range(20)]
    source = datasets.RawDataset("x", [], scenes)
    for seed in range(5):
        drawn = splits.scene_splits(source, parse_args(["folder", "--seed", str(seed), "--split-by", "scene"]))
        assert drawn[::2] == drawn[1::2] and set(drawn) == {"train", "val", "test"}
