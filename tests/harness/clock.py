"""A wall clock that jumps, for one service: its code asks Python for the time, and Python adds what a file says.

Debian's libfaketime cannot be used: with it time.sleep() fails in Python 3.11 (clock_nanosleep: EINVAL). Like a real
clock that is set, this leaves the monotonic one alone.
"""

import os
from pathlib import Path

from tests.harness.faults import planted

_WIDTH = 32

_CLOCK = f'''
"""Adds the seconds in a file to the wall clock (tests/harness/clock.py)."""
import datetime, os, time

_fd = os.open(os.environ["PYTHON_CLOCK_FILE"], os.O_RDONLY)
_time = time.time


def _shifted():
    return _time() + float(os.pread(_fd, {_WIDTH}, 0))


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(_shifted(), tz)

    @classmethod
    def utcnow(cls):
        return cls.utcfromtimestamp(_shifted())


time.time = _shifted
time.time_ns = lambda: int(_shifted() * 1e9)
datetime.datetime = _Datetime
'''


class Clock:
    """The wall clock of the services that get `environment`."""

    def __init__(self, folder: Path) -> None:
        self.environment = planted(folder, _CLOCK) | {"PYTHON_CLOCK_FILE": str(folder / "shift")}
        self._file = folder / "shift"
        self._file.touch()
        self.shift(0)

    def shift(self, seconds: float) -> None:
        """Be so much ahead of the true time from now on."""
        with self._file.open("rb+") as file:
            os.pwrite(file.fileno(), f"{seconds:<{_WIDTH}}".encode(), 0)
