"""predict.py: windows give the whole scene's map, and the files beside it fit the map."""

import collections
import contextlib
import csv
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import tifffile
import torch
from helpers import write_tiff
from PIL import Image

import predict
from data import normalise
from engine.checkpoint import find_checkpoint, load_model, save_checkpoint
from engine.meta import checkpoint_meta
from geo.georeference import from_affine
from geo.raster import Raster, open_raster, write_geotiff
from geo.windows import average_symmetries
from networks import build_model

CPU = torch.device("cpu")
META = {
    "name": "made", "ignore": 255, "gsd_m": None, "bands": 3, "dtype": "uint8", "rgb": [0, 1, 2],
    "mean": [100.0] * 3, "std": [60.0] * 3,
    "classes": [{"name": name, "colour": [40 * k, 0, 255 - 40 * k]}
                for k, name in enumerate("abc")],
}
UTM_TAGS = [  # two-metre pixels
    (33550, "d", 3, (2.0, 2.0, 0.0), True),
    (33922, "d", 6, (0, 0, 0, 500000.0, 4600000.0, 0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631), True)]


def lively_model(depth=1, bands=3):
    """A network whose batch norms have seen data and which predicts all classes."""
    torch.manual_seed(0)
    model = build_model("unet", bands=bands, classes=3, width=4, depth=depth)
    torch.nn.init.normal_(model.classifier.weight)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(4, bands, 64, 64))
    return model.eval()


def write_checkpoint(path, depth=1, bands=3, dtype="uint8", **meta):
    """Write a checkpoint of `lively_model`; returns the model."""
    model = lively_model(depth, bands)
    meta = {**META, "bands": bands, "dtype": dtype, "mean": [100.0] * bands,
            "std": [60.0] * bands, "rgb": [0, 1, 2] if bands > 2 else [0], **meta}
    kwargs = {"bands": bands, "classes": 3, "width": 4, "depth": depth}
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()},
                    checkpoint_meta(meta), {"epoch": 1, "labelled_pixels": 1}, {})
    return model


def random_scene(height, width, bands=3, dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 255, (height, width, bands))
    return values.astype(dtype)


def write_png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def network_inputs(image, nodata=None):
    return normalise(torch.from_numpy(image)[None], META["mean"], META["std"], nodata)


def whole_logits(model, image):
    """(K, H, W) of the scene in one piece."""
    with torch.inference_mode():
        return model(network_inputs(image))[0]


def run(folder, *scenes, out="", flags=()):
    """Run predict.py with folder/best.pt on scenes in folder; returns the paths of the maps."""
    scenes = [str(folder / scene) for scene in scenes]
    return predict.main(predict.parse_args([
        "--checkpoint", str(folder / "best.pt"), "--out", str(folder / out), "--device", "cpu",
        *flags, *scenes]))


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_bands(path):
    """(H, W, C) of a whole raster."""
    with open_raster(path) as raster:
        return raster.read(0, 0, raster.height, raster.width)


# The map


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("height, width", [(150, 203), (5, 9), (1, 1)])
def test_main__windows_give_the_whole_scenes_map(tmp_path, depth, height, width):
    model = write_checkpoint(tmp_path / "best.pt", depth)
    image = random_scene(height, width)
    write_png(tmp_path / "scene.png", image)
    margin = -(-model.radius // model.stride) * model.stride
    path, = run(tmp_path, "scene.png", flags=["--window", str(2 * margin + 32)])
    logits = whole_logits(model, image)
    first, second = logits.topk(2, dim=0).values
    differs = torch.from_numpy(tifffile.imread(path).reshape(height, width)) != logits.argmax(0)
    assert ((first - second)[differs] < 1e-4).all()
    assert len(logits.argmax(0).unique()) > 1 or height * width < 50  # else all windows look alike


def test_main__too_small_a_margin_changes_the_map(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", depth=3)
    image = random_scene(150, 203)
    write_png(tmp_path / "scene.png", image)
    path, = run(tmp_path, "scene.png", flags=["--window", "32", "--margin", "0"])
    assert (tifffile.imread(path) != whole_logits(model, image).argmax(0).numpy()).any()


@pytest.mark.parametrize("height, width", [(60, 131), (9, 200)])
def test_main__tta_windows_give_the_whole_scenes_probabilities(tmp_path, height, width):
    model = write_checkpoint(tmp_path / "best.pt", depth=2)
    image = random_scene(height, width)
    write_png(tmp_path / "scene.png", image)
    path, = run(tmp_path, "scene.png", flags=["--tta", "--window", "64", "--probabilities"])
    with torch.inference_mode():
        wanted = average_symmetries(model, network_inputs(image))[0]
    first, second = wanted.topk(2, dim=0).values
    differs = torch.from_numpy(tifffile.imread(path)) != wanted.argmax(0)
    assert ((first - second)[differs] < 1e-5).all()
    found = read_bands(tmp_path / "scene_probabilities.tif")
    assert np.abs(found - 255 * wanted.numpy().transpose(1, 2, 0)).max() < 0.51
    assert (whole_logits(model, image).argmax(0) != wanted.argmax(0)).any()  # tta does something


def test_main__pixels_without_data_have_no_class(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=2, dtype="float32")
    image = random_scene(40, 50, bands=2, dtype=np.float32)
    image[:10] = np.nan
    image[20, 30] = -9999
    write_geotiff(tmp_path / "scene.tif", [image], 40, 50, 2, "float32", nodata=-9999)
    path, = run(tmp_path, "scene.tif")
    missing = tifffile.imread(path) == 255
    assert missing[:10].all() and missing[20, 30] and missing.sum() == 10 * 50 + 1


def test_main__colours_under_transparent_pixels_do_not_matter(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=4)
    image = random_scene(40, 50, bands=4)
    image[:, :, 3] = 255
    probabilities = []
    for hidden in (0, 77):
        image[10:20, 10:30] = hidden, hidden, hidden, 0
        write_png(tmp_path / "scene.png", image)
        path, = run(tmp_path, "scene.png", flags=["--probabilities"])
        probabilities.append(tifffile.imread(tmp_path / "scene_probabilities.tif"))
    assert np.array_equal(*probabilities)
    assert (tifffile.imread(path) == 255).sum() == 200

def test_main__a_constant_alpha_and_nodata_of_one_band_do_not_matter(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", dtype="float32", scene_nodata=None, scales=None)
    image = random_scene(20, 30, dtype=np.float32)
    image[5:9, 4:9, 1] = -9999
    write_geotiff(tmp_path / "scene.tif", [image], 20, 30, 3, "float32", nodata=-9999)
    path, = run(tmp_path, "scene.tif")
    image[5:9, 4:9, 1] = META["mean"][1]
    wanted = whole_logits(model, image).argmax(0).numpy()
    assert np.array_equal(tifffile.imread(path), wanted)
    write_checkpoint(tmp_path / "best.pt", scene_nodata=None, scales=None)
    maps = []
    for alpha in (None, 254, 3):
        pixels = random_scene(20, 30)
        if alpha:
            pixels = np.concatenate([pixels, np.full((20, 30, 1), alpha, np.uint8)], axis=2)
        write_png(tmp_path / "scene.png", pixels)
        maps.append(tifffile.imread(run(tmp_path, "scene.png")[0]))
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


def test_main__a_network_of_old_reads_alpha_and_nodata_as_it_did(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", bands=4)
    image = random_scene(20, 30, bands=4).clip(1)
    image[5:9, 4:9, 1] = 7  # nodata in one band: a value
    write_geotiff(tmp_path / "plain.tif", [image], 20, 30, 4, "uint8", nodata=7)
    write_png(tmp_path / "alpha.png", image)
    inputs = normalise(torch.from_numpy(image)[None], [100] * 4, [60] * 4, 7)
    with torch.inference_mode():
        wanted = model(inputs)[0].argmax(0).numpy()
    for name in ("plain.tif", "alpha.png"):
        assert np.array_equal(tifffile.imread(run(tmp_path, name)[0]), wanted)
    model = write_checkpoint(tmp_path / "best.pt", dtype="float32")
    image = random_scene(20, 30, dtype=np.float32)
    image[5:9, 4:9, 1] = np.nan  # in one band: the pixel is missing
    write_geotiff(tmp_path / "nan.tif", [image], 20, 30, 3, "float32")
    wanted = whole_logits(model, image).argmax(0).numpy()
    wanted[5:9, 4:9] = 255
    assert np.array_equal(tifffile.imread(run(tmp_path, "nan.tif")[0]), wanted)


def test_main__scene_is_resized_by_the_scale_of_training(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", arguments={"scale": 0.5})
    small = random_scene(30, 41)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    tifffile.imwrite(tmp_path / "scene.tif", large, photometric="rgb", extratags=UTM_TAGS)
    path, = run(tmp_path, "scene.tif")
    assert np.array_equal(tifffile.imread(path), whole_logits(model, small).argmax(0).numpy())
    with open_raster(path) as raster:  # four-metre pixels, at the same corner
        assert raster.georeference.to_map(0, 0) == (500000.0, 4600000.0)
        assert raster.georeference.to_map(30, 41) == (500000.0 + 41 * 4, 4600000.0 - 30 * 4)
    path, = run(tmp_path, "scene.tif", out="own", flags=["--scale", "1"])
    assert tifffile.imread(path).shape == (60, 82)


def test_main__scene_of_odd_size_ends_where_its_map_ends(tmp_path):
    write_checkpoint(tmp_path / "best.pt", arguments={"scale": 0.5})
    odd = random_scene(59, 81)  # 29.5 x 40.5 px, rounded to 30 x 40
    tifffile.imwrite(tmp_path / "odd.tif", odd, photometric="rgb", extratags=UTM_TAGS)
    path, = run(tmp_path, "odd.tif", flags=["--suggest", "50", "--window", "1040"])
    with open_raster(path) as raster:
        assert (raster.height, raster.width) == (30, 40)
        corner = raster.georeference.to_map(30, 40)
        assert np.allclose(corner, (500000 + 81 * 2, 4600000 - 59 * 2), atol=1e-6)
    points = read_rows(tmp_path / "odd_points.csv")
    assert all(int(point["row"]) < 59 and int(point["col"]) < 81 for point in points)


def test_find_checkpoint__takes_best_pt_of_a_run_folder_else_last_pt(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}.*best.pt.*last.pt"):
        find_checkpoint(tmp_path)
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "last.pt"
    (tmp_path / "best.pt").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "best.pt"
    assert find_checkpoint("runs/nowhere.pt") == pathlib.Path("runs/nowhere.pt")


def test_main__checkpoint_may_be_a_run_folder(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "scene.png", random_scene(20, 20))
    expected, = run(tmp_path, "scene.png", out="expected")
    path, = predict.main(predict.parse_args([
        "--checkpoint", str(tmp_path), "--out", str(tmp_path / "maps"), "--device", "cpu",
        str(tmp_path / "scene.png")]))
    assert path.read_bytes() == expected.read_bytes()


# The files beside it


def test_main__map_areas_and_overlay_of_a_georeferenced_scene(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    image = random_scene(70, 90)
    tifffile.imwrite(tmp_path / "scene.tif", image, photometric="rgb", extratags=UTM_TAGS)
    path, = run(tmp_path, "scene.tif", out="maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "scene_areas.csv", "scene_classes.qml", "scene_classes.tif", "scene_classes.tif.aux.xml",
        "scene_overlay.png"]
    classes = whole_logits(model, image).argmax(0).numpy()
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(0, 0, 70, 90)[..., 0], classes)
        assert raster.nodata == 255
        colours = [entry["colour"] for entry in META["classes"]]
        assert raster.palette[:3].tolist() == colours
        assert raster.georeference.to_map(0, 0) == (500000.0, 4600000.0)
    rows = read_rows(tmp_path / "maps" / "scene_areas.csv")
    pixels = [int(row["pixels"]) for row in rows]
    assert pixels == np.bincount(classes.reshape(-1), minlength=3).tolist()
    areas = [float(row["area_ha"]) for row in rows]
    assert areas == pytest.approx([count * 4 / 1e4 for count in pixels], abs=1e-4)
    with Image.open(tmp_path / "maps" / "scene_overlay.png") as overlay:
        assert overlay.width >= 90 and overlay.height > 70  # the legend comes below


def test_main__probabilities_and_confidence_fit_the_map(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt", depth=2)
    image = random_scene(60, 130)
    image[7, 90] = 0  # no data in all bands
    write_geotiff(tmp_path / "scene.tif", [image], 60, 130, 3, "uint8", nodata=0)
    plain, = run(tmp_path, "scene.tif", out="plain", flags=["--window", "96"])
    path, = run(tmp_path, "scene.tif", flags=["--window", "96", "--probabilities"])
    assert np.array_equal(tifffile.imread(path), tifffile.imread(plain))
    assert tifffile.imread(path)[7, 90] == 255
    with torch.inference_mode():
        wanted = model(network_inputs(image, nodata=0))[0].softmax(0).numpy()
    found = read_bands(tmp_path / "scene_probabilities.tif")  # (H, W, K)
    valid = np.ones((60, 130), bool)
    valid[7, 90] = False
    assert np.abs(found - 255 * wanted.transpose(1, 2, 0))[valid].max() < 0.51
    assert not found[~valid].any()
    assert np.array_equal(tifffile.imread(tmp_path / "scene_confidence.tif"), found.max(2))
    assert found.max(2)[valid].min() > 0


def test_main__overview_of_a_large_scene_is_small(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "long.png", random_scene(30, 4500))
    run(tmp_path, "long.png", flags=["--window", "256"])
    with Image.open(tmp_path / "long_overlay.png") as overlay:
        assert overlay.width < 2200


def test_polygons__sizes_add_up_to_the_map_and_its_areas(tmp_path, capsys):
    write_checkpoint(tmp_path / "best.pt")
    tifffile.imwrite(tmp_path / "scene.tif", random_scene(30, 20), photometric="rgb",
                     extratags=UTM_TAGS)
    path, = run(tmp_path, "scene.tif", flags=["--polygons"])
    printed = capsys.readouterr().out
    assert re.search("scene_classes.gpkg +polygons", printed) and "next: " in printed
    classes = tifffile.imread(path)
    for flags, fewer in [([], False), (["--min-area", "40"], True), (["--min-area", "10px"], True)]:
        run(tmp_path, "scene.tif", flags=["--polygons", *flags, "--simplify", "1"])
        with contextlib.closing(sqlite3.connect(tmp_path / "scene_classes.gpkg")) as file:
            rows = file.execute("SELECT class, class_id, pixels, area_m2, confidence FROM polygons")
            names, ids, pixels, areas, confidence = (np.array(column) for column in zip(*rows))
        assert sum(pixels) == 600 and sum(areas) == 2400
        assert (np.take(list("abc"), ids) == names).all()
        assert np.all((confidence > 1 / 3) & (confidence <= 1))
        if fewer:
            assert min(pixels) >= 10
        else:
            counts = np.bincount(ids, weights=pixels)
            assert counts.tolist() == np.bincount(classes.reshape(-1)).tolist()


def test_polygons__areas_in_metres_need_the_size_of_a_pixel(tmp_path, capsys):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "photo.png", random_scene(20, 20))
    with pytest.raises(ValueError, match="--min-area 40: .*photo.png.*20px"):
        run(tmp_path, "photo.png", flags=["--polygons", "--min-area", "40"])
    run(tmp_path, "photo.png", flags=["--polygons", "--min-area", "4px"])
    assert "area_m2" in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(tmp_path / "photo_classes.gpkg")) as file:
        assert file.execute("SELECT count(area_m2), sum(pixels) FROM polygons").fetchone() == (
            0, 400)
    with pytest.raises(ValueError, match="--polygons"):
        run(tmp_path, "photo.png", flags=["--simplify", "1"])


def test_suggest__points_lie_on_data_and_apart(tmp_path):
    write_checkpoint(tmp_path / "best.pt", bands=2, dtype="float32")
    image = random_scene(100, 150, bands=2, dtype=np.float32)
    image[:60] = np.nan
    write_geotiff(tmp_path / "scene.tif", [image], 100, 150, 2, "float32")
    run(tmp_path, "scene.tif", flags=["--suggest", "6", "--window", "64"])
    points = read_rows(tmp_path / "scene_points.csv")
    assert len(points) == 6
    assert list(points[0]) == ["number", "scene", "row", "col", "predicted", "class"]
    rows = np.array([int(point["row"]) for point in points])
    cols = np.array([int(point["col"]) for point in points])
    distances = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
    assert rows.min() >= 60 and (distances + 99 * np.eye(6)).min() >= 16
    classes = tifffile.imread(tmp_path / "scene_classes.tif")[rows, cols]
    assert [point["predicted"] for point in points] == ["abc"[k] for k in classes]
    assert (tmp_path / "scene_points.png").exists()


# One window after the other


def test_row_blocks__overview_shows_every_so_many_rows_and_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("geo.maps.OVERVIEW_SIDE", 30)  # every 7th row and column
    model = write_checkpoint(tmp_path / "best.pt")
    image = random_scene(150, 203)
    write_png(tmp_path / "scene.png", image)
    args = predict.parse_args(
        ["--checkpoint", "best.pt", "--window", "64", "--margin", "8", "scene.png"])
    with open_raster(tmp_path / "scene.png") as raster:
        blocks = list(predict.WindowPredictor(model, raster, META, CPU, args).row_blocks())
    assert len(blocks) > 2
    assert np.array_equal(np.concatenate([block.rgb for block in blocks]), image[::7, ::7])


def test_row_blocks__network_without_stride_and_radius(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1)).eval()  # exact with any margin
    model.stride = 1  # as `build_model` sets it
    image = random_scene(50, 70)
    write_png(tmp_path / "scene.png", image)
    args = predict.parse_args(
        ["--checkpoint", "best.pt", "--window", "21", "--margin", "3", "scene.png"])
    with open_raster(tmp_path / "scene.png") as raster:
        blocks = list(predict.WindowPredictor(model, raster, META, CPU, args).row_blocks())
    found = np.concatenate([block.bands for block in blocks])[..., 0]
    assert np.array_equal(found, whole_logits(model, image).argmax(0).numpy())
    assert len(np.unique(found)) > 1


def test_row_blocks__memory_holds_one_window_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("geo.tiff.CACHE_BYTES", 0)
    write_checkpoint(tmp_path / "best.pt", bands=10, dtype="uint16")
    image = random_scene(64, 4096, bands=10, dtype=np.uint16)  # 5.2 MB
    write_tiff(tmp_path / "scene.tif", image, tile=(64, 64), compression="zlib")
    model, meta = load_model(tmp_path / "best.pt")
    args = predict.parse_args(
        ["--checkpoint", "best.pt", "--window", "96", "--margin", "16", "scene.tif"])
    with open_raster(tmp_path / "scene.tif") as raster:
        raster.read(0, 0, 1, 1)
        tracemalloc.start()
        for block in predict.WindowPredictor(model, raster, meta, CPU, args).row_blocks():
            assert block.bands.shape == (64, 4096, 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2e6


@pytest.mark.parametrize("threads, room, at_once", [  # room: px, side of the default window
    (1, 1024, 1), (2, 1024, 2), (2, 64, 1)])
def test_row_blocks__two_small_windows_at_a_time_on_the_cpu(tmp_path, monkeypatch, threads, room,
                                                            at_once):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "scene.png", random_scene(70, 203))
    flags = ["--window", "64", "--probabilities", "--suggest", "5"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    run(tmp_path, "scene.png", out="one", flags=flags)
    counting = threading.Lock()
    busy = collections.Counter()
    most = collections.Counter()

    def counted(name, function):
        def call(*args):
            with counting:
                busy[name] += 1
                most[name] = max(most[name], busy[name])
            time.sleep(0.01)
            try:
                return function(*args)
            finally:
                with counting:
                    busy[name] -= 1
        return call

    monkeypatch.setattr(predict, "predict_window", counted("predict", predict.predict_window))
    monkeypatch.setattr(Raster, "read", counted("read", Raster.read))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("geo.windows.WINDOW", room)
    run(tmp_path, "scene.png", out="two", flags=flags)
    assert most == {"predict": at_once, "read": 1}  # a raster serves one thread at a time
    for name in ("classes.tif", "probabilities.tif", "overlay.png", "points.csv"):
        one, two = (tmp_path / out / f"scene_{name}" for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes(), name


def test_main__torchrun_shares_the_scenes_out(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "best.pt")
    scenes = [f"scene{number}.png" for number in range(3)]
    for name in scenes:
        write_png(tmp_path / name, random_scene(20, 20))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, wanted in [("0", ["scene0_classes.tif", "scene2_classes.tif"]),
                         ("1", ["scene1_classes.tif"])]:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert [path.name for path in run(tmp_path, *scenes, out="maps")] == wanted
    monkeypatch.setenv("WORLD_SIZE", "1")  # RANK is left over from another program
    assert len(run(tmp_path, *scenes, out="maps")) == 3
    monkeypatch.delenv("WORLD_SIZE")
    assert len(run(tmp_path, *scenes, out="maps")) == 3


# What is refused


def test_check_free__foreign_maps_and_filled_in_points_are_kept(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "scene.png", random_scene(40, 40))
    truth = tmp_path / "scene_classes.tif"
    write_geotiff(truth, [np.zeros((40, 40), np.uint8)], 40, 40, 1, "uint8")
    before = truth.read_bytes()
    for _ in range(2):
        with pytest.raises(ValueError, match="scene_classes.tif.*--out"):
            run(tmp_path, "scene.png")
        assert truth.read_bytes() == before
        (tmp_path / "scene_classes.tif.aux.xml").write_text(  # as QGIS puts beside any raster
            "<PAMDataset><PAMRasterBand band='1'><Metadata/></PAMRasterBand></PAMDataset>")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "scene_classes.gpkg").touch()
    with pytest.raises(ValueError, match="scene_classes.gpkg.*--out"):
        run(tmp_path, "scene.png", out="others")
    for _ in range(2):  # its own maps it replaces
        run(tmp_path, "scene.png", out="maps")
    run(tmp_path, "scene.png", out="maps", flags=["--suggest", "2"])
    points = tmp_path / "maps" / "scene_points.csv"
    points.write_text("filled in", encoding="utf-8")
    with pytest.raises(ValueError, match="scene_points.csv.*--out"):
        run(tmp_path, "scene.png", out="maps", flags=["--suggest", "2"])
    assert points.read_text(encoding="utf-8") == "filled in"


def test_warn_of_scale__pixels_of_another_size_than_in_training(capsys):
    georeference = from_affine((0.5, 0, 5e5, 0, -0.5, 4e6), 32631)
    raster = Raster("a.tif", None, 9, 9, 3, np.dtype(np.uint8), (9, 9), georeference=georeference)
    predict.warn_of_scale(raster, 0.51, 2.0)
    predict.warn_of_scale(raster, None, 2.0)
    raster.georeference = None
    predict.warn_of_scale(raster, 1.0, 2.0)
    assert capsys.readouterr().err == ""
    raster.georeference = georeference
    predict.warn_of_scale(raster, 1.0, 2.0)  # of a file of 1 m per pixel, at twice its size
    printed = capsys.readouterr().err
    assert "a.tif" in printed and "--scale 1 " in printed
    raster.georeference = from_affine((0.5, 0, 5e5, 0, -0.5, 4e6))
    predict.warn_of_scale(raster, 1.0, 2.0)
    assert "areas of a.tif are not known" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, -9999])
def test_main__scene_without_data_is_one_line_and_leaves_nothing(tmp_path, value):
    write_checkpoint(tmp_path / "best.pt", dtype="float32")
    image = np.full((40, 50, 3), value, np.float32)
    write_geotiff(tmp_path / "scene.tif", [image], 40, 50, 3, "float32", nodata=-9999)
    with pytest.raises(ValueError, match="scene.tif.* no data"):
        run(tmp_path, "scene.tif", out="maps")
    assert list((tmp_path / "maps").iterdir()) == []


def test_main__scenes_and_flags_that_do_not_fit_are_one_line(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    image = random_scene(20, 20)
    write_png(tmp_path / "rgb.png", image)
    write_png(tmp_path / "grey.png", image[..., 0])
    write_geotiff(tmp_path / "deep.tif", [image.astype(np.uint16)], 20, 20, 3, "uint16")
    Image.fromarray(image).quantize(16).save(tmp_path / "palette.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "other").mkdir()
    write_png(tmp_path / "other" / "rgb.jpg", image)
    for scenes, flags, message in [
            (["grey.png"], [], "grey.png has 1 bands, but .*best.pt was trained on 3"),
            (["deep.tif"], [], "deep.tif holds uint16, but .*best.pt was trained on uint8"),
            (["palette.png"], [], "palette.png"),
            (["empty.png"], [], "empty.png"),
            (["nowhere.tif"], [], "nowhere.tif"),
            (["rgb.png", "other/rgb.jpg"], [], "rgb.*--out"),
            (["..png"], [], r"\.\.png"),
            (["rgb.png"], ["--window", "8", "--margin", "4"], "--window 8"),
            (["rgb.png"], ["--margin", "-1"], "--margin -1"),
            (["rgb.png"], ["--max-pixels", "100"], "max-pixels")]:
        with pytest.raises((ValueError, OSError), match=message) as error:
            run(tmp_path, *scenes, out="maps", flags=flags)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "maps").exists() or list((tmp_path / "maps").iterdir()) == []


@pytest.mark.parametrize("flag, word", [
    ("--scale", "0"), ("--suggest", "-1"), ("--min-area", "1ha"), ("--simplify", "nan")])
def test_parse_args__numbers_out_of_range_are_one_line(capsys, flag, word):
    with pytest.raises(SystemExit) as error:
        predict.parse_args(["rgb.png", "--checkpoint", "best.pt", f"{flag}={word}"])
    printed = capsys.readouterr().err
    assert error.value.code == 2 and printed.count("\n") == 1 and flag in printed


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_main__a_signal_leaves_nothing_half_written(tmp_path, number):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "scene.png", random_scene(3000, 3000))
    command = [sys.executable, pathlib.Path(predict.__file__), "--checkpoint", "best.pt", "--out",
               "maps", "--window", "32", "--device", "cpu", "--probabilities", "scene.png"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not list(tmp_path.glob("maps/.scene-*/*.part")):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    assert list((tmp_path / "maps").iterdir()) == []
