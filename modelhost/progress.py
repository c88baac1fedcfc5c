"""The page that a runner shares with its supervisor: which requests it is running, and how many batches it has run.

When the runner dies the page is still there, and says whose fault it may have been. Imported on both sides, so nothing
here may import numpy or onnxruntime.
"""

import mmap
import os
import struct
from collections.abc import Sequence

_BYTES = mmap.PAGESIZE
_BATCHES, _COUNT, _FIRST = 0, 8, 16
_NUMBER = struct.Struct("<Q")
_TWO = struct.Struct("<QQ")


class Progress:
    """One such page; the runner writes, the supervisor reads."""

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _BYTES)
        os.close(fd)

    def run_one(self, number: int) -> None:
        """Say that one request is worked on from now on."""
        _TWO.pack_into(self._page, _COUNT, 1, number)

    def run_together(self, numbers: Sequence[int]) -> None:
        """Say which requests run from now on; the count is written last, for the page is read meanwhile."""
        _NUMBER.pack_into(self._page, _COUNT, 0)
        struct.pack_into(f"<{len(numbers)}Q", self._page, _FIRST, *numbers)
        _NUMBER.pack_into(self._page, _COUNT, len(numbers))

    def rest(self, batches: int) -> None:
        """Say that nothing runs now, and how many batches have been run so far."""
        _TWO.pack_into(self._page, _BATCHES, batches, 0)

    def read_running(self) -> tuple[int, ...]:
        """The requests that are being run, or were when the process died."""
        (count,) = _NUMBER.unpack_from(self._page, _COUNT)
        return struct.unpack_from(f"<{count}Q", self._page, _FIRST)

    def read_batches(self) -> int:
        """How many batches it has run."""
        return int(_NUMBER.unpack_from(self._page, _BATCHES)[0])

    def close(self) -> None:
        """Let go of the page."""
        self._page.close()


def new_page() -> int:
    """Make a page; a descriptor of it."""
    fd = os.memfd_create("progress", os.MFD_CLOEXEC)
    os.ftruncate(fd, _BYTES)
    return fd
