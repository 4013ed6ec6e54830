"""Where a network computes: the device, the precision there, compiling, memory, and what is said when it runs out."""

import ctypes
import pathlib
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def pick_device(name="auto"):
    """The device a command's --device names; on the CPU, `keep_freed_memory` too.

    Args:
        name: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "mps" (float32 only, not tested).
    Returns:
        torch.device.
    Raises:
        ValueError: the device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available() or name == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: this machine has none that torch can use; choose cpu or auto")
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def keep_freed_memory():
    """Have the C library keep the memory of freed tensors for the next ones, where it is glibc.

    By itself it gives large blocks back to the kernel, which clears every page of them again when the next layer asks for
    as much: a tenth to a quarter of a training step on the CPU. Keeping them takes up to a tenth more memory in training, a fifth
    in prediction (measured).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)  # all threads share one heap,
        libc.mallopt(M_MMAP_MAX, 0)  # blocks of any size come from it,
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and it never shrinks


def amp_dtype(device, how="auto"):
    """The type a network computes in under autocast: bfloat16 or float16 on CUDA; elsewhere or "off" None, which is float32."""
    if device.type != "cuda" or how == "off":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def to_device(values, device):
    """A tensor or array on the device; CUDA fetches it from pinned memory when it gets there, and nobody waits."""
    values = torch.as_tensor(values)
    if device.type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def compile_network(model, device):
    """Have torch compile a network in place, at its first call; ValueError where torch has no working compiler."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of a kind that changes from one version of torch to the next
        raise ValueError(f"--compile: {str(error).strip().splitlines()[0]:.120}; install a C++ compiler or leave it out") from None
    model.compile()


def out_of_memory(error):
    """Whether an exception says that memory ran out: numpy's, torch's on the CPU or on a card."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)


def peak_memory_mb(device):
    """The most memory ever held, MB: torch's count on a GPU, else this process's resident memory.

    NaN where the system does not tell, as on Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6  # KiB
    if sys.platform == "darwin":
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return float("nan")
