"""Rows H04, H10, L14: clients that are slow, silent or too many cost others nothing, and are let go in time."""

import os
import resource
import selectors
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from tests.harness.invariants import unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.raw_http import answers, converse, message, read_all
from tests.harness.sockets import all_connections, established, links

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
GOOD = b'{"values": [2, 5, 1, 4]}'
IRIS = "/api/v1/models/iris.onnx/prediction"
PATIENCE_S = 2.0
KEEP_ALIVE_S = 3.0


def afford(wanted: int) -> int:
    """As many connections as this process may have, at most those wanted."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, soft // 2)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform that waits little."""
    environment = {
        "INFERRER_HEAD_S": str(PATIENCE_S),
        "INFERRER_BODY_IDLE_S": str(PATIENCE_S),
        "INFERRER_KEEP_ALIVE_S": str(KEEP_ALIVE_S),
        "INFERRER_THREADS": "8",
    }
    with running_platform(tmp_path_factory.mktemp("strict"), modelhosts=1, environment=environment) as platform:
        yield platform


@contextmanager
def opened(
    platform: RunningPlatform, count: int, first: bytes = b"", receive_bytes: int = 0
) -> Iterator[list[socket.socket]]:
    """So many connections, each with something said on it."""
    with ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(30)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.connect(("127.0.0.1", platform.port))
            sock.sendall(first)
            socks.append(sock)
        yield socks


def dribble(socks: Iterable[socket.socket], byte: bytes, *, while_s: float) -> set[socket.socket]:
    """Send a byte on each connection twice a second until all are closed; returns those that never were."""
    ends_at, left = time.monotonic() + while_s, set(socks)
    while left and time.monotonic() < ends_at:
        left -= closed(left, 0.5)
        for sock in list(left):
            try:
                sock.send(byte)
            except ConnectionError:
                left.discard(sock)
    return left


def closed(socks: Iterable[socket.socket], wait_s: float) -> set[socket.socket]:
    """Those on which the server has answered or closed, after waiting a while."""
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        ends_at, found = time.monotonic() + wait_s, set()
        while (rest_s := ends_at - time.monotonic()) > 0:
            for key, _ in selector.select(rest_s):
                selector.unregister(key.fileobj)
                found.add(key.fileobj)
        return found  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["headers", "bodies", "uploads", "expecting"])
def test_h04_those_who_dribble_are_cut_off_and_hold_up_nobody(kind: str, strict: RunningPlatform) -> None:
    first, count, within_s = {
        "headers": (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", 2000 if SOAK else 200, PATIENCE_S),
        "bodies": (message("POST", IRIS, {"Content-Length": "10000"}, b"{"), 500 if SOAK else 100, PATIENCE_S),
        # Enough to begin with, so that a thread has the request.
        "uploads": (
            message("PUT", "/api/v1/models/slow.onnx", {"Content-Length": "10000000"}, b"x" * 270_000),
            500 if SOAK else 20,
            PATIENCE_S + 270_000 / 500 if SOAK else 6,
        ),
        "expecting": (
            message("PUT", "/api/v1/models/slow.onnx", {"Content-Length": "10000", "Expect": "100-continue"}),
            500 if SOAK else 60,
            PATIENCE_S,
        ),
    }[kind]
    with (
        unharmed(strict),
        opened(strict, afford(count), first) as socks,
        Load(strict.port, "iris.onnx", GOOD, clients=1, pause_s=0.02) as load,
    ):
        if kind == "uploads":  # what has come in pays for a long time; meanwhile others are served
            dribble(socks, b"a", while_s=within_s)
        else:
            assert not dribble(socks, b"a", while_s=within_s + 20)
        for _ in range(5):
            assert requests.get(f"{strict.url}/health/ready", timeout=10).status_code == 200
            assert requests.get(f"{strict.url}/api/v1/models", timeout=10).status_code == 200
        load.wait_for(20)
    assert not load.failures()


def test_h04_those_who_do_not_read_are_let_go_and_hold_up_nobody(strict: RunningPlatform) -> None:
    strict.put("large.onnx", constant(1, padding_bytes=16 << 20)).raise_for_status()
    ask = message("GET", "/api/v1/models/large.onnx/download")
    with unharmed(strict, resources=False):
        with (
            opened(strict, afford(500 if SOAK else 50), ask, receive_bytes=4096),
            Load(strict.port, "iris.onnx", GOOD, clients=1, pause_s=0.02) as load,
        ):
            for _ in range(5):
                assert requests.get(f"{strict.url}/health/ready", timeout=10).status_code == 200
                assert requests.get(f"{strict.url}/api/v1/models", timeout=10).status_code == 200
            load.wait_for(20)
            wait_until(lambda: connections(strict) <= 2, 30, "connections of those who do not read being dropped")
        assert not load.failures()
    requests.delete(strict.path("large.onnx"), timeout=10).raise_for_status()


def test_h04_answers_that_nobody_reads_do_not_pile_up(strict: RunningPlatform) -> None:
    """A client that sends one request after the other and reads nothing is not served beyond what buffers take."""
    ask = message("GET", "/help") * 1_000_000
    sent = 0
    with opened(strict, 1, receive_bytes=4096) as (sock,):
        sock.settimeout(0.5)
        try:
            while sent < len(ask):
                sent += sock.send(ask[sent : sent + (1 << 16)])
        except (TimeoutError, ConnectionError):
            pass
        assert sent < len(ask) / 2
        wait_until(lambda: connections(strict) <= 1, 30, "the connection being dropped")


def connections(platform: RunningPlatform) -> int:
    """Connections that the inferrer has with clients now."""
    return len(established(platform.port))


def test_h10_idle_connections_are_kept_for_a_while_and_cost_nobody_anything(strict: RunningPlatform) -> None:
    good = message("POST", IRIS, None, GOOD)
    with unharmed(strict), opened(strict, afford(5000 if SOAK else 500), good) as socks:
        idle_at = time.monotonic()
        with Load(strict.port, "iris.onnx", GOOD, clients=1, keep_alive=False) as load:
            load.wait_for(50)
        assert not load.failures()
        for sock in socks:
            received = read_all(sock)
            assert [answer.status for answer in answers(received)] == [200]
        assert time.monotonic() - idle_at < KEEP_ALIVE_S + 20


def test_h10_a_connection_that_says_nothing_is_closed(strict: RunningPlatform) -> None:
    with opened(strict, 3) as socks:
        assert [read_all(sock) for sock in socks] == [b""] * 3


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def all_taken(socks: Iterable[socket.socket], port: int, pid: int) -> bool:
    """Tell whether a process has taken all connections, and does not leave one waiting to be."""
    its = links(pid)
    taken = {item.peer for item in all_connections() if item.port == port and item.link in its}
    return {sock.getsockname()[1] for sock in socks} <= taken


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform whose inferrer may have few descriptors."""
    options = {"modelhosts": 1, "workers": 1, "prefix": ("prlimit", "--nofile=256:20000")}
    with running_platform(tmp_path_factory.mktemp("narrow"), **options) as platform:
        yield platform


def test_l14_more_connections_than_descriptors(narrow: RunningPlatform) -> None:
    half = message("POST", IRIS, {"Content-Length": "24"}, GOOD[:10])
    with unharmed(narrow):
        workers = narrow.children("inferrer")
        with opened(narrow, afford(1000), half) as socks:
            turned_away = closed(socks, 1.0)
            assert len(turned_away) > 500
            statuses = {answer.status for sock in list(turned_away)[:20] for answer in answers(read_all(sock))}
            assert statuses == {503}
            began, used = time.monotonic(), cpu_s(workers)
            closed(set(socks) - turned_away, 2.0)
            assert (cpu_s(workers) - used) / (time.monotonic() - began) < 0.1
            kept = [sock for sock in socks if sock not in turned_away]
            assert len(kept) > 50
            for sock in kept[:10]:  # who was let in is served
                sock.sendall(GOOD[10:])
                assert sock.recv(12) == b"HTTP/1.1 200"
        assert wait_until(lambda: narrow.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200)


def test_l14_idle_connections_make_room(narrow: RunningPlatform) -> None:
    good = message("POST", IRIS, None, GOOD)
    with unharmed(narrow), ExitStack() as all_open:
        for _ in range(afford(1000) // 20):  # a few at a time: only those that have their answer are idle
            socks = all_open.enter_context(opened(narrow, 20, good))
            assert [sock.recv(12) for sock in socks] == [b"HTTP/1.1 200"] * len(socks)
        assert connections(narrow) < 200


def test_l14_the_limit_falls_below_what_is_open(narrow: RunningPlatform) -> None:
    """`prlimit` at run time: nothing more can be opened, not even to say so; raised again, all is well."""
    (worker,) = narrow.children("inferrer")
    half = message("POST", IRIS, {"Content-Length": "24"}, GOOD[:10])
    with unharmed(narrow):
        with opened(narrow, 60, half) as early:
            wait_until(lambda: all_taken(early, narrow.port, worker), what="all being let in")
            resource.prlimit(worker, resource.RLIMIT_NOFILE, (descriptors(worker) - 20, 20000))
            try:
                with opened(narrow, 100):
                    began, used = time.monotonic(), cpu_s([worker])
                    closed(early, 3.0)
                    assert (cpu_s([worker]) - used) / (time.monotonic() - began) < 0.1
                for sock in early:  # who was let in before is served
                    sock.sendall(GOOD[10:])
                    assert sock.recv(12) == b"HTTP/1.1 200"
            finally:
                resource.prlimit(worker, resource.RLIMIT_NOFILE, (256, 20000))
        wait_until(lambda: converse(narrow.port, message("POST", IRIS, {"Connection": "close"}, GOOD))[9:12] == b"200")
