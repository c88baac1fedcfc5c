"""The inference client of KServe's SDK over HTTP, in both versions of the protocol."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

from tests.clients.tensors import TENSORS, Tensor, encoded, same

URL = "http://" + os.environ["MLBUFFET_HTTP"]
Ask = Callable[..., Any]
ROW = np.array([[1, 2]], np.float32)


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Calls of the client, one connection pool for each version of the protocol."""
    clients = {version: InferenceRESTClient(RESTConfig(protocol=version)) for version in ("v1", "v2")}
    with asyncio.Runner() as runner:
        yield lambda version, call, *arguments, **options: runner.run(
            getattr(clients[version], call)(URL, *arguments, **options)
        )
        for client in clients.values():
            runner.run(client.close())


def request(value: Tensor, datatype: str, *, binary: bool, **options: Any) -> InferRequest:  # noqa: ANN401 - as they are
    made = InferInput("x", list(value.shape), datatype)
    made.set_data_from_numpy(value, binary_data=binary)
    return InferRequest(datatype.lower(), [made], **options)


def test_v1_health(ask: Ask) -> None:
    assert ask("v1", "is_server_live")
    assert ask("v1", "is_model_ready", "iris.onnx")


def test_v1_predicts(ask: Ask) -> None:
    answer = ask("v1", "infer", {"instances": [[1, 2], [3, 4.5]]}, model_name="fp32")
    assert answer == {"predictions": [[1, 2], [3, 4.5]]}


def test_v1_predicts_with_named_inputs(ask: Ask) -> None:
    instances = [{"a": [1, 2], "b": [3, 4]}, {"a": [5, 6], "b": [1, 1]}]
    answer = ask("v1", "infer", {"instances": instances}, model_name="two")
    assert answer == {
        "predictions": [{"total": [4, 6], "difference": [-2, -2]}, {"total": [6, 7], "difference": [4, 5]}]
    }


def test_v1_says_what_is_wrong(ask: Ask) -> None:
    for call in (("is_model_ready", "nosuch"), ("infer", {"instances": [[1, 2]]}, "nosuch")):
        with pytest.raises(httpx.HTTPStatusError, match=r"nosuch.*404"):
            ask("v1", *call)
    for body in ({"instances": 5}, {"instances": [[1, 2, 3]]}, {"instances": [["a", "b"]]}, {}):
        with pytest.raises(httpx.HTTPStatusError, match=r".{10}.*400"):
            ask("v1", "infer", body, model_name="fp32")


def test_v2_health(ask: Ask) -> None:
    assert ask("v2", "is_server_live") is True
    assert ask("v2", "is_server_ready") is True
    assert ask("v2", "is_model_ready", "iris.onnx") is True
    assert ask("v2", "is_model_ready", "nosuch") is False


@pytest.mark.parametrize("binary_in", [False, True], ids=["JSON in", "binary in"])
@pytest.mark.parametrize("binary_out", [False, True], ids=["JSON out", "binary out"])
@pytest.mark.parametrize("datatype", sorted(TENSORS.keys() - {"FP16"}))
def test_v2_predicts(ask: Ask, datatype: str, *, binary_in: bool, binary_out: bool) -> None:
    sent = TENSORS[datatype]
    outputs = [RequestedOutput("y", parameters={"binary_data": binary_out})]
    made = request(sent, datatype, binary=binary_in, request_outputs=outputs)
    answer = ask("v2", "infer", made, model_name=made.model_name)
    (output,) = answer.outputs
    assert (output.name, output.datatype, output.shape) == ("y", datatype, list(sent.shape))
    assert same(encoded(output.as_numpy()), sent)


def test_v2_predicts_half_floats(ask: Ask) -> None:
    made = request(TENSORS["FP16"], "FP16", binary=True, parameters={"binary_data_output": True})
    (output,) = ask("v2", "infer", made, model_name="fp16").outputs
    assert same(output.as_numpy(), TENSORS["FP16"])


def test_v2_answers_the_id(ask: Ask) -> None:
    made = request(ROW, "FP32", binary=False, request_id="größe/1")
    answer = ask("v2", "infer", made, model_name="fp32")
    assert (answer.id, answer.model_name) == ("größe/1", "fp32")


def test_v2_says_what_is_wrong(ask: Ask) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=r"nosuch.*404"):
        ask("v2", "infer", request(ROW, "FP32", binary=True), model_name="nosuch")
    with pytest.raises(httpx.HTTPStatusError, match=r".{10}.*400"):
        ask("v2", "infer", request(ROW[:, :1], "FP32", binary=True), model_name="fp32")
