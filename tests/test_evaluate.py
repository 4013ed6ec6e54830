"""Scores of a split count every labelled pixel once, and data of another kind is refused."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from helpers import edit, write_set

import evaluate
from data import TileDataset
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.meta import checkpoint_meta
from losses import build_loss
from networks import build_model
from report.stats import EvalStats

CPU = torch.device("cpu")


class Reader(torch.nn.Module):
    """A network that reads the class off the first band, so that its answers are known."""

    def forward(self, images):
        classes = images[:, 0].round().long().clamp(0, 2)
        return torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float() * 5


def readable_set(folder):
    """A set whose first band is the class, except for every fourth pixel of the test tiles."""
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


def write_positions(folder, scene_of):
    """tiles.csv of six tiles per split that do not touch; scene_of(n) names the scene."""
    rows = [("split", "index", "scene", "row", "col")]
    for split in ("train", "val", "test"):
        for n in range(6):
            rows.append((split, n, scene_of(n), 0, 64 * (n % 3)))
    with open(folder / "tiles.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_run(folder, data, seed=0):
    """A network of random weights as the best.pt of a run; its set has two scenes, far apart."""
    meta = write_set(data, side=16)
    write_positions(data, lambda n: f"scene {n // 3}")
    torch.manual_seed(seed)
    kwargs = {"bands": 3, "classes": 3, "width": 4, "depth": 1}
    model = build_model("unet", **kwargs)
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "best.pt",
                    {"name": "unet", "kwargs": kwargs, "state": model.state_dict()},
                    checkpoint_meta(meta), {"epoch": 3, "labelled_pixels": 77},
                    {"data": str(data), "loss": "ce"})
    return folder / "best.pt"


@pytest.fixture
def checkpoint(tmp_path):
    return write_run(tmp_path, tmp_path / "data")


def run(*words):
    return evaluate.main(evaluate.parse_args([*map(str, words), "--device", "cpu"]))


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- evaluate

@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_evaluate__counts_every_pixel_once_however_batches_fall(tmp_path, batch_size):
    tiles = readable_set(tmp_path)
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.meta, CPU, batch_size,
                                     build_loss("ce"))
    assert matrix.counts.sum() == 5 * 64 - 32
    assert matrix.pixel_accuracy() == 0.75
    right = -math.log(math.exp(5) / (math.exp(5) + 2))
    wrong = -math.log(1 / (math.exp(5) + 2))
    assert loss == pytest.approx(0.75 * right + 0.25 * wrong, rel=1e-5)


def test_evaluate__leaves_batch_norm_alone(tmp_path):
    tiles = readable_set(tmp_path)
    model = torch.nn.BatchNorm2d(3).train()
    evaluate.evaluate(model, tiles, tiles.meta, CPU)
    assert not model.training
    assert model.running_mean.tolist() == [0, 0, 0]


def test_evaluate__no_label_at_all_is_nan(tmp_path):
    tiles = readable_set(tmp_path)
    tiles.labels[:] = 255
    matrix, loss = evaluate.evaluate(Reader(), tiles, tiles.meta, CPU, 2, build_loss("ce"))
    assert math.isnan(loss)
    assert math.isnan(matrix.miou())


def test_evaluate__nodata_is_that_of_the_scored_set(tmp_path):
    tiles = readable_set(tmp_path)
    tiles.meta["nodata"] = 2.0  # so class 2 reads as the mean, 0
    tiles.images[:, :, :, 1:] = 2  # all bands are nodata where the first is
    meta = {**tiles.meta, "nodata": 9.0}  # of the set that the network was trained on
    matrix, _ = evaluate.evaluate(Reader(), tiles, meta, CPU, 5)
    assert matrix.counts[:, 2].sum() == 0
    assert matrix.counts[:, 1].sum() > 0


def test_evaluate__updates_stats_in_the_same_pass(tmp_path):
    tiles = readable_set(tmp_path)
    stats = EvalStats(3, [0, 0, 1, 1, 1])
    matrix, _ = evaluate.evaluate(Reader(), tiles, tiles.meta, CPU, 2, stats=stats)
    assert torch.equal(stats.counts.sum(0), matrix.counts)
    assert stats.tiles[:, 0].tolist() == [64] * 4 + [32]
    assert (stats.tiles[:, 1] / stats.tiles[:, 0] == 0.75).all()
    assert stats.calibration_bins[0].sum() == matrix.counts.sum()


def test_evaluate__tta_averages_the_symmetries(tmp_path):
    """The network answers by where a pixel lies; half of the eight views see it on the left."""
    class LeftIsSure(torch.nn.Module):
        stride = 1

        def forward(self, x):
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            logits[:, 1, :, :x.shape[3] // 2] = 2.0
            return logits

    write_set(tmp_path, count=2, side=8, classes=2)
    tiles = TileDataset(tmp_path, "test")
    meta = checkpoint_meta(tiles.meta)
    plain, _ = evaluate.evaluate(LeftIsSure(), tiles, meta, CPU)
    averaged, _ = evaluate.evaluate(LeftIsSure(), tiles, meta, CPU, tta=True)
    assert plain.counts.sum(0).tolist() == [64, 64]  # the first class takes the tie on the right
    assert averaged.counts.sum(0).tolist() == [0, 128]


# ---------------------------------------------------------------- --checkpoint

@pytest.mark.parametrize("as_folder", [False, True])
def test_main__writes_its_files_beside_the_checkpoint(checkpoint, capsys, as_folder):
    folder = checkpoint.parent
    scores = run("--checkpoint", folder if as_folder else checkpoint)
    written = json.loads((folder / "metrics_test.json").read_text())
    assert written == scores
    assert written["labelled_pixels"] == 77
    assert written["split"] == "test"
    assert written["checkpoint"] == str(checkpoint)
    assert sum(map(sum, written["confusion"])) == 6 * 16 * 16
    keys = {"miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "classes", "boundary",
            "calibration_error", "areas", "tta"}
    assert keys <= set(written)
    printed = capsys.readouterr().out
    assert "1,536 labelled px" in printed
    for name in ("scenes_test.csv", "areas_test.csv", "confusion.png", "panels.png",
                 "reliability.png"):
        assert (folder / name).is_file()
        assert name in printed
    assert not list(folder.glob("*.tmp")) + list(folder.glob("*.part"))


@pytest.mark.parametrize("trained, words, expected", [
    ("bf16", [], torch.bfloat16),
    ("bf16", ["--amp", "off"], None),
    ("auto", [], None),  # on a CPU
    (None, ["--amp", "bf16"], torch.bfloat16)])
def test_score__in_the_precision_of_the_training_unless_another_is_given(
        checkpoint, monkeypatch, capsys, trained, words, expected):
    content = load_checkpoint(checkpoint)
    content["args"]["amp"] = trained
    save_checkpoint(checkpoint, *(content[part] for part in ("model", "data", "train", "args")))
    real = evaluate.evaluate
    used = []

    def evaluate_and_note(*arguments):
        used.append(arguments[6])
        return real(*arguments)

    monkeypatch.setattr(evaluate, "evaluate", evaluate_and_note)
    args = evaluate.parse_args(["--checkpoint", str(checkpoint), "--device", "cpu", *words])
    assert evaluate.score(checkpoint, None, args, CPU).matrix.counts.sum() == 6 * 16 * 16
    assert used == [expected]
    assert f"cpu in {'bfloat16' if expected else 'float32'}" in capsys.readouterr().out


def test_main__another_split_and_folder(checkpoint, tmp_path):
    out = tmp_path / "else" / "where"
    run("--checkpoint", checkpoint, "--split", "val", "--out", out, "--bs", "4")
    assert json.loads((out / "metrics_val.json").read_text())["split"] == "val"


def test_main__warns_of_scores_on_the_labels_of_training(checkpoint, capsys):
    run("--checkpoint", checkpoint, "--split", "train")
    assert "warning: the network has learned from" in capsys.readouterr().err
    run("--checkpoint", checkpoint)
    assert "warning" not in capsys.readouterr().err


def test_main__warns_of_a_set_that_was_prepared_anew(checkpoint, tmp_path, capsys):
    edit(tmp_path / "data", "mean", [90.0] * 3)
    run("--checkpoint", checkpoint)
    assert "data was prepared anew since the training" in capsys.readouterr().err
    run("--checkpoint", checkpoint, "--data", tmp_path / "data")  # another set may differ
    assert "warning" not in capsys.readouterr().err


def test_main__areas_of_a_map_are_adjusted_by_the_split(checkpoint, tmp_path):
    predicted = np.sum(run("--checkpoint", checkpoint)["confusion"], 0)
    # ha; a class that was never predicted cannot be adjusted
    mapped = [10 * (k + 1) * int(predicted[k] > 1) for k in range(3)]
    lines = [f"c{k},1,{mapped[k]}" for k in range(3)]
    (tmp_path / "map.csv").write_text("\n".join(["class,pixels,area_ha", *lines]) + "\n")
    run("--checkpoint", checkpoint, "--areas", tmp_path / "map.csv")
    rows = read_csv(tmp_path / "areas_test.csv")
    assert [float(row["mapped_ha"]) for row in rows] == mapped
    adjusted = sum(float(row["adjusted_ha"]) for row in rows)
    assert adjusted == pytest.approx(sum(mapped), rel=1e-5)


@pytest.mark.parametrize("change, where", [
    ({"bands": 4}, "--data .* bands 4, .*best.pt .* 3"),
    ({"dtype": "uint16"}, "--data .* dtype uint16"),
    ({"classes": 2}, "--data .* classes .*'c0', 'c1'\\], .*'c2'"),
])
def test_main__refuses_data_of_another_kind(checkpoint, tmp_path, change, where):
    write_set(tmp_path / "other", side=16, **change)
    with pytest.raises(ValueError, match=where) as error:
        run("--checkpoint", checkpoint, "--data", tmp_path / "other")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "metrics_test.json").exists()


# ---------------------------------------------------------------- --compare

def test_main__compares_the_weights_that_metrics_json_is_of(checkpoint, tmp_path, capsys):
    checkpoint.rename(tmp_path / "last.pt")
    (tmp_path / "metrics.json").write_text(json.dumps({"checkpoint": "runs/then/last.pt"}))
    first, second = run("--compare", tmp_path, tmp_path / "last.pt", "--out", tmp_path / "out")
    assert first["miou"] == second["miou"]


def test_main__compares_runs_on_one_set(checkpoint, tmp_path, capsys):
    other = write_run(tmp_path / "other", tmp_path / "data", seed=1)
    first, second = run("--compare", checkpoint.parent, other, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    alone = run("--checkpoint", other)
    assert second["miou"] == alone["miou"]
    assert second["difference"] == alone["miou"] - first["miou"]
    assert "6 contiguous blocks" in printed
    assert "1,536 labelled pixels" in printed
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.csv", "comparison.png"]


def test_main__seasons_of_a_site_are_one_block_to_compare_and_two_scenes_to_report(
        checkpoint, tmp_path, capsys):
    data = tmp_path / "data"
    write_positions(data, lambda n: f"season {n // 3}")
    for sites, blocks in (({}, 6), ({"season 0": "here", "season 1": "here"}, 3)):
        edit(data, "places", sites)
        run("--compare", checkpoint, checkpoint, "--out", tmp_path / "out")
        assert f"{blocks} contiguous blocks" in capsys.readouterr().out
    run("--checkpoint", checkpoint)
    pixels = {row["scene"]: int(row["pixels"]) for row in read_csv(tmp_path / "scenes_test.csv")}
    assert pixels == {"season 0": 3 * 16 * 16, "season 1": 3 * 16 * 16}


@pytest.mark.parametrize("words, where", [
    (["--compare", "one"], "--compare"),
    (["--compare", "a", "b", "--areas", "x.csv"], "--areas"),
    (["--compare", "a", "b"], "no checkpoint a"),
    (["--checkpoint", "a", "--calibrate", "--tta"], "--calibrate"),
])
def test_main__refuses_what_cannot_be_compared(words, where):
    with pytest.raises((ValueError, OSError), match=where):
        run(*words)


@pytest.mark.parametrize("words, flag", [
    ([], "--checkpoint"),
    (["--checkpoint", "a.pt", "--compare", "b"], "--compare"),
    (["--checkpoint", "a.pt", "--bs", "0"], "--bs"),
])
def test_parse_args__refuses_in_one_line(words, flag, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.parse_args(words)
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert flag in printed
    assert printed.count("\n") == 1
