"""What a name in a request stands for, and which modelhosts could serve it now; remembered until either changes."""

from dataclasses import dataclass

from inferrer.ejection import by_share
from inferrer.replica import Replica
from inferrer.replicas import Replicas
from mlbuffet.chassis.web import JSON_TYPE, header_lines
from mlbuffet.index import Index
from mlbuffet.manifest import Manifest
from mlbuffet.names import parse_ref

_MOST = 10_000


@dataclass(slots=True)
class Target:
    """What a name stands for at one generation, and who could serve it at one epoch."""

    manifest: Manifest
    key: bytes
    reply_lines: bytes
    candidates: list[Replica]
    epoch: int


def reply_headers(manifest: Manifest) -> list[tuple[str, str]]:
    """What a prediction's answer says of itself."""
    return [("Content-Type", JSON_TYPE), ("X-Model-Version", str(manifest.version))]


class Targets:
    """All names that were asked for of late."""

    def __init__(self, index: Index, replicas: Replicas) -> None:
        self._index = index
        self._replicas = replicas
        self._known: dict[bytes, Target] = {}
        self._generation = -1

    def find(self, ref: bytes) -> Target:
        """What a name stands for now.

        Raises:
            ModelNotFoundError, VersionNotFoundError, InvalidNameError: there is no such version.
        """
        if self._index.current() != self._generation:
            self._known.clear()
            self._generation = self._index.refresh()
        target = self._known.get(ref)
        if target is None or target.epoch != self._replicas.epoch:
            target = self._resolve(ref)
            if len(self._known) < _MOST:
                self._known[ref] = target
        return target

    def forget(self) -> None:
        """Look into the repository again with the next request."""
        self._generation = -1

    def _resolve(self, ref: bytes) -> Target:
        manifest = self._index.manifest(parse_ref(ref.decode("utf-8", "replace")))
        candidates = by_share(self._candidates(manifest.key.decode()))
        return Target(manifest, manifest.key, header_lines(reply_headers(manifest)), candidates, self._replicas.epoch)

    def _candidates(self, key: str) -> list[Replica]:
        """Those that have the version loaded; else those that may load it; else any, to say why it does not load."""
        ready = self._replicas.ready()
        return (
            [replica for replica in ready if replica.has(key)]
            or [replica for replica in ready if key not in replica.versions]
            or ready
        )
