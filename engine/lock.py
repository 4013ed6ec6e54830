"""One lock on a file that works on Linux, macOS and Windows."""

import contextlib
import os
import pathlib

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    import msvcrt

LOCKED_BYTE = 2**30  # on Windows a lock covers bytes: one that lies behind the file's content


def _lock(file):
    """Lock an open file, or raise OSError if another process has it."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


def _is_at_its_path(file):
    """Whether an open file is still the one that its path leads to."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path, folder=None):
    """Within it, no other process has the lock of a file, which ends with this process.

    Args:
        path: the file, pathlib.Path; made if it is missing.
        folder: what it protects, for the message; None: the folder that it lies in.
    Yields: the file, opened for appending; see `check_lock`.
    Raises:
        BlockingIOError, an OSError: another process has it.
        ValueError: it is a folder or a pipe.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: remove it")
    while True:
        with open(path, "a", encoding="utf-8") as file:
            try:
                _lock(file)
            except OSError:
                raise BlockingIOError(f"another process writes to {folder or path.parent}: let it "
                                      "end, or give another --out") from None
            if _is_at_its_path(file):  # else it was removed before it was locked: open it again
                yield file
                return


def check_lock(file):
    """Stop a process that has lost its folder since it locked a file there.

    Args:
        file: from `locked`.
    Raises:
        FileNotFoundError: the file was removed or replaced, perhaps with its whole folder.
    """
    if not _is_at_its_path(file):
        raise FileNotFoundError(f"{pathlib.Path(file.name).parent} was removed, or taken by "
                                "another process: nothing more is written there; start again with "
                                "another --out")


@contextlib.contextmanager
def locked_beside(folder):
    """Within it, no other process makes a folder of this name; a file beside it is locked.

    Raises: BlockingIOError, an OSError: another process does.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with locked(path, folder):
        try:
            yield
        finally:
            if fcntl:
                path.unlink(missing_ok=True)
    if not fcntl:  # Windows removes no open file
        with contextlib.suppress(OSError):
            path.unlink()
