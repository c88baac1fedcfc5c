"""Rows O05 and traces: one id and one trace from the client through inferrer, channel, modelhost and runner."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from mlbuffet.chassis.context import new_trace
from tests.harness.collector import Collector, running_collector
from tests.harness.grpc_client import infer, raw_request
from tests.harness.onnx_models import constant
from tests.harness.platform import RunningPlatform, free_port, running_platform, wait_until
from tests.harness.zoo import fragile, zoo_platform

IRIS = [2, 5, 1, 4]
WRONG = {"values": ["a", 5, 1, 4]}
HOST = "modelhost-1"
STEPS = ["queue", "batch", "run", "encode"]


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with running_collector(tmp_path_factory.mktemp("collector")) as running:
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningPlatform]:
    """A platform that records what it is told to, and finds everything slow."""
    environment = {
        "INFERRER_TRACES_ENDPOINT": collector.endpoint,
        "MODELHOST_TRACES_ENDPOINT": collector.endpoint,
        "INFERRER_TRACES_SHARE": "0",
        "INFERRER_SLOW_S": "0.000001",
        "MODELHOST_SLOW_S": "0.000001",
    }
    repository = tmp_path_factory.mktemp("traced") / "repository"
    with running_platform(repository, modelhosts=1, environment=environment) as platform:
        assert platform.put("one.onnx", constant(1)).status_code == 201
        yield platform


def by_lane(platform: RunningPlatform, **headers: str) -> requests.Response:
    return platform.predict("iris.onnx", IRIS, **headers)


def by_flask(platform: RunningPlatform, **headers: str) -> requests.Response:
    url = f"{platform.path('iris.onnx')}/prediction?by=Flask"
    return requests.post(url, json={"values": IRIS}, headers=headers, timeout=30)


def by_grpc(platform: RunningPlatform, **headers: str) -> None:
    infer(platform, raw_request("one.onnx", x=np.ones((1, 1), np.float32)), 30, **headers)


Way = Callable[..., Any]


@pytest.mark.parametrize("way", [by_lane, by_flask, by_grpc])
def test_a_trace_goes_from_the_client_to_the_runner(traced: RunningPlatform, collector: Collector, way: Way) -> None:
    client = new_trace(sampled=True)
    way(traced, traceparent=client.line().decode())
    wait_until(lambda: len(collector.trace(client.trace_id)) == 2 + len(STEPS), 30, "all spans")
    spans = {(span["service"], span["name"]): span for span in collector.trace(client.trace_id)}
    (whole,) = (span for (service, _), span in spans.items() if service == "inferrer")
    at_host = spans["modelhost", "predict"]
    assert whole["parentSpanId"] == client.span_id
    assert at_host["parentSpanId"] == whole["spanId"]
    assert whole["http.response.status_code"] == "200"
    assert whole["name"] == whole["http.route"]
    steps = [spans["modelhost", step] for step in STEPS]
    assert {step["parentSpanId"] for step in steps} == {at_host["spanId"]}
    # One after the other, from arrival to answer, and all of it within the request.
    moments = [int(steps[0]["startTimeUnixNano"]), *(int(step["endTimeUnixNano"]) for step in steps)]
    assert [int(step["startTimeUnixNano"]) for step in steps] == moments[:-1]
    assert moments == sorted(moments)
    assert (moments[0], moments[-1]) == (int(at_host["startTimeUnixNano"]), int(at_host["endTimeUnixNano"]))
    assert len({span["spanId"] for span in spans.values()}) == len(spans)
    assert int(whole["startTimeUnixNano"]) <= moments[0] + 50_000_000, "two clocks, each with its own error"


@pytest.mark.parametrize("way", [by_lane, by_flask, by_grpc])
def test_who_does_not_want_to_be_recorded_is_not_and_stands_in_the_logs(
    traced: RunningPlatform, collector: Collector, way: Way
) -> None:
    quiet, loud = new_trace(sampled=False), new_trace(sampled=True)
    way(traced, traceparent=quiet.line().decode())
    way(traced, traceparent=loud.line().decode())
    way(traced, traceparent="00-nonsense")
    wait_until(lambda: len(collector.trace(loud.trace_id)) == 2 + len(STEPS), 30, "the other's spans")
    assert not collector.trace(quiet.trace_id)
    for service in ("inferrer", HOST):
        wait_until(lambda service=service: len(slow(traced, service, quiet.trace_id)) == 1, 10, "its record")  # type: ignore[misc]


def slow(platform: RunningPlatform, service: str, trace_id: str) -> list[dict[str, Any]]:
    records = platform.records(service)
    return [item for item in records if item["event"] == "slow request" and item.get("trace_id") == trace_id]


@pytest.mark.parametrize("way", [by_lane, by_flask, by_grpc])
def test_an_error_has_one_record_in_each_service_that_it_passed(traced: RunningPlatform, way: Way) -> None:
    request_id = f"wanted.{way.__name__}"
    if way is by_grpc:
        with pytest.raises(grpc.RpcError):
            infer(traced, raw_request("one.onnx", y=np.ones((1, 1), np.float32)), x_request_id=request_id)
    else:
        query = "?by=Flask" if way is by_flask else ""
        url = f"{traced.path('iris.onnx')}/prediction{query}"
        answer = requests.post(url, json=WRONG, headers={"X-Request-Id": request_id}, timeout=30)
        assert (answer.status_code, answer.headers["X-Request-Id"]) == (400, request_id)
        assert answer.json()["error"]["request_id"] == request_id
    for service in ("inferrer", HOST):
        wait_until(lambda service=service: about(traced, service, request_id), 10, f"its record in {service}")  # type: ignore[misc]
        (record,) = about(traced, service, request_id)
        assert record["event"] == "request failed"
        assert record["code"]
        assert record["seconds"] > 0


def about(platform: RunningPlatform, service: str, request_id: str) -> list[dict[str, Any]]:
    return [item for item in platform.records(service) if item.get("request_id") == request_id]


def test_a_slow_request_says_where_its_time_went(traced: RunningPlatform) -> None:
    assert by_lane(traced, **{"X-Request-Id": "slow.one"}).status_code == 200
    for service in ("inferrer", HOST):
        wait_until(lambda service=service: about(traced, service, "slow.one"), 10, f"its record in {service}")  # type: ignore[misc]
    (ours,), (theirs,) = about(traced, "inferrer", "slow.one"), about(traced, HOST, "slow.one")
    assert (ours["event"], ours["status"], ours["modelhost"]) == ("slow request", 200, HOST)
    assert ours["modelhost_s"] + ours["channel_s"] <= ours["seconds"] + 2e-6, "rounded"
    steps = sum(theirs[f"{step}_s"] for step in STEPS)
    assert theirs["seconds"] == pytest.approx(steps, abs=3e-6)
    assert theirs["seconds"] <= ours["seconds"]


def test_a_refused_upload_has_its_record_where_it_was_looked_at(traced: RunningPlatform) -> None:
    answer = traced.put("wrong.onnx", b"no model", **{"X-Request-Id": "upload.1"})
    assert answer.status_code == 422
    wait_until(lambda: about(traced, HOST, "upload.1"), 10, "the record")
    (record,) = about(traced, HOST, "upload.1")
    assert (record["event"], record["operation"]) == ("call refused", "check")
    ours = about(traced, "inferrer", "upload.1")
    assert sorted(item["event"] for item in ours) == ["audit", "request failed"]
    assert all(item["seconds"] > 0 for item in ours)


def test_an_id_that_could_forge_a_record_is_replaced(traced: RunningPlatform) -> None:
    forged = 'x"} {"level":"INFO"'
    answer = requests.post(
        f"{traced.path('iris.onnx')}/prediction", json=WRONG, headers={"X-Request-Id": forged}, timeout=30
    )
    ours = answer.headers["X-Request-Id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", ours)
    wait_until(lambda: about(traced, HOST, ours), 10, "the record")
    assert "forged" not in traced.logs()


def test_a_collector_that_is_gone_costs_spans_and_no_request(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    environment = {
        "INFERRER_TRACES_ENDPOINT": gone,
        "MODELHOST_TRACES_ENDPOINT": gone,
        "INFERRER_TRACES_SHARE": "1",
        "INFERRER_ACCESS_LOG": "1",
    }
    with running_platform(tmp_path / "repository", modelhosts=1, workers=1, environment=environment) as platform:
        for _ in range(50):
            assert by_lane(platform).status_code == 200
        for service in ("inferrer", HOST):
            wait_until(lambda service=service: told(platform, service), 20, f"a word on it by {service}")  # type: ignore[misc]
            assert len(told(platform, service)) == 1, "once"
        # Every request has its record, with outcome and timings.
        records = [item for item in platform.records() if item["event"] == "request" and item["model"] == "iris.onnx"]
        assert len(records) == 50
        assert {(item["status"], item["modelhost"]) for item in records} == {(200, HOST)}
        assert len({item["request_id"] for item in records}) == 50


def told(platform: RunningPlatform, service: str) -> list[dict[str, Any]]:
    return [item for item in platform.records(service) if item["event"] == "traces not taken"]


def test_a_request_that_ended_its_runner_is_named_in_every_record_of_it(tmp_path: Path) -> None:
    with zoo_platform(tmp_path, {"fragile": fragile()}, modelhosts=1) as platform:
        answer = platform.predict("fragile", [-1], **{"X-Request-Id": "deadly.1"})
        assert answer.json()["error"]["code"] == "MODEL_CRASHED"
        (died,) = [item for item in platform.records(HOST) if item["event"] == "runner died"]
        assert died["of"] == ["deadly.1"]
        for service in ("inferrer", HOST):
            assert [item["code"] for item in about(platform, service, "deadly.1")] == ["MODEL_CRASHED"]
