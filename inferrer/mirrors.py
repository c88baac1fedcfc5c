"""What modelhosts without the repository are told of it, and the bytes that they ask for.

Such a modelhost, a *mirror*, has one inferrer process tell it what is in the repository: all of it first, then what
changes. The bytes it asks for piece by piece, so that on its channel nothing waits long behind them. Files are read in
threads (docs/adr/0028-mirrors.md).
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any

import orjson

from inferrer.replica import Replica
from mlbuffet.channel import FrameError, Kind
from mlbuffet.errors import MLBuffetError, NotFoundError
from mlbuffet.index import Index, ModelEntry, is_staged, model_file, read_manifest, staging_folder, version_folder
from mlbuffet.manifest import MODEL_FILE, read_key
from mlbuffet.names import is_model_name

log = logging.getLogger(__name__)

MOST_PIECES, MOST_BYTES = 8, 1 << 20  # that a modelhost may ask for at once, and in one piece
_LOOK_S = 0.02
_UNREAD_S = 1.0


class Mirrors:
    """All modelhosts that are told of the repository by this process. Lives on one event loop."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._loop = asyncio.get_running_loop()
        self._followers: dict[Replica, asyncio.Task[None]] = {}
        self._pieces: Counter[Replica] = Counter()  # that are being read
        self._reading: set[asyncio.Task[None]] = set()

    def follow(self, replica: Replica) -> None:
        """Tell a modelhost what is in the repository, until its connection is gone; anew when it asks again."""
        before = self._followers.pop(replica, None)
        if before is not None:
            before.cancel()
        log.info("mirror follows", extra={"modelhost": replica.id})
        self._followers[replica] = self._loop.create_task(self._tell(replica))

    def forget(self, replica: Replica) -> None:
        """Its connection is gone."""
        task = self._followers.pop(replica, None)
        if task is not None:
            task.cancel()

    async def _tell(self, replica: Replica) -> None:
        seen = 0
        while True:
            if self._index.current() != seen and not replica.full:
                try:
                    seen = await self._tell_since(replica, seen)
                except OSError as error:
                    log.warning("mirror not told", extra={"modelhost": replica.id, "why": str(error)})
                    await asyncio.sleep(_UNREAD_S)
            await asyncio.sleep(_LOOK_S)

    async def _tell_since(self, replica: Replica, seen: int) -> int:
        """Tell what has changed since a generation, 0 for all there is; returns the generation told."""
        now = self._index.refresh()
        names = self._index.changed_since(seen, now) if seen else None
        body = await asyncio.to_thread(_told, self._index.models(), names)
        replica.send(Kind.INDEX, 0, int(names is None), b"", 0, 0, body)
        return now

    def fetch(self, replica: Replica, key: bytes, frame_id: int, offset: int, count: int) -> None:
        """Send a piece of a file, a moment later.

        Raises:
            FrameError: no sound modelhost asks for so much.
        """
        if count > MOST_BYTES or self._pieces[replica] >= MOST_PIECES:
            msg = f"{count} bytes asked for, with {self._pieces[replica]} pieces to come"
            raise FrameError(msg)
        self._pieces[replica] += 1
        self._start(self._send_piece(replica, key, frame_id, offset, count))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _send_piece(self, replica: Replica, key: bytes, frame_id: int, offset: int, count: int) -> None:
        try:
            data = await asyncio.to_thread(read_piece, self._index.root, key, offset, count)
            replica.send(Kind.REPLY, 0, 0, b"", frame_id, 0, data)
        except MLBuffetError as error:
            body = orjson.dumps({"code": error.code, "message": error.message})
            replica.send(Kind.ERROR, 0, 0, b"", frame_id, 0, body)
        finally:
            self._pieces -= Counter((replica,))


def _told(models: Mapping[str, ModelEntry], names: Collection[str] | None) -> bytes:
    """Models as they are now, None for those gone: these, whether or not they differ from before, or all. Pure."""
    entries = models if names is None else {name: models.get(name) for name in names}
    return orjson.dumps({name: entry and entry.to_json() for name, entry in entries.items()})


def read_piece(root: Path, key: bytes, offset: int, count: int) -> bytes:
    """Bytes of a version, by its channel key, or of a staged upload, by the name of its folder.

    Raises:
        NotFoundError: it is not there, or cannot be read.
    """
    try:
        fd = os.open(_file_of(root, key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        msg = f"its file cannot be read: {error.strerror}"
        raise NotFoundError(msg) from None
    try:
        return os.pread(fd, count, offset)
    finally:
        os.close(fd)


def _file_of(root: Path, key: bytes) -> Path:
    """Where the bytes are that a key stands for.

    Raises:
        NotFoundError: it stands for none.
    """
    name = key.decode("ascii", "replace")
    if is_staged(name):
        return staging_folder(root) / name / MODEL_FILE
    named = read_key(key)
    manifest = read_manifest(version_folder(root, *named)) if named and is_model_name(named[0]) else None
    if manifest is None or manifest.key != key:
        msg = "there is no such version"
        raise NotFoundError(msg)
    return model_file(root, manifest)
