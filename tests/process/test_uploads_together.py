"""Uploads, deletes and predictions at the same time: rows U11, U12, U13 and U21, and what unloading gives back."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.harness import onnx_models
from tests.harness.faults import held, runner_of
from tests.harness.invariants import pss_bytes, unharmed, usage
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.truth import Readers, Truth, mixed_answers, put_described

SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
NAME = "moving.onnx"


def _delete(platform: RunningPlatform, name: str) -> None:
    assert requests.delete(platform.path(name), timeout=20).status_code == 200


def test_u11_parallel_uploads_of_one_name(shared_platform: RunningPlatform) -> None:
    together, rounds = (50, 10) if SOAK else (16, 2)
    with unharmed(shared_platform):
        for turn in range(rounds):
            models = [onnx_models.constant(100 * turn + number) for number in range(together)]
            with ThreadPoolExecutor(together) as pool:
                answers = list(pool.map(lambda data: shared_platform.put(NAME, data), models))
            made = [item.json()["version"] for item in answers if item.status_code == 201]
            assert made
            refused = {item.json()["error"]["code"] for item in answers if item.status_code != 201}
            assert refused <= {"MODEL_BUSY"}
            assert sorted(made) == list(range(min(made), min(made) + len(made)))  # ordered, each once
            final = requests.get(shared_platform.path(f"{NAME}/download"), timeout=20)
            newest = next(
                data for data, item in zip(models, answers, strict=True) if item.json().get("version") == max(made)
            )
            assert final.content == newest
        _delete(shared_platform, NAME)


def test_u12_no_mixed_answer_while_versions_change(shared_platform: RunningPlatform) -> None:
    versions, clients = (500, 64) if SOAK else (30, 12)
    with unharmed(shared_platform):
        assert not mixed_answers(shared_platform, NAME, versions, clients)
        _delete(shared_platform, NAME)


def test_u12_no_mixed_answer_while_the_default_flips_back_and_forth(shared_platform: RunningPlatform) -> None:
    truth, rng = Truth(), random.Random(12)  # noqa: S311 - repeatable
    with unharmed(shared_platform):
        for value in (1, 2, 3):
            truth.begin(value)
            assert put_described(shared_platform, NAME, value).status_code == 201
            truth.acknowledged()
        readers = Readers(shared_platform, NAME, truth, 12)
        ends_at = time.monotonic() + (60 if SOAK else 5)
        while time.monotonic() < ends_at:
            value = rng.randint(1, 3)
            truth.begin(value)
            response = requests.post(f"{shared_platform.path(NAME)}/default", json={"default": value}, timeout=30)
            assert response.status_code == 200, response.text
            truth.acknowledged()
            time.sleep(rng.choice([0, 0.05, 0.4, 1.1]))  # around the time after which a superseded version leaves
        readers.stop()
        assert not readers.wrong
        _delete(shared_platform, NAME)


def _steps(platform: RunningPlatform, wanted_s: float) -> int:
    """How many steps of the slow model take that long here."""
    steps = 50_000
    while True:
        started = time.monotonic()
        assert platform.predict("slow.onnx", [steps]).status_code == 200
        took = time.monotonic() - started
        if took > wanted_s / 4:
            return int(steps * wanted_s / took)
        steps *= 2


def _runners(platform: RunningPlatform) -> int:
    return sum(item.role == "modelhost runner" for item in usage(platform).values())


def test_u13_delete_lets_requests_in_flight_end(shared_platform: RunningPlatform) -> None:
    together, run_s = (100, 2.0) if SOAK else (20, 0.4)
    deadline = {"X-Request-Timeout-Ms": "600000" if SOAK else "60000"}
    with unharmed(shared_platform):
        runners = _runners(shared_platform)
        assert shared_platform.put("slow.onnx", onnx_models.slow()).status_code == 201
        steps = _steps(shared_platform, run_s)
        url = f"{shared_platform.path('slow.onnx')}/prediction"

        def ask(_: int) -> requests.Response:
            return requests.post(url, json={"values": [steps]}, headers=deadline, timeout=600)

        def all_in_flight() -> bool:
            return shared_platform.metric("predictions_in_flight") == together

        with ThreadPoolExecutor(together) as pool:
            with held(*[runner_of(shared_platform, host, "slow.onnx") for host in ("modelhost-1", "modelhost-2")]):
                futures = [pool.submit(ask, number) for number in range(together)]
                wait_until(all_in_flight, what="the requests being in flight")
            _delete(shared_platform, "slow.onnx")
            assert requests.get(shared_platform.path("slow.onnx"), timeout=5).status_code == 404
            assert shared_platform.predict("slow.onnx", [1]).status_code == 404
            statuses = [future.result().status_code for future in futures]
        assert statuses == [200] * together
        wait_until(lambda: _runners(shared_platform) == runners, 20, "the runner processes being gone")


def test_unloading_returns_memory(platform: RunningPlatform) -> None:
    large = 48 << 20
    with unharmed(platform):
        before = pss_bytes(platform)
        assert platform.put("large.onnx", onnx_models.constant(1, padding_bytes=large)).status_code == 201
        assert pss_bytes(platform) - before > 2 * large  # one runner on each of two modelhosts
        _delete(platform, "large.onnx")
        wait_until(lambda: pss_bytes(platform) - before < 16 << 20, 20, "the memory being given back")


def test_the_whole_platform_takes_less_than_400_mb(platform: RunningPlatform) -> None:
    with unharmed(platform):
        assert len(platform.names()) == 5
        assert pss_bytes(platform) < 400_000_000


def _inodes(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


@pytest.mark.parametrize("count", [10_000 if SOAK else 100])
def test_u21_many_models_stored_listed_and_deleted(tmp_path: Path, count: int) -> None:
    settings = {"MODELHOST_MEMORY_BYTES": str(60 << 20)}  # for a small part of them
    names = [f"many-{number:05}.onnx" for number in range(count)]
    with (
        running_platform(tmp_path / "repository", environment=settings) as platform,
        unharmed(platform, resources=False),
    ):
        samples, inodes = platform.names(), _inodes(platform.repository)
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(
                lambda item: platform.put(item[1], onnx_models.constant(item[0])).status_code, enumerate(names)
            )
            assert set(answers) == {201}
        listed, after = [], ""
        while True:
            started = time.monotonic()
            page = requests.get(f"{platform.url}/api/v1/models", params={"limit": "30", "after": after}, timeout=5)
            assert time.monotonic() - started < 1
            listed += page.json()["model_list"]
            if "next" not in page.json():
                break
            after = page.json()["next"]
        assert listed == sorted([*samples, *names])
        for number in range(0, count, count // 20):  # most of them are not loaded now
            assert platform.predict(names[number], [0]).json()["values"] == [[float(number)]]
        assert _runners(platform) < 60
        with ThreadPoolExecutor(4) as pool:
            statuses = pool.map(lambda name: requests.delete(platform.path(name), timeout=30).status_code, names)
            assert set(statuses) == {200}
        assert platform.names() == samples
        wait_until(lambda: _inodes(platform.repository) == inodes, what="all files being gone")
        wait_until(lambda: _runners(platform) <= 2 * len(samples), what="the runners being gone")
