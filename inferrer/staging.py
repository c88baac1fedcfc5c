"""An upload on its way in: written, hashed and locked in the staging folder until it is published or dropped."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import Self
from uuid import uuid4

from inferrer.storage import storage_errors, write_all
from mlbuffet.index import staging_folder
from mlbuffet.manifest import MODEL_FILE


class StagedUpload:
    """Bytes on their way in: hashed while they are written, gone with the `with` block unless published."""

    def __init__(self, root: Path) -> None:
        self.folder = staging_folder(root) / uuid4().hex
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Make the folder and lock it.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take it.
        """
        with storage_errors():
            self.folder.mkdir(mode=0o750)
            try:
                fcntl.flock(self._opened(self.folder, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
                self._file = self._opened(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            except OSError:
                self.__exit__()
                raise
        return self

    def _opened(self, path: Path, flags: int) -> int:
        fd = os.open(path, flags, 0o640)
        self._open.callback(os.close, fd)
        return fd

    def __exit__(self, *_: object) -> None:
        """Remove what was not published."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._open.close()

    @property
    def path(self) -> Path:
        """Where the bytes are."""
        return self.folder / MODEL_FILE

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take them.
        """
        with storage_errors():
            write_all(self._file, chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def finish(self) -> None:
        """Make the bytes durable; no more come.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take them.
        """
        with storage_errors():
            os.fsync(self._file)
