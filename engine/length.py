"""The length of a run: its batch, its passes over the tiles, and the time that is left."""

import sys
import time

from tqdm import tqdm

from engine.cli import plural

EPOCHS = 20  # unless --epochs is given
MANY_TILES = 192  # from here on, an epoch is one pass
STEPS_PER_EPOCH = 48  # at least, in sets of fewer tiles; measured by bench/length.py
BATCH = 16  # tiles per step, unless --bs is given
SMALL_BATCH = 4  # likewise, in sets of fewer than MANY_TILES
FIRST_LINE_S = 10  # until the first line on the time that is left
LINE_S = 60  # between two such lines within an epoch


def set_epochs(args):
    """Set the number of epochs; those of --epochs, or of a run that is resumed, are one pass each.

    Args:
        args: train.py's, whose `epochs` is None unless it was given, and whose `passes` is None
            unless a run that is resumed has a number of them.
    """
    if args.epochs:
        args.passes = args.passes or 1
    args.epochs = args.epochs or EPOCHS


def choose_length(args, tiles):
    """Choose what the command leaves open: tiles per step, and passes over the tiles per epoch.

    A set of few tiles would make few steps in 20 passes: one tile 20. So each epoch goes over them
    several times. With --epochs, an epoch is one pass.

    Args:
        args: train.py's, whose `bs` and `passes` are None where they are to be chosen.
        tiles: number of training tiles.
    """
    if args.bs is None:
        args.bs = SMALL_BATCH if tiles < MANY_TILES else BATCH
    if args.passes is None:
        needed = STEPS_PER_EPOCH * args.bs if tiles < MANY_TILES else 0
        args.passes = max(1, -(-needed // max(1, tiles)))


def describe_length(args, run, tiles):
    """Describe a run's length in a line, "20 epochs of 12 steps of 16 tiles = 240 steps; ...".

    Args:
        args: train.py's; run: engine.runs.TrainState; tiles: number of training tiles.
    """
    batch = min(args.bs, args.passes * tiles)
    return (f"{plural(args.epochs, 'epoch')} of {plural(run.steps, 'step')} of "
            f"{plural(batch, 'tile')} = {plural(args.epochs * run.steps, 'step')}; --epochs N: N "
            f"passes over the tiles instead of {args.epochs * args.passes:,}")


class TimeLeft:
    """Estimates the time until the end of a run from its pace so far.

    Args:
        run: engine.runs.TrainState, where this process begins.
        epochs: of the whole run.
    """

    def __init__(self, run, epochs):
        self.run = run
        self.epochs = epochs
        self.began = time.perf_counter()
        self.first = self.finished_epochs()
        self.next_line = self.began + FIRST_LINE_S

    def finished_epochs(self):
        """Finished epochs, with fractions."""
        return self.run.epoch + self.run.step / self.run.steps

    def has_pace(self):
        """Whether a step is done since this process began."""
        return self.finished_epochs() > self.first

    def __str__(self):
        done = self.finished_epochs()
        pace = (time.perf_counter() - self.began) / max(1e-9, done - self.first)
        seconds = pace * (self.epochs - done)
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"

    def watch(self, batches, count):
        """Yield an epoch's batches with a bar on a terminal, else with a line now and then.

        The first line comes after some steps, on a terminal too.

        Args:
            batches: iterable; count: their number.
        """
        from engine.distributed import disable_tqdm  # imports torch
        title = f"epoch {self.run.epoch + 1}/{self.epochs}"
        bar = tqdm(batches, title, count, unit="step", disable=disable_tqdm(), leave=False)
        for batch in bar:
            now = time.perf_counter()
            is_first = self.next_line == self.began + FIRST_LINE_S
            if now > self.next_line and self.has_pace() and (bar.disable or is_first):
                bar.write(f"{title}, step {self.run.step}/{self.run.steps}: about {self}")
                sys.stdout.flush()
                self.next_line = now + LINE_S
            yield batch
