"""Inferrer processes share new connections evenly, and none waits for one that is stuck."""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.harness.platform import SAMPLES, RunningPlatform, wait_until
from tests.harness.raw_http import message
from tests.harness.sockets import established, links

CLIENTS, NEARLY_EVEN, IN_A_ROW = 32, 3, 3
PREDICT = message("POST", "/api/v1/models/iris.onnx/prediction", None, b'{"values": [2, 5, 1, 4]}')


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    folder = tmp_path_factory.mktemp("sharing")
    shutil.copytree(SAMPLES / "iris.onnx", folder / "iris.onnx")
    with RunningPlatform(folder, modelhosts=1, workers=2) as running:
        yield running


def counts(platform: RunningPlatform) -> list[int]:
    """How many clients each inferrer process has."""
    ours = established(platform.port)
    return [len(ours & links(pid)) for pid in platform.children("inferrer")]


@contextlib.contextmanager
def connected(platform: RunningPlatform, count: int) -> Iterator[None]:
    """So many clients that come at the same moment."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", platform.port))
        yield


def _is_even(platform: RunningPlatform) -> bool:
    """Have clients come and go; tells whether each process had about half of them."""
    with connected(platform, CLIENTS):
        wait_until(lambda: sum(counts(platform)) == CLIENTS, 10, "all of them being taken")
        first, second = counts(platform)
    wait_until(lambda: not any(counts(platform)), 10, "all of them being gone")
    return abs(first - second) <= NEARLY_EVEN


def test_processes_share_clients_that_come_at_once(platform: RunningPlatform) -> None:
    """Several times in a row, because it is so by chance now and then; not always, because others use the machine."""
    row = 0
    for _ in range(40):
        row = row + 1 if _is_even(platform) else 0
        if row == IN_A_ROW:
            return
    pytest.fail(f"the clients were never shared evenly {IN_A_ROW} times in a row")


def test_nobody_waits_for_a_process_that_is_stuck(platform: RunningPlatform) -> None:
    """A moment's wait for each of so many clients would be six seconds."""
    stuck = platform.children("inferrer")[0]
    with connected(platform, 4), contextlib.ExitStack() as stack:
        wait_until(lambda: sum(counts(platform)) == 4, 10, "some clients")
        os.kill(stuck, signal.SIGSTOP)
        try:
            began = time.monotonic()
            for _ in range(300):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", platform.port), timeout=10))
                sock.sendall(PREDICT)
                assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - began < 4
        finally:
            os.kill(stuck, signal.SIGCONT)
