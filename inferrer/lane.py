"""The fast lane: predictions with a plain JSON or binary body, answered on the event loop ahead of Flask.

It reads method, path and header fields, and hands the body on unread. Whatever is not plainly its own it leaves to
Flask, whose routes give the same answer for everything; tests/contract holds the two equal.
"""

import asyncio
import sys
import time
from typing import Any, NamedTuple

from inferrer.call import Call
from inferrer.dataplane import DataPlane
from inferrer.outcomes import Outcomes
from inferrer.replica import MEASURED
from inferrer.segments import Lease
from inferrer.settings import InferrerSettings
from inferrer.targets import answer_lines
from inferrer.terms import (
    HEADER_LENGTH_HEADER,
    TIMEOUT_HEADER,
    check_tensor_type,
    codec_of,
    tensor_codec,
    timeout_of,
)
from mlbuffet.channel import Codec
from mlbuffet.chassis.compression import coding_headers, compress, wanted_coding
from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.context import FIELD, log_fields
from mlbuffet.chassis.request import Request
from mlbuffet.chassis.web import (
    CLIENT_GONE,
    NoLane,
    error_answer,
    header_lines,
    log_failure,
    log_gone,
)
from mlbuffet.errors import MLBuffetError

_V1, _V1_END = b"/api/v1/models/", b"/prediction"
_V2, _V2_END = b"/v2/models/", b"/infer"
_V1_ROUTE = "/api/v1/models/<name>/prediction"
_V2_ROUTE, _V2_VERSION_ROUTE = "/v2/models/<name>/infer", "/v2/models/<name>/versions/<version>/infer"
_METHODS = {b"GET": "GET", b"POST": "POST"}
_TRACE = FIELD.encode()
_TIMEOUT = TIMEOUT_HEADER.lower().encode()
_HEADER_LENGTH = HEADER_LENGTH_HEADER.lower().encode()
_NAME_BYTES = 80
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")
_VERSION = frozenset(b"0123456789")


class Ticket(NamedTuple):
    """What a head says of the prediction that it begins."""

    ref: bytes
    codec: int
    split: int
    timeout_s: float
    route: str
    method: str


class PredictionLane(NoLane):
    """The lane of one inferrer process."""

    def __init__(self, dataplane: DataPlane, outcomes: Outcomes, settings: InferrerSettings) -> None:
        self._dataplane = dataplane
        self._outcomes = outcomes
        self._counts = outcomes.counts
        self._traced = outcomes.contexts.tracer is not None
        self._timeout_s = settings.timeout_s
        self._long_bytes = settings.gzip_bytes or sys.maxsize

    def wants(self, request: Request) -> bool:
        """Take predictions of plainly named models whose header fields are plain too."""
        if request.query or b"content-encoding" in request.fields:
            return False
        try:
            request.ticket = self._v1(request) or self._v2(request)
        except MLBuffetError:
            return False  # Flask finds the same and says so
        return request.ticket is not None

    def _v1(self, request: Request) -> Ticket | None:
        path = request.path
        if not (path.startswith(_V1) and path.endswith(_V1_END) and request.method in _METHODS):
            return None
        ref = path[len(_V1) : -len(_V1_END)]
        if not _is_plain(ref) or codec_of(request.content_type.decode("latin-1")) is not Codec.BUFFET:
            return None
        return Ticket(ref, Codec.BUFFET, 0, self._timeout_of(request), _V1_ROUTE, _METHODS[request.method])

    def _v2(self, request: Request) -> Ticket | None:
        path = request.path
        if not (path.startswith(_V2) and path.endswith(_V2_END) and request.method == b"POST"):
            return None
        name, separator, version = path[len(_V2) : -len(_V2_END)].partition(b"/versions/")
        if not _is_plain(name) or b":" in name or (separator and not _is_version(version)):
            return None
        check_tensor_type(request.content_type.decode("latin-1"))
        codec, split = Codec.OIP, 0
        if _HEADER_LENGTH in request.fields:
            codec, split = tensor_codec(request.fields[_HEADER_LENGTH].decode("latin-1"), request.content_length)
        ref = name + b":" + version if separator else name
        route = _V2_VERSION_ROUTE if separator else _V2_ROUTE
        return Ticket(ref, codec, split, self._timeout_of(request), route, "POST")

    def _timeout_of(self, request: Request) -> float:
        if _TIMEOUT not in request.fields:
            return self._timeout_s
        return timeout_of(request.fields[_TIMEOUT].decode("latin-1"), self._timeout_s)

    def room(self, request: Request) -> Lease | None:
        """Shared memory for a large body."""
        ticket: Ticket = request.ticket
        return self._dataplane.room(ticket.ref, request.content_length, ticket.split)

    def handle(self, request: Request, connection: HttpConnection) -> None:
        """Send the prediction; its answer is written when it comes."""
        request.began_at = time.monotonic()
        ticket: Ticket = request.ticket
        pieces = request.body
        body = request.room
        if body is None:
            body = pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)
        try:
            payload = ticket.codec, ticket.split, body
            if self._traced or _TRACE in request.fields:
                request.asked = self._outcomes.contexts.begin(request.request_id, request.header(_TRACE))
                context = request.asked.line
            else:
                context = request.request_id.encode()
            call = self._dataplane.start(ticket.ref, payload, ticket.timeout_s, self._done, context)
        except MLBuffetError as error:
            self._refuse(request, connection, error)
        else:
            call.asker = request, connection
            request.call = call

    def _done(self, error: MLBuffetError | None, body: bytes, call: Call) -> None:
        """Write the answer."""
        request, connection = call.asker
        request.call = None  # which leads back to the request: a circle
        if error is not None:
            self._refuse(request, connection, error)
            return
        ticket, model = request.ticket, call.target.manifest.model
        now = time.monotonic()
        seconds = now - request.began_at
        self._counts.count(ticket.route, ticket.method, 200, model, seconds)
        if call.sent_at and not call.frame_id & MEASURED:
            self._outcomes.steps.observe(call.sent_at - request.began_at, "lane")
        if seconds > self._outcomes.recorded_s:
            more = self._about(request, model) | call.timings(now)
            self._outcomes.record(ticket.route, 200, seconds, **more)
        if request.asked is not None:
            self._outcomes.end(request.asked, ticket.route, request.began_at, 200, model)
        lines = answer_lines(call.target, call.answer_split)
        if len(body) < self._long_bytes or call.answer_split:
            connection.respond(request, 200, lines, body)
        else:
            self._respond_at_length(request, connection, lines, body)

    def _respond_at_length(self, request: Request, connection: HttpConnection, lines: bytes, body: bytes) -> None:
        """Write an answer that is long enough to be compressed, in a thread, where the client asks for it."""
        coding = wanted_coding(request.header(b"accept-encoding").decode("latin-1"))
        lines += header_lines(coding_headers(coding))
        if not coding:
            connection.respond(request, 200, lines, body)
            return
        packed = asyncio.ensure_future(connection.server.pool(request).work(compress, body, coding))
        packed.add_done_callback(lambda done: connection.respond(request, 200, lines, done.result()))

    def gone(self, request: Request) -> None:
        """Have nobody compute what nobody waits for."""
        call, request.call = request.call, None
        if call is not None:
            self._dataplane.cancel(call)
            log_gone(request.ticket.route, **self._ended(request, CLIENT_GONE))

    def _ended(self, request: Request, status: int) -> dict[str, Any]:
        """Count what was not answered with a prediction; returns what its record says."""
        ticket: Ticket = request.ticket
        name = ticket.ref.decode("ascii").partition(":")[0]
        model = name if name in self._dataplane.index.models() else ""
        seconds = time.monotonic() - request.began_at
        self._counts.count(ticket.route, ticket.method, status, model, seconds)
        if request.asked is not None:
            self._outcomes.end(request.asked, ticket.route, request.began_at, status, model)
        return self._about(request, model) | {"seconds": round(seconds, 6)}

    def _about(self, request: Request, model: str) -> dict[str, Any]:
        """What every record of a request says of it."""
        ids = {"request_id": request.request_id} if request.asked is None else log_fields(request.asked.line)
        return ids | {"model": model}

    def _refuse(self, request: Request, connection: HttpConnection, error: MLBuffetError) -> None:
        self._counts.failures[error.code] += 1
        log_failure(error, route=request.ticket.route, **self._ended(request, error.status))
        headers, body = error_answer(error, request.request_id, request.path)
        connection.respond(request, error.status, header_lines(headers), body)

    def render_error(self, request: Request, error: MLBuffetError) -> tuple[bytes, bytes]:
        """An error for a request that reached no route."""
        self._counts.failures[error.code] += 1
        self._counts.count("refused", "", error.status, "", 0)
        return super().render_error(request, error)


def _is_plain(name: bytes) -> bool:
    """Tell whether a name needs no decoding."""
    return 0 < len(name) <= _NAME_BYTES and _PLAIN.issuperset(name)


def _is_version(text: bytes) -> bool:
    return 0 < len(text) < 10 and _VERSION.issuperset(text)  # noqa: PLR2004
