"""Text tables line up, CSV files are whole, and a damaged log is one line."""

import csv
import math

import pytest

from report.tables import read_log, read_rows, text_table, write_rows


def test_text_table__lines_up():
    rows = [{"scene": "a", "px": 1234567, "miou": 0.5},
            {"scene": "a longer name", "px": 1, "miou": None}]
    assert text_table(rows).splitlines() == ["scene                 px   miou",
                                             "a              1,234,567  0.500",
                                             "a longer name          1      -"]
    assert text_table(rows, ["miou"]).splitlines() == [" miou", "0.500", "    -"]


def test_write_rows__reads_back(tmp_path):
    rows = [{"scene": "a, b", "miou": 1 / 3, "px": 12345678901},
            {"scene": "é", "miou": None, "more": "yes"}]
    write_rows(tmp_path / "a.csv", rows)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"scene": "a, b", "miou": "0.333333", "px": "12345678901", "more": ""},
            {"scene": "é", "miou": "", "px": "", "more": "yes"}]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_read_rows__of_a_missing_file_are_none(tmp_path):
    assert read_rows(tmp_path / "a.csv") == []


def test_read_log__columns_as_numbers(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_loss,val_miou\n1,2,nan\n2,1,0.5\n")
    first, second = read_log(tmp_path / "log.csv", ["epoch", "val_miou"])
    assert second == {"epoch": 2, "val_miou": 0.5}
    assert math.isnan(first["val_miou"])


@pytest.mark.parametrize("text", ["epoch\n1\n", "epoch,val_miou\n1\n", "epoch,val_miou\n1,many\n"])
def test_read_log__damaged_is_one_line(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="log.csv is damaged") as error:
        read_log(tmp_path / "log.csv", ["epoch", "val_miou"])
    assert "\n" not in str(error.value)
