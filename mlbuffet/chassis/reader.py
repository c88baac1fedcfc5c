"""Reads requests off a connection: llhttp's events in, whole heads and pieces of bodies out.

The parser has no limits of its own, so they are all here: sizes of line, head and body, time for each.
"""

from collections.abc import Callable

import httptools

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.chassis.request import Limits, Request
from mlbuffet.errors import BadRequestError, HeadersTooLargeError, MLBuffetError, TooLargeError, URITooLongError


class RequestReader:
    """The reading half of a connection; the other half inherits it and is told what came."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.incoming: Request | None = None  # being received
        self.refusal: MLBuffetError | None = None
        self.deaf = False  # what follows on the connection is of no interest
        self.expires_at = clock() + limits.head_timeout_s
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0

    def head_complete(self, request: Request) -> None:
        """Take a request whose body is still to come."""
        raise NotImplementedError

    def body_received(self, request: Request, chunk: bytes) -> None:
        """Take a piece of its body."""
        raise NotImplementedError

    def message_complete(self, request: Request) -> None:
        """Take note that the body is whole."""
        raise NotImplementedError

    def feed(self, data: bytes) -> bool:
        """Parse what came; `refusal` then says what is wrong with it. False when another protocol is asked for."""
        in_head = self.incoming is None or not self.incoming.method
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return False
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self._refuse(BadRequestError(f"this is not a valid HTTP request: {error}"))
        if in_head and self.incoming is not None and not self.incoming.method:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(HeadersTooLargeError(f"a request head has at most {self.limits.head_bytes} bytes"))
        return True

    def _refuse(self, error: MLBuffetError) -> None:
        """Keep the first thing that is wrong."""
        self.refusal = self.refusal or error

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.incoming = Request()
        self._head_bytes = 0
        self.expires_at = self._clock() + self.limits.head_timeout_s

    def on_url(self, part: bytes) -> None:
        """Collect the request target."""
        if self.incoming is None:
            return
        self.incoming.target += part
        if len(self.incoming.target) > self.limits.line_bytes:
            self._refuse(URITooLongError(f"a request line has at most {self.limits.line_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field."""
        request, limits = self.incoming, self.limits
        if request is None or self.refusal is not None:
            return
        if len(request.headers) >= limits.header_count or len(name) + len(value) > limits.header_bytes:
            msg = f"a request has at most {limits.header_count} header fields of {limits.header_bytes} bytes"
            self._refuse(HeadersTooLargeError(msg))
            return
        name = name.lower()
        request.headers.append((name, value))
        fields = request.fields
        # A field that comes twice is one with both values, as WSGI has it: the lane and Flask read the same.
        fields[name] = b"%b,%b" % (fields[name], value) if name in fields else value

    def on_headers_complete(self) -> None:
        """Complete the head; refuse a body that is announced too large before any of it is read."""
        request = self.incoming
        if request is None or self.refusal is not None or self.deaf:
            return
        fields, parser = request.fields, self._parser
        request.method = parser.get_method()
        request.http_version = parser.get_http_version()
        request.keep_alive = parser.should_keep_alive()
        request.path, _, request.query = request.target.partition(b"?")
        request.request_id = request_id_of(fields.get(b"x-request-id", b""))
        request.content_type = fields.get(b"content-type", b"")
        request.content_length = int(fields.get(b"content-length", -1))
        request.expects = b"expect" in fields
        request.body_limit = self.limits.body_bytes
        self.expires_at = self._clock() + self.limits.body_idle_s
        if not request.path.startswith(b"/"):
            self._refuse(BadRequestError("the request target is to be a path that begins with '/'"))
            return
        self.head_complete(request)
        if request.content_length > request.body_limit:
            msg = f"the body has at most {request.body_limit} bytes; announced were {request.content_length}"
            self._refuse(TooLargeError(msg))

    def on_body(self, chunk: bytes) -> None:
        """Pass on a piece of the body, unless it is more than may come."""
        request = self.incoming
        if request is None or self.refusal is not None:
            return
        request.received += len(chunk)
        self.expires_at = self._clock() + self.limits.body_idle_s
        if request.received > request.body_limit:
            self._refuse(TooLargeError(f"the body has at most {request.body_limit} bytes"))
        else:
            self.body_received(request, chunk)

    def on_message_complete(self) -> None:
        """Complete the request."""
        request = self.incoming
        if request is None or self.refusal is not None or self.deaf:
            return
        self.incoming = None
        request.complete = True
        self.message_complete(request)
