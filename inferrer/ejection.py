"""When a modelhost is left out, for how long, and how it comes back. Pure: no clock, no network, time is an argument.

Faults weigh against answers: a fault counts one, a good answer takes a twentieth of one back, at five the modelhost is
out. So five faults in a row end it at once, and so does a modelhost that fails more than one request in twenty for
long. Each ejection lasts twice as long as the one before, as in Envoy's outlier detection. Who comes back is on
probation: one more fault ejects it again, and its share of the traffic grows from a tenth to the whole in ten seconds.
"""

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

FAULTS = 5.0
PARDON = 0.05
FIRST_S = 1.0
LONGEST_S = 30.0
FRESH_S = 60.0
RAMP_S = 10.0
FULL = 10


class Standing:
    """What is held against the modelhost at one address; it outlives the connection."""

    __slots__ = ("_ejections", "_out_until", "_returned_at", "_returning", "_was_ready", "faults", "reason")

    def __init__(self) -> None:
        self.faults = 0.0
        self.reason = ""  # why it is ejected; empty when it is not
        self._ejections = 0
        self._out_until = 0.0
        self._was_ready = False
        self._returning = False
        self._returned_at = -math.inf

    @property
    def ejected(self) -> bool:
        """Tell whether it is to get no traffic."""
        return bool(self.reason)

    def fault(self) -> bool:
        """Count a fault; tells whether the modelhost is to be ejected for it."""
        self.faults = min(self.faults + 1, FAULTS)
        return self.faults >= FAULTS

    def pardon(self, weight: float = PARDON) -> None:
        """Take back a part of what is held against it."""
        self.faults = max(self.faults - weight, 0)

    def eject(self, reason: str, now: float) -> float:
        """Leave it out; returns for how many seconds at least."""
        lately = now - self._returned_at < FRESH_S
        self._ejections = self._ejections + 1 if lately else 1
        out_s = min(FIRST_S * 2.0 ** (self._ejections - 1), LONGEST_S)
        self._out_until = now + out_s
        self.reason = reason
        return out_s

    def may_return(self, now: float) -> bool:
        """Tell whether an ejection has lasted long enough."""
        return self.ejected and now >= self._out_until

    def readmit(self, now: float) -> None:
        """End an ejection, on probation and with a small share."""
        self.reason = ""
        self.faults = min(self.faults, FAULTS - 1)
        self._returned_at = now

    def lose(self) -> None:
        """Note that its connection is gone: one that had served begins with a small share when it is back."""
        self._returning = self._was_ready

    def greet(self, now: float) -> None:
        """Note that it says it is ready."""
        self._was_ready = True
        if self._returning:
            self._returning = False
            self._returned_at = now

    def tenths(self, now: float) -> int:
        """Its share of the traffic that an equal would get, in tenths."""
        grown = min(max(now - self._returned_at, 0) / RAMP_S, 1)
        return 1 + int((FULL - 1) * grown)


class Returning(Protocol):
    """Something with a share of the traffic."""

    tenths: int


R = TypeVar("R", bound=Returning)


def by_share(candidates: Sequence[R]) -> list[R]:
    """Each candidate once; while shares differ, as often as its share has tenths. Choosing costs no more for it."""
    if len({candidate.tenths for candidate in candidates}) < 2:  # noqa: PLR2004
        return list(candidates)
    return [candidate for candidate in candidates for _ in range(candidate.tenths)]
