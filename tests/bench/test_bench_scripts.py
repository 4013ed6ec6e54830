"""The commands of bench/, at sizes that only show that they run: each is a process of its own, as a person starts it."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import BENCH

from geo.raster import open_raster


def run(script, *words):
    """What a script of bench/ printed."""
    done = subprocess.run([sys.executable, BENCH / script, *map(str, words)], cwd=BENCH.parent, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(table):
    """The rows of a table, each of which says how it came about."""
    with open(table, newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found and all(row["commit"] and row["command"].startswith("python ") for row in found)
    return found


def test_arrays_become_scenes(tmp_path):
    dates, mask = np.random.default_rng(0).random((2, 5, 7, 3), np.float32), np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.save(tmp_path / "dates.npy", dates)
    np.save(tmp_path / "mask.npy", mask)
    run("arrays_to_tiff.py", tmp_path / "dates.npy", tmp_path / "mask.npy", "--out", tmp_path / "scenes")
    for name, array in (("dates_0", dates[0]), ("dates_1", dates[1]), ("mask", mask[..., None])):
        with open_raster(tmp_path / "scenes" / f"{name}.tif") as raster:
            assert np.array_equal(raster.read(0, 0, 5, 7), array)


def test_the_memory_of_a_process_is_its_own(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    from measure import measured  # with torch, which holds a few hundred MB
    assert 5 < measured("-c", "pass")["resident_mb"] < 60 < measured("-c", "bytes(range(250)) * 400_000")["resident_mb"] < 160
    assert measured("-c", "import time; time.sleep(0.3)")["wall_s"] > 0.3
    with pytest.raises(ValueError, match="raise failed"):
        measured("-c", "raise")


@pytest.mark.slow
def test_speed(tmp_path):
    printed = run("speed.py", "--only", "loss", "confusion", "--repeats", 1, "--threads", 1, "--table", tmp_path / "speed.csv")
    found = rows(tmp_path / "speed.csv")
    assert len(found) == 4 * 2 + 3 and all(row["work"] in printed and float(row["ours"]) > 0 for row in found)


@pytest.mark.slow
def test_growth():
    assert len(run("growth.py", "--quick").splitlines()) == 2 + 5 * 2


@pytest.mark.slow
def test_claims(tmp_path):
    folders = ("--ground", tmp_path / "ground", "--runs", tmp_path / "runs", "--results", tmp_path)
    for turn in range(2):
        printed = run("claims.py", "--size", 512, 768, "--steps", 1, "--seeds", 1, "--only", "mode", *folders)
        assert "| by mode | x8 autumn | 0." in printed
        assert len(rows(tmp_path / "claims.csv")) == 1 and len(rows(tmp_path / "claims_scenes.csv")) == 2  # once for all


@pytest.mark.slow
def test_memory_and_margins_of_scenes(tmp_path):
    common = ("--folder", tmp_path, "--table", tmp_path / "scenes.csv")
    run("scenes.py", "memory", "--side", 128, *common)
    by_case = {row["case"]: row["value"] for row in rows(tmp_path / "scenes.csv") if row["quantity"] == "resident_mb"}
    assert list(by_case) == [f"memory, {height} x 128 x 10 uint16" for height in (128, 64)]
    assert all(float(megabytes) > 50 for megabytes in by_case.values())
    run("scenes.py", "margins", "--checkpoint", tmp_path / "untrained.pt", "--scene", tmp_path / "scene_128x128.tif", *common)
    margins = [float(row["value"]) for row in rows(tmp_path / "scenes.csv") if row["quantity"] == "differing_percent"]
    assert len(margins) == 6 and margins[-1] == 0  # which is more than the radius


@pytest.mark.slow
def test_prediction_beside_the_usual_loop(tmp_path):
    pytest.importorskip("rasterio")
    run("scenes.py", "predict", "--side", 300, "--repeats", 1, "--folder", tmp_path, "--table", tmp_path / "scenes.csv")
    cpu = {row["case"]: float(row["value"]) for row in rows(tmp_path / "scenes.csv") if row["quantity"] == "cpu_s"}
    assert len(cpu) == 1 + 2 * 2 and cpu["predict, 300 px, the usual loop, windows of 640 px"] > 0
    assert (tmp_path / "usual.tif").exists() and (tmp_path / "maps" / "scene_300x300_classes.tif").exists()


@pytest.mark.slow
def test_memory_of_preparing(tmp_path):
    run("memory_prepare.py", "--sides", 5120, "--folder", tmp_path / "work", "--table", tmp_path / "scenes.csv")
    by_quantity = {row["quantity"]: row for row in rows(tmp_path / "scenes.csv")}
    assert list(by_quantity) == ["wall_s", "cpu_s", "resident_mb"] and float(by_quantity["resident_mb"]["value"]) > 50
    assert by_quantity["cpu_s"]["case"] == "prepare, mask 5120 x 5120 px, image 512 x 512 px, mode"
    assert "bench/memory_prepare.py" in by_quantity["cpu_s"]["command"]


@pytest.mark.slow
def test_a_mask_brought_down_beside_gdal(tmp_path):
    pytest.importorskip("rasterio")
    run("scenes.py", "mode", "--side", 400, "--repeats", 1, "--folder", tmp_path, "--table", tmp_path / "scenes.csv")
    found = {(row["case"], row["quantity"]): float(row["value"]) for row in rows(tmp_path / "scenes.csv")}
    for kind in ("clean", "speckled", "noise"):
        case = f"mode, mode by 10, {kind}"
        assert found[case, "differing_px"] < 160 and 0 < found[case, "ours_resident_mb"] < 200 > found[case, "peer_resident_mb"] > 0
