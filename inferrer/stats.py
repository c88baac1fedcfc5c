"""How often versions ran and how long that took, summed over the modelhosts, in the words of Triton's statistics."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from inferrer.dataplane import DataPlane
from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import Manifest
from mlbuffet.names import ModelRef

log = logging.getLogger(__name__)

_ASK_S = 5.0
_COUNTS = ("inference_count", "execution_count")
_DURATIONS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"
)  # fmt: skip

Told = Mapping[str, Any]  # what one modelhost says of one version
Key = tuple[str, int]


def model_statistics(manifests: Iterable[Manifest], told: Iterable[Told]) -> list[dict[str, object]]:
    """A row for each version, of what any number of modelhosts told of it. Pure."""
    by_key: dict[Key, list[Told]] = {}
    for item in told:
        by_key.setdefault((item["model"], item["version"]), []).append(item)
    return [_row(manifest, by_key.get((manifest.model, manifest.version), [])) for manifest in manifests]


def _row(manifest: Manifest, told: list[Told]) -> dict[str, object]:
    durations = {name: _sum(("count", "ns"), (item[name] for item in told if name in item)) for name in _DURATIONS}
    return {
        "name": manifest.model,
        "version": str(manifest.version),
        "last_inference": max((item["last_inference_ms"] for item in told), default=0),
        **_sum(_COUNTS, told),
        "inference_stats": durations,
        "batch_stats": [],
    }


def _sum(names: Iterable[str], items: Iterable[Told]) -> dict[str, int]:
    total: Counter[str] = Counter(dict.fromkeys(names, 0))
    for item in items:
        for name in total:
            total[name] += item[name]
    return dict(total)


def ask_statistics(dataplane: DataPlane, ref: ModelRef | None) -> list[Told]:
    """What every ready modelhost tells of a model's versions, or None of all; who does not answer is left out.

    Raises:
        UnavailableError: no modelhost is ready.
    """
    arguments = {} if ref is None else {"model": ref.name, "version": ref.version}
    asked = [dataplane.call(host, "stats", _ASK_S, **arguments) for host in dataplane.ready_replicas()]
    return [version for future in asked for version in _told(future)]


def _told(future: Future[dict[str, Any]]) -> list[Told]:
    try:
        told: list[Told] = future.result()["versions"]
    except MLBuffetError as error:
        log.warning("no statistics", extra={"code": error.code, "why": error.message})
        return []
    return told
