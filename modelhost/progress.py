"""The page that a runner shares with its supervisor: which requests it is running, and what it has done so far.

When the runner dies the page is still there, and says whose fault it may have been. Imported on both sides, so nothing
here may import numpy or onnxruntime.
"""

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, Self

MOST_ROWS = 1024  # that may run together: the page has room for so many requests
_COUNTS = struct.Struct("<8Q")
_COUNT, _FIRST = 64, 72
_SPREADS = _FIRST + 8 * MOST_ROWS  # where distributions begin
_NUMBER = struct.Struct("<Q")
_TWO = struct.Struct("<QQ")
RAN = _TWO  # when a request's run began and ended, by the monotonic clock: beside its answer

# Upper bounds of buckets; a distribution is the buckets' counts, that of what is above all of them, and the sum.
STEP_NS = tuple(
    int(us * 1000)
    for us in (10, 25, 50, 100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7)
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SPREADS = {"decode": STEP_NS, "run": STEP_NS, "encode": STEP_NS, "rows": ROWS}
_CELLS = sum(len(bounds) + 2 for bounds in SPREADS.values())
_BYTES = _SPREADS + 8 * _CELLS
Spreads = tuple[int, ...]  # all distributions, one after the other, in the order of SPREADS
NO_SPREADS: Spreads = (0,) * _CELLS


class Counts(NamedTuple):
    """What a runner has done: runs of the model, rows in them, and the time that requests have spent in each step.

    Of requests that run together, each spends the whole run's time. Nanoseconds.
    """

    batches: int = 0
    rows: int = 0
    decode_ns: int = 0
    run_ns: int = 0
    encode_ns: int = 0
    direct: int = 0  # requests that came by lines and were answered, and how long that took
    direct_ns: int = 0
    answered_at_ns: int = 0  # when one was last

    def plus(self, other: Self) -> "Counts":
        """The sum with another runner's."""
        total = Counts(*map(sum, zip(self, other, strict=True)))
        return total._replace(answered_at_ns=max(self.answered_at_ns, other.answered_at_ns))


class Progress:
    """One such page; the runner writes, the supervisor reads."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _BYTES)
        os.close(fd)
        self._cells = memoryview(self._page)[_SPREADS:].cast("Q")
        self._begin: dict[str, int] = {}
        cell = 0
        for name, bounds in SPREADS.items():
            self._begin[name] = cell
            cell += len(bounds) + 2

    def run_one(self, number: int) -> None:
        """Say that one request is worked on from now on."""
        _TWO.pack_into(self._page, _COUNT, 1, number)

    def run_together(self, numbers: Sequence[int]) -> None:
        """Say which requests run from now on; the count is written last, for the page is read meanwhile."""
        _NUMBER.pack_into(self._page, _COUNT, 0)
        struct.pack_into(f"<{len(numbers)}Q", self._page, _FIRST, *numbers)
        _NUMBER.pack_into(self._page, _COUNT, len(numbers))

    def rest(self, counts: Counts) -> None:
        """Say that nothing runs now, and what has been done so far."""
        _COUNTS.pack_into(self._page, 0, *counts)
        _NUMBER.pack_into(self._page, _COUNT, 0)

    def observe(self, name: str, value: int, weight: int) -> None:
        """Add a value to a distribution, as often as `weight` says."""
        cells, first, bounds = self._cells, self._begin[name], SPREADS[name]
        cells[first + bisect_left(bounds, value)] += weight
        cells[first + len(bounds) + 1] += value * weight

    def read_spreads(self) -> Spreads:
        """All distributions."""
        return tuple(self._cells)

    def read_running(self) -> tuple[int, ...]:
        """The requests that are being run, or were when the process died."""
        (count,) = _NUMBER.unpack_from(self._page, _COUNT)
        return struct.unpack_from(f"<{count}Q", self._page, _FIRST)

    def read_counts(self) -> Counts:
        """What it has done."""
        return Counts(*_COUNTS.unpack_from(self._page))

    def close(self) -> None:
        """Let go of the page."""
        self._cells.release()
        self._page.close()


def new_page() -> int:
    """Make a page; a descriptor of it."""
    fd = os.memfd_create("progress", os.MFD_CLOEXEC)
    os.ftruncate(fd, _BYTES)
    return fd
