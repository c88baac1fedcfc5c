"""Row H12: whatever bytes come, every connection ends in time, no answer is an undocumented 5xx, nothing breaks.

The cases are made from a seed: whole requests of every route, taken apart and put together wrongly. `MLBUFFET_SOAK=1`
runs a million.
"""

import os
import random
import selectors
import socket
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, running_platform
from tests.harness.raw_http import chunked, message

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
CASES = 1_000_000 if SOAK else 10_000
TOGETHER = 32
HANG_S = 30.0
DOCUMENTED = frozenset({b"501", b"503", b"504", b"507"})

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO")
NAMES = (
    "iris.onnx",
    "digits.onnx:1",
    "none",
    "iris.onnx:9",
    "a" * 200,
    "..",
    "%2e%2e",
    "%00",
    "\xe9",
    "{}",
    "x:y:z",
    "",
)
PATHS = (
    "/", "/help", "/api/test", "/api/test/sendtomodelhost", "/api/v1/models", "/api/v1/models/information",
    "/api/v1/models/{0}", "/api/v1/models/{0}/prediction", "/api/v1/models/{0}/default", "/api/v1/models/{0}/download",
    "/api/v1/models/{0}/load", "/api/v1/updatemodels", "/health/live", "/health/ready", "/metrics",
)  # fmt: skip
QUERIES = ("", "", "", "?", "?limit=1", "?limit=-1&after=x", "?%ff", "?a=b&a=c", "?" + "x" * 9000)
VALUES = (
    "", "application/json", "multipart/form-data; boundary=x", "image/png", "chunked", "identity", "0", "-1",
    "99999999999", "100-continue", "close", "keep-alive", "upgrade", "h2c", "gzip", "bytes=0-1", "*", '"x"',
    "\xff\xfe", "x" * 9000, "a\tb", "127.0.0.1", "evil.example", "null", "http://evil.example", "cross-site",
    "sha-256=:x:", "../../etc/passwd",
)  # fmt: skip
FIELDS = (
    "Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "Host", "Origin",
    "Accept", "X-Request-Id", "X-Request-Timeout-Ms", "Content-Encoding", "If-Match", "Idempotency-Key",
    "Content-Digest", "X-Content-SHA256", "Authorization", "Cookie", "Sec-Fetch-Site", "Trailer", "TE", "Range",
    "X-Odd",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"[]", b'{"values": [2, 5, 1, 4]}', b'{"values": [[1, 2, 3]]}', b'{"values": "x"}', b'{"data": [1]}',
    b"\0\xff", b'{"values": [1e999]}', b'{"pinned": 5}', b'{"default": 99}', b"[" * 3000,
    b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"x" * 2000,
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x89PNG\r\n--x--\r\n',
    b"--x\r\n\r\n--x--",
)  # fmt: skip
ODD = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1",
    b"\x16\x03\x01",
    b"%",
)


def case(rng: random.Random) -> bytes:
    """One connection's bytes."""
    data = b"".join(request(rng) for _ in range(rng.choice((1, 1, 1, 2, 5))))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        data = damage(rng, data)
    return data


def request(rng: random.Random) -> bytes:
    """A request that may be right: changing ones are for models that are not there."""
    method, path = rng.choice(METHODS), rng.choice(PATHS)
    name = rng.choice(NAMES)
    if method in {"PUT", "DELETE"} or (method == "POST" and not path.endswith("prediction")):
        name = name.replace("iris.onnx", "odd").replace("digits.onnx", "odd")
    if method == "PUT" and rng.random() < 0.9:
        method = "GET"  # a model that is checked costs more than everything else here
    fields = [(rng.choice(FIELDS), rng.choice(VALUES)) for _ in range(rng.choice((0, 0, 1, 2, 5)))]
    body = rng.choice(BODIES) if method in {"POST", "PUT"} or rng.random() < 0.2 else b""
    if rng.random() < 0.2:
        cut = rng.randint(0, len(body))
        return message(
            method, path.format(name), [*fields, ("Transfer-Encoding", "chunked")], chunked(body[:cut], body[cut:])
        )
    return message(
        method, path.format(name) + rng.choice(QUERIES), fields, body, rng.choice(("1.1",) * 8 + ("1.0", "2.0"))
    )


def damage(rng: random.Random, data: bytes) -> bytes:
    """The same, with something cut out, put in, doubled or turned over somewhere."""
    at = rng.randint(0, len(data))
    to = min(len(data), at + rng.choice((1, 1, 2, 10, 100)))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at] + data[to:]
    if kind == 1:
        return data[:at] + rng.choice(ODD) + data[at:]
    if kind == 2:
        return data[:to] + data[at:]
    if kind == 3:
        return data[:at] + bytes(rng.randrange(256) for _ in range(to - at)) + data[to:]
    return data[:at]


class Conversation:
    """One case on its way: all is sent, then the sending half is closed, then everything is read."""

    def __init__(self, port: int, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.received = b""
        self.sock = socket.socket()
        self.sock.settimeout(HANG_S)
        self.sock.connect(("127.0.0.1", port))
        try:
            self.sock.sendall(data)
            self.sock.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # it was refused before it was whole

    def read(self) -> bool:
        """Read what is there; False at the end."""
        try:
            piece = self.sock.recv(1 << 16)
        except ConnectionError:
            piece = b""
        self.received += piece
        return bool(piece)


def converse_all(port: int, rng: random.Random) -> Iterator[Conversation]:
    """Have all conversations, a few at a time.

    Raises:
        AssertionError: one of them does not end.
    """
    begun = 0
    open_ones: deque[Conversation] = deque()
    with selectors.DefaultSelector() as selector:
        while begun < CASES or open_ones:
            while begun < CASES and len(open_ones) < TOGETHER:
                conversation = Conversation(port, begun, case(rng))
                selector.register(conversation.sock, selectors.EVENT_READ, conversation)
                open_ones.append(conversation)
                begun += 1
            ready = selector.select(HANG_S)
            assert ready, (
                f"no end: {open_ones[0].number} {open_ones[0].data[:500]!a} -> {open_ones[0].received[:200]!a}"
            )
            for key, _ in ready:
                conversation = key.data
                if not conversation.read():
                    selector.unregister(conversation.sock)
                    conversation.sock.close()
                    open_ones.remove(conversation)
                    yield conversation


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform of its own, whose log may grow."""
    with running_platform(tmp_path_factory.mktemp("fuzzed"), modelhosts=1) as platform:
        yield platform


def test_h12_no_bytes_break_anything(fuzzed: RunningPlatform) -> None:
    statuses: Counter[bytes] = Counter()
    workers = fuzzed.children("inferrer")
    with unharmed(fuzzed, resources=False):  # what is cached of strange names grows to its bounds
        for conversation in converse_all(fuzzed.port, random.Random(12)):  # noqa: S311 - a seed, no secret
            received = conversation.received
            assert received.startswith(b"HTTP/1.1 ") or not received, conversation.data
            status = received[9:12]
            statuses[status] += 1
            assert status < b"500" or status in DOCUMENTED, (conversation.number, conversation.data, received)
            assert b"Traceback" not in received, conversation.data
    assert fuzzed.children("inferrer") == workers, "no process was replaced"
    assert {b"200", b"400", b"404", b"405", b"415", b"421", b"501"} <= set(statuses), statuses
    assert statuses[b"200"] > CASES / 50, statuses
    assert not list(Path(fuzzed.repository).glob("odd*"))
