"""Which modelhosts exist, which are ready and what each has loaded; one channel to each, per inferrer process.

Places come from settings: `tcp://name:port` is asked of DNS again and again and may have many addresses; a `unix:`
folder may hold many sockets. An answer without addresses never empties the set: the last good one is used. A modelhost
tells its state itself, at every change and as a heartbeat; one that falls silent takes no traffic.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from mlbuffet.channel import FrameProtocol, Kind
from mlbuffet.endpoints import Address, connect
from mlbuffet.errors import DeadlineExceededError, MLBuffetError, ReplicaLostError, UnavailableError, from_code

log = logging.getLogger(__name__)

SILENT_S = 2.0
_LOOKUP_S = 0.5
_DIAL_S = 0.1
_UNSENT_BYTES = 1 << 26


class Call:
    """One request on its way: what is needed to send it, to send it once more, and to end it."""

    __slots__ = ("body", "codec", "deadline", "done", "key", "kind", "ref", "retried")

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
        self.retried = False


class Replica(FrameProtocol):
    """The channel to one modelhost, with the requests it has in flight."""

    def __init__(self, replicas: "Replicas", address: Address) -> None:
        super().__init__()
        self._replicas = replicas
        self.address = address
        self.id = ""
        self.says_ready = False
        self.leaving = False  # no place names it any more
        self.heard_at = 0.0
        self.versions: Mapping[str, list[str]] = {}
        self.in_flight = 0
        self._calls: dict[int, Call] = {}
        self._next_id = 0

    @property
    def ready(self) -> bool:
        """Tell whether it takes predictions now."""
        return self.says_ready and self._loop.time() - self.heard_at < SILENT_S

    def has(self, key: str) -> bool:
        """Tell whether a version is loaded there."""
        state = self.versions.get(key)
        return state is not None and state[0] == "READY"

    def start(self, call: Call) -> None:
        """Send a request.

        Raises:
            UnavailableError: the modelhost takes nothing off the connection any more.
        """
        if self.unsent_bytes() > _UNSENT_BYTES:
            msg = "the modelhost does not keep up"
            raise UnavailableError(msg)
        self._next_id = frame_id = self._next_id + 1
        self._calls[frame_id] = call
        self.in_flight += 1
        remaining_ns = int((call.deadline - time.monotonic()) * 1e9)
        self.send(call.kind, call.codec, call.key, frame_id, max(remaining_ns, 0), call.body)

    def frame_received(self, kind: int, codec: int, key: bytes, frame_id: int, time_ns: int, body: bytes) -> None:  # noqa: ARG002
        """Match an answer with its request, or take the modelhost's word on its state."""
        if kind == Kind.STATE:
            self._take_state(body)
            return
        call = self._calls.pop(frame_id, None)
        if call is None:
            return  # answered by its deadline already
        self.in_flight -= 1
        if kind == Kind.REPLY:
            call.done(None, body, call)
        else:
            error = orjson.loads(body)
            self._replicas.failed(call, from_code(error["code"], error["message"]))

    def _take_state(self, body: bytes) -> None:
        self.heard_at = self._loop.time()
        if body:  # a heartbeat has none
            state = orjson.loads(body)
            self.id, self.says_ready, self.versions = state["id"], state["ready"], state["versions"]
            self._replicas.changed()

    def expire(self, now: float) -> None:
        """End what is past its deadline."""
        overdue = [frame_id for frame_id, call in self._calls.items() if call.deadline <= now]
        for frame_id in overdue:
            call = self._calls.pop(frame_id)
            self.in_flight -= 1
            self._replicas.expired(call)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand back what was in flight: it may be tried elsewhere."""
        super().connection_lost(exc)
        calls, self._calls, self.in_flight = list(self._calls.values()), {}, 0
        self.says_ready = False
        self._replicas.lost(self, calls)

    def describe(self) -> dict[str, Any]:
        """What an operator sees of it."""
        return {"modelhost": self.id, "ready": self.ready, "in_flight": self.in_flight}


class Replicas:
    """All modelhosts. Lives on one event loop; other threads read snapshots."""

    def __init__(
        self, places: Iterable[str], tls: ssl.SSLContext | None, on_failed: Callable[[Call, MLBuffetError], None]
    ) -> None:
        self._places = tuple(places)
        self._tls = tls
        self.failed = on_failed
        self.epoch = 0
        self.closing = False
        self._connected: dict[Address, Replica] = {}
        self._dialing: dict[Address, asyncio.Task[None]] = {}
        self._unreachable: set[Address] = set()
        self._known: dict[str, frozenset[Address]] = {}

    def all(self) -> list[Replica]:
        """Every modelhost with a connection."""
        return list(self._connected.values())

    def ready(self) -> list[Replica]:
        """Every modelhost that takes predictions now.

        When all of them have fallen silent at once it is more likely that this process was kept from hearing them: then
        those that last said they are ready. Those that no place names any more come last: a place may be wrong.
        """
        sound = [replica for replica in self._connected.values() if replica.says_ready]
        named = [replica for replica in sound if not replica.leaving]
        return [replica for replica in named if replica.ready] or named or sound

    def changed(self) -> None:
        """Something about a modelhost changed: choices made before are to be made anew."""
        self.epoch += 1

    def expired(self, call: Call) -> None:
        """A request's time is over."""
        call.done(DeadlineExceededError("the answer was not there within the time allowed"), b"", call)

    def lost(self, replica: Replica, calls: list[Call]) -> None:
        """A connection is gone; whoever waited for it is tried elsewhere or told."""
        if self._connected.get(replica.address) is replica:
            del self._connected[replica.address]
        self.changed()
        if not self.closing:
            log.warning("modelhost lost", extra={"modelhost": replica.id, "in_flight": len(calls)})
        for call in calls:
            self.failed(call, ReplicaLostError("the modelhost went away before it answered"))

    async def run(self) -> None:
        """Follow the places for ever: connect to what is new, let go of what is gone."""
        async with asyncio.TaskGroup() as tasks:
            for place in self._places:
                tasks.create_task(self._watch(place))
            while True:
                # Whether or not places can be looked up now: what was lost is dialled again.
                self._follow()
                await asyncio.sleep(_DIAL_S)

    async def _watch(self, place: str) -> None:
        """Look a place up again and again; the last good answer stands."""
        while True:
            found = frozenset(await self._look_up(place))
            if found and found != self._known.get(place):
                self._known[place] = found
                self._follow()
            await asyncio.sleep(_LOOKUP_S)

    async def _look_up(self, place: str) -> set[Address]:
        """The addresses that a place has now; empty when it cannot be told."""
        address = Address.parse(place)
        try:
            if address.path:
                return _sockets(Path(address.path))
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                found = await loop.getaddrinfo(address.host, address.port, type=1)
        except (OSError, TimeoutError) as error:
            log.warning("modelhosts not found", extra={"place": place, "why": str(error)})
            return set()
        return {Address(host=str(item[4][0]), port=address.port) for item in found}

    def _follow(self) -> None:
        """Dial every address that is known and not connected; let the others go when they are not needed."""
        wanted = frozenset[Address]().union(*self._known.values())
        for address in wanted - self._connected.keys() - self._dialing.keys():
            task = asyncio.get_running_loop().create_task(self._dial(address))
            self._dialing[address] = task
            task.add_done_callback(partial(self._dialed, address))
        for address, replica in list(self._connected.items()):
            leaving = address not in wanted
            if leaving != replica.leaving:
                replica.leaving = leaving
                self.changed()
            # It may be draining: its answers are still good.
            if leaving and not replica.in_flight and replica not in self.ready():
                replica.close()

    def _dialed(self, address: Address, _: asyncio.Task[None]) -> None:
        self._dialing.pop(address, None)

    async def _dial(self, address: Address) -> None:
        try:
            async with asyncio.timeout(2):
                replica = await connect(lambda: Replica(self, address), address, self._tls)
        except (OSError, TimeoutError, ssl.SSLError) as error:
            if address not in self._unreachable:  # once, not with every try
                log.info("modelhost does not answer", extra={"address": str(address), "why": str(error)})
            self._unreachable.add(address)
            return
        self._unreachable.discard(address)
        if replica.connected:  # it may have been lost already
            self._connected[address] = replica
            self.changed()  # its first word may have come before it stood here


def _sockets(folder: Path) -> set[Address]:
    """The sockets in a folder, or the one at a path."""
    if folder.is_dir():
        return {Address(path=str(path)) for path in folder.iterdir() if path.is_socket()}
    return {Address(path=str(folder))} if folder.is_socket() else set()
