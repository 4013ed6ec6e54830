"""What speed is measured on: the peers are found, and the path for a card is tried on the CPU."""

import sys

import pytest
import torch

import unet
from test_bench_few_points import BENCH, load


@pytest.fixture
def card(monkeypatch):
    """bench/speed_gpu.py, at a size that the CPU does in no time."""
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setattr(sys, "path", list(sys.path))  # speed.py puts a folder before all others
    import speed
    monkeypatch.setattr(speed, "SIDE", 32)
    return load("speed_gpu")


def test_pytorch_unet_is_found_beside_our_file_of_its_name(card, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "__init__.py").write_text("from .unet_model import UNet\n")
    (tmp_path / "unet" / "unet_model.py").write_text("import torch\n\n\ndef UNet(bands, classes):\n"
                                                     "    return torch.nn.Conv2d(bands, classes, 1)\n")
    network = card.pytorch_unet(tmp_path)
    assert network(torch.zeros(1, card.BANDS, 4, 4)).shape == (1, card.CLASSES, 4, 4)
    assert sys.modules["unet"] is unet
