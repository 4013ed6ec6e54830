"""A run's folder: one writer at a time, nothing lost to a kill, gone on with to the bit."""

import fcntl
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import TINY, edit, run, same_run, write_set

import train
from data import TileDataset
from engine import runs
from engine.checkpoint import _digest as digest_of
from engine.checkpoint import load_checkpoint, load_model, save_checkpoint
from engine.meta import checkpoint_meta
from weak import ema

ROOT = pathlib.Path(train.__file__).parent
# Everything random in play at once.
RICH = ["--epochs", "3", "--bs", "1", "--dropout", "0.2", "--rotate", "10", "--zoom", "1.2", "--jitter", "0.1", "--ema", "0.9",
        "--loss", "ce+jaccard", "--class-weights", "sqrt", "--save-every", "2", "--superpixels", "4", "--teacher", "0.5",
        "--crf", "0.1", "--point-jitter", "1", "--points-share", "0.5"]
# A process that kills itself at the n-th call of one of train.py's functions: in a step, before a checkpoint takes its
# name, or between an epoch's row and its checkpoint.
KILLED = """
import os, signal, sys
import train
calls = 0
def killing(function):
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted
{place} = killing({place})
train.main(train.parse_args({arguments!r}))
"""


@pytest.fixture
def data(tmp_path):
    write_set(tmp_path / "data", count=5, side=16)
    return str(tmp_path / "data")


def run_and_kill(data, out, place, call, *flags):
    """Run train.py in a process that is killed at the call-th call of `place`; True if it was."""
    arguments = ["--data", data, "--out", str(out), *TINY, *RICH, *flags]
    code = KILLED.format(place=place, call=call, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def check_killed_runs(data, tmp_path, seed, kills):
    """Kill a run again and again, go on each time, and compare with one that never was."""
    generator = random.Random(seed)
    run(data, tmp_path / "whole", *RICH)
    for _ in range(kills):
        out = tmp_path / "parts"
        resume = ["--resume"] if out.joinpath("last.pt").exists() else []
        place, most = generator.choice([("train.augment", 8), ("train.append_row", 2), ("os.replace", 6)])
        run_and_kill(data, out, place, generator.randint(1, most), *resume)
    run(data, tmp_path / "parts", *RICH, *(["--resume"] if out.joinpath("last.pt").exists() else []))
    same_run(tmp_path / "whole", tmp_path / "parts")
    for name in ("best.pt", "last.pt"):
        whole, parts = (load_checkpoint(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert digest_of({part: whole[part] for part in ("model", "data", "train")}) == digest_of(
            {part: parts[part] for part in ("model", "data", "train")})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_ten_times_and_resumed_equals_never_stopped(data, tmp_path, seed):
    check_killed_runs(data, tmp_path, seed, kills=10)


def test_a_kill_loses_at_most_the_steps_since_the_last_save(data, tmp_path):
    assert run_and_kill(data, tmp_path / "run", "train.augment", 4)  # within the 4th step of 5, two steps a save
    train_state = load_checkpoint(tmp_path / "run" / "last.pt")["train"]
    assert (train_state["epoch"], train_state["step"]) == (0, 2)


def test_a_run_killed_before_its_report_writes_it_when_resumed(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "1")
    (tmp_path / "run" / "metrics.json").unlink()
    assert run(data, tmp_path / "run", "--epochs", "1", "--resume")["split"] == "test"
    assert (tmp_path / "run" / "metrics.json").exists()


def test_two_processes_do_not_write_to_one_folder(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    with open(tmp_path / "run" / "args.json", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process writes to .*run: let it end, or give another --out"):
            run(data, tmp_path / "run", "--epochs", "2", "--resume")
    run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_a_folder_without_a_checkpoint_is_free(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text('{"half": ')
    run(data, tmp_path / "run", "--epochs", "1")
    assert json.loads((tmp_path / "run" / "args.json").read_text())["epochs"] == 1


def test_a_torn_row_of_the_log_is_cut_off(data, tmp_path):
    flags = ["--epochs", "3", "--stop-after", "1"]
    run(data, tmp_path / "run", *flags)
    whole = (tmp_path / "run" / "log.csv").read_bytes()
    with open(tmp_path / "run" / "log.csv", "a") as file:
        file.write("2,0.5")
    run(data, tmp_path / "run", *flags, "--resume")  # which has nothing left to train before it stops
    assert (tmp_path / "run" / "log.csv").read_bytes() == whole


def test_a_log_that_lacks_epochs_is_not_gone_on_with(data, tmp_path):
    flags = ["--epochs", "3", "--stop-after", "2"]
    run(data, tmp_path / "run", *flags)
    rows = (tmp_path / "run" / "log.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "log.csv").write_bytes(b"".join(rows[:2]))
    with pytest.raises(ValueError, match="log.csv holds 1 of its 2 epochs: put it back"):
        run(data, tmp_path / "run", *flags, "--resume")
    assert (tmp_path / "run" / "log.csv").read_bytes() == b"".join(rows[:2])


def test_a_full_disk_is_said_of_the_log(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="log.csv could not be written .No space left on device.: free some space"):
        runs.append_row(tmp_path / "log.csv", {"epoch": 1})


def test_a_run_goes_on_by_its_folder_alone(data, tmp_path, monkeypatch):
    flags = ["--data", str(data), "--width", "4", "--depth", "2", "--bs", "2", "--lr", "3e-4", "--no-flips", "--oversample", "c0",
             "--epochs", "2", "--points", "3", "--final", "last", "--out", str(tmp_path / "run")]
    train.main(train.parse_args([*flags, "--stop-after", "1"]))
    monkeypatch.chdir(tmp_path)
    args = train.parse_args(["--out", "run", "--resume"])
    assert (args.lr, args.points, args.flips, args.oversample, args.stop_after) == (3e-4, 3, False, ["c0"], 0)
    assert train.main(args)["checkpoint"].endswith("last.pt") and not (tmp_path / "data" / "demo").exists()
    for spoilt in ("[" * 10**5, '{"lr": "x"}', '{"schedule": "none"}', '{"bs": null, "epochs": true}', '{"seed": [1, 2]}'):
        (tmp_path / "run" / "args.json").write_text(spoilt)
        with pytest.raises((SystemExit, ValueError)):
            train.main(train.parse_args(["--out", "run", "--resume", "--data", str(data)]))
    (tmp_path / "run" / "args.json").write_text('{"lr": [1], "epochs": "x')
    with pytest.raises(ValueError, match="--lr was 0.0003"):  # so the flags have to be given
        train.main(train.parse_args(["--out", "run", "--resume", "--data", str(data)]))


def test_every_change_is_named_when_a_run_is_not_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compile_network", lambda model, device: None)  # seconds, for a run that is refused
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    with pytest.raises(ValueError, match="--width was 4 and is 8 now; --lr was 0.001 and is 0.1 now"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume", "--lr", "0.1", "--width", "8")
    with pytest.raises(ValueError, match="--no-flips was off and is on now; --compile was off and is on now"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume", "--no-flips", "--compile")


def test_other_tiles_under_the_same_path_are_noticed(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    whole = load_checkpoint(tmp_path / "run" / "last.pt")
    pixels = json.loads((tmp_path / "data" / "dataset.json").read_text())["pixels"]
    assert whole["train"]["counts"].items() >= {f"{key} of {split}": 5 if key == "tiles" else pixels[split]
                                                for key in ("tiles", "pixels") for split in ("train", "val", "test")}.items()
    edit(tmp_path / "data", "pixels", pixels | {"val": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"is not the data set .* was started on \(pixels of val differ\): start a new run"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume")
    del whole["train"]["counts"]  # as checkpoints were before
    save_checkpoint(tmp_path / "run" / "last.pt", *(whole[part] for part in ("model", "data", "train", "args")))
    run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_other_images_under_the_same_path_are_noticed(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    images = np.load(tmp_path / "data" / "val_images.npy")
    np.save(tmp_path / "data" / "val_images.npy", 255 - images)
    with pytest.raises(ValueError, match=r"\(look of val differ\): start a new run"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_other_facts_of_the_data_are_named(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    edit(tmp_path / "data", "mean", [1.0, 2.0, 3.0])
    edit(tmp_path / "data", "std", [4.0, 5.0, 6.0])
    with pytest.raises(ValueError, match=r"\(mean, std differ\): start a new run"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume")


def lacking_one_tensor(train):
    del train["optimizer"]["state"][0]["exp_avg"]


def lacking_a_parameter(train):
    del train["optimizer"]["state"][1]


def of_another_shape(train):
    train["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)


def of_no_shape(train):
    train["optimizer"]["state"][0]["exp_avg"] = torch.tensor(0.0)


def with_words(train):
    train["scheduler"]["factor"] = "half"


def endless(train):
    train["epoch"] = float("inf")


def beyond_its_end(train):
    train["step"] = 10**9


def before_its_start(train):
    train["epoch"] = -1


def with_one_loss_for_all_steps(train):
    train["record"] = torch.tensor(1.0)


@pytest.mark.parametrize("spoil", [lacking_one_tensor, lacking_a_parameter, of_another_shape, of_no_shape, with_words, endless,
                                   beyond_its_end, before_its_start, with_one_loss_for_all_steps])
def test_a_checkpoint_that_lacks_what_going_on_takes_is_refused(data, tmp_path, spoil):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    path = tmp_path / "run" / "last.pt"
    content = load_checkpoint(path)
    spoil(content["train"])
    save_checkpoint(path, *(content[part] for part in ("model", "data", "train", "args")))  # its checksum fits
    with pytest.raises(ValueError, match="last.pt lacks what going on takes"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_the_optimisers_settings_are_the_commands(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    path = tmp_path / "run" / "last.pt"
    content = load_checkpoint(path)
    content["train"]["optimizer"]["param_groups"][0]["betas"] = "none"
    save_checkpoint(path, *(content[part] for part in ("model", "data", "train", "args")))
    run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_runs_say_which_points_they_learn_from(data, tmp_path, capsys):
    draws = []
    for name, flags in (("a", ["--lr", "0.1"]), ("b", ["--lr", "0.2"]), ("c", ["--seed", "1"]), ("d", ["--point-jitter", "2"])):
        run(data, tmp_path / name, "--points", "3", "--epochs", "1", *flags)
        draws += re.findall(r"3 points a tile, draw ([0-9a-f]{8});", capsys.readouterr().out)
    assert len(draws) == 4 and draws[0] == draws[1] and len(set(draws)) == 3


def test_rank_0_alone_cuts_the_log_back(data, tmp_path):
    flags = ["--data", data, "--out", str(tmp_path / "run"), *TINY]
    train.main(train.parse_args([*flags, "--epochs", "2", "--stop-after", "1"]))
    args = train.parse_args([*flags, "--epochs", "2", "--resume"])
    tiles = TileDataset(data, "train", args.points)
    meta = checkpoint_meta(tiles.meta)
    with open(tmp_path / "run" / "log.csv", "a") as file:
        file.write("2,0.5")
    for rank, torn in ((1, True), (0, False)):
        state = train.build_run(args, meta, tiles, torch.device("cpu"))
        state.rank = rank
        runs.resume(state, args, meta, torch.device("cpu"))
        assert (tmp_path / "run" / "log.csv").read_text().endswith("2,0.5") == torn and state.epoch == 1


def test_the_folder_s_name_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = train.parse_args([])
    for name, wanted in (("a[1]", "runs/a[1]-unet-1"), ("a[1]", "runs/a[1]-unet-2"), ("a**b", "runs/a**b-unet-1")):
        args.data, args.out = name, None
        with runs.run_dir_lock(args):
            assert args.out == wanted


def test_the_average_is_what_is_kept_as_best_and_rebuilt(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "1", "--ema", "0.9")
    last, best = (load_checkpoint(tmp_path / "run" / name) for name in ("last.pt", "best.pt"))
    name = next(key for key, tensor in last["model"]["state"].items() if tensor.ndim == 4)
    assert not torch.equal(last["model"]["state"][name], last["train"]["ema"][name])
    assert torch.equal(best["model"]["state"][name], last["train"]["ema"][name])
    assert torch.equal(load_model(tmp_path / "run" / "last.pt")[0].state_dict()[name], last["train"]["ema"][name])


def test_the_average_by_hand():
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(average.weight, 0.0)
    for updates, value, expected in ((1, 4.0, 2.0), (2, 5.0, 3.0), (9, 13.0, 5.0)):  # keeps 1/2, 2/3, then 0.8
        torch.nn.init.constant_(model.weight, value)
        ema.update_ema(average, model, 0.8, updates)
        assert average.weight.item() == pytest.approx(expected)


def test_the_average_takes_batch_norm_statistics_as_they_are():
    average, model = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    model(torch.full((1, 1, 2, 2), 8.0))
    ema.update_ema(average, model, 0.9, 100)
    assert float(average.running_mean) == pytest.approx(0.8) and int(average.num_batches_tracked) == 1


def test_rows_share_one_header(tmp_path):
    for value in (1, 2):
        runs.append_row(tmp_path / "log.csv", {"a": value, "b": "x"})
    assert (tmp_path / "log.csv").read_text().splitlines() == ["a,b", "1,x", "2,x"]


@pytest.mark.slow
def test_peak_memory_is_this_process_alone_whatever_started_it():
    held = np.ones(2**27)  # 1 GiB
    code = "import torch, runs; print(runs.peak_memory_mb(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 0.9 * held.nbytes / 1e6 < runs.peak_memory_mb(torch.device("cpu"))
