"""A run's folder: one writer at a time, nothing lost to a kill, resumed bit for bit."""

import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from helpers import TINY, edit, log, run, same_run, write_set
from test_folds import corners, write_points

import train
from data import TileDataset
from engine import runs
from engine.checkpoint import load_checkpoint, load_model, save_checkpoint
from engine.lock import locked
from engine.meta import checkpoint_meta

ROOT = pathlib.Path(train.__file__).parent
# Everything random in play at once.
RICH = ["--epochs", "3", "--bs", "1", "--rotate", "10", "--zoom", "1.2", "--ema", "0.9",
        "--loss", "ce+jaccard", "--class-weights", "sqrt"]


@pytest.fixture
def data(tmp_path):
    write_set(tmp_path / "data", count=5, side=16)
    return str(tmp_path / "data")


@pytest.fixture
def paused(data, tmp_path):
    """The folder of a run that is paused after the first of two epochs."""
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    return tmp_path / "run"


def resume(data, out, *flags):
    return run(data, out, "--epochs", "2", "--resume", *flags)


def edit_checkpoint(path, change):
    """Change a checkpoint's content, and its checksum with it."""
    content = load_checkpoint(path)
    change(content)
    save_checkpoint(path, *(content[part] for part in ("model", "data", "train", "args")))


# Killing: a process that ends itself at the n-th call of a function, without any clean-up.

PLACES = {
    "in a step": (train, "augment", 8),
    "before an epoch's row": (runs, "append_row", 2),
    "before a checkpoint takes its name": (os, "replace", 6),
}


def killed_process(place, number, *flags):
    """Train, but kill this process at a call of a function."""
    module, name, _ = PLACES[place]
    real = getattr(module, name)
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(module, name, counted)
    train.SAVE_EVERY = 2
    train.main(train.parse_args(flags))


def run_and_kill(data, out, place, number, settings=RICH):
    """Train or resume in a process that is killed; whether it was before its end."""
    flags = ["--data", data, "--out", str(out), *TINY, *settings]
    if out.joinpath("last.pt").exists():
        flags.append("--resume")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, __file__, place, str(number), *flags], cwd=ROOT,
                          env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")


@pytest.mark.slow
@needs_kill
def test_save__a_kill_loses_at_most_the_steps_since_the_last_save(data, tmp_path):
    out = tmp_path / "parts"
    assert run_and_kill(data, out, "in a step", 4)  # the 4th of 5 steps, two per save
    state = load_checkpoint(out / "last.pt")["train"]
    assert (state["epoch"], state["step"]) == (0, 2)
    run(data, tmp_path / "whole", *RICH)
    run(data, out, *RICH, "--resume")
    same_run(tmp_path / "whole", out)


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_save__killed_ten_times_and_resumed_equals_never_stopped(data, tmp_path, seed):
    generator = random.Random(seed)
    out = tmp_path / "parts"
    run(data, tmp_path / "whole", *RICH)
    for _ in range(10):
        place = generator.choice(list(PLACES))
        run_and_kill(data, out, place, generator.randint(1, PLACES[place][2]))
    last = ["--resume"] if out.joinpath("last.pt").exists() else []
    run(data, out, *RICH, *last)
    same_run(tmp_path / "whole", out)


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_train_folds__killed_ten_times_and_resumed_equal_never_stopped(tmp_path, seed):
    generator = random.Random(seed)
    data = write_points(tmp_path / "data", {"a": corners(), "b": corners((9, 9))})
    settings = ["--points", "0", "--epochs", "2", "--bs", "1", "--folds", "2", "--ema", "0.9"]
    whole = run(str(data), tmp_path / "whole", *settings)
    out = tmp_path / "parts"
    for _ in range(10):
        place = generator.choice(list(PLACES))
        run_and_kill(str(data), out, place, generator.randint(1, 2 * PLACES[place][2]), settings)
    last = ["--resume"] if out.joinpath("last.pt").exists() else []
    run(str(data), out, *settings, *last)
    scores = json.loads((out / "metrics.json").read_text())
    assert {**scores, "checkpoint": whole["checkpoint"]} == json.loads(json.dumps(whole))
    for name in ("", "fold-1", "fold-2"):
        same_run(tmp_path / "whole" / name, out / name, ["last.pt"])


# The folder and its lock.

def test_run_dir_lock__one_process_writes_to_a_folder(data, paused):
    with locked(paused / "args.json"):
        with pytest.raises(OSError, match="--out"):
            resume(data, paused)
    assert resume(data, paused)["split"] == "test"


def test_run_dir_lock__a_run_that_came_and_went_meanwhile_stays(tmp_path, monkeypatch):
    """Between the look at the folder and its lock, another run begins and pauses."""
    real = runs.locked

    def late(path):
        path.write_text("of another run")
        path.with_name("last.pt").touch()
        return real(path)

    monkeypatch.setattr(runs, "locked", late)
    with pytest.raises(ValueError, match="--resume"):
        with runs.run_dir_lock(train.parse_args(["--out", str(tmp_path / "run")])):
            pass
    assert (tmp_path / "run/args.json").read_text() == "of another run"


@pytest.mark.parametrize("module, name, number", [
    (train, "evaluate", 1), (train, "evaluate", 2), (runs, "save", 2)],
    ids=["before an epoch's row", "before the report", "before a checkpoint"])
def test_check_folder__a_run_that_lost_its_folder_writes_nothing_there(data, tmp_path, monkeypatch,
                                                                       module, name, number):
    out = tmp_path / "run"
    real = getattr(module, name)
    calls = []

    def take_first(*arguments, **options):
        """Before the number-th call, another run takes the folder's place."""
        calls.append(1)
        if len(calls) == number:
            shutil.rmtree(out)
            out.mkdir()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, take_first)
    with pytest.raises(FileNotFoundError, match="run .*--out"):
        run(data, out, "--epochs", "1", pictures=True)
    assert not list(out.iterdir())


def test_run_dir_lock__a_run_is_not_overwritten(data, paused):
    with pytest.raises(ValueError, match="--resume"):
        run(data, paused, "--epochs", "1")


def test_run_dir_lock__a_folder_without_a_checkpoint_is_free(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text('{"half": ')
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    assert json.loads((tmp_path / "run" / "args.json").read_text())["epochs"] == 2


def test_run_dir_lock__takes_the_next_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = train.parse_args([])
    for name, expected in (("a[1]", "runs/a[1]-unet-1"), ("a[1]", "runs/a[1]-unet-2"),
                           ("a**b", "runs/a**b-unet-1")):
        args.data = name
        args.out = None
        with runs.run_dir_lock(args):
            assert args.out == expected


# Resuming: flags.

def test_resumed_flags__a_run_is_resumed_from_its_folder_alone(data, tmp_path, monkeypatch):
    flags = ["--data", data, "--lr", "3e-4", "--no-flips", "--final", "last", "--epochs", "2"]
    out = tmp_path / "run"
    train.main(train.parse_args(["--out", str(out), *TINY, *flags, "--stop-after", "1"]))
    (out / "args.json").write_text("[" * 10**5)  # not needed
    monkeypatch.chdir(tmp_path)
    args = train.parse_args(["--out", "run", "--resume"])
    assert (args.lr, args.points, args.flips, args.stop_after) == (3e-4, 5, False, 0)
    assert train.main(args)["checkpoint"].endswith("last.pt")
    assert json.loads((out / "args.json").read_text())["lr"] == 3e-4  # whole again
    assert not (tmp_path / "data" / "demo").exists()


def test_main__a_resumed_run_makes_no_demo_in_the_working_folder(paused, tmp_path, monkeypatch):
    edit_checkpoint(paused / "last.pt", lambda content: content["args"].update(data="data/demo"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="data/demo"):
        train.main(train.parse_args(["--out", str(paused), "--resume"]))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("make", [pathlib.Path.mkdir, getattr(os, "mkfifo", None)])
def test_run_dir_lock__no_regular_file_is_refused(paused, make):
    (paused / "args.json").unlink()
    make(paused / "args.json")
    with pytest.raises(ValueError, match="args.json"):
        with runs.run_dir_lock(train.parse_args(["--out", str(paused), "--resume"])):
            pass


def test_resumed_flags__needs_a_folder_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--out"):
        runs.resumed_flags(None)
    with pytest.raises(ValueError, match="last.pt"):
        runs.resumed_flags("runs/x")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name, value", [
    ("point_jitter", 2.0), ("oversample", ["trees"]), ("sync_bn", True)])
def test_resumed_flags__refuses_a_flag_that_no_longer_exists(paused, name, value):
    edit_checkpoint(paused / "last.pt", lambda content: content["args"].update({name: value}))
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
        runs.resumed_flags(paused)


def test_resumed_flags__removed_flags_at_their_defaults_change_nothing(data, paused):
    edit_checkpoint(paused / "last.pt", lambda content: content["args"].update(runs.REMOVED_FLAGS))
    assert resume(data, paused)["split"] == "test"


def test_resumed_flags__a_switch_has_the_name_that_is_typed(paused):
    edit_checkpoint(paused / "last.pt", lambda content: content["args"].update(skips=False))
    with pytest.raises(ValueError, match="--no-skips"):
        runs.resumed_flags(paused)


@pytest.mark.parametrize("saved", ["auto", "bf16", "off"])
def test_parse_resumed__amp_auto_is_the_precision_that_the_run_began_with(paused, saved):
    edit_checkpoint(paused / "last.pt", lambda content: content["args"].update(amp=saved))
    for words in ([], ["--amp", "auto"]):
        assert train.parse_args(["--out", str(paused), "--resume", *words]).amp == saved


@pytest.mark.parametrize("words", ["--lr 0.1", "--width 8", "--points 6", "--epochs 3",
                                   "--no-flips", "--lr 0.1 --ema 0.5"])
def test_check_same_command__names_every_changed_flag(data, paused, words):
    with pytest.raises(ValueError) as error:
        resume(data, paused, *words.split())
    for word in words.split():
        if word.startswith("--"):
            assert word in str(error.value)


# Resuming: data.

def test_resume__other_metadata_of_the_data_are_named(data, paused):
    edit(pathlib.Path(data), "mean", [1.0, 2.0, 3.0])
    edit(pathlib.Path(data), "std", [4.0, 5.0, 6.0])
    with pytest.raises(ValueError, match=r"\(mean, std differ\)"):
        resume(data, paused)


def test_resume__other_labels_are_noticed(data, paused):
    pixels = json.loads(pathlib.Path(data, "dataset.json").read_text())["pixels"]
    edit(pathlib.Path(data), "pixels", pixels | {"val": [1, 2, 3]})
    with pytest.raises(ValueError, match="pixels of val"):
        resume(data, paused)
    # Checkpoints of earlier versions lack the counts.
    edit_checkpoint(paused / "last.pt", lambda content: content["train"].pop("counts"))
    resume(data, paused)


def test_resume__other_images_are_noticed(data, paused):
    path = pathlib.Path(data, "val_images.npy")
    np.save(path, 255 - np.load(path))
    with pytest.raises(ValueError, match="look of val"):
        resume(data, paused)


# Resuming: the state.

def moments(train_part):
    return train_part["optimizer"]["state"]


@pytest.mark.parametrize("spoil", [
    pytest.param(lambda t: moments(t)[0].pop("exp_avg"), id="one moment"),
    pytest.param(lambda t: moments(t).pop(1), id="moments of one parameter"),
    pytest.param(lambda t: moments(t)[0].update(exp_avg=torch.zeros(2)), id="another shape"),
    pytest.param(lambda t: moments(t)[0].update(exp_avg=torch.tensor(0.0)), id="no shape"),
    pytest.param(lambda t: t.pop("optimizer"), id="no optimiser, as in best.pt"),
    pytest.param(lambda t: t.update(epoch=math.inf), id="endless"),
    pytest.param(lambda t: t.update(step=10**9), id="after the end"),
    pytest.param(lambda t: t.update(epoch=-1), id="before the start"),
    pytest.param(lambda t: t.update(counts=7), id="counts of another type"),
])
def test_resume__refuses_an_incomplete_state(data, paused, spoil):
    edit_checkpoint(paused / "last.pt", lambda content: spoil(content["train"]))
    with pytest.raises(ValueError, match="last.pt") as error:
        resume(data, paused)
    assert "\n" not in str(error.value)


def test_load_optimizer__restores_the_rate_that_plateau_has_halved():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.8)
    runs.load_optimizer(optimizer, torch.optim.SGD([weight], lr=0.2).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.NAdam])
def test_load_optimizer__takes_the_moments_of_an_optimiser_that_a_fork_adds(kind):
    weight, bias = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2))
    stepped = kind([weight, bias], lr=0.1)
    (weight.sum() + bias.sum()).backward()
    stepped.step()
    optimizer = kind([weight, bias], lr=0.1)
    runs.load_optimizer(optimizer, stepped.state_dict())
    assert optimizer.state[bias].keys() == stepped.state[bias].keys()


def test_load_optimizer__refuses_moments_that_all_parameters_lack():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"] = {0: {}}
    with pytest.raises(ValueError, match="incomplete"):
        runs.load_optimizer(optimizer, saved)


def test_load_optimizer__settings_are_the_commands(data, paused):
    def spoil(content):
        content["train"]["optimizer"]["param_groups"][0]["betas"] = "none"
    edit_checkpoint(paused / "last.pt", spoil)
    resume(data, paused)


def test_load_scheduler__takes_the_state_of_earlier_versions():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    optimizer.param_groups[0]["share"] = 1.0

    def scheduler():
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)

    old = scheduler()
    # They set the rate at the next step, so a rate just halved is in the factor alone.
    runs.load_scheduler(old, {"lowest": 0.5, "epochs": 3, "factor": 0.25}, 0.8)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    old.step(0.6)  # the fourth epoch that is not better
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    state = old.state_dict()
    new = scheduler()
    runs.load_scheduler(new, state, 0.8)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert new.best == 0.5 and new.state_dict() == state


def test_resume__only_rank_0_cuts_the_log_back(data, paused):
    args = train.parse_args(["--out", str(paused), "--resume"])
    tiles = TileDataset(data, "train", args.points)
    meta = checkpoint_meta(tiles.meta)
    device = torch.device("cpu")
    with open(paused / "log.csv", "a", encoding="utf-8") as file:
        file.write("2,0.5")
    for rank, torn in ((1, True), (0, False)):
        state = train.build_run(args, meta, tiles, device)
        state.rank = rank
        runs.resume(state, args, meta, device)
        assert (paused / "log.csv").read_text().endswith("2,0.5") == torn
        assert state.epoch == 1


# log.csv

def test_cut_log__keeps_the_finished_epochs(tmp_path):
    path = tmp_path / "log.csv"
    runs.cut_log(path, 0)  # nothing there, nothing to do
    path.write_bytes(b"epoch\r\n1\r\n2\r\n3,0.")
    runs.cut_log(path, 2)
    assert path.read_bytes() == b"epoch\r\n1\r\n2\r\n"
    with pytest.raises(ValueError, match="log.csv holds 2 of its 3 epochs"):
        runs.cut_log(path, 3)
    assert path.read_bytes() == b"epoch\r\n1\r\n2\r\n"
    runs.cut_log(path, 0)
    assert path.read_bytes() == b""
    path.write_text("epoch," + "x" * 200_000 + "\n1,\n")
    with pytest.raises(ValueError, match="log.csv is damaged .*limit"):
        runs.cut_log(path, 1)


def test_append_row__one_header_which_stays(tmp_path):
    path = tmp_path / "log.csv"
    for value in (1, 2):
        runs.append_row(path, {"a": value, "b": "x"})
    runs.append_row(path, {"b": "y", "c": 5, "a": 3})  # as another version calls its columns
    runs.append_row(path, {"a": 4})
    assert path.read_text().splitlines() == ["a,b", "1,x", "2,x", "3,y", "4,"]


def test_append_row__a_log_of_an_older_version_keeps_its_columns(data, paused):
    rows = (paused / "log.csv").read_text().splitlines()
    header = rows[0].replace("images_per_s", "waiting_share,images_per_s")
    first = ",".join([*rows[1].split(",")[:9], "0.5", *rows[1].split(",")[9:]])
    (paused / "log.csv").write_text(f"{header}\n{first}\n")
    resume(data, paused)
    rows = log(paused)
    assert rows[0]["waiting_share"] == "0.5" and rows[1]["waiting_share"] == ""
    assert float(rows[1]["images_per_s"]) > 0 and rows[1]["epoch"] == "2"


def test_append_row__full_disk_is_one_line(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="log.csv .*No space left"):
        runs.append_row(tmp_path / "log.csv", {"epoch": 1})


# What is kept, printed and refused while training.

def test_save__the_average_is_what_is_kept_as_best(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "1", "--ema", "0.9")
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    name = next(key for key, tensor in last["model"]["state"].items() if tensor.ndim == 4)
    average = last["train"]["ema"][name]
    assert not torch.equal(last["model"]["state"][name], average)
    assert torch.equal(best["model"]["state"][name], average)
    rebuilt, _ = load_model(tmp_path / "run" / "last.pt")
    assert torch.equal(rebuilt.state_dict()[name], average)


def test_print_summary__shows_which_points_a_run_learns_from(data, tmp_path, capsys):
    draws = []
    for name, flags in (("a", []), ("b", ["--class-weights", "sqrt"]), ("c", ["--seed", "1"])):
        run(data, tmp_path / name, "--epochs", "2", "--stop-after", "1", *flags)
        printed = capsys.readouterr().out
        draws += re.findall(r"5 points per tile, draw ([0-9a-f]{8})", printed)
        assert ("class weights sqrt" in printed) == (name == "b")
    assert len(draws) == 3 and draws[0] == draws[1] != draws[2]


def one_step(model, scaler=None, norm=0.0):
    """The state of a run after its first step."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    step_log = torch.tensor([[0.0], [norm]])
    return types.SimpleNamespace(step_log=step_log, step=1, epoch=0, rank=0, model=model,
                                 scaler=scaler)


@pytest.mark.parametrize("model, name", [
    (torch.nn.Linear(1, 1), "weight"), (torch.nn.BatchNorm2d(1), "running_var")])
def test_check_step_log__weights_that_are_not_finite_are_named(model, name):
    args = train.parse_args([])
    runs.check_step_log(one_step(model), args)
    model.state_dict()[name].fill_(math.inf)
    with pytest.raises(ValueError, match=f"{name} is not finite"):
        runs.check_step_log(one_step(model), args)


def test_check_step_log__float16_overflow_at_any_scale_ends_the_run():
    model = torch.nn.Linear(1, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = train.parse_args([])

    def overflow():
        scaler.scale(model(torch.ones(1, 1)).sum() * math.inf).backward()
        scaler.step(optimizer)
        scaler.update()
        runs.check_step_log(one_step(model, scaler, math.inf), args)

    overflow()  # the scale is 1 now
    with pytest.raises(ValueError, match="--amp off"):
        overflow()
    assert model.weight.isfinite().all()


def test_catch_signals__collects_them_and_puts_the_handlers_back():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with runs.catch_signals() as caught:
        for number in numbers:
            signal.raise_signal(number)
    assert caught == list(numbers)
    assert [signal.getsignal(number) for number in numbers] == before


if __name__ == "__main__":
    killed_process(*sys.argv[1:])
