"""A modelhost that is reached in two ways, and the folder where several have their sockets."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from mlbuffet.endpoints import Address
from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, copy_samples, free_port, wait_until
from tests.harness.proxy import Proxy

NAME = "modelhost-1"
Wired = tuple[RunningPlatform, Proxy, Path]


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[Wired]:
    """A platform whose modelhost listens on a socket in a shared folder and on TCP, where a proxy is in front."""
    repository = tmp_path / "repository"
    repository.mkdir()
    copy_samples(repository)
    platform = RunningPlatform(repository, modelhosts=1, workers=1)
    sockets = platform.folder / "sockets"
    port = free_port()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(f"tcp://127.0.0.1:{port}"))
        platform.settings[NAME]["MODELHOST_CHANNEL"] = f"unix:{sockets}/,tcp://127.0.0.1:{port}"
        platform.settings["inferrer"]["INFERRER_MODELHOSTS"] = f"unix:{sockets},{proxy.place}"
        yield stack.enter_context(platform), proxy, sockets


def modelhosts(platform: RunningPlatform) -> list[str]:
    """Those that the inferrer knows of."""
    shown = requests.get(platform.path("iris.onnx"), timeout=10).json()["modelhosts"]
    return [host["modelhost"] for host in shown]


def test_a_modelhost_that_is_reached_in_two_ways_is_one_and_the_socket_is_used(wired: Wired) -> None:
    platform, proxy, sockets = wired
    # Signs of life go over both.
    wait_until(lambda: proxy.passed["PING"] > 5 and modelhosts(platform) == [NAME], what="one modelhost, two ways")
    proxy.passed.clear()
    with unharmed(platform):
        assert [platform.predict("iris.onnx", [2, 5, 1, 4]).status_code for _ in range(50)] == [200] * 50
    assert set(proxy.passed) == {"PING"}
    # Where the socket is out of reach, the other way serves.
    platform.stop("inferrer")
    (sockets / f"{NAME}.sock").unlink()
    platform.start("inferrer")
    platform.wait_ready()
    assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    assert (proxy.passed["PREDICT"], modelhosts(platform)) == (1, [NAME])


def test_the_socket_of_a_modelhost_that_was_killed_is_removed_by_the_next(wired: Wired) -> None:
    platform, _, sockets = wired
    assert sorted(path.name for path in sockets.iterdir()) == [f"{NAME}.sock", f"{NAME}.sock.fds"]
    platform.kill(NAME)
    platform.settings[NAME]["MODELHOST_ID"] = "another"
    platform.start(NAME)
    platform.wait_ready()
    wait_until(lambda: modelhosts(platform) == ["another"], what="the new one alone")
    assert sorted(path.name for path in sockets.iterdir()) == ["another.sock", "another.sock.fds"]
    assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    assert platform.stop(NAME) == 0
    assert list(sockets.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "socket"),
    [("unix:/sockets/", "/sockets/a.sock"), ("unix:/x/y.sock", "/x/y.sock"), ("tcp://a:1", "")],
)
def test_in_a_folder_each_has_a_socket_of_its_own(text: str, socket: str) -> None:
    assert Address.parse(text).owned_by("a").path == socket
