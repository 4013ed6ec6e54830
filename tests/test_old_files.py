"""Files written by commit b5b8fc0 still load and give the same results; see data/README.md."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
import tifffile

import evaluate
import predict
import train

OLD_FILES = pathlib.Path(__file__).resolve().parent / "data"
LOSS_COLUMNS = ("train_loss", "val_loss")
MAP_TAGS = ("ColorMap", "ModelPixelScaleTag", "ModelTiepointTag", "GeoKeyDirectoryTag",
            "GDAL_NODATA")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Copy the old files and work there, because the runs name their data relative to it."""
    copy = tmp_path / "old"
    shutil.copytree(OLD_FILES, copy)
    monkeypatch.chdir(copy)
    return copy


def run(command, *words):
    """Call a command on the CPU as from the command line; return what its main returns."""
    return command.main(command.parse_args([*words, "--device", "cpu"]))


def read_log(run_folder):
    """Read the rows of a run's log.csv as dicts of strings."""
    with open(run_folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flatten(value, name=""):
    """Flatten nested dicts and lists to {dotted name: number or text}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {name: value}
    flat = {}
    for key, entry in items:
        flat.update(flatten(entry, f"{name}.{key}"))
    return flat


def assert_same_scores(scores, old_file):
    """Compare scores with every entry of an old metrics file but the checkpoint's path."""
    old = flatten(json.loads(old_file.read_text(encoding="utf-8")))
    new = flatten(scores)
    del old[".checkpoint"]
    for name, value in old.items():
        if isinstance(value, float):
            assert new[name] == pytest.approx(value, abs=1e-5), name
        else:
            assert new[name] == value, name


@pytest.mark.parametrize("name", ["unet", "fusion"])
def test_predict__old_checkpoint_gives_the_old_map(folder, name):
    run(predict, "scene.tif", "--checkpoint", f"runs/{name}/best.pt", "--out", "new")
    old_map = folder / "maps" / name / "scene_classes.tif"
    new_map = folder / "new" / "scene_classes.tif"
    assert np.array_equal(tifffile.imread(new_map), tifffile.imread(old_map))
    with tifffile.TiffFile(old_map) as old, tifffile.TiffFile(new_map) as new:
        for tag in MAP_TAGS:
            old_value = old.pages[0].tags[tag].value
            new_value = new.pages[0].tags[tag].value
            assert np.array_equal(new_value, old_value), tag
    old_areas = (folder / "maps" / name / "scene_areas.csv").read_text(encoding="utf-8")
    assert (folder / "new" / "scene_areas.csv").read_text(encoding="utf-8") == old_areas


@pytest.mark.parametrize("name", ["unet", "fusion"])
def test_evaluate__old_checkpoint_gives_the_old_scores(folder, name):
    scores = run(evaluate, "--checkpoint", f"runs/{name}/best.pt", "--out", "new")
    assert_same_scores(scores, folder / "runs" / name / "metrics_test.json")


def test_train__old_prepared_folder_trains_and_is_scored(folder):
    words = ["--data", "prepared", "--width", "3", "--depth", "2", "--bs", "4", "--epochs", "1"]
    scores = run(train, *words, "--out", "new")
    assert scores["labelled_pixels"] == 4 * 20
    again = run(evaluate, "--checkpoint", "new/best.pt")
    assert again["confusion"] == scores["confusion"]
    old = json.loads((folder / "runs/unet/metrics.json").read_text(encoding="utf-8"))
    assert np.sum(scores["confusion"], axis=1).tolist() == np.sum(old["confusion"], axis=1).tolist()


def test_train__old_stopped_run_resumes_and_ends_as_if_never_stopped(folder):
    before = read_log(folder / "runs/stopped")
    assert len(before) == 4
    scores = run(train, "--out", "runs/stopped", "--resume")
    resumed = read_log(folder / "runs/stopped")
    never_stopped = read_log(folder / "runs/unet")
    assert resumed[:4] == before
    assert [row["epoch"] for row in resumed] == [row["epoch"] for row in never_stopped]
    for row, old_row in zip(resumed, never_stopped):
        for column in LOSS_COLUMNS:
            assert float(row[column]) == pytest.approx(float(old_row[column]), rel=1e-3)
    old = json.loads((folder / "runs/unet/metrics.json").read_text(encoding="utf-8"))
    assert scores["miou"] == pytest.approx(old["miou"], abs=0.01)
