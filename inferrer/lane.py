"""The fast lane: predictions with a JSON body, answered on the event loop ahead of Flask, with the same answers.

It reads method, path and header fields, and hands the body on unread. Whatever is not plainly its own it leaves to
Flask, whose route gives the same answer for everything; tests/contract holds the two equal.
"""

import time
from functools import lru_cache, partial

from inferrer.dataplane import DataPlane
from inferrer.replica import Call
from inferrer.terms import TIMEOUT_HEADER, check_encoding, codec_of, timeout_of
from mlbuffet.channel import Codec
from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.request import Request
from mlbuffet.chassis.telemetry import RequestCounts
from mlbuffet.chassis.web import (
    CLIENT_GONE,
    NoLane,
    error_answer,
    header_lines,
    log_failure,
    log_gone,
    log_slow,
)
from mlbuffet.errors import MLBuffetError, UnsupportedTypeError

_PREFIX, _SUFFIX = b"/api/v1/models/", b"/prediction"
_METHODS = {b"GET": "GET", b"POST": "POST"}
_ROUTE = "/api/v1/models/<name>/prediction"
_TIMEOUT = TIMEOUT_HEADER.lower().encode()
_NAME_BYTES = 80
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")


@lru_cache(1024)
def _is_plain(name: bytes) -> bool:
    """Tell whether a name needs no decoding."""
    return 0 < len(name) <= _NAME_BYTES and _PLAIN.issuperset(name)


@lru_cache(256)
def _is_json(content_type: bytes) -> bool:
    """Tell whether a body of this type is the lane's."""
    try:
        return codec_of(content_type.decode("latin-1")) is Codec.BUFFET
    except UnsupportedTypeError:
        return False


class PredictionLane(NoLane):
    """The lane of one inferrer process."""

    def __init__(self, dataplane: DataPlane, counts: RequestCounts, timeout_s: float, slow_s: float) -> None:
        self._dataplane = dataplane
        self._counts = counts
        self._timeout_s = timeout_s
        self._slow_s = slow_s

    def wants(self, request: Request) -> bool:
        """Take JSON predictions of plainly named models."""
        path = request.path
        return (
            path.startswith(_PREFIX)
            and path.endswith(_SUFFIX)
            and request.method in _METHODS
            and not request.query
            and _is_plain(path[len(_PREFIX) : -len(_SUFFIX)])
            and _is_json(request.content_type)
        )

    def handle(self, request: Request, connection: HttpConnection) -> None:
        """Send the prediction; its answer is written when it comes."""
        began_at = time.monotonic()

        def done(error: MLBuffetError | None, reply: bytes, call: Call) -> None:
            if error is not None:
                self._refuse(request, connection, error)
                return
            target = call.target
            self._counts.count(_ROUTE, _METHODS[request.method], 200, target.manifest.model)
            seconds = time.monotonic() - began_at
            if seconds > self._slow_s:
                log_slow(_ROUTE, seconds, request.request_id)
            connection.respond(request, 200, target.reply_lines, reply)

        body = bytes(request.body[0]) if len(request.body) == 1 else b"".join(request.body)
        try:
            fields = request.fields
            timeout_s = self._timeout_s
            if _TIMEOUT in fields:
                timeout_s = timeout_of(fields[_TIMEOUT].decode("latin-1"), timeout_s)
            if b"content-encoding" in fields:
                check_encoding(fields[b"content-encoding"].decode("latin-1"))
            ref = request.path[len(_PREFIX) : -len(_SUFFIX)]
            call = self._dataplane.start(ref, Codec.BUFFET, body, timeout_s, done)
            request.on_gone = partial(self._give_up, request, call)
        except MLBuffetError as error:
            self._refuse(request, connection, error)

    def _give_up(self, request: Request, call: Call) -> None:
        """Have nobody compute what nobody waits for."""
        self._dataplane.cancel(call)
        self._count(request, CLIENT_GONE)
        log_gone(_ROUTE, request.request_id)

    def _count(self, request: Request, status: int) -> None:
        """Count what was not answered with a prediction."""
        name = request.path[len(_PREFIX) : -len(_SUFFIX)].decode("ascii").partition(":")[0]
        model = name if name in self._dataplane.index.models() else ""
        self._counts.count(_ROUTE, _METHODS[request.method], status, model)

    def _refuse(self, request: Request, connection: HttpConnection, error: MLBuffetError) -> None:
        self._count(request, error.status)
        log_failure(error, request.request_id, _ROUTE)
        headers, body = error_answer(error, request.request_id)
        connection.respond(request, error.status, header_lines(headers), body)

    def render_error(self, request_id: str, error: MLBuffetError) -> tuple[bytes, bytes]:
        """An error for a request that reached no route."""
        self._counts.count("refused", "", error.status, "")
        return super().render_error(request_id, error)
