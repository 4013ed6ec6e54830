"""The tests of bench/ import its scripts by name."""

import sys

from helpers import BENCH

sys.path.append(str(BENCH))
