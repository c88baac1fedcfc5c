"""gRPC says what REST says: every method, errors, ids, deadlines, health, reflection."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from google.protobuf import json_format
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from mlbuffet.errors import MLBuffetError, all_errors
from mlbuffet.oip import inference_pb2
from tests.harness.grpc_client import SERVICE, ask, channel, infer, method, output, raw_request
from tests.harness.onnx_models import slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.zoo import zoo_platform

IRIS = np.array([[7, 3.2, 4.7, 1.4]], np.float32)
STEPS_OF_SECONDS = 3_000_000
STEPS_OF_A_SECOND = 1_000_000
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    options = {"modelhosts": 1, "workers": 1, "environment": {"MODELHOST_QUEUE": "1"}}
    with zoo_platform(tmp_path_factory.mktemp("zoo"), {"slow": slow()}, **options) as platform:
        yield platform


def refused(call: Any) -> tuple[StatusCode, dict[str, str]]:  # noqa: ANN401 - grpc has no types
    """The status that a call fails with, and what came behind it."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), dict(error.trailing_metadata() or ()) | {"details": error.details()}


# As REST ------------------------------------------------------------------------------------------------------------

IRIS_NAME = {"name": "iris.onnx"}
SAME = [
    ("ServerLive", {}, "GET", "/v2/health/live", ""),
    ("ServerReady", {}, "GET", "/v2/health/ready", ""),
    ("ServerMetadata", {}, "GET", "/v2", ""),
    ("ModelReady", IRIS_NAME, "GET", "/v2/models/iris.onnx/ready", ""),
    ("ModelReady", IRIS_NAME | {"version": "1"}, "GET", "/v2/models/iris.onnx/versions/1/ready", ""),
    ("ModelMetadata", IRIS_NAME, "GET", "/v2/models/iris.onnx", ""),
    ("ModelMetadata", IRIS_NAME | {"version": "1"}, "GET", "/v2/models/iris.onnx/versions/1", ""),
    ("ModelConfig", IRIS_NAME, "GET", "/v2/models/iris.onnx/config", "config"),
    ("RepositoryIndex", {}, "POST", "/v2/repository/index", "models"),
]


@pytest.mark.parametrize(("name", "fields", "verb", "path", "within"), SAME)
def test_a_method_says_what_rest_says(
    name: str, fields: dict[str, str], verb: str, path: str, within: str, shared_platform: RunningPlatform
) -> None:
    told = requests.request(verb, shared_platform.url + path, timeout=10).json()
    message = getattr(inference_pb2, f"{name}Response")()
    json_format.ParseDict({within: told} if within else told, message, ignore_unknown_fields=True)
    expected = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert expected
    assert ask(shared_platform, name, fields) == expected


def test_the_configuration_has_all_fields_that_rest_has(shared_platform: RunningPlatform) -> None:
    told = requests.get(f"{shared_platform.url}/v2/models/iris.onnx/config", timeout=10).json()
    json_format.ParseDict(told, inference_pb2.ModelConfig())  # an unknown field is an error


def test_unload_and_load(platform: RunningPlatform) -> None:
    assert ask(platform, "ModelReady", {"name": "wine.onnx"}) == {"ready": True}
    parameters = {"unload_dependents": {"bool_param": False}}
    assert ask(platform, "RepositoryModelUnload", {"model_name": "wine.onnx", "parameters": parameters}) == {}
    assert ask(platform, "ModelReady", {"name": "wine.onnx"}) == {}
    code, more = refused(lambda: infer(platform, raw_request("wine.onnx", x=IRIS)))
    assert (code, more["x-error-code"]) == (StatusCode.UNAVAILABLE, "MODEL_UNLOADED")
    assert int(more["retry-after"]) > 0
    assert ask(platform, "RepositoryModelLoad", {"model_name": "wine.onnx"}) == {}
    assert ask(platform, "ModelReady", {"name": "wine.onnx"}) == {"ready": True}
    listed = ask(platform, "RepositoryIndex", {"ready": True})["models"]
    assert {"name": "wine.onnx", "version": "1", "state": "READY"} in listed


def test_a_prediction_is_the_one_that_v1_gives(shared_platform: RunningPlatform) -> None:
    request = raw_request("iris.onnx", input=IRIS)
    request.id = "mine"
    answer = infer(shared_platform, request)
    assert (answer.model_name, answer.model_version, answer.id) == ("iris.onnx", "1", "mine")
    body = {"values": IRIS.tolist(), "outputs": "all"}
    told = requests.post(f"{shared_platform.path('iris.onnx')}/prediction", json=body, timeout=10).json()["outputs"]
    assert [item.name for item in answer.outputs] == ["label", "probabilities"]
    np.testing.assert_array_equal(output(answer, "label"), told["label"])
    np.testing.assert_array_equal(output(answer, "probabilities"), np.float32(told["probabilities"]))


def test_a_prediction_is_the_one_that_rest_gives(shared_platform: RunningPlatform) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": IRIS.shape, "data": IRIS.tolist()}
    told = requests.post(
        f"{shared_platform.url}/v2/models/iris.onnx/infer", json={"inputs": [tensor]}, timeout=10
    ).json()
    answer = infer(shared_platform, raw_request("iris.onnx", input=IRIS))
    assert (answer.model_name, answer.model_version) == (told["model_name"], told["model_version"])
    for described, other in zip(answer.outputs, told["outputs"], strict=True):
        assert (described.name, described.datatype, list(described.shape)) == (
            other["name"],
            other["datatype"],
            other["shape"],
        )
        array = output(answer, described.name)
        np.testing.assert_array_equal(array, np.array(other["data"], array.dtype).reshape(array.shape))


def test_only_the_outputs_asked_for_in_their_order(shared_platform: RunningPlatform) -> None:
    request = raw_request("iris.onnx", input=IRIS)
    request.model_version = "1"
    request.outputs.add(name="probabilities")
    request.outputs.add(name="label")
    assert [item.name for item in infer(shared_platform, request).outputs] == ["probabilities", "label"]


# Errors -------------------------------------------------------------------------------------------------------------

INFER = "ModelInfer"
ERRORS = [
    (INFER, {"model_name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    (INFER, {"model_name": "iris.onnx", "model_version": "9"}, StatusCode.NOT_FOUND, "VERSION_NOT_FOUND"),
    (INFER, {"model_name": "iris.onnx", "model_version": "x"}, StatusCode.NOT_FOUND, "VERSION_NOT_FOUND"),
    (INFER, {"model_name": "../etc"}, StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    (INFER, {"model_name": "n" * 100_000}, StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    (INFER, {}, StatusCode.INVALID_ARGUMENT, "INVALID_NAME"),
    (INFER, {"model_name": "iris.onnx"}, StatusCode.INVALID_ARGUMENT, "MISSING_INPUT"),
    ("ModelMetadata", {"name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ("ModelReady", {"name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ("ModelConfig", {"name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ("ModelStatistics", {"name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ("RepositoryModelLoad", {"model_name": "no"}, StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ("RepositoryModelLoad", {"repository_name": "x"}, StatusCode.INVALID_ARGUMENT, "BAD_REQUEST"),
    (
        "RepositoryModelLoad",
        {"model_name": "iris.onnx", "parameters": {"config": {"string_param": "{}"}}},
        StatusCode.INVALID_ARGUMENT,
        "BAD_REQUEST",
    ),
]


def error_of(code: str) -> type[MLBuffetError]:
    return next(error for error in all_errors() if error.code == code)


def counted(platform: RunningPlatform, route: str, status: str) -> float:
    """How often a method ended with what HTTP calls this status; a process tells of the others' within a second."""
    page = requests.get(f"{platform.url}/metrics", timeout=10).text
    samples = [item for family in text_string_to_metric_families(page) for item in family.samples]
    wanted = {"route": route, "method": "GRPC", "status": status}
    found = [
        item.value for item in samples if item.name == "http_requests_total" and item.labels.items() >= wanted.items()
    ]
    return sum(found)


@pytest.mark.parametrize(("name", "fields", "status", "code"), ERRORS)
def test_an_error_has_its_status_its_code_one_record_and_one_count(
    name: str, fields: dict[str, Any], status: StatusCode, code: str, shared_platform: RunningPlatform
) -> None:
    route = f"/{SERVICE.full_name}/{name}"
    found, more = refused(lambda: ask(shared_platform, name, fields))
    assert (found, more["x-error-code"]) == (status, code)
    told = [item for item in shared_platform.records() if item.get("request_id") == more["x-request-id"]]
    records = [item for item in told if item["event"] != "audit"]  # which is a log of its own
    assert [(item["event"], item["route"], item["code"]) for item in records] == [("request failed", route, code)]
    wait_until(lambda: counted(shared_platform, route, str(error_of(code).status)), what="the call being counted")


@pytest.mark.parametrize("name", ["ModelStreamInfer", "TraceSetting", "SystemSharedMemoryStatus"])
def test_what_is_not_served_is_unimplemented(name: str, shared_platform: RunningPlatform) -> None:
    with channel(shared_platform) as opened:
        found, _ = refused(lambda: opened.unary_unary(f"/{SERVICE.full_name}/{name}")(b"", timeout=10))
    assert found is StatusCode.UNIMPLEMENTED


def test_a_call_has_its_request_id(shared_platform: RunningPlatform) -> None:
    with channel(shared_platform) as opened:
        for given in ("mine-1", "not sound!", ""):
            metadata = (("x-request-id", given),) if given else ()
            _, call = method(opened, "ServerLive").with_call(inference_pb2.ServerLiveRequest(), metadata=metadata)
            told = dict(call.trailing_metadata())["x-request-id"]
            assert (told == given) == (given == "mine-1")
            assert told


# Deadlines, cancellation, full queues -------------------------------------------------------------------------------


def steps(number: float) -> Any:  # noqa: ANN401 - protobuf has no types
    return raw_request("slow", x=np.array([number], np.float32))


def waiting(platform: RunningPlatform) -> int:
    details = requests.get(platform.path("slow"), timeout=5).json()
    return sum(item["in_flight"] for item in details["modelhosts"])


def test_p14_the_clients_deadline_is_the_predictions(zoo: RunningPlatform) -> None:
    for _ in range(3):
        found, _ = refused(lambda: infer(zoo, steps(100 * STEPS_OF_SECONDS), 0.1))
        assert found is StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: is_free(zoo), 5, "the slot being free")


def test_p14_without_a_deadline_the_servers_holds(tmp_path: Any) -> None:  # noqa: ANN401
    environment = {"INFERRER_TIMEOUT_S": "0.2"}
    with zoo_platform(tmp_path, {"slow": slow()}, modelhosts=1, workers=1, environment=environment) as platform:
        with channel(platform) as opened:
            found, more = refused(lambda: method(opened, INFER)(steps(STEPS_OF_SECONDS)))
        assert (found, more["x-error-code"]) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


def test_p13_a_call_that_is_cancelled_blocks_nobody_for_longer_than_its_deadline(zoo: RunningPlatform) -> None:
    """A few of the row's thousand: each leaves in the middle of its run."""
    left = count_left(zoo)
    with channel(zoo) as opened:
        for _ in range(2):
            call = method(opened, INFER).future(steps(100_000_000), timeout=3)
            wait_until(lambda: waiting(zoo) == 1, what="the model being busy")
            call.cancel()
            wait_until(lambda: waiting(zoo) == 0, 2.5, "the call being given up")
            wait_until(lambda: is_free(zoo), 10, "the slot being free")
    assert count_left(zoo) == left + 2


def count_left(platform: RunningPlatform) -> int:
    return [item["event"] for item in platform.records()].count("client left")


def is_free(platform: RunningPlatform) -> bool:
    try:
        return bool(output(infer(platform, steps(3)), "y") == 3)
    except grpc.RpcError:
        return False


def test_p15_a_full_queue_refuses_at_once(zoo: RunningPlatform) -> None:
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(infer, zoo, steps(STEPS_OF_SECONDS))
        wait_until(lambda: waiting(zoo) == 1, what="the model being busy")
        found, more = refused(lambda: infer(zoo, steps(1)))
        assert not first.done()
        assert (found, more["x-error-code"]) == (StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert int(more["retry-after"]) >= 1
        first.result()


# Health and reflection ----------------------------------------------------------------------------------------------


def check(opened: Any, service: str = "") -> int:  # noqa: ANN401 - grpc has no types
    asked = opened.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    status: int = asked(health_pb2.HealthCheckRequest(service=service), timeout=5).status
    return status


def test_health_is_that_of_the_modelhosts(platform: RunningPlatform) -> None:
    with channel(platform) as opened:
        assert [check(opened, name) for name in ("", SERVICE.full_name)] == [SERVING, SERVING]
        assert refused(lambda: check(opened, "no"))[0] is StatusCode.NOT_FOUND
        for name in ("modelhost-1", "modelhost-2"):
            platform.kill(name)
        wait_until(lambda: check(opened) == NOT_SERVING, what="health being told")
        assert ask(platform, "ServerReady") == {}
        assert ask(platform, "ServerLive") == {"live": True}


def test_draining_ends_calls_in_peace(tmp_path: Any) -> None:  # noqa: ANN401
    with zoo_platform(tmp_path, {"slow": slow()}, modelhosts=1, workers=1) as platform, channel(platform) as opened:
        seen: list[int] = []
        watch = opened.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())

        def follow() -> None:
            try:
                seen.extend(item.status for item in watch)
            except grpc.RpcError:
                seen.append(-1)

        watcher = threading.Thread(target=follow)
        watcher.start()
        wait_until(lambda: seen == [SERVING], what="the watcher being told")
        call = method(opened, INFER).future(steps(STEPS_OF_A_SECOND / 2))
        wait_until(lambda: waiting(platform) == 1, what="the model being busy")
        began = time.monotonic()
        assert platform.stop("inferrer") == 0
        assert time.monotonic() - began < 9, "a watcher is not waited for"
        watcher.join(5)
        assert output(call.result(), "y") == STEPS_OF_A_SECOND / 2
        assert seen[:2] == [SERVING, NOT_SERVING]


def test_reflection_tells_of_the_service(shared_platform: RunningPlatform) -> None:
    with channel(shared_platform) as opened:
        database = ProtoReflectionDescriptorDatabase(opened)
        assert set(database.get_services()) == {
            SERVICE.full_name,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        file = database.FindFileContainingSymbol(SERVICE.full_name)
        assert {item.name for item in file.service[0].method} == {item.name for item in SERVICE.methods}
