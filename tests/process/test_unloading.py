"""A version on its way out still keeps what it owes."""

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
