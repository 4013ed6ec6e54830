"""classes.csv is read as documented, and a bad line is named."""

import pytest

from sources.labels import read_classes
from sources.raw import RawDataset


def write_csv(folder, text, name="classes.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_read_classes__by_eye(tmp_path):
    text = "id, name, r, g, b\n40, field, 250, 220, 90\n0,ignore,,,\n-3.5,wood,0,120,0\n"
    rows = read_classes(write_csv(tmp_path, text))
    assert [tuple(row) for row in rows] == [
        (0, 40, "field", 0xFADC5A), (255, 0, "ignore", None), (1, -3.5, "wood", 0x007800)]
    assert read_classes(write_csv(tmp_path, "name,r,g,b\nfield,0,0,0\n"))[0] == (
        0, None, "field", 0)
    assert read_classes(write_csv(tmp_path, "Value;Label;Red;Green;Blue\n1,5;a;0;0;9\n"))[0] == (
        0, 1.5, "a", 9)
    assert read_classes(None) == []


def test_read_classes__rows_of_one_name_are_one_class(tmp_path):
    rows = read_classes(write_csv(tmp_path, "id,name,r,g,b\n1,a,0,0,1\n2,b,0,0,2\n3,a,0,0,1\n"))
    assert [(row.index, row.value) for row in rows] == [(0, 1), (1, 2), (0, 3)]
    assert [row.name for row in RawDataset(rows, []).classes] == ["a", "b"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,title\n1,a\n", "no column 'name'"), ("", "lists no class"),
        ("id,name\n", "lists no class"), ("id,name\nx,a\n", "line 2"),
        ("id,name,r,g,b\n1,a,0,0,0\n2,b,0,0,256\n", "line 3"), ("id,name,r\n1,a,9\n", "line 2"),
        ("id,name\nnan,a\n", "line 2"), ("id,name\n1e400,a\n", "line 2"),
        ("id,name\n1,\n", "line 2: give a name"), ("id,name\n1, \n", "line 2"),
        ("id,name\n1\n", "line 2"), ('id,name\n1,"line\nbreak"\n', "line 3: give a name"),
        ("id,name\n1,a\n1,b\n", "line 3: 'b' repeats the id of 'a'"),
        ("id,name\n,a\n", "neither id nor colour"),
        ("id,name\n1,ignore\n2,IGNORE\n", "lists no class")],
)
def test_read_classes__names_the_bad_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_classes(write_csv(tmp_path, text))
