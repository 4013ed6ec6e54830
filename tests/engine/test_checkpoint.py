"""A checkpoint rebuilds its model from the file alone, and is refused when anything about it is wrong."""

import pickle
import resource

import pytest
import torch

from engine.checkpoint import load_checkpoint, load_model, save_checkpoint
from engine.meta import checkpoint_meta
from networks import build_model

FACTS = {"name": "made", "classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": [4, 5, 6]}], "ignore": 255,
         "mean": [0.0], "std": [1.0], "bands": 1, "dtype": "uint8", "gsd_m": 0.5, "rgb": [0]}


def write_checkpoint(path, seed=0):
    torch.manual_seed(seed)
    kwargs = {"bands": 1, "classes": 2, "width": 4, "depth": 1}
    model = build_model("unet", **kwargs)
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()}, checkpoint_meta(FACTS),
                    {"epoch": 1, "labelled_pixels": 3, "record": torch.zeros(2, 3, dtype=torch.float64)}, {"lr": 1e-3})
    return model.eval()


def test_a_model_comes_back_from_the_file_alone(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    again, meta = load_model(tmp_path / "best.pt")
    images = torch.randn(2, 1, 9, 5)
    assert torch.allclose(model(images), again(images), atol=1e-6) and not again.training
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert meta["classes"] == ["a", "b"] and meta["colours"] == [[1, 2, 3], [4, 5, 6]] and meta["gsd_m"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_every_flipped_byte_in_the_tensors_is_found(tmp_path):
    path = tmp_path / "best.pt"
    model = write_checkpoint(path)
    content = bytearray(path.read_bytes())
    for tensor in [parameter.detach() for parameter in model.parameters() if parameter.ndim > 1]:
        where = content.find(tensor.numpy().tobytes())
        assert where > 0
        content[where] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(path)
        content[where] ^= 1
    path.write_bytes(content)
    load_checkpoint(path)


def rewrite(path, change):
    """Change the content of a checkpoint and leave its checksum as it was."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize("change", [
    lambda content: content["data"]["mean"].__setitem__(0, 0.5), lambda content: content["args"].update(lr=1e-2),
    lambda content: content["train"].update(epoch=2), lambda content: content["train"].update(dpoch=content["train"].pop("epoch")),
    lambda content: content["train"].update(record=torch.zeros(3, 2, dtype=torch.float64))])
def test_whatever_is_changed_does_not_match_the_checksum(tmp_path, change):
    write_checkpoint(tmp_path / "best.pt")
    rewrite(tmp_path / "best.pt", change)
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_checkpoint(tmp_path / "best.pt")


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [endless(), torch.zeros(1).expand(2**36), torch.empty(3, device="meta"),
                                   torch.eye(3).to_sparse()], ids=["endless", "spread out", "meta", "sparse"])
def test_values_that_no_checkpoint_holds_are_one_line(tmp_path, value):
    write_checkpoint(tmp_path / "best.pt")
    rewrite(tmp_path / "best.pt", lambda content: content["args"].update(value=value))
    with pytest.raises(ValueError, match="best.pt is not a checkpoint of this project, or is damaged"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_checkpoint_asks_for_no_other_file_and_has_finite_weights(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    content = load_checkpoint(tmp_path / "best.pt")
    model, rest = content["model"], [content[part] for part in ("data", "train", "args")]
    save_checkpoint(tmp_path / "asking.pt", {**model, "kwargs": {**model["kwargs"], "weights": "imagenet"}}, *rest)
    model["state"]["classifier.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "nan.pt", model, *rest)
    for name, message in (("asking.pt", "asks for another file"), ("nan.pt", "weights are not finite")):
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / name)


class Malicious:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("write, message", [
    (lambda path: path.write_bytes(b""), "not a checkpoint"),
    (lambda path: path.write_bytes(b"no checkpoint at all"), "not a checkpoint"),
    (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not a checkpoint"),
    (lambda path: torch.save({"weights": torch.ones(3)}, path), "format 1"),
    (lambda path: torch.save([1, 2], path), "not a checkpoint"),
    (lambda path: torch.save({"format": 1, "model": Malicious(), "sha256": ""}, path), "not a checkpoint"),
    (lambda path: path.write_bytes(pickle.dumps({"format": 1, "model": Malicious()})), "not a checkpoint"),
    (lambda path: path.unlink(), "no checkpoint"),
])
def test_what_is_no_checkpoint_is_one_line(tmp_path, write, message, capsys):
    path = tmp_path / "best.pt"
    write_checkpoint(path)
    write(path)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value) and "best.pt" in str(error.value)
    assert "code was run" not in capsys.readouterr().out


def test_a_network_of_another_shape_is_one_line(tmp_path):
    model = build_model("unet", bands=1, classes=2, width=4, depth=1)
    save_checkpoint(tmp_path / "x.pt", {"name": "unet", "kwargs": {"bands": 1, "classes": 2, "width": 8, "depth": 1},
                                        "state": model.state_dict()}, {}, {}, {})
    with pytest.raises(ValueError, match="does not fit") as error:
        load_model(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_the_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_checkpoint(path)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="free some space"):
        write_checkpoint(path, seed=1)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_the_old_file_survives_a_full_disk(tmp_path):
    """The disk is full after 4,000 bytes: a limit on the size of a file is met in the same place, and in the same way."""
    path = tmp_path / "last.pt"
    write_checkpoint(path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(before) > 4000
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        with pytest.raises(OSError, match="free some space") as error:
            write_checkpoint(path, seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    load_checkpoint(path)


@pytest.mark.parametrize("part, key, value", [
    ("model", "kwargs", {"bands": 1, "classes": 2, "width": 10**6, "depth": 6}),  # a network of 10^17 weights
    ("model", "name", "alexnet"),
    ("model", "state", {}),
    ("data", "std", [0.0]),
    ("data", "mean", [float("nan")]),
    ("data", "mean", [1.0, 2.0]),
    ("data", "colours", [[0, 0, 300], [0, 0, 0]]),
    ("data", "classes", ["a"]),
    ("data", "classes", ["a", ["b"]]),
    ("data", "rgb", [3]), ("data", "rgb", ""), ("data", "rgb", []),
    ("data", "nodata", "none"),
    ("data", "scale", 0),
])
def test_facts_that_make_no_sense_are_one_line(tmp_path, part, key, value):
    path = tmp_path / "best.pt"
    write_checkpoint(path)
    content = load_checkpoint(path)
    content[part][key] = value
    save_checkpoint(path, *(content[name] for name in ("model", "data", "train", "args")))  # with a checksum that fits
    with pytest.raises(ValueError, match="best.pt does not fit") as error:
        load_model(path)
    assert "\n" not in str(error.value)
