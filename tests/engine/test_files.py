"""What is refused before it is read, and what an error while writing leaves."""

import errno
import os
import pathlib

import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.files import plain_text, read_text, spreadsheet_text, whole_files, writing
from engine.lock import locked
from engine.prepared import open_array
from engine.runs import cut_log
from networks.weights import read_weights
from report.areas import read_areas
from report.tables import read_log
from sources.labels import read_classes
from sources.map_check import class_table
from sources.points import read_points
from sources.raw import RawDataset, find_files
from sources.scenes import scene_files
from sources.splits import listed_splits, listed_tiles


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_read_text__refuses_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            read_text(path)


READERS = {
    "points.csv": read_points,
    "points.geojson": read_points,
    "points.gpkg": read_points,
    "points.shp": read_points,
    "classes.csv": read_classes,
    "scene.txt": scene_files,
    "train.txt": lambda path: listed_tiles(RawDataset([], []), [], [path]),
    "splits.csv": lambda path: listed_splits(RawDataset([], []), [path]),
    "areas.csv": lambda path: read_areas([path], ["wood"]),
    "log.csv": lambda path: read_log(path, ["epoch"]),
    "log.csv, cut": lambda path: cut_log(path, 1),
    "labels.npy": lambda path: open_array(path, (1, 8, 8), "uint8"),
    "weights.pth": lambda path: read_weights("resnet18", path),
    "best.pt": load_checkpoint,
}


@pytest.mark.skipif(os.name == "nt", reason="its devices are no files")
@pytest.mark.parametrize("name", READERS)
def test_readers__name_a_device_in_one_line_and_do_not_read_it(name, tmp_path, monkeypatch):
    path = tmp_path / name.split(",")[0]
    path.symlink_to(os.devnull)
    opened = []
    for read in (pathlib.Path.read_bytes, pathlib.Path.read_text):
        monkeypatch.setattr(pathlib.Path, read.__name__, lambda path, **_: opened.append(path))
    monkeypatch.setattr(torch, "load", opened.append)
    with pytest.raises((ValueError, OSError), match=f"^[^\n]*{path.name}[^\n]*$"):
        READERS[name](path)
    assert not opened


LONG = 201 * "a"


@pytest.mark.parametrize("read, name, text", [
    (read_classes, "classes.csv", f"id,name\n1,b\n2,{LONG}\n"),
    (read_points, "points.csv", f"x,y,class\n1,2,{LONG}\n"),
    (class_table, "map.tif.aux.xml", f"<a><Category>{LONG}</Category></a>"),
    (find_files, f"{LONG}.png", "")])
def test_check_name__names_of_classes_and_scenes_have_at_most_200_characters(
        read, name, text, tmp_path):
    (tmp_path / name).write_text(text.replace(LONG, LONG[:200]))
    path = tmp_path / name.removesuffix(".aux.xml")
    if LONG not in name:
        read(path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="201 characters"):
        read(path)


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


def test_whole_files__removes_what_killed_processes_left_and_no_other(tmp_path, capsys):
    for name in (".partial-1", f".partial-{os.getpid()}", ".partial-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        (tmp_path / name / "a.csv").touch()
    with locked(tmp_path / ".partial-3" / "lock"), whole_files(tmp_path) as work:
        (work / "b.csv").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-3", "b.csv"]
    assert len(list((tmp_path / ".partial-3").iterdir())) == 2
    assert f"removing {tmp_path / '.partial-1'}, left by" in capsys.readouterr().err


def test_writing__of_a_file_and_its_folder_is_one_line():
    line = "^maps/a.csv [^:]*: free some space, [^:]*$"
    with pytest.raises(OSError, match=line), writing("maps"), writing("maps/a.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_writing__names_the_file_and_the_remedy():
    with pytest.raises(OSError, match="map.csv .*folder that can be written"), writing("map.csv"):
        raise PermissionError(errno.EACCES, "Permission denied")
