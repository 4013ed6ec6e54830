"""Real images, prepared, trained on for a step and mapped; skipped where they are missing."""

import json
import pathlib

import numpy as np
import pytest
import torch

import predict
import prepare_data
import train
from engine.checkpoint import save_checkpoint
from engine.meta import checkpoint_meta
from geo.raster import open_raster, write_geotiff
from networks import build_model

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
BLOCKS = "--split-by block --fractions 1 1 1"
# The folder; images, masks, and the scene to predict, where {arrays} is a folder of GeoTIFFs made
# of the folder's .npy files; the lines of classes.csv; more flags of prepare_data.py; what the
# prepared set must have.
SETS = {
    "roads": (
        "{data}/images/satImage_00*.png",
        "{data}/groundtruth/satImage_00*.png",
        "{data}/images/satImage_001.png",
        ["0,background,190,190,190", "255,road,230,60,40"],
        "--threshold 127 --tile 200",
        {"bands": 3, "dtype": "uint8"},
    ),
    "sentinel2_spain": (
        "{data}/Spain_7370579_S2Hand.tif",
        "{data}/Spain_7370579_LabelHand.tif",
        "{data}/Spain_7370579_S2Hand.tif",
        ["-1,ignore,,,", "0,land,120,160,60", "1,water,40,80,220"],
        f"--rgb 4 3 2 --tile 128 {BLOCKS}",
        {"bands": 13, "dtype": "int16"},
    ),
    "sentinel2_slovenia": (
        "{arrays}/REFERENCE_SCENES_2.tif",
        "{arrays}/LULC.tif",
        "{arrays}/REFERENCE_SCENES_3.tif",
        [
            "0,ignore,,,",
            "1,cultivated,250,220,90",
            "2,forest,0,120,0",
            "3,grassland,130,200,90",
            "4,shrub,170,140,70",
            "8,artificial,200,60,50",
        ],
        f"--rgb 4 3 2 --gsd 10 --tile 32 {BLOCKS}",
        {"bands": 13, "dtype": "float32", "gsd_m": 10},
    ),
    "zurich": (
        "{data}/images/13.tif",
        "{data}/gt/13.tif",
        "{data}/images/13.tif",
        [
            "1,water,0,0,150",
            "2,building,100,100,100",
            "3,road,0,0,0",
            "4,tree,0,125,0",
            "5,grass,0,255,0",
            "6,ignore,255,255,255",
        ],
        f"--rgb 3 2 1 --tile 128 {BLOCKS}",
        {"bands": 4, "dtype": "uint16"},
    ),
    "usgs_shore": (
        "{data}/C26047181.jpg",
        "{data}/C26047181_water_no_water_label.png",
        "{data}/C26047181.jpg",
        ["0,water,40,80,220", "255,other,190,190,190"],
        f"--tile 256 {BLOCKS}",
        {"bands": 3, "dtype": "uint8"},
    ),
}
# Scenes without labels: the file, its bands and dtype.
SCENES = {
    "landsat_1985_bigendian_deflate_4b.tif": (4, "uint8"),
    "terratorch_s2_10band_float32_lzw.tif": (10, "float32"),
    "rgb_lzw.tif": (3, "uint8"),
}


def run(script, *words):
    return script.main(script.parse_args([str(word) for word in words]))


def check_map(path, scene, classes):
    """The map has the scene's size and place, and holds classes, or 255 where there is no data."""
    with open_raster(path) as found, open_raster(scene) as source:
        assert (found.height, found.width, found.bands) == (source.height, source.width, 1)
        assert (found.georeference is None) == (source.georeference is None)
        if source.georeference:
            assert found.georeference.affine == pytest.approx(source.georeference.affine)
        values = np.unique(found.read(0, 0, found.height, found.width))
    assert set(values.tolist()) <= {*range(classes), 255} and values[0] < classes


def write_arrays(folder, out):
    """Write a patch as GeoTIFFs: images (dates, H, W, C), one file per date, and its mask."""
    images, mask = np.load(folder / "REFERENCE_SCENES.npy"), np.load(folder / "LULC.npy")
    scenes = {f"REFERENCE_SCENES_{date}": scene for date, scene in enumerate(images)} | {
        "LULC": mask
    }
    for stem, scene in scenes.items():
        write_geotiff(out / f"{stem}.tif", [scene], *scene.shape[:2], scene[0, 0].size, scene.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_from_real_images_to_a_map(name, tmp_path):
    if not (DATA / name).is_dir():
        pytest.skip("real images are not here")
    images, masks, scene, classes, flags, wanted = SETS[name]
    if "{arrays}" in images:
        (tmp_path / "arrays").mkdir()
        write_arrays(DATA / name, tmp_path / "arrays")
    images, masks, scene = (
        path.format(data=DATA / name, arrays=tmp_path / "arrays") for path in (images, masks, scene)
    )
    (tmp_path / "classes.csv").write_text("\n".join(["id,name,r,g,b", *classes]))
    run(
        prepare_data,
        "folder",
        "--images",
        images,
        "--masks",
        masks,
        "--classes",
        tmp_path / "classes.csv",
        "--out",
        tmp_path / "set",
        *flags.split(),
    )
    meta = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert {key: meta[key] for key in wanted} == wanted
    assert all(meta["tiles"].values()) and all(map(sum, meta["pixels"].values()))
    scores = run(
        train,
        "--data",
        tmp_path / "set",
        "--out",
        tmp_path / "run",
        "--epochs",
        1,
        "--bs",
        2,
        "--width",
        4,
        "--depth",
        1,
        "--device",
        "cpu",
        "--final",
        "last",
    )
    assert 0 <= scores["miou"] <= 1
    (path,) = run(
        predict,
        "--checkpoint",
        tmp_path / "run" / "last.pt",
        "--out",
        tmp_path / "maps",
        "--device",
        "cpu",
        scene,
    )
    check_map(path, scene, len(meta["classes"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_real_scene_is_mapped_by_a_network_for_its_bands(name, tmp_path):
    if not (DATA / "geotiffs" / name).exists():
        pytest.skip("real images are not here")
    bands, dtype = SCENES[name]
    kwargs = {"bands": bands, "classes": 3, "width": 4, "depth": 1}
    meta = {
        "name": "none",
        "classes": [{"name": f"class {k}", "colour": [80 * k, 90, 0]} for k in range(3)],
        "ignore": 255,
        "mean": [100.0] * bands,
        "std": [50.0] * bands,
        "bands": bands,
        "dtype": dtype,
        "gsd_m": None,
        "rgb": [0, 1, 2],
    }
    torch.manual_seed(0)
    save_checkpoint(
        tmp_path / "made.pt",
        {"name": "unet", "kwargs": kwargs, "state": build_model("unet", **kwargs).state_dict()},
        checkpoint_meta(meta),
        {"epoch": 0, "labelled_pixels": 0},
        {},
    )
    (path,) = run(
        predict,
        "--checkpoint",
        tmp_path / "made.pt",
        "--out",
        tmp_path / "maps",
        "--device",
        "cpu",
        DATA / "geotiffs" / name,
    )
    check_map(path, DATA / "geotiffs" / name, 3)
