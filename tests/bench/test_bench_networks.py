"""The experiment on networks: what it would run, what it counts, what it says of rows made up here."""

import pathlib
import sys

import pytest
import torch
from helpers import load

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script puts a folder before all others
    return load("networks")


def test_every_run_has_a_name_of_its_own_and_the_same_budget(experiment):
    runs = experiment.experiments("data/demo", "data/dubai")
    assert len({name for name, _ in runs}) == len(runs) == 4 * len(experiment.NETWORKS)
    for name, flags in runs:
        assert flags[-1] == int(name[-1]) and flags[flags.index("--data") + 1] == f"data/{name.split('-')[0]}"
        assert all(flag in flags for flag in experiment.BUDGET)
    assert all(other in experiment.NETWORKS for _, other in experiment.NETWORKS.values() if other)


def test_every_network_is_built_from_its_flags(experiment):
    with torch.device("meta"):
        models = {name: experiment.build(flags)[0] for name, (flags, _) in experiment.NETWORKS.items()}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert sizes["resunet18-transposed-no-skips"] < sizes["resunet18-transposed"] and sizes["unet-sum"] < sizes["unet-concat"]
    assert len(set(sizes.values())) == len(sizes)


def test_costs_are_counted(experiment):
    assert experiment.count("--model unet") == (1_942_679, pytest.approx(6.08, abs=0.01))
    assert experiment.count("--model segformer") == (3_715_943, pytest.approx(3.37 + 0.13, abs=0.01))  # 0.13 is attention


def test_a_frozen_encoder_leaves_the_optimiser_less(experiment):
    with torch.device("meta"):
        model, optimizer = experiment.build(experiment.FROZEN["resunet18-frozen"])
    inside = sum(p.numel() for p in model.encoder.parameters())
    learned = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert learned == sum(p.numel() for p in model.parameters()) - inside


def test_speed_and_memory_are_measured(experiment, monkeypatch):
    for name, value in {"SIDE": 32, "BATCH": 2, "ROUNDS": 2}.items():
        monkeypatch.setattr(experiment, name, value)
    networks = {"narrow": "--model unet --width 4 --depth 1", "wide": "--model unet --width 64 --depth 2"}
    measured = experiment.speeds(networks)
    assert all(measured["narrow"][work] > measured["wide"][work] > 0 for work in ("training_img_s", "inference_img_s"))
    assert experiment.peak_of_step(networks["wide"], 1) >= 0


def test_table_pairs_seeds_and_calls_a_small_difference_none(experiment):
    made_up = {"unet-depth4": [0.50, 0.60, 0.70], "unet-depth5": [0.52, 0.63, 0.74], "unet-sum": [0.50, 0.63, 0.69]}
    rows = {f"demo-{name}-seed{seed}": {"miou": miou, "train_s": 60, "scored_on": "one"}
            for name, scores in made_up.items() for seed, miou in enumerate(scores)}
    rows["dubai-unet-sum-seed0"] = {"miou": 0.4}
    costs = {name: {"parameters": "9", "gflop": "5", "inference_img_s": "8", "training_img_s": speed, "training_mb": memory}
             for name, speed, memory in [("resunet18", "2", "1000"), ("resunet18-frozen", "4", "600")]}
    lines = {line.split(" | ")[0]: line for line in experiment.table_lines(rows, costs)}
    assert "| 0.600 +- 0.100 | 3 |  |  | 60 +- 0 |" in lines["| unet-depth4"]
    assert "| +3.0 +- 1.0 over unet-depth4 |" in lines["| unet-depth5"]
    assert "| +0.7 +- 2.1 (none) over unet-depth4 | 0.400 |" in lines["| unet-sum"]
    assert lines["| resunet18-frozen"] == "| resunet18-frozen | 1.00 of 2.00 | 600 of 1000 | 50% | 40% |"
    assert lines["| resunet18"].startswith("| resunet18 | 9 | 5 | 8 | 2 | 1000 |")
    assert len(lines["| linknet18"].split("|")) == len(lines["| network"].split("|"))


def test_runs_scored_on_two_sets_are_not_compared(experiment):
    rows = {f"demo-{name}-seed{seed}": {"miou": miou, "train_s": 60, "scored_on": test}
            for name, seed, miou, test in [("unet-depth4", 0, 0.5, "one"), ("unet-depth5", 0, 0.6, "another"),
                                           ("unet-depth4", 1, 0.5, "one"), ("unet-depth5", 1, 0.7, "one")]}
    line, = (line for line in experiment.table_lines(rows, {}) if line.startswith("| unet-depth5"))
    assert "| +20.0 over unet-depth4 |" in line
