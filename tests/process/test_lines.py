"""Predictions that go straight to a runner, by a line of the inferrer's own, and the usual way when that ends."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.faults import find, is_busy, kill
from tests.harness.invariants import unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.sockets import links
from tests.harness.zoo import zoo_platform

IRIS = b'{"values": [2, 5, 1, 4]}'


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with zoo_platform(tmp_path_factory.mktemp("zoo"), {"slow": slow()}, modelhosts=1, workers=1) as platform:
        yield platform


def sockets(zoo: RunningPlatform, model: str) -> int:
    """Connections of a model's runner."""
    runner = find(zoo, "modelhost-1", f"runner {model}")
    return sum(link.startswith("socket:") for link in links(runner))


def test_the_first_request_opens_a_line_that_closes_when_it_is_not_used(zoo: RunningPlatform) -> None:
    wait_until(lambda: sockets(zoo, "iris.onnx") == 3, 15, "no line")
    with unharmed(zoo):
        zoo.predict("iris.onnx", [2, 5, 1, 4])
        wait_until(lambda: sockets(zoo, "iris.onnx") == 4, 5, "a line")
        for _ in range(20):
            assert zoo.predict("iris.onnx", [2, 5, 1, 4]).json()["values"] == [1]
        wait_until(lambda: sockets(zoo, "iris.onnx") == 3, 15, "it being closed")


def test_a_request_that_does_not_end_is_stopped_at_its_deadline(zoo: RunningPlatform) -> None:
    """By a line the modelhost knows nothing of it until the inferrer calls it off."""
    for _ in range(3):
        assert zoo.predict("slow", [1]).status_code == 200
        time.sleep(0.05)
    assert sockets(zoo, "slow") == 4
    runner = find(zoo, "modelhost-1", "runner slow")
    answer = zoo.predict("slow", [300_000_000], **{"X-Request-Timeout-Ms": "300"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
    wait_until(lambda: not is_busy(runner), 5, "the run being stopped")
    assert zoo.predict("slow", [2]).json()["values"] == [2.0]


def test_a_runner_that_dies_with_requests_of_lines_costs_none_of_them(zoo: RunningPlatform) -> None:
    with unharmed(zoo), Load(zoo.port, "iris.onnx", IRIS, clients=8) as load:
        load.wait_for(500)
        assert sockets(zoo, "iris.onnx") == 4
        for _ in range(3):
            kill(find(zoo, "modelhost-1", "runner iris.onnx"))
            load.wait_for(500)
        assert sockets(zoo, "iris.onnx") == 3, "for a minute all goes through the modelhost"
    assert load.failures() == {}


def test_an_inferrer_that_ends_takes_its_line_along(zoo: RunningPlatform) -> None:
    zoo.predict("slow", [1])
    wait_until(lambda: zoo.predict("slow", [1]).ok and sockets(zoo, "slow") == 4, 5, "a line")
    (worker,) = zoo.children("inferrer")
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: sockets(zoo, "slow") == 3, 5, "no line")
    zoo.wait_ready()
    assert zoo.predict("slow", [2]).json()["values"] == [2.0]


def test_who_is_stopped_holds_nobody_up(tmp_path: Path) -> None:
    """One of two inferrer processes stands still with answers of its line unread; the other's requests go on."""
    with zoo_platform(tmp_path, {}, modelhosts=1, workers=2) as platform:
        with Load(platform.port, "iris.onnx", IRIS, clients=16) as load:
            load.wait_for(500)
            first, second = platform.children("inferrer")
            assert sockets(platform, "iris.onnx") == 5
            for worker in (first, second):
                os.kill(worker, signal.SIGSTOP)
                time.sleep(0.2)  # what it had is answered now, and nothing of it is read
                had = load.outcomes["ok"]
                load.wait_for(500)
                assert load.outcomes["ok"] >= had + 500
                os.kill(worker, signal.SIGCONT)
            load.wait_for(500)
        assert load.failures() == {}
