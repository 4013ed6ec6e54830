"""An exponential moving average of a network's weights."""

import torch


@torch.no_grad()
def update_ema(average, model, decay, updates):
    """Move an exponential moving average of the weights one step on; early on it is the plain mean, which forgets the start.

    Args:
        average, model: of one kind; batch-norm statistics and counters are copied.
        decay: share of the average that is kept, 0..1, at most 1 - 1 / (updates + 1).
        updates: steps the model has made, 1 or more.
    Source: Tarvainen and Valpola 2017, "Mean teachers", section 2; differs from the paper in copying batch-norm statistics.
    """
    keep = min(decay, 1 - 1 / (updates + 1))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
    for mine, theirs in zip(average.buffers(), model.buffers()):
        mine.copy_(theirs)
