"""Several processes that train or score together, started by torchrun; one process alone is the same path.

    torchrun --nproc-per-node 2 train.py --lr 1e-3 --bs 16

torchrun tells each process its rank and how many there are by the environment. Each takes its share of every batch; what is
summed here makes the sums those of the whole batch. Only rank 0 writes and prints.
"""

import atexit
import os
import sys

import torch
import torch.distributed


def join(device):
    """Meet the other processes, if torchrun started any; ranks above 0 print nothing from here on.

    Args:
        device: torch.device; on CUDA each process of a machine takes the card of its local rank.
    Returns:
        (rank, size): 0 <= rank < size; (0, 1) for a process on its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type != "cuda":  # gloo's threads may outlive the interpreter, which then aborts
            atexit.register(torch.distributed.destroy_process_group)
    rank = torch.distributed.get_rank()
    if rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    return rank, size


def rank_and_size():
    """This process's rank and how many there are; (0, 1) before or without `join`."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def disable_tqdm():
    """tqdm's `disable`: rank 0 shows progress where someone looks on, all others never do."""
    return True if rank_and_size()[0] else None


def all_reduce(tensor):
    """Replace a tensor by its sum over all processes, in place; returns it. Every process must call it, in the same order."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def broadcast(value):
    """Rank 0's value (of a plain type) on every process; the others wait for it."""
    if not torch.distributed.is_initialized():
        return value
    holder = [value]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def sum_gradients(model, size):
    """Add up the gradients of all processes, and average their batch-norm statistics, in one exchange.

    The loss of each process is its part of the whole batch's, so the sum is the whole batch's gradient.

    Args:
        model: after backward(), with a gradient or None the same parameters on every process.
        size: number of processes; 1 changes nothing.
    """
    if size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    exchanged = gradients + statistics
    flat = all_reduce(torch.cat([tensor.reshape(-1) for tensor in exchanged]))
    for tensor, total in zip(exchanged, flat.split([tensor.numel() for tensor in exchanged])):
        tensor.copy_(total.view_as(tensor))
    for buffer in statistics:
        buffer.div_(size)
