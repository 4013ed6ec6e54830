"""Runs of train.py on a tiny set: what they leave, how they resume, what is refused."""

import functools
import importlib.util
import json
import math
import signal
import sys
import types

import numpy as np
import pytest
import torch
from helpers import TINY, edit, log, run, same_run, weights, write_set

import evaluate
import train
from data import write_prepared
from engine import length
from engine.checkpoint import find_checkpoint, load_checkpoint


@pytest.fixture
def data(tmp_path):
    """Five tiles in each split: two steps per epoch."""
    write_set(tmp_path / "data", count=5, side=16)
    return str(tmp_path / "data")


def call_at(monkeypatch, module, name, number, action):
    """Call `action` before the number-th call of a function."""
    real = getattr(module, name)
    calls = []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            action()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, counted)


def terminate():
    signal.raise_signal(signal.SIGTERM)


def test_main__leaves_the_files_of_a_run(data, tmp_path, capsys):
    out = tmp_path / "run"
    scores = run(data, out, "--epochs", "2", pictures=True)
    assert {path.name for path in out.iterdir()} == {
        "args.json", "log.csv", "last.pt", "best.pt", "metrics.json", "curves.png", "preview.png"}
    assert scores == json.loads((out / "metrics.json").read_text())
    assert scores["labelled_pixels"] == 25 and scores["split"] == "test"
    assert len(scores["classes"]) == 3
    rows = log(out)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert list(rows[0]) == ["epoch", "train_loss", "val_loss", "val_accuracy", "val_miou", "lr",
                             "gradient_norm", "overflows", "seconds", "images_per_s",
                             "peak_memory_mb"]
    printed = capsys.readouterr().out
    assert "25 px" in printed and "mean IoU" in printed and "metrics.json" in printed
    assert "optimizer" not in load_checkpoint(out / "best.pt")["train"]
    assert json.loads((out / "args.json").read_text())["points"] == 5


RESUMED = {
    "ema, bfloat16": ["--ema", "0.9", "--amp", "bf16"],
    "plateau, class weights": ["--schedule", "plateau", "--class-weights", "sqrt"],
    "augmentation, sgd": ["--rotate", "10", "--zoom", "1.2", "--crop", "8", "--jitter", "0.3",
                          "--optimizer", "sgd", "--loss", "focal+jaccard", "--accumulate", "2"],
}


@pytest.mark.parametrize("flags", [
    pytest.param(flags, id=name, marks=[] if "sgd" in name else pytest.mark.slow)
    for name, flags in RESUMED.items()])
def test_main__stopped_and_resumed_equals_never_stopped(data, tmp_path, monkeypatch, flags):
    """Stopped between two epochs, and by a signal within one; so equal flags give equal bits."""
    flags = ["--epochs", "2", *flags]
    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    parts = tmp_path / "parts"
    run(data, tmp_path / "whole", *flags)
    assert run(data, parts, *flags, "--stop-after", "1") is None
    with monkeypatch.context() as patch:
        call_at(patch, train, "augment", 1, terminate)
        with pytest.raises(KeyboardInterrupt, match="epoch 2 after step 1"):
            run(data, parts, "--resume", *flags)
    state = load_checkpoint(parts / "last.pt")["train"]
    assert (state["epoch"], state["step"]) == (1, 1)
    with open(parts / "log.csv", "a", encoding="utf-8") as file:
        file.write("2,half a row")
    run(data, parts, "--resume", *flags)
    same_run(tmp_path / "whole", parts)


def test_main__stopped_during_the_last_validation_goes_on_to_the_report(data, tmp_path,
                                                                         monkeypatch):
    out = tmp_path / "parts"
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        call_at(patch, train, "evaluate", 1, terminate)
        with pytest.raises(KeyboardInterrupt, match="after epoch 1; go on with: .*--resume"):
            run(data, out, "--epochs", "1")
    assert signal.getsignal(signal.SIGTERM) == before
    assert run(data, out, "--epochs", "1", "--resume")["split"] == "test"


def test_main__a_run_without_its_report_writes_it_when_resumed(data, tmp_path, capsys):
    out = tmp_path / "run"
    run(data, out, "--epochs", "1", pictures=True)
    for name in ("metrics.json", "curves.png", "preview.png"):
        (out / name).unlink()
    assert run(data, out, "--epochs", "1", "--resume", pictures=True)["split"] == "test"
    assert (out / "metrics.json").exists() and (out / "curves.png").exists()
    assert run(data, out, "--epochs", "1", "--resume") is None
    assert "finished" in capsys.readouterr().out


def test_finish_run__metrics_are_written_last(data, tmp_path, monkeypatch):
    def full(*_, **options):
        raise OSError("the disk is full")
    with monkeypatch.context() as patch:
        patch.setattr("report.panels.preview", full)
        with pytest.raises(OSError):
            run(data, tmp_path / "run", "--epochs", "1", pictures=True)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_train_one_epoch__accumulating_equals_the_large_batch(data, tmp_path, monkeypatch):
    """With batch norm in evaluation mode, and unequal numbers of labelled pixels in the parts."""
    real = torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, mode=True: real(self, False))
    labels = np.load(tmp_path / "data" / "train_labels.npy")
    labels[:2, 1:] = 255
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    for parts in ("1", "4"):
        run(data, tmp_path / parts, "--epochs", "1", "--bs", "4", "--accumulate", parts,
            "--points", "0", "--optimizer", "sgd", "--lr", "0.1")
    whole = weights(tmp_path / "1")
    cut = weights(tmp_path / "4")
    for name in whole:
        torch.testing.assert_close(whole[name], cut[name], rtol=1e-5, atol=1e-6)


def test_slices__cover_every_image_once():
    for count, parts, sizes in ((4, 1, [4]), (4, 2, [2, 2]), (5, 2, [3, 2]), (5, 4, [2, 2, 1])):
        cut = [len(range(count)[part]) for part in train.slices(count, parts)]
        assert cut == sizes


def test_train_one_epoch__batches_without_a_label_change_nothing(tmp_path):
    write_set(tmp_path / "data", count=2, side=16)
    labels = np.load(tmp_path / "data" / "train_labels.npy")
    labels[1:] = 255
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    run(str(tmp_path / "data"), tmp_path / "run", "--epochs", "1", "--bs", "1")
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_main__sparse_labels_are_not_thinned_unless_asked_for(data, tmp_path, capsys):
    labels = np.full((5, 16, 16), 255, np.uint8)
    labels[:, 0, :2] = 0  # 2 of 256 pixels in each tile: under 1 %
    np.save(tmp_path / "data" / "train_labels.npy", labels)
    edit(tmp_path / "data", "pixels", {split: [10, 0, 0] for split in ("train", "val", "test")})
    words = [word for word in TINY if word not in ("--points", "5")]
    args = train.parse_args(["--data", data, "--out", str(tmp_path / "run"), *words,
                             "--epochs", "1"])
    assert train.main(args)["labelled_pixels"] == 10
    assert args.points == 0


@pytest.mark.slow
def test_main__scores_of_the_split_that_chose_the_weights_are_named_so(data, tmp_path, capsys):
    for kind in ("images", "labels"):
        path = tmp_path / "data" / f"test_{kind}.npy"
        np.save(path, np.load(path)[:0])
    edit(tmp_path / "data", "tiles", {"train": 5, "val": 5, "test": 0})
    edit(tmp_path / "data", "pixels", {"train": [1280, 0, 0], "val": [1280, 0, 0], "test": [0] * 3})
    assert run(data, tmp_path / "run", "--epochs", "1", "--final", "best")["split"] == "val"
    assert "validation split chose the weights" in capsys.readouterr().out


def float16_run(data, out, monkeypatch, scale):
    """Half precision ends at 65,504: gradients times a large scale overflow until it has halved."""
    scaler = functools.partial(torch.amp.GradScaler, init_scale=scale)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    monkeypatch.setattr(train, "amp_dtype", lambda *_: torch.float16)
    monkeypatch.setattr(train, "evaluate", lambda *args, **_: evaluate.evaluate(*args[:4]))
    run(data, out, "--epochs", "3", "--bs", "1")


def test_optimizer_step__float16_overflow_is_left_out_and_counted(data, tmp_path, monkeypatch):
    float16_run(data, tmp_path / "run", monkeypatch, 2.0**22)
    rows = log(tmp_path / "run")
    assert int(rows[0]["overflows"]) > 0 == int(rows[-1]["overflows"])
    assert math.isfinite(float(rows[-1]["gradient_norm"]))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


class TinyNet(torch.nn.Module):
    """Two 1 x 1 convolutions that start equal: an encoder and a classifier."""

    def __init__(self, bands, classes, **_):
        super().__init__()
        self.encoder = torch.nn.Conv2d(bands, bands, 1)
        self.classifier = torch.nn.Conv2d(bands, classes, 1)

    def forward(self, images):
        return self.classifier(self.encoder(images))


def make_run(*flags):
    """A TinyNet before its first step, with all gradients 1; returns (state, args)."""
    args = train.parse_args(["--schedule", "constant", "--weight-decay", "0", *flags])
    model = TinyNet(3, 3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    state = types.SimpleNamespace(
        model=model, optimizer=train.build_optimizer(model, args), ema_model=None, scheduler=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False), step_log=torch.zeros(2, 4), steps=4)
    return state, args


def moved(state, args, done=0):
    """How far each parameter's values go in one step: {name: tensor}."""
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    train.optimizer_step(state, args, done)
    return {name: before[name] - p.detach() for name, p in state.model.named_parameters()}


def test_optimizer_step__clips_the_gradient_and_leaves_none():
    state, args = make_run("--optimizer", "sgd", "--lr", "1")
    steps = moved(state, args, done=6)
    norm = torch.cat([step.flatten() for step in steps.values()]).norm()
    assert float(norm) == pytest.approx(train.GRADIENT_CLIP, rel=1e-5)
    assert float(state.step_log[1, 2]) == pytest.approx(math.sqrt(24))  # before it was clipped
    assert all(p.grad is None for p in state.model.parameters())


def test_optimizer_step__encoder_takes_its_share_of_the_rate():
    state, args = make_run("--optimizer", "sgd", "--lr", "1", "--encoder-lr", "0.25")
    steps = moved(state, args)
    quarter = steps["classifier.weight"].mean() / 4
    torch.testing.assert_close(steps["encoder.weight"].mean(), quarter)
    assert max(group["lr"] for group in state.optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_build_optimizer__every_optimiser_steps(name):
    state, args = make_run("--optimizer", name)
    assert all((step > 0).all() for step in moved(state, args).values())


def test_build_optimizer__decay_is_for_matrices_alone():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    groups = train.build_optimizer(model, train.parse_args([])).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert [group["weight_decay"] for group in groups] == [1e-2, 0]


def test_build_optimizer__encoder_rate_needs_an_encoder():
    args = train.parse_args(["--encoder-lr", "0.1"])
    with pytest.raises(ValueError, match="--encoder-lr"):
        train.build_optimizer(torch.nn.Conv2d(1, 2, 3), args)


LITE = "--encoder efficientnet_lite0 --weights imagenet"


@pytest.mark.parametrize("words, expected", [
    ("", ("unet", 1e-3, 1)),
    ("--encoder resnet18 --weights imagenet", ("resunet", 1e-3, 1)),
    (f"{LITE} --model fpn", ("fpn", 2e-3, 0.3)),
    (f"{LITE} --lr 1e-4 --encoder-lr 0", ("resunet", 1e-4, 0)),
])
def test_parse_args__defaults_of_an_encoder(words, expected):
    args = train.parse_args(words.split())
    assert (args.model, args.lr, args.encoder_lr) == expected


def test_main__dropout_is_a_function_of_the_step(data, tmp_path, monkeypatch):
    """No network here has dropout, but a fork's may: its resumed run ends with the same bits."""
    def build_model(name, weights, **kwargs):
        model = TinyNet(**kwargs)
        return torch.nn.Sequential(model.encoder, torch.nn.Dropout(0.5), model.classifier)

    monkeypatch.setattr(train, "build_model", build_model)
    run(data, tmp_path / "whole", "--epochs", "3", "--stop-after", "2")
    run(data, tmp_path / "parts", "--epochs", "3", "--stop-after", "1")
    run(data, tmp_path / "parts", "--epochs", "3", "--stop-after", "2", "--resume")
    whole = load_checkpoint(tmp_path / "whole" / "last.pt")["model"]["state"]
    parts = load_checkpoint(tmp_path / "parts" / "last.pt")["model"]["state"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_main__frozen_encoder_stays_and_the_log_shows_the_rate(data, tmp_path, monkeypatch,
                                                               capsys):
    monkeypatch.setattr(train, "build_model", lambda name, weights, **kwargs: TinyNet(**kwargs))
    monkeypatch.setattr(train, "freeze_encoder", lambda m: m.encoder.requires_grad_(False))
    flags = ["--epochs", "2", "--stop-after", "1", "--schedule", "constant", "--lr", "0.002"]
    run(data, tmp_path / "frozen", *flags, "--encoder-lr", "0")
    assert "--encoder-lr 0 without --weights" in capsys.readouterr().out
    torch.manual_seed(0)
    start = TinyNet(3, 3).state_dict()
    end = weights(tmp_path / "frozen")
    assert torch.equal(start["encoder.weight"], end["encoder.weight"])
    assert not torch.equal(start["classifier.weight"], end["classifier.weight"])
    assert [float(row["lr"]) for row in log(tmp_path / "frozen")] == [0.002]


def test_learning_rate__cosine_rises_then_falls_to_0():
    args = train.parse_args(["--lr", "0.1"])
    rates = [train.learning_rate(args, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[5] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0)
    assert all(a > b for a, b in zip(rates[5:], rates[6:]))
    assert rates[5 + 95 // 2] == pytest.approx(0.05, abs=0.002)


def test_log_row__the_loss_is_the_mean_of_the_steps_with_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    labels = np.full((5, 16, 16), 255, np.uint8)
    labels[0] = images[0, :, :, 0] // 128
    write_prepared(tmp_path / "data", images, labels, ["a", "b"], ["train"] * 5)
    losses = []
    for size in ("1", "5"):
        run(str(tmp_path / "data"), tmp_path / size, "--epochs", "1", "--lr", "1e-9", "--bs", size)
        losses.append(float(log(tmp_path / size)[0]["train_loss"]))
    assert 0.5 < losses[0] / losses[1] < 2


def test_finish_epoch__plateau_halves_after_more_than_three_bad_epochs(data, tmp_path,
                                                                       monkeypatch):
    real = train.evaluate
    monkeypatch.setattr(train, "evaluate", lambda *a, **k: (real(*a, **k)[0], 1.0))
    run(data, tmp_path / "run", "--epochs", "10", "--schedule", "plateau", "--lr", "0.08",
        "--bs", "5")
    rates = [float(row["lr"]) for row in log(tmp_path / "run")]
    assert rates == [0.08] * 5 + [0.04] * 4 + [0.02]


def test_has_ended__patience_ends_a_run_that_was_stopped_on_the_way_too(data, tmp_path, capsys,
                                                                        monkeypatch):
    scores = iter([0.5, 0.6, 0.6, 0.4] * 2)
    real = train.evaluate

    def scored(*arguments, **options):
        matrix, _ = real(*arguments, **options)
        if len(arguments) > 5:  # with a criterion, so of the validation split
            score = next(scores)
            matrix.miou = lambda: score
        return matrix, 1.0

    monkeypatch.setattr(train, "evaluate", scored)
    flags = ["--epochs", "9", "--patience", "2", "--bs", "5"]
    run(data, tmp_path / "whole", *flags)
    assert len(log(tmp_path / "whole")) == 4
    assert "ends after 4 of 9 epochs" in capsys.readouterr().out
    assert run(data, tmp_path / "parts", *flags, "--stop-after", "3") is None
    assert "paused after 3 of 9" in capsys.readouterr().out
    assert run(data, tmp_path / "parts", "--resume", *flags)["split"] == "test"
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert run(data, tmp_path / "parts", "--resume", *flags) is None
    assert "finished" in capsys.readouterr().out


def test_check_step_log__nan_loss_stops_the_run(data, tmp_path, monkeypatch):
    real = train.normalise
    monkeypatch.setattr(train, "normalise", lambda *arguments: real(*arguments) * math.nan)
    with pytest.raises(ValueError, match="epoch 1, step 1: .*--lr"):
        run(data, tmp_path / "run", "--epochs", "1")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_check_step_log__infinite_gradient_stops_the_run_before_it_is_saved(data, tmp_path,
                                                                            monkeypatch):
    norms = iter([torch.tensor(1.0), torch.tensor(math.inf)])
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: next(norms))
    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    with pytest.raises(ValueError, match="epoch 1, step 2: .*--lr"):
        run(data, tmp_path / "run", "--epochs", "1")
    assert load_checkpoint(tmp_path / "run" / "last.pt")["train"]["step"] == 1


def test_main__tensorboard_gets_every_number_and_a_picture(data, tmp_path, monkeypatch):
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

    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    run(data, tmp_path / "run", "--epochs", "2", "--stop-after", "1", "--tensorboard",
        pictures=True)
    assert shown[0] == (str(tmp_path / "run" / "tb"), 1)
    assert {("train_loss", 1), ("lr", 1), ("val_iou/c1", 1), ("preview", 1, 3, "HWC")} <= set(shown)


@pytest.mark.parametrize("words", [
    "--lr -1", "--lr nan", "--lr 1e300", "--bs 0", "--points -3", "--depth 7", "--seed x",
    "--fusion skips", "--crf 0.1", "--resume"])
def test_parse_args__refuses_in_one_line(words, capsys):
    with pytest.raises((SystemExit, ValueError)) as end:
        train.parse_args(words.split())
    message = capsys.readouterr().err or str(end.value)
    assert words.split()[0] in message and message.strip().count("\n") == 0
    assert end.type is ValueError or end.value.code == 2


@pytest.mark.parametrize("words, named", [
    ("--model resnet", "unet"),
    ("--encoder-lr 0.1", "--encoder-lr"),
    ("--loss iou", "--loss iou"),
    ("--accumulate 3", "--accumulate 3"),
    ("--loss dice+jaccard --class-weights sqrt", "--class-weights"),
    ("--points 0 --points-per class", "--points-per"),
    ("--crop 1", "--crop 1"),
    ("--crop 500", "--crop 500"),
    ("--data nowhere", "nowhere"),
])
def test_main__refuses_in_one_line_and_leaves_nothing(data, tmp_path, words, named):
    with pytest.raises((ValueError, OSError), match=named) as error:
        run(data, tmp_path / "run", *words.split())
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_main__without_validation_keeps_the_last_weights_and_gives_no_scores(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    labels = images[..., 0] // 128
    write_prepared(tmp_path / "data", images, labels, ["a", "b", "c"], ["train"] * 3)
    out = tmp_path / "run"
    for resume in ([], ["--resume"]):
        assert run(str(tmp_path / "data"), out, "--epochs", "1", *resume, pictures=True) is None
        printed = capsys.readouterr()
        assert "no validation" in printed.out and "no scores" in printed.out
        assert f"predict.py --checkpoint {out}/last.pt" in printed.out
        assert "warning: not one pixel is labelled c" in printed.err
    assert {path.name for path in out.iterdir()} == {
        "args.json", "log.csv", "last.pt", "curves.png", "preview.png"}
    assert find_checkpoint(out) == out / "last.pt"
    with pytest.raises(ValueError, match="plateau"):
        run(str(tmp_path / "data"), tmp_path / "other", "--schedule", "plateau")


def test_main__few_tiles_are_gone_over_several_times_per_epoch(data, tmp_path, monkeypatch):
    """Five tiles: 3 passes make 15, in 7 steps of two; a run of it goes on as it began."""
    monkeypatch.setattr(length, "STEPS_PER_EPOCH", 7)
    out = tmp_path / "run"
    call = [data, out, "--stop-after"]
    run(*call, "1")
    run(*call, "2", "--resume")
    saved = load_checkpoint(out / "last.pt")
    assert saved["train"]["record"].shape == (2, 7)
    assert [saved["args"][name] for name in ("bs", "epochs", "passes")] == [2, 20, 3]
    assert [row["epoch"] for row in log(out)] == ["1", "2"]
