"""One client connection: one request at a time to the lane or to Flask, answers in order, bounded both ways."""

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.chassis.reader import RequestReader
from mlbuffet.chassis.request import Request, phrase_of
from mlbuffet.chassis.wsgi import HIGH_WATER_BYTES, BodyStream, WsgiCall
from mlbuffet.errors import (
    BusyError,
    IncompleteBodyError,
    MLBuffetError,
    RequestTimeoutError,
)

if TYPE_CHECKING:
    from mlbuffet.chassis.http import HttpServer

log = logging.getLogger(__name__)

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {phrase_of(status.value)}\r\n".encode() for status in HTTPStatus
}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = frozenset({204, 304})
_NEVER = float("inf")


class HttpConnection(RequestReader, asyncio.Protocol):
    """One client connection: one request at a time, answers in order."""

    def __init__(self, server: "HttpServer") -> None:
        super().__init__(server.limits, server.loop.time)
        self.server = server
        self._loop = server.loop
        self._transport: asyncio.Transport | None = None
        self._active: Request | None = None  # being answered
        self._waiting: deque[Request] = deque()
        self._paused = False
        self._half_closed = False
        self._writable = asyncio.Event()
        self._writable.set()

    # Transport ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's connections."""
        self._transport = cast("asyncio.Transport", transport)
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever waits for the rest of a body, or to write, that nobody is there."""
        self.server.connections.discard(self)
        self._transport = None
        self.deaf = True
        self._writable.set()
        self._cut_short()
        self._active = None

    def eof_received(self) -> bool:
        """Let a client that has sent all close its half and still read the answer."""
        self._half_closed = True
        self._cut_short()
        if self.incoming is not None and not self.deaf:
            self._refuse(IncompleteBodyError("the connection was closed before the request was whole"))
        return self._active is not None

    def _cut_short(self) -> None:
        """End a stream that will not become whole."""
        active = self._active
        if active is not None and active.stream is not None and not active.complete:
            msg = f"the connection ended after {active.received} bytes of the body"
            if active.content_length >= 0:
                msg += f"; Content-Length announced {active.content_length}"
            active.stream.end(IncompleteBodyError(msg))
            self.incoming = None

    def endpoints(self) -> tuple[tuple[str, int], int]:
        """The client's address and our port; both empty when the client is gone already."""
        if self._transport is None:
            return ("", 0), 0
        return self._transport.get_extra_info("peername")[:2], self._transport.get_extra_info("sockname")[1]

    def pause_writing(self) -> None:
        """Hold back writers: the client reads slower than they write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let them go on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Read on, unless what follows is of no interest; while a request is answered, only what came with it."""
        if self.deaf:
            return
        busy = self._active is not None and self._active.complete
        if not self.feed(data):
            # No other protocol is spoken here: the request is answered as if it had not asked, the rest is dropped.
            for request in (self.incoming, self._active, *self._waiting):
                if request is not None:
                    request.keep_alive = False
        if self.refusal is not None:
            self._refuse(self.refusal)
        elif busy or self._waiting:
            self._pause()

    # What the reader says ------------------------------------------------------------------------------------------

    def head_complete(self, request: Request) -> None:
        """Decide who answers; a client that waits for leave gets it from the lane at once, from Flask when it reads."""
        request.keep_alive = request.keep_alive and not self.server.draining
        if self.server.lane.wants(request):
            request.in_lane = self.server.lane_on
            request.body_limit = min(request.body_limit, self.limits.lane_body_bytes)
        if request.expects and request.in_lane:
            self._continue()
        elif request.expects and self._active is None:
            self._start(request)

    def body_received(self, request: Request, chunk: bytes) -> None:
        """Hand a piece of the body on to the application, or keep it until there is enough to begin with."""
        if request.stream is not None:
            request.stream.feed(chunk)
            if request.stream.buffered > HIGH_WATER_BYTES:
                self._pause()
        else:
            request.body.append(chunk)
            if not request.in_lane and request.received > HIGH_WATER_BYTES and self._active is None:
                self._start(request)

    def message_complete(self, request: Request) -> None:
        """Begin to answer, or wait for the answer before."""
        if request.stream is not None:
            request.stream.end()
        elif self._active is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def _continue(self) -> None:
        if self._transport is not None:
            self._transport.write(_CONTINUE)

    # Answering ------------------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        """Give a request to the lane or to Flask."""
        self._active = request
        self.expires_at = _NEVER if request.complete else self._loop.time() + self.limits.body_idle_s
        if request.in_lane:
            self.server.lane.handle(request, self)
            return

        def on_wanted() -> None:
            self._loop.call_soon_threadsafe(self._body_wanted, request)

        request.stream = BodyStream(on_wanted)
        for chunk in request.body:
            request.stream.feed(chunk)
        request.body.clear()
        if request.complete:
            request.stream.end()
        call = WsgiCall(self.server.app, request, self)
        try:
            self.server.submit(call.run)
        except BusyError as error:
            self._answer_error(request, error)

    def _body_wanted(self, request: Request) -> None:
        """The application waits for more of the body."""
        if request is not self._active:
            return
        if request.expects and not request.complete:
            request.expects = False
            self._continue()
        self.expires_at = self._loop.time() + self.limits.body_idle_s
        self._resume()

    def respond(self, request: Request, status: int, fields: bytes, body: bytes) -> None:
        """Send a whole answer and go on with the next request (event loop); `fields` are header lines with CRLF."""
        self.write(request, self.head(request, status, fields, len(body)) + body)
        self.finish(request)

    def write(self, request: Request, data: bytes) -> None:
        """Write a piece of an answer, unless the client has gone since (event loop)."""
        if request is self._active and self._transport is not None:
            self._transport.write(data)

    async def write_later(self, request: Request, data: bytes) -> None:
        """Write a piece when the client has read enough of those before.

        Raises:
            ConnectionError: the client is gone.
        """
        await self._writable.wait()
        if request is not self._active or self._transport is None:
            raise ConnectionAbortedError
        self._transport.write(data)

    def head(self, request: Request, status: int, fields: bytes, length: int | None) -> bytes:
        """Status line and header lines; `length` None stands for a chunked body."""
        if not request.complete or self.server.draining or self._half_closed:
            request.keep_alive = False
        if length is None:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif status in _BODILESS:
            framing = b""
        else:
            framing = b"Content-Length: %d\r\n" % length
        if not request.keep_alive:
            framing += b"Connection: close\r\n"
        elif request.http_version == "1.0":
            framing += b"Connection: keep-alive\r\n"
        name = request.request_id.encode()
        return b"%bDate: %b\r\n%bX-Request-Id: %b\r\n%b\r\n" % (
            _STATUS_LINES[status],
            self.server.date(),
            fields,
            name,
            framing,
        )

    def finish(self, request: Request) -> None:
        """The answer is written: close, or take the next request."""
        if request is not self._active:
            return
        self._active = None
        if not request.keep_alive or self.deaf:
            self._close(linger=not request.complete)
            return
        self.expires_at = self._loop.time() + self.limits.keep_alive_s
        if self._waiting:
            self._start(self._waiting.popleft())
        else:
            self._resume()

    def _refuse(self, error: MLBuffetError) -> None:
        """What comes on this connection cannot be trusted: answer what is owed, then close."""
        self.deaf = True
        self._waiting.clear()
        active, incoming, self.incoming = self._active, self.incoming, None
        if active is None:
            request = incoming or Request()
            self._active = request
            self._answer_error(request, error)
        elif active.stream is not None and not active.complete:
            active.stream.end(error)

    def _answer_error(self, request: Request, error: MLBuffetError) -> None:
        """Answer the active request without a route."""
        request.keep_alive = False
        request.request_id = request.request_id or request_id_of(b"")
        fields, body = self.server.lane.render_error(request.request_id, error)
        self.respond(request, error.status, fields, body)

    def expire(self) -> None:
        """The time for what this connection was doing is over."""
        self.expires_at = _NEVER
        active = self._active
        if active is not None and active.stream is not None and not active.complete:
            if not self._paused:
                msg = f"no byte of the body came for {self.limits.body_idle_s:g} s"
                active.stream.end(RequestTimeoutError(msg))
        elif self.incoming is not None:
            self._refuse(RequestTimeoutError("the request did not come in time"))
        elif active is None:
            self._close(linger=False)

    def close_if_idle(self) -> None:
        """Close unless a request is being received or answered (drain)."""
        if self._active is None and self.incoming is None:
            self._close(linger=False)

    # Writing --------------------------------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._half_closed:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None and not self._half_closed:
            self._paused = False
            self._transport.resume_reading()

    def _close(self, *, linger: bool) -> None:
        """Send all that was written, then FIN; linger where unread bytes would destroy the answer by RST."""
        self.deaf = True
        self.expires_at = _NEVER
        if self._transport is None:
            return
        if not linger or self._half_closed:
            self._transport.close()
            return
        self._pause()
        self._transport.write_eof()
        self._loop.call_later(self.limits.linger_s, self.abort)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
