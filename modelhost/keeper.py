"""Keeps one runner of a version alive: starts it, hands it requests, replaces it when it dies.

When the runner dies, the request it was running is answered MODEL_CRASHED and everybody else goes on, in the
replacement or in another runner. A deadline has two stages: the runtime is asked to stop, then the process is killed
and replaced.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Protocol

from mlbuffet.channel import SHARED, Kind, read_error
from mlbuffet.chassis.context import read_context
from mlbuffet.errors import (
    DeadlineExceededError,
    MLBuffetError,
    ModelCrashedError,
    ModelFailedError,
    ModelQuarantinedError,
)
from mlbuffet.manifest import Manifest
from modelhost.blame import Verdict, judge, reason_of
from modelhost.ends import Ends
from modelhost.lines import Lines, is_direct
from modelhost.offenders import Offenders
from modelhost.running import Runner, start_runner
from modelhost.statistics import Statistics
from modelhost.supervisor import Supervisor
from modelhost.tasks import RunnerTask, Tuning
from modelhost.waiting import Hand, RequestQueue, Waiting

log = logging.getLogger(__name__)

_PREDICT, _PREDICT_ALONE, _REPLY = Kind.PREDICT.value, Kind.PREDICT_ALONE.value, Kind.REPLY.value
_GRACE_NS = 500_000_000
_LOAD_S = 60.0
_TRIES = 3
_SOUND_S = 10.0
_BACKOFF_S = 0.05
_FULL_SHARE = 0.75  # of the memory that a runner may take, before it is replaced between two requests


class Owner(Protocol):
    """The version: what its runners share, and what it is told of each."""

    manifest: Manifest
    requests: RequestQueue
    offenders: Offenders
    statistics: Statistics
    ends: Ends
    lines: Lines
    ensure: Callable[[], Awaitable[None]]  # returns when the file to run is there

    def came(self, keeper: "Keeper") -> None:
        """Its runner has loaded and takes requests."""

    def lost(self, keeper: "Keeper") -> None:
        """Its runner is no more; another one is being started."""

    def left(self, keeper: "Keeper", state: str, error: MLBuffetError | None) -> None:
        """It has ended: by an error, which makes the version's state when nobody else is left, or as it was told."""


class Keeper:
    """One runner and those that come after it."""

    def __init__(self, owner: Owner, supervisor: Supervisor, task: RunnerTask) -> None:
        self.hand = Hand()
        self.runner: Runner | None = None
        self.found: Tuning | None = None  # how the model is best run, by a runner that was to find out
        self.former = False  # of settings that no longer hold
        self.leaving = False
        self._owner = owner
        self._supervisor = supervisor
        self._task = task
        self._answers = 0  # that have come in this turn
        self._now_ns = 0
        self._life = asyncio.get_running_loop().create_task(self._keep_safely())

    # Requests -------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Tell whether its runner takes requests."""
        return self.runner is not None and not self.runner.retiring

    def give(self, waiting: Waiting, now_ns: int) -> None:
        """Hand the runner, which must be open, a request."""
        requests = self._owner.requests
        requests.give(waiting, self.hand, now_ns)
        self._send(waiting, requests.given)

    def _send(self, waiting: Waiting, number: int) -> None:
        runner = self.runner
        if runner is None:
            return
        kind, codec, body = _PREDICT_ALONE if waiting.alone else _PREDICT, waiting.codec, waiting.body
        if waiting.shared is not None:
            codec, body = (codec | SHARED, body) if runner.has(waiting.shared.segment) else (codec, waiting.content)
        runner.link.send(kind, codec, waiting.split, b"", number, waiting.deadline_ns, body)

    def fill(self, now_ns: int) -> None:
        """Hand the runner what it should have ahead; one that is to go ends with what it has."""
        runner, requests = self.runner, self._owner.requests
        if runner is None:
            return
        if runner.retiring:
            if not self.hand.count:
                runner.hang_up()
            return
        while (waiting := requests.next(self.hand, now_ns)) is not None:
            self._send(waiting, requests.given)

    def _answered(self, kind: int, split: int, number: int, body: bytes, ran: bytes) -> None:
        """Pass an answer on; `ran` is what the runner says of its run."""
        owner = self._owner
        waiting = owner.requests.answered(number)
        if waiting is None:
            return
        if not self._answers:
            self._now_ns = time.monotonic_ns()
        self._answers += 1
        statistics, now_ns = owner.statistics, self._now_ns
        took_ns = now_ns - waiting.arrived_ns
        if kind == _REPLY:
            statistics.succeeded += 1
            statistics.succeeded_ns += took_ns
            if owner.ends.wanted(waiting, number, now_ns):
                owner.ends.answered(waiting, owner.manifest, number, now_ns, ran)
        else:
            statistics.fail(took_ns)
            if not waiting.abandoned:
                owner.ends.refused(waiting, owner.manifest, read_error(body), now_ns)
        if not waiting.abandoned:
            waiting.link.send(kind, waiting.codec, split, b"", waiting.frame_id, took_ns, body)

    def _all_answered(self) -> None:
        """Send what comes next, once for all answers of a turn."""
        answers, self._answers = self._answers, 0
        if answers:
            self._owner.statistics.answered_at_ns = self._now_ns
            self._owner.requests.pace(self.hand, answers, self._now_ns)
            self.fill(self._now_ns)

    def expire(self, now_ns: int) -> None:
        """Stop what is overdue or nobody waits for any more, and kill what does not stop."""
        runner, lines = self.runner, self._owner.lines
        if runner is None or not (self.hand.count or lines.watched(now_ns)):
            return
        running = runner.running
        batch = self._running(running)
        # A line's request is wanted until its inferrer says otherwise, which it does at the deadline too.
        direct = {number: lines.unwanted_since(number, now_ns) for number in running if is_direct(number)}
        unwanted = bool(running) and None not in direct.values() and all(item.abandoned for item in batch.values())
        ids = [read_context(item.context)[0] for item in batch.values()]
        for number, waiting in batch.items():
            if waiting.deadline_ns >= now_ns and not unwanted:
                continue
            if not waiting.stopped:
                waiting.stopped = True
                runner.stop(number)
            elif waiting.deadline_ns + _GRACE_NS < now_ns:
                self._kill(runner, ids)
        for number, since_ns in direct.items() if unwanted else ():
            runner.stop(number)
            if since_ns is not None and since_ns + _GRACE_NS < now_ns:
                self._kill(runner, ids)

    def _kill(self, runner: Runner, ids: list[str]) -> None:
        if not runner.child.killed:
            log.warning("runner killed", extra=self._fields(why="it did not stop at the deadline", of=ids))
            runner.child.kill()

    def _running(self, numbers: Iterable[int]) -> dict[int, Waiting]:
        """Those of the requests that it runs together now that came through here, by their numbers."""
        running = ((number, self._owner.requests.ahead(number)) for number in numbers)
        return {number: waiting for number, waiting in running if waiting is not None}

    # The runner's life ----------------------------------------------------------------------------------------------

    def watch_memory(self) -> None:
        """Replace a runner that has grown nearly as large as it may be, when it has answered what it has."""
        runner = self.runner
        if runner is None or not self._task.memory_bytes:
            return
        runner.measure()
        if runner.memory_bytes > self._task.memory_bytes * _FULL_SHARE and not runner.retiring:
            log.warning("runner replaced for its memory", extra=self._fields(memory_bytes=runner.memory_bytes))
            self._retire()

    def leave(self) -> None:
        """End when the runner has answered what it has."""
        self.leaving = True
        if self.runner is None:
            self._life.cancel()
            self._owner.left(self, "", None)
        else:
            self._retire()

    def _retire(self) -> None:
        if self.runner is not None:
            self.runner.retiring = True
            self._owner.lost(self)
            self.fill(time.monotonic_ns())

    async def end(self) -> None:
        """End at once."""
        runner, self.runner = self.runner, None
        if runner is not None:
            self._settle_counts(runner)
            runner.close()
            await runner.child.ended
        self._life.cancel()

    def _settle_counts(self, runner: Runner) -> None:
        statistics = self._owner.statistics
        statistics.ended = statistics.ended.plus(runner.counts)
        self._owner.ends.runner_ended(runner.spreads)
        self._owner.lines.ended(runner)

    async def _keep_safely(self) -> None:
        """Whatever goes wrong with this version is known and stays its own."""
        try:
            await self._keep()
        except Exception:
            log.exception("version failed", extra=self._fields())
            error = ModelFailedError("the modelhost failed to run it; its log has the details")
            self._owner.left(self, "UNAVAILABLE", error)

    async def _keep(self) -> None:
        """Start the runner, and start it again when it dies, until it does not load or is told to leave."""
        failures = 0
        while True:
            try:
                runner = await self._start()
            except MLBuffetError as error:
                self._owner.left(self, "UNAVAILABLE", error)
                return
            except ChildProcessError as error:
                failures += 1
                self._owner.statistics.restarts["loading"] += 1
                log.warning("runner died while loading", extra=self._fields(why=str(error)))
                if failures >= _TRIES:
                    msg = f"loading it ended {failures} processes: the last {error}"
                    self._owner.ends.quarantined += 1
                    self._owner.left(self, "QUARANTINED", ModelQuarantinedError(msg))
                    return
                continue
            started = time.monotonic()
            status = await runner.child.ended
            if self._ended_by_us():
                return
            # A pause only where no request is to blame: nobody may keep a good model out of service.
            blameless = self._ended(runner, status)
            if self.leaving:
                self._owner.left(self, "", None)
                return
            failures = failures + 1 if blameless and time.monotonic() - started < _SOUND_S else 0
            await asyncio.sleep(min(_BACKOFF_S * 2**failures, 5) if failures > _TRIES else 0)

    async def _start(self) -> Runner:
        """Start a runner; one that comes after another goes by what that has found out."""
        await self._owner.ensure()
        runner = await start_runner(self._supervisor, self._task, self._answered, self._all_answered, _LOAD_S)
        if not self._task.tuned:
            self.found = tuning = runner.tuning
            self._task = replace(self._task, threads=tuning.threads, batch_rows=tuning.batch_rows, tuned=True)
        self.runner = runner
        self._owner.came(self)
        return runner

    def _ended_by_us(self) -> bool:
        return self.runner is None

    def _ended(self, runner: Runner, status: int) -> bool:
        """Settle what the runner had; returns whether it died without a request to blame."""
        self.runner = None
        ahead, running = self._owner.requests.take_back(self.hand), runner.running
        batch = [number for number in running if number in ahead]
        reason = reason_of(status, killed=runner.child.killed, retiring=runner.retiring, idle=not running)
        self._settle_counts(runner)
        runner.close()
        if reason != "memory":
            self._owner.lines.bar(time.monotonic())
            ids = [read_context(ahead[number].context)[0] for number in batch]
            log.error("runner died", extra=self._fields(status=status, reason=reason, running=len(running), of=ids))
        if not self.leaving:
            self._owner.statistics.restarts[reason] += 1
        for number in batch:
            if not self._runs_again(ahead[number], reason, was_alone=len(running) == 1):
                del ahead[number]
        self._owner.requests.put_back(ahead.values())
        self._owner.lost(self)
        return not running and reason != "memory"

    def _runs_again(self, waiting: Waiting, reason: str, *, was_alone: bool) -> bool:
        """Answer a request whose runner ended, unless it is to be run once more."""
        verdict = judge(waiting, reason, was_alone=was_alone, now_ns=time.monotonic_ns())
        if verdict is Verdict.LATE:
            self._fail(waiting, DeadlineExceededError("the model did not finish in time and was stopped"))
        elif verdict is Verdict.GUILTY:
            self._owner.offenders.add(waiting.codec, waiting.content, time.monotonic())
            self._fail(waiting, ModelCrashedError("this request ended the process that ran the model"))
        return verdict is Verdict.AGAIN

    def _fail(self, waiting: Waiting, error: MLBuffetError) -> None:
        now_ns = time.monotonic_ns()
        self._owner.statistics.fail(now_ns - waiting.arrived_ns)
        self._owner.ends.refused(waiting, self._owner.manifest, error, now_ns)
        waiting.refuse(error)

    def _fields(self, **more: object) -> dict[str, object]:
        """What each log record of a runner says."""
        return {"model": self._owner.manifest.model, "version": self._owner.manifest.version, **more}
