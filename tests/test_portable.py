"""The commands work without what only Linux and macOS have, as on Windows."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def hide_posix():
    """Take away the modules and functions that Windows lacks; a simple msvcrt takes their place.

    Returns:
        set of the files that are locked, by their number.
    """
    for name in ("numpy", "PIL.Image", "tifffile", "torch", "tqdm"):
        importlib.import_module(name)  # first, because they have other ways on Windows
    for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
        sys.modules[name] = None  # importing it raises ImportError
    for name in ("fork", "uname", "getuid", "geteuid", "getpgid", "killpg", "sysconf", "pread",
                 "sched_getaffinity", "posix_fadvise", "statvfs", "mkfifo", "chown", "sync"):
        if hasattr(os, name):
            delattr(os, name)
    for name in ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "alarm", "pause", "setitimer"):
        if hasattr(signal, name):
            delattr(signal, name)
    held = set()

    def locking(descriptor, mode, count):
        """Lock bytes from the descriptor's position on, until it is closed."""
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, count) == (2, 1) and place >= 2**30  # not the content, which others read
        file = os.fstat(descriptor).st_ino
        if file in held:
            raise PermissionError("locked")
        held.add(file)

    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    return held


def train_and_predict(folder):
    """Prepare, train two steps, resume, evaluate and predict in a folder."""
    import json

    import numpy as np
    from PIL import Image

    held = hide_posix()
    import evaluate
    import predict
    import train
    from data import write_prepared

    random = np.random.default_rng(0)
    images = random.integers(0, 255, (6, 16, 16, 3), np.uint8)
    labels = random.integers(0, 2, (6, 16, 16), np.uint8)
    data, out = folder / "data", folder / "run"
    write_prepared(data, images, labels, ["a", "b"],
                   ["train", "train", "train", "train", "val", "test"])
    words = ["--data", str(data), "--out", str(out), "--width", "4", "--depth", "1", "--bs", "2",
             "--points", "5", "--epochs", "2", "--device", "cpu"]
    train.main(train.parse_args([*words, "--stop-after", "1"]))
    assert json.loads((out / "args.json").read_text(encoding="utf-8"))["points"] == 5
    resume = ["--out", str(out), "--resume"]
    with pytest.raises(BlockingIOError):  # this msvcrt does not see that the file was closed
        train.main(train.parse_args(resume))
    held.clear()
    scores = train.main(train.parse_args(resume))
    checkpoint = str(out / "best.pt")
    evaluate.main(evaluate.parse_args(["--checkpoint", checkpoint, "--data", str(data)]))
    again = json.loads((out / "metrics_test.json").read_text(encoding="utf-8"))
    assert again["confusion"] == scores["confusion"]
    Image.fromarray(images[0]).save(folder / "scene.png")
    predict.main(predict.parse_args(["--checkpoint", checkpoint, str(folder / "scene.png"),
                                     "--out", str(folder / "maps")]))
    assert (folder / "maps" / "scene_classes.tif").exists()


@pytest.mark.slow
def test_commands__work_without_posix(tmp_path):
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True,
                          cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    train_and_predict(pathlib.Path(sys.argv[1]))
