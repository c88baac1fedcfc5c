"""What a runner reads from and answers to: the modelhost's server process, and *lines* of inferrers on this machine.

A line is an inferrer's own connection to this process (docs/adr/0039-lines.md). It carries predictions only; whoever
sends anything else on it, or takes no answers off it, loses it. Nobody else waits for that.
"""

import select
import socket
from collections.abc import Iterable
from itertools import chain

from mlbuffet.blocking import Frame, FrameReader
from mlbuffet.channel import LINE_SHIFT, SHARED, FrameError, Kind

_CARRIED = frozenset({Kind.PREDICT.value, Kind.PREDICT_ALONE.value})
_PATIENCE_MS = 50  # for an inferrer that takes nothing: longer, and all others would wait for one


class Line:
    """One inferrer's connection."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self._number = number
        self._sock = sock
        self._reader = FrameReader(sock, number << LINE_SHIFT)
        self.held: list[bytes | memoryview] = []

    def fileno(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    def read(self) -> list[Frame]:
        """What has come; each request by a number that no other line has.

        Raises:
            BlockingIOError: not one whole frame yet.
            EOFError, ConnectionError, FrameError: it is of no more use.
        """
        frames = list(self._reader.read())
        for kind, codec, _, number, _, _ in frames:
            if kind not in _CARRIED or codec & SHARED or number >> LINE_SHIFT != self._number:
                msg = f"a frame of the kind {kind}"
                raise FrameError(msg)
        return frames

    def send(self) -> bool:
        """Send what is held; false when the other end does not take it."""
        data = memoryview(b"".join(self.held))
        self.held.clear()
        try:
            while data:
                try:
                    data = data[self._sock.send(data, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    waiting = select.poll()
                    waiting.register(self._sock, select.POLLOUT)
                    if not waiting.poll(_PATIENCE_MS):
                        return False
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class Inbox:
    """All of them."""

    def __init__(self, frames: socket.socket) -> None:
        self._main = FrameReader(frames)
        self._lines: dict[int, Line] = {}  # by descriptor
        self._numbers: dict[int, Line] = {}
        self._poller = select.poll()
        self._poller.register(frames, select.POLLIN)
        self._over = False

    def open(self, number: int, fd: int) -> None:
        """Take a new line, by its descriptor, which does not block."""
        # All is said, so that nothing is asked of the kernel, which would refuse it.
        line = Line(number, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
        self._lines[line.fileno()] = self._numbers[number] = line
        self._poller.register(line, select.POLLIN)

    def read(self) -> Iterable[Frame]:
        """Wait for at least one frame; yields all that are there; their bodies are valid until the next call.

        Raises:
            EOFError, ConnectionError: the supervisor hung up, and what others had sent before is answered.
        """
        while not self._over:
            if not self._lines:
                return self._main.read()
            came = [frames for fd, _ in self._poller.poll() if (frames := self._read(fd)) is not None]
            if came:
                return came[0] if len(came) == 1 else chain.from_iterable(came)
        raise EOFError

    def _read(self, fd: int) -> Iterable[Frame] | None:
        line = self._lines.get(fd)
        if line is None:
            try:
                return self._main.read()
            except (EOFError, ConnectionError):
                self._over = True
                return None
        try:
            return line.read()
        except BlockingIOError:
            return None
        except (EOFError, OSError, FrameError):
            self._drop(line)
            return None

    def _drop(self, line: Line) -> None:
        self._poller.unregister(line)
        del self._lines[line.fileno()]
        self._numbers = {number: other for number, other in self._numbers.items() if other is not line}
        line.close()

    def line_of(self, number: int) -> Line | None:
        """Whose request it is, by its number; None when its line is no more."""
        return self._numbers.get(number >> LINE_SHIFT)

    def send(self) -> None:
        """Send what lines hold."""
        for line in list(self._lines.values()):
            if line.held and not line.send():
                self._drop(line)
