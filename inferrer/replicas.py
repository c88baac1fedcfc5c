"""Which modelhosts there are, which are ready and what each has loaded; one channel to each, per inferrer process.

An answer without addresses never empties the set: the last good one is used. Who is silent or faulty is ejected, and
comes back by and by (ejection.py). Panic: where all are ejected, all are used, for it is more likely that something
else is wrong than that trying them makes anything worse.
"""

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from inferrer.call import Call
from inferrer.ejection import Standing
from inferrer.mirrors import Mirrors
from inferrer.places import look_up
from inferrer.replica import Replica
from mlbuffet.channel import Kind, Traffic
from mlbuffet.chassis.tally import Histogram
from mlbuffet.endpoints import Address, connect
from mlbuffet.errors import MLBuffetError, ReplicaLostError
from mlbuffet.index import Index

log = logging.getLogger(__name__)

SILENT_S = 1.0
DEAD_S = 10.0
_TICK_S = 0.2
_LOOKUP_S = 0.5
_DIAL_S = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0

STATES = ("ready", "not_ready", "silent", "faulty", "lost")

Failed = Callable[[Call, MLBuffetError, Replica], None]


@dataclass(slots=True, eq=False)
class Peer:
    """One address: the channel there, or the attempts to open one."""

    address: Address
    standing: Standing = field(default_factory=Standing)
    replica: Replica | None = None
    dialing: asyncio.Task[None] | None = None
    failures: int = 0
    dial_at: float = 0
    why: str = ""  # the last attempt failed

    def postpone(self, now: float, rng: random.Random) -> None:
        """Put the next attempt off, for longer with each one that failed, and not together with everybody else's."""
        pause_s = min(_FIRST_PAUSE_S * 2**self.failures, _LONGEST_PAUSE_S)
        self.failures = min(self.failures + 1, 10)
        self.dial_at = now + pause_s * rng.uniform(0.5, 1)


class Replicas:
    """All modelhosts. Lives on one event loop; other threads read snapshots."""

    def __init__(
        self,
        places: Iterable[str],
        tls: ssl.SSLContext | None,
        on_failed: Failed,
        on_ejected: Callable[[Replica], None],
        index: Index,
    ) -> None:
        self._places = tuple(places)
        self._tls = tls
        self._rng = random.Random()  # noqa: S311 - chance, not secrecy
        self._peers: dict[Address, Peer] = {}
        self._known: dict[str, frozenset[Address]] = {}
        self._awake_s = 0.0  # this process's own time: it stands still while the process is kept from running
        self._looked_at = 0.0
        self._ejected = on_ejected
        self._mirrors = Mirrors(index)
        self.failed = on_failed
        self.epoch = 0
        self.closing = False
        self.ejections: Counter[str] = Counter()
        self.traffic = Traffic()
        self.steps: Histogram | None = None

    def all(self) -> list[Replica]:
        """Every modelhost with a connection, once.

        Where one is reached in two ways, by the unix socket: the other way is a spare.
        """
        connections = self.connections()
        local = {replica.id for replica in connections if replica.address.path}
        return [replica for replica in connections if replica.address.path or replica.id not in local]

    def connections(self) -> list[Replica]:
        """Every connection to a modelhost, spares too."""
        return [peer.replica for peer in list(self._peers.values()) if peer.replica is not None]

    def by_state(self) -> dict[str, int]:
        """How many modelhosts there are in each state; one that was silent until its connection was closed still is."""
        found = dict.fromkeys(STATES, 0)
        for replica in self.all():
            found[replica.standing.reason or ("ready" if replica.ready else "not_ready")] += 1
        for peer in list(self._peers.values()):
            if peer.replica is None:
                found[peer.standing.reason or "lost"] += 1
        return found

    def ready(self) -> list[Replica]:
        """Every modelhost that takes predictions now; where all are ejected, all.

        Those that no place names any more come last: a place may be wrong.
        """
        sound = [replica for replica in self.all() if replica.says_ready]
        named = [replica for replica in sound if not replica.leaving]
        return [replica for replica in named if replica.ready] or named or sound

    def ready_for(self, operation: str) -> list[Replica]:
        """Every modelhost that may be asked to do something; to look at a file, those that need not fetch it first."""
        ready = self.ready()
        near = [replica for replica in ready if not replica.is_mirror]
        return near if near and operation == "check" else ready

    def others(self, replica: Replica) -> list[Replica]:
        """Who is sound and could do its work."""
        return [other for other in self.ready() if other is not replica and other.ready]

    def changed(self) -> None:
        """Something about a modelhost changed: choices made before are to be made anew."""
        self.epoch += 1

    # Ejection -------------------------------------------------------------------------------------------------------

    def fault(self, replica: Replica, why: str) -> None:
        """Hold a fault against a modelhost; too many eject it, unless nobody else would be left."""
        if replica.standing.fault() and not replica.standing.ejected and self.others(replica):
            self._eject(replica, "faulty", why)

    def _eject(self, replica: Replica, reason: str, why: str) -> None:
        seconds = replica.standing.eject(reason, self._now())
        self.ejections[reason] += 1
        fields = {"modelhost": replica.id, "reason": reason, "why": why, "seconds": seconds}
        log.warning("modelhost ejected", extra=fields | {"in_flight": replica.in_flight})
        self.changed()
        self._ejected(replica)

    def _examine(self) -> None:
        """Ask every modelhost for a sign of life; eject who owes one, readmit who may come back."""
        now = self._now()
        # What this process was kept from hearing is nobody's fault.
        self._awake_s += min(now - self._looked_at, 2 * _TICK_S)
        self._looked_at = now
        for replica in self.connections():
            standing, silent_s = replica.standing, replica.silent_s(self._awake_s)
            if silent_s > DEAD_S:
                replica.close()
            elif silent_s > SILENT_S:
                if replica.ready:
                    self._eject(replica, "silent", f"no answer for {silent_s:.1f} s")
            elif standing.may_return(now):
                standing.readmit(now)
                log.info("modelhost readmitted", extra={"modelhost": replica.id})
                self.changed()
            if replica.tenths != (tenths := standing.tenths(now)):
                replica.tenths = tenths
                self.changed()
            replica.ping(self._awake_s)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # Connections ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the places for ever: connect to what is new, let go of what is gone."""
        self._looked_at = self._now()
        async with asyncio.TaskGroup() as tasks:
            for place in self._places:
                tasks.create_task(self._watch(place))
            while True:
                # Whether or not places can be looked up now: what was lost is dialled again.
                self._follow()
                self._examine()
                await asyncio.sleep(_TICK_S)

    async def _watch(self, place: str) -> None:
        """Look a place up again and again; the last good answer stands."""
        while True:
            found = await look_up(place)
            if found and found != self._known.get(place):
                self._known[place] = found
                self._follow()
            await asyncio.sleep(_LOOKUP_S)

    def _follow(self) -> None:
        """Dial every address that is known and not connected; let the others go when they are not needed."""
        wanted = frozenset[Address]().union(*self._known.values())
        now = self._now()
        for address in wanted - self._peers.keys():
            self._peers[address] = Peer(address)
        for peer in list(self._peers.values()):
            leaving = peer.address not in wanted
            if peer.replica is not None:
                self._let_go(peer.replica, leaving=leaving)
            elif peer.dialing is not None:
                continue
            elif leaving:
                del self._peers[peer.address]
            elif now >= peer.dial_at:
                peer.postpone(now, self._rng)
                peer.dialing = asyncio.get_running_loop().create_task(self._dial(peer))

    def _let_go(self, replica: Replica, *, leaving: bool) -> None:
        """Close the connection to a modelhost that no place names, once its answers are here."""
        if leaving != replica.leaving:
            replica.leaving = leaving
            self.changed()
        # It may be draining: its answers are still good.
        if leaving and not replica.in_flight and replica not in self.ready():
            replica.close()

    async def _dial(self, peer: Peer) -> None:
        try:
            async with asyncio.timeout(_DIAL_S):
                replica = await connect(
                    lambda: Replica(self, peer.address, peer.standing, self.traffic), peer.address, self._tls
                )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            if str(error) != peer.why:  # once, not with every try
                peer.why = str(error)
                log.info("modelhost does not answer", extra={"address": str(peer.address), "why": peer.why})
            return
        finally:
            peer.dialing = None
        if replica.connected:  # it may have been lost already
            peer.replica, peer.why = replica, ""
            self.changed()  # its first word may have come before it stood here

    def measured(self, call: Call, host_ns: int) -> None:
        """Count how long an answered prediction was at the modelhost, and on the way there and back."""
        if self.steps is not None and call.kind == Kind.PREDICT:
            host_s = host_ns / 1e9
            self.steps.observe(host_s, "modelhost")
            self.steps.observe(max(time.monotonic() - call.sent_at - host_s, 0), "channel")

    def lost(self, replica: Replica, calls: list[Call]) -> None:
        """A connection is gone; whoever waited for it is tried elsewhere or told."""
        peer = self._peers.get(replica.address)
        if peer is not None and peer.replica is replica:
            peer.replica = None
            if replica.id:  # it was the right one there
                peer.failures, peer.dial_at = 0, 0
        replica.standing.lose()
        self._mirrors.forget(replica)
        self.changed()
        if not self.closing:
            log.warning("modelhost lost", extra={"modelhost": replica.id, "in_flight": len(calls)})
        for call in calls:
            self.failed(call, ReplicaLostError("the modelhost went away before it answered"), replica)

    # Mirrors --------------------------------------------------------------------------------------------------------

    def follows(self, replica: Replica) -> None:
        """Tell a modelhost without the repository what is in it."""
        self._mirrors.follow(replica)

    def fetches(self, replica: Replica, key: bytes, frame_id: int, offset: int, count: int) -> None:
        """Send such a modelhost a piece of a file."""
        self._mirrors.fetch(replica, key, frame_id, offset, count)
