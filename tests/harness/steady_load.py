"""Predictions at a steady rate over keep-alive connections, by clients that never try again, in a process of its own.

`with SteadyLoad(order) as load: …`, then `load.result` says what became of each request. The load goes on until the
block has ended and as many were answered as were wanted.
"""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Self

import uvloop

from tests.harness.platform import ROOT

_ANSWER_S = 60.0
_WHOLE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where: `rate` requests a second in all, until `least` are answered; `headers` are whole lines.

    `ca` is the file of an authority whose certificates are believed, for TLS.
    """

    host: str
    port: int
    path: str
    body: str
    rate: float
    headers: tuple[str, ...] = ()
    clients: int = 64
    least: int = 0
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How many were answered 200, what else happened how often and in which span, and how long answers took."""

    answered: int
    failures: dict[str, int]
    failing_s: float
    seconds: float
    p50_s: float
    p99_s: float
    longest_s: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    def __str__(self) -> str:
        times = f"p50 {self.p50_s * 1e3:.1f}, p99 {self.p99_s * 1e3:.1f}, longest {self.longest_s * 1e3:.0f} ms"
        failed = f"{sum(self.failures.values())} failed"
        return f"{self.answered:,} answered in {self.seconds:.0f} s ({self.rate:,.0f}/s), {failed}; {times}"


class SteadyLoad:
    """A load that goes on until the block ends."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.result = Result(0, {}, 0, 0, 0, 0, 0)

    def __enter__(self) -> Self:
        """Begin."""
        command = [sys.executable, "-m", __name__, json.dumps(asdict(self._order))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Let every request that was begun end, and read the result."""
        printed = self._process.communicate(timeout=_WHOLE_S)[0]
        assert self._process.returncode == 0, "the load failed; its traceback is on standard error"
        self.result = Result(**json.loads(printed))


class _Clients:
    """All connections, and what came of their requests."""

    def __init__(self, order: Order) -> None:
        lines = [
            f"POST {order.path} HTTP/1.1",
            "Host: localhost",
            *order.headers,
            f"Content-Length: {len(order.body)}",
            "",
            order.body,
        ]
        self._request = "\r\n".join(lines).encode()
        self._order = order
        self._took: list[float] = []
        self._failures: Counter[str] = Counter()
        self._failed_at: list[float] = []
        self._running = True
        self._tls = ssl.create_default_context(cafile=order.ca) if order.ca else None

    async def run(self) -> Result:
        """Send until standard input ends."""
        began = time.monotonic()
        clients = [asyncio.ensure_future(self._client(number)) for number in range(self._order.clients)]
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self._running = False
        await asyncio.gather(*clients)
        took = sorted(self._took) or [0.0]
        shares = (took[len(took) // 2], took[len(took) * 99 // 100], took[-1])
        failing_s = self._failed_at[-1] - self._failed_at[0] if self._failed_at else 0.0
        return Result(len(self._took), dict(self._failures), failing_s, time.monotonic() - began, *shares)

    async def _client(self, number: int) -> None:
        """One client: sends at its moments, or as soon as it has its answer when it is behind."""
        loop = asyncio.get_running_loop()
        period_s = self._order.clients / self._order.rate
        due = loop.time() + period_s * number / self._order.clients
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while self._running or len(self._took) < self._order.least:
            await asyncio.sleep(max(due - loop.time(), 0))
            due = max(due + period_s, loop.time())
            try:
                async with asyncio.timeout(_ANSWER_S):
                    streams = streams or await asyncio.open_connection(
                        self._order.host, self._order.port, ssl=self._tls
                    )
                    began = loop.time()
                    streams = await self._ask(*streams)
                    self._took.append(loop.time() - began)
            except (OSError, EOFError, ValueError) as error:
                self._failed_at.append(time.monotonic())
                self._failures[f"{type(error).__name__}: {error}"[:400]] += 1
                streams = None
        if streams:
            streams[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Send one request and read its answer; the connection, unless it ends with it.

        Raises:
            OSError, EOFError, ValueError: there was none, or not the one that was wanted.
        """
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        if head.split()[1] != "200":
            msg = f"{head.split()[1]} {body.decode(errors='replace')}"
            raise ValueError(msg)
        if fields.get("connection") != "close":
            return reader, writer
        writer.close()
        return None


def main() -> None:
    """Carry out the order in the argument."""
    order = json.loads(sys.argv[1])
    clients = _Clients(Order(**order | {"headers": tuple(order["headers"])}))
    sys.stdout.write(json.dumps(asdict(uvloop.run(clients.run()))))


if __name__ == "__main__":
    main()
