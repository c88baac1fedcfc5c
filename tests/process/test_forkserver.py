"""The fork server keeps to one task; processes that run models end with those who own them, and with nobody else."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from inferrer.lines import BUSY_S
from tests.harness.faults import find, is_alive, is_busy, kill, name_of, processes
from tests.harness.onnx_models import constant, slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.zoo import lethal, zoo_platform


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[RunningPlatform]:
    with zoo_platform(tmp_path, {"slow": slow()}, modelhosts=1, workers=1) as platform:
        yield platform


def tasks(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_the_fork_server_has_one_task_however_much_it_forks(zoo: RunningPlatform) -> None:
    forkserver = find(zoo, "modelhost-1", "forkserver")
    seen, stop = {tasks(forkserver)}, threading.Event()

    def watch() -> None:
        while not stop.wait(0.001):
            seen.add(tasks(forkserver))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(15):
            assert zoo.put(f"model-{number}", constant(number)).status_code == 201
            assert zoo.predict(f"model-{number}", [[1]]).json()["values"] == [[number]]
        for number in range(15):
            requests.delete(zoo.path(f"model-{number}"), timeout=10).raise_for_status()
    finally:
        stop.set()
        watcher.join()
    assert seen == {1}
    assert find(zoo, "modelhost-1", "forkserver") == forkserver
    wait_until(lambda: not [pid for pid in zoo.children("modelhost-1") if "model-" in name_of(pid)], what="their end")
    assert not [pid for pid in zoo.children("modelhost-1") if not is_alive(pid)], "no zombie is left"


def test_everything_dies_with_the_modelhost(zoo: RunningPlatform) -> None:
    below = zoo.children("modelhost-1")
    assert len(below) > 5
    zoo.kill("modelhost-1")
    wait_until(lambda: not any(map(is_alive, below)), 5, "the end of all processes below")


def test_everything_dies_with_the_fork_server_and_the_modelhost_asks_for_a_restart(zoo: RunningPlatform) -> None:
    below = zoo.children("modelhost-1")
    kill(find(zoo, "modelhost-1", "forkserver"))
    wait_until(lambda: not any(map(is_alive, below)), 5, "the end of all runners")
    assert zoo.processes["modelhost-1"].wait(10) == 1
    zoo.start("modelhost-1")
    zoo.wait_ready()
    assert zoo.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200


def test_a_modelhost_that_is_stopped_leaves_nothing(zoo: RunningPlatform) -> None:
    below = zoo.children("modelhost-1")
    assert zoo.stop("modelhost-1") == 0
    wait_until(lambda: not any(map(is_alive, below)), 5, "the end of all processes below")


def test_only_the_request_that_was_running_pays_for_its_runners_death(zoo: RunningPlatform) -> None:
    runner = find(zoo, "modelhost-1", "runner slow")
    with ThreadPoolExecutor(10) as threads:
        running = threads.submit(zoo.predict, "slow", [30_000_000])
        wait_until(lambda: is_busy(runner), what="the model running")
        time.sleep(5 * BUSY_S)  # what comes now waits in the queue, and not in the runner
        queued = [threads.submit(zoo.predict, "slow", [number]) for number in range(1, 9)]
        wait_until(lambda: _waiting(zoo) == 9, what="eight requests waiting behind it")
        os.kill(runner, signal.SIGSEGV)  # as if the request had done it; what a stranger kills is tried once more
        failed = running.result()
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "MODEL_CRASHED")
        assert not failed.json()["error"]["retryable"]
        assert [answer.result().json()["values"] for answer in queued] == [[float(number)] for number in range(1, 9)]
    assert find(zoo, "modelhost-1", "runner slow") != runner


def _waiting(zoo: RunningPlatform) -> int:
    """Requests that wait for or run the slow model, by the modelhost's own word."""
    port = next(record["port"] for record in zoo.records("modelhost-1") if record["event"] == "modelhost started")
    versions = requests.get(f"http://127.0.0.1:{port}/", timeout=5).json()["versions"]
    return int(next(version["waiting"] for version in versions if version["model"] == "slow"))


def test_an_idle_runner_that_dies_is_replaced_and_nobody_notices(zoo: RunningPlatform) -> None:
    for _ in range(3):
        runner = find(zoo, "modelhost-1", "runner iris.onnx")
        kill(runner)
        answer = zoo.predict("iris.onnx", [2, 5, 1, 4])
        assert answer.status_code == 200, answer.text
        assert find(zoo, "modelhost-1", "runner iris.onnx") != runner


def test_m05_a_file_that_kills_its_loader_kills_nothing_else(zoo: RunningPlatform) -> None:
    before = set(zoo.children("modelhost-1"))
    for _ in range(3):
        answer = zoo.put("lethal", lethal())
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "INVALID_MODEL")
        assert f"status {-signal.SIGFPE}" in answer.json()["error"]["message"]
    assert "lethal" not in zoo.names()
    assert zoo.staged() == []
    assert zoo.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    wait_until(lambda: set(zoo.children("modelhost-1")) == before, what="the same processes as before")


def test_a_check_that_is_cut_short_refuses_only_its_own_upload(zoo: RunningPlatform) -> None:
    """Whoever kills the check process: the upload is refused, the next one is taken."""
    stop = threading.Event()

    def hunt() -> None:
        while not stop.is_set():
            for pid in processes(zoo, "modelhost-1", "check"):
                kill(pid)
            time.sleep(0.0005)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        answer = zoo.put("hunted", constant(1, padding_bytes=20_000_000))
    finally:
        stop.set()
        hunter.join()
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "INVALID_MODEL")
    assert zoo.put("hunted", constant(1)).status_code == 201
