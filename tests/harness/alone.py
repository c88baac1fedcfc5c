"""Turns between the processes that run tests: most run beside each other, some alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = Path(__file__)
_DOOR = _ROOM.parent  # whoever waits for an empty room waits in the door, or it would never be empty


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait for a turn of the test that follows, and keep it as long."""
    door, room = os.open(_DOOR, os.O_RDONLY), os.open(_ROOM, os.O_RDONLY)
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        os.close(door)
        yield
    finally:
        os.close(room)
