"""Runs a WSGI application in a thread behind the event loop, with bodies that stream both ways under backpressure."""

import asyncio
import io
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

from mlbuffet.errors import BusyError, MLBuffetError

if TYPE_CHECKING:
    from mlbuffet.chassis.connection import HttpConnection
    from mlbuffet.chassis.request import Request

log = logging.getLogger(__name__)

T = TypeVar("T")
WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

HIGH_WATER_BYTES = 1 << 18


class BodyStream(io.RawIOBase):
    """A request's body, fed by the event loop and read by one thread; holds little more than the high-water mark."""

    def __init__(self, on_wanted: Callable[[], None]) -> None:
        super().__init__()
        self._on_wanted = on_wanted
        self._ready = threading.Condition()
        self._buffer = bytearray()  # one for all: a client may send chunks of one byte
        self._ended = False
        self._failure: MLBuffetError | None = None

    def feed(self, chunk: bytes | bytearray) -> None:
        """Add bytes (event loop)."""
        with self._ready:
            self._buffer += chunk
            self._ready.notify()

    @property
    def buffered(self) -> int:
        """How many bytes wait to be read."""
        return len(self._buffer)

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
            if not self._buffer and not self._ended:
                self._on_wanted()
                self._ready.wait_for(lambda: self._buffer or self._ended)
            if self._failure is not None:
                raise self._failure
            count = min(len(self._buffer), len(target))
            with memoryview(self._buffer) as waiting:
                target[:count] = waiting[:count]
            del self._buffer[:count]
            return count


def make_environ(request: "Request", connection: "HttpConnection") -> dict[str, Any]:
    """A request as PEP 3333 wants it; `mlbuffet.on_gone` takes, in any thread, what to do when the client leaves."""
    peer, port = connection.endpoints()
    loop = connection.server.loop
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
        "mlbuffet.began_at": time.monotonic(),
        "mlbuffet.grant": request.grant,
        "mlbuffet.on_gone": lambda action: loop.call_soon_threadsafe(connection.watch, request, action),
    }
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1").upper().replace("-", "_"), raw_value.decode("latin-1")
        if name not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            name = f"HTTP_{name}"
        # An underscore in the name as sent could pass for another header's dash (gunicorn drops those too).
        if b"_" not in raw_name:
            environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ


class Pool:
    """Threads, and a bounded number of calls that wait for one; counted on the event loop."""

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._most = threads + waiting
        self.running = 0

    def submit(self, call: "WsgiCall") -> None:
        """Run a call in a thread.

        Raises:
            BusyError: as many as may already run and wait.
        """
        if self.running >= self._most:
            msg = f"{self.running} requests are already being handled here"
            raise BusyError(msg)
        self.running += 1
        self._threads.submit(call.run)

    def work(self, action: Callable[..., T], *arguments: object) -> Awaitable[T]:
        """Run one short step of an answer in a thread; there are no more of these than connections."""
        return asyncio.get_running_loop().run_in_executor(self._threads, action, *arguments)

    def left(self) -> None:
        """Say that a call has ended."""
        self.running -= 1

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class WsgiCall:
    """One run of the application in a thread; what it answers goes back to the event loop.

    A small answer of known length leaves in one write. A longer one leaves piece by piece as the client reads, each
    made in a thread for itself, so that a slow reader holds none.
    """

    def __init__(self, app: WSGIApplication, request: "Request", connection: "HttpConnection", pool: "Pool") -> None:
        self._app = app
        self._pool = pool
        self._request = request
        self._connection = connection
        self._loop = connection.server.loop
        self._environ = make_environ(request, connection)
        self._status = 500
        self._fields: list[bytes] = []
        self._length: int | None = 0
        self._whole: list[bytes] = []
        self._pieces: Iterable[bytes] = ()
        self._missing = 0  # of what Content-Length announced
        self._broken = False
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Run the application up to its answer, and through a small one (thread)."""
        try:
            self._pieces = self._app(self._environ, self._start)
            if self._length is not None and self._length <= HIGH_WATER_BYTES:
                self._whole += self._pieces
                self._close()
        except Exception:
            log.exception("application failed", extra={"request_id": self._request.request_id})
            self._broken = True
        self._loop.call_soon_threadsafe(self._answer)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], None]:  # noqa: ARG002 - PEP 3333
        """Take status and headers; they leave with the first piece."""
        self._status = int(status[:3])
        self._length = None
        for name, value in headers:
            if name.lower() == "content-length":
                self._length = self._missing = int(value)
            elif name.lower() != "x-request-id":
                self._fields.append(f"{name}: {value}\r\n".encode("latin-1"))
        return self._whole.append

    def _answer(self) -> None:
        """Send a small answer, or begin with a longer one (event loop)."""
        self._pool.left()
        if not self._connection.answers(self._request):
            self._close()
        elif not self._broken and self._length is not None and self._length <= HIGH_WATER_BYTES:
            body = b"".join(self._whole)
            self._missing -= len(body)
            if self._is_whole():
                self._connection.write(self._request, self._head() + body)
            self._finish()
        elif not self._broken:
            self._task = self._loop.create_task(self._stream())
        else:
            self._finish()

    async def _stream(self) -> None:
        """Send an answer piece by piece."""
        connection, request = self._connection, self._request
        try:
            await connection.write_later(request, self._head())
            pieces = iter(self._pieces)
            while (piece := await self._pool.work(next, pieces, None)) is not None:
                self._missing -= len(piece)
                if piece:
                    framed = piece if self._length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)
                    await connection.write_later(request, framed)
            if self._length is None:
                connection.write(request, b"0\r\n\r\n")
            self._is_whole()
        except ConnectionError:
            log.info("client gone", extra={"request_id": request.request_id})
        except Exception:
            log.exception("application failed", extra={"request_id": self._request.request_id})
            self._broken = True
        self._close()
        self._finish()

    def _head(self) -> bytes:
        return self._connection.head(self._request, self._status, b"".join(self._fields), self._length)

    def _is_whole(self) -> bool:
        """Tell whether all was there that Content-Length announced; what is not is cut off, so that it shows."""
        if self._length is not None and self._missing and self._request.method != b"HEAD":
            log.error("answer not whole", extra={"request_id": self._request.request_id, "missing": self._missing})
            self._broken = True
        return not self._broken

    def _close(self) -> None:
        """Let go of what the application answers from."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def _finish(self) -> None:
        """End the answer (event loop)."""
        if self._broken:
            self._connection.abort()
        else:
            self._connection.finish(self._request)


def start_call(request: "Request", connection: "HttpConnection") -> None:
    """Have the application answer a request in a thread; what has come of its body is there to be read.

    Raises:
        BusyError: as many as may already run and wait.
    """
    server = connection.server

    def on_wanted() -> None:
        server.loop.call_soon_threadsafe(connection.body_wanted, request)

    request.stream = stream = BodyStream(on_wanted)
    for chunk in request.body:
        stream.feed(bytes(chunk))
    request.body.clear()
    if request.complete:
        stream.end()
    pool = server.pool(request)
    pool.submit(WsgiCall(server.app, request, connection, pool))
