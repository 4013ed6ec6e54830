"""What is refused before it is read, and what an error while writing leaves."""

import errno
import os

import pytest

from engine.files import plain_text, read_text, spreadsheet_text, whole_files, writing


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_read_text__refuses_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            read_text(path)


def test_read_text__no_utf_8_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a\xff")
    with pytest.raises(ValueError, match="a.csv"):
        read_text(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa")
    assert read_text(tmp_path / "a.csv") == "a"


@pytest.mark.parametrize("name", ["=1+1", "+a", "-b", "@c"])
def test_spreadsheet_text__is_no_formula_and_comes_back(name):
    assert spreadsheet_text(name) == f"'{name}"
    assert plain_text(spreadsheet_text(name)) == name


@pytest.mark.parametrize("name", ["water", "", "-1.5", "+1e-3", "'quoted'"])
def test_spreadsheet_text__other_texts_stay(name):
    assert spreadsheet_text(name) == name == plain_text(name)


def test_whole_files__all_or_none(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(OSError, match="free some space"), whole_files(tmp_path) as work:
        (work / "a.csv").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with whole_files(tmp_path) as work:
        (work / "a.csv").write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_writing__names_the_file_and_the_remedy():
    with pytest.raises(OSError, match="map.csv .*folder that can be written"), writing("map.csv"):
        raise PermissionError(errno.EACCES, "Permission denied")
