"""One model version on this modelhost: its queue, its deadlines and the runner that serves it.

Requests wait here, not in the runner, but for a window that keeps it busy. When the runner dies, the request it was
running is answered MODEL_CRASHED and everybody else goes on in the replacement. A deadline has two stages: the runtime
is asked to stop, then the process is killed and replaced.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import orjson

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.errors import (
    DeadlineExceededError,
    MLBuffetError,
    ModelCrashedError,
    ModelFailedError,
    NotLoadedError,
    QueueFullError,
)
from mlbuffet.index import ModelEntry
from mlbuffet.manifest import Manifest
from modelhost.supervisor import Runner, Supervisor, start_runner
from modelhost.tasks import RunnerTask

log = logging.getLogger(__name__)

_WINDOW = 64  # requests that a runner has at once: enough to keep it busy, few enough to drop what is overdue
_GRACE_NS = 500_000_000
_LOAD_S = 60.0
_TRIES = 3
_SOUND_S = 10.0
_BACKOFF_S = 0.05


class Waiting:
    """A request that an inferrer waits for."""

    __slots__ = ("body", "codec", "deadline_ns", "frame_id", "link", "stopped")

    def __init__(self, link: FrameProtocol, frame_id: int, codec: int, deadline_ns: int, body: bytes) -> None:
        self.link = link
        self.frame_id = frame_id
        self.codec = codec
        self.deadline_ns = deadline_ns
        self.body = body
        self.stopped = False

    def refuse(self, error: MLBuffetError) -> None:
        """Answer with an error."""
        send_error(self.link, self.frame_id, error)


def send_error(link: FrameProtocol, frame_id: int, error: MLBuffetError) -> None:
    """Answer a frame with an error."""
    body = orjson.dumps({"code": error.code, "message": error.message})
    link.send(Kind.ERROR, 0, b"", frame_id, 0, body)


class HostedVersion:
    """A version that is loaded here, or on its way in or out."""

    def __init__(
        self,
        manifest: Manifest,
        path: Path,
        supervisor: Supervisor,
        changed: Callable[[], None],
        *,
        threads: int,
        queue_limit: int,
    ) -> None:
        self.manifest = manifest
        self.state = "LOADING"
        self.error: MLBuffetError | None = None
        self.used_at = time.monotonic()
        self.restarts = 0
        self._task = RunnerTask(manifest.model, str(path), manifest.digest, threads)
        self._supervisor = supervisor
        self._changed = changed
        self._most = queue_limit
        self._queue: deque[Waiting] = deque()
        self._sent: dict[int, Waiting] = {}
        self._number = 0
        self._runner: Runner | None = None
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
        return len(self._queue) + len(self._sent)

    @property
    def predictions(self) -> int:
        """Requests given to a runner so far."""
        return self._number

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
        self.used_at = time.monotonic()
        if self._leaving:
            waiting.refuse(NotLoadedError("the version is being unloaded here"))
        elif self.error is not None:
            waiting.refuse(self.error)
        elif len(self._queue) + len(self._sent) >= self._most:
            waiting.refuse(QueueFullError(f"{self._most} requests wait for {self.manifest.model} here already"))
        elif self._runner is not None and not self._queue and len(self._sent) < _WINDOW:
            self._send(self._runner, waiting)
        else:
            self._queue.append(waiting)

    def _send(self, runner: Runner, waiting: Waiting) -> None:
        self._number = number = self._number + 1
        self._sent[number] = waiting
        runner.link.send(Kind.PREDICT, waiting.codec, b"", number, waiting.deadline_ns, waiting.body)

    def _answered(self, kind: int, number: int, body: bytes) -> None:
        """Pass an answer on, and send the next request."""
        waiting = self._sent.pop(number, None)
        if waiting is not None:
            waiting.link.send(kind, 0, b"", waiting.frame_id, 0, body)
        if self._queue:
            self._refill()

    def _refill(self) -> None:
        while self._runner is not None and self._queue and len(self._sent) < _WINDOW:
            self._send(self._runner, self._queue.popleft())

    def expire(self, now_ns: int) -> None:
        """Drop what is overdue; stop, then kill, what runs on past its deadline."""
        if self._queue and any(waiting.deadline_ns < now_ns for waiting in self._queue):
            overdue = [waiting for waiting in self._queue if waiting.deadline_ns < now_ns]
            self._queue = deque(waiting for waiting in self._queue if waiting.deadline_ns >= now_ns)
            for waiting in overdue:
                waiting.refuse(DeadlineExceededError("the request waited until its time was over"))
        runner = self._runner
        if runner is None or not self._sent:
            return
        number = runner.running
        running = self._sent.get(number)
        if running is None or running.deadline_ns >= now_ns:
            return
        if not running.stopped:
            running.stopped = True
            runner.stop(number)
        elif running.deadline_ns + _GRACE_NS < now_ns and not runner.child.killed:
            log.warning("runner killed", extra={"model": self.manifest.model, "why": "it did not stop at the deadline"})
            runner.child.kill()

    # The runner's life ----------------------------------------------------------------------------------------------

    async def _keep_safely(self) -> None:
        """Whatever goes wrong with this version is known and stays its own."""
        try:
            await self._keep()
        except Exception:
            log.exception("version failed", extra={"model": self.manifest.model, "version": self.manifest.version})
            self._give_up(ModelFailedError("the modelhost failed to run it; its log has the details"))

    async def _keep(self) -> None:
        """Start the runner, and start it again when it dies; give the version up when it does not load."""
        failures = 0
        while not self._is_leaving():
            try:
                runner = await start_runner(self._supervisor, self._task, self._answered, _LOAD_S)
            except MLBuffetError as error:
                self._give_up(error)
                return
            except ChildProcessError as error:
                failures += 1
                log.warning("runner died while loading", extra={"model": self.manifest.model, "why": str(error)})
                if failures >= _TRIES:
                    msg = f"loading it ended {failures} processes: it {error}"
                    self._give_up(ModelFailedError(msg))
                    return
                continue
            self._runner = runner
            self._now("READY")
            self._refill()
            started = time.monotonic()
            status = await runner.child.ended
            if self._hung_up():
                return
            failures = 0 if time.monotonic() - started > _SOUND_S else failures + 1
            self._died(runner, status)
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

    def _give_up(self, error: MLBuffetError) -> None:
        """Out of service until it is loaded anew on purpose."""
        fields = {"model": self.manifest.model, "version": self.manifest.version, "code": error.code}
        log.error("version not loaded", extra=fields | {"why": error.message})
        self.error = error
        self._now("UNAVAILABLE")
        while self._queue:
            self._queue.popleft().refuse(error)

    def _died(self, runner: Runner, status: int) -> None:
        """Answer the request that was running; let the others wait for the replacement."""
        self._runner = None
        sent, self._sent = self._sent, {}
        self.restarts += 1
        culprit = sent.pop(runner.running, None)
        runner.close()
        fields = {"model": self.manifest.model, "version": self.manifest.version, "status": status}
        log.error("runner died", extra=fields)
        if culprit is not None:
            culprit.refuse(
                DeadlineExceededError("the model did not finish in time and was stopped")
                if culprit.stopped
                else ModelCrashedError("this request ended the process that ran the model")
            )
        self._queue.extendleft(reversed(sent.values()))
        self.state = "LOADING"
        self._changed()

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
        while self._queue:
            self._queue.popleft().refuse(self.error)
        self._gone.set()


def read_key(key: bytes) -> tuple[str, int] | None:
    """Model and version in a channel key; None when it is none."""
    name, colon, rest = key.decode("ascii", "replace").partition(":")
    version = rest.partition("@")[0]
    return (name, int(version)) if colon and version.isdecimal() and len(version) < 10 else None  # noqa: PLR2004
