"""One request on its way to a modelhost."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inferrer.ejection import Standing
from inferrer.segments import Lease
from mlbuffet.errors import MLBuffetError

if TYPE_CHECKING:
    from inferrer.lines import Line
    from inferrer.replica import Replica


class Call:
    """One request on its way: what is needed to send it, to send it once more, and to end it."""

    # Defaults of the class: on the hot path most of them are never set.
    answer_split = 0
    asker: Any = None  # whatever `done` wants to know again
    ref = b""
    target: Any = None  # what the name stood for when it was sent
    retried = False
    replica: "Replica | None" = None  # where it is in flight
    frame_id = 0
    turn_at = 0.0  # when it was sent, if it is one of those that take turns
    blamed: Standing | None = None  # who answered it with a fault the first time
    context = b""  # whose it is
    sent_at = 0.0
    host_ns = 0  # that it took at the modelhost
    line: "Line | None" = None  # by which it went, if not over the channel
    alone = False  # a line ended with it in flight: it may be what ended the runner

    def __init__(
        self, kind: int, key: bytes, payload: tuple[int, int, bytes | Lease], deadline: float, done: Callable[..., None]
    ) -> None:
        self.kind = kind
        self.key = key
        self.codec, self.split, self.body = payload
        self.deadline = deadline
        self.done = done

    def timings(self, now: float) -> dict[str, object]:
        """What a record says of where an answered request was, and where it spent its time."""
        host_s = self.host_ns / 1e9
        if self.replica is None or not self.host_ns:
            return {}
        channel_s = max(now - self.sent_at - host_s, 0)
        return {"modelhost": self.replica.id, "modelhost_s": round(host_s, 6), "channel_s": round(channel_s, 6)}

    def lose_sight(self) -> None:
        """It is no longer in flight, and nobody knows whether its body is still being read."""
        if isinstance(self.body, Lease):
            self.body.spoil()


def is_fault(error: MLBuffetError) -> bool:
    """Tell whether an answer is held against the modelhost: INTERNAL says nothing of the request."""
    return type(error) is MLBuffetError
