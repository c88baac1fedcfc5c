"""HTTP/2 frames made by hand, to send a gRPC server what no client library would."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
_ACK = 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """One header field as a literal that nobody remembers."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    """A string of HPACK, without Huffman's code."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, out = len(text) - 127, bytearray((127,))
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*out, rest)) + text


def head(stream: int, path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The frame that begins a call."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]
    return frame(HEADERS, END_HEADERS, stream, b"".join(field(*item) for item in fields))


def message(stream: int, body: bytes, *, compressed: bool = False, end: bool = True) -> bytes:
    """A call's message, in as many frames as it takes."""
    framed = struct.pack(">?I", compressed, len(body)) + body
    pieces = [framed[start : start + (1 << 14)] for start in range(0, len(framed), 1 << 14)]
    last = len(pieces) - 1
    return b"".join(
        frame(DATA, END_STREAM if end and number == last else 0, stream, piece) for number, piece in enumerate(pieces)
    )


def connect(port: int) -> socket.socket:
    """A connection that has said what every client says first."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, _ACK, 0))
    return sock


def read_until(sock: socket.socket, kind: int, stream: int) -> bool:
    """Read frames until one of this kind on this stream; false where the connection ends before."""
    file = sock.makefile("rb")
    try:
        while len(begin := file.read(9)) == 9:
            size = int.from_bytes(begin[:3], "big")
            file.read(size)
            if begin[3] == kind and int.from_bytes(begin[5:9], "big") == stream:
                return True
    except OSError:
        pass
    return False
