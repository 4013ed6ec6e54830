"""CSV as Excel, QGIS and others write it is read alike; what is unclear is refused."""

import numpy as np
import pytest

from sources.tables import fold, read_csv, to_float

TEXT = "X;Land Cover\r\n1,5;Wälder\r\n"


@pytest.mark.parametrize("content", [
    TEXT.encode(),
    TEXT.encode("utf-8-sig"),
    TEXT.encode("utf-16"),
    TEXT.encode("utf-16-le"),
    TEXT.encode("utf-16-be"),
    TEXT.encode("cp1252"),
    TEXT.replace(";", "\t").encode(),
    TEXT.replace("\r\n", "\n").replace("1,5", " 1,5 ").encode(),
    TEXT.replace("\r\n", "\r").encode(),
    TEXT.replace("1,5", '"1,5"').replace(";", ",").encode(),
    ("sep=;\r\n" + TEXT + ";\r\n\r\n").encode(),
])
def test_read_csv__one_table_in_many_forms(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    (line, row), = read_csv(path, ["x"])
    assert row == {"x": "1,5", "land_cover": "Wälder"}
    assert line == (3 if b"sep=" in content else 2)


@pytest.mark.parametrize("content, message", [
    (b"x,y,class\n1,5,2,5,wood\n", "line 2: it has 5 entries"),
    (b"a,b\n1,2\n", "no column 'x'.*'a', 'b'"),
    (b"", "no column 'x'"),
    (b"\x89PNG\r\n\x1a\n\0\0\0", "not a text"),
    (b"\xff\xfe\0", "not a text"),
    (b'x\n"' + b"a" * 200_000, "not a CSV"),
    (b'x,note\n1,dry\n2,"wet\n3,dry\n', "line 3, is not a CSV.*close each quote"),
    (b'x,note\n1,"dry" or "wet"\n', "line 2, is not a CSV"),
])
def test_read_csv__names_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_csv(path, ["x"])


def test_read_csv__of_two_columns_alike_the_one_in_small_letters(tmp_path):
    path = tmp_path / "table.csv"
    for text in ("Class,class\na,b\n", "class,Class\nb,a\n"):
        path.write_text(text, encoding="utf-8")
        assert read_csv(path) == [(2, {"class": "b", "Class": "a"})]


def test_read_csv__names_with_commas_in_a_table_separated_by_semicolons(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("East (m, UTM);North (m, UTM);class\n1;2;wood\n", encoding="utf-8")
    assert read_csv(path) == [(2, {"east": "1", "north": "2", "class": "wood"})]


@pytest.mark.parametrize("name, folded", [
    ("X", "x"), (" Land Cover ", "land_cover"), ("x [m]", "x"), ("Lon (deg)", "lon"),
    (".geo", "geo"), ("system:index", "system_index"), ("Länge", "länge")])
def test_fold__names_by_eye(name, folded):
    assert fold(name) == folded


@pytest.mark.parametrize("text, number", [
    ("1234.5", 1234.5), ("1234,5", 1234.5), ("1.234,5", 1234.5), ("1,234.5", 1234.5),
    ("5.400.000", 5.4e6), ("5,400,000.5", 5400000.5), ("5 400 000,5", 5400000.5),
    ("5'400'000.5", 5400000.5), ("-8,5", -8.5), ("1e3", 1000), ("1,5e3", 1500), (3, 3)])
def test_to_float__numbers_by_eye(text, number):
    assert to_float(text) == number


@pytest.mark.parametrize("text", ["", "x", "1,2,3", "1.2,3.4", "12.34.56", "1,2.3,4"])
def test_to_float__refuses_what_is_no_number(text):
    with pytest.raises(ValueError):
        to_float(text)
    assert np.isnan(to_float("nan"))
