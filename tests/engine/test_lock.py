"""One process at a time holds a file, and sees when it has lost it."""

import contextlib
import shutil

import pytest

from engine import lock
from engine.lock import check_lock, locked, locked_beside


def test_locked__refuses_a_second_holder_until_the_first_is_gone(tmp_path):
    path = tmp_path / "args.json"
    with locked(path) as file:
        file.write("kept")
        with pytest.raises(BlockingIOError, match="--out"):
            with locked(path):
                pass
    with locked(path):
        assert path.read_text() == "kept"


def test_locked__a_file_replaced_before_it_is_locked_is_opened_again(tmp_path, monkeypatch):
    """Otherwise two processes would hold the lock of two files of one name."""
    path = tmp_path / "args.json"
    real = lock._lock

    def replace_first(file):
        monkeypatch.setattr(lock, "_lock", real)
        path.unlink()
        path.write_text("of another process")
        real(file)

    monkeypatch.setattr(lock, "_lock", replace_first)
    with locked(path) as file:
        check_lock(file)
        with pytest.raises(BlockingIOError), locked(path):
            pass


@pytest.mark.parametrize("is_taken", [False, True])
def test_check_lock__a_folder_that_was_removed_is_lost(tmp_path, is_taken):
    path = tmp_path / "run" / "args.json"
    path.parent.mkdir()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(locked(path))
        check_lock(file)
        shutil.rmtree(path.parent)
        if is_taken:
            path.parent.mkdir()
            stack.enter_context(locked(path))
        with pytest.raises(FileNotFoundError, match="run .*--out"):
            check_lock(file)


def test_locked_beside__holds_a_name_and_leaves_nothing(tmp_path):
    with locked_beside(tmp_path / "set"):
        with pytest.raises(BlockingIOError, match="set.*--out"), locked_beside(tmp_path / "set"):
            pass
        with locked_beside(tmp_path / "other"):
            pass
    assert not list(tmp_path.iterdir())
