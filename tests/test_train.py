"""Runs of the real script on a tiny set: what it leaves behind, what it refuses, and that stopping changes nothing."""

import copy
import functools
import importlib.util
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from helpers import TINY, edit, log, run, same_run, weights, write_set

import evaluate
import train
from engine.checkpoint import load_checkpoint


@pytest.fixture
def data(tmp_path):
    write_set(tmp_path / "data", count=5, side=16)
    return str(tmp_path / "data")


def test_a_run_leaves_what_it_promises(data, tmp_path, capsys):
    out = tmp_path / "run"
    scores = run(data, out, "--epochs", "2")
    assert {path.name for path in out.iterdir()} == {"args.json", "log.csv", "last.pt", "best.pt", "metrics.json", "curves.png",
                                                     "preview.png"}
    assert scores == json.loads((out / "metrics.json").read_text())
    assert scores["labelled_pixels"] == 25 and scores["split"] == "test" and len(scores["classes"]) == 3
    rows = log(out)
    assert [row["epoch"] for row in rows] == ["1", "2"] and all(math.isfinite(float(v)) for row in rows for v in row.values())
    assert list(rows[0]) == ["epoch", "train_loss", "val_loss", "val_accuracy", "val_miou", "lr", "gradient_norm",
                             "overflows", "seconds", "waiting_share", "images_per_s", "peak_memory_mb"]
    printed = capsys.readouterr().out
    assert "25 px" in printed and "mean IoU" in printed and printed.rstrip().endswith("metrics.json")
    assert "optimizer" not in load_checkpoint(out / "best.pt")["train"]
    assert json.loads((out / "args.json").read_text())["points"] == 5


def test_the_default_folder_is_the_next_free_one(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        train.main(train.parse_args(["--data", "data", *TINY, "--epochs", "1", "--limit-batches", "1"]))
        assert (tmp_path / f"runs/data-unet-{number}/metrics.json").exists()


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_stopped_between_epochs_and_resumed_equals_never_stopped(data, tmp_path, schedule):
    flags = ["--epochs", "3", "--dropout", "0.2", "--rotate", "10", "--schedule", schedule]
    run(data, tmp_path / "whole", *flags)
    assert run(data, tmp_path / "parts", *flags, "--stop-after", "1") is None
    run(data, tmp_path / "parts", *flags, "--resume")
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_stopped_by_a_signal_within_an_epoch_and_resumed_equals_never_stopped(data, tmp_path, monkeypatch):
    flags = ["--epochs", "2", "--bs", "1", "--dropout", "0.2"]
    run(data, tmp_path / "whole", *flags)
    calls = []

    def terminate_in_step_8(*arguments):
        calls.append(1)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    real = train.augment
    monkeypatch.setattr(train, "augment", terminate_in_step_8)
    with pytest.raises(SystemExit, match="epoch 2 after step 3"):
        run(data, tmp_path / "parts", *flags)
    assert load_checkpoint(tmp_path / "parts" / "last.pt")["train"]["step"] == 3
    (tmp_path / "parts" / "log.csv").open("a").write("2,half a row of an epoch that was not finished\n")
    run(data, tmp_path / "parts", *flags, "--resume")
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_step_leaves_no_gradient_for_the_next(data, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(train, "finish_epoch", lambda run, *rest: left.extend(p.grad for p in run.model.parameters()))
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    assert left and all(gradient is None for gradient in left)


def test_the_same_command_gives_the_same_bits(data, tmp_path):
    for name in ("one", "other"):
        run(data, tmp_path / name, "--epochs", "1")
    same_run(tmp_path / "one", tmp_path / "other")


def test_signals_are_given_back_after_the_run(data, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(data, tmp_path / "run", "--epochs", "1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_stopped_while_the_last_epoch_is_validated_it_says_so_and_goes_on(data, tmp_path, monkeypatch):
    run(data, tmp_path / "whole", "--epochs", "1")

    def terminate(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    real = train.evaluate
    monkeypatch.setattr(train, "evaluate", terminate)
    with pytest.raises(SystemExit, match="stopped after epoch 1; go on with"):
        run(data, tmp_path / "parts", "--epochs", "1")
    monkeypatch.setattr(train, "evaluate", real)
    run(data, tmp_path / "parts", "--epochs", "1", "--resume")
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_is_finished_when_its_pictures_are_there(data, tmp_path, monkeypatch):
    def full(log):
        raise OSError("the disk is full")
    monkeypatch.setattr(train, "learning_curves", full)
    with pytest.raises(OSError):
        run(data, tmp_path / "run", "--epochs", "1")
    monkeypatch.undo()
    run(data, tmp_path / "run", "--epochs", "1", "--resume")
    assert {"curves.png", "preview.png", "metrics.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("signal_number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_interrupted_before_the_first_step_it_is_one_line(data, tmp_path, signal_number):
    code = ("import os, runpy, data\n"
            f"data.TileDataset.__len__ = lambda self: os.kill(os.getpid(), {int(signal_number)})\n"
            f"import sys; sys.argv = ['train.py', '--data', {str(data)!r}, '--out', {str(tmp_path / 'run')!r}]\n"
            f"runpy.run_path({train.__file__!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(train.__file__).parent, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and "train.py: interrupted" in done.stderr


def test_a_finished_run_says_so(data, tmp_path, capsys):
    run(data, tmp_path / "run", "--epochs", "1")
    assert run(data, tmp_path / "run", "--epochs", "1", "--resume") is None
    assert "is finished" in capsys.readouterr().out


def test_accumulating_equals_the_large_batch(data, tmp_path, monkeypatch):
    """With batch norm in evaluation mode, and unequal numbers of labelled pixels in the parts."""
    real = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, mode=True: real(self, False))
    labels = np.load(tmp_path / "data" / "train_labels.npy")
    labels[:2, 1:] = 255
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    for parts in ("1", "2", "4"):
        run(data, tmp_path / parts, "--epochs", "1", "--bs", "4", "--accumulate", parts, "--points", "0", "--optimizer", "sgd")
    whole, halves, quarters = (weights(tmp_path / parts) for parts in ("1", "2", "4"))
    for name, tensor in whole.items():
        assert torch.allclose(tensor, halves[name], rtol=1e-5, atol=1e-6), name
        assert torch.allclose(tensor, quarters[name], rtol=1e-5, atol=1e-6), name


def test_training_goes_on_without_a_labelled_pixel_in_the_batch(tmp_path):
    folder = tmp_path / "data"
    write_set(folder, count=4, side=16)
    labels = np.load(folder / "train_labels.npy")
    labels[1:] = 255  # three of four batches have nothing to learn from
    np.save(folder / "train_labels.npy", labels)
    run(str(folder), tmp_path / "run", "--epochs", "1", "--bs", "1", "--no-flips", "--shift", "0")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_sparse_sets_are_not_thinned_unasked(tmp_path, capsys):
    folder = tmp_path / "data"
    write_set(folder, count=4, side=32)
    labels = np.load(folder / "train_labels.npy")
    labels[:, 1:], labels[:, 0, 8:] = 255, 255  # 8 labelled px of 1,024 in each tile
    np.save(folder / "train_labels.npy", labels)
    edit(folder, "pixels", {split: [32, 0, 0] for split in ("train", "val", "test")})
    flags = [flag for flag in TINY if flag not in ("--points", "5")]
    scores = train.main(train.parse_args(["--data", str(folder), "--out", str(tmp_path / "run"), *flags, "--epochs", "1"]))
    assert scores["labelled_pixels"] == 32 and "every one there is" in capsys.readouterr().out


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(data, tmp_path, monkeypatch):
    real = train.normalise
    monkeypatch.setattr(train, "normalise", lambda *arguments: real(*arguments) * float("nan"))
    with pytest.raises(ValueError, match="epoch 1, step 1: the loss is nan .*train tiles .* try a lower --lr"):
        run(data, tmp_path / "run", "--epochs", "1")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_an_infinite_gradient_stops_the_run_before_it_is_saved(data, tmp_path, monkeypatch):
    real, calls = torch.nn.utils.clip_grad_norm_, []

    def infinite_at_the_second(*arguments):
        calls.append(real(*arguments))
        return calls[-1] if len(calls) != 2 else torch.tensor(math.inf)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", infinite_at_the_second)
    with pytest.raises(ValueError, match="epoch 1, step 2: .* gradient's norm inf .*train tiles"):
        run(data, tmp_path / "run", "--epochs", "1", "--save-every", "1")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["train"]["step"] == 1


def test_float16_overflow_is_left_out_and_counted(data, tmp_path, monkeypatch):
    """Half precision ends at 65,504: gradients scaled by 2^22 overflow until the scaler has come down."""
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0 ** 22))
    monkeypatch.setattr(train, "amp_dtype", lambda *_: torch.float16)
    monkeypatch.setattr(train, "evaluate", lambda *arguments, **options: evaluate.evaluate(*arguments[:4]))
    run(data, tmp_path / "run", "--epochs", "3", "--bs", "1", "--loss", "ce")
    overflows = [int(row["overflows"]) for row in log(tmp_path / "run")]
    assert overflows[0] > 0 and overflows[-1] == 0
    assert math.isfinite(float(log(tmp_path / "run")[-1]["gradient_norm"]))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_deterministic_is_switched_on(data, tmp_path):
    try:
        run(data, tmp_path / "run", "--epochs", "1", "--deterministic")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_tensorboard_gets_every_number_and_a_picture(data, tmp_path, monkeypatch):
    shown = []

    class Writer:
        def __init__(self, folder, purge_step):
            shown.append((str(folder), purge_step))

        def add_scalar(self, name, value, epoch):
            shown.append((name, epoch))

        def add_image(self, name, picture, epoch, dataformats):
            shown.append((name, epoch, picture.shape[2], dataformats))

        def flush(self):
            pass
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    run(data, tmp_path / "run", "--epochs", "2", "--tensorboard")
    assert shown[0] == (str(tmp_path / "run" / "tb"), 1)
    assert {("train_loss", 1), ("lr", 2), ("val_iou/c1", 2), ("preview", 2, 3, "HWC")} <= set(shown)


def test_a_missing_tensorboard_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run(data, tmp_path / "run", "--epochs", "1", "--tensorboard")


@pytest.mark.parametrize("flags, message", [
    (["--lr", "-1"], "--lr -1.0: give"),
    (["--lr", "nan"], "--lr nan"),
    (["--lr", "1e300"], "--lr 1e.300: give"),
    (["--bs", "0"], "--bs 0"),
    (["--points", "-3"], "--points -3"),
    (["--depth", "7"], "--depth 7: give a number from 1 to 6"),
    (["--model", "resnet"], "unet"),
    (["--encoder-lr", "0.1"], "unet has no encoder that learns"), (["--crop", "1"], "--crop 1: give a number of 2"),
    (["--loss", "iou"], "choose from ce, focal, dice, jaccard"),
    (["--oversample", "trees"], "--oversample trees: made has the classes c0, c1, c2"),
    (["--data", "nowhere"], "nowhere is not a prepared data set"),
    (["--resume"], "no checkpoint"),
])
def test_what_makes_no_sense_is_one_line_and_leaves_nothing(data, tmp_path, flags, message):
    with pytest.raises((ValueError, OSError), match=message) as error:
        run(data, tmp_path / "run", "--epochs", "1", *flags)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_another_network_or_rate_is_refused_on_resume(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1")
    for flags in (["--lr", "0.1"], ["--width", "8"], ["--points", "6"], ["--epochs", "3"]):
        with pytest.raises(ValueError, match=f"{flags[0]} was"):
            run(data, tmp_path / "run", "--epochs", "2", "--resume", *flags)
    edit(tmp_path / "data", "mean", [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="is not the data set"):
        run(data, tmp_path / "run", "--epochs", "2", "--resume")


def test_what_is_not_a_whole_last_checkpoint_or_log_is_one_line(data, tmp_path):
    out = tmp_path / "run"
    run(data, out, "--epochs", "3", "--stop-after", "1")
    whole = (out / "last.pt").read_bytes()
    (out / "last.pt").write_bytes((out / "best.pt").read_bytes())
    with pytest.raises(ValueError, match="last.pt lacks what going on takes .*optimizer"):
        run(data, out, "--epochs", "3", "--resume")
    (out / "last.pt").write_bytes(whole)
    (out / "log.csv").write_text("epoch,train_loss\n1,0.5\n")
    with pytest.raises(ValueError, match="log.csv is damaged"):
        run(data, out, "--epochs", "3", "--resume")


def test_a_folder_with_a_run_in_it_is_refused(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", "1")
    with pytest.raises(ValueError, match="holds a run already"):
        run(data, tmp_path / "run", "--epochs", "1")


def test_nothing_labelled_is_refused(tmp_path):
    folder = tmp_path / "data"
    write_set(folder, count=4, side=16)
    np.save(folder / "train_labels.npy", np.full((4, 16, 16), 255, np.uint8))
    with pytest.raises(ValueError, match="not one labelled training pixel"):
        run(str(folder), tmp_path / "run")


def test_cosine_rises_then_falls_to_0():
    args = train.parse_args(["--lr", "0.1"])
    rates = [train.learning_rate(args, step, 100, 1.0) for step in range(101)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[5] == pytest.approx(0.1) and rates[100] == pytest.approx(0)
    assert all(a > b for a, b in zip(rates[5:], rates[6:]))
    assert rates[5 + 95 // 2] == pytest.approx(0.05, abs=0.002)


def test_plateau_halves_after_more_than_three_epochs_without_progress(data, tmp_path, monkeypatch):
    real = train.evaluate
    monkeypatch.setattr(train, "evaluate", lambda *a, **k: (real(*a, **k)[0], 1.0))  # the validation loss stands still
    run(data, tmp_path / "run", "--epochs", "10", "--schedule", "plateau", "--lr", "0.08", "--limit-batches", "1")
    rates = [float(row["lr"]) for row in log(tmp_path / "run")]
    assert rates == [0.08] * 5 + [0.04] * 4 + [0.02]


def test_decay_is_for_matrices_only_and_every_optimiser_steps(data, tmp_path):
    for name in ("adamw", "adam", "sgd"):
        run(data, tmp_path / name, "--epochs", "1", "--optimizer", name, "--limit-batches", "2")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    groups = train.build_optimizer(model, train.parse_args([])).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3] and groups[1]["weight_decay"] == 0


def test_a_frozen_encoder_stays_as_it_is_and_a_slower_one_moves_less(data, tmp_path, monkeypatch, capsys):
    """The weights are looked at in memory, after two steps: writing eleven million of them is what would take its time."""
    trained = []
    monkeypatch.setattr(train, "save", lambda *arguments: None)
    monkeypatch.setattr(train, "finish_epoch", lambda run, *rest: trained.append(run.model))
    flags = ["--model", "linknet", "--epochs", "2", "--stop-after", "1", "--limit-batches", "2"]
    start = train.build_model("linknet", bands=3, classes=3)
    before = dict(start.encoder.named_parameters())
    monkeypatch.setattr(train, "build_model", lambda *arguments, **options: copy.deepcopy(start))
    moved = []
    for number, more in enumerate(([], ["--encoder-lr", "0.01"], ["--freeze-encoder"])):
        run(data, tmp_path / str(number), *flags, *more)
        moved.append(max(float((tensor - before[key]).detach().abs().max())
                         for key, tensor in trained[-1].encoder.named_parameters()))
    free, slow, frozen = moved
    assert frozen == 0 < slow < free / 10
    assert "learned nothing" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--encoder-lr 0.1: --model linknet has no encoder that learns"):
        run(data, tmp_path / "both", *flags, "--freeze-encoder", "--encoder-lr", "0.1")


def test_weights_that_the_last_step_made_infinite_are_not_kept():
    model = torch.nn.Linear(1, 1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    so_far = types.SimpleNamespace(record=torch.zeros(2, 1), step=1, epoch=0, rank=0, model=model, scaler=scaler)
    train.check_record(so_far, [0], train.parse_args([]))
    model.weight.data.fill_(math.inf)
    with pytest.raises(ValueError, match="weights, or batch .* are not finite after step 1 of epoch 1"):
        train.check_record(so_far, [0], train.parse_args([]))
    so_far.model = torch.nn.BatchNorm2d(1)
    so_far.model.running_var.fill_(math.inf)
    with pytest.raises(ValueError, match="batch norm's statistics, are not finite"):
        train.check_record(so_far, [0], train.parse_args([]))


def test_a_run_whose_float16_gradients_overflow_at_any_scale_ends():
    model, scaler = torch.nn.Linear(1, 1), torch.amp.GradScaler("cpu", init_scale=2.0)
    record = torch.tensor([[0.0], [math.inf]])  # loss, gradient norm
    so_far = types.SimpleNamespace(record=record, step=1, epoch=0, rank=0, model=model, scaler=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def overflow():
        scaler.scale(model(torch.ones(1, 1)).sum() * math.inf).backward()
        scaler.step(optimizer)
        scaler.update()
        train.check_record(so_far, [0], train.parse_args([]))

    overflow()  # the scale is 1 now
    with pytest.raises(ValueError, match="gradients overflow float16 without any scale: .*--amp off"):
        overflow()
    assert model.weight.isfinite().all()


def test_flags_that_would_do_nothing_are_refused(data, tmp_path):
    for flags, message in ((["--points", "0", "--point-jitter", "3"], "--point-jitter .* give --points too"),
                           (["--points", "0", "--points-per", "class"], "--points-per .* give --points too"),
                           (["--loss", "dice+jaccard", "--class-weights", "sqrt"], "--class-weights: --loss dice.jaccard"),
                           (["--fusion-at", "skips"], "--fusion-at is where"), (["--crop", "500"], "--crop 500: the tiles are of")):
        with pytest.raises(ValueError, match=message):
            run(data, tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_without_a_validation_label_no_epoch_is_best(data, tmp_path):
    edit(tmp_path / "data", "pixels", json.loads((tmp_path / "data" / "dataset.json").read_text())["pixels"] | {"val": [0, 0, 0]})
    np.save(tmp_path / "data" / "val_labels.npy", np.full((5, 16, 16), 255, np.uint8))
    with pytest.raises(ValueError, match="not one labelled validation pixel, so no epoch is best: give --final last"):
        run(data, tmp_path / "run")
    assert run(data, tmp_path / "run", "--final", "last", "--epochs", "1")["split"] == "test"


def test_the_log_shows_the_rate_and_not_the_encoder_s_share_of_it(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "save", lambda *arguments: None)  # writing eleven million weights is what would take its time
    run(data, tmp_path / "run", "--model", "linknet", "--width", "16", "--depth", "4", "--encoder-lr", "0", "--schedule", "constant",
        "--lr", "0.002", "--epochs", "2", "--stop-after", "1")
    assert [float(row["lr"]) for row in log(tmp_path / "run")] == [0.002]


def test_nothing_is_made_for_a_run_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no checkpoint runs/x/last.pt"):
        train.main(train.parse_args(["--resume", "--out", "runs/x"]))
    assert not any(tmp_path.iterdir())
