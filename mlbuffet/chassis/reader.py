"""Reads requests off a connection: llhttp's events in, whole heads and pieces of bodies out.

The parser has no limits of its own, so they are all here: sizes of line, head and body, time for each. What it lets
through and we do not take is refused here too, before anybody else sees the request.
"""

import re
from collections.abc import Callable

import httptools

from mlbuffet.chassis.ids import request_id_of
from mlbuffet.chassis.request import Gate, Limits, Request
from mlbuffet.errors import (
    BadRequestError,
    HeadersTooLargeError,
    IncompleteBodyError,
    MLBuffetError,
    NotFoundError,
    RequestTimeoutError,
    TooLargeError,
    UnknownMethodError,
    URITooLongError,
)

_VERSIONS = frozenset({"1.0", "1.1"})
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"})
_METHOD = re.compile(rb"(?:\A|\n)([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?= |\Z)")
_ENCODED_SLASH = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)
# A trailer that frames, routes or authorises would come after all that was decided (RFC 9110, 6.5.1).
_FORBIDDEN_TRAILERS = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect host "
    b"if-match origin te trailer transfer-encoding upgrade x-request-timeout-ms".split()
)
_CHUNK_OVERHEAD = 8  # bytes of framing for each byte of a chunked body; chunks of one byte need five


class RequestReader:
    """The reading half of a connection; the other half inherits it and is told what came."""

    def __init__(self, limits: Limits, gate: Gate, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.incoming: Request | None = None  # being received
        self.refusal: MLBuffetError | None = None
        self.deaf = False  # what follows on the connection is of no interest
        self.expires_at = clock() + limits.head_timeout_s
        self.peer = ""
        self._gate = gate
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._line = b""  # of a request whose method is not whole yet
        self._head_bytes = 0
        self._framing_bytes = 0
        self._trailer_bytes = 0
        self._body_ends_at = 0.0

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
        before = self.incoming
        received = before.received if before is not None else 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return False
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self._refuse(self._unreadable(str(error), data))
        if self.incoming is not None and self.refusal is None:
            self._count(self.incoming, data, received if self.incoming is before else -1)
        return True

    def _count(self, request: Request, data: bytes, received: int) -> None:
        """Bound what is no body: a head that is not whole, and from the second piece on what stands between chunks."""
        if not request.method:
            self._head_bytes += len(data)
            self._line += b"" if request.target else data
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(HeadersTooLargeError(f"a request head has at most {self.limits.head_bytes} bytes"))
        elif received >= 0:
            self._framing_bytes += len(data) - (request.received - received)
            if self._framing_bytes > self.limits.head_bytes + _CHUNK_OVERHEAD * request.received:
                self._refuse(BadRequestError("the body has more chunk extensions and trailers than content"))

    def _unreadable(self, why: str, data: bytes) -> MLBuffetError:
        """Tell a method that HTTP does not have from what is no request at all."""
        if "method" in why and not _METHODS.issuperset(_METHOD.findall((self._line + data).lstrip(b"\r\n"))):
            return UnknownMethodError("HTTP has no such method")
        return BadRequestError(f"this is not a valid HTTP request: {why}")

    def _refuse(self, error: MLBuffetError) -> None:
        """Keep the first thing that is wrong; nothing is read after it."""
        self.refusal = self.refusal or error

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.refusal is not None or self.deaf:
            return
        self.incoming = Request()
        self._line = b""
        self._head_bytes = self._framing_bytes = self._trailer_bytes = 0
        self.expires_at = self._clock() + self.limits.head_timeout_s

    def on_url(self, part: bytes) -> None:
        """Collect the request target."""
        if self.incoming is None or self.refusal is not None:
            return
        self.incoming.target += part
        if len(self.incoming.target) > self.limits.line_bytes:
            self._refuse(URITooLongError(f"a request line has at most {self.limits.line_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field."""
        request, limits = self.incoming, self.limits
        if request is None or self.refusal is not None:
            return
        name = name.lower()
        if request.method:
            self._check_trailer(name, value)
            return
        if len(request.headers) >= limits.header_count or len(name) + len(value) > limits.header_bytes:
            msg = f"a request has at most {limits.header_count} header fields of {limits.header_bytes} bytes"
            self._refuse(HeadersTooLargeError(msg))
            return
        request.headers.append((name, value))
        fields = request.fields
        # A field that comes twice is one with both values, as WSGI has it: the lane and Flask read the same.
        fields[name] = b"%b,%b" % (fields[name], value) if name in fields else value

    def _check_trailer(self, name: bytes, value: bytes) -> None:
        """Trailers are dropped, and those that may not be one are refused; they are bounded as the head is."""
        self._trailer_bytes += len(name) + len(value) + 4  # a colon, a space, the end of the line
        if self._trailer_bytes > self.limits.head_bytes:
            self._refuse(BadRequestError(f"trailers have at most {self.limits.head_bytes} bytes"))
        if name in _FORBIDDEN_TRAILERS:
            self._refuse(BadRequestError(f"{name.decode('ascii')} may not come behind the body"))

    def on_headers_complete(self) -> None:
        """Complete the head; refuse a body that is announced too large before any of it is read."""
        request = self.incoming
        if request is None or self.refusal is not None or self.deaf:
            return
        fields, parser = request.fields, self._parser
        request.peer = self.peer
        request.method = parser.get_method()
        request.http_version = parser.get_http_version()
        request.keep_alive = parser.should_keep_alive()
        request.path, _, request.query = request.target.partition(b"?")
        request.request_id = request_id_of(fields.get(b"x-request-id", b""))
        request.content_type = fields.get(b"content-type", b"")
        request.content_length = int(fields.get(b"content-length", -1))
        request.expects = b"expect" in fields and request.http_version == "1.1"
        request.body_limit = self.limits.body_bytes
        self.expires_at = self._body_ends_at = self._clock() + self.limits.body_idle_s
        fault = self._fault(request)
        if fault is not None:
            self._refuse(fault)
            return
        self.head_complete(request)
        if request.content_length > request.body_limit:
            msg = f"the body has at most {request.body_limit} bytes; announced were {request.content_length}"
            self._refuse(TooLargeError(msg))

    def _fault(self, request: Request) -> MLBuffetError | None:
        """What the parser lets through and nobody here may see."""
        path = request.path
        if request.method == b"CONNECT":
            return UnknownMethodError("this server is no proxy")
        if request.http_version not in _VERSIONS:
            return BadRequestError("HTTP/1.1 and HTTP/1.0 are spoken here")
        if not path.startswith(b"/"):
            return BadRequestError("the request target is to be a path that begins with '/'")
        if path.startswith(b"//") or (b"%" in path and _ENCODED_SLASH.search(path)):
            # Flask would take it for the address without.
            return NotFoundError("no address here begins with two slashes or has an encoded one")
        fields = request.fields
        if b"transfer-encoding" in fields or b"upgrade" in fields:
            return self._framing_fault(request) or self._gate.fault(request)
        return self._gate.fault(request)

    def _framing_fault(self, request: Request) -> MLBuffetError | None:
        fields = request.fields
        coding = fields.get(b"transfer-encoding")
        if coding is not None and (coding.strip().lower() != b"chunked" or request.http_version == "1.0"):
            return BadRequestError("the one Transfer-Encoding is chunked, in HTTP/1.1")
        has_body = request.content_length > 0 or coding is not None
        if has_body and b"upgrade" in fields and self._parser.should_upgrade():
            return BadRequestError("a request with a body cannot change the protocol")
        return None

    def on_body(self, chunk: bytes) -> None:
        """Pass on a piece of the body, unless it is more than may come."""
        request = self.incoming
        if request is None or self.refusal is not None:
            return
        self.count_body(request, len(chunk))
        if request.received > request.body_limit:
            self._refuse(TooLargeError(f"the body has at most {request.body_limit} bytes"))
        else:
            self.body_received(request, chunk)

    def count_body(self, request: Request, size: int) -> None:
        """Take note of so many bytes of a body."""
        request.received += size
        self._body_ends_at += size / self.limits.body_rate
        self.extend()

    def body_filled(self, request: Request, size: int) -> None:
        """Take note of so many bytes of a body that did not pass through the parser; go on when it is whole."""
        self.count_body(request, size)
        if request.received == request.content_length:
            self._parser = httptools.HttpRequestParser(self)
            self.on_message_complete()

    def extend(self) -> None:
        """Wait for more of the body, while it comes fast enough on the whole."""
        self.expires_at = min(self._clock() + self.limits.body_idle_s, self._body_ends_at)

    def on_message_complete(self) -> None:
        """Complete the request."""
        request = self.incoming
        if request is None or self.refusal is not None or self.deaf:
            return
        self.incoming = None
        request.complete = True
        self.message_complete(request)


def cut_short(request: Request) -> MLBuffetError:
    """What is said of a body that ended too early."""
    msg = f"the connection ended after {request.received} bytes of the body"
    if request.content_length >= 0:
        msg += f"; Content-Length announced {request.content_length}"
    return IncompleteBodyError(msg)


def too_slow(limits: Limits) -> MLBuffetError:
    """What is said of a body that does not come, or hardly."""
    return RequestTimeoutError(
        f"no byte of the body came for {limits.body_idle_s:g} s, or fewer than {limits.body_rate} a second in all"
    )
