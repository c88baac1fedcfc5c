"""The data channel between inferrer and modelhost, and from the modelhost on to its runners: length-prefixed frames.

One persistent stream carries many requests at once; answers come in any order and find their request by its id. All
frames of one event-loop turn leave in one write: that is what makes a request over it cost microseconds
(docs/adr/0002-data-channel.md). A frame is a fixed header, a key, a context and a body:

    length u32 | kind u8 | codec u8 | key u8 | context u8 | split u32 | id u64 | time u64 | key … | context … | body …

`length` counts what follows it; `key` and `context` say how long these are. `split` is how much of the body is JSON
where bytes of another kind follow it, an image or tensors; 0 where the codec alone says what the body is. The key names
model, version and digest (`Manifest.key`). The context says whose request it is (`chassis/context.py`); that of a
runner's answer, when its run began and ended. `time` is the remaining time in nanoseconds on the channel, whose ends
have two clocks, and an absolute CLOCK_MONOTONIC on a runner's socket pair; in an answer on the channel it is the time
spent at the modelhost. Integers are little-endian. A unix socket carries nothing of another user (SO_PEERCRED); TCP
beyond loopback asks for mutual TLS 1.3.
"""

import asyncio
import os
import socket
import struct
from enum import IntEnum
from typing import NamedTuple, TypeVar, cast

import orjson

from mlbuffet.errors import MLBuffetError, from_code

Head = tuple[int, int, int, int, int, int, int]  # of a frame, as HEADER has it

HEADER = struct.Struct("<IBBHIQQ")
_HEADER_BYTES = HEADER.size
_AFTER_LENGTH = _HEADER_BYTES - 4
_unpack_head = HEADER.unpack_from
MAX_FRAME_BYTES = 1 << 30
UNSENT_BYTES = 1 << 26
_KEY_SIZE = 0xFF  # of the header's field for key and context
_JOIN_BYTES = 1 << 16  # above this a copy into one buffer costs more than a second system call
_CLOSING_BRACE = 0x7D
_FEW = 32  # pieces that fit into one system call without being copied into one buffer
_PEERCRED = struct.Struct("3i")
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))


class Kind(IntEnum):
    """What a frame is."""

    PREDICT = 1
    REPLY = 2
    ERROR = 3
    CALL = 4
    STATE = 5  # the modelhost's word on itself, numbered by its id
    CANCEL = 6  # the client of the PREDICT with this id is gone
    PING = 7  # its split is the number of the last STATE that was taken note of
    PONG = 8
    PREDICT_ALONE = 9  # as PREDICT, and never together with others
    RELEASE = 10  # the segment of shared memory with this id is no more (segments.py)
    FOLLOW = 11  # from a modelhost without the repository: tell me what is in it, now and whenever that changes
    INDEX = 12  # what is in it, whole when the split is 1, else what has changed
    FETCH = 13  # from a modelhost: the bytes of a file from `time` on, as many as `split` says
    LINE = 14  # a connection to a version's runner, handed over by this id; the answer's split is 1 when it is taken
    TOLD = 15  # a prediction was answered by a line at `time`, of its machine; its body says how long it took and ran


class Codec(IntEnum):
    """How a PREDICT frame's body is written."""

    NONE = 0
    BUFFET = 1  # V1 JSON
    IMAGE = 2  # JSON options, then an image file
    OIP = 3  # V2 JSON; tensors behind it where there is a split
    OIP_RAW = 4  # the model's one input as bare bytes; the answer is as for OIP
    OIP_GRPC = 5  # a ModelInferRequest; the answer is a ModelInferResponse
    KSERVE = 6  # V1 JSON of KServe


LINE_SHIFT = 48  # above the ids of requests stands by which line a runner has them, 0 for the modelhost's own
SHARED = 0x80  # beside a codec: the body is a reference to shared memory


class Payload(NamedTuple):
    """What a PREDICT frame carries: a body, how it is written, and how much of it is JSON."""

    codec: Codec
    split: int
    body: bytes


_OIP_GRPC = Codec.OIP_GRPC.value

P = TypeVar("P", bound="FrameProtocol")


class FrameError(ValueError):
    """The peer does not speak this protocol; the connection is of no more use."""


def encode_frame(  # noqa: PLR0913 - a frame's fields
    kind: int, codec: int, split: int, key: bytes, frame_id: int, time_ns: int, size: int, context: bytes = b""
) -> bytes:
    """Header, key and context of a frame whose body of `size` bytes follows."""
    names = len(key) | len(context) << 8
    length = _AFTER_LENGTH + len(key) + len(context) + size
    return HEADER.pack(length, kind, codec, names, split, frame_id, time_ns) + key + context


def sizes_of(names: int) -> tuple[int, int]:
    """How long key and context are, by the header's field for both."""
    return names & _KEY_SIZE, names >> 8


class Traffic:
    """How much has gone over some channels."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = self.received_bytes = 0


class FrameProtocol(asyncio.Protocol):
    """One end of a stream of frames; a subclass says what happens with each."""

    most_bytes = MAX_FRAME_BYTES  # of a frame

    def __init__(self, traffic: Traffic | None = None) -> None:
        """What goes over it is added to `traffic`."""
        self._traffic = traffic or Traffic()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # less than a frame's header and key
        self._head: Head = (0,) * 7  # of the frame whose body is not whole yet
        self._key = b""
        self.context = b""  # of the frame that is handed on
        self._pieces: list[bytes] = []
        self._missing = 0
        self._out: list[bytes] = []  # leaves at the end of this turn of the loop
        self.full = False  # more is unsent than a peer that keeps up would leave

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Take one whole frame.

        Raises:
            FrameError: no sound peer sends such a frame.
        """
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; refuse a unix peer of another user."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(UNSENT_BYTES)
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            if not is_own_user(sock):
                self._transport.abort()
                self._transport = None
                return
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the transport; nothing is sent any more."""
        self._transport = None
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        """Cut what came into frames; a large body is put together from its pieces once, when it is whole."""
        self._traffic.received_bytes += len(data)
        missing = self._missing
        if missing > len(data):
            self._pieces.append(data)
            self._missing = missing - len(data)
            return
        try:
            if missing:
                self._pieces.append(data[:missing])
                self._complete()
                data = data[missing:]
            elif self._rest:
                data = self._rest + data
            self._rest = self._cut(data)
        except FrameError as error:
            self.garbled(error)

    def garbled(self, error: FrameError) -> None:  # noqa: ARG002 - for a subclass to tell of
        """Drop the connection: what follows cannot be told apart from garbage."""
        self.close()

    def _cut(self, data: bytes) -> bytes:
        """Hand on each whole frame of `data`, begin a body that is not whole; returns what is less than a head."""
        offset, size = 0, len(data)
        while size - offset >= _HEADER_BYTES:
            head: Head = _unpack_head(data, offset)
            length, names = head[0], head[3]
            key_size = names & _KEY_SIZE
            if not _AFTER_LENGTH + key_size + (names >> 8) <= length <= self.most_bytes:
                check_length(length, names, self.most_bytes)
            end = offset + 4 + length
            start = offset + _HEADER_BYTES
            key_end = start + key_size
            body = key_end + (names >> 8)
            if end > size:
                if body > size:
                    break
                self._head, self._key, self.context = head, data[start:key_end], data[key_end:body]
                self._pieces = [data[body:]]
                self._missing = end - size
                return b""
            self.context = data[key_end:body] if names > _KEY_SIZE else b""
            self.frame_received(head, data[start:key_end], data[body:end])
            offset = end
        return data[offset:]

    def _complete(self) -> None:
        """Hand on the frame whose last piece has come."""
        body = b"".join(self._pieces)
        self._pieces = []
        self._missing = 0
        self.frame_received(self._head, self._key, body)

    def send(  # noqa: PLR0913 - a frame's fields
        self,
        kind: int,
        codec: int,
        split: int,
        key: bytes,
        frame_id: int,
        time_ns: int,
        body: bytes,
        context: bytes = b"",
    ) -> None:
        """Send a frame together with all others of this turn of the loop."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        key_size, context_size = len(key), len(context)
        size = _AFTER_LENGTH + key_size + context_size + len(body)
        out.append(HEADER.pack(size, kind, codec, key_size | context_size << 8, split, frame_id, time_ns))
        out.append(key)
        if context_size:
            out.append(context)
        out.append(body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is None:
            return
        if len(out) < _FEW and max(map(len, out)) > _JOIN_BYTES:
            self._traffic.sent_bytes += sum(map(len, out))
            self._transport.writelines(out)
        else:
            data = b"".join(out)
            self._traffic.sent_bytes += len(data)
            self._transport.write(data)

    def pause_writing(self) -> None:
        """Take note that the peer takes nothing off the connection for the moment."""
        self.full = True

    def resume_writing(self) -> None:
        """Take note that it does again."""
        self.full = False

    @property
    def unsent(self) -> bool:
        """Tell whether something is still to leave."""
        return self._transport is not None and bool(self._out or self._transport.get_write_buffer_size())

    @property
    def connected(self) -> bool:
        """Tell whether the peer is still there."""
        return self._transport is not None

    def close(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def is_own_user(sock: socket.socket) -> bool:
    """Tell whether the other end of a unix socket is a process of this user, or root's."""
    _, uid, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return uid in {0, os.geteuid()}


def looks_whole(codec: int, split: int, body: bytes) -> bool:
    """Tell whether an answer begins and ends as one of its codec does; it is too large to look at more of it."""
    if codec == _OIP_GRPC:
        return body.startswith(b"\n")  # the field model_name
    return body.startswith(b"{") and split <= len(body) and body[split - 1] == _CLOSING_BRACE


def check_length(length: int, names: int, most_bytes: int = MAX_FRAME_BYTES) -> None:
    """Refuse a header that no sound peer sends.

    Raises:
        FrameError: the frame is too long, or shorter than its own key and context.
    """
    key_size, context_size = sizes_of(names)
    if not _AFTER_LENGTH + key_size + context_size <= length <= most_bytes:
        msg = f"a frame of {length} bytes with a key of {key_size} and a context of {context_size}"
        raise FrameError(msg)


def read_error(body: bytes) -> MLBuffetError:
    """The error that the other end answered with."""
    try:
        answer = orjson.loads(body)
        return from_code(str(answer["code"]), str(answer["message"]))
    except (ValueError, KeyError, TypeError):
        return MLBuffetError("the answer cannot be read")
