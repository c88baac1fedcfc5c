"""Metrics: a registry handed in, labels only from route patterns and registered models, counts kept cheap.

A request on the hot path costs one dictionary look-up and two additions in mapped memory (tally.py). From these same
numbers come the requests, how long they took by route, and predictions by model.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mlbuffet.chassis.tally import Family, Tally, TallyCollector, Values, added

WHOLE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STEP_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, *WHOLE_S)

_KEPT = Family("requests", "Kept, and shown as what follows", ("route", "method", "status", "model"), bounds=WHOLE_S)
_REQUESTS = Family("http_requests", "HTTP requests answered", _KEPT.labels)
_DURATION = Family("http_request_duration_seconds", "Whole path in this service", ("route",), bounds=WHOLE_S)
_PREDICTIONS = Family("model_request_operations", "Prediction requests by model and status", ("model", "status"))
_PREDICTION = Family("prediction_duration_seconds", "Whole path of predictions", ("model",), bounds=WHOLE_S)
_TRAININGS = Family("model_training_operations", "Training requests by model and status", ("model", "status"))
_TESTS = Family("test_request_operations", "Test requests by status", ("status",))
_FAILURES = Family("request_errors", "Requests that failed, by error code", ("code",))
_ENDS = ("/prediction", "/infer", ":predict", "/ModelInfer")
_TRAIN, _TEST_ROUTE = "/api/v1/train/", "/api/test/sendtomodelhost"
_SUM = len(WHOLE_S) + 1


class RequestCounts:
    """Requests by route pattern, method, status and model, and how long they took; counted on one thread."""

    def __init__(self, registry: CollectorRegistry, tally: Tally, is_model: Callable[[str], bool]) -> None:
        """`is_model` knows the registered models: what is no more is not shown."""
        registry.register(_RequestCollector(tally, is_model))
        registry.register(TallyCollector(tally, (_FAILURES,)))
        self.failures = tally.counts(_FAILURES)
        self._tally = tally
        self._known: dict[tuple[str, str, int, str], int] = {}

    def count(self, route: str, method: str, status: int, model: str, seconds: float) -> None:
        """Count one answered request; `model` is a registered name or empty."""
        first = self._known.get((route, method, status, model))
        if first is None:
            first = self._tally.cell(_KEPT, route, method, str(status), model)
            self._known[route, method, status, model] = first
        cells = self._tally.cells
        cells[first + bisect_left(WHOLE_S, seconds)] += 1
        cells[first + _SUM] += seconds


class _RequestCollector(Collector):
    """What was counted of requests, in the form of several families."""

    def __init__(self, tally: Tally, is_model: Callable[[str], bool]) -> None:
        self._tally = tally
        self._is_model = is_model

    def collect(self) -> Iterable[Metric]:
        """Make the families anew."""
        kept = {
            values: added(cells)
            for values, cells in self._tally.totals().get(_KEPT.name, {}).items()
            if not values[-1] or self._is_model(values[-1])
        }
        numbers = {values: [sum(cells[:-1])] for values, cells in kept.items()}
        predictions = [values for values in kept if values[3] and values[0].endswith(_ENDS)]
        return (
            _REQUESTS.metric(numbers),
            _DURATION.metric(_grouped(kept, kept, 0)),
            _PREDICTIONS.metric(_grouped(numbers, predictions, 3, 2)),
            _PREDICTION.metric(_grouped(kept, predictions, 3)),
            _TRAININGS.metric(_grouped(numbers, [values for values in kept if values[0].startswith(_TRAIN)], 3, 2)),
            _TESTS.metric(_grouped(numbers, [values for values in kept if values[0] == _TEST_ROUTE], 2)),
        )


def _grouped(
    series: Mapping[Values, Sequence[float]], wanted: Iterable[Values], *places: int
) -> dict[Values, list[float]]:
    """The series wanted, added up to those that have the same labels at these places."""
    groups: dict[Values, list[Sequence[float]]] = {}
    for values in wanted:
        groups.setdefault(tuple(values[place] for place in places), []).append(series[values])
    return {values: added(found) for values, found in groups.items()}


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics of this service in Prometheus' text format."""
    return generate_latest(registry)
