"""Search for good settings without training all in full: random draws and successive halving."""

import math
import random

HALVING_FACTOR = 3  # a rung keeps the best 1/3 of the settings and trains them 3x longer


def draw(flags, count, seed):
    """Draw different settings at random; the first ones are the same whatever their number.

    Args:
        flags: {name: values}. Several values are a list to choose from; one value may itself be a
            list, "8,16,32", or a range, "1e-4..1e-1", which is log-uniform, and whole between
            whole numbers.
        count: how many, 1 or more.
        seed: decides the draw.
    Returns:
        list of {name: value as text, None for a flag without values}.
    Raises:
        ValueError: an impossible range, or fewer different settings than asked for.
    """
    generator = random.Random(seed)
    drawn = {}
    for _ in range(100 * count):
        setting = {}
        for name, values in flags.items():
            setting[name] = draw_value(",".join(values), generator) if values else None
        drawn.setdefault(tuple(setting.values()), setting)
        if len(drawn) == count:
            return list(drawn.values())
    raise ValueError(f"--search {count}: these flags give only {len(drawn)} different settings: "
                     "ask for fewer")


def draw_value(text, generator):
    """Draw one value, as text, from a range, a list or a single value."""
    try:
        low, high = map(float, text.split(".."))
    except ValueError:  # no range
        return generator.choice(text.split(","))
    if not 0 < low < high < math.inf:
        raise ValueError(f"{text}: give a range from a number above 0 to a larger one, such as "
                         "1e-4..1e-1")
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    is_whole = text.replace("..", "").isdecimal()
    return str(round(value)) if is_whole else f"{value:.3g}"


def rung_sizes(count, epochs):
    """The rungs of a search: how many settings are trained to which epoch.

    24 settings and 20 epochs give [(2, 24), (7, 8), (20, 2)].

    Args:
        count: settings drawn, 1 or more.
        epochs: of a full training.
    Returns:
        list of (epoch, settings); the last epoch is `epochs`.
    """
    last = 0
    while HALVING_FACTOR ** (last + 1) <= min(count, epochs):
        last += 1
    rungs = []
    for rung in range(last + 1):
        epoch = round(epochs / HALVING_FACTOR ** (last - rung))
        rungs.append((epoch, count // HALVING_FACTOR ** rung))
    return rungs


def halve(cells, epochs, train_until):
    """Successive halving: train all settings a little, the best third longer, and so on.

    The score of a setting is its best validation mean IoU up to the rung's epoch, read from its
    log, so that a search that was interrupted chooses as one that was not. Settings that failed
    before a rung's end are out.

    Args:
        cells: list of sweep.Cell, one per setting.
        epochs: of a full training, the span of the learning rate's schedule from the first rung on.
        train_until: function of (cells, epoch) that trains them up to that epoch.
    Returns:
        list of (epoch, cells that reached it, best first), one per rung.
    Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
        optimization", fig. 3; differs from the paper in that a third is kept, not half, as in Li
        et al. 2018, "Hyperband".
    """
    rungs = []
    for epoch, size in rung_sizes(len(cells), epochs):
        cells = cells[:size]
        train_until(cells, epoch)
        reached = [cell for cell in cells if len(cell.log()) >= epoch]
        cells = sorted(reached, key=lambda cell: -cell.best(epoch))
        rungs.append((epoch, cells))
    return rungs
