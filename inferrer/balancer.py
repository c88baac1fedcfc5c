"""Which modelhost gets the next request. Pure: no clock, no network, no lock.

Power of two choices: look at two candidates at random, take the one with fewer requests in flight (Azar et al.,
"Balanced Allocations", SIAM J. Comput. 29(1), 1999). Plain least-loaded herds when several gateways see only their own
requests; a random order of the two breaks ties evenly.

A model whose run costs less than the way to it is better served where others are: requests that go to one modelhost
share its wake-ups, writes and batches. So its requests take turns: for a moment all gateways send to the same one, as
long as that is not much busier or slower than another, then to the next (docs/adr/0024-taking-turns.md).
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mlbuffet.errors import UnavailableError

_TURN_S = 0.05
_SLOWER = 2  # times
_MORE_BYTES = 1 << 16  # of bodies: to read so many takes longer than the way to another


class Loaded(Protocol):
    """Something that knows what it has in flight, and how many seconds it took of late to answer a request."""

    in_flight: int
    held_bytes: int
    took_s: float


L = TypeVar("L", bound=Loaded)


def choose_replica(candidates: Sequence[L], random: Callable[[], float], together: int = 0, now: float = 0) -> L:
    """Pick the modelhost for the next request.

    `random` gives a number from 0 up to 1; `together` is how many requests more than another the one may have whose
    turn it is at `now`, in seconds of the machine's monotonic clock, while they are short. 0 stands for no turns.

    Raises:
        UnavailableError: no candidate is left.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    if not count:
        msg = "no modelhost is ready"
        raise UnavailableError(msg)
    if together:
        a, b = candidates[int(now / _TURN_S) % count], candidates[int(random() * count)]
        busier = a.in_flight >= b.in_flight + together or a.held_bytes > b.held_bytes + _MORE_BYTES
        if not busier and a.took_s <= _SLOWER * b.took_s:
            return a
    a, b = _two_of(candidates, random)
    return a if a.in_flight <= b.in_flight else b


def _two_of(candidates: Sequence[L], random: Callable[[], float]) -> tuple[L, L]:
    """Two different ones in either order; random.sample would cost ten times as much."""
    count = len(candidates)
    first, second = int(random() * count), int(random() * (count - 1))
    return candidates[first], candidates[second + (second >= first)]
