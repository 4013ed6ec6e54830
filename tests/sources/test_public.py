"""The public sets pair their files and read their masks as documented; of the demo no pixel tells all."""

import numpy as np
import pytest
from PIL import Image

from geo.raster import open_raster
from sources import public as datasets
from sources.demo import cast_shadow, demo, generate_map, render, smooth_noise
from sources.labels import land_classes
from sources.public import RawDataset, Scene, find_files, listed_tiles, pair_scenes
from sources.scenes import Region, SceneReader


def touch(*paths):
    """Make small files that are images to whoever does not open them."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def labels_of(source, number=0):
    """The whole label map of a scene of a source."""
    with SceneReader(source.scenes[number], source) as reader:
        return reader.read_labels(Region("train", number, 0, 0, reader.image.height, reader.image.width))


def test_files_are_named_by_stem_or_by_what_the_star_stands_for(tmp_path):
    touch(tmp_path / "a.tif", tmp_path / "b.JPG", tmp_path / "notes.txt", tmp_path / ".hidden.png")
    assert find_files(tmp_path) == {"a": tmp_path / "a.tif", "b": tmp_path / "b.JPG"}
    touch(tmp_path / "x/S2_11_rgb.tif", tmp_path / "x/S2_12_rgb.tif", tmp_path / "x/S2_11_mask.tif")
    assert list(find_files(tmp_path / "x/S2_*_rgb.tif")) == ["11", "12"]
    assert find_files(tmp_path / "a.tif") == {"a": tmp_path / "a.tif"}
    touch(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png and .*a.tif would both be scene 'a'"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match=r"\*_s2_\*.tif: give one star, which stands for the scene's name"):
        find_files(tmp_path / "*_s2_*.tif")
    for nothing in (tmp_path / "nowhere", tmp_path / "*.webp"):
        with pytest.raises(FileNotFoundError, match="no TIFF, PNG or JPEG"):
            find_files(nothing)


def test_images_and_masks_pair_by_name(tmp_path):
    touch(*(tmp_path / name for name in ("i/a.jpg", "i/b.jpg", "m/a.png", "m/b.png")))
    assert pair_scenes(tmp_path / "i", tmp_path / "m") == [
        Scene(name, tmp_path / f"i/{name}.jpg", tmp_path / f"m/{name}.png", name) for name in "ab"]
    assert pair_scenes(tmp_path / "i", None)[1] == Scene("b", tmp_path / "i/b.jpg", None, "b")
    assert pair_scenes(tmp_path / "i/a.jpg", tmp_path / "m/b.png")[0].mask.name == "b.png"  # one of each
    touch(tmp_path / "m/c.png")
    with pytest.raises(ValueError, match="c.png has no partner 'c' in .*i: "):
        pair_scenes(tmp_path / "i", tmp_path / "m")


def test_dubai_keeps_scenes_of_one_ground_together(tmp_path):
    for tile in range(1, 9):
        touch(tmp_path / f"Tile {tile}/images/part_1.jpg", tmp_path / f"Tile {tile}/masks/part_1.png")
    source = datasets.dubai(tmp_path)
    assert [scene.name for scene in source.scenes] == [f"{tile}_part_1" for tile in range(1, 9)]
    assert [scene.place for scene in source.scenes] == ["1+3", "2", "1+3", "4+7+8", "5", "6", "4+7+8", "4+7+8"]
    assert [scene.split for scene in source.scenes] == ["test", "val", "test"] + 5 * ["train"]
    with pytest.raises(FileNotFoundError, match="Tile 1"):
        datasets.dubai(tmp_path / "Tile 1")


def test_dubai_reads_palette_masks_through_their_colours(tmp_path):
    colours = [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41), (155, 155, 155),
               (0, 0, 0)]
    mask = Image.fromarray(np.array([[6, 5, 4, 3, 2, 1, 0]], np.uint8), "P")
    mask.putpalette([part for colour in colours for part in colour])
    save(np.zeros((1, 7, 3)), tmp_path / "Tile 2/images/a.jpg")
    (tmp_path / "Tile 2/masks").mkdir()
    mask.save(tmp_path / "Tile 2/masks/a.png")
    assert labels_of(datasets.dubai(tmp_path)).tolist() == [[255, 255, 4, 3, 2, 1, 0]]


def test_deepglobe_cuts_blurred_colours_at_128(tmp_path):
    save(np.zeros((1, 4, 3)), tmp_path / "train/12_sat.jpg")
    save([[(127, 128, 255), (250, 200, 3), (0, 5, 100), (255, 255, 255)]], tmp_path / "train/12_mask.png")
    source = datasets.deepglobe(tmp_path)
    assert labels_of(source).tolist() == [[0, 1, 255, 5]]  # urban, agriculture, unknown, barren
    assert len(source.classes) == 6 and source.scenes[0].name == "12"


def test_landcoverai_reads_ids_also_from_grey_written_as_rgb(tmp_path):
    save(np.zeros((1, 5, 3)), tmp_path / "images/N-1.png")
    save([[(number,) * 3 for number in range(5)]], tmp_path / "masks/N-1.png")
    assert labels_of(datasets.landcoverai(tmp_path)).tolist() == [[0, 1, 2, 3, 4]]
    assert datasets.landcoverai(tmp_path).tile_lists == []
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("N-1_0\n")
    assert [path.name for path in datasets.landcoverai(tmp_path).tile_lists] == ["train.txt", "test.txt"]


@pytest.mark.parametrize("masks, mask", [
    ("label_images_semantic", [[0, 1, 22, 23]]),
    ("RGB_color_image_masks", [[(0, 0, 0), (128, 64, 128), (2, 135, 115), (255, 0, 0)]])])
def test_drone_takes_masks_of_ids_or_of_colours(tmp_path, masks, mask):
    save(np.zeros((1, 4, 3)), tmp_path / "set/original_images/000.jpg")
    save(mask, tmp_path / f"set/{masks}/000.png")
    source = datasets.drone(tmp_path)
    assert labels_of(source).tolist() == [[255, 0, 21, 255]] and len(source.classes) == 22
    with pytest.raises(FileNotFoundError, match="original_images"):
        datasets.drone(tmp_path / "set/original_images")


def test_listed_tiles_are_regions_of_512_px_row_by_row(tmp_path):
    source = RawDataset("x", land_classes([(0, "a", None)]), [Scene("s_1", None, None, "s_1")])
    (tmp_path / "test.txt").write_text("s_1_0\ns_1_5\n")
    assert listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"]) == [
        Region("test", 0, 0, 0, 512, 512), Region("test", 0, 512, 1024, 488, 76)]
    source.scale = 0.25
    assert listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"])[1] == Region("test", 0, 128, 256, 122, 19)
    for line in ("s_1_6", "s_2_0", "s_1_x", "s"):
        (tmp_path / "test.txt").write_text(line)
        with pytest.raises(ValueError, match=f"'{line}'"):
            listed_tiles(source, [(1000, 1100)], [tmp_path / "test.txt"])


@pytest.mark.parametrize("train, val, refused", [
    ("a_spring_0\na_spring_2\n", "a_spring_1\na_spring_2\n", r"val.txt: 'a_spring_2' is in .*train.txt already"),
    ("a_spring_0\na_spring_00\n", "", r"train.txt: 'a_spring_00' is in .*train.txt already"),
    ("a_spring_0\n", "a_autumn_0\n", r"val.txt: 'a_autumn_0' is in .*train.txt already, or the same ground is"),
    ("a_spring_0\na_autumn_0\n", "b_0\n", None)])
def test_listed_tiles_are_on_one_side_and_there_once(tmp_path, train, val, refused):
    scenes = [Scene(name, None, None, name[0]) for name in ("a_spring", "a_autumn", "b")]
    source = RawDataset("x", land_classes([(0, "a", None)]), scenes, aligned=True)
    for name, text in (("train", train), ("val", val)):
        (tmp_path / f"{name}.txt").write_text(text)
    lists = [tmp_path / "train.txt", tmp_path / "val.txt"]
    if refused is None:
        assert len(listed_tiles(source, [(1000, 1100)] * 3, lists)) == 3
        return
    with pytest.raises(ValueError, match=refused):
        listed_tiles(source, [(1000, 1100)] * 3, lists)
    if "a_autumn" in val:  # scenes that do not show the same ground
        source.aligned = False
        assert len(listed_tiles(source, [(1000, 1100)] * 3, lists)) == 2


def test_tile_lists_may_start_with_a_byte_order_mark_but_must_be_text(tmp_path):
    source = RawDataset("x", land_classes([(0, "a", None)]), [Scene("s", None, None, "s")])
    (tmp_path / "val.txt").write_text("s_0\n", encoding="utf-8-sig")
    assert len(listed_tiles(source, [(9, 9)], [tmp_path / "val.txt"])) == 1
    (tmp_path / "val.txt").write_bytes("s_0\n".encode("utf-16"))
    with pytest.raises(ValueError, match="val.txt is no text in UTF-8: save it as such"):
        listed_tiles(source, [(9, 9)], [tmp_path / "val.txt"])


def test_the_demo_is_deterministic_and_shows_every_class():
    land = generate_map(np.random.default_rng(5))
    assert (generate_map(np.random.default_rng(5))["labels"] == land["labels"]).all()
    summer, again, autumn = (render(np.random.default_rng(1), land, season) for season in (0, 0, 1))
    assert (summer == again).all() and (summer != autumn).mean() > 0.3
    assert summer.shape == (384, 512, 4) and summer.dtype == np.uint8
    counts = np.bincount(land["labels"].ravel())
    assert len(counts) == 5 and counts[0] > counts.sum() / 4 and counts.min() > 500
    assert ((summer == 0) | (summer == 255)).mean() < 0.1  # neither too dark nor too bright


def test_shadows_fall_away_from_the_sun():
    tall = np.zeros((9, 9))
    tall[4, 4] = 3
    assert np.argwhere(cast_shadow(tall, 0, 1)).tolist() == [[4, 2], [4, 3]]  # the sun stands at larger columns
    assert np.argwhere(cast_shadow(tall, np.pi / 2, 1)).tolist() == [[2, 4], [3, 4]]


def test_smooth_noise_is_as_smooth_as_asked():
    for scale in (2, 20):
        noise = smooth_noise(np.random.default_rng(0), scale)
        slope = np.diff(noise, axis=1).std()
        assert abs(noise.mean()) < 1e-9 and abs(noise.std() - 1) < 1e-9
        assert 0.8 < slope * scale * 2 ** 0.5 < 1.2  # of white noise through a Gaussian: deviation / (scale * sqrt 2)


def test_demo_scenes_lie_on_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.demo.PLACES", 1)
    source = demo(tmp_path, 0)
    assert [scene.name for scene in source.scenes] == ["place_01_summer", "place_01_autumn"]
    assert source.scenes[0].place == source.scenes[1].place
    with open_raster(source.scenes[0].image) as image, open_raster(source.scenes[0].mask) as mask:
        assert image.georeference.gsd_m == mask.georeference.gsd_m == 0.5
        assert image.georeference.to_map(0, 0) == mask.georeference.to_map(0, 0) == (5e5, 4.6e6)
        assert tuple(mask.palette[2]) == (60, 110, 200)
    first, second = (labels_of(source, number) for number in (0, 1))
    assert (first == second).all()


@pytest.mark.slow
def test_no_linear_classifier_of_pixels_maps_the_demo(tmp_path):
    source = demo(tmp_path, 0)
    pixels, labels = {"train": [], "test": []}, {"train": [], "test": []}
    for number, scene in enumerate(source.scenes):
        if scene.split in pixels:
            with open_raster(scene.image) as image:
                pixels[scene.split].append(image.read(0, 0, 384, 512).reshape(-1, 4)[::7] / 255)
            labels[scene.split].append(labels_of(source, number).ravel()[::7])
    known, shown = (np.c_[np.concatenate(pixels[split]), np.ones(len(np.concatenate(pixels[split])))]
                    for split in ("train", "test"))
    weights = np.linalg.lstsq(known, np.eye(5)[np.concatenate(labels["train"])], rcond=None)[0]
    found, truth = (shown @ weights).argmax(1), np.concatenate(labels["test"])
    counts = np.bincount(truth * 5 + found, minlength=25).reshape(5, 5)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    assert iou.mean() < 0.45
