"""Writes the model repository: atomic, durable, one change of a model at a time, over several processes.

A version is put together in the staging folder, synced, and renamed into its place whole; a pointer flips by rename.
What was acknowledged survives a power cut right after: every file and every folder that names it is fsynced first. What
lies in staging is locked by its owner while it lives, so that what a dead process left can be told from what is being
written.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import orjson

from inferrer.staging import StagedUpload
from inferrer.storage import is_abandoned, storage_errors, sync_folder, take_lock, write_durably
from mlbuffet.errors import ModelBusyError, StorageFullError, StorageUnavailableError
from mlbuffet.generation import EVERYTHING, create_generation, raise_generation
from mlbuffet.index import (
    DEFAULT_FILE,
    PRIVATE,
    generation_file,
    model_file,
    read_default,
    staging_folder,
    version_folder,
)
from mlbuffet.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from mlbuffet.names import is_version

_LAST_FILE = "last"  # the highest version number ever given, once it is no longer on disk


class Repository:
    """The writing side of a repository folder. Every mutation of a model holds its lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks = root / PRIVATE / "locks"
        self._first_seen: dict[Path, float] = {}
        for folder in (root, root / PRIVATE, self._locks, staging_folder(root)):
            if not folder.is_dir():
                folder.mkdir(mode=0o750, exist_ok=True, parents=True)
                sync_folder(folder.parent)
        create_generation(generation_file(root))
        # A process that was killed between a change and its announcement left the others with what was before.
        with contextlib.suppress(StorageUnavailableError):
            self.announce(EVERYTHING)

    def stage(self) -> StagedUpload:
        """Begin an upload; use it as a context manager."""
        return StagedUpload(self.root)

    @contextmanager
    def lock(self, name: str, timeout_s: float = 10) -> Iterator[None]:
        """Keep every other process from changing a model; names that differ by case share one lock.

        Raises:
            ModelBusyError: another change takes longer than `timeout_s`.
        """
        path = self._locks / name.lower()
        ends_at = time.monotonic() + timeout_s
        with storage_errors():
            fd = take_lock(path)
            while fd is None:
                if time.monotonic() > ends_at:
                    msg = f"another change of {name!r} is under way"
                    raise ModelBusyError(msg)
                time.sleep(0.01)
                fd = take_lock(path)
        try:
            yield
        finally:
            # Unlinked while it is held: whoever waits for this inode sees that it is no longer the one at the path.
            path.unlink(missing_ok=True)
            os.close(fd)

    def next_version(self, name: str) -> int:
        """The number that the next version of a model gets; never one that was given before."""
        folder = self.root / name
        numbers = [int(item.name) for item in folder.iterdir() if is_version(item.name)] if folder.is_dir() else []
        last = folder / _LAST_FILE
        if last.is_file():
            numbers.append(int(last.read_text(encoding="ascii")))
        return max(numbers, default=0) + 1

    def holds(self, manifest: Manifest, digest: str) -> bool:
        """Tell whether a version is these bytes, and its file still is what its manifest says."""
        if manifest.digest != digest:
            return False
        try:
            with model_file(self.root, manifest).open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == digest
        except OSError:
            return False

    def publish(self, staged: StagedUpload, manifest: Manifest) -> None:
        """Make a staged upload the version that its manifest says. It is not the default yet.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take it.
        """
        target = version_folder(self.root, manifest.model, manifest.version)
        with storage_errors():
            write_durably(staged.folder / MANIFEST_FILE, _dump(manifest))
            sync_folder(staged.folder)
            target.parent.mkdir(mode=0o750, exist_ok=True)
            staged.folder.rename(target)
            sync_folder(target.parent)
            sync_folder(self.root)

    def withdraw(self, manifest: Manifest) -> None:
        """Take back a version that was published, unless it became the default; never raises.

        It was never announced, but modelhosts have been told to load it.
        """
        folder = self.root / manifest.model
        if read_default(folder) == manifest.version:
            return  # the pointer flipped and only what came after it failed
        with contextlib.suppress(StorageFullError, StorageUnavailableError):
            self._discard(version_folder(self.root, manifest.model, manifest.version))
            self.announce(manifest.model)
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless there is more in it

    def take_over(self, staged: StagedUpload, manifest: Manifest) -> None:
        """Give a version folder that was made by hand its manifest, and exactly the bytes that were checked.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take it.
        """
        folder = version_folder(self.root, manifest.model, manifest.version)
        with storage_errors():
            staged.path.replace(folder / MODEL_FILE)
            self._replace(folder / MANIFEST_FILE, _dump(manifest))
            sync_folder(folder.parent)
            sync_folder(self.root)
        self.announce(manifest.model)

    def set_default(self, name: str, version: int) -> None:
        """Flip a model's pointer.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take it.
        """
        self._replace(self.root / name / DEFAULT_FILE, f"{version}\n".encode())
        self.announce(name)

    def save_manifest(self, manifest: Manifest) -> None:
        """Replace a version's manifest.

        Raises:
            StorageFullError, StorageUnavailableError: the volume cannot take it.
        """
        folder = version_folder(self.root, manifest.model, manifest.version)
        self._replace(folder / MANIFEST_FILE, _dump(manifest))
        self.announce(manifest.model)

    def _replace(self, path: Path, data: bytes) -> None:
        """Replace a file's content atomically and durably."""
        temporary = staging_folder(self.root) / uuid4().hex
        with storage_errors():
            try:
                write_durably(temporary, data)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)

    def delete_model(self, name: str) -> None:
        """Remove a model with all its versions.

        Raises:
            StorageUnavailableError: the volume cannot be written.
        """
        self._discard(self.root / name)
        self.announce(name)

    def delete_version(self, manifest: Manifest) -> None:
        """Remove one version that is not the default.

        Raises:
            StorageUnavailableError: the volume cannot be written.
        """
        last = self.root / manifest.model / _LAST_FILE
        is_highest = manifest.version + 1 == self.next_version(manifest.model)
        noted = False
        if is_highest:
            with contextlib.suppress(StorageFullError):
                self._replace(last, f"{manifest.version}\n".encode())
                noted = True
        self._discard(version_folder(self.root, manifest.model, manifest.version))
        if is_highest and not noted:  # now there is room
            self._replace(last, f"{manifest.version}\n".encode())
        self.announce(manifest.model)

    def _discard(self, folder: Path) -> None:
        """Take a folder out of sight in one step, then free its space; a full volume does not hinder it."""
        doomed = staging_folder(self.root) / uuid4().hex
        with storage_errors():
            try:
                folder.rename(doomed)
            except FileNotFoundError:
                return  # somebody removed it by hand
            sync_folder(folder.parent)
        shutil.rmtree(doomed, ignore_errors=True)

    def announce(self, name: str) -> None:
        """Tell every process that a model has changed."""
        with storage_errors():
            raise_generation(generation_file(self.root), name)

    def sweep(self, age_s: float) -> int:
        """Remove what dead processes left in staging, if it was seen `age_s` ago already, and their locks.

        Returns how many.
        """
        removed, now = 0, time.monotonic()
        # Ages by our own watch: the wall clock and the file system's times may jump.
        self._first_seen = {path: self._first_seen.get(path, now) for path in staging_folder(self.root).iterdir()}
        for path, first_seen in self._first_seen.items():
            # What is younger may be about to be locked.
            with contextlib.suppress(FileNotFoundError):  # its owner was faster
                if now - first_seen > age_s and is_abandoned(path):
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
                    removed += 1
        for path in self._locks.iterdir():
            fd = take_lock(path, create=False)
            if fd is not None:
                path.unlink()
                os.close(fd)
                removed += 1
        return removed


def _dump(manifest: Manifest) -> bytes:
    return orjson.dumps(manifest.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
