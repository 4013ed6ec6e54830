"""Prepared folders written from arrays, and the parts that prepare_data.py shares."""

import csv
import errno
import json
import os

import numpy as np
import pytest

import evaluate
import predict
import train
from data import TileDataset, write_prepared
from engine.lock import locked_beside
from engine.prepared import (
    CONSTANT, BandStatistics, TileWriter, changed_data, class_entries, classes_without_labels,
    data_fingerprint, draw_splits, load_meta, new_folder, tile_positions, verify_arrays)
from geo.raster import write_geotiff

SPLITS = ["train", "train", "val", "test"]


def tiles(count=4, side=8, bands=2, dtype=np.uint8):
    """(N, S, S, C) images whose first band is the label times 100, and their (N, S, S) labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (count, side, side))
    images = random.integers(0, 50, (count, side, side, bands))
    images[..., 0] = 100 * labels
    return images.astype(dtype), labels


def test_write_prepared__arrays_come_back_as_they_were(tmp_path):
    images, labels = tiles()
    labels[2, 0, 0] = 255
    meta = write_prepared(tmp_path / "mine", images, labels, ["water", "wood"], SPLITS, gsd_m=10)
    assert meta == load_meta(tmp_path / "mine") and meta["name"] == "mine" and meta["gsd_m"] == 10
    assert [entry["name"] for entry in meta["classes"]] == ["water", "wood"]
    assert meta["tiles"] == {"train": 2, "val": 1, "test": 1} and sum(meta["pixels"]["val"]) == 63
    for split, where in (("train", slice(0, 2)), ("val", slice(2, 3)), ("test", slice(3, 4))):
        read_images, read_labels = TileDataset(tmp_path / "mine", split).get_batch([0])
        assert (read_images.numpy() == images[where][:1]).all()
        assert (read_labels.numpy() == labels[where][:1]).all()
    with open(tmp_path / "mine/tiles.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["index"]) for row in rows] == [
        ("train", "0"), ("train", "1"), ("val", "0"), ("test", "0")]
    assert len({row["scene"] for row in rows}) == 4
    assert meta["mean"] == pytest.approx(images[:2].reshape(-1, 2).mean(0))
    assert meta["std"] == pytest.approx(images[:2].reshape(-1, 2).std(0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", ">u2"])
def test_write_prepared__takes_every_dtype_and_a_list_of_arrays(tmp_path, dtype):
    images, labels = tiles(dtype=dtype)
    write_prepared(tmp_path / "mine", list(images), list(labels.astype(np.uint8)), ["a", "b"])
    assert load_meta(tmp_path / "mine")["dtype"] == np.dtype(dtype).name
    read_images, _ = TileDataset(tmp_path / "mine", "val").get_batch([0])
    assert (read_images.numpy() == images).all(axis=(1, 2, 3)).any()


def test_write_prepared__draws_70_20_10_percent_the_same_each_time(tmp_path):
    images, labels = tiles(count=20)
    first = write_prepared(tmp_path / "one", images, labels, ["a", "b"])
    write_prepared(tmp_path / "two", images, labels, ["a", "b"])
    assert first["tiles"] == {"train": 14, "val": 4, "test": 2}
    one, two = (np.load(tmp_path / name / "test_images.npy") for name in ("one", "two"))
    assert (one == two).all()


def test_write_prepared__missing_pixels_have_no_label_and_no_part_in_the_mean(tmp_path):
    images, labels = tiles(dtype=np.float32)
    images[:] = 5
    images[0, 0, 0] = -9999  # every band
    images[0, 2, 2, 1] = np.nan
    images[2, 1, 1, 0] = -9999  # in one band of two: this pixel holds data
    meta = write_prepared(tmp_path / "mine", images, labels, ["a", "b"], SPLITS, nodata=-9999)
    _, read_labels = TileDataset(tmp_path / "mine", "train").get_batch([0])
    assert np.argwhere(read_labels[0].numpy() == 255).tolist() == [[0, 0]]
    assert sum(meta["pixels"]["val"]) == 64
    assert meta["mean"] == [5, 5] and meta["std"] == [CONSTANT] * 2
    assert meta["nodata"] == [-9999, -9999]  # of each band by itself
    assert meta["scene_nodata"] == -9999


@pytest.mark.parametrize(
    "change, named",
    [
        ({"images": []}, "images"),
        ({"images": np.zeros((4, 8, 9, 2), np.uint8)}, "images"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "images"),
        ({"images": np.zeros((4, 8, 8, 2))}, "images: float64"),
        (
            {"images": [np.zeros((side, side, 2), np.uint8) for side in (8, 8, 8, 9)]},
            "images: number 3"),
        ({"labels": np.zeros((3, 8, 8), int)}, "labels"),
        ({"labels": np.zeros((4, 8, 9), int)}, "labels: number 0"),
        ({"labels": np.zeros((4, 8, 8))}, "labels: number 0"),
        ({"labels": np.full((4, 8, 8), 2)}, "labels: number 0 holds 2"),
        ({"labels": np.full((4, 8, 8), -1)}, "labels: number 0 holds -1"),
        ({"classes": []}, "classes"),
        ({"classes": ["a", "a"]}, "classes"),
        ({"classes": [{"name": "a", "colour": [0, 0, 256]}, "b"]}, "classes"),
        ({"classes": [{"name": "a", "colour": 3}, "b"]}, "classes"),
        ({"classes": ["a", "new\nline"]}, "classes"),
        ({"classes": [1, 2]}, "classes"),
        ({"classes": "ab"}, "classes"),
        ({"classes": {"b": 1, "a": 0}}, "classes"),
        ({"labels": np.ma.masked_array(np.zeros((4, 8, 8), int), mask=True)}, "masked arrays"),
        ({"classes": ["a", "b" * 201]}, "classes"),
        ({"splits": ["train"] * 3}, "splits"),
        ({"splits": ["train"] * 3 + ["Test"]}, "splits"),
        ({"gsd_m": 0}, "gsd_m"),
        ({"nodata": 256}, "nodata"),
        ({"nodata": 0.5}, "nodata"),
    ],
)
def test_write_prepared__names_the_argument_that_does_not_fit(tmp_path, change, named):
    images, labels = tiles()
    given = {"images": images, "labels": labels, "classes": ["a", "b"], "splits": SPLITS}
    with pytest.raises(ValueError, match=named) as caught:
        write_prepared(tmp_path / "mine", **(given | change))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_write_prepared__two_tiles_need_their_splits_named(tmp_path):
    images, labels = tiles(count=2)
    with pytest.raises(ValueError, match="splits"):
        write_prepared(tmp_path / "mine", images, labels, ["a", "b"])


def test_write_prepared__a_folder_in_use_stays_as_it_is(tmp_path):
    images, labels = tiles()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="mine holds other files"):
        write_prepared(tmp_path / "mine", images, labels, ["a", "b"])
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_write_prepared__all_commands_accept_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, labels = tiles(count=10, side=16)
    write_prepared("mine", images, labels, ["water", {"name": "wood", "colour": [0, 120, 0]}])
    scores = train.main(
        train.parse_args(
            [
                "--data", "mine", "--out", "run", "--epochs", "1", "--bs", "4", "--width", "4",
                "--depth", "1", "--points", "0", "--device", "cpu"]
        )
    )
    assert scores["labelled_pixels"] == 7 * 16**2
    again = evaluate.main(evaluate.parse_args(["--checkpoint", "run/best.pt", "--device", "cpu"]))
    assert again["confusion"] == scores["confusion"]
    write_geotiff("scene.tif", [images[0]], 16, 16, 2, np.uint8)
    predict.main(
        predict.parse_args(
            ["scene.tif", "--checkpoint", "run/best.pt", "--out", "maps", "--device", "cpu"])
    )
    assert (tmp_path / "maps/scene_classes.tif").exists()


def test_new_folder__is_removed_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "a") as work:
        (work / "half.npy").write_bytes(b"x")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_new_folder__one_process_makes_it_and_removes_what_killed_ones_left(tmp_path, capsys):
    (tmp_path / "a.partial-1").mkdir()
    (tmp_path / "a.partial-1/half.npy").touch()
    (tmp_path / "ab.partial-1").mkdir()
    with locked_beside(tmp_path / "a"), pytest.raises(BlockingIOError), new_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a.partial-1").exists()
    with new_folder(tmp_path / "a") as work:
        (work / "whole.npy").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ab.partial-1"]
    assert "a.partial-1" in capsys.readouterr().err


def test_new_folder__what_was_put_there_meanwhile_stays(tmp_path):
    with pytest.raises(ValueError, match="holds other"), new_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a/notes.txt").write_text("keep")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "notes.txt"]


@pytest.mark.parametrize("name", ["x" * 201, "x/" * 2000 + "x"], ids=["long", "deep"])
def test_new_folder__refuses_a_path_that_no_system_takes(tmp_path, name):
    with pytest.raises(ValueError, match="--out"), new_folder(tmp_path / name):
        pass
    assert not list(tmp_path.iterdir())


def test_tile_writer__full_disk_names_the_file_and_the_remedy(tmp_path, monkeypatch):
    class Full:
        def write(self, values):
            raise OSError(errno.ENOSPC, "No space left on device")

    with TileWriter(tmp_path, {"train": 1}, 2, 1, np.uint8) as writer:
        monkeypatch.setitem(writer.images, "train", Full())
        with pytest.raises(OSError, match="train_images.npy .*free some space"):
            writer.write("train", np.zeros((2, 2, 1), np.uint8), None, ())


def swap_tiles(arrays):
    arrays[[3, 5]] = arrays[[5, 3]]


def turn_tile(arrays):
    arrays[4] = np.rot90(arrays[4])


def blank_tile(arrays):
    arrays[7] = 0


@pytest.mark.parametrize("name, change", [
    ("train_images", swap_tiles), ("train_labels", turn_tile), ("val_images", blank_tile)])
def test_changed_data__a_tile_changed_since_is_found(tmp_path, name, change):
    images, labels = tiles(count=50)
    splits = ["train", "val"] * 24 + ["test"] * 2
    write_prepared(tmp_path / "mine", images, labels, ["a", "b"], splits)
    known = json.loads(json.dumps(data_fingerprint(tmp_path / "mine")))
    assert verify_arrays(tmp_path / "mine") == images.nbytes + labels.size
    assert changed_data(tmp_path / "mine", known, data_fingerprint(tmp_path / "mine")) == []
    path = tmp_path / "mine" / f"{name}.npy"
    changed = np.load(path)
    os.utime(path)  # a copy, whose values are the same
    assert changed_data(tmp_path / "mine", known, data_fingerprint(tmp_path / "mine")) == []
    change(changed)
    np.save(path, changed)
    assert load_meta(tmp_path / "mine")  # to start takes no time
    now = data_fingerprint(tmp_path / "mine")
    known = {key: known[key] for key in known if not key.startswith("look")}
    with pytest.raises(ValueError, match=f"{name}.npy"):
        changed_data(tmp_path / "mine", known, now)


def test_changed_data__a_set_prepared_anew_is_another(tmp_path):
    images, labels = tiles(count=50)
    write_prepared(tmp_path / "one", images, labels, ["a", "b"])
    images[:, 0, 0] += 1
    write_prepared(tmp_path / "two", images, labels, ["a", "b"])
    known, now = (data_fingerprint(tmp_path / name) for name in ("one", "two"))
    assert {"digests of train", "digests of val", "digests of test"} < set(
        changed_data(tmp_path / "two", known, now))


def test_draw_splits__gives_the_fractions_and_leaves_no_split_out():
    def counts(splits):
        return [splits.count(name) for name in ("train", "val", "test")]

    assert counts(draw_splits(100, (0.7, 0.2, 0.1), 0)) == [70, 20, 10]
    assert counts(draw_splits(3, (0.7, 0.2, 0.1), 0)) == [1, 1, 1]
    assert counts(draw_splits(5, (8, 0, 2), 0)) == [4, 0, 1]
    assert draw_splits(50, (0.7, 0.2, 0.1), 1) == draw_splits(50, (0.7, 0.2, 0.1), 1)
    assert draw_splits(50, (0.7, 0.2, 0.1), 1) != draw_splits(50, (0.7, 0.2, 0.1), 2)
    with pytest.raises(ValueError, match="2 scenes or tiles do not fill 3 splits"):
        draw_splits(2, (0.7, 0.2, 0.1), 0)


def test_band_statistics__parts_together_are_the_whole():
    pixels = np.random.default_rng(0).normal(3, 2, (100, 2)).astype(np.float32)
    statistics = BandStatistics(2)
    for part in np.split(pixels, [10, 10, 70]):
        statistics.add(part, np.ones(part.shape, bool))
    mean, std = statistics.mean_and_std()
    assert mean == pytest.approx(pixels.astype(np.float64).mean(0))
    assert std == pytest.approx(pixels.astype(np.float64).std(0))


def test_band_statistics__warns_of_a_value_that_often_means_no_data(capsys):
    for known in (False, True):
        statistics = BandStatistics(2)
        statistics.add(np.array([[3, 7], [4, -9999]]), np.array([[True, True], [True, known]]))
        statistics.mean_and_std()
        assert ("--nodata=-9999" in capsys.readouterr().err) == known


def test_class_entries__names_get_colours_that_differ():
    entries = class_entries([f"class {number}" for number in range(255)])
    assert len({tuple(entry["colour"]) for entry in entries}) > 200
    assert json.dumps(class_entries([{"name": "a", "colour": np.array([1, 2, 3])}])) == (
        '[{"name": "a", "colour": [1, 2, 3]}]')


def test_classes_without_labels__names_what_cannot_be_learned_or_scored():
    meta = {"classes": [{"name": name} for name in ("wood", "water", "road", "rock")],
            "tiles": {"train": 2, "val": 1, "test": 1},
            "pixels": {"train": [9, 0, 9, 0], "val": [0, 9, 9, 0], "test": [9, 9, 0, 0]}}
    nowhere, untrained, untested = classes_without_labels(meta)
    assert nowhere.startswith("not one pixel is labelled rock:")
    assert untrained.startswith("water has no label in train")
    assert untested.startswith("road has no label in test")
    meta["tiles"]["test"] = 0
    assert len(classes_without_labels(meta)) == 2


def write_positions(folder, rows):
    with open(folder / "tiles.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "index", "scene", "row", "col"), *rows])


def test_tile_positions__of_a_split_in_the_order_of_its_tiles(tmp_path):
    write_positions(tmp_path, [("test", 1, "b", 0, 8), ("train", 0, "x", 0, 0),
                               ("test", 0, "a, a", 16, 0)])
    assert tile_positions(tmp_path, "test", 2) == [("a, a", 16, 0), ("b", 0, 8)]


@pytest.mark.parametrize("row", [("test", 0, "a", "zero", 0), ("test", 1, "a", 0, 0), ("test",)])
def test_tile_positions__damaged_or_missing_is_one_line(tmp_path, row):
    with pytest.raises(OSError, match="tiles.csv"):
        tile_positions(tmp_path, "test", 1)
    write_positions(tmp_path, [row])
    with pytest.raises(ValueError, match="tiles.csv"):
        tile_positions(tmp_path, "test", 1)
