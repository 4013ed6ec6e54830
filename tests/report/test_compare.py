"""Runs are scored on the same blocks: what is certain about their difference, and when nothing is said."""

import json

import numpy as np
import pytest
import torch

from engine.checkpoint import save_checkpoint
from report.compare import (
    common_data,
    compared_curves,
    paired_intervals,
    run_checkpoint,
    run_rows,
    write_comparison,
)
from report.stats import EvalStats


def right_and_wrong(right, wrong):
    """(U, 2, 2) matrices of blocks: as many pixels right and wrong of either class; their IoU is right / (right + 2 wrong)."""
    right, wrong = torch.as_tensor(right), torch.as_tensor(wrong)
    return torch.stack([torch.stack([right, wrong], 1), torch.stack([wrong, right], 1)], 1)


def tally_of(counts):
    tally = EvalStats(2, range(len(counts)))
    tally.counts, tally.near = counts, counts.sum(0)
    return tally


# ---------------------------------------------------------------- intervals

def test_no_interval_with_fewer_than_8_blocks():
    assert paired_intervals(right_and_wrong([9] * 7, [1] * 7)[None]) == {}
    assert paired_intervals(torch.cat([right_and_wrong([9] * 7, [1] * 7), torch.zeros(5, 2, 2, dtype=torch.int64)])[None]) == {}
    assert set(paired_intervals(right_and_wrong([9] * 8, [1] * 8)[None])) == {"miou", "difference"}


def test_blocks_that_are_all_alike_leave_no_doubt():
    found = paired_intervals(torch.stack([right_and_wrong([8] * 9, [1] * 9), right_and_wrong([6] * 9, [2] * 9)]))
    assert found["miou"].tolist() == [[0.8, 0.8], [0.6, 0.6]]
    assert found["difference"].tolist() == [[0, 0], pytest.approx([-0.2, -0.2])]


def test_what_is_hard_for_both_runs_cancels():
    right = np.arange(10) * 10
    counts = torch.stack([right_and_wrong(right, 100 - right), right_and_wrong(right + 5, 95 - right)])
    found = paired_intervals(counts)
    (low, high), (better_low, better_high) = found["miou"][0], found["difference"][1]
    assert high - low > 0.15 and better_low > 0.01 and better_high - better_low < 0.05
    mean = float(45 / (45 + 2 * 55))  # of all blocks together
    assert low < mean < high


def test_draws_are_seeded():
    generator = np.random.default_rng(0)
    counts = torch.stack([right_and_wrong(*generator.integers(1, 100, (2, 12))) for _ in range(2)])
    assert torch.equal(paired_intervals(counts)["miou"], paired_intervals(counts)["miou"])
    assert not torch.equal(paired_intervals(counts)["miou"], paired_intervals(counts, seed=1)["miou"])


def test_intervals_of_normal_scores_are_as_wide_as_theory_has_it():
    """400 blocks, each wholly right or wholly wrong, one class: IoU p / (2 - p) of the share p that is right."""
    right = np.random.default_rng(0).random(400) < 0.5
    low, high = paired_intervals(right_and_wrong(10 * right, 10 * ~right)[None])["miou"][0].tolist()
    p = right.mean()
    spread = 2 / (2 - p) ** 2 * np.sqrt(p * (1 - p) / 400)  # by the derivative of p / (2 - p)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)


# ---------------------------------------------------------------- tables

def test_rows_say_how_far_runs_are_from_the_first():
    tallies = [tally_of(right_and_wrong([8] * 9, [1] * 9)), tally_of(right_and_wrong([6] * 9, [2] * 9))]
    first, second = run_rows(["a", "b"], tallies, [10, 20], ["x", "y"])
    assert first["miou"] == 0.8 and first["difference"] == 0 and second["difference"] == pytest.approx(-0.2)
    assert second["difference_low"] == pytest.approx(-0.2) == second["difference_high"] and second["miou_low"] == 0.6
    assert second["pixel_accuracy"] == 0.75 and second["iou_y"] == 0.6 and second["labelled_pixels"] == 20


@pytest.mark.parametrize("blocks, said", [(7, "No intervals: the tiles lie in 7 contiguous blocks"),
                                          (8, "2,000 draws of 8 contiguous blocks")])
def test_a_comparison_says_when_it_gives_no_interval(tmp_path, capsys, blocks, said):
    tallies = [tally_of(right_and_wrong([8] * blocks, [1] * blocks)) for _ in range(2)]
    (tmp_path / "log.csv").write_text("epoch,val_miou,val_loss\n1,0.5,1\n2,0.6,nan\n")
    paths = [tmp_path / "best.pt", tmp_path / "missing" / "best.pt"]
    rows = write_comparison(tmp_path / "out", ["a", "b"], paths, tallies, [1, 2], ["x", "y"])
    printed = capsys.readouterr().out
    assert said in printed and ("miou_low" in printed) == (blocks == 8) == ("difference_high" in rows[0])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.csv", "comparison.png"]
    assert (tmp_path / "out" / "comparison.csv").read_text().splitlines()[2].startswith("b,0.8,")


def test_curves_of_runs_with_and_without_a_log(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_miou,val_loss\n1,0.5,1\n2,0.6,0.9\n")
    both = compared_curves({"a": tmp_path / "log.csv", "b": tmp_path / "nowhere.csv"})
    assert both.height > 1000
    assert compared_curves({"b": tmp_path / "nowhere.csv"}).height > 1000


# ---------------------------------------------------------------- which checkpoint, which data

def test_a_run_stands_for_the_checkpoint_that_was_scored(tmp_path):
    assert run_checkpoint(tmp_path) == tmp_path / "best.pt"
    assert run_checkpoint(tmp_path / "some.pt") == tmp_path / "some.pt"
    (tmp_path / "metrics.json").write_text(json.dumps({"checkpoint": "runs/elsewhere/last.pt"}))
    assert run_checkpoint(tmp_path) == tmp_path / "last.pt"
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json is damaged"):
        run_checkpoint(tmp_path)


def test_runs_of_different_data_need_data(tmp_path):
    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    for path, data in zip(paths, ("data/one", "data/./one", "data/two")):
        save_checkpoint(path, {"state": {}}, {}, {}, {"data": data})
    assert common_data(paths[:2]) == "data/one"
    with pytest.raises(ValueError, match="c.pt on .*two: say with --data"):
        common_data(paths)
