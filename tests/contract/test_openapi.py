"""OpenAPI describes every route, every error and every answer: a route or an error that is not described fails here."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from inferrer.openapi.operation import NOWHERE
from inferrer.openapi.training import TRAINING
from mlbuffet.errors import all_errors
from tests.contract.test_lanes import CASES
from tests.harness.described import METHODS, Document
from tests.harness.onnx_models import constant, identity, two_inputs
from tests.harness.platform import SAMPLES, RunningPlatform, running_platform
from tests.harness.raw_http import exchange
from tests.harness.zoo import DATATYPES, quotient, zoo_platform

EITHER = 32 + zlib.MAX_WBITS  # gzip or zlib
MODEL = constant(7)
PICTURE = (SAMPLES / "images" / "seven.png").read_bytes()
SEVEN = "/api/v1/models/seven"
TENSOR = {"name": "x", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}
RAW = {"name": "y", "parameters": {"binary_data": True}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    models = {
        "seven": MODEL,
        "strings": identity(DATATYPES["BYTES"], ["N", 4]),
        "int64": identity(DATATYPES["INT64"], ["N", 4]),
        "pair": two_inputs(),
        "quotient": quotient(),
    }
    with zoo_platform(tmp_path_factory.mktemp("openapi"), models, modelhosts=1, workers=1) as platform:
        yield platform


@pytest.fixture(scope="module")
def document(api: RunningPlatform) -> Document:
    return Document(requests.get(f"{api.url}/openapi.json", timeout=10).json())


def ask(api: RunningPlatform, document: Document, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    """Send a request and hold its answer against the document."""
    answer = requests.request(method, api.url + path, timeout=30, **options)
    document.check(method, path.partition("?")[0], answer.status_code, answer.headers, answer.content)
    return answer


def test_document_is_openapi(document: Document) -> None:
    OpenAPIV31SpecValidator(document.data).validate()
    names = [operation["operationId"] for operation in document.operations()]
    assert len(set(names)) == len(names)


def test_every_route_is_described(api: RunningPlatform, document: Document) -> None:
    text = requests.get(f"{api.url}/help", timeout=10).text
    rules = re.findall(r"^([A-Z]+(?: [A-Z]+)*) (/\S*)$", text, re.MULTILINE)
    routes = {
        (method.lower(), re.sub(r"<(\w+)>", r"{\1}", rule)) for methods, rule in rules for method in methods.split()
    }
    paths: Mapping[str, Mapping[str, Any]] = document.data["paths"]
    assert routes == {(method, path) for path, item in paths.items() for method in item if method in METHODS}


def test_every_error_is_described(document: Document) -> None:
    nowhere = {error.code for error in NOWHERE}
    assert document.codes() - nowhere == {error.code for error in all_errors()} - nowhere


SUCCESSES: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/", {}),
    ("GET", "/help", {}),
    ("GET", "/metrics", {}),
    ("GET", "/docs", {}),
    ("GET", "/docs/page.js", {}),
    ("GET", "/openapi.json", {}),
    ("GET", "/health/live", {}),
    ("GET", "/health/ready", {}),
    ("GET", "/api/test", {}),
    ("POST", "/api/test/sendtomodelhost", {"json": {"data": [1, "a"]}}),
    ("GET", "/api/v1/models?limit=2", {}),
    ("GET", "/api/v1/models/information", {}),
    ("GET", "/api/v1/models/iris.onnx", {}),
    ("GET", "/api/v1/models/iris.onnx/download", {}),
    ("POST", SEVEN, {"json": {"pinned": False, "serving": {"batch_rows": 4}}}),
    ("POST", f"{SEVEN}/default", {"json": {"default": 1}}),
    ("POST", f"{SEVEN}/load", {}),
    ("POST", f"{SEVEN}/unload", {}),
    ("PUT", SEVEN, {"data": MODEL}),
    ("PUT", "/api/v1/models/other", {"files": {"path": MODEL}}),
    ("DELETE", "/api/v1/models/other", {}),
    ("GET", "/api/v1/updatemodels", {}),
    ("POST", f"{SEVEN}/prediction", {"json": {"values": [[1]]}}),
    ("GET", f"{SEVEN}/prediction", {"json": {"values": [[1]], "outputs": "all"}}),
    ("POST", "/api/v1/models/digits.onnx/prediction", {"files": {"file": PICTURE}}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/models/seven", {}),
    ("POST", "/v1/models/seven:predict", {"json": {"instances": [[1], [2]]}}),
    ("GET", "/v2", {}),
    ("GET", "/v2/", {}),
    ("GET", "/v2/health/live", {}),
    ("GET", "/v2/health/ready", {}),
    ("GET", "/v2/models/stats", {}),
    *(
        ("GET", f"/v2/models/seven{version}{what}", {})
        for version in ("", "/versions/1")
        for what in ("", "/ready", "/config", "/stats", "/openapi.json")
    ),
    ("POST", "/v2/models/seven/infer", {"json": {"id": "a", "inputs": [TENSOR]}}),
    ("POST", "/v2/models/seven/versions/1/infer", {"json": {"inputs": [TENSOR], "outputs": [RAW]}}),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/repository/index", {"json": {"ready": True}}),
    ("POST", "/v2/repository/models/seven/unload", {"json": {"parameters": {"unload_dependents": False}}}),
    ("POST", "/v2/repository/models/seven/load", {}),
]


OF_KEYS = {"list_keys", "create_key", "revoke_key"}
OF_TRAINING = set(TRAINING)


def test_every_operation_succeeds_as_described(api: RunningPlatform, document: Document) -> None:
    for method, path, options in SUCCESSES:
        answer = ask(api, document, method, path, **options)
        assert answer.status_code < 300, (method, path, answer.text)
    assert (
        document.succeeded >= {operation["operationId"] for operation in document.operations()} - OF_KEYS - OF_TRAINING
    )


def test_keys_are_made_and_refused_as_described(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1, workers=1) as platform:
        document = Document(requests.get(f"{platform.url}/openapi.json", timeout=10).json())
        path, made = "/api/v1/keys", {"json": {"name": "me", "scopes": ["admin"]}}
        assert ask(platform, document, "POST", path, json={"name": "me", "scopes": ["predict"]}).status_code == 409
        assert ask(platform, document, "POST", path, json={"name": "", "scopes": []}).status_code == 422
        admin = {"X-Api-Key": ask(platform, document, "POST", path, **made).json()["key"]}
        other = ask(
            platform, document, "POST", path, json={"name": "p", "scopes": ["predict"], "rate": 1}, headers=admin
        )
        predict = {"X-Api-Key": other.json()["key"]}
        assert [ask(platform, document, "GET", path, headers=predict).status_code for _ in range(2)] == [403, 429]
        assert ask(platform, document, "GET", path, headers=admin).status_code == 200
        for status in (200, 404):
            revoked = ask(platform, document, "DELETE", f"{path}/{other.json()['id']}", headers=admin)
            assert revoked.status_code == status
        for method, address, options in SUCCESSES:
            status = ask(platform, document, method, address, **options).status_code
            assert status in {200, 401}, (method, address)
        assert document.succeeded >= OF_KEYS


def test_failures_are_described(api: RunningPlatform, document: Document) -> None:
    """Whatever the two lanes are held equal with."""
    for case in CASES:
        answer = exchange(api.port, case.request, case.method)
        path = case.request.split(b" ")[1].decode("latin-1").partition("?")[0]
        if case.method in {"GET", "POST", "PUT", "DELETE"} and path.isascii():  # what is not is no address
            body = zlib.decompress(answer.body, EITHER) if answer.header("Content-Encoding") else answer.body
            document.check(case.method, path, answer.status, dict(answer.headers), body)


def test_refused_changes_are_described(api: RunningPlatform, document: Document) -> None:
    refusals: list[tuple[str, str, dict[str, Any], int]] = [
        ("PUT", f"{SEVEN}x", {"data": b"no model"}, 422),
        ("PUT", f"{SEVEN}.pkl", {"data": MODEL}, 415),
        ("PUT", SEVEN.upper().replace("API/V1/MODELS", "api/v1/models"), {"data": MODEL}, 409),
        ("PUT", SEVEN, {"data": MODEL, "headers": {"X-Content-SHA256": "0" * 64}}, 400),
        ("PUT", SEVEN, {"data": MODEL, "headers": {"If-Match": '"sha256:0"'}}, 412),
        ("PUT", SEVEN, {"files": {"wrong": MODEL}}, 400),
        ("PUT", SEVEN, {"files": {"path": MODEL}, "data": {"image": "{"}}, 400),
        ("PUT", SEVEN, {"files": {"path": MODEL}, "data": {"image": "[]"}}, 422),
        ("POST", SEVEN, {"json": {"pinned": 1}}, 422),
        ("POST", SEVEN, {"data": b"{"}, 400),
        ("POST", SEVEN, {"data": b"1" * 2_000_000}, 413),
        ("POST", f"{SEVEN}/default", {"json": {"default": 9}}, 404),
        ("GET", "/api/v1/models?limit=0", {}, 400),
        ("GET", "/api/v1/models", {"headers": {"Host": "elsewhere.example"}}, 421),
        ("GET", "/api/v1/models", {"headers": {"Origin": "http://elsewhere.example"}}, 403),
        ("GET", "/docs/none", {}, 404),
        ("GET", "/v1/models/none", {}, 404),
        ("POST", "/v1/models/seven:predict", {"json": {"instances": 1}}, 400),
        ("POST", "/v1/models/seven:predict", {"data": "x", "headers": {"Content-Type": "text/plain"}}, 415),
        ("GET", "/v2/models/seven/versions/9", {}, 404),
        ("GET", "/v2/models/a b", {}, 400),
        ("POST", "/v2/models/seven/infer", {"data": b"{"}, 400),
        ("POST", "/v2/models/none/infer", {"json": {"inputs": [TENSOR]}}, 404),
        ("POST", "/v2/repository/index", {"json": {"other": 1}}, 400),
        ("POST", "/v2/repository/models/none/load", {}, 404),
    ]
    for method, path, options, status in refusals:
        answer = ask(api, document, method, path, **options)
        assert answer.status_code == status, (method, path, answer.text)


def test_examples_are_of_their_schemas(document: Document) -> None:
    for operation in document.operations():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "example" in content:
                document.validate(json.loads(json.dumps(content["example"])), content["schema"])
    for parameter in document.data["components"]["parameters"].values():
        if "example" in parameter:
            document.validate(parameter["example"], parameter["schema"])


@pytest.mark.parametrize("name", ["iris.onnx", "diabetes.onnx", "digits.onnx", "wine.onnx", "pictures.onnx"])
def test_a_model_is_described_by_its_signature(api: RunningPlatform, name: str) -> None:
    """Its document is valid, and its examples are what it answers."""
    for version in ("", "/versions/1") if name == "iris.onnx" else ("",):
        document = Document(requests.get(f"{api.url}/v2/models/{name}{version}/openapi.json", timeout=10).json())
        OpenAPIV31SpecValidator(document.data).validate()
        for path in document.data["paths"]:
            operation = document.data["paths"][path]["post"]
            sent, given = (
                item["content"]["application/json"]
                for item in (operation["requestBody"], operation["responses"]["200"])
            )
            answer = ask(api, document, "POST", path, json=sent.get("example", {"instances": []}))
            if "example" in sent:
                document.validate(sent["example"], sent["schema"])
                assert answer.status_code == 200, answer.text
                assert approximately(answer.json()) == given["example"]


def approximately(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """JSON whose numbers may differ in their last digits, from one processor to the next."""
    if isinstance(value, dict):
        return {name: approximately(item) for name, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


def test_a_model_without_a_golden_example_is_described(api: RunningPlatform) -> None:
    for name in ("seven", "pair", "strings", "quotient"):
        data = requests.get(f"{api.url}/v2/models/{name}/openapi.json", timeout=10).json()
        OpenAPIV31SpecValidator(data).validate()
        assert "example" not in json.dumps(data["paths"])
    assert requests.get(f"{api.url}/v2/models/none/openapi.json", timeout=10).json().keys() == {"error"}
