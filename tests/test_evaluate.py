"""Scores of a split count every labelled pixel once, however the batches fall, and data of another kind is refused."""

import json
import math

import numpy as np
import pytest
import torch

import evaluate
from checkpoint import data_facts, save_checkpoint
from data import Tiles
from losses import build_loss
from models import build_model
from test_data import edit, write_set


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
    return Tiles(folder, "test")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_every_pixel_is_counted_once_however_batches_fall(tmp_path, batch_size):
    tiles = readable_set(tmp_path)
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.facts, torch.device("cpu"), batch_size, build_loss("ce"))
    assert matrix.counts.sum() == 5 * 64 - 32 and matrix.pixel_accuracy() == 0.75
    right, wrong = -math.log(math.exp(5) / (math.exp(5) + 2)), -math.log(1 / (math.exp(5) + 2))
    assert loss == pytest.approx(0.75 * right + 0.25 * wrong, rel=1e-5)


def test_limit_stops_early(tmp_path):
    tiles = readable_set(tmp_path)
    matrix, _ = evaluate.evaluate(Reader(), tiles, tiles.facts, torch.device("cpu"), 2, limit=1)
    assert matrix.counts.sum() == 2 * 64


def test_no_label_at_all_is_nan(tmp_path):
    tiles = readable_set(tmp_path)
    tiles.labels[:] = 255
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.facts, torch.device("cpu"), 2, build_loss("ce"))
    assert math.isnan(loss) and math.isnan(matrix.miou())


@pytest.fixture
def checkpoint(tmp_path):
    facts = write_set(tmp_path / "data", side=16)
    kwargs = {"bands": 3, "classes": 3, "width": 4, "depth": 1}
    model = build_model("unet", **kwargs)
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()}, data_facts(facts),
                    {"epoch": 3, "labelled_pixels": 77}, {"data": str(tmp_path / "data"), "loss": "ce"})
    return path


def test_the_script_writes_its_metrics_beside_the_checkpoint(checkpoint, capsys):
    scores = evaluate.main(evaluate.parse_args(["--checkpoint", str(checkpoint), "--device", "cpu"]))
    written = json.loads((checkpoint.parent / "metrics_test.json").read_text())
    assert written == scores and written["labelled_pixels"] == 77 and written["split"] == "test"
    assert {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "classes", "confusion", "checkpoint"} <= set(written)
    assert sum(map(sum, written["confusion"])) == 6 * 16 * 16
    assert "mean IoU" in capsys.readouterr().out


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


def test_preview_shows_tiles_of_the_split(tmp_path):
    tiles = readable_set(tmp_path)
    facts = data_facts(tiles.facts)
    picture = evaluate.preview(Reader(), tiles, Tiles(tmp_path, "test", points=3), facts, torch.device("cpu"), rows=3)
    assert picture.width > 4 * 200 and picture.height > 3 * 200
