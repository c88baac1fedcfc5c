"""A runner's answers on their way out: to the modelhost's server process, or by the line that the request came by."""

import socket
import time

import orjson

from mlbuffet.channel import LINE_SHIFT, Codec, Kind, encode_frame
from mlbuffet.errors import MLBuffetError, ResourceLimitError
from modelhost.codecs.request import Answer
from modelhost.inbox import Inbox
from modelhost.runtimes.onnx import TOO_MUCH

HOLD_NS = 1_000_000  # answers wait at most this long for others to leave with
_REPLY = Kind.REPLY.value
_FIRST_OF_LINES = 1 << LINE_SHIFT
_NUMBERS = _FIRST_OF_LINES - 1


class Answers:
    """Answers that leave in one write to each who asked; none waits long for others."""

    def __init__(self, frames: socket.socket, inbox: Inbox) -> None:
        self._frames = frames
        self._inbox = inbox
        self._held: list[bytes | memoryview] = []
        self._direct = 0  # that were added for lines and not counted yet
        self.since_ns = 0  # when those that are held began to wait

    def add(self, number: int, answer: Answer, ran: bytes = b"") -> None:
        """Add an answer; `ran` is when its run began and ended."""
        pieces, split = answer
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        held, took_ns = self._held, 0
        if number >= _FIRST_OF_LINES:
            line = self._inbox.line_of(number)
            if line is None:
                return
            held, took_ns = line.held, time.monotonic_ns() - self.since_ns
            self._direct += 1
        held.append(encode_frame(_REPLY, 0, split, b"", number & _NUMBERS, took_ns, size, ran))
        held += pieces

    def refuse(self, number: int, error: Exception) -> None:
        """Add an error; what nobody foresaw is told by its type."""
        if isinstance(error, MemoryError):
            error = ResourceLimitError(TOO_MUCH)
        elif not isinstance(error, MLBuffetError):
            error = MLBuffetError(f"the request could not be handled ({type(error).__name__})")
        body = orjson.dumps({"code": error.code, "message": error.message})
        frame = encode_frame(Kind.ERROR, Codec.NONE, 0, b"", number & _NUMBERS, 0, len(body)) + body
        if number < _FIRST_OF_LINES:
            self._held.append(frame)
        elif (line := self._inbox.line_of(number)) is not None:
            line.held.append(frame)

    def direct(self) -> int:
        """How many were added for lines since this was asked last."""
        count, self._direct = self._direct, 0
        return count

    def leave_if_due(self) -> None:
        """Send what is here unless it was only just made."""
        if (self._held or self._direct) and time.monotonic_ns() - self.since_ns > HOLD_NS:
            self.leave()
            self.since_ns = time.monotonic_ns()

    def leave(self) -> None:
        """Send what is here."""
        if self._held:
            self._frames.sendall(b"".join(self._held))
            self._held.clear()
        self._inbox.send()
