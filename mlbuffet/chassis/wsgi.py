"""Runs a WSGI application in a thread behind the event loop, with bodies that stream both ways under backpressure."""

import asyncio
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from mlbuffet.errors import MLBuffetError

if TYPE_CHECKING:
    from mlbuffet.chassis.connection import HttpConnection
    from mlbuffet.chassis.request import Request

log = logging.getLogger(__name__)

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

HIGH_WATER_BYTES = 1 << 18


class BodyStream(io.RawIOBase):
    """A request's body, fed by the event loop and read by one thread; holds little more than the high-water mark."""

    def __init__(self, on_wanted: Callable[[], None]) -> None:
        super().__init__()
        self._on_wanted = on_wanted
        self._ready = threading.Condition()
        self._chunks: list[bytes] = []
        self._ended = False
        self._failure: MLBuffetError | None = None
        self.buffered = 0

    def feed(self, chunk: bytes) -> None:
        """Add bytes (event loop)."""
        with self._ready:
            self._chunks.append(chunk)
            self.buffered += len(chunk)
            self._ready.notify()

    def end(self, failure: MLBuffetError | None = None) -> None:
        """Say that no more comes, or why (event loop)."""
        with self._ready:
            self._ended = True
            self._failure = self._failure or failure
            self._ready.notify()

    def readable(self) -> bool:
        """Say that this is an input."""
        return True

    def readinto(self, target: Any) -> int:  # noqa: ANN401 - io's signature takes any writable buffer
        """Wait for bytes (application thread).

        Raises:
            IncompleteBodyError, RequestTimeoutError, TooLargeError: the body will never be whole.
        """
        with self._ready:
            if not self._chunks and not self._ended:
                self._on_wanted()
                self._ready.wait_for(lambda: self._chunks or self._ended)
            if self._failure is not None:
                raise self._failure
            if not self._chunks:
                return 0
            chunk = self._chunks[0]
            count = min(len(chunk), len(target))
            target[:count] = chunk[:count]
            if count == len(chunk):
                del self._chunks[0]
            else:
                self._chunks[0] = chunk[count:]
            self.buffered -= count
            return count


def make_environ(request: "Request", peer: tuple[str, int], port: int) -> dict[str, Any]:
    """A request as PEP 3333 wants it."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method.decode("ascii"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{request.http_version}",
        "REMOTE_ADDR": peer[0],
        "REMOTE_PORT": str(peer[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BufferedReader(request.stream or io.BytesIO(), 1 << 16),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "mlbuffet.request_id": request.request_id,
    }
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1").upper().replace("-", "_"), raw_value.decode("latin-1")
        if name not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            name = f"HTTP_{name}"
        # An underscore in the name as sent could pass for another header's dash (gunicorn drops those too).
        if b"_" not in raw_name:
            environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


class WsgiCall:
    """One run of the application in a thread; what it answers goes back to the event loop.

    A small answer of known length leaves in one write; a longer one piece by piece, as fast as the client reads.
    """

    def __init__(self, app: WSGIApplication, request: "Request", connection: "HttpConnection") -> None:
        self._app = app
        self._request = request
        self._connection = connection
        self._loop = connection.server.loop
        self._environ = make_environ(request, *connection.endpoints())
        self._status = 500
        self._fields: list[bytes] = []
        self._length: int | None = 0
        self._whole: list[bytes] = []
        self._missing = 0  # of what Content-Length announced
        self._sent_head = False
        self._broken = False

    def run(self) -> None:
        """Run the application to its end (thread)."""
        try:
            pieces = self._app(self._environ, self._start)
            try:
                for piece in pieces:
                    self._write(piece)
            finally:
                close = getattr(pieces, "close", None)
                if close is not None:
                    close()
        except ConnectionError:
            log.info("client gone", extra={"request_id": self._request.request_id})
            self._broken = True
        except Exception:
            log.exception("application failed", extra={"request_id": self._request.request_id})
            self._broken = True
        if self._length is not None and self._missing and self._request.method != b"HEAD" and not self._broken:
            log.error("answer not whole", extra={"request_id": self._request.request_id, "missing": self._missing})
            self._broken = True
        self._loop.call_soon_threadsafe(self._finish)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:  # noqa: ARG002 - PEP 3333
        """Take status and headers; they leave with the first piece."""
        self._status = int(status[:3])
        self._length = None
        for name, value in headers:
            if name.lower() == "content-length":
                self._length = self._missing = int(value)
            elif name.lower() != "x-request-id":
                self._fields.append(f"{name}: {value}\r\n".encode("latin-1"))
        return self._write

    def _write(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._missing -= len(piece)
        if self._length is not None and self._length <= HIGH_WATER_BYTES:
            self._whole.append(piece)
            return
        if not self._sent_head:
            self._sent_head = True
            self._send(self._connection.head(self._request, self._status, b"".join(self._fields), self._length))
        if piece:
            self._send(piece if self._length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))

    def _send(self, data: bytes) -> None:
        """Hand bytes to the loop and wait until the client has taken enough."""
        asyncio.run_coroutine_threadsafe(self._connection.write_later(self._request, data), self._loop).result()

    def _finish(self) -> None:
        """End the answer (event loop)."""
        connection, request = self._connection, self._request
        connection.server.left()
        if self._broken:
            connection.abort()
        elif not self._sent_head:
            head = connection.head(request, self._status, b"".join(self._fields), self._length or 0)
            connection.write(request, head + b"".join(self._whole))
        elif self._length is None:
            connection.write(request, b"0\r\n\r\n")
        connection.finish(request)
