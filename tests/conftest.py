"""Every test finds the scripts, on one thread, and tests marked slow run with --slow only."""

import os
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# Before torch is imported, because networks this small gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts its background jobs with Ctrl-C ignored, and tests of interruption need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run long tests and further cases")
    parser.addoption("--fuzz", type=int, default=20, metavar="N",
                     help="spoilt inputs that test_fuzz.py tries; 20")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: long, or one more case of a kind; run with --slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):  # not its keywords: they hold names of folders too
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
