"""Clicks drawn from masks, as files and back in their pixels, and intervals that hold or not."""

import numpy as np
import pytest
from clicked_scenes import APART, EACH, draw_clicks, write_clicks, write_polygons
from clicks import all_runs, holds, report_lines, summary
from experiments import RESULTS, read_rows

from geo.crs import WGS84, convert
from geo.georeference import from_affine
from sources.points import read_points

NAMES = ["sand", "water"]
UTM = from_affine((2.0, 0.0, 500_000.0, 0.0, -2.0, 5_400_000.0), 32632)
DEGREES = from_affine((1e-4, 0.0, 8.0, 0.0, -1e-4, 47.0), 4326, is_geographic=True)


def two_classes():
    """Labels of 120 px: no label, then class 0, then a narrow class 1."""
    labels = np.zeros((120, 120), np.uint8)
    labels[:, :20] = 255
    labels[:, 115:] = 1
    return labels


def test_draw_clicks__each_class_and_all_apart_by_the_seed():
    labels = two_classes()
    clicks = draw_clicks(labels, 40, seed=0)
    counts = np.bincount(labels[tuple(clicks.T)])
    assert len(clicks) == 40 and len(counts) == 2 and counts.min() >= EACH
    distances = np.abs(clicks[:, None] - clicks).max(axis=2) + 999 * np.eye(40, dtype=int)
    assert distances.min() == APART + 1
    assert np.array_equal(clicks, draw_clicks(labels, 40, seed=0))
    assert not np.array_equal(clicks, draw_clicks(labels, 40, seed=1))


@pytest.mark.parametrize("place", [UTM, None])
def test_write_clicks__lie_in_their_pixels_with_their_class(tmp_path, place):
    labels = two_classes()
    clicks = draw_clicks(labels, 20, seed=0)
    points = read_points(write_clicks(tmp_path, labels, NAMES, place, clicks))
    cols, rows = points.positions.T
    if place:
        assert points.crs == WGS84
        x, y = convert(cols, rows, WGS84, "EPSG:32632")
        rows, cols = np.floor(place.to_pixel(x, y))
    assert np.array_equal(np.stack([rows, cols], axis=1), clicks)
    assert np.array_equal(points.indices, labels[tuple(clicks.T)])


def test_write_polygons__half_of_each_class_with_its_pixels(tmp_path):
    labels = np.full((40, 40), 255, np.uint8)
    for row in (2, 12, 22):
        labels[row:row + 4, 5:8] = 0
        labels[row:row + 3, 20:28] = 1
    path, pixels = write_polygons(tmp_path, labels, NAMES, DEGREES, seed=0)
    points = read_points(path)
    assert sorted(points.indices) == [0, 0, 1, 1]  # two of three, rounded up
    assert np.bincount(labels[tuple(pixels.T)]).tolist() == [2 * 12, 2 * 24]
    rows, cols = DEGREES.to_pixel(*points.positions.T)
    corners = np.stack([rows.min(), rows.max(), cols.min(), cols.max()])
    assert corners == pytest.approx([pixels[:, 0].min(), pixels[:, 0].max() + 1, 5, 28], abs=1e-6)


def test_summary__counts_what_is_above_admitted_and_held():
    row = {"miou": "0.5", "floor_miou": "0.6", "admitted": "True", "accuracy": "0.7",
           "accuracy_interval": "[0.6, 0.8]", "miou_interval": "[0.51, 0.9]",
           "prepare_cpu_s": "20", "train_cpu_s": "200", "predict_cpu_s": "20"}
    lines = summary([row, row | {"miou": "0.7", "admitted": "False"}])
    assert "1 of 2" in lines[0] and "1 of the other 1" in lines[0]
    assert [line.split(": ")[1] for line in lines[1:]] == ["2 of 2.", "1 of 2.", "at most 2.0."]
    assert holds("null", "0.5") == ""


def test_report_lines__are_the_committed_report():
    assert set(read_rows(RESULTS / "clicks.csv")) <= set(all_runs())
    committed = (RESULTS / "clicks.md").read_text(encoding="utf-8")
    assert "\n".join(report_lines()) + "\n" == committed
