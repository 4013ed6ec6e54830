"""Tables in text files: CSV with any separator, encoding and spelling of its columns."""

import csv
import io
import re
import sys
from pathlib import Path

from engine.files import check_text_file, plain_text

SEPARATORS = (";", "\t", "|", ",")  # of equally many the first, because names contain commas


def read_text(path):
    """Read a text in UTF-8 or UTF-16, with or without a byte order mark.

    What is neither is read as Windows-1252, in which Excel saves CSV in Western Europe, with a
    warning.

    Raises:
        ValueError, OSError: no such file, a pipe or device, or it is no text.
    """
    check_text_file(path)
    content = Path(path).read_bytes()
    encoding = "utf-8-sig"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif content[1:2] == b"\0":
        encoding = "utf-16-le"
    elif content[:1] == b"\0":
        encoding = "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        if not ("\0" in text or "\ufffd" in text):
            print(f"warning: {path} is not in UTF-8, and is read as Windows-1252: check the names "
                  "that have letters beyond a to z", file=sys.stderr)
    if "\0" in text or "\ufffd" in text:
        raise ValueError(f"{path} is not a text: save it as a text in UTF-8")
    return text


def fold(name):
    """A column's name in small letters, without units in brackets, other signs as "_"."""
    name = re.sub(r"[\[(].*", "", name)
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def read_csv(path, columns=()):
    """Read a CSV file with a header, as [(line number, {column: text})].

    Columns are folded (see `fold_columns`), entries are without spaces around them, and empty lines
    are left out. A ' that hides a formula from spreadsheets is taken off. The separator is the one
    of "," ";" tab "|" that the header has most of.

    Raises:
        ValueError, OSError: no such file, no text, a line with more entries than the header has, or
            one of the columns is missing.
    """
    text = read_text(path)
    separator, text = _find_separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True,
                        strict=True)
    lines = []
    ended = 0  # number of the last line that was read whole
    try:
        for entries in reader:
            entries = [plain_text(entry.strip()) for entry in entries]
            if any(entries):
                lines.append((reader.line_num, entries))
            ended = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path}, line {ended + 1}, is not a CSV text ({error}): close each quote "
                         "and double those inside a text, or save it anew as CSV") from None
    titles = lines[0][1] if lines else []
    header = fold_columns(titles)
    for column in columns:
        if column not in header:
            raise ValueError(f"{path} has no column '{column}': its first line names "
                             f"{_listed(titles)}, separated by {separator!r}")
    rows = []
    for number, entries in lines[1:]:
        if any(entries[len(titles):]):
            raise ValueError(f"{path}, line {number}: it has {len(entries)} entries, but the first "
                             f"line names {len(titles)} columns, separated by {separator!r} "
                             "(decimal commas need another separator)")
        entries += [""] * (len(titles) - len(entries))
        rows.append((number, {name: entries[place] for name, place in header.items()}))
    return rows


def find_column(columns, names):
    """The first of the names that is among the columns; None where none is."""
    return next((name for name in names if name in columns), None)


def _find_separator(text):
    """The separator of a CSV text, and the text without Excel's line "sep=;", if it has one."""
    stated = re.match(r"\s*\"?sep=(.)\"?[^\n]*", text, re.I)
    if stated:
        return stated[1], text[stated.end():]
    header = "".join(text.lstrip().splitlines()[:1])
    header = re.sub(r'"[^"]*"', "", header)
    separator = max(SEPARATORS, key=header.count)
    return separator if separator in header else ",", text


def fold_columns(titles):
    """{folded title: number of the column}.

    Where several fold alike, one that is folded already has the name, or else the first. The others
    keep their titles.
    """
    columns = {}
    for number, title in enumerate(titles):
        if title == fold(title):
            columns.setdefault(title, number)
    for number, title in enumerate(titles):
        name = fold(title) or title
        columns.setdefault(title if name in columns else name, number)
    return columns


def _listed(names):
    """Names in a row, not too many, for messages."""
    names = [name for name in names if name.isprintable()]
    return ", ".join(f"'{name[:40]}'" for name in names[:20]) or "none"


def to_float(text):
    """A number as it is written anywhere: 1234.5, 1234,5 or 1.234,5 with separators of thousands.

    A single comma is the decimal sign.

    Raises:
        ValueError: it is no number.
    """
    try:
        return float(text)
    except ValueError:
        text = re.sub(r"[\s'’]", "", text)
    signs = re.findall("[.,]", text)
    if not signs or signs == ["."]:
        return float(text)
    repeated = len(signs) > 1 and len(set(signs)) == 1  # as in 5,400,000
    decimal = "" if repeated else signs[-1]
    if decimal and signs.count(decimal) > 1:
        raise ValueError(f"{text} is no number")
    whole, _, part = text.partition(decimal) if decimal else (text, "", "")
    first, *groups = re.split("[.,]", whole)
    if any(len(group) != 3 for group in groups):
        raise ValueError(f"{text} is no number")
    return float(f"{first}{''.join(groups)}.{part}")
