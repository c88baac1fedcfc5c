"""One model version on this modelhost: its requests, their deadlines, and the life of the runner that serves it.

When the runner dies, the request it was running is answered MODEL_CRASHED and everybody else goes on in the
replacement. A deadline has two stages: the runtime is asked to stop, then the process is killed and replaced. A version
whose loading ends its process again and again is quarantined.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.errors import (
    DeadlineExceededError,
    MLBuffetError,
    ModelCrashedError,
    ModelFailedError,
    ModelQuarantinedError,
    NotLoadedError,
)
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from modelhost.blame import Verdict, judge, reason_of
from modelhost.offenders import Offenders
from modelhost.supervisor import Runner, Supervisor, start_runner
from modelhost.tasks import RunnerTask
from modelhost.waiting import RequestQueue, Waiting

log = logging.getLogger(__name__)

_GRACE_NS = 500_000_000
_LOAD_S = 60.0
_TRIES = 3
_SOUND_S = 10.0
_BACKOFF_S = 0.05
_FULL_SHARE = 0.75  # of the memory that a runner may take, before it is replaced between two requests


class HostedVersion:
    """A version that is loaded here, or on its way in or out."""

    def __init__(
        self,
        manifest: Manifest,
        task: RunnerTask,
        supervisor: Supervisor,
        changed: Callable[[], None],
        queue_limit: int,
    ) -> None:
        self.manifest = manifest
        self.state = "LOADING"
        self.error: MLBuffetError | None = None
        self.used_at = time.monotonic()
        self.restarts: Counter[str] = Counter()  # runners replaced, by reason
        self.refusals: Counter[str] = Counter()  # requests not run, by error code
        self._task = task
        self._supervisor = supervisor
        self._changed = changed
        self._requests = RequestQueue(queue_limit)
        self._offenders = Offenders()
        self._runner: Runner | None = None
        self._batches = 0  # of runners that have ended
        self._leaving = False
        self._settled = asyncio.Event()
        self._gone = asyncio.Event()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_safely())

    # What others see ------------------------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """What unloading it would give back."""
        return self._runner.memory_bytes if self._runner else 0

    @property
    def busy(self) -> int:
        """Requests that wait or run."""
        return len(self._requests)

    @property
    def predictions(self) -> int:
        """Requests given to a runner so far."""
        return self._requests.given

    @property
    def batches(self) -> int:
        """How often runners have run the model so far."""
        return self._batches + (self._runner.batches if self._runner else 0)

    @property
    def pid(self) -> int:
        """The runner's process id; 0 without one."""
        return self._runner.child.pid if self._runner else 0

    def describe(self) -> list[str]:
        """State, error code and reason, as the inferrers are told."""
        return [self.state, self.error.code if self.error else "", self.error.message if self.error else ""]

    async def settled(self) -> None:
        """Wait until it is loaded.

        Raises:
            MLBuffetError: it does not load.
        """
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    def refresh(self, entry: ModelEntry | None) -> None:
        """Take over what the operator changed in the manifest, the pin for one."""
        stored = entry.versions.get(self.manifest.version) if entry is not None else None
        if stored is not None and stored.key == self.manifest.key:
            self.manifest = stored

    # Requests -------------------------------------------------------------------------------------------------------

    def submit(self, waiting: Waiting) -> None:
        """Take a request; it is answered later, or at once when it cannot be taken."""
        now_ns = time.monotonic_ns()
        self.used_at = now_ns / 1e9
        refusal = self.error or self._requests.refusal(waiting, now_ns)
        if self._leaving:
            refusal = NotLoadedError("the version is being unloaded here")
        elif self._offenders.until:
            refusal = self._offence(waiting) or refusal
        if refusal is None:
            self._requests.put(waiting)
            self._feed(now_ns)
        else:
            self.refusals[refusal.code] += 1
            waiting.refuse(refusal)

    def _offence(self, waiting: Waiting) -> MLBuffetError | None:
        """What is to be said to a request that has ended a runner not long ago."""
        refused_s = self._offenders.refused_s(waiting.codec, waiting.body, self.used_at)
        if not refused_s:
            return None
        return ModelCrashedError(
            f"this request ended the process that ran the model; it is not run again for {refused_s:.0f} s"
        )

    def _feed(self, now_ns: int) -> None:
        """Give the runner what it should have ahead; one that is to be replaced ends with what it has."""
        runner, requests = self._runner, self._requests
        if runner is None:
            return
        if runner.retiring:
            if requests.is_idle:
                runner.hang_up()
            return
        while (waiting := requests.next(now_ns)) is not None:
            kind = Kind.PREDICT_ALONE if waiting.alone else Kind.PREDICT
            runner.link.send(kind, waiting.codec, b"", requests.given, waiting.deadline_ns, waiting.body)

    def _answered(self, kind: int, number: int, body: bytes) -> None:
        """Pass an answer on, and send the next request."""
        now_ns = time.monotonic_ns()
        waiting = self._requests.answered(number, now_ns)
        if waiting is not None and not waiting.abandoned:
            waiting.link.send(kind, 0, b"", waiting.frame_id, 0, body)
        self._feed(now_ns)

    def cancel(self, link: FrameProtocol, frame_id: int) -> None:
        """Drop a request whose client is gone."""
        self._requests.abandon(lambda waiting: waiting.frame_id == frame_id and waiting.link is link)

    def cancel_link(self, link: FrameProtocol) -> None:
        """Drop all requests of an inferrer that is gone."""
        self._requests.abandon(lambda waiting: waiting.link is link)

    def expire(self, now_ns: int) -> None:
        """Drop what is overdue; stop what nobody waits for any more, and kill what does not stop."""
        for waiting in self._requests.overdue(now_ns):
            self.refusals[DeadlineExceededError.code] += 1
            waiting.refuse(DeadlineExceededError("the request waited until its time was over"))
        runner = self._runner
        if runner is None:
            return
        running = ((number, self._requests.ahead(number)) for number in runner.running)
        batch = {number: waiting for number, waiting in running if waiting is not None}
        unwanted = bool(batch) and all(waiting.abandoned for waiting in batch.values())
        for number, waiting in batch.items():
            if waiting.deadline_ns >= now_ns and not unwanted:
                continue
            if not waiting.stopped:
                waiting.stopped = True
                runner.stop(number)
            elif waiting.deadline_ns + _GRACE_NS < now_ns and not runner.child.killed:
                fields = {"model": self.manifest.model, "why": "it did not stop at the deadline"}
                log.warning("runner killed", extra=fields)
                runner.child.kill()

    # The runner's life ----------------------------------------------------------------------------------------------

    def watch_memory(self) -> None:
        """Replace a runner that has grown nearly as large as it may be, when it has answered what it has."""
        runner = self._runner
        if runner is None or not self._task.memory_bytes:
            return
        runner.measure()
        if runner.memory_bytes > self._task.memory_bytes * _FULL_SHARE and not runner.retiring:
            fields = {"model": self.manifest.model, "version": self.manifest.version}
            log.warning("runner replaced for its memory", extra=fields | {"memory_bytes": runner.memory_bytes})
            runner.retiring = True
            self._feed(time.monotonic_ns())

    async def _keep_safely(self) -> None:
        """Whatever goes wrong with this version is known and stays its own."""
        try:
            await self._keep()
        except Exception:
            log.exception("version failed", extra={"model": self.manifest.model, "version": self.manifest.version})
            self._give_up("UNAVAILABLE", ModelFailedError("the modelhost failed to run it; its log has the details"))

    async def _keep(self) -> None:
        """Start the runner, and start it again when it dies; give the version up when it does not load."""
        failures = 0
        while not self._is_leaving():
            try:
                runner = await start_runner(self._supervisor, self._task, self._answered, _LOAD_S)
            except MLBuffetError as error:
                self._give_up("UNAVAILABLE", error)
                return
            except ChildProcessError as error:
                failures += 1
                self.restarts["loading"] += 1
                log.warning("runner died while loading", extra={"model": self.manifest.model, "why": str(error)})
                if failures >= _TRIES:
                    msg = f"loading it ended {failures} processes: the last {error}"
                    self._give_up("QUARANTINED", ModelQuarantinedError(msg))
                    return
                continue
            self._runner = runner
            self._now("READY")
            self._feed(time.monotonic_ns())
            started = time.monotonic()
            status = await runner.child.ended
            if self._hung_up():
                return
            # A pause only where no request is to blame: nobody may keep a good model out of service.
            blameless = self._ended(runner, status)
            failures = failures + 1 if blameless and time.monotonic() - started < _SOUND_S else 0
            await asyncio.sleep(min(_BACKOFF_S * 2**failures, 5) if failures > _TRIES else 0)

    def _is_leaving(self) -> bool:
        return self._leaving

    def _hung_up(self) -> bool:
        return self._runner is None

    def _now(self, state: str) -> None:
        self.state = state
        if state == "READY":
            log.info("version loaded", extra={"model": self.manifest.model, "version": self.manifest.version})
        self._settled.set()
        self._changed()

    def _give_up(self, state: str, error: MLBuffetError) -> None:
        """Out of service until it is loaded anew on purpose."""
        fields = {"model": self.manifest.model, "version": self.manifest.version, "code": error.code}
        log.error("version not loaded", extra=fields | {"why": error.message})
        self.error = error
        self._now(state)
        for waiting in self._requests.drain():
            waiting.refuse(error)

    def _ended(self, runner: Runner, status: int) -> bool:
        """Settle what the runner had; returns whether it died without a request to blame."""
        self._runner = None
        ahead = self._requests.take_back()
        batch = [number for number in runner.running if number in ahead]
        reason = reason_of(status, killed=runner.child.killed, retiring=runner.retiring, idle=not batch)
        self.restarts[reason] += 1
        self._batches += runner.batches
        runner.close()
        if reason != "memory":
            fields = {"model": self.manifest.model, "version": self.manifest.version, "status": status}
            log.error("runner died", extra=fields | {"reason": reason, "running": len(batch)})
        for number in batch:
            if not self._runs_again(ahead[number], reason, was_alone=len(batch) == 1):
                del ahead[number]
        self._requests.put_back(ahead.values())
        self.state = "LOADING"
        self._changed()
        return not batch and reason != "memory"

    def _runs_again(self, waiting: Waiting, reason: str, *, was_alone: bool) -> bool:
        """Answer a request whose runner ended, unless it is to be run once more."""
        verdict = judge(waiting, reason, was_alone=was_alone, now_ns=time.monotonic_ns())
        if verdict is Verdict.LATE:
            waiting.refuse(DeadlineExceededError("the model did not finish in time and was stopped"))
        elif verdict is Verdict.GUILTY:
            self._offenders.add(waiting.codec, waiting.body, time.monotonic())
            waiting.refuse(ModelCrashedError("this request ended the process that ran the model"))
        return verdict is Verdict.AGAIN

    async def unload(self) -> None:
        """Finish what is here, take nothing new, give the memory back."""
        if self._leaving:
            await self._gone.wait()
            return
        self._leaving = True
        self.state = "UNLOADING"
        self._changed()
        while self.busy and self._runner is not None:
            await asyncio.sleep(0.005)
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
            await runner.child.ended
        self._keeper.cancel()
        self.error = self.error or NotLoadedError("the version was unloaded here")
        self._settled.set()
        for waiting in self._requests.drain():
            waiting.refuse(self.error)
        self._gone.set()
