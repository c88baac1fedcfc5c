"""What a runner reads: its modelhost's requests and those of lines, none of which can hold up or end the others."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from mlbuffet.channel import LINE_SHIFT, SHARED, Kind, encode_frame
from modelhost.inbox import Inbox


class Ends(NamedTuple):
    """An inbox with two lines, and the other ends of the three connections."""

    inbox: Inbox
    main: socket.socket
    first: socket.socket
    second: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in socket.socketpair()] for _ in range(3)]
        (main, frames), (first, mine), (second, other) = pairs
        for end in (main, first, second):
            end.settimeout(5)
        inbox = Inbox(frames)
        for number, line in ((1, mine), (2, other)):
            os.set_blocking(line.fileno(), False)
            inbox.open(number, line.detach())
        yield Ends(inbox, main, first, second)
        for number in (1, 2):
            if (opened := inbox.line_of(number << LINE_SHIFT)) is not None:
                opened.close()


def predict(number: int, body: bytes = b"{}", kind: int = Kind.PREDICT, codec: int = 1) -> bytes:
    return encode_frame(kind, codec, 0, b"", number, 0, len(body)) + body


def numbers(inbox: Inbox) -> list[int]:
    return [frame[3] for frame in inbox.read()]


def test_requests_of_all_have_numbers_of_their_own(ends: Ends) -> None:
    for end in (ends.main, ends.first, ends.second):
        end.sendall(predict(7) + predict(8))
    assert set(numbers(ends.inbox)) == {line << LINE_SHIFT | number for line in (0, 1, 2) for number in (7, 8)}


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        predict(1, kind=Kind.RELEASE),
        predict(1, codec=1 | SHARED),
        predict(1 << LINE_SHIFT),
        b"",
    ],
    ids=["garbage", "another kind", "shared memory", "another line's number", "its end"],
)
def test_who_sends_what_no_line_carries_loses_it_alone(data: bytes, ends: Ends) -> None:
    ends.first.sendall(data)
    if not data:
        ends.first.shutdown(socket.SHUT_RDWR)
    ends.second.sendall(predict(3))
    assert numbers(ends.inbox) == [2 << LINE_SHIFT | 3]
    assert ends.inbox.line_of(1 << LINE_SHIFT | 1) is None
    assert ends.first.recv(1) == b""


def test_half_a_request_holds_up_nobody(ends: Ends) -> None:
    whole = predict(1, b"x" * 1000)
    ends.first.sendall(whole[:500])
    ends.main.sendall(predict(2))
    assert numbers(ends.inbox) == [2]
    ends.first.sendall(whole[500:])
    assert numbers(ends.inbox) == [1 << LINE_SHIFT | 1]


def test_who_takes_no_answers_is_let_go_of_after_a_moment(ends: Ends) -> None:
    for end in (ends.first, ends.second):
        end.sendall(predict(1))
    numbers(ends.inbox)
    slow, other = ends.inbox.line_of(1 << LINE_SHIFT), ends.inbox.line_of(2 << LINE_SHIFT)
    assert slow is not None
    assert other is not None
    slow.held.append(bytes(1 << 23))
    other.held.append(b"answer")
    began = time.monotonic()
    ends.inbox.send()
    assert time.monotonic() - began < 1
    assert ends.second.recv(100) == b"answer"
    assert ends.inbox.line_of(1 << LINE_SHIFT) is None


def test_when_the_modelhost_hangs_up_what_lines_had_sent_before_comes_first(ends: Ends) -> None:
    ends.first.sendall(predict(1))
    ends.main.shutdown(socket.SHUT_RDWR)
    assert numbers(ends.inbox) == [1 << LINE_SHIFT | 1]
    with pytest.raises(EOFError):
        ends.inbox.read()
