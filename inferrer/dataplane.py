"""Predictions: resolve the version, choose a modelhost, send the body unread, wait no longer than the deadline.

Lives on the event loop and answers by callback, because that is what the lane needs; Flask's threads use `predict` and
`call`, which wait. A request whose modelhost is lost, or does not have the version, is tried once more elsewhere within
a budget; everything else is answered as it came.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson

from inferrer.balancer import choose_replica
from inferrer.replicas import Call, Replica, Replicas
from mlbuffet.channel import Codec, Kind
from mlbuffet.chassis.web import JSON_TYPE, header_lines
from mlbuffet.errors import MLBuffetError, NotLoadedError, ReplicaLostError, UnavailableError
from mlbuffet.index import Index
from mlbuffet.manifest import Manifest
from mlbuffet.names import parse_ref

log = logging.getLogger(__name__)

Done = Callable[[MLBuffetError | None, bytes, "Target | None"], None]

_SWEEP_S = 0.02
_MAX_TARGETS = 10_000


@dataclass(slots=True)
class Target:
    """What a name stands for at one generation, and who could serve it at one epoch."""

    manifest: Manifest
    key: bytes
    reply_lines: bytes
    candidates: list[Replica]
    epoch: int


def reply_headers(manifest: Manifest) -> list[tuple[str, str]]:
    """What a prediction's answer says of itself."""
    return [("Content-Type", JSON_TYPE), ("X-Model-Version", str(manifest.version))]


class RetryBudget:
    """Retries are a share of recent requests, so that they never multiply an overload. Pure but for the counts."""

    def __init__(self, share: float = 0.2, floor: float = 10) -> None:
        self._share = share
        self._ceiling = floor * 10
        self._tokens = floor

    def request(self) -> None:
        """Count a request."""
        if self._tokens < self._ceiling:
            self._tokens += self._share

    def take(self) -> bool:
        """Tell whether one more retry may be sent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class DataPlane:
    """The prediction path of one inferrer process."""

    def __init__(self, index: Index, places: tuple[str, ...], tls: Any = None) -> None:  # noqa: ANN401 - SSLContext
        self.index = index
        self.replicas = Replicas(places, tls, self._failed)
        self.loop = asyncio.get_running_loop()
        self._rng = random.Random()  # noqa: S311 - chance, not secrecy
        self._budget = RetryBudget()
        self._targets: dict[bytes, Target] = {}
        self._generation = -1
        self._tasks = [self.loop.create_task(self.replicas.run()), self.loop.create_task(self._sweep())]

    def failed(self) -> bool:
        """Tell whether a task that is to run for ever has ended; says why in the log."""
        ended = [task for task in self._tasks if task.done()]
        for task in ended:
            log.error("task ended", exc_info=None if task.cancelled() else task.exception())
        return bool(ended)

    def close(self) -> None:
        """Stop following and drop the channels."""
        for task in self._tasks:
            task.cancel()
        self.replicas.closing = True
        for replica in self.replicas.all():
            replica.close()

    # On the event loop ----------------------------------------------------------------------------------------------

    def start(self, ref: bytes, codec: Codec, body: bytes, timeout_s: float, done: Done) -> None:
        """Send a prediction; `done` is called once, later, with an error or the answer's body, and the target.

        Raises:
            MLBuffetError: it could not even be sent.
        """
        target = self.target(ref)
        self._budget.request()

        def finished(error: MLBuffetError | None, reply: bytes, _: Call) -> None:
            done(error, reply, target)

        call = Call(Kind.PREDICT, target.key, codec, body, time.monotonic() + timeout_s, finished)
        call.ref = ref
        choose_replica(target.candidates, self._rng).start(call)

    def target(self, ref: bytes) -> Target:
        """What a name in a request stands for now.

        Raises:
            ModelNotFoundError, VersionNotFoundError, InvalidNameError, UnavailableError: nobody can answer for it.
        """
        if self.index.current() != self._generation:
            self._targets.clear()
            self._generation = self.index.refresh()
        target = self._targets.get(ref)
        if target is None or target.epoch != self.replicas.epoch:
            target = self._resolve(ref)
            if len(self._targets) < _MAX_TARGETS:
                self._targets[ref] = target
        return target

    def _resolve(self, ref: bytes) -> Target:
        manifest = self.index.manifest(parse_ref(ref.decode("utf-8", "replace")))
        candidates = self._candidates(manifest.key.decode())
        return Target(manifest, manifest.key, header_lines(reply_headers(manifest)), candidates, self.replicas.epoch)

    def _candidates(self, key: str) -> list[Replica]:
        """Those that have the version loaded; else those that may load it; else any, to say why it does not load."""
        ready = self.replicas.ready()
        return (
            [replica for replica in ready if replica.has(key)]
            or [replica for replica in ready if key not in replica.versions]
            or ready
        )

    def _failed(self, call: Call, error: MLBuffetError) -> None:
        """A modelhost did not answer a request: try elsewhere where that is right."""
        if call.kind == Kind.PREDICT and not call.retried and self._may_retry(error):
            call.retried = True
            try:
                self._generation = -1  # what was not loaded there may have been replaced or deleted since
                target = self.target(call.ref)
                call.key = target.key
                choose_replica(target.candidates, self._rng).start(call)
            except MLBuffetError as other:
                error = other
            else:
                return
        call.done(error, b"", call)

    def _may_retry(self, error: MLBuffetError) -> bool:
        """Tell whether a request may be sent once more: what never began costs nothing, what was lost is budgeted."""
        return isinstance(error, NotLoadedError) or (isinstance(error, ReplicaLostError) and self._budget.take())

    async def _sweep(self) -> None:
        """End overdue requests; notice modelhosts that fell silent."""
        silent: set[Replica] = set()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for replica in self.replicas.all():
                if replica.in_flight:
                    replica.expire(now)
            now_silent = {replica for replica in self.replicas.all() if not replica.ready}
            if now_silent != silent:
                silent = now_silent
                self.replicas.changed()

    # From other threads ---------------------------------------------------------------------------------------------

    def predict(self, ref: bytes, codec: Codec, body: bytes, timeout_s: float) -> tuple[bytes, Target]:
        """Send a prediction and wait for its answer.

        Raises:
            MLBuffetError: what the client is to be told.
        """
        future: Future[tuple[bytes, Target]] = Future()

        def done(error: MLBuffetError | None, reply: bytes, target: Target | None) -> None:
            if error is not None:
                future.set_exception(error)
            elif target is not None:
                future.set_result((reply, target))

        def start() -> None:
            try:
                self.start(ref, codec, body, timeout_s, done)
            except MLBuffetError as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(start)
        return future.result()

    def call(
        self, replica: Replica | None, operation: str, timeout_s: float, **arguments: object
    ) -> Future[dict[str, Any]]:
        """Ask a modelhost to do something, None for any ready one; the future has its answer or its MLBuffetError."""
        future: Future[dict[str, Any]] = Future()
        body = orjson.dumps(arguments)

        def done(error: MLBuffetError | None, reply: bytes, _: Call) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(orjson.loads(reply))

        def start() -> None:
            call = Call(Kind.CALL, operation.encode(), Codec.NONE, body, time.monotonic() + timeout_s, done)
            try:
                (replica or choose_replica(self.replicas.ready(), self._rng)).start(call)
            except MLBuffetError as error:
                future.set_exception(error)

        self.loop.call_soon_threadsafe(start)
        return future

    def ready_replicas(self) -> list[Replica]:
        """Every ready modelhost.

        Raises:
            UnavailableError: none is.
        """
        ready = self.replicas.ready()
        if not ready:
            msg = "no modelhost is ready"
            raise UnavailableError(msg)
        return ready
