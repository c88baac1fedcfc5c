"""The file of keys in a repository: read by every process, replaced whole by one at a time.

<repository>/.mlbuffet/keys.json    what is kept of each key
<repository>/.mlbuffet/key_hash     what they are hashed with, unless a setting says it
<repository>/.mlbuffet/keys.changes a counter that rises with every change: one memory read tells a process of another's
"""

import fcntl
import mmap
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from mlbuffet.errors import ConflictError, NotFoundError
from mlbuffet.index import PRIVATE
from mlbuffet.keyfile import KeyFile, read_hashing_key, read_keys, write_keys
from mlbuffet.keys import MOST_KEYS, Key, Wish, is_locked_out, new_key

Keys = Mapping[str, Key]
_COUNT_BYTES = 8


class KeyStoreError(Exception):
    """The keys of a repository cannot be read."""


class KeyStore:
    """The keys of one repository; `key_hash` are the hexadecimal digits of the hashing key.

    Raises:
        KeyStoreError: `key_hash` is no hashing key.
    """

    def __init__(self, root: Path, key_hash: str = "") -> None:
        self._folder = root / PRIVATE
        self.path = self._folder / "keys.json"
        self._key_file = self._folder / "key_hash"
        self._changes = self._folder / "keys.changes"
        try:
            self._hashing_key = read_hashing_key(key_hash) if key_hash else b""
        except ValueError as error:
            raise KeyStoreError(str(error)) from None

    def signature(self) -> tuple[int, ...] | None:
        """What changes whenever the file does; None while there is none.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_ctime_ns, status.st_size  # a change of its mode counts too

    def hashing_key(self) -> bytes:
        """What keys are hashed with.

        Raises:
            KeyStoreError: it cannot be read.
        """
        if not self._hashing_key:
            try:
                self._hashing_key = read_hashing_key(self._key_file.read_text(encoding="ascii"))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                msg = f"what API keys are hashed with cannot be read from {self._key_file}: {why}"
                raise KeyStoreError(msg) from None
        return self._hashing_key

    def read(self) -> Keys | None:
        """All keys by their ids; None where none was ever made.

        Raises:
            KeyStoreError: the file cannot be read, or is damaged.
        """
        held = self._read()
        return None if held is None else held.keys

    def _read(self) -> KeyFile | None:
        try:
            return read_keys(self.path.read_bytes(), self.hashing_key())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            msg = f"{self.path}: {error.strerror if isinstance(error, OSError) else error}"
            raise KeyStoreError(msg) from error

    def make(self, wish: Wish) -> tuple[Key, str]:
        """Make a key; returns what is kept of it, and the key itself.

        Raises:
            UnprocessableError: it would have expired.
            ConflictError: there are too many, or the first one could not make others.
            KeyStoreError, OSError: the file cannot be read or written.
        """
        made: list[tuple[Key, str]] = []

        def add(keys: Keys, hashing_key: bytes) -> Keys:
            made.append(new_key(wish, hashing_key, datetime.now(UTC)))
            key = made[0][0]
            if len(keys) >= MOST_KEYS:
                msg = f"there are at most {MOST_KEYS} keys; revoke those that nobody needs"
                raise ConflictError(msg)
            return _not_locked_out({**keys, key.id: key})

        self._change(add)
        return made[0]

    def revoke(self, key_id: str) -> None:
        """Remove a key.

        Raises:
            NotFoundError: there is none with this id.
            ConflictError: it is the last one that could make others.
            KeyStoreError, OSError: the file cannot be read or written.
        """

        def remove(keys: Keys, _: bytes) -> Keys:
            if key_id not in keys:
                msg = f"there is no key {key_id[:80]!a}"
                raise NotFoundError(msg)
            return _not_locked_out({number: key for number, key in keys.items() if number != key_id})

        self._change(remove)

    def _change(self, change: Callable[[Keys, bytes], Keys]) -> None:
        """Replace the keys by what `change` makes of them with the hashing key; nobody else changes them meanwhile."""
        with self._locked():
            held = self._read()
            if held is None and not self._hashing_key and not self._key_file.exists():
                _write(self._key_file, secrets.token_hex(32).encode())
            held = held or KeyFile()
            after = change(held.keys, self.hashing_key())
            _write(self.path, write_keys(after.values(), self.hashing_key(), held.unknown))
            self._tell()

    def changes(self) -> Sequence[int]:
        """The counter of changes, mapped: its one number is another one after a change than before.

        Raises:
            OSError: it cannot be made.
        """
        if not self._is_counted():  # else nothing has to be written: the volume may be read-only
            with self._locked():
                if not self._is_counted():
                    self._tell()
        with self._changes.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), _COUNT_BYTES, prot=mmap.PROT_READ)).cast("Q")

    def _is_counted(self) -> bool:
        return self._changes.exists() and self._changes.stat().st_size == _COUNT_BYTES

    def _tell(self) -> None:
        """Raise the counter; whoever does holds the lock."""
        fd = _open(self._changes, os.O_RDWR | os.O_CREAT)
        try:
            count = int.from_bytes(os.pread(fd, _COUNT_BYTES, 0), sys.byteorder) + 1
            os.pwrite(fd, count.to_bytes(_COUNT_BYTES, sys.byteorder), 0)
        finally:
            os.close(fd)

    def begin_with(self, first: Path) -> None:
        """Take over a file of keys where there is none yet.

        Raises:
            KeyStoreError: it cannot be read, or is damaged.
            OSError: it cannot be written.
        """
        if self.path.exists():
            return
        try:
            data = first.read_bytes()
            read_keys(data, self.hashing_key())
        except (OSError, ValueError) as error:
            msg = f"{first}: {error.strerror if isinstance(error, OSError) else error}"
            raise KeyStoreError(msg) from error
        with self._locked():
            if not self.path.exists():
                _write(self.path, data)
                self._tell()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep every other process from changing the keys."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        fd = _open(self._folder / "keys.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _not_locked_out(keys: Keys) -> Keys:
    if is_locked_out(keys.values(), time.time()):
        msg = "no key with the scope 'admin' would be left, and nobody could make keys any more; make such a one first"
        raise ConflictError(msg)
    return keys


def _open(path: Path, flags: int) -> int:
    """Open a file that only the owner of its folder may use, though root should make it."""
    fd = os.open(path, flags, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _write(path: Path, data: bytes) -> None:
    """Put a file in its place, whole and durable, that nobody else may read."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # of a process that was killed: we hold the lock
    fd = _open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(data)
        file.flush()
        os.fsync(fd)
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
