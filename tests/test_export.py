"""export.py: the exported model gives predict.py's probabilities of raw pixels."""

import copy
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import reference
from test_predict import (
    META, network_inputs, random_scene, read_bands, run, write_checkpoint, write_png)

import export
from engine.checkpoint import load_model, save_checkpoint
from engine.meta import checkpoint_meta
from geo.deepness import deepness_metadata
from networks import NETWORKS, build_model

ROOT = pathlib.Path(__file__).resolve().parents[1]


def export_to(folder, *flags):
    return export.main(export.parse_args(["--checkpoint", str(folder / "best.pt"), *flags]))


def scene_with_holes(height, width):
    """(H, W, 3) uint8 pixels, some of which are 0 in every band, and some in one band alone."""
    image = random_scene(height, width).clip(1)
    image[:5, :7] = 0
    image[6:9, :, 1] = 0
    return image


def as_input(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()  # (1, C, H, W)


def expected_probabilities(model, image):
    """(1, K, H, W) of predict.py's steps in float64: normalise, network, softmax, 0: no data."""
    with torch.inference_mode():
        inputs = network_inputs(image, nodata=0).double()
        logits = copy.deepcopy(model).double()(inputs)
    probabilities = (logits / getattr(model, "temperature", 1.0)).softmax(1)
    return (probabilities * torch.from_numpy((image != 0).any(2))).numpy()


@pytest.mark.parametrize("free_size", [False, True])
def test_raw_pixel_model__gives_the_probabilities_of_predict(tmp_path, free_size):
    write_checkpoint(tmp_path / "best.pt", depth=2, nodata=0.0)
    model, meta = load_model(tmp_path / "best.pt")
    model.temperature = 1.5 if free_size else 1.0
    image = scene_with_holes(33, 41)
    with torch.inference_mode():
        ours = export.RawPixelModel(model, meta, free_size)(as_input(image))
    assert np.abs(ours.numpy() - expected_probabilities(model, image)).max() < 1e-6


def test_raw_pixel_model__agrees_with_the_files_of_predict(tmp_path):
    write_checkpoint(tmp_path / "best.pt", depth=2, nodata=0.0)
    image = scene_with_holes(33, 41)
    write_png(tmp_path / "scene.png", image)
    run(tmp_path, "scene.png", flags=["--probabilities"])
    written = read_bands(tmp_path / "scene_probabilities.tif")  # (H, W, K) in steps of 1 / 255
    with torch.inference_mode():
        ours = export.RawPixelModel(*load_model(tmp_path / "best.pt"))(as_input(image))
    assert np.abs(255 * ours[0].permute(1, 2, 0).numpy() - written).max() < 0.51


@pytest.mark.parametrize("dtype, highest", [("uint8", 255), ("uint16", 65535)])
def test_deepness_metadata__gives_pixels_back_that_deepness_has_scaled(dtype, highest):
    pixels = np.arange(highest + 1, dtype=dtype)
    std = np.float32(deepness_metadata(build_model("unet", 1, 2), dict(META, bands=1), 0)
                     ["standardization_std"][0])
    scaled = np.float32(pixels * 1.0 / 255.0) / std  # what Deepness computes
    assert (scaled.round() == pixels).all()


def test_deepness_metadata__states_centimetres_tile_and_overlap_in_percent():
    meta = checkpoint_meta(dict(META, gsd_m=0.5))
    model = build_model("unet", 3, 3)  # its radius is 107 px, its margin 112
    entries = deepness_metadata(model, meta, size=512)
    assert json.loads(json.dumps(entries["class_names"])) == {"0": "a", "1": "b", "2": "c"}
    assert (entries["resolution"], entries["tile_size"]) == (50, 512)
    assert entries["tiles_overlap"] == 44  # 2 * 112 / 512
    assert deepness_metadata(model, meta, size=128)["tiles_overlap"] == 75
    assert "resolution" not in deepness_metadata(model, dict(meta, gsd_m=None), 512)


def test_main__refuses_nothing_to_write_and_what_is_no_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        export_to(tmp_path)
    assert "--onnx" in capsys.readouterr().err
    with pytest.raises(OSError, match="nowhere"):
        export_to(tmp_path, "--torch", str(tmp_path / "nowhere" / "model.pt2"))
    with pytest.raises(IsADirectoryError, match=f"{tmp_path.name} is a folder"):
        export_to(tmp_path, "--torch", str(tmp_path))


def test_main__names_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="onnxscript"):
        export_to(tmp_path, "--onnx", str(tmp_path / "model.onnx"))


def write_any_checkpoint(path, name):
    """A checkpoint of a network whose batch norms have seen data; returns the model."""
    torch.manual_seed(0)
    model = build_model(name, bands=3, classes=3).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(2, 3, 64, 64))
    meta = checkpoint_meta(dict(META, nodata=0.0))
    kwargs = {"bands": 3, "classes": 3}
    save_checkpoint(path, {"name": name, "kwargs": kwargs, "state": model.state_dict()},
                    meta, {"epoch": 1, "labelled_pixels": 1}, {})
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name, size", [("unet", 96), *((name, 0) for name in NETWORKS)])
def test_main__onnx_gives_the_probabilities_of_predict(tmp_path, name, size):
    reference("onnxscript")
    onnxruntime = reference("onnxruntime")
    model = write_any_checkpoint(tmp_path / "best.pt", name)
    path, = export_to(tmp_path, "--onnx", str(tmp_path / "model.onnx"), "--size", str(size))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["model_type"] == '"Segmentor"'
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt", "model.onnx"]
    for height, width in [(96, 96)] if size else [(96, 96), (77, 131)]:
        image = scene_with_holes(height, width)
        ours, = session.run(None, {"image": as_input(image).numpy()})
        assert np.abs(ours - expected_probabilities(model, image)).max() < 1e-5


@pytest.mark.slow
def test_main__torch_program_gives_the_probabilities_of_predict(tmp_path, capsys):
    model = write_checkpoint(tmp_path / "best.pt", depth=2, nodata=0.0,
                             arguments={"scale": 0.5})
    path, = export_to(tmp_path, "--torch", str(tmp_path / "model.pt2"), "--size", "0")
    assert "were resized by 0.5" in capsys.readouterr().err
    program = torch.export.load(path).module()
    for height, width in [(33, 41), (33, 40), (32, 41), (32, 40)]:  # the stride is 4
        image = scene_with_holes(height, width)
        ours = program(as_input(image)).detach().numpy()
        assert np.abs(ours - expected_probabilities(model, image)).max() < 1e-5


# Killing: a process that ends itself without any clean-up.

def killed_process(place, *flags):
    """Export, but kill this process at a call of a function, after a part of a file is written."""
    def kill(source, path):
        with open(path if place == "save" else source, "ab") as file:
            file.write(b"half a model")
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(*{"save": (torch.export, "save", kill), "replace": (os, "replace", kill)}[place])
    export.main(export.parse_args(flags))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.parametrize("place", ["save", "replace"])
def test_main__a_kill_leaves_the_file_before_and_the_next_call_none_of_its_own(tmp_path, place):
    write_checkpoint(tmp_path / "best.pt", depth=2)
    path = tmp_path / "model.pt2"
    path.write_text("of last week")
    flags = ["--torch", str(path), "--size", "32"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    words = [sys.executable, __file__, place, "--checkpoint", str(tmp_path / "best.pt"), *flags]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_text() == "of last week"
    export_to(tmp_path, *flags)
    torch.export.load(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "model.pt2"]


if __name__ == "__main__":
    killed_process(*sys.argv[1:])
