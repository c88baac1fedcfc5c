"""Lines from inferrers on this machine straight to a version's one runner: who has one, and what was called off on it.

For a fast model half of the time of a request was the way through this process, which has nothing to decide for it:
nothing waits. So an inferrer may have a connection of its own to the runner (docs/adr/0039-lines.md). Whatever is not
as usual goes through here all the same: what a line's end leaves unanswered its inferrer sends again this way.
"""

import itertools
import os
import socket
from typing import Protocol

from mlbuffet.channel import LINE_SHIFT, FrameProtocol, is_own_user
from modelhost.tasks import Tuning

_BARRED_S = 60.0
_MOST = 1 << 15  # lines of one runner
_MOST_OF_ONE = 8  # of one inferrer: one that is used, others that were left off
_MOST_UNWANTED = 1 << 12
_WATCHED_NS = 3_600_000_000_000  # no request takes longer
_FAST_S = 0.0003  # a run that costs less than the way here


class Carrier(Protocol):
    """A runner, as one that takes lines."""

    def take_line(self, number: int, fd: int) -> bool:
        """Hand a line over; tells whether it went."""


class Lines:
    """Of one version."""

    def __init__(self) -> None:
        self._numbers = itertools.cycle(range(1, _MOST))
        self._lines: dict[int, tuple[FrameProtocol, Carrier]] = {}
        self._barred_until = 0.0
        self._unwanted: dict[int, int] = {}  # by number, since when
        self._watched_until_ns = 0

    def offered(self, runners: int, tuning: Tuning | None) -> bool:
        """Tell whether inferrers may have one."""
        run_s = tuning.run_s if tuning is not None else None
        return runners == 1 and run_s is not None and run_s < _FAST_S and not self._barred_until

    def bar(self, now_s: float) -> None:
        """Have everything come through here for a while: the runner has died, and whose fault that is, is seen here."""
        self._barred_until = now_s + _BARRED_S

    def lifted(self, now_s: float) -> bool:
        """Lift that when its time is over; tells whether it is so just now."""
        if not self._barred_until or now_s < self._barred_until:
            return False
        self._barred_until = 0.0
        return True

    def open(self, link: FrameProtocol, fd: int, runner: Carrier | None) -> bool:
        """Give a runner an inferrer's line; tells whether it has it. The descriptor is let go of here."""
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                sound = sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM and is_own_user(sock)
            os.set_blocking(fd, False)
            number = next(self._numbers)
            if runner is None or not sound or not runner.take_line(number, fd):
                return False
        except OSError:
            return False
        finally:
            os.close(fd)
        # What its inferrer has closed is not told here: the oldest make room.
        own = self._of(link)
        for former in own[: max(len(own) + 1 - _MOST_OF_ONE, 0)]:
            del self._lines[former]
        self._lines[number] = link, runner
        return True

    def _of(self, link: FrameProtocol) -> list[int]:
        return [number for number, (own, _) in self._lines.items() if own is link]

    def call_off(self, link: FrameProtocol, frame_id: int, now_ns: int) -> None:
        """Note that nobody waits for a request any more, in case it is one of a line."""
        for number in self._of(link):
            if len(self._unwanted) >= _MOST_UNWANTED:
                del self._unwanted[next(iter(self._unwanted))]
            self._unwanted[number << LINE_SHIFT | frame_id] = now_ns

    def forget(self, link: FrameProtocol, now_ns: int) -> None:
        """Forget an inferrer that is gone: nobody waits for what it had sent."""
        for number in self._of(link):
            del self._lines[number]
            self._watched_until_ns = now_ns + _WATCHED_NS

    def watched(self, now_ns: int) -> bool:
        """Tell whether a runner may be at something that nobody waits for."""
        return bool(self._unwanted) or now_ns < self._watched_until_ns

    def unwanted_since(self, number: int, now_ns: int) -> int | None:
        """Since when nobody waits for a request of a line that is being run; None where somebody does."""
        if number not in self._unwanted and number >> LINE_SHIFT in self._lines:
            return None
        return self._unwanted.setdefault(number, now_ns)

    def ended(self, runner: Carrier) -> None:
        """Forget those of a runner that is no more."""
        self._lines = {number: item for number, item in self._lines.items() if item[1] is not runner}
        self._unwanted.clear()
        self._watched_until_ns = 0


def is_direct(number: int) -> bool:
    """Tell whether a runner has a request by a line."""
    return bool(number >> LINE_SHIFT)
