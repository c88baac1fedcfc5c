"""What is told of each request when it has ended here.

Its steps are counted. Where it failed, was slow or was called off there is one record of it, and where its trace is
recorded there are spans.
"""

import itertools
import logging
from typing import TYPE_CHECKING

from mlbuffet.chassis.context import SERVER, Span, Trace, log_fields, new_span_id, read_context
from mlbuffet.chassis.tally import Family, Histogram, Tally
from mlbuffet.chassis.telemetry import STEP_S
from mlbuffet.errors import MLBuffetError, NotLoadedError
from mlbuffet.manifest import Manifest
from modelhost.progress import NO_SPREADS, RAN, Spreads
from modelhost.waiting import Waiting

if TYPE_CHECKING:
    from mlbuffet.chassis.tracing import Tracer

log = logging.getLogger(__name__)

STEPS = Family("modelhost_step_duration_seconds", "Steps of predictions", ("step",), bounds=STEP_S)
_MEASURED = 7  # one request in eight is measured step by step


class Ends:
    """Of one modelhost."""

    def __init__(self, tracer: "Tracer | None", slow_s: float) -> None:
        self.steps = Histogram(Tally(), STEPS)  # as this process sees them
        self._tracer = tracer
        self.slow_ns = int(slow_s * 1e9) or 1 << 62
        self.quarantined = 0  # times that a version was
        self.ended: Spreads = NO_SPREADS  # of runners that are no more

    def close(self) -> None:
        """Send the spans that are left."""
        if self._tracer is not None:
            self._tracer.close()

    def runner_ended(self, spreads: Spreads) -> None:
        """Keep what a runner has counted."""
        self.ended = tuple(map(sum, zip(self.ended, spreads, strict=True)))

    def wanted(self, waiting: Waiting, number: int, now_ns: int) -> bool:
        """Tell whether more is to be told of a request that was answered than that it was."""
        return (
            not number & _MEASURED
            or now_ns - waiting.arrived_ns > self.slow_ns
            or (self._tracer is not None and b" " in waiting.context)
        )

    def answered(self, waiting: Waiting, manifest: Manifest, number: int, now_ns: int, ran: bytes) -> None:
        """Tell of a request that its runner has answered; `ran` is what the runner says of its run."""
        if len(ran) != RAN.size:
            return  # it failed before it ran
        began_ns, ended_ns = RAN.unpack(ran)
        times = (waiting.arrived_ns, waiting.given_ns, began_ns, ended_ns, now_ns)
        if any(later < earlier for earlier, later in itertools.pairwise(times)):
            return  # of a run before, or made up
        spans = dict(zip(("queue", "batch", "run", "encode"), itertools.pairwise(times), strict=True))
        if not number & _MEASURED:
            for step in ("queue", "batch"):
                self.steps.observe((spans[step][1] - spans[step][0]) / 1e9, step)
        if now_ns - waiting.arrived_ns > self.slow_ns:
            took = {f"{step}_s": _seconds(later - earlier) for step, (earlier, later) in spans.items()}
            log.info("slow request", extra=_fields(waiting, manifest, now_ns) | took)
        self._trace(waiting, manifest, now_ns, spans)

    def refused(self, waiting: Waiting, manifest: Manifest, error: MLBuffetError, now_ns: int) -> None:
        """Tell of a request that is answered with an error; one that goes on elsewhere has not ended."""
        if isinstance(error, NotLoadedError):
            return
        fields = _fields(waiting, manifest, now_ns) | {"code": error.code, "why": error.message}
        log.info("request failed", extra=fields)
        self._trace(waiting, manifest, now_ns, {}, code=error.code)

    def cancelled(self, waiting: Waiting, manifest: Manifest, now_ns: int) -> None:
        """Tell of a request that the inferrer does not wait for any more."""
        log.info("request called off", extra=_fields(waiting, manifest, now_ns))

    def _trace(
        self,
        waiting: Waiting,
        manifest: Manifest,
        now_ns: int,
        steps: dict[str, tuple[int, int]],
        code: str = "",
    ) -> None:
        tracer = self._tracer
        _, trace = read_context(waiting.context) if tracer is not None else ("", None)
        if tracer is None or trace is None or not trace.sampled:
            return
        own = Trace(trace.trace_id, new_span_id(), sampled=True)
        about: dict[str, str | int] = {
            "mlbuffet.model": manifest.model,
            "mlbuffet.version": manifest.version,
            "mlbuffet.code": code,
        }
        whole = Span(own, trace.span_id, waiting.arrived_ns, now_ns, SERVER)
        tracer.add("predict", whole, about, failed=bool(code))
        for step, (began_ns, ended_ns) in steps.items():
            tracer.add(step, Span(own.child(), own.span_id, began_ns, ended_ns), {})


def _fields(waiting: Waiting, manifest: Manifest, now_ns: int) -> dict[str, object]:
    about = {"model": manifest.model, "version": manifest.version, "seconds": _seconds(now_ns - waiting.arrived_ns)}
    return log_fields(waiting.context) | about


def _seconds(time_ns: int) -> float:
    return round(time_ns / 1e9, 6)
