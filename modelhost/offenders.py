"""Requests that ended the process that ran them, remembered by a digest of their bytes and refused for a while.

Whoever sends one again and again would cost the others a restart each time. Pure: time is an argument.
"""

import hashlib

_REFUSED_S = 60.0
_MOST = 1024


class Offenders:
    """The requests of one version that are not run now."""

    def __init__(self) -> None:
        self.until: dict[bytes, float] = {}  # by digest; while it is empty no request is hashed

    def add(self, codec: int, body: bytes, now_s: float) -> None:
        """Remember a request; the oldest is forgotten when there are too many."""
        digest = _digest(codec, body)
        self.until.pop(digest, None)  # so that the order of the keys is that of their ends
        self.until[digest] = now_s + _REFUSED_S
        if len(self.until) > _MOST:
            del self.until[next(iter(self.until))]

    def refused_s(self, codec: int, body: bytes, now_s: float) -> float:
        """How long a request is refused from now on, in seconds; 0 when it may run."""
        while self.until and next(iter(self.until.values())) <= now_s:
            del self.until[next(iter(self.until))]
        return max(self.until.get(_digest(codec, body), 0) - now_s, 0) if self.until else 0


def _digest(codec: int, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16, salt=bytes([codec])).digest()
