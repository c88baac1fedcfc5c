"""Rows L01, L02 and L10: load is shared, a lost modelhost costs nobody an answer, new ones are used at once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.harness.faults import held, runner_of, slowed
from tests.harness.load import Load
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.zoo import sine, zoo_platform

pytestmark = pytest.mark.alone
IRIS = b'{"values": [2, 5, 1, 4]}'
SINE = b'{"values": [[0.1, 0.2, 0.3, 0.4]]}'


def predictions(platform: RunningPlatform, model: str) -> dict[str, int]:
    """How many predictions each modelhost has had for a model, by its own count."""
    counts = {}
    for host in [name for name in platform.processes if name.startswith("modelhost")]:
        port = next(item["port"] for item in platform.records(host) if item["event"] == "modelhost started")
        versions = requests.get(f"http://127.0.0.1:{port}/", timeout=10).json()["versions"]
        counts[host] = sum(item["predictions"] for item in versions if item["model"] == model)
    return counts


def shares(platform: RunningPlatform, model: str, load: Load, answers: int) -> dict[str, float]:
    """Each modelhost's share of the predictions for a model while so many requests are answered."""
    before = predictions(platform, model)
    load.wait_for(answers)
    had = {host: count - before[host] for host, count in predictions(platform, model).items()}
    return {host: count / sum(had.values()) for host, count in had.items()}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with zoo_platform(tmp_path_factory.mktemp("three"), {"sine": sine()}, modelhosts=3) as platform:
        yield platform


def test_l01_tests_of_the_way_are_shared_evenly(three: RunningPlatform) -> None:
    served: Counter[str] = Counter()
    for _ in range(6):
        answer = requests.post(f"{three.url}/api/test/sendtomodelhost", json={"data": [1] * 1000}, timeout=20)
        served.update(item["modelhost"] for item in answer.json()["served"])
    assert len(served) == 3
    assert all(0.28 <= count / 6000 <= 0.38 for count in served.values()), served


def test_l01_equal_modelhosts_get_equal_shares_of_predictions(three: RunningPlatform) -> None:
    # Few clients: under many, a modelhost that the machine slows down for a moment rightly gets less.
    with Load(three.port, "sine", SINE, clients=3) as load:
        load.wait_for(200)
        found = shares(three, "sine", load, 4000)
    assert load.failures() == {}
    assert all(0.28 <= share <= 0.38 for share in found.values()), found


def test_l01_a_slow_modelhost_gets_less(three: RunningPlatform) -> None:
    with Load(three.port, "sine", SINE, clients=12) as load, slowed(runner_of(three, "modelhost-1", "sine")):
        load.wait_for(200)
        found = shares(three, "sine", load, 1500)
    assert load.failures() == {}
    assert found["modelhost-1"] < 0.22, found
    others = [found["modelhost-2"], found["modelhost-3"]]
    assert min(others) > 0.3, found
    with Load(three.port, "sine", SINE, clients=12) as load:
        # How slow it was is forgotten with time, not with requests, of which a busy machine has few.
        wait_until(
            lambda: shares(three, "sine", load, 1000)["modelhost-1"] > 0.28, 30, "its being used again when it is fast"
        )


def test_l02_a_killed_modelhost_costs_nobody_an_answer(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=3) as platform:
        with Load(platform.port, "iris.onnx", IRIS, pause_s=0.005) as load:
            for number in (1, 2, 3, 1):
                load.wait_for(200)
                platform.kill(f"modelhost-{number}")
                load.wait_for(200)
                platform.start(f"modelhost-{number}")
                used_soon(platform, f"modelhost-{number}", 3)
        assert load.failures() == {}
        assert [item for item in platform.records() if item["event"] == "modelhost lost"]


def test_l02_only_a_prediction_is_sent_again(tmp_path: Path) -> None:
    """What waits on a modelhost that dies is done elsewhere, however long it had run."""
    with zoo_platform(tmp_path, {"sine": sine()}) as platform:
        with held(runner_of(platform, "modelhost-1", "sine")), ExitStack() as stack:
            with held(runner_of(platform, "modelhost-2", "sine")):
                loads: list[Load] = []

                def one_more_is_enough() -> bool:
                    # One client after the other: those that come in one moment may all go to one modelhost.
                    loads.append(stack.enter_context(Load(platform.port, "sine", SINE, clients=1)))
                    return both_are_busy(platform)

                wait_until(one_more_is_enough, what="requests waiting on both modelhosts")
                platform.kill("modelhost-1")
            for load in loads:
                load.wait_for(20)
        assert [load.failures() for load in loads] == [{}] * len(loads)


def both_are_busy(platform: RunningPlatform) -> bool:
    """Tell whether requests wait on two modelhosts, as far as one inferrer process knows."""
    details = requests.get(platform.path("sine"), timeout=5).json()
    return sum(1 for item in details["modelhosts"] if item["in_flight"]) == 2


def hosts_used(platform: RunningPlatform) -> int:
    """How many modelhosts answer, in the eyes of whichever inferrer process is asked."""
    found = []
    for _ in range(4):
        answer = requests.post(f"{platform.url}/api/test/sendtomodelhost", json={"data": list(range(40))}, timeout=5)
        if answer.status_code != 200:
            return 0
        found.append(len({item["modelhost"] for item in answer.json()["served"]}))
    return min(found)


def add(platform: RunningPlatform, number: int) -> str:
    """Give the platform one more modelhost."""
    name, first = f"modelhost-{number}", platform.settings["modelhost-1"]
    folder = Path(first["MODELHOST_CHANNEL"].removeprefix("unix:")).parent
    channel = f"unix:{folder}/{name}.sock"
    platform.settings[name] = first | {"MODELHOST_ID": name, "MODELHOST_CHANNEL": channel}
    platform.start(name)
    return name


def test_l10_scaling_out_and_in_under_load_loses_nothing(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1) as platform:
        with Load(platform.port, "iris.onnx", IRIS, pause_s=0.005) as load:
            load.wait_for(200)
            for number in range(2, 6):
                used_soon(platform, add(platform, number), number)
                load.wait_for(100)
            for number in (1, 3, 5):
                assert platform.stop(f"modelhost-{number}") == 0
                load.wait_for(100)
            wait_until(lambda: hosts_used(platform) == 2, what="the two that are left being used")
        assert load.failures() == {}
        folder = Path(platform.settings["modelhost-1"]["MODELHOST_CHANNEL"].removeprefix("unix:")).parent
        left = {"modelhost-2.sock", "modelhost-2.sock.fds", "modelhost-4.sock", "modelhost-4.sock.fds"}
        assert {path.name for path in folder.iterdir()} == left


def used_soon(platform: RunningPlatform, name: str, count: int) -> None:
    """Wait until a modelhost that was started is ready; from then on it is used within five seconds."""
    wait_until(lambda: _is_ready(platform, name), 20, f"{name} being ready")
    wait_until(lambda: hosts_used(platform) == count, 5, f"{name} being used")


def _is_ready(platform: RunningPlatform, name: str) -> bool:
    """Ask a modelhost itself."""
    started = [record for record in platform.records(name) if record["event"] == "modelhost started"]
    if not started:
        return False
    try:
        return requests.get(f"http://127.0.0.1:{started[-1]['port']}/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False  # the record is that of the process before


def test_a_modelhost_that_hangs_takes_no_more_traffic(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=2) as platform:
        with held(platform.processes["modelhost-1"].pid):
            wait_until(lambda: hosts_used_quickly(platform), 10, "the silent modelhost being left out")
            with Load(platform.port, "iris.onnx", IRIS, clients=4) as load:
                load.wait_for(200)
            assert load.failures() == {}
        wait_until(lambda: hosts_used(platform) == 2, what="its being used again")


def hosts_used_quickly(platform: RunningPlatform) -> bool:
    """Tell whether every inferrer process has seen that one modelhost is silent."""
    answers = [requests.get(platform.path("iris.onnx"), timeout=5).json()["modelhosts"] for _ in range(6)]
    return all(not item["ready"] for hosts in answers for item in hosts if item["modelhost"] == "modelhost-1")
