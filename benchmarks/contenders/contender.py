"""What every server in the comparison has: how it is installed, started, asked and checked."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import PEERS, pinned, python_of
from benchmarks.processes import CORES, running, wait_until
from benchmarks.workloads import Workload

JSON, BINARY = "JSON", "binary"
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    pid: int
    base: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, again and again."""

    path: str
    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def of_json(cls, path: str, value: object) -> "Request":
        """A body of JSON without spaces."""
        return cls(path, json.dumps(value, separators=(",", ":")).encode(), {"Content-Type": "application/json"})


class WrongAnswerError(RuntimeError):
    """A server's prediction is not the model's."""


class Contender(ABC):
    """One server in the comparison."""

    name: str  # what the table calls it
    key: str  # what the command line calls it
    what: str  # how it is run
    lacks: Mapping[str, str] = MappingProxyType({})  # encodings that it cannot take, with the reason

    @abstractmethod
    def install(self) -> None:
        """Make sure that it can be started.

        Raises:
            InstallError: it cannot be installed here.
        """

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """What was measured."""

    @abstractmethod
    def start(self, workload: Workload) -> contextlib.AbstractContextManager[Running]:
        """Run it with one model until the context ends."""

    @abstractmethod
    def request(self, workload: Workload, encoding: str) -> Request:
        """One row of the workload."""

    @abstractmethod
    def answer(self, body: bytes, headers: Mapping[str, str]) -> NDArray[np.generic]:
        """The first output that an answer holds."""

    def check(self, base: str, workload: Workload, encoding: str) -> None:
        """Compare a real answer with the model's own.

        Raises:
            WrongAnswerError: they differ, or there is none.
        """
        try:
            answer = self.answer(*post(base, self.request(workload, encoding)))
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            msg = f"{self.name} gave no answer that can be read: {error!r}"
            raise WrongAnswerError(msg) from error
        expected = np.ravel(workload.expected).astype(np.float64)
        tolerance = 1e-4 * float(np.abs(expected).max())
        if answer.size != expected.size or not np.allclose(np.ravel(answer), expected, rtol=0, atol=tolerance):
            msg = f"{self.name} answered {np.ravel(answer)[:4]}; the model says {expected[:4]}"
            raise WrongAnswerError(msg)

    def answers(self, base: str, workload: Workload) -> bool:
        """Tell whether it is up."""
        encoding = JSON if JSON not in self.lacks else BINARY
        with contextlib.suppress(OSError, http.client.HTTPException):
            post(base, self.request(workload, encoding))
            return True
        return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs."""

    python: Path
    folder: Path
    ports: Mapping[str, str]
    workload: Workload


class Peer(Contender):
    """A server in an environment of its own, which runs what lies in its folder below `peers`."""

    environment: str
    packages: Sequence[str]
    sessions: int = 1  # that run a heavy model at once
    max_batch: int = 32

    def install(self) -> None:
        """Install it into its own environment."""
        python_of(self.environment)

    def versions(self) -> Mapping[str, str]:
        """The packages on the path of a prediction."""
        return pinned(self.environment, *self.packages)

    @contextlib.contextmanager
    def start(self, workload: Workload) -> Iterator[Running]:
        """Start it in a folder of its own; it learns what to serve, and where, from its environment."""
        python = python_of(self.environment)
        ports = dict(zip(("HTTP_PORT", "GRPC_PORT", "METRICS_PORT"), map(str, free_ports(3)), strict=True))
        base = f"http://127.0.0.1:{ports['HTTP_PORT']}"
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            for script in (PEERS / "session.py", *(PEERS / self.environment).glob("*.py")):
                shutil.copy(script, folder)
            place = Place(python, folder, ports, workload)
            environment = {
                **os.environ,
                **ports,
                "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
                "DO_NOT_TRACK": "1",
                "NAME": workload.name,
                "MODEL": str(workload.model),
                # Where one session runs a heavy model, it may use all cores.
                "THREADS": str(CORES if workload.heavy and self.sessions < CORES else 1),
                "INSTANCES": str(self.sessions if workload.heavy else 1),
                "MAX_BATCH": str(1 if workload.heavy else self.max_batch),
            }
            environment |= self.settings(place)
            with server(self.command(place), folder / "log", folder, environment) as process:
                wait_until(lambda: self.answers(base, workload), process)
                yield Running(process.pid, base)

    def command(self, place: Place) -> list[str]:
        """What starts it, in its folder."""
        return [str(place.python), "server.py"]

    def settings(self, place: Place) -> Mapping[str, str]:  # noqa: ARG002 - others need it
        """Further environment variables."""
        return {}


def post(base: str, request: Request) -> tuple[bytes, Mapping[str, str]]:
    """Send one request; returns the body and the headers, whose names are in lower case.

    Raises:
        OSError: no answer, or one with an error status.
    """
    made = urllib.request.Request(base + request.path, request.body, dict(request.headers))  # noqa: S310 - our own address
    with urllib.request.urlopen(made, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own address
        return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


@contextlib.contextmanager
def server(
    command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server; when something goes wrong, show the end of its log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with running(process):
            yield process
    except Exception:
        print(log.read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
        raise


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]
