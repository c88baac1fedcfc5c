"""Whether answers are right while the right answer changes: row U12 and its negative control."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from tests.harness import onnx_models
from tests.harness.platform import RunningPlatform


@dataclass
class Truth:
    """Which numbers may be answered: those that were current at any time since a request was sent."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    history: list[float] = field(default_factory=list)  # every value that was, or may already be, current
    settled: int = 0  # index of the oldest one that may still be current

    def begin(self, value: float) -> None:
        """A change to `value` is about to be asked for."""
        with self.lock:
            self.history.append(value)

    def acknowledged(self) -> None:
        """The last change was acknowledged: nothing older is current any more."""
        with self.lock:
            self.settled = len(self.history) - 1

    def mark(self) -> int:
        """Where the history of a request that is sent now begins."""
        with self.lock:
            return self.settled

    def since(self, mark: int) -> set[float]:
        """What may have been current from the mark until now."""
        with self.lock:
            return set(self.history[mark:])


class Readers:
    """Clients that predict and read metadata over kept connections until they are stopped, and note what is wrong."""

    def __init__(self, platform: RunningPlatform, name: str, truth: Truth, clients: int) -> None:
        self._url = platform.path(name)
        self._truth = truth
        self._stop = threading.Event()
        self.wrong: list[str] = []
        self.count = 0
        targets = [self._predict, self._read] * (clients // 2)
        self._threads = [threading.Thread(target=self._run, args=(target,)) for target in targets]
        for thread in self._threads:
            thread.start()

    def _run(self, ask: Callable[[requests.Session], object]) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                mark = self._truth.mark()
                value = ask(session)
                self.count += 1
                if value not in self._truth.since(mark):
                    self.wrong.append(f"{value!r} is none of {sorted(self._truth.since(mark))}")
                    return

    def _predict(self, session: requests.Session) -> object:
        url = f"{self._url}/prediction"
        response = session.post(url, json={"values": [[0], [0], [0]]}, timeout=30)
        if response.status_code != 200:
            return response.text
        values = response.json()["values"]
        return values[0][0] if values == [values[0]] * 3 else values

    def _read(self, session: requests.Session) -> object:
        response = session.get(self._url, timeout=30)
        if response.status_code != 200:
            return response.text
        data = response.json()
        same = next(item for item in data["versions"] if item["version"] == data["default"])
        if (data["version"], data["description"]) != (data["default"], same["description"]):
            return data
        return float(data["description"])

    def stop(self) -> None:
        """Stop and wait."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def put_described(platform: RunningPlatform, name: str, value: int) -> requests.Response:
    """Upload a version that answers a number and is described by it."""
    files = {"path": onnx_models.constant(value)}
    return requests.put(platform.path(name), files=files, data={"model_description": str(value)}, timeout=60)


def mixed_answers(platform: RunningPlatform, name: str, versions: int, clients: int) -> list[str]:
    """Upload one version after the other while clients read; the answers that no version current meanwhile gives.

    Raises:
        AssertionError: an upload was refused, or nobody read.
    """
    truth = Truth()
    truth.begin(1)
    assert put_described(platform, name, 1).status_code == 201
    truth.acknowledged()
    readers = Readers(platform, name, truth, clients)
    try:
        for value in range(2, versions + 1):
            truth.begin(value)
            response = put_described(platform, name, value)
            assert response.status_code == 201, response.text
            truth.acknowledged()
            if readers.wrong:
                break
    finally:
        readers.stop()
    assert readers.wrong or readers.count > versions
    return readers.wrong
