"""Warnings name the scenes, and what differs between them."""

import numpy as np
import pytest
from helpers import picture, write_tiff

from geo.georeference import from_affine
from geo.raster import hide_alpha, open_raster, write_geotiff
from sources.labels import land_classes
from sources.notices import warn_of_reading
from sources.raw import RawDataset, Scene
from sources.scenes import check_scenes


@pytest.mark.parametrize("sides, code, gsd, words", [
    ((1.0, 1.005), 32631, None, []), ((0.5, 2.0), 32631, None, ["a.tif", "0.5 m", "b.tif", "2 m"]),
    ((0.5, 2.0), 32631, 1.0, []), ((1.0, 1.0), 3857, None, []),
    ((1.0, 1.0), None, None, ["a.tif", "no coordinate system"]), ((1.0, 1.0), None, 1.0, [])])
def test_check_scenes__names_sizes_that_differ_or_are_not_known(tmp_path, capsys, sides, code, gsd,
                                                                words):
    scenes = []
    for name, side in zip("ab", sides):
        place = from_affine((side, 0, 5e5, 0, -side, 4e6), code, unit=9001)
        write_geotiff(tmp_path / f"{name}.tif", [picture()], 70, 90, 3, "uint8",
                      georeference=place)
        scenes.append(Scene(name, tmp_path / f"{name}.tif", tmp_path / "mask.tif", name))
    write_geotiff(tmp_path / "mask.tif", [picture(bands=1)], 70, 90, 1, "uint8")
    check_scenes(RawDataset(land_classes([(1, "a", 0)]), scenes), gsd)
    printed = capsys.readouterr().err
    assert all(word in printed for word in words)
    assert bool(printed) == bool(words)


@pytest.mark.parametrize("dtype, dark, bright, warns", [
    ("uint8", (0, 20), (90, 200), True),  # near infrared of water, and of land around it
    ("uint16", (0, 300), (1500, 4500), True),  # reflectance times 10,000
    ("uint8", (0, 1), (255, 256), False),  # alpha: transparent and opaque
    ("uint8", (0, 20), (255, 256), False),  # blurred where it is transparent
])
def test_warn_of_reading__alpha_that_varies_like_an_image(tmp_path, capsys, dtype, dark, bright,
                                                          warns):
    random = np.random.default_rng(0)
    band = random.integers(*bright, (300, 300)).astype(dtype)
    band[60:240, 60:240] = random.integers(*dark, (180, 180))
    pixels = np.dstack([*picture(300, 300).transpose(2, 0, 1).astype(dtype), band])
    write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[2])
    with open_raster(tmp_path / "a.tif") as raster:
        warn_of_reading(hide_alpha(raster))
    assert ("varies like an image" in capsys.readouterr().err) == warns
