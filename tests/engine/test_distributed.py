"""Two processes compute what one does."""

import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import MEASURED, TINY, gradients, log, weights, write_set

import evaluate
import train
from engine.cli import one_line_errors
from engine.distributed import (
    all_reduce, broadcast, init_distributed, leave_at_once, rank_and_size)

ROOT = pathlib.Path(train.__file__).parent


def keep_evaluation_mode(patch=setattr):
    """Networks stay in evaluation mode: batch norm would see other tiles in each process."""
    real = torch.nn.Module.train
    patch(torch.nn.Module, "train", lambda self, mode=True: real(self, False))


def compare_process(found, *flags):
    """What each of two processes does: gradients of its share of a batch, then a run."""
    rank, world_size = init_distributed(torch.device("cpu"))
    cases = ("unequal", "nothing", "statistics")
    torch.save({case: gradients(case, rank, world_size) for case in cases}, f"{found}.{rank}")
    keep_evaluation_mode()
    train.main(train.parse_args(flags))


def stopped_process(*flags):
    """A run in which every process gets SIGTERM in its first step."""
    real = train.optimizer_step

    def step_and_stop(run, args, done):
        real(run, args, done)
        if done == 0:
            signal.raise_signal(signal.SIGTERM)

    train.SAVE_EVERY = 1
    train.optimizer_step = step_and_stop
    with pytest.raises(KeyboardInterrupt, match="epoch 1 after step 1"):
        train.main(train.parse_args(flags))


def failing_process(how, *flags):
    """A run in which rank 1 fails in the second step, or both where the loss is not finite."""
    rank = int(os.environ["RANK"])
    real = train.optimizer_step

    def step_and_fail(run, args, done):
        real(run, args, done)
        if done == 1 and how == "loss":
            run.step_log[0, 1] = math.nan
        elif done == 1 and rank and how == "error":
            raise OSError("rank 1 cannot go on")
        elif done == 1 and rank and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

    train.optimizer_step = step_and_fail
    with one_line_errors("train.py", "", ""):
        train.main(train.parse_args(flags))


def start_two(*words, cwd=ROOT, codes=(0, 0)):
    """Run a command as two processes, as torchrun starts them.

    Returns:
        [what each printed], or where they are to end with other exit codes, [its errors].
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "OMP_NUM_THREADS": "1",
              "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = []
    for rank in ("0", "1"):
        environment = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=cwd, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [*codes], outputs
    return [errors if any(codes) else printed for printed, errors in outputs]


def largest_difference(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_data_parallel__two_processes_equal_one(tmp_path, monkeypatch):
    """Also if one of them has no label at all; batch-norm statistics are the mean of both."""
    write_set(tmp_path / "data", count=5, side=16)
    labels = np.load(tmp_path / "data" / "train_labels.npy")
    labels[:2, 1:] = 255  # unequal shares
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    flags = ["--data", str(tmp_path / "data"), *TINY, "--points", "0", "--bs", "4", "--epochs", "2",
             "--optimizer", "sgd", "--lr", "0.1", "--class-weights", "sqrt", "--accumulate", "2",
             "--out"]
    start_two(__file__, "compare_process", tmp_path / "found", *flags, tmp_path / "two")
    with monkeypatch.context() as patch:
        keep_evaluation_mode(patch.setattr)
        train.main(train.parse_args([*flags, str(tmp_path / "one")]))
    one = weights(tmp_path / "one")
    two = weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)

    found = [torch.load(tmp_path / f"found.{rank}") for rank in range(2)]
    for case in ("unequal", "nothing"):
        expected, _ = gradients(case, 0, 1)
        assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3
        for rank in range(2):
            assert largest_difference(expected, found[rank][case][0]) < 1e-12
    shares = [gradients("statistics", rank, 2)[1] for rank in range(2)]
    mean = [(a + b) / 2 for a, b in zip(*shares, strict=True)]
    for rank in range(2):
        assert largest_difference(mean, found[rank]["statistics"][1]) < 1e-12


def test_init_distributed__one_process_needs_no_others():
    assert init_distributed(torch.device("cpu")) == (0, 1) == rank_and_size()
    assert broadcast("x") == "x"
    assert float(all_reduce(torch.tensor(3.0))) == 3


@pytest.mark.slow
def test_commands__two_processes_have_one_writer_and_score_every_tile_once(tmp_path):
    data = tmp_path / "data"
    write_set(data, count=7, side=16)
    rows = ["split,index,scene,row,col"]
    for split in ("train", "val", "test"):
        rows += [f"{split},{index},scene,0,{16 * index}" for index in range(7)]
    (data / "tiles.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "run"
    printed, silent = start_two("train.py", "--data", data, "--out", out, *TINY, "--epochs", "2",
                                "--ema", "0.9")
    assert "mean IoU" in printed and silent == "" and len(log(out)) == 2
    words = ["--checkpoint", str(out / "best.pt"), "--bs", "2", "--out"]
    printed, silent = start_two("evaluate.py", *words, tmp_path / "two")
    assert "mean IoU" in printed and silent == ""
    evaluate.main(evaluate.parse_args([*words, str(tmp_path / "one")]))
    one, two = (json.loads((tmp_path / name / "metrics_test.json").read_text())
                for name in ("one", "two"))
    assert one == two
    assert np.sum(two["confusion"]) == np.sum(np.load(data / "test_labels.npy") != 255)


@pytest.mark.slow
def test_main__two_processes_stopped_and_resumed_log_the_loss_of_all(tmp_path):
    write_set(tmp_path / "data", count=8, side=16)
    flags = ["--data", tmp_path / "data", *TINY, "--epochs", "1", "--out"]
    start_two("train.py", *flags, tmp_path / "whole")
    start_two(__file__, "stopped_process", *flags, tmp_path / "cut")
    start_two("train.py", *flags, tmp_path / "cut", "--resume")
    assert log(tmp_path / "cut", *MEASURED) == log(tmp_path / "whole", *MEASURED)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.parametrize("how, codes", [
    ("loss", (2, 2)), ("error", (2, 2)), ("kill", (2, -9))])
def test_one_line_errors__what_ends_one_process_ends_all_in_a_line_each(tmp_path, how, codes):
    write_set(tmp_path / "data", count=8, side=16)
    flags = ["--data", tmp_path / "data", *TINY, "--epochs", "9", "--out", tmp_path / "run"]
    started = time.monotonic()
    errors = start_two(__file__, "failing_process", how, *flags, codes=codes)
    assert time.monotonic() - started < 60  # nearly all of it to import torch
    for rank, code in enumerate(codes):
        lines = errors[rank].splitlines()
        assert len(lines) == (code == 2) and all(line.startswith("train.py: ") for line in lines)
    own = {"loss": "step 2.*nan", "error": "rank 1 cannot go on", "kill": "^$"}[how]
    assert re.search(own, errors[1].strip())
    other = own if how == "loss" else "another of the processes"
    assert re.search(other, errors[0])


if __name__ == "__main__":
    with leave_at_once():
        globals()[sys.argv[1]](*sys.argv[2:])
