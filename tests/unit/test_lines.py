"""Who is offered a line to a runner, and which of its requests nobody waits for."""

import asyncio
import os
import socket

import pytest

from mlbuffet.channel import LINE_SHIFT, FrameProtocol
from modelhost.lines import Lines
from modelhost.tasks import Tuning

FAST = Tuning(threads=1, batch_rows=32, run_s=0.00001)


class Runner:
    """Takes lines, or not."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.lines: list[int] = []

    def take_line(self, number: int, fd: int) -> bool:
        """Take one that does not block."""
        assert not os.get_blocking(fd)
        self.lines.append(number)
        return self.takes


@pytest.mark.parametrize(
    ("runners", "tuning", "offered"),
    [
        (1, FAST, True),
        (2, FAST, False),
        (0, FAST, False),
        (1, None, False),
        (1, Tuning(threads=1, batch_rows=1, run_s=None), False),
        (1, Tuning(threads=1, batch_rows=1, run_s=0.01), False),
    ],
)
def test_a_fast_model_with_one_runner_has_lines(runners: int, tuning: Tuning | None, offered: bool) -> None:  # noqa: FBT001
    assert Lines().offered(runners, tuning) is offered


def test_after_a_runners_death_there_is_none_for_a_minute() -> None:
    lines = Lines()
    lines.bar(100)
    assert not lines.offered(1, FAST)
    assert not lines.lifted(159)
    assert lines.lifted(161)
    assert not lines.lifted(162)
    assert lines.offered(1, FAST)


async def _link() -> FrameProtocol:
    return FrameProtocol()


def _fd() -> int:
    ours, theirs = socket.socketpair()
    ours.close()
    return theirs.detach()


def test_a_request_is_wanted_until_it_is_called_off() -> None:
    lines, runner, link, other = Lines(), Runner(), asyncio.run(_link()), asyncio.run(_link())
    assert lines.open(link, _fd(), runner)
    (line,) = runner.lines
    seventh, eighth = (line << LINE_SHIFT | number for number in (7, 8))
    assert not lines.watched(1000)
    lines.call_off(other, 8, 1000)
    lines.call_off(link, 7, 1000)
    assert lines.watched(1000)
    assert (lines.unwanted_since(seventh, 2000), lines.unwanted_since(eighth, 2000)) == (1000, None)
    lines.ended(Runner())
    assert lines.unwanted_since(eighth, 3000) is None, "another runner has ended"
    lines.ended(runner)
    assert not lines.watched(3000)


def test_nobody_waits_for_what_an_inferrer_had_sent_that_is_gone() -> None:
    lines, runner, link = Lines(), Runner(), asyncio.run(_link())
    assert lines.open(link, _fd(), runner)
    (line,) = runner.lines
    lines.forget(link, 1000)
    assert lines.watched(2000)
    assert lines.unwanted_since(line << LINE_SHIFT | 7, 2000) == 2000
    assert lines.unwanted_since(line << LINE_SHIFT | 7, 3000) == 2000


def test_of_an_inferrers_many_lines_the_last_ones_count() -> None:
    lines, runner, link = Lines(), Runner(), asyncio.run(_link())
    for _ in range(20):
        assert lines.open(link, _fd(), runner)
    wanted = [line for line in runner.lines if lines.unwanted_since(line << LINE_SHIFT, 1) is None]
    assert wanted == runner.lines[-8:]


@pytest.mark.parametrize("kind", ["no socket", "datagrams", "no runner", "not taken"])
def test_what_is_no_line_is_closed(kind: str) -> None:
    fd = _fd()
    if kind == "no socket":
        fd = os.memfd_create("no socket")
    elif kind == "datagrams":
        fd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
    runner = None if kind == "no runner" else Runner(takes=kind != "not taken")
    assert not Lines().open(asyncio.run(_link()), fd, runner)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
