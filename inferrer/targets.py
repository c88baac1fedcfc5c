"""What a name in a request stands for, and which modelhosts could serve it now; remembered until either changes."""

from dataclasses import dataclass, replace

from inferrer.ejection import by_share
from inferrer.replica import Replica
from inferrer.replicas import Replicas
from inferrer.terms import HEADER_LENGTH_HEADER
from mlbuffet.chassis.web import JSON_TYPE, header_lines
from mlbuffet.errors import ModelUnloadedError
from mlbuffet.index import Index
from mlbuffet.manifest import Manifest
from mlbuffet.names import parse_ref

_MOST = 10_000


@dataclass(slots=True)
class Target:
    """What a name stands for at one generation, and who could serve it at one epoch."""

    manifest: Manifest
    key: bytes
    answer_lines: bytes  # of an answer that is JSON
    candidates: list[Replica]
    epoch: int
    together: int  # requests that it pays to send where others go; 0 for none
    cached: bool = False  # whether an exact repetition is answered without running
    hit: bool = False  # in an answer that was

    def repeated(self) -> "Target":
        """The same, in an answer that was given before."""
        return replace(self, hit=True)


def answer_headers(manifest: Manifest, split: int = 0, *, hit: bool = False) -> list[tuple[str, str]]:
    """What a prediction's answer says of itself; `split` is how much of it is JSON where tensors follow."""
    own = [("X-Model-Version", str(manifest.version)), *([("X-Cache", "HIT")] if hit else [])]
    if split:
        return [("Content-Type", "application/octet-stream"), (HEADER_LENGTH_HEADER, str(split)), *own]
    return [("Content-Type", JSON_TYPE), *own]


def answer_lines(target: Target, split: int) -> bytes:
    """The same as the HTTP server writes them."""
    if split or target.hit:
        return header_lines(answer_headers(target.manifest, split, hit=target.hit))
    return target.answer_lines


class Targets:
    """All names that were asked for of late."""

    def __init__(self, index: Index, replicas: Replicas) -> None:
        self._index = index
        self._current = index.current
        self._replicas = replicas
        self._known: dict[bytes, Target] = {}
        self._generation = -1

    def find(self, ref: bytes) -> Target:
        """What a name stands for now.

        Raises:
            ModelNotFoundError, VersionNotFoundError, InvalidNameError: there is no such version.
            ModelUnloadedError: an operator has unloaded it.
        """
        if self._current() != self._generation:
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
        if manifest.unloaded:
            msg = f"version {manifest.version} of {manifest.model} was unloaded; load it to have it answer again"
            raise ModelUnloadedError(msg)
        key = manifest.key.decode()
        candidates = self._candidates(key)
        together = min((replica.together(key) for replica in candidates), default=0)
        return Target(
            manifest=manifest,
            key=manifest.key,
            answer_lines=header_lines(answer_headers(manifest)),
            candidates=by_share(candidates),
            epoch=self._replicas.epoch,
            together=together,
            cached=manifest.serving.cache and manifest.deterministic is True,
        )

    def _candidates(self, key: str) -> list[Replica]:
        """Those that have the version loaded; else those that may load it; else any, to say why it does not load."""
        ready = self._replicas.ready()
        return (
            [replica for replica in ready if replica.has(key)]
            or [replica for replica in ready if key not in replica.versions]
            or ready
        )
