"""HTTP requests as bytes on a connection of their own, and the answers as they came: for what client libraries mend."""

import io
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import cast


@dataclass(frozen=True)
class Answer:
    """An answer; `headers` in the order and the case in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header field; None without it."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


def message(
    method: str = "POST",
    path: str = "/",
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """A request with exactly these header fields, Host and the body's length unless they are among them."""
    fields = list(headers.items()) if isinstance(headers, dict) else list(headers or ())
    names = {name.lower() for name, _ in fields}
    if "host" not in names:
        fields.insert(0, ("Host", "127.0.0.1"))
    if not names & {"content-length", "transfer-encoding"} and (body or method in {"POST", "PUT"}):
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    """A body in chunks."""
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + trailer + b"\r\n"


def exchange(port: int, request: bytes, method: str = "POST", timeout_s: float = 20) -> Answer:
    """Send a request and read its final answer."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as sock:
        sock.sendall(request)
        response = HTTPResponse(sock, method=method)
        try:
            response.begin()
            return Answer(response.status, tuple(response.getheaders()), response.read())
        finally:
            response.close()


def converse(port: int, data: bytes, timeout_s: float = 20) -> bytes:
    """Send bytes and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as sock:
        with suppress(ConnectionError):  # it may close before it has all
            sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of a connection, whichever way it ends."""
    received = b""
    with suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            received += piece
    return received


def answers(data: bytes, method: str = "POST") -> list[Answer]:
    """The final answers in what a server sent; interim ones are passed over."""
    return list(_answers(_Recording(data), method))


def _answers(recording: "_Recording", method: str) -> Iterator[Answer]:
    while recording.tell() < len(recording.getvalue()):
        response = HTTPResponse(cast("socket.socket", recording), method=method)
        response.begin()
        yield Answer(response.status, tuple(response.getheaders()), response.read())


class _Recording(io.BytesIO):
    """What was received, as a socket that one response after the other is read from."""

    def makefile(self, *_: object) -> "_Recording":
        """Give itself, as sockets give files."""
        return self

    def close(self) -> None:
        """Stay open for the next response."""
