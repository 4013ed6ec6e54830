"""The device on which a network computes: its precision, compilation and memory."""

import ctypes
import functools
import pathlib
import sys
import time

import torch

# of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
M_ARENA_MAX = -8


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


def return_freed_memory():
    """Have glibc return large blocks that are freed from now on to the kernel, smaller ones not.

    Large windows need less memory so: among kept blocks of many sizes are gaps that fit none of the
    next ones. To return the smaller ones too would take half as long again (measured).
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 65536)  # glibc's own limit
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # bytes


def amp_dtype(device, how="auto"):
    """The type that --amp has a network compute in; None is float32.

    Args:
        device: torch.device.
        how: "off", "bf16" (bfloat16 on any device), or "auto": bfloat16 on CUDA, or float16 where
            the card lacks it. On the CPU "auto" is float32, because bfloat16 was not shown to keep
            scores and maps (docs/speed.md). So a run is resumed in its precision on any CPU.
    """
    if how == "bf16":
        return torch.bfloat16
    if device.type != "cuda" or how == "off":
        return None
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bfloat16 else torch.float16


def describe_amp(device, how):
    """Where a network computes and in which precision, and what --amp would change, as text."""
    dtype = amp_dtype(device, how)
    place = f"{device.type} in {str(dtype or torch.float32).removeprefix('torch.')}"
    note = "--amp off: float32"
    if device.type == "cpu" and cpu_has_bfloat16():
        times = f"{bfloat16_speedup():.1f} times as fast here"
        note = f"{times}; {note}" if dtype else f"--amp bf16: {times}, less exact"
    elif dtype is None:
        return place
    elif device.type == "cpu":
        note = f"emulated slowly, because this processor lacks it; {note}"
    return f"{place} ({note})"


def cpu_has_bfloat16():
    """Whether the processor has instructions for bfloat16 that torch uses: AVX512-BF16 or AMX."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


@functools.cache
def bfloat16_speedup():
    """How many times as fast a convolution is in bfloat16 on this CPU, measured in about 50 ms.

    On one thread, because several would wait for each other where other programs run, and of a
    small image, because those programs would interrupt a longer convolution each time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    image = torch.ones(1, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    seconds = {torch.float32: [], torch.bfloat16: []}
    for _ in range(25):  # in turns, so that what else the machine does meets both
        for dtype, times in seconds.items():
            inputs = image.to(dtype)
            kernel = weight.to(dtype)
            started = time.perf_counter()
            torch.conv2d(inputs, kernel)
            times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def autocast(device, dtype):
    """A context in which networks compute in a type from `amp_dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
