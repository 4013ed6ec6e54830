"""The real commands, as a person types them, on a few small scenes: from images and masks to a map; and what goes wrong."""

import csv
import json
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLASSES = [(10, "water", 0, 0, 255), (30, "wood", 0, 120, 0), (50, "field", 250, 220, 90)]


def command(folder, *words):
    """Run one of the scripts in `folder`, on one thread; returns the finished process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script, *rest = map(str, words)
    return subprocess.run([sys.executable, ROOT / script, *rest], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=300)


def succeeds(folder, *words):
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exit_code(*words, folder="."):
    """Run a script in `folder`, its `__main__` block included, without waiting for a new process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", list(words))
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            return end.code or 0
    return 0


def in_this_process(capsys, *words):
    """Run a script as `exit_code` does; returns (exit code, output, errors)."""
    return exit_code(*words), *capsys.readouterr()


def write_scenes(folder, count=6, side=64):
    """Scenes of three classes in blocks, whose colours tell them apart, and masks that hold 10, 30 and 50."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(count):
        blocks = random.integers(0, 3, (side // 16, side // 16)).repeat(16, 0).repeat(16, 1)
        image = np.array([[40, 60, 160], [30, 110, 40], [200, 180, 90]])[blocks] + random.integers(-30, 30, (side, side, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"place {number}.png")
        Image.fromarray(np.array([10, 30, 50], np.uint8)[blocks]).save(folder / "masks" / f"place {number}.png")
    with open(folder / "classes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "name", "r", "g", "b"), *CLASSES])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which scenes were prepared and, by a process of its own, a network trained."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder)
    assert not exit_code("prepare_data.py", "folder", "--images", "images", "--masks", "masks", "--classes", "classes.csv", "--out",
                         "data/places", "--tile", "32", "--fractions", "0.5", "0.25", "0.25", folder=folder)
    succeeds(folder, "train.py", "--data", "data/places", "--out", "runs/first", "--width", "8", "--depth", "2", "--lr", "1e-2",
             "--bs", "4", "--epochs", "8", "--points", "10")
    return folder


def test_from_scenes_to_a_map(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    metrics = json.loads((place / "runs/first/metrics.json").read_text())
    assert metrics["miou"] > 0.9  # three plain colours: a network that learns at all finds them
    assert metrics["labelled_pixels"] == 10 * json.loads((place / "data/places/dataset.json").read_text())["tiles"]["train"]
    code, printed, _ = in_this_process(capsys, "evaluate.py", "--checkpoint", "runs/first/best.pt", "--data", "data/places")
    assert code == 0 and "mean IoU" in printed
    again = json.loads((place / "runs/first/metrics_test.json").read_text())
    assert again["confusion"] == metrics["confusion"]
    code, printed, _ = in_this_process(capsys, "predict.py", "--checkpoint", "runs/first/best.pt", "images/place 0.png", "--out", "maps")
    assert code == 0 and sorted(path.name for path in (place / "maps").iterdir()) == [
        "place 0_areas.csv", "place 0_classes.qml", "place 0_classes.tif", "place 0_classes.tif.aux.xml", "place 0_overlay.png"]
    assert all(name in printed for name in ("place 0_areas.csv", "place 0_classes.tif", "place 0_overlay.png"))
    with Image.open(place / "images/place 0.png") as image, Image.open(place / "maps/place 0_classes.tif") as classes:
        assert image.size == classes.size
        truth = np.asarray(Image.open(place / "masks/place 0.png")) // 20  # 10, 30, 50 -> 0, 1, 2
        assert (np.asarray(classes) == truth).mean() > 0.9


def test_a_checkpoint_predicts_from_the_file_alone(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "model.pt").write_bytes((place / "runs/first/best.pt").read_bytes())
    (tmp_path / "scene.png").write_bytes((place / "images/place 1.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert in_this_process(capsys, "predict.py", "--checkpoint", "model.pt", "scene.png")[0] == 0
    assert (tmp_path / "scene_classes.tif").exists()


@pytest.mark.parametrize("script", ["prepare_data.py folder", "train.py", "evaluate.py", "predict.py", "sweep.py"])
def test_help_is_there(script, capsys):
    code, printed, _ = in_this_process(capsys, *script.split(), "--help")
    assert code == 0 and "usage" in printed and "default: " in printed
    assert not any(f"default: {nothing}" in printed for nothing in ("None", "True", "False", "[]"))


@pytest.mark.parametrize("message, words", [
    ("--lr -1.0", "train.py --data data/places --lr -1"),
    ("unet", "train.py --data data/places --model alexnet"),
    ("not a prepared data set", "train.py --data images"),
    ("empty.pt", "evaluate.py --checkpoint empty.pt --data data/places"),
    ("grey.png", "predict.py --checkpoint runs/first/best.pt grey.png"),
    ("classes.csv", "predict.py --checkpoint runs/first/best.pt classes.csv"),
    ("nowhere", "prepare_data.py folder --images nowhere --masks masks --classes classes.csv --out data/other"),
])
def test_what_goes_wrong_is_one_line_and_exit_code_2(place, message, words, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "empty.pt").write_bytes(b"")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(place / "grey.png")
    code, _, errors = in_this_process(capsys, *words.split())
    line, = errors.strip().splitlines()
    assert code == 2 and message in line and line.startswith(words.split()[0])
    assert not (place / "data/other").exists()


@pytest.mark.slow
def test_a_process_ends_so_too(tmp_path):
    done = command(tmp_path, "train.py", "--data", "nowhere")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("train.py: nowhere")


@pytest.mark.slow
def test_the_first_command_reaches_what_the_readme_promises(tmp_path):
    """python train.py --lr 1e-3 --bs 16 in an empty folder: makes the demo, trains, and maps it well."""
    printed = succeeds(tmp_path, "train.py", "--lr", "1e-3", "--bs", "16")
    metrics = json.loads((tmp_path / "runs/demo-unet-1/metrics.json").read_text())
    assert metrics["miou"] >= 0.80 and metrics["labelled_pixels"] == 20 * 192
    assert printed.rstrip().splitlines()[-3:] == [f"runs/demo-unet-1/{name}" for name in
                                                  ("preview.png", "curves.png", "metrics.json")]


def test_out_of_memory_is_one_line_that_says_what_to_change(place, monkeypatch, capsys):
    def too_large(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes.\nmore lines")
    monkeypatch.chdir(place)
    monkeypatch.setattr("unet.UNet.forward", too_large)
    code, _, errors = in_this_process(capsys, "train.py", "--data", "data/places", "--out", "runs/large")
    line, = errors.strip().splitlines()
    assert code == 2 and line.startswith("train.py: out of memory: lower --bs") and "--accumulate" in line and "--tile" in line
