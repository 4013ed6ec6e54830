"""Raw scenes and masks become tiles: what is kept, where it goes, and what is refused."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import TileDataset, normalise
from engine.prepared import CONSTANT, load_meta, verify_arrays
from geo.raster import write_geotiff
from prepare_data import KINDS, frequency_table, main, make_demo, parse_args
from sources import splits

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def save(array, path, nodata=None):
    """Write a PNG, or a TIFF of any dtype and number of bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    if path.suffix == ".tif":
        bands = 1 if array.ndim == 2 else array.shape[2]
        write_geotiff(path, [array], *array.shape[:2], bands, array.dtype, nodata=nodata)
    else:
        Image.fromarray(array.astype(np.uint8)).save(path)


def write_set(folder, count=3, height=40, width=50, suffix=".png"):
    """Images whose pixels are row, column and scene, and masks of ids 10 (left) and 30 (right)."""
    rows, cols = np.indices((height, width))
    for number in range(count):
        image = np.stack([rows, cols, np.full_like(rows, number)], -1).astype(np.uint8)
        save(image, folder / f"images/s{number}{suffix}")
        save(np.where(cols < width // 2, 10, 30), folder / f"masks/s{number}.png")
    (folder / "classes.csv").write_text("id,name,r,g,b\n10,water,0,0,255\n30,wood,0,120,0\n")


def prepare(folder, *words, out="out"):
    """Run `prepare_data.py folder` on the set in folder; returns what `read` does."""
    main(
        parse_args(
            [
                "folder", "--images", str(folder / "images"), "--masks", str(folder / "masks"),
                "--classes", str(folder / "classes.csv"), "--out", str(folder / out),
                *map(str, words)]
        )
    )
    return read(folder / out)


def read(out):
    """The meta of a prepared set, its arrays by name, and the rows of tiles.csv."""
    meta = load_meta(out)
    arrays = {path.stem: np.load(path) for path in out.glob("*.npy")}
    with open(out / "tiles.csv", newline="") as file:
        return meta, arrays, list(csv.DictReader(file))


def refuses(message, folder, *words):
    """The command raises one line that holds the message, and leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        prepare(folder, *words, out="refused")
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


FOLDER = "folder --images i --masks m --classes c.csv".split()


def parse_error(capsys, *words):
    """The one line with which a command line is refused, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        parse_args(list(map(str, words)))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("prepare_data.py")
    return line


@pytest.mark.parametrize(
    "flag, values",
    [
        ("--tile", [0]), ("--tile", [10**6]), ("--tile", [1.5]), ("--overlap", [-1]),
        ("--gsd", [0]), ("--gsd", ["inf"]), ("--scale", [0]), ("--scale", [17]),
        ("--fractions", ["inf", 0, 1]), ("--fractions", [0.5, "nan", 0.5]),
        ("--fractions", [0.5, 0.5]), ("--tolerance", [256]), ("--seed", [-1]),
        ("--nodata", ["inf"]), ("--rgb", [0]), ("--min-labelled", [-1]), ("--max-pixels", [0]),
        ("--split-by", ["roof"])],
)
def test_parse_args__a_value_out_of_range_is_one_line_that_names_the_flag(capsys, flag, values):
    assert flag in parse_error(capsys, *FOLDER, flag, *values)


@pytest.mark.parametrize(
    "words, named",
    [
        ("demo --max-cloud 0.5", "--max-cloud is not for demo"),
        ("folder --src x", "--src is not for folder"),
        ("dubai --src x --masks=m", "--masks is not for dubai"),
        ("--tolerance 3 demo", "--tolerance is not for demo"), ("dubai", "--src"),
        ("folder --images i --classes c.csv", "--points-file"),
        ("points --images i --classes c", "--points-file"),
        ("folder --images i --masks m --points-file p --classes c", "--points-file"),
        ("folder --masks m --classes c", "--images"),
        ("demo --test-places a --split-by tile", "--split-by"), ("", "KIND"),
        ("flder --images i", "flder")],
)
def test_parse_args__names_the_flag_that_is_missing_or_out_of_place(capsys, words, named):
    assert named in parse_error(capsys, *words.split())


@pytest.mark.parametrize(
    "words, near",
    [
        ("demo --tlie 3", "--tile"), ("folder --imagse i --masks m --classes c.csv", "--images"),
        ("dubai --split_by tile", "--split-by")],
)
def test_parse_args__a_mistyped_flag_names_the_nearest(capsys, words, near):
    line = parse_error(capsys, *words.split())
    assert f"unknown argument {words.split()[1]}" in line and near in line


@pytest.mark.parametrize(
    "words",
    [
        "--scale 0.5 dubai --src dubai", "--src dubai --scale 0.5 dubai",
        "--src=dubai dubai --scale 0.5", "dubai --scale 0.5 --src dubai"],
)
def test_parse_args__flags_may_stand_before_the_kind(words):
    args = parse_args(words.split())
    assert (args.kind, args.src, args.scale, args.out) == ("dubai", "dubai", 0.5, "data/dubai")
    args = parse_args("--drop-single-class --fractions 1 0 0 demo --out folder".split())
    assert (
        args.kind == "demo" and args.drop_single_class and args.fractions == [1, 0, 0]
        and args.tile == 128)


def test_parse_args__each_kind_shows_only_its_own_flags(capsys):
    shown = {}
    for kind in KINDS:
        with pytest.raises(SystemExit):
            parse_args([kind, "--help"])
        shown[kind] = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert "--src" in shown["drone"] and not any(
        "--src" in shown[kind] for kind in ("demo", "folder", "points", "sentinel2"))
    assert (
        "--max-cloud" in shown["sentinel2"]
        and "--max-cloud" not in shown["folder"] | shown["dubai"])
    assert "--threshold" in shown["folder"] and "--threshold" not in shown["points"] | shown["demo"]
    assert all({"--tile", "--out", "--split-by", "--seed"} <= flags for flags in shown.values())


@pytest.mark.parametrize("words", [[], ["--pad-edges"]])
def test_write_tiles__every_pixel_is_kept_once_where_tiles_csv_says(tmp_path, words):
    write_set(tmp_path)
    meta, arrays, rows = prepare(tmp_path, "--tile", 16, "--fractions", 1, 1, 1, *words)
    assert meta["tiles"] == {"train": 12, "val": 12, "test": 12}  # 3 x 4 tiles of a scene
    seen = np.zeros((3, 40, 50), int)
    for row in rows:
        image = arrays[f"{row['split']}_images"][int(row["index"])]
        labels = arrays[f"{row['split']}_labels"][int(row["index"])]
        top, left, scene = int(row["row"]), int(row["col"]), int(row["scene"][1:])
        height, width = min(16, 40 - top), min(16, 50 - left)
        assert (image[:height, :width, 0] == np.arange(top, top + height)[:, None]).all()
        assert (image[:height, :width, 1] == np.arange(left, left + width)).all()
        assert (image[:height, :width, 2] == scene).all()
        labelled = labels != 255
        here = np.broadcast_to(np.arange(left, left + 16) >= 25, (16, 16))
        assert (labels[labelled] == here[labelled]).all()
        assert not labelled[height:].any() and not labelled[:, width:].any()
        assert words or (height, width) == (16, 16)
        seen[scene, top : top + height, left : left + width] += labelled[:height, :width]
    assert (seen == 1).all()
    assert (
        meta["pixels"] == {split: [1000, 1000] for split in ("train", "val", "test")}
        and meta["places"] == {} and meta["shared_ground"] == {"val": 0, "test": 0})
    assert [entry["name"] for entry in meta["classes"]] == ["water", "wood"]
    assert (
        meta["classes"][1]["colour"] == [0, 120, 0] and meta["gsd_m"] is None
        and meta["km2"] is None)


def test_write_tiles__padding_is_the_image_mirrored_without_labels(tmp_path):
    write_set(tmp_path, count=1, height=8, width=11)
    _, arrays, _ = prepare(tmp_path, "--tile", 8, "--fractions", 1, 0, 0, "--pad-edges")
    assert arrays["train_images"][1, 0, :, 1].tolist() == [8, 9, 10, 9, 8, 9, 10, 9]
    assert arrays["train_labels"][1, 0].tolist() == [1, 1, 1, 255, 255, 255, 255, 255]
    _, arrays, _ = prepare(tmp_path, "--tile", 10, "--fractions", 1, 0, 0, out="small")
    assert arrays["train_images"][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 5]


def test_write_tiles__mean_and_std_are_those_of_the_training_pixels(tmp_path):
    write_set(tmp_path, suffix=".tif")
    meta, arrays, rows = prepare(tmp_path, "--tile", 16, "--fractions", 1, 1, 1)
    scene = int(rows[[row["split"] for row in rows].index("train")]["scene"][1:])
    assert np.allclose(meta["mean"], [19.5, 24.5, scene])
    assert np.allclose(
        meta["std"], [np.arange(40).std(), np.arange(50).std(), CONSTANT])


def touching(rows, tile):
    """Pairs of tiles of one scene and of different splits that share a pixel or an edge."""
    found = 0
    for first in rows:
        for second in rows:
            if first["scene"] == second["scene"] and first["split"] < second["split"]:
                found += all(
                    abs(int(first[axis]) - int(second[axis])) <= tile for axis in ("row", "col"))
    return found


@pytest.mark.parametrize("size", [(200, 60), (60, 200)])
def test_main__blocks_of_a_scene_never_touch(tmp_path, size):
    write_set(tmp_path, 2, *size)
    meta, _, rows = prepare(tmp_path, "--tile", 16, "--overlap", 4, "--split-by", "block")
    assert min(meta["tiles"].values()) > 0 and touching(rows, 16) == 0
    assert sum(meta["pixels"]["train"]) > sum(meta["pixels"]["val"]) > sum(meta["pixels"]["test"])
    drawn, _, rows = prepare(tmp_path, "--tile", 16, "--split-by", "tile", out="leaky")
    assert touching(rows, 16) > 0  # which is what the other two are for


def test_main__splits_by_name_and_by_list(tmp_path):
    write_set(tmp_path, count=4)
    _, _, rows = prepare(tmp_path, "--test-places", "s2", "--val-places", "s0", "s1", out="named")
    assert {row["scene"]: row["split"] for row in rows} == {
        "s0": "val", "s1": "val", "s2": "test", "s3": "train"}
    (tmp_path / "split.csv").write_text("scene,split\ns3,val\ns0,train\ns1,test\n")
    _, _, rows = prepare(
        tmp_path, "--split-list", tmp_path / "split.csv", out="listed")  # s2 is left out
    assert {row["scene"]: row["split"] for row in rows} == {
        "s3": "val", "s0": "train", "s1": "test"}
    refuses("no place is called 's9'", tmp_path, "--test-places", "s9")
    refuses(
        "place 's0' is in both --val-", tmp_path, "--test-places", "s0", "--val-places", "s0", "s1")
    (tmp_path / "split.csv").write_text("scene,split\ns3,valid\n")
    refuses(
        "give one CSV", tmp_path, "--split-list", tmp_path / "split.csv", tmp_path / "split.csv")
    refuses("split.csv, line 2", tmp_path, "--split-list", tmp_path / "split.csv")
    (tmp_path / "split.csv").write_text("scene,split\ns3,val\ns0,train\ns3,test\n")
    refuses("line 4: 's3' is in val above", tmp_path, "--split-list", tmp_path / "split.csv")


def test_main__official_tile_lists_count_the_cut_off_tiles_too(tmp_path):
    rows, cols = np.indices((600, 1100))
    # 2 x 3 tiles of 512 px.
    save(
        (rows // 512 * 3 + cols // 512).astype(np.uint8), tmp_path / "images/M-33_x.tif")
    save(np.where(cols < 512, 10, 30), tmp_path / "masks/M-33_x.png")
    (tmp_path / "classes.csv").write_text("id,name\n10,water\n30,wood\n")
    for split, lines in (
        ("train", "M-33_x_0\nM-33_x_4\n"), ("val", "M-33_x_2\n"), ("test", "M-33_x_3\n")):
        (tmp_path / f"{split}.txt").write_text(lines)
    lists = ["--split-list", *(tmp_path / f"{split}.txt" for split in ("train", "val", "test"))]
    meta, arrays, tiles = prepare(tmp_path, "--tile", 512, *lists)
    assert meta["tiles"] == {"train": 2, "val": 1, "test": 1}
    assert [arrays[f"{name}_images"][:, 0, 0, 0].tolist() for name in ("train", "val", "test")] == [
        [0, 4], [2], [3]]
    meta, arrays, tiles = prepare(tmp_path, "--tile", 128, "--scale", 0.5, *lists, out="half")
    assert meta["tiles"] == {
        "train": 6, "val": 2, "test": 2}  # 256 x 256 and 44 x 256; 256 x 38; 44 x 256
    assert [(row["row"], row["col"]) for row in tiles if row["split"] == "val"] == [
        ("0", "512"), ("128", "512")]
    (tmp_path / "val.txt").write_text("M-33_x_6\n")
    refuses("'M-33_x_6' is beyond the end", tmp_path, *lists)


def test_choose_tiles__tiles_without_labels_are_dropped_and_reported(tmp_path):
    write_set(tmp_path, count=1, height=16, width=64)
    mask = np.full((16, 64), 255)
    mask[:, :20], mask[0, 40], mask[0, 41] = 10, 10, 30
    save(mask, tmp_path / "masks/s0.png")
    meta, _, _ = prepare(tmp_path, "--tile", 16, "--fractions", 1, 0, 0)
    assert meta["tiles"]["train"] == 3 and meta["dropped"] == {"fewer than 1 labelled px": 1}
    assert "dropped 1 tile: fewer than 1 labelled px" in frequency_table(meta)
    meta, _, _ = prepare(
        tmp_path, "--tile", 16, "--fractions", 1, 0, 0, "--drop-single-class", out="two")
    assert meta["tiles"]["train"] == 1 and meta["dropped"]["of train, one class alone"] == 2
    meta, _, _ = prepare(
        tmp_path, "--tile", 16, "--fractions", 1, 0, 0, "--min-labelled", 0, out="all")
    assert meta["tiles"] == {"train": 4, "val": 0, "test": 0} and meta["dropped"] == {}


def test_choose_tiles__drop_single_class_is_for_train_alone(tmp_path):
    write_set(tmp_path)
    meta, _, _ = prepare(tmp_path, "--tile", 16, "--fractions", 1, 1, 1, "--drop-single-class")
    assert meta["tiles"] == {
        "train": 3, "val": 12, "test": 12}  # only columns 16 to 31 show both halves


def test_choose_tiles__a_split_without_tiles_names_what_was_dropped(tmp_path):
    write_set(tmp_path)
    mask = np.full((40, 50), 10)
    mask[:25, :25] = 255
    save(mask, tmp_path / "masks/s2.png")
    words = "--tile", 25, "--test-places", "s2", "--val-places", "s1", "--drop-only", "water"
    refuses(
        "no tile of test .* 1 tile: fewer than 1 labelled px, 3 tiles: only water",
        tmp_path, *words)


def test_frequency_table__areas_come_with_the_ground_sample_distance(tmp_path):
    write_set(tmp_path)
    meta, _, _ = prepare(
        tmp_path, "--tile", 16, "--fractions", 1, 1, 1, "--gsd", 10, "--scale", 0.5)
    assert meta["gsd_m"] == 20
    assert meta["pixels"]["train"] == [240, 260]  # 20 x 25 px, of which the odd columns were taken
    assert np.allclose(meta["km2"]["train"], [0.096, 0.104])
    lines = frequency_table(meta).splitlines()
    assert lines[0].endswith(
        "20 m a pixel; km2 of tiles, where ground shown by several of them counts each time")
    assert lines[2].split() == ["tiles", "4", "4", "4"] and lines[3].split() == [
        "labelled", "px", "500", "500", "500"]
    assert lines[4].split()[:5] == ["water", "48.00", "%", "0.096", "km2"]
    meta["pixels"] = dict.fromkeys(meta["pixels"], [3, 1])  # points, which cover no ground
    lines = frequency_table(meta).splitlines()
    assert lines[0].endswith(" 20 m a pixel")
    assert lines[4].split()[:5] == ["water", "75.00", "%", "3", "px"]


def test_write_tiles__missing_pixels_have_no_label_and_no_part_in_the_mean(tmp_path):
    image = np.ones((8, 8, 2), np.float32)
    image[:, :, 1] = 0.1
    image[2, 3, 0] = np.nan  # in one band of two: this pixel holds data
    image[4, 5] = np.nan
    save(image, tmp_path / "images/a.tif")
    save(np.full((8, 8), 10), tmp_path / "masks/a.png")
    (tmp_path / "classes.csv").write_text("id,name\n10,water\n")
    meta, arrays, _ = prepare(tmp_path, "--tile", 8, "--fractions", 1, 0, 0)
    assert np.argwhere(arrays["train_labels"][0] == 255).tolist() == [[4, 5]]
    assert np.isnan(arrays["train_images"][0, 2, 3, 0]) and meta["pixels"]["train"] == [63]
    assert np.allclose(meta["mean"], [1, 0.1]) and meta["std"] == [CONSTANT] * 2
    assert meta["dtype"] == "float32"
    save(np.full((8, 8, 2), np.nan, np.float32), tmp_path / "images/a.tif")
    refuses("a.tif holds no data", tmp_path, "--fractions", 1, 0, 0)


def test_main__nodata_may_be_named_where_the_file_does_not(tmp_path):
    write_set(tmp_path, count=1, height=16, width=32)
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :17] = 255
    image[3, 20, :2] = 255  # in two bands of three
    save(image, tmp_path / "images/s0.png")
    meta, arrays, _ = prepare(tmp_path, "--tile", 16, "--fractions", 1, 0, 0, "--nodata", 255)
    assert (
        meta["nodata"] == [255] * 3 and meta["dropped"] == {"without data": 1}
        and meta["pixels"]["train"] == [0, 240])
    assert (arrays["train_labels"][0] == 255)[:, 0].all() and np.allclose(
        meta["mean"], 0)
    refuses("--nodata -1: .*s0.png holds uint8", tmp_path, "--nodata", -1)


def mixed_set(folder, scenes):
    """Scenes of two bands, {name: (dtype, nodata or None, value in rows 0 to 3)}; 20, 21 below."""
    for name, (dtype, nodata, value) in scenes.items():
        image = np.full((8, 8, 2), 20, dtype)
        image[:, :, 1], image[:4] = 21, value
        save(image, folder / f"images/{name}.tif", nodata)
        save(np.full((8, 8), 10), folder / f"masks/{name}.png")
    (folder / "classes.csv").write_text("id,name\n10,water\n")


@pytest.mark.parametrize(
    "scenes, nodata, written",
    [
        ({"a": ("int16", -9999, -9999), "b": ("int16", 0, 0)}, -9999, {"a": -9999, "b": -9999}),
        (
            {"a": ("int16", -9999, -9999), "b": ("int16", 0, -9999), "c": ("int16", 0, 0)}, 0,
            {"a": 0, "b": None, "c": 0}),
        (
            {"a": ("uint8", None, 0), "b": ("uint8", 0, 0)}, 255,
            {"a": None, "b": 255}),  # 0 is data in a
        ({"a": ("uint8", None, 9), "b": ("uint8", 0, 0)}, 0, {"a": None, "b": 0}),
        (
            {"a": ("float32", -9999, -9999), "b": ("float32", 0, 0)}, None,
            {"a": np.nan, "b": np.nan}),
        (
            {"a": ("float32", -9999, -9999), "b": ("float32", -9999, 5)}, -9999,
            {"a": -9999, "b": None}),
    ],
)
def test_shared_nodata__missing_pixels_have_one_value_where_scenes_name_several(
    tmp_path, scenes, nodata, written):
    mixed_set(tmp_path, scenes)
    meta, arrays, rows = prepare(tmp_path, "--tile", 8, "--fractions", 1, 0, 0)
    assert meta["nodata"] == nodata
    images, _ = TileDataset(tmp_path / "out", "train").get_batch(range(len(rows)))
    values = normalise(images, meta["mean"], meta["std"], meta["nodata"])  # (B, C, H, W)
    for row in rows:
        tile, value = int(row["index"]), written[row["scene"]]
        stored, labels = arrays["train_images"][tile], arrays["train_labels"][tile]
        held = scenes[row["scene"]][2] if value is None else value
        assert np.array_equal(
            stored[:4], np.full((4, 8, 2), held, stored.dtype), equal_nan=stored.dtype.kind == "f")
        assert (stored[4:] == [20, 21]).all() and (labels[4:] == 0).all()
        assert (labels[:4] == (0 if value is None else 255)).all()
        assert (values[tile, :, :4] == 0).all() == (value is not None)  # the bands' mean


def test_write_tiles__transparent_pixels_are_missing_in_the_set_too(tmp_path):
    image = np.full((8, 8, 4), 255, np.uint8)
    image[:4] = 1, 2, 3, 0
    save(image, tmp_path / "images/a.png")
    save(np.full((8, 8), 10), tmp_path / "masks/a.png")
    (tmp_path / "classes.csv").write_text("id,name\n10,water\n")
    meta, arrays, _ = prepare(tmp_path, "--tile", 8, "--fractions", 1, 0, 0)
    assert meta["nodata"] == 0
    assert not arrays["train_images"][0, :4].any() and (arrays["train_images"][0, 4:] == 255).all()


def test_shared_nodata__refuses_where_every_value_is_data(tmp_path):
    for name, nodata in (("a", 0), ("b", 255)):
        save(
            np.arange(256, dtype=np.uint8).reshape(16, 16), tmp_path / f"images/{name}.tif", nodata)
        save(np.full((16, 16), 10), tmp_path / f"masks/{name}.png")
    (tmp_path / "classes.csv").write_text("id,name\n10,water\n")
    refuses("each value of uint8 is data somewhere", tmp_path, "--tile", 16, "--fractions", 1, 0, 0)


def test_main__what_goes_wrong_is_one_line_that_names_the_file(tmp_path):
    write_set(tmp_path)
    refuses("--rgb 1 2 9: .* 1 to 3", tmp_path, "--rgb", 1, 2, 9)
    refuses(
        "s0.png: .*40 x 50 px, to be decoded whole, but --max-pixels is 1999", tmp_path,
        "--max-pixels", 1999)
    refuses("--val-places", tmp_path, "--val-places", "s0", "--split-by", "block")
    refuses(
        "--overlap 4: with --split-by tile", tmp_path, "--tile", 16, "--overlap", 4, "--split-by",
        "tile")
    refuses("--overlap 16", tmp_path, "--tile", 16, "--overlap", 16)
    refuses("--fractions", tmp_path, "--fractions", 0, 0, 0)
    save([[0]], tmp_path / "refused/mine.png")
    refuses("refused holds other files", tmp_path)
    (tmp_path / "refused/mine.png").unlink()
    (tmp_path / "images/s9.png").write_bytes(b"")
    refuses("s9.png has no partner", tmp_path)
    save(np.zeros((40, 50)), tmp_path / "masks/s9.png")
    refuses("s9.png", tmp_path)  # an empty image
    save(np.zeros((40, 50)), tmp_path / "images/s9.png")
    refuses("s9.png has 1 bands of uint8, but .*s0.png 3 of uint8", tmp_path)
    save(np.zeros((40, 50, 3)), tmp_path / "images/s9.png")
    refuses(r"s9.png: value 0 \(2000 px\) is no class", tmp_path)
    save(np.full((40, 51), 10), tmp_path / "masks/s9.png")
    refuses("s9.png is 40 x 50 px, but its mask .*s9.png 40 x 51", tmp_path)
    save(np.full((40, 50), 255), tmp_path / "masks/s9.png")
    refuses("no tile of train is left", tmp_path, "--test-places", "s0", "--val-places", "s1", "s2")
    save(np.full((40, 50), 10), tmp_path / "masks/s9.png")
    whole = (tmp_path / "images/s0.png").read_bytes()
    (tmp_path / "images/s0.png").write_bytes(whole[: len(whole) // 2])
    refuses("s0.png", tmp_path)  # cut short


def test_main__an_empty_out_folder_is_taken(tmp_path):
    write_set(tmp_path)
    (tmp_path / "out").mkdir()
    prepare(tmp_path, "--fractions", 1, 1, 1)
    assert (tmp_path / "out/dataset.json").exists() and (tmp_path / "out/preview.png").exists()
    assert verify_arrays(tmp_path / "out") > 0


@pytest.mark.parametrize("kind", ["folder", "points"])
def test_main__points_take_the_place_of_masks(tmp_path, kind):
    write_set(tmp_path, count=2, height=20, width=20)
    (tmp_path / "points.csv").write_text(
        "scene,row,col,class\ns0,3,4,wood\ns0,19,19,10\ns1,0,0,wood\n")
    main(
        parse_args(
            [
                kind, "--images", str(tmp_path / "images"), "--classes",
                str(tmp_path / "classes.csv"), "--points-file", str(tmp_path / "points.csv"),
                "--out", str(tmp_path / "out"), "--tile", "10", "--fractions", "1", "0", "1",
                "--seed", "1"]
        )
    )
    meta, arrays, rows = read(tmp_path / "out")
    labels = {
        (row["scene"], row["row"], row["col"]): arrays[f"{row['split']}_labels"][int(row["index"])]
        for row in rows}
    assert sorted(labels) == [("s0", "0", "0"), ("s0", "10", "10"), ("s1", "0", "0")]
    assert np.argwhere(labels["s0", "0", "0"] == 1).tolist() == [[3, 4]]
    assert np.argwhere(labels["s0", "10", "10"] == 0).tolist() == [[9, 9]]
    assert sum(map(sum, meta["pixels"].values())) == 3 and meta["dropped"] == {
        "fewer than 1 labelled px": 5}


def test_write_tiles__a_fill_value_that_nobody_names_is_refused(tmp_path):
    write_set(tmp_path, suffix=".tif")
    for path in sorted((tmp_path / "images").iterdir()):
        image = np.random.default_rng(0).random((40, 50, 3), np.float32)
        image[:2] = -3.4028235e38
        save(image, path)
    refuses(
        "whose spread is .*: if some are no data, name their value by --nodata", tmp_path, "--tile",
        16)
    meta, _, _ = prepare(tmp_path, "--tile", 16, "--nodata=-3.4028235e38")
    assert 0.2 < meta["std"][0] < 0.4


def test_main__warns_of_a_class_that_cannot_be_learned(tmp_path, capsys):
    write_set(tmp_path)
    (tmp_path / "classes.csv").write_text("id,name\n10,water\n30,wood\n40,road\n")
    prepare(tmp_path, "--tile", 16)
    assert capsys.readouterr().err.count("warning: not one pixel is labelled road:") == 1


def test_ask_for_classes__prints_a_table_to_fill_in(tmp_path, capsys):
    write_set(tmp_path)
    (tmp_path / "classes.csv").unlink()
    words = "folder", "--images", tmp_path / "images", "--masks", tmp_path / "masks"
    with pytest.raises(ValueError, match="^--classes: "):
        main(parse_args([*map(str, words), "--out", str(tmp_path / "out")]))
    assert capsys.readouterr().out == "id,name,r,g,b,share\n10,,,,,0.5000\n30,,,,,0.5000\n"
    assert not (tmp_path / "out").exists()


def test_take_positionals__a_scene_and_points_need_no_flags(tmp_path, capsys):
    args = parse_args(["points", "a.tif", "b.tif", "p.csv", "--out", "x"])
    assert (args.images, args.points_file, args.out) == (["a.tif", "b.tif"], "p.csv", "x")
    assert "--points-file" in parse_error(capsys, "points", "a.tif", "--images", "b.tif")
    assert "--images" in parse_error(capsys, "points", "p.csv")
    assert "give the points last" in parse_error(capsys, "points", "p.csv", "a.tif")


@pytest.mark.parametrize("how", ["polygon", "block", "none"])
def test_main__one_scene_needs_no_flags(tmp_path, capsys, how, monkeypatch):
    write_set(tmp_path, count=1, height=300, width=120)
    (tmp_path / "points.csv").write_text("scene,row,col,class\n" + "".join(
        f"s0,{row},{col},{'wood' if row // 10 % 2 else 'water'}\n"
        for row in range(5, 300, 10) for col in (20, 100)))
    words = ["points", str(tmp_path / "images/s0.png"), str(tmp_path / "points.csv"), "--out",
             str(tmp_path / "out")]
    if how == "block":
        monkeypatch.setattr(splits, "MAX_LABELLED", 59)  # there are 60
    main(parse_args([*words, *(["--split-by", "none"] if how == "none" else [])]))
    meta, _, _ = read(tmp_path / "out")
    printed = capsys.readouterr().out
    if how == "none":
        assert meta["pixels"] == {"train": [30, 30], "val": [0, 0], "test": [0, 0]}
        assert meta["tile"] == 96 and meta["shared_ground"] == {}
    elif how == "polygon":
        assert meta["pixels"] == {"train": [21, 21], "val": [6, 6], "test": [3, 3]}
        assert "--split-by polygon" in printed and meta["tile"] == 96
    else:
        assert all(min(meta["pixels"][split]) > 0 for split in ("train", "val", "test"))
        assert "cut into blocks" in printed and "labelled px lie in the 16 px between" in printed
        assert meta["tile"] == 64 and meta["shared_ground"] == {"val": 0, "test": 0}
    assert f"tiles of {meta['tile']} px, because" in printed
    assert "names them: water, wood (--classes)" in printed
    assert printed.rstrip().endswith("--folds 5") == (how == "none")


def test_main__an_empty_working_folder_is_taken(tmp_path, monkeypatch):
    write_set(tmp_path / "set")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = [
        "--images", "../set/images", "--masks", "../set/masks", "--classes", "../set/classes.csv",
        "--tile", "16"]
    main(parse_args(["folder", *words, "--out", "."]))
    assert read(tmp_path / "here")[0]["name"] == "here"


@pytest.mark.slow
def test_make_demo__is_the_same_for_the_same_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.demo.SITES", 1)
    prepared = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        make_demo(tmp_path / name, seed)
        places = load_meta(tmp_path / name)["places"]
        assert len(places) == 2 and len(set(places.values())) == 1  # two seasons of a place
        prepared.append(read(tmp_path / name)[1]["train_images"])
    assert (prepared[0] == prepared[1]).all() and (prepared[0] != prepared[2]).any()


@pytest.mark.slow
def test_make_demo__has_whole_sites_in_each_split(tmp_path):
    make_demo(tmp_path / "demo")
    meta, arrays, rows = read(tmp_path / "demo")
    assert (
        meta["tiles"] == {"train": 192, "val": 48, "test": 48} and meta["tile"] == 128
        and meta["gsd_m"] == 0.5)
    assert not any((arrays[f"{name}_labels"] == 255).any() for name in ("train", "val", "test"))
    splits = {}
    for row in rows:
        splits.setdefault(row["scene"].rsplit("_", 1)[0], set()).add(row["split"])
    assert len(splits) == 12 and all(
        len(names) == 1 for names in splits.values())  # both seasons on one side


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "dubai").exists(), reason="the imagery is not here")
def test_main__dubai_in_its_standard_form(tmp_path):
    main(
        parse_args(
            [
                "dubai", "--src", str(SHARED / "dubai"), "--scale", "0.5", "--out",
                str(tmp_path / "dubai")]
        )
    )
    meta, _, rows = read(tmp_path / "dubai")
    places = {
        split: {row["scene"][0] for row in rows if row["split"] == split}
        for split in ("train", "val", "test")}
    assert places == {"train": set("45678"), "val": {"2"}, "test": set("13")}
    assert [entry["name"] for entry in meta["classes"]] == [
        "building", "land", "road", "vegetation", "water"]
    assert abs(meta["pixels"]["test"][4] / sum(meta["pixels"]["test"]) - 0.25) < 0.01  # water
    assert json.loads((tmp_path / "dubai/dataset.json").read_text())["nodata"] is None
