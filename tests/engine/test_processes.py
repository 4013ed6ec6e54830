"""Processes that are a script started by hand."""

import json
import os
import pathlib
import subprocess
import sys
import time

from engine import processes

ROOT = pathlib.Path(processes.__file__).parents[1]
SCRIPT = """
import json, os, sys
os.write(1, b"first\\n")
print(json.dumps([__name__, sys.argv[1:], os.getcwd(), os.environ["OMP_NUM_THREADS"]]))
sys.exit("last")
"""
FIRST_PROCESS = """
import sys, time
from engine import processes
processes.SLOW_IMPORTS = []
if __name__ == "__main__":
    processes.start_script(["beats.py"], "beats.txt", 1)
    time.sleep(60)
"""


def test_start_script__is_the_script_started_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SLOW_IMPORTS", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "out.txt").write_text("before\n")
    process = processes.start_script(["script.py", "--lr", "1"], "out.txt", 3)
    process.join()
    before, first, line, last = (tmp_path / "out.txt").read_text().splitlines()
    assert process.exitcode == 1
    assert (before, first, last) == ("before", "first", "last")
    assert json.loads(line) == ["__main__", ["--lr", "1"], str(tmp_path), "3"]


def test_start_script__ends_when_the_process_that_started_it_is_killed(tmp_path):
    (tmp_path / "beats.py").write_text("import time\nwhile True:\n    print(1)\n"
                                       "    time.sleep(0.01)\n")
    beats = tmp_path / "beats.txt"
    starter = subprocess.Popen([sys.executable, "-c", FIRST_PROCESS], cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not beats.exists() or not beats.stat().st_size:
        time.sleep(0.01)
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 30
    size = -1
    while beats.stat().st_size > size:
        assert time.monotonic() < deadline
        size = beats.stat().st_size
        time.sleep(0.2)
