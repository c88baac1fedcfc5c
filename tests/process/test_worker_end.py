"""An inferrer process that ends, as it does when it has lost its data plane, is replaced and its counts stay."""

import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import requests

from tests.harness.faults import held, is_alive
from tests.harness.platform import SAMPLES, RunningPlatform, wait_until


def test_a_worker_that_ends_is_replaced_and_its_counts_stay(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "iris.onnx", tmp_path / "iris.onnx")
    with RunningPlatform(tmp_path, modelhosts=1, workers=1) as platform:
        for _ in range(3):
            assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
        wait_until(lambda: _predictions(platform) == 3, 10, "the counts being written")
        (worker,) = platform.children("inferrer")
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not is_alive(worker), 20, "its end")
        platform.wait_ready()
        assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
        wait_until(lambda: _predictions(platform) == 4, 10, "the counts of both")


def test_an_end_that_comes_while_a_worker_starts_is_not_lost(tmp_path: Path) -> None:
    """The service would wait for that worker as long as for one that has requests to answer, more than ten seconds."""
    with RunningPlatform(tmp_path, modelhosts=1, workers=1) as platform:
        for _ in range(5):
            platform.kill("inferrer")
            inferrer = platform.start("inferrer")
            (worker,) = wait_until(lambda: platform.children("inferrer"), 20, "a worker", every_s=0)
            with held(worker):
                inferrer.terminate()
                wait_until(partial(_is_told_to_end, worker), 10, "the worker being told")
            assert inferrer.wait(8) == 0


def _is_told_to_end(pid: int) -> bool:
    """Tell whether a process that is stopped has a SIGQUIT to take."""
    status = Path(f"/proc/{pid}/status").read_text()
    (pending,) = re.findall(r"^ShdPnd:\t([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(pending, 16) >> signal.SIGQUIT - 1 & 1)


def _predictions(platform: RunningPlatform) -> float:
    text = requests.get(f"{platform.url}/metrics", timeout=10).text
    counts = re.findall(r'^model_request_operations_total\{model="iris.onnx",status="200"\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, counts))
