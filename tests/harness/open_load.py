"""Predictions at a fixed rate whatever the answers are: an open loop, the only kind of load that can overload.

Each load runs in a process of its own, so that neither the test nor another load slows down what it measures.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from dataclasses import asdict, astuple, dataclass

from tests.harness.platform import ROOT

_LATEST_S = 60.0  # an answer that takes longer counts as lost
LOST = 0  # the status of a request that got no answer


@dataclass(frozen=True, slots=True)
class Order:
    """What to send: to the models in turn, `rate` requests a second; `headers` are whole lines."""

    port: int
    models: tuple[str, ...]
    body: str
    rate: float
    seconds: float
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: how long it took in seconds, status, error code, and whether it said Retry-After."""

    took_s: float
    status: int
    code: str
    retry_after: bool


def send(*orders: Order) -> list[list[Outcome]]:
    """Carry out several orders at once; the outcomes of each."""
    commands = [[sys.executable, "-m", __name__, json.dumps(asdict(order))] for order in orders]
    loads = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [load.communicate()[0] for load in loads]
    assert not any(load.returncode for load in loads), "a load failed; its traceback is on standard error"
    return [[Outcome(*item) for item in json.loads(text)] for text in printed]


def percentile_s(outcomes: list[Outcome], share: float) -> float:
    """The time within which that share of the requests was answered, in seconds."""
    return sorted(item.took_s for item in outcomes)[int(len(outcomes) * share)]


class _Sender:
    """Connections that are used again, and what came of each request."""

    def __init__(self, order: Order) -> None:
        lines = ["Host: localhost", *order.headers, f"Content-Length: {len(order.body)}", "", order.body]
        targets = [f"POST /api/v1/models/{model}/prediction HTTP/1.1" for model in order.models]
        self._requests = itertools.cycle("\r\n".join([target, *lines]).encode() for target in targets)
        self._port = order.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.outcomes: list[Outcome] = []

    async def ask(self) -> None:
        """Send one request and note its outcome."""
        sent = time.monotonic()
        try:
            async with asyncio.timeout(_LATEST_S):
                status, code, retry_after = await self._exchange()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            status, code, retry_after = LOST, repr(error), False
        self.outcomes.append(Outcome(time.monotonic() - sent, status, code, retry_after))

    async def _exchange(self) -> tuple[int, str, bool]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(next(self._requests))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        status = int(head.split(" ", 2)[1])
        return status, "" if status < 400 else json.loads(body)["error"]["code"], "retry-after" in fields


async def _load(order: Order) -> list[Outcome]:
    """Send at the rate; every request that was sent is waited for."""
    sender = _Sender(order)
    async with asyncio.TaskGroup() as group:
        due = time.monotonic()
        ends_at = due + order.seconds
        while due < ends_at:
            group.create_task(sender.ask())
            due += 1 / order.rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
    return sender.outcomes


if __name__ == "__main__":
    print(json.dumps([astuple(item) for item in asyncio.run(_load(Order(**json.loads(sys.argv[1]))))]))  # noqa: T201
