"""Faults to inject into a running platform, each by one name: kill, hold, slow down, fill, rot, bugs.

Inject inside `with unharmed(platform): …` of tests/harness/invariants.py, which looks afterwards at what must still
hold. The wire between inferrer and modelhost has faults of its own, delay, cut and corrupt: tests/harness/proxy.py.
"""

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
import pytest

from mlbuffet.generation import raise_generation
from mlbuffet.index import generation_file, read_versions
from mlbuffet.manifest import Manifest
from tests.harness.platform import ROOT, RunningPlatform, wait_until

# Which process -------------------------------------------------------------------------------------------------------


def name_of(pid: int) -> str:
    """A process's name as the kernel knows it, 15 bytes at most; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Tell whether a process runs: a zombie has ended."""
    return _state(pid) not in {"", "Z"}


def is_busy(pid: int) -> bool:
    """Tell whether a process uses the processor or waits for it."""
    return _state(pid) == "R"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""


def processes(platform: RunningPlatform, service: str, name: str = "") -> list[int]:
    """The processes of that name below a service; without a name all of them."""
    return [pid for pid in platform.children(service) if not name or name_of(pid) == name[:15]]


def find(platform: RunningPlatform, service: str, name: str) -> int:
    """The one process of that name below a service, waited for."""
    (pid,) = wait_until(lambda: processes(platform, service, name), what=f"{name} below {service}")
    return pid


def runner_of(platform: RunningPlatform, host: str, model: str) -> int:
    """The process that runs a model on one modelhost."""
    return find(platform, host, f"runner {model}")


# Kill ----------------------------------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    """SIGKILL; a process that has just ended by itself will do."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Killer:
    """Kills random processes of a platform now and then, and starts the services again as their supervisor would."""

    def __init__(
        self,
        platform: RunningPlatform,
        seed: int,
        *,
        pause_s: tuple[float, float] = (0.05, 0.6),
        may_kill: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """`may_kill` is asked with the service and the process's name: "modelhost-1 runner iris.onn"."""
        self._platform = platform
        self._rng = random.Random(seed)  # noqa: S311 - repeatable
        self._pause_s = pause_s
        self._may_kill = may_kill
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.killed: list[str] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No more; everything was started again."""
        self._stop.set()
        self._thread.join()
        self.revive()

    def _run(self) -> None:
        while not self._stop.wait(self._rng.uniform(*self._pause_s)):
            self._kill_one()
            self.revive()

    def _kill_one(self) -> None:
        service = self._rng.choice(list(self._platform.processes))
        pids = [self._platform.processes[service].pid, *self._platform.children(service)]
        victims = [(pid, what) for pid in pids if self._may_kill(what := f"{service} {name_of(pid)}")]
        if victims:
            pid, what = self._rng.choice(victims)
            kill(pid)
            self.killed.append(what)

    def revive(self) -> None:
        """Start what has ended, as `mlbuffet up` and Swarm do."""
        for name, process in list(self._platform.processes.items()):
            if process.poll() is not None:
                self._platform.start(name)


# Hold and slow down --------------------------------------------------------------------------------------------------


@contextmanager
def held(*pids: int) -> Iterator[None]:
    """Processes that hang: they keep their sockets and do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                os.kill(pid, signal.SIGCONT)


@contextmanager
def again_and_again(do: Callable[[threading.Event], object]) -> Iterator[None]:
    """Do something without pause in a thread; the event is set when that is to end."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            do(stop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """A process that runs only a fifth of the time."""

    def hold_for_a_moment(stop: threading.Event) -> None:
        with held(pid):
            stop.wait(0.02)
        stop.wait(0.005)

    with again_and_again(hold_for_a_moment):
        yield


# Disks ---------------------------------------------------------------------------------------------------------------


@contextmanager
def volume(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A small file system of its own, in place of what is there; for root only: others skip the test, but not in CI."""
    if os.geteuid() != 0:
        reason = "only root can mount a file system of its own"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(mounted: Path) -> Iterator[None]:
    """A volume that cannot be written, as a failing disk becomes."""
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)


@contextmanager
def filled(folder: Path, *, free_bytes: int = 0) -> Iterator[None]:
    """A volume on which only `free_bytes` are left."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".ballast-") as ballast:
        state = os.statvfs(folder)
        surplus = state.f_bavail * state.f_frsize - free_bytes
        if surplus > 0:
            os.posix_fallocate(ballast.fileno(), 0, surplus)
        yield


def flip_bit(file: Path, rng: random.Random) -> None:
    """Bit rot: one bit of a file is another."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def plant_version(platform: RunningPlatform, name: str, data: bytes) -> None:
    """Put a version into the repository that no upload would let in, and make it the default."""
    folder = platform.repository / name
    newest = max(read_versions(folder).items())[1]
    version, digest = newest.version + 1, f"sha256:{sha256(data).hexdigest()}"
    planted: Manifest = replace(newest, version=version, digest=digest, size_bytes=len(data))
    (folder / str(version)).mkdir()
    (folder / str(version) / "model.onnx").write_bytes(data)
    (folder / str(version) / "manifest.json").write_bytes(orjson.dumps(planted.to_json()))
    (folder / "default").write_text(f"{version}\n")
    raise_generation(generation_file(platform.repository), name)


# Bugs ----------------------------------------------------------------------------------------------------------------


def planted(folder: Path, *sources: str) -> dict[str, str]:
    """Environment of services that run this code before their own: Python imports `sitecustomize` at start."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text("\n".join(sources))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
