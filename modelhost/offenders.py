"""Requests that ended the process that ran them, remembered by a digest of their bytes and refused for a while.

Whoever sends one again and again would cost the others a restart each time. Pure: time is an argument.
"""

import hashlib

_REFUSED_S = 60.0
_MOST = 1024


class Offenders:
    """The requests of one version that are not run now."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __bool__(self) -> bool:
        """Tell whether there is any: without, no request is hashed."""
        return bool(self._until)

    def add(self, codec: int, body: bytes, now_s: float) -> None:
        """Remember a request; the oldest is forgotten when there are too many."""
        digest = _digest(codec, body)
        self._until.pop(digest, None)  # so that the order of the keys is that of their ends
        self._until[digest] = now_s + _REFUSED_S
        if len(self._until) > _MOST:
            del self._until[next(iter(self._until))]

    def refused_s(self, codec: int, body: bytes, now_s: float) -> float:
        """How long a request is refused from now on, in seconds; 0 when it may run."""
        while self._until and next(iter(self._until.values())) <= now_s:
            del self._until[next(iter(self._until))]
        return max(self._until.get(_digest(codec, body), 0) - now_s, 0) if self._until else 0


def _digest(codec: int, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16, salt=bytes([codec])).digest()
