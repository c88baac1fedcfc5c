"""Several runners of one version, how many there are, and what the operator says about it."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.harness.calls import call
from tests.harness.faults import find, held, is_busy, kill
from tests.harness.invariants import hosted, modelhost_url, unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import constant, slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.zoo import sine, zoo_platform

STEPS_OF_A_SECOND = 1_500_000  # of small kernels
STEPS_OF_TENS_OF_MS = 30_000
HOST = "modelhost-1"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """One modelhost that counts on two cores, whatever the machine has."""
    models = {"slow": slow(), "steady": slow(STEPS_OF_TENS_OF_MS), "fast": constant(1), "sine": sine(20)}
    environment = {"MODELHOST_CORES": "2"}
    with zoo_platform(tmp_path_factory.mktemp("zoo"), models, modelhosts=1, workers=1, environment=environment) as it:
        yield it


def serve(zoo: RunningPlatform, name: str, *, runners: int, **serving: int) -> list[int]:
    """Say how a model is to be run, and wait until it is; returns its runners' process ids."""
    before, said = set(version_of(zoo, name)["pids"]), requests.get(zoo.path(name), timeout=10).json()["serving"]
    answer = requests.post(zoo.path(name), json={"serving": {"runners": runners, **serving}}, timeout=30)
    assert answer.status_code == 200, answer.text
    if answer.json()["serving"] == said:
        before = set()

    def is_so() -> bool:
        pids = version_of(zoo, name)["pids"]
        return len(pids) == run_how(zoo, name).get("runners") == runners and not before & set(pids)

    wait_until(is_so, 30, f"{runners} runners of {name}")
    pids: list[int] = version_of(zoo, name)["pids"]
    return pids


def run_how(zoo: RunningPlatform, name: str) -> dict[str, Any]:
    """How the modelhost says that a model is run."""
    (host,) = requests.get(zoo.path(name), timeout=10).json()["modelhosts"]
    return {key: host[key] for key in ("runners", "threads", "batch_rows") if key in host}


def version_of(zoo: RunningPlatform, name: str) -> dict[str, Any]:
    return next(version for version in hosted(zoo, HOST) if version["model"] == name)


def metrics(zoo: RunningPlatform) -> str:
    return requests.get(f"{modelhost_url(zoo, HOST)}/metrics", timeout=10).text


def statistics(zoo: RunningPlatform, name: str) -> dict[str, Any]:
    (version,) = call(zoo, HOST, "stats", {"model": name, "version": 1})["versions"]
    return dict(version)


def test_a_slow_model_takes_both_cores_and_a_fast_one_none_more_than_it_needs(zoo: RunningPlatform) -> None:
    def cores() -> int:
        how = run_how(zoo, "steady")
        return int(how["runners"] * how["threads"])

    wait_until(lambda: cores() == 2, what="both cores in use")
    assert run_how(zoo, "fast")["runners"] == run_how(zoo, "fast")["threads"] == 1
    (host,) = requests.get(zoo.path("steady"), timeout=10).json()["modelhosts"]
    assert 0.002 < host["run_s"] < 5
    serve(zoo, "steady", runners=1, threads=1)
    one = version_of(zoo, "steady")["memory_bytes"]
    serve(zoo, "steady", runners=2, threads=1)
    assert version_of(zoo, "steady")["memory_bytes"] > one * 1.5, "each runner counts"


def test_two_runners_run_two_requests_at_once_and_the_end_of_one_is_not_the_others(zoo: RunningPlatform) -> None:
    pids = serve(zoo, "slow", runners=2)
    with unharmed(zoo), ThreadPoolExecutor(8) as threads:
        running = [threads.submit(zoo.predict, "slow", [STEPS_OF_A_SECOND + 1 + number]) for number in range(2)]
        wait_until(lambda: all(map(is_busy, pids)), what="both runners running")
        behind = [threads.submit(zoo.predict, "slow", [number]) for number in range(1, 7)]
        os.kill(pids[0], signal.SIGSEGV)  # as if its request had done it
        assert [answer.result().json()["values"] for answer in behind] == [[float(number)] for number in range(1, 7)]
        codes = sorted(answer.result().status_code for answer in running)
        assert codes == [200, 500], "only the one that the dead runner was running"
        wait_until(lambda: run_how(zoo, "slow")["runners"] == 2, what="the replacement")
    assert pids[1] in version_of(zoo, "slow")["pids"]


def test_a_stop_reaches_the_runner_that_runs_the_request(zoo: RunningPlatform) -> None:
    pids = serve(zoo, "slow", runners=2)
    with unharmed(zoo), ThreadPoolExecutor(2) as threads:
        other = threads.submit(zoo.predict, "slow", [STEPS_OF_A_SECOND])
        wait_until(lambda: any(map(is_busy, pids)), what="a runner running")
        late = zoo.predict("slow", [STEPS_OF_A_SECOND * 10], **{"X-Request-Timeout-Ms": "200"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
        assert other.result().status_code == 200
    assert sorted(version_of(zoo, "slow")["pids"]) == sorted(pids)


def test_settings_change_under_load_and_no_request_is_lost(zoo: RunningPlatform) -> None:
    modelhost, forkserver = zoo.processes[HOST].pid, find(zoo, HOST, "forkserver")
    with unharmed(zoo, resources=False):
        with Load(zoo.port, "sine", b'{"values": [[1, 2, 3, 4]]}', clients=8) as load:
            for wanted in (
                {"runners": 2, "threads": 1, "batch_rows": 4},
                {"runners": 1, "threads": 2, "batch_rows": 32},
                {"runners": 3, "threads": 1, "batch_rows": 1},
                {"runners": 1, "threads": 1, "batch_rows": 1},
            ):
                serve(zoo, "sine", **wanted)
                assert run_how(zoo, "sine") == wanted
                load.wait_for(50)
        assert not load.failures()
    assert (zoo.processes[HOST].pid, find(zoo, HOST, "forkserver")) == (modelhost, forkserver)
    assert version_of(zoo, "sine")["restarts"] == 0, "nobody died"


def test_rows_that_must_not_be_joined_are_not_whatever_the_operator_says(zoo: RunningPlatform) -> None:
    serve(zoo, "slow", batch_rows=64, runners=1)
    assert run_how(zoo, "slow")["batch_rows"] == 1, "its first axis is fixed"


def test_who_is_due_first_is_served_first(zoo: RunningPlatform) -> None:
    (runner,) = serve(zoo, "slow", runners=1)
    order: list[str] = []
    steps = STEPS_OF_A_SECOND // 50  # long enough that threads note the answers in the order in which they come

    def ask(name: str, steps: int, timeout_s: int) -> None:
        answer = zoo.predict("slow", [steps], **{"X-Request-Timeout-Ms": str(timeout_s * 1000)})
        assert answer.status_code == 200, answer.text
        order.append(name)

    def all_wait(count: int) -> None:
        wait_until(lambda: version_of(zoo, "slow")["waiting"] == count, what=f"{count} requests waiting")

    ask("first", STEPS_OF_A_SECOND // 10, 50)  # so that it is known how slow it is: two at most go ahead
    with unharmed(zoo), ThreadPoolExecutor(32) as threads:
        with held(runner):
            asked = [threads.submit(ask, "ahead", steps, 55) for _ in range(2)]
            all_wait(2)
            asked += [threads.submit(ask, "late", steps, 50) for _ in range(8)]
            all_wait(10)
            asked += [threads.submit(ask, "soon", steps, 40) for _ in range(8)]
            all_wait(18)
        for answered in asked:
            answered.result()
    waited = [name for name in order if name in {"late", "soon"}]
    # Which of two answers that come together is noted first is the threads' matter all the same.
    assert waited[:6] == ["soon"] * 6, waited
    assert waited[-6:] == ["late"] * 6, waited


def test_statistics_count_each_request_and_survive_the_runner(zoo: RunningPlatform) -> None:
    serve(zoo, "sine", runners=2, batch_rows=8)
    before, began_ms = statistics(zoo, "sine"), time.time_ns() // 1_000_000
    for _ in range(10):
        assert zoo.predict("sine", [[1, 2, 3, 4]] * 3).status_code == 200
    assert zoo.predict("sine", [[1, 2]]).status_code == 400
    for pid in version_of(zoo, "sine")["pids"]:
        kill(pid)
    assert zoo.predict("sine", [[1, 2, 3, 4]] * 3).status_code == 200
    after = statistics(zoo, "sine")
    assert after["execution_count"] - before["execution_count"] == 11
    assert after["inference_count"] - before["inference_count"] == 33, "rows"
    assert after["success"]["count"] - before["success"]["count"] == 11
    assert after["fail"]["count"] - before["fail"]["count"] == 1
    assert began_ms - 1000 < after["last_inference_ms"] < time.time_ns() // 1_000_000 + 1000
    for step in ("success", "compute_input", "compute_infer", "compute_output"):
        assert after[step]["ns"] > before[step]["ns"], step
    assert after["success"]["ns"] > after["compute_infer"]["ns"] > 0
    assert after["queue"]["count"] == after["success"]["count"] + after["fail"]["count"]
    wait_until(lambda: 'modelhost_version_runners{model="sine",version="1"} 2.0' in metrics(zoo), what="both again")
    assert 'modelhost_version_step_seconds_total{model="sine",step="run",version="1"}' in metrics(zoo)


def test_the_batches_of_all_runners_are_counted(zoo: RunningPlatform) -> None:
    serve(zoo, "slow", runners=2)
    before = statistics(zoo, "slow")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: zoo.predict("slow", [number * 1000]), range(12)))
    wait_until(lambda: statistics(zoo, "slow")["execution_count"] - before["execution_count"] == 12, what="12 runs")
    assert statistics(zoo, "slow")["inference_count"] - before["inference_count"] == 12
    assert {item["model"] for item in call(zoo, HOST, "stats", {})["versions"]} >= {"slow", "sine", "fast"}
    assert call(zoo, HOST, "stats", {"model": "none"}) == {"versions": []}
