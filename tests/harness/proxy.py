"""A wire that misbehaves: a proxy between inferrer and modelhosts whose faults are switched on while it runs.

`proxy.faults = Faults(latency_s=2)` makes it slow, `proxy.faults = Faults()` heals it. It knows the data channel's
frames: it counts what reaches the modelhost, and `rewrite` may answer in the modelhost's place.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from mlbuffet.channel import HEADER, Kind, encode_frame, sizes_of
from mlbuffet.endpoints import Address
from tests.harness.platform import RunningPlatform, copy_samples

_CHUNK = 1 << 16


class Frame(NamedTuple):
    """One frame on its way; `upward` is towards the modelhost."""

    upward: bool
    kind: int
    codec: int
    split: int
    key: bytes
    number: int
    time_ns: int
    body: bytes
    context: bytes = b""

    def encoded(self) -> bytes:
        """It as bytes."""
        fields = self.kind, self.codec, self.split, self.key, self.number, self.time_ns, len(self.body), self.context
        return encode_frame(*fields) + self.body


class CutError(Exception):
    """Raised by a rewriter: pass these bytes on, then reset the connection."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__()
        self.data = data


Rewrite = Callable[[Frame], bytes]


@dataclass(frozen=True)
class Faults:
    """What is wrong with the wire, in both directions."""

    latency_s: float = 0
    jitter_s: float = 0  # up to so much more; the order stays
    bytes_per_s: float = 0  # 0: as fast as it goes
    slice_bytes: int = 0  # nothing longer leaves in one piece
    cut_after: int = 0  # bytes of one connection, then reset
    drop_share: float = 0  # of connections, reset when they are made and once in every second after
    corrupt_share: float = 0  # of frames, with one bit flipped
    swallow: bool = False  # half-open: takes everything, passes nothing on
    rewrite: Rewrite | None = None


class Proxy:
    """Listens on a free port of its own for one modelhost."""

    def __init__(self, target: str, seed: int = 1) -> None:
        """`target` is the modelhost's channel, `unix:…` or `tcp://…`."""
        self.faults = Faults()
        self.passed: Counter[str] = Counter()  # frames that went up: "PREDICT", "CALL check"
        self.accepted = 0
        self._target = Address.parse(target)
        self._rng = random.Random(seed)  # noqa: S311 - repeatable
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.place = ""

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self.place = f"tcp://127.0.0.1:{self._wait(self._listen())}"
        return self

    def __exit__(self, *_: object) -> None:
        """Reset every connection and end."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """Reset every connection now."""
        self._wait(self._reset())

    def _wait(self, action: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the action gives
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(20)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        await self._reset()
        while self._links:
            await asyncio.sleep(0.01)

    async def _reset(self) -> None:
        for link in list(self._links):
            link.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if self._target.path:
                upstream = await asyncio.open_unix_connection(self._target.path)
            else:
                upstream = await asyncio.open_connection(self._target.host, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, self._rng, writer, upstream[1])
        self._links.add(link)
        try:
            await link.run(reader, upstream[0])
        finally:
            self._links.discard(link)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, rng: random.Random, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._rng = rng
        self._down, self._up = down, up
        self._bytes = 0

    def abort(self) -> None:
        """Reset both sides."""
        self._down.transport.abort()
        self._up.transport.abort()

    async def run(self, inferrer: asyncio.StreamReader, modelhost: asyncio.StreamReader) -> None:
        """Pass on until either side ends."""
        ways = (self._pass(inferrer, self._up, upward=True), self._pass(modelhost, self._down, upward=False))
        tasks = [asyncio.create_task(way) for way in (*ways, self._drop())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drop(self) -> None:
        while self._rng.random() >= self._proxy.faults.drop_share:
            await asyncio.sleep(1)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upward: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(64)
        leaving = asyncio.create_task(self._leave(queue, writer))
        try:
            await self._enter(reader, queue, upward=upward)
            await leaving  # what came before the end still arrives
        finally:
            leaving.cancel()

    async def _enter(self, reader: asyncio.StreamReader, queue: "asyncio.Queue[Any]", *, upward: bool) -> None:
        """CutError what comes into frames, and say when each is to leave."""
        loop, rest, due = asyncio.get_running_loop(), b"", 0.0
        try:
            while data := await reader.read(_CHUNK):
                frames, rest = _frames(rest + data, upward=upward)
                for frame in frames:
                    faults = self._proxy.faults
                    due = max(due, loop.time() + faults.latency_s + self._rng.uniform(0, faults.jitter_s))
                    if not faults.swallow:
                        await queue.put((due, self._rewritten(frame, faults)))
        except CutError as cut:
            await queue.put((due, cut.data))
        except ConnectionError:
            pass
        await queue.put((due, None))

    def _rewritten(self, frame: Frame, faults: Faults) -> bytes:
        data = faults.rewrite(frame) if faults.rewrite else frame.encoded()
        if self._rng.random() < faults.corrupt_share:
            damaged = bytearray(data)
            damaged[self._rng.randrange(len(damaged))] ^= 1 << self._rng.randrange(8)
            data = bytes(damaged)
        if frame.upward and data:
            what = f"CALL {frame.key.decode()}" if frame.kind == Kind.CALL else Kind(frame.kind).name
            self._proxy.passed[what] += 1
        self._bytes += len(data)
        if faults.cut_after and self._bytes > faults.cut_after:
            raise CutError(data[: len(data) // 2])
        return data

    async def _leave(self, queue: "asyncio.Queue[tuple[float, bytes | None]]", writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if data is None:
                return
            for piece in self._pieces(data):
                writer.write(piece)
                await writer.drain()
                if bytes_per_s := self._proxy.faults.bytes_per_s:
                    await asyncio.sleep(len(piece) / bytes_per_s)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        faults = self._proxy.faults
        size = faults.slice_bytes or (100 if faults.bytes_per_s else len(data)) or 1
        for start in range(0, len(data), size):
            yield data[start : start + size]


def _frames(data: bytes, *, upward: bool) -> tuple[list[Frame], bytes]:
    """The whole frames in `data`, and what is left."""
    found, offset = [], 0
    while len(data) - offset >= HEADER.size:
        length, kind, codec, names, split, number, time_ns = HEADER.unpack_from(data, offset)
        key_size, context_size = sizes_of(names)
        start, end = offset + HEADER.size, offset + 4 + length
        if end > len(data):
            break
        names_end = start + key_size + context_size
        key, context, body = data[start : start + key_size], data[start + key_size : names_end], data[names_end:end]
        found.append(Frame(upward, kind, codec, split, key, number, time_ns, body, context))
        offset = end
    return found, data[offset:]


def answers(rewritten: Rewrite) -> Rewrite:
    """A rewriter of answers alone: all else passes as it is."""
    return lambda frame: rewritten(frame) if frame.kind == Kind.REPLY else frame.encoded()


@answers
def internal(frame: Frame) -> bytes:
    """The modelhost answers everything with its own failure."""
    return frame._replace(kind=Kind.ERROR, body=b'{"code": "INTERNAL", "message": "broken"}').encoded()


@answers
def truncated(frame: Frame) -> bytes:
    """Its answers end in the middle."""
    return frame._replace(body=frame.body[: len(frame.body) // 2]).encoded()


@answers
def no_frame(_: Frame) -> bytes:
    """What it answers is no frame at all."""
    return b"\xff" * 40


@contextmanager
def proxied_platform(
    repository: Path,
    *,
    modelhosts: int = 3,
    **options: Any,  # noqa: ANN401 - as it takes them
) -> Iterator[tuple[RunningPlatform, list[Proxy]]]:
    """A platform with the sample models and a proxy in front of each modelhost."""
    repository.mkdir(parents=True, exist_ok=True)
    copy_samples(repository)
    platform = RunningPlatform(repository, modelhosts=modelhosts, **options)
    with ExitStack() as stack:
        hosts = [platform.settings[f"modelhost-{number}"] for number in range(1, modelhosts + 1)]
        proxies = [stack.enter_context(Proxy(host["MODELHOST_CHANNEL"])) for host in hosts]
        platform.settings["inferrer"]["INFERRER_MODELHOSTS"] = ",".join(proxy.place for proxy in proxies)
        yield stack.enter_context(platform), proxies
