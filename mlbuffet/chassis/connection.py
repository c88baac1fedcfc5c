"""One client connection: one request at a time to the lane or to Flask, answers in order, bounded both ways."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.chassis.reader import RequestReader, cut_short, too_slow
from mlbuffet.chassis.receiver import BodyReceiver, HeadReceiver
from mlbuffet.chassis.request import LARGE_BYTES, Request
from mlbuffet.chassis.writer import NEVER, ResponseWriter, render_head
from mlbuffet.chassis.wsgi import HIGH_WATER_BYTES, start_call
from mlbuffet.errors import BusyError, IncompleteBodyError, MLBuffetError, RequestTimeoutError

if TYPE_CHECKING:
    from mlbuffet.chassis.http import HttpServer

# A FIN may be only a half-close, as `nc` does it; nginx does not wait at all.
GONE_S = 1.0


class HttpConnection(RequestReader, ResponseWriter, asyncio.Protocol):
    """The state of one connection."""

    def __init__(self, server: "HttpServer") -> None:
        RequestReader.__init__(self, server.limits, server.gate, server.loop.time)
        ResponseWriter.__init__(self, server.limits, server.loop)
        self.server = server
        self._waiting: deque[Request] = deque()
        self._paused_at = NEVER
        self._half_closed = False
        self._closed = False
        self._piece = b""  # that is being read
        self.idle_since = server.loop.time()  # where it is
        self._between = True  # nothing has come since the last request was whole

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's connections, if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        self.peer = self.endpoints()[0][0]
        if not self.server.admit(self):
            self.deaf = True
            self._active = request = Request()
            request.complete = True  # so that closing does not wait for what nobody reads
            self._answer_error(request, BusyError("this server has as many connections as it may"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever waits for the rest of a body, to write, or to answer, that nobody is there."""
        self.server.leave(self)
        self._transport = None
        self.deaf = self._closed = True
        self._writable.set()
        self._cut_short()
        # The parser leads back here, a circle: what is kept would be kept until the garbage collector comes round.
        self.incoming = None
        self._waiting.clear()
        active, self._active = self._active, None
        if active is None:
            return
        if active.in_lane:
            self.server.lane.gone(active)
        elif active.on_gone is not None:
            active.on_gone()
            active.on_gone = None

    def eof_received(self) -> bool:
        """Let a client that has sent all close its half and still read the answer."""
        self._half_closed = True
        self._cut_short()
        if self.incoming is not None and not self.deaf:
            self._reject(IncompleteBodyError("the connection was closed before the request was whole"))
        if self._active is not None:
            self._loop.call_later(GONE_S, self._give_up, self._active)
        return self._active is not None

    def watch(self, request: Request, on_gone: Callable[[], None]) -> None:
        """Have `on_gone` called once if the client leaves before its answer; at once if it has left."""
        if request is self._active:
            request.on_gone = on_gone
        else:
            on_gone()

    def _give_up(self, request: Request) -> None:
        """Take a client that has closed its half a while ago for gone, where an answer can be called off."""
        if request is self._active and (request.in_lane or request.on_gone is not None):
            self.abort()

    def _cut_short(self) -> None:
        """End a stream that will not become whole."""
        active = self._active
        if active is not None and active.stream is not None and not active.complete:
            active.stream.end(cut_short(active))
            self.incoming = None

    def pause_writing(self) -> None:
        """Take no more requests from a client that does not read the answers it has."""
        super().pause_writing()
        self._pause()

    def resume_writing(self) -> None:
        """Go on with what waited."""
        super().resume_writing()
        if self._active is None and not self._closed:
            self._next()

    def data_received(self, data: bytes) -> None:
        """Read on, unless what follows is of no interest; while a request is answered, only what came with it."""
        if self.deaf:
            self._pause()  # nor does it cost anything to drop
            return
        if self._between and self._active is None:
            known = self.server.heads.find(data)
            if known is not None and self.server.gate.again(known):
                self._active, self.expires_at = known, NEVER
                self.server.lane.handle(known, self)
                return
        busy = self._active is not None and self._active.complete
        self._piece = data if self._between else b""
        self._between = False
        if not self.feed(data) and self.refusal is None:
            # No other protocol is spoken here: the request is answered as if it had not asked, the rest is dropped.
            self.deaf = True
            last = self._waiting[-1] if self._waiting else self._active
            if last is not None:
                last.keep_alive = False
            else:
                self._close(linger=False)
        if self.refusal is not None and not self._closed:
            self._reject(self.refusal)
        elif busy or self._waiting:
            self._pause()
        incoming = self.incoming
        if incoming is not None and incoming.room is not None and not self.deaf and self._transport is not None:
            self._piece = b""
            self._transport.set_protocol(BodyReceiver(self, incoming, incoming.room))

    def room_filled(self, request: Request, size: int) -> bool:
        """Take note of so many bytes of a body that were received straight into their room; tells whether to go on."""
        busy = self._active is not None
        if not self.deaf:
            self.body_filled(request, size)
        ended = self.deaf or request is not self.incoming
        if ended and self._transport is not None:
            self._transport.set_protocol(HeadReceiver(self, self._transport))
        if busy or self.deaf:
            self._pause()
        return not ended

    def head_complete(self, request: Request) -> None:
        """Decide who answers; a client that waits for leave gets it from the lane at once, from Flask when it reads."""
        if self.server.lane.wants(request):
            request.in_lane = self.server.lane_on
            request.body_limit = min(request.body_limit, self.limits.lane_body_bytes)
            if request.in_lane and LARGE_BYTES < request.content_length <= request.body_limit:
                request.room = self.server.lane.room(request)
        if not request.expects or request.content_length > request.body_limit:
            return
        if request.in_lane:
            self._continue()
        elif self._active is None:
            self._start(request)

    def body_received(self, request: Request, chunk: bytes) -> None:
        """Hand a piece of the body on to the application, or keep it until there is enough to begin with."""
        if request.stream is not None:
            request.stream.feed(chunk)
            if request.stream.buffered > HIGH_WATER_BYTES:
                self._pause()
        elif request.room is not None:
            request.room.view[request.received - len(chunk) : request.received] = chunk
        else:
            request.keep(chunk)
            if not request.in_lane and request.received > HIGH_WATER_BYTES and self._active is None:
                self._start(request)

    def message_complete(self, request: Request) -> None:
        """Begin to answer, or wait for the answer before."""
        if request.stream is not None:
            request.stream.end()
            self._resume()  # or its leaving would not be seen
        elif self._active is None and self._writable.is_set():
            if request.in_lane and self._piece and request.room is None:
                self._between = self.server.heads.learn(request, self._piece)
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: Request) -> None:
        """Give a request to the lane or to Flask."""
        self._active = request
        if request.complete:
            self.expires_at = NEVER
        if request.in_lane:
            self.server.lane.handle(request, self)
            return
        try:
            start_call(request, self)
        except BusyError as error:
            self._answer_error(request, error)

    def body_wanted(self, request: Request) -> None:
        """The application waits for more of the body."""
        if request is not self._active:
            return
        if request.expects and not request.complete:
            request.expects = False
            self._body_ends_at = self._loop.time() + self.limits.body_idle_s
            self._continue()
        self._resume()
        self.extend()

    def respond(self, request: Request, status: int, fields: bytes, body: bytes) -> None:
        """Send a whole answer and go on with the next request (event loop); `fields` are header lines with CRLF."""
        if request is self._active and self._transport is not None:
            self._transport.write(self.head(request, status, fields, len(body)) + body)
            self.finish(request)

    def head(self, request: Request, status: int, fields: bytes, length: int | None) -> bytes:
        """Status line and header lines; `length` None stands for a chunked body."""
        if not request.complete or ((self.server.draining or self._half_closed) and not self._waiting):
            request.keep_alive = False
        return render_head(request, status, self.server.date, fields, length)

    def finish(self, request: Request) -> None:
        """The answer is written: close, or take the next request."""
        if request is not self._active:
            return
        self._active = request.on_gone = None  # which leads back to the request: a circle
        if not request.keep_alive:
            self._close(linger=not request.complete or self.server.draining)
            if request.complete:
                self._resume()  # or it would not be seen that the client closes, too
            else:
                self._pause()
            return
        self.idle_since = now = self.server.now
        self.expires_at = now + self.limits.keep_alive_s
        if (self._waiting or self.refusal is not None or self._paused_at != NEVER) and self._writable.is_set():
            self._next()

    def _next(self) -> None:
        """Take the next request: one that has come already, or whatever comes."""
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self.refusal is not None:
            self._answer_refusal(self.refusal)
        else:
            self._resume()

    def _reject(self, error: MLBuffetError) -> None:
        """What comes on this connection cannot be trusted: answer what is owed, then say so and close."""
        self.deaf = True
        self.refusal = error
        active = self._active
        if active is not None and active.stream is not None and not active.complete:
            active.stream.end(error)
        elif active is None and not self._waiting:
            self._answer_refusal(error)

    def _answer_refusal(self, error: MLBuffetError) -> None:
        self._active = request = self.incoming or Request()
        self.incoming = None
        self._answer_error(request, error)

    def _answer_error(self, request: Request, error: MLBuffetError) -> None:
        """Answer the active request without a route."""
        request.keep_alive = False
        request.request_id = request.request_id or request_id_of(b"")
        fields, body = self.server.lane.render_error(request, error)
        self.server.gate.refused(request, error.status)
        head = self.head(request, error.status, fields, len(body))
        self.write(request, head if request.method == b"HEAD" else head + body)
        self.finish(request)

    def expire(self) -> None:
        """The time for what this connection was doing is over."""
        self.expires_at = NEVER
        active = self._active
        if active is not None and active.stream is not None and not active.complete:
            if self._paused_at == NEVER:
                active.stream.end(too_slow(self.limits))
        elif self.incoming is not None:
            self._reject(RequestTimeoutError("the request did not come in time"))
        else:
            self.close_if_idle()

    @property
    def idle(self) -> bool:
        """Tell whether no request is being received or answered."""
        return self._active is None and self.incoming is None and not self._waiting and not self.deaf

    def close_if_idle(self, since: float = NEVER) -> None:
        """Close unless a request is being received or answered, or was after a moment, or has come and is not read."""
        if not self.idle or self.idle_since >= since:
            return
        if self._paused_at == NEVER and self.has_unread():
            self.expires_at = self._loop.time() + self.limits.head_timeout_s
        else:
            self._close(linger=False)

    def _pause(self) -> None:
        if self._paused_at == NEVER and self._transport is not None and not self._half_closed:
            self._paused_at = self._loop.time()
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused_at != NEVER and self._transport is not None and not self._half_closed:
            # It is not the client that was slow meanwhile.
            self._body_ends_at += self._loop.time() - self._paused_at
            self._paused_at = NEVER
            self._transport.resume_reading()

    def _close(self, *, linger: bool) -> None:
        """Take nothing more, and close when all is sent."""
        self.deaf = self._closed = True
        self.expires_at = NEVER
        self._shut(linger=linger and not self._half_closed)
