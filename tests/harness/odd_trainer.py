"""An HTTP server in the trainer's place that does what a real one only does when something is wrong.

What a trainer is asked as a rule is asked of the real one; this one hangs, goes away, refuses early and talks for ever.
"""

import hashlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RUN = "20261129t131405-3f9c01aa"
LONG_TEXT = b"".join(b"%07d\n" % number for number in range(1 << 20))


@dataclass
class Asked:
    """What came in, and what was seen of clients."""

    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    following: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: Asked
    ended: threading.Event

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's signature
        """Say nothing."""

    def address_string(self) -> str:
        """A unix socket's client has none."""
        return "-"

    def _any(self) -> None:
        asked, path = self.asked, urlsplit(self.path).path
        if path == "/health/live":
            if asked.hangs.is_set():
                self.ended.wait(30)
            self._answer(200, {"live": True})
            return
        asked.requests.append((self.command, self.path, dict(self.headers.items())))
        if path.endswith("/early"):
            self.close_connection = True
            self._answer(422, {"error": {"code": "MISSING_SCRIPT", "message": "early"}})
            return
        digest = hashlib.sha256()
        for piece in self._body():
            digest.update(piece)
        asked.digests.append(digest.hexdigest())
        if path.endswith("/lost"):
            self.close_connection = True
        elif path.endswith("/logs") and "follow=1" in self.path:
            self._follow()
        elif path.endswith("/logs"):
            self._answer(200, LONG_TEXT)
        else:
            self._answer(202 if self.command == "POST" else 200, {"run_id": RUN})

    do_GET = do_POST = do_DELETE = _any  # noqa: N815 - the standard library's names

    def _body(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        while left and (piece := self.rfile.read(min(left, 1 << 16))):
            left -= len(piece)
            yield piece

    def _answer(self, status: int, data: Any) -> None:  # noqa: ANN401 - bytes or JSON
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(data, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"/api/v1/runs/{RUN}")
        self.send_header("X-Log-Size", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _follow(self) -> None:
        """Say something again and again until nobody hears it."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.asked.following += 1
        try:
            while not self.ended.wait(0.05):
                self.wfile.write(b"a\r\ndata: one\n\r\n")
        except OSError:
            self.close_connection = True
        self.asked.following -= 1


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the standard library's signature
        """A client that goes away is what is tried here."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX


@contextmanager
def odd_trainer(place: Path | tuple[str, int], tls: ssl.SSLContext | None = None) -> Iterator[Asked]:
    """Run one at a unix socket's path, or at an address with TLS."""
    asked, ended = Asked(), threading.Event()
    handler = type("Handler", (_Handler,), {"asked": asked, "ended": ended})
    address: Any = str(place) if isinstance(place, Path) else place
    server = (_UnixServer if isinstance(place, Path) else _Server)(address, handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
