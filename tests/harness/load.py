"""Predictions without pause over keep-alive connections, counted by what became of them."""

import http.client
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from tests.harness.platform import wait_until


class Load:
    """Several clients, each of which sends its next request when it has the answer to the last; no client retries."""

    def __init__(  # noqa: PLR0913 - what clients may do differently
        self,
        port: int,
        model: str,
        body: bytes,
        *,
        clients: int = 8,
        pause_s: float = 0,
        keep_alive: bool = True,
        ends_refused: bool = False,
    ) -> None:
        """`ends_refused`: a client whose connection is refused goes elsewhere, and is no longer counted."""
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._path = f"/api/v1/models/{model}/prediction"
        self._body = body
        self._pause_s = pause_s
        self._keep_alive = keep_alive
        self._ends_refused = ends_refused
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let every request that was begun end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.is_set():
            try:
                client.request("POST", self._path, self._body)
                answer = client.getresponse()
                text = answer.read()
                self.outcomes["ok" if answer.status == 200 else f"{answer.status} {text.decode()[-250:]}"] += 1
            except (OSError, http.client.HTTPException) as error:
                if self._ends_refused and isinstance(error, ConnectionRefusedError):
                    return
                self.outcomes[repr(error)] += 1
                client.close()
            if not self._keep_alive:
                client.close()
            if self._pause_s:
                time.sleep(self._pause_s)
        client.close()

    def wait_for(self, more: int, timeout_s: float = 30) -> None:
        """Wait until so many more requests were answered well."""
        goal = self.outcomes["ok"] + more
        wait_until(lambda: self.outcomes["ok"] >= goal, timeout_s, f"{more} more answers")

    def failures(self) -> dict[str, int]:
        """What went wrong, and how often."""
        return {outcome: count for outcome, count in self.outcomes.items() if outcome != "ok"}
