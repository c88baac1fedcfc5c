"""The shape of V2, the Open Inference Protocol over HTTP: what its clients rely on, whatever the route."""

import gzip
import json
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

from mlbuffet.errors import all_errors
from tests.harness.onnx_models import constant, identity, two_inputs
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.raw_http import exchange, message
from tests.harness.zoo import DATATYPES, zoo_platform

SPLIT = "Inference-Header-Content-Length"
ROW = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [2, 5, 1, 4]}]}
INFER = "/v2/models/iris.onnx/infer"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "seven": constant(7),
        "pair": two_inputs(),
        "floats": identity(DATATYPES["FP32"], ["N", 2]),
        "long": identity(DATATYPES["FP64"], ["N"]),
    }
    with zoo_platform(tmp_path_factory.mktemp("v2"), models) as platform:
        yield platform


def ask(api: RunningPlatform, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    """Send a request, and check what every answer has."""
    answer = requests.request(method, api.url + path, timeout=30, allow_redirects=False, **options)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", answer.headers["X-Request-Id"])
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["Content-Type"] == "application/json"
        assert isinstance(answer.json()["error"], str)
    return answer


def refused(answer: requests.Response, status: int, code: str) -> str:
    """Check that the answer is this error in V2's shape; returns its message."""
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (status, code), answer.text
    known = next(error for error in all_errors() if error.code == code)
    assert answer.headers.get("Retry-After") == (str(known.retry_after_s) if known.retry_after_s else None)
    assert list(answer.json()) == ["error"]
    text: str = answer.json()["error"]
    assert text
    assert text.isascii()
    assert "Traceback" not in text
    return text


def infer(api: RunningPlatform, body: object, path: str = INFER, **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return ask(api, "POST", path, data=data, headers=headers)


def tensors(answer: requests.Response) -> dict[str, Any]:
    """The outputs by name; those that are bytes as arrays."""
    assert answer.status_code == 200, answer.text
    split = int(answer.headers.get(SPLIT, 0))
    assert (answer.headers["Content-Type"] == "application/octet-stream") is bool(split)
    rest = answer.content[split:] if split else b""
    found = {}
    kinds = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}
    for output in json.loads(answer.content[:split] if split else answer.content)["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(rest[:size], kinds[output["datatype"]]).reshape(output["shape"])
        rest = rest[size:]
    assert not rest
    return found


# What the server and its models are --------------------------------------------------------------------------------


def test_the_server_says_what_it_is_with_and_without_a_slash(api: RunningPlatform) -> None:
    for path in ("/v2", "/v2/"):
        answer = ask(api, "GET", path)
        assert answer.status_code == 200
        assert answer.json()["name"] == "mlbuffet"
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", answer.json()["version"])
        assert {"binary_tensor_data", "model_configuration", "model_repository", "statistics"} <= set(
            answer.json()["extensions"]
        )


def test_health_is_a_json_body(api: RunningPlatform) -> None:
    assert ask(api, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(api, "GET", "/v2/health/ready").json() == {"ready": True}
    assert ask(api, "GET", "/v2/models/iris.onnx/ready").json() == {"name": "iris.onnx", "ready": True}
    assert ask(api, "GET", "/v2/models/iris.onnx/versions/1/ready").json() == {"name": "iris.onnx", "ready": True}


def test_metadata_is_that_of_v1_in_the_protocols_words(api: RunningPlatform) -> None:
    known = requests.get(api.path("pair"), timeout=10).json()
    for path in ("/v2/models/pair", "/v2/models/pair/versions/1"):
        data = ask(api, "GET", path).json()
        assert (data["name"], data["versions"], data["platform"]) == ("pair", ["1"], "onnxruntime_onnx")
        for side in ("inputs", "outputs"):
            expected = [
                spec | {"shape": [-1 if axis is None else axis for axis in spec["shape"]]} for spec in known[side]
            ]
            assert data[side] == expected


def test_the_configuration_has_what_perf_analyzer_reads(api: RunningPlatform) -> None:
    for path in ("/v2/models/iris.onnx/config", "/v2/models/iris.onnx/versions/1/config"):
        data = ask(api, "GET", path).json()
        assert data["name"] == "iris.onnx"
        assert data["max_batch_size"] > 0
        assert data["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [4]}]
        assert [(item["name"], item["dims"]) for item in data["output"]] == [("label", [1]), ("probabilities", [3])]
        assert data["instance_group"][0]["count"] >= 1
    assert ask(api, "GET", "/v2/models/long/config").json()["max_batch_size"] == 0


def test_statistics_have_a_row_for_each_version(api: RunningPlatform) -> None:
    infer(api, ROW)
    for path in ("/v2/models/iris.onnx/stats", "/v2/models/iris.onnx/versions/1/stats"):
        (row,) = ask(api, "GET", path).json()["model_stats"]
        assert (row["name"], row["version"]) == ("iris.onnx", "1")
        assert {"count", "ns"} == set(row["inference_stats"]["compute_infer"])
    names = [row["name"] for row in ask(api, "GET", "/v2/models/stats").json()["model_stats"]]
    assert sorted(names) == api.names()


def test_statistics_count_what_was_asked(api: RunningPlatform) -> None:
    def counted() -> dict[str, Any]:
        (row,) = ask(api, "GET", "/v2/models/pair/stats").json()["model_stats"]
        found: dict[str, Any] = row
        return found

    before = counted()
    if any(item["event"] == "no statistics" and item["code"] == "NOT_FOUND" for item in api.records()):
        pytest.skip("these modelhosts keep no statistics yet")
    inputs = [{"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} for name in ("a", "b")]
    for _ in range(10):
        assert infer(api, {"inputs": inputs}, "/v2/models/pair/infer").status_code == 200
    assert infer(api, {"inputs": inputs[:1]}, "/v2/models/pair/infer").status_code == 400
    wait_until(lambda: counted()["inference_count"] == before["inference_count"] + 10)
    now = counted()
    assert now["execution_count"] > before["execution_count"]
    for name, more in (("success", 10), ("fail", 1)):
        assert now["inference_stats"][name]["count"] == before["inference_stats"][name]["count"] + more
        assert now["inference_stats"][name]["ns"] > before["inference_stats"][name]["ns"]
    assert abs(now["last_inference"] / 1000 - time.time()) < 60


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/none", 404, "NOT_FOUND"),
        ("GET", "/v2//", 404, "NOT_FOUND"),
        ("GET", "/v2/models", 404, "NOT_FOUND"),
        ("GET", "/v2/models/", 404, "NOT_FOUND"),
        ("GET", "/v2/health/ready/", 404, "NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/", 404, "NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/versions/", 404, "NOT_FOUND"),
        ("GET", "/v2/models/none", 404, "MODEL_NOT_FOUND"),
        ("GET", "/v2/models/none/ready", 404, "MODEL_NOT_FOUND"),
        ("GET", "/v2/models/none/config", 404, "MODEL_NOT_FOUND"),
        ("GET", "/v2/models/none/stats", 404, "MODEL_NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/versions/2", 404, "VERSION_NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/versions/2/ready", 404, "VERSION_NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/versions/0/config", 404, "VERSION_NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx/versions/x/stats", 404, "VERSION_NOT_FOUND"),
        ("GET", "/v2/models/iris.onnx:1/versions/1", 404, "VERSION_NOT_FOUND"),
        ("GET", "/v2/models/a b", 400, "INVALID_NAME"),
        ("GET", "/v2/models/x.pkl", 415, "UNSUPPORTED_TYPE"),
        ("POST", "/v2/models/none/infer", 404, "MODEL_NOT_FOUND"),
        ("POST", "/v2/models/iris.onnx/versions/9/infer", 404, "VERSION_NOT_FOUND"),
        ("POST", "/v2/repository/models/none/load", 404, "MODEL_NOT_FOUND"),
        ("POST", "/v2/repository/models/none/unload", 404, "MODEL_NOT_FOUND"),
    ],
)
def test_unknown_things_are_told_in_one_shape(
    method: str, path: str, status: int, code: str, api: RunningPlatform
) -> None:
    refused(ask(api, method, path, json=ROW if path.endswith("infer") else None), status, code)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2", "GET, HEAD, OPTIONS"),
        ("/v2/", "GET, HEAD, OPTIONS"),
        ("/v2/health/live", "GET, HEAD, OPTIONS"),
        ("/v2/models/iris.onnx", "GET, HEAD, OPTIONS"),
        (INFER, "OPTIONS, POST"),
        ("/v2/models/iris.onnx/versions/1/infer", "OPTIONS, POST"),
        ("/v2/repository/index", "OPTIONS, POST"),
        ("/v2/repository/models/iris.onnx/load", "OPTIONS, POST"),
    ],
)
def test_a_method_that_is_not_taken_is_told_which_are(path: str, allowed: str, api: RunningPlatform) -> None:
    answer = exchange(api.port, message("PATCH", path), "PATCH")
    assert (answer.status, answer.header("Allow")) == (405, allowed)
    assert list(json.loads(answer.body)) == ["error"]
    assert answer.header("X-Error-Code") == "METHOD_NOT_ALLOWED"
    answer = exchange(api.port, message("OPTIONS", path), "OPTIONS")
    assert (answer.status, answer.header("Allow"), answer.body) == (200, allowed, b"")


# Inference ----------------------------------------------------------------------------------------------------------


def test_v1_and_v2_answer_the_same(api: RunningPlatform) -> None:
    rows: list[list[float]] = [[2, 5, 1, 4], [7, 3.2, 4.7, 1.4]]
    expected = requests.post(
        f"{api.path('iris.onnx')}/prediction", json={"values": rows, "outputs": "all"}, timeout=10
    ).json()["outputs"]
    for data in (rows, [*rows[0], *rows[1]]):
        body = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": data}]}
        answer = infer(api, body)
        found = tensors(answer)
        assert found["label"] == expected["label"]
        assert found["probabilities"] == [*expected["probabilities"][0], *expected["probabilities"][1]]
        assert answer.headers["X-Model-Version"] == "1"
        assert (answer.json()["model_name"], answer.json()["model_version"]) == ("iris.onnx", "1")


def test_a_version_is_named_in_the_address(api: RunningPlatform) -> None:
    expected = infer(api, ROW).content
    for path in ("/v2/models/iris.onnx/versions/1/infer", "/v2/models/iris.onnx:1/infer"):
        assert infer(api, ROW, path).content == expected


def test_id_outputs_and_parameters(api: RunningPlatform) -> None:
    answer = infer(api, ROW | {"id": "mine-7", "outputs": [{"name": "probabilities"}], "parameters": {"x": 1}})
    assert answer.json()["id"] == "mine-7"
    assert list(tensors(answer)) == ["probabilities"]


def split_body(request: dict[str, Any], *data: bytes) -> tuple[bytes, str]:
    """JSON with tensors behind it, and its header's value."""
    text = json.dumps(request).encode()
    return text + b"".join(data), str(len(text))


def test_tensors_as_bytes_both_ways(api: RunningPlatform) -> None:
    array = np.array([[2, 5, 1, 4]], "<f4")
    size = {"parameters": {"binary_data_size": array.nbytes}}
    request = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", **size}]}
    expected = tensors(infer(api, ROW))
    body, split = split_body(request, array.tobytes())
    assert tensors(infer(api, body, **{SPLIT: split})) == expected
    for asked in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("label", "probabilities")]},
    ):
        body, split = split_body(request | asked, array.tobytes())
        for content_type in ("application/octet-stream", "application/json", ""):
            headers = {SPLIT: split} | ({"Content-Type": content_type} if content_type else {})
            found = tensors(infer(api, body, **headers))
            assert found["label"].tolist() == expected["label"]
            np.testing.assert_allclose(found["probabilities"][0], expected["probabilities"], rtol=1e-6)
    # All of it JSON: as if the field were not there.
    text = json.dumps(ROW).encode()
    assert infer(api, text, **{SPLIT: str(len(text))}).content == infer(api, text).content


def test_json_and_bytes_mixed(api: RunningPlatform) -> None:
    array = np.array([[3, 5]], "<f4")
    specs = requests.get(api.path("pair"), timeout=10).json()["inputs"]
    assert [spec["datatype"] for spec in specs] == ["FP32", "FP32"]
    request = {
        "inputs": [
            {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
            {"name": "b", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "total", "parameters": {"binary_data": True}}, {"name": "difference"}],
    }
    body, split = split_body(request, array.tobytes())
    found = tensors(infer(api, body, "/v2/models/pair/infer", **{SPLIT: split}))
    assert found["total"].tolist() == [[4, 7]]
    assert found["difference"] == [-2, -3]


def test_bare_bytes_of_the_one_input(api: RunningPlatform) -> None:
    array = np.array([[2, 5, 1, 4], [7, 3.2, 4.7, 1.4]], "<f4")
    answer = infer(api, array.tobytes(), **{SPLIT: "0", "Content-Type": "application/octet-stream"})
    assert tensors(answer)["label"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "split", ["abc", "-1", "+5", "1.5", "0x5", "", "99999999", "9" * 400, "5,5", "1 2", "\xb2", "NaN", "1_0"]
)
def test_a_split_that_is_none_is_refused(split: str, api: RunningPlatform) -> None:
    request = message("POST", INFER, {SPLIT: split}, json.dumps(ROW).encode())
    answer = exchange(api.port, request)
    assert (answer.status, answer.header("X-Error-Code")) == (400, "BAD_REQUEST")
    assert SPLIT in json.loads(answer.body)["error"]
    assert len(answer.body) < 400


def test_a_split_that_stands_there_twice_is_refused(api: RunningPlatform) -> None:
    body, split = split_body(ROW, b"more")
    answer = exchange(api.port, message("POST", INFER, [(SPLIT, split), (SPLIT.lower(), split)], body))
    assert (answer.status, answer.header("X-Error-Code")) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("off", [-1, 1, -7])
def test_sizes_that_do_not_fit_together_are_refused(off: int, api: RunningPlatform) -> None:
    data = np.zeros(4, "<f4").tobytes()
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32"}
    for announced, sent in ((16 + off, 16), (16, 16 + off), (16 + off, 16 + off)):
        body, split = split_body(
            {"inputs": [tensor | {"parameters": {"binary_data_size": announced}}]}, (data * 2)[:sent]
        )
        answer = infer(api, body, **{SPLIT: split})
        assert answer.status_code == 400, answer.text
    assert infer(api, data[:off] if off < 0 else data + b"x", **{SPLIT: "0"}).status_code == 400


TYPES = [
    "application/json", "application/json; charset=utf-8", "text/json", "application/octet-stream", "",
    "application/x-www-form-urlencoded", "APPLICATION/JSON",
]  # fmt: skip


def test_the_content_type_may_be_missing_or_one_of_several(api: RunningPlatform) -> None:
    text = json.dumps(ROW).encode()
    expected = infer(api, text).content
    for value in TYPES:
        assert infer(api, text, **{"Content-Type": value}).content == expected
    assert exchange(api.port, message("POST", INFER, {}, text)).body == expected
    for value in ("image/png", "multipart/form-data; boundary=x", "application/xml", "text/plain", "\xe9"):
        answer = exchange(api.port, message("POST", INFER, {"Content-Type": value}, text))
        assert (answer.status, answer.header("X-Error-Code")) == (415, "UNSUPPORTED_TYPE")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "abc", "3600001"])
def test_a_deadline_is_a_number_of_milliseconds(value: str, api: RunningPlatform) -> None:
    text = refused(infer(api, ROW, **{"X-Request-Timeout-Ms": value}), 400, "BAD_REQUEST")
    assert "X-Request-Timeout-Ms" in text


# Compression --------------------------------------------------------------------------------------------------------


def test_compressed_bodies_are_taken_in_every_protocol(api: RunningPlatform) -> None:
    plain = infer(api, ROW).content
    body = json.dumps(ROW).encode()
    for coding, encode in (("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)):
        assert infer(api, encode(body), **{"Content-Encoding": coding}).content == plain
        values = encode(b'{"values": [2, 5, 1, 4]}')
        answer = ask(
            api, "POST", "/api/v1/models/iris.onnx/prediction", data=values, headers={"Content-Encoding": coding}
        )
        assert answer.json()["values"] == [1]


def test_the_split_counts_in_the_body_as_it_was_before(api: RunningPlatform) -> None:
    array = np.array([[2, 5, 1, 4]], "<f4")
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    body, split = split_body({"inputs": [tensor]}, array.tobytes())
    answer = infer(api, gzip.compress(body), **{SPLIT: split, "Content-Encoding": "gzip"})
    assert tensors(answer) == tensors(infer(api, ROW))


def long_request(count: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [count], "datatype": "FP64", "data": np.linspace(0, 1, count).tolist()}]}


def received(api: RunningPlatform, body: bytes, path: str, accept: str) -> tuple[str | None, bytes, str | None]:
    """The coding of an answer, its body as it came, and on what it depends."""
    answer = exchange(api.port, message("POST", path, {"Accept-Encoding": accept}, body))
    assert answer.status == 200, answer.body
    assert int(answer.header("Content-Length") or 0) == len(answer.body)
    return answer.header("Content-Encoding"), answer.body, answer.header("Vary")


def test_long_answers_are_compressed_where_that_is_asked_for(api: RunningPlatform) -> None:
    path, body = "/v2/models/long/infer", json.dumps(long_request(10_000)).encode()
    coding, plain, vary = received(api, body, path, "identity")
    assert (coding, vary) == (None, "Accept-Encoding")
    assert len(plain) > 1 << 16
    for accept, expected, decode in (
        ("gzip", "gzip", gzip.decompress),
        ("deflate", "deflate", zlib.decompress),
        ("gzip;q=0.1, deflate, br", "deflate", zlib.decompress),
        ("*;q=0.5", "gzip", gzip.decompress),
    ):
        coding, packed, vary = received(api, body, path, accept)
        assert (coding, vary) == (expected, "Accept-Encoding")
        assert decode(packed) == plain
        assert len(packed) < len(plain) / 1.5
    for accept in ("", "br", "gzip;q=0", "identity, gzip;q=0.5"):
        assert received(api, body, path, accept)[0] is None


def test_short_answers_and_tensors_are_not_compressed(api: RunningPlatform) -> None:
    coding, _, vary = received(api, json.dumps(ROW).encode(), INFER, "gzip")
    assert (coding, vary) == (None, None)
    request = json.dumps(long_request(10_000) | {"parameters": {"binary_data_output": True}}).encode()
    assert received(api, request, "/v2/models/long/infer", "gzip")[0] is None


# The model repository -----------------------------------------------------------------------------------------------


def state_of(api: RunningPlatform, name: str) -> tuple[str, str]:
    rows = ask(api, "POST", "/v2/repository/index").json()
    (row,) = [row for row in rows if row["name"] == name]
    assert row["version"] == "1"
    return row["state"], row["reason"]


def test_the_index_lists_every_version(api: RunningPlatform) -> None:
    for body in (b"", b"{}", b'{"ready": false}', b'{"ready": true}'):
        rows = ask(api, "POST", "/v2/repository/index", data=body).json()
        assert [row["name"] for row in rows] == api.names()
        assert {(row["version"], row["state"], row["reason"]) for row in rows} == {("1", "READY", "")}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v2/repository/index", b"{", "INVALID_JSON"),
        ("/v2/repository/index", b"[]", "BAD_REQUEST"),
        ("/v2/repository/index", b'{"ready": 1}', "BAD_REQUEST"),
        ("/v2/repository/index", b'{"repository": "x"}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/load", b'{"x": 1}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/load", b'{"parameters": []}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/load", b'{"parameters": {"config": "{}"}}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/load", b'{"parameters": {"file:1/model.onnx": "AA=="}}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/unload", b'{"parameters": {"unload_dependents": 1}}', "BAD_REQUEST"),
        ("/v2/repository/models/seven/unload", b'{"parameters": {"other": true}}', "BAD_REQUEST"),
    ],
)
def test_a_parameter_that_is_not_known_is_refused(path: str, body: bytes, code: str, api: RunningPlatform) -> None:
    refused(ask(api, "POST", path, data=body), 400, code)
    assert ask(api, "GET", "/v2/models/seven/ready").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {"unload_dependents": false}}'])
def test_what_is_unloaded_answers_503_until_it_is_loaded(body: bytes, api: RunningPlatform) -> None:
    assert ask(api, "POST", "/v2/repository/models/seven/unload", data=body).json() == {}
    for path in ("/v2/models/seven/infer", "/v2/models/seven/versions/1/infer"):
        request = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
        refused(infer(api, request, path), 503, "MODEL_UNLOADED")
    for path in ("/v2/models/seven/ready", "/v2/models/seven/versions/1/ready"):
        answer = ask(api, "GET", path)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (503, "MODEL_UNLOADED")
        assert answer.json()["ready"] is False
        assert int(answer.headers["Retry-After"]) >= 1
    assert ask(api, "GET", "/v2/models/seven").status_code == 200, "what it is can still be asked"
    assert state_of(api, "seven") == ("UNAVAILABLE", "unloaded")
    assert ask(api, "POST", "/v2/repository/models/seven/load", data=b"{}").json() == {}
    wait_until(lambda: state_of(api, "seven") == ("READY", ""))
    assert api.predict("seven", [[1]]).json()["values"] == [[7.0]]
