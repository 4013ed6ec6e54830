"""Flags with limits, and errors in one line."""

import argparse
import signal
import warnings

import pytest

from engine.cli import Parser, number, one_line_errors, plural


@pytest.mark.parametrize("kind, low, high, word", [
    (int, 1, None, "0"), (int, 0, 5, "6"), (int, 0, 5, "1.5"), (int, 0, None, "x"),
    (float, 0, 1, "1.1"), (float, 0, 1, "nan"), (float, 0, None, "inf"), (float, 0, None, "")])
def test_number__refuses(kind, low, high, word):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{word}'"):
        number(kind, low, high)(word)


def test_number__limits_are_allowed():
    assert number(int, 0, 5)("5") == 5 and number(float, 0, 1)("0") == 0
    assert number(float, 1e-12)("1e300") == 1e300


@pytest.mark.parametrize("count, text", [(0, "0 steps"), (1, "1 step"), (2000, "2,000 steps")])
def test_plural__by_eye(count, text):
    assert plural(count, "step") == text


def parser():
    made = Parser(prog="train.py")
    made.add_argument("--points", type=number(int, 0), default=20, help="labels")
    made.add_argument("--resume", action="store_true", help="go on")
    made.add_argument("--out", help="the folder")
    return made


@pytest.mark.parametrize("words, named", [
    (["--point", "3"], "did you mean --points?"), (["--zzz=1"], "--zzz: see --help"),
    (["--points", "-1"], "--points"), (["more"], "more"), (["--out", "a/" * 999], "--out"),
    (["--out", "a" * 201], "--out")])
def test_parser__errors_are_one_line(words, named, capsys):
    with pytest.raises(SystemExit) as end:
        parser().parse_args(words)
    line, = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("train.py: ") and named in line


def test_help_formatter__shows_defaults_that_mean_something():
    shown = parser().format_help()
    assert "labels (default: 20)" in shown
    assert "None" not in shown and "False" not in shown


@pytest.fixture
def handler():
    """SIGTERM's handler, which the command sets for its whole process, is put back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ends(action, capsys):
    """The exit code and the errors of a command that does something."""
    with pytest.raises(SystemExit) as end:
        with one_line_errors("train.py", "go on with --resume", "lower --bs"):
            action()
    return end.value.code, capsys.readouterr().err


def raising(error):
    def action():
        raise error
    return action


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("error, code, line", [
    (ValueError("--lr 0:\n  too low"), 2, "train.py: --lr 0: too low"),
    (FileNotFoundError("no x.png"), 2, "train.py: no x.png"),
    (FileExistsError(17, "File exists", "a/b"), 2, "train.py: a/b: File exists; check the path"),
    (KeyboardInterrupt(), 130, "train.py: interrupted; go on with --resume"),
    (KeyboardInterrupt("stopped after epoch 3"), 130, "train.py: stopped after epoch 3"),
    (ValueError("x" * 10**6), 2, "train.py: " + "x" * 300 + " ... " + "x" * 300),
    (MemoryError(), 2, "train.py: out of memory: lower --bs ('')"),
    (RuntimeError("CUDA out of memory"), 2,
     "train.py: out of memory: lower --bs ('CUDA out of memory')")])
def test_one_line_errors__code_and_line(error, code, line, capsys):
    assert ends(raising(error), capsys) == (code, line + "\n")


@pytest.mark.usefixtures("handler")
def test_one_line_errors__sigterm_is_an_interruption(capsys):
    code, line = ends(lambda: signal.raise_signal(signal.SIGTERM), capsys)
    assert code == 130 and line.startswith("train.py: interrupted")


@pytest.mark.usefixtures("handler")
def test_one_line_errors__no_librarys_warning_stands_beside_the_line(capsys):
    def warn_and_raise():
        warnings.warn("something of a library's own")
        raise ValueError("the line")

    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        assert ends(warn_and_raise, capsys)[1] == "train.py: the line\n"
    assert not shown


@pytest.mark.usefixtures("handler")
def test_one_line_errors__faults_of_the_program_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"):
        with one_line_errors("train.py", "", ""):
            raise RuntimeError("shapes do not match")
