"""Keys are asked for in the same way with the lane and without it, by whatever path and in whatever spelling."""

import re
import socket
from collections.abc import Iterator

import pytest

from mlbuffet.keys import SCOPES, Wish
from tests.contract.test_lanes import GOOD, INFER, IRIS, TENSORS, masked
from tests.contract.test_lanes import Case as Asked
from tests.harness.keyed import FirstKeys, bearer
from tests.harness.platform import RunningPlatform, running_platform
from tests.harness.raw_http import Answer, exchange, message, read_all

Platforms = tuple[RunningPlatform, RunningPlatform, FirstKeys]
ADDRESSES = [
    ("POST", IRIS, GOOD),
    ("GET", IRIS, GOOD),
    ("POST", INFER, TENSORS),
    ("POST", "/v1/models/iris.onnx:predict", b'{"instances": [[2, 5, 1, 4]]}'),
    ("GET", "/api/v1/models", b""),
    ("GET", "/v2/models/iris.onnx", b""),
    ("PUT", "/api/v1/models/new", b"no model"),
    ("DELETE", "/api/v1/models/iris.onnx", b""),
    ("GET", "/api/v1/updatemodels", b""),
    ("GET", "/api/v1/keys", b""),
    ("GET", "/metrics", b""),
    ("GET", "/nowhere", b""),
    ("PATCH", "/api/v1/models", b""),
    ("OPTIONS", "/api/v1/models", b""),
    ("HEAD", "/api/v1/models", b""),
]


@pytest.fixture(scope="module")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platforms]:
    """The same keys with the lane and without it, as a deployment gives them."""
    folder = tmp_path_factory.mktemp("keys")
    wishes = {scope: Wish(scope, [scope]) for scope in SCOPES} | {"slow": Wish("slow", ["predict"], None, 0.001)}
    keys = FirstKeys(folder, wishes)
    options = {"modelhosts": 1, "workers": 1, "key": keys.texts["admin"]}
    on = keys.environment | {"INFERRER_TRUSTED_PROXIES": "127.0.0.0/8"}
    off = on | {"INFERRER_LANE": "off"}
    with (
        running_platform(folder / "fast", environment=on, **options) as fast,
        running_platform(folder / "plain", environment=off, **options) as plain,
    ):
        yield fast, plain, keys


def alike(platforms: Platforms, method: str, path: str, fields: object, body: bytes = b"") -> Answer:
    """The answer of both platforms, which is the same but for ids and dates."""
    request = message(method, path, fields, body)  # type: ignore[arg-type]
    case = Asked(path, request, method)
    fast, plain = (exchange(platform.port, request, method) for platform in platforms[:2])
    assert masked(case, fast) == masked(case, plain)
    return fast


def wrong_fields(keys: FirstKeys) -> dict[str, list[tuple[str, str]]]:
    """Header fields that hold no key that counts."""
    right = keys.texts["admin"]
    flipped = right[:-1] + chr(ord(right[-1]) ^ 1)
    return {
        "nothing": [],
        "empty": [("Authorization", "")],
        "one bit flipped": [("Authorization", f"Bearer {flipped}")],
        "one bit flipped in the other field": [("X-Api-Key", flipped)],
        "unknown id": [("Authorization", f"Bearer 000000000000.{right.partition('.')[2]}")],
        "id alone": [("Authorization", f"Bearer {right.partition('.')[0]}")],
        "basic": [("Authorization", f"Basic {right}")],
        "bare": [("Authorization", right)],
        "twice": [("Authorization", f"Bearer {right}")] * 2,
        "two different": [("Authorization", f"Bearer {right}"), ("X-Api-Key", flipped)],
        "basic beside a right one": [("Authorization", "Basic YTpi"), ("X-Api-Key", right)],
        "not ASCII": [("Authorization", f"Bearer {right}\xe9")],
        "8 KB": [("Authorization", f"Bearer {right}{'A' * 8000}")],
        "in a cookie": [("Cookie", f"key={right}")],
    }


def test_s02_whatever_is_wrong_with_a_key_the_answer_is_the_same(platforms: Platforms) -> None:
    bodies = set()
    for number, fields in enumerate(wrong_fields(platforms[2]).values()):
        for other, (method, path, body) in enumerate(ADDRESSES):
            client = ("X-Forwarded-For", f"10.{number}.{other}.1")  # or most would be told to wait
            answer = alike(platforms, method, path, [*fields, client], body)
            assert (answer.status, answer.header("WWW-Authenticate")) == (401, "Bearer"), (fields, method, path)
            if method != "HEAD":
                v2 = path.startswith(("/v1/", "/v2/"))
                assert (answer.header("X-Error-Code") == "UNAUTHENTICATED") is v2
                bodies.add((v2, re.sub(rb'"request_id":"[^"]+"', b"", answer.body)))
    assert len(bodies) == 2


@pytest.mark.parametrize("fields", [[("Authorization", "Bearer a\x00b")], [("X-Api-Key", "a" * 10_000)]])
def test_s02_what_no_field_can_hold_is_no_request(platforms: Platforms, fields: list[tuple[str, str]]) -> None:
    assert alike(platforms, "GET", "/api/v1/models", fields).status in {400, 431}


def test_every_way_to_send_a_right_key(platforms: Platforms) -> None:
    right = platforms[2].texts["predict"]
    for fields in (
        {"Authorization": f"Bearer {right}"},
        {"authorization": f"bearer   {right}"},
        {"AUTHORIZATION": f"BEARER {right}"},
        {"X-Api-Key": right},
        {"X-Api-Key": right, "Authorization": f"Bearer {right}"},
    ):
        for method, path, body in ADDRESSES[:4]:
            assert alike(platforms, method, path, fields, body).status == 200


READ_ADDRESSES = {
    "GET /api/v1/models": 200,
    "HEAD /api/v1/models": 200,
    "GET /v2/models/iris.onnx": 200,
}
ALLOWED = {
    "predict": {f"{method} {path}": 200 for method, path, _ in ADDRESSES[:4]},
    "models:read": READ_ADDRESSES,
    "models:write": READ_ADDRESSES | {"PUT /api/v1/models/new": 422, "GET /api/v1/updatemodels": 200},
    "train": {},
}
ANYBODY = {"GET /nowhere": 404, "PATCH /api/v1/models": 405, "OPTIONS /api/v1/models": 200}


@pytest.mark.parametrize("scope", ALLOWED)
def test_s03_a_key_may_do_what_its_scope_says_and_nothing_else(platforms: Platforms, scope: str) -> None:
    for method, path, body in ADDRESSES:
        if path == "/metrics" or method == "DELETE":
            continue  # numbers differ; who deletes the model is another test's
        answer = alike(platforms, method, path, bearer(platforms[2].texts[scope]), body)
        expected = {**ANYBODY, **ALLOWED[scope]}.get(f"{method} {path}", 403)
        assert answer.status == expected, (scope, method, path, answer.body)
        if expected == 403 and method != "HEAD":
            assert b"scope" in answer.body


def test_s03_nobody_but_who_may_write_deletes(platforms: Platforms) -> None:
    for scope in ("predict", "models:read", "train"):
        answer = alike(platforms, "DELETE", "/api/v1/models/iris.onnx", bearer(platforms[2].texts[scope]))
        assert answer.status == 403
        answer = alike(platforms, "GET", "/api/v1/keys", bearer(platforms[2].texts[scope]))
        assert answer.status == 403


def test_open_routes_need_no_key_and_mind_no_wrong_one(platforms: Platforms) -> None:
    for path in ("/", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/help", "/docs"):
        for fields in ({}, bearer("wrong")):
            assert alike(platforms, "GET", path, fields).status == 200


def test_a_rate_is_kept_by_lane_and_flask_alike(platforms: Platforms) -> None:
    slow = bearer(platforms[2].texts["slow"])
    assert alike(platforms, "POST", IRIS, slow, GOOD).status == 200
    for path, body in ((IRIS, GOOD), (INFER, TENSORS), ("/api/v1/models", b"")):
        fast, plain = (exchange(platform.port, message("POST", path, slow, body)) for platform in platforms[:2])
        for answer in (fast, plain):
            assert answer.status == 429
            assert 900 < int(answer.header("Retry-After") or 0) <= 1000


TRICKS = [
    "//api/v1/keys", "/./api/v1/keys", "/api/./v1/keys", "/api/v1/models/../keys", "/api/v1/models/%2e%2e/keys",
    "/api/v1/models/..;/keys", "/api/v1/keys/", "/api/v1/keys;", "/api/v1/keys%00", "/api/v1/keys%2f", "/api/v1//keys",
    "/api/v1%2fkeys", "/api%5cv1%5ckeys", "/api\\v1\\keys", "/API/V1/KEYS", "/api/v1/key%73", "/%61pi/v1/keys",
    "/api/v1/keys?x=/health/live", "/health/live/../../api/v1/keys", "/health/live;/api/v1/keys", "/api/v1/keys%20",
    "/api/v1/keys%0d%0a", "/api/v1/keys#", "/v2/health/live%3f/../../../api/v1/keys", "http://127.0.0.1/api/v1/keys",
    "/api/v1/models/iris.onnx/prediction/../../../keys", "/api/v1/models/..%2fkeys/prediction", "/docs/../api/v1/keys",
    "/api/v1/keys/prediction", "/api/v1/models/iris.onnx%2f..%2f..%2fkeys", "/health%2flive", "/%2e/api/v1/keys",
]  # fmt: skip


@pytest.mark.parametrize("path", TRICKS)
def test_h08_no_spelling_of_a_path_goes_round_the_gate(platforms: Platforms, path: str) -> None:
    for who in ("nobody", "predict"):
        fields = {"X-Forwarded-For": f"10.9.9.{TRICKS.index(path)}"}
        fields |= bearer(platforms[2].texts[who]) if who != "nobody" else {}
        for method in ("GET", "POST"):
            answer = alike(platforms, method, path, fields, b"{}" if method == "POST" else b"")
            assert answer.status in {400, 401, 403, 404, 405}, answer.body
            assert b"scopes" not in answer.body
    admin = alike(platforms, "GET", path, bearer(platforms[2].texts["admin"]))
    if admin.status == 200:  # it is the same address; then it took the same key
        assert alike(platforms, "GET", path, bearer(platforms[2].texts["predict"])).status == 403


def test_h09_a_client_that_waits_for_leave_gets_its_refusal_instead(platforms: Platforms) -> None:
    for path, method in ((IRIS, "POST"), ("/api/v1/models/big", "PUT")):
        head = message(method, path, {"Expect": "100-continue", "Content-Length": "1000000"})
        for platform in platforms[:2]:
            with socket.create_connection(("127.0.0.1", platform.port), 10) as sock:
                sock.sendall(head)
                answered = read_all(sock)  # it closes: nothing of the body was sent, or is waited for
            assert answered.startswith(b"HTTP/1.1 401 ")
            assert b"100 Continue" not in answered
            assert b"\r\nConnection: close\r\n" in answered


def test_h07_host_is_to_be_one_name_whichever_it_is(platforms: Platforms) -> None:
    key = list(bearer(platforms[2].texts["predict"]).items())
    for host, status in (("evil.example", 200), ("a@b", 400), ("localhost:0", 400), ("", 400), ("a b", 400)):
        assert alike(platforms, "POST", IRIS, [("Host", host), *key], GOOD).status == status
    assert alike(platforms, "POST", IRIS, [("Host", "a"), ("Host", "a"), *key], GOOD).status == 400
    origin = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert alike(platforms, "POST", IRIS, origin | dict(key), GOOD).status == 200
    answer = alike(platforms, "POST", IRIS, origin, GOOD)
    assert answer.status == 401
    assert answer.header("Access-Control-Allow-Origin") is None
