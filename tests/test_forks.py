"""The changes that docs/fork.md shows fit the code, and what they add trains, scores and maps."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from engine.checkpoint import load_checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "geo", "networks", "report", "sources", "weak")
DATA = ROOT / "tests" / "data"
DIFFS = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "docs/fork.md").read_text(encoding="utf-8"),
                   re.MULTILINE | re.DOTALL)
RUN_COMMANDS = """
import importlib, json, runpy, sys
import numpy, torch
import data
runpy.run_module("sources.mine", run_name="__main__")
for script, *words in json.loads(sys.argv[1]):
    command = importlib.import_module(script)
    command.main(command.parse_args(words))
labels = torch.zeros(500, 8, 8, dtype=torch.uint8)
views = data.draw_views(labels, 4, data.Augmentation(), 0, 0, numpy.arange(500))
numpy.savez("views.npz", gains=views.gains, offsets=views.offsets)
"""


def apply_diff(diff, root):
    """Apply a unified diff of one file to the project in `root`; ValueError if it does not fit."""
    old_name, new_name = re.match(r"--- (\S+)\n\+\+\+ b/(\S+)\n", diff).groups()
    path = root / new_name
    created = old_name == "/dev/null"
    if created and path.exists():
        raise ValueError(f"{new_name} exists already")
    text = [] if created else path.read_text(encoding="utf-8").splitlines(keepends=True)
    hunks = re.split(r"^@@ -\d+,?(\d*) \+\d+,?(\d*) @@\n", diff, flags=re.MULTILINE)[1:]
    for old_count, new_count, body in zip(hunks[0::3], hunks[1::3], hunks[2::3]):
        lines = [line if line.strip() else " \n" for line in body.splitlines(keepends=True)]
        old = [line[1:] for line in lines if line[0] in " -"]
        new = [line[1:] for line in lines if line[0] in " +"]
        if (len(old), len(new)) != (int(old_count or 1), int(new_count or 1)):
            raise ValueError(f"{new_name}: its header does not count these lines:\n{body}")
        starts = range(len(text) - len(old) + 1)
        places = [start for start in starts if text[start:start + len(old)] == old]
        if len(places) != 1:
            raise ValueError(f"{new_name} has these lines {len(places)} times:\n{''.join(old)}")
        text[places[0]:places[0] + len(old)] = new
    path.write_text("".join(text), encoding="utf-8", newline="\n")


def copy_project(folder):
    """Copy the Python files of the project, without tests and bench."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A copy with all changes, in which each has trained two steps, was scored and made a map."""
    folder = tmp_path_factory.mktemp("fork")
    copy_project(folder)
    for diff in DIFFS:
        apply_diff(diff, folder)
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.integers(1, 256, (10, 32, 32, 4)).astype(np.uint8))
    np.save(folder / "labels.npy", random.integers(0, 2, (10, 32, 32)))
    prepared = str(DATA / "prepared")
    runs = {"plain": [prepared, "--depth", "1"],
            "loss": [prepared, "--depth", "1", "--loss", "tversky"],
            "network": [prepared, "--model", "patch"],
            "data": ["data/mine", "--depth", "1", "--bs", "3"]}
    train = ["train", "--width", "4", "--bs", "2", "--points", "5", "--epochs", "1"]
    commands = []
    for name, flags in runs.items():
        checkpoint = ["--checkpoint", f"runs/{name}/best.pt"]
        commands += [[*train, "--out", f"runs/{name}", "--data", *flags],
                     ["evaluate", *checkpoint],
                     ["predict", *checkpoint, "--out", f"maps/{name}", str(DATA / "scene.tif")]]
    commands = [[*command, "--device", "cpu"] for command in commands]
    done = subprocess.run([sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)], cwd=folder,
                          capture_output=True, text=True, encoding="utf-8", timeout=300,
                          check=False)
    assert done.returncode == 0, done.stderr
    return folder


def first_weights(folder, run):
    """The first tensor of a run's last checkpoint."""
    return next(iter(load_checkpoint(folder / "runs" / run / "last.pt")["model"]["state"].values()))


def test_fork_md__shows_a_loss_a_network_a_data_set_and_an_augmentation():
    files = [re.search(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)[1] for diff in DIFFS]
    assert files == ["losses.py", "networks/__init__.py", "sources/mine.py", "data.py"]


@pytest.mark.parametrize("diff", DIFFS)
def test_fork_md__a_diff_has_at_most_ten_lines_below_its_headers(diff):
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "@@"))]
    assert 0 < len(lines) <= 10
    assert max(map(len, lines)) <= 101


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize("diff", DIFFS)
def test_fork_md__git_applies_each_diff_as_apply_diff_does(diff, tmp_path):
    name = re.search(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)[1]
    for folder in ("ours", "git"):
        copy = tmp_path / folder / name
        copy.parent.mkdir(parents=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    apply_diff(diff, tmp_path / "ours")
    subprocess.run(["git", "apply", "-"], input=diff.encode(), cwd=tmp_path / "git", check=True)
    assert (tmp_path / "git" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


@pytest.mark.parametrize("content", ["a = 2\n", "a = 1\na = 1\n", "aa = 1\n"])
def test_apply_diff__refuses_a_file_in_which_the_lines_are_missing_or_twice(content, tmp_path):
    (tmp_path / "file.py").write_text(content, encoding="utf-8")
    diff = "--- a/file.py\n+++ b/file.py\n@@ -1 +1,2 @@\n a = 1\n+b = 2\n"
    with pytest.raises(ValueError, match="file.py"):
        apply_diff(diff, tmp_path)
    assert (tmp_path / "file.py").read_text(encoding="utf-8") == content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "network", "data"])
def test_fork__trains_two_steps_scores_and_maps(fork, name):
    run = fork / "runs" / name
    assert load_checkpoint(run / "last.pt")["train"]["epoch"] == 1
    assert load_checkpoint(run / "last.pt")["train"]["record"].shape == (2, 2)  # two steps
    for scores in ("metrics.json", "metrics_test.json"):
        assert 0 <= json.loads((run / scores).read_text(encoding="utf-8"))["miou"] <= 1
    classes = tifffile.imread(fork / "maps" / name / "scene_classes.tif")
    assert classes.shape == (70, 90)
    assert set(np.unique(classes)) <= ({0, 1, 255} if name == "data" else {0, 1, 2, 255})


@pytest.mark.slow
def test_fork__the_loss_and_the_network_are_those_of_the_diffs(fork):
    assert first_weights(fork, "network").shape == (4, 4, 5, 5)  # width, bands, 5 x 5 px
    assert first_weights(fork, "loss").shape == first_weights(fork, "plain").shape
    assert not first_weights(fork, "loss").equal(first_weights(fork, "plain"))


@pytest.mark.slow
def test_fork__the_augmentation_hides_bands(fork):
    views = np.load(fork / "views.npz")
    hidden = views["gains"] == 0  # (500, 4)
    assert hidden.mean() == pytest.approx(0.1, abs=0.03)  # over 2000 draws: 0.1 +- 0.007
    assert (views["offsets"][hidden] == 0).all()
