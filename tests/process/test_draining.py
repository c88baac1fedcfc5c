"""Row D08: a service that is told to end says so first, answers what it has been sent, and ends with status 0."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from mlbuffet.blocking import FrameReader
from mlbuffet.channel import Codec, Kind, encode_frame
from tests.harness.faults import is_alive
from tests.harness.grpc_client import ask, channel, method, output, raw_request
from tests.harness.invariants import GOLDEN, hosted, leftovers, modelhost_url, unharmed
from tests.harness.load import Load
from tests.harness.onnx_models import slow
from tests.harness.platform import RunningPlatform, running_platform, wait_until
from tests.harness.upload_client import RawClient
from tests.harness.zoo import zoo_platform

IRIS = json.dumps(GOLDEN).encode()
IRIS_BY_GRPC = raw_request("iris.onnx", input=np.array([GOLDEN["values"]], np.float32))
STEPS_OF_A_SECOND = 1_000_000
END_S = 60
PATIENT = {"INFERRER_DRAIN_S": "60", "MODELHOST_DRAIN_S": "60"}  # whatever else the machine does


def ended(platform: RunningPlatform, name: str) -> int:
    """The exit status of a service that has been told to end."""
    return platform.processes[name].wait(END_S)


def tell(platform: RunningPlatform, name: str, *signals: signal.Signals) -> None:
    """Send the main process of a service, as an engine does, one signal after the other."""
    for number in signals:
        os.kill(platform.processes[name].pid, number)


def is_ready(platform: RunningPlatform, route: str = "/health/ready") -> bool:
    return requests.get(platform.url + route, timeout=5).status_code == 200


def predict_on(client: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """Predict on a connection; a client of this kind never sends anything twice."""
    client.request("POST", "/api/v1/models/iris.onnx/prediction", IRIS)
    answer = client.getresponse()
    answer.read()
    return answer


def test_d08_notice_is_given_before_anything_is_closed(tmp_path: Path) -> None:
    options = {"environment": {"INFERRER_DRAIN_NOTICE_S": "60"}}
    with running_platform(tmp_path / "repository", **options) as platform, channel(platform) as opened:
        idle = [http.client.HTTPConnection("127.0.0.1", platform.port, timeout=20) for _ in range(8)]
        assert all(predict_on(client).status == 200 for client in idle)
        assert health(opened) == HealthCheckResponse.SERVING
        with Load(platform.port, "iris.onnx", IRIS, ends_refused=True) as load:
            load.wait_for(200)
            tell(platform, "inferrer", signal.SIGTERM)
            wait_until(lambda: not is_ready(platform) and not is_ready(platform), 20, "readiness failing")
            wait_until(lambda: health(opened) == HealthCheckResponse.NOT_SERVING, 20, "gRPC's being told")
            assert not is_ready(platform, "/v2/health/ready")
            assert ask(platform, "ServerReady") == {}
            tell(platform, "inferrer", signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
            load.wait_for(50)  # connections are still taken, and none outlives its answer
            answers = [predict_on(client) for client in idle]
            assert method(opened, "ModelInfer")(IRIS_BY_GRPC, timeout=10).model_name == "iris.onnx"
        assert {(answer.status, answer.getheader("Connection")) for answer in answers} == {(200, "close")}
        assert not load.failures()
        for worker in platform.children("inferrer"):
            os.kill(worker, signal.SIGTERM)  # which cuts the notice short
        assert ended(platform, "inferrer") == 0


def health(opened: Any) -> int:  # noqa: ANN401 - grpc has no types
    """What gRPC's health service says of the server."""
    check = opened.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    status: int = check(HealthCheckRequest(), timeout=10).status
    return status


def test_d08_what_is_in_flight_ends_though_signals_rain(tmp_path: Path) -> None:
    steps = np.array([STEPS_OF_A_SECOND], np.float32)
    with (
        zoo_platform(tmp_path, {"slow": slow()}, modelhosts=1, environment=PATIENT) as platform,
        channel(platform) as opened,
        ThreadPoolExecutor() as pool,
    ):
        by_http = pool.submit(platform.predict, "slow", steps.tolist())
        by_grpc = method(opened, "ModelInfer").future(raw_request("slow", x=steps), timeout=END_S)
        wait_until(lambda: in_flight(platform, "slow") == 2, what="both being under way")
        tell(platform, "inferrer", signal.SIGTERM)
        tell(platform, "inferrer", *[signal.SIGTERM, signal.SIGINT, signal.SIGQUIT] * 3)
        assert by_http.result(END_S).status_code == 200
        assert by_http.result().headers["Connection"] == "close"
        assert output(by_grpc.result(END_S), "y") == STEPS_OF_A_SECOND
        assert ended(platform, "inferrer") == 0


def in_flight(platform: RunningPlatform, model: str) -> int:
    """Requests of a model that the first modelhost has."""
    return sum(version["waiting"] for version in hosted(platform, "modelhost-1") if version["model"] == model)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_d08_workers_are_replaced_without_a_failure(platform: RunningPlatform, number: signal.Signals) -> None:
    """By the arbiter, all of them; and one that is told to end alone."""
    before = platform.children("inferrer")
    told = platform.processes["inferrer"].pid if number == signal.SIGHUP else before[0]
    leaving = before if number == signal.SIGHUP else before[:1]
    with Load(platform.port, "iris.onnx", IRIS) as load:
        load.wait_for(200)
        os.kill(told, number)
        wait_until(lambda: not any(is_alive(pid) for pid in leaving), END_S, "the old ones being gone")
        load.wait_for(200)
    assert not load.failures()
    wait_until(lambda: len(platform.children("inferrer")) == platform.workers, what="as many as before, none a zombie")


def test_d08_killed_at_the_end_of_its_grace_it_leaves_nothing_half_written(tmp_path: Path) -> None:
    options = {"environment": {"INFERRER_SWEEP_S": "1"}}
    with (
        running_platform(tmp_path / "repository", **options) as platform,
        unharmed(platform, resources=False),
        RawClient(platform) as upload,
    ):
        upload.put("half.onnx", 1 << 20)
        upload.send(b"x" * (1 << 19))
        wait_until(lambda: leftovers(platform.repository), what="the upload being under way")
        tell(platform, "inferrer", signal.SIGTERM)
        wait_until(lambda: refuses(platform), 10, "the drain")
        os.killpg(platform.processes["inferrer"].pid, signal.SIGKILL)
        assert ended(platform, "inferrer") == -signal.SIGKILL
        platform.start("inferrer")
        platform.wait_ready()
        assert "half.onnx" not in platform.names()


def refuses(platform: RunningPlatform) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", platform.port)) != 0


def test_d08_a_modelhost_leaves_without_a_failure(platform: RunningPlatform) -> None:
    runners = platform.children("modelhost-1")
    with Load(platform.port, "iris.onnx", IRIS) as load:
        load.wait_for(500)
        tell(platform, "modelhost-1", signal.SIGTERM)
        tell(platform, "modelhost-1", signal.SIGTERM, signal.SIGINT)
        assert ended(platform, "modelhost-1") == 0
        load.wait_for(200)
    assert not load.failures()
    assert not any(is_alive(pid) for pid in runners)
    lost = [record["in_flight"] for record in platform.records() if record["event"] == "modelhost lost"]
    assert lost == [0] * platform.workers, "each inferrer process had taken note before it left"


def test_d08_a_modelhost_ends_what_it_has(tmp_path: Path) -> None:
    options = {"modelhosts": 1, "environment": PATIENT}
    with zoo_platform(tmp_path, {"slow": slow()}, **options) as platform, ThreadPoolExecutor() as pool:
        answer = pool.submit(platform.predict, "slow", [STEPS_OF_A_SECOND])
        wait_until(lambda: in_flight(platform, "slow") == 1, what="it being under way")
        tell(platform, "modelhost-1", signal.SIGTERM)
        ready = f"{modelhost_url(platform, 'modelhost-1')}/health/ready"
        wait_until(lambda: requests.get(ready, timeout=5).status_code == 503, what="readiness failing first")
        assert answer.result(END_S).status_code == 200
        assert ended(platform, "modelhost-1") == 0


def test_d08_a_modelhost_goes_on_until_an_inferrer_has_taken_note(platform: RunningPlatform) -> None:
    with socket.socket(socket.AF_UNIX) as inferrer:
        inferrer.settimeout(END_S)
        inferrer.connect(platform.settings["modelhost-1"]["MODELHOST_CHANNEL"].removeprefix("unix:"))
        frames = received(inferrer)
        key = next(name for name in state_of(next(frames))["versions"] if name.startswith("iris.onnx")).encode()
        tell(platform, "modelhost-1", signal.SIGTERM)
        leaving = next(frame for frame in frames if frame[0] == Kind.STATE and not state_of(frame)["ready"])
        late = encode_frame(Kind.PREDICT, Codec.BUFFET, 0, key, 7, int(END_S * 1e9), len(IRIS)) + IRIS
        inferrer.sendall(late)  # by one that has not read its word yet
        assert next(frames)[:2] == (Kind.REPLY, 7)
        inferrer.sendall(encode_frame(Kind.PING, 0, leaving[1], b"", 8, 0, 0))
        assert next(frames)[:2] == (Kind.PONG, 8)
        assert ended(platform, "modelhost-1") == 0


def received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, id and body of every frame."""
    reader = FrameReader(sock)
    while True:
        for kind, _, _, number, _, body in reader.read():
            yield kind, number, bytes(body)


def state_of(frame: tuple[int, int, bytes]) -> dict[str, Any]:
    """A modelhost's word on itself."""
    assert frame[0] == Kind.STATE
    state: dict[str, Any] = json.loads(frame[2])
    return state
