"""Programs of the system that some tests run: without them a laptop skips, and CI fails."""

import os
import shutil

import pytest


def required(name: str) -> str:
    """Where a program is."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    return found
