"""The length of a run: what is chosen for few tiles, and the time that is left."""

import types

import pytest

import train
from engine import length


@pytest.mark.parametrize("words, tiles, expected", [
    ("", 192, (16, 20, 1)),  # the demo, as always
    ("--lr 1e-3 --bs 16", 192, (16, 20, 1)),
    ("", 360, (16, 20, 1)),
    ("", 1, (4, 20, 192)),
    ("", 12, (4, 20, 16)),
    ("", 100, (4, 20, 2)),
    ("--bs 16", 12, (16, 20, 64)),
    ("--epochs 20", 12, (4, 20, 1)),
    ("--bs 16 --epochs 7", 1, (16, 7, 1)),
])
def test_choose_length__gives_few_tiles_more_passes_and_keeps_what_is_typed(words, tiles, expected):
    args = train.parse_args(words.split())
    length.choose_length(args, tiles)
    assert (args.bs, args.epochs, args.passes) == expected


def test_set_epochs__a_run_of_earlier_versions_goes_on_with_one_pass():
    args = types.SimpleNamespace(epochs=20, passes=None)
    length.set_epochs(args)
    assert (args.epochs, args.passes) == (20, 1)


def test_describe_length__names_the_steps_of_the_run_and_its_passes():
    args = train.parse_args([])
    length.choose_length(args, 12)
    line = length.describe_length(args, types.SimpleNamespace(steps=48), 12)
    assert "48 steps of 4 tiles = 960 steps" in line and "--epochs N" in line and "320" in line


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `seconds` is changed."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(length.time, "perf_counter", lambda: now.seconds)
    return now


def test_time_left__goes_by_the_pace_since_this_process_began(clock):
    run = types.SimpleNamespace(epoch=2, step=0, steps=4)  # resumed after two epochs
    left = length.TimeLeft(run, epochs=12)
    run.step = 2
    clock.seconds = 4.0
    assert str(left) == "76 s left"
    clock.seconds = 20.0
    assert str(left) == "6 min left"
    clock.seconds = 1000.0
    assert str(left) == "5.3 h left"


def test_watch__prints_a_line_now_and_then_where_there_is_no_terminal(clock, capsys):
    run = types.SimpleNamespace(epoch=0, step=0, steps=100)
    seen = []
    for step in length.TimeLeft(run, epochs=2).watch(range(100), 100):
        seen.append(step)
        run.step = step + 1
        clock.seconds += 2
    lines = capsys.readouterr().out.splitlines()
    assert seen == list(range(100))
    assert lines == ["epoch 1/2, step 6/100: about 6 min left",
                     "epoch 1/2, step 37/100: about 5 min left",
                     "epoch 1/2, step 68/100: about 4 min left",
                     "epoch 1/2, step 99/100: about 3 min left"]
