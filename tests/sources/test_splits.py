"""Which ground goes to which split: shares, blocks, tiles, and polygons whose labels never part."""

import csv
import dataclasses

import numpy as np
import pytest

from geo.raster import write_geotiff
from prepare_data import main, parse_args
from sources import splits
from sources.labels import land_classes
from sources.raw import RawDataset, Region, Scene
from sources.splits import (
    cut, guess_tile, listed_tiles, number_polygons, plan_regions, split_by_scene)
from test_overlap import grid


@pytest.mark.parametrize("height, width, overlap, pad", [
    (20, 9, 2, True), (20, 9, 0, False), (8, 8, 2, False), (1, 1, 2, True), (3, 20, 4, False),
    (26, 26, 4, True), (25, 9, 0, False)])
def test_cut__each_pixel_counts_once_in_tiles_of_real_ground(height, width, overlap, pad):
    tiles = cut(Region("train", 0, 100, 200, height, width), 8, overlap, pad)
    seen = np.zeros((height, width), int)
    for tile in tiles:
        row, col = tile.row - 100, tile.col - 200
        assert row >= 0 and col >= 0 and row + tile.height <= height and col + tile.width <= width
        assert pad or (tile.height, tile.width) == (min(8, height), min(8, width))
        seen[row + tile.shared_rows : row + tile.height, col + tile.shared_cols : col + 8] += 1
    assert seen.min() == 1 and (overlap or seen.max() == 1)
    assert len(tiles) == len(cut(tiles[0]._replace(height=height, width=width), 8, overlap, True))


def test_cut__refuses_more_tiles_than_memory_holds():
    with pytest.raises(ValueError, match="10,000,000,000 tiles.*--tile"):
        cut(Region("train", 0, 0, 0, 10**6, 10**6), 10, 0)
    with pytest.raises(ValueError, match="--overlap"):
        cut(Region("train", 0, 0, 0, 5000, 5000), 256, 255)


@pytest.mark.parametrize("sides, overlap, tile", [
    ([(600, 420), (600, 256)], 0, 256), ([(600, 420), (600, 100)], 0, 96), ([(20, 900)], 0, 64),
    ([(5000, 5000), (60, 60)], 0, 256), ([(60, 60)], 8, 256)])
def test_guess_tile__is_filled_by_almost_all_ground(sides, overlap, tile):
    assert guess_tile([Region("train", 0, 0, 0, *side) for side in sides], overlap) == tile


def test_guess_tile__is_at_most_the_largest():
    assert guess_tile([Region("train", 0, 0, 0, 600, 420)], 0, largest=128) == 128


def test_plan_regions__refuses_fractions_where_splits_are_named():
    source = RawDataset(
        [], [Scene("a", "a.tif", "m.tif", "a", "train"), Scene("b", "b.tif", "n.tif", "b", "test")])
    sizes = [(9, 9), (9, 9)]
    for words in ([], ["--test-places", "a"], ["--split-list", "list.csv"]):
        with pytest.raises(ValueError, match="--fractions: the splits are named here"):
            plan_regions(
                source, sizes, parse_args(["demo", "--fractions", "0.5", "0.25", "0.25", *words]))
    assert [region.split for region in plan_regions(source, sizes, parse_args(["demo"]))] == [
        "train", "test"]


def test_number_polygons__pixels_that_touch_have_one_number():
    pixels = [(0, 0), (1, 1), (1, 2), (5, 5), (5, 7), (6, 6), (9, 0)]
    numbers = number_polygons(dict.fromkeys(pixels)).tolist()
    assert numbers[0] == numbers[1] == numbers[2] and numbers[3] == numbers[4] == numbers[5]
    assert sorted({numbers[0], numbers[3], numbers[6]}) == [0, 1, 2]
    assert len(number_polygons({})) == 0


def write_polygons(folder, count=30, side=120):
    """Write two seasons of a site and a mask of `count` rectangles that do not touch; return it."""
    rng = np.random.default_rng(0)
    mask = np.full((side, side), 255, np.uint8)
    for number, cell in enumerate(
        rng.permutation(36)[:count].tolist()):  # one in each cell of 20 px at most
        row, col, height, width = cell // 6 * 20, cell % 6 * 20, *rng.integers(1, 18, 2)
        mask[row : row + height, col : col + width] = number % 3
    for season in ("spring", "autumn"):
        (folder / season).mkdir()
        image = rng.integers(1, 200, (side, side, 2)).astype(np.uint8)
        write_geotiff(folder / season / "p.tif", [image], side, side, 2, "uint8")
    write_geotiff(folder / "p.tif", [mask], side, side, 1, "uint8")
    (folder / "classes.csv").write_text("id,name\n0,a\n1,b\n2,c\n")
    return mask


@pytest.mark.parametrize("overlap", [0, 7])
def test_split_by_polygon__no_polygon_is_labelled_in_two_splits(tmp_path, overlap):
    mask = write_polygons(tmp_path)
    main(
        parse_args(
            [
                "sentinel2", "--images", str(tmp_path / "spring"), str(tmp_path / "autumn"),
                "--masks", str(tmp_path / "p.tif"), "--classes", str(tmp_path / "classes.csv"),
                "--out", str(tmp_path / "out"), "--tile", "32", "--overlap", str(overlap),
                "--split-by", "polygon", "--fractions", "5", "3", "2"]
        )
    )
    seen = {}  # what each season's tiles of each split show of the place
    with open(tmp_path / "out/tiles.csv", newline="") as file:
        for tile in csv.DictReader(file):
            view = seen.setdefault((tile["scene"], tile["split"]), np.full((160, 160), 255))
            row, col = int(tile["row"]), int(tile["col"])
            labels = np.load(tmp_path / f"out/{tile['split']}_labels.npy")[int(tile["index"])]
            assert (labels != 255).any()
            part = view[row : row + 32, col : col + 32]
            part[labels != 255] = labels[labels != 255]
    assert len(seen) == 6
    for scene in ("spring_p", "autumn_p"):
        views = np.stack(
            [seen[scene, split][:120, :120] for split in ("train", "val", "test")])  # (3, H, W)
        assert (
            (views != 255).sum(0) == (mask != 255)).all()  # each labelled pixel in one split alone
        assert (views.min(0) == mask).all()
        rows, cols = np.nonzero(mask != 255)
        polygons = number_polygons(dict.fromkeys(zip(rows.tolist(), cols.tolist())))
        split_of = (views[:, rows, cols] != 255).argmax(0)
        assert len(set(zip(polygons, split_of))) == polygons.max() + 1  # each polygon in one split
        assert all(
            set(np.unique(view)) == {0, 1, 2, 255} for view in views)  # each class is in each split
    for split in ("train", "val", "test"):
        assert (seen["spring_p", split] == seen["autumn_p", split]).all()


@pytest.mark.parametrize("how, place", [
    ("polygon", (0.4, -0.3, 1)), ("polygon", (10, 0, 0.5)), ("tile", (0, 0, 1))])
def test_plan_regions__a_click_is_in_one_split_in_all_scenes_that_show_it(tmp_path, how, place):
    """Clicks 8 m apart, in a scene of 1 m pixels, and in another one on the same ground."""
    places = {"a": (0, 0, 1), "b": place}  # x, y and side of a pixel, m
    for name, where in places.items():
        write_geotiff(tmp_path / f"{name}.tif", [np.zeros((40, 40), np.uint8)], 40, 40, 1, "uint8",
                      georeference=grid(*where))
    (tmp_path / "clicks.csv").write_text("x,y,class\n" + "".join(
        f"{8 * i + 4.2},{-8 * j - 4.2},wood\n" for i in range(5) for j in range(5)))
    main(parse_args(["points", *(str(tmp_path / f"{name}.tif") for name in places),
                     str(tmp_path / "clicks.csv"), "--split-by", how, "--tile", "16", "--out",
                     str(tmp_path / "out")]))
    splits_of = {}  # {click: its splits}
    with open(tmp_path / "out/tiles.csv", newline="") as file:
        for tile in csv.DictReader(file):
            labels = np.load(tmp_path / f"out/{tile['split']}_labels.npy")[int(tile["index"])]
            x, y, side = places[tile["scene"]]
            for row, col in np.argwhere(labels != 255) + (int(tile["row"]), int(tile["col"])):
                click = ((x + (col + 0.5) * side) // 8, (y - (row + 0.5) * side) // 8)
                splits_of.setdefault(click, set()).add(tile["split"])
    assert len(splits_of) == 25 and all(len(splits) == 1 for splits in splits_of.values())


def test_split_by_polygon__refuses_masks_that_are_not_sparse(tmp_path, monkeypatch):
    write_polygons(tmp_path)
    monkeypatch.setattr(splits, "MAX_LABELLED", 100)
    with pytest.raises(
        ValueError, match="p.tif labels more than 100 px: --split-by polygon is for sparse"):
        main(
            parse_args(
                [
                    "folder", "--images", str(tmp_path / "spring"), "--masks",
                    str(tmp_path / "p.tif"), "--classes", str(tmp_path / "classes.csv"), "--out",
                    str(tmp_path / "out"), "--split-by", "polygon"]
            )
        )


def test_split_by_scene__scenes_of_a_site_are_drawn_together():
    scenes = [Scene(f"s{number}", None, None, f"site{number // 2}") for number in range(20)]
    source = RawDataset([], scenes)
    whole = [Region("", number, 0, 0, 9, 9) for number in range(20)]
    for seed in range(5):
        args = parse_args(["demo", "--seed", str(seed), "--split-by", "scene"])
        drawn = [region.split for region in split_by_scene(source, whole, args)]
        assert drawn[::2] == drawn[1::2] and set(drawn) == {"train", "val", "test"}


def test_listed_tiles__are_regions_of_512_px_row_by_row(tmp_path):
    source = RawDataset(land_classes([(0, "a", None)]), [Scene("s_1", None, None, "s_1")])
    (tmp_path / "test.txt").write_text("s_1_0\ns_1_5\n")
    assert listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"]) == [
        Region("test", 0, 0, 0, 512, 512), Region("test", 0, 512, 1024, 488, 76)]
    source = dataclasses.replace(source, scale=0.25)
    assert listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"])[1] == Region(
        "test", 0, 128, 256, 122, 19)
    for line in ("s_1_6", "s_2_0", "s_1_x", "s"):
        (tmp_path / "test.txt").write_text(line)
        with pytest.raises(ValueError, match=f"'{line}'"):
            listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"])


@pytest.mark.parametrize(
    "train, val, refused",
    [
        (
            "a_spring_0\na_spring_2\n", "a_spring_1\na_spring_2\n",
            r"val.txt: 'a_spring_2' is in .*train.txt already"),
        ("a_spring_0\na_spring_00\n", "", r"train.txt: 'a_spring_00' is in .*train.txt already"),
        (
            "a_spring_0\n", "a_autumn_0\n",
            r"val.txt: 'a_autumn_0' is in .*train.txt already, or the same ground is"),
        ("a_spring_0\na_autumn_0\n", "b_0\n", None),
    ],
)
def test_listed_tiles__each_is_on_one_side_and_there_once(tmp_path, train, val, refused):
    scenes = [Scene(name, None, None, name[0]) for name in ("a_spring", "a_autumn", "b")]
    source = RawDataset(land_classes([(0, "a", None)]), scenes, aligned=True)
    for name, text in (("train", train), ("val", val)):
        (tmp_path / f"{name}.txt").write_text(text)
    lists = [tmp_path / "train.txt", tmp_path / "val.txt"]
    if refused is None:
        assert len(listed_tiles(source, [(1000, 1100)] * 3, lists)) == 3
        return
    with pytest.raises(ValueError, match=refused):
        listed_tiles(source, [(1000, 1100)] * 3, lists)
    if "a_autumn" in val:  # scenes that do not show the same ground
        source = dataclasses.replace(source, aligned=False)
        assert len(listed_tiles(source, [(1000, 1100)] * 3, lists)) == 2


def test_listed_tiles__a_list_may_start_with_a_byte_order_mark_but_must_be_text(tmp_path):
    source = RawDataset(land_classes([(0, "a", None)]), [Scene("s", None, None, "s")])
    (tmp_path / "val.txt").write_text("s_0\n", encoding="utf-8-sig")
    assert len(listed_tiles(source, [(9, 9)], [tmp_path / "val.txt"])) == 1
    (tmp_path / "val.txt").write_bytes(b"s_0\n\0\xff")
    with pytest.raises(ValueError, match="val.txt is not a text"):
        listed_tiles(source, [(9, 9)], [tmp_path / "val.txt"])
