"""Shared memory for large bodies, on the runner's side: segments of its own version's requests, mapped to be read."""

import os
import socket

from mlbuffet.chassis.process import give_back, keep_freed
from mlbuffet.errors import MLBuffetError, ResourceLimitError
from mlbuffet.segments import Reference, map_segment, take_over


class Mappings:
    """The segments that this process has been given; each is unmapped when it is released and no array uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._views: dict[int, memoryview] = {}
        self._lines: dict[int, int] = {}
        self._largest_bytes = 0

    def body(self, reference: memoryview) -> memoryview:
        """The body that a frame refers to.

        Raises:
            ResourceLimitError: it cannot be mapped.
        """
        number, offset, size = Reference.unpack(reference)
        while number not in self._views:
            self._receive()
        return self._views[number][offset : offset + size]

    def line(self, number: int) -> int | None:
        """The descriptor of a line that was handed over; None when it did not come."""
        try:
            while number not in self._lines:
                self._receive()
        except MLBuffetError:
            return None
        return self._lines.pop(number)

    def _receive(self) -> None:
        """Map the next segment: each is handed over before the first request that refers to it."""
        try:
            handed = take_over(self._sock)
            if handed is None:
                raise EOFError
            if not handed.size:
                self._lines[handed.number] = handed.fd
                return
            try:
                self._views[handed.number] = map_segment(handed.fd, handed.size)
            finally:
                os.close(handed.fd)
            if handed.size > self._largest_bytes:
                self._largest_bytes = handed.size
                keep_freed(2 * handed.size)  # what a codec makes of such a body is about as large
        except BlockingIOError:
            msg = "the request's memory was not handed over"
            raise MLBuffetError(msg) from None
        except OSError:
            msg = "the request's memory cannot be mapped"
            raise ResourceLimitError(msg) from None

    def release(self, number: int) -> None:
        """Let go of a segment; the last one goes with all that was kept for others of its size."""
        self._views.pop(number, None)
        if not self._views:
            give_back()
