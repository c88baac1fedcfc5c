"""Row P14: a deadline is kept, whatever the model does, and nobody else pays for it."""

import threading
import time
from collections.abc import Iterator

import pytest
import requests

from tests.harness.onnx_models import slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.zoo import matrix, zoo_platform

pytestmark = pytest.mark.alone
STEPS_OF_SECONDS = 3_000_000  # more than two seconds of small kernels
SIZE_OF_SECONDS = 6000  # a product of matrices that takes seconds in one kernel


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with zoo_platform(tmp_path_factory.mktemp("zoo"), {"slow": slow(), "matrix": matrix()}, modelhosts=1) as platform:
        yield platform


def timed_out(platform: RunningPlatform, name: str, number: int, timeout_ms: int = 100) -> float:
    """Predict with a deadline that passes; returns how long the answer took."""
    began = time.monotonic()
    answer = platform.predict(name, [number], **{"X-Request-Timeout-Ms": str(timeout_ms)})
    took_s = time.monotonic() - began
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["code"] == "DEADLINE_EXCEEDED"
    assert answer.json()["error"]["retryable"]
    return took_s


def test_p14_the_answer_is_in_time_and_the_slot_free(zoo: RunningPlatform) -> None:
    for _ in range(3):
        took_s = timed_out(zoo, "slow", STEPS_OF_SECONDS)
        assert 0.1 <= took_s < 0.4, took_s  # the row says 0.2; a shared machine needs more
        began = time.monotonic()
        assert zoo.predict("slow", [7]).json()["values"] == [7.0]
        assert time.monotonic() - began < 0.4
    assert not [record for record in zoo.records("modelhost-1") if record["event"].startswith("runner")]


def test_p14_who_waits_behind_a_stopped_run_is_served(zoo: RunningPlatform) -> None:
    answers: list[requests.Response] = []
    blocked = threading.Thread(target=timed_out, args=(zoo, "slow", STEPS_OF_SECONDS, 300))
    blocked.start()
    waiting = [threading.Thread(target=lambda: answers.append(zoo.predict("slow", [3]))) for _ in range(8)]
    for thread in waiting:
        thread.start()
    for thread in (blocked, *waiting):
        thread.join()
    assert [answer.json()["values"] for answer in answers] == [[3.0]] * 8


def test_p14_who_waits_too_long_is_told_and_not_run(zoo: RunningPlatform) -> None:
    blocked = threading.Thread(target=timed_out, args=(zoo, "slow", STEPS_OF_SECONDS, 600))
    blocked.start()
    wait_until(lambda: _busy(zoo), what="the model being busy")
    assert timed_out(zoo, "slow", STEPS_OF_SECONDS, 150) < 0.45
    blocked.join()
    assert zoo.predict("slow", [1]).status_code == 200


def _busy(zoo: RunningPlatform) -> bool:
    """Tell whether the model's runner uses the processor."""
    for pid in zoo.children("modelhost-1"):
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - a line of /proc
            name, _, rest = file.read().partition(") ")
        if name.endswith("(runner slow") and rest.startswith("R"):
            return True
    return False


def test_p14_a_kernel_that_does_not_listen_is_killed_and_replaced(zoo: RunningPlatform) -> None:
    assert zoo.predict("matrix", [64]).json()["values"] == [16.0]
    began = time.monotonic()
    took_s = timed_out(zoo, "matrix", SIZE_OF_SECONDS, 1000)  # by then the one big kernel has begun
    assert 1 <= took_s < 1.3, took_s
    assert zoo.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200, "another model is not touched"
    assert zoo.predict("matrix", [2]).json()["values"] == [0.5], "the replacement answers"
    assert time.monotonic() - began < 5
    events = [record["event"] for record in zoo.records("modelhost-1")]
    assert events.count("runner killed") == 1
    assert events.count("runner died") == 1


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "abc", "3600001", "1e3"])
def test_a_deadline_is_a_number_of_milliseconds(value: str, zoo: RunningPlatform) -> None:
    answer = zoo.predict("iris.onnx", [2, 5, 1, 4], **{"X-Request-Timeout-Ms": value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BAD_REQUEST")
    assert "X-Request-Timeout-Ms" in answer.json()["error"]["message"]


def infer(platform: RunningPlatform, name: str, number: int, **headers: str) -> requests.Response:
    """Predict by V2."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [number]}
    body = {"inputs": [tensor]}
    return requests.post(f"{platform.url}/v2/models/{name}/infer", json=body, headers=headers, timeout=60)


def test_p14_v2_keeps_the_same_deadlines(zoo: RunningPlatform) -> None:
    began = time.monotonic()
    answer = infer(zoo, "slow", STEPS_OF_SECONDS, **{"X-Request-Timeout-Ms": "100"})
    took_s = time.monotonic() - began
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (504, "DEADLINE_EXCEEDED"), answer.text
    assert list(answer.json()) == ["error"]
    assert 0.1 <= took_s < 1, took_s
    assert infer(zoo, "slow", 7).json()["outputs"][0]["data"] == [7.0]
    # Only the header field counts: a parameter of the request is the model's business.
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [STEPS_OF_SECONDS / 10]}
    body = {"inputs": [tensor], "parameters": {"timeout": 1}}
    assert requests.post(f"{zoo.url}/v2/models/slow/infer", json=body, timeout=60).status_code == 200
