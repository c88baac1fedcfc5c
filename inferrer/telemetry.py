"""What balancing and the cache did, for Prometheus: counted as it happens, and once a second moved into counters."""

import threading
from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter, Gauge

from inferrer.dataplane import DataPlane


class BalancingCounts:
    """Ejections, retries, hits and misses of this process, in counters that outlive it."""

    def __init__(self, registry: CollectorRegistry, dataplane: DataPlane) -> None:
        self._ejections = Counter("modelhost_ejections_total", "Modelhosts left out", ("reason",), registry=registry)
        self._retries = Counter("prediction_retries_total", "Predictions sent once more", ("code",), registry=registry)
        for reason in ("silent", "faulty"):  # so that a rate can be told from the first one on
            self._ejections.labels(reason)
        for code in ("EJECTED", "INTERNAL", "MODELHOST_LOST", "NOT_LOADED", "QUEUE_FULL"):
            self._retries.labels(code)
        self._hits = Counter("prediction_cache_hits_total", "Answers given again", ("model",), registry=registry)
        self._misses = Counter("prediction_cache_misses_total", "Answers not known", ("model",), registry=registry)
        self._cached = Gauge(
            "prediction_cache_bytes", "Memory of known answers", registry=registry, multiprocess_mode="livesum"
        )
        self._dataplane = dataplane
        self._lock = threading.Lock()
        self._moved: tuple[Counts[str], ...] = (Counts(),) * 4

    def flush(self) -> None:
        """Move what was counted since the last time."""
        with self._lock:  # the loop's thread flushes, and so does whoever asks for the metrics
            self._flush()

    def _flush(self) -> None:
        dataplane, cache = self._dataplane, self._dataplane.cache
        self._cached.set(cache.size_bytes)
        now = tuple(map(Counts, (dataplane.replicas.ejections, dataplane.retries, cache.hits, cache.misses)))
        counters = (self._ejections, self._retries, self._hits, self._misses)
        for counter, counted, moved in zip(counters, now, self._moved, strict=True):
            for label, count in (counted - moved).items():
                counter.labels(label).inc(count)
        self._moved = now
