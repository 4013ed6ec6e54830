"""Sweeps over a trainer that only pretends, for what the sweep does with processes; and one over the real train.py."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import write_set

import sweep

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = "--data data --width 4 --depth 1 --points 5 --device cpu --epochs 2 --limit-batches 1".split()
# Validation mean IoU grows with the epochs and is highest at lr 1e-2; lr 1 fails until a file "mended" is there.
PRETEND = """
import json, os, pathlib, signal, sys, time
words = sys.argv[1:]
def given(flag, default): return type(default)(words[words.index(flag) + 1]) if flag in words else default
out, lr, epochs = pathlib.Path(given("--out", "")), given("--lr", 1e-3), given("--epochs", 20)
with open("calls.txt", "a") as file:
    file.write(f"{out.name} {'resumed' if '--resume' in words else 'new'} {os.environ['OMP_NUM_THREADS']}\\n")
log = out / "log.csv"
if "--resume" not in words:
    out.mkdir()
    log.write_text("train_loss,val_loss,val_accuracy,val_miou,seconds\\n")
    (out / "last.pt").touch()
if lr == 1 and not pathlib.Path("mended").exists():
    print("a warning", file=sys.stderr)
    sys.exit("train.py: the loss of epoch 1, step 1 is nan")
for _ in range(600):  # until as many runs have begun as the test wants beside each other
    if len(pathlib.Path("calls.txt").read_text().splitlines()) >= int(os.environ.get("BESIDE", 0)):
        break
    time.sleep(0.05)
else:
    sys.exit("alone")
signal.signal(signal.SIGTERM, lambda *received: sys.exit("stopped"))
for epoch in range(len(log.read_text().splitlines()) - 1, given("--stop-after", 0) or epochs):
    time.sleep(float(os.environ.get("SLEEP", 0)))
    with open(log, "a") as file:
        file.write(f"{0.5 / (epoch + 1)},0.5,0.75,{min(lr, 1e-4 / lr) * 50 * (epoch + 1) / epochs},2.5\\n")
if len(log.read_text().splitlines()) > epochs:
    (out / "metrics.json").write_text(json.dumps({"miou": 0.25, "split": "test"}))
print("done")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a data set in it, in which train.py is replaced by one that pretends."""
    write_set(tmp_path / "data", count=2, side=8)
    (tmp_path / "train.py").write_text(PRETEND)
    monkeypatch.setattr(sweep, "TRAIN", tmp_path / "train.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return sweep.main(sweep.parse_args(["--data", "data", *" ".join(words).split()]))


def table(path="s/sweep.csv"):
    with open(path, newline="") as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def calls():
    path = pathlib.Path("calls.txt")
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_words_become_flags_with_their_values():
    args = sweep.parse_args("--lr 1e-3 1e-2 --jobs 2 --weight-decay=-1 --compile --oversample road".split())
    assert args.flags == {"lr": ["1e-3", "1e-2"], "weight-decay": ["-1"], "compile": [], "oversample": ["road"]}
    assert args.jobs == 2 and args.out is None and not args.dry_run


def test_a_grid_leaves_a_row_a_run_a_table_and_a_heat_map(place, capsys):
    assert run("--lr 1e-3 1e-2 --bs 16 32 --epochs 2 --out s") == 0
    rows = table()
    assert set(rows) == {"bs=16_lr=1e-3", "bs=32_lr=1e-3", "bs=16_lr=1e-2", "bs=32_lr=1e-2"}
    row = rows["bs=16_lr=1e-2"]
    assert (row["lr"], row["bs"], row["seed"], row["status"], row["epochs_done"]) == ("1e-2", "16", "0", "finished", "2")
    measured = ("train_loss", "val_loss", "val_accuracy", "best_val_miou", "test_miou", "seconds")
    assert [float(row[name]) for name in measured] == [0.25, 0.5, 0.75, 0.5, 0.25, 5.0]
    assert row["command"] == "python train.py --bs 16 --data data --epochs 2 --lr 1e-2 --out s/bs=16_lr=1e-2"
    assert {path.name for path in (place / "s").iterdir() if path.is_file()} == {
        "sweep.csv", "sweep.md", "sweep.png", "sweep.lock", *(f"{name}.txt" for name in rows)}
    printed = capsys.readouterr().out
    assert "| 1e-2 | 16 | 0.250 | 0.500 | 75.00 | 0.500 | 0.250 | finished |" in printed
    assert "Best run by validation mean IoU, 0.500: s/bs=16_lr=1e-2/best.pt" in printed


def test_finished_runs_are_skipped_failed_ones_reported_and_retried_on_request(place):
    assert run("--lr 1e-2 1 --epochs 2 --out s") == 1
    assert len(calls()) == 2
    failed = table()["lr=1"]
    assert (failed["status"], failed["error"]) == ("failed", "train.py: the loss of epoch 1, step 1 is nan")
    assert "| failed: train.py: the loss of epoch 1, step 1 is nan |" in (place / "s/sweep.md").read_text()
    assert run("--lr 1e-2 1 --epochs 2 --out s") == 1 and calls() == []
    assert run("--lr 1e-2 1 --epochs 2 --out s --retry") == 1 and [call[0] for call in calls()] == ["lr=1"]
    (place / "mended").touch()
    assert run("--lr 1e-2 1e-3 1 --epochs 2 --out s --retry") == 0  # and a value more
    assert sorted(call[0] for call in calls()) == ["lr=1", "lr=1e-3"]
    assert [row["status"] for row in table().values()] == ["finished"] * 3


def test_a_signal_stops_the_runs_and_the_same_command_goes_on(place, monkeypatch):
    monkeypatch.setenv("SLEEP", "0.3")

    logs = [place / "s/lr=1e-2/log.csv", place / "s/lr=1e-3/log.csv"]

    def interrupt():
        while not all(log.exists() and len(log.read_text().splitlines()) > 1 for log in logs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run("--lr 1e-2 1e-3 1e-4 --epochs 200 --out s --jobs 2")
    thread.join()
    assert {name: row["status"] for name, row in table().items()} == {"lr=1e-2": "interrupted", "lr=1e-3": "interrupted"}
    calls()
    assert not any((place / f"s/lr=1e-{n}/metrics.json").exists() for n in (2, 3))
    monkeypatch.setenv("SLEEP", "0")
    assert run("--lr 1e-2 1e-3 1e-4 --epochs 200 --out s --jobs 2") == 0
    assert {call[0]: call[1] for call in calls()} == {"lr=1e-2": "resumed", "lr=1e-3": "resumed", "lr=1e-4": "new"}
    assert {row["epochs_done"] for row in table().values()} == {"200"}


def test_a_run_stopped_before_it_saved_starts_anew(place):
    (place / "s/lr=1e-3").mkdir(parents=True)
    (place / "s/lr=1e-3/args.json").touch()
    assert run("--lr 1e-3 1e-2 --epochs 1 --out s") == 0
    assert {call[1] for call in calls()} == {"new"}


def test_a_second_sweep_of_a_folder_is_refused(place):
    assert run("--lr 1e-2 --epochs 1 --out s") == 0
    with sweep.locked(place / "s/sweep.lock"), pytest.raises(OSError, match="another process writes to s: let it end, or give another --out"):
        run("--lr 1e-2 1e-3 --epochs 1 --out s")
    assert set(table()) == {"run"}
    assert run("--lr 1e-2 1e-3 --epochs 1 --out s") == 0


def test_a_set_that_was_prepared_anew_is_noticed(place):
    assert run("--lr 1e-2 --epochs 1 --out s") == 0
    labels = np.load(place / "data/test_labels.npy")
    np.save(place / "data/test_labels.npy", 1 - labels.clip(0, 1))
    with pytest.raises(ValueError, match="s was begun on another set than data is now: give another --out"):
        run("--lr 1e-2 1e-3 --epochs 1 --out s")
    assert [call[0] for call in calls()] == ["run"]
    np.save(place / "data/test_labels.npy", labels)
    assert run("--lr 1e-2 1e-3 --epochs 1 --out s") == 0


@pytest.mark.parametrize("text", ["[]", "3", '{"data"', "\udcff"])
def test_a_lock_that_is_not_the_sweeps_own_is_named(place, text):
    (place / "s").mkdir()
    (place / "s/sweep.lock").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="s/sweep.lock is not as sweep.py wrote it: delete it if the data sets are those it began on"):
        run("--lr 1e-2 --epochs 1 --out s")
    assert not (place / "s/sweep.csv").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_another_process_is_at_is_left_alone(place, saved):
    folder = place / "s/lr=1e-3"
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text("train_loss,val_loss,val_accuracy,val_miou,seconds\n0.5,0.5,0.75,0.1,2.5\n0.")
    if saved:
        (folder / "last.pt").touch()
    with sweep.locked(folder / "args.json"):
        assert run("--lr 1e-3 1e-2 --epochs 2 --out s") == 1
        assert (folder / "log.csv").exists() and [call[0] for call in calls()] == ["lr=1e-2"]
    rows = table()
    assert (rows["lr=1e-3"]["status"], rows["lr=1e-3"]["epochs_done"]) == ("interrupted", "1")
    assert rows["lr=1e-2"]["status"] == "finished" and "| interrupted |" in (place / "s/sweep.md").read_text()
    (folder / "log.csv").write_text((folder / "log.csv").read_text()[:-2])
    assert run("--lr 1e-3 1e-2 --epochs 2 --out s") == 0
    assert [call[:2] for call in calls()] == [["lr=1e-3", "resumed" if saved else "new"]]


def test_an_epoch_whose_row_is_torn_does_not_count(tmp_path):
    cell = sweep.Cell({}, None, tmp_path)
    for torn in ("", "2", "2,0.", "2,0.75,"):
        (tmp_path / "log.csv").write_text("epoch,val_miou,seconds,peak_memory_mb\n1,0.5,3,100\n" + torn)
        assert cell.best() == 0.5 and [row["epoch"] for row in cell.log()] == ["1"]
    (tmp_path / "log.csv").write_text("epoch,val_")
    assert cell.best() == 0 and cell.log() == []


def test_jobs_run_beside_each_other_and_share_the_cores(place, monkeypatch):
    monkeypatch.setattr(sweep.torch, "get_num_threads", lambda: 9)
    monkeypatch.setenv("BESIDE", "2")
    assert run("--lr 1e-2 1e-3 --epochs 1 --out s --jobs 2") == 0
    assert [call[2] for call in calls()] == ["4", "4"]


def test_a_dry_run_says_what_would_be_run_and_leaves_nothing(place, capsys):
    assert run("--lr 1e-3 1e-2 --dry-run --out s") == 0
    assert not (place / "s").exists() and calls() == []
    assert capsys.readouterr().out.splitlines() == [
        f"missing      python train.py --data data --lr {lr} --out s/lr={lr}" for lr in ("1e-3", "1e-2")]
    run("--search 9 --lr 1e-4..1e-1 --epochs 9 --dry-run --out s")
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "9 of 9 settings to epoch 1", "3 of 9 settings to epoch 3", "1 of 9 settings to epoch 9"]


@pytest.mark.parametrize("words, message", [
    ("--lr 1e-3 -1 --out s", "--lr -1.0: give"),
    ("--lr 1e-3 1e-3", "would be trained twice: give every value once"),
    ("--lr 1e-3 --resume", "--resume and --stop-after are sweep.py's own"),
    ("--lr 1e-3 --jobs 0", "--jobs 0"),
    ("--search 4 --epochs 2,4,8,16", "--epochs cannot be searched"),
    ("--search 4 --bs 8,16", "only 2 different settings"),
])
def test_what_makes_no_sense_is_refused_before_anything_runs(place, words, message):
    with pytest.raises(ValueError, match=message):
        run(words)
    assert calls() == [] and not (place / "runs").exists()


def test_a_missing_set_and_unknown_flags_are_refused(place):
    with pytest.raises(OSError, match="nowhere is not a prepared data set"):
        sweep.main(sweep.parse_args(["--data", "data", "nowhere", "--out", "s"]))
    for words in ("--learning-rate 1", "--lr a", "--lr 1 --lr 2", "--jobs 1 2"):
        with pytest.raises(SystemExit):
            run(words)
    assert not (place / "s").exists()


def test_a_folder_begun_with_other_flags_is_refused(place):
    run("--lr 1e-3 1e-2 --epochs 1 --out s")
    with pytest.raises(ValueError, match="begun with other flags, .*give another --out"):
        run("--lr 1e-3 1e-2 --epochs 2 --out s")


def test_the_default_folder_names_what_differs_and_the_demo_is_made_once(place, monkeypatch):
    monkeypatch.setattr(sweep, "make_demo", lambda out: write_set(pathlib.Path(out), count=2, side=8))
    assert sweep.main(sweep.parse_args("--lr 1e-3 1e-2 --bs 16 32 --epochs 1".split())) == 0
    assert (place / "runs/sweep-demo-lr-bs/sweep.csv").exists() and (place / "data/demo/dataset.json").exists()


SEARCH = "--search 9 --lr 1e-4..1e-1 --epochs 9 --out s"


def test_a_search_trains_the_best_longer(place, capsys):
    assert run(SEARCH) == 0
    rows = sorted(table().values(), key=lambda row: -min(float(row["lr"]), 1e-4 / float(row["lr"])))
    assert [row["epochs_done"] for row in rows] == ["9"] + ["3"] * 2 + ["1"] * 6
    assert [row["status"] for row in rows] == ["finished"] + ["stopped"] * 8
    printed = capsys.readouterr().out
    assert "9 to epoch 1, 3 to epoch 3, 1 to epoch 9. Epochs: 21, 26% of the 81" in printed
    assert len(calls()) == 9 + 3 + 1
    before = (place / "s/sweep.md").read_text()
    assert run(SEARCH) == 0 and calls() == [] and (place / "s/sweep.md").read_text() == before


def test_a_search_that_lost_its_table_and_a_run_goes_on_to_the_same_end(place):
    run(SEARCH)
    before = (place / "s/sweep.md").read_text()
    for path in (place / "s").glob("*/metrics.json"):
        path.unlink()
    (place / "s/sweep.csv").unlink()
    assert run(SEARCH) == 0 and (place / "s/sweep.md").read_text() == before


@pytest.mark.slow
def test_the_real_train_py_fills_the_table(tmp_path, monkeypatch):
    write_set(tmp_path / "data", count=3, side=16)
    monkeypatch.chdir(tmp_path)
    assert sweep.main(sweep.parse_args([*TINY, "--lr", "1e-3", "--out", "s"])) == 0
    row, = table().values()
    scores = json.loads((tmp_path / "s/run/metrics.json").read_text())
    log = list(csv.DictReader((tmp_path / "s/run/log.csv").read_text().splitlines()))
    assert (row["status"], row["error"], float(row["test_miou"])) == ("finished", "", scores["miou"])
    assert float(row["best_val_miou"]) == max(float(line["val_miou"]) for line in log) and len(log) == 2
    assert [row[name] for name in ("train_loss", "val_loss", "val_accuracy", "val_miou")] == [
        log[-1][name] for name in ("train_loss", "val_loss", "val_accuracy", "val_miou")]


@pytest.mark.slow
def test_the_real_train_py_is_stopped_and_continued(tmp_path, monkeypatch):
    """A search of three settings: all train for 1 of 3 epochs, and only the best goes on."""
    write_set(tmp_path / "data", count=3, side=16)
    monkeypatch.chdir(tmp_path)
    words = [*TINY[:-3], "3", *TINY[-2:], "--lr", "1e-3,1e-2,1e-1", "--search", "3", "--jobs", "2", "--out", "s"]
    assert sweep.main(sweep.parse_args(words)) == 0
    rows = table()
    assert sorted(row["status"] for row in rows.values()) == ["finished", "stopped", "stopped"]
    best, = (row for row in rows.values() if row["status"] == "finished")
    assert float(best["test_miou"]) == json.loads((tmp_path / "s" / best["cell"] / "metrics.json").read_text())["miou"]
    epochs = {name: [row["epoch"] for row in csv.DictReader((tmp_path / f"s/{name}/log.csv").read_text().splitlines())]
              for name in rows}
    assert sorted(epochs.values()) == [["1"], ["1"], ["1", "2", "3"]]


@pytest.mark.slow
def test_the_real_command_is_stopped_by_ctrl_c_and_goes_on(tmp_path):
    write_set(tmp_path / "data", count=40, side=32)
    words = [*TINY[:-4], "--epochs", "60", "--lr", "1e-3", "1e-2", "--out", "s"]
    command = [sys.executable, ROOT / "sweep.py", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("s/*/best.pt")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "stopped; the same command goes on" in process.communicate()[1] and process.returncode == 130
    row, = table(tmp_path / "s/sweep.csv").values()
    assert row["status"] == "interrupted" and 1 <= int(row["epochs_done"]) < 60
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    assert {row["status"] + row["epochs_done"] for row in table(tmp_path / "s/sweep.csv").values()} == {"finished60"}
