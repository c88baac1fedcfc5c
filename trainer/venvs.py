"""Virtual environments for scripts that run without isolation: one for each set of requirements, used again.

<folder>/<digest of requirements, index and Python>/    with a file `complete` once all is installed
"""

import hashlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.engine import TrainingError
from trainer.installer import Bounds, Watch
from trainer.runs import Reason

_POLL_S = 0.2
_PIECE_BYTES = 1 << 16
_COMPLETE = "complete"
_OWN = ("TRAINER_", "INFERRER_", "MODELHOST_", "MLBUFFET_")


@dataclass(frozen=True, slots=True)
class Index:
    """Where requirements come from."""

    url: str = ""
    ca: Path | None = None
    sdists: bool = False


class Venvs:
    """The environments in a folder, of which so many are kept."""

    def __init__(self, folder: Path, index: Index, bounds: Bounds, most: int) -> None:
        self._folder = folder
        self._index = index
        self._bounds = bounds
        self._most = most
        self._busy = threading.Lock()  # two runs of the same requirements install them once

    def have(self, requirements: Path, watch: Watch) -> Path:
        """An environment with these requirements, made unless it is there.

        Raises:
            TrainingError: they cannot be installed, or not in time.
            CancelledError: nobody wants that any more.
        """
        decides = json.dumps([sys.version, self._index.url, self._index.sdists, requirements.read_bytes().hex()])
        target = self._folder / hashlib.sha256(decides.encode()).hexdigest()[:24]
        while not self._busy.acquire(timeout=_POLL_S):
            watch.check()
        try:
            if not (target / _COMPLETE).exists():
                self._make(target, requirements, watch)
            os.utime(target)
            self._remove_surplus()
        finally:
            self._busy.release()
        return target

    def _make(self, target: Path, requirements: Path, watch: Watch) -> None:
        # Its programs name its place, which is the last one from the beginning: a mark says that it is whole.
        shutil.rmtree(target, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ends_at = time.monotonic() + self._bounds.seconds
        try:
            make = [sys.executable, "-I", "-m", "venv", str(target)]
            if not _names_any(requirements):
                _carry_out([*make, "--without-pip"], {}, watch, ends_at)
                (target / _COMPLETE).touch()
                return
            _carry_out(make, {}, watch, ends_at)
            pip = [str(python_of(target)), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
            pip += [] if self._index.sdists else ["--only-binary=:all:"]
            _carry_out([*pip, "--requirement", str(requirements)], self._pip_settings(), watch, ends_at)
            (target / _COMPLETE).touch()
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _pip_settings(self) -> dict[str, str]:
        settings = {"PIP_ROOT_USER_ACTION": "ignore"}
        if self._index.url:
            settings["PIP_INDEX_URL"] = self._index.url
        if self._index.ca is not None:
            settings["PIP_CERT"] = str(self._index.ca)
        return settings

    def _remove_surplus(self) -> None:
        known = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in known[: -self._most]:
            shutil.rmtree(path, ignore_errors=True)


def _names_any(requirements: Path) -> bool:
    """Tell whether there is anything to install."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def python_of(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / "bin" / "python"


def _carry_out(command: Sequence[str], settings: Mapping[str, str], watch: Watch, ends_at: float) -> None:
    """Run a program of ours to its end, and hand on what it prints.

    Raises:
        TrainingError: it failed, or took too long.
        CancelledError: nobody wants it any more.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    process = subprocess.Popen(  # noqa: S603 - no shell, and names checked
        command,
        env={**variables, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _hand_on(process, watch, ends_at)
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    if status:
        msg = f"installing the requirements ended with status {status}; the log says why"
        raise TrainingError(Reason.REQUIREMENTS_FAILED, msg)


def _hand_on(process: subprocess.Popen[bytes], watch: Watch, ends_at: float) -> None:
    """Hand on what a program prints until it prints no more; for what it raises see `_carry_out`."""
    with selectors.DefaultSelector() as selector:
        key = selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]  # there is one
        while True:
            watch.check()
            if time.monotonic() > ends_at:
                msg = "the requirements were not installed in time"
                raise TrainingError(Reason.REQUIREMENTS_FAILED, msg)
            if selector.select(_POLL_S):
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    return
                watch.say(piece)
