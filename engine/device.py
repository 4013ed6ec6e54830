"""Where a network computes: the device, its precision, compilation, memory."""

import ctypes
import pathlib
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def pick_device(name="auto"):
    """The device that --device names; on the CPU, freed memory is kept from then on.

    Args:
        name: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "mps" (not tested).
    Returns:
        torch.device.
    Raises:
        ValueError: the device is not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(),
                 "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise ValueError(f"--device {name}: this machine has none that torch can use; choose cpu "
                         "or auto")
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def keep_freed_memory():
    """Have glibc keep the memory of freed tensors for the next ones; elsewhere nothing changes.

    By itself it gives large blocks back to the kernel, which clears all their pages again when the
    next layer asks for as much: a tenth to a quarter of a training step on the CPU. Keeping them
    takes up to a tenth more memory in training, a fifth in prediction (measured).
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)  # all threads share one heap,
        libc.mallopt(M_MMAP_MAX, 0)  # blocks of any size come from it,
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and it never shrinks


def amp_dtype(device, how="auto"):
    """The type of autocast: bfloat16 or float16 on CUDA; elsewhere, or if "off", None (float32)."""
    if device.type != "cuda" or how == "off":
        return None
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bfloat16 else torch.float16


def to_device(values, device):
    """A tensor or array on the device; CUDA copies it from pinned memory while the host goes on."""
    values = torch.as_tensor(values)
    if device.type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def compile_network(model, device):
    """Have torch compile a network in place, at its first call.

    Raises:
        ValueError: torch has no working compiler here.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of a kind that changes from one version of torch to the next
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--compile: {reason:.120}; install a C++ compiler or leave it out"
                         ) from None
    model.compile()


def out_of_memory(error):
    """Whether an exception means that memory ran out: numpy's, torch's on the CPU or on a GPU."""
    text = str(error)
    return (isinstance(error, MemoryError) or "out of memory" in text
            or "allocate memory" in text)


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
