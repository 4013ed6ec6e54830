"""Scores of a split count every labelled pixel once, however the batches fall, and data of another kind is refused."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from helpers import edit, write_set

import evaluate
from data import TileDataset
from engine.checkpoint import save_checkpoint
from engine.meta import checkpoint_meta
from losses import build_loss
from networks import build_model
from report.stats import EvalStats


class Reader(torch.nn.Module):
    """A network that reads the class off the first band, so that what it answers is known."""

    def forward(self, images):
        classes = images[:, 0].round().long().clamp(0, 2)
        return torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 5


def readable_set(folder):
    """A set whose first band is the class, but for every fourth pixel of the test tiles."""
    write_set(folder, count=5)
    labels = np.load(folder / "test_labels.npy")
    images = np.zeros((5, 8, 8, 3), np.uint8)
    images[..., 0] = labels
    images[:, :, ::4, 0] = (labels[:, :, ::4] + 1) % 3
    labels[4, :, :4] = 255
    np.save(folder / "test_images.npy", images)
    np.save(folder / "test_labels.npy", labels)
    edit(folder, "mean", [0.0] * 3)
    edit(folder, "std", [1.0] * 3)
    return TileDataset(folder, "test")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_every_pixel_is_counted_once_however_batches_fall(tmp_path, batch_size):
    tiles = readable_set(tmp_path)
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.meta, torch.device("cpu"), batch_size, build_loss("ce"))
    assert matrix.counts.sum() == 5 * 64 - 32 and matrix.pixel_accuracy() == 0.75
    right, wrong = -math.log(math.exp(5) / (math.exp(5) + 2)), -math.log(1 / (math.exp(5) + 2))
    assert loss == pytest.approx(0.75 * right + 0.25 * wrong, rel=1e-5)


def test_limit_stops_early(tmp_path):
    tiles = readable_set(tmp_path)
    matrix, _ = evaluate.evaluate(Reader(), tiles, tiles.meta, torch.device("cpu"), 2, limit=1)
    assert matrix.counts.sum() == 2 * 64


def test_no_label_at_all_is_nan(tmp_path):
    tiles = readable_set(tmp_path)
    tiles.labels[:] = 255
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.meta, torch.device("cpu"), 2, build_loss("ce"))
    assert math.isnan(loss) and math.isnan(matrix.miou())


def test_no_data_is_what_the_set_that_is_scored_says(tmp_path):
    tiles = readable_set(tmp_path)
    tiles.meta["nodata"] = 2.0  # so class 2 reads as the mean, 0; the network was trained on a set of another nodata
    tiles.images[:, :, :, 1:] = 2  # all bands are at no data where the first is
    matrix, _ = evaluate.evaluate(Reader(), tiles, {**tiles.meta, "nodata": 9.0}, torch.device("cpu"), 5)
    assert matrix.counts[:, 2].sum() == 0 and matrix.counts[:, 1].sum() > 0


def test_a_tally_counts_along_in_the_same_pass(tmp_path):
    tiles = readable_set(tmp_path)
    tally = EvalStats(3, [0, 0, 1, 1, 1])
    matrix, _ = evaluate.evaluate(Reader(), tiles, tiles.meta, torch.device("cpu"), 2, tally=tally)
    assert torch.equal(tally.counts.sum(0), matrix.counts) and tally.tiles[:, 0].tolist() == [64] * 4 + [32]
    assert (tally.tiles[:, 1] / tally.tiles[:, 0] == 0.75).all() and tally.bins[0].sum() == matrix.counts.sum()


def write_run(folder, data, seed=0):
    """A network of random weights as the best.pt of a run on a set of 16 px tiles; two scenes, far apart."""
    meta = write_set(data, side=16)
    with open(data / "tiles.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "index", "scene", "row", "col")] +
                                   [(split, n, f"place {n // 3}", 0, 64 * n) for split in ("val", "test") for n in range(6)])
    torch.manual_seed(seed)
    kwargs = {"bands": 3, "classes": 3, "width": 4, "depth": 1}
    model = build_model("unet", **kwargs)
    path = folder / "best.pt"
    folder.mkdir(exist_ok=True)
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()}, checkpoint_meta(meta),
                    {"epoch": 3, "labelled_pixels": 77}, {"data": str(data), "loss": "ce"})
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return write_run(tmp_path, tmp_path / "data")


def test_the_script_writes_its_metrics_beside_the_checkpoint(checkpoint, capsys):
    scores = evaluate.main(evaluate.parse_args(["--checkpoint", str(checkpoint), "--device", "cpu"]))
    written = json.loads((checkpoint.parent / "metrics_test.json").read_text())
    assert written == scores and written["labelled_pixels"] == 77 and written["split"] == "test"
    assert {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "classes", "confusion", "checkpoint"} <= set(written)
    assert sum(map(sum, written["confusion"])) == 6 * 16 * 16
    assert {"boundary", "calibration_error", "areas"} <= set(written)
    printed = capsys.readouterr().out
    assert "mean IoU" in printed and "overall accuracy" in printed and "user's" in printed
    for name in ("scenes_test.csv", "areas_test.csv", "confusion.png", "panels.png", "reliability.png"):
        assert (checkpoint.parent / name).is_file() and name in printed
    assert not list(checkpoint.parent.glob("*.tmp")) and not list(checkpoint.parent.glob("*.part"))


def test_areas_of_a_map_are_adjusted_by_what_the_split_shows(checkpoint, tmp_path):
    words = ["--checkpoint", str(checkpoint)]
    predicted = np.sum(evaluate.main(evaluate.parse_args(words))["confusion"], 0)
    mapped = [10 * (k + 1) * int(predicted[k] > 1) for k in range(3)]  # ha; what was never predicted cannot be adjusted
    (tmp_path / "map.csv").write_text("class,pixels,area_ha\n" + "".join(f"c{k},1,{mapped[k]}\n" for k in range(3)))
    evaluate.main(evaluate.parse_args([*words, "--areas", str(tmp_path / "map.csv")]))
    with open(tmp_path / "areas_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mapped_ha"]) for row in rows] == mapped and sum(mapped) > 0
    assert sum(float(row["adjusted_ha"]) for row in rows) == pytest.approx(sum(mapped), rel=1e-5)


def test_runs_are_compared_on_one_set(checkpoint, tmp_path, capsys):
    other = write_run(tmp_path / "other", tmp_path / "data", seed=1)
    args = ["--compare", str(checkpoint.parent), str(other), "--out", str(tmp_path / "out")]
    first, second = evaluate.main(evaluate.parse_args(args))
    alone = evaluate.main(evaluate.parse_args(["--checkpoint", str(other)]))
    assert second["miou"] == alone["miou"] and second["difference"] == alone["miou"] - first["miou"]
    assert "No intervals: the tiles lie in 6 contiguous blocks" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.png"]


def test_seasons_of_a_place_are_one_unit_of_a_comparison_and_two_rows_of_a_report(checkpoint, tmp_path, capsys):
    rows = [(split, n, f"season {n // 3}", 0, 64 * (n % 3)) for split in ("val", "test") for n in range(6)]
    with open(tmp_path / "data" / "tiles.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "index", "scene", "row", "col"), *rows])
    args = ["--compare", str(checkpoint), str(checkpoint), "--out", str(tmp_path / "out")]
    for places, blocks in (({}, 6), ({"season 0": "here", "season 1": "here"}, 3)):
        edit(tmp_path / "data", "places", places)
        evaluate.main(evaluate.parse_args(args))
        assert f"the tiles lie in {blocks} contiguous blocks" in capsys.readouterr().out
    evaluate.main(evaluate.parse_args(["--checkpoint", str(checkpoint)]))
    with open(tmp_path / "scenes_test.csv", newline="") as file:
        assert {row["scene"]: int(row["pixels"]) for row in csv.DictReader(file)} == {
            "season 0": 3 * 16 * 16, "season 1": 3 * 16 * 16}


@pytest.mark.parametrize("words, message", [(["--compare", "one"], "two or more runs"),
                                            (["--compare", "a", "b", "--areas", "x.csv"], "no --areas"),
                                            (["--compare", "a", "b"], "there is no checkpoint a"),
                                            (["--compare", "a", "b", "--bs", "0"], "--bs 0")])
def test_what_cannot_be_compared_is_refused(words, message):
    with pytest.raises((ValueError, OSError), match=message):
        evaluate.main(evaluate.parse_args(words))


def test_one_of_checkpoint_and_compare_is_needed(capsys):
    for words in ([], ["--checkpoint", "a.pt", "--compare", "b"]):
        with pytest.raises(SystemExit):
            evaluate.parse_args(words)
    assert "--checkpoint" in capsys.readouterr().err


def test_another_split_and_folder(checkpoint, tmp_path):
    out = tmp_path / "else" / "where"
    evaluate.main(evaluate.parse_args(["--checkpoint", str(checkpoint), "--split", "val", "--out", str(out), "--bs", "4"]))
    assert json.loads((out / "metrics_val.json").read_text())["split"] == "val"


@pytest.mark.parametrize("change, message", [
    ({"bands": 4}, "has bands 4, but .*best.pt was trained on 3"),
    ({"dtype": "uint16"}, "has dtype uint16"),
    ({"classes": 2}, "has the classes c0, c1, but .* c0, c1, c2"),
])
def test_data_of_another_kind_is_refused(checkpoint, tmp_path, change, message):
    write_set(tmp_path / "other", side=16, **change)
    with pytest.raises(ValueError, match=message) as error:
        evaluate.main(evaluate.parse_args(["--checkpoint", str(checkpoint), "--data", str(tmp_path / "other")]))
    assert "\n" not in str(error.value) and not (tmp_path / "metrics_test.json").exists()


def test_symmetries_are_averaged_where_asked(tmp_path):
    """A network that looks at the left half alone says another thing of the mirrored tile; the average is of both."""
    class LeftIsSure(torch.nn.Module):
        stride = 1

        def forward(self, x):
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            logits[:, 1, :, :x.shape[3] // 2] = 2.0
            return logits

    write_set(tmp_path, count=2, side=8, classes=2)
    tiles = TileDataset(tmp_path, "test")
    meta = checkpoint_meta(tiles.meta)
    plain_matrix, _ = evaluate.evaluate(LeftIsSure(), tiles, meta, torch.device("cpu"))
    averaged, _ = evaluate.evaluate(LeftIsSure(), tiles, meta, torch.device("cpu"), tta=True)
    assert plain_matrix.counts.sum(0).tolist() == [64, 64]  # the right half is a tie, which the first class takes
    assert averaged.counts.sum(0).tolist() == [0, 128]  # half of the eight looks see every pixel on the left
