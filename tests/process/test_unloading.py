"""A version on its way out still keeps what it owes; one that an operator unloaded stays out."""

from concurrent.futures import ThreadPoolExecutor

import requests

from tests.harness import onnx_models
from tests.harness.faults import processes
from tests.harness.platform import RunningPlatform, wait_until

ENDLESS = 1_000_000_000_000


def _runners(platform: RunningPlatform, model: str) -> int:
    """How many processes hold a model."""
    hosts = [name for name in platform.processes if name.startswith("modelhost")]
    return sum(len(processes(platform, host, f"runner {model}")) for host in hosts)


def _in_flight(platform: RunningPlatform, model: str) -> int:
    hosts = requests.get(platform.path(model), timeout=10).json()["modelhosts"]
    return sum(host["in_flight"] for host in hosts)


def test_a_deleted_version_keeps_deadlines_while_others_change(platform: RunningPlatform) -> None:
    assert platform.put("slow", onnx_models.slow()).status_code == 201
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(platform.predict, "slow", [ENDLESS], **{"X-Request-Timeout-Ms": "4000"})
        wait_until(lambda: _in_flight(platform, "slow"), what="the request being in flight")
        assert requests.delete(platform.path("slow"), timeout=10).status_code == 200
        # Each change makes the modelhosts look again at what is to leave.
        for number in range(3):
            assert platform.put(f"other-{number}", onnx_models.constant(number)).status_code == 201
        assert answer.result().status_code == 504
    assert platform.predict("slow", [1]).status_code == 404
    wait_until(lambda: not _runners(platform, "slow"), what="the runners of the deleted model ending")
    assert _runners(platform, "other-0") == 2


def test_what_an_operator_unloaded_is_let_go_and_stays_so(platform: RunningPlatform) -> None:
    for number in (1, 2):
        assert platform.put("m", onnx_models.constant(number)).status_code == 201
    assert platform.predict("m:1", [[0]]).json()["values"] == [[1.0]]
    unloaded = requests.post(f"{platform.path('m')}/unload", timeout=10).json()
    assert (unloaded["version"], unloaded["unloaded"]) == (2, True)
    for _ in range(20):  # whichever process answers
        assert _refused(platform, "m")
        assert _refused(platform, "m:2")
        assert platform.predict("m:1", [[0]]).json()["values"] == [[1.0]], "another version is not touched"
    wait_until(lambda: _states(platform, "m") == [("UNAVAILABLE", "unloaded")] * 2, what="both modelhosts letting go")
    for name in ("modelhost-1", "modelhost-2", "inferrer"):
        platform.restart(name)
    assert _refused(platform, "m")
    assert _runners(platform, "m") == 0, "nor is version 1 loaded, which nobody asked for since"
    loaded = requests.post(f"{platform.path('m')}/load", timeout=60).json()
    assert [host["state"] for host in loaded["modelhosts"]] == ["READY", "READY"]
    assert platform.predict("m", [[0]]).json()["values"] == [[2.0]]


def _states(platform: RunningPlatform, name: str) -> list[tuple[str, str]]:
    hosts = requests.get(platform.path(name), timeout=10).json()["modelhosts"]
    return [(host["state"], host["reason"]) for host in hosts]


def _refused(platform: RunningPlatform, name: str) -> bool:
    answer = platform.predict(name, [[0]])
    return (answer.status_code, answer.json()["error"]["code"]) == (503, "MODEL_UNLOADED")


def test_whatever_makes_a_version_the_default_loads_it(platform: RunningPlatform) -> None:
    data = onnx_models.constant(1)
    assert platform.put("m", data).status_code == 201
    requests.post(f"{platform.path('m')}/unload", timeout=10).raise_for_status()
    assert _refused(platform, "m")
    again = platform.put("m", data)
    assert (again.status_code, again.json()["unloaded"]) == (200, False)
    assert platform.predict("m", [[0]]).json()["values"] == [[1.0]]
    assert platform.put("m", onnx_models.constant(2)).status_code == 201
    requests.post(f"{platform.path('m:1')}/unload", timeout=10).raise_for_status()
    assert requests.post(f"{platform.path('m')}/default", json={"default": 1}, timeout=60).status_code == 200
    assert platform.predict("m", [[0]]).json()["values"] == [[1.0]]


def test_what_runs_when_a_model_is_unloaded_is_answered(platform: RunningPlatform) -> None:
    assert platform.put("slow", onnx_models.slow()).status_code == 201
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(platform.predict, "slow", [1_000_000])
        wait_until(lambda: _in_flight(platform, "slow"), what="the request being in flight")
        requests.post(f"{platform.path('slow')}/unload", timeout=10).raise_for_status()
        assert answer.result().json()["values"] == [1_000_000.0]
    wait_until(lambda: _runners(platform, "slow") == 0, what="its runners ending")


def test_load_and_unload_by_turns_leave_what_was_said_last(platform: RunningPlatform) -> None:
    for number in range(10):
        requests.post(f"{platform.path('iris.onnx')}/unload", timeout=10).raise_for_status()
        assert _refused(platform, "iris.onnx")
        if number % 2:  # sometimes the modelhosts have seen it by now, sometimes not
            wait_until(lambda: _runners(platform, "iris.onnx") == 0, what="its runners ending")
        requests.post(f"{platform.path('iris.onnx')}/load", timeout=60).raise_for_status()
        assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
