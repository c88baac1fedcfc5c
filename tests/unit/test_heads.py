"""Heads that are known: whatever comes, in whatever pieces, is answered as if every head were parsed."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbuffet.chassis.connection import HttpConnection
from mlbuffet.chassis.heads import KnownHeads
from mlbuffet.chassis.http import HttpServer
from mlbuffet.chassis.request import Limits, Request
from mlbuffet.chassis.web import NoLane
from mlbuffet.errors import MLBuffetError


class Echo(NoLane):
    """A lane that takes every POST and answers with what it has received."""

    def wants(self, request: Request) -> bool:
        """Take it."""
        return request.method == b"POST"

    def handle(self, request: Request, connection: HttpConnection) -> None:
        """Answer with method, path, fields and body."""
        seen = repr((request.method, request.path, request.fields, b"".join(request.body), request.received))
        connection.respond(request, 200, b"", seen.encode())

    def render_error(self, request: Request, error: MLBuffetError) -> tuple[bytes, bytes]:  # noqa: ARG002
        """Say the code alone, for the id is another each time."""
        return b"", error.code.encode()


class Ignorant(KnownHeads):
    """Knows no head."""

    def find(self, data: bytes) -> Request | None:  # noqa: ARG002
        """Find none."""
        return None


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += data

    def write_eof(self) -> None:
        """Close."""
        self.closed = True

    def close(self) -> None:
        """Close."""
        self.closed = True

    def abort(self) -> None:
        """Close."""
        self.closed = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nor here."""


@contextmanager
def server(heads: KnownHeads) -> Iterator[HttpServer]:
    """A server without an application behind the lane."""
    made = HttpServer(lambda *_: [b""], Echo(), Limits())
    made.heads = heads
    try:
        yield made
    finally:
        made._sweeper.cancel()


def request(path: str, body: bytes, *fields: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


REQUESTS = [
    request("/a", b"{}"),
    request("/a", b"[]"),
    request("/b", b"{}", "X-Request-Id: mine"),
    request("/b", b"{}", "X-Request-Id: not sound!"),
    request("/c", b"\r\n\r\n"),
    request("/c", b""),
    request("/d", b"{}", "Connection: close"),
    request("/d", b"{}", "Expect: 100-continue"),
    request("/d", b"POST /a HTTP/1.1\r\n\r\n"),
    b"POST /e HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"POST /f HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
]
JUNK = [b"\r", b"\n", b"\r\n", b" ", b"x", b"\r\n\r\n", b"{}", b"0\r\n\r\n", b"POST /a HTTP/1.1\r\n"]
whole = st.sampled_from(REQUESTS)
cut = st.tuples(whole, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
glued = st.lists(whole | st.sampled_from(JUNK) | cut, min_size=1, max_size=3).map(b"".join)
pieces = st.lists(whole | st.sampled_from(JUNK) | cut | glued, max_size=8)
_OURS = re.compile(rb"X-Request-Id: [0-9a-f]{12}-[0-9a-f]+")
_DATE = re.compile(rb"Date: [^\r]+")


def answers(heads: KnownHeads, sent: list[bytes]) -> bytes:
    """What a connection answers, without what differs in any case."""

    async def play() -> bytes:
        with server(heads) as listening:
            connection, wire = listening.connection(), Wire()
            connection.connection_made(wire)
            for piece in sent:
                if not wire.closed:
                    connection.data_received(piece)
            return wire.written + b"(closed)" * wire.closed

    return _DATE.sub(b"Date: now", _OURS.sub(b"X-Request-Id: ours", asyncio.run(play())))


@given(pieces)
def test_what_comes_is_answered_as_if_every_head_were_parsed(sent: list[bytes]) -> None:
    taught = KnownHeads()
    for one in REQUESTS:
        answers(taught, [one, one])
    assert answers(taught, sent) == answers(Ignorant(), sent)


def test_a_known_head_is_found_again_with_another_body_of_its_length() -> None:
    heads = KnownHeads()
    first, second = REQUESTS[:2]
    answers(heads, [first])
    found = heads.find(second)
    assert found is not None
    assert (found.path, found.body) == (b"/a", [b"[]"])
    assert heads.find(second + b"x") is None
    assert heads.find(second[:-1]) is None
    assert heads.find(b"\r\n" + second) is None


def test_each_request_has_an_id_of_its_own() -> None:
    heads = KnownHeads()
    one = REQUESTS[0]
    answers(heads, [one])
    found = [heads.find(one) for _ in range(3)]
    assert len({request.request_id for request in found if request}) == 3


@pytest.mark.parametrize("count", [600, 2000])
def test_only_so_many_heads_are_known(count: int) -> None:
    heads = KnownHeads()
    for number in range(count):
        answers(heads, [request(f"/{number}", b"{}")])
    assert len(heads._known) == 512
    assert heads.find(request(f"/{count - 1}", b"{}")) is not None
    assert heads.find(request("/0", b"{}")) is None


@pytest.mark.parametrize(("trailers", "status"), [(1, 200), (1000, 200), (20_000, 400)])
def test_h03_trailers_are_bounded_though_they_come_in_one_piece(trailers: int, status: int) -> None:
    head = b"POST /e HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    for sent in (head + b"X: y\r\n" * trailers + b"\r\n", head + b"X: " + b"y" * 4 * trailers + b"\r\n\r\n"):
        assert answers(KnownHeads(), [sent]).startswith(b"HTTP/1.1 %d " % status)
