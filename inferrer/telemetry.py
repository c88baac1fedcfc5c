"""What balancing did, for Prometheus: the data plane counts, and once a second the sums move into the counters."""

import threading
from collections import Counter as Counts

from prometheus_client import CollectorRegistry, Counter

from inferrer.dataplane import DataPlane


class BalancingCounts:
    """Ejections and retries of this process, in counters that outlive it."""

    def __init__(self, registry: CollectorRegistry, dataplane: DataPlane) -> None:
        self._ejections = Counter("modelhost_ejections_total", "Modelhosts left out", ("reason",), registry=registry)
        self._retries = Counter("prediction_retries_total", "Predictions sent once more", ("code",), registry=registry)
        for reason in ("silent", "faulty"):  # so that a rate can be told from the first one on
            self._ejections.labels(reason)
        for code in ("EJECTED", "INTERNAL", "MODELHOST_LOST", "NOT_LOADED", "QUEUE_FULL"):
            self._retries.labels(code)
        self._dataplane = dataplane
        self._lock = threading.Lock()
        self._moved: tuple[Counts[str], Counts[str]] = (Counts(), Counts())

    def flush(self) -> None:
        """Move what was counted since the last time."""
        with self._lock:  # the loop's thread flushes, and so does whoever asks for the metrics
            self._flush()

    def _flush(self) -> None:
        now = (Counts(self._dataplane.replicas.ejections), Counts(self._dataplane.retries))
        for counter, counted, moved in zip((self._ejections, self._retries), now, self._moved, strict=True):
            for label, count in (counted - moved).items():
                counter.labels(label).inc(count)
        self._moved = now
