"""What a modelhost shows of its versions to Prometheus, read when it asks."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelhost.inventory import Inventory

_VERSION = ("model", "version")


class VersionMetrics(Collector):
    """Every hosted version; one that has left has no series."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def collect(self) -> Iterable[Metric]:
        """Make the families anew."""
        memory = GaugeMetricFamily("modelhost_version_memory_bytes", "What unloading gives back", labels=_VERSION)
        waiting = GaugeMetricFamily("modelhost_version_requests", "Requests that wait or run", labels=_VERSION)
        ready = GaugeMetricFamily("modelhost_version_ready", "1 when loaded", labels=_VERSION)
        quarantined = GaugeMetricFamily("modelhost_version_quarantined", "1 when loading kills", labels=_VERSION)
        corrupt = GaugeMetricFamily("modelhost_version_corrupt", "1 when the file lost its digest", labels=_VERSION)
        predictions = CounterMetricFamily("modelhost_version_predictions", "Requests given to it", labels=_VERSION)
        batches = CounterMetricFamily("modelhost_version_batches", "Runs of the model", labels=_VERSION)
        runners = GaugeMetricFamily("modelhost_version_runners", "Runners that take requests", labels=_VERSION)
        steps = CounterMetricFamily("modelhost_version_step_seconds", "Time of requests", labels=(*_VERSION, "step"))
        restarts = CounterMetricFamily("modelhost_runner_restarts", "Runners replaced", labels=(*_VERSION, "reason"))
        refused = CounterMetricFamily("modelhost_version_refused", "Requests not run", labels=(*_VERSION, "code"))
        for version in list(self._inventory.hosted.values()):
            labels = (version.manifest.model, str(version.manifest.version))
            memory.add_metric(labels, version.memory_bytes)
            waiting.add_metric(labels, version.busy)
            ready.add_metric(labels, version.state == "READY")
            quarantined.add_metric(labels, version.state == "QUARANTINED")
            corrupt.add_metric(labels, version.error is not None and version.error.code == "MODEL_CORRUPT")
            predictions.add_metric(labels, version.requests.given)
            counts = version.counts
            batches.add_metric(labels, counts.batches)
            runners.add_metric(labels, version.runners)
            for step, spent_ns in (
                ("queue", version.requests.queued_ns),
                ("decode", counts.decode_ns),
                ("run", counts.run_ns),
                ("encode", counts.encode_ns),
            ):
                steps.add_metric((*labels, step), spent_ns / 1e9)
            for reason, count in list(version.statistics.restarts.items()):
                restarts.add_metric((*labels, reason), count)
            # One is there from the start, so that a rate can be told from the first one on.
            for code, count in ({"QUEUE_FULL": 0} | version.statistics.refusals).items():
                refused.add_metric((*labels, code), count)
        return (memory, waiting, ready, quarantined, corrupt, predictions, batches, runners, steps, restarts, refused)
