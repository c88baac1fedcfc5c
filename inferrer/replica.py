"""The channel to one modelhost: what is in flight on it, what it says of itself, and how long it has been silent.

It is asked for a sign of life again and again, on the stream that carries the requests: what hangs, is cut off or does
not keep up answers late or not at all, for whatever reason.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from inferrer.ejection import FULL, Standing
from mlbuffet.channel import FrameError, FrameProtocol, Kind
from mlbuffet.endpoints import Address
from mlbuffet.errors import DeadlineExceededError, MLBuffetError, from_code

UNSENT_BYTES = 1 << 26


class Call:
    """One request on its way: what is needed to send it, to send it once more, and to end it."""

    __slots__ = (
        "blamed",
        "body",
        "codec",
        "deadline",
        "done",
        "frame_id",
        "key",
        "kind",
        "ref",
        "replica",
        "retried",
        "target",
    )

    def __init__(
        self, kind: int, key: bytes, codec: int, body: bytes, deadline: float, done: Callable[..., None]
    ) -> None:
        self.kind = kind
        self.key = key
        self.codec = codec
        self.body = body
        self.deadline = deadline
        self.done = done
        self.ref = b""
        self.target: Any = None  # what the name stood for when it was sent
        self.retried = False
        self.replica: Replica | None = None  # where it is in flight
        self.frame_id = 0
        self.blamed: Standing | None = None  # who answered it with a fault the first time


class Owner(Protocol):
    """Who is told what happens on a channel."""

    def changed(self) -> None:
        """Whether it is ready, or what it has loaded, is no longer what it was."""

    def failed(self, call: Call, error: MLBuffetError, replica: "Replica") -> None:
        """A request was not answered as it should be; it is no longer in flight."""

    def fault(self, replica: "Replica", why: str) -> None:
        """The modelhost did what no sound one does."""

    def lost(self, replica: "Replica", calls: list[Call]) -> None:
        """The connection is gone, and with it what was in flight."""


def is_fault(error: MLBuffetError) -> bool:
    """Tell whether an answer is held against the modelhost: INTERNAL says nothing of the request."""
    return type(error) is MLBuffetError


class Replica(FrameProtocol):
    """One modelhost, with the requests it has in flight."""

    def __init__(self, owner: Owner, address: Address, standing: Standing) -> None:
        super().__init__()
        self._owner = owner
        self.address = address
        self.standing = standing
        self.id = ""
        self.says_ready = False
        self.leaving = False  # no place names it any more
        self.tenths = FULL
        self.versions: Mapping[str, list[str]] = {}
        self.in_flight = 0
        self.held_bytes = 0  # of what is in flight
        self._calls: dict[int, Call] = {}
        self._next_id = 0
        self._pings: deque[tuple[int, float]] = deque()

    @property
    def ready(self) -> bool:
        """Tell whether it takes predictions now."""
        return self.says_ready and not self.standing.ejected

    @property
    def full(self) -> bool:
        """Tell whether it takes nothing off the connection for the moment."""
        return self.unsent_bytes() > UNSENT_BYTES

    def has(self, key: str) -> bool:
        """Tell whether a version is loaded there."""
        state = self.versions.get(key)
        return state is not None and state[0] == "READY"

    # Requests -------------------------------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        """Send a request."""
        self._next_id = frame_id = self._next_id + 1
        self._calls[frame_id] = call
        call.replica = self
        call.frame_id = frame_id
        self.in_flight += 1
        self.held_bytes += len(call.body)
        remaining_ns = int((call.deadline - time.monotonic()) * 1e9)
        self.send(call.kind, call.codec, call.key, frame_id, max(remaining_ns, 0), call.body)

    def cancel(self, call: Call) -> bool:
        """Forget a request and tell the modelhost to; tells whether it was in flight here."""
        if self._take(call.frame_id) is None:
            return False
        self.send(Kind.CANCEL, 0, call.key, call.frame_id, 0, b"")
        return True

    def _take(self, frame_id: int) -> Call | None:
        """Take a request out, if it is still in flight."""
        call = self._calls.pop(frame_id, None)
        if call is not None:
            self.in_flight -= 1
            self.held_bytes -= len(call.body)
        return call

    def expire(self, now: float) -> None:
        """End what is past its deadline."""
        for call in [call for call in self._calls.values() if call.deadline <= now]:
            self.cancel(call)
            error = DeadlineExceededError("the answer was not there within the time allowed")
            self._owner.failed(call, error, self)

    def movable(self) -> Iterator[Call]:
        """The requests that may be sent once more elsewhere."""
        yield from [call for call in self._calls.values() if call.kind == Kind.PREDICT and not call.retried]

    def frame_received(self, kind: int, codec: int, key: bytes, frame_id: int, time_ns: int, body: bytes) -> None:  # noqa: ARG002
        """Match an answer with its request, or take the modelhost's word on itself."""
        if kind == Kind.REPLY:
            call = self._take(frame_id)
            if call is not None:
                # Every answer is a JSON object, and too large to look at more of it.
                if body.startswith(b"{") and body.endswith(b"}"):
                    if self.standing.faults:
                        self.standing.pardon()
                    call.done(None, body, call)
                else:
                    self._owner.failed(call, MLBuffetError("the modelhost's answer is not whole"), self)
        elif kind == Kind.ERROR:
            self._take_error(frame_id, body)
        elif kind == Kind.PONG:
            while self._pings and self._pings[0][0] <= frame_id:
                self._pings.popleft()
        elif kind == Kind.STATE:
            self._take_state(body)
        else:
            msg = f"a frame of the kind {kind}"
            raise FrameError(msg)

    def _take_error(self, frame_id: int, body: bytes) -> None:
        call = self._take(frame_id)
        if call is None:
            return  # nobody waits for it any more
        error = _read_error(body)
        if self.standing.faults and not is_fault(error):
            self.standing.pardon()
        self._owner.failed(call, error, self)

    # The modelhost --------------------------------------------------------------------------------------------------

    def _take_state(self, body: bytes) -> None:
        try:
            state = orjson.loads(body)
            self.id, ready, self.versions = str(state["id"]), bool(state["ready"]), dict(state["versions"])
        except (ValueError, KeyError, TypeError):
            msg = "a state that is none"
            raise FrameError(msg) from None
        if ready and not self.says_ready:
            self.standing.greet(self._loop.time())
        self.says_ready = ready
        self._owner.changed()

    def ping(self, now: float) -> None:
        """Ask for a sign of life; `now` by whatever clock `silent_s` is asked with."""
        self._next_id = number = self._next_id + 1
        self._pings.append((number, now))
        self.send(Kind.PING, 0, b"", number, 0, b"")

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
        calls, self._calls = list(self._calls.values()), {}
        self.in_flight = self.held_bytes = 0
        self.says_ready = False
        self._owner.lost(self, calls)

    def describe(self) -> dict[str, Any]:
        """What an operator sees of it."""
        return {"modelhost": self.id, "ready": self.ready, "in_flight": self.in_flight}


def _read_error(body: bytes) -> MLBuffetError:
    """The error that a modelhost answered with."""
    try:
        answer = orjson.loads(body)
        return from_code(str(answer["code"]), str(answer["message"]))
    except (ValueError, KeyError, TypeError):
        return MLBuffetError("the modelhost's answer cannot be read")
