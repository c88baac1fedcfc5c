"""The data channel's blocking end, for a runner."""

import socket
from collections.abc import Iterator

from mlbuffet.channel import HEADER, check_length, sizes_of

Frame = tuple[int, int, int, int, int, memoryview]  # kind, codec, split, id, time and body


class FrameReader:
    """The blocking end, for a runner: reads all frames that are there, without copying their bodies."""

    def __init__(self, sock: socket.socket, base: int = 0) -> None:
        """`base` is added to the ids of frames."""
        self._sock = sock
        self._base = base
        self._buffer = bytearray(1 << 18)
        self._filled = 0
        self._used = 0

    def read(self) -> Iterator[Frame]:
        """Wait for at least one frame; yields them; their bodies are valid until the next call.

        Raises:
            EOFError: the peer is gone.
        """
        self._compact()
        while True:
            count = self._sock.recv_into(memoryview(self._buffer)[self._filled :])
            if not count:
                raise EOFError
            self._filled += count
            if self._whole():
                return self._frames()

    def _compact(self) -> None:
        """Move what is left to the front."""
        rest = self._filled - self._used
        self._buffer[:rest] = self._buffer[self._used : self._filled]
        self._filled, self._used = rest, 0

    def _whole(self) -> bool:
        """Tell whether the first frame is there; makes room for it where it is not."""
        if self._filled < HEADER.size:
            return False
        length, _, _, names, *_ = HEADER.unpack_from(self._buffer)
        check_length(length, names)
        if length + 4 > len(self._buffer):
            self._buffer = self._buffer[: self._filled] + bytearray(length + 4 - self._filled)
        return self._filled >= int(length) + 4

    def _frames(self) -> Iterator[Frame]:
        view = memoryview(self._buffer)
        while self._filled - self._used >= HEADER.size:
            length, kind, codec, names, split, frame_id, time_ns = HEADER.unpack_from(view, self._used)
            start, end = self._used + HEADER.size + sum(sizes_of(names)), self._used + 4 + length
            if end > self._filled:
                return
            self._used = end
            yield kind, codec, split, self._base + frame_id, time_ns, view[start:end]
