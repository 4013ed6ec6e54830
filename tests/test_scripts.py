"""The real commands, as a person types them, on small scenes: from images and masks to a map."""

import csv
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAIN = "--data data/places --width 8 --depth 2 --lr 1e-2 --bs 4 --points 10"
CLASSES = [(10, "water", 0, 0, 255), (30, "wood", 0, 120, 0), (50, "field", 250, 220, 90)]


def command(folder, *words):
    """Run one of the scripts in `folder`, on one thread; returns the finished process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script, *rest = map(str, words)
    return subprocess.run([sys.executable, ROOT / script, *rest], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=1200)


def succeeds(folder, *words):
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exit_code(*words, folder="."):
    """Run a script, its `__main__` block too, in this process; returns its exit code."""
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
    """Scenes of three classes in blocks, each of its colour, and masks of 10, 30 and 50."""
    random = np.random.default_rng(0)
    colours = np.array([[40, 60, 160], [30, 110, 40], [200, 180, 90]])
    values = np.array([10, 30, 50], np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(count):
        blocks = random.integers(0, 3, (side // 16, side // 16)).repeat(16, 0).repeat(16, 1)
        image = colours[blocks] + random.integers(-30, 30, (side, side, 3))
        image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        image.save(folder / "images" / f"place {number}.png")
        Image.fromarray(values[blocks]).save(folder / "masks" / f"place {number}.png")
    with open(folder / "classes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "name", "r", "g", "b"), *CLASSES])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which scenes were prepared and, by a process of its own, a network trained."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder)
    prepare = ("prepare_data.py folder --images images --masks masks --classes classes.csv "
               "--out data/places --tile 32 --fractions 0.5 0.25 0.25")
    assert exit_code(*prepare.split(), folder=folder) == 0
    succeeds(folder, *f"train.py {TRAIN} --out runs/first --epochs 8".split())
    assert exit_code(*f"train.py {TRAIN} --out runs/paused --epochs 2 --stop-after 1".split(),
                     folder=folder) == 0
    return folder


def test_commands__from_scenes_to_a_map(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    metrics = json.loads((place / "runs/first/metrics.json").read_text())
    meta = json.loads((place / "data/places/dataset.json").read_text())
    assert metrics["miou"] > 0.9  # three plain colours: a network that learns at all finds them
    assert metrics["labelled_pixels"] == 10 * meta["tiles"]["train"]
    code, printed, _ = in_this_process(capsys, "evaluate.py", "--checkpoint", "runs/first/best.pt",
                                       "--data", "data/places")
    assert code == 0 and "mean IoU" in printed
    again = json.loads((place / "runs/first/metrics_test.json").read_text())
    assert again["confusion"] == metrics["confusion"]
    code, printed, _ = in_this_process(capsys, "predict.py", "--checkpoint", "runs/first/best.pt",
                                       "images/place 0.png", "--out", "maps")
    assert code == 0
    written = {path.name for path in (place / "maps").iterdir()}
    assert written == {"place 0_areas.csv", "place 0_classes.qml", "place 0_classes.tif",
                       "place 0_classes.tif.aux.xml", "place 0_overlay.png"}
    for name in ("place 0_areas.csv", "place 0_classes.tif", "place 0_overlay.png"):
        assert name in printed
    truth = np.asarray(Image.open(place / "masks/place 0.png")) // 20  # 10, 30, 50 -> 0, 1, 2
    classes = np.asarray(Image.open(place / "maps/place 0_classes.tif"))
    assert classes.shape == truth.shape and (classes == truth).mean() > 0.9


def test_predict__needs_nothing_but_the_checkpoint(place, tmp_path, monkeypatch, capsys):
    shutil.copy(place / "runs/first/best.pt", tmp_path / "model.pt")
    shutil.copy(place / "images/place 1.png", tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    assert in_this_process(capsys, "predict.py", "--checkpoint", "model.pt", "scene.png")[0] == 0
    assert (tmp_path / "scene_classes.tif").exists()


@pytest.mark.parametrize("script", ["prepare_data.py folder", "train.py", "evaluate.py",
                                    "predict.py", "sweep.py"])
def test_help__shows_defaults(script, capsys):
    code, printed, _ = in_this_process(capsys, *script.split(), "--help")
    assert code == 0 and "usage" in printed and "default: " in printed
    assert not any(f"default: {nothing}" in printed for nothing in ("None", "True", "False", "[]"))


@pytest.mark.parametrize("message, words", [
    ("--lr", "train.py --data data/places --lr -1"),
    ("--poins", "train.py --data data/places --poins 5"),
    ("unet", "train.py --data data/places --model alexnet"),
    ("images", "train.py --data images"),
    ("runs/none", "train.py --out runs/none --resume"),
    ("--lr", "train.py --out runs/paused --resume --lr 0.5"),
    ("empty.pt", "evaluate.py --checkpoint empty.pt --data data/places"),
    ("grey.png", "predict.py --checkpoint runs/first/best.pt grey.png"),
    ("classes.csv", "predict.py --checkpoint runs/first/best.pt classes.csv"),
    ("nowhere", "prepare_data.py folder --images nowhere --masks masks --classes classes.csv "
                "--out data/other"),
])
def test_commands__mistakes_are_one_line_and_exit_code_2(place, message, words, monkeypatch,
                                                         capsys):
    monkeypatch.chdir(place)
    (place / "empty.pt").write_bytes(b"")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(place / "grey.png")
    code, _, errors = in_this_process(capsys, *words.split())
    line, = errors.strip().splitlines()
    assert code == 2 and message in line and line.startswith(words.split()[0])
    assert not (place / "data/other").exists()


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:40])


RESUME = "train.py --out runs/paused --resume"
EVALUATE = "evaluate.py --checkpoint runs/paused/best.pt --data data/places"


@pytest.mark.parametrize("name, damage, words", [
    ("last.pt", flip_byte, RESUME), ("last.pt", cut_short, RESUME), ("log.csv", cut_short, RESUME),
    ("best.pt", flip_byte, EVALUATE), ("best.pt", cut_short, EVALUATE)])
def test_commands__damaged_files_of_a_run_are_one_line(place, tmp_path, name, damage, words,
                                                       monkeypatch, capsys):
    for folder in ("runs/paused", "data/places"):
        shutil.copytree(place / folder, tmp_path / folder)
    damage(tmp_path / "runs/paused" / name)
    monkeypatch.chdir(tmp_path)
    code, _, errors = in_this_process(capsys, *words.split())
    line, = errors.strip().splitlines()
    assert code == 2 and name in line
    assert not (tmp_path / "runs/paused/metrics.json").exists()


@pytest.mark.slow
def test_commands__a_process_ends_with_one_line_too(tmp_path):
    done = command(tmp_path, "train.py", "--data", "nowhere")
    line, = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("train.py: nowhere")


@pytest.mark.slow
def test_train__first_command_reaches_what_the_readme_promises(tmp_path):
    """In an empty folder it makes the demo, trains, and maps it well."""
    printed = succeeds(tmp_path, "train.py", "--lr", "1e-3", "--bs", "16")
    metrics = json.loads((tmp_path / "runs/demo-unet-1/metrics.json").read_text())
    assert metrics["miou"] >= 0.80 and metrics["labelled_pixels"] == 20 * 192
    for name in ("preview.png", "curves.png", "metrics.json"):
        assert str(pathlib.Path("runs/demo-unet-1", name)) in printed.splitlines()


def test_train__out_of_memory_is_one_line_with_what_to_change(place, monkeypatch, capsys):
    def too_large(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate\n1")
    monkeypatch.chdir(place)
    monkeypatch.setattr("unet.UNet.forward", too_large)
    code, _, errors = in_this_process(capsys, "train.py", "--data", "data/places", "--out",
                                      "runs/large")
    line, = errors.strip().splitlines()
    assert code == 2 and line.startswith("train.py: out of memory: lower --bs")
