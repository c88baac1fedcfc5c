"""Requests of one version on this modelhost: those that wait here, and the few that its runners have already.

Most wait here and not in a runner, so that what is overdue or abandoned is dropped before it runs, and what is due
soonest goes first. A runner has a tenth of a second of work ahead, so that it is never idle: how many requests that is
follows from how long they take.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

import orjson

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.errors import MLBuffetError, QueueFullError
from modelhost.segments import SharedBody

_MOST_AHEAD, _BATCHES_AHEAD = 64, 2
_AHEAD_NS = 100_000_000
_SMOOTHING = 0.1
_PROMISED_SHARE = 0.8  # of the time that a request has: the pace is an average, and the way back takes time too


class Hand:
    """How many requests one runner has, and since when it has been busy with the first of them."""

    __slots__ = ("busy_since_ns", "count")

    def __init__(self) -> None:
        self.count = 0
        self.busy_since_ns = 0


class Waiting:
    """A request that an inferrer waits for."""

    __slots__ = (
        "abandoned",
        "alone",
        "arrived_ns",
        "body",
        "codec",
        "context",
        "deadline_ns",
        "frame_id",
        "given_ns",
        "hand",
        "link",
        "shared",
        "split",
        "stopped",
        "tried",
    )

    def __init__(  # noqa: PLR0913 - a frame's fields, and when it came
        self,
        link: FrameProtocol,
        frame_id: int,
        codec: int,
        split: int,
        arrived_ns: int,
        deadline_ns: int,
        body: bytes,
        context: bytes = b"",
    ) -> None:
        self.link = link
        self.frame_id = frame_id
        self.codec = codec
        self.split = split
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns
        self.body = body
        self.context = context  # whose it is
        self.given_ns = arrived_ns  # when it was handed to the runner that has it
        self.shared: SharedBody | None = None  # where the body stands, when it came as a reference
        self.hand: Hand | None = None  # of the runner that has it, or is to have it again
        self.stopped = False  # the runtime was asked to end its run
        self.abandoned = False  # its client is gone
        self.alone = False  # to be run without others: one of those beside it may have ended their runner
        self.tried = False  # its runner was killed by a stranger once

    @property
    def content(self) -> bytes:
        """The body itself."""
        return self.body if self.shared is None else self.shared.read()

    def refuse(self, error: MLBuffetError) -> None:
        """Answer with an error."""
        send_error(self.link, self.frame_id, error)


def send_error(link: FrameProtocol, frame_id: int, error: MLBuffetError) -> None:
    """Answer a frame with an error."""
    body = orjson.dumps({"code": error.code, "message": error.message})
    link.send(Kind.ERROR, 0, 0, b"", frame_id, 0, body)


class RequestQueue:
    """What is due first is served first, within a bound; measures how long a request takes. Pure: time is an argument.

    Requests of the same time allowed are due in the order in which they came.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.waiting: list[tuple[int, int, Waiting]] = []  # a heap by deadline, then by arrival
        self._arrivals = self._returns = 0  # what comes back goes before its equals
        self._suspects: list[Waiting] = []  # one of them may have ended its runner: only the replacement runs them
        self._ahead: dict[int, Waiting] = {}
        self._runners = 1
        self._least_ahead = _BATCHES_AHEAD
        self._pace_ns = 0.0
        self.most_ahead = _MOST_AHEAD  # requests that a runner may have
        self.given = 0  # the number of the request that was given to a runner last
        self.queued = 0  # requests that were given to a runner, and for how long they had waited all together
        self.queued_ns = 0

    @property
    def is_long(self) -> bool:
        """Tell whether so many may wait that it matters little whether all who do are counted here."""
        return self._most >= _MOST_AHEAD

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self.waiting) + len(self._suspects) + len(self._ahead)

    def serve_with(self, runners: int, batch_rows: int) -> None:
        """Take note of how many runners there are, and how many rows each runs at once."""
        self._runners = max(runners, 1)
        self._least_ahead = _BATCHES_AHEAD * batch_rows
        self._set_most_ahead()

    def refusal(self, waiting: Waiting, now_ns: int) -> QueueFullError | None:
        """Why a request cannot be added: too many wait already, or those before it need more than its time."""
        if not self.waiting and len(self._ahead) < self._most:
            return None
        count = len(self)
        if count >= self._most:
            return QueueFullError(f"{self._most} requests wait for this model here already")
        promised_ns = (waiting.deadline_ns - now_ns) * _PROMISED_SHARE
        each_ns = self._pace_ns / self._runners
        if not self.waiting or (count + 1) * each_ns <= promised_ns:
            return None
        count -= sum(deadline_ns > waiting.deadline_ns for deadline_ns, _, _ in self.waiting)
        needed_ns = (count + 1) * each_ns
        if needed_ns <= promised_ns:
            return None
        return QueueFullError(f"with the {count} before it, it needs about {needed_ns / 1e9:.3g} s, more than it has")

    def put(self, waiting: Waiting) -> None:
        """Add a request."""
        self._arrivals += 1
        heapq.heappush(self.waiting, (waiting.deadline_ns, self._arrivals, waiting))

    def next(self, hand: Hand, now_ns: int) -> Waiting | None:
        """The next request for a runner, from now on known by the number `given`; None while it has enough."""
        if hand.count >= self.most_ahead:
            return None
        if self._suspects:
            mine = next((index for index, waiting in enumerate(self._suspects) if waiting.hand is hand), None)
            if mine is not None:
                return self.give(self._suspects.pop(mine), hand, now_ns)
        return self.give(heapq.heappop(self.waiting)[2], hand, now_ns) if self.waiting else None

    def give(self, waiting: Waiting, hand: Hand, now_ns: int) -> Waiting:
        """Note that a runner has a request from now on; it may never have waited here."""
        if not hand.count:
            hand.busy_since_ns = now_ns
        hand.count += 1
        if waiting.hand is None:
            self.queued += 1
            self.queued_ns += now_ns - waiting.arrived_ns
        waiting.hand = hand
        waiting.given_ns = now_ns
        self.given = number = self.given + 1
        self._ahead[number] = waiting
        return waiting

    def answered(self, number: int) -> Waiting | None:
        """Take out a request that its runner has answered."""
        return self._ahead.pop(number, None)

    def pace(self, hand: Hand, answers: int, now_ns: int) -> None:
        """Learn from so many answers, which came together, how long a runner takes for a request."""
        hand.count -= answers
        took_ns, hand.busy_since_ns = (now_ns - hand.busy_since_ns) / answers, now_ns
        self._pace_ns += (took_ns - self._pace_ns) * (min(_SMOOTHING * answers, 1) if self._pace_ns else 1)
        self._set_most_ahead()

    def _set_most_ahead(self) -> None:
        # Of several runners the first that is free takes the next request: none has more ahead than it needs.
        due = int(_AHEAD_NS / (self._pace_ns or 1)) if self._runners == 1 else 0
        self.most_ahead = max(self._least_ahead, min(_MOST_AHEAD, due))

    def ahead(self, number: int) -> Waiting | None:
        """The request that a runner knows by this number."""
        return self._ahead.get(number)

    def overdue(self, now_ns: int) -> list[Waiting]:
        """Take out what waits here past its deadline."""
        late = [waiting for waiting in self._suspects if waiting.deadline_ns < now_ns]
        if late:
            self._suspects = [waiting for waiting in self._suspects if waiting.deadline_ns >= now_ns]
        while self.waiting and self.waiting[0][0] < now_ns:
            late.append(heapq.heappop(self.waiting)[2])
        return late

    def abandon(self, is_gone: Callable[[Waiting], bool]) -> list[Waiting]:
        """Forget requests whose client is gone, and return them; those that a runner has are marked."""
        here = [*self._suspects, *(item[2] for item in self.waiting), *self._ahead.values()]
        gone = [waiting for waiting in here if not waiting.abandoned and is_gone(waiting)]
        for waiting in gone:
            waiting.abandoned = True
        if gone:
            self.waiting = [item for item in self.waiting if not item[2].abandoned]
            heapq.heapify(self.waiting)
            self._suspects = [waiting for waiting in self._suspects if not waiting.abandoned]
        return gone

    def take_back(self, hand: Hand) -> dict[int, Waiting]:
        """Take out what a runner had that is no more, in its order."""
        hand.count = 0
        taken = {number: waiting for number, waiting in self._ahead.items() if waiting.hand is hand}
        for number in taken:
            del self._ahead[number]
        return taken

    def put_back(self, requests: Iterable[Waiting]) -> None:
        """Let requests wait again unless nobody waits for them; those to be run alone, for the runner that had them."""
        for waiting in reversed(list(requests)):
            if waiting.abandoned:
                continue
            if waiting.alone:
                self._suspects.insert(0, waiting)
            else:
                self._returns -= 1
                heapq.heappush(self.waiting, (waiting.deadline_ns, self._returns, waiting))

    def release(self, hand: Hand) -> None:
        """Let others run what waited for a runner that does not come back."""
        for waiting in [waiting for waiting in self._suspects if waiting.hand is hand]:
            self._suspects.remove(waiting)
            self.put(waiting)

    def drain(self) -> Iterator[Waiting]:
        """Take out everything that waits here, the first first."""
        while self._suspects:
            yield self._suspects.pop(0)
        while self.waiting:
            yield heapq.heappop(self.waiting)[2]
