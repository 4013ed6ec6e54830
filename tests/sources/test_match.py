"""Scenes are read for prediction as they were for training."""

import numpy as np
import pytest
from helpers import picture, write_tiff
from PIL import Image

from geo.raster import write_geotiff
from sources.match import open_as_trained

NEW = {"bands": 3, "dtype": "uint8", "nodata": 0.0, "scene_nodata": None, "scales": None}
OLD = {"bands": 4, "dtype": "uint8", "nodata": 0.0}


def write_scene(path, alpha=None, kind=2):
    """Write picture() as TIFF or PNG, with a constant alpha band if one is given."""
    pixels = picture()
    if alpha is not None:
        pixels = np.concatenate([pixels, np.full((70, 90, 1), alpha, np.uint8)], axis=2)
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        extra = {} if alpha is None else {"extrasamples": [kind]}
        write_tiff(path, pixels, photometric="rgb", **extra)
    return path


@pytest.mark.parametrize("name, alpha, kind", [
    ("a.png", None, 0), ("a.png", 255, 0), ("a.png", 254, 0), ("a.tif", 1, 1), ("a.tif", 255, 2)])
def test_open_as_trained__alpha_is_no_band(tmp_path, name, alpha, kind, capsys):
    path = write_scene(tmp_path / name, alpha, kind)
    with open_as_trained(path, NEW, "best.pt") as scene:
        pixels, missing = scene.read_masked(0, 0, 70, 90)
    assert np.array_equal(pixels, picture())
    assert not missing.any()
    assert capsys.readouterr().err == ""


def test_open_as_trained__networks_of_old_read_alpha_as_a_band_and_warn(tmp_path, capsys):
    path = write_scene(tmp_path / "a.png", 254)
    with open_as_trained(path, OLD, "old.pt") as scene:
        assert scene.read(0, 0, 1, 1).tolist() == [[[*picture()[0, 0], 254]]]
        assert scene.nodata == 0
    assert "old.pt was trained with alpha as a band" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a.png has 3 bands and alpha.*new.pt.*on 4"):
        open_as_trained(path, {**NEW, "bands": 4}, "new.pt")


@pytest.mark.parametrize("meta, alpha, nodata", [
    ({"scene_nodata": 7.0}, None, 7), ({"scene_nodata": 7.0}, 255, None), ({}, None, None),
    ({"nodata": [1.0, 2.0, 3.0], "scene_nodata": None}, None, None)])
def test_open_as_trained__training_nodata_counts_where_a_scene_marks_nothing(tmp_path, meta, alpha,
                                                                            nodata):
    path = write_scene(tmp_path / "a.png", alpha)
    with open_as_trained(path, {**NEW, **meta}, "best.pt") as scene:
        assert scene.nodata == nodata
    old = {key: value for key, value in NEW.items() if key != "scene_nodata"}
    with open_as_trained(path, old, "best.pt") as scene:
        assert scene.nodata == 0
    with open_as_trained(path, {**old, "nodata": [1.0, 2.0, 3.0]}, "best.pt") as scene:
        assert scene.nodata == (1, 2, 3)


def test_open_as_trained__warns_of_what_may_be_read_otherwise_than_meant(tmp_path, capsys):
    xml = '<GDALMetadata><Item name="SCALE" sample="1" role="scale">0.0001</Item></GDALMetadata>'
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb",
               extratags=[(42112, "s", 0, xml, True)])
    with open_as_trained(tmp_path / "a.tif", NEW, "best.pt") as scene:
        assert scene.scales == ((1, 0), (0.0001, 0), (1, 0))
    printed = capsys.readouterr().err
    assert "a.tif has scale 0.0001" in printed and "best.pt 1 and 0" in printed
    same = {**NEW, "scales": [[1.0, 0.0], [0.0001, 0.0], [1.0, 0.0]]}  # as a checkpoint has it
    open_as_trained(tmp_path / "a.tif", same, "best.pt")
    assert capsys.readouterr().err == ""
    infrared = np.concatenate([picture(), picture()[:, :, :1]], axis=2)
    write_tiff(tmp_path / "a.tif", infrared, photometric="rgb", extrasamples=[2])
    open_as_trained(tmp_path / "a.tif", NEW, "best.pt")
    assert "colorinterp_4 undefined" in capsys.readouterr().err


@pytest.mark.parametrize("meta", [NEW, OLD])
def test_open_as_trained__files_of_one_scene(tmp_path, meta):
    for name, value in (("a", 5), ("b", 7)):
        pixels = np.array([[[1, 2], [value, value]]], np.uint8)
        pixels = pixels[:, ::-1] if name == "b" else pixels
        write_geotiff(tmp_path / f"{name}.tif", [pixels], 1, 2, 2, "uint8", nodata=value)
    (tmp_path / "place.txt").write_text("a.tif\nb.tif\n")
    with open_as_trained(tmp_path / "place.txt", {**meta, "bands": 4}, "best.pt") as scene:
        found = scene.read_masked(0, 0, 1, 2)[1][0]
    if meta is NEW:  # each file by itself
        assert found.T.astype(int).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    else:  # a pixel that one file lacks was missing
        assert found.all()


def test_open_as_trained__warns_of_control_points(tmp_path, capsys):
    ties = (0, 0, 0, 10.0, 50.0, 0, 0, 9, 0, 10.0, 49.0, 0, 9, 0, 0, 11.0, 50.1, 0)
    write_tiff(tmp_path / "a.tif", picture(), photometric="rgb",
               extratags=[(33922, "d", 18, ties, True)])
    open_as_trained(tmp_path / "a.tif", NEW, "best.pt")
    assert "a.tif is placed by control points" in capsys.readouterr().err
