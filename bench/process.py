"""Run a Python command as a process of its own; print, as JSON, its exit status, seconds, CPU seconds and most resident memory, MB.

    python bench/process.py predict.py --checkpoint best.pt scene.tif

Linux counts what the starting process holds to the memory of the one it starts, so this one is small: measure.py, which
imports torch, uses it.
"""

import json
import os
import subprocess
import sys
import time

if __name__ == "__main__":
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    print(json.dumps({"status": status, "wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime,
                      "resident_mb": usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)}))
