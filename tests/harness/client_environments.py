"""Other people's clients as they are: each in an environment of its own, from one file of exact versions and hashes.

They need other versions of our own packages, so none of them is installed beside us.
"""

import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from benchmarks.environments import InstallError, installed
from tests.harness.platform import ROOT, RunningPlatform

CLIENTS = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv" / "clients"
_SUITE_S = 120.0


def python_of(client: str) -> Path:
    """The interpreter of a client's environment, which is made if it is not there."""
    try:
        return installed(ENVIRONMENTS / client, CLIENTS / client / "requirements.txt")
    except InstallError as error:
        absent(f"{client} cannot be installed: {error}")


def absent(reason: str) -> NoReturn:
    """A client cannot be had here: that is no failure on somebody's laptop, and is one in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run_suite(client: str, suite: str, platform: RunningPlatform) -> None:
    """Run a file of tests that are written in the client's own terms, with the client's interpreter."""
    options = ["-q", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", "-c", os.devnull]
    completed = subprocess.run(
        [python_of(client), "-m", "pytest", *options, f"--rootdir={ROOT}", CLIENTS / client / suite],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLBUFFET_HTTP": f"127.0.0.1:{platform.port}",
            "MLBUFFET_GRPC": f"127.0.0.1:{platform.grpc_port}",
        },
        cwd=ROOT,
        timeout=_SUITE_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
