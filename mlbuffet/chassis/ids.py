"""Request ids: the client's own where it is sound, else one of ours."""

import itertools
import os
import re

_SOUND = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_counter = itertools.count()
_prefix = os.urandom(6).hex()


def _renew() -> None:
    """Give a forked process a prefix of its own."""
    global _prefix  # noqa: PLW0603 - one value per process
    _prefix = os.urandom(6).hex()


os.register_at_fork(after_in_child=_renew)


def request_id_of(header: bytes) -> str:
    """Return the id that the client gave in X-Request-Id, or a new one that no other process makes."""
    if header and _SOUND.fullmatch(header):
        return header.decode("ascii")
    return f"{_prefix}-{next(_counter):x}"
