"""Pixels and labels of a scene: ids, palettes, colours, scaling, missing pixels."""

import numpy as np
import pytest
from PIL import Image

from geo.georeference import from_affine
from geo.raster import Georeference, open_raster, write_geotiff
from sources import scenes
from sources.labels import land_classes
from sources.masks import MaskLabels
from sources.raw import RawDataset, Region, Scene
from sources.scenes import (
    ScaledRaster, SceneReader, check_footprint, check_scenes, name_nodata, open_scene, resize,
    scaled)

IDS = [(10, "water", None), (30, "wood", None), (-1, "ignore", None)]
COLOURS = [(None, "water", 0x0000FF), (None, "wood", 0x007800), (None, "ignore", 0x000000)]
UTM = {
    33550: (2.0, 2.0, 0.0), 33922: (0.0, 0.0, 0.0, 1000.0, 5000.0, 0.0),
    34735: (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32631, 3076, 0, 1, 9001)}


def save(array, path, nodata=None, georeference=None):
    """Write a PNG or, by the name, a TIFF of any dtype and number of bands."""
    array = np.asarray(array)
    if path.suffix == ".tif":
        bands = 1 if array.ndim == 2 else array.shape[2]
        write_geotiff(
            path, [array], *array.shape[:2], bands, array.dtype, nodata=nodata,
            georeference=georeference)
    else:
        Image.fromarray(array).save(path)
    return path


def labels_of(folder, mask, rows, image=None, **how):
    """The label map of a mask (an array, or a path) under a black image, as nested lists."""
    if not hasattr(mask, "exists"):
        mask = save(
            mask, folder / ("mask.tif" if np.asarray(mask).dtype != np.uint8 else "mask.png"))
    with Image.open(mask) as file:
        width, height = file.size
    if image is None:
        image = save(np.zeros((height, width, 3), np.uint8), folder / "image.png")
    source = RawDataset(land_classes(rows), [Scene("s", image, mask, "s")], **how)
    with SceneReader(source.scenes[0], source) as reader:
        return reader.read_labels(
            Region("train", 0, 0, 0, reader.image.height, reader.image.width)).tolist()


def test_read_labels__ids_may_be_any_numbers(tmp_path):
    assert labels_of(tmp_path, np.array([[10, 30, 255, 10]], np.uint8), IDS) == [[0, 1, 255, 0]]
    assert labels_of(tmp_path, np.array([[10, 30, -1]], np.int16), IDS) == [[0, 1, 255]]
    assert labels_of(
        tmp_path, np.array([[1000, 40]], np.uint16),
        [(40, "a", None), (1000, "b", None)]) == [[1, 0]]
    assert labels_of(
        tmp_path, np.array([[0.5, np.nan, 255]], np.float32),
        [(0.5, "half", None)]) == [[0, 255, 255]]
    assert labels_of(
        tmp_path, np.array([[255, 0]], np.uint8), [(0, "a", None), (255, "b", None)]) == [[1, 0]]
    mask = save(np.array([[10, 7]], np.uint8), tmp_path / "nodata.tif", nodata=7)
    assert labels_of(tmp_path, mask, IDS) == [[0, 255]]


def test_read_labels__an_unknown_id_is_counted_in_the_whole_file(tmp_path):
    mask = np.full((600, 3), 10, np.uint8)
    mask[0, 0] = mask[599, 2] = 77
    with pytest.raises(ValueError, match=r"mask.png: value 77 \(2 px\) is no class"):
        labels_of(tmp_path, mask, IDS)


def test_read_labels__colours_are_exact_without_tolerance(tmp_path):
    mask = np.array([[(0, 0, 255), (0, 120, 0), (0, 0, 0)]], np.uint8)
    assert labels_of(tmp_path, mask, COLOURS) == [[0, 1, 255]]
    mask[0, 0] = 6, 0, 250
    with pytest.raises(
        ValueError, match=r"mask.png: colour 6,0,250 \(1 px\) is no class.*--tolerance"):
        labels_of(tmp_path, mask, COLOURS)
    with pytest.raises(ValueError, match="colour 6,0,250"):
        labels_of(tmp_path, mask, COLOURS, tolerance=5)
    assert labels_of(tmp_path, mask, COLOURS, tolerance=6) == [[0, 1, 255]]


def test_read_labels__a_palette_is_colours_unless_all_classes_have_ids(tmp_path):
    mask = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    mask.putpalette([0, 120, 0, 0, 0, 255, 0, 0, 0])
    mask.save(tmp_path / "palette.png")
    assert labels_of(tmp_path, tmp_path / "palette.png", COLOURS) == [[1, 0, 255]]
    ids = [(1, "a", None), (2, "b", None), (0, "c", None)]
    assert labels_of(tmp_path, tmp_path / "palette.png", ids) == [[2, 0, 1]]
    shown = [
        (1, "a", 0x007800), (2, "b", 0x0000FF),
        (0, "c", 0x123456)]  # the palette has other colours, or exchanges them
    assert labels_of(tmp_path, tmp_path / "palette.png", shown) == [[2, 0, 1]]


def test_read_labels__refuses_masks_that_do_not_fit_their_classes(tmp_path):
    with pytest.raises(ValueError, match="mask.png is in colours, but the classes have none"):
        labels_of(tmp_path, np.array([[(1, 2, 3)]], np.uint8), IDS[:2])
    with pytest.raises(ValueError, match="mask.png.*one band per class.*r,g,b"):
        labels_of(tmp_path, np.array([[(1, 2, 3)]], np.uint8), IDS)
    bands = np.array([[(0, 255, 0), (0, 0, 255)]], np.uint8)
    assert labels_of(tmp_path, bands, IDS) == [[1, 255]]  # the third row is "ignore"
    assert labels_of(tmp_path, np.array([[(30, 30, 30)]], np.uint8), IDS) == [
        [1]]  # ids written as grey RGB
    with pytest.raises(ValueError, match="mask.png holds ids, but the classes have only colours"):
        labels_of(tmp_path, np.array([[1]], np.uint8), COLOURS)


def test_mask_labels__refuses_colours_of_more_than_8_bits(tmp_path):
    """256 in green would else be the 1 of red."""
    rows = [(None, "water", 0x010000), (None, "wood", 0x007800)]
    path = save(np.full((4, 4, 3), (0, 256, 0), np.uint16), tmp_path / "mask.tif")
    with pytest.raises(ValueError, match="mask.tif is in colours of uint16"):
        MaskLabels(
            ScaledRaster(path, RawDataset([], []), smooth=False),
            RawDataset(land_classes(rows), []))


def test_read_labels__a_threshold_makes_two_values(tmp_path):
    rows = [(0, "other", None), (255, "road", None)]
    assert labels_of(tmp_path, np.array([[0, 127, 128, 237]], np.uint8), rows, threshold=127) == [
        [0, 0, 1, 1]]
    with pytest.raises(
        ValueError,
        match="mask.png: --threshold makes its values 0 and 255: give the classes these ids"):
        labels_of(
            tmp_path, np.array([[0, 127, 128, 237]], np.uint8),
            [(0, "other", None), (1, "road", None)], threshold=127)


def test_check_mask__refuses_a_turned_photograph_of_another_size(tmp_path):
    image = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
    turned = Image.Exif()
    turned[274] = 6
    image.save(tmp_path / "photo.jpg", exif=turned)
    with pytest.raises(ValueError, match="photo.jpg is 3 x 2 px .turned, as its EXIF.* 2 x 3"):
        labels_of(tmp_path, np.full((2, 3), 10, np.uint8), IDS, image=tmp_path / "photo.jpg")
    assert (
        labels_of(tmp_path, np.full((3, 2), 10, np.uint8), IDS, image=tmp_path / "photo.jpg")
        == [[0, 0]] * 3)


@pytest.mark.parametrize(
    "shape, image_turned, mask_turned, refused",
    [
        ((2, 2), 6, 0, True), ((2, 3), 3, 0, True), ((2, 3), 2, 3, True), ((2, 3), 0, 4, True),
        ((2, 3), 3, 3, False), ((3, 2), 6, 0, False), ((2, 2), 8, 8, False), ((2, 2), 1, 0, False)],
)
def test_check_mask__refuses_different_orientations_of_equal_sizes(
    tmp_path, shape, image_turned, mask_turned, refused):
    stored = (2, 3) if shape == (3, 2) else shape  # the image's size before it is turned
    for name, orientation, size in (("image", image_turned, stored), ("mask", mask_turned, shape)):
        exif = Image.Exif()
        if orientation:
            exif[274] = orientation
        Image.fromarray(np.full(size, 10, np.uint8)).save(tmp_path / f"{name}.png", exif=exif)
    paths = tmp_path / "mask.png", IDS, tmp_path / "image.png"
    if refused:
        with pytest.raises(
            ValueError,
            match="image.png and its mask .*mask.png are turned by different EXIF orientations"):
            labels_of(tmp_path, *paths)
    else:
        assert np.array(labels_of(tmp_path, *paths)).shape == shape


def grid(gsd, x=500000.0, y=4600000.0, code=32631):
    """A Georeference of square pixels from a top left corner."""
    return Georeference(
        {
            33550: (gsd, gsd, 0.0), 33922: (0.0, 0.0, 0.0, x, y, 0.0),
            34735: (1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, code, 3076, 0, 1, 9001)}
    )


@pytest.mark.parametrize(
    "shape, gsd, x, code, message",
    [
        ((400, 300), 1, 500000, 32631, None),
        ((400, 300), 1, 500004, 32631, None),
        ((396, 300), 1, 500000, 32631, None),
        ((400, 300), 1, 500000, 32767, None),
        ((400, 300), 1, 500006, 32631, "x 500006 to 500306"),
        ((400, 300), 1, 500000, 32630, r"EPSG 32630\), but .*EPSG 32631"),
        ((400, 310), 1, 500000, 32631, "400 x 310 px, x 500000 to 500310, y 4599600 to 4600000"),
        (
            (400, 300), 1.1, 500000, 32631,
            "but .* 40 x 30 px, x 500000 to 500300, y 4599600 to 4600000"),
        ((390, 300), 1, 500000, 32631, "390 x 300 px"),
    ],
)
def test_check_footprint__names_both_extents(tmp_path, shape, gsd, x, code, message):
    save(np.zeros((40, 30), np.uint8), tmp_path / "image.tif", georeference=grid(10))
    save(np.zeros(shape, np.uint8), tmp_path / "mask.tif", georeference=grid(gsd, x, code=code))
    with open_raster(tmp_path / "image.tif") as image, open_raster(tmp_path / "mask.tif") as mask:
        if message is None:
            return check_footprint(mask, image, 10)
        with pytest.raises(ValueError, match=message) as caught:
            check_footprint(mask, image, 10)
        assert "\n" not in str(caught.value)


def test_check_footprint__names_a_raster_that_is_not_north_up(tmp_path):
    upside_down = from_affine((10, 0, 500000, 0, 10, 4599600), 32631)
    save(np.zeros((40, 30), np.uint8), tmp_path / "image.tif", georeference=grid(10))
    save(np.zeros((40, 30), np.uint8), tmp_path / "mask.tif", georeference=upside_down)
    with open_raster(tmp_path / "image.tif") as image, open_raster(tmp_path / "mask.tif") as mask:
        with pytest.raises(ValueError, match="mask.tif.*EPSG 32631, not north up.*image.tif"):
            check_footprint(mask, image, 1)


def test_check_mask__both_on_the_map_must_lie_at_one_position(tmp_path):
    image = save(np.zeros((3, 4), np.uint8), tmp_path / "image.tif", georeference=Georeference(UTM))
    mask = np.full((3, 4), 10, np.uint8)
    for moved, fits in ((0.9, True), (1.1, False)):  # m, of pixels of 2 m
        place = Georeference({**UTM, 33922: (0.0, 0.0, 0.0, 1000.0 + moved, 5000.0, 0.0)})
        path = save(mask, tmp_path / "mask.tif", georeference=place)
        if fits:
            assert labels_of(tmp_path, path, IDS, image) == [[0] * 4] * 3
            continue
        with pytest.raises(
            ValueError,
            match="mask.tif covers 3 x 4 px, x 1001.1 to 1009.1.*image.tif.*x 1000 to 1008"):
            labels_of(tmp_path, path, IDS, image)
    # Nowhere on the map.
    assert (
        labels_of(tmp_path, save(mask, tmp_path / "mask.tif"), IDS, image) == [[0] * 4] * 3)


def test_read_labels__pixels_without_data_have_no_label(tmp_path):
    mask = np.full((1, 3), 10, np.uint8)
    image = save(np.array([[(1, 2), (0, 0), (0, 2)]], np.int16), tmp_path / "nodata.tif", nodata=0)
    assert labels_of(tmp_path, mask, IDS, image) == [[0, 255, 0]]  # all bands must be nodata
    nan = np.nan
    image = save(np.array([[(1, 2), (nan, 2), (nan, np.inf)]], np.float32), tmp_path / "nan.tif")
    assert labels_of(tmp_path, mask, IDS, image) == [[0, 0, 255]]
    image = save(
        np.array([[(1, 2, 3, 0), (1, 2, 3, 255), (0, 0, 0, 9)]], np.uint8), tmp_path / "alpha.png")
    assert labels_of(tmp_path, mask, IDS, image) == [[255, 0, 0]]
    palette = Image.fromarray(np.zeros((1, 3), np.uint8), "P")
    palette.putpalette([0, 0, 0])
    palette.save(tmp_path / "palette.png")
    with pytest.raises(ValueError, match="palette.png has a palette"):
        labels_of(tmp_path, mask, IDS, tmp_path / "palette.png")
    image = save(np.zeros((1, 3), np.float64), tmp_path / "double.tif")
    with pytest.raises(ValueError, match="double.tif holds float64: convert it"):
        labels_of(tmp_path, mask, IDS, image)


def resized(folder, pixels, height, width, smooth, nodata=None):
    """One band brought to another size, as nested lists."""
    with open_raster(save(pixels, folder / "band.tif", nodata)) as raster:
        band = resize(raster, height, width, smooth)
        assert band.dtype == pixels.dtype
    return band[:, :, 0].tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_resize__images_are_averaged_and_masks_are_not(tmp_path, dtype):
    pixels = np.array([[0, 4, 100, 100], [8, 8, 100, 104]], dtype)
    assert resized(tmp_path, pixels, 1, 2, smooth=True) == [[5, 101]]
    assert resized(tmp_path, pixels, 1, 2, smooth=False) == [[8, 104]]  # the pixel at each centre
    assert (
        resized(tmp_path, pixels[:, :2], 4, 4, smooth=False)
        == [[0, 0, 4, 4]] * 2 + [[8, 8, 8, 8]] * 2)


@pytest.mark.parametrize(
    "height, width, apart", [(32, 24, 0), (64, 48, 0), (128, 96, 0), (23, 37, 1), (90, 101, 1)])
@pytest.mark.parametrize("smooth", [True, False])
def test_resize__windows_are_those_of_the_whole(tmp_path, height, width, apart, smooth):
    pixels = np.random.default_rng(0).integers(0, 250, (64, 48)).astype(np.uint8)
    with open_raster(save(pixels, tmp_path / "band.tif")) as raster:
        whole = resize(raster, height, width, smooth).astype(int)
        for row, col, h, w in [
            (0, 0, 9, 9), (5, 7, 3, 11), (height - 4, width - 5, 4, 5), (0, width - 1, height, 1)]:
            part = resize(raster, height, width, smooth, (row, col, h, w)).astype(int)
            assert part.shape == (h, w, 1)
            assert np.abs(part - whole[row : row + h, col : col + w]).max() <= (
                apart if smooth else 0)


def test_resize__missing_pixels_do_not_spread(tmp_path):
    assert resized(
        tmp_path, np.array([[7, 7, 0, 0], [7, 0, 0, 7]], np.uint8), 1, 2, True,
        nodata=0) == [[0, 7]]
    pixels = np.array([[3, 5], [np.nan, 7]], np.float32)
    assert resized(tmp_path, pixels, 1, 1, smooth=True) == [
        [5]]  # the mean of the three that are known


@pytest.mark.parametrize("by_pixel, mean", [(False, [6, 6]), (True, [6, 3])])
def test_resize__averages_bands_by_themselves_or_pixels_as_a_whole(tmp_path, by_pixel, mean):
    pixels = np.array([[(4, 0), (8, 6), (0, 0)]], np.uint8)
    with open_raster(save(pixels, tmp_path / "a.tif", nodata=0)) as raster:
        raster.by_pixel = by_pixel
        assert resize(raster, 1, 1, smooth=True).tolist() == [[mean]]


def test_scene_reader__scaled_scenes_are_read_in_windows_of_their_new_size(tmp_path):
    image = save(np.arange(24, dtype=np.uint8).reshape(4, 6), tmp_path / "image.png")
    mask = save(np.repeat([[10, 10, 10, 30, 30, 30]], 4, 0).astype(np.uint8), tmp_path / "mask.png")
    source = RawDataset(land_classes(IDS), [Scene("s", image, mask, "s")], scale=0.5)
    with SceneReader(source.scenes[0], source) as reader:
        pixels, valid = reader.read_image(Region("train", 0, 1, 1, 1, 2))
        assert pixels[:, :, 0].tolist() == [[18, 20]] and valid.all()  # of 17.5 and 19.5
        assert reader.read_labels(Region("train", 0, 0, 0, 2, 3)).tolist() == [[0, 1, 1]] * 2
    assert [scaled(length, 0.3) for length in (0, 1, 2, 10)] == [0, 1, 1, 3]


def write_csv(folder, text, name="classes.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_check_scenes__finds_what_scenes_have_in_common(tmp_path, monkeypatch):
    mask = save(np.full((2, 2), 10, np.uint8), tmp_path / "mask.png")
    coarse = {**UTM, 33550: (3.0, 3.0, 0.0)}
    images = [
        save(
            np.zeros((2, 2), np.uint8), tmp_path / f"{name}.tif", nodata,
            reference and Georeference(reference))
        for name, nodata, reference in (("a", 7, UTM), ("b", None, coarse), ("c", 7, None))
    ]

    def meta(*numbers, **more):
        source = RawDataset(
            land_classes(IDS), [Scene(str(n), images[n], mask, str(n)) for n in numbers], scale=0.5)
        return check_scenes(source, **more)[2:]

    bars = []
    monkeypatch.setattr(
        scenes, "tqdm", lambda items, *_, **how: bars.append((len(items), how["disable"])) or items)
    assert meta(0)[0]["gsd_m"] == 4 and meta(0)[1] == [(7, False)]  # 2 m, at half the scale
    assert meta(0, 1)[0]["gsd_m"] is None and meta(0, 1)[1] == [(7, False), (None, False)]
    assert meta(0, 2)[0]["gsd_m"] is None and meta(0, 2)[1] == [(7, False)]
    assert meta(0, 2, gsd=5)[0]["gsd_m"] == 10
    assert bars[0] == (1, None) and bars[-1] == (2, None)


def test_open_scene__a_list_of_files_is_a_scene_of_all_their_bands(tmp_path):
    first = np.arange(12, dtype=np.int16).reshape(3, 4)
    save(first, tmp_path / "B02.tif", nodata=0, georeference=Georeference(UTM))
    (tmp_path / "more").mkdir()
    save(
        np.stack([first + 100, first + 200], -1), tmp_path / "more/rest.tif", nodata=0,
        georeference=Georeference(UTM))
    listed = tmp_path / "place.txt"
    listed.write_text("B02.tif\n\nmore/rest.tif\nB02.tif\n")
    with open_scene(listed) as scene:
        assert (scene.height, scene.width, scene.bands, scene.dtype, scene.nodata) == (
            3, 4, 4, np.int16, 0)
        assert scene.path.stem == "place" and scene.georeference.affine == Georeference(UTM).affine
        assert scene.read(1, 3, 1, 2).tolist() == [[[7, 107, 207, 7], [0] * 4]]
        pixels, missing = scene.read_masked(0, 0, 1, 2)
        assert pixels.tolist() == [[[0, 100, 200, 0], [1, 101, 201, 1]]]
        assert missing.tolist() == [[[True, False, False, True], [False] * 4]]  # B02 is 0 there
        assert resize(scene, 1, 2, smooth=False)[:, :, 2].tolist() == [[205, 207]]
    mask = save(np.full((3, 4), 10, np.uint8), tmp_path / "mask.tif")
    source = RawDataset(land_classes(IDS), [Scene("s", listed, mask, "s")])
    with SceneReader(source.scenes[0], source) as reader:
        assert reader.read_image(Region("train", 0, 0, 1, 1, 1))[0].tolist() == [[[1, 101, 201, 1]]]
    save(first[:2], tmp_path / "B02.tif")
    with pytest.raises(
        ValueError, match="place.txt: rest.tif has another size, dtype or place than B02.tif"):
        open_scene(listed)
    save(first, tmp_path / "B02.tif")  # lies nowhere: the others say where
    assert open_scene(listed).georeference.affine == Georeference(UTM).affine
    save(first, tmp_path / "B02.tif", georeference=grid(1, *UTM[33922][3:5], code=32699))
    save(
        np.stack([first, first], -1), tmp_path / "more/rest.tif",
        georeference=grid(1, *UTM[33922][3:5]))
    with pytest.raises(ValueError, match="place.txt: rest.tif has another size, dtype or place"):
        open_scene(listed)
    save(np.stack([first, first], -1), tmp_path / "more/rest.tif", georeference=Georeference(UTM))
    save(first, tmp_path / "B02.tif", georeference=Georeference({**UTM, 33550: (3.0, 3.0, 0.0)}))
    with pytest.raises(ValueError, match="place.txt: rest.tif has another size, dtype or place"):
        open_scene(listed)
    listed.write_text("more/rest.tif\n", encoding="utf-8-sig")
    assert open_scene(listed).bands == 2  # the byte order mark is no part of the name
    listed.write_text("gone.tif\n")
    with pytest.raises(FileNotFoundError, match="gone.tif: no such file"):
        open_scene(listed)
    with pytest.raises(IsADirectoryError, match="more is a folder"):
        open_scene(tmp_path / "more")
    listed.write_text("\n")
    with pytest.raises(ValueError, match="place.txt lists no image"):
        open_scene(listed)


@pytest.mark.parametrize("second, nodata, missing", [  # of the second file
    ([[(7, 255), (0, 255), (5, 0)]], None, [0, 0, 1]),  # grey and alpha
    ([[7, 0, 5]], 7, [1, 0, 0]), ([[0, 0, 5]], 0, [1, 1, 0])])
def test_open_scene__values_are_missing_by_the_rules_of_their_own_file(tmp_path, second, nodata,
                                                                       missing):
    save(np.array([[(1, 2), (9, 9), (0, 9)]], np.uint8), tmp_path / "a.tif", nodata=9)
    file = "b.png" if nodata is None else "b.tif"
    save(np.array(second, np.uint8), tmp_path / file, nodata=nodata)
    listed = write_csv(tmp_path, f"a.tif\n{file}\n", "place.txt")
    mask = save(np.full((1, 3), 10, np.uint8), tmp_path / "mask.tif")
    source = RawDataset(land_classes(IDS), [Scene("s", listed, mask, "s")])
    whole = Region("train", 0, 0, 0, 1, 3)
    with SceneReader(source.scenes[0], source) as reader:
        pixels, known = reader.read_image(whole)
        labels = reader.read_labels(whole)
    assert pixels[0, :, 2].tolist() == np.reshape(second, (3, -1))[:, 0].tolist()
    assert (~known[0]).T.astype(int).tolist() == [[0, 1, 0], [0, 1, 1], missing]
    assert labels.tolist() == [[0, 255 if missing[1] else 0, 0]]


def test_open_scene__larger_pixels_are_brought_to_the_finest_grid(tmp_path):
    fine = np.arange(16, dtype=np.uint16).reshape(4, 4)
    coarse = np.array([[10, 10], [30, 0]], np.uint16)
    save(coarse, tmp_path / "B11.tif", georeference=grid(20, 1000, 5000))
    save(fine, tmp_path / "B02.tif", georeference=grid(10, 1000, 5000))
    with open_scene(write_csv(tmp_path, "B11.tif\nB02.tif\n", "place.txt")) as scene:
        assert (scene.height, scene.bands, scene.gsd_m) == (4, 2, 10)
        name_nodata(scene, (0, 99))
        pixels, missing = scene.read_masked(0, 0, 4, 4)
    assert np.array_equal(pixels[:, :, 1], fine) and not missing[:, :, 1].any()
    assert pixels[:, 0, 0].tolist() == [10, 15, 25, 30]  # bilinear
    assert pixels[1:, 2, 0].tolist() == [12, 0, 0]  # what is missing has no weight
    assert np.array_equal(np.argwhere(missing[:, :, 0]), [[2, 2], [2, 3], [3, 2], [3, 3]])
    save(coarse, tmp_path / "B11.tif", nodata=0, georeference=grid(20, 1010, 5000))
    with pytest.raises(ValueError, match="place.txt: B02.tif has another size, dtype or place"):
        open_scene(tmp_path / "place.txt")


def test_open_scene__refuses_a_palette_in_any_file(tmp_path):
    save(np.zeros((1, 2), np.uint8), tmp_path / "a.tif")
    palette = np.zeros((256, 3), np.uint8)
    write_geotiff(tmp_path / "b.tif", [np.zeros((1, 2), np.uint8)], 1, 2, 1, np.uint8, palette)
    with pytest.raises(
        ValueError, match="place.txt: b.tif has a palette, so its values are no intensities"):
        open_scene(write_csv(tmp_path, "a.tif\nb.tif\n", "place.txt"))
