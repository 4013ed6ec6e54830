"""Two processes compute what one does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import TINY, gradients, log, weights, write_set

import evaluate
import train
from engine import distributed as ranks

ROOT = pathlib.Path(ranks.__file__).parents[1]
# What each of two processes does: all cases with its half of the batch, then a run.
HALF = """
import atexit, os, sys, torch
# Called after all that is registered later: threads of a group that was not left may outlive the interpreter, and abort it.
atexit.register(lambda: torch.distributed.is_initialized() and os._exit(3))
sys.path.insert(0, "tests")
from helpers import gradients
import train
from engine import distributed as ranks
rank, size = ranks.join(torch.device("cpu"))
torch.save({case: gradients(case, rank, size) for case in ("unequal", "nothing", "statistics")}, f"{sys.argv[1]}.{rank}")
real = torch.nn.Module.train
torch.nn.Module.train = lambda self, mode=True: real(self, False)  # batch norm would see other tiles in each process
train.main(train.parse_args(sys.argv[2:]))
"""


def start_two(words, cwd=ROOT):
    """Run a command as two processes that meet on this machine, as torchrun starts them; returns their outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, *words], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [printed for printed, _ in outputs]


def test_two_processes_have_the_gradients_and_the_weights_of_one(tmp_path, monkeypatch):
    """Also where one of them has no label at all; batch-norm statistics are the mean of both; and they part before they end."""
    write_set(tmp_path / "data", count=5, side=16)
    labels = np.load(tmp_path / "data" / "train_labels.npy")
    labels[:2, 1:] = 255  # unequal shares
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    flags = ["--data", str(tmp_path / "data"), *TINY, "--points", "0", "--bs", "4", "--epochs", "2", "--optimizer", "sgd",
             "--lr", "0.1", "--class-weights", "sqrt", "--out"]
    start_two(["-c", HALF, str(tmp_path / "found"), *flags, str(tmp_path / "two")])
    real = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, mode=True: real(self, False))
    train.main(train.parse_args([*flags, str(tmp_path / "one")]))
    one, two = (weights(tmp_path / name) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)
    monkeypatch.undo()
    found = [torch.load(tmp_path / f"found.{rank}") for rank in range(2)]
    for case in ("unequal", "nothing"):
        expected, _ = gradients(case, 0, 1)
        assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3
        for rank in range(2):
            assert max(float((a - b).abs().max()) for a, b in zip(expected, found[rank][case][0])) < 1e-12
    # Called for two without another process, the exchange leaves half of each process's own statistics.
    one, other = (gradients("statistics", rank, 2)[1] for rank in range(2))
    for rank in range(2):
        assert all(torch.allclose(mean, a + b) for mean, a, b in zip(found[rank]["statistics"][1], one, other))


def test_one_process_is_the_same_path():
    assert ranks.join(torch.device("cpu")) == (0, 1) == ranks.rank_and_size()
    assert ranks.broadcast("x") == "x" and float(ranks.all_reduce(torch.tensor(3.0))) == 3


@pytest.mark.slow
def test_train_and_evaluate_as_two_processes(tmp_path):
    """One writer, and every tile is scored once."""
    write_set(tmp_path / "data", count=7, side=16)
    rows = [f"{split},{index},scene,0,{16 * index}" for split in ("train", "val", "test") for index in range(7)]
    (tmp_path / "data" / "tiles.csv").write_text("\n".join(["split,index,scene,row,col", *rows]) + "\n")
    out = tmp_path / "run"
    printed, silent = start_two(["train.py", "--data", str(tmp_path / "data"), "--out", str(out), *TINY, "--epochs", "2",
                                 "--ema", "0.9"])
    assert "mean IoU" in printed and silent == "" and len(log(out)) == 2
    words = ["evaluate.py", "--checkpoint", str(out / "best.pt"), "--bs", "2", "--out"]
    printed, silent = start_two([*words, str(tmp_path / "two")])
    assert "mean IoU" in printed and silent == ""
    evaluate.main(evaluate.parse_args([*words[1:], str(tmp_path / "one")]))
    one, two = (json.loads((tmp_path / name / "metrics_test.json").read_text()) for name in ("one", "two"))
    assert one == two and np.sum(two["confusion"]) == np.sum(np.load(tmp_path / "data" / "test_labels.npy") != 255)


STOPPED = """
import os, signal, sys
import train
real = train.take_step
train.take_step = lambda run, args, step: (real(run, args, step), step == 0 and os.kill(os.getpid(), signal.SIGTERM))
try:
    train.main(train.parse_args(sys.argv[1:]))
except SystemExit as stop:
    assert "stopped in epoch 1 after step 1" in str(stop)
"""


@pytest.mark.slow
def test_two_processes_stopped_within_an_epoch_log_the_loss_of_all(tmp_path):
    write_set(tmp_path / "data", count=8, side=16)
    flags = ["--data", str(tmp_path / "data"), *TINY, "--epochs", "1", "--save-every", "1", "--out"]
    start_two(["train.py", *flags, str(tmp_path / "whole")])
    start_two(["-c", STOPPED, *flags, str(tmp_path / "cut")])
    start_two(["train.py", *flags, str(tmp_path / "cut"), "--resume"])
    whole, cut = (log(tmp_path / name, "seconds", "images_per_s", "waiting_share", "peak_memory_mb") for name in ("whole", "cut"))
    assert cut == whole


def test_a_batch_that_cannot_be_shared_is_refused():
    args = train.parse_args(["--bs", "3"])
    with pytest.raises(ValueError, match="--bs 3: 2 processes share"):
        train.check_ranks(args, range(10), torch.device("cpu"), 2)
    with pytest.raises(ValueError, match="--sync-bn"):
        train.check_ranks(train.parse_args(["--sync-bn"]), range(16), torch.device("cpu"), 1)
