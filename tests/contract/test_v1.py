"""The shape of V1: what every answer has, whatever the route, and what the seed's clients rely on."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mlbuffet.errors import all_errors
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, RunningPlatform, wait_until
from tests.harness.raw_http import exchange, message
from tests.harness.zoo import zoo_platform

MODEL = constant(7)
GREETING = "Greetings from MLBuffet - Inferrer, the Machine Learning model server. For more information, visit /help"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with zoo_platform(tmp_path_factory.mktemp("v1"), {"seven": MODEL}) as platform:
        yield platform


# RFC 9110 has renamed these since some versions of Python were made.
RENAMED = {413: "Content Too Large", 422: "Unprocessable Content"}


def name_of(status: int) -> str:
    return RENAMED.get(status, HTTPStatus(status).phrase)


def ask(api: RunningPlatform, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401 - as requests takes them
    """Send a request, and check what every answer has."""
    answer = requests.request(method, api.url + path, timeout=30, **options)
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", answer.headers["X-Request-Id"])
    if answer.headers["Content-Type"] == "application/json" and method != "HEAD":
        status = answer.json()["http_status"]
        assert list(status) == ["code", "name", "description"]
        assert (status["code"], status["name"]) == (answer.status_code, name_of(answer.status_code))
        assert isinstance(status["description"], str)
    return answer


def refused(answer: requests.Response, status: int, code: str) -> str:
    """Check that the answer is this error in V1's shape; returns its message."""
    data = answer.json()
    assert (answer.status_code, data["error"]["code"]) == (status, code), data
    assert answer.headers["Content-Type"] == "application/json"
    assert list(data) == ["http_status", "error"]
    assert list(data["error"]) == ["code", "message", "request_id", "retryable"]
    assert data["error"]["request_id"] == answer.headers["X-Request-Id"]
    known = next(error for error in all_errors() if error.code == code)
    assert (known.status, known.retryable) == (status, data["error"]["retryable"])
    assert answer.headers.get("Retry-After") == (str(known.retry_after_s) if known.retry_after_s else None)
    message: str = data["error"]["message"]
    assert message
    assert "Traceback" not in message
    assert "/work" not in message
    return message


ROUTES: list[tuple[str, str, dict[str, Any], int, list[str]]] = [
    ("GET", "/", {}, 200, []),
    ("GET", "/api/test", {}, 200, []),
    ("POST", "/api/test/sendtomodelhost", {"json": {"data": [1]}}, 200, ["served"]),
    ("GET", "/api/v1/models", {}, 200, ["model_list"]),
    ("GET", "/api/v1/models/information", {}, 200, ["model_list"]),
    ("GET", "/api/v1/models/iris.onnx", {}, 200, ["model", "version", "inputs", "outputs", "modelhosts", "input_name"]),
    ("GET", "/api/v1/models/iris.onnx:1", {}, 200, ["num_inputs", "output_name", "description", "model_type"]),
    ("POST", "/api/v1/models/seven", {"json": {"pinned": False}}, 200, ["model", "version", "digest"]),
    ("POST", "/api/v1/models/seven/default", {"json": {"default": 1}}, 200, ["model", "default"]),
    ("POST", "/api/v1/models/seven/unload", {}, 200, ["model", "version", "unloaded"]),
    ("POST", "/api/v1/models/seven/load", {}, 200, ["model", "version", "modelhosts"]),
    ("PUT", "/api/v1/models/seven", {"data": MODEL}, 200, ["model", "version", "digest", "size_bytes"]),
    ("PUT", "/api/v1/models/other", {"files": {"path": MODEL}}, 201, ["model", "version", "digest", "size_bytes"]),
    ("POST", "/api/v1/models/seven/prediction", {"json": {"values": [[1]]}}, 200, ["values"]),
    ("GET", "/api/v1/models/seven/prediction", {"json": {"values": [[1]]}}, 200, ["values"]),
    ("DELETE", "/api/v1/models/other", {}, 200, ["deleted"]),
    ("GET", "/api/v1/updatemodels", {}, 200, ["adopted", "forgotten", "changed", "refused"]),
    ("GET", "/health/live", {}, 200, ["live"]),
    ("GET", "/health/ready", {}, 200, ["ready"]),
]


def test_every_route_answers_in_the_envelope(api: RunningPlatform) -> None:
    for method, path, options, status, fields in ROUTES:
        answer = ask(api, method, path, **options)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json"), answer.text
        assert next(iter(answer.json())) == "http_status"
        assert set(fields) <= set(answer.json()), answer.text
        assert "error" not in answer.json()


def test_head_is_get_without_a_body(api: RunningPlatform) -> None:
    for method, path, _, status, _ in ROUTES:
        if method == "GET" and not path.endswith(("prediction", "updatemodels")):
            answer = exchange(api.port, message("HEAD", path, {"Connection": "close"}), "HEAD")
            assert (answer.status, answer.body) == (status, b""), path


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/none", {}, 404, "NOT_FOUND"),
        ("GET", "/api/v1/models/", {}, 404, "NOT_FOUND"),
        ("GET", "/api/v2/models", {}, 404, "NOT_FOUND"),
        ("GET", "/health", {}, 404, "NOT_FOUND"),
        ("GET", "/console", {}, 404, "NOT_FOUND"),
        ("GET", "/?__debugger__=yes&cmd=resource&f=style.css", {}, 200, ""),
        ("GET", "/.git/config", {}, 404, "NOT_FOUND"),
        ("GET", "/static/x", {}, 404, "NOT_FOUND"),
        ("GET", "/api/v1/models/none", {}, 404, "MODEL_NOT_FOUND"),
        ("GET", "/api/v1/models/iris.onnx:9", {}, 404, "VERSION_NOT_FOUND"),
        ("GET", "/api/v1/models/iris.onnx:x", {}, 404, "VERSION_NOT_FOUND"),
        ("GET", "/api/v1/models/none/download", {}, 404, "MODEL_NOT_FOUND"),
        ("DELETE", "/api/v1/models/none", {}, 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none", {"json": {"pinned": True}}, 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none/default", {"json": {"default": 1}}, 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none/load", {}, 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none/unload", {}, 404, "MODEL_NOT_FOUND"),
        ("POST", "/api/v1/models/none/prediction", {"json": {"values": [1]}}, 404, "MODEL_NOT_FOUND"),
        ("GET", "/api/v1/models/..", {}, 404, "NOT_FOUND"),
        ("GET", "/api/v1/models/%2e%2e%2fx", {}, 404, "NOT_FOUND"),
        ("GET", "/api/v1/models/a b", {}, 400, "INVALID_NAME"),
        ("PUT", "/api/v1/models/x.pkl", {"data": MODEL}, 415, "UNSUPPORTED_TYPE"),
        ("PUT", "/api/v1/models/seven:2", {"data": MODEL}, 400, "BAD_REQUEST"),
        ("PUT", "/api/v1/models/bad", {"data": b"hello"}, 422, "INVALID_MODEL"),
        ("PUT", "/api/v1/models/bad", {"data": b""}, 422, "INVALID_MODEL"),
        ("PUT", "/api/v1/models/bad", {"files": {"file": MODEL}}, 400, "BAD_MULTIPART"),
        ("POST", "/api/v1/models/seven", {"data": b"{"}, 400, "INVALID_JSON"),
        ("POST", "/api/v1/models/seven", {"json": {}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven", {"json": []}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven", {"json": {"name": "x"}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven", {"json": {"model_description": 5}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven", {"json": {"pinned": "yes"}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven/default", {"json": {"default": "1"}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven/default", {"json": {"default": True}}, 422, "INVALID_FIELD"),
        ("POST", "/api/v1/models/seven/default", {"json": {"default": 9}}, 404, "VERSION_NOT_FOUND"),
        ("POST", "/api/test/sendtomodelhost", {"json": {}}, 422, "INVALID_FIELD"),
        ("POST", "/api/test/sendtomodelhost", {"json": {"data": "abc"}}, 422, "INVALID_FIELD"),
        ("POST", "/api/test/sendtomodelhost", {"json": {"data": {"a": 1}}}, 422, "INVALID_FIELD"),
        ("POST", "/api/test/sendtomodelhost", {"json": {"data": [0] * 10_001}}, 422, "INVALID_FIELD"),
        ("POST", "/api/test/sendtomodelhost", {"data": b""}, 400, "INVALID_JSON"),
        ("POST", "/api/test/sendtomodelhost", {"data": b'{"data": [NaN]}'}, 400, "INVALID_JSON"),
        ("POST", "/api/test/sendtomodelhost", {"data": b"[" * 300 + b"]" * 300}, 400, "INVALID_JSON"),
        ("POST", "/api/test/sendtomodelhost", {"data": b'{"data": ' + b"[" * 5000}, 400, "INVALID_JSON"),
        ("POST", "/api/test/sendtomodelhost", {"data": b'{"data": ["' + b"x" * (1 << 20) + b'"]}'}, 413, "TOO_LARGE"),
        ("GET", "/api/v1/models?limit=0", {}, 400, "BAD_REQUEST"),
        ("GET", "/api/v1/models?limit=-1", {}, 400, "BAD_REQUEST"),
        ("GET", "/api/v1/models?limit=x", {}, 400, "BAD_REQUEST"),
        ("GET", "/api/v1/models?limit=99999999999", {}, 400, "BAD_REQUEST"),
    ],
)  # fmt: skip
def test_errors_have_one_shape(
    method: str, path: str, options: dict[str, Any], status: int, code: str, api: RunningPlatform
) -> None:
    answer = ask(api, method, path, **options)
    if code:
        refused(answer, status, code)
    else:
        assert answer.status_code == status


ALLOWED = [
    ("/", "GET, HEAD, OPTIONS"),
    ("/help", "GET, HEAD, OPTIONS"),
    ("/api/test/sendtomodelhost", "OPTIONS, POST"),
    ("/api/v1/models", "GET, HEAD, OPTIONS"),
    ("/api/v1/models/x", "DELETE, GET, HEAD, OPTIONS, POST, PUT"),
    ("/api/v1/models/x/default", "OPTIONS, POST"),
    ("/api/v1/models/x/load", "OPTIONS, POST"),
    ("/api/v1/models/x/prediction", "GET, HEAD, OPTIONS, POST"),
    ("/metrics", "GET, HEAD, OPTIONS"),
]


@pytest.mark.parametrize(("path", "allowed"), ALLOWED)
def test_a_method_that_is_not_taken_is_told_which_are(path: str, allowed: str, api: RunningPlatform) -> None:
    for method in ("PATCH", "FOO", "TRACE"):
        answer = exchange(api.port, message(method, path), method)
        if method == "FOO":
            assert answer.status == 501, "no resource takes what HTTP does not have"
            continue
        assert (answer.status, answer.header("Allow")) == (405, allowed)
        assert b'"METHOD_NOT_ALLOWED"' in answer.body
    answer = exchange(api.port, message("OPTIONS", path), "OPTIONS")
    assert (answer.status, answer.header("Allow"), answer.body) == (200, allowed, b"")


def test_the_greeting_is_the_seeds(api: RunningPlatform) -> None:
    """Beside it stands what KServe's client asks for."""
    answer = ask(api, "GET", "/")
    http_status = {"code": 200, "name": "OK", "description": GREETING}
    assert answer.json() == {"http_status": http_status, "status": "alive"}


def test_help_lists_every_route_with_a_line_that_runs(api: RunningPlatform) -> None:
    answer = ask(api, "GET", "/help")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    listed = re.findall(r"^([A-Z ]+) (/\S*)$", answer.text, re.MULTILINE)
    expected = {(method, re.sub(r"(iris\.onnx|seven|other)(:1)?", "<name>", path)) for method, path, *_ in ROUTES}
    others = ("/v1", "/v2", "/docs", "/openapi.json", "/api/v1/keys", "/api/v1/train", "/api/v1/runs")
    found = {(method, path) for methods, path in listed for method in methods.split() if not path.startswith(others)}
    assert expected <= found
    assert found - expected == {("GET", "/help"), ("GET", "/metrics"), ("GET", "/api/v1/models/<name>/download")}
    blocks = answer.text.split("\n\n")[1:]
    assert len(blocks) == len(listed)
    assert all("curl " in block for block in blocks)
    lines = [line.strip() for line in answer.text.splitlines() if line.strip().startswith("curl ")]
    assert all(api.url in line for line in lines)
    lines = [line for line in lines if "/api/v1/keys" not in line]  # the first key would shut out the others
    for line in sorted(lines, key=lambda line: ("DELETE" in line, "PUT" not in line)):
        words = shlex.split(line)
        target = [words[0], "--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}"]
        rest = ["-o", "/dev/null", *words[3:]] if words[1] == "-o" else words[1:]
        done = subprocess.run([*target, *rest], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        # There is no trainer here; test_training_api.py asks one.
        is_training = "/api/v1/train" in line or "/api/v1/runs" in line
        assert done.stdout in ({"503"} if is_training else {"200", "201"}), (line, done.stdout, done.stderr)


def test_help_repeats_no_odd_host(api: RunningPlatform) -> None:
    for host in ("<script>", "a'$(id)", "x;y", "a" * 300):
        answer = exchange(api.port, message("GET", "/help", {"Host": host, "Connection": "close"}), "GET")
        assert host.encode() not in answer.body
    answer = exchange(api.port, message("GET", "/help", {"Host": "LocalHost:80", "Connection": "close"}), "GET")
    assert b"curl http://LocalHost:80/api/test" in answer.body


def test_what_was_sent_to_a_modelhost_is_served_and_logged(api: RunningPlatform) -> None:
    data = ["a", "é\u2028\r\n", 5, None, {"x": [1]}, [], 1.5, True, "=cmd()", {"level": "ERROR", "event": "forged"}]
    headers = {"X-Request-Id": "echo-1"}
    served = ask(api, "POST", "/api/test/sendtomodelhost", json={"data": data}, headers=headers).json()["served"]
    assert [item["element"] for item in served] == data
    assert {item["modelhost"] for item in served} <= {"modelhost-1", "modelhost-2"}
    records = [item for item in api.records() if item.get("request_id") == "echo-1" and item["event"] == "echo"]
    assert [(item["modelhost"], item["element"]) for item in records] == [
        (item["modelhost"], item["element"]) for item in served
    ]
    for host in ("modelhost-1", "modelhost-2"):
        elements = [item["element"] for item in api.records(host) if item["event"] == "echo"]
        assert all(item["element"] in elements for item in served if item["modelhost"] == host)
    assert ask(api, "POST", "/api/test/sendtomodelhost", json={"data": []}).json()["served"] == []


def test_deep_json_is_echoed_or_refused_and_hangs_nowhere(api: RunningPlatform) -> None:
    for depth in (50, 90):
        data = b'{"data": [' + b"[" * depth + b"]" * depth + b"]}"
        assert ask(api, "POST", "/api/test/sendtomodelhost", data=data).status_code == 200
    for depth in (120, 250, 500, 1000, 100_000):
        data = b'{"data": [' + b"[" * depth + b"]" * depth + b"]}"
        refused(ask(api, "POST", "/api/test/sendtomodelhost", data=data), 400, "INVALID_JSON")


@pytest.mark.parametrize(
    "text", ["Größe 数据 \U0001f600", "<img src=x onerror=alert(1)>", "a\r\nb\0\u2028", "", "x" * 10_000]
)
def test_descriptions_are_any_text(text: str, api: RunningPlatform) -> None:
    changed = ask(api, "POST", "/api/v1/models/seven", json={"model_description": text})
    assert changed.json()["description"] == text
    assert ask(api, "GET", "/api/v1/models/seven").json()["description"] == text
    listed = ask(api, "GET", "/api/v1/models/information").json()["model_list"]
    assert next(item["description"] for item in listed if item["model"] == "seven") == text
    too_long = ask(api, "POST", "/api/v1/models/seven", json={"model_description": "x" * 10_001})
    refused(too_long, 422, "INVALID_FIELD")


def test_lists_are_paged_without_a_gap(api: RunningPlatform) -> None:
    names = ask(api, "GET", "/api/v1/models").json()["model_list"]
    assert names == sorted(names)
    assert {"iris.onnx", "wine.onnx", "seven"} <= set(names)
    for path in ("/api/v1/models", "/api/v1/models/information"):
        for limit in (1, 2, len(names), len(names) + 1):
            found: list[str] = []
            after = ""
            while True:
                page = ask(api, "GET", path, params={"limit": str(limit), "after": after}).json()
                found += [item if isinstance(item, str) else item["model"] for item in page["model_list"]]
                if "next" not in page:
                    break
                assert len(page["model_list"]) == limit
                after = page["next"]
            assert found == names
        assert ask(api, "GET", path, params={"after": "zzz"}).json()["model_list"] == []


def test_a_model_downloads_as_it_was_uploaded(api: RunningPlatform) -> None:
    answer = ask(api, "GET", "/api/v1/models/seven/download")
    assert answer.content == MODEL
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="seven"'
    assert answer.headers["X-Model-Version"] == "1"


def counted(api: RunningPlatform, **labels: str) -> float:
    """The sum of a counter over all series with these labels, as Prometheus' own parser reads it."""
    families = {family.name: family for family in text_string_to_metric_families(ask(api, "GET", "/metrics").text)}
    samples = families["http_requests"].samples
    return sum(
        sample.value
        for sample in samples
        if sample.name == "http_requests_total" and labels.items() <= sample.labels.items()
    )


def test_metrics_parse_and_count(api: RunningPlatform) -> None:
    assert ask(api, "GET", "/metrics").headers["Content-Type"].startswith("text/plain; version=")
    route = "/api/v1/models/<name>/prediction"
    good = {"route": route, "status": "200", "model": "seven"}
    bad = {"route": route, "status": "400", "model": "seven"}
    before = counted(api, **good), counted(api, **bad), counted(api, route=route, method="GET")
    for _ in range(20):
        api.predict("seven", [[1]])
        api.predict("seven", [[1, 2]])
        api.predict("seven", [[1]], **{"X-Request-Timeout-Ms": "x"})
    requests.get(f"{api.path('seven')}/prediction", json={"values": [[1]]}, timeout=10)
    wait_until(lambda: counted(api, **good) == before[0] + 21, 5, "21 good predictions in the counter")
    wait_until(lambda: counted(api, **bad) == before[1] + 40, 5, "40 bad ones")
    assert counted(api, route=route, method="GET") == before[2] + 1


def test_metrics_have_no_series_for_what_strangers_make_up(api: RunningPlatform) -> None:
    for number in range(30):
        ask(api, "GET", f"/made-up-{number}")
        ask(api, "GET", f"/api/v1/models/made-up-{number}")
        ask(api, "PROPFIND", f"/api/v1/models/made-up-{number}")
    wait_until(lambda: counted(api, status="404") >= 60, 5, "what was not found being counted")
    text = ask(api, "GET", "/metrics").text
    assert "made-up" not in text
    assert "PROPFIND" not in text


def test_health_reveals_nothing(api: RunningPlatform) -> None:
    for path, field in (("/health/live", "live"), ("/health/ready", "ready")):
        data = ask(api, "GET", path).json()
        assert data.pop(field) is True
        assert list(data) == ["http_status"]


def test_every_failure_is_logged_once_with_its_id(api: RunningPlatform) -> None:
    ids = []
    for number, (method, path) in enumerate([("GET", "/none"), ("PATCH", "/"), ("GET", "/api/v1/models/none")]):
        ids.append(f"failure-{number}")
        ask(api, method, path, headers={"X-Request-Id": ids[-1]})
    for request_id in ids:
        records = [item for item in api.records() if item.get("request_id") == request_id]
        assert len(records) == 1
        assert records[0]["event"] == "request failed"
