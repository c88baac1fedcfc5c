"""Shared memory for large bodies, on the inferrer's side: a bounded pool of segments that are used again and again.

Making one costs more than filling it: fresh pages are zeroed and faulted in one by one. A segment that has held a
request for one version never holds one for another, for that version's runners keep it mapped; and it is used again
only when nobody can still be reading it (`Lease.spoil`).
"""

import os
import secrets
import socket
from collections import deque
from collections.abc import Callable

from mlbuffet.channel import is_own_user
from mlbuffet.segments import Reference, hand_over, make_segment, side_path

MOST_SEGMENTS = 32  # in one process; each costs a descriptor here and in every modelhost
_IDLE_S = 5.0
_SMALLEST_BYTES = 1 << 17
_ALIGNMENT = 64  # of tensors behind their JSON: a cache line, and what vector instructions like best


class Segment:
    """One piece of shared memory."""

    __slots__ = ("fd", "idle_since", "key", "number", "size", "spoilt", "view")

    def __init__(self, key: bytes, size: int) -> None:
        """Make one for requests of one version; raises OSError like `make_segment`."""
        self.key = key
        self.size = size
        self.fd, self.view = make_segment(size)
        self.number = secrets.randbits(64)  # one modelhost has segments of several inferrers
        self.spoilt = False
        self.idle_since = 0.0


class Lease:
    """The place of one body, until nobody holds this object any more."""

    __slots__ = ("_returned", "_segment", "_size", "_start")

    def __init__(self, segment: Segment, start: int, size: int, returned: deque[Segment]) -> None:
        self._segment = segment
        self._start = start
        self._size = size
        self._returned = returned

    @property
    def view(self) -> memoryview:
        """Where the body is written to."""
        return self._segment.view[self._start : self._start + self._size]

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def spoil(self) -> None:
        """Never use the memory again: somebody who was not heard of since may still be reading the body."""
        self._segment.spoilt = True

    def __del__(self) -> None:
        # By reference counts, because the ways in which a request can end are many; and from any thread.
        self._returned.append(self._segment)

    def refer(self, recipient: "Recipient", key: bytes) -> bytes | None:
        """A reference for a modelhost that is to run `key`; None when it has to be sent the bytes."""
        segment = self._segment
        if segment.key != key or not recipient.offer(segment):
            return None
        return Reference(segment.number, self._start, self._size).pack()


class SegmentPool:
    """All segments of one process. Lives on the event loop; only leases may end elsewhere."""

    def __init__(self, most_bytes: int, on_closed: Callable[[int], None]) -> None:
        """`on_closed` is told the number of each segment that is no more."""
        self._most_bytes = most_bytes
        self._on_closed = on_closed
        self._idle: list[Segment] = []  # those used last at the end
        self._returned: deque[Segment] = deque()
        self._count = 0
        self.held_bytes = 0

    def lease(self, key: bytes, size: int, split: int, now: float) -> Lease | None:
        """Room for a body of `size` bytes whose tensors begin at `split`; None when there is none."""
        self._take_back(now)
        start = -split % _ALIGNMENT
        segment = self._find(key, _rounded(start + size))
        return Lease(segment, start, size, self._returned) if segment is not None else None

    def _find(self, key: bytes, size: int) -> Segment | None:
        for number in reversed(range(len(self._idle))):
            if self._idle[number].key == key and self._idle[number].size == size:
                return self._idle.pop(number)
        while self._count >= MOST_SEGMENTS or self.held_bytes + size > self._most_bytes:
            if not self._idle:
                return None
            self._close(self._idle.pop(0))
        try:
            segment = Segment(key, size)
        except OSError:
            return None
        self._count += 1
        self.held_bytes += size
        return segment

    def age(self, now: float) -> None:
        """Give back the memory of what has not been used for a while."""
        self._take_back(now)
        while self._idle and self._idle[0].idle_since < now - _IDLE_S:
            self._close(self._idle.pop(0))

    def _take_back(self, now: float) -> None:
        while self._returned:
            segment = self._returned.popleft()
            segment.idle_since = now
            if segment.spoilt:
                self._close(segment)
            else:
                self._idle.append(segment)

    def _close(self, segment: Segment) -> None:
        """Let go of a segment; its pages are freed when all who have it mapped have let go too."""
        self._count -= 1
        self.held_bytes -= segment.size
        os.close(segment.fd)
        self._on_closed(segment.number)


def _rounded(size: int) -> int:
    """The size of the segment for so many bytes: a power of two, so that those there are fit most bodies."""
    return max(_SMALLEST_BYTES, 1 << (size - 1).bit_length())


class Recipient:
    """A modelhost as one that segments are handed over to."""

    def __init__(self, path: str) -> None:
        """`path` is that of its channel's unix socket; without one, it takes no segments."""
        self._given: set[int] = set()
        self._sock = _connect(side_path(path)) if path else None

    @property
    def takes_segments(self) -> bool:
        """Tell whether there is a way to it."""
        return self._sock is not None

    def offer(self, segment: Segment) -> bool:
        """Hand a segment over unless it has been; tells whether the modelhost has it."""
        if segment.number in self._given:
            return True
        if self._sock is None or not hand_over(self._sock, segment.number, segment.size, segment.fd):
            return False
        self._given.add(segment.number)
        return True

    def hand(self, number: int, sock: socket.socket) -> bool:
        """Hand a connection over, which is not a segment; tells whether the modelhost has it."""
        return self._sock is not None and hand_over(self._sock, number, 0, sock.fileno())

    def forget(self, number: int) -> bool:
        """Forget a segment that is no more; tells whether the modelhost had it."""
        if number not in self._given:
            return False
        self._given.discard(number)
        return True

    def close(self) -> None:
        """Hang up."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _connect(path: str) -> socket.socket | None:
    """Reach a modelhost's socket for descriptors; None when there is none that is ours."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    try:
        sock.connect(path)
        if is_own_user(sock):
            return sock
    except OSError:  # an older modelhost, or a path too long for a socket
        pass
    sock.close()
    return None
