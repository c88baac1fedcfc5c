"""The real platform as real processes, started and stopped by a test; each service can be killed and started again."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import requests

from mlbuffet.layout import Platform, child_settings

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "models"
T = TypeVar("T")
_TRIES = 60


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now.

    Not one of those that the kernel gives to connections: one that is stopped and started again finds its port free.
    By true chance: Hypothesis seeds `random` alike in each process that runs tests.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def wait_until(
    check: Callable[[], T],
    timeout_s: float = 15,
    what: str | Callable[[], str] = "the condition",
    every_s: float = 0.02,
) -> T:
    """Poll until `check` gives something true; returns it.

    `what` may be a function, asked when it does not come true: it shows what is the case by then.
    """
    ends_at = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > ends_at:
            msg = f"{what if isinstance(what, str) else what()} did not come true within {timeout_s} s"
            raise AssertionError(msg)
        time.sleep(every_s)


class RunningPlatform:
    """One inferrer with its workers and several modelhosts over one repository."""

    def __init__(
        self,
        repository: Path,
        *,
        modelhosts: int = 2,
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        key: str = "",
    ) -> None:
        """`environment` is added to every service's; `prefix` is a command that the inferrer is run through.

        `key` is the API key that goes along with what is asked by the methods here.
        """
        self.repository = repository
        self.workers = workers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="mlbuffet-test-"))
        sockets = self.folder / "sockets"
        sockets.mkdir()
        self.grpc_port = free_port()
        platform = Platform(self.port, self.grpc_port, modelhosts, repository, workers=workers)
        self.settings = child_settings(platform, sockets)
        self.environment = dict(environment or {})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.key = key
        self._prefix = prefix

    def __enter__(self) -> Self:
        """Start everything and wait until predictions are answered."""
        try:
            for name in self.settings:
                self.start(name)
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything at once: how services end when they are asked to is for tests of that."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start one service."""
        service = name.partition("-")[0]
        prefix = self._prefix if service == "inferrer" else ()
        wanted = {key: value for key, value in self.environment.items() if key.startswith((service.upper(), "PYTHON"))}
        with self.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", service],
                env={**os.environ, "TMPDIR": str(self.folder), **self.settings[name], **wanted},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        self.processes[name] = process
        return process

    def kill(self, name: str) -> None:
        """SIGKILL one service."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self, name: str) -> int:
        """SIGTERM one service; returns its exit status."""
        self.processes[name].terminate()
        return self.processes[name].wait(20)

    def restart(self, name: str) -> None:
        """Kill and start one service, and wait until all is ready."""
        self.kill(name)
        self.start(name)
        self.wait_ready()

    def wait_ready(self, timeout_s: float = 20) -> None:
        """Wait until every started modelhost is ready in the eyes of every inferrer process."""
        hosts = sum(name.startswith("modelhost") and process.poll() is None for name, process in self.processes.items())
        wait_until(
            lambda: self.sees(hosts), timeout_s, lambda: f"all {hosts} modelhosts being ready\n{self.logs()[-3000:]}"
        )

    def sees(self, hosts: int) -> bool:
        """Tell whether so many modelhosts are ready in the eyes of every inferrer process.

        Asks on fresh connections until each has answered; its request ids tell who it is.
        """
        asked: set[str] = set()
        tries = 0
        try:
            while len(asked) < self.workers and tries < _TRIES:
                tries += 1
                served = requests.post(
                    f"{self.url}/api/test/sendtomodelhost",
                    json={"data": list(range(8 * hosts))},
                    headers=self.headers(),
                    timeout=5,
                )
                if served.status_code != 200 or len({item["modelhost"] for item in served.json()["served"]}) < hosts:
                    return False
                if requests.get(f"{self.url}/health/ready", timeout=5).status_code != 200:
                    return False
                asked.add(served.headers["X-Request-Id"].partition("-")[0])
        except requests.ConnectionError:
            return False
        return len(asked) >= self.workers

    def log_file(self, name: str) -> Path:
        """Where a service's log goes."""
        return self.folder / f"{name}.log"

    def logs(self) -> str:
        """All services' logs."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def records(self, name: str = "inferrer") -> list[dict[str, Any]]:
        """A service's log records."""
        lines = self.log_file(name).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # Shorthands -----------------------------------------------------------------------------------------------------

    def headers(self, **more: str) -> dict[str, str]:
        """Header fields with the key."""
        return ({"X-Api-Key": self.key} if self.key else {}) | more

    def path(self, name: str) -> str:
        """A model's address."""
        return f"{self.url}/api/v1/models/{name}"

    def put(self, name: str, data: bytes, **headers: str) -> requests.Response:
        """Upload a model as a raw body."""
        return requests.put(self.path(name), data=data, headers=self.headers(**headers), timeout=60)

    def predict(self, name: str, values: object, **headers: str) -> requests.Response:
        """Predict by JSON."""
        url, headers = f"{self.path(name)}/prediction", self.headers(**headers)
        return requests.post(url, json={"values": values}, headers=headers, timeout=60)

    def metric(self, pattern: str) -> float:
        """A number among the inferrer's metrics, by a pattern for its name and labels; 0 where it is not there yet."""
        text = requests.get(f"{self.url}/metrics", timeout=10).text
        found = re.search(rf"^{pattern} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0

    def names(self) -> list[str]:
        """The models there are."""
        listed: list[str] = requests.get(f"{self.url}/api/v1/models", headers=self.headers(), timeout=10).json()[
            "model_list"
        ]
        return listed

    def children(self, name: str) -> list[int]:
        """Process ids of everything below a service."""
        return list(_descendants(self.processes[name].pid))

    def staged(self) -> list[str]:
        """What lies in the staging folder."""
        return [item.name for item in (self.repository / ".mlbuffet" / "staging").iterdir()]


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in _read(task / "children").split()]
    except FileNotFoundError:
        return  # it has ended meanwhile
    for child in children:
        yield int(child)
        yield from _descendants(int(child))


def _read(path: Path) -> str:
    """A file of a thread; nothing once the thread has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def copy_samples(repository: Path) -> None:
    """Put the sample models into a repository."""
    for folder in SAMPLES.iterdir():
        if (folder / "default").is_file():
            shutil.copytree(folder, repository / folder.name)


@contextmanager
def running_platform(repository: Path, **options: Any) -> Iterator[RunningPlatform]:  # noqa: ANN401 - as it takes them
    """A platform with the sample models."""
    repository.mkdir(parents=True, exist_ok=True)
    copy_samples(repository)
    with RunningPlatform(repository, **options) as platform:
        yield platform
