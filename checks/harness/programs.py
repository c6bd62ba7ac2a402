"""Programs that some tests need and no Python package brings."""

import os
import shutil

import pytest


def required(name: str) -> str:
    """The path of a program. The test is skipped, by that name, where there is none, and fails there under CI."""
    found = shutil.which(name)
    if not found and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed")
    return found or pytest.skip(f"{name} is not installed")
