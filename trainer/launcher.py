"""Which run is carried out when and where: in order of arrival, on the first engine with a free slot."""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

from mlbuffet.errors import RunNotFoundError
from trainer import runs
from trainer.attempt import Attempt, Surroundings, now
from trainer.runs import Phase, Reason, Run, State
from trainer.stations import Station, choose_station

log = logging.getLogger(__name__)

_LOOK_S = 0.5


class Launcher:
    """Begins runs, and those again that were under way when the trainer ended."""

    def __init__(self, around: Surroundings, stations: Sequence[Station]) -> None:
        self.stations = stations
        self._around = around
        self._store = around.store
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}

    def start(self) -> None:
        """Go on with what was under way, then begin what waits."""
        for run in self._store.all():
            if run.state is State.RUNNING:
                self._adopt(run)
        for station in self.stations:
            arguments = self._around.leaving, self._is_wanted, self._store.wake
            threading.Thread(target=station.watch, args=arguments, name=station.address, daemon=True).start()
        threading.Thread(target=self._dispatch, name="launcher", daemon=True).start()

    @property
    def reachable(self) -> bool:
        """Tell whether any engine answers."""
        return any(station.reachable for station in self.stations)

    def leave(self, timeout_s: float) -> None:
        """Begin nothing more, and let the threads take note; scripts go on."""
        self._around.leaving.set()
        ends_at = time.monotonic() + timeout_s
        for thread in list(self._threads.values()):
            thread.join(max(0.0, ends_at - time.monotonic()))

    def _is_wanted(self, run_id: str) -> bool:
        """Tell whether what an engine has of a run may be needed; two addresses may lead to one engine."""
        with contextlib.suppress(RunNotFoundError):
            return self._store.get(run_id).state is State.RUNNING
        return False

    def _adopt(self, run: Run) -> None:
        station = next((station for station in self.stations if station.address == run.engine), None)
        if station is None and run.phase is Phase.REGISTERING and self.stations:
            station = self.stations[0]  # of which nothing is wanted any more
        if station is None:
            message = "the engine that carried it out is no longer among the trainer's"
            self._store.put(runs.fail(run, Reason.INTERRUPTED, message, now()))
            return
        log.info("run found again", extra={"run": run.run_id, "phase": run.phase})
        self._begin(run.run_id, station, slot=run.phase is not Phase.REGISTERING)

    def _dispatch(self) -> None:
        """Give waiting runs to free engines (thread)."""
        while not self._around.leaving.is_set():
            if not self._dispatch_one():
                self._store.wait(_LOOK_S)

    def _dispatch_one(self) -> bool:
        with self._lock:
            station = choose_station(self.stations)
        if station is None:
            return False
        with self._store.changing():
            waiting = next((run for run in self._store.all() if run.state is State.SCHEDULED), None)
            if waiting is None:
                return False
            self._store.put(runs.begin(waiting, station.address, now()))
        self._begin(waiting.run_id, station, slot=True)
        return True

    def _begin(self, run_id: str, station: Station, *, slot: bool) -> None:
        if slot:
            with self._lock:
                station.taken.add(run_id)
        attempt = Attempt(run_id, station, self._around, lambda: self._free(run_id, station))
        thread = threading.Thread(target=self._carry_out, args=(run_id, attempt), name=run_id, daemon=True)
        self._threads[run_id] = thread
        thread.start()

    def _carry_out(self, run_id: str, attempt: Attempt) -> None:
        attempt.carry_out()
        self._store.prune(self._around.settings.keep_runs)
        if self._threads.get(run_id) is threading.current_thread():
            del self._threads[run_id]

    def _free(self, run_id: str, station: Station) -> None:
        with self._lock:
            station.taken.discard(run_id)
