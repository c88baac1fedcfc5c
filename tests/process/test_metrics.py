"""Row O04 and what the metrics promise: true over kills of workers, whole for Prometheus, small with many models."""

import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.harness.faults import is_alive
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.programs import required
from tests.harness.samples import Samples, exposition, parsed, total

REQUESTS, THREADS, KILLS = 10_000, 4, 12
ROUTE = "/api/v1/models/<name>/prediction"
IRIS = "/api/v1/models/iris.onnx/prediction"
# Path, body, and what it is answered; two by the lane, two by Flask.
KNOWN = (
    (IRIS, {"values": [2, 5, 1, 4]}, 200),
    (IRIS, {"values": ["a", 5, 1, 4]}, 400),
    ("/api/v1/models/nobody/prediction", {"values": [1]}, 404),
    (f"{IRIS}?by=Flask", {"values": [2, 5, 1, 4]}, 200),
)
WEIGHTS = (85, 5, 5, 5)


class Client:
    """Asks what has a known answer, on one connection; counts what was answered, and what was cut off."""

    def __init__(self, platform: RunningPlatform, seed: int, count: int, enough: threading.Event) -> None:
        """Ask so often at least, and until it is `enough`."""
        self.known: Counter[tuple[str, int]] = Counter()
        self.cut: Counter[tuple[str, int]] = Counter()
        self.wrong: list[object] = []
        self._platform = platform
        self._rng = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._count = count
        self._enough = enough
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._platform.port, timeout=60)
        while self.known.total() < self._count or not self._enough.is_set():
            ((path, body, status),) = self._rng.choices(KNOWN, WEIGHTS)
            model = "iris.onnx" if "iris" in path else ""
            while True:  # until it is answered
                try:
                    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    answer.read()
                    break
                except (OSError, http.client.HTTPException):
                    self.cut[model, status] += 1
                    connection.close()
            self.known[model, status] += 1
            if answer.status != status:
                self.wrong.append((path, body, answer.status))
        connection.close()


class Watcher:
    """Scrapes all the while: no counter ever falls."""

    def __init__(self, platform: RunningPlatform) -> None:
        self.fallen: list[object] = []
        self.scrapes = 0
        self._platform = platform
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        before: Samples = {}
        while not self._ended.wait(0.05):
            try:
                samples, growing = parsed(exposition(self._platform))
            except requests.RequestException:
                continue  # the worker that was asked was killed
            self.scrapes += 1
            now = {key: value for key, value in samples.items() if key[0] in growing}
            self.fallen += [key for key, value in before.items() if now.get(key, -1) < value]
            before = now

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()


def starts(platform: RunningPlatform) -> float:
    """How many workers have begun to answer so far."""
    return wait_until(lambda: _starts(platform), 20, "somebody to ask")


def _starts(platform: RunningPlatform) -> float:
    try:
        return total(parsed(exposition(platform))[0], "process_starts_total")
    except requests.RequestException:
        return 0


def replace_one(platform: RunningPlatform, number: signal.Signals, rng: random.Random) -> None:
    """End a worker, and wait until another one answers."""
    begun = starts(platform)
    victim = rng.choice(platform.children("inferrer"))
    os.kill(victim, number)
    wait_until(lambda: not is_alive(victim), 40, "its end")
    wait_until(lambda: starts(platform) == begun + 1, 40, "another worker")


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform whose counters outlive it."""
    folder = tmp_path_factory.mktemp("lasting")
    (folder / "metrics").mkdir()
    environment = {"INFERRER_METRICS_FOLDER": str(folder / "metrics")}
    with running_platform(folder / "repository", modelhosts=1, environment=environment) as platform:
        yield platform


def test_counters_equal_the_truth_over_kills_and_restarts_of_workers(lasting: RunningPlatform) -> None:
    rng = random.Random(4)  # noqa: S311 - chance, not secrecy
    watcher, enough = Watcher(lasting), threading.Event()
    clients = [Client(lasting, seed, REQUESTS // THREADS, enough) for seed in range(THREADS)]
    for turn in range(KILLS):
        replace_one(lasting, signal.SIGTERM if turn % 3 == 2 else signal.SIGKILL, rng)
    enough.set()
    for client in clients:
        client.thread.join()
    watcher.stop()
    known = sum((client.known for client in clients), Counter[tuple[str, int]]())
    cut = sum((client.cut for client in clients), Counter[tuple[str, int]]())
    assert [client.wrong for client in clients] == [[]] * THREADS
    assert known.total() >= REQUESTS
    assert watcher.scrapes > KILLS
    assert watcher.fallen == []

    samples, _ = parsed(exposition(lasting))
    for (model, status), count in known.items():
        # What a kill cut off may have been counted, and its answer lost on the way: no more than that.
        counted = total(samples, "http_requests_total", route=ROUTE, model=model, status=str(status), method="POST")
        assert count <= counted <= count + cut[model, status]
    assert total(samples, "http_request_duration_seconds_count", route=ROUTE) == total(
        samples, "http_requests_total", route=ROUTE
    )
    assert cut.total() <= KILLS * THREADS
    assert total(samples, "process_starts_total") == lasting.workers + KILLS

    # What is there: two workers, with two files. Gauges of the dead are gone.
    wait_until(lambda: total(parsed(exposition(lasting))[0], "processes") == lasting.workers, 10, "both measured")
    folder = Path(lasting.environment["INFERRER_METRICS_FOLDER"])
    assert len(list(folder.glob("*.tally"))) <= lasting.workers + 1

    # A restart of the whole inferrer changes nothing either.
    before = total(samples, "model_request_operations_total", model="iris.onnx", status="200")
    lasting.restart("inferrer")
    samples, _ = parsed(exposition(lasting))
    assert total(samples, "model_request_operations_total", model="iris.onnx", status="200") == before


def test_promtool_finds_nothing_in_what_the_services_show(lasting: RunningPlatform) -> None:
    promtool = required("promtool")
    assert lasting.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    assert lasting.put("fresh.onnx", constant(1)).status_code == 201
    for service in ("inferrer", "modelhost-1"):
        text = exposition(lasting, service)
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_step_of_a_prediction_is_measured(lasting: RunningPlatform) -> None:
    for _ in range(40):
        assert lasting.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    ours, _ = parsed(exposition(lasting))
    for step in ("lane", "channel", "modelhost", "wait"):
        count = total(ours, "prediction_step_duration_seconds_count", step=step)
        assert count > 0, step
        assert 0 < total(ours, "prediction_step_duration_seconds_sum", step=step) < count * 30, step
    theirs, _ = parsed(exposition(lasting, "modelhost-1"))
    for step in ("queue", "batch", "decode", "run", "encode"):
        assert total(theirs, "modelhost_step_duration_seconds_count", step=step) > 0, step
    answered = total(theirs, "modelhost_step_duration_seconds_count", step="run")
    assert answered >= 40
    assert total(theirs, "modelhost_batch_rows_sum") == answered, "a row each"


def test_an_answer_that_was_known_is_no_step_on_the_channel(lasting: RunningPlatform) -> None:
    assert lasting.put("known.onnx", constant(4)).status_code == 201
    wanted = {"serving": {"cache": True}}
    assert requests.post(lasting.path("known.onnx"), json=wanted, timeout=30).status_code == 200
    before, _ = parsed(exposition(lasting))
    for _ in range(40):
        assert lasting.predict("known.onnx", [1]).status_code == 200
    now, _ = parsed(exposition(lasting))
    for end in ("count", "sum"):
        name = f"prediction_step_duration_seconds_{end}"
        assert 0 <= total(now, name, step="lane") - total(before, name, step="lane") < 10
    assert total(now, "prediction_cache_hits_total", model="known.onnx") >= 38


def test_uploads_are_counted_by_what_came_of_them(lasting: RunningPlatform) -> None:
    def uploads(outcome: str) -> float:
        return total(parsed(exposition(lasting))[0], "upload_duration_seconds_count", outcome=outcome)

    before = {outcome: uploads(outcome) for outcome in ("created", "unchanged", "refused")}
    received = total(parsed(exposition(lasting))[0], "upload_received_bytes_total")
    model = constant(2)
    assert lasting.put("counted.onnx", model).status_code == 201
    assert lasting.put("counted.onnx", model).status_code == 200
    assert lasting.put("counted.onnx", b"no model").status_code == 422
    assert {outcome: uploads(outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)
    now = total(parsed(exposition(lasting))[0], "upload_received_bytes_total")
    assert now - received == 2 * len(model) + len(b"no model")


def test_a_lost_modelhost_is_seen_and_its_return(lasting: RunningPlatform) -> None:
    def hosts(state: str) -> float:
        return total(parsed(exposition(lasting))[0], "modelhosts", state=state)

    wait_until(lambda: (hosts("ready"), hosts("lost")) == (1, 0), 20, "the modelhost being seen")
    lasting.kill("modelhost-1")
    wait_until(lambda: (hosts("ready"), hosts("lost")) == (0, 1), 20, "the loss being seen")
    lasting.start("modelhost-1")
    lasting.wait_ready()
    wait_until(lambda: (hosts("ready"), hosts("lost")) == (1, 0), 20, "its return being seen")


def test_what_runners_counted_stays_when_they_leave(lasting: RunningPlatform) -> None:
    def runs() -> float:
        return total(parsed(exposition(lasting, "modelhost-1"))[0], "modelhost_step_duration_seconds_count", step="run")

    assert lasting.put("leaving.onnx", constant(3)).status_code == 201
    for _ in range(5):
        assert lasting.predict("leaving.onnx", [1]).status_code == 200
    before = runs()
    assert requests.delete(lasting.path("leaving.onnx"), timeout=30).status_code == 200
    wait_until(lambda: 'model="leaving.onnx"' not in exposition(lasting, "modelhost-1"), 20, "the version having left")
    assert runs() == before
    assert 'model="leaving.onnx"' not in exposition(lasting)


MODELS = 200


def test_two_hundred_models_are_scraped_quickly(tmp_path: Path) -> None:
    names = [f"model-{number}.onnx" for number in range(MODELS)]
    (tmp_path / "repository").mkdir()
    for name in names:
        (tmp_path / "repository" / name).write_bytes(constant(1))
    with RunningPlatform(tmp_path / "repository", modelhosts=1, workers=2) as platform:
        wait_until(lambda: len(platform.names()) == MODELS, 120, "all adopted")
        for name in names:
            for path, body in (
                (f"/api/v1/models/{name}/prediction", {"values": [1]}),
                (
                    f"/v2/models/{name}/infer",
                    {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]},
                ),
            ):
                assert requests.post(platform.url + path, json=body, timeout=30).status_code == 200
        for service in ("inferrer", "modelhost-1"):
            seconds, sizes = [], []
            for _ in range(7):
                began_at = time.monotonic()
                sizes.append(len(exposition(platform, service)))
                seconds.append(time.monotonic() - began_at)
            assert exposition(platform, service).count('model="model-199.onnx"') > 5
            assert (min(seconds) <= 0.2, max(sizes) <= 1_000_000) == (True, True), (service, seconds, sizes)
