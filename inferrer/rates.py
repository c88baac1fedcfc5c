"""How often a key may ask, and how often a client may be wrong. Pure: time comes as an argument.

A key's requests are counted by the generic cell rate algorithm (ITU-T I.371): one number says when the next request is
due, and one second's worth may come ahead of that. The numbers lie in memory that the forks of one process share, so a
limit holds over all processes of an inferrer. Two that count at the same moment may count one request for two.
"""

import ipaddress
import mmap
from collections.abc import MutableSequence

from mlbuffet.keys import MOST_KEYS

_AHEAD_S = 1.0
_NEARLY_S = 1e-9

# Made when this is imported, by the process that the workers are forked from: they all write to the same memory.
SHARED: MutableSequence[float] = memoryview(mmap.mmap(-1, MOST_KEYS * 8)).cast("d")  # type: ignore[assignment]


class Rate:
    """The limit of one key: so many requests a second, counted in one slot of `dues`."""

    __slots__ = ("_ahead_s", "_dues", "_interval_s", "_slot")

    def __init__(self, per_second: float, dues: MutableSequence[float], slot: int) -> None:
        self._interval_s = 1 / per_second
        self._ahead_s = max(_AHEAD_S - self._interval_s, 0.0)
        self._dues = dues
        self._slot = slot

    def wait_s(self, now: float) -> float:
        """Count a request; how long it is too early, 0 where it may pass."""
        due = self._dues[self._slot]
        early_s = due - now
        if early_s > self._ahead_s + self._interval_s + _NEARLY_S:
            due = early_s = 0.0  # left by another key that had this slot
        if early_s > self._ahead_s + _NEARLY_S:
            return early_s - self._ahead_s
        self._dues[self._slot] = max(due, now) + self._interval_s
        return 0.0


class WrongKeys:
    """How often each client sent a wrong key lately; IPv6 clients are told apart by their network of 64 bits."""

    def __init__(self, most: int = 20, window_s: float = 60.0, clients: int = 4096) -> None:
        """`most` within `window_s` are told that a key is wrong; of so many `clients` it is known."""
        self._most = most
        self._window_s = window_s
        self._clients = clients
        self._counts: dict[str, tuple[float, int]] = {}

    def wait_s(self, client: str, now: float) -> float:
        """Count a wrong key; how long its client has to wait, 0 where it may be told."""
        client = _network(client)
        began, count = self._counts.get(client, (now, 0))
        if now - began >= self._window_s:
            began, count = now, 0
            del self._counts[client]  # so that the order stays that of the beginnings
        if client not in self._counts and len(self._counts) >= self._clients:
            del self._counts[next(iter(self._counts))]
        self._counts[client] = began, count + 1
        return 0.0 if count < self._most else began + self._window_s - now


def _network(client: str) -> str:
    if ":" not in client:
        return client
    return str(ipaddress.ip_network((client.partition("%")[0], 64), strict=False))
