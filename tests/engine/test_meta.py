"""A prepared set is believed only as far as its dataset.json makes sense and its arrays are what it says."""


import numpy as np
import pytest
from helpers import edit, write_set

from engine.meta import check_checkpoint_meta, checkpoint_meta, display_limits
from engine.prepared import load_meta


def break_json(folder):
    (folder / "dataset.json").write_text('{"format": 1')


def break_format(folder):
    edit(folder, "format", 2)


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "dataset.json").unlink(), "not a prepared data set"),
    (break_json, "damaged"),
    (break_format, "format 1"),
    (lambda folder: edit(folder, "bands", None), "'bands'"),
    (lambda folder: edit(folder, "mean", [1.0]), "mean"),
    (lambda folder: edit(folder, "tiles", {"train": 6}), "'val'"),
    (lambda folder: edit(folder, "dtype", "uint16"), "train_images.npy holds uint8"),
    (lambda folder: edit(folder, "tile", 16), "shape"),
    (lambda folder: (folder / "val_labels.npy").unlink(), "val_labels.npy is missing"),
    (lambda folder: (folder / "val_labels.npy").write_bytes(b""), "val_labels.npy is damaged"),
    (lambda folder: (folder / "test_images.npy").write_bytes((folder / "test_images.npy").read_bytes()[:300]), "damaged"),
    (lambda folder: np.save(folder / "val_labels.npy", np.zeros((6, 8, 8), np.int64)), "int64"),
    (lambda folder: np.savez(open(folder / "val_labels.npy", "wb"), np.zeros(3)), "several arrays"),
    (lambda folder: (folder / "dataset.json").write_text("[" * 100_000), "damaged"),
    (lambda folder: edit(folder, "std", [1.0, 0.0, 1.0]), "std"),
    (lambda folder: edit(folder, "mean", [1.0, float("nan"), 1.0]), "mean"),
    (lambda folder: edit(folder, "rgb", [0, 1, 3]), "rgb"),
    (lambda folder: edit(folder, "classes", [{"name": "a", "colour": [0, 0, 300]}]), "classes"),
    (lambda folder: edit(folder, "classes", [{"name": "line\nbreak", "colour": [0, 0, 0]}] * 3), "classes"),
    (lambda folder: edit(folder, "rgb", [0.0, 1.0, 2.0]), "rgb"),
    (lambda folder: edit(folder, "rgb", [False, True, 2]), "rgb"),
    (lambda folder: (edit(folder, "mean", [[1.0, 2.0, 3.0]]), edit(folder, "std", [[1.0, 2.0, 3.0]])), "mean"),
    (lambda folder: edit(folder, "mean", ["1.0", "2.0", "3.0"]), "mean"),
    (lambda folder: (edit(folder, "mean", []), edit(folder, "std", [])), "mean"),
    (lambda folder: edit(folder, "classes", [{"name": "a", "colour": 3}] * 3), "classes"),
    (lambda folder: edit(folder, "dtype", "object"), "dtype"),
    (lambda folder: edit(folder, "ignore", 0), "ignore"),
    (lambda folder: edit(folder, "gsd_m", -1.0), "gsd_m"),
    (lambda folder: edit(folder, "gsd_m", "1 m"), "bands, mean"),
    (lambda folder: edit(folder, "pixels", dict.fromkeys(("train", "val", "test"), [-1, 0, 0])), "pixels"),
    (lambda folder: edit(folder, "pixels", dict.fromkeys(("train", "val", "test"), [10**6, 0, 0])), "pixels"),
    (lambda folder: edit(folder, "places", ["a"]), "places"),
    (lambda folder: edit(folder, "places", {"a": ["b"]}), "places"),
    (lambda folder: edit(folder, "places", {"a": None}), "places"),
    (lambda folder: edit(folder, "arguments", {"scale": "half"}), "arguments|scale|'<'"),
])
def test_a_damaged_set_is_one_line(tmp_path, damage, message):
    write_set(tmp_path)
    load_meta(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_meta(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_limits_are_two_deviations_about_the_mean_of_the_displayed_bands():
    meta = {"dtype": "uint16", "mean": [100.0, 200.0, 300.0], "std": [10.0, 20.0, 30.0], "rgb": [2, 1, 0]}
    assert display_limits(meta) == [(240.0, 360.0), (160.0, 240.0), (80.0, 120.0)]
    assert display_limits({**meta, "dtype": "uint8"}) is None


def test_a_checkpoint_keeps_names_colours_and_scale(tmp_path):
    write_set(tmp_path)
    kept = checkpoint_meta({**load_meta(tmp_path), "arguments": {"scale": 0.5}})
    assert kept["classes"] == ["c0", "c1", "c2"] and len(kept["colours"]) == 3 and kept["scale"] == 0.5


@pytest.mark.parametrize("changed", [
    {"rgb": [0.0, 1.0, 2.0]}, {"rgb": {0: 1}}, {"colours": [3, 3, 3]}, {"bands": 3.0},
    {"mean": [[1, 2, 3]], "std": [[1, 2, 3]]}])
def test_what_a_checkpoint_keeps_is_believed_only_where_it_makes_sense(changed, tmp_path):
    write_set(tmp_path)
    kept = checkpoint_meta(load_meta(tmp_path))
    check_checkpoint_meta(**kept)
    with pytest.raises((TypeError, ValueError)):
        check_checkpoint_meta(**kept | changed)
