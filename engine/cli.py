"""Helpers of all command lines: flags with limits, help with defaults, errors in one line."""

import argparse
import contextlib
import difflib
import pathlib
import re
import signal
import sys
import warnings

from engine.files import check_path, is_full_disk
from engine.startup import end_interrupted

MAX_LINE = 600  # characters of an error; a longer one names something that nobody can read


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Append the default to the help, except for switches and flags whose default is None."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=28, width=100)

    def _get_help_string(self, action):
        if action.default is None or action.default == [] or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest flag for a mistyped one."""

    def __init__(self, **settings):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **settings)

    def parse_known_args(self, args=None, namespace=None):
        """Parse, but report a mistyped flag before it makes a required one seem to be missing.

        An --out that no system would take is an error, too.
        """
        words = sys.argv[1:] if args is None else args
        flags = [word.split("=")[0] for word in words if re.match(r"--\w[\w-]*(=|$)", word)]
        unknown = [flag for flag in flags if flag not in self._option_string_actions]
        if unknown and self._subparsers is None:
            self.error(f"unrecognized arguments: {unknown[0]}")
        known, unknown = super().parse_known_args(args, namespace)
        try:
            check_path(getattr(known, "out", None) or ".")
        except ValueError as error:
            self.error(str(error))
        return known, unknown

    def error(self, message):
        """Print the line and exit with code 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, 1)
            meant = f"did you mean {near[0]}?" if near else "see --help"
            message = f"unknown argument {flag}: {meant}"
        self.exit(2, f"{self.prog}: {message}\n")


def number(kind, low, high=None):
    """The `type` of a flag that takes a number within limits.

    Args:
        kind: int or float.
        low, high: limits, both allowed; high None is no limit.
    Returns:
        a function from the typed word to the number.
    """
    most = sys.float_info.max if high is None else high
    allowed = f"of {low} or more" if high is None else f"from {low} to {high}"

    def parse(word):
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not low <= value <= most:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"'{word}': give a {whole}number {allowed}")
        return value

    return parse


def area(word):
    """The `type` of a flag that takes an area: (number, "m2" or "px"), m2 if no unit is given."""
    match = re.fullmatch(r"(\d+\.?\d*)\s*(m2|px)?", word)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{word}': give an area, such as 400 (m2) or 20px")
    return float(match[1]), match[2] or "m2"


def plural(count, noun):
    """A number of things as text: "1 step", "2,000 steps"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parse_first(parse_args):
    """Parse the command line of this process, and end it with one line where that fails.

    Commands call it above `import torch`, which takes seconds: --help and a mistyped flag need not
    wait for it.

    Args:
        parse_args: function without arguments.
    """
    with exit_codes(pathlib.Path(sys.argv[0]).name, "run it again", "close other programs"):
        return parse_args()


@contextlib.contextmanager
def one_line_errors(command, interrupted, out_of_memory_advice):
    """Within it, an error that a user can cause ends the process with one line and exit code 2.

    Args:
        command: name of the script.
        interrupted: what to print after Ctrl-C, with exit code 130; SIGTERM ends it likewise.
        out_of_memory_advice: what to do where memory ran out.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == end_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What a library warns of means nothing to a user. Filters that were set before come first.
    warnings.filterwarnings("ignore", append=True)
    if "torch" not in sys.modules:  # this command needs none, so it is not one of several processes
        with exit_codes(command, interrupted, out_of_memory_advice):
            yield
        return
    from engine.distributed import leave_at_once, wait_for_all
    with leave_at_once(), exit_codes(command, interrupted, out_of_memory_advice):
        yield
        wait_for_all()


@contextlib.contextmanager
def exit_codes(command, interrupted, out_of_memory_advice):
    """The part of `one_line_errors` that turns errors into a line and an exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        end(command, str(error) or f"interrupted; {interrupted}", 130)
    except (ValueError, OSError) as error:
        message = str(error)
        if is_full_disk(error):
            message += ": free some space, then give the command again"
        elif getattr(error, "filename", None):  # Python's own line starts with [Errno 2]
            message = f"{error.filename}: {error.strerror}; check the path"
        end(command, message, 2)
    except (MemoryError, RuntimeError) as error:
        too_large = f"out of memory: {out_of_memory_advice} ({str(error)[:100]!r})"
        if isinstance(error, MemoryError):
            end(command, too_large, 2)
        from engine.device import out_of_memory
        from engine.distributed import lost_process
        if lost_process(error):
            end(command, "another of the processes has ended, and this one ends with it: look at "
                "the other's line", 2)
        if not out_of_memory(error):
            raise
        end(command, too_large, 2)


def end(command, message, code):
    """End the process with one line."""
    line = " ".join(message.split())
    if len(line) > MAX_LINE:
        line = f"{line[:MAX_LINE // 2]} ... {line[-MAX_LINE // 2:]}"
    print(f"{command}: {line}", file=sys.stderr)
    sys.exit(code)
