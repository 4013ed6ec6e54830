"""Pictures and tables of a scored split, on numbers that are known."""

import csv
import math

import numpy as np
import pytest
import torch
from helpers import edit, has_colour, ink_box, write_set

from data import TileDataset
from engine.meta import checkpoint_meta
from report import figures
from report.panels import (
    boundary_scores,
    learning_curves,
    preview,
    read_log,
    reliability_figure,
    report_text,
    scene_rows,
    text_table,
    tile_panels,
    write_rows,
)
from report.stats import BINS, EvalStats, area_rows


class Reader(torch.nn.Module):
    """A network that reads the class off the first band, so that what it answers is known."""

    def forward(self, images):
        classes = images[:, 0].round().long().clamp(0, 2)
        return torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 5


def scored_set(folder, wrong=(0, 3, 1, 5, 2, 4)):
    """Tiles of 8 x 8 px of which so many of the eight columns are answered wrong, in scenes of two tiles, and their EvalStats."""
    write_set(folder, count=len(wrong))
    labels = np.load(folder / "test_labels.npy")
    images = np.zeros((*labels.shape, 3), np.uint8)
    images[..., 0] = labels
    for tile, columns in enumerate(wrong):
        images[tile, :, :columns, 0] = (labels[tile, :, :columns] + 1) % 3
    np.save(folder / "test_images.npy", images)
    for key, value in (("mean", [0.0] * 3), ("std", [1.0] * 3),
                       ("classes", [{"name": f"c{k}", "colour": figures.default_colours(3)[k]} for k in range(3)])):
        edit(folder, key, value)
    tiles = TileDataset(folder, "test")
    tally = EvalStats(3, [tile // 2 for tile in range(len(wrong))])
    inputs, truth = torch.from_numpy(images).permute(0, 3, 1, 2).float(), torch.from_numpy(labels)
    logits = Reader()(inputs)
    tally.update(0, logits, logits.argmax(1).to(torch.uint8), truth)
    places = [(f"scene {tile // 2}", 0, 8 * (tile % 2)) for tile in range(len(wrong))]
    return tiles, tally, places


# ---------------------------------------------------------------- pictures

def panels_of(folder, wrong, monkeypatch, each=1):
    """Titles, and number of wrong pixels, of each row of the panels."""
    tiles, tally, places = scored_set(folder, wrong)
    seen = {}

    def grid(rows, column_titles, entries, row_titles):
        seen.update(rows=rows, titles=row_titles, entries=entries)
        return real(rows, column_titles, entries, row_titles)

    real = figures.panel_grid
    monkeypatch.setattr("report.panels.panel_grid", grid)
    figure = tile_panels(Reader(), tiles, tally, places, checkpoint_meta(tiles.meta), torch.device("cpu"), "test", each)
    return figure, seen["titles"], [int((row[3] == figures.WRONG).all(-1).sum()) for row in seen["rows"]]


def test_panels_are_of_the_best_median_and_worst_tiles(tmp_path, monkeypatch):
    figure, titles, wrong = panels_of(tmp_path, (0, 3, 1, 5, 2), monkeypatch)
    assert wrong == [0, 2 * 8, 5 * 8]
    assert [title.split(":")[0] for title in titles] == ["best test tile", "median test tile", "worst test tile"]
    assert "75.0 % right" in titles[1] and "scene 2, row 0, column 0 px" in titles[1]
    assert has_colour(figure, figures.WRONG) and has_colour(figure, figures.default_colours(3)[0])
    assert min(ink_box(figure)) >= 26


def test_two_of_each(tmp_path, monkeypatch):
    assert panels_of(tmp_path, (0, 3, 1, 5, 2, 4), monkeypatch, 2)[2] == [0, 8, 16, 24, 32, 40]


def test_a_single_tile_is_shown_once(tmp_path, monkeypatch):
    assert panels_of(tmp_path, (3,), monkeypatch, 2)[2] == [24]


def test_tiles_with_few_labels_are_not_shown(tmp_path):
    tiles, tally, places = scored_set(tmp_path)
    tally.tiles[3, 0] = 10  # the worst one
    tally.tiles[:, 1] = torch.minimum(tally.tiles[:, 1], tally.tiles[:, 0])
    meta = checkpoint_meta(tiles.meta)
    figure = tile_panels(Reader(), tiles, tally, places, meta, torch.device("cpu"), "test", 3)
    assert figure.height < tile_panels(Reader(), *scored_set(tmp_path), meta, torch.device("cpu"), "test", 3).height


def test_no_labels_at_all_is_a_picture_of_nothing(tmp_path):
    tiles, tally, places = scored_set(tmp_path)
    empty = EvalStats(3, tally.blocks)
    empty.update(0, torch.zeros(6, 3, 8, 8), torch.zeros(6, 8, 8, dtype=torch.uint8), torch.full((6, 8, 8), 255, dtype=torch.uint8))
    figure = tile_panels(Reader(), tiles, empty, places, checkpoint_meta(tiles.meta), torch.device("cpu"), "test")
    assert figure.width > 100 and reliability_figure(empty, "test split").height > 1000


def test_preview_shows_tiles_of_the_split(tmp_path):
    tiles, _, _ = scored_set(tmp_path)
    meta = checkpoint_meta(tiles.meta)
    picture = preview(Reader(), tiles, TileDataset(tmp_path, "test", points=3), meta, torch.device("cpu"), rows=3)
    assert picture.width > 4 * 200 and picture.height > 3 * 200


def test_reliability_runs_through_its_bins(monkeypatch):
    """A network that is 30 % sure is right in 1 of 4 pixels, one that is 90 % sure in 3 of 4."""
    tally, drawn = EvalStats(2, [0]), []
    low, high = int(0.3 * BINS), int(0.9 * BINS)
    tally.bins[:, low], tally.bins[:, high] = torch.tensor([4, 1, 4 * 0.3]), torch.tensor([4, 3, 4 * 0.9])
    real = figures.curves
    monkeypatch.setattr("report.panels.curves", lambda series, *rest: drawn.append((series, rest)) or real(series, *rest))
    figure = reliability_figure(tally, "test split")
    (lines, rest), (bars, _) = drawn
    assert [[pytest.approx(value, abs=1e-4) for value in point] for point in lines["this network"]] == [[30, 25], [90, 75]]
    assert rest[2] == "test split: expected calibration error 10.0 %"
    heights, = bars.values()
    assert sum(height for _, height in heights) == pytest.approx(2 * 100)  # each bar has two corners; together 100 %
    assert heights[4 * low][0] == pytest.approx(100 * low / BINS) and heights[-1][0] == 100
    assert min(ink_box(figure)) >= 26


def test_learning_curves_read_the_log(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,train_loss,val_loss,val_accuracy,val_miou\n1,2,3,0.5,nan\n2,1,2,0.6,0.5\n")
    assert read_log(tmp_path / "log.csv", ["epoch", "val_accuracy"])[1] == {"epoch": 2, "val_accuracy": 0.6}
    assert math.isnan(read_log(tmp_path / "log.csv", ["val_miou"])[0]["val_miou"])
    assert learning_curves(tmp_path / "log.csv").height > 1000


@pytest.mark.parametrize("text", ["epoch\n1\n", "epoch,val_miou\n1\n", "epoch,val_miou\n1,many\n"])
def test_a_damaged_log_is_one_line(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="log.csv is damaged"):
        read_log(tmp_path / "log.csv", ["epoch", "val_miou"])


# ---------------------------------------------------------------- tables

def test_boundary_scores_by_hand():
    tally = EvalStats(3, [0])
    tally.counts[0] = torch.tensor([[50, 10, 0], [5, 35, 0], [0, 0, 0]])
    tally.near = torch.tensor([[10, 10, 0], [0, 0, 0], [0, 0, 0]])
    scores = boundary_scores(tally, ["a", "b", "c"])
    assert scores["width_px"] == 3 and scores["within"] == {"pixels": 20, "miou": 0.25, "iou": {"a": 0.5, "b": 0.0, "c": None}}
    assert scores["beyond"]["pixels"] == 80 and scores["beyond"]["iou"] == {"a": 40 / 45, "b": 35 / 40, "c": None}


def test_scenes_by_hand_the_worst_first():
    tally = EvalStats(2, [0, 1, 1, 2, 0])
    tally.counts[:] = torch.tensor([[[8, 0], [0, 8]], [[0, 4], [0, 0]], [[2, 0], [2, 0]]])
    places = [("good", 0, 0), ("bad", 0, 0), ("bad", 0, 8), ("bad", 0, 90), ("good", 0, 8)]
    bad, good = scene_rows(tally, places, ["x", "y"])
    assert bad == {"scene": "bad", "tiles": 3, "pixels": 8, "miou": pytest.approx((2 / 8 + 0) / 2), "pixel_accuracy": 0.25,
                   "iou_x": 0.25, "iou_y": 0.0}
    assert good["scene"] == "good" and good["tiles"] == 2 and good["miou"] == 1.0


def test_a_scene_without_labels_comes_last_and_has_no_score():
    tally = EvalStats(2, [0, 1])
    tally.counts[1] = torch.tensor([[1, 0], [0, 0]])
    rows = scene_rows(tally, [("none", 0, 0), ("some", 0, 0)], ["x", "y"])
    assert [row["scene"] for row in rows] == ["some", "none"] and rows[1]["miou"] is rows[1]["pixel_accuracy"] is None


def test_tables_line_up():
    rows = [{"scene": "a", "px": 1234567, "miou": 0.5}, {"scene": "a longer name", "px": 1, "miou": None}]
    assert text_table(rows).splitlines() == ["scene                 px   miou",
                                             "a              1,234,567  0.500",
                                             "a longer name          1      -"]
    assert text_table(rows, ["miou"]).splitlines() == [" miou", "0.500", "    -"]


def test_rows_are_written_whole(tmp_path):
    write_rows(tmp_path / "a.csv", [{"scene": "a, b", "miou": 1 / 3, "px": 12345678901}, {"scene": "é", "miou": None, "px": 0}])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"scene": "a, b", "miou": "0.333333", "px": "12345678901"},
                                              {"scene": "é", "miou": "", "px": "0"}]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_text_shows_the_worst_ten_scenes_and_what_is_assumed():
    tally = EvalStats(2, range(12))
    tally.counts[:, 0, 0] = 100
    tally.counts[:, 0, 1] = torch.arange(12)
    places = [(f"scene{n:02}", 0, 0) for n in range(12)]
    text = report_text(boundary_scores(tally, ["x", "y"]), None, scene_rows(tally, places, ["x", "y"]),
                       area_rows(tally.counts.sum(0), [1200, 66], ["x", "y"]))
    assert "the worst 10 of 12" in text and "scene11" in text and "scene01" not in text
    assert "random sample" in text and "wider" in text and "expected calibration error -" in text
