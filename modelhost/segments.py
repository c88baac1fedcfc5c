"""Shared memory for large bodies, on the modelhost's side: descriptors from inferrers, handed on to runners.

The server process maps nothing: it holds descriptors, and gives each to the runners that a request goes to, once.
"""

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import NamedTuple, Protocol
from weakref import WeakSet

from mlbuffet.channel import FrameError, is_own_user
from mlbuffet.segments import Reference, is_sound, side_path, take_over

log = logging.getLogger(__name__)

_BACKLOG = 64


class Holder(Protocol):
    """A runner, as one that has segments mapped."""

    def release(self, number: int) -> None:
        """Let go of a segment."""


class Segment:
    """One that an inferrer has handed over."""

    def __init__(self, number: int, size: int, fd: int) -> None:
        self.number = number
        self.size = size
        self.fd = fd
        self.holders: WeakSet[Holder] = WeakSet()

    def close(self) -> None:
        """Let go of it, here and in all runners."""
        fd, self.fd = self.fd, -1
        os.close(fd)
        for holder in list(self.holders):
            holder.release(self.number)


class SharedBody(NamedTuple):
    """A request's body in a segment."""

    segment: Segment
    offset: int
    size: int

    def read(self) -> bytes:
        """The body itself; empty once its inferrer is gone."""
        return os.pread(self.segment.fd, self.size, self.offset) if self.segment.fd >= 0 else b""


class Segments:
    """All segments that were handed over here, and the socket that they come by."""

    def __init__(self, channel_path: str) -> None:
        """`channel_path` is that of the data channel's unix socket; empty: nothing is ever handed over."""
        self._loop = asyncio.get_running_loop()
        self._path = Path(side_path(channel_path))
        self._segments: dict[int, Segment] = {}
        self._lines: dict[int, int] = {}  # descriptors of connections, until a frame says what they are for
        self._inferrers: dict[socket.socket, set[int]] = {}  # which numbers each has given
        self._listener = _listen(self._path) if channel_path else None
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def find(self, reference: memoryview | bytes) -> SharedBody:
        """What a frame refers to.

        Raises:
            FrameError: nothing that has been handed over here.
        """
        try:
            number, offset, size = Reference.unpack(reference)
        except ValueError as error:
            raise FrameError(str(error)) from None
        if number not in self._segments:
            self._catch_up()
        segment = self._segments.get(number)
        if segment is None or offset + size > segment.size:
            msg = "a reference to memory that was not handed over"
            raise FrameError(msg)
        return SharedBody(segment, offset, size)

    def line(self, number: int) -> int | None:
        """The descriptor of a connection, to be closed by who asks; None when it was not handed over here."""
        if number not in self._lines:
            self._catch_up()
        return self._lines.pop(number, None)

    def release(self, number: int) -> None:
        """Let go of a segment that its inferrer uses no more."""
        segment = self._segments.pop(number, None)
        if segment is not None:
            segment.close()
            for given in self._inferrers.values():
                given.discard(number)

    def close(self) -> None:
        """Take nothing more, and let go of everything."""
        for sock in list(self._inferrers):
            self._drop(sock)
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _catch_up(self) -> None:
        """Take what is there: a segment is always handed over before the first frame that refers to it is sent."""
        self._accept()
        for sock in list(self._inferrers):
            self._receive(sock)

    def _accept(self) -> None:
        """Take every inferrer that has connected."""
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody any more, or no descriptor is left: then the next reference looks again
                return
            if not is_own_user(sock):
                sock.close()
                continue
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self._inferrers[sock] = set()
            self._loop.add_reader(sock, self._receive, sock)

    def _receive(self, sock: socket.socket) -> None:
        """Take all that an inferrer has handed over."""
        while True:
            try:
                handed = take_over(sock)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("segment not taken", extra={"why": str(error)})
                handed = None
            if handed is None:
                self._drop(sock)
                return
            number, size, fd = handed
            if not size and number not in self._lines:
                self._lines[number] = fd
                self._inferrers[sock].add(number)
                continue
            if number in self._segments or not is_sound(fd, size):
                os.close(fd)
                log.warning("segment not taken", extra={"why": "it is not sealed, or not new"})
                self._drop(sock)
                return
            self._segments[number] = Segment(number, size, fd)
            self._inferrers[sock].add(number)

    def _drop(self, sock: socket.socket) -> None:
        """Let go of an inferrer and of what it has given."""
        self._loop.remove_reader(sock)
        for number in self._inferrers.pop(sock):
            if number in self._segments:
                self._segments.pop(number).close()
            elif number in self._lines:
                os.close(self._lines.pop(number))
        sock.close()


def _listen(path: Path) -> socket.socket | None:
    """Wait for inferrers; without it large bodies come in frames."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError as error:  # for one, a path may be too long for a socket
        log.warning("no shared memory", extra={"why": str(error)})
        listener.close()
        return None
    return listener
