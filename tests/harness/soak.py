"""Predictions, changes of models, requests that are errors, and faults, all at once and for long: row Z02.

One modelhost is killed again and again, whole and in parts. The other one and the inferrer live through it all, so that
what they leak adds up; `unharmed(…, rss_bytes=GROWTH_BYTES)` around a soak looks at that. Its baseline has some MiB of
room in freed memory, so a leak shows when it is a good deal more than the bound.
"""

import http.client
import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import requests

from tests.harness import onnx_models
from tests.harness.faults import Killer
from tests.harness.invariants import Usage, golden, unharmed, usage
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.raw_http import message

GROWTH_BYTES = 16 << 20
VICTIM = "modelhost-2"
MODELS = 4  # that come and go
_CLIENTS = 4
_BATCH = 32
_PER_CYCLE = 4  # changes from nothing to nothing: upload, replace, roll back, delete
_BODY = b'{"values": [7.0, 3.2, 4.7, 1.4]}'
_JSON = {"Content-Type": "application/json"}
_PREDICTION = "/api/v1/models/iris.onnx/prediction"
# What clients get wrong, and what they are told: method, path, body, status, code.
_ERRORS: tuple[tuple[str, str, bytes, int, str], ...] = (
    ("POST", "/api/v1/models/nobody/prediction", _BODY, 404, "MODEL_NOT_FOUND"),
    ("POST", "/api/v1/models/iris.onnx:99/prediction", _BODY, 404, "VERSION_NOT_FOUND"),
    ("POST", _PREDICTION, b'{"values": [1, 2', 400, "INVALID_JSON"),
    ("POST", _PREDICTION, b'{"values": [1, 2]}', 400, "INVALID_SHAPE"),
    ("GET", "/api/v1/nothing", b"", 404, "NOT_FOUND"),
    ("DELETE", _PREDICTION, b"", 405, "METHOD_NOT_ALLOWED"),
    ("DELETE", "/api/v1/models/nobody", b"", 404, "MODEL_NOT_FOUND"),
    ("PUT", "/api/v1/models/text.onnx", b"hello", 422, "INVALID_MODEL"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each; the defaults are the full row."""

    predictions: int = 1_000_000
    changes: int = 10_000
    errors: int = 100_000

    def part(self, share: float) -> "Size":
        """The same shape, smaller."""
        return Size(*(max(int(count * share), 8) for count in (self.predictions, self.changes, self.errors)))


SMALL = Size(predictions=40_000, changes=60, errors=1_000)  # for CI; 1 KB of each prediction is 40 MB


@dataclass
class Soak:
    """One soak of a platform with two modelhosts, and what came of it."""

    platform: RunningPlatform
    size: Size
    pause_s: tuple[float, float] = (0.5, 3)  # between two faults
    done: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    before: dict[int, Usage] = field(default_factory=dict)
    after: dict[int, Usage] = field(default_factory=dict)

    def run(self) -> None:
        """Do all of it; predictions go on until the rest is done."""
        self.before = usage(self.platform)
        killer = Killer(self.platform, 2, pause_s=self.pause_s, may_kill=lambda what: what.startswith(VICTIM))
        with killer, ThreadPoolExecutor(_CLIENTS + 2) as pool:
            others = [pool.submit(self._change), pool.submit(self._err)]
            predicting = [pool.submit(self._predict, others) for _ in range(_CLIENTS)]
            for part in (*others, *predicting):
                self.done.update(part.result())
        self.faults.update(" ".join(what.split()[:2]) for what in killer.killed)
        self.platform.wait_ready(60)
        wait_until(self._has_settled, 60, "what was deleted being unloaded")
        self.after = usage(self.platform)

    def _has_settled(self) -> bool:
        now = usage(self.platform)
        return Counter(item.role for item in now.values()) == Counter(item.role for item in self.before.values())

    def growth(self) -> Iterator[tuple[str, int, int]]:
        """Of each process that lived through it: role and pid, its memory in bytes before, and how much more it has."""
        for pid, item in self.after.items():
            if pid in self.before:
                begun = self.before[pid].rss_bytes
                yield f"{item.role} {pid}", begun, item.rss_bytes - begun

    # Predictions ------------------------------------------------------------------------------------------------------

    def _predict(self, others: list[Future[Counter[str]]]) -> Counter[str]:
        """Predict, a batch of pipelined requests after the other; every answer must be the same to the byte."""
        batch = message("POST", _PREDICTION, _JSON, _BODY) * _BATCH
        expected = golden(self.platform)
        done: Counter[str] = Counter()
        with (
            socket.create_connection(("127.0.0.1", self.platform.port), 120) as sock,
            sock.makefile("rb") as answers,
        ):
            while done["predictions"] < self.size.predictions // _CLIENTS or not all(other.done() for other in others):
                sock.sendall(batch)
                for status, body in (_read(answers) for _ in range(_BATCH)):
                    done["predictions"] += 1
                    if (status, body) != (200, expected):
                        self.failures[f"predict: {status} {body.decode()[:200]}"] += 1
        return done

    # Changes ----------------------------------------------------------------------------------------------------------

    def _change(self) -> Counter[str]:
        """Upload, replace, roll back and delete; each loads or unloads a version on every modelhost."""
        done: Counter[str] = Counter()
        with requests.Session() as session:
            for number in range(max(self.size.changes // _PER_CYCLE, 1)):
                url = self.platform.path(f"soak-{number % MODELS}")
                for value in (2 * number, 2 * number + 1):
                    self._ask(done, session, "PUT", url, data=onnx_models.constant(value))
                self._ask(done, session, "POST", f"{url}/default", json={"default": 1})
                self._ask(done, session, "DELETE", url)
        return done

    def _ask(self, done: Counter[str], session: requests.Session, method: str, url: str, **content: Any) -> None:  # noqa: ANN401 - as requests
        """Make one change; what is refused for now is asked for again, as a client does."""

        def accepted() -> bool:
            response = session.request(method, url, timeout=120, **content)
            if response.status_code == 503 and "Retry-After" in response.headers:
                done["changes refused for now"] += 1
                return False
            if not response.ok:
                self.failures[f"{method} {response.status_code} {response.text[:200]}"] += 1
            return True

        wait_until(accepted, 60, "a change being accepted")
        done["changes"] += 1

    # Errors -----------------------------------------------------------------------------------------------------------

    def _err(self) -> Counter[str]:
        """Make mistakes; a file whose check was killed together with its modelhost is to be sent again, and told so."""
        done: Counter[str] = Counter(errors=self.size.errors)
        client = http.client.HTTPConnection("127.0.0.1", self.platform.port, timeout=120)
        for method, path, body, status, code in itertools.islice(itertools.cycle(_ERRORS), self.size.errors):
            client.request(method, path, body, _JSON)
            answer = client.getresponse()
            text = answer.read()
            if answer.status == 503 and answer.headers["Retry-After"] and method == "PUT":
                done["errors refused for now"] += 1
            elif (answer.status, code.encode() in text) != (status, True):
                self.failures[f"{method} {path}: {answer.status} {text.decode()[:200]}"] += 1
        client.close()
        return done


def run_soak(repository: Path, size: Size, **options: Any) -> Soak:  # noqa: ANN401 - as the platform takes them
    """Soak a platform with one inferrer process, whose memory all requests pass through.

    Raises:
        AssertionError: a process has grown, or anything else does not hold afterwards.
    """
    with running_platform(repository, workers=1, **options) as platform:
        soak = Soak(platform, size)
        with unharmed(platform, rss_bytes=GROWTH_BYTES):
            soak.run()
    return soak


def _read(answers: IO[bytes]) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection; much faster than the standard library, which reads names.

    Raises:
        EOFError: the connection has ended.
    """
    status, length = answers.readline().split(b" ", 2)[1:2], 0
    if not status:
        raise EOFError
    while (line := answers.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return int(status[0]), answers.read(length)
