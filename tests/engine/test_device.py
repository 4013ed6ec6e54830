"""A device that is not there, a compiler that is missing and memory that runs out are told in one line."""

import pathlib
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.device import (
    amp_dtype,
    compile_network,
    out_of_memory,
    pick_device,
    to_device,
)


def test_a_device_that_is_not_there():
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="--device cuda"):
            pick_device("cuda")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc")
def test_the_memory_of_a_freed_tensor_serves_the_next():
    code = """
import resource, threading, torch
from engine.device import pick_device

def faults(turns, numbers):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for turn in range(turns):
        torch.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pick_device("cpu")
faults(30, 16 * 2**20)
print(faults(10, 16 * 2**20))  # 64 MiB: 16,384 pages, which the kernel clears one by one when they are first written to
thread = threading.Thread(target=lambda: print(faults(10, 4 * 2**20)))  # 16 MiB, out of what was kept in the main thread
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parents[2], capture_output=True, check=True)
    main, thread = map(int, done.stdout.split())
    assert main < 10 * 4096 and thread < 4096


def test_the_processor_computes_in_float32():
    assert amp_dtype(torch.device("cpu")) is None and amp_dtype(torch.device("cuda"), "off") is None


def test_arrays_and_tensors_go_to_the_device():
    for values in (np.array([1, 2]), torch.tensor([1, 2])):
        assert to_device(values, torch.device("cpu")).tolist() == [1, 2]
    assert to_device(np.ones(2), torch.device("meta")).is_meta


@pytest.mark.parametrize("error, ran_out", [
    (MemoryError(), True), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
    (RuntimeError("CUDA out of memory. Tried to allocate"), True), (RuntimeError("shapes do not match"), False)])
def test_out_of_memory_is_told_from_other_faults(error, ran_out):
    assert out_of_memory(error) == ran_out


def test_without_a_compiler_compiling_is_refused_in_one_line(monkeypatch):
    def fails(function):
        raise RuntimeError("\nno compiler found\nin any of these places")
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match="^--compile: no compiler found; install a C\\+\\+ compiler or leave it out$"):
        compile_network(torch.nn.Identity(), "cpu")
