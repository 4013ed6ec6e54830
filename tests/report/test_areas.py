"""Adjusted areas as a published example gives them, and tables of areas."""

import csv

import numpy as np
import pytest

from report.areas import adjusted_shares, area_rows, read_areas, stratified_accuracy

HECTARES = 0.09  # of a pixel of 30 m


def test_adjusted_shares__of_the_published_example():
    """Olofsson et al. 2014, table 8: deforestation, forest gain, forest, non-forest."""
    sample = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    mapped = np.array([200_000, 150_000, 3_200_000, 6_450_000])  # px
    shares, intervals = adjusted_shares(sample.T, mapped)
    assert np.round(shares * 10e6 * HECTARES).tolist() == [21_158, 11_686, 285_770, 581_386]
    assert np.round(intervals * 10e6 * HECTARES).tolist() == [6_158, 3_756, 15_510, 16_282]
    row = area_rows(sample.T, mapped, ["deforestation", "gain", "forest", "other"], 900_000)[0]
    assert row["mapped_ha"] == 18_000
    assert round(row["adjusted_ha"]) == 21_158
    assert round(row["interval_ha"]) == 6_158
    assert row["mapped_percent"] == 2
    assert row["adjusted_percent"] == pytest.approx(100 * shares[0])


@pytest.mark.slow
@pytest.mark.parametrize("points, lowest, highest", [(10, 0.62, 0.86), (50, 0.89, 0.94)])
def test_adjusted_shares__intervals_hold_with_50_points_per_class(points, lowest, highest):
    """How often they do, over samples of a map of three classes of which 90 % is right."""
    random = np.random.default_rng(0)
    mapped = np.array([0.6, 0.3, 0.1])
    rows = np.full((3, 3), 0.05) + 0.85 * np.eye(3)  # shares of the true classes per mapped one
    held = []
    for _ in range(2000):
        sample = np.array([random.multinomial(points, row) for row in rows])
        shares, intervals = adjusted_shares(sample.T, mapped)
        held.append(abs(shares - mapped @ rows) <= intervals)
    assert (lowest < np.mean(held, axis=0)).all() and (np.mean(held, axis=0) < highest).all()


def test_stratified_accuracy__of_the_published_example():
    """Accuracies of the same example; the spread of the producer's as in repeated samples."""
    sample = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    mapped = [200_000, 150_000, 3_200_000, 6_450_000]  # px
    found = stratified_accuracy(sample.T, mapped)
    rounded = {name: np.round(value, 2).tolist() for name, value in found.items()}
    assert rounded == {
        "overall": 0.95, "overall_interval": 0.02,
        "users": [0.88, 0.73, 0.93, 0.96], "users_interval": [0.07, 0.10, 0.04, 0.02],
        "producers": [0.75, 0.85, 0.93, 0.96], "producers_interval": [0.21, 0.25, 0.03, 0.02]}
    random = np.random.default_rng(0)
    producers = []
    for _ in range(400):
        drawn = [random.multinomial(row.sum(), row / row.sum()) for row in sample]
        producers.append(stratified_accuracy(np.transpose(drawn), mapped)["producers"])
    half_widths = 1.96 * np.std(producers, axis=0)
    assert found["producers_interval"] == pytest.approx(half_widths, rel=0.15)


def test_stratified_accuracy__class_that_is_not_mapped_is_never_found():
    found = stratified_accuracy([[5, 0], [5, 0]], [90, 0])
    assert (found["overall"], found["producers"].tolist()) == (0.5, [1, 0])
    assert np.isnan(found["users"][1])


def test_adjusted_shares__are_the_truth_where_every_mapped_pixel_is_labelled():
    counts = np.array([[30, 10], [20, 40]])
    assert adjusted_shares(counts, counts.sum(0))[0].tolist() == pytest.approx([0.4, 0.6])


def test_adjusted_shares__mapped_class_without_sample_leaves_no_estimate():
    shares, intervals = adjusted_shares([[5, 0], [5, 0]], [90, 10])
    assert np.isnan(shares).all()
    assert np.isnan(intervals).all()


def test_adjusted_shares__class_that_is_not_mapped_needs_no_sample():
    shares, intervals = adjusted_shares([[5, 0], [5, 0]], [90, 0])
    assert shares.tolist() == [0.5, 0.5]
    assert np.isfinite(intervals).all()


def test_area_rows__one_sample_has_no_interval():
    assert area_rows([[1, 0], [0, 8]], [50, 50], ["a", "b"])[1] == {
        "class": "b", "mapped_percent": 50.0, "adjusted_percent": 50.0, "interval_percent": None}


def write_table(path, rows, columns=("class", "pixels", "share_percent", "area_ha")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_read_areas__of_several_scenes_add_up(tmp_path):
    first = write_table(tmp_path / "a.csv", [("water", 100, 25, "1.5"), ("wood", 300, 75, "4.5")])
    second = write_table(tmp_path / "b.csv", [("water", 10, 100, "0.5"), ("wood", 0, 0, "0")])
    assert read_areas([first, second], ["water", "wood"]) == ([2.0, 4.5], 6.5)


def test_read_areas__one_scene_without_pixel_size_makes_all_px(tmp_path):
    first = write_table(tmp_path / "a.csv", [("water", 100, 25, "1.5"), ("wood", 300, 75, "4.5")])
    second = write_table(tmp_path / "b.csv", [("water", 1, 50), ("wood", 1, 50)],
                         ("class", "pixels", "share_percent"))
    assert read_areas([first, second], ["water", "wood"]) == ([101, 301], None)


@pytest.mark.parametrize("rows", [[("water", 1, 50, 1)],
                                  [("wood", 1, 50, 1), ("water", 1, 50, 1)],
                                  [],
                                  [("water", "many", 0, 1), ("wood", 0, 0, 1)]])
def test_read_areas__another_table_is_refused_in_one_line(tmp_path, rows):
    path = write_table(tmp_path / "a.csv", rows)
    with pytest.raises(ValueError, match="--areas .*a.csv") as error:
        read_areas([path], ["water", "wood"])
    assert "\n" not in str(error.value)


def test_read_areas__a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="--areas .*a.csv"):
        read_areas([tmp_path / "a.csv"], ["water", "wood"])
