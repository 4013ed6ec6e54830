"""Seasons, lists of files, finer masks and clouds: what is written, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data import normalise
from geo.raster import Georeference, open_raster, write_geotiff
from prepare_data import frequency_table, main, parse_args
from sources.labels import land_classes
from sources.scenes import open_scene
from sources.sentinel2 import (
    ALL_BANDS, BANDS, CATALONIA, CloudTest, downsample_mask, find_sites, read_weights)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def grid(gsd, x=500000.0, y=4600000.0, code=32631):
    """A Georeference of square pixels from a top left corner."""
    return Georeference(
        {
            33550: (gsd, gsd, 0.0), 33922: (0.0, 0.0, 0.0, x, y, 0.0),
            34735: (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, code, 3076, 0, 1, 9001)}
    )


def save(array, path, georeference=None, nodata=None):
    """Write a GeoTIFF of (H, W) or (H, W, C)."""
    array = np.asarray(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = 1 if array.ndim == 2 else array.shape[2]
    write_geotiff(
        path, [array], *array.shape[:2], bands, array.dtype, nodata=nodata,
        georeference=georeference)
    return path


def write_place(folder, name="p", height=40, width=30, factor=10):
    """Two seasons of two bands, whose values are season, row and column, and a finer mask.

    The mask is `factor` times finer: class 1 on the left and 2 on the right, with a road, 3, that
    is one of its pixels wide.
    """
    rows, cols = np.indices((height, width))
    x = 500000 + 10000 * (ord(name[0]) - ord("p"))  # each place lies elsewhere
    for number, season in enumerate(("spring", "autumn")):
        image = np.stack([1000 * number + rows, 5000 + cols], -1).astype(np.uint16)
        save(image, folder / f"{name}_{season}.tif", grid(10, x))
    mask = np.where(np.arange(width * factor) < width // 2 * factor, 1, 2) * np.ones(
        (height * factor, 1), int)
    mask[:, 11 * factor // 2] = 3
    save(mask.astype(np.uint8), folder / f"{name}_mask.tif", grid(10 / factor, x), nodata=0)
    (folder / "classes.csv").write_text("id,name\n0,ignore\n1,wood\n2,water\n3,road\n")


def prepare(folder, *words, out="out", images=("*_spring.tif", "*_autumn.tif"), masks="*_mask.tif"):
    """Run `prepare_data.py sentinel2`; returns meta, arrays by name and the rows of tiles.csv."""
    main(
        parse_args(
            [
                "sentinel2", "--images", *(str(folder / name) for name in images), "--masks",
                str(folder / masks), "--classes", str(folder / "classes.csv"), "--out",
                str(folder / out), *map(str, words)]
        )
    )
    with open(folder / out / "tiles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    arrays = {path.stem: np.load(path) for path in (folder / out).glob("*.npy")}
    return json.loads((folder / out / "dataset.json").read_text()), arrays, rows


def test_sentinel2__seasons_are_samples_of_their_own_or_bands_of_one(tmp_path):
    write_place(tmp_path)
    meta, arrays, rows = prepare(
        tmp_path, "--tile", 10, "--fractions", 1, 0, 0, "--split-by", "block")
    assert meta["bands"] == 2 and meta["tiles"]["train"] == 24 and meta["gsd_m"] == 10
    assert {row["scene"] for row in rows} == {"p_spring", "p_autumn"}
    meta, arrays, rows = prepare(
        tmp_path, "--tile", 10, "--fractions", 1, 0, 0, "--split-by", "block", "--seasons", "stack",
        out="stacked")
    assert (
        meta["bands"] == 4 and meta["tiles"]["train"] == 12
        and {row["scene"] for row in rows} == {"p"})
    for row, tile in zip(rows, arrays["train_images"]):
        assert tile[0, 0].tolist() == [
            int(row["row"]), 5000 + int(row["col"]), 1000 + int(row["row"]), 5000 + int(row["col"])]
    with open_scene(
        tmp_path / "stacked/scenes/p.txt") as scene:  # so that the stack can be predicted
        assert scene.read(39, 29, 2, 2).tolist() == [
            [[39, 5029, 1039, 5029], [0] * 4], [[0] * 4] * 2]


def test_sentinel2__values_missing_in_one_stacked_season_are_the_mean(tmp_path):
    write_place(tmp_path, factor=1)
    image = np.full((40, 30, 2), 7, np.uint16)
    for season, nodata, rows in (("spring", 9, slice(0, 4)), ("autumn", 0, slice(8, 11))):
        cut = image.copy()
        cut[rows] = nodata
        save(cut, tmp_path / f"p_{season}.tif", grid(10), nodata=nodata)
    meta, arrays, _ = prepare(
        tmp_path, "--tile", 30, "--fractions", 1, 0, 0, "--split-by", "block", "--seasons", "stack")
    missing = np.zeros((30, 30, 4), bool)
    missing[:4, :, :2] = True
    missing[8:11, :, 2:] = True
    assert meta["nodata"] == [9] * 4 and (arrays["train_labels"][0] != 255).all()
    values = normalise(
        torch.from_numpy(arrays["train_images"][:1]), meta["mean"], [1] * 4, meta["nodata"])
    assert not values.any() and meta["mean"] == [7] * 4
    with open_scene(tmp_path / "out/scenes/p.txt") as scene:  # as predict.py reads it
        assert (scene.read_masked(0, 0, 30, 30)[1] == missing).all()


@pytest.mark.parametrize("how", ["scene", "block", "tile"])
def test_sentinel2__seasons_of_a_site_stay_on_one_side(tmp_path, how):
    for name in "pqr":
        write_place(tmp_path, name, 300, 20, factor=1)
    _, _, rows = prepare(tmp_path, "--tile", 10, "--split-by", how)
    splits = {}
    for row in rows:
        splits.setdefault((row["scene"][0], row["row"], row["col"]), set()).add(row["split"])
    assert (
        all(len(names) == 1 for names in splits.values()) and len(set.union(*splits.values())) == 3)
    (tmp_path / "list.csv").write_text("scene,split\np_spring,train\np_autumn,test\n")
    with pytest.raises(ValueError, match="list.csv: seasons of 'p' are in several splits"):
        prepare(tmp_path, "--split-list", tmp_path / "list.csv", out="parted")


def test_sentinel2__a_finer_mask_is_downsampled_as_asked(tmp_path):
    write_place(tmp_path)
    words = "--tile", 40, "--fractions", 1, 0, 0, "--split-by", "block", "--downscale"
    for how, roads in (
        (("nearest",), 1), (("mode",), 0), (("weighted", "--downscale-weights", "road=20"), 1)):
        meta, arrays, _ = prepare(tmp_path, *words, *how, out=how[0])
        wanted = np.where(np.arange(30) < 15, 0, 1)
        # Column 5 is columns 50 to 59 of the mask, of which 55 is at the centre.
        wanted[5] = 2 if roads else 0
        assert (arrays["train_labels"][0, :, :30] == wanted).all()
    with open_raster(tmp_path / "weighted/masks/p.tif") as mask:
        assert mask.georeference.affine == grid(10).affine and mask.nodata == 0


@pytest.mark.parametrize("how, weights, values, wanted", [
    ("mode", [], [[1, 2], [3, 1]], 1),
    ("mode", [], [[1, 2], [3, 3]], 1),  # two of each: the class that is complete first
    ("weighted", ["wood=4"], [[2, 3], [3, 3]], 1),
    ("mode", [], [[255, 255], [255, 3]], 3),
    ("mode", [], [[255, 255], [255, 255]], 255),
])
def test_downsample_mask__ids_of_one_name_vote_together_and_255_does_not(tmp_path, how, weights,
                                                                         values, wanted):
    image = save(np.zeros((1, 1), np.uint8), tmp_path / "image.tif")
    mask = save(np.array(values, np.uint8), tmp_path / "mask.tif")
    rows = read_rows([(1, "wood"), (2, "wood"), (3, "water"), (-9, "sand"), (-8, "sand")])
    coarse = downsample_mask(mask, image, how, read_weights(weights, rows, how), rows,
                             tmp_path / "coarse.tif")
    assert open_raster(coarse).read(0, 0, 1, 1).item() == wanted


def test_downsample_mask__no_label_has_no_vote(tmp_path):
    save(np.zeros((1, 1), np.uint8), tmp_path / "image.tif")
    mask = save(np.array([[0, 0], [0, 7]], np.uint8), tmp_path / "mask.tif")
    rows = read_rows([(0, "ignore"), (7, "wood")])
    image = tmp_path / "image.tif"
    coarse = downsample_mask(mask, image, "mode", {}, rows, tmp_path / "coarse.tif")
    assert open_raster(coarse).read(0, 0, 1, 1).item() == 7
    coarse = downsample_mask(mask, image, "mode", {}, rows[1:], tmp_path / "voted.tif")
    assert open_raster(coarse).read(0, 0, 1, 1).item() == 0
    mask = save(np.array([[0, 0], [0, 7]], np.uint8), tmp_path / "mask.tif", nodata=0)
    coarse = downsample_mask(mask, image, "mode", {}, rows[1:], tmp_path / "tagged.tif")
    assert open_raster(coarse).read(0, 0, 1, 1).item() == 7
    mask = save(np.array([[7, 0], [7, 7]], np.uint8), tmp_path / "mask.tif")
    rows = land_classes(
        [(None, "ignore", 0), (-1, "ignore", None), (0, "sea", None), (7, "wood", None)])
    # No id, and one that no pixel has.
    coarse = downsample_mask(
        mask, image, "mode", {}, rows, tmp_path / "coloured.tif")
    assert open_raster(coarse).read(0, 0, 1, 1).item() == 7
    mask = save(
        np.array([[3, 4, 4, 9], [3, 3, 4, 9], [0, 0, 7, 0], [9, 9, 0, 0]], np.uint8),
        tmp_path / "mask.tif", nodata=9)
    rows = land_classes(
        [(3, "ignore", None), (0, "ignore", None), (4, "ignore", None), (7, "wood", None)])
    for how, weights in (
        ("mode", {}),
        ("weighted", {7: 2.0})):  # four values without a vote, and one pixel that has one
        coarse = downsample_mask(mask, image, how, weights, rows, tmp_path / f"{how}.tif")
        assert open_raster(coarse).read(0, 0, 1, 1).item() == 7


def read_rows(pairs):
    """LandClass rows of (id, name)."""
    return land_classes([(value, name, None) for value, name in pairs])


def test_check_seasons__refuses_another_extent(tmp_path):
    write_place(tmp_path)
    save(np.zeros((40, 30, 2), np.uint16), tmp_path / "p_autumn.tif", grid(10, x=500010.0))
    with pytest.raises(ValueError, match="p_autumn.tif covers .*500010 to 500310.*p_spring.tif"):
        prepare(tmp_path)


def test_downsample_mask__hidden_pixels_have_no_vote(tmp_path):
    image = save(np.zeros((2, 2), np.uint8), tmp_path / "image.tif")
    ids = np.repeat([[1, 1, 2, 2]], 4, 0).astype(np.uint8)
    hidden = np.full((4, 4), 255, np.uint8)
    hidden[:2, :2] = 0  # a whole block
    hidden[2:, 2:] = [[0, 0], [0, 255]]
    tifffile.imwrite(tmp_path / "mask.tif", np.dstack([ids, hidden]), extrasamples=["unassalpha"],
                     photometric="minisblack", metadata=None)
    classes = land_classes([(1, "wood", None), (2, "water", None)])
    coarse = downsample_mask(tmp_path / "mask.tif", image, "mode", {}, classes, tmp_path / "c.tif")
    with open_raster(coarse) as raster:
        assert raster.nodata == 255
        assert raster.read(0, 0, 2, 2)[:, :, 0].tolist() == [[255, 2], [1, 2]]


@pytest.mark.parametrize("how", ["stack", "separate"])
def test_check_seasons__refuses_other_bands(tmp_path, how):
    write_place(tmp_path)
    save(np.zeros((40, 30, 3), np.uint16), tmp_path / "p_autumn.tif", grid(10))
    with pytest.raises(
        ValueError, match="p_autumn.tif has 3 bands of uint16, but .*p_spring.tif 2 of uint16: "):
        prepare(tmp_path, "--seasons", how)
    save(np.zeros((40, 30, 2), np.uint8), tmp_path / "p_autumn.tif", grid(10))
    with pytest.raises(
        ValueError, match="p_autumn.tif has 2 bands of uint8, but .*p_spring.tif 2 of uint16: "):
        prepare(tmp_path, "--seasons", how)


def test_name_sites__errors_of_files_made_on_the_way_name_the_site(tmp_path):
    for name in "pq":
        write_place(tmp_path, name)
    for season in ("spring", "autumn"):
        save(np.zeros((40, 30, 3), np.uint16), tmp_path / f"q_{season}.tif", grid(10, 510000))
    with pytest.raises(
        ValueError, match="^place 'q' has 6 bands of uint16, but place 'p' 4 of uint16: "):
        prepare(tmp_path, "--seasons", "stack")
    (tmp_path / "classes.csv").write_text("id,name\n0,ignore\n1,wood\n3,road\n")
    with pytest.raises(ValueError, match=r"^place 'p_spring': value 2 \(600 px\) is no class"):
        prepare(tmp_path, "--fractions", 1, 0, 0, images=["p_spring.tif"], masks="p_mask.tif")
    assert not list(tmp_path.glob("out*"))


def test_sentinel2__max_pixels_holds_for_images_and_masks(tmp_path):
    for name, side in (("p_spring", 10), ("p_mask", 20)):
        Image.fromarray(np.ones((side, side), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "classes.csv").write_text("id,name\n1,wood\n")
    for most, name in ((99, "p_spring.png"), (399, "p_mask.png")):
        with pytest.raises(ValueError, match=f"{name}: .*, but --max-pixels is {most}"):
            main(
                parse_args(
                    [
                        "sentinel2", "--images", str(tmp_path / "p_spring.png"), "--masks",
                        str(tmp_path / "p_mask.png"), "--classes", str(tmp_path / "classes.csv"),
                        "--max-pixels", str(most), "--out", str(tmp_path / "out")]
                )
            )


def test_find_sites__many_long_names_make_no_file_name_too_long(tmp_path):
    names = [
        f"S2A_MSIL2A_2018{month:02}01T105431_N0206_R051_T31TDF_20180101T130000.tif"
        for month in range(1, 7)]
    for name in names:
        save(np.ones((10, 10, 2), np.uint16), tmp_path / name)
    save(np.ones((20, 20), np.uint8), tmp_path / "p_mask.tif")
    (tmp_path / "classes.csv").write_text("id,name\n1,wood\n")
    meta, _, rows = prepare(
        tmp_path, "--fractions", 1, 0, 0, "--seasons", "stack", "--tile", 10, images=names)
    assert meta["bands"] == 12 and rows[0]["scene"] == "place"


def test_find_sites__what_the_star_stands_for_or_the_only_one(tmp_path):
    for name in ("a_1.tif", "a_2.tif", "b_1.tif", "b_2.tif", "m.tif"):
        (tmp_path / name).write_bytes(b"x")
    one, two, mask = tmp_path / "*_1.tif", tmp_path / "*_2.tif", tmp_path / "m.tif"
    assert find_sites([one, two], None) == [
        (place, [tmp_path / f"{place}_1.tif", tmp_path / f"{place}_2.tif"], None) for place in "ab"]
    assert find_sites([tmp_path / "a_1.tif", tmp_path / "b_1.tif"], mask) == [
        ("a_1+b_1", [tmp_path / "a_1.tif", tmp_path / "b_1.tif"], mask)]
    with pytest.raises(ValueError, match="place 'a' is in .*_1.tif, but not in .*m.tif"):
        find_sites([one], mask)
    (tmp_path / "b_2.tif").unlink()
    with pytest.raises(ValueError, match="place 'b' is in .*_1.tif, but not in .*_2.tif"):
        find_sites([one, two], None)


def test_why_dropped__water_alone_and_no_data(tmp_path):
    write_place(tmp_path)
    image = np.full((40, 30, 2), 9, np.uint16)
    image[:10, :10] = 0
    save(image, tmp_path / "p_spring.tif", grid(10), nodata=0)
    meta, _, rows = prepare(
        tmp_path, "--tile", 10, "--fractions", 1, 0, 0, "--split-by", "block", "--drop-only",
        "water", images=["*_spring.tif"])
    assert meta["dropped"] == {"without data": 1, "only water": 4} and meta["tiles"]["train"] == 7
    assert "dropped 4 tiles: only water" in frequency_table(meta)
    with pytest.raises(ValueError, match="--drop-only sea: give one of wood, water, road"):
        prepare(
            tmp_path, "--drop-only", "sea", "--split-by", "block", "--fractions", 1, 0, 0,
            out="sea")


def test_cloud_test__by_hand():
    pixels = np.array(
        [
            [
                [4000, 5000, 4000],
                [2000, 1900, 2000],
                [2000, 2100, 2000],  # green, red, SWIR: bright; greenish; red
                [5000, 5000, 2000],
                [3000, 1900, 1000],
                [1700, 0, 1700],
            ]
        ],
        np.uint16,
    )  # snow; too dark for it; dark
    test = CloudTest({"B03": 0, "B04": 1, "B11": 2}, 3, 10000)
    found = [test.shares(pixels[:, n : n + 1], np.ones((1, 1), bool)) for n in range(6)]
    assert found == [(1, 0), (1, 0), (0, 0), (0, 1), (1, 0), (0, 0)]
    assert test.shares(pixels, np.array([[1, 0, 0, 1, 0, 1]], bool)) == (
        pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert test.shares(pixels, np.zeros((1, 6), bool)) == (0, 0)
    assert CloudTest({"B03": 0, "B04": 1}, 3, 10000).shares(pixels, np.ones((1, 6), bool)) == (
        pytest.approx(4 / 6), 0)
    seasons = np.concatenate(
        [pixels[:, :1], pixels[:, 2:3]], axis=2)  # cloud in the first season alone
    assert test.shares(seasons, np.ones((1, 1), bool)) == (1, 0)


def test_why_dropped__cloudy_tiles_are_kept_unless_max_cloud(tmp_path):
    write_place(tmp_path)
    image = np.full((40, 30, 4), 500, np.uint16)
    image[:10, :10] = 6000
    image[10:15, :10] = 6000
    save(image, tmp_path / "p_spring.tif", grid(10))
    words = (
        "--tile", 10, "--fractions", 1, 0, 0, "--split-by", "block", "--bands", "B02", "B03", "B04",
        "B08")
    meta, _, rows = prepare(tmp_path, *words, images=["*_spring.tif"])
    assert meta["cloud_and_snow"]["train"] == [pytest.approx(1.5 / 12), 0] and meta["rgb"] == [
        2, 1, 0]
    assert [float(row["cloud"]) for row in rows] == [1, 0, 0, 0.5] + [
        0] * 8 and "12.50 %" in frequency_table(meta)
    meta, _, rows = prepare(
        tmp_path, *words, "--max-cloud", 0.5, images=["*_spring.tif"], out="clear")
    assert meta["dropped"] == {"more than 50 % cloud or snow": 1} and len(rows) == 11
    with pytest.raises(ValueError, match="--max-cloud needs to know the bands"):
        prepare(tmp_path, "--max-cloud", 0.5, images=["*_spring.tif"], out="unknown")
    with pytest.raises(ValueError, match="--bands names 3 bands, but .*p_spring.tif has 4"):
        prepare(tmp_path, "--bands", "B02", "B03", "B04", images=["*_spring.tif"], out="unknown")


def test_catalonia__bands_and_classes_are_complete():
    assert [len(BANDS[count]) for count in BANDS] == list(BANDS) and set(BANDS[10]) < set(
        BANDS[12]) < set(ALL_BANDS)
    assert (
        len({row.name for row in CATALONIA[1:]}) == 12
        and len({row.colour for row in CATALONIA}) == 13)
    assert [row.value for row in CATALONIA] == list(range(13))


def test_read_weights__by_class():
    rows = read_rows([(0, "ignore"), (4, "road"), (9, "wood")])
    assert (
        read_weights(["road=4", "wood=0.5"], rows, "weighted") == {4: 4, 9: 0.5}
        and read_weights([], rows, "mode") == {})
    for weight in ("nan", "inf", "-1", "0", "1e300"):
        with pytest.raises(
            ValueError, match=f"--downscale-weights road={weight}: .* a weight from 1e-9 to 1e9"):
            read_weights([f"road={weight}"], rows, "weighted")
    for words, how in (
        (["path=2"], "weighted"), (["road"], "weighted"), ([], "weighted"), (["road=4"], "mode")):
        with pytest.raises(ValueError, match="--downscale-weights"):
            read_weights(words, rows, how)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "rachel_carson").exists(), reason="the imagery is not here")
def test_split_by_polygon__rachel_carson(tmp_path):
    files = sorted((SHARED / "rachel_carson").glob("*_B0*.tiff"))
    (tmp_path / "rachel.txt").write_text("\n".join(map(str, files)))
    (tmp_path / "classes.csv").write_text(
        "id,name\n0,ignore\n1,emergent wetland\n2,forested wetland\n3,herbaceous\n4,sand\n"
        "5,subtidal haline\n6,wet sand\n")
    main(
        parse_args(
            [
                "sentinel2", "--images", str(tmp_path / "rachel.txt"), "--masks",
                str(SHARED / "rachel_carson/rcr_landcover_rasterized.tif"), "--classes",
                str(tmp_path / "classes.csv"), "--split-by", "polygon", "--tile", "64", "--out",
                str(tmp_path / "out")]
        )
    )
    meta = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (
        meta["bands"] == 8 and sum(map(sum, meta["pixels"].values())) == 598
        and meta["pixels"]["test"][4] == 0)
