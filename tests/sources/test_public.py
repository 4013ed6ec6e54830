"""The public sets pair their files and read their masks as documented."""

import numpy as np
import pytest
from PIL import Image

from sources import public as datasets
from sources.raw import Region, Scene, find_files, pair_scenes
from sources.scenes import SceneReader


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
        return reader.read_labels(
            Region("train", number, 0, 0, reader.image.height, reader.image.width))


def test_find_files__scenes_are_named_by_stem_or_star(tmp_path):
    touch(tmp_path / "a.tif", tmp_path / "b.JPG", tmp_path / "notes.txt", tmp_path / ".hidden.png")
    assert find_files(tmp_path) == {"a": tmp_path / "a.tif", "b": tmp_path / "b.JPG"}
    touch(tmp_path / "x/S2_11_rgb.tif", tmp_path / "x/S2_12_rgb.tif", tmp_path / "x/S2_11_mask.tif")
    assert list(find_files(tmp_path / "x/S2_*_rgb.tif")) == ["11", "12"]
    assert find_files(tmp_path / "a.tif") == {"a": tmp_path / "a.tif"}
    touch(tmp_path / "a.png")
    with pytest.raises(ValueError, match="a.png and .*a.tif would both be scene 'a'"):
        find_files(tmp_path)
    for nothing in (tmp_path / "nowhere", tmp_path / "*.webp"):
        with pytest.raises(FileNotFoundError, match="no TIFF, PNG or JPEG"):
            find_files(nothing)


def test_pair_scenes__by_name(tmp_path):
    touch(*(tmp_path / name for name in ("i/a.jpg", "i/b.jpg", "m/a.png", "m/b.png")))
    assert pair_scenes(tmp_path / "i", tmp_path / "m") == [
        Scene(name, tmp_path / f"i/{name}.jpg", tmp_path / f"m/{name}.png", name) for name in "ab"]
    assert pair_scenes(tmp_path / "i", None)[1] == Scene("b", tmp_path / "i/b.jpg", None, "b")
    # One of each.
    assert (
        pair_scenes(tmp_path / "i/a.jpg", tmp_path / "m/b.png")[0].mask.name == "b.png")
    touch(tmp_path / "m/c.png")
    with pytest.raises(ValueError, match="c.png has no partner 'c' in .*i: "):
        pair_scenes(tmp_path / "i", tmp_path / "m")


def test_dubai__scenes_of_one_site_stay_together(tmp_path):
    for tile in range(1, 9):
        touch(
            tmp_path / f"Tile {tile}/images/part_1.jpg", tmp_path / f"Tile {tile}/masks/part_1.png")
    source = datasets.dubai(tmp_path)
    assert [scene.name for scene in source.scenes] == [f"{tile}_part_1" for tile in range(1, 9)]
    assert [scene.site for scene in source.scenes] == [
        "1+3", "2", "1+3", "4+7+8", "5", "6", "4+7+8", "4+7+8"]
    assert [scene.split for scene in source.scenes] == ["test", "val", "test"] + 5 * ["train"]
    with pytest.raises(FileNotFoundError, match="Tile 1"):
        datasets.dubai(tmp_path / "Tile 1")


def test_dubai__reads_palette_masks_through_their_colours(tmp_path):
    colours = [
        (60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41),
        (155, 155, 155), (0, 0, 0)]
    mask = Image.fromarray(np.array([[6, 5, 4, 3, 2, 1, 0]], np.uint8), "P")
    mask.putpalette([part for colour in colours for part in colour])
    save(np.zeros((1, 7, 3)), tmp_path / "Tile 2/images/a.jpg")
    (tmp_path / "Tile 2/masks").mkdir()
    mask.save(tmp_path / "Tile 2/masks/a.png")
    assert labels_of(datasets.dubai(tmp_path)).tolist() == [[255, 255, 4, 3, 2, 1, 0]]


def test_deepglobe__cuts_blurred_colours_at_128(tmp_path):
    save(np.zeros((1, 4, 3)), tmp_path / "train/12_sat.jpg")
    save(
        [[(127, 128, 255), (250, 200, 3), (0, 5, 100), (255, 255, 255)]],
        tmp_path / "train/12_mask.png")
    source = datasets.deepglobe(tmp_path)
    assert labels_of(source).tolist() == [[0, 1, 255, 5]]  # urban, agriculture, unknown, barren
    assert len(source.classes) == 6 and source.scenes[0].name == "12"


def test_landcoverai__reads_ids_from_grey_written_as_rgb(tmp_path):
    save(np.zeros((1, 5, 3)), tmp_path / "images/N-1.png")
    save([[(number,) * 3 for number in range(5)]], tmp_path / "masks/N-1.png")
    assert labels_of(datasets.landcoverai(tmp_path)).tolist() == [[0, 1, 2, 3, 4]]
    assert datasets.landcoverai(tmp_path).tile_lists == []
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("N-1_0\n")
    assert [path.name for path in datasets.landcoverai(tmp_path).tile_lists] == [
        "train.txt", "test.txt"]


@pytest.mark.parametrize(
    "masks, mask",
    [
        ("label_images_semantic", [[0, 1, 22, 23]]),
        ("RGB_color_image_masks", [[(0, 0, 0), (128, 64, 128), (2, 135, 115), (255, 0, 0)]])],
)
def test_drone__takes_masks_of_ids_or_of_colours(tmp_path, masks, mask):
    save(np.zeros((1, 4, 3)), tmp_path / "set/original_images/000.jpg")
    save(mask, tmp_path / f"set/{masks}/000.png")
    source = datasets.drone(tmp_path)
    assert labels_of(source).tolist() == [[255, 0, 21, 255]] and len(source.classes) == 22
    with pytest.raises(FileNotFoundError, match="original_images"):
        datasets.drone(tmp_path / "set/original_images")
