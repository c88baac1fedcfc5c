"""Row L15: the wall clock of one service jumps while all is in use; what waits, waits by the monotonic clock."""

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import requests

from tests.harness.clock import Clock
from tests.harness.faults import kill
from tests.harness.invariants import leftovers, unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, copy_samples, wait_until
from tests.harness.upload_client import RawClient

DAY_S = 86_400
JUMPS_S = (DAY_S, -DAY_S, 0)
SMEAR_S = [number / 10 for number in range(11)]  # a leap second, spread
IRIS = b'{"values": [7.0, 3.2, 4.7, 1.4]}'


@pytest.fixture
def clocks() -> dict[str, Clock]:
    return {}


@pytest.fixture
def timed(tmp_path: Path, clocks: dict[str, Clock]) -> Iterator[RunningPlatform]:
    """A platform each of whose services has a clock of its own."""
    repository = tmp_path / "repository"
    repository.mkdir()
    copy_samples(repository)
    platform = RunningPlatform(repository, environment={"INFERRER_SWEEP_S": "0.5"})
    for name, settings in platform.settings.items():
        clocks[name] = Clock(tmp_path / f"clock-{name}")
        settings.update(clocks[name].environment)
    with platform:
        yield platform


def use(platform: RunningPlatform, load: Load) -> None:
    """Whatever keeps a time somewhere: predictions, deadlines, locks, uploads, heartbeats."""
    load.wait_for(200)
    assert platform.put("timed", constant(1)).status_code == 201
    timed_out = platform.predict("iris.onnx", [7.0, 3.2, 4.7, 1.4], **{"X-Request-Timeout-Ms": "20000"})
    assert timed_out.status_code == 200
    assert requests.delete(platform.path("timed"), timeout=20).status_code == 200
    platform.wait_ready()


@pytest.mark.parametrize("service", ["inferrer", "modelhost-1"])
def test_l15_a_clock_that_jumps_harms_nothing(timed: RunningPlatform, clocks: dict[str, Clock], service: str) -> None:
    model = constant(2, padding_bytes=1 << 20)
    with unharmed(timed), Load(timed.port, "iris.onnx", IRIS, clients=2) as load, RawClient(timed) as upload:
        upload.put("slowly", len(model))
        upload.send(model[:1000])
        for shift_s in (*JUMPS_S, *SMEAR_S):
            clocks[service].shift(shift_s)
            if shift_s in JUMPS_S:
                use(timed, load)
        upload.send(model[1000:])
        assert upload.answer()[0] == 201, "an upload that was under way all the time"
        assert requests.delete(timed.path("slowly"), timeout=20).status_code == 200
    assert load.failures() == {}


def test_l15_the_clock_does_jump_and_records_say_so(timed: RunningPlatform, clocks: dict[str, Clock]) -> None:
    clocks["inferrer"].shift(-DAY_S)

    def is_of_yesterday() -> bool:
        date = requests.get(timed.url, timeout=5).headers["Date"]
        return abs(parsedate_to_datetime(date).timestamp() - time.time() + DAY_S) < 60

    wait_until(is_of_yesterday, what="the other clock in an answer's Date")
    assert requests.get(timed.path("nobody"), timeout=5).status_code == 404
    (failed,) = [record for record in timed.records() if record["event"] == "request failed"]
    assert abs(failed["clock_shift_s"] + DAY_S) < 60


def test_l15_leftovers_are_swept_whatever_the_clock_says(timed: RunningPlatform, clocks: dict[str, Clock]) -> None:
    with RawClient(timed) as client:
        client.put("cut.onnx", 1 << 20)
        client.send(bytes(1 << 19))
        wait_until(timed.staged, what="the upload being written")
        clocks["inferrer"].shift(-DAY_S)
        for worker in timed.children("inferrer"):
            kill(worker)
    wait_until(lambda: not leftovers(timed.repository), 20, "the leftovers being gone")
