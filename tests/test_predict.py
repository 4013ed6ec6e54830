"""A scene predicted in windows is the scene predicted whole, and what is written beside the map tells the truth."""

import collections
import csv
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import predict
from data import normalise
from engine.checkpoint import load_model, save_checkpoint
from engine.meta import checkpoint_meta
from geo.raster import Raster, open_raster, write_geotiff
from geo.windows import average_symmetries, window_and_margin
from networks import build_model

FACTS = {"name": "made", "classes": [{"name": name, "colour": [40 * k, 0, 255 - 40 * k]} for k, name in enumerate("abc")],
         "ignore": 255, "mean": [100.0] * 3, "std": [60.0] * 3, "bands": 3, "dtype": "uint8", "gsd_m": None, "rgb": [0, 1, 2]}


def lively_model(depth=1, bands=3, **kwargs):
    """A network whose batch norms have seen data and whose classes all occur, so that a wrong window shows."""
    torch.manual_seed(0)
    model = build_model("unet", bands=bands, classes=3, width=4, depth=depth, **kwargs)
    torch.nn.init.normal_(model.classifier.weight)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(4, bands, 64, 64))
    return model.eval()


def write_checkpoint(path, depth=1, bands=3, dtype="uint8"):
    model = lively_model(depth, bands)
    meta = {**FACTS, "bands": bands, "dtype": dtype, "mean": [100.0] * bands, "std": [60.0] * bands, "rgb": [0, 1, 2] if bands > 2 else [0]}
    save_checkpoint(path, {"name": "unet", "kwargs": {"bands": bands, "classes": 3, "width": 4, "depth": depth},
                           "state": model.state_dict()}, checkpoint_meta(meta), {"epoch": 1, "labelled_pixels": 1}, {})
    return model


def scene(height, width, bands=3, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 255, (height, width, bands)).astype(dtype)


def whole(model, image):
    with torch.inference_mode():
        return model(normalise(torch.from_numpy(image)[None], FACTS["mean"], FACTS["std"]))[0]


def run(checkpoint, out, *scenes, flags=()):
    return predict.main(predict.parse_args(["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", *flags,
                                            *map(str, scenes)]))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("height, width", [(150, 203), (64, 300), (5, 9), (1, 1)])
def test_windows_give_the_whole_scene(tmp_path, depth, height, width):
    model = write_checkpoint(tmp_path / "best.pt", depth)
    image = scene(height, width)
    Image.fromarray(image).save(tmp_path / "scene.png")
    margin = -(-model.radius // model.stride) * model.stride
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png", flags=["--window", str(2 * margin + 32)])
    logits = whole(model, image)
    best = logits.topk(2, dim=0).values
    differs = torch.from_numpy(tifffile.imread(path).reshape(height, width)) != logits.argmax(0)
    assert ((best[0] - best[1])[differs] < 1e-4).all()
    assert len(logits.argmax(0).unique()) > 1 or height * width < 50  # the scene is not of one class


def test_too_small_a_margin_would_be_seen(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", depth=3)
    image = scene(150, 203)
    Image.fromarray(image).save(tmp_path / "scene.png")
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png", flags=["--window", "32", "--margin", "0"])
    assert (tifffile.imread(path) != whole(model, image).argmax(0).numpy()).any()


def test_map_areas_and_overlay_of_a_georeferenced_scene(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    image = scene(70, 90)
    tags = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 500000.0, 4600000.0, 0), True),
            (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631), True)]
    tifffile.imwrite(tmp_path / "scene.tif", image, photometric="rgb", extratags=tags)
    path, = run(tmp_path / "best.pt", tmp_path / "maps", tmp_path / "scene.tif")
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "scene_areas.csv", "scene_classes.qml", "scene_classes.tif", "scene_classes.tif.aux.xml", "scene_overlay.png"]
    classes = whole(model, image).argmax(0).numpy()
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(0, 0, 70, 90)[..., 0], classes) and raster.nodata == 255
        assert raster.palette[:3].tolist() == [entry["colour"] for entry in FACTS["classes"]]
        assert raster.georeference.to_map(0, 0) == (500000.0, 4600000.0)
    with open(tmp_path / "maps" / "scene_areas.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["pixels"]) for row in rows] == np.bincount(classes.reshape(-1), minlength=3).tolist()
    assert [float(row["area_ha"]) for row in rows] == pytest.approx([int(row["pixels"]) * 4 / 1e4 for row in rows], abs=1e-4)
    with Image.open(tmp_path / "maps" / "scene_overlay.png") as overlay:
        assert overlay.width >= 90 and overlay.height > 70  # the legend comes below


def test_pixels_without_data_stay_without_class(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=2, dtype="float32")
    image = scene(40, 50, bands=2, dtype=np.float32)
    image[:10] = np.nan
    image[20, 30] = -9999
    write_geotiff(tmp_path / "scene.tif", [image], 40, 50, 2, "float32", nodata=-9999)
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.tif")
    missing = tifffile.imread(path) == 255
    assert missing[:10].all() and missing[20, 30] and missing.sum() == 10 * 50 + 1


def test_what_lies_under_transparent_pixels_does_not_matter(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=4)
    image, maps = scene(40, 50, bands=4), []
    image[:, :, 3] = 255
    for hidden in (0, 77):
        image[10:20, 10:30] = hidden, hidden, hidden, 0
        Image.fromarray(image).save(tmp_path / "scene.png")
        path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png", flags=["--probabilities"])
        maps.append(tifffile.imread(tmp_path / "scene_probabilities.tif"))
    assert np.array_equal(*maps) and (tifffile.imread(path) == 255).sum() == 200


def test_probabilities_and_confidence_are_those_behind_the_map(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", depth=2)
    image = scene(60, 130)
    image[7, 90] = 0  # no data in all bands
    write_geotiff(tmp_path / "scene.tif", [image], 60, 130, 3, "uint8", nodata=0)
    plain, = run(tmp_path / "best.pt", tmp_path / "plain", tmp_path / "scene.tif", flags=["--window", "96"])
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.tif", flags=["--window", "96", "--probabilities"])
    assert np.array_equal(tifffile.imread(path), tifffile.imread(plain)) and tifffile.imread(path)[7, 90] == 255
    with torch.inference_mode():
        wanted = model(normalise(torch.from_numpy(image)[None], FACTS["mean"], FACTS["std"], 0))[0].softmax(0).numpy()
    with open_raster(tmp_path / "scene_probabilities.tif") as raster:
        found = raster.read(0, 0, 60, 130)  # (H, W, K)
    missing = (np.arange(60) == 7)[:, None] & (np.arange(130) == 90)
    assert np.abs(found - 255 * wanted.transpose(1, 2, 0))[~missing].max() < 0.51 and not found[missing].any()
    assert np.array_equal(tifffile.imread(tmp_path / "scene_confidence.tif"), found.max(2))
    assert found.max(2)[~missing].min() > 0


@pytest.mark.parametrize("height, width", [(60, 131), (9, 200)])
def test_averaged_over_symmetries_windows_give_the_whole_scene(tmp_path, height, width):
    model = write_checkpoint(tmp_path / "best.pt", depth=2)
    image = scene(height, width)
    Image.fromarray(image).save(tmp_path / "scene.png")
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png", flags=["--tta", "--window", "64", "--probabilities"])
    with torch.inference_mode():
        wanted = average_symmetries(model, normalise(torch.from_numpy(image)[None], FACTS["mean"], FACTS["std"]))[0]
    best = wanted.topk(2, dim=0).values
    differs = torch.from_numpy(tifffile.imread(path)) != wanted.argmax(0)
    assert ((best[0] - best[1])[differs] < 1e-5).all()
    with open_raster(tmp_path / "scene_probabilities.tif") as raster:
        assert np.abs(raster.read(0, 0, height, width) - 255 * wanted.numpy().transpose(1, 2, 0)).max() < 0.51
    assert (whole(model, image).argmax(0) != wanted.argmax(0)).any()


def test_suggested_points_lie_on_data_apart_and_where_the_network_doubts(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=2, dtype="float32")
    image = scene(100, 150, bands=2, dtype=np.float32)
    image[:60] = np.nan
    write_geotiff(tmp_path / "scene.tif", [image], 100, 150, 2, "float32")
    run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.tif", flags=["--suggest", "6", "--window", "64"])
    with open(tmp_path / "scene_points.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows, cols = (np.array([int(line[axis]) for line in lines]) for axis in ("row", "col"))
    assert len(lines) == 6 and list(lines[0]) == ["scene", "row", "col", "predicted", "class"]
    assert rows.min() >= 60 and (np.hypot(rows[:, None] - rows, cols[:, None] - cols) + 99 * np.eye(6)).min() >= 16
    classes = tifffile.imread(tmp_path / "scene_classes.tif")[rows, cols]
    assert [line["predicted"] for line in lines] == ["abc"[k] for k in classes] and len(set(classes.tolist())) > 1
    assert (tmp_path / "scene_points.png").exists()


def test_files_of_others_and_filled_in_points_are_not_written_over(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    Image.fromarray(scene(40, 40)).save(tmp_path / "scene.png")
    truth = tmp_path / "scene_classes.tif"
    write_geotiff(truth, [np.zeros((40, 40), np.uint8)], 40, 40, 1, "uint8")
    before = truth.read_bytes()
    with pytest.raises(ValueError, match="scene_classes.tif is there already and is no map of this program: give another --out"):
        run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png")
    assert truth.read_bytes() == before
    for _ in range(2):  # its own maps it replaces
        run(tmp_path / "best.pt", tmp_path / "maps", tmp_path / "scene.png")
    run(tmp_path / "best.pt", tmp_path / "maps", tmp_path / "scene.png", flags=["--suggest", "2"])
    (tmp_path / "maps" / "scene_points.csv").write_text("filled in")
    with pytest.raises(ValueError, match="scene_points.csv is there already, and may hold classes that were filled in"):
        run(tmp_path / "best.pt", tmp_path / "maps", tmp_path / "scene.png", flags=["--suggest", "2"])
    assert (tmp_path / "maps" / "scene_points.csv").read_text() == "filled in"


def test_pixels_of_another_size_than_the_network_learned_are_warned_of(capsys):
    place = types.SimpleNamespace(gsd_m=0.5)
    raster = types.SimpleNamespace(path="a.tif", georeference=place)
    for gsd, georeference in ((0.51, place), (None, place), (1.0, None)):
        raster.georeference = georeference
        predict.warn_of_scale(raster, gsd, 2.0)
    assert capsys.readouterr().err == ""
    raster.georeference = place
    predict.warn_of_scale(raster, 1.0, 2.0)  # of a file of 1 m a pixel, at twice its size
    assert "a.tif is predicted at 0.5 m per pixel, the network was trained at 1 m: --scale 1 would" in capsys.readouterr().err


def test_a_strip_holds_one_window_s_pixels_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("geo.raster.CACHE_BYTES", 0)
    write_checkpoint(tmp_path / "best.pt", bands=10, dtype="uint16")
    write_geotiff(tmp_path / "scene.tif", [scene(64, 16384, bands=10, dtype=np.uint16)], 64, 16384, 10, "uint16")  # 21 MB
    model, meta = load_model(tmp_path / "best.pt")
    args = predict.parse_args(["--checkpoint", "best.pt", "--window", "96", "--margin", "16", "scene.tif"])
    with open_raster(tmp_path / "scene.tif") as raster:
        raster.read(0, 0, 1, 1)
        tracemalloc.start()
        for strip in predict.WindowPredictor(model, raster, meta, torch.device("cpu"), args).row_blocks():
            assert strip.bands.shape == (64, 16384, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6


def test_doubt_knows_no_windows(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    Image.fromarray(scene(150, 203)).save(tmp_path / "scene.png")
    args = predict.parse_args(["--checkpoint", "best.pt", "--suggest", "1", "scene.png"])
    doubts = []
    for window in (512, 64):
        args.window, args.margin = window_and_margin(window, None, model)
        with open_raster(tmp_path / "scene.png") as raster:
            strips = predict.WindowPredictor(model, raster, FACTS, torch.device("cpu"), args).row_blocks()
            doubts.append(np.concatenate([strip.uncertainty for strip in strips]))
    assert doubts[0].std() > 0.05 and np.abs(doubts[0] - doubts[1]).max() < 1e-5


def test_two_windows_at_once_draw_the_map_of_one(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best.pt")
    Image.fromarray(scene(150, 203)).save(tmp_path / "scene.png")
    turn, busy, most = threading.Lock(), collections.Counter(), collections.Counter()

    def watched(name, function):
        def call(*args):
            with turn:
                busy[name] += 1
                most[name] = max(most[name], busy[name])
            time.sleep(0.02)
            try:
                return function(*args)
            finally:
                with turn:
                    busy[name] -= 1
        return call

    monkeypatch.setattr(predict, "predict_window", watched("windows computed", predict.predict_window))
    monkeypatch.setattr("geo.raster.Raster.read", watched("windows read", Raster.read))
    maps = []
    for threads, room in ((1, 1024), (2, 1024), (4, 1024), (2, 64)):  # px: two windows of 58 x 64 are larger than one of 64
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(predict, "WINDOW", room)
        most.clear()
        run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.png", flags=["--window", "64", "--probabilities", "--suggest", "5"])
        maps.append([(tmp_path / f"scene_{name}").read_bytes() for name in ("classes.tif", "probabilities.tif", "overlay.png", "points.csv")])
        (tmp_path / "scene_points.csv").unlink()
        assert most == {"windows computed": 2 if threads > 1 and room > 64 else 1, "windows read": 1}  # a raster is read by one at a time
    assert maps[0] == maps[1] == maps[2] == maps[3]


def test_torchrun_shares_the_scenes_out(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best.pt")
    scenes = [tmp_path / f"scene{number}.png" for number in range(3)]
    for path in scenes:
        Image.fromarray(scene(20, 20)).save(path)
    for rank, wanted in [(0, {"scene0_classes.tif", "scene2_classes.tif"}), (1, {"scene1_classes.tif"})]:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert {path.name for path in run(tmp_path / "best.pt", tmp_path / "maps", *scenes)} == wanted
    assert len(list((tmp_path / "maps").glob("*_classes.tif"))) == 3
    for size in ("1", None):  # a rank that something else left in the environment
        monkeypatch.setenv("WORLD_SIZE", size) if size else monkeypatch.delenv("WORLD_SIZE")
        assert len(run(tmp_path / "best.pt", tmp_path / "maps", *scenes)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_on_the_way_nothing_is_left(tmp_path, number):
    write_checkpoint(tmp_path / "best.pt")
    Image.fromarray(scene(3000, 3000)).save(tmp_path / "scene.png")
    command = [sys.executable, pathlib.Path(predict.__file__), "--checkpoint", "best.pt", "--out", "maps", "--window", "32",
               "--device", "cpu", "--probabilities", "scene.png"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not list(tmp_path.glob("maps/.scene-*/*.part")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert list((tmp_path / "maps").iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, -9999])
def test_a_scene_without_any_data_is_one_line_and_leaves_nothing(tmp_path, value):
    write_checkpoint(tmp_path / "best.pt", dtype="float32")
    write_geotiff(tmp_path / "scene.tif", [np.full((40, 50, 3), value, np.float32)], 40, 50, 3, "float32", nodata=-9999)
    with pytest.raises(ValueError, match="scene.tif holds no data at all"):
        run(tmp_path / "best.pt", tmp_path / "maps", tmp_path / "scene.tif")
    assert list((tmp_path / "maps").iterdir()) == []


def test_a_large_scene_has_a_small_overview(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    Image.fromarray(scene(30, 4500)).save(tmp_path / "long.png")
    run(tmp_path / "best.pt", tmp_path, tmp_path / "long.png", flags=["--window", "256"])
    with Image.open(tmp_path / "long_overlay.png") as overlay:
        assert overlay.width < 2200


def test_a_scene_is_brought_to_the_scale_of_training(tmp_path):
    model = lively_model()
    meta = checkpoint_meta({**FACTS, "arguments": {"scale": 0.5}})
    save_checkpoint(tmp_path / "best.pt", {"name": "unet", "kwargs": {"bands": 3, "classes": 3, "width": 4, "depth": 1},
                                           "state": model.state_dict()}, meta, {"epoch": 1, "labelled_pixels": 1}, {})
    small = scene(30, 41)
    tags = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 500000.0, 4600000.0, 0), True),
            (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631), True)]
    tifffile.imwrite(tmp_path / "scene.tif", small.repeat(2, 0).repeat(2, 1), photometric="rgb", extratags=tags)
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "scene.tif")
    assert np.array_equal(tifffile.imread(path), whole(model, small).argmax(0).numpy())
    with open_raster(path) as raster:  # four-metre pixels, at the same corner
        assert raster.georeference.to_map(0, 0) == (500000.0, 4600000.0)
        assert raster.georeference.to_map(30, 41) == (500000.0 + 41 * 4, 4600000.0 - 30 * 4)
    path, = run(tmp_path / "best.pt", tmp_path / "own", tmp_path / "scene.tif", flags=["--scale", "1"])
    assert tifffile.imread(path).shape == (60, 82)
    tifffile.imwrite(tmp_path / "odd.tif", scene(59, 81), photometric="rgb", extratags=tags)  # 29.5 x 40.5 px, rounded
    path, = run(tmp_path / "best.pt", tmp_path, tmp_path / "odd.tif", flags=["--suggest", "1000"])
    with open_raster(path) as raster:
        assert (raster.height, raster.width) == (30, 40)
        assert np.allclose(raster.georeference.to_map(30, 40), (500000 + 81 * 2, 4600000 - 59 * 2), atol=1e-6)
    with open(tmp_path / "odd_points.csv", newline="") as file:
        assert all(int(line["row"]) < 59 and int(line["col"]) < 81 for line in csv.DictReader(file))


def test_what_does_not_fit_is_one_line(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    checkpoint, out = tmp_path / "best.pt", tmp_path / "maps"
    Image.fromarray(scene(20, 20)).save(tmp_path / "rgb.png")
    Image.fromarray(scene(20, 20)[..., 0]).save(tmp_path / "grey.png")
    write_geotiff(tmp_path / "deep.tif", [scene(20, 20, dtype=np.uint16)], 20, 20, 3, "uint16")
    Image.fromarray(scene(20, 20)).quantize(16).save(tmp_path / "palette.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "other").mkdir()
    Image.fromarray(scene(20, 20)).save(tmp_path / "other" / "rgb.jpg")
    for scenes, flags, message in [
            (["grey.png"], [], "grey.png has 1 bands, but .*best.pt was trained on 3"),
            (["deep.tif"], [], "deep.tif holds uint16, but .*best.pt was trained on uint8"),
            (["palette.png"], [], "palette.png has a palette, so its values are no intensities: convert it to RGB"),
            (["empty.png"], [], "empty.png"),
            (["nowhere.tif"], [], "nowhere.tif"),
            (["rgb.png", "other/rgb.jpg"], [], "two scenes are called rgb"),
            (["..png"], [], "..png has no name that its maps could take: rename it"),
            (["rgb.png"], ["--window", "8", "--margin", "4"], "--window 8 leaves nothing"),
            (["rgb.png"], ["--margin", "-1"], "--margin -1"),
            (["rgb.png"], ["--scale", "0"], "--scale 0"),
            (["rgb.png"], ["--suggest", "-1"], "--suggest -1"),
            (["rgb.png"], ["--max-pixels", "100"], "max-pixels")]:
        with pytest.raises((ValueError, OSError), match=message) as error:
            run(checkpoint, out, *[tmp_path / name for name in scenes], flags=flags)
        assert "\n" not in str(error.value)
    assert not out.exists() or list(out.iterdir()) == []
