"""Images find their masks by name, whatever words the names have around what tells them apart."""

import pytest

from sources.raw import find_files, pair_scenes


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("*/*_rgb.tif", ["s1_a", "s2_b"]), ("s2/*", ["b_rgb.tif", "c.png"]),
        ("**/*.png", ["d", "s2_c"]), ("s2/*.png", ["c"]), ("s[1]/*.jpg", ["e"])],
)
def test_find_files__names_are_what_the_stars_stand_for(tmp_path, pattern, names):
    touch(tmp_path, "s1/a_rgb.tif", "s2/b_rgb.tif", "s2/c.png", "d.png", "s[1]/e.jpg")
    assert sorted(find_files(tmp_path / pattern)) == names


SAME_FOLDER = {"masks": "i"}


@pytest.mark.parametrize(
    "images, masks, paths, names",
    [
        ("1 2", "1 2", {}, "1 2"),
        ("1_sat 2_sat", "1_mask 2_mask", {}, "1 2"),
        ("1_sat 2_sat", "1_mask 2_mask", SAME_FOLDER, "1 2"),
        ("1_image 2_image", "1_label 2_label", {"masks": "i/*_label.png"}, "1 2"),
        ("1 2", "1_m 2_m", SAME_FOLDER, "1 2"),
        ("img001 img002", "mask001 mask002", {}, "001 002"),
        ("top_2_10_RGB top_2_11_RGB", "top_2_10_label_noBoundary top_2_11_label_noBoundary", {},
         "top_2_10 top_2_11"),
        ("x_0_leftImg8bit x_1_leftImg8bit", "x_0_gt_labelIds x_1_gt_labelIds", {}, "x_0 x_1"),
        ("S2A_0510_7 S2B_0512_8", "7_lc 8_lc", {}, "7 8"),
        ("7 8", "north_7 south_8", {}, "7 8"),
        ("any", "other", {}, "any")],
)
def test_pair_scenes__finds_the_mask_by_what_differs(tmp_path, images, masks, paths, names):
    mask_folder = "i" if paths else "m"
    touch(tmp_path, *(f"i/{name}.jpg" for name in images.split()))
    touch(tmp_path, *(f"{mask_folder}/{name}.png" for name in masks.split()))
    scenes = pair_scenes(tmp_path / "i", tmp_path / paths.get("masks", "m"))
    assert [scene.name for scene in scenes] == names.split()
    pairs = [(scene.image.stem, scene.mask.stem) for scene in scenes]
    assert pairs == list(zip(images.split(), masks.split()))


@pytest.mark.parametrize(
    "images, masks, mask_folder, message",
    [
        ("1_10 2_10", "1_20 2_20", "m", "no partner '1_10' .*_sat.jpg' --masks"),
        ("1_sat 2_sat 3_sat", "1_mask 2_mask", "m", r"i/\*_sat.jpg' --masks '.*m/\*_mask.png'"),
        ("1 2", "", "i", "would be its own mask: give two patterns"),
        ("7 8", "7_8 8_7", "m", "has no partner")],
)
def test_pair_scenes__a_doubtful_pair_is_refused_with_patterns(
    tmp_path, images, masks, mask_folder, message):
    touch(tmp_path, *(f"i/{name}.jpg" for name in images.split()))
    touch(tmp_path, *(f"{mask_folder}/{name}.png" for name in masks.split()))
    with pytest.raises(ValueError, match=message):
        pair_scenes(tmp_path / "i", tmp_path / mask_folder)
