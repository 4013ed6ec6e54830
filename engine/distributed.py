"""Several processes that train or score together, started by torchrun; one process works alike.

    torchrun --nproc-per-node 2 train.py --lr 1e-3 --bs 16

torchrun sets each process's rank and their number in the environment. Each process takes its share
of every batch, and sums over all processes are those of the whole batch. Only rank 0 writes and
prints.
"""

import contextlib
import os
import re
import sys
import traceback
import warnings

import torch
import torch.distributed

BUCKET_MB = 1  # gradients exchanged at a time, while backward() computes those of earlier layers


def init_distributed(device):
    """Join the other processes, if torchrun started any; ranks above 0 then print nothing.

    Args:
        device: torch.device; on CUDA each process of a machine takes the GPU of its local rank.
    Returns:
        (rank, world_size): 0 <= rank < world_size; (0, 1) for a process on its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world_size = rank_and_size()
    if rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    return rank, world_size


def torchrun_environment():
    """Rank, rank on this machine, and number of processes; 0, 0, 1 without torchrun."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes <= 1:
        return 0, 0, 1
    return int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0")), processes


@contextlib.contextmanager
def leave_at_once():
    """Within it, one of several processes ends without Python's own shutdown.

    gloo's threads release their last tensors late. A thread that does so while Python shuts down
    aborts the process, whose work was done.
    """
    code = 0
    try:
        yield
    except BaseException as error:
        if not torch.distributed.is_initialized():
            raise
        code = error.code if isinstance(error, SystemExit) else 1
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        elif isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    if torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def wait_for_all():
    """Return when all processes have come here; if one ended before, an error: `lost_process`."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def lost_process(error):
    """Whether an exception means that another of several processes is gone."""
    if not torch.distributed.is_initialized():
        return False
    return (isinstance(error, torch.distributed.DistError)
            or re.search("by peer|[Bb]roken pipe|NCCL|gloo|[Cc]onnection", str(error)) is not None)


def rank_and_size():
    """This process's rank and the number of processes; (0, 1) without `init_distributed`."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def disable_tqdm():
    """tqdm's `disable`: rank 0 shows progress on a terminal, all other ranks never do."""
    return True if rank_and_size()[0] else None


def all_reduce(tensor):
    """Replace a tensor by its sum over all processes, in place, and return it.

    Every process must call it, in the same order.
    """
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


def broadcast(value):
    """Return rank 0's value, of a plain type, on every process; the others wait for it."""
    if not torch.distributed.is_initialized():
        return value
    holder = [value]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]


def data_parallel(model, device):
    """Wrap a model so that backward() averages its gradients over all processes.

    Returns:
        the model itself for a process on its own.
    """
    if not torch.distributed.is_initialized():
        return model
    device_ids = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch calls the argument forward_sync_buffers
        warnings.simplefilter("ignore", FutureWarning)
        # Batch-norm statistics are averaged instead, see `average_buffers`.
        return torch.nn.parallel.DistributedDataParallel(
            model, device_ids, broadcast_buffers=False, bucket_cap_mb=BUCKET_MB,
            gradient_as_bucket_view=True)


def average_buffers(model):
    """Average the batch-norm statistics of all processes, in place."""
    _, world_size = rank_and_size()
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world_size == 1 or not buffers:
        return
    flat = all_reduce(torch.cat([buffer.reshape(-1) for buffer in buffers])) / world_size
    sizes = [buffer.numel() for buffer in buffers]
    for buffer, mean in zip(buffers, flat.split(sizes)):
        buffer.copy_(mean.view_as(buffer))
