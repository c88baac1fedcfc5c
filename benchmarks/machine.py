"""What the numbers were measured on: machine, versions, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT

_UNKNOWN = "unknown"


def describe_machine() -> dict[str, Any]:
    """Processor, cores, kernel, Python, commit and how busy the machine was at the start."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "commit": _commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def installed(*packages: str) -> dict[str, str]:
    """The versions of packages in this environment."""
    return {package: version(package) for package in packages}


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), _UNKNOWN)


def _commit() -> str:
    """The commit, with a mark when files differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "mlbuffet", "inferrer", "modelhost", "models")
    return f"{commit}-modified" if changed not in {"", _UNKNOWN} else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else _UNKNOWN
