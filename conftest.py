"""This repository's own test runs: without --lstm, the shipped checks judge the reference.

The plugin itself is found through its entry point (`lstm_ref.pytest_plugin`), in an editable install as in a wheel.
"""

import os
import pathlib

from lstm_ref.pytest_plugin import DEFAULT_TARGETS

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two threads are slower than one at these sizes
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    if config.rootpath == pathlib.Path(__file__).parent:
        config.stash[DEFAULT_TARGETS] = ["ref:"]
