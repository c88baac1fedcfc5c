"""Uploads by hand over a socket: cut, stalled, reset, as no client library would send them."""

import socket
from typing import Any, Self

import orjson

from tests.harness.platform import RunningPlatform

_RST = b"\1\0\0\0\0\0\0\0"


class RawClient:
    """One connection to the inferrer."""

    def __init__(self, platform: RunningPlatform, timeout_s: float = 30) -> None:
        self.sock = socket.create_connection(("127.0.0.1", platform.port), timeout_s)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a peer that has closed is no failure of the sender."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def put(self, name: str, length: int, *headers: str) -> None:
        """Send the head of an upload that announces `length` bytes."""
        lines = [f"PUT /api/v1/models/{name} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def finish_sending(self) -> None:
        """Send FIN; answers can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.sock.close()

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of the next answer.

        Raises:
            EOFError: the connection ended before.
        """
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", "0"))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return int(lines[0].split()[1]), orjson.loads(body) if body else {}

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError(self._received)
        self._received += data


def multipart(*parts: tuple[str, bytes], boundary: str = "limit") -> bytes:
    """A form of parts, each the parameters of its Content-Disposition and its content."""
    pieces = [
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), parameters.encode(), content)
        for parameters, content in parts
    ]
    return b"".join(pieces) + b"--%b--\r\n" % boundary.encode()


FORM = {"Content-Type": "multipart/form-data; boundary=limit"}
