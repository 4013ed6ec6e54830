"""Imported before torch, whose import takes seconds: what may happen to a command meanwhile.

Ctrl-C and SIGTERM end it with one line. Nothing is done where another program imports the project.
"""

import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def end_interrupted(number, frame):
    """A signal's handler until `cli.one_line_errors` takes over."""
    os.write(2, f"{pathlib.Path(sys.argv[0]).name}: interrupted before it began\n".encode())
    os._exit(128 + number)


def begin():
    """Prepare a command of this project for what may happen before it begins."""
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is None or pathlib.Path(main).resolve().parent != ROOT:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a shell's background jobs
            signal.signal(number, end_interrupted)


begin()
