"""Finding good settings without training all of them in full: random draws, and successive halving over epochs."""

import math
import random

KEEP = 3  # one of so many settings goes on to the next rung, and is trained so many times longer by its end


def draw(flags, count, seed):
    """Different settings drawn at random, the first of them the same whatever their number.

    Args:
        flags: {name: values}, several values being a list to choose from. A value may itself be a list, "8,16,32", or a
            range, "1e-4..1e-1": log-uniform, and whole between whole numbers.
        count: how many, 1 or more.
        seed: decides the draw.
    Returns:
        list of {name: value as text, None for a flag without values}.
    Raises:
        ValueError: a range that is none, or fewer different settings than asked for.
    """
    generator, drawn = random.Random(seed), {}
    for _ in range(100 * count):
        setting = {name: draw_value(",".join(values), generator) if values else None for name, values in flags.items()}
        drawn.setdefault(tuple(setting.values()), setting)
        if len(drawn) == count:
            return list(drawn.values())
    raise ValueError(f"--search {count}: these flags give only {len(drawn)} different settings: ask for fewer")


def draw_value(text, generator):
    """One value out of a range, a list or a single value."""
    try:
        low, high = map(float, text.split(".."))
    except ValueError:
        return generator.choice(text.split(","))
    if not 0 < low < high < math.inf:
        raise ValueError(f"{text}: give a range from a number above 0 to a larger one, such as 1e-4..1e-1")
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return str(round(value)) if text.replace("..", "").isdecimal() else f"{value:.3g}"


def rung_sizes(count, epochs):
    """How a search goes: at which epoch how many settings are trained; 24 and 20 epochs give [(2, 24), (7, 8), (20, 2)].

    Args:
        count: settings drawn, 1 or more.
        epochs: of a full training.
    Returns:
        list of (epoch, settings), the last epoch being `epochs`.
    """
    rungs = 0
    while KEEP ** (rungs + 1) <= min(count, epochs):
        rungs += 1
    return [(round(epochs / KEEP ** (rungs - place)), count // KEEP ** place) for place in range(rungs + 1)]


def halve(cells, epochs, train_until):
    """Successive halving: train all settings a little, the best third of them longer, and so on to the end.

    A setting's score is its best validation mean IoU so far, read from its log up to the rung's epoch: a search that was
    interrupted chooses as one that was not. Settings that failed before a rung's end are out.

    Args:
        cells: what sweep.py calls a Cell, one a setting.
        epochs: of a full training, which the learning rate's schedule spans from the first rung on.
        train_until: function of (cells, epoch) that trains them, or goes on with them, up to that epoch.
    Returns:
        list of (epoch, cells that reached it, best first), a rung each.

    Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization", fig. 3;
    differs from the paper in that a third survives, not half, as in Li et al. 2018, "Hyperband".
    """
    rungs = []
    for epoch, size in rung_sizes(len(cells), epochs):
        cells = cells[:size]
        train_until(cells, epoch)
        cells = sorted((cell for cell in cells if len(cell.log()) >= epoch), key=lambda cell: -cell.best(epoch))
        rungs.append((epoch, cells))
    return rungs
