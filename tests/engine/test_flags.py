"""The flags of train.py."""

import subprocess
import sys

import networks
from engine import flags
from losses import LOSSES


def test_names__are_those_of_the_tables():
    assert flags.names("losses.py", "LOSSES") == tuple(LOSSES)
    assert flags.names("networks/__init__.py", "NETWORKS") == tuple(networks.NETWORKS)
    assert flags.encoder_names() == networks.ENCODERS


def test_flags__are_parsed_without_torch():
    code = "import sys, engine.flags as f; f.parse_args([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=flags.ROOT, check=False).returncode == 0
