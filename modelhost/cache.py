"""Files of bytes that were fetched, each named after the SHA-256 of what it holds, in one folder.

So a file is what its name says or is not there; and what two versions, an upload and the version it becomes, or two
modelhosts of one machine need is there once. What is not whole yet is in a file `.part`, locked by who writes it; the
next one, after whatever end, goes on where that ended.
"""

import fcntl
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PART = ".part"
_NAME = re.compile(r"([0-9a-f]{64})(\.part)?")
_READ_BYTES = 1 << 20
UNLISTED_S = 300.0  # longer than an upload takes from its check to its version


class Part:
    """A file on its way in. All of it may block: it is used in threads."""

    def __init__(self, path: Path, digest: str) -> None:
        """`digest` is `sha256:` and 64 hex digits of the whole.

        Raises:
            BlockingIOError: another process fetches it.
            OSError: the volume cannot take it.
        """
        self.size_bytes = 0
        self._digest = digest
        self._whole = path
        self._path = path.with_name(path.name + _PART)
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()  # who gives up closes while a thread may still write
        self._file = self._path.open("a+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self._path.exists() or not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
            raise BlockingIOError  # its owner has just given it its name, or thrown it away
        self._file.seek(0)
        while piece := self._file.read(_READ_BYTES):
            self._hash.update(piece)
            self.size_bytes += len(piece)

    def write(self, piece: bytes) -> None:
        """Add bytes.

        Raises:
            OSError: the volume cannot take them.
        """
        with self._lock:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
            self._hash.update(piece)
            self.size_bytes += len(piece)

    def finish(self) -> bool:
        """Give it its name if it is what it should be, else throw it away; tells which."""
        with self._lock:
            if f"sha256:{self._hash.hexdigest()}" != self._digest:
                self._path.unlink(missing_ok=True)
                return False
            # The name may be lost with the power, then it is fetched again; the bytes that it promises may not.
            os.fsync(self._file)
            self._path.rename(self._whole)
            return True

    def close(self) -> None:
        """Leave what is there for the next one."""
        with self._lock:
            self._file.close()


class Cache:
    """The folder. What no index lists is kept for a while: it may be an upload that is still being checked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._folder = folder
        self._listed: frozenset[str] = frozenset()
        self._asked_at: dict[str, float] = {}  # of what is not listed, by our own watch: the wall clock may jump

    def path(self, digest: str) -> Path:
        """Where the bytes with a digest are, if they are here."""
        return self._folder / digest.removeprefix("sha256:")

    def has(self, digest: str, size_bytes: int) -> bool:
        """Tell whether they are here."""
        try:
            return self.path(digest).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def keep(self, digest: str) -> None:
        """Keep bytes for a while if no index lists them: they are about to be used."""
        if digest not in self._listed:
            self._asked_at[digest] = time.monotonic()

    def keeps(self, digest: str) -> bool:
        """Tell whether bytes are kept although no index lists them."""
        return time.monotonic() - self._asked_at.get(digest, -UNLISTED_S) < UNLISTED_S

    def drop(self, digest: str) -> None:
        """Remove bytes, if they are here."""
        self.path(digest).unlink(missing_ok=True)

    def follow(self, digests: frozenset[str]) -> None:
        """These are listed from now on; what was until now goes."""
        for digest in self._listed - digests:
            self.drop(digest)
        for digest in digests - self._listed:
            self._asked_at.pop(digest, None)
        self._listed = digests

    def sweep(self) -> None:
        """Remove what has been unlisted for long."""
        now = time.monotonic()
        there = [(path, digest) for path, digest in self._files() if digest not in self._listed or path.suffix]
        seen_at = {digest: self._asked_at.get(digest, now) for _, digest in there}
        for path, digest in there:
            if now - seen_at[digest] >= UNLISTED_S and not _is_locked(path):
                path.unlink(missing_ok=True)
        self._asked_at = seen_at | {digest: at for digest, at in self._asked_at.items() if now - at < UNLISTED_S}

    def _files(self) -> Iterator[tuple[Path, str]]:
        for item in os.scandir(self._folder):
            if (found := _NAME.fullmatch(item.name)) is not None:
                yield Path(item.path), f"sha256:{found[1]}"


def _is_locked(path: Path) -> bool:
    """Tell whether a process is writing a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
