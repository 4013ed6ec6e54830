"""Runs are scored on the same blocks: intervals of their differences, and when there are none."""

import errno
import json

import numpy as np
import pytest
import torch

from engine.checkpoint import save_checkpoint
from report import compare
from report.compare import (
    common_data, compared_curves, expanded_levels, paired_intervals, run_checkpoint, run_rows,
    write_comparison)
from report.stats import EvalStats


def block_counts(right, wrong):
    """(U, 2, 2) matrices of blocks; the IoU of both classes is right / (right + 2 * wrong).

    Args:
        right, wrong: (U,) pixels of either class.
    """
    right, wrong = torch.as_tensor(right), torch.as_tensor(wrong)
    return torch.stack([torch.stack([right, wrong], 1), torch.stack([wrong, right], 1)], 1)


def stats_of(counts):
    stats = EvalStats(2, range(len(counts)))
    stats.counts = counts
    stats.boundary_confusion = counts.sum(0)
    return stats


# ---------------------------------------------------------------- intervals

def test_paired_intervals__need_8_blocks_with_labels():
    seven = block_counts([9] * 7, [1] * 7)
    empty = torch.zeros(5, 2, 2, dtype=torch.int64)
    assert paired_intervals(torch.cat([seven, empty])[None]) == {}
    eight = block_counts([9] * 8, [1] * 8)
    assert set(paired_intervals(eight[None])) == {"miou", "difference"}


def test_paired_intervals__equal_blocks_have_no_spread():
    first = block_counts([8] * 9, [1] * 9)
    second = block_counts([6] * 9, [2] * 9)
    found = paired_intervals(torch.stack([first, second]))
    assert found["miou"].tolist() == [[0.8, 0.8], [0.6, 0.6]]
    assert found["difference"].tolist() == [[0, 0], pytest.approx([-0.2, -0.2])]


def test_paired_intervals__what_is_hard_for_both_runs_cancels():
    right = np.arange(10) * 10
    first = block_counts(right, 100 - right)
    second = block_counts(right + 5, 95 - right)
    found = paired_intervals(torch.stack([first, second]))
    low, high = found["miou"][0]
    better_low, better_high = found["difference"][1]
    assert low < 45 / (45 + 2 * 55) < high  # all blocks together
    assert high - low > 0.15
    assert better_low > 0.01
    assert better_high - better_low < 0.05


def test_expanded_levels__by_tables_of_t_and_of_the_normal_distribution():
    low, high = expanded_levels(9)  # t of 8 degrees of freedom is 2.306, times sqrt(9 / 8): 2.446
    assert low == pytest.approx(0.0072, abs=2e-4) and low + high == 1
    assert expanded_levels(10**6)[0] == pytest.approx(0.025, abs=1e-5)


def test_paired_intervals__draws_are_seeded():
    counts = block_counts(*np.random.default_rng(0).integers(1, 100, (2, 12)))[None]
    first = paired_intervals(counts)["miou"]
    assert torch.equal(first, paired_intervals(counts)["miou"])
    assert not torch.equal(first, paired_intervals(counts, seed=1)["miou"])


def test_paired_intervals__of_normal_scores_are_as_wide_as_in_theory():
    """400 blocks, each wholly right or wholly wrong: IoU p / (2 - p) of the share p right."""
    right = np.random.default_rng(0).random(400) < 0.5
    low, high = paired_intervals(block_counts(10 * right, 10 * ~right)[None])["miou"][0].tolist()
    p = right.mean()
    deviation = 2 / (2 - p) ** 2 * np.sqrt(p * (1 - p) / 400)  # by the derivative of p / (2 - p)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


# ---------------------------------------------------------------- tables and curves

def test_run_rows__by_hand():
    stats = [stats_of(block_counts([8] * 9, [1] * 9)), stats_of(block_counts([6] * 9, [2] * 9))]
    first, second = run_rows(["a", "b"], stats, [10, 20], ["x", "y"])
    assert first["miou"] == 0.8
    assert first["difference"] == 0
    assert second["difference"] == pytest.approx(-0.2)
    assert second["difference_low"] == pytest.approx(-0.2) == second["difference_high"]
    assert second["miou_low"] == 0.6
    assert second["pixel_accuracy"] == 0.75
    assert second["iou_y"] == 0.6
    assert second["scored_classes"] == 2
    assert second["labelled_pixels"] == 20


@pytest.mark.parametrize("blocks, note", [(7, "No intervals: the tiles lie in 7 contiguous blocks"),
                                          (8, "2,000 draws of 8 contiguous blocks")])
def test_write_comparison__prints_intervals_or_why_there_are_none(tmp_path, capsys, blocks, note):
    stats = [stats_of(block_counts([8] * blocks, [1] * blocks)) for _ in range(2)]
    (tmp_path / "log.csv").write_text("epoch,val_miou,val_loss\n1,0.5,1\n2,0.6,nan\n")
    paths = [tmp_path / "best.pt", tmp_path / "missing" / "best.pt"]
    rows = write_comparison(tmp_path / "out", ["a", "b"], paths, stats, [1, 2], ["x", "y"])
    printed = capsys.readouterr().out
    assert note in printed
    assert f"over {18 * blocks} labelled pixels" in printed
    assert ("difference_high" in rows[0]) == (blocks == 8)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.csv", "comparison.png"]
    lines = (tmp_path / "out" / "comparison.csv").read_text().splitlines()
    assert lines[2].startswith("b,0.8,")


def test_write_comparison__writes_both_files_or_none(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compare, "save_png", full_disk)
    stats = [stats_of(block_counts([8], [1]))] * 2
    with pytest.raises(OSError, match="out could not be written .*free some space"):
        write_comparison(tmp_path / "out", ["a", "b"], [tmp_path / "best.pt"] * 2, stats, [1, 2],
                         ["x", "y"])
    assert not list((tmp_path / "out").iterdir())


def test_compared_curves__of_runs_with_and_without_a_log(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_miou,val_loss\n1,0.5,1\n2,0.6,0.9\n")
    logs = {"a": tmp_path / "log.csv", "b": tmp_path / "nowhere.csv"}
    assert compared_curves(logs).height > 1000


# ---------------------------------------------------------------- which checkpoint, which data

def test_run_checkpoint__is_the_one_that_was_scored(tmp_path):
    (tmp_path / "best.pt").touch()
    assert run_checkpoint(tmp_path) == tmp_path / "best.pt"
    assert run_checkpoint(tmp_path / "some.pt") == tmp_path / "some.pt"
    (tmp_path / "metrics.json").write_text(json.dumps({"checkpoint": "runs/elsewhere/last.pt"}))
    assert run_checkpoint(tmp_path) == tmp_path / "last.pt"
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json"):
        run_checkpoint(tmp_path)


def test_common_data__of_different_sets_asks_for_data(tmp_path):
    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    for path, data in zip(paths, ("data/one", "data/./one", "data/two")):
        save_checkpoint(path, {"state": {}}, {}, {}, {"data": data})
    assert common_data(paths[:2]) == "data/one"
    with pytest.raises(ValueError, match="c.pt on .*two: .*--data"):
        common_data(paths)
