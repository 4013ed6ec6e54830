"""Ensembles: the mean of probabilities, and how far the members differ, by hand."""

import math

import pytest
import torch

import predict
from engine.ensemble import load_ensemble
from networks.ensemble import Ensemble, mutual_information
from test_predict import random_scene, read_bands, run, write_checkpoint, write_png


def probabilities_of(*members):
    """(M, 1, K, 1, 1) of one pixel."""
    return torch.tensor(members, dtype=torch.float64)[:, None, :, None, None]


@pytest.mark.parametrize("members, expected", [
    (([1.0, 0.0], [0.0, 1.0]), 1.0),  # each is sure, and they contradict each other
    (([0.5, 0.5], [0.5, 0.5]), 0.0),  # both are in doubt, and agree
    (([0.9, 0.1], [0.9, 0.1]), 0.0),
    (([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]), 1.0)])
def test_mutual_information__by_hand(members, expected):
    found = mutual_information(probabilities_of(*members))
    assert found.shape == (1, 1, 1, 1)
    assert found.item() == pytest.approx(expected, abs=1e-9)


class Constant(torch.nn.Module):
    """A network that gives the same logits everywhere."""

    def __init__(self, *logits, temperature, stride, radius):
        super().__init__()
        self.logits = torch.tensor(logits)[None, :, None, None]
        self.temperature = temperature
        self.stride = stride
        self.radius = radius

    def forward(self, x):
        return self.logits.expand(len(x), -1, *x.shape[2:])


def test_ensemble__averages_probabilities_at_each_members_temperature():
    ensemble = Ensemble([Constant(0.0, 2 * math.log(3), temperature=2.0, stride=4, radius=3),
                         Constant(0.0, 0.0, temperature=1.0, stride=6, radius=None)])
    image = torch.zeros(1, 1, 2, 2)
    expected = torch.tensor([(0.25 + 0.5) / 2, (0.75 + 0.5) / 2])
    assert torch.allclose(ensemble(image).exp()[0, :, 0, 0], expected)
    assert (ensemble.stride, ensemble.radius) == (12, None)
    classes, values = predict.predict_window(ensemble, image, 0, False, False)
    assert (classes == 1).all()
    assert torch.allclose(values[0, :2, 0, 0], expected)
    assert values[0, 2, 0, 0] > 0


def test_main__several_checkpoints_are_averaged(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    write_png(tmp_path / "scene.png", random_scene(40, 50))
    flags = ["--probabilities", "--suggest", "2"]
    run(tmp_path, "scene.png", out="one", flags=flags)
    twice = [*flags, "--checkpoint", str(tmp_path / "best.pt")]
    run(tmp_path, "scene.png", out="twice", flags=twice)
    for name in ("classes", "confidence", "probabilities"):
        one, two = (read_bands(tmp_path / out / f"scene_{name}.tif").astype(int)
                    for out in ("one", "twice"))
        assert abs(one - two).max() <= (name != "classes")  # a network agrees with itself
    assert not read_bands(tmp_path / "twice" / "scene_mutual_information.tif").any()
    assert not (tmp_path / "one" / "scene_mutual_information.tif").exists()


def test_load_ensemble__refuses_networks_of_other_data(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    write_checkpoint(tmp_path / "other.pt", mean=[90.0] * 3)
    with pytest.raises(ValueError, match="mean"):
        load_ensemble([tmp_path / "best.pt", tmp_path / "other.pt"])
