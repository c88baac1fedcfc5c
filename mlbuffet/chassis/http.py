"""The HTTP/1.1 server in front of every service: llhttp parses, an event loop moves bytes, Flask runs in threads.

A *lane* may take requests before Flask does and answer them on the event loop; what it does not want, Flask gets. One
request of a connection is handled at a time; pipelined ones wait in order.
"""

import asyncio
import heapq
import resource
from email.utils import formatdate

from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.heads import KnownHeads
from mlbuffet.chassis.hosts import HostPolicy
from mlbuffet.chassis.request import Gate, Lane, Limits, Request
from mlbuffet.chassis.shares import Share
from mlbuffet.chassis.wsgi import Pool, WSGIApplication

_OTHER_DESCRIPTORS = 64  # listeners, channels, logs, counters; besides, each thread may hold two files
_LEAST_ROOM = 8
_SHARE_CLOSED = 16
_SWEEP_S = 0.25
_LOOK_S = 0.02
_QUIET_S = 3.0


def room_for_connections(descriptors: int, threads: int) -> int:
    """How many connections a process may have that may have so many descriptors. Pure."""
    return max(descriptors - _OTHER_DESCRIPTORS - 2 * threads, _LEAST_ROOM)


class HttpServer:
    """What all connections of a process share."""

    def __init__(
        self,
        app: WSGIApplication,
        lane: Lane,
        limits: Limits,
        *,
        gate: Gate | None = None,
        lane_on: bool = True,
        share: Share | None = None,
    ) -> None:
        """`share` is what this process tells those that it shares its sockets with."""
        self.app = app
        self.gate = gate or HostPolicy()
        self.lane = lane
        self.lane_on = lane_on
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[HttpConnection] = set()
        self.share = share or Share()
        self.heads = KnownHeads()
        self.draining = False  # each answer then ends its connection
        # Apart, so that clients who are slow to send hold no thread that those who have sent all could use.
        self._sending = Pool(max(limits.threads // 2, 1), limits.waiting, "sending")
        self._sent = Pool(max(limits.threads - limits.threads // 2, 1), limits.waiting, "wsgi")
        self.now = self.loop.time()  # as of the last sweep
        self.date = formatdate(usegmt=True).encode()  # likewise
        self._sweeper = self.loop.create_task(self._sweep())

    def connection(self) -> "HttpConnection":
        """Make the protocol for a new connection."""
        return HttpConnection(self)

    def pool(self, request: Request) -> Pool:
        """The threads for a request."""
        return self._sent if request.complete else self._sending

    @property
    def handled(self) -> int:
        """Requests that threads have, or that wait for one."""
        return self._sending.running + self._sent.running

    def admit(self, connection: HttpConnection) -> bool:
        """Take a new connection; near the limit of descriptors idle ones are closed for it. False: there is no room."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        admitted = (
            len(self.connections) < room_for_connections(descriptors, self.limits.threads) or self.close_idle() > 0
        )
        if admitted:
            self.connections.add(connection)
            self.share.tell(len(self.connections))
        return admitted

    def leave(self, connection: HttpConnection) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(connection)
        self.share.tell(len(self.connections))

    def close_idle(self) -> int:
        """Close some of the idle connections, those first that will expire first; returns how many."""
        idle = [connection for connection in self.connections if connection.idle]
        count = max(len(idle) // _SHARE_CLOSED, 1)
        oldest = heapq.nsmallest(count, idle, key=lambda connection: connection.expires_at)
        for connection in oldest:
            connection.close_if_idle()
        return len(oldest)

    async def _sweep(self) -> None:
        """Close what has been silent too long."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.now = now = self.loop.time()
            self.date = formatdate(usegmt=True).encode()
            for connection in list(self.connections):
                if connection.expires_at < now:
                    connection.expire()
                if connection.stalls_at < now:
                    connection.check_reader()

    async def drain(self, timeout_s: float) -> None:
        """Let requests that are in flight end, then close every connection.

        An idle one is closed when it has been so for a moment: a request may be on its way, and is answered.
        """
        self.draining = True
        ends_at = self.loop.time() + timeout_s
        while self.connections and (now := self.loop.time()) < ends_at:
            for connection in list(self.connections):
                connection.close_if_idle(now - _QUIET_S)
            await asyncio.sleep(_LOOK_S)
        self._sweeper.cancel()
        for connection in list(self.connections):
            connection.abort()
        self._sending.close()
        self._sent.close()
