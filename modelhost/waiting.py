"""Requests of one version on this modelhost: those that wait here, and the few that its runner has already.

Most wait here and not in the runner, so that what is overdue or abandoned is dropped before it runs. The runner has
a tenth of a second of work ahead, so that it is never idle: how many requests that is follows from how long they take.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import orjson

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.errors import MLBuffetError, QueueFullError

_MOST_AHEAD, _LEAST_AHEAD = 64, 2
_AHEAD_NS = 100_000_000
_SMOOTHING = 0.1
_PROMISED_SHARE = 0.8  # of the time that a request has: the pace is an average, and the way back takes time too


class Waiting:
    """A request that an inferrer waits for."""

    __slots__ = ("abandoned", "alone", "body", "codec", "deadline_ns", "frame_id", "link", "stopped", "tried")

    def __init__(self, link: FrameProtocol, frame_id: int, codec: int, deadline_ns: int, body: bytes) -> None:
        self.link = link
        self.frame_id = frame_id
        self.codec = codec
        self.deadline_ns = deadline_ns
        self.body = body
        self.stopped = False  # the runtime was asked to end its run
        self.abandoned = False  # its client is gone
        self.alone = False  # to be run without others: one of those beside it may have ended their runner
        self.tried = False  # its runner was killed by a stranger once

    def refuse(self, error: MLBuffetError) -> None:
        """Answer with an error."""
        send_error(self.link, self.frame_id, error)


def send_error(link: FrameProtocol, frame_id: int, error: MLBuffetError) -> None:
    """Answer a frame with an error."""
    body = orjson.dumps({"code": error.code, "message": error.message})
    link.send(Kind.ERROR, 0, b"", frame_id, 0, body)


class RequestQueue:
    """First come, first served, within a bound; measures how long a request takes. Pure: time is an argument."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Waiting] = deque()
        self._ahead: dict[int, Waiting] = {}
        self._most_ahead = _MOST_AHEAD
        self._pace_ns = 0.0
        self._busy_since_ns = 0
        self.given = 0  # the number of the request that was given to a runner last

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._ahead)

    @property
    def is_idle(self) -> bool:
        """Tell whether the runner has nothing."""
        return not self._ahead

    def refusal(self, waiting: Waiting, now_ns: int) -> QueueFullError | None:
        """Why a request cannot be added: too many wait already, or those before it need more than its time."""
        count = len(self._waiting) + len(self._ahead)
        if count >= self._most:
            return QueueFullError(f"{self._most} requests wait for this model here already")
        needed_ns = (count + 1) * self._pace_ns
        if self._waiting and needed_ns > (waiting.deadline_ns - now_ns) * _PROMISED_SHARE:
            return QueueFullError(
                f"with the {count} before it, it needs about {needed_ns / 1e9:.3g} s, more than it has"
            )
        return None

    def put(self, waiting: Waiting) -> None:
        """Add a request."""
        self._waiting.append(waiting)

    def next(self, now_ns: int) -> Waiting | None:
        """The next request for the runner, from now on known by the number `given`; None while it has enough."""
        if not self._waiting or len(self._ahead) >= self._most_ahead:
            return None
        if not self._ahead:
            self._busy_since_ns = now_ns
        waiting = self._waiting.popleft()
        self.given += 1
        self._ahead[self.given] = waiting
        return waiting

    def answered(self, number: int, now_ns: int) -> Waiting | None:
        """Take out a request that the runner has answered."""
        waiting = self._ahead.pop(number, None)
        took_ns, self._busy_since_ns = now_ns - self._busy_since_ns, now_ns
        self._pace_ns += (took_ns - self._pace_ns) * (_SMOOTHING if self._pace_ns else 1)
        self._most_ahead = max(_LEAST_AHEAD, min(_MOST_AHEAD, int(_AHEAD_NS / (self._pace_ns or 1))))
        return waiting

    def ahead(self, number: int) -> Waiting | None:
        """The request that the runner knows by this number."""
        return self._ahead.get(number)

    def overdue(self, now_ns: int) -> list[Waiting]:
        """Take out what waits here past its deadline."""
        late = [waiting for waiting in self._waiting if waiting.deadline_ns < now_ns]
        if late:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.deadline_ns >= now_ns)
        return late

    def abandon(self, is_gone: Callable[[Waiting], bool]) -> None:
        """Forget requests whose client is gone; those that the runner has are marked."""
        self._waiting = deque(waiting for waiting in self._waiting if not is_gone(waiting))
        for waiting in self._ahead.values():
            waiting.abandoned = waiting.abandoned or is_gone(waiting)

    def take_back(self) -> dict[int, Waiting]:
        """Take out what a runner had that is no more, in its order."""
        ahead, self._ahead = self._ahead, {}
        return ahead

    def put_back(self, requests: Iterable[Waiting]) -> None:
        """Put requests in front again, in their order, unless nobody waits for them any more."""
        self._waiting.extendleft(reversed([waiting for waiting in requests if not waiting.abandoned]))

    def drain(self) -> Iterator[Waiting]:
        """Take out everything that waits here."""
        while self._waiting:
            yield self._waiting.popleft()
