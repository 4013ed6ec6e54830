"""What speed is measured on: the peers are found, and the path for a card is tried on the CPU."""

import contextlib
import sys
import types

import pytest
import torch
from helpers import BENCH, load

import unet


@pytest.fixture
def card(monkeypatch):
    """bench/speed_gpu.py, at a size that the CPU does in no time."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(sys, "path", list(sys.path))  # speed.py puts a folder before all others
    import speed
    monkeypatch.setattr(speed, "SIDE", 32)
    module = load("speed_gpu")
    monkeypatch.setattr(module, "compiled", lambda model: model.to(memory_format=torch.channels_last))  # that takes a minute
    return module


def test_pytorch_unet_is_found_beside_our_file_of_its_name(card, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "__init__.py").write_text("from .unet_model import UNet\n")
    (tmp_path / "unet" / "unet_model.py").write_text("import torch\n\n\ndef UNet(bands, classes):\n"
                                                     "    return torch.nn.Conv2d(bands, classes, 1)\n")
    network = card.pytorch_unet(tmp_path)
    assert network(torch.zeros(1, card.BANDS, 4, 4)).shape == (1, card.CLASSES, 4, 4)
    assert sys.modules["unet"] is unet


def test_steps_of_a_card_learn_on_the_cpu_as_well(card):
    images, labels = card.batch(2)
    for build, bits in ((card.fast_step, torch.bfloat16), (card.usual_step, torch.float16)):
        model, seen = card.build_model("unet", card.BANDS, card.CLASSES, width=4, depth=1), []
        model.register_forward_hook(lambda model, inputs, logits: seen.append(logits))
        before, step = [p.clone() for p in model.parameters()], build(model, images, labels)
        first = step()
        assert seen[0].dtype == bits and not any(torch.equal(old, new) for old, new in zip(before, model.parameters()))
        assert (first is None) == (build is card.fast_step)  # which reads nothing back


@pytest.mark.slow
def test_rows_of_a_card_are_measured_on_the_cpu_as_well(card):
    device, limit = torch.device("cpu"), card.matrix_product(64, torch.bfloat16)
    for work in (card.unet_work(device, 2, width=4), card.resnet_work(device, 2)):
        assert work.operations > 0
        rows = card.measure(work, 1, limit)
        assert len(rows) == len(work.peers) and all(float(row["ours"]) > 0 for row in rows)


def test_an_epoch_is_that_of_training(card):
    with card.epoch(torch.device("cpu"), 5, 4, "--depth", "1", "--bs", "2", "--limit-batches", "1") as one:
        speed = one()
    assert speed["seconds"] > 0 and speed["images_per_s"] == pytest.approx(2 / speed["seconds"])


def test_kernels_that_overlap_keep_the_card_busy_once_and_annotations_do_not(card, monkeypatch):
    def event(name, start, end, device="CUDA", annotation=False):  # microseconds
        return types.SimpleNamespace(name=name, time_range=types.SimpleNamespace(start=start, end=end),
                                     is_user_annotation=annotation, device_type=getattr(torch.autograd.DeviceType, device))
    events = [event("product", 5e6, 6e6), event("copy", 0, 2e6), event("product", 1e6, 3e6), event("copy", 1.5e6, 2e6),
              event("whole region", 0, 9e6, annotation=True), event("host", 0, 9e6, "CPU")]
    profiler = contextlib.nullcontext(types.SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: profiler)
    assert card.kernel_times(lambda: None) == ({"product": 3, "copy": 2.5}, 4)
