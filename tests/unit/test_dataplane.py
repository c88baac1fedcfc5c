"""The data plane against modelhosts that do what a test says: what is retried, what is cancelled, who is left out."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from inferrer.dataplane import DataPlane
from inferrer.replicas import Peer
from inferrer.repository import Repository
from mlbuffet.channel import Codec, FrameProtocol, Head, Kind, Payload
from mlbuffet.endpoints import Address, listen
from mlbuffet.errors import BusyError, ClientGoneError, MLBuffetError
from mlbuffet.index import Index
from mlbuffet.manifest import Manifest
from tests.harness.platform import copy_samples

REF, ANSWER = b"iris.onnx", b'{"values":[1]}'
Answers = Callable[["Host", "Link", int], None]


class Host:
    """A modelhost; `answers` is called with each prediction's link and frame id."""

    def __init__(self, name: str, manifest: Manifest, answers: Answers) -> None:
        self.name = name
        self.state = orjson.dumps({"id": name, "ready": True, "versions": {manifest.key.decode(): ["READY", "", ""]}})
        self.answers = answers
        self.is_mute = False  # answers no sign of life
        self.owed = 0  # signs of life that it did not answer
        self.received: list[tuple[int, int]] = []  # kind and frame id

    def count(self, kind: Kind) -> int:
        """How many frames of a kind came."""
        return sum(item[0] == kind for item in self.received)


class Link(FrameProtocol):
    """One connection to it."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say that it is ready."""
        super().connection_made(transport)
        self.send(Kind.STATE, 0, 0, b"", 0, 0, self._host.state)

    def frame_received(self, head: Head, key: bytes, body: bytes) -> None:  # noqa: ARG002
        """Note it; answer as the test says."""
        _, kind, _, _, _, frame_id, time_ns = head
        if kind == Kind.PING:
            self._host.owed += self._host.is_mute
            if not self._host.is_mute:
                self.send(Kind.PONG, 0, 0, b"", frame_id, time_ns, b"")
            return
        self._host.received.append((kind, frame_id))
        if kind in {Kind.PREDICT, Kind.CALL}:
            self._host.answers(self._host, self, frame_id)


def well(_: Host, link: Link, frame_id: int) -> None:
    """Answer as it should."""
    link.send(Kind.REPLY, 0, 0, b"", frame_id, 0, ANSWER)


def never(_: Host, __: Link, ___: int) -> None:
    """Take it and say nothing."""


def with_error(code: str) -> Answers:
    """Answer with an error."""
    body = orjson.dumps({"code": code, "message": code.lower()})
    return lambda _, link, frame_id: link.send(Kind.ERROR, 0, 0, b"", frame_id, 0, body)


def with_body(body: bytes) -> Answers:
    """Answer with whatever."""
    return lambda _, link, frame_id: link.send(Kind.REPLY, 0, 0, b"", frame_id, 0, body)


def by_hanging_up(_: Host, link: Link, __: int) -> None:
    """End the connection."""
    link.close()


Scenario = Callable[[DataPlane, list[Host]], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Runs a scenario with a modelhost for each way to answer."""
    copy_samples(tmp_path)
    index = Index(Repository(tmp_path).root)
    index.refresh()
    sockets = tmp_path / "s"
    sockets.mkdir()

    async def run(scenario: Scenario, answers: tuple[Answers, ...], options: dict[str, Any]) -> None:
        manifest = index.model("iris.onnx").manifest
        hosts = [Host(f"host-{number}", manifest, each) for number, each in enumerate(answers)]
        servers = [await listen(partial(Link, host), Address(path=f"{sockets}/{host.name}"), None) for host in hosts]
        dataplane = DataPlane(index, (f"unix:{sockets}",), **options)
        try:
            await until(lambda: len(dataplane.replicas.ready()) == len(hosts))
            await scenario(dataplane, hosts)
            assert not dataplane.failed()
        finally:
            dataplane.close()
            for server in servers:
                server.close()

    return lambda scenario, *answers, **options: asyncio.run(run(scenario, answers, options))


async def until(check: Callable[[], object], timeout_s: float = 15) -> None:
    """Poll."""
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.01)


def ask(dataplane: DataPlane, timeout_s: float = 20, body: bytes = b"{}") -> "Future[bytes]":
    """Send a prediction from the loop."""
    future: Future[bytes] = Future()

    def done(error: MLBuffetError | None, reply: bytes, _: object) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(reply)

    dataplane.start(REF, Payload(Codec.BUFFET, 0, body), timeout_s, done)
    return future


async def outcome(dataplane: DataPlane, **options: Any) -> str:  # noqa: ANN401 - as `ask` takes them
    """What became of a prediction: "ok" or an error's code."""
    try:
        assert await asyncio.wrap_future(ask(dataplane, **options)) == ANSWER
    except MLBuffetError as error:
        return error.code
    return "ok"


def test_p13_what_is_cancelled_is_forgotten_here_and_there(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        answered: list[object] = []
        call = dataplane.start(REF, Payload(Codec.BUFFET, 0, b"{}"), 20, lambda *_: answered.append(1))
        await until(lambda: hosts[0].count(Kind.PREDICT))
        (replica,) = dataplane.replicas.all()
        assert replica.in_flight == 1
        dataplane.cancel(call)
        dataplane.cancel(call)
        assert replica.in_flight == 0
        await until(lambda: hosts[0].count(Kind.CANCEL))
        hosts[0].answers = well
        assert await outcome(dataplane) == "ok"
        assert not answered
        assert hosts[0].received[:2] == [(Kind.PREDICT, call.frame_id), (Kind.CANCEL, call.frame_id)]
        assert hosts[0].count(Kind.CANCEL) == 1

    play(scenario, never)


def test_p13_who_waits_in_a_thread_is_told_when_the_client_is_gone(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        cancellers: list[Callable[[], None]] = []
        waiting = asyncio.to_thread(dataplane.predict, REF, Payload(Codec.BUFFET, 0, b"{}"), 20, cancellers.append)
        task = asyncio.create_task(waiting)
        await until(lambda: hosts[0].count(Kind.PREDICT))
        cancellers[0]()
        cancellers[0]()
        with pytest.raises(ClientGoneError):
            await task
        await until(lambda: hosts[0].count(Kind.CANCEL))

    play(scenario, never)


def test_what_is_overdue_is_cancelled_at_the_modelhost(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        assert await outcome(dataplane, timeout_s=0.1) == "DEADLINE_EXCEEDED"
        await until(lambda: hosts[0].count(Kind.CANCEL))

    play(scenario, never)


def test_bodies_in_flight_are_bounded(play: Callable[..., None]) -> None:
    large = b"x" * 120_000

    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        first = asyncio.create_task(outcome(dataplane, body=large, timeout_s=0.3))
        await until(lambda: hosts[0].count(Kind.PREDICT))
        with pytest.raises(BusyError):
            ask(dataplane, body=large)
        assert await outcome(dataplane, body=b"x", timeout_s=0.1) == "DEADLINE_EXCEEDED", "small ones are taken"
        assert await first == "DEADLINE_EXCEEDED"
        hosts[0].answers = well
        for _ in range(5):
            assert await outcome(dataplane, body=large) == "ok"

    play(scenario, never, most_bytes=200_000)


@pytest.mark.parametrize("fault", [with_error("INTERNAL"), with_error("\x00"), with_body(b""), with_body(b'{"val')])
def test_l04_a_fault_is_retried_elsewhere_and_ejects(fault: Answers, play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        for _ in range(40):
            assert await outcome(dataplane) == "ok"
        assert dataplane.replicas.ejections == {"faulty": 1}
        assert hosts[0].count(Kind.PREDICT) == dataplane.retries.total() == 5

    play(scenario, fault, well)


def test_a_request_that_is_at_fault_itself_ejects_nobody(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        for _ in range(8):
            assert await outcome(dataplane) == "INTERNAL"
        assert not dataplane.replicas.ejections
        assert sum(host.count(Kind.PREDICT) for host in hosts) == 16

    play(scenario, with_error("INTERNAL"), with_error("INTERNAL"))


@pytest.mark.parametrize("code", ["MODEL_CRASHED", "INVALID_SHAPE", "DEADLINE_EXCEEDED", "MODEL_FAILED"])
def test_what_is_the_requests_or_the_models_fault_is_never_retried(code: str, play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        for _ in range(20):
            assert await outcome(dataplane) == code
        assert sum(host.count(Kind.PREDICT) for host in hosts) == 20
        assert not dataplane.replicas.ejections

    play(scenario, with_error(code), with_error(code))


def test_a_full_queue_is_not_the_last_word_while_another_has_room(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        for _ in range(10):
            assert await outcome(dataplane) == "ok"
        assert hosts[0].count(Kind.PREDICT) == dataplane.retries["QUEUE_FULL"] > 0
        assert not dataplane.replicas.ejections

    play(scenario, with_error("QUEUE_FULL"), well)


def test_l11_an_overload_is_not_multiplied(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        outcomes = [await outcome(dataplane) for _ in range(200)]
        assert set(outcomes) == {"QUEUE_FULL"}
        assert sum(host.count(Kind.PREDICT) for host in hosts) <= 200 * 1.2 + 10

    play(scenario, with_error("QUEUE_FULL"), with_error("QUEUE_FULL"))


def test_l07_a_call_ends_with_its_connection_and_is_sent_once(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        with pytest.raises(MLBuffetError, match="went away"):
            await asyncio.wrap_future(dataplane.call(None, "check", 20))
        assert sum(host.count(Kind.CALL) for host in hosts) == 1

    play(scenario, by_hanging_up, by_hanging_up)


def test_a_call_answered_with_garbage_ends(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, _: list[Host]) -> None:
        for _unused in range(2):
            with pytest.raises(MLBuffetError):
                await asyncio.wrap_future(dataplane.call(None, "check", 20))

    play(scenario, with_body(b"{garbage}"))


def test_l08_what_waits_on_a_silent_modelhost_moves_and_calls_do_not(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        silent = next(replica for replica in dataplane.replicas.all() if replica.id == "host-0")
        hosts[0].is_mute = True
        call = dataplane.call(silent, "load", 20)
        outcomes = await asyncio.gather(*(outcome(dataplane) for _ in range(9)))
        assert outcomes == ["ok"] * 9
        assert dataplane.replicas.ejections == {"silent": 1}
        assert hosts[0].count(Kind.PREDICT) == hosts[0].count(Kind.CANCEL) == dataplane.retries["EJECTED"] > 0
        assert hosts[1].count(Kind.CALL) == 0
        assert not call.done()

    play(scenario, never, well)


def test_l08_where_nobody_else_is_what_waits_waits_on(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        held: list[tuple[Link, int]] = []
        hosts[0].answers = lambda _, link, frame_id: held.append((link, frame_id))
        hosts[0].is_mute = True
        waiting = asyncio.create_task(outcome(dataplane))
        await until(lambda: dataplane.replicas.ejections == {"silent": 1})
        assert dataplane.replicas.ready(), "panic: better this one than none"
        well(hosts[0], *held[0])
        assert await waiting == "ok"

    play(scenario, never)


def test_nobody_is_blamed_for_what_this_process_was_kept_from_hearing(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, hosts: list[Host]) -> None:
        for host in hosts:
            host.is_mute = True
        await until(lambda: all(host.owed for host in hosts))
        for host in hosts:
            host.is_mute = False
        time.sleep(2)  # noqa: ASYNC251 - the loop is to stand still
        await asyncio.sleep(0.5)
        assert not dataplane.replicas.ejections

    play(scenario, well, well)


def test_how_slow_a_modelhost_was_is_forgotten_without_a_request_to_it(play: Callable[..., None]) -> None:
    async def scenario(dataplane: DataPlane, _: list[Host]) -> None:
        (replica,) = dataplane.replicas.all()
        replica.took_s = 1.0
        await asyncio.sleep(0.1)
        assert replica.took_s > 0.3, "not in a few turns of others"
        await until(lambda: replica.took_s < 0.01)

    play(scenario, well)


def test_attempts_to_connect_come_ever_more_slowly_but_not_too_slowly() -> None:
    peer, rng = Peer(Address(path="/x")), random.Random(1)  # noqa: S311 - chance, not secrecy
    pauses = []
    for _ in range(50):
        peer.postpone(100, rng)
        pauses.append(peer.dial_at - 100)
    assert 0.05 <= pauses[0] <= 0.1
    assert all(0.5 <= pause <= 1 for pause in pauses[4:])
    assert len(set(pauses[4:])) > 40
