"""Standard gRPC clients of a platform: stubs made from the descriptors, as any client generated from them would be."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format

from mlbuffet.oip import inference_pb2
from tests.harness.platform import RunningPlatform

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
Message = Any  # protobuf has no types


@contextmanager
def channel(platform: RunningPlatform, *options: tuple[str, object]) -> Iterator[Any]:
    """A connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), *options)
    with grpc.insecure_channel(f"127.0.0.1:{platform.grpc_port}", options=options) as opened:
        yield opened


def method(opened: Any, name: str) -> Any:  # noqa: ANN401 - grpc has no types
    """A method of the inference service."""
    return opened.unary_unary(
        f"/{SERVICE.full_name}/{name}",
        request_serializer=lambda given: given if isinstance(given, bytes) else given.SerializeToString(),
        response_deserializer=getattr(inference_pb2, f"{name}Response").FromString,
    )


def ask(platform: RunningPlatform, name: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Call a method; its answer as JSON has it."""
    with channel(platform) as opened:
        request = json_format.ParseDict(fields or {}, getattr(inference_pb2, f"{name}Request")())
        answer = method(opened, name)(request, timeout=30)
    told: dict[str, Any] = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return told


def infer(platform: RunningPlatform, request: Message, timeout_s: float = 30, **metadata: str) -> Message:
    """Predict."""
    with channel(platform) as opened:
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        return method(opened, "ModelInfer")(request, timeout=timeout_s, metadata=pairs)


def raw_request(model: str, **inputs: np.ndarray[Any, Any]) -> Message:
    """A request with raw contents."""
    request = inference_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def datatype_of(array: np.ndarray[Any, Any]) -> str:
    """The protocol's word for numbers of a type."""
    return {"f": "FP", "i": "INT", "u": "UINT"}[array.dtype.kind] + str(8 * array.dtype.itemsize)


def output(answer: Message, name: str) -> np.ndarray[Any, Any]:
    """An output of numbers."""
    number = next(place for place, item in enumerate(answer.outputs) if item.name == name)
    described = answer.outputs[number]
    kinds = {"FP": "f", "INT": "i", "UINT": "u"}
    kind = described.datatype.rstrip("0123456789")
    dtype = f"<{kinds[kind]}{int(described.datatype.removeprefix(kind)) // 8}"
    return np.frombuffer(answer.raw_output_contents[number], dtype).reshape(described.shape)
