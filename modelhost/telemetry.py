"""What a modelhost shows of itself and its versions to Prometheus, read when it asks."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlbuffet.chassis.tally import Family, Values
from modelhost.ends import STEPS
from modelhost.inventory import Inventory
from modelhost.progress import ROWS, SPREADS
from modelhost.server import ChannelServer
from modelhost.showing import predictions

_PATIENCE_S = 5.0
_VERSION = ("model", "version")
STATES = ("LOADING", "READY", "UNLOADING", "UNAVAILABLE", "QUARANTINED")
_ROWS = Family("modelhost_batch_rows", "Rows that ran together", bounds=ROWS)


class _OnLoop(Collector):
    """Reads on the event loop, between two turns, so that a runner that ends meanwhile is counted once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        """Make the families anew; in any other thread."""
        return asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_PATIENCE_S)

    async def _read(self) -> list[Metric]:
        return list(self.families())

    def families(self) -> Iterable[Metric]:
        """What there is now."""
        raise NotImplementedError


class VersionMetrics(_OnLoop):
    """Every hosted version; one that has left has no series."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self._inventory = inventory

    def families(self) -> Iterable[Metric]:
        """Of each version."""
        memory = GaugeMetricFamily("modelhost_version_memory_bytes", "What unloading gives back", labels=_VERSION)
        waiting = GaugeMetricFamily("modelhost_version_requests", "Requests that wait or run", labels=_VERSION)
        ready = GaugeMetricFamily("modelhost_version_ready", "1 when loaded", labels=_VERSION)
        quarantined = GaugeMetricFamily("modelhost_version_quarantined", "1 when loading kills", labels=_VERSION)
        corrupt = GaugeMetricFamily("modelhost_version_corrupt", "1 when the file lost its digest", labels=_VERSION)
        given = CounterMetricFamily("modelhost_version_predictions", "Requests given to it", labels=_VERSION)
        batches = CounterMetricFamily("modelhost_version_batches", "Runs of the model", labels=_VERSION)
        runners = GaugeMetricFamily("modelhost_version_runners", "Runners that take requests", labels=_VERSION)
        steps = CounterMetricFamily("modelhost_version_step_seconds", "Time of requests", labels=(*_VERSION, "step"))
        restarts = CounterMetricFamily("modelhost_runner_restarts", "Runners replaced", labels=(*_VERSION, "reason"))
        each = GaugeMetricFamily("modelhost_runner_memory_bytes", "Memory of a runner", labels=(*_VERSION, "runner"))
        refused = CounterMetricFamily("modelhost_version_refused", "Requests not run", labels=(*_VERSION, "code"))
        for version in list(self._inventory.hosted.values()):
            labels = (version.manifest.model, str(version.manifest.version))
            memory.add_metric(labels, version.memory_bytes)
            waiting.add_metric(labels, version.requests_here)
            ready.add_metric(labels, version.state == "READY")
            quarantined.add_metric(labels, version.state == "QUARANTINED")
            corrupt.add_metric(labels, version.error is not None and version.error.code == "MODEL_CORRUPT")
            counts = version.counts
            given.add_metric(labels, predictions(version))
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
            for number, runner in enumerate(version.living, start=1):
                each.add_metric((*labels, str(number)), runner.memory_bytes)
        versions = (memory, waiting, ready, quarantined, corrupt, given, batches, runners, each)
        return (*versions, steps, restarts, refused)


class HostMetrics(_OnLoop):
    """The modelhost itself; what runners have counted stays when they and their version have left."""

    def __init__(self, server: ChannelServer) -> None:
        super().__init__()
        self._server = server

    def families(self) -> Iterator[Metric]:
        """Of the whole."""
        server, inventory = self._server, self._server.inventory
        yield _gauge("modelhost_ready", "1 when predictions can be answered", inventory.ready)
        yield _gauge("modelhost_inferrers", "Inferrer processes that are connected", len(server.links))
        yield _gauge("modelhost_memory_budget_bytes", "Memory that loaded models may take", inventory.budget_bytes)
        yield _gauge("modelhost_memory_used_bytes", "Memory that loaded models take", inventory.used_bytes())
        states = GaugeMetricFamily("modelhost_versions", "Versions by state", labels=("state",))
        hosted = [version.state for version in list(inventory.hosted.values())]
        for state in STATES:
            states.add_metric((state,), hosted.count(state))
        yield states
        yield _counter("modelhost_quarantines", "Times that a version was quarantined", inventory.ends.quarantined)
        traffic = server.traffic
        yield _counter("channel_sent_bytes", "Bytes sent to inferrers, without shared memory", traffic.sent_bytes)
        yield _counter("channel_received_bytes", "Bytes received from inferrers", traffic.received_bytes)
        yield from self._distributions()

    def _distributions(self) -> Iterator[Metric]:
        """Steps of predictions, and how many rows ran together: of all runners, present and past."""
        inventory = self._server.inventory
        versions = list(inventory.hosted.values())
        living = (runner.spreads for version in versions for runner in version.living)
        cells = iter(list(map(sum, zip(inventory.ends.ended, *living, strict=True))))
        found = {name: tuple(itertools.islice(cells, len(bounds) + 2)) for name, bounds in SPREADS.items()}
        yield _ROWS.metric({(): found.pop("rows")})
        series: dict[Values, list[float]] = {
            (step,): [*counts, total / 1e9] for step, (*counts, total) in found.items()
        }
        yield STEPS.metric(series | inventory.ends.steps.series())


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=value)
