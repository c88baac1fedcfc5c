"""The HTTP/1.1 server in front of every service: llhttp parses, an event loop moves bytes, Flask runs in threads.

A *lane* may take requests before Flask does and answer them on the event loop; what it does not want, Flask gets. One
request of a connection is handled at a time; pipelined ones wait in order.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.request import Lane, Limits
from mlbuffet.chassis.wsgi import WSGIApplication
from mlbuffet.errors import BusyError


class HttpServer:
    """What all connections of a process share."""

    def __init__(self, app: WSGIApplication, lane: Lane, limits: Limits, *, lane_on: bool = True) -> None:
        self.app = app
        self.lane = lane
        self.lane_on = lane_on
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[HttpConnection] = set()
        self.draining = False
        self._threads = ThreadPoolExecutor(limits.threads, "wsgi")
        self._running = 0
        self._date = (0, b"")
        self._sweeper = self.loop.create_task(self._sweep())

    def connection(self) -> "HttpConnection":
        """Make the protocol for a new connection."""
        return HttpConnection(self)

    def submit(self, work: Callable[[], None]) -> None:
        """Run something in a thread.

        Raises:
            BusyError: as many as may already run and wait.
        """
        if self._running >= self.limits.threads + self.limits.waiting:
            msg = f"{self._running} requests are already being handled here"
            raise BusyError(msg)
        self._running += 1
        self._threads.submit(work)

    def left(self) -> None:
        """Say that work which was submitted has ended (event loop)."""
        self._running -= 1

    def date(self) -> bytes:
        """The Date header's value, made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]

    async def _sweep(self) -> None:
        """Close what has been silent too long."""
        while True:
            await asyncio.sleep(0.5)
            now = self.loop.time()
            for connection in list(self.connections):
                if connection.expires_at < now:
                    connection.expire()

    async def drain(self, timeout_s: float) -> None:
        """Let requests that are in flight end, then close every connection."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_if_idle()
        ends_at = self.loop.time() + timeout_s
        while self.connections and self.loop.time() < ends_at:
            await asyncio.sleep(0.02)
        self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()
        self._threads.shutdown(wait=False, cancel_futures=True)
