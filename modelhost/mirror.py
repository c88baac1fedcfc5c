"""A repository that is elsewhere: what is in it as one inferrer tells, and the bytes in a cache here.

A mirror follows one inferrer process at a time, whichever it likes, for all stand on the same repository. When that is
gone or silent it follows another, which begins with the whole of it: so what the mirror knows is never put together
from two tales, and a repository that was set back is followed as any other (docs/adr/0028-mirrors.md).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import orjson

from mlbuffet.errors import MLBuffetError, ModelCorruptError, NotLoadedError, UnprocessableError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from modelhost.cache import Cache
from modelhost.fetching import Fetcher, Source
from modelhost.stores import UNKNOWN

log = logging.getLogger(__name__)

_SILENT_S = 2.0
_WATCH_S = 0.5
_SWEEP_EVERY = 60  # looks


class Inferrer(Source, Protocol):
    """An inferrer that can be followed."""

    heard_at: float

    def follow(self) -> None:
        """Ask to be told what is in the repository."""


class Mirror:
    """A store whose repository is not here. Lives on the event loop."""

    def __init__(self, folder: Path) -> None:
        self._cache = Cache(folder)
        self._fetcher = Fetcher(self._cache, self._choose)
        self.on_alone: Callable[[], None] = lambda: None  # the last inferrer has gone: it is not known what there is
        self._inferrers: list[Inferrer] = []
        self._followed: Inferrer | None = None
        self._told: asyncio.Queue[tuple[Inferrer, bool, bytes]] = asyncio.Queue()
        self._models: Mapping[str, ModelEntry] = {}
        self._generation = 0
        self._known = False

    # The store ------------------------------------------------------------------------------------------------------

    def current(self) -> int:
        """Count what was told."""
        return self._generation if self._known else UNKNOWN

    def refresh(self) -> int:
        """Nothing is to be read."""
        return self.current()

    def models(self) -> Mapping[str, ModelEntry]:
        """What was told last."""
        return self._models

    def find(self, key: bytes) -> Manifest | None:
        """Look it up."""
        entry = self._models.get(key.partition(b":")[0].decode("ascii", "replace"))
        versions = entry.versions.values() if entry is not None else ()
        return next((manifest for manifest in versions if manifest.key == key), None)

    def exists(self, manifest: Manifest) -> bool:
        """Tell whether it was told of, or is being uploaded."""
        return self.find(manifest.key) is not None or self._cache.keeps(manifest.digest)

    def path(self, manifest: Manifest) -> Path:
        """Its file in the cache."""
        return self._cache.path(manifest.digest)

    async def ensure(self, manifest: Manifest) -> None:
        """Fetch it unless it is here."""
        self._cache.keep(manifest.digest)
        await self._fetcher.fetch(manifest.key, manifest.digest, manifest.size_bytes)

    async def staged(self, token: str, digest: str, size_bytes: int) -> Path:
        """Fetch it; the version that it becomes has the same bytes and need not be fetched again."""
        self._cache.keep(digest)
        await self._fetcher.fetch(token.encode(), digest, size_bytes)
        return self._cache.path(digest)

    def mend(self, manifest: Manifest, error: MLBuffetError) -> bool:
        """Fetch again what has spoilt here, and go on trying for what could not be had."""
        if isinstance(error, ModelCorruptError):
            self._cache.drop(manifest.digest)
        return isinstance(error, ModelCorruptError | NotLoadedError)

    # Inferrers ------------------------------------------------------------------------------------------------------

    def joined(self, inferrer: Inferrer) -> None:
        """An inferrer has connected."""
        self._inferrers.append(inferrer)
        if self._followed is None:
            self._follow(inferrer)

    def left(self, inferrer: Inferrer) -> None:
        """Its connection is gone."""
        self._inferrers.remove(inferrer)
        if inferrer is self._followed:
            self._followed = None
            if self._inferrers:
                self._follow(max(self._inferrers, key=lambda item: item.heard_at))
        if not self._inferrers:
            self._known = False
            self.on_alone()

    def _follow(self, inferrer: Inferrer) -> None:
        self._followed = inferrer
        inferrer.follow()

    def told(self, inferrer: Inferrer, body: bytes, *, whole: bool) -> None:
        """An inferrer says what is in the repository: all of it, or what has changed."""
        self._told.put_nowait((inferrer, whole, body))

    async def listen(self) -> None:
        """Take in what is told, in its order, for ever."""
        while True:
            inferrer, whole, body = await self._told.get()
            if inferrer is not self._followed:
                continue
            try:
                models = await asyncio.to_thread(_updated, {} if whole else self._models, body)
            except (ValueError, KeyError, TypeError, AttributeError, UnprocessableError) as error:
                log.error("repository not followed", extra={"why": str(error)})  # noqa: TRY400 - of another's making
                continue
            if inferrer is self._followed:
                digests = await asyncio.to_thread(_digests, models)
                self._models, self._known = models, True
                self._generation += 1
                self._cache.follow(digests)

    async def watch(self) -> None:
        """Follow another inferrer when the one followed is silent; look after the cache; for ever."""
        turn = 0
        while True:
            if turn % _SWEEP_EVERY == 0 and self._known:
                self._cache.sweep()
            turn += self._known
            await asyncio.sleep(_WATCH_S)
            now = asyncio.get_running_loop().time()
            heard = [item for item in self._inferrers if now - item.heard_at < _SILENT_S]
            if self._followed is not None and heard and self._followed not in heard:
                log.warning("inferrer not followed any more", extra={"why": f"silent for {_SILENT_S:g} s"})
                self._follow(random.choice(heard))  # noqa: S311 - chance, not secrecy

    def _choose(self, last: Source | None) -> Source | None:
        """An inferrer to fetch from: another one than the last, if there is one."""
        now = asyncio.get_running_loop().time()
        heard = [item for item in self._inferrers if now - item.heard_at < _SILENT_S] or self._inferrers
        others = [item for item in heard if item is not last] or heard
        return random.choice(others) if others else None  # noqa: S311


def _updated(models: Mapping[str, ModelEntry], body: bytes) -> Mapping[str, ModelEntry]:
    """Models after what was told. Pure.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, UnprocessableError: that cannot be understood.
    """
    told = orjson.loads(body)
    entries = {name: ModelEntry.from_json(name, data) for name, data in told.items() if data is not None}
    kept = {name: entry for name, entry in models.items() if name not in told}
    return kept | entries


def _digests(models: Mapping[str, ModelEntry]) -> frozenset[str]:
    """Of every version."""
    return frozenset(manifest.digest for entry in models.values() for manifest in entry.versions.values())
