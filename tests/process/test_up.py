"""`mlbuffet up`: the platform as forks of one process, which come back when they die and end together."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlbuffet import Client
from mlbuffet.errors import ConnectionFailedError, UnavailableError
from tests.harness.platform import ROOT, SAMPLES, _descendants, free_port, wait_until

IRIS = [[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]


class Up:
    """A running `mlbuffet up` in a session of its own."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "log"
        command = [
            sys.executable,
            "-m",
            "mlbuffet.cli",
            "up",
            "--no-metrics",
            "--port",
            self.port,
            "--grpc-port",
            free_port(),
            "--repository",
            "repository",
            *words,
        ]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///none"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self) -> None:
        """Wait until it says so."""
        wait_until(lambda: f"ready at {self.url}" in self.log, 30, f"mlbuffet up being ready\n{self.log}")

    def family(self) -> set[int]:
        """It and every process below it."""
        return {self.process.pid, *_descendants(self.process.pid)}

    def children(self, service: str) -> set[int]:
        """The process ids of the direct children that run a service."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii").split()
        return {int(pid) for pid in pids if _runs(pid, service)}


def _runs(pid: str, service: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith(service)
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def running_up(folder: Path, *words: object) -> Iterator[Up]:
    """The platform by `mlbuffet up` with one model; nothing of it is left at the end."""
    shutil.copytree(SAMPLES / "iris.onnx", folder / "repository" / "iris.onnx")
    up = Up(folder, *words)
    family: set[int] = set()
    try:
        up.wait_ready()
        yield up
        family = up.family()
    finally:
        family = family or up.family()
        up.process.kill()
        up.process.wait()
        wait_until(lambda: not _alive(family), 20, "every process having ended")


def _alive(pids: set[int]) -> set[int]:
    """Those that still run: a zombie that nobody reaps has ended."""
    return {pid for pid in pids if _state(pid) not in {"", "Z", "X"}}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_serves_restarts_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever service is killed comes back, as a fork of the same process."""
    with running_up(tmp_path, "--modelhosts", 2, "--workers", 1) as up, Client(up.url) as client:
        assert client.predict("iris.onnx", IRIS)["values"] == [0, 2]
        before = up.children("modelhost")
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: len(up.children("modelhost") - {min(before)}) == 2, 30, f"a new modelhost\n{up.log}")
        wait_until(lambda: _ready_hosts(client) == 2, 30, f"both being ready\n{up.log}")
        assert client.predict("iris.onnx", IRIS)["values"] == [0, 2]
        (inferrer,) = up.children("inferrer")
        os.kill(inferrer, signal.SIGKILL)
        wait_until(lambda: up.children("inferrer") - {inferrer}, 30, f"a new inferrer\n{up.log}")
        wait_until(lambda: _answers(client), 30, f"it being ready\n{up.log}")
        assert len(list(Path(f"/proc/{up.process.pid}/task").iterdir())) == 1, "a fork would lose other threads"
        # The client may have been answered by the old worker, which ends in order.
        wait_until(
            lambda: len(up.family()) == 9, 30, "two modelhosts with fork server and runner, an arbiter and a worker"
        )
        family = up.family()
        up.process.send_signal(number)
        assert up.process.wait(10) == 0
        wait_until(lambda: not _alive(family), 1, "every process having ended")
    assert re.search(r"^modelhost-\d ended with status -9; starting it again$", up.log, re.MULTILINE)
    assert re.search(
        r"^[\d:.]{12} modelhost-1  INFO    version loaded  model=iris\.onnx version=1", up.log, re.MULTILINE
    )
    assert "Traceback" not in up.log


def _answers(client: Client) -> bool:
    try:
        return bool(client.predict("iris.onnx", IRIS)["values"] == [0, 2])
    except (ConnectionFailedError, UnavailableError):
        return False


def _ready_hosts(client: Client) -> int:
    return sum(host["state"] == "READY" for host in client.show("iris.onnx")["modelhosts"])


def test_killed_supervisor_leaves_nobody(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        family = up.family()
        up.process.kill()
        up.process.wait()
        wait_until(lambda: not _alive(family), 15, "every process having ended")


def test_a_fork_server_that_is_killed_takes_its_modelhost_along_and_both_come_back(tmp_path: Path) -> None:
    with running_up(tmp_path, "--modelhosts", 1, "--workers", 1) as up, Client(up.url) as client:
        (modelhost,) = up.children("modelhost")
        (forkserver,) = [pid for pid in up.family() if _runs(str(pid), "forkserver")]
        os.kill(forkserver, signal.SIGKILL)
        wait_until(lambda: up.children("modelhost") - {modelhost}, 30, f"a new modelhost\n{up.log}")
        wait_until(lambda: _answers(client), 30, f"it being ready\n{up.log}")
    assert "modelhost-1 ended with status 1; starting it again" in up.log


def test_the_processes_of_one_machine_share_their_memory(tmp_path: Path) -> None:
    """With one small model the platform takes 115 MiB; it was 240 when each process was a program of its own."""
    with running_up(tmp_path, "--modelhosts", 2, "--workers", 2) as up:
        wait_until(lambda: sum(_runs(str(pid), "runner") for pid in up.family()) == 2, 30, f"both runners\n{up.log}")
        assert sum(_anonymous_mib(pid) for pid in up.family()) < 160


def _anonymous_mib(pid: int) -> float:
    """Memory of a process that is no file's, with its share of what it has in common with others, in MiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Pss_Anon: +(\d+) kB$", rollup, re.MULTILINE)[1]) / 1024  # type: ignore[index]
