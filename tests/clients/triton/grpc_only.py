"""tritonclient over gRPC, and the standard health and reflection clients."""

import os
import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.clients.tensors import TENSORS, Tensor, same

ADDRESS = os.environ["MLBUFFET_GRPC"]
ROW = np.array([[1, 2]], np.float32)
# Which field of InferTensorContents holds a datatype; FP16 is in none.
FIELDS = {
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}


@pytest.fixture(scope="module")
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(ADDRESS) as made:
        yield made


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(ADDRESS) as made:
        yield made


def tensor(value: Tensor) -> InferInput:
    made = InferInput("x", list(value.shape), "FP32")
    made.set_data_from_numpy(value)
    return made


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_are_compressed(client: InferenceServerClient, algorithm: str) -> None:
    sent = np.zeros((50_000, 2), np.float32)
    assert same(client.infer("fp32", [tensor(sent)], compression_algorithm=algorithm).as_numpy("y"), sent)


@pytest.mark.parametrize("datatype", FIELDS)
def test_contents_may_stand_in_the_message(channel: grpc.Channel, datatype: str) -> None:
    sent = TENSORS[datatype]
    contents = service_pb2.InferTensorContents(**{FIELDS[datatype]: sent.ravel().tolist()})
    request = service_pb2.ModelInferRequest(model_name=datatype.lower())
    request.inputs.add(name="x", datatype=datatype, shape=sent.shape, contents=contents)
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert same(InferResult(answer).as_numpy("y"), sent)


def test_contents_are_not_both_in_the_message_and_behind_it(channel: grpc.Channel) -> None:
    request = service_pb2.ModelInferRequest(model_name="fp32", raw_input_contents=[ROW.tobytes()])
    contents = service_pb2.InferTensorContents(fp32_contents=[1, 2])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2], contents=contents)
    with pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_many_at_once_keep_apart(client: InferenceServerClient) -> None:
    answers: queue.Queue[tuple[int, InferResult | None, InferenceServerException | None]] = queue.Queue()
    for number in range(64):
        client.async_infer(
            "fp32",
            [tensor(np.full((1, 2), number, np.float32))],
            lambda result, error, number=number: answers.put((number, result, error)),
        )
    for _ in range(64):
        number, result, error = answers.get(timeout=30)
        assert error is None
        assert result is not None
        assert same(result.as_numpy("y"), np.full((1, 2), number, np.float32))


def test_metadata_of_a_call_does_no_harm(client: InferenceServerClient) -> None:
    assert same(client.infer("fp32", [tensor(ROW)], headers={"x-request-id": "mine"}).as_numpy("y"), ROW)


def test_a_deadline_that_is_long_enough_is_kept(client: InferenceServerClient) -> None:
    assert same(client.infer("fp32", [tensor(ROW)], client_timeout=30).as_numpy("y"), ROW)


@pytest.mark.parametrize("call", ["get_system_shared_memory_status", "get_trace_settings", "get_log_settings"])
def test_what_is_not_there_is_said_so(client: InferenceServerClient, call: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call)()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
def test_the_standard_health_client_is_answered(channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watched = stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=30)
    assert next(iter(watched)).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()


def test_the_standard_health_client_is_told_of_a_service_that_is_none(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nosuch"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_reflection_client_finds_the_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(database.get_services())
    described = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    (service,) = described.service
    ours = {method.name: (method.input_type, method.output_type) for method in service.method}
    theirs = {
        method.name: (f".{method.input_type.full_name}", f".{method.output_type.full_name}")
        for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    }
    assert {"ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "ServerReady"} <= set(ours)
    assert ours.items() <= theirs.items()
