"""What the trainer shows of runs and engines to Prometheus, read when it asks."""

from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer.runs import State
from trainer.stations import Station
from trainer.store import RunStore

_SOUND_RUNC = (1, 2, 8)


class TrainerMetrics(Collector):
    """Every run by its state, every engine by its address."""

    def __init__(self, store: RunStore, stations: Sequence[Station]) -> None:
        self._store = store
        self._stations = stations

    def collect(self) -> Iterable[Metric]:
        """What is now."""
        runs = GaugeMetricFamily("trainer_runs", "Runs that are kept, by state", labels=("state",))
        counts = Counter(run.state for run in self._store.all())
        for state in State:
            runs.add_metric((state.value,), counts[state])
        return (runs, *self._ended(), *self._engines())

    def _ended(self) -> Iterable[Metric]:
        ended = CounterMetricFamily("trainer_runs_ended", "Runs that have ended", labels=("state", "reason"))
        for (state, reason), count in list(self._store.tally.counts.items()):
            ended.add_metric((state, reason), count)
        seconds = CounterMetricFamily("trainer_run_seconds", "Time of runs that have ended", labels=("phase",))
        for phase, spent_s in list(self._store.tally.seconds.items()):
            seconds.add_metric((phase,), spent_s)
        return ended, seconds

    def _engines(self) -> Iterable[Metric]:
        reachable = GaugeMetricFamily("trainer_engine_reachable", "Whether an engine answers", labels=("engine",))
        slots = GaugeMetricFamily("trainer_engine_slots", "Runs that an engine takes at once", labels=("engine",))
        taken = GaugeMetricFamily("trainer_engine_slots_taken", "Runs that an engine has now", labels=("engine",))
        outdated = GaugeMetricFamily(
            "trainer_engine_runtime_outdated", "Whether runc is older than 1.2.8", labels=("engine", "runc")
        )
        for station in self._stations:
            labels = (station.address,)
            reachable.add_metric(labels, station.reachable)
            slots.add_metric(labels, station.slots)
            taken.add_metric(labels, len(station.taken))
            runc = station.versions.get("runc")
            if runc is not None:
                outdated.add_metric((*labels, runc), version_of(runc) < _SOUND_RUNC)
        return reachable, slots, taken, outdated


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version as `1.1.5+ds1`. Pure."""
    plain = text.partition("+")[0].partition("-")[0].partition("~")[0]
    return tuple(int(part) for part in plain.split(".") if part.isdecimal())
