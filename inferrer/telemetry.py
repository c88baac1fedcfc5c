"""What an inferrer process counts beside requests, for Prometheus: balancing, the cache, steps, uploads, its own state.

What happens on the event loop is counted as it happens, in memory that outlives the process; gauges are brought up to
date once a second.
"""

from prometheus_client import CollectorRegistry

from inferrer.dataplane import DataPlane
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.tally import Family, Histogram, Tally, TallyCollector
from mlbuffet.chassis.telemetry import STEP_S
from mlbuffet.chassis.vitals import FAMILIES, Vitals
from mlbuffet.index import Index

_EJECTIONS = Family("modelhost_ejections", "Modelhosts left out", ("reason",))
_RETRIES = Family("prediction_retries", "Predictions sent once more", ("code",))
_HITS = Family("prediction_cache_hits", "Answers given again", ("model",))
_MISSES = Family("prediction_cache_misses", "Answers not known", ("model",))
_CACHED = Family("prediction_cache_bytes", "Memory of known answers", gauge=True)
_STEPS = Family("prediction_step_duration_seconds", "Steps of one prediction in eight", ("step",), bounds=STEP_S)
_SENT = Family("channel_sent_bytes", "Bytes sent to modelhosts, without shared memory")
_RECEIVED = Family("channel_received_bytes", "Bytes received from modelhosts")
_UPLOADS = Family(
    "upload_duration_seconds",
    "Uploads by what came of them",
    ("outcome",),
    bounds=(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_UPLOADED = Family("upload_received_bytes", "Bytes of model files that were received whole")
_HOSTS = Family("modelhosts", "Modelhosts by state, as seen by whoever sees most", ("state",), gauge=True, merge=max)
_IN_FLIGHT = Family("predictions_in_flight", "Predictions that modelhosts have", gauge=True)
_HELD = Family("predictions_held_bytes", "Bodies of predictions in flight", gauge=True)
_CONNECTIONS = Family("http_connections", "Open connections of clients", gauge=True)
_HANDLED = Family("http_threads_requests", "Requests that threads have or that wait for one", gauge=True)
_MODELS = Family("models", "Models in the repository", gauge=True, merge=max)
_VERSIONS = Family("model_versions", "Versions of models in the repository", gauge=True, merge=max)
_FAMILIES = (
    _EJECTIONS, _RETRIES, _HITS, _MISSES, _CACHED, _STEPS, _SENT, _RECEIVED, _UPLOADS, _UPLOADED, _HOSTS, _IN_FLIGHT,
    _HELD, _CONNECTIONS, _HANDLED, _MODELS, _VERSIONS,
)  # fmt: skip

# So that a rate can be told from the first one on.
_RETRIED = ("EJECTED", "INTERNAL", "MODELHOST_LOST", "NOT_LOADED", "QUEUE_FULL")
_LEFT_OUT = ("silent", "faulty")
_OUTCOMES = {201: "created", 200: "unchanged"}
_FIRST_FAILURE = 500


class InferrerMetrics:
    """The metrics of one process."""

    def __init__(self, registry: CollectorRegistry, tally: Tally, dataplane: DataPlane, index: Index) -> None:
        registry.register(TallyCollector(tally, (*_FAMILIES, *FAMILIES), lambda model: model in index.models()))
        self._tally = tally
        self._dataplane = dataplane
        self._index = index
        self._vitals = Vitals(tally)
        self._uploads = Histogram(tally, _UPLOADS)
        self._traffic = (0, 0)
        self.steps = dataplane.replicas.steps = Histogram(tally, _STEPS)
        dataplane.retries = tally.counts(_RETRIES, *_RETRIED)
        dataplane.replicas.ejections = tally.counts(_EJECTIONS, *_LEFT_OUT)
        dataplane.cache.hits, dataplane.cache.misses = tally.counts(_HITS), tally.counts(_MISSES)

    def uploaded(self, status: int, seconds: float, size_bytes: int) -> None:
        """Count an upload by its answer."""
        outcome = _OUTCOMES.get(status) or ("failed" if status >= _FIRST_FAILURE else "refused")
        self._uploads.observe(seconds, outcome)
        self._tally.add(_UPLOADED, size_bytes)

    def measure(self, server: HttpServer | None) -> None:
        """Bring up to date what is not counted as it happens."""
        self._vitals.measure()
        tally, dataplane = self._tally, self._dataplane
        traffic, before = dataplane.replicas.traffic, self._traffic
        self._traffic = (traffic.sent_bytes, traffic.received_bytes)
        for family, now, then in zip((_SENT, _RECEIVED), self._traffic, before, strict=True):
            tally.add(family, now - then)
        for state, count in dataplane.replicas.by_state().items():
            tally.set(_HOSTS, count, state)
        connections = dataplane.replicas.connections()
        tally.set(_IN_FLIGHT, sum(replica.in_flight for replica in connections))
        tally.set(_HELD, sum(replica.held_bytes for replica in connections))
        tally.set(_CACHED, dataplane.cache.size_bytes)
        models = self._index.models()
        tally.set(_MODELS, len(models))
        tally.set(_VERSIONS, sum(len(entry.versions) for entry in models.values()))
        if server is not None:
            tally.set(_CONNECTIONS, len(server.connections))
            tally.set(_HANDLED, server.handled)
