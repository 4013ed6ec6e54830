"""One process at a time holds a file."""

import pytest

from engine.lock import locked


def test_locked__refuses_a_second_holder_until_the_first_is_gone(tmp_path):
    path = tmp_path / "args.json"
    with locked(path) as file:
        file.write("kept")
        with pytest.raises(BlockingIOError, match="--out"):
            with locked(path):
                pass
    with locked(path):
        assert path.read_text() == "kept"
