"""Writes answers to a connection: no faster than the client reads, and no longer than it reads at all."""

import asyncio
import fcntl
import termios
from http import HTTPStatus

from mlbuffet.chassis.request import Limits, Request, phrase_of

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {phrase_of(status.value)}\r\n".encode() for status in HTTPStatus
}
_OK = 200
_OK_DATE = _STATUS_LINES[_OK] + b"Date: "
_ID = b"X-Content-Type-Options: nosniff\r\nX-Request-Id: "
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = frozenset({204, 304})
NEVER = float("inf")


def render_head(request: Request, status: int, date: bytes, fields: bytes, length: int | None) -> bytes:
    """Status line and header lines; `fields` are lines with CRLF, `length` None stands for a chunked body."""
    if status == _OK and length is not None and request.keep_alive and request.http_version == "1.1":  # nearly always
        identity = request.request_id.encode()
        return b"".join((_OK_DATE, date, b"\r\n", fields, _ID, identity, b"\r\nContent-Length: %d\r\n\r\n" % length))
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
    return b"%bDate: %b\r\n%bX-Content-Type-Options: nosniff\r\nX-Request-Id: %b\r\n%b\r\n" % (
        _STATUS_LINES[status],
        date,
        fields,
        request.request_id.encode(),
        framing,
    )


class ResponseWriter:
    """The writing half of a connection; the other half inherits it and says what is written."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.stalls_at = NEVER  # when to look whether the client reads
        self._active: Request | None = None  # being answered
        self._loop = loop
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._unsent = 0

    def endpoints(self) -> tuple[tuple[str, int], int]:
        """The client's address and our port; both empty when the client is gone already."""
        if self._transport is None:
            return ("", 0), 0
        peer = self._transport.get_extra_info("peername") or ("", 0)  # none where it has reset the connection
        own = self._transport.get_extra_info("sockname")
        return peer[:2], own[1] if isinstance(own, tuple) else 0  # a unix socket's is a path

    def answers(self, request: Request) -> bool:
        """Tell whether somebody waits for the answer to a request."""
        return request is self._active

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

    def pause_writing(self) -> None:
        """Hold back writers: the client reads slower than they write."""
        self._writable.clear()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Let them go on."""
        self._writable.set()
        self.stalls_at = NEVER

    def _watch_reader(self) -> None:
        if self._transport is not None:
            self._unsent = self._transport.get_write_buffer_size()
            self.stalls_at = self._loop.time() + self._limits.write_idle_s

    def check_reader(self) -> None:
        """Drop a client that takes nothing, or next to nothing, of what is waiting for it."""
        if self._transport is None:
            return
        taken = self._unsent - self._transport.get_write_buffer_size()
        if taken < self._limits.body_rate * self._limits.write_idle_s:
            self.abort()
        else:
            self._watch_reader()

    def _continue(self) -> None:
        """Give the client leave to send the body."""
        if self._transport is not None:
            self._transport.write(_CONTINUE)

    def _shut(self, *, linger: bool) -> None:
        """Send all that was written, then FIN; linger where unread bytes would destroy the answer by RST."""
        if self._transport is None:
            return
        if not linger:
            self._watch_reader()
            self._transport.close()
            return
        self._transport.write_eof()
        self._loop.call_later(self._limits.linger_s, self._end)

    def _end(self) -> None:
        """Close what the client does not; not before it has all, as long as it reads."""
        if self._transport is None or not self._transport.get_write_buffer_size():
            self.abort()
            return
        if self.stalls_at == NEVER:
            self._watch_reader()
        self._loop.call_later(self._limits.linger_s, self._end)

    def has_unread(self) -> bool:
        """Tell whether the kernel has bytes of the client that the loop has not come round to."""
        if self._transport is None:
            return False
        sock = self._transport.get_extra_info("socket")
        return any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
