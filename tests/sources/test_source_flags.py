"""Flags that several kinds of data sets share."""

import numpy as np
import pytest
from helpers import write_set

from data import write_prepared
from prepare_data import parse_args


def test_verify__compares_all_values_and_ends(tmp_path, capsys):
    images = np.arange(4 * 2 * 2).reshape(4, 2, 2, 1).astype(np.uint8)
    write_prepared(tmp_path / "mine", images, images[..., 0] % 2, ["a", "b"])
    words = ["--verify", str(tmp_path / "mine")]
    with pytest.raises(SystemExit) as end:
        parse_args(words)
    assert not end.value.code and "mine" in capsys.readouterr().out
    labels = np.load(tmp_path / "mine/test_labels.npy")
    np.save(tmp_path / "mine/test_labels.npy", 1 - labels)
    with pytest.raises(ValueError, match="test_labels.npy"):
        parse_args(words)


def test_verify__a_set_of_an_earlier_version_has_no_digests(tmp_path):
    write_set(tmp_path / "old")
    with pytest.raises(ValueError, match="old"):
        parse_args(["--verify", str(tmp_path / "old")])


def test_nodata_value__names_what_is_no_number(capsys):
    words = ["points", "scene.tif", "points.csv"]
    assert np.isnan(parse_args([*words, "--nodata", "nan"]).nodata)
    assert parse_args([*words, "--nodata=-3.4e38"]).nodata == -3.4e38
    for word in ("none", "1e39", "inf"):
        with pytest.raises(SystemExit):
            parse_args([*words, "--nodata", word])
        assert f"--nodata: '{word}': give a number" in capsys.readouterr().err
