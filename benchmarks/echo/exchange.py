"""One exchange: a server that echoes, and a client that keeps a number of requests in flight for a while.

Every way carries the same: a request's id, the remaining time, the codec, a key as long as a real one, and the body.
A closed loop: each answer is at once followed by the next request. What the client counts and when is the same for all.
"""

import argparse
import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

HEAD = struct.Struct("<BBHQQ")  # the data channel's header but for the length, which the peers' own framing brings
KEY = b"iris.onnx:1@6350e2c0140aa985"
TIME_NS = 30_000_000_000
LARGE = 1 << 16
_WARM_UP_S = 0.3
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of clock_gettime(2): user and system time of all threads of a process, to the ns


@dataclass(frozen=True, slots=True)
class Task:
    """What a server or a client is to do."""

    address: str  # a unix socket's path, or host:port
    body_bytes: int
    in_flight: int
    seconds: float
    server: int

    @property
    def is_large(self) -> bool:
        """Tell whether copying the body is what costs."""
        return self.body_bytes > LARGE


class Window:
    """Counts answers and CPU time of both processes, from the end of the warm-up to the end."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._starts_at = time.perf_counter() + _WARM_UP_S
        self._ends_at = float("inf")
        self._requests = -1
        self._cpu_s = 0.0
        self._result: dict[str, float] = {}

    def answered(self, body_bytes: int) -> bool:
        """Count an answer; false when the time is over.

        Raises:
            ValueError: it is no echo.
        """
        if body_bytes != self._task.body_bytes:
            msg = f"an answer of {body_bytes} bytes; expected {self._task.body_bytes}"
            raise ValueError(msg)
        now = time.perf_counter()
        if self._requests >= 0:
            self._requests += 1
            if now >= self._ends_at and not self._result:
                self._finish(now)
        elif now >= self._starts_at:
            self._requests, self._starts_at, self._ends_at = 0, now, now + self._task.seconds
            self._cpu_s = self._cpu_now()
        return not self._result

    def _cpu_now(self) -> float:
        return time.process_time() + time.clock_gettime((~self._task.server << 3) | _PROCESS_CLOCK)

    def _finish(self, now: float) -> None:
        seconds = now - self._starts_at
        self._result = {"requests": self._requests, "seconds": seconds, "cpu_s": self._cpu_now() - self._cpu_s}

    def result(self) -> str:
        """What was counted, as JSON."""
        return json.dumps(self._result)


def run(serve: Callable[[Task], None], drive: Callable[[Task, Window], None]) -> None:
    """Be the server or the client, as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "drive"])
    parser.add_argument("address")
    parser.add_argument("body_bytes", type=int)
    parser.add_argument("in_flight", type=int)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--server", type=int, default=0)
    arguments = vars(parser.parse_args())
    role = arguments.pop("role")
    task = Task(**arguments)
    if role == "serve":
        serve(task)
        return
    window = Window(task)
    drive(task, window)
    print(window.result())
