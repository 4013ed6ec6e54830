"""The flags of train.py, and the command lines of all commands, which do not wait for torch."""

import json
import subprocess
import sys

import networks
from engine import flags
from losses import LOSSES


def test_names__are_those_of_the_tables():
    assert flags.names("losses.py", "LOSSES") == tuple(LOSSES)
    assert flags.names("networks/__init__.py", "NETWORKS") == tuple(networks.NETWORKS)
    assert flags.encoder_names() == networks.ENCODERS


def test_commands__help_and_mistyped_flags_do_not_wait_for_torch():
    code = """
import json, runpy, sys
codes = []
for script in ("train", "evaluate", "predict", "prepare_data", "sweep", "export"):
    for word in ("--help", "--hepl"):
        sys.argv = [f"{script}.py", word]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            codes.append(end.code)
print(json.dumps([codes, sorted({"torch", "rasterio", "tensorboard"} & sys.modules.keys())]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=flags.ROOT, capture_output=True,
                          text=True, encoding="utf-8", check=True)
    codes, slow_modules = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 2] * 6
    assert slow_modules == []
