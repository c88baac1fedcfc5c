"""The inference client of KServe's SDK over gRPC."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest

from tests.clients.tensors import TENSORS, Tensor, encoded, same

ADDRESS = os.environ["MLBUFFET_GRPC"]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Calls of the client."""

    async def connected() -> InferenceGRPCClient:
        return InferenceGRPCClient(ADDRESS)

    with asyncio.Runner() as runner:
        client = runner.run(connected())
        yield lambda call, *arguments: runner.run(getattr(client, call)(*arguments))
        runner.run(client.close())


def request(model: str, value: Tensor, datatype: str, *, raw: bool) -> InferRequest:
    made = InferInput("x", list(value.shape), datatype)
    made.set_data_from_numpy(value, binary_data=raw)
    return InferRequest(model, [made], request_id="mine")


def test_health(ask: Ask) -> None:
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    assert ask("is_model_ready", "iris.onnx") is True


@pytest.mark.parametrize("raw", [False, True], ids=["contents", "raw"])
@pytest.mark.parametrize("datatype", TENSORS)
def test_predicts(ask: Ask, datatype: str, *, raw: bool) -> None:
    sent = TENSORS[datatype]
    answer = ask("infer", request(datatype.lower(), sent, datatype, raw=raw or datatype == "FP16"))
    assert answer.id == "mine"
    (output,) = answer.outputs
    assert same(encoded(output.as_numpy()), sent)


def test_says_what_is_wrong(ask: Ask) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ask("infer", request("nosuch", TENSORS["FP32"], "FP32", raw=True))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "nosuch" in caught.value.details()
