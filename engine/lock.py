"""One lock on a file that works on Linux, macOS and Windows."""

import contextlib

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


@contextlib.contextmanager
def locked(path):
    """Within it, no other process has the lock of a file, which ends with this process.

    Yields: the file, opened for appending.
    Raises: BlockingIOError, an OSError: another process has it.
    """
    with open(path, "a", encoding="utf-8") as file:
        try:
            _lock(file)
        except OSError:
            raise BlockingIOError(f"another process writes to {path.parent}: let it end, or give "
                                  "another --out") from None
        yield file
