"""Which versions are hosted here: every default and every pinned one, others on first use, within a memory budget.

Follows the repository: what is no longer the default is unloaded when its requests have ended, what was deleted too.
Over the budget the least recently used leaves first.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from mlbuffet.errors import MLBuffetError, NotLoadedError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest, read_key
from modelhost.ends import Ends
from modelhost.hosting import HostedVersion
from modelhost.settings import ModelhostSettings
from modelhost.showing import describe
from modelhost.stores import UNKNOWN, Store
from modelhost.supervisor import Supervisor
from modelhost.tasks import RunnerTask

log = logging.getLogger(__name__)

_FOLLOW_S = 0.2
_SWEEP_S = 0.02
_WATCH_EVERY = 25  # sweeps
_RESTS_NS = 2_000_000_000  # a version that was not used for so long rests
_LINGER_S = 1.0  # an inferrer that resolved the old default a moment ago still finds it loaded
_START_S = 20.0
_RUNNER_BYTES = 12 << 20
_MEND_S = 3.0


class Inventory:
    """All hosted versions by their channel key."""

    def __init__(
        self,
        store: Store,
        supervisor: Supervisor,
        settings: ModelhostSettings,
        ends: Ends,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._settings = settings
        self.ends = ends
        self._changed = changed
        self.budget_bytes = settings.budget_bytes
        self._ceilings = settings.ceilings
        self._defaults: dict[str, bytes] = {}
        self._seen = UNKNOWN
        self._leaving: set[asyncio.Task[None]] = set()
        self.hosted: dict[bytes, HostedVersion] = {}
        self.ready = False

    def states(self) -> dict[str, list[object]]:
        """What the inferrers are told of each version."""
        return {key.decode(): describe(version) for key, version in self.hosted.items()}

    def find(self, key: bytes) -> HostedVersion:
        """The version that a request names, loaded on first use.

        Raises:
            NotLoadedError: these bytes are not in the repository, or an operator has unloaded them.
        """
        found = self.hosted.get(key)
        if found is not None and found.state != "UNLOADING":
            return found
        manifest = self._store.find(key)
        if manifest is None or manifest.unloaded:
            msg = "this version is not here"
            raise NotLoadedError(msg)
        return self.host(manifest)

    def host(self, manifest: Manifest) -> HostedVersion:
        """Begin to load a version unless it is here; one that had failed is tried anew."""
        present = self.hosted.get(manifest.key)
        if present is not None and present.state not in {"UNAVAILABLE", "QUARANTINED", "UNLOADING"}:
            return present
        self._make_room(manifest.size_bytes + _RUNNER_BYTES)
        path, settings = self._store.path(manifest), self._settings
        task = RunnerTask(manifest.model, manifest.version, str(path), manifest.digest, settings.model_bytes)
        version = HostedVersion(
            manifest,
            task,
            self._supervisor,
            self._ceilings,
            settings.queue,
            ends=self.ends,
            ensure=lambda: self._store.ensure(manifest),
            changed=self._changed,
            has_room=lambda more_bytes: self.used_bytes() + more_bytes <= self.budget_bytes,
        )
        self.hosted[manifest.key] = version
        return version

    def _make_room(self, needed_bytes: int) -> None:
        """Unload what was used least recently until the budget has room."""
        used = self.used_bytes()
        for key in eviction_order(self.hosted):
            if used + needed_bytes <= self.budget_bytes:
                return
            used -= self.hosted[key].memory_bytes
            self._unload(key, linger_s=0)

    def _unload(self, key: bytes, *, linger_s: float) -> None:
        version = self.hosted[key]

        async def leave() -> None:
            await asyncio.sleep(linger_s)
            if linger_s and self._defaults.get(version.manifest.model) == key:
                return  # rolled back meanwhile
            await version.unload()
            if self.hosted.get(key) is version:
                del self.hosted[key]
            self._changed()
            fields = {"model": version.manifest.model, "version": version.manifest.version}
            log.info("version unloaded", extra=fields)

        task = asyncio.get_running_loop().create_task(leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def follow(self) -> None:
        """Keep in step with the repository for ever; ready once all that is wanted has been tried."""
        while True:
            if self._store.current() not in {self._seen, UNKNOWN}:
                await self._catch_up()
            self._mend()
            await asyncio.sleep(_FOLLOW_S)

    def suspend(self) -> None:
        """It is not known now what the repository holds: not ready until all that is wanted has been tried anew."""
        self.ready, self._seen = False, UNKNOWN
        self._changed()

    def _mend(self) -> None:
        """Try versions anew that did not load, where that may help."""
        tried_before = time.monotonic() - _MEND_S
        for key, version in list(self.hosted.items()):
            failed = version.state == "UNAVAILABLE" and version.failed_at < tried_before
            if failed and version.error and self._store.find(key) and self._store.mend(version.manifest, version.error):
                self.host(version.manifest)

    async def _catch_up(self) -> None:
        self._seen = self._store.refresh()
        models = self._store.models()
        before, self._defaults = self._defaults, default_keys(models)
        for version in self.hosted.values():
            version.refresh(models.get(version.manifest.model))
        for key in gone(self.hosted, before, models, self._store.exists):
            self._unload(key, linger_s=0 if self.hosted[key].manifest.unloaded else _LINGER_S)
        # What left for want of room comes back when it is used, not with the next change of another model.
        await self._load_missing(
            manifest
            for manifest in wanted(models.values())
            if manifest.key not in self.hosted
            and (not self.ready or manifest.pinned or before.get(manifest.model) != manifest.key)
        )
        if not self.ready and self._seen != UNKNOWN:  # else it was suspended meanwhile
            self.ready = True
            self._changed()

    async def _load_missing(self, manifests: Iterable[Manifest]) -> None:
        """Load what there is room for, the rest is loaded on first use. Only the start waits for each, a while."""
        for manifest in manifests:
            if not self._has_room(manifest):
                return
            version = self.host(manifest)
            if self.ready:
                continue
            try:
                async with asyncio.timeout(_START_S):
                    await version.settled()
            except (MLBuffetError, TimeoutError) as error:
                log.warning("not loaded at start", extra={"model": manifest.model, "why": str(error)})

    def _has_room(self, manifest: Manifest) -> bool:
        return self.used_bytes() + manifest.size_bytes + _RUNNER_BYTES <= self.budget_bytes

    def used_bytes(self) -> int:
        """What all versions take; one that is still loading counts with what it is expected to take."""
        return sum(
            version.memory_bytes or version.manifest.size_bytes + _RUNNER_BYTES
            for version in self.hosted.values()
            if version.state not in {"UNAVAILABLE", "QUARANTINED"}
        )

    async def sweep(self) -> None:
        """Keep the deadlines, and watch the memory, for ever."""
        for turn in itertools.count(1):
            await asyncio.sleep(_SWEEP_S)
            now_ns = time.monotonic_ns()
            for number, version in enumerate(list(self.hosted.values()), turn):
                if version.busy or version.lines.watched(now_ns):
                    version.expire(now_ns)
                if version.lines.lifted(now_ns / 1e9):
                    self._changed()
                # Some at a time: it takes a while for each. One that rests does not grow.
                if number % _WATCH_EVERY == 0 and (version.busy or now_ns - version.used_at * 1e9 < _RESTS_NS):
                    version.watch_memory()


def default_keys(models: Mapping[str, ModelEntry]) -> dict[str, bytes]:
    """Each model's default version, unless an operator has unloaded it. Pure."""
    return {name: entry.manifest.key for name, entry in models.items() if not entry.manifest.unloaded}


def wanted(models: Iterable[ModelEntry]) -> list[Manifest]:
    """What is to be loaded without being asked for: pinned versions first, then defaults, the newest first. Pure.

    What an operator has unloaded is not.
    """
    manifests = [
        manifest
        for entry in models
        for manifest in entry.versions.values()
        if (manifest.pinned or manifest.version == entry.default) and not manifest.unloaded
    ]
    return sorted(manifests, key=lambda manifest: (manifest.pinned, manifest.created), reverse=True)


def gone(
    hosted: Mapping[bytes, HostedVersion],
    defaults_before: Mapping[str, bytes],
    models: Mapping[str, ModelEntry],
    exists: Callable[[Manifest], bool],
) -> list[bytes]:
    """Hosted versions to unload: deleted, unloaded by an operator, or superseded and not pinned.

    Superseded is what was the default before, and what lies between that and the default now: several may have followed
    each other before anybody looked.
    """
    keys = []
    for key, version in hosted.items():
        entry = models.get(version.manifest.model)
        is_default = entry is not None and entry.manifest.key == key
        pinned = (
            entry is not None
            and version.manifest.version in entry.versions
            and entry.versions[version.manifest.version].pinned
        )
        before = defaults_before.get(version.manifest.model)
        passed = entry is not None and _between(before, version.manifest.version, entry.default)
        superseded = (before == key or passed) and not is_default and not pinned
        if version.manifest.unloaded or superseded or (not is_default and not exists(version.manifest)):
            keys.append(key)
    return keys


def _between(before: bytes | None, version: int, default: int) -> bool:
    """Tell whether a version lies between the default before, by its key, if there was one, and the one now."""
    _, former = (read_key(before) if before is not None else None) or ("", 0)
    return min(former, default) < version < max(former, default)


def eviction_order(hosted: Mapping[bytes, HostedVersion]) -> list[bytes]:
    """Keys in the order in which they may leave: least recently used first; never pinned ones or those in use."""
    idle = [
        (version.used_at, key)
        for key, version in hosted.items()
        if not version.manifest.pinned and not version.busy and version.state == "READY"
    ]
    return [key for _, key in sorted(idle)]
