"""Frames survive however a stream cuts them, at both kinds of ends, and what is no frame ends the connection."""

import asyncio
import socket
import threading
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbuffet.blocking import FrameReader
from mlbuffet.channel import (
    HEADER,
    MAX_FRAME_BYTES,
    FrameError,
    FrameProtocol,
    Head,
    encode_frame,
)
from mlbuffet.endpoints import Address, connect, is_loopback, listen


class Frame(NamedTuple):
    """What one frame carries."""

    kind: int
    codec: int
    split: int
    key: bytes
    number: int
    time_ns: int
    body: bytes
    context: bytes = b""

    def encoded(self) -> bytes:
        """It as bytes."""
        fields = self.kind, self.codec, self.split, self.key, self.number, self.time_ns, len(self.body), self.context
        return encode_frame(*fields) + self.body


class Collector(FrameProtocol):
    """An end that keeps what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self.lost = asyncio.get_running_loop().create_future()

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Keep it."""
        _, kind, codec, _, split, frame_id, time_ns = head
        self.frames.append(Frame(kind, codec, split, key, frame_id, time_ns, body, self.context))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        super().connection_lost(exc)
        self.lost.set_result(None)


u64 = st.integers(0, 2**64 - 1)
frames = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=80),
    u64,
    u64,
    st.binary(max_size=300),
    st.just(b"") | st.binary(max_size=255),
)
streams = st.lists(frames, max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, cut anywhere."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def send(sock: socket.socket, parts: list[bytes]) -> None:
    for part in parts:
        sock.sendall(part)


@given(streams, st.lists(st.integers(0, 10_000), max_size=40))
def test_any_cut_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    async def receive() -> list[Frame]:
        end = Collector()
        for piece in pieces(b"".join(frame.encoded() for frame in sent), cuts):
            end.data_received(piece)
        return end.frames

    assert asyncio.run(receive()) == sent


@given(streams, st.lists(st.integers(0, 10_000), max_size=10))
@settings(max_examples=50, deadline=None)
def test_the_blocking_end_reads_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        data = b"".join(frame.encoded() for frame in sent)
        writer = threading.Thread(target=send, args=(theirs, pieces(data, cuts)))
        writer.start()
        reader, received = FrameReader(ours), list[Frame]()
        while len(received) < len(sent):
            received += [
                Frame(kind, codec, split, b"", number, time_ns, bytes(body))
                for kind, codec, split, number, time_ns, body in reader.read()
            ]
        writer.join()
    assert received == [frame._replace(key=b"", context=b"") for frame in sent]


def test_frames_larger_than_any_buffer_arrive() -> None:
    sent = [
        Frame(1, 1, 3, b"key", number, 5, bytes([number]) * size)
        for number, size in enumerate((10, 1 << 20, 7, 3 << 20, 0))
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = threading.Thread(target=send, args=(theirs, [frame.encoded() for frame in sent]))
        writer.start()
        reader, received = FrameReader(ours), list[bytes]()
        while len(received) < len(sent):
            received += [bytes(body) for *_, body in reader.read()]
        writer.join()
    assert received == [frame.body for frame in sent]


def header(length: int, key_size: int) -> bytes:
    return HEADER.pack(length, 1, 0, key_size, 0, 1, 1)


BAD = [
    header(0, 0),
    header(19, 0),
    header(20, 1),
    header(100, 200),
    header(100, 200 << 8),
    header(MAX_FRAME_BYTES + 1, 0),
    header(2**32 - 1, 0),
]


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_frame_ends_the_connection_at_once(bad: bytes) -> None:
    async def run() -> list[Frame]:
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            _, end = await loop.create_unix_connection(Collector, sock=ours)
            good = Frame(2, 0, 0, b"k", 1, 1, b"body")
            await loop.run_in_executor(None, theirs.sendall, good.encoded() + bad + good.encoded())
            await asyncio.wait_for(end.lost, 5)
            theirs.settimeout(5)
            assert theirs.recv(1) == b""
            return end.frames

    assert asyncio.run(run()) == [Frame(2, 0, 0, b"k", 1, 1, b"body")]


@pytest.mark.parametrize("bad", BAD)
def test_the_blocking_end_refuses_the_same(bad: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bad)
        with pytest.raises(FrameError):
            next(iter(FrameReader(ours).read()))


def test_the_blocking_end_notices_that_its_peer_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(EOFError):
            FrameReader(ours).read()


@given(streams)
@settings(max_examples=30, deadline=None)
def test_what_one_end_sends_the_other_receives(sent: list[Frame]) -> None:
    async def run() -> list[Frame]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, sender = await loop.create_unix_connection(Collector, sock=ours)
        _, receiver = await loop.create_unix_connection(Collector, sock=theirs)
        for frame in sent:
            sender.send(*frame)
        async with asyncio.timeout(5):
            while len(receiver.frames) < len(sent):
                await asyncio.sleep(0)
        sender.close()
        await receiver.lost
        sender.send(1, 1, 0, b"", 1, 1, b"to nobody")
        return receiver.frames

    assert asyncio.run(run()) == sent


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("unix:/run/x.sock", Address(path="/run/x.sock"), True),
        ("tcp://127.0.0.1:9100", Address(host="127.0.0.1", port=9100), True),
        ("tcp://localhost:1", Address(host="localhost", port=1), True),
        ("tcp://[::1]:9100", Address(host="::1", port=9100), True),
        ("tcp://10.0.0.1:9100", Address(host="10.0.0.1", port=9100), False),
        ("tcp://modelhosts:9100", Address(host="modelhosts", port=9100), False),
        ("tcp://0.0.0.0:0", Address(host="0.0.0.0", port=0), False),  # noqa: S104 - that it is not loopback
    ],
)
def test_addresses(text: str, address: Address, local: bool) -> None:  # noqa: FBT001 - a column of the table
    assert Address.parse(text) == address
    assert address.is_local is local


@pytest.mark.parametrize(
    "text", ["", "x", "unix:x", "tcp://", "tcp://x", "tcp://:1", "tcp://x:", "tcp://x:y", "http://x:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="an address is"):
        Address.parse(text)


def test_loopback_is_told_without_asking_anybody() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "example.org", "localhost.evil.example", "2130706433"]))  # noqa: S104


def test_nothing_leaves_or_enters_over_tcp_without_tls() -> None:
    async def run() -> None:
        with pytest.raises(PermissionError, match="TLS"):
            await connect(Collector, Address(host="10.255.255.1", port=9), None)
        with pytest.raises(PermissionError, match="TLS"):
            await listen(Collector, Address(host="0.0.0.0", port=0), None)  # noqa: S104 - that is refused

    asyncio.run(run())


def test_a_socket_file_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def run() -> None:
        server = await listen(Collector, Address(path=str(path)), None)
        assert path.stat().st_mode & 0o777 == 0o600
        end = await connect(Collector, Address(path=str(path)), None)
        end.close()
        await end.lost
        server.close()

    asyncio.run(run())
