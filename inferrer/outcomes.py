"""What is told of each request when it has ended, by whichever way it came.

It is counted always; where it is to be, it is recorded in the log and as a span.
"""

import logging
import sys

from mlbuffet.chassis.context import Asked, Contexts
from mlbuffet.chassis.tally import Histogram
from mlbuffet.chassis.telemetry import RequestCounts

log = logging.getLogger(__name__)


class Outcomes:
    """Of one inferrer process."""

    def __init__(
        self, counts: RequestCounts, contexts: Contexts, steps: Histogram, *, slow_s: float, access_log: bool
    ) -> None:
        self.counts = counts
        self.contexts = contexts
        self.steps = steps
        self.recorded_s = -1.0 if access_log else slow_s or sys.float_info.max
        self._slow_s = slow_s

    def record(self, route: str, status: int, seconds: float, **more: object) -> None:
        """Write the one record of a request that was answered well, and took more than `recorded_s`."""
        event = "slow request" if seconds > self._slow_s else "request"
        log.info(event, extra={"route": route, "status": status, "seconds": round(seconds, 6)} | more)

    def end(self, asked: Asked, route: str, began_at: float, status: int, model: str) -> None:
        """Record the span of a request."""
        self.contexts.end(asked, route, began_at, status, **{"http.route": route, "mlbuffet.model": model})
