"""Temperatures by hand: made-up networks that are too sure by a known factor."""

import types

import pytest
import torch

import evaluate
import predict
from engine.checkpoint import load_checkpoint, load_model, save_checkpoint
from report import calibration
from report.calibration import HIGHEST, calibrate, calibration_error, fit_temperature
from test_evaluate import write_run

LN9 = torch.tensor(9.0).log()  # the logit at which two classes have 90 and 10 %


def pixels(logit, right, wrong):
    """(P, 2) logits that are for class 0 by `logit`, and (P,) labels, `right` of them class 0."""
    logits = torch.tensor([[logit, 0.0]]).repeat(right + wrong, 1)
    return logits, torch.tensor([0] * right + [1] * wrong, dtype=torch.uint8)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_fit_temperature__finds_the_factor_by_which_logits_are_too_large(factor):
    logits, labels = pixels(factor * LN9, right=9, wrong=1)
    assert fit_temperature(logits, labels) == pytest.approx(factor, rel=1e-5)


def test_fit_temperature__stays_within_its_limits():
    logits, labels = pixels(1.0, right=1, wrong=9)  # worse than by chance: no confidence at all
    assert fit_temperature(logits, labels) == pytest.approx(HIGHEST)


def test_calibration_error__is_0_at_the_temperature():
    logits, labels = pixels(2 * LN9, right=9, wrong=1)  # 81 to 1 where 9 to 1 is right
    assert calibration_error(logits, labels) == pytest.approx(81 / 82 - 0.9)
    assert calibration_error(logits, labels, 2.0) == pytest.approx(0, abs=1e-6)


def test_calibrate__writes_a_temperature_that_the_report_uses(tmp_path, capsys):
    checkpoint = write_run(tmp_path, tmp_path / "data")
    flags = ["--checkpoint", str(checkpoint), "--device", "cpu", "--split"]
    before = evaluate.main(evaluate.parse_args([*flags, "val"]))
    assert before["calibration_error"] == before["uncalibrated_error"]
    fit = evaluate.main(evaluate.parse_args([*flags, "val", "--calibrate"]))
    after = evaluate.main(evaluate.parse_args([*flags, "val"]))
    assert load_model(checkpoint)[0].temperature == fit["temperature"] > 1.5  # labels are random
    assert after["calibration_error"] == pytest.approx(fit["error_after"], abs=1e-6)
    assert after["calibration_error"] < after["uncalibrated_error"] == before["calibration_error"]
    assert after["miou"] == before["miou"]
    assert "without the temperature" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--calibrate"):
        calibrate(types.SimpleNamespace(meta={}), "train", 4, "cpu")


def test_calibrate__leaves_a_checkpoint_alone_that_it_would_not_improve(tmp_path, monkeypatch):
    checkpoint = write_run(tmp_path, tmp_path / "data")
    monkeypatch.setattr(calibration, "fit_temperature", lambda logits, labels: 0.2)  # too sure
    before = checkpoint.read_bytes()
    fit = evaluate.main(evaluate.parse_args(
        ["--checkpoint", str(checkpoint), "--device", "cpu", "--split", "val", "--calibrate"]))
    assert fit["error_after"] > fit["error_before"] and not fit["written"]
    assert checkpoint.read_bytes() == before


def test_load_model__refuses_a_temperature_of_0(tmp_path):
    checkpoint = write_run(tmp_path, tmp_path / "data")
    content = load_checkpoint(checkpoint)
    content["model"]["temperature"] = 0.0
    save_checkpoint(checkpoint, *(content[part] for part in ("model", "data", "train", "args")))
    with pytest.raises(ValueError, match="temperature"):
        load_model(checkpoint)


@pytest.mark.parametrize("tta", [False, True])
def test_predict_window__divides_logits_by_the_temperature(tta):
    model = torch.nn.Conv2d(2, 3, 1)
    model.stride = 1
    image = torch.randn(1, 2, 4, 4)
    classes, plain = predict.predict_window(model, image, 0, tta, True)
    model.temperature = 2.0
    same_classes, cooled = predict.predict_window(model, image, 0, tta, True)
    assert (classes == same_classes).all()
    assert torch.allclose(cooled, (plain.log() / 2).softmax(1), atol=1e-6)
