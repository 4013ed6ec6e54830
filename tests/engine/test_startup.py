"""What may happen to a command while it imports torch."""

import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

from engine import startup

ROOT = pathlib.Path(startup.__file__).parents[1]


@pytest.fixture
def handlers():
    """The handlers of this process, which are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def begin_as(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__file__=str(script)))
    startup.begin()
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def test_begin__is_for_the_commands_alone(handlers, monkeypatch, tmp_path):
    assert begin_as(tmp_path / "notebook.py", monkeypatch) == handlers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    assert begin_as(ROOT / "train.py", monkeypatch) == {
        signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: startup.end_interrupted}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_end_interrupted__one_line_and_the_signals_code(monkeypatch, number, code):
    done = []
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    monkeypatch.setattr(os, "write", lambda file, text: done.append(text))
    monkeypatch.setattr(os, "_exit", done.append)
    startup.end_interrupted(number, None)
    assert done == [b"train.py: interrupted before it began\n", code]


@pytest.mark.slow
@pytest.mark.parametrize("script, code", [("train.py", 143), ("sweep.py", 130)])
def test_commands__a_signal_while_torch_is_imported_is_one_line(script, code):
    process = subprocess.Popen([sys.executable, "-v", script], cwd=ROOT, stderr=subprocess.PIPE,
                               text=True, errors="replace")
    for line in process.stderr:
        if line.startswith("import 'torch"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait() == code
    assert "Traceback" not in rest and f"{script}: interrupted" in rest
