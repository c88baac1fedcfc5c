"""A counter in a small mapped file that rises with every change of the model repository, and what changed.

One memory read tells a process of another's change: that is how a prediction, by whichever process, never uses what an
acknowledged change has replaced. A ring of the last changed names makes following cheap; a reader that fell behind the
ring reads everything again. Readers map the file read-only and writers use pwrite, so that the volume can be remounted
read-only under them.

    magic 8 bytes | generation u64 | 1024 slots of 64 bytes, the name changed by generation g in slot g % 1024
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path

_MAGIC = b"MLBGEN01"
_COUNT = struct.Struct("<Q")
_SLOTS = 1024
_SLOT_BYTES = 64
_HEAD = 16
_SIZE = _HEAD + _SLOTS * _SLOT_BYTES

EVERYTHING = ""  # instead of a name: anything may have changed


class Generation:
    """A reader's view of the counter."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            self._map = mmap.mmap(fd, _SIZE, prot=mmap.PROT_READ)
            self._numbers = memoryview(self._map).cast("Q")
        finally:
            os.close(fd)

    def current(self) -> int:
        """The present generation."""
        return self._numbers[1]

    def changed_since(self, seen: int, now: int) -> set[str] | None:
        """Names changed after generation `seen` up to `now`; None when it may be any."""
        # One slot less than there are: a writer fills the next one before it raises the counter.
        if not 0 <= now - seen < _SLOTS:
            return None
        names = {self._slot(number) for number in range(seen + 1, now + 1)}
        # Writers may have gone round the ring while it was read.
        return None if self.current() - seen >= _SLOTS or EVERYTHING in names else names

    def _slot(self, number: int) -> str:
        start = _HEAD + number % _SLOTS * _SLOT_BYTES
        return self._map[start : start + _SLOT_BYTES].rstrip(b"\0").decode("ascii", "replace")


def create_generation(path: Path) -> None:
    """Make the file unless it is there and sound; several processes may try at once.

    Raises:
        OSError: it has to be made, and the volume cannot be written.
    """
    if _is_sound(path):
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _is_sound(path):
            os.ftruncate(fd, _SIZE)
            os.pwrite(fd, _MAGIC + _COUNT.pack(1) + bytes(_SIZE - _HEAD), 0)
    finally:
        os.close(fd)


def _is_sound(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC and os.fstat(file.fileno()).st_size == _SIZE
    except FileNotFoundError:
        return False


def raise_generation(path: Path, name: str) -> int:
    """Say that a model changed; call it when the change is on disk. Returns the new generation."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        number = int(_COUNT.unpack(os.pread(fd, 8, 8))[0]) + 1
        os.pwrite(fd, name.encode("ascii").ljust(_SLOT_BYTES, b"\0"), _HEAD + number % _SLOTS * _SLOT_BYTES)
        os.pwrite(fd, _COUNT.pack(number), 8)
        return number
    finally:
        os.close(fd)
