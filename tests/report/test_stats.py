"""What is counted along the way, on tiles small enough to count by eye, and areas as a published example gives them."""

import csv
import math

import numpy as np
import pytest
import torch

from report.stats import (
    BINS,
    EvalStats,
    adjusted_shares,
    area_rows,
    contiguous_blocks,
    mean_iou,
    near_boundary,
    read_areas,
    tile_places,
)

TRUTH = torch.tensor([[[0, 0, 0], [1, 1, 255], [0, 1, 255]], [[1, 1, 1], [1, 1, 1], [1, 1, 1]]], dtype=torch.uint8)
GUESS = torch.tensor([[[0, 0, 1], [1, 1, 0], [0, 0, 2]], [[1, 1, 1], [1, 1, 1], [1, 1, 0]]], dtype=torch.uint8)


def logits_of(guess, classes, odds):
    """Logits whose largest softmax probability is odds / (odds + classes - 1), at the class that is guessed."""
    return torch.nn.functional.one_hot(guess.long(), classes).permute(0, 3, 1, 2).float() * math.log(odds)


def tallied(blocks=(0, 1), odds=8.0, parts=1):
    tally = EvalStats(3, blocks)
    for start, guess, truth in zip((0, 1), GUESS.chunk(parts), TRUTH.chunk(parts)):
        tally.update(start, logits_of(guess, 3, odds), guess, truth)
    return tally


# ---------------------------------------------------------------- counts

@pytest.mark.parametrize("parts", [1, 2])
def test_counts_by_hand_however_batches_fall(parts):
    tally = tallied(parts=parts)
    assert tally.counts.tolist() == [[[3, 1, 0], [1, 2, 0], [0, 0, 0]], [[0, 0, 0], [1, 8, 0], [0, 0, 0]]]
    assert tally.tiles.tolist() == [[7, 5, pytest.approx((3 / 5 + 2 / 4) / 2)], [9, 8, pytest.approx((0 + 8 / 9) / 2)]]


def test_tiles_of_one_block_are_one_matrix():
    assert tallied(blocks=[0, 0]).counts.tolist() == [[[3, 1, 0], [2, 10, 0], [0, 0, 0]]]


def test_tiles_without_labels_count_for_nothing():
    tally = EvalStats(2, [0])
    tally.update(0, torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.uint8), torch.full((1, 3, 3), 255, dtype=torch.uint8))
    assert tally.counts.sum() == 0
    assert tally.tiles[0, 0] == 0 and math.isnan(tally.tiles[0, 2]) and math.isnan(tally.calibration_error())


def test_counts_with_255_classes():
    labels = torch.arange(255, dtype=torch.uint8).reshape(1, 15, 17)
    tally = EvalStats(255, [0])
    tally.update(0, torch.zeros(1, 255, 15, 17), labels, labels)
    assert torch.equal(tally.counts[0], torch.eye(255, dtype=torch.int64)) and torch.equal(tally.near, tally.counts[0])


def test_mean_iou_of_many_matrices_is_over_the_classes_there():
    counts = torch.tensor([[[3, 1, 0], [1, 2, 0], [0, 0, 0]], [[0, 0, 0], [0, 5, 0], [0, 0, 0]], [[0] * 3] * 3])
    assert mean_iou(counts)[:2].tolist() == [pytest.approx(0.55), 1.0] and math.isnan(mean_iou(counts)[2])


# ---------------------------------------------------------------- boundaries

def test_near_is_so_many_px_on_either_side_of_a_boundary():
    labels = torch.zeros(1, 5, 12, dtype=torch.uint8)
    labels[:, :, 6:] = 1
    assert near_boundary(labels, 3)[0].tolist() == [[False] * 3 + [True] * 6 + [False] * 3] * 5
    assert not near_boundary(labels * 0, 3).any()


def test_corners_count_by_rows_and_columns():
    labels = torch.zeros(1, 6, 6, dtype=torch.uint8)
    labels[0, 5, 5] = 1
    near = near_boundary(labels, 2)[0]
    assert near[3:, 3:].all() and near.sum() == 9


def test_no_label_is_no_class():
    labels = torch.zeros(1, 4, 9, dtype=torch.uint8)
    labels[:, :, 4:] = 255
    assert not near_boundary(labels, 3).any()
    labels[:, :, 6:] = 1  # two px without label between the classes: within 3 px are one column on either side, none in it
    assert near_boundary(labels, 3)[0].tolist() == [[False, False, False, True, False, False, True, False, False]] * 4


def test_near_against_every_pair_of_pixels():
    labels = torch.from_numpy(np.random.default_rng(0).choice(np.array([0, 0, 0, 0, 7, 255], np.uint8), (2, 9, 11)))
    near = near_boundary(labels, 2)
    for tile, row, col in np.ndindex(2, 9, 11):
        window = labels[tile, max(0, row - 2):row + 3, max(0, col - 2):col + 3]
        own = labels[tile, row, col]
        assert near[tile, row, col] == bool(own != 255 and ((window != own) & (window != 255)).any())


def test_near_and_beyond_are_scored_apart():
    truth = torch.zeros(1, 4, 12, dtype=torch.uint8)
    truth[:, :, 6:] = 1
    guess = truth.clone()
    guess[:, :, 5] = 1  # one column of the six near the boundary is wrong
    tally = EvalStats(2, [0])
    tally.update(0, logits_of(guess, 2, 4.0), guess, truth)
    assert tally.near.tolist() == [[8, 4], [0, 12]]
    assert (tally.counts[0] - tally.near).tolist() == [[12, 0], [0, 12]]


# ---------------------------------------------------------------- calibration

def test_calibration_error_by_eye():
    tally = tallied(odds=8.0)  # 80 % sure everywhere, and right in 13 of 16
    assert tally.calibration_error() == pytest.approx(abs(13 / 16 - 0.8))
    full = int(0.8 * BINS)
    assert tally.bins[0].tolist() == [0.0] * full + [16.0] + [0.0] * (BINS - full - 1)
    assert tally.bins[1, full] == 13 and tally.bins[2, full] == pytest.approx(16 * 0.8)


def test_errors_of_two_bins_do_not_cancel():
    guess, truth = torch.zeros(2, 1, 10, dtype=torch.uint8), torch.zeros(2, 1, 10, dtype=torch.uint8)
    truth[0, 0, :5] = 1  # where it is 90 % sure it is right in 5 of 10, where it is 50 % sure in 10 of 10
    logits = torch.cat([logits_of(guess[:1], 2, 9.0), torch.zeros(1, 2, 1, 10)])
    tally = EvalStats(2, [0, 0])
    tally.update(0, logits, guess, truth)
    assert tally.calibration_error() == pytest.approx((0.4 + 0.5) / 2)


def test_sure_of_everything_is_the_last_bin():
    guess = torch.zeros(1, 2, 2, dtype=torch.uint8)
    tally = EvalStats(2, [0])
    tally.update(0, logits_of(guess, 2, 1e30), guess, guess)
    assert tally.bins[0, -1] == 4 and tally.calibration_error() == 0


# ---------------------------------------------------------------- places

def write_places(folder, rows):
    with open(folder / "tiles.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "index", "scene", "row", "col"), *rows])


def test_places_are_of_the_split_in_the_order_of_its_tiles(tmp_path):
    write_places(tmp_path, [("test", 1, "b", 0, 8), ("train", 0, "x", 0, 0), ("test", 0, "a, a", 16, 0)])
    assert tile_places(tmp_path, "test", 2) == [("a, a", 16, 0), ("b", 0, 8)]


def test_missing_and_damaged_places_are_one_line(tmp_path):
    with pytest.raises(OSError, match="tiles.csv is missing"):
        tile_places(tmp_path, "test", 1)
    for rows in ([("test", 0, "a", "zero", 0)], [("test", 1, "a", 0, 0)], [("test",)]):
        write_places(tmp_path, rows)
        with pytest.raises(ValueError, match="tiles.csv is damaged"):
            tile_places(tmp_path, "test", 1)


def test_blocks_are_tiles_that_touch_in_one_scene():
    places = [("b", 0, 0), ("a", 0, 0), ("b", 8, 8), ("a", 0, 8), ("a", 0, 24), ("b", 40, 0), ("a", 6, 14)]
    # in b two touch at a corner; in a the last overlaps the one at column 8, and the one at column 24 is 2 px off
    assert contiguous_blocks(places, 8).tolist() == [0, 1, 0, 1, 2, 3, 1]


def test_seasons_of_a_place_are_one_block_where_the_set_names_its_places():
    places = [("spring", 0, 0), ("autumn", 0, 0), ("spring", 0, 24), ("autumn", 0, 24), ("x", 0, 0), ("autumn", 40, 0)]
    assert contiguous_blocks(places, 8).tolist() == [0, 1, 2, 3, 4, 5]
    assert contiguous_blocks(places, 8, {"spring": "here", "autumn": "here"}).tolist() == [0, 0, 1, 1, 2, 3]
    assert contiguous_blocks(places, 8, {"autumn": "spring"}).tolist() == [0, 0, 1, 1, 2, 3]


def test_a_long_chain_is_one_block():
    assert contiguous_blocks([("a", 0, 8 * n) for n in range(500)], 8).tolist() == [0] * 500


# ---------------------------------------------------------------- areas

def test_areas_of_the_published_example():
    """Olofsson et al. 2014, table 8 (map in rows): deforestation, forest gain, stable forest, stable non-forest."""
    sample = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    mapped = np.array([200_000, 150_000, 3_200_000, 6_450_000])  # px of 30 m
    shares, halves = adjusted_shares(sample.T, mapped)
    assert np.round(shares * 10e6 * 0.09).tolist() == [21_158, 11_686, 285_770, 581_386]  # ha
    assert np.round(halves * 10e6 * 0.09).tolist() == [6_158, 3_756, 15_510, 16_282]
    rows = area_rows(sample.T, mapped, ["deforestation", "gain", "forest", "other"], 900_000)
    assert rows[0]["mapped_ha"] == 18_000 and round(rows[0]["adjusted_ha"]) == 21_158 and round(rows[0]["interval_ha"]) == 6_158
    assert rows[0]["mapped_percent"] == 2 and rows[0]["adjusted_percent"] == pytest.approx(100 * shares[0])


def test_where_every_mapped_pixel_is_labelled_the_adjusted_area_is_the_truth():
    counts = np.array([[30, 10], [20, 40]])
    assert adjusted_shares(counts, counts.sum(0))[0].tolist() == pytest.approx([0.4, 0.6])


def test_a_class_mapped_without_a_sample_leaves_no_estimate_and_one_not_mapped_does_no_harm():
    shares, halves = adjusted_shares([[5, 0], [5, 0]], [90, 10])
    assert np.isnan(shares).all() and np.isnan(halves).all()
    shares, halves = adjusted_shares([[5, 0], [5, 0]], [90, 0])
    assert shares.tolist() == [0.5, 0.5] and np.isfinite(halves).all()
    shares, halves = adjusted_shares([[1, 0], [0, 8]], [50, 50])
    assert shares.tolist() == [0.5, 0.5] and np.isnan(halves).all()
    assert area_rows([[1, 0], [0, 8]], [50, 50], ["a", "b"])[1] == {
        "class": "b", "mapped_percent": 50.0, "adjusted_percent": 50.0, "interval_percent": None}


def write_table(path, rows, columns=("class", "pixels", "share_percent", "area_ha")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_areas_of_several_scenes_add_up(tmp_path):
    first = write_table(tmp_path / "a.csv", [("water", 100, 25, "1.5"), ("wood", 300, 75, "4.5")])
    second = write_table(tmp_path / "b.csv", [("water", 10, 100, "0.5"), ("wood", 0, 0, "0")])
    assert read_areas([first, second], ["water", "wood"]) == ([2.0, 4.5], 6.5)
    third = write_table(tmp_path / "c.csv", [("water", 1, 50), ("wood", 1, 50)], ("class", "pixels", "share_percent"))
    assert read_areas([first, third], ["water", "wood"]) == ([101, 301], None)


@pytest.mark.parametrize("rows", [[("water", 1, 50, 1)], [("wood", 1, 50, 1), ("water", 1, 50, 1)], [],
                                  [("water", "many", 0, 1), ("wood", 0, 0, 1)]])
def test_another_table_is_refused_in_one_line(tmp_path, rows):
    with pytest.raises(ValueError, match="a.csv is no table of areas of the classes water, wood") as error:
        read_areas([write_table(tmp_path / "a.csv", rows)], ["water", "wood"])
    assert "\n" not in str(error.value)
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="a.csv is no table of areas"):
        read_areas([tmp_path / "a.csv"], ["water", "wood"])
