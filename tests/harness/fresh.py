"""Runs what forks in a process of its own: pytest's has threads, whose locks a fork would copy, and warns of it."""

import os
import subprocess
import sys
from collections.abc import Callable

from tests.harness.platform import ROOT


def in_fresh_process(body: Callable[[], None], *, timeout_s: float = 60) -> str:
    """Call a function of a module in a new interpreter; returns what that wrote."""
    ended = subprocess.run(
        [sys.executable, "-c", f"from {body.__module__} import {body.__name__} as body; body()"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
