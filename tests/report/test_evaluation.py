"""Tables of a scored split, by hand."""

import pytest
import torch

from report.evaluation import boundary_scores, scene_rows, split_tables, tables_text
from report.stats import EvalStats


def test_boundary_scores__by_hand():
    stats = EvalStats(3, [0])
    stats.counts[0] = torch.tensor([[50, 10, 0], [5, 35, 0], [0, 0, 0]])
    stats.boundary_confusion = torch.tensor([[10, 10, 0], [0, 0, 0], [0, 0, 0]])
    scores = boundary_scores(stats, ["a", "b", "c"])
    assert scores["width_px"] == 3
    assert scores["within"] == {"pixels": 20, "miou": 0.25, "iou": {"a": 0.5, "b": 0.0, "c": None}}
    assert scores["beyond"]["pixels"] == 80
    assert scores["beyond"]["iou"] == {"a": 40 / 45, "b": 35 / 40, "c": None}


def test_scene_rows__by_hand_the_worst_first():
    stats = EvalStats(2, [0, 1, 1, 2, 0])
    stats.counts[:] = torch.tensor([[[8, 0], [0, 8]], [[0, 4], [0, 0]], [[2, 0], [2, 0]]])
    positions = [("good", 0, 0), ("bad", 0, 0), ("bad", 0, 8), ("bad", 0, 90), ("good", 0, 8)]
    bad, good = scene_rows(stats, positions, ["x", "y"])
    assert bad == {"scene": "bad", "tiles": 3, "pixels": 8, "miou": pytest.approx((2 / 8 + 0) / 2),
                   "pixel_accuracy": 0.25, "iou_x": 0.25, "iou_y": 0.0}
    assert (good["scene"], good["tiles"], good["miou"]) == ("good", 2, 1.0)


def test_scene_rows__a_scene_without_labels_is_last_and_has_no_score():
    stats = EvalStats(2, [0, 1])
    stats.counts[1] = torch.tensor([[1, 0], [0, 0]])
    some, none = scene_rows(stats, [("none", 0, 0), ("some", 0, 0)], ["x", "y"])
    assert (some["scene"], none["scene"]) == ("some", "none")
    assert none["miou"] is none["pixel_accuracy"] is None


def test_split_tables__areas_are_of_the_labelled_pixels_or_of_a_map():
    stats = EvalStats(2, [0])
    stats.counts[0] = torch.tensor([[30, 20], [10, 40]])
    positions = [("scene", 0, 0)]
    areas = split_tables(stats, stats.counts[0], positions, ["x", "y"], gsd_m=100)["areas"]
    assert [row["mapped_ha"] for row in areas] == [40, 60]
    assert [row["adjusted_ha"] for row in areas] == pytest.approx([50, 50])  # the truth
    mapped = [30, 10], None  # px of a map without a known pixel size
    areas = split_tables(stats, stats.counts[0], positions, ["x", "y"], 100, mapped)["areas"]
    assert [row["mapped_percent"] for row in areas] == [75, 25]
    assert "mapped_ha" not in areas[0]
    fewer = split_tables(stats, stats.counts[0], positions, ["x", "y"], 100, mapped, 10)["areas"]
    assert fewer[0]["adjusted_percent"] == pytest.approx(areas[0]["adjusted_percent"])
    share = 30 / 40  # of 4 observations that the map shows as x, and 2 / 3 of 6 as y
    variance = 0.75 ** 2 * share * (1 - share) / 3 + 0.25 ** 2 * 2 / 9 / 5
    assert fewer[0]["interval_percent"] == pytest.approx(196 * variance ** 0.5)


def test_tables_text__shows_the_worst_ten_scenes_and_the_pixels():
    stats = EvalStats(2, range(12))
    stats.counts[:, 0, 0] = 100
    stats.counts[:, 0, 1] = torch.arange(12)
    positions = [(f"scene{n:02}", 0, 0) for n in range(12)]
    text = tables_text(split_tables(stats, stats.counts.sum(0), positions, ["x", "y"]))
    assert "the worst 10 of 12" in text
    assert "scene11" in text
    assert "scene01" not in text
    assert "calibration error - over 1,266 labelled pixels" in text
