"""Which modelhost gets the next request. Pure: no clock, no network, no lock.

Power of two choices: look at two candidates at random, take the one with fewer requests in flight (Azar et al.,
"Balanced Allocations", SIAM J. Comput. 29(1), 1999). Plain least-loaded herds when several gateways see only their own
requests; a random order of the two breaks ties evenly.
"""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from mlbuffet.errors import UnavailableError


class Loaded(Protocol):
    """Something that knows how many requests it has in flight."""

    in_flight: int


L = TypeVar("L", bound=Loaded)


def choose_replica(candidates: Sequence[L], rng: random.Random) -> L:
    """Pick the modelhost for the next request.

    Raises:
        UnavailableError: no candidate is left.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    if not count:
        msg = "no modelhost is ready"
        raise UnavailableError(msg)
    # rng.sample would cost ten times as much on the hot path.
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    if second >= first:
        second += 1
    a, b = candidates[first], candidates[second]
    return a if a.in_flight <= b.in_flight else b
