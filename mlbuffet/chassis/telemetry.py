"""Metrics: a registry handed in, labels only from route patterns and registered models, counts kept cheap.

A count on the hot path is one dictionary entry; once a second the sums move into prometheus-client's counters. With
several worker processes those lie in mapped files that outlive a worker, so that a counter never falls.
"""

import os
from collections import Counter as Counts
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


class RequestCounts:
    """Requests by route pattern, method, status and model, counted on one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("route", "method", "status", "model")
        self._requests = Counter("http_requests_total", "HTTP requests answered", names, registry=registry)
        self._by_model = Counter(
            "model_request_operations_total",
            "Prediction requests by model and status",
            ("model", "status"),
            registry=registry,
        )
        self._trainings = Counter(
            "model_training_operations_total",
            "Training requests by model and status",
            ("model", "status"),
            registry=registry,
        )
        self._pending: Counts[tuple[str, str, int, str]] = Counts()

    def count(self, route: str, method: str, status: int, model: str) -> None:
        """Count one answered request; `model` is a registered name or empty."""
        self._pending[route, method, status, model] += 1

    def flush(self) -> None:
        """Move what was counted into the counters."""
        pending, self._pending = self._pending, Counts()
        for (route, method, status, model), count in pending.items():
            self._requests.labels(route, method, str(status), model).inc(count)
            if model and route.endswith(("/prediction", "/infer", ":predict", "/ModelInfer")):
                self._by_model.labels(model, str(status)).inc(count)
            if route.startswith("/api/v1/train/"):
                self._trainings.labels(model, str(status)).inc(count)


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics of this service, over all its processes, in Prometheus' text format."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder and Path(folder).is_dir():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
