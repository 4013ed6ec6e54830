"""Devices, precision and memory; a missing device or compiler is one line."""

import itertools
import math
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from engine.device import (
    amp_dtype, autocast, bfloat16_speedup, compile_network, describe_amp, out_of_memory,
    peak_memory_mb, pick_device, to_device)

ROOT = pathlib.Path(__file__).parents[2]


def test_pick_device__refuses_a_device_that_is_missing():
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="--device cuda"):
            pick_device("cuda")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_keep_freed_memory__serves_the_next_tensor():
    code = """
import resource, threading, torch
from engine.device import pick_device, return_freed_memory

def faults(turns, numbers):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for turn in range(turns):
        torch.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pick_device("cpu")
faults(30, 16 * 2**20)
print(faults(10, 16 * 2**20))  # 64 MiB: 16,384 pages, which the kernel clears at the first write
thread = threading.Thread(target=lambda: print(faults(10, 4 * 2**20)))  # from what main() kept
thread.start()
thread.join()
return_freed_memory()
print(faults(10, 32 * 2**20))  # more than what is kept from before
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    kept, in_thread, returned = map(int, done.stdout.split())
    assert kept < 10 * 4096 and in_thread < 4096
    assert returned > 5 * 32_768


CPU = torch.device("cpu")


def test_amp_dtype__auto_is_float32_on_the_cpu_and_bf16_is_bfloat16_everywhere():
    assert amp_dtype(CPU) is amp_dtype(CPU, "off") is amp_dtype(CPU, None) is None
    assert amp_dtype(torch.device("cuda"), "off") is None
    assert amp_dtype(CPU, "bf16") == amp_dtype(torch.device("cuda"), "bf16") == torch.bfloat16


@pytest.mark.parametrize("how, instructions, text", [
    ("auto", "", "cpu in float32"),
    ("auto", "_is_avx512_bf16_supported", "cpu in float32 (--amp bf16: 3.0 times"),
    ("off", "_is_amx_tile_supported", "cpu in float32 (--amp bf16: 3.0 times"),
    ("bf16", "_is_amx_tile_supported", "cpu in bfloat16 (3.0 times as fast here; --amp off"),
    ("bf16", "", "cpu in bfloat16 (emulated slowly")])
def test_describe_amp__measures_where_the_processor_has_bfloat16(how, instructions, text,
                                                                 monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if instructions:
            monkeypatch.setattr(torch.cpu, name, lambda name=name: name == instructions,
                                raising=False)
        else:  # an earlier torch
            monkeypatch.delattr(torch.cpu, name, raising=False)
    clock = itertools.accumulate(itertools.cycle([0.0, 3.0, 0.0, 1.0]))  # s in float32, bfloat16
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    threads = torch.get_num_threads()
    bfloat16_speedup.cache_clear()
    assert describe_amp(CPU, how).startswith(text)
    assert describe_amp(CPU, how).count("--amp") == (how == "bf16" or instructions != "")
    assert torch.get_num_threads() == threads
    bfloat16_speedup.cache_clear()


def test_autocast__batch_norm_counts_in_float32():
    norm = torch.nn.BatchNorm2d(1, momentum=1.0)
    with autocast(CPU, torch.bfloat16):
        values = norm(torch.full((2, 1, 64, 64), 3.0, dtype=torch.bfloat16))
    assert values.dtype == torch.bfloat16  # a sum in it would stay at 768 and the mean be 0.09
    assert norm.running_mean.dtype == torch.float32 and norm.running_mean.item() == 3


def test_to_device__takes_arrays_and_tensors():
    for values in (np.array([1, 2]), torch.tensor([1, 2])):
        assert to_device(values, torch.device("cpu")).tolist() == [1, 2]
    assert to_device(np.ones(2), torch.device("meta")).is_meta


@pytest.mark.parametrize("error, ran_out", [
    (MemoryError(), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
    (RuntimeError("CUDA out of memory. Tried to allocate"), True),
    (RuntimeError("shapes do not match"), False)])
def test_out_of_memory__differs_from_other_faults(error, ran_out):
    assert out_of_memory(error) == ran_out


def test_compile_network__without_a_compiler_is_one_line(monkeypatch):
    def fails(function):
        raise RuntimeError("\nno compiler found\nin any of these places")
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match="^--compile: no compiler found; .*leave it out$"):
        compile_network(torch.nn.Identity(), "cpu")


def test_peak_memory_mb__is_of_this_process_and_nan_where_unknown(monkeypatch):
    cpu = torch.device("cpu")
    if sys.platform != "win32":
        assert 50 < peak_memory_mb(cpu) < 1e5
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert math.isnan(peak_memory_mb(cpu))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child may inherit the peak")
def test_peak_memory_mb__does_not_count_the_parent():
    held = np.ones(2**27)  # 1 GiB
    code = ("import torch; from engine.device import peak_memory_mb; "
            "print(peak_memory_mb(torch.device('cpu')))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    here = peak_memory_mb(torch.device("cpu"))
    assert 50 < float(done.stdout) < 0.9 * held.nbytes / 1e6 < here
