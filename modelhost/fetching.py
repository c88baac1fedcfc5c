"""Makes sure that bytes with a digest are here: fetches them over the data channel, piece by piece.

A few pieces are on their way at once, so that a prediction on the same channel waits behind little. A transfer that is
cut goes on with another inferrer where it ended; bytes that turn out to be others are thrown away.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

from mlbuffet.errors import MLBuffetError, NotFoundError, NotLoadedError
from modelhost.cache import Cache, Part

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20  # smaller ones cost more: those who wait beside them wait longer
PIECES = 2  # on their way at once
_TOGETHER = 2  # files
_STALLED_S = 5.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)  # before each further attempt
_LOCKED_S = 0.1


class Source(Protocol):
    """An inferrer that bytes can be asked of."""

    def ask(self, key: bytes, offset: int, count: int) -> asyncio.Future[bytes]:
        """Ask for a piece of a file.

        The future may raise MLBuffetError, what the inferrer answers, or ConnectionError.
        """


class FetchError(Exception):
    """An attempt has failed; another one may not."""


class Fetcher:
    """Fills a cache, each file by one task at a time."""

    def __init__(self, cache: Cache, sources: Callable[[Source | None], Source | None]) -> None:
        """`sources` chooses an inferrer to ask, if it can another one than it is given."""
        self._cache = cache
        self._sources = sources
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turns = asyncio.Semaphore(_TOGETHER)

    async def fetch(self, key: bytes, digest: str, size_bytes: int) -> None:
        """Return when the bytes are in the cache; `key` is what inferrers know them by.

        Raises:
            NotLoadedError: they cannot be had now.
        """
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            if not self._cache.has(digest, size_bytes):
                async with self._turns:
                    await self._fetch(key, digest, size_bytes)

    async def _fetch(self, key: bytes, digest: str, size_bytes: int) -> None:
        began, source, why = asyncio.get_running_loop().time(), None, ""
        fields = {"key": key.decode(), "digest": digest, "bytes": size_bytes}
        for pause_s in (0, *_PAUSES_S):
            await asyncio.sleep(pause_s)
            try:
                source = self._sources(source)
                await self._attempt(source, key, digest, size_bytes)
            except NotFoundError as error:  # deleted meanwhile
                why = error.message
                break
            except (FetchError, MLBuffetError, OSError, TimeoutError) as error:
                why = _reason(error)
                log.warning("fetch failed", extra=fields | {"why": why})
            else:
                seconds = round(asyncio.get_running_loop().time() - began, 3)
                log.info("version fetched", extra=fields | {"seconds": seconds})
                return
        msg = f"this version is not here, and cannot be fetched: {why}"
        raise NotLoadedError(msg)

    async def _attempt(self, source: Source | None, key: bytes, digest: str, size_bytes: int) -> None:
        """Fetch what is missing.

        Raises:
            FetchError, MLBuffetError, OSError, TimeoutError: it was not to be.
        """
        if source is None:
            msg = "no inferrer is connected"
            raise FetchError(msg)
        part = await self._open(digest, size_bytes)
        if part is None:
            return
        try:
            await _transfer(source, key, part, size_bytes)
            if not await asyncio.to_thread(part.finish):
                msg = "the bytes received have another digest"
                raise FetchError(msg)
        finally:
            await asyncio.to_thread(part.close)

    async def _open(self, digest: str, size_bytes: int) -> Part | None:
        """The file on its way in; None when another process on this machine has brought it meanwhile."""
        while not self._cache.has(digest, size_bytes):
            try:
                return await asyncio.to_thread(Part, self._cache.path(digest), digest)
            except BlockingIOError:
                await asyncio.sleep(_LOCKED_S)
        return None


async def _transfer(source: Source, key: bytes, part: Part, size_bytes: int) -> None:
    """Ask for piece after piece until all are written."""
    asked = part.size_bytes
    coming: deque[tuple[asyncio.Future[bytes], int]] = deque()
    try:
        while part.size_bytes < size_bytes:
            while asked < size_bytes and len(coming) < PIECES:
                count = min(PIECE_BYTES, size_bytes - asked)
                coming.append((source.ask(key, asked, count), count))
                asked += count
            future, count = coming.popleft()
            async with asyncio.timeout(_STALLED_S):
                piece = await future
            if len(piece) != count:
                msg = f"a piece of {len(piece)} bytes where {count} were asked for"
                raise FetchError(msg)
            await asyncio.to_thread(part.write, piece)
    finally:
        for future, _ in coming:
            if not future.cancel() and not future.cancelled():
                future.exception()  # nobody else asks for it


def _reason(error: Exception) -> str:
    """Why an attempt failed, in words that name no path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
