"""One model version on this modelhost: its requests, its state, and the runners that serve it.

Requests wait in one queue, and the first runner that is free takes the next. A version whose loading ends its process
again and again is quarantined.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mlbuffet.channel import FrameProtocol
from mlbuffet.errors import DeadlineExceededError, MLBuffetError, ModelCrashedError, NotLoadedError
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from modelhost.ends import Ends
from modelhost.keeper import Keeper
from modelhost.lines import Lines, is_direct
from modelhost.offenders import Offenders
from modelhost.progress import Counts
from modelhost.running import Runner
from modelhost.sizing import Ceilings, most_threads, runners_for, threads_for
from modelhost.statistics import Statistics
from modelhost.supervisor import Supervisor
from modelhost.tasks import RunnerTask, Tuning
from modelhost.waiting import RequestQueue, Waiting

log = logging.getLogger(__name__)


class HostedVersion:
    """A version that is loaded here, or on its way in or out."""

    def __init__(  # noqa: PLR0913 - what a version needs of its modelhost
        self,
        manifest: Manifest,
        task: RunnerTask,
        supervisor: Supervisor,
        ceilings: Ceilings,
        queue_limit: int,
        *,
        ends: Ends,
        ensure: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        has_room: Callable[[int], bool],
    ) -> None:
        """Load it.

        `ensure` returns when the file is there; `changed` is told of each change of its state; `has_room` knows whether
        so many bytes more may be taken.
        """
        self.manifest = manifest
        self.state = "LOADING"
        self.error: MLBuffetError | None = None
        self._asked_at = time.monotonic()
        self.failed_at = 0.0
        self.ends = ends
        self.ensure = ensure
        self.requests = RequestQueue(queue_limit)
        self.offenders = Offenders()
        self.statistics = Statistics()
        self.lines = Lines()
        self._task = task
        self._supervisor = supervisor
        self._ceilings = ceilings
        self._changed = changed
        self._has_room = has_room
        self.tuning: Tuning | None = None  # by the first runner of these settings
        self._keepers: list[Keeper] = []
        self._open: list[Keeper] = []  # whose runners take requests now
        self._leaving = False
        self._settled = asyncio.Event()
        self._gone = asyncio.Event()
        self._start_first()

    # What others see ------------------------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """What unloading it would give back."""
        return sum(runner.memory_bytes for runner in self.living)

    @property
    def busy(self) -> int:
        """Requests that wait or run; of those that came by lines nothing is known."""
        return len(self.requests)

    @property
    def requests_here(self) -> int:
        """Requests that wait or run, with those that run and came by lines."""
        return self.busy + sum(is_direct(number) for runner in self.living for number in runner.running)

    @property
    def used_at(self) -> float:
        """When a request came last (monotonic)."""
        return max(self._asked_at, self.counts.answered_at_ns / 1e9)

    @property
    def counts(self) -> Counts:
        """What its runners have done so far."""
        counts = self.statistics.ended
        for runner in self.living:
            counts = counts.plus(runner.counts)
        return counts

    @property
    def living(self) -> list[Runner]:
        """Its runners that have loaded."""
        return [keeper.runner for keeper in self._keepers if keeper.runner is not None]

    @property
    def runners(self) -> int:
        """How many runners take requests now."""
        return len(self._open)

    @property
    def offers_line(self) -> bool:
        """Tell whether an inferrer may have a line to its runner."""
        return self.state == "READY" and self.requests.is_long and self.lines.offered(len(self._keepers), self.tuning)

    def open_line(self, link: FrameProtocol, fd: int) -> bool:
        """Give an inferrer a line to the runner, if it may have one; the descriptor is let go of here."""
        return self.lines.open(link, fd, self._open[0].runner if self.offers_line else None)

    async def settled(self) -> None:
        """Wait until it is loaded.

        Raises:
            MLBuffetError: it does not load.
        """
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    # Requests -------------------------------------------------------------------------------------------------------

    def submit(self, waiting: Waiting) -> None:
        """Take a request; it is answered later, or at once when it cannot be taken."""
        now_ns, requests = waiting.arrived_ns, self.requests
        self._asked_at = now_ns / 1e9
        refusal = self.error or requests.refusal(waiting, now_ns)
        if self._leaving:
            refusal = NotLoadedError("the version is being unloaded here")
        elif self.offenders.until:
            refusal = self._offence(waiting) or refusal
        if refusal is not None:
            self.refuse(waiting, refusal)
            return
        keeper = None if requests.waiting else self._free()
        if keeper is None:
            requests.put(waiting)
        else:
            keeper.give(waiting, now_ns)

    def _free(self) -> Keeper | None:
        """The runner that has the least to do, unless each has enough."""
        free, fewest = None, self.requests.most_ahead
        for keeper in self._open:
            if keeper.hand.count < fewest:
                free, fewest = keeper, keeper.hand.count
        return free

    def _offence(self, waiting: Waiting) -> MLBuffetError | None:
        """What is to be said to a request that has ended a runner not long ago."""
        refused_s = self.offenders.refused_s(waiting.codec, waiting.content, self._asked_at)
        if not refused_s:
            return None
        return ModelCrashedError(
            f"this request ended the process that ran the model; it is not run again for {refused_s:.0f} s"
        )

    def refuse(self, waiting: Waiting, error: MLBuffetError) -> None:
        """Answer a request with an error instead of running it."""
        now_ns = time.monotonic_ns()
        self.statistics.refusals[error.code] += 1
        self.statistics.fail(now_ns - waiting.arrived_ns)
        self.ends.refused(waiting, self.manifest, error, now_ns)
        waiting.refuse(error)

    def cancel(self, link: FrameProtocol, frame_id: int) -> None:
        """Drop a request whose client is gone."""
        self.lines.call_off(link, frame_id, time.monotonic_ns())
        self._call_off(lambda waiting: waiting.frame_id == frame_id and waiting.link is link)

    def cancel_link(self, link: FrameProtocol) -> None:
        """Drop all requests of an inferrer that is gone."""
        self.lines.forget(link, time.monotonic_ns())
        self._call_off(lambda waiting: waiting.link is link)

    def _call_off(self, is_gone: Callable[[Waiting], bool]) -> None:
        now_ns = time.monotonic_ns()
        for waiting in self.requests.abandon(is_gone):
            self.ends.cancelled(waiting, self.manifest, now_ns)

    def expire(self, now_ns: int) -> None:
        """Drop what is overdue; stop what nobody waits for any more."""
        for waiting in self.requests.overdue(now_ns):
            self.refuse(waiting, DeadlineExceededError("the request waited until its time was over"))
        for keeper in self._keepers:
            keeper.expire(now_ns)

    # Runners --------------------------------------------------------------------------------------------------------

    def watch_memory(self) -> None:
        """Have runners replaced that have grown too large."""
        for keeper in list(self._keepers):
            keeper.watch_memory()

    def refresh(self, entry: ModelEntry | None) -> None:
        """Take over what the operator changed in the manifest: the pin, or how it is to be run."""
        stored = entry.versions.get(self.manifest.version) if entry is not None else None
        if stored is None or stored.key != self.manifest.key:
            return
        before, self.manifest = self.manifest.serving, stored
        if replace(stored.serving, cache=before.cache) != before and self.error is None and not self._leaving:
            log.info("version run otherwise", extra=self._fields())
            for keeper in self._keepers:
                keeper.former = True
            self._start_first()

    def _start_first(self) -> None:
        """Start the runner that finds out how the model is best run, as far as the operator leaves that open."""
        serving, ceilings = self.manifest.serving, self._ceilings
        self._start(
            replace(
                self._task,
                threads=threads_for(serving, ceilings),
                most_threads=most_threads(ceilings),
                batch_rows=serving.batch_rows or 0,
            )
        )

    def _start(self, task: RunnerTask) -> None:
        self._keepers.append(Keeper(self, self._supervisor, task))

    def came(self, keeper: Keeper) -> None:
        """Send requests to a runner that has loaded."""
        self._open.append(keeper)
        if keeper.found is not None and not keeper.former:
            self.tuning, keeper.found = keeper.found, None
        if not keeper.former:
            self._grow()
        self._resize()
        if self.state == "LOADING":
            self.state = "READY"
            log.info("version loaded", extra=self._fields())
        self._settled.set()
        keeper.fill(time.monotonic_ns())

    def _grow(self) -> None:
        """Start the next runner that there should be, and let one of the former settings go for each that has come."""
        if self._leaving or self.tuning is None:
            return
        tuning, former = self.tuning, [keeper for keeper in self._keepers if keeper.former and not keeper.leaving]
        wanted = runners_for(self.manifest.serving, self._ceilings, tuning.threads, tuning.run_s)
        current = sum(not keeper.former for keeper in self._keepers)
        coming = sum(not keeper.former and keeper.runner is None for keeper in self._keepers)
        more = current < wanted and (bool(former) or self._has_room(self.memory_bytes // len(self._open)))
        if more and not coming:
            self._start(replace(self._task, threads=tuning.threads, batch_rows=tuning.batch_rows, tuned=True))
        for keeper in former[: 1 if more else None]:
            keeper.leave()

    def _resize(self) -> None:
        """The number of runners that take requests is another."""
        self.requests.serve_with(len(self._open), self.tuning.batch_rows if self.tuning else 1)
        self._changed()

    def lost(self, keeper: Keeper) -> None:
        """Let others run what a runner had."""
        if keeper in self._open:
            self._open.remove(keeper)
        if not self._open and self.state == "READY":
            self.state = "LOADING"
        self._resize()
        self._feed()

    def _feed(self) -> None:
        now_ns = time.monotonic_ns()
        for keeper in list(self._open):
            keeper.fill(now_ns)

    def left(self, keeper: Keeper, state: str, error: MLBuffetError | None) -> None:
        """Go on with the other runners; without one it is out of service until it is loaded anew on purpose."""
        self._keepers.remove(keeper)
        self._changed()
        self.requests.release(keeper.hand)
        if error is not None:
            log.error("version not loaded", extra=self._fields(code=error.code, why=error.message))
        if self._keepers or error is None:
            self._feed()
            return
        self.error, self.state, self.failed_at = error, state, time.monotonic()
        self._settled.set()
        self._changed()
        for waiting in self.requests.drain():
            self.refuse(waiting, error)

    def _fields(self, **more: object) -> dict[str, object]:
        """What each log record of a version says."""
        return {"model": self.manifest.model, "version": self.manifest.version, **more}

    async def unload(self) -> None:
        """Finish what is here, take nothing new, give the memory back."""
        if self._leaving:
            await self._gone.wait()
            return
        self._leaving = True
        self.state = "UNLOADING"
        self._changed()
        while self.requests_here and any(keeper.runner is not None for keeper in self._keepers):
            await asyncio.sleep(0.005)
        for keeper in list(self._keepers):
            await keeper.end()
        self.error = self.error or NotLoadedError("the version was unloaded here")
        self._settled.set()
        for waiting in self.requests.drain():
            self.refuse(waiting, self.error)
        self._gone.set()
