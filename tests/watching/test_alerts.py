"""Row O08: each fault of the list is done to a running platform, and its alert fires within a minute and clears."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import orjson
import pytest
import trustme

from tests.harness.faults import again_and_again, filled, held, plant_version, read_only, runner_of, volume
from tests.harness.load import Load
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, copy_samples, wait_until
from tests.harness.tls import MODELHOST, write_certificate
from tests.harness.watched import Prometheus, docker_engine
from tests.harness.zoo import fragile, lethal
from tests.watching.test_rules import ALERTS

FIRES_S = 60.0
CLEARS_S = 180.0
WELL, GONE, HUNG = "modelhost-1", "modelhost-2", "modelhost-3"
VOLUME_BYTES = 64 << 20
CRASH = [-1]


class Watched(RunningPlatform):
    """Three modelhosts, a trainer without runs, and certificates, over a small volume."""

    def __init__(self, repository: Path, folder: Path) -> None:
        super().__init__(repository, modelhosts=3, workers=1, environment={"MODELHOST_QUEUE": "16"})
        self.engine = folder / "docker.sock"
        self.certificates = folder / "tls"
        self._authority = trustme.CA()
        self.certify(timedelta(days=90))
        self.settings[WELL] |= {"MODELHOST_TLS_FOLDER": str(self.certificates)}
        self.settings["trainer"] = {
            "TRAINER_CHANNEL": f"unix:{self.folder}/trainer.sock",
            "TRAINER_PORT": "0",
            "TRAINER_FOLDER": str(folder / "training"),
            "TRAINER_ENGINES": f"unix://{self.engine}=1",
        }

    def certify(self, lasts: timedelta) -> None:
        """Give the first modelhost a certificate that lasts so long."""
        write_certificate(self.certificates, self._authority, MODELHOST, until=datetime.now(UTC) + lasts)


class Clock:
    """When each alert was seen first, in seconds since a moment."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._began = time.monotonic()
        self.seen: dict[str, float] = {}

    def all_fire(self, names: set[str]) -> bool:
        """Look; tells whether all of them have fired."""
        for name in self._prometheus.firing() - self.seen.keys():
            self.seen[name] = time.monotonic() - self._began
        return names <= self.seen.keys()

    def none_fires(self, names: set[str]) -> bool:
        """Look; tells whether none of them fires any more."""
        for name in names - self._prometheus.firing() - self.seen.keys():
            self.seen[name] = time.monotonic() - self._began
        return names <= self.seen.keys()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Prometheus]]:
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        repository = stack.enter_context(volume(folder / "volume", VOLUME_BYTES)) / "repository"
        repository.mkdir()
        copy_samples(repository)
        platform = stack.enter_context(Watched(repository, folder))
        for name in ("fragile", "doomed"):
            platform.put(name, fragile() if name == "fragile" else constant(1)).raise_for_status()
        prometheus = stack.enter_context(Prometheus(platform, folder / "prometheus"))
        yield platform, prometheus


def hold_back(platform: Watched, stop: threading.Event) -> None:
    """Have two models hang for a moment: the few requests for one are slow, of the many for the other some refused."""
    runners = [runner_of(platform, WELL, model) for model in ("iris.onnx", "wine.onnx")]
    with ThreadPoolExecutor(44) as threads, held(*runners):
        for _ in range(4):
            threads.submit(platform.predict, "iris.onnx", [2, 5, 1, 4])
        for _ in range(40):
            threads.submit(platform.predict, "wine.onnx", [1.0] * 13)
        stop.wait(1.5)


def crash(platform: Watched, stop: threading.Event) -> None:
    """Send a request that ends its runner, and is then refused."""
    platform.predict("fragile", CRASH)
    stop.wait(0.2)


def test_o08_each_fault_raises_its_alert_within_a_minute_and_the_alert_clears(
    watched: tuple[Watched, Prometheus],
) -> None:
    platform, prometheus = watched
    with docker_engine(platform.engine):
        wait_until(lambda: prometheus.value("count_over_time(modelhosts:up:sum[1h]) > 8") or 0, 90, "a while of peace")
        wait_until(lambda: prometheus.value("modelhosts:up:sum") == 3, 60, "three modelhosts")
        wait_until(lambda: not prometheus.firing(), 90, "nothing being wrong")
    fired = Clock(prometheus)
    at_once = set(ALERTS) - {"RepositoryUnwritable"}
    with ExitStack() as faults:
        plant_version(platform, "doomed", lethal())
        platform.certify(timedelta(days=3))
        faults.enter_context(held(platform.processes[HUNG].pid))
        platform.kill(GONE)
        with filled(platform.repository, free_bytes=VOLUME_BYTES // 50):
            faults.enter_context(again_and_again(partial(hold_back, platform)))
            faults.enter_context(again_and_again(partial(crash, platform)))
            wait_until(
                lambda: fired.all_fire(at_once), FIRES_S, lambda: f"all of {at_once}, and not only {fired.seen},"
            )
        later = Clock(prometheus)
        with read_only(platform.repository.parent):
            wait_until(lambda: later.all_fire({"RepositoryUnwritable"}), FIRES_S, "RepositoryUnwritable")
    cleared = Clock(prometheus)
    with docker_engine(platform.engine):
        platform.start(GONE)
        platform.wait_ready(60)
        prometheus.note(GONE)
        platform.certify(timedelta(days=90))
        platform.put("doomed", constant(2)).raise_for_status()
        wait_until(
            lambda: cleared.none_fires(set(ALERTS)),
            CLEARS_S,
            lambda: f"all of {set(ALERTS)} ending, and not only {cleared.seen},",
        )
        wait_until(lambda: not prometheus.firing(), CLEARS_S, "nothing being wrong any more")
    fired.seen |= {"RepositoryUnwritable": later.seen["RepositoryUnwritable"]}
    for name in sorted(ALERTS):
        print(f"{name}: fired after {fired.seen[name]:.0f} s, cleared after {cleared.seen[name]:.0f} s")  # noqa: T201 - figures


def test_l17_predictions_do_not_notice_that_prometheus_is_gone(watched: tuple[Watched, Prometheus]) -> None:
    platform, prometheus = watched
    with Load(platform.port, "iris.onnx", orjson.dumps({"values": [2, 5, 1, 4]}), clients=4) as load:
        load.wait_for(500)
        prometheus.stop()
        load.wait_for(2000)
        prometheus.start()
        wait_until(lambda: prometheus.value('sum(up{job="inferrer"})') == 1, 60, "metrics again")
    assert not load.failures()
    assert (prometheus.value("count_over_time(modelhosts:up:sum[1h])") or 0) > 8, "what was collected before is there"
