"""tritonclient over HTTP: JSON, binary and both in one request, raw bodies, compression, its asynchronous client."""

import asyncio
import gzip
import json
import os
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http.aio
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.clients.tensors import TENSORS, Tensor, encoded, same

ADDRESS = os.environ["MLBUFFET_HTTP"]
ROW = np.array([[1, 2]], np.float32)
CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (gzip.compress, gzip.decompress),
    "deflate": (zlib.compress, zlib.decompress),
}


@pytest.fixture(scope="module")
def client() -> Iterator[InferenceServerClient]:
    with InferenceServerClient(ADDRESS, concurrency=8) as made:
        yield made


def tensor(name: str, value: Tensor, *, binary: bool = True) -> InferInput:
    made = InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value, binary_data=binary)
    return made


def wanted(name: str, *, binary: bool = True) -> InferRequestedOutput:
    return InferRequestedOutput(name, binary_data=binary)


def post(model: str, body: bytes, **headers: str) -> tuple[bytes, Any]:
    """A request that the client's helpers made, sent by other means."""
    request = urllib.request.Request(f"http://{ADDRESS}/v2/models/{model}/infer", body, headers)
    with urllib.request.urlopen(request) as response:  # noqa: S310 - http
        return response.read(), response.headers


@pytest.mark.parametrize("binary_in", [False, True], ids=["JSON in", "binary in"])
@pytest.mark.parametrize("binary_out", [False, True], ids=["JSON out", "binary out"])
@pytest.mark.parametrize("datatype", TENSORS)
def test_json_and_binary_are_the_same(
    client: InferenceServerClient, datatype: str, *, binary_in: bool, binary_out: bool
) -> None:
    sent = TENSORS[datatype]
    result = client.infer(
        datatype.lower(), [tensor("x", sent, binary=binary_in)], outputs=[wanted("y", binary=binary_out)]
    )
    output = result.get_output("y")
    assert ("data" in output) is not binary_out
    assert ("binary_data_size" in output.get("parameters", {})) is binary_out
    assert same(encoded(result.as_numpy("y")), sent)


def test_numbers_that_are_none_are_null_in_json(client: InferenceServerClient) -> None:
    sent = np.array([[np.nan, np.nan]], np.float32)
    result = client.infer("fp32", [tensor("x", sent)], outputs=[wanted("y", binary=False)])
    assert result.get_output("y")["data"] == [None, None]
    assert np.isnan(result.as_numpy("y")).all()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_json_and_binary_stand_in_one_request(client: InferenceServerClient, *, first: bool, second: bool) -> None:
    inputs = [tensor("a", ROW * 10, binary=first), tensor("b", ROW, binary=second)]
    outputs = [wanted("total", binary=second), wanted("difference", binary=first)]
    result = client.infer("two", inputs, outputs=outputs)
    assert same(result.as_numpy("total"), ROW * 11)
    assert same(result.as_numpy("difference"), ROW * 9)


def test_requests_are_made_and_answers_read_apart_from_the_connection() -> None:
    body, json_length = InferenceServerClient.generate_request_body([tensor("x", ROW)], outputs=[wanted("y")])
    headers = {"Inference-Header-Content-Length": str(json_length), "Content-Type": "application/octet-stream"}
    answer, said = post("fp32", body, **headers)
    length = said["Inference-Header-Content-Length"]
    result = InferenceServerClient.parse_response_body(answer, header_length=int(length))
    assert same(result.as_numpy("y"), ROW)


def test_a_raw_body_is_the_only_input() -> None:
    answer, said = post("fp32", ROW.tobytes(), **{"Inference-Header-Content-Length": "0"})
    length = said["Inference-Header-Content-Length"]
    result = InferenceServerClient.parse_response_body(answer, header_length=int(length))
    assert same(result.as_numpy("y"), ROW)


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_bodies_are_compressed(
    client: InferenceServerClient, request_: str | None, answer: str | None, *, binary: bool
) -> None:
    sent = np.zeros((50_000, 2), np.float32)
    result = client.infer(
        "fp32",
        [tensor("x", sent, binary=binary)],
        outputs=[wanted("y", binary=binary)],
        request_compression_algorithm=request_,
        response_compression_algorithm=answer,
    )
    assert same(result.as_numpy("y"), sent)


@pytest.mark.parametrize("coding", CODECS)
def test_a_long_text_is_sent_short_when_asked_for(coding: str) -> None:
    pack, unpack = CODECS[coding]
    sent = np.zeros((50_000, 2), np.float32)
    body, length = InferenceServerClient.generate_request_body([tensor("x", sent)], outputs=[wanted("y", binary=False)])
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": coding, "Accept-Encoding": coding}
    answer, said = post("fp32", pack(body), **headers)
    assert said["Content-Encoding"] == coding
    assert len(answer) < 40_000
    assert same(InferenceServerClient.parse_response_body(answer, content_encoding=coding).as_numpy("y"), sent)
    assert json.loads(unpack(answer))["model_name"] == "fp32"


def test_query_and_headers_do_no_harm(client: InferenceServerClient) -> None:
    headers = {"X-Request-Id": "mine", "seldon-puid": "mine"}
    result = client.infer("fp32", [tensor("x", ROW)], query_params={"a": "b", "c": [1, 2]}, headers=headers)
    assert same(result.as_numpy("y"), ROW)
    assert client.get_model_metadata("fp32", query_params={"a": 1})["name"] == "fp32"


def test_many_at_once_keep_apart(client: InferenceServerClient) -> None:
    sent = [np.full((1, 2), number, np.float32) for number in range(64)]
    waiting = [client.async_infer("fp32", [tensor("x", value)]) for value in sent]
    assert all(same(result.get_result().as_numpy("y"), value) for result, value in zip(waiting, sent, strict=True))


def test_the_asynchronous_client_reads_everything() -> None:
    async def converse() -> None:
        # It asks for gzip in every call, and unpacks nothing but the answer to a prediction.
        async with tritonclient.http.aio.InferenceServerClient(ADDRESS) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("fp32")
            assert (await client.get_server_metadata())["name"] == "mlbuffet"
            assert (await client.get_model_metadata("fp32"))["name"] == "fp32"
            assert (await client.get_model_config("fp32"))["name"] == "fp32"
            assert len(await client.get_model_repository_index()) >= len(TENSORS)
            assert (await client.get_inference_statistics())["model_stats"]
            large = np.zeros((50_000, 2), np.float32)
            for binary in (False, True):
                result = await client.infer("fp32", [tensor("x", large)], outputs=[wanted("y", binary=binary)])
                assert same(result.as_numpy("y"), large)
            with pytest.raises(InferenceServerException, match="nosuch") as caught:
                await client.infer("nosuch", [tensor("x", large)])
            assert caught.value.status() == "404"

    asyncio.run(converse())


def test_classification_is_refused(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("fp32", [tensor("x", ROW)], outputs=[InferRequestedOutput("y", class_count=1)])
    assert caught.value.status() == "400"


@pytest.mark.parametrize("call", ["get_system_shared_memory_status", "get_trace_settings", "get_log_settings"])
def test_what_is_not_there_is_said_so(client: InferenceServerClient, call: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call)()
    assert caught.value.status() == "404"
