"""Throw-away environments: each peer is installed into its own, from one file of exact versions.

They lie in `benchmarks/.peers/<name>`, which git ignores, and are made anew when the requirements change.
"""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = HERE / "peers"


class InstallError(RuntimeError):
    """A peer cannot be installed here; standard error has pip's own words."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        InstallError: it cannot be made.
    """
    return installed(HERE / ".peers" / name, PEERS / name / "requirements.txt")


def installed(folder: Path, requirements: Path) -> Path:
    """The interpreter of the environment in a folder, which is made anew when its requirements have changed.

    Raises:
        InstallError: it cannot be made.
    """
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "installed"
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    print(f"installing {folder.name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    # --no-deps: the file names every package, so nothing unpinned can come in.
    # --no-compile: most modules are never imported.
    options = ["-qq", "--no-deps", "--no-compile", "--requirement", str(requirements)]
    status = subprocess.run([str(python), "-m", "pip", "install", *options], stdout=sys.stderr, check=False).returncode
    if status:
        msg = f"pip ended with status {status}"
        raise InstallError(msg)
    stamp.write_text(wanted, encoding="ascii")
    return python


def pinned(name: str, *packages: str) -> dict[str, str]:
    """The versions of some packages in a peer's requirements."""
    lines = (PEERS / name / "requirements.txt").read_text(encoding="utf-8").splitlines()
    versions = dict(line.partition("==")[::2] for line in lines if "==" in line)
    return {package: versions[package] for package in packages}
