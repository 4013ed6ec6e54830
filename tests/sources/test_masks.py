"""Masks as people have them: what is hidden is no label, and what is doubtful is said."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from geo.raster import open_raster
from sources.labels import land_classes
from sources.masks import MaskLabels, hide_as_nodata, propose_classes
from sources.raw import RawDataset
from sources.scenes import ScaledRaster

IDS = [(0, "soil", None), (1, "wood", None)]
BOTH = [(0, "soil", 0x000000), (1, "wood", 0x006400)]
HIDDEN = np.array([[0, 0, 255, 255]], np.uint8)  # the left half is transparent
MASK = np.array([[0, 1, 0, 1]], np.uint8)
GREEN = np.array([[0, 0, 0], [0, 100, 0]], np.uint8)


def labels_of(path, rows, **how):
    """The label map of a mask, as nested lists."""
    source = RawDataset(land_classes(rows), [], **how)
    mask = ScaledRaster(path, source, smooth=False)
    return MaskLabels(mask, source).read(0, 0, mask.height, mask.width).tolist()


def png(folder, pixels, mode=None, **how):
    Image.fromarray(pixels, mode).save(folder / "mask.png", **how)
    return folder / "mask.png"


def tiff(folder, pages, **how):
    with tifffile.TiffWriter(folder / "mask.tif") as file:
        for pixels, subfiletype in pages:
            file.write(pixels, subfiletype=subfiletype, metadata=None,
                       **{"photometric": "minisblack", **how})
    return folder / "mask.tif"


def palette(folder, colours, **how):
    image = Image.fromarray(MASK, "P")
    image.putpalette(colours)
    image.save(folder / "mask.png", **how)
    return folder / "mask.png"


@pytest.mark.parametrize("kind", ["LA", "RGBA", "alpha", "page", "third page", "msk", "tRNS",
                                  "tRNS of a palette"])
def test_read__what_is_transparent_or_masked_is_no_label(tmp_path, kind):
    expected = [[255, 255, 0, 1]]
    overview = (MASK[:, ::2], 1)
    if kind == "LA":
        path = png(tmp_path, np.dstack([MASK, HIDDEN]), "LA")
    elif kind == "RGBA":
        path = png(tmp_path, np.dstack([GREEN[MASK], HIDDEN]), "RGBA")
    elif kind == "alpha":
        path = tiff(tmp_path, [(np.dstack([MASK, HIDDEN]), 0)], extrasamples=["unassalpha"])
    elif kind == "page":
        path = tiff(tmp_path, [(MASK, 0), (HIDDEN > 0, 4)])
    elif kind == "third page":
        path = tiff(tmp_path, [(MASK, 0), overview, (HIDDEN[:, ::2] > 0, 5),
                               (HIDDEN > 0, 4)])
    elif kind == "msk":
        tiff(tmp_path, [(HIDDEN, 0)]).rename(tmp_path / "mask.tif.msk")
        path = tiff(tmp_path, [(MASK, 0)])
    else:
        of_palette = kind == "tRNS of a palette"
        path = palette(tmp_path, GREEN.tobytes(), transparency=0) if of_palette else png(
            tmp_path, MASK, transparency=0)
        expected = [[255, 1, 255, 1]]
    assert labels_of(path, BOTH) == expected


def test_read__hidden_pixels_stay_hidden_at_another_scale(tmp_path):
    path = png(tmp_path, np.dstack([MASK, HIDDEN]).repeat(2, 0).repeat(2, 1), "LA")
    assert labels_of(path, IDS, scale=0.5) == [[255, 255, 0, 1]]


def test_hide_as_nodata__takes_a_value_that_is_no_id(tmp_path):
    raster = open_raster(tiff(tmp_path, [(MASK, 0), (HIDDEN > 0, 4)]))
    hidden = hide_as_nodata(raster, [0, 1, 255])
    assert (hidden.bands, hidden.nodata) == (1, 254)
    assert hidden.read(0, 0, 1, 4)[0, :, 0].tolist() == [254, 254, 0, 1]


@pytest.mark.parametrize(
    "rows, warned",
    [
        (IDS, None), ([(0, "soil", 0x00FF00), (1, "wood", 0x0000FF)], None),
        ([(0, "soil", 0x010101), (1, "wood", 0x000000)], "holds greys that are colours")],
)
def test_read__three_equal_bands_are_ids(tmp_path, capsys, rows, warned):
    path = png(tmp_path, MASK[:, :, None].repeat(3, 2))
    expected = [[1, 0, 1, 0]] if warned else [[0, 1, 0, 1]]
    assert labels_of(path, rows) == expected
    assert (warned or "") in capsys.readouterr().err


@pytest.mark.parametrize("value, rows, expected", [
    (1, [(0, "soil", None), (1, "wood", None), (2, "water", None)], [[0, 1, 0, 2]]),
    (1, [(2, "water", 0xFF), (0, "soil", None), (1, "wood", None)], [[1, 2, 1, 0]]),  # by their ids
    (255, [(10, "soil", None), (40, "wood", None), (5, "water", None), (9, "ignore", None)],
     [[0, 1, 0, 2]])])
def test_read__a_band_per_class(tmp_path, capsys, value, rows, expected):
    bands = np.eye(len(rows), dtype=np.uint8)[[[0, 1, 0, 2]]] * value  # (1, 4, K)
    path = tiff(tmp_path, [(bands, 0)], planarconfig="contig")
    assert labels_of(path, rows) == expected
    assert "a band (or page) per class" in capsys.readouterr().err


def test_read__of_a_band_per_class_the_fourth_alone_may_be_set(tmp_path):
    pages = [(np.full((1, 4), number == 3, np.uint8), 0) for number in range(4)]
    rows = [(number, name, None) for number, name in enumerate("abcd")]
    assert labels_of(tiff(tmp_path, pages), rows) == [[3, 3, 3, 3]]


def test_read__a_value_beyond_the_palette_is_one_line(tmp_path):
    colours = np.zeros((3, 2**16), np.uint16)
    path = tiff(tmp_path, [(MASK.astype(np.uint16) * 300, 0)], photometric="palette",
                colormap=colours)
    rows = [(None, "soil", 0x000000), (None, "wood", 0x006400)]
    with pytest.raises(ValueError, match="mask.tif holds the value 300"):
        labels_of(path, rows)


def test_read__bands_that_are_not_one_per_class_are_refused(tmp_path):
    bands = np.zeros((1, 4, 5), np.uint8)
    path = tiff(tmp_path, [(bands, 0)], planarconfig="contig")
    with pytest.raises(ValueError, match="mask.tif has 5 bands or pages, but classes.csv 2 rows"):
        labels_of(path, IDS)
    rows = [(number, str(number), None) for number in range(5)]
    assert labels_of(path, rows) == [[255] * 4]  # no class at all
    bands[0, 0, :2] = 1
    path = tiff(tmp_path, [(bands, 0)], planarconfig="contig")
    with pytest.raises(ValueError, match="set in two of its 5 bands"):
        labels_of(path, rows)


@pytest.mark.parametrize("rows", [[(0, "other", None), (255, "tree", None)], IDS])
def test_read__a_blurred_mask_leads_to_the_threshold(tmp_path, rows):
    disc = np.hypot(*np.indices((64, 64)) - 32) < 17
    Image.fromarray(disc * np.uint8(255)).save(tmp_path / "mask.jpg", quality=80)
    with pytest.raises(ValueError, match="--threshold 127"):
        labels_of(tmp_path / "mask.jpg", rows)
    rows = [(0, "other", None), (255, "tree", None)]
    assert (np.array(labels_of(tmp_path / "mask.jpg", rows, threshold=127)) == disc).all()


def test_warn__says_what_is_done_with_what_can_be_read_in_two_ways(tmp_path, capsys):
    nodata = (42113, "s", 2, b"0", True)
    path = tiff(tmp_path, [(MASK, 0)], extratags=[nodata])
    assert labels_of(path, IDS) == [[0, 1, 0, 1]]
    assert "also 'soil' in classes.csv: these pixels are labelled" in capsys.readouterr().err
    assert labels_of(path, [(1, "wood", None)]) == [[255, 0, 255, 0]]
    path = tiff(tmp_path, [(GREEN[MASK], 0)], extratags=[nodata], photometric="rgb")
    assert labels_of(path, BOTH) == [[0, 1, 0, 1]]
    assert "also 'soil' in classes.csv" in capsys.readouterr().err
    assert labels_of(path, [(None, "wood", 0x006400)]) == [[255, 0, 255, 0]]
    path = palette(tmp_path, GREEN[::-1].tobytes())  # shows the ids in each other's colours
    assert labels_of(path, BOTH) == [[0, 1, 0, 1]]
    assert "its values are read, not its colours" in capsys.readouterr().err
    assert labels_of(png(tmp_path, MASK * np.uint8(255)), IDS) == [[0, 255, 0, 255]]
    assert "255 is read as no label" in capsys.readouterr().err
    labels_of(png(tmp_path, MASK[:, 1:] + np.array([[0, 255, 0]], np.uint8)), IDS)
    assert not capsys.readouterr().err
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="a JPEG changes ids"):
        labels_of(tmp_path / "mask.jpg", IDS)
    capsys.readouterr()
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "mask.jpg", quality=100)
    labels_of(tmp_path / "mask.jpg", [(7, "soil", None), (8, "wood", None)])
    assert "is a JPEG, which changes ids" in capsys.readouterr().err


def test_raw_dataset_warn__is_once_for_each_kind(capsys):
    source = RawDataset([], [])
    source.warn("a", "first")
    source.warn("a", "second")
    source.warn("b", "third")
    assert capsys.readouterr().err == "warning: first\nwarning: third\n"


@pytest.mark.parametrize(
    "kind, lines",
    [
        ("colours", [",,0,100,0,0.7500", ",,0,0,0,0.2500"]),
        ("ids", ["1,,,,,0.7500", "0,,,,,0.2500"]),
        ("grey", ["1,,,,,0.7500", "0,,,,,0.2500"]),
        ("palette", ["0,,0,0,0,0.5000", "1,,0,100,0,0.5000"]),
        ("RGBA", [",,0,0,0,0.5000", ",,0,100,0,0.5000"])],
)
def test_propose_classes__lists_what_is_found_with_shares(tmp_path, kind, lines):
    mask = np.array([[1, 1, 0, 1]], np.uint8)
    path = {
        "colours": lambda: png(tmp_path, GREEN[mask]),
        "ids": lambda: png(tmp_path, mask),
        "grey": lambda: png(tmp_path, mask[:, :, None].repeat(3, 2)),
        "palette": lambda: palette(tmp_path, GREEN.tobytes()),
        "RGBA": lambda: png(tmp_path, np.dstack([GREEN[mask], HIDDEN]), "RGBA")}[kind]()
    proposed = propose_classes([ScaledRaster(path, RawDataset([], []), smooth=False)])
    assert proposed.splitlines() == ["id,name,r,g,b,share", *lines]
