"""A request that ends its runner, a version that ends its loader, a process that is killed: each stays its own."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
import requests

from tests.harness.faults import kill, name_of, plant_version
from tests.harness.invariants import hosted, modelhost_url, unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import constant, slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.zoo import fragile, hungry, lethal, zoo_platform

CRASHES = [-1]
GOOD = [-(1 << 62)]
STEPS_OF_SECONDS = 3_000_000


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """One modelhost, so that nobody else could have answered."""
    models = {"fragile": fragile(), "slow": slow(), "hungry": hungry()}
    environment = {"MODELHOST_MODEL_MEMORY_BYTES": str(1 << 30)}
    folder = tmp_path_factory.mktemp("zoo")
    with zoo_platform(folder, models, modelhosts=1, environment=environment) as platform:
        yield platform


def version_of(zoo: RunningPlatform, name: str) -> dict[str, int]:
    """What the modelhost says of a model's version."""
    return next(version for version in hosted(zoo, "modelhost-1") if version["model"] == name)


def runner_of(zoo: RunningPlatform, name: str) -> int:
    """The process that serves a model now."""
    return wait_until(lambda: version_of(zoo, name)["pid"], what=f"a runner of {name}")


def metric(zoo: RunningPlatform, line: str) -> float:
    """One sample of the modelhost's metrics; 0 without it."""
    text = requests.get(f"{modelhost_url(zoo, 'modelhost-1')}/metrics", timeout=10).text
    return next((float(item.split()[-1]) for item in text.splitlines() if item.startswith(line)), 0)


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def crash_values(number: int) -> list[int]:
    """Another request each time that ends its runner."""
    return [number + 1, -1]


def test_a_request_that_ends_its_runner_is_told_so_and_not_run_again(zoo: RunningPlatform) -> None:
    with unharmed(zoo):
        restarts = version_of(zoo, "fragile")["restarts"]
        assert code_of(zoo.predict("fragile", CRASHES)) == (500, "MODEL_CRASHED")
        for _ in range(20):
            refused = zoo.predict("fragile", CRASHES)
            assert code_of(refused) == (500, "MODEL_CRASHED")
            assert "not run again" in refused.json()["error"]["message"]
        assert zoo.predict("fragile", GOOD).json()["values"] == [2]
        assert version_of(zoo, "fragile")["restarts"] == restarts + 1
        refused_line = 'modelhost_version_refused_total{code="MODEL_CRASHED",model="fragile"'
        assert metric(zoo, refused_line) >= 20
        assert metric(zoo, 'modelhost_runner_restarts_total{model="fragile",reason="crashed"') >= 1


def test_those_beside_a_request_that_ends_its_runner_are_answered(zoo: RunningPlatform) -> None:
    with unharmed(zoo), ThreadPoolExecutor(32) as threads:
        for turn in range(3):
            bad = threads.submit(zoo.predict, "fragile", crash_values(1000 + turn))
            beside = [threads.submit(zoo.predict, "fragile", [-(1 << (62 - number % 40))]) for number in range(60)]
            assert code_of(bad.result()) == (500, "MODEL_CRASHED")
            for number, answer in enumerate(beside):
                assert answer.result().status_code == 200, answer.result().text
                assert answer.result().json()["values"] == [1 << (1 + number % 40)]


def test_whoever_keeps_crashing_a_model_does_not_switch_it_off(zoo: RunningPlatform) -> None:
    with unharmed(zoo):
        body = orjson.dumps({"values": GOOD})
        with Load(zoo.port, "fragile", body, clients=4) as load:
            for number in range(25):
                assert code_of(zoo.predict("fragile", crash_values(number))) == (500, "MODEL_CRASHED")
            load.wait_for(200)
        assert not load.failures()


def test_a_runner_that_a_stranger_kills_costs_nobody_an_answer(zoo: RunningPlatform) -> None:
    with unharmed(zoo), ThreadPoolExecutor(1) as threads:
        running = threads.submit(zoo.predict, "slow", [STEPS_OF_SECONDS])
        wait_until(lambda: version_of(zoo, "slow")["waiting"] == 1, what="the model running")
        os.kill(runner_of(zoo, "slow"), signal.SIGKILL)
        answer = running.result()
        assert answer.status_code == 200, answer.text
        assert metric(zoo, 'modelhost_runner_restarts_total{model="slow",reason="killed"') == 1


def test_a_request_whose_runner_is_killed_again_and_again_is_given_up(zoo: RunningPlatform) -> None:
    with unharmed(zoo), ThreadPoolExecutor(1) as threads:
        running = threads.submit(zoo.predict, "slow", [STEPS_OF_SECONDS * 10])
        wait_until(lambda: version_of(zoo, "slow")["waiting"] == 1, what="the model running")
        first = runner_of(zoo, "slow")
        os.kill(first, signal.SIGKILL)
        second = wait_until(lambda: (pid := version_of(zoo, "slow")["pid"]) != first and pid, what="the replacement")
        wait_until(lambda: _is_running(second), what="the model running again")
        os.kill(second, signal.SIGKILL)
        assert code_of(running.result()) == (500, "MODEL_CRASHED")
        assert zoo.predict("slow", [2]).json()["values"] == [2.0]


def _is_running(pid: int) -> bool:
    """Tell whether a process uses the processor."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("R")


def test_m18_a_runner_that_has_grown_is_replaced_between_two_requests(zoo: RunningPlatform) -> None:
    with unharmed(zoo, resources=False):
        body = orjson.dumps({"values": [2]})
        with Load(zoo.port, "slow", body, clients=2) as load:
            before = runner_of(zoo, "hungry")
            assert zoo.predict("hungry", [850]).json()["values"] == [1.0]
            wait_until(lambda: runner_of(zoo, "hungry") != before, what="the replacement")
            assert zoo.predict("hungry", [1]).status_code == 200
            load.wait_for(20)
        assert not load.failures()
        assert metric(zoo, 'modelhost_runner_restarts_total{model="hungry",reason="memory"') == 1
        assert metric(zoo, 'modelhost_version_memory_bytes{model="hungry"') < 200 << 20


def test_a_version_that_ends_its_loader_is_quarantined_and_a_new_one_lifts_it(zoo: RunningPlatform) -> None:
    assert zoo.put("sound", constant(1)).status_code == 201
    with unharmed(zoo, resources=False):
        plant_version(zoo, "sound", lethal())
        wait_until(lambda: _quarantined(zoo, "sound", 2), what="the quarantine")
        refused = zoo.predict("sound", [[1]])
        assert code_of(refused) == (503, "MODEL_QUARANTINED")
        assert int(refused.headers["Retry-After"]) >= 1
        (host,) = requests.get(zoo.path("sound"), timeout=10).json()["modelhosts"]
        assert (host["state"], host["code"]) == ("QUARANTINED", "MODEL_QUARANTINED")
        assert f"status {-signal.SIGFPE}" in host["reason"]
        assert metric(zoo, 'modelhost_runner_restarts_total{model="sound",reason="loading"') == 3
        again = requests.post(f"{zoo.path('sound')}/load", timeout=60)
        assert code_of(again) == (503, "MODEL_QUARANTINED"), "an operator tries it anew, and it kills again"
        assert zoo.predict("sound:1", [[1]]).json()["values"] == [[1.0]], "another version is not touched"
        assert zoo.put("sound", constant(3)).status_code == 201
        assert zoo.predict("sound", [[1]]).json()["values"] == [[3.0]]


def test_an_operator_lifts_a_quarantine(zoo: RunningPlatform) -> None:
    """Here a stranger killed the loader; the version itself is good."""
    assert zoo.put("hunted", constant(1)).status_code == 201
    stop = threading.Event()

    def hunt() -> None:
        while not stop.is_set():
            for pid in zoo.children("modelhost-1"):
                if name_of(pid) == "runner hunted":
                    kill(pid)
            time.sleep(0.0005)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        wait_until(lambda: _quarantined(zoo, "hunted", 1), 40, "the quarantine")
    finally:
        stop.set()
        hunter.join()
    with unharmed(zoo, resources=False):
        assert code_of(zoo.predict("hunted", [[1]])) == (503, "MODEL_QUARANTINED")
        lifted = requests.post(f"{zoo.path('hunted')}/load", timeout=60)
        assert (lifted.status_code, lifted.json()["modelhosts"][0]["state"]) == (200, "READY")
        assert zoo.predict("hunted", [[1]]).json()["values"] == [[1.0]]


def _quarantined(zoo: RunningPlatform, name: str, version: int) -> bool:
    return metric(zoo, f'modelhost_version_quarantined{{model="{name}",version="{version}"') == 1
