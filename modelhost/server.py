"""The data channel's end at the modelhost: predictions to their versions, calls to what carries them out."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from mlbuffet.certificates import INFERRER, has_role, roles_of
from mlbuffet.channel import SHARED, FrameProtocol, Head, Kind, Traffic, read_error
from mlbuffet.chassis.context import log_fields
from mlbuffet.errors import InvalidModelError, MLBuffetError, NotFoundError
from mlbuffet.manifest import Manifest
from modelhost.inventory import Inventory
from modelhost.mirror import Mirror
from modelhost.progress import RAN
from modelhost.segments import Segments
from modelhost.showing import show_statistics
from modelhost.stores import Store
from modelhost.supervisor import Supervisor
from modelhost.tasks import CHECK_S, CheckTask
from modelhost.waiting import Waiting, send_error

log = logging.getLogger(__name__)

_PREDICT, _PREDICT_ALONE = Kind.PREDICT.value, Kind.PREDICT_ALONE.value  # plain numbers: looked at with each request
_SILENT_S = 15.0

Operation = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class ChannelServer:
    """All inferrers that are connected, and what they may ask for."""

    def __init__(
        self, host_id: str, store: Store, supervisor: Supervisor, segments: Segments, model_bytes: int
    ) -> None:
        """`model_bytes` is how much memory checking a model may take."""
        self.id = host_id
        self._store = store
        self.mirror = store if isinstance(store, Mirror) else None
        self._model_bytes = model_bytes
        self._supervisor = supervisor
        self.segments = segments
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = False
        self._states = 0  # that were told
        self.traffic = Traffic()
        self.links: set[InferrerLink] = set()
        self.inventory: Inventory
        self.operations: Mapping[str, Operation] = {
            "check": self._check,
            "echo": self._echo,
            "load": self._load,
            "stats": self._stats,
        }

    def serve(self, inventory: Inventory) -> None:
        """Serve what is loaded there."""
        self.inventory = inventory
        if self.mirror is not None:
            self.mirror.on_alone = inventory.suspend

    def link(self) -> "InferrerLink":
        """Make the protocol for a new inferrer."""
        return InferrerLink(self)

    def changed(self) -> None:
        """Tell every inferrer the new state, once for all changes of this turn of the loop."""
        if not self._told:
            self._told = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._told = False
        self._states += 1
        state = self.state()
        for link in self.links:
            link.send(Kind.STATE, 0, 0, b"", self._states, 0, state)

    def greet(self, link: "InferrerLink") -> None:
        """Tell a new inferrer."""
        self.links.add(link)
        link.send(Kind.STATE, 0, 0, b"", self._states, 0, self.state())

    def state(self) -> bytes:
        """This modelhost's word on itself."""
        inventory, is_mirror = self.inventory, self.mirror is not None
        told = {"id": self.id, "ready": inventory.ready, "mirror": is_mirror, "versions": inventory.states()}
        return orjson.dumps(told | {"slow_ns": inventory.ends.slow_ns})

    @property
    def noted(self) -> bool:
        """Tell whether every inferrer has taken note of the present state."""
        return not self._told and all(link.noted == self._states for link in self.links)

    @property
    def unfinished(self) -> bool:
        """Tell whether predictions or calls are under way, or answers not sent yet."""
        busy = any(version.requests_here for version in self.inventory.hosted.values())
        return busy or bool(self._tasks) or any(link.unsent for link in self.links)

    async def watch(self) -> None:
        """Drop inferrers that have stopped asking for signs of life, for ever."""
        while True:
            await asyncio.sleep(_SILENT_S)
            for link in list(self.links):
                if link.heard_at < self._loop.time() - _SILENT_S:
                    log.warning("inferrer dropped", extra={"why": f"silent for {_SILENT_S:g} s"})
                    link.close()

    def open_line(self, link: "InferrerLink", key: bytes, number: int) -> None:
        """Give an inferrer a line to a version's runner, if it may have one; tells it."""
        version, fd = self.inventory.hosted.get(key), self.segments.line(number)
        taken = fd is not None and version is not None and version.open_line(link, fd)
        link.send(Kind.LINE, 0, int(taken), key, number, 0, b"")

    def told(self, key: bytes, waiting: Waiting, now_ns: int, body: bytes) -> None:
        """Record a request that was answered by a line at `now_ns`, if it was slow."""
        version, took_ns, ran = self.inventory.hosted.get(key), int.from_bytes(body[:8], "little"), body[8:]
        if version is not None and len(ran) == RAN.size:
            # By its runner's count: the way there is not in it.
            waiting.arrived_ns = waiting.given_ns = min(now_ns - took_ns, RAN.unpack(ran)[0])
            version.ends.answered(waiting, version.manifest, waiting.frame_id, now_ns, ran)

    def call(self, link: "InferrerLink", frame_id: int, operation: str, body: bytes, context: bytes) -> None:
        """Carry out a call; its answer goes back when it is done."""
        task = self._loop.create_task(self._carry_out(link, frame_id, operation, body, context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(
        self, link: "InferrerLink", frame_id: int, operation: str, body: bytes, context: bytes
    ) -> None:
        about = {"operation": operation[:80], **log_fields(context)}
        try:
            if operation not in self.operations:
                msg = f"the operation {operation[:80]!a} is not known here"
                raise NotFoundError(msg)
            result = await self.operations[operation](orjson.loads(body))
        except MLBuffetError as error:
            log.info("call refused", extra=about | {"code": error.code, "why": error.message})
            send_error(link, frame_id, error)
        except Exception:
            log.exception("call failed", extra=about)
            send_error(link, frame_id, MLBuffetError("the modelhost failed; its log has the details"))
        else:
            link.send(Kind.REPLY, 0, 0, b"", frame_id, 0, orjson.dumps(result))

    async def _echo(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        log.info("echo", extra={"element": arguments["element"]})
        return {"modelhost": self.id, "element": arguments["element"]}

    async def _check(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Look at an upload, or at a version."""
        if "staged" in arguments:
            digest = str(arguments["digest"])
            path = await self._store.staged(str(arguments["staged"]), digest, int(arguments["size_bytes"]))
        else:
            manifest = Manifest.from_json(arguments["manifest"])
            await self._store.ensure(manifest)
            digest, path = manifest.digest, self._store.path(manifest)
        try:
            return await self._supervisor.check(CheckTask(str(path), digest, self._model_bytes), CHECK_S)
        except InvalidModelError:
            self._store.refuse(digest)
            raise

    async def _load(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Load a version, which may not have been announced yet."""
        await self.inventory.host(Manifest.from_json(arguments["manifest"])).settled()
        return {"modelhost": self.id}

    async def _stats(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What has become of the requests of all hosted versions, or those of one model, or one of them."""
        model, version = arguments.get("model"), arguments.get("version")
        hosted = self.inventory.hosted.values()
        asked = (item for item in hosted if model in {None, item.manifest.model})
        return {"versions": [show_statistics(item) for item in asked if version in {None, item.manifest.version}]}


class InferrerLink(FrameProtocol):
    """The channel to one inferrer process."""

    def __init__(self, server: ChannelServer) -> None:
        super().__init__(server.traffic)
        self._server = server
        self.heard_at = self._loop.time()
        self.noted = -1  # the number of the last state that the inferrer has taken note of
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._next_id = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say at once who this is and what is loaded, if it is an inferrer that has connected."""
        super().connection_made(transport)
        if not has_role(transport, INFERRER):
            why = f"its certificate is not for {INFERRER}"
            log.warning("client refused", extra={"why": why, "names": roles_of(transport)})
            self.close()
        if not self.connected:
            return
        self._server.greet(self)
        if self._server.mirror is not None:
            self._server.mirror.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the inferrer, and what it asked for."""
        super().connection_lost(exc)
        if self not in self._server.links:
            return
        self._server.links.discard(self)
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError("the inferrer went away"))
        if self._server.mirror is not None:
            self._server.mirror.left(self)
        for version in self._server.inventory.hosted.values():
            version.cancel_link(self)

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:
        """Give a prediction to its version, a call to its operation; answer a sign of life with one."""
        _, kind, codec, _, split, frame_id, time_ns = head
        if kind in {_PREDICT, _PREDICT_ALONE}:
            now_ns = time.monotonic_ns()
            waiting = Waiting(self, frame_id, codec, split, now_ns, now_ns + time_ns, body, self.context)
            waiting.alone = kind == _PREDICT_ALONE
            if codec & SHARED:
                waiting.codec, waiting.shared = codec ^ SHARED, self._server.segments.find(body)
            try:
                self._server.inventory.find(key).submit(waiting)
            except MLBuffetError as error:
                waiting.refuse(error)
        elif kind == Kind.CALL:
            self._server.call(self, frame_id, key.decode("ascii", "replace"), body, self.context)
        elif kind == Kind.PING:
            self.heard_at = self._loop.time()
            self.noted = split
            self.send(Kind.PONG, 0, 0, b"", frame_id, time_ns, b"")
        elif kind == Kind.CANCEL:
            version = self._server.inventory.hosted.get(key)
            if version is not None:
                version.cancel(self, frame_id)
        elif kind == Kind.LINE:
            self._server.open_line(self, key, frame_id)
        elif kind == Kind.TOLD:
            self._server.told(key, Waiting(self, frame_id, codec, split, 0, 0, b"", self.context), time_ns, body)
        else:
            self._take_answer(kind, split, frame_id, body)

    # Questions of a mirror ------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Ask to be told what is in the repository."""
        self.send(Kind.FOLLOW, 0, 0, b"", 0, 0, b"")

    def ask(self, key: bytes, offset: int, count: int) -> asyncio.Future[bytes]:
        """Ask for a piece of a file; the future may raise MLBuffetError or ConnectionError."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        if not self.connected:
            future.set_exception(ConnectionError("the inferrer is gone"))
            return future
        self._next_id = number = self._next_id + 1
        self._asked[number] = future
        future.add_done_callback(lambda _: self._asked.pop(number, None))
        self.send(Kind.FETCH, 0, count, key, number, offset, b"")
        return future

    def _take_answer(self, kind: int, split: int, number: int, body: bytes) -> None:
        """Take what a mirror has asked for, or let go of memory; anything else is let pass."""
        if kind == Kind.RELEASE:
            self._server.segments.release(number)
            return
        if kind == Kind.INDEX and self._server.mirror is not None:
            self._server.mirror.told(self, body, whole=split == 1)
            return
        future = self._asked.get(number)
        if future is None or future.done():
            return  # nobody waits for it any more
        if kind == Kind.REPLY:
            future.set_result(body)
        elif kind == Kind.ERROR:
            future.set_exception(read_error(body))
