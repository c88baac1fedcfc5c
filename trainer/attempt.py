"""One run, carried out on one engine, in a thread of its own: prepare, train, register.

What is done next is always written down before: so a trainer that was killed goes on where its file says. An engine
that does not answer is waited for; what it did meanwhile shows when it is back.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from trainer import runs
from trainer.engine import CancelledError, EngineUnreachableError, Seen, TrainingError, Usage
from trainer.output import Output, tail_of
from trainer.registry import Registry, RegistryUnavailableError
from trainer.runs import Phase, Reason, Resources, Run
from trainer.settings import TrainerSettings
from trainer.stations import Station
from trainer.store import RunStore, write_file
from trainer.verdict import verdict

log = logging.getLogger(__name__)

_POLL_S = 0.2
_USAGE_S = 0.5
_KEEP_S = 5.0
_DRAIN_S = 10.0
_PAUSE_S = 2.0
_START_TAKES_S = 2.0  # at most, in a healthy engine: the script has had its time whenever it was counted from


class LeavingError(Exception):
    """The trainer ends; the run goes on without it, and is found again."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all attempts share."""

    settings: TrainerSettings
    store: RunStore
    registry: Registry
    leaving: threading.Event


def now() -> str:
    """The present time as it stands in a run."""
    return runs.timestamp(datetime.now(UTC))


class Attempt:
    """Carries out a run that is RUNNING, from the phase that it is in."""

    def __init__(self, run_id: str, station: Station, around: Surroundings, free_slot: Callable[[], object]) -> None:
        self._run_id = run_id
        self._station = station
        self._engine = station.engine
        self._around = around
        self._store = around.store
        self._free_slot = free_slot
        self._folder = around.store.folder(run_id)
        self._output = Output(self._folder.log, self._folder.metrics, around.settings.log_bytes)
        known = self._run.resources
        self._most = Usage(known.max_memory_bytes, known.cpu_s)
        self._reading = threading.Lock()
        self._reader: object = None  # who reads the script's output now

    def carry_out(self) -> None:
        """Go through to the end, whatever it is (thread)."""
        try:
            self._go()
        except LeavingError:
            log.info("run left", extra={"run": self._run_id})
        except TrainingError as error:
            reason, message = error.reason, error.message
            self._end(lambda run: runs.fail(run, reason, message, now()))
        except CancelledError:
            self._end(lambda run: runs.kill(run, now()))
        except OSError as error:
            log.warning("run not kept", extra={"run": self._run_id, "why": str(error)})
            message = f"the trainer could not keep what belongs to the run: {error.strerror}"
            self._end(lambda run: runs.fail(run, Reason.STORAGE_FULL, message, now()))
        except Exception:
            log.exception("attempt failed", extra={"run": self._run_id})
            message = "the trainer failed; its log has the details"
            self._end(lambda run: runs.fail(run, Reason.ENGINE_FAILED, message, now()))
        finally:
            self._output.close()
            self._free_slot()

    def _go(self) -> None:
        if self._run.phase is Phase.PREPARING:
            self._insist(self._prepare)
        if self._run.phase is Phase.TRAINING:
            self._insist(self._train)
        if self._run.phase is Phase.REGISTERING:
            self._clean()
            self._free_slot()
            self._register()

    # What each step stands on ---------------------------------------------------------------------------------------

    @property
    def _run(self) -> Run:
        return self._store.get(self._run_id)

    def _move(self, change: Callable[[Run], Run]) -> Run:
        """Change the run and write it down, unless it was cancelled: that comes first.

        Raises:
            CancelledError: it was.
        """
        with self._store.changing():
            run = self._run
            if run.cancelled:
                raise CancelledError
            return self._store.put(change(run))

    def _end(self, change: Callable[[Run], Run]) -> None:
        """Write down how it ended, as soon as that can be written, and take away what is left."""
        while True:
            try:
                ended = self._ended(change)
            except OSError as error:
                log.warning("run not written", extra={"run": self._run_id, "why": str(error)})
                if self._around.leaving.wait(_PAUSE_S):
                    return
            else:
                break
        log.info("run ended", extra={"run": self._run_id, "state": ended.state, "reason": ended.reason})
        self._folder.model.unlink(missing_ok=True)
        self._clean()

    def _ended(self, change: Callable[[Run], Run]) -> Run:
        with self._store.changing():
            run = self._run
            ended = runs.kill(run, now()) if run.cancelled else change(run)
            return self._store.put(replace(ended, resources=self._resources()))

    def _clean(self) -> None:
        """Remove the run's containers; what cannot be removed now is swept up when the engine is back."""
        try:
            with self._station.turn:
                self._engine.clean(self._run_id)
        except (EngineUnreachableError, TrainingError) as error:
            log.warning("run not cleaned up", extra={"run": self._run_id, "why": str(error)})

    def _wanted(self) -> bool:
        """Tell whether to go on.

        Raises:
            LeavingError: not in this process.
        """
        if self._around.leaving.is_set():
            raise LeavingError
        return not self._run.cancelled

    def _insist(self, step: Callable[[], None]) -> None:
        """Do a step, and again whenever the engine did not answer and is back."""
        while True:
            try:
                step()
            except EngineUnreachableError as error:
                log.warning("engine lost in a run", extra={"run": self._run_id, "why": str(error)})
                self._station.lost()
                while not self._station.wait(_POLL_S):
                    if not self._wanted():
                        raise CancelledError from error
            else:
                return

    def _resources(self) -> Resources:
        return Resources(self._most.memory_bytes, round(self._most.cpu_s, 3), self._output.size, self._output.truncated)

    # The three phases -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Have requirements, inputs and container ready, and write down that the script is about to start."""
        self._output.say(f"preparing on {self._station.address}, attempt {self._run.attempts}")
        prepared = self._engine.prepare(self._run, self._folder, self._output.take, self._wanted)
        if not self._wanted():
            raise CancelledError
        changes = prepared.image, prepared.image_digest, prepared.environment
        with self._station.turn:
            self._engine.place(runs.train(self._run, *changes, now()), self._folder)
        self._output.say("the script starts")
        self._move(lambda run: replace(runs.train(run, *changes, now()), log_start=self._output.size))

    def _train(self) -> None:
        """Start the script, or find it running, and see it to its end."""
        run = self._run
        with self._station.turn:
            started = self._engine.start(run)
        left_s = run.wish.limits.timeout_s if started else _left_s(run)
        reader = threading.Thread(target=self._read, args=(run,), name=f"log {run.run_id}", daemon=True)
        reader.start()
        seen, late = self._watch(run, left_s)
        reader.join(_DRAIN_S)
        if self._run.cancelled:
            raise CancelledError
        if seen.lost:
            raise TrainingError(Reason.INTERRUPTED, "the engine was stopped while the script ran")
        self._store.put(replace(self._run, exit_code=seen.exit_code))
        if late or seen.ran_s >= run.wish.limits.timeout_s:
            msg = f"the script ran longer than its {run.wish.limits.timeout_s:.0f} s"
            raise TrainingError(Reason.TIMED_OUT, msg)
        if seen.exit_code != 0:
            pids = self._around.settings.pids
            raise TrainingError(*verdict(seen, run.wish.limits, self._most, pids, tail_of(self._folder.log)))
        self._output.keep(self._engine.take(run, self._folder))
        with self._folder.model.open("rb+") as file:
            write_file(file)
        self._move(lambda run: replace(runs.register(run), resources=self._resources()))

    def _watch(self, run: Run, left_s: float) -> tuple[Seen, bool]:
        """Wait for the script's end; tells whether its time was over."""
        ends_at = time.monotonic() + left_s
        asked_at = kept_at = 0.0
        late = False
        while (seen := self._engine.look(run)).state == "running":
            moment = time.monotonic()
            late = late or moment > ends_at
            if late or not self._wanted():
                self._engine.stop(run)
            elif moment > asked_at + _USAGE_S:
                asked_at = moment
                self._note(self._engine.usage(run))
                if moment > kept_at + _KEEP_S:
                    kept_at = moment
                    self._move(lambda run: replace(run, resources=self._resources()))
            time.sleep(_POLL_S)
        if seen.out_of_memory:
            self._note(Usage(run.wish.limits.memory_bytes))
        return seen, late

    def _note(self, usage: Usage | None) -> None:
        if usage is not None:
            most = self._most
            self._most = Usage(
                max(most.memory_bytes, usage.memory_bytes),
                max(most.cpu_s, usage.cpu_s),
                max(most.pids, usage.pids),
            )

    def _read(self, run: Run) -> None:
        """Write down what the script prints, from where the log ends; what is beyond the bound is not asked for.

        Another one that waits for an engine which was away may come to life again: it writes no more.
        """
        with self._reading:
            self._reader = me = object()
            skip = self._output.size - run.log_start
        if self._output.truncated:
            return
        pieces = self._engine.output(run)
        with contextlib.suppress(EngineUnreachableError, TrainingError), contextlib.closing(pieces):
            for piece in pieces:
                with self._reading:
                    if self._reader is not me or self._output.truncated or self._around.leaving.is_set():
                        return
                    self._output.take(piece[skip:])
                skip = max(0, skip - len(piece))

    def _register(self) -> None:
        """Upload the model; an inferrer that cannot take it now is asked again, for a while."""
        ends_at = time.monotonic() + self._around.settings.register_s
        while True:
            self._wanted()
            try:
                version = self._around.registry.upload(self._run, self._folder.model)
            except RegistryUnavailableError as error:
                if time.monotonic() > ends_at:
                    raise TrainingError(Reason.REGISTRATION_FAILED, str(error)) from error
                self._around.leaving.wait(_PAUSE_S)
            else:
                break
        self._export()
        self._store.put(runs.finish(self._run, version, now()))
        log.info("run ended", extra={"run": self._run_id, "state": "FINISHED", "version": version})
        self._folder.model.unlink(missing_ok=True)

    def _export(self) -> None:
        """Leave the model in the local folder too, if there is one."""
        if self._around.settings.outputs is None:
            return
        target = self._around.settings.outputs / self._run_id
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path, name in ((self._folder.model, self._run.wish.model), (self._folder.log, "log")):
                shutil.copyfile(path, target / name)
        except OSError as error:
            log.warning("outputs not written", extra={"run": self._run_id, "why": str(error)})


def _left_s(run: Run) -> float:
    """How long a script that was found running may go on, by the wall clock of when it began."""
    began = datetime.fromisoformat(str(run.training_started))
    ran_s = (datetime.now(UTC) - began).total_seconds()
    timeout_s = run.wish.limits.timeout_s
    return min(max(timeout_s - ran_s, 0.0), timeout_s) + _START_TAKES_S
