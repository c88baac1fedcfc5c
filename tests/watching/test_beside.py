"""`mlbuffet up` with Prometheus: started when predictions are answered, ended with the platform, missed by nobody."""

import os
import signal
import socket
from pathlib import Path

import pytest
import requests

from mlbuffet.watching import Watch
from tests.harness.platform import free_port, wait_until
from tests.harness.programs import required
from tests.process.test_up import Up, running_up

SERVICES = {"inferrer": 1, "modelhost": 2}


def up(port: int) -> dict[str, int]:
    """How many targets of each job answer."""
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5)
        answer.raise_for_status()
    except requests.RequestException:
        return {}
    jobs = [target["labels"]["job"] for target in answer.json()["data"]["activeTargets"] if target["health"] == "up"]
    return {job: jobs.count(job) for job in SERVICES}


def prometheus_of(platform: Up) -> set[int]:
    return platform.children("prometheus")


def test_every_service_is_watched_also_where_it_was_started_again(tmp_path: Path) -> None:
    required("prometheus")
    port = free_port()
    with running_up(tmp_path, "--metrics", "--metrics-port", port) as platform:
        platform.wait_ready()
        wait_until(lambda: f"Prometheus at http://127.0.0.1:{port}/alerts" in platform.log, what="word of it")
        wait_until(lambda: up(port) == SERVICES, 60, "every service being watched")
        (modelhost,) = platform.children("modelhost-1")
        os.kill(modelhost, signal.SIGKILL)
        wait_until(lambda: len(platform.children("modelhost-1") - {modelhost}) == 1, 30, "another one")
        wait_until(
            lambda: platform.log.count("modelhost started") == 3 and up(port) == SERVICES, 60, "it being watched"
        )
        (before,) = prometheus_of(platform)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: prometheus_of(platform) - {before}, 30, "another Prometheus")
    assert (tmp_path / "repository.metrics" / "wal").is_dir(), "what it collected stays"


def test_the_platform_works_without_it(tmp_path: Path) -> None:
    required("prometheus")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with running_up(tmp_path, "--metrics", "--metrics-port", taken.getsockname()[1]) as platform:
            platform.wait_ready()
            wait_until(lambda: "nobody watches: port" in platform.log, what="word of it")
            assert not prometheus_of(platform)


def test_where_it_is_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Watch(tmp_path, free_port()).fault() == "Prometheus is not installed"
