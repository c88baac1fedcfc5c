"""Where large bodies are kept until they are answered: shared memory where a modelhost takes it, and not too many."""

import time

from inferrer.replicas import Replicas
from inferrer.segments import Lease, SegmentPool
from inferrer.targets import Target
from mlbuffet.errors import BusyError

_SEGMENTS_SHARE = 4  # one part in so many of what bodies may hold is shared memory that is kept for the next


class Rooms:
    """The large bodies of one inferrer process."""

    def __init__(self, replicas: Replicas, most_bytes: int) -> None:
        """`most_bytes` is how much the bodies in flight may hold together."""
        self._replicas = replicas
        self._most_bytes = most_bytes
        self._segments = SegmentPool(most_bytes // _SEGMENTS_SHARE, self._release)

    def admit(self, size_bytes: int) -> None:
        """Take a large body, unless too many are held already.

        Raises:
            BusyError: they are.
        """
        if sum(replica.held_bytes for replica in self._replicas.connections()) + size_bytes > self._most_bytes:
            msg = "this process holds as many requests as it may"
            raise BusyError(msg)

    def lease(self, target: Target, size_bytes: int, split: int) -> Lease | None:
        """Shared memory for a body; None where there is no way there, or no memory."""
        if not any(replica.takes_segments for replica in target.candidates):
            return None
        return self._segments.lease(target.key, size_bytes, split, time.monotonic())

    def placed(self, payload: tuple[int, int, bytes | Lease], target: Target) -> tuple[int, int, bytes | Lease]:
        """A large body in shared memory where there is some: one copy instead of one at each hand it passes through."""
        codec, split, body = payload
        if isinstance(body, bytes) and (lease := self.lease(target, len(body), split)) is not None:
            lease.view[:] = body
            return codec, split, lease
        return payload

    def age(self, now: float) -> None:
        """Give back the memory of what has not been used for a while."""
        self._segments.age(now)

    def _release(self, number: int) -> None:
        """A segment is no more."""
        for replica in self._replicas.connections():
            replica.release(number)
