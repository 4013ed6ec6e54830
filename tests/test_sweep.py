"""Sweeps over a stand-in for train.py, and slow ones over the real one."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import same_run, write_set

import sweep
from data import write_prepared
from engine import processes

TESTS = pathlib.Path(__file__).resolve().parent
TINY = "--data data --width 4 --depth 1 --points 5 --device cpu".split()
SEARCH = "--search 9 --lr 1e-4..1e-1 --epochs 9 --out s"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a data set, and pretend_train.py in place of train.py."""
    write_set(tmp_path / "data", count=2, side=8)
    monkeypatch.setattr(sweep, "TRAIN", TESTS / "pretend_train.py")
    monkeypatch.setattr(sweep, "PATIENCE", 0)
    monkeypatch.setattr(processes, "SLOW_IMPORTS", [])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    return sweep.main(sweep.parse_args(["--data", "data", *words.split()]))


def table(path="s/sweep.csv"):
    with open(path, newline="", encoding="utf-8") as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def statuses():
    return {name: row["status"] for name, row in table().items()}


def calls():
    """[name of the run, "new" or "resumed", threads] of each process since the last look."""
    path = pathlib.Path("calls.txt")
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


# ---------------------------------------------------------------- the command line

def test_parse_args__words_become_flags_with_their_values():
    args = sweep.parse_args("--lr 1e-3 1e-2 --jobs 2 --weight-decay=-1 --compile".split())
    assert args.flags == {"lr": ["1e-3", "1e-2"], "weight-decay": ["-1"], "compile": []}
    assert args.jobs == 2
    assert args.out is None
    assert not args.dry_run


@pytest.mark.parametrize("words, flag", [
    ("--learning-rate 1", "--learning-rate"),
    ("--lr a", "--lr"),
    ("--lr 1e-3 -1", "--lr"),
    ("--lr 1 --lr 2", "--lr"),
    ("--jobs 0", "--jobs"),
    ("--jobs 1 2", "2"),
])
def test_main__refuses_unknown_flags_and_values_in_one_line(folder, capsys, words, flag):
    with pytest.raises(SystemExit) as end:
        run(words)
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert flag in printed
    assert printed.count("\n") == 1
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words, flag", [
    ("--lr 1e-3 1e-3", "same run"),
    ("--lr 1e-3 --resume", "--resume"),
    ("--lr 1e-3 --stop-after 2", "--stop-after"),
    ("--search 4 --epochs 2,4,8,16", "--epochs"),
    ("--search 4 --lr 1e-4..1e-1 --patience 2", "--patience"),
    ("--search 4 --bs 8,16", "--search"),
    ("--bs 8 --accumulate 9", "--accumulate"),
])
def test_plan__refuses_what_makes_no_sense_before_anything_runs(folder, words, flag):
    with pytest.raises(ValueError, match=flag):
        run(words)
    assert calls() == []
    assert not (folder / "runs").exists()


def test_main__refuses_a_missing_set(folder):
    with pytest.raises(OSError, match="nowhere"):
        sweep.main(sweep.parse_args(["--data", "data", "nowhere", "--out", "s"]))
    assert not (folder / "s").exists()


def test_main__dry_run_prints_the_plan_and_leaves_nothing(folder, capsys):
    assert run("--lr 1e-3 1e-2 --dry-run --out s") == 0
    assert calls() == []
    assert not (folder / "s").exists()
    assert capsys.readouterr().out.splitlines() == [
        "missing      python train.py --data data --lr 1e-3 --out s/lr=1e-3",
        "missing      python train.py --data data --lr 1e-2 --out s/lr=1e-2"]
    run("--search 9 --lr 1e-4..1e-1 --epochs 9 --dry-run --out s")
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "9 of 9 settings to epoch 1", "3 of 9 settings to epoch 3", "1 of 9 settings to epoch 9"]


# ---------------------------------------------------------------- grids

def test_main__a_grid_leaves_a_row_per_run_a_table_and_a_heat_map(folder, capsys):
    assert run("--lr 1e-3 1e-2 --bs 16 32 --epochs 2 --out s") == 0
    rows = table()
    assert set(rows) == {"bs=16_lr=1e-3", "bs=32_lr=1e-3", "bs=16_lr=1e-2", "bs=32_lr=1e-2"}
    row = rows["bs=16_lr=1e-2"]
    expected = {"lr": "1e-2", "bs": "16", "seed": "0", "status": "finished", "epochs_done": "2",
                "train_loss": "0.25", "val_loss": "0.5", "val_accuracy": "0.75",
                "best_val_miou": "0.5", "test_miou": "0.25", "seconds": "5.0",
                "command": "python train.py --bs 16 --data data --epochs 2 --lr 1e-2 "
                           "--out s/bs=16_lr=1e-2"}
    assert {name: row[name] for name in expected} == expected
    files = {path.name for path in (folder / "s").iterdir() if path.is_file()}
    assert files == {"sweep.csv", "sweep.md", "sweep.png", "sweep.lock",
                     *(f"{name}.txt" for name in rows)}
    printed = capsys.readouterr().out
    assert "| 1e-2 | 16 | 0.250 | 0.500 | 75.00 | 0.500 | 0.250 | finished |" in printed
    assert "0.500: s/bs=16_lr=1e-2/best.pt" in printed


def test_main__finished_runs_are_skipped_and_failed_ones_retried_on_request(folder):
    assert run("--lr 1 2 1e-2 --epochs 2 --out s") == 2
    assert len(calls()) == 3
    assert statuses() == {"lr=1": "failed", "lr=2": "failed", "lr=1e-2": "finished"}
    assert not hasattr(signal, "SIGKILL") or table()["lr=2"]["error"] == "killed by signal 9"
    failed = table()["lr=1"]
    assert failed["status"] == "failed"
    assert failed["error"] == "train.py: the loss of epoch 1, step 1 is nan"
    assert f"| failed: {failed['error']} |" in (folder / "s/sweep.md").read_text()
    assert run("--lr 1 2 1e-2 --epochs 2 --out s") == 2
    assert calls() == []
    (folder / "mended").touch()
    assert run("--lr 1 2 1e-2 1e-3 --epochs 2 --out s --retry") == 0  # and one more value
    assert sorted(call[0] for call in calls()) == ["lr=1", "lr=1e-3", "lr=2"]
    assert list(statuses().values()) == ["finished"] * 4


def test_main__a_signal_stops_the_runs_and_the_same_command_goes_on(folder, monkeypatch):
    monkeypatch.setenv("SLEEP", "0.3")
    logs = [folder / "s/lr=1e-2/log.csv", folder / "s/lr=1e-3/log.csv"]

    def interrupt():
        while not all(log.exists() and len(log.read_text().splitlines()) > 1 for log in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    words = "--lr 1e-2 1e-3 1e-4 --epochs 50 --out s --jobs 2"
    with pytest.raises(KeyboardInterrupt):
        run(words)
    thread.join()
    assert statuses() == {"lr=1e-2": "interrupted", "lr=1e-3": "interrupted"}
    assert not list(folder.glob("s/*/metrics.json"))
    calls()
    monkeypatch.setenv("SLEEP", "0")
    assert run(words) == 0
    how = {name: kind for name, kind, _ in calls()}
    assert how == {"lr=1e-2": "resumed", "lr=1e-3": "resumed", "lr=1e-4": "new"}
    assert {row["epochs_done"] for row in table().values()} == {"50"}


def test_main__a_run_stopped_before_it_saved_starts_anew(folder):
    (folder / "s/lr=1e-3").mkdir(parents=True)
    (folder / "s/lr=1e-3/args.json").touch()
    assert run("--lr 1e-3 --epochs 1 --out s --bs 8 16") == 0
    assert {kind for _, kind, _ in calls()} == {"new"}


def test_main__jobs_run_side_by_side_and_share_the_cores(folder, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setenv("BESIDE", "2")
    assert run("--lr 1e-2 1e-3 --epochs 1 --out s --jobs 2") == 0
    assert [threads for _, _, threads in calls()] == ["4", "4"]


def test_main__default_folder_names_what_differs_and_the_demo_is_made_once(folder, monkeypatch):
    made = []

    def make_demo(out):
        made.append(out)
        write_set(pathlib.Path(out), count=2, side=8)

    monkeypatch.setattr("prepare_data.make_demo", make_demo)
    assert sweep.main(sweep.parse_args("--lr 1e-3 1e-2 --epochs 1".split())) == 0
    assert (folder / "runs/sweep-demo-lr/sweep.csv").exists()
    assert made == ["data/demo"]
    assert {row["bs"] for row in table("runs/sweep-demo-lr/sweep.csv").values()} == {"4"}


def test_main__refuses_a_set_without_validation(folder):
    write_prepared(folder / "all", np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), int),
                   ["a"], ["train"] * 2)
    with pytest.raises(ValueError, match="--data all"):
        sweep.main(sweep.parse_args("--data all --lr 1e-3 1e-2 --out s".split()))
    assert not (folder / "s").exists()


def test_log__an_incomplete_last_row_does_not_count(tmp_path):
    cell = sweep.Cell({}, None, tmp_path)
    for end in ("", "2", "2,0.", "2,0.75,"):
        (tmp_path / "log.csv").write_text(
            "epoch,val_miou,seconds,peak_memory_mb\n1,0.5,3,100\n" + end)
        assert cell.best() == 0.5
        assert [row["epoch"] for row in cell.log()] == ["1"]
    (tmp_path / "log.csv").write_text("epoch,val_")
    assert cell.best() == 0
    assert cell.log() == []


# ---------------------------------------------------------------- damaged files

@pytest.fixture
def finished(tmp_path):
    """Two finished runs of two epochs, written by hand: (cells, the sweep's folder)."""
    cells, _, out = sweep.plan(sweep.parse_args(["--lr", "1e-3", "1e-2", "--epochs", "2", "--out",
                                                 str(tmp_path / "s")]))
    for cell in cells:
        cell.folder.mkdir(parents=True)
        rows = [{"epoch": epoch, "train_loss": 0.5, "val_loss": 0.5, "val_accuracy": 0.7,
                 "val_miou": 0.4, "seconds": 2.0} for epoch in (1, 2)]
        sweep.write_rows(cell.folder / "log.csv", rows)
        (cell.folder / "metrics.json").write_text('{"split": "test", "miou": 0.3}')
        (cell.folder / "last.pt").touch()
    sweep.write_rows(out / "sweep.csv", [sweep.row_of(cell, "finished", "") for cell in cells])
    return cells, out


def replaced(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("latin-1"))


@pytest.mark.parametrize("old, new, left", [
    ("finished", "finishing", ["lr=1e-2"]),
    ("0.5", "half", ["lr=1e-2"]),
    (",2,2,", ",2,two,", ["lr=1e-2"]),
    ("python train.py", "python 'train.py", ["lr=1e-2"]),
    ("lr=1e-3,", "lr=1e-3,,,,,,,,,", ["lr=1e-2"]),
    ("command", "c\xf6mmand", []),
    ("status", "state", []),
    ("lr=1e-3", '"lr=1e-3', []),
])
def test_known_rows__a_damaged_row_is_left_out_in_one_line_each(finished, capsys, monkeypatch, old,
                                                                new, left):
    cells, out = finished
    monkeypatch.setattr(sys, "stdin", None)  # nothing is read from the keyboard
    assert sorted(sweep.known_rows(cells, out, False)) == ["lr=1e-2", "lr=1e-3"]
    assert capsys.readouterr().err == ""
    replaced(out / "sweep.csv", old, new)
    assert list(sweep.known_rows(cells, out, False)) == left
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2 and all(line.startswith("warning: ") for line in lines)


@pytest.mark.parametrize("name, old, new, lost", [
    ("log.csv", "0.4", "0,4", {"log.csv", "last.pt", "metrics.json"}),
    ("log.csv", "0.5", "x", {"log.csv", "last.pt", "metrics.json"}),
    ("log.csv", "val_miou", "val", {"log.csv", "last.pt", "metrics.json"}),
    ("log.csv", "0.4", "\xff", {"log.csv", "last.pt", "metrics.json"}),
    ("log.csv", "\n2,", "\n", {"log.csv", "last.pt", "metrics.json"}),
    ("metrics.json", "0.3", '"x"', {"metrics.json"}),
    ("metrics.json", "}", "", {"metrics.json"}),
    ("metrics.json", '{"split": "test", "miou": 0.3}', "[" * 10**5, {"metrics.json"}),
])
def test_discard_damaged__what_a_run_can_no_longer_rely_on_goes(finished, capsys, name, old, new,
                                                               lost):
    cells, out = finished
    rows = sweep.known_rows(cells, out, False)
    replaced(cells[0].folder / name, old, new)
    for cell in cells:
        before = {path.name for path in cell.folder.iterdir()}
        sweep.discard_damaged(cell, rows)
        after = {path.name for path in cell.folder.iterdir()}
        assert before - after == (lost if cell is cells[0] else set())
    assert list(rows) == ["lr=1e-2"]
    line, = capsys.readouterr().err.splitlines()
    assert name in line


def test_discard_damaged__a_run_that_patience_ended_is_whole(finished, capsys):
    cells, out = finished
    cell = cells[0]
    epochs = len(cell.log())
    rows = sweep.known_rows(cells, out, False)
    cell.args.epochs = 9
    cell.args.patience = epochs - 1
    sweep.discard_damaged(cell, rows)
    assert capsys.readouterr().err == ""
    cell.args.patience = epochs
    sweep.discard_damaged(cell, rows)
    assert "lacks epochs" in capsys.readouterr().err


# ---------------------------------------------------------------- refusals that protect a folder

def test_main__a_second_sweep_of_a_folder_is_refused(folder):
    (folder / "s").mkdir()
    with sweep.locked(folder / "s/sweep.lock"), pytest.raises(OSError, match="--out"):
        run("--lr 1e-2 1e-3 --epochs 1 --out s")
    assert calls() == []


def test_main__a_set_that_was_prepared_anew_is_noticed(folder):
    assert run("--lr 1e-2 --epochs 1 --out s") == 0
    labels = np.load(folder / "data/test_labels.npy")
    np.save(folder / "data/test_labels.npy", 1 - labels.clip(0, 1))
    with pytest.raises(ValueError, match="data .* s .*--out"):
        run("--lr 1e-2 1e-3 --epochs 1 --out s")
    assert [name for name, _, _ in calls()] == ["run"]
    np.save(folder / "data/test_labels.npy", labels)
    assert run("--lr 1e-2 1e-3 --epochs 1 --out s") == 0


@pytest.mark.parametrize("text", ["[]", "3", '{"data"', "\udcff"])
def test_check_data__a_damaged_lock_is_named(folder, text):
    lock = folder / "s/sweep.lock"
    lock.parent.mkdir()
    lock.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="s/sweep.lock"):
        run("--lr 1e-2 --epochs 1 --out s")
    assert not (folder / "s/sweep.csv").exists()


def test_known_rows__a_folder_begun_with_other_flags_is_refused(folder):
    run("--lr 1e-3 --epochs 1 --out s")
    with pytest.raises(ValueError, match="--epochs 1.*--out"):
        run("--lr 1e-3 --epochs 2 --out s")


def test_finish__a_sweep_that_lost_its_folder_writes_nothing_there(finished):
    cells, out = finished
    with sweep.locked(out / "sweep.lock") as lock:
        shutil.rmtree(out)
        out.mkdir()
        with pytest.raises(FileNotFoundError, match="s .*--out"):
            sweep.Sweep(out, {}, 1, lock).finish(cells[0], 0, 0)
    assert not list(out.iterdir())


def test_clear__empties_a_folder_but_for_the_locked_file(finished):
    cells, _ = finished
    sweep.clear(cells[0].folder)
    (cells[0].folder / "tb").mkdir()
    (cells[0].folder / "args.json").touch()
    sweep.clear(cells[0].folder)
    assert [path.name for path in cells[0].folder.iterdir()] == ["args.json"]


@pytest.mark.parametrize("saved", [True, False])
def test_main__a_run_of_another_process_is_left_alone(folder, saved):
    other = folder / "s/lr=1e-3"
    other.mkdir(parents=True)
    log = other / "log.csv"
    log.write_text("train_loss,val_loss,val_accuracy,val_miou,seconds\n0.5,0.5,0.75,0.1,2.5\n0.")
    if saved:
        (other / "last.pt").touch()
    with sweep.locked(other / "args.json"):
        assert run("--lr 1e-3 1e-2 --epochs 2 --out s") == 1
    assert log.exists()
    assert [name for name, _, _ in calls()] == ["lr=1e-2"]
    assert statuses() == {"lr=1e-3": "interrupted", "lr=1e-2": "finished"}
    assert table()["lr=1e-3"]["epochs_done"] == "1"
    log.write_text(log.read_text()[:-2])
    assert run("--lr 1e-3 1e-2 --epochs 2 --out s") == 0
    assert [call[:2] for call in calls()] == [["lr=1e-3", "resumed" if saved else "new"]]


# ---------------------------------------------------------------- searches

@pytest.mark.slow
def test_main__a_search_trains_the_best_longer(folder, capsys):
    assert run(SEARCH) == 0
    rows = sorted(table().values(), key=lambda row: -float(row["best_val_miou"]))
    assert [row["epochs_done"] for row in rows] == ["9"] + ["3"] * 2 + ["1"] * 6
    assert [row["status"] for row in rows] == ["finished"] + ["stopped"] * 8
    cost = "9 to epoch 1, 3 to epoch 3, 1 to epoch 9. Epochs: 21, 26% of the 81"
    assert cost in capsys.readouterr().out
    assert len(calls()) == 9 + 3 + 1
    before = (folder / "s/sweep.md").read_text()
    assert run(SEARCH) == 0
    assert calls() == []
    assert (folder / "s/sweep.md").read_text() == before
    # Without its table and the scores of its best run it ends the same.
    next(folder.glob("s/*/metrics.json")).unlink()
    (folder / "s/sweep.csv").unlink()
    assert run(SEARCH) == 0
    assert (folder / "s/sweep.md").read_text() == before


# ---------------------------------------------------------------- the real train.py

@pytest.mark.slow
def test_main__the_real_train_py_fills_the_table(tmp_path, monkeypatch):
    write_set(tmp_path / "data", count=3, side=16)
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "--epochs", "2", "--lr", "1e-3", "--out", "s"]
    assert sweep.main(sweep.parse_args(words)) == 0
    row, = table().values()
    scores = json.loads((tmp_path / "s/run/metrics.json").read_text())
    log = list(csv.DictReader((tmp_path / "s/run/log.csv").read_text().splitlines()))
    assert (row["status"], row["error"]) == ("finished", "")
    assert float(row["test_miou"]) == scores["miou"]
    assert float(row["best_val_miou"]) == max(float(line["val_miou"]) for line in log)
    for name in ("train_loss", "val_loss", "val_accuracy", "val_miou"):
        assert row[name] == log[-1][name]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_main__each_run_has_the_bits_of_a_run_on_its_own(tmp_path, jobs):
    """Also after one that failed, and beside others, on as many threads."""
    write_set(tmp_path / "data", count=6, side=32)
    flags = [*TINY, "--epochs", "2", "--ema", "0.9"]
    command = [sys.executable, TESTS.parent / "sweep.py", *flags, "--crop", "16", "500", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([*command, "--out", "s", "--jobs", jobs], cwd=tmp_path, env=environment)
    assert done.returncode == 1
    ends = {name: row["status"] for name, row in table(tmp_path / "s/sweep.csv").items()}
    assert ends == {"crop=16": "finished", "crop=500": "failed", "crop=0": "finished"}
    environment["OMP_NUM_THREADS"] = str(2 // int(jobs))
    for crop in ("16", "0"):
        words = [*flags, "--crop", crop, "--out", f"alone/crop={crop}"]
        subprocess.run([sys.executable, TESTS.parent / "train.py", *words], cwd=tmp_path,
                       env=environment, check=True)
        ours, alone = (tmp_path / name / f"crop={crop}" for name in ("s", "alone"))
        same_run(ours, alone)
        scores = [json.loads((run / "metrics.json").read_text()) for run in (ours, alone)]
        assert scores[0] | {"checkpoint": ""} == scores[1] | {"checkpoint": ""}


@pytest.mark.slow
def test_main__the_real_train_py_is_stopped_and_continued(tmp_path, monkeypatch):
    """A search of three settings: all train for 1 of 3 epochs, and only the best goes on."""
    write_set(tmp_path / "data", count=3, side=16)
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "--epochs", "3", "--lr", "1e-3,1e-2,1e-1", "--search", "3", "--jobs", "2",
             "--out", "s"]
    assert sweep.main(sweep.parse_args(words)) == 0
    assert sorted(statuses().values()) == ["finished", "stopped", "stopped"]
    best, = (row for row in table().values() if row["status"] == "finished")
    scores = json.loads((tmp_path / "s" / best["cell"] / "metrics.json").read_text())
    assert float(best["test_miou"]) == scores["miou"]
    epochs = []
    for log in tmp_path.glob("s/*/log.csv"):
        epochs.append([row["epoch"] for row in csv.DictReader(log.read_text().splitlines())])
    assert sorted(epochs) == [["1"], ["1"], ["1", "2", "3"]]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_main__a_killed_sweep_takes_its_runs_with_it_and_goes_on_at_once(tmp_path):
    write_set(tmp_path / "data", count=40, side=32)
    words = [*TINY, "--epochs", "6", "--lr", "1e-3", "--out", "s"]
    command = [sys.executable, TESTS.parent / "sweep.py", *words]
    process = subprocess.Popen(command, cwd=tmp_path)
    while not list(tmp_path.glob("s/*/best.pt")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    row, = table(tmp_path / "s/sweep.csv").values()
    assert (row["status"], row["epochs_done"]) == ("finished", "6")


@pytest.mark.slow
def test_main__the_real_command_is_stopped_by_a_signal_and_goes_on(tmp_path):
    write_set(tmp_path / "data", count=40, side=32)
    words = [*TINY, "--epochs", "60", "--lr", "1e-3", "1e-2", "--out", "s"]
    command = [sys.executable, TESTS.parent / "sweep.py", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("s/*/best.pt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate()[1]
    assert process.returncode == 130
    row, = table(tmp_path / "s/sweep.csv").values()
    assert row["status"] == "interrupted"
    assert 1 <= int(row["epochs_done"]) < 60
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    ends = {(row["status"], row["epochs_done"]) for row in table(tmp_path / "s/sweep.csv").values()}
    assert ends == {("finished", "60")}
