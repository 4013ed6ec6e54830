"""Pictures of a scored split, on tiles whose scores are known."""

import numpy as np
import pytest
import torch
from helpers import edit, has_colour, ink_box, write_set

from data import TileDataset
from engine.meta import checkpoint_meta
from report import figures
from report.curves import curves
from report.panels import (
    OUTCOME, learning_curves, preview, reliability_figure, run_title, tile_panels,
    tiles_with_labels, unfilled_size)
from report.stats import NUM_BINS, EvalStats

CPU = torch.device("cpu")
WRONG = figures.error_colour(figures.default_colours(3))


class Reader(torch.nn.Module):
    """A network that reads the class off the first band, so that its answers are known."""

    def forward(self, images):
        classes = images[:, 0].round().long().clamp(0, 2)
        return torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 5


def scored_set(folder, wrong=(0, 3, 1, 5, 2, 4)):
    """Tiles of 8 px in scenes of two, with so many of their eight columns wrong.

    Returns: the TileDataset, its EvalStats, the tiles' positions.
    """
    write_set(folder, count=len(wrong))
    labels = np.load(folder / "test_labels.npy")
    images = np.zeros((*labels.shape, 3), np.uint8)
    images[..., 0] = labels
    for tile, columns in enumerate(wrong):
        images[tile, :, :columns, 0] = (labels[tile, :, :columns] + 1) % 3
    np.save(folder / "test_images.npy", images)
    colours = figures.default_colours(3)
    edit(folder, "mean", [0.0] * 3)
    edit(folder, "std", [1.0] * 3)
    edit(folder, "classes", [{"name": f"c{k}", "colour": colours[k]} for k in range(3)])
    logits = Reader()(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    stats = EvalStats(3, [tile // 2 for tile in range(len(wrong))])
    stats.update(0, logits, logits.argmax(1).to(torch.uint8), torch.from_numpy(labels))
    positions = [(f"scene {tile // 2}", 0, 8 * (tile % 2)) for tile in range(len(wrong))]
    return TileDataset(folder, "test"), stats, positions


def panels_of(folder, wrong, monkeypatch, each=1):
    """The picture, the titles of its rows, and the number of wrong pixels of each row."""
    tiles, stats, positions = scored_set(folder, wrong)
    drawn = {}
    real = figures.panel_grid

    def panel_grid(rows, column_titles, entries, row_titles, title=None):
        drawn.update(rows=rows, titles=row_titles)
        return real(rows, column_titles, entries, row_titles, title=title)

    monkeypatch.setattr("report.panels.panel_grid", panel_grid)
    figure = tile_panels(Reader(), tiles, stats, positions, checkpoint_meta(tiles.meta), CPU,
                         "test", each)
    errors = [int((row[3] == WRONG).all(-1).sum()) for row in drawn["rows"]]
    return figure, drawn["titles"], errors


def test_tile_panels__are_of_the_best_median_and_worst_tiles(tmp_path, monkeypatch):
    figure, titles, errors = panels_of(tmp_path, (0, 3, 1, 5, 2), monkeypatch)
    assert errors == [0, 2 * 8, 5 * 8]
    ranks = [title.split(":")[0] for title in titles]
    assert ranks == ["best test tile", "median test tile", "worst test tile"]
    assert "48 of 64 labelled px right" in titles[1]
    assert "scene 2, row 0, column 0 px" in titles[1]
    assert has_colour(figure, WRONG)
    assert has_colour(figure, figures.default_colours(3)[0])
    assert min(ink_box(figure)) >= 26


@pytest.mark.parametrize("wrong, errors", [((0, 3, 1, 5, 2, 4), [0, 8, 16, 24, 32, 40]),
                                           ((3,), [24])])
def test_tile_panels__show_two_of_each_and_no_tile_twice(tmp_path, monkeypatch, wrong, errors):
    assert panels_of(tmp_path, wrong, monkeypatch, 2)[2] == errors


def test_tile_panels__leave_out_tiles_with_few_labels(tmp_path):
    tiles, stats, positions = scored_set(tmp_path)
    meta = checkpoint_meta(tiles.meta)
    all_tiles = tile_panels(Reader(), tiles, stats, positions, meta, CPU, "test", 3)
    stats.tiles[3, :2] = 10  # of the worst one
    assert tile_panels(Reader(), tiles, stats, positions, meta, CPU, "test", 3).height \
        < all_tiles.height


def test_tile_panels__without_labels_are_empty(tmp_path):
    tiles, stats, positions = scored_set(tmp_path)
    empty = EvalStats(3, stats.blocks)
    figure = tile_panels(Reader(), tiles, empty, positions, checkpoint_meta(tiles.meta), CPU,
                         "test")
    assert figure.width > 100
    assert reliability_figure(empty, "test split").height > 1000


def test_preview__shows_tiles_of_the_split(tmp_path):
    tiles, _, _ = scored_set(tmp_path)
    pointed = TileDataset(tmp_path, "test", points=3)
    picture = preview(Reader(), tiles, pointed, checkpoint_meta(tiles.meta), CPU, rows=3)
    assert picture.width > 4 * 200
    assert picture.height > 3 * 200


def test_reliability_figure__runs_through_its_bins(monkeypatch):
    """30 % confidence is right in 1 of 4 pixels, 90 % confidence in 3 of 4."""
    stats = EvalStats(2, [0])
    low, high = int(0.3 * NUM_BINS), int(0.9 * NUM_BINS)
    stats.calibration_bins[:, low] = torch.tensor([4, 1, 4 * 0.3])
    stats.calibration_bins[:, high] = torch.tensor([4, 3, 4 * 0.9])
    drawn = []

    def draw(series, *labels, radii=None):
        drawn.append((series, labels, radii))
        return curves(series, *labels, radii=radii)

    monkeypatch.setattr("report.panels.curves", draw)
    assert min(ink_box(reliability_figure(stats, "test split"))) >= 26
    (lines, labels, radii), (bars, _, _) = drawn
    (_, points), = list(lines.items())[1:]
    assert np.allclose(points, [[30, 25], [90, 75]])
    (sizes,) = radii.values()
    assert sizes[0] == sizes[1] > 3  # both bins have half of the pixels
    assert labels[2] == "test split: expected calibration error 10.0 %"
    outline, = bars.values()
    assert sum(height for _, height in outline) == pytest.approx(2 * 100)  # two corners per bar
    assert outline[4 * low][0] == pytest.approx(100 * low / NUM_BINS)
    assert outline[-1][0] == 100


def test_learning_curves__name_the_run_and_mark_its_best_epoch(tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text("epoch,train_loss,val_loss,val_accuracy,val_miou,lr\n"
                                      "1,2,3,0.5,nan,1e-3\n2,1,2,0.6,0.5,1e-3\n3,1,1,0.6,0.5,0\n")
    (tmp_path / "args.json").write_text('{"data": "data/demo"}')
    marks = []

    def draw(*words, **options):
        marks.append(options["marks"])
        return curves(*words, **options)

    monkeypatch.setattr("report.panels.curves", draw)
    assert learning_curves(tmp_path / "log.csv").height > 1500
    assert marks == 3 * [{3: "best epoch: 3"}]
    assert run_title(tmp_path) == f"{tmp_path.name} on data/demo"


def test_preview__of_points_shows_whether_they_are_right(tmp_path, monkeypatch):
    write_set(tmp_path, count=4, side=16, ignore_share=0.995)
    tiles = TileDataset(tmp_path, "test")
    drawn = {}
    real = figures.panel_grid

    def panel_grid(rows, column_titles, *words, **options):
        drawn.update(rows=rows, columns=column_titles)
        return real(rows, column_titles, *words, **options)

    monkeypatch.setattr("report.panels.panel_grid", panel_grid)
    preview(Reader(), tiles, tiles, checkpoint_meta(tiles.meta), CPU, rows=9)
    assert drawn["columns"] == ["image", OUTCOME, "prediction"]
    assert len(drawn["rows"]) == len(tiles_with_labels(tiles)) > 0
    for row in drawn["rows"]:
        assert not any((picture == figures.IGNORED).all() for picture in row)


@pytest.mark.parametrize("height, width", [(20, 12), (13, 20), (20, 20), (3, 5)])
def test_unfilled_size__finds_mirrored_rows_and_columns(height, width):
    image = np.random.default_rng(0).integers(0, 9, (height, width, 3))
    filled = np.pad(image, [(0, 20 - height), (0, 20 - width), (0, 0)], mode="reflect")
    labelled = np.zeros((20, 20), bool)
    labelled[:height, :width] = True
    assert unfilled_size(filled, labelled) == (height, width)
    labelled[:] = True
    assert unfilled_size(filled, labelled) == (20, 20)
