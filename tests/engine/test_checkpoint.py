"""A checkpoint rebuilds its model from the file alone; a damaged one is refused."""

import copy
import pickle
import zipfile

import pytest
import torch

from engine.checkpoint import find_checkpoint, load_checkpoint, load_model, save_checkpoint
from engine.meta import checkpoint_meta
from networks import build_model

DATASET_META = {
    "name": "made", "ignore": 255, "mean": [0.0], "std": [1.0], "bands": 1, "dtype": "uint8",
    "gsd_m": 0.5, "rgb": [0],
    "classes": [{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": [4, 5, 6]}]}


def write_checkpoint(path, seed=0):
    torch.manual_seed(seed)
    kwargs = {"bands": 1, "classes": 2, "width": 4, "depth": 1}
    model = build_model("unet", **kwargs)
    train = {"epoch": 1, "labelled_pixels": 3, "record": torch.zeros(2, 3, dtype=torch.float64)}
    save_checkpoint(path, {"name": "unet", "kwargs": kwargs, "state": model.state_dict()},
                    checkpoint_meta(DATASET_META), train, {"lr": 1e-3})
    return model.eval()


def test_load_model__needs_the_file_alone(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    again, meta = load_model(tmp_path / "best.pt")
    images = torch.randn(2, 1, 9, 5)
    assert torch.allclose(model(images), again(images), atol=1e-6) and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert meta["classes"] == ["a", "b"] and meta["colours"] == [[1, 2, 3], [4, 5, 6]]
    assert meta["gsd_m"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_load_checkpoint__finds_a_flipped_bit_in_every_tensor(tmp_path):
    path = tmp_path / "best.pt"
    model = write_checkpoint(path)
    content = bytearray(path.read_bytes())
    for p in model.parameters():
        if p.ndim == 1:
            continue
        where = content.find(p.detach().numpy().tobytes())
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
    lambda content: content["data"]["mean"].__setitem__(0, 0.5),
    lambda content: content["args"].update(lr=1e-2),
    lambda content: content["train"].update(epoch=2),
    lambda content: content["train"].update(dpoch=content["train"].pop("epoch")),
    lambda content: content["train"].update(record=torch.zeros(3, 2, dtype=torch.float64))])
def test_load_checkpoint__checksum_covers_every_part(tmp_path, change):
    write_checkpoint(tmp_path / "best.pt")
    rewrite(tmp_path / "best.pt", change)
    with pytest.raises(ValueError, match="checksum"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_check_sizes__a_file_that_asks_for_more_memory_than_it_holds_is_not_loaded(
        tmp_path, monkeypatch, compression):
    path = tmp_path / "best.pt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
        if compression == zipfile.ZIP_STORED:  # one part under two names
            twin = copy.copy(archive.getinfo("archive/data/0"))
            twin.filename = "archive/data/1"
            archive.filelist.append(twin)
    monkeypatch.setattr(torch, "load", pytest.fail)
    with pytest.raises(ValueError, match="best.pt .*claim"):
        load_checkpoint(path)


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [
    endless(), torch.zeros(1).expand(2**36), torch.empty(3, device="meta"),
    torch.eye(3).to_sparse()], ids=["endless", "expanded", "meta", "sparse"])
def test_load_checkpoint__refuses_values_that_no_checkpoint_holds(tmp_path, value):
    write_checkpoint(tmp_path / "best.pt")
    rewrite(tmp_path / "best.pt", lambda content: content["args"].update(value=value))
    with pytest.raises(ValueError, match="best.pt"):
        load_checkpoint(tmp_path / "best.pt")


def test_load_model__asks_for_no_other_file_and_has_finite_weights(tmp_path):
    write_checkpoint(tmp_path / "best.pt")
    content = load_checkpoint(tmp_path / "best.pt")
    model, rest = content["model"], [content[part] for part in ("data", "train", "args")]
    asking = {**model, "kwargs": {**model["kwargs"], "weights": "imagenet"}}
    save_checkpoint(tmp_path / "asking.pt", asking, *rest)
    model["state"]["classifier.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "nan.pt", model, *rest)
    for name, message in (("asking.pt", "another file"), ("nan.pt", "classifier.bias")):
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
    (lambda path: torch.save({"format": 1, "model": Malicious()}, path), "not a checkpoint"),
    (lambda path: path.write_bytes(pickle.dumps({"model": Malicious()})), "not a checkpoint"),
    (lambda path: path.unlink(), "no checkpoint"),
])
def test_load_checkpoint__refuses_other_files_in_one_line(tmp_path, write, message, capsys):
    path = tmp_path / "best.pt"
    write_checkpoint(path)
    write(path)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value) and "best.pt" in str(error.value)
    assert "code was run" not in capsys.readouterr().out


def test_save_checkpoint__old_file_survives_a_full_disk(tmp_path):
    """The disk is full after 4,000 bytes: the same as a limit on the size of a file."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pt"
    write_checkpoint(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
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


def replace(path, part, key, value):
    """Replace a value in a checkpoint, and its checksum with it."""
    content = load_checkpoint(path)
    content[part][key] = value
    save_checkpoint(path, *(content[name] for name in ("model", "data", "train", "args")))


# What the checkpoints of earlier versions carry.
OLD_KWARGS = {"bands": 1, "classes": 2, "width": 4, "depth": 1, "skips": True, "dropout": 0.2,
              "fusion_at": "bottleneck", "output_stride": 16}


def test_load_model__takes_the_options_of_earlier_versions_at_their_defaults(tmp_path):
    model = write_checkpoint(tmp_path / "best.pt")
    replace(tmp_path / "best.pt", "model", "kwargs", OLD_KWARGS)
    images = torch.randn(1, 1, 8, 8)
    again, _ = load_model(tmp_path / "best.pt")
    assert torch.allclose(model(images), again(images), atol=1e-6)


def test_load_model__refuses_names_of_classes_that_its_network_lacks(tmp_path):
    path = tmp_path / "best.pt"
    write_checkpoint(path)
    replace(path, "data", "classes", ["a", "b", "c"])
    replace(path, "data", "colours", [[0, 0, 0]] * 3)
    with pytest.raises(ValueError, match="best.pt .*3 classes"):
        load_model(path)


def test_find_checkpoint__best_then_last_then_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="best.pt or last.pt"):
        find_checkpoint(tmp_path)
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path) == tmp_path / name
    assert find_checkpoint(tmp_path / "other.pt") == tmp_path / "other.pt"


@pytest.mark.parametrize("part, key, value", [
    ("model", "kwargs", {"bands": 1, "classes": 2, "width": 8, "depth": 1}),  # others were saved
    ("model", "kwargs", {"bands": 1, "classes": 2, "width": 10**6, "depth": 6}),  # 10^17 weights
    ("model", "kwargs", OLD_KWARGS | {"skips": False}),
    ("model", "kwargs", OLD_KWARGS | {"fusion_at": "skips"}),
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
def test_load_model__refuses_content_that_makes_no_sense(tmp_path, part, key, value):
    path = tmp_path / "best.pt"
    write_checkpoint(path)
    replace(path, part, key, value)
    with pytest.raises(ValueError, match="best.pt") as error:
        load_model(path)
    assert "\n" not in str(error.value)
