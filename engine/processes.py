"""Run a script again and again, each time in a process of its own that need not import torch.

On Linux these processes are copies of one that has imported torch, and in which nothing has run
yet. So each starts at once, and computes what the script started by hand computes. On macOS and
Windows such copies are not safe, and each process imports torch anew.
"""

import multiprocessing
import os
import runpy
import sys
import threading

SLOW_IMPORTS = ["torch", "torch._dynamo", "PIL.Image", "tqdm"]  # the optimisers import the second


def start_script(words, output, threads):
    """Start a script, which ends when this process ends, however that happens.

    Args:
        words: the script's path and its command line.
        output: path of the file that what it prints is appended to.
        threads: that it may use.
    Returns:
        multiprocessing's Process. Its `exitcode` is the script's, or minus the signal's number.
    """
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(SLOW_IMPORTS)
    else:
        context = multiprocessing.get_context("spawn")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = context.Process(target=run_script,
                              args=(words, output, threads, os.getcwd(), environment))
    process.start()
    return process


def run_script(words, output, threads, folder, environment):
    """In the new process: be the script, in a working folder and with environment variables."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if "torch" in sys.modules:  # it has read OMP_NUM_THREADS already
        sys.modules["torch"].set_num_threads(threads)
    file = open(output, "a", encoding="utf-8", buffering=1)  # line by line, until the process ends
    sys.stdout = sys.stderr = file
    for number in (1, 2):  # what is not printed by Python
        os.dup2(file.fileno(), number)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def end_with_parent():
    """End this process, however busy it is, when the one that started it is gone."""
    multiprocessing.parent_process().join()
    os._exit(1)
