"""An exponential moving average of a network's weights."""

import torch


@torch.no_grad()
def update_ema(ema_model, model, decay, updates):
    """Update the average by one step; early on it is the plain mean, in which the start fades.

    Args:
        ema_model, model: of one kind; batch-norm statistics and counters are copied.
        decay: share of the average that is kept, 0..1, at most 1 - 1 / (updates + 1).
        updates: steps the model has made, 1 or more.
    Source: Tarvainen and Valpola 2017, "Mean teachers", section 2; differs from the paper in
        copying batch-norm statistics.
    """
    keep = min(decay, 1 - 1 / (updates + 1))
    averaged = list(ema_model.parameters())
    torch._foreach_lerp_(averaged, list(model.parameters()), 1 - keep)
    for ours, theirs in zip(ema_model.buffers(), model.buffers()):
        ours.copy_(theirs)
