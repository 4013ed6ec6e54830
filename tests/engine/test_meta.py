"""A prepared set is read only if its dataset.json makes sense and its arrays fit it."""

import numpy as np
import pytest
from helpers import edit, write_set

from engine.meta import check_checkpoint_meta, checkpoint_meta, display_limits
from engine.prepared import load_meta


def negative_counts():
    return dict.fromkeys(("train", "val", "test"), [-1, 0, 0])


@pytest.mark.parametrize("key, value", [
    ("format", 2), ("bands", None), ("mean", [1.0]), ("mean", [1.0, float("nan"), 1.0]),
    ("std", [1.0, 0.0, 1.0]), ("rgb", [0, 1, 3]), ("rgb", [False, True, 2]),
    ("classes", [{"name": "a", "colour": [0, 0, 300]}] * 3),
    ("classes", [{"name": "line\nbreak", "colour": [0, 0, 0]}] * 3), ("dtype", "object"),
    ("ignore", 0), ("gsd_m", -1.0), ("nodata", [1, 2]), ("pixels", negative_counts()),
    ("places", {"a": ["b"]})])
def test_load_meta__refuses_an_entry_that_makes_no_sense(tmp_path, key, value):
    write_set(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(ValueError, match=key) as error:
        load_meta(tmp_path)
    assert "\n" not in str(error.value) and "dataset.json" in str(error.value)


@pytest.mark.parametrize("key, value", [
    ("tiles", {"train": 6}), ("gsd_m", "1 m"), ("arguments", {"scale": "half"})])
def test_load_meta__entries_of_other_types_are_one_line(tmp_path, key, value):
    write_set(tmp_path)
    edit(tmp_path, key, value)
    with pytest.raises(ValueError, match="dataset.json") as error:
        load_meta(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"format": 1', "[" * 100_000, "[]"])
def test_load_meta__damaged_json_is_one_line(tmp_path, text):
    write_set(tmp_path)
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match="dataset.json") as error:
        load_meta(tmp_path)
    assert "\n" not in str(error.value)


def test_load_meta__a_folder_without_dataset_json_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset.json"):
        load_meta(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def several(path):
    with open(path, "wb") as file:
        np.savez(file, np.zeros(3))


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_bytes(b""), cut, several,
    lambda path: np.save(path, np.zeros((6, 8, 8), np.int64)),
    lambda path: np.save(path, np.zeros((6, 8, 9), np.uint8))],
    ids=["missing", "empty", "cut", "several arrays", "another type", "another shape"])
def test_load_meta__arrays_that_do_not_fit_are_one_line(tmp_path, damage):
    write_set(tmp_path)
    load_meta(tmp_path)
    damage(tmp_path / "val_labels.npy")
    with pytest.raises((ValueError, OSError), match="val_labels.npy") as error:
        load_meta(tmp_path)
    assert "\n" not in str(error.value)


def test_display_limits__two_deviations_about_the_mean_of_the_shown_bands():
    meta = {"dtype": "uint16", "mean": [100.0, 200.0, 300.0], "std": [10.0, 20.0, 30.0],
            "rgb": [2, 1, 0]}
    assert display_limits(meta) == [(240.0, 360.0), (160.0, 240.0), (80.0, 120.0)]
    assert display_limits({**meta, "dtype": "uint8"}) is None


def test_checkpoint_meta__keeps_names_colours_and_scale(tmp_path):
    write_set(tmp_path)
    kept = checkpoint_meta({**load_meta(tmp_path), "arguments": {"scale": 0.5}})
    assert kept["classes"] == ["c0", "c1", "c2"]
    assert kept["colours"] == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert kept["scale"] == 0.5
    assert "scene_nodata" not in kept  # of a set made when alpha was a band
    new = {**load_meta(tmp_path), "nodata": 7.0, "scene_nodata": 7.0, "scales": None}
    assert checkpoint_meta(new)["nodata"] == [7, 7, 7]  # of each band by itself
    assert checkpoint_meta({**new, "scene_nodata": None})["nodata"] == 7


@pytest.mark.parametrize("changed", [
    {"rgb": [0.0, 1.0, 2.0]}, {"rgb": {0: 1}}, {"colours": [3, 3, 3]}, {"bands": 3.0},
    {"mean": [[1, 2, 3]], "std": [[1, 2, 3]]}, {"nodata": [1, 2]}, {"nodata": [1, 2, None]},
    {"nodata": 256}, {"nodata": [0, 0, 0.5]}, {"nodata": -1},
    {"scene_nodata": "7"}, {"scales": [[1, 0]]},
    {"scales": [[1, 0], [1, 0], [float("nan"), 0]]}])
def test_check_checkpoint_meta__refuses_what_makes_no_sense(changed, tmp_path):
    write_set(tmp_path)
    kept = checkpoint_meta(load_meta(tmp_path))
    check_checkpoint_meta(**kept)
    with pytest.raises((TypeError, ValueError)):
        check_checkpoint_meta(**kept | changed)
