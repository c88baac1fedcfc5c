"""Lines to the runners of one modelhost on this machine, beside the data channel (docs/adr/0039-lines.md).

A line is opened with the first request for a version that the modelhost offers one for, and closed when it has not been
used for a while. It is used for what is as usual; everything else takes the channel, and so does what a line that ended
has left unanswered.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from inferrer.segments import Recipient
from mlbuffet.channel import FrameError, FrameProtocol, Head, Kind, Traffic

_REPLY, _ERROR = Kind.REPLY.value, Kind.ERROR.value
_OFFERS = 4  # where in the word on a version it stands whether a line may be had
_IDLE_S = 5.0
BUSY_S = 0.01  # a runner that has answered nothing for so long runs something that is not fast
_MOST = 64  # unanswered


class User(Protocol):
    """Who sends requests by lines."""

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Take an answer."""

    def refused(self, frame_id: int) -> None:
        """Take note that a runner has not answered a request."""

    def was_slow(self, frame_id: int, took_ns: int, ran: bytes) -> None:
        """Take note of how long a runner had a request, and of when it ran; its answer follows."""

    def waits_for(self, key: bytes, seconds: float) -> bool:
        """Tell whether a request for a version has been on its way for so long."""

    def line_lost(self, line: "Line") -> None:
        """Take note that a line has ended."""


class Line(FrameProtocol):
    """One of them."""

    most_bytes = 1 << 26  # of an answer; one that is larger is asked for again over the channel

    def __init__(self, key: bytes, user: User, ended: Callable[["Line"], None], traffic: Traffic, slow_ns: int) -> None:
        """Of what takes longer than `slow_ns` the modelhost is told, whose records say where time went."""
        super().__init__(traffic)
        self.key = key
        self._ended = ended
        self.taken = asyncio.Event()
        self.used_at = time.monotonic()
        self.unanswered: set[int] = set()
        self.slow_ns = slow_ns
        self._heard_at = 0.0
        # On the hot path, without a way through another object.
        self._received, self._refused, self._was_slow = user.frame_received, user.refused, user.was_slow

    def take(self, frame_id: int, now: float) -> bool:
        """Note a request that is to be sent; false where the runner is busy: then it is to wait in the queue."""
        if not self.unanswered:
            self._heard_at = now
        elif now - self._heard_at > BUSY_S or len(self.unanswered) >= _MOST:
            return False
        self.unanswered.add(frame_id)
        self.used_at = now
        return True

    def data_received(self, data: bytes) -> None:
        """Take what has come; the runner is not busy with one request."""
        self._heard_at = time.monotonic()
        super().data_received(data)

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Take an answer; an error is the modelhost's to give, which keeps account of them."""
        _, kind, _, _, _, frame_id, took_ns = head
        # A runner may be in the hands of somebody's model: it answers its own requests, each once.
        if frame_id not in self.unanswered:
            msg = "an answer that nobody waits for"
            raise FrameError(msg)
        self.unanswered.discard(frame_id)
        if kind == _REPLY:
            if took_ns > self.slow_ns:
                self._was_slow(frame_id, took_ns, self.context)
            self._received(head, key, body)
        elif kind == _ERROR:
            self._refused(frame_id)
        else:
            msg = f"a frame of the kind {kind}"
            raise FrameError(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who used it."""
        super().connection_lost(exc)
        self._ended(self)


class Lines:
    """All lines to the runners of one modelhost."""

    def __init__(self, user: User, traffic: Traffic) -> None:
        self._user = user
        self._traffic = traffic
        self._offered: set[bytes] = set()
        self._slow_ns = 0
        self._open: dict[bytes, Line] = {}
        self._all: set[Line] = set()
        self._coming: dict[int, Line] = {}  # by the number that it is asked for with
        self._tasks: set[asyncio.Task[Any]] = set()

    def offer(self, versions: Mapping[str, Sequence[Any]], slow_ns: int) -> None:
        """Take note of the versions that a line may be had for now; the others' lines get no more requests."""
        self._offered = {key.encode() for key, told in versions.items() if told[_OFFERS:] == [True]}
        self._slow_ns = slow_ns
        for key in self._open.keys() - self._offered:
            del self._open[key]  # it ends with its runner, or as one that is not used

    def find(self, key: bytes) -> Line | None:
        """The line to a version's runner, if there is one."""
        return self._open.get(key)

    def wanted(self, key: bytes) -> bool:
        """Tell whether one should be opened."""
        return key in self._offered and key not in self._open

    def open(self, key: bytes, recipient: Recipient) -> int | None:
        """Begin to open one; returns the number to ask the modelhost for it with, None where that cannot be."""
        self._offered.discard(key)  # once
        if not recipient.takes_segments:
            return None
        ours, theirs = socket.socketpair()
        number = secrets.randbits(64)
        with theirs:
            if not recipient.hand(number, theirs):
                ours.close()
                return None
        self._coming[number] = line = Line(key, self._user, self._lost, self._traffic, self._slow_ns)
        self._all.add(line)
        task = asyncio.get_running_loop().create_task(self._connect(line, ours))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return number

    async def _connect(self, line: Line, sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=sock)
        await line.taken.wait()
        await asyncio.sleep(BUSY_S)
        while line.connected and self._user.waits_for(line.key, BUSY_S):  # the runner is at what may not be fast
            await asyncio.sleep(BUSY_S)
        if line.connected:
            self._open[line.key] = line

    def told(self, number: int, *, taken: bool) -> None:
        """Hear whether the runner has a line that was asked for."""
        line = self._coming.pop(number, None)
        if line is not None:
            line.taken.set()
            if not taken:
                line.close()

    def age(self) -> None:
        """Close those that nobody has used for a while."""
        before = time.monotonic() - _IDLE_S
        for line in [line for line in self._all if line.used_at < before and not line.unanswered]:
            line.close()

    def _lost(self, line: Line) -> None:
        self._all.discard(line)
        line.taken.set()
        if self._open.get(line.key) is line:
            del self._open[line.key]
            self._offered.add(line.key)  # the next word of the modelhost may say otherwise
        self._user.line_lost(line)

    def close(self) -> None:
        """Close them all; the requests on them are whose channel has ended."""
        for line in list(self._all):
            line.close()
