"""What the repository asks of the file system: durable writes, locks that outlive no process, failures in our words."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlbuffet.errors import StorageFullError, StorageUnavailableError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# ENOENT and ENOTDIR: a folder was taken away by hand.
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ENOTDIR})


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn what the file system refuses into what a client is told.

    Raises:
        StorageFullError, StorageUnavailableError: the volume is full, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            msg = "the model repository's volume is full; nothing was changed"
            raise StorageFullError(msg) from error
        if error.errno in _UNWRITABLE:
            msg = "the model repository cannot be written now; nothing was changed"
            raise StorageUnavailableError(msg) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and make its bytes durable; its name becomes so with the folder."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def take_lock(path: Path, *, create: bool = True) -> int | None:
    """Try to lock the file at a path; None while somebody else has it."""
    try:
        fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o640)
    except FileNotFoundError:
        if create:
            raise
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or unlinked by the one who held it: try again
    os.close(fd)
    return None


def is_abandoned(path: Path) -> bool:
    """Tell whether the owner of something in staging is gone."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)
