"""Files: what is refused before it is read, and what an error while writing means."""

import contextlib
import csv
import errno
import glob
import io
import os
import pathlib
import re
import shutil
import stat
import sys

from engine.lock import locked

MAX_TEXT = 2**28  # bytes of a table or list; a million points are about 50 MB
MAX_NAME = 200  # characters of a class's or scene's name, which becomes a part of file names
FORMULA_STARTS = ("=", "+", "-", "@")
LOCK = "lock"  # in a temporary folder, locked by the process that fills it
MAX_DEPTH = 100  # folders within each other


@contextlib.contextmanager
def whole_files(folder):
    """Yield a folder within `folder`, whose files move up when the block ends, or vanish with it.

    So a full disk or a signal leaves all files of a command or none of them. What killed processes
    left there is removed first.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        work = folder / f".partial-{os.getpid()}"
        work.mkdir()
    try:
        with locked(work / LOCK), writing(folder):
            yield work
            for path in work.iterdir():
                if path.name != LOCK:
                    os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_leftovers(folder):
    """Remove the temporary folders of `whole_files` whose processes were killed."""
    for lock in folder.glob(f".partial-*/{LOCK}"):
        with contextlib.suppress(OSError):
            with locked(lock):  # an error if its process is at work
                print(f"warning: removing {lock.parent}, left by a process that was killed",
                      file=sys.stderr)
            shutil.rmtree(lock.parent)


def spreadsheet_text(text):
    """A text as a CSV cell that spreadsheets show and do not compute; `plain_text` takes it back.

    Numbers stay as they are. Source: OWASP, "CSV Injection".
    """
    is_formula = text[:1] in FORMULA_STARTS and not re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text)
    return f"'{text}" if is_formula else text


def plain_text(cell):
    """The text of a CSV cell that `spreadsheet_text` wrote."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in FORMULA_STARTS else cell


def check_file(path):
    """Refuse what is no regular file, such as a pipe, which might never end: ValueError, OSError.

    Returns: its size, bytes.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no regular file: give a file, not a folder, pipe or device")
    return status.st_size


def check_beside(path):
    """Refuse a file if it, or one of its name beside it, is no regular file: ValueError, OSError.

    GDAL opens those beside it, too, such as the .dbf of a Shapefile.
    """
    path = pathlib.Path(path)
    check_file(path)
    for beside in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        if not beside.is_dir():
            check_file(beside)


def check_text_file(path):
    """Refuse what is no regular file, or too large for a table or list: ValueError, OSError."""
    size = check_file(path)
    if size > MAX_TEXT:
        raise ValueError(f"{path} has {size:,} bytes, too many for a table or list: give at most "
                         f"{MAX_TEXT:,}")


def read_text(path):
    """The text of a table or list.

    Raises:
        ValueError, OSError: see `check_text_file`; or it is not in UTF-8. One line.
    """
    check_text_file(path)
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8"
                         ) from None


def read_table(path):
    """The rows of a CSV file with a header, as a list of {column: text}.

    Raises:
        ValueError, OSError: as `read_text`; csv.Error: no table.
    """
    return list(csv.DictReader(io.StringIO(read_text(path), newline="")))


def check_name(name, where):
    """Refuse the name of a class or scene that no file name could take up: ValueError."""
    if len(name) > MAX_NAME:
        raise ValueError(f"{where}: a name has {len(name):,} characters ({name[:20]}...): give at "
                         f"most {MAX_NAME}")


def check_path(path):
    """Refuse a folder to be made whose path no system would take: ValueError."""
    parts = pathlib.Path(path).parts
    if len(parts) > MAX_DEPTH:
        raise ValueError(f"--out lies {len(parts):,} folders deep: give at most {MAX_DEPTH}")
    for part in parts:
        check_name(part, "--out")


def is_full_disk(error):
    """Whether an exception is the system's own that there is no space left."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writing(path):
    """Within it, an OSError names the file that could not be written, and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # one of our own lines, which names the file already
            raise
        remedy = "give a folder that can be written"
        if is_full_disk(error):
            remedy = "free some space"
        raise OSError(f"{path} could not be written ({error.strerror or error}): {remedy}, then "
                      "give the command again") from None
