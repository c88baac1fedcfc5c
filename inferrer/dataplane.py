"""Predictions: resolve the version, choose a modelhost, send the body unread, wait no longer than the deadline.

Lives on the event loop and answers by callback, because that is what the lane needs; Flask's threads use `predict` and
`call`, which wait. A prediction whose modelhost is lost, silent or faulty, or does not have the version, is tried once
more elsewhere within a budget; everything else is answered as it came.
"""

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import orjson

from inferrer.balancer import choose_replica
from inferrer.cache import AnswerCache, Known
from inferrer.call import Call, is_fault
from inferrer.replica import Replica
from inferrer.replicas import Replicas
from inferrer.retries import RetryBudget
from inferrer.rooms import Rooms
from inferrer.segments import Lease
from inferrer.targets import Target, Targets
from mlbuffet.channel import Codec, Kind, Payload
from mlbuffet.chassis.context import current_context
from mlbuffet.chassis.request import LARGE_BYTES
from mlbuffet.errors import (
    BusyError,
    ClientGoneError,
    MLBuffetError,
    NotLoadedError,
    QueueFullError,
    ReplicaLostError,
    UnavailableError,
)
from mlbuffet.index import Index

log = logging.getLogger(__name__)

Body = tuple[int, int, bytes | Lease]  # as in a Payload
Done = Callable[[MLBuffetError | None, bytes, Call], None]
Abandon = Callable[[Callable[[], None]], None]

_PREDICT = Kind.PREDICT.value
_SWEEP_S = 0.02
_RETRIED = (NotLoadedError, ReplicaLostError, QueueFullError)


class DataPlane:
    """The prediction path of one inferrer process."""

    def __init__(
        self,
        index: Index,
        places: tuple[str, ...],
        tls: ssl.SSLContext | None = None,
        *,
        most_bytes: int = 1 << 30,
        cache_bytes: int = 0,
    ) -> None:
        """`most_bytes` is how much the bodies in flight may hold together in this process, `cache_bytes` the cache."""
        self.index = index
        self.replicas = Replicas(places, tls, self._failed, self._move_away, index)
        self.loop = asyncio.get_running_loop()
        self.retries: Counter[str] = Counter()
        self.cache = AnswerCache(cache_bytes)
        self._rooms = Rooms(self.replicas, most_bytes)
        self._rng = random.Random()  # noqa: S311 - chance, not secrecy
        self._budget = RetryBudget()
        self._targets = Targets(index, self.replicas)
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
        for replica in self.replicas.connections():
            replica.close()

    # On the event loop ----------------------------------------------------------------------------------------------

    def start(self, ref: bytes, payload: Body, timeout_s: float, done: Done, context: bytes = b"") -> Call:
        """Send a prediction of `context`; `done` is called once, later, with an error or the answer, and the call.

        Raises:
            MLBuffetError: it could not even be sent.
        """
        target = self._targets.find(ref)
        if target.cached and (question := self.cache.question(target.key, payload)):
            known = self.cache.find(question, target.manifest.model)
            if known is not None:
                return self._repeat(known, target, payload, timeout_s, done)
            done = self.cache.keeping(question, done)
        self._budget.request()
        if len(payload[2]) > LARGE_BYTES:
            self._rooms.admit(len(payload[2]))
            payload = self._rooms.placed(payload, target)
        now = time.monotonic()
        call = Call(_PREDICT, target.key, payload, now + timeout_s, done)
        call.ref, call.target, call.context = ref, target, context
        self._send(call, target.candidates, now, target.together)
        return call

    def _repeat(self, known: Known, target: Target, payload: Body, timeout_s: float, done: Done) -> Call:
        """Give a known answer again, a moment later, as any other."""
        call = Call(_PREDICT, target.key, payload, time.monotonic() + timeout_s, done)
        call.target, call.answer_split = target.repeated(), known.split
        self.loop.call_soon(lambda: call.done(None, known.body, call))
        return call

    def room(self, ref: bytes, size_bytes: int, split: int) -> Lease | None:
        """Shared memory for a body that is to come; None where there is no such version, way or memory."""
        try:
            return self._rooms.lease(self._targets.find(ref), size_bytes, split)
        except MLBuffetError:
            return None  # the answer when the body is there, as for any other

    def cancel(self, call: Call) -> None:
        """Give a prediction up, because nobody waits for it any more: its `done` is not called."""
        if call.replica is not None:
            call.replica.cancel(call)
        else:
            call.done = _unheard  # its answer was known, and is on its way

    def _send(self, call: Call, candidates: Sequence[Replica], now: float, together: int = 0) -> None:
        """Send a request to one of these.

        Raises:
            UnavailableError: there is none.
            BusyError: no one takes anything off its connection now.
        """
        replica = choose_replica(candidates, self._rng.random, together, now)
        if replica.full:
            free = [other for other in candidates if not other.full]
            if not free:
                msg = "the modelhosts do not keep up"
                raise BusyError(msg)
            replica = choose_replica(free, self._rng.random)
        if together:
            call.turn_at = now
        replica.start(call, now)

    def _failed(self, call: Call, error: MLBuffetError, replica: Replica) -> None:
        """A modelhost did not answer a request as it should: try elsewhere where that is right."""
        answer: MLBuffetError | None = error
        if call.kind == Kind.PREDICT:
            if is_fault(error):
                self._blame(call, error, replica)
            answer = self._send_again(call, error, replica)
        if answer is not None:
            call.done(answer, b"", call)

    def _blame(self, call: Call, error: MLBuffetError, replica: Replica) -> None:
        """Hold a fault against a modelhost, unless two agree on it: then it is the request that is at fault."""
        if call.blamed is None:
            call.blamed = replica.standing
            self.replicas.fault(replica, error.message)
        else:
            call.blamed.pardon(1)

    def _send_again(self, call: Call, error: MLBuffetError, replica: Replica) -> MLBuffetError | None:
        """Send a request once more where that is right; returns what to answer where it is not."""
        if call.retried or not (is_fault(error) or isinstance(error, _RETRIED)):
            return error
        if isinstance(error, NotLoadedError):
            self._targets.forget()  # what was not loaded there may have been replaced or deleted since
        try:
            target = self._targets.find(call.ref)
            candidates = _elsewhere(target.candidates, error, replica)
            # What never began costs nothing; all else is budgeted.
            if not candidates or not (isinstance(error, NotLoadedError) or self._budget.take()):
                return error
            self._resend(call, target, candidates, error.code)
        except MLBuffetError as other:
            return other
        return None

    def _resend(self, call: Call, target: Target, candidates: Sequence[Replica], why: str) -> None:
        call.retried = True
        call.target, call.key = target, target.key
        self._send(call, candidates, time.monotonic())
        self.retries[why] += 1

    def _move_away(self, replica: Replica) -> None:
        """Send what waits on an ejected modelhost once more elsewhere; what cannot be waits on, it may still come."""
        for call in replica.movable():
            try:
                target = self._targets.find(call.ref)
                candidates = [other for other in target.candidates if other is not replica and other.ready]
                if not candidates or not self._budget.take():
                    return
                replica.cancel(call)
                self._resend(call, target, candidates, "EJECTED")
            except MLBuffetError as error:
                replica.cancel(call)
                call.done(error, b"", call)

    async def _sweep(self) -> None:
        """End overdue requests; let the retry budget grow old."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._budget.age(_SWEEP_S)
            self.cache.follow(self.index)
            now = time.monotonic()
            self._rooms.age(now)
            for replica in self.replicas.connections():
                replica.age(_SWEEP_S)
                if replica.in_flight:
                    replica.expire(now)

    # From other threads ---------------------------------------------------------------------------------------------

    def predict(
        self, ref: bytes, payload: Payload, timeout_s: float, abandon: Abandon | None = None
    ) -> tuple[bytes, int, Target]:
        """Send a prediction and wait for its answer: its body, split and target.

        `abandon` is given what ends the wait when the client is gone.

        Raises:
            MLBuffetError: what the client is to be told.
        """
        future: Future[tuple[bytes, int, Target]] = Future()
        started: list[Call] = []
        context = current_context.get()

        def done(error: MLBuffetError | None, reply: bytes, call: Call) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result((reply, call.answer_split, call.target))

        def start() -> None:
            try:
                started.append(self.start(ref, payload, timeout_s, done, context))
            except MLBuffetError as error:
                future.set_exception(error)

        def give_up() -> None:
            if not future.done():
                self.cancel(started[0])
                future.set_exception(ClientGoneError("the client is gone"))

        self.loop.call_soon_threadsafe(start)
        if abandon is not None:
            abandon(lambda: self._on_loop(give_up))
        return future.result()

    def _on_loop(self, action: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(action)

    def call(
        self, replica: Replica | None, operation: str, timeout_s: float, **arguments: object
    ) -> Future[dict[str, Any]]:
        """Ask a modelhost to do something, None for any ready one; the future has its answer or its MLBuffetError."""
        future: Future[dict[str, Any]] = Future()
        context = current_context.get()
        body = orjson.dumps(arguments)

        def done(error: MLBuffetError | None, reply: bytes, _: Call) -> None:
            try:
                if error is not None:
                    raise error
                future.set_result(orjson.loads(reply))
            except MLBuffetError as failure:
                future.set_exception(failure)
            except ValueError:
                future.set_exception(MLBuffetError("the modelhost's answer cannot be read"))

        def start() -> None:
            now = time.monotonic()
            call = Call(Kind.CALL, operation.encode(), Payload(Codec.NONE, 0, body), now + timeout_s, done)
            call.context = context
            try:
                self._send(call, [replica] if replica else self.replicas.ready_for(operation), now)
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


def _unheard(error: MLBuffetError | None, body: bytes, call: Call) -> None:
    """Tell nobody."""


def _elsewhere(candidates: Sequence[Replica], error: MLBuffetError, replica: Replica) -> Sequence[Replica]:
    """Where a request may be sent after `replica` answered it with an error."""
    if isinstance(error, NotLoadedError):
        return candidates  # this one too: the name may stand for another version by now
    others = [other for other in candidates if other is not replica]
    if isinstance(error, QueueFullError):  # who is busier has no room either
        return [other for other in others if other.in_flight <= replica.in_flight]
    return [other for other in others if not other.standing.faults] or others
