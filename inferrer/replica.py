"""The channel to one modelhost: what is in flight on it, what it says of itself, and how long it has been silent.

It is asked for a sign of life again and again, on the stream that carries the requests: what hangs, is cut off or does
not keep up answers late or not at all, for whatever reason.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import orjson

from inferrer.call import Call, is_fault
from inferrer.ejection import FULL, Standing
from inferrer.lines import Line, Lines
from inferrer.segments import Lease, Recipient
from mlbuffet.channel import SHARED, FrameError, FrameProtocol, Head, Kind, Traffic, looks_whole, read_error
from mlbuffet.endpoints import Address
from mlbuffet.errors import DeadlineExceededError, MLBuffetError

_REPLY, _ERROR, _PONG, _STATE = Kind.REPLY.value, Kind.ERROR.value, Kind.PONG.value, Kind.STATE.value
_FOLLOW, _FETCH, _LINE = Kind.FOLLOW.value, Kind.FETCH.value, Kind.LINE.value

MEASURED = 7  # one request in eight is measured step by step
_SMOOTHING = 0.05
_FORGOTTEN_S = 0.5  # of which a turn is a small part: who waits for one is not taken for faster than the others
_FOUND = 3  # where in a state it stands how the version is run
_FAST_S = 0.0003  # a run that costs less than what is around it
_MOST_TOGETHER = 32
_PREDICT, _PREDICT_ALONE = Kind.PREDICT.value, Kind.PREDICT_ALONE.value


class Owner(Protocol):
    """Who is told what happens on a channel."""

    def changed(self) -> None:
        """Whether it is ready, or what it has loaded, is no longer what it was."""

    def failed(self, call: Call, error: MLBuffetError, replica: "Replica") -> None:
        """A request was not answered as it should be; it is no longer in flight."""

    def fault(self, replica: "Replica", why: str) -> None:
        """The modelhost did what no sound one does."""

    def measured(self, call: Call, host_ns: int) -> None:
        """A request whose steps are to be measured was answered; so long it took at the modelhost."""

    def lost(self, replica: "Replica", calls: list[Call]) -> None:
        """The connection is gone, and with it what was in flight."""

    def follows(self, replica: "Replica") -> None:
        """The modelhost asks to be told what is in the repository."""

    def fetches(self, replica: "Replica", key: bytes, frame_id: int, offset: int, count: int) -> None:
        """The modelhost asks for a piece of a file."""


class Replica(FrameProtocol):
    """One modelhost, with the requests it has in flight."""

    def __init__(self, owner: Owner, address: Address, standing: Standing, traffic: Traffic | None = None) -> None:
        super().__init__(traffic)
        self._owner = owner
        self.address = address
        self.standing = standing
        self.id = ""
        self.says_ready = False
        self.is_mirror = False  # it has not the repository, and fetches what it is to run
        self.leaving = False  # no place names it any more
        self.tenths = FULL
        self.versions: Mapping[str, Sequence[Any]] = {}  # state, error code, reason, how it is run, and if by lines
        self.in_flight = 0
        self.took_s = 0.0  # to answer requests that take turns: the longest of late, less and less with time
        self.held_bytes = 0  # of what is in flight
        self._calls: dict[int, Call] = {}
        self._next_id = 0
        self._pings: deque[tuple[int, float]] = deque()
        self._state_number = 0  # of the last word on itself
        self._segments = Recipient("")
        self._lines = Lines(self, self._traffic)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the way for shared memory beside the stream."""
        super().connection_made(transport)
        self._segments = Recipient(self.address.path)

    @property
    def takes_segments(self) -> bool:
        """Tell whether large bodies reach it by shared memory."""
        return self._segments.takes_segments

    @property
    def ready(self) -> bool:
        """Tell whether it takes predictions now."""
        return self.says_ready and not self.standing.ejected

    def has(self, key: str) -> bool:
        """Tell whether a version is loaded there."""
        state = self.versions.get(key)
        return state is not None and state[0] == "READY"

    def together(self, key: str) -> int:
        """How many requests of a version it pays to send here together, by the modelhost's word on it."""
        state = self.versions.get(key)
        found = state[_FOUND] if state is not None and len(state) > _FOUND else None
        if not isinstance(found, Mapping):
            return 0
        rows, run_s = found.get("batch_rows"), found.get("run_s")
        if isinstance(rows, int) and isinstance(run_s, float) and run_s < _FAST_S:
            return min(rows - 1, _MOST_TOGETHER)
        return 0

    # Requests -------------------------------------------------------------------------------------------------------

    def start(self, call: Call, now: float) -> None:
        """Send a request."""
        self._next_id = frame_id = self._next_id + 1
        self._calls[frame_id] = call
        call.replica = self
        call.frame_id = frame_id
        call.sent_at = now
        self.in_flight += 1
        self.held_bytes += len(call.body)
        if call.kind != _PREDICT or not self._went_direct(call):
            self._send(call, now)

    def _send(self, call: Call, now: float) -> None:
        """Send a request over the channel."""
        remaining_ns = max(int((call.deadline - now) * 1e9), 0)
        kind, codec, body = _PREDICT_ALONE if call.alone else call.kind, call.codec, call.body
        if isinstance(body, Lease):
            codec, body = self._refer(codec, body, call.key)
        self.send(kind, codec, call.split, call.key, call.frame_id, remaining_ns, body, call.context)

    def _went_direct(self, call: Call) -> bool:
        """Send a request straight to the runner, where there is a line and nothing speaks against it."""
        line, body = self._lines.find(call.key), call.body
        if line is None:
            if self._lines.wanted(call.key):
                number = self._lines.open(call.key, self._segments)
                if number is not None:
                    self.send(Kind.LINE, 0, 0, call.key, number, 0, b"")
            return False
        # A trace has its steps told by the modelhost; shared memory is handed on there.
        if call.alone or b" " in call.context or isinstance(body, Lease) or not line.take(call.frame_id, call.sent_at):
            return False
        call.line = line
        line.send(_PREDICT, call.codec, call.split, b"", call.frame_id, int(call.deadline * 1e9), body)
        return True

    def refused(self, frame_id: int) -> None:
        """Have the modelhost look at what a runner has not answered."""
        if (call := self._calls.get(frame_id)) is not None:
            call.line = None
            self._send(call, time.monotonic())

    def was_slow(self, frame_id: int, took_ns: int, ran: bytes) -> None:
        """Tell the modelhost, which has not seen it."""
        if (call := self._calls.get(frame_id)) is not None:
            body = took_ns.to_bytes(8, "little") + ran
            self.send(Kind.TOLD, call.codec, 0, call.key, frame_id, time.monotonic_ns(), body, call.context)

    def waits_for(self, key: bytes, seconds: float) -> bool:
        """Tell whether a request for a version has been on its way for so long."""
        before = time.monotonic() - seconds
        return any(call.key == key and call.sent_at < before for call in self._calls.values())

    def line_lost(self, line: Line) -> None:
        """Send what a line has left unanswered over the channel; if that has ended too, all is lost soon."""
        now = time.monotonic()
        for call in [call for call in self._calls.values() if call.line is line]:
            call.line, call.alone = None, True
            self._send(call, now)

    def _refer(self, codec: int, body: Lease, key: bytes) -> tuple[int, bytes]:
        """What goes into a frame for a body in shared memory: a reference, or the bytes after all."""
        reference = body.refer(self._segments, key)
        return (codec, bytes(body)) if reference is None else (codec | SHARED, reference)

    def release(self, number: int) -> None:
        """Tell the modelhost that a segment is no more, if it has it."""
        if self._segments.forget(number):
            self.send(Kind.RELEASE, 0, 0, b"", number, 0, b"")

    def cancel(self, call: Call) -> bool:
        """Forget a request and tell the modelhost to; tells whether it was in flight here."""
        if self._take(call.frame_id) is None:
            return False
        call.lose_sight()
        self.send(Kind.CANCEL, 0, 0, call.key, call.frame_id, 0, b"")
        return True

    def _take(self, frame_id: int) -> Call | None:
        """Take a request out, if it is still in flight."""
        call = self._calls.pop(frame_id, None)
        if call is not None:
            self.in_flight -= 1
            self.held_bytes -= len(call.body)
        return call

    def age(self, seconds: float) -> None:
        """Forget by and by how slow it was: one that gets few requests has few answers to show that it is no more."""
        self.took_s *= 1 - seconds / _FORGOTTEN_S

    def expire(self, now: float) -> None:
        """End what is past its deadline; hold it against the modelhost what it has not answered for long."""
        oldest = next(iter(self._calls.values()))
        if oldest.turn_at:
            self.took_s = max(self.took_s, now - oldest.turn_at)
        for call in [call for call in self._calls.values() if call.deadline <= now]:
            self.cancel(call)
            error = DeadlineExceededError("the answer was not there within the time allowed")
            self._owner.failed(call, error, self)

    def movable(self) -> Iterator[Call]:
        """The requests that may be sent once more elsewhere."""
        yield from [call for call in self._calls.values() if call.kind == Kind.PREDICT and not call.retried]

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:  # noqa: C901 - on the hot path
        """Match an answer with its request, or take the modelhost's word on itself."""
        _, kind, _, _, split, frame_id, time_ns = head
        if kind == _REPLY:
            call = self._calls.pop(frame_id, None)
            if call is not None:
                self.in_flight -= 1
                self.held_bytes -= len(call.body)
                if call.turn_at:
                    took_s = time.monotonic() - call.turn_at
                    self.took_s = max(self.took_s + (took_s - self.took_s) * _SMOOTHING, took_s)
                if looks_whole(call.codec, split, body):
                    if self.standing.faults:
                        self.standing.pardon()
                    call.answer_split = split
                    call.host_ns = time_ns
                    if not frame_id & MEASURED:
                        self._owner.measured(call, time_ns)
                    call.done(None, body, call)
                else:
                    self._owner.failed(call, MLBuffetError("the modelhost's answer is not whole"), self)
        elif kind == _ERROR:
            self._take_error(frame_id, body)
        elif kind == _PONG:
            while self._pings and self._pings[0][0] <= frame_id:
                self._pings.popleft()
        elif kind == _STATE:
            self._take_state(body)
            self._state_number = frame_id
        else:
            self._take_question(kind, key, frame_id, time_ns, split)

    def _take_question(self, kind: int, key: bytes, frame_id: int, offset: int, count: int) -> None:
        """Have the owner tell a modelhost what it wants to know."""
        if kind == _LINE:
            self._lines.told(frame_id, taken=bool(count))
        elif kind == _FETCH:
            self._owner.fetches(self, key, frame_id, offset, count)
        elif kind == _FOLLOW:
            self._owner.follows(self)
        else:
            msg = f"a frame of the kind {kind}"
            raise FrameError(msg)

    def _take_error(self, frame_id: int, body: bytes) -> None:
        call = self._take(frame_id)
        if call is None:
            return  # nobody waits for it any more
        error = read_error(body)
        if self.standing.faults and not is_fault(error):
            self.standing.pardon()
        self._owner.failed(call, error, self)

    # The modelhost --------------------------------------------------------------------------------------------------

    def _take_state(self, body: bytes) -> None:
        try:
            state = orjson.loads(body)
            self.id, ready, self.versions = str(state["id"]), bool(state["ready"]), dict(state["versions"])
            self.is_mirror = bool(state.get("mirror"))
        except (ValueError, KeyError, TypeError):
            msg = "a state that is none"
            raise FrameError(msg) from None
        self._lines.offer(self.versions, int(state.get("slow_ns", 0)))
        if ready and not self.says_ready:
            self.standing.greet(self._loop.time())
        self.says_ready = ready
        self._owner.changed()

    def ping(self, now: float) -> None:
        """Ask for a sign of life; `now` by whatever clock `silent_s` is asked with."""
        self._next_id = number = self._next_id + 1
        self._pings.append((number, now))
        self._lines.age()
        self.send(Kind.PING, 0, self._state_number, b"", number, 0, b"")

    def silent_s(self, now: float) -> float:
        """For how long the oldest question has been unanswered, in seconds."""
        return now - self._pings[0][1] if self._pings else 0

    def garbled(self, error: FrameError) -> None:
        """Hold what is no frame against the modelhost, and drop the connection."""
        self._owner.fault(self, f"garbage: {error}")
        super().garbled(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand back what was in flight: it may be tried elsewhere."""
        super().connection_lost(exc)
        self._segments.close()
        calls, self._calls = list(self._calls.values()), {}
        self._lines.close()
        for call in calls:
            call.lose_sight()
        self.in_flight = self.held_bytes = 0
        self.says_ready = False
        self._owner.lost(self, calls)

    def describe(self) -> dict[str, Any]:
        """What an operator sees of it."""
        return {"modelhost": self.id, "ready": self.ready, "in_flight": self.in_flight}
