"""What every call has in common: its id and deadline, how long its message may take to come, how it fails, its count.

A call's bytes are taken as a stream of one message: gRPC would wait for a whole message without end, and hold a place
for a client that never sends one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from inferrer.access import METHODS, RPC, changes
from inferrer.gate import Gate, RpcHead
from inferrer.outcomes import Outcomes
from inferrer.rpc.statuses import REQUEST_ID, abort, request_id_in
from mlbuffet.chassis.context import FIELD, Contexts, current_context, log_fields
from mlbuffet.chassis.request import PREDICT_BYTES
from mlbuffet.chassis.web import CLIENT_GONE, log_failure, log_gone
from mlbuffet.errors import (
    BadRequestError,
    BusyError,
    DeadlineExceededError,
    MLBuffetError,
    RequestTimeoutError,
)

log = logging.getLogger(__name__)

_OK = 200


class RpcCall:
    """One call: who asks for how long, and which model it turned out to be for."""

    __slots__ = ("_context", "asked", "began_at", "model", "request_id", "route")

    def __init__(self, context: Any, route: str, contexts: Contexts) -> None:  # noqa: ANN401 - grpc has no types
        self._context = context
        self.route = route
        self.model = ""  # a registered name, or empty
        self.began_at = time.monotonic()
        metadata = context.invocation_metadata()
        self.request_id = request_id_in(metadata)
        given = next((value for key, value in metadata if key == FIELD), "")
        self.asked = contexts.begin(self.request_id, given.encode() if isinstance(given, str) else given)

    @property
    def seconds(self) -> float:
        """For how long it has been handled."""
        return time.monotonic() - self.began_at

    @property
    def about(self) -> dict[str, Any]:
        """What every record of it says."""
        return log_fields(self.asked.line) | {"model": self.model, "seconds": round(self.seconds, 6)}

    @property
    def head(self) -> RpcHead:
        """What came before its message."""
        context = self._context
        return RpcHead(self.route, context.invocation_metadata(), context.peer(), self.request_id)

    def remaining_s(self) -> float | None:
        """Seconds that the client will still wait; None where it does not say."""
        remaining: float | None = self._context.time_remaining()
        return remaining


Method = Callable[[bytes, RpcCall], Awaitable[bytes]]


class Calls:
    """All calls of one process."""

    def __init__(self, outcomes: Outcomes, gate: Gate, *, most: int, message_s: float) -> None:
        """`most` calls are taken at once; a call's message is there within `message_s`."""
        self._outcomes = outcomes
        self._gate = gate
        self._most = most
        self._message_s = message_s
        self.active = 0

    def handler(self, route: str, method: Method) -> Any:  # noqa: ANN401 - grpc has no types
        """A method as grpc takes it: bytes in, bytes out."""

        async def handle(_: object, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
            self.active += 1
            try:
                return await self._run(method, RpcCall(context, route, self._outcomes.contexts), context)
            finally:
                self.active -= 1

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _run(self, method: Method, call: RpcCall, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """Answer a call, or end it with an error; count it, and log it where it failed or was slow."""
        current_context.set(call.asked.line)  # of this task, and of threads that it asks
        try:
            reply = await self._answer(method, call, context)
        except MLBuffetError as error:
            self._failed(call, error)
            await abort(context, error, call.request_id)
            raise  # never reached: `abort` raises what ends the handler
        self._ended(call, _OK)
        if call.seconds > self._outcomes.recorded_s:
            self._outcomes.record(call.route, _OK, **call.about)
        context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
        return reply

    def _ended(self, call: RpcCall, status: int) -> None:
        """Count a call, and record it where it changes something."""
        self._outcomes.counts.count(call.route, RPC, status, call.model, call.seconds)
        self._outcomes.end(call.asked, call.route, call.began_at, status, call.model)
        if changes(METHODS.get(call.route), RPC):
            self._gate.rpc_done(call.head, call.model, status)

    async def _answer(self, method: Method, call: RpcCall, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """Run a method; what nobody foresaw is an INTERNAL without details.

        Raises:
            MLBuffetError: what the client is to be told.
        """
        try:
            if self.active > self._most:
                msg = "this process handles as many calls as it may"
                raise BusyError(msg)
            return await method(await self._receive(context), call)
        except MLBuffetError:
            raise
        except asyncio.CancelledError:
            self._gone(call)
            raise
        except Exception as error:
            log.exception("unforeseen failure", extra={"request_id": call.request_id})
            msg = "something failed inside the server; its log has the details"
            raise MLBuffetError(msg) from error

    async def _receive(self, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """The call's message.

        Raises:
            RequestTimeoutError, BadRequestError: it did not come.
        """
        try:
            async with asyncio.timeout(self._message_s):
                body: bytes | object = await context.read()
        except TimeoutError:
            msg = f"the message was not there within {self._message_s:g} s"
            raise RequestTimeoutError(msg) from None
        if isinstance(body, bytes):
            return body
        msg = f"the call has no message, or one of more than {PREDICT_BYTES} bytes"
        raise BadRequestError(msg)

    def _gone(self, call: RpcCall) -> None:
        """Count and log a call that gRPC has ended: the client's time was over, or it left."""
        if call.remaining_s() == 0:
            error = DeadlineExceededError("the answer was not there within the time that the client allowed")
            self._failed(call, error)
        else:
            self._ended(call, CLIENT_GONE)
            log_gone(call.route, **call.about)

    def _failed(self, call: RpcCall, error: MLBuffetError) -> None:
        """Count and log a call that is answered with an error."""
        self._ended(call, error.status)
        self._outcomes.counts.failures[error.code] += 1
        log_failure(error, route=call.route, **call.about)
