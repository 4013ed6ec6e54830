"""Scenes that show the same ground are one site, and the ground that splits share is measured."""

import pytest

from geo.crs import convert
from geo.georeference import Georeference, from_affine
from sources.overlap import (
    footprints, join_sites, pixel_grids, shared_ground, warn_of_shared_ground)
from sources.raw import RawDataset, Region, Scene


ZONE_END = 735000.0  # x in UTM zone 32 of a place in both zones


def grid(x, y, gsd=1.0, code=32632):
    """The Georeference of a scene whose top left corner is at x, y."""
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, code) if code else (1, 1, 0, 0)
    return Georeference({33550: (gsd, gsd, 0.0), 33922: (0.0, 0.0, 0.0, x, y, 0.0), 34735: keys})


def joined(georeferences, size=(10, 10), sites=None, **how):
    """The scenes of a set, each a site unless `sites` names them, after join_sites."""
    names = [chr(97 + number) for number in range(len(georeferences))]
    scenes = [Scene(name, f"{name}.tif", None, site) for name, site in zip(names, sites or names)]
    source = RawDataset([], scenes, **how)
    return join_sites(source, footprints(source, [size] * len(names), georeferences))


@pytest.mark.parametrize(
    "georeferences, sites",
    [
        ([grid(0, 0), grid(9, 0)], ["a+b", "a+b"]),  # a column of pixels
        ([grid(0, 0), grid(10, 0), grid(0, -10)], ["a", "b", "c"]),  # neighbours
        ([grid(0, 0), grid(9.6, 0)], ["a", "b"]),  # rounded by less than half a pixel
        ([grid(0, 0), grid(30, 0), grid(9, 0, 2.5)], ["a+b+c"] * 3),  # a chain, coarser in between
        ([grid(5e5, 5e6), grid(5e5, 5e6, code=32633)], ["a", "b"]),  # the same numbers elsewhere
        ([grid(ZONE_END - 5, 5e6), grid(*convert(ZONE_END, 5e6, "EPSG:32632", "EPSG:32633"),
                                        code=32633)], ["a+b", "a+b"]),
        ([grid(0, 0), grid(5, 5, code=None)], ["a+b", "a+b"]),
        ([None, None], ["a", "b"]),
        ([grid(0, 0), None, grid(5, 0)], ["a+c", "b", "a+c"])],
)
def test_join_sites__scenes_that_overlap_are_one_site(georeferences, sites):
    assert [scene.site for scene in joined(georeferences).scenes] == sites


def test_join_sites__seasons_stay_on_their_grid():
    places = [grid(0, 0), grid(0, 0), grid(5, 0)]
    source = joined(places, sites=["p", "p", "q"], aligned=True)
    assert [scene.site for scene in source.scenes] == ["p+q"] * 3
    assert [source.grid_of(scene) for scene in source.scenes] == ["p", "p", "q"]


@pytest.mark.parametrize("georeferences, grids", [
    ([grid(0, 0), grid(9, -4), grid(60, 10)], {"a": [0, 0, 0], "b": [0, 4, 9], "c": [0, -10, 60]}),
    ([grid(0, 0), grid(5, 0, 2.5), grid(60, 0, 2.5)], {"c": [1, 0, 22]}),  # a and b are one site
    ([None, None], {"a": [0, 0, 0], "b": [1, 0, 0]}),
    ([grid(0, 0), grid(0, 0, code=32633)], {"a": [0, 0, 0], "b": [1, 0, 0]})])
def test_pixel_grids__by_eye(georeferences, grids):
    assert pixel_grids(joined(georeferences).scenes) == grids


def test_pixel_grids__seasons_share_one():
    source = joined([None, None, None], sites=["p", "p", "q"], aligned=True)
    assert pixel_grids(source.scenes) == {"a": [0, 0, 0], "b": [0, 0, 0], "c": [1, 0, 0]}


def test_footprints__warns_of_a_system_that_it_cannot_compare(monkeypatch, capsys):
    def refuse(x, y, source, target):
        if source != "EPSG:2056":
            return x, y
        raise ValueError("install pyproj")

    monkeypatch.setattr("sources.overlap.convert", refuse)
    source = joined([grid(0, 0), grid(0, 0, code=32633), grid(0, 0, code=2056)])
    assert [scene.site for scene in source.scenes] == ["a+b", "a+b", "c"]
    assert "scenes in EPSG:2056 overlap" in capsys.readouterr().err


def test_footprints__gdal_is_asked_for_a_system_without_a_code(monkeypatch):
    monkeypatch.setattr("geo.crs._crs_by_gdal", {"b.tif": "EPSG:32633"}.get)
    x, y = convert(ZONE_END, 5e6, "EPSG:32632", "EPSG:32633")
    source = joined([grid(ZONE_END - 5, 5e6), grid(x, y, code=32767)])
    assert [scene.site for scene in source.scenes] == ["a+b", "a+b"]


def test_footprints__are_those_of_the_scaled_scene():
    source = joined([grid(100, 200, 2.0)], scale=0.5)
    assert source.scenes[0].footprint.whole == (100, 180, 120, 200)
    assert source.scenes[0].footprint.bounds(1, 0, 1, 2) == (100, 192, 108, 196)


def test_shared_ground__is_the_share_of_the_held_out_ground():
    scenes = joined([grid(0, 0), grid(8, 0), grid(50, 0)]).scenes
    regions = [Region("train", 0, 0, 0, 10, 10), Region("test", 1, 0, 0, 10, 10),
               Region("val", 2, 0, 0, 10, 5)]
    shares = shared_ground(scenes, regions)
    assert shares == {"val": 0.0, "test": pytest.approx(0.2)}
    assert shared_ground(scenes, [regions[0], regions[0]._replace(split="val")]) == {"val": 1.0}
    assert shared_ground(scenes, [regions[0]]) == {}
    (line,) = warn_of_shared_ground(shares)
    assert line.startswith("train shows 20 % of the ground of test too")


def test_shared_ground__of_a_turned_scene_is_counted_in_its_pixels():
    turned = from_affine((1, 1, 0, 1, -1, 0))
    scenes = joined([turned]).scenes
    regions = [Region("train", 0, 0, 0, 10, 5), Region("test", 0, 0, 5, 10, 5),
               Region("val", 0, 0, 4, 10, 2)]
    assert shared_ground(scenes, regions) == {"val": 0.5, "test": 0.0}
