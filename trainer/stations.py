"""The engines as the launcher sees them: whether each answers, and how many of its slots are free."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from trainer.engine import Engine, EngineUnreachableError, TrainingError

log = logging.getLogger(__name__)

_CHECK_S = 1.0
_SWEEP_CHECKS = 60


class Station:
    """One engine and its slots."""

    def __init__(self, engine: Engine, slots: int) -> None:
        self.engine = engine
        self.slots = slots
        self.taken: set[str] = set()  # the ids of the runs that have a slot; changed by the launcher alone
        self.versions: Mapping[str, str] = {}
        self.turn = threading.Lock()  # to make, start or remove containers: several at once would take all cores there
        self._back = threading.Event()

    @property
    def address(self) -> str:
        """The engine's address."""
        return self.engine.address

    @property
    def reachable(self) -> bool:
        """Tell whether it answered when it was asked last."""
        return self._back.is_set()

    @property
    def free(self) -> int:
        """How many runs it could take now."""
        return self.slots - len(self.taken) if self.reachable else 0

    def lost(self) -> None:
        """Somebody found that it does not answer."""
        if self._back.is_set():
            self._back.clear()
            log.warning("engine unreachable", extra={"engine": self.address})

    def wait(self, timeout_s: float) -> bool:
        """Wait until it answers, or for so long; tells which."""
        return self._back.wait(timeout_s)

    def watch(self, ended: threading.Event, is_wanted: Callable[[str], bool], on_back: Callable[[], object]) -> None:
        """Ask it for signs of life, and remove what is left there (thread)."""
        checks = 0
        while not ended.is_set():
            try:
                self.versions = self.engine.check()
                came_back = not self.reachable
                if came_back:
                    log.info("engine reachable", extra={"engine": self.address, "versions": dict(self.versions)})
                    self._back.set()
                    on_back()
                if came_back or checks % _SWEEP_CHECKS == 0:
                    self.engine.sweep(is_wanted)
                checks += 1
            except EngineUnreachableError as error:
                log.debug("engine does not answer", extra={"engine": self.address, "why": str(error)})
                self.lost()
            except TrainingError as error:
                log.warning("engine not swept", extra={"engine": self.address, "why": error.message})
            ended.wait(_CHECK_S)


def choose_station(stations: Sequence[Station]) -> Station | None:
    """The engine for the next run: the one with most slots free; None when none is. Pure."""
    free = [station for station in stations if station.free > 0]
    return max(free, key=lambda station: station.free, default=None)
