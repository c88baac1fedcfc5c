"""Rows L02, L04, L05, L07, L08 and L16: modelhosts that die, lie, dawdle or cannot be reached, behind our proxies."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import requests

from mlbuffet.channel import Kind
from tests.harness.invariants import POOL_THREADS, unharmed, usage
from tests.harness.load import Load
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.proxy import (
    CutError,
    Faults,
    Frame,
    Proxy,
    Rewrite,
    internal,
    no_frame,
    proxied_platform,
    truncated,
)

pytestmark = pytest.mark.alone
SOAK = os.environ.get("MLBUFFET_SOAK") == "1"
EJECTED_S = 2.0 if SOAK else 4.0  # the row says 2; a shared machine needs more
IRIS = '{"values": [2, 5, 1, 4]}'
WORKERS = 2
Proxied = tuple[RunningPlatform, list[Proxy]]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("proxied")
    environment = {"INFERRER_TIMEOUT_S": "5"}
    with proxied_platform(folder / "repository", workers=WORKERS, environment=environment) as (platform, proxies):
        yield platform, proxies


def load(platform: RunningPlatform, body: str = IRIS) -> Load:
    """Some hundred predictions a second, by clients that do not retry."""
    return Load(platform.port, "iris.onnx", body.encode(), clients=8, pause_s=0.04)


def few_failed(run: Load) -> bool:
    """Tell whether no more than one request in a thousand failed."""
    return sum(run.failures().values()) <= run.outcomes.total() / 1000


def pause(seconds: float) -> None:
    """Let a load go on."""
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > ends_at, seconds + 5)


def ejections(platform: RunningPlatform, since: float) -> dict[int, float]:
    """When each inferrer process first ejected a modelhost after a moment, in seconds from it."""
    found: dict[int, float] = {}
    for record in platform.records():
        after_s = datetime.fromisoformat(record["time"]).timestamp() - since
        if record["event"] == "modelhost ejected" and after_s >= -0.001:
            found.setdefault(record["pid"], after_s)
    return found


def ejected_so_far(platform: RunningPlatform) -> int:
    """How often a modelhost was ejected by any inferrer process."""
    return sum(record["event"] == "modelhost ejected" for record in platform.records())


def ready_hosts(platform: RunningPlatform) -> int:
    """How many modelhosts are ready in the eyes of the inferrer process that sees the fewest."""
    seen: list[list[dict[str, bool]]] = [
        requests.get(platform.path("iris.onnx"), timeout=5).json()["modelhosts"] for _ in range(12)
    ]
    return min(sum(host["ready"] for host in hosts) for hosts in seen)


def threads_are_bounded(platform: RunningPlatform) -> bool:
    """Tell whether no inferrer process has more threads than its pools."""
    return all(item.threads <= POOL_THREADS["inferrer"] for item in usage(platform).values() if item.role == "inferrer")


# One modelhost is bad -------------------------------------------------------------------------------------------------

WIRE = {
    "latency of 2 s": Faults(latency_s=2),
    "1 KB/s": Faults(bytes_per_s=1000),
    "half-open": Faults(swallow=True),
}
LIES = {
    "INTERNAL": Faults(rewrite=internal),
    "truncated": Faults(rewrite=truncated),
    "no frame": Faults(rewrite=no_frame),
    "5 s late": Faults(latency_s=5),
}


def check_one_bad(platform: RunningPlatform, proxy: Proxy, faults: Faults, workers: int, body: str = IRIS) -> None:
    """One modelhost is bad for a while: so many processes eject it, hardly anybody notices, and it comes back."""
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    with unharmed(platform):
        try:
            with load(platform, body) as run:
                pause(0.5)
                began = time.time()
                proxy.faults = faults
                wait_until(lambda: len(ejections(platform, began)) >= workers, 20, "its being ejected")
                pause(30 if SOAK else 1)
                assert threads_are_bounded(platform)
        finally:
            proxy.faults = Faults()
            proxy.reset()  # what it still holds back is not waited for
        assert max(ejections(platform, began).values()) < EJECTED_S
        assert few_failed(run), run.failures()
        wait_until(lambda: ready_hosts(platform) == 3, 60, "its being readmitted")


@pytest.mark.parametrize("fault", WIRE)
def test_l08_a_modelhost_that_is_slow_or_cut_off_is_ejected(fault: str, proxied: Proxied) -> None:
    platform, proxies = proxied
    # Small requests that take their time are little of a burden: choosing by what is in flight sees to that.
    body = f'{{"values": [{"[2, 5, 1, 4], " * 100}[2, 5, 1, 4]]}}' if fault == "1 KB/s" else IRIS
    check_one_bad(platform, proxies[list(WIRE).index(fault)], WIRE[fault], WORKERS, body)


@pytest.mark.parametrize("lie", LIES)
def test_l04_a_modelhost_that_answers_wrongly_is_ejected(lie: str, proxied: Proxied) -> None:
    platform, proxies = proxied
    # A lie is found out by who is told it; all of the load may have come to one process.
    check_one_bad(platform, proxies[list(LIES).index(lie) % 3], LIES[lie], 1)


@pytest.mark.parametrize(
    "faults",
    [Faults(slice_bytes=7), Faults(cut_after=20_000), Faults(latency_s=0.05, jitter_s=0.05)],
    ids=["sliced", "cut again and again", "a far modelhost"],
)
def test_l08_what_can_be_lived_with_costs_nobody_an_answer(faults: Faults, proxied: Proxied) -> None:
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    before = proxies[2].passed["PREDICT"]
    with unharmed(platform):
        try:
            proxies[2].faults = faults
            with load(platform) as run:
                pause(30 if SOAK else 2)
                # Whoever is cut off in its turn may have to wait for the next one.
                wait_until(lambda: proxies[2].passed["PREDICT"] > before + 10, 20, "its being used all the same")
        finally:
            proxies[2].faults = Faults()
        assert few_failed(run), run.failures()
        wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready again")


def test_l08_resets_cost_nobody_an_answer(proxied: Proxied) -> None:
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    accepted = sum(proxy.accepted for proxy in proxies)
    with unharmed(platform):
        with load(platform) as run:
            for proxy in proxies:
                pause(0.5)
                proxy.reset()
                wait_until(lambda: ready_hosts(platform) == 3, 10, "the connections being there again")
        assert few_failed(run), run.failures()
    assert sum(proxy.accepted for proxy in proxies) == accepted + len(proxies) * WORKERS


# Most or all are bad --------------------------------------------------------------------------------------------------


@pytest.fixture
def cornered(tmp_path: Path) -> Iterator[Proxied]:
    """A platform without a past, so that nobody is out for long."""
    environment = {"INFERRER_TIMEOUT_S": "5"}
    with proxied_platform(tmp_path / "repository", workers=1, environment=environment) as (platform, proxies):
        yield platform, proxies


def test_l05_with_two_of_three_bad_the_last_one_serves(cornered: Proxied) -> None:
    platform, proxies = cornered
    proxies[0].faults = Faults(rewrite=internal)
    proxies[1].faults = Faults(swallow=True)
    with load(platform) as run:
        wait_until(lambda: ready_hosts(platform) == 1, 20, "only the sound one being used")
    assert sum(run.failures().values()) < 10, run.failures()  # whoever met both of them
    out_before = ejected_so_far(platform)
    with load(platform) as run:
        pause(0.5)
    # On a slow machine the liar may be tried anew meanwhile, when all that may be sent twice has been: whoever is sent
    # there before it is out again is told the lie.
    assert sum(run.failures().values()) <= 2 * (ejected_so_far(platform) - out_before), run.failures()
    for proxy in proxies:
        proxy.faults = Faults()
        proxy.reset()  # what was swallowed does not come any more
    wait_until(lambda: ready_hosts(platform) == 3, 60, "all being used again")


def test_l05_the_last_one_is_limited_by_its_queue(tmp_path: Path) -> None:
    environment = {"MODELHOST_QUEUE": "2"}
    with proxied_platform(tmp_path / "repository", workers=1, environment=environment) as (platform, proxies):
        proxies[0].faults = proxies[1].faults = Faults(swallow=True)
        wait_until(lambda: ready_hosts(platform) == 1, 20, "only the sound one being used")
        before = [proxy.passed["PREDICT"] for proxy in proxies]
        with Load(platform.port, "iris.onnx", IRIS.encode(), clients=12) as closed:
            closed.wait_for(300)
        refused = {outcome for outcome in closed.failures() if not outcome.startswith("503")}
        assert not refused, refused
        assert any("QUEUE_FULL" in outcome for outcome in closed.failures()), closed.outcomes
        assert [proxy.passed["PREDICT"] for proxy in proxies[:2]] == before[:2], "nobody asks the bad ones"
        assert proxies[2].passed["PREDICT"] - before[2] == closed.outcomes.total(), "and nobody asks twice"


def test_l05_panic_when_all_lie_all_are_used_and_the_answers_say_so(cornered: Proxied) -> None:
    platform, proxies = cornered
    for proxy in proxies:
        proxy.faults = Faults(rewrite=internal)
    for _ in range(60):
        answer = platform.predict("iris.onnx", [2, 5, 1, 4])
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL")
    assert requests.get(f"{platform.url}/health/ready", timeout=5).status_code == 200
    assert ready_hosts(platform) >= 1
    for proxy in proxies:
        proxy.faults = Faults()
    answers = [platform.predict("iris.onnx", [2, 5, 1, 4]).status_code for _ in range(30)]
    assert answers == [200] * 30, "nobody waits for an ejection to end"


def test_l05_panic_when_all_are_silent_their_answers_are_waited_for(cornered: Proxied) -> None:
    platform, proxies = cornered
    with load(platform) as run:
        for proxy in proxies:
            proxy.faults = Faults(latency_s=1.5)
        wait_until(lambda: ready_hosts(platform) == 0, 20, "nobody being ready")
        assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
        assert requests.get(f"{platform.url}/health/ready", timeout=5).status_code == 200
        for proxy in proxies:
            proxy.faults = Faults()
    assert not run.failures()


# Nothing is sent twice that must not be -------------------------------------------------------------------------------


class Once:
    """Cuts one connection at the first frame that it is meant for, and lets everything else pass."""

    def __init__(self, kind: int, *, upward: bool, key: bytes = b"", share: float = 0) -> None:
        """Cut when that share of the frame's bytes has been passed on."""
        self._wanted = (kind, upward)
        self._key = key
        self._share = share
        self.cuts = 0

    def __call__(self, frame: Frame) -> bytes:
        """Pass a frame on, or cut."""
        if self.cuts or (frame.kind, frame.upward) != self._wanted or not frame.key.startswith(self._key):
            return frame.encoded()
        self.cuts += 1
        data = frame.encoded()
        raise CutError(data[: int(len(data) * self._share)])


def cut_once(proxies: list[Proxy], make: Callable[[], Rewrite]) -> None:
    """The first such frame, wherever it comes along, ends its connection."""
    rewrite = make()
    for proxy in proxies:
        proxy.faults = Faults(rewrite=rewrite)


PLACES = {
    "before the request": lambda: Once(Kind.PREDICT, upward=True),
    "in the request": lambda: Once(Kind.PREDICT, upward=True, share=0.5),
    "after the request": lambda: Once(Kind.PREDICT, upward=True, share=1),
    "before the answer": lambda: Once(Kind.REPLY, upward=False),
    "in the answer": lambda: Once(Kind.REPLY, upward=False, share=0.7),
}


@pytest.mark.parametrize("place", PLACES)
def test_l07_a_prediction_is_sent_once_more_and_no_more(place: str, proxied: Proxied) -> None:
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    before = sum(proxy.passed["PREDICT"] for proxy in proxies)
    once = PLACES[place]()
    try:
        cut_once(proxies, lambda: once)
        answer = platform.predict("iris.onnx", [2, 5, 1, 4])
    finally:
        for proxy in proxies:
            proxy.faults = Faults()
    assert answer.status_code == 200
    assert once.cuts == 1
    assert 1 <= sum(proxy.passed["PREDICT"] for proxy in proxies) - before <= 2


@pytest.mark.parametrize("upward", [True, False], ids=["after the request", "before the answer"])
def test_l07_an_upload_is_never_sent_again(upward: bool, proxied: Proxied) -> None:  # noqa: FBT001 - a parameter
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    before = sum(proxy.passed["CALL check"] for proxy in proxies)
    once = Once(Kind.CALL, upward=True, key=b"check", share=1) if upward else Once(Kind.REPLY, upward=False)
    with unharmed(platform):
        try:
            cut_once(proxies, lambda: once)
            answer = platform.put("cut", constant(7))
        finally:
            for proxy in proxies:
                proxy.faults = Faults()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "MODELHOST_LOST")
        # What is cut in the middle of its frame is not counted as passed.
        assert sum(proxy.passed["CALL check"] for proxy in proxies) - before <= 1
        wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")


def test_l07_a_delete_asks_no_modelhost(proxied: Proxied) -> None:
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    assert platform.put("short-lived", constant(7)).status_code == 201
    before = [Counter(proxy.passed) for proxy in proxies]
    once = Once(Kind.CALL, upward=True)
    cut_once(proxies, lambda: once)
    answer = requests.delete(platform.path("short-lived"), timeout=10)
    for proxy in proxies:
        proxy.faults = Faults()
    assert answer.status_code in {200, 204}
    assert not once.cuts
    calls = [proxy.passed - counted for proxy, counted in zip(proxies, before, strict=True)]
    assert not any(name.startswith("CALL") for counted in calls for name in counted)


# They die, and the wire is bad ----------------------------------------------------------------------------------------


def test_l16_delays_and_dropped_connections_cost_nobody_an_answer(proxied: Proxied) -> None:
    platform, proxies = proxied
    wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")
    with unharmed(platform):
        try:
            for proxy in proxies:
                proxy.faults = Faults(jitter_s=0.1, drop_share=0.05)
            with load(platform) as run:
                for proxy in proxies:
                    pause(20 if SOAK else 1)
                    proxy.reset()  # chance alone may drop none
                pause(1)
        finally:
            for proxy in proxies:
                proxy.faults = Faults()
        allowed = max(run.outcomes.total() // 10_000, 1)  # two losses in a row are rare, but chance
        assert sum(run.failures().values()) <= allowed, run.failures()
        wait_until(lambda: ready_hosts(platform) == 3, 40, "all being ready")


def test_l02_killing_modelhosts_at_random_costs_nobody_an_answer(tmp_path: Path) -> None:
    rng = random.Random(2)  # noqa: S311 - repeatable
    with running_platform(tmp_path / "repository", modelhosts=3, workers=WORKERS) as platform:
        restarts = []
        with load(platform) as run:
            for _ in range(60 if SOAK else 3):
                pause(9 if SOAK else rng.uniform(0.3, 1))
                name = f"modelhost-{rng.randint(1, 3)}"
                platform.kill(name)
                began = time.monotonic()
                platform.start(name)
                wait_until(lambda: ready_hosts(platform) == 3, 30, f"{name} being used again")
                restarts.append(time.monotonic() - began)
        assert not run.failures()
        assert max(restarts) < (5 if SOAK else 20), restarts
