"""Rows H08, H09, H11, H13, H14 and the checks of Host and Origin: odd ways to ask for what there is, and is not."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, running_platform
from tests.harness.raw_http import Answer, answers, converse, message

GOOD = b'{"values": [2, 5, 1, 4]}'
IRIS = "/api/v1/models/iris.onnx/prediction"
MODELS = "/api/v1/models/"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform that goes by a name, behind a proxy that has another one."""
    environment = {"INFERRER_HOSTS": "Models.Example", "INFERRER_ORIGINS": "https://console.example"}
    options = {"modelhosts": 1, "workers": 1, "environment": environment}
    with running_platform(tmp_path_factory.mktemp("named"), **options) as platform:
        yield platform


def ask(
    platform: RunningPlatform, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request as it stands, and its answer."""
    received = converse(platform.port, message(method, path, {"Connection": "close", **(headers or {})}, body))
    (found,) = answers(received, method)
    return found


def code(found: Answer) -> str:
    """The code of an error answer, which is JSON."""
    assert found.header("Content-Type") == "application/json"
    error: str = found.header("X-Error-Code") or json.loads(found.body)["error"]["code"]
    return error


def routes(platform: RunningPlatform) -> dict[str, list[str]]:
    """Every route that /help lists, filled with a model's name, and its methods."""
    lines = requests.get(f"{platform.url}/help", timeout=10).text.splitlines()
    found = [re.fullmatch(r"([A-Z]+(?: [A-Z]+)*) (/\S*)", line) for line in lines]
    listed: dict[str, list[str]] = {}
    for match in found:
        if match is not None:
            listed.setdefault(match[2].replace("<name>", "iris.onnx"), []).extend(match[1].split())
    assert len(listed) > 12
    return listed


def test_h08_only_the_plain_path_leads_to_a_route(shared_platform: RunningPlatform) -> None:
    tricks = (
        "//{0}", "/./{0}", "/x/../{0}", "/%2e/{0}", "/x/%2e%2e/{0}", "/..;/{0}", "/;/{0}", "/{0};x=1", "/{0}%00",
        "/{0}%0a", "/%00{0}", "///{0}", "\\{0}", "/\\{0}", "/{0}\\", "/{0}/", "/{0}/.", "/{0}/..", "/{0}//",
        "/{0}%20", "/{0}%2f", "/%2f{0}", "/%5c{0}", "/%252f{0}", "/{0}%3f", "/{0}%23", "/{0}#", "/{0}.json", "/{0}~",
        "/x/{0}", "/%ef%bc%8f{0}", "/%c0%af{0}", "/.{0}", "/{0}%2e", "/%20{0}", "/{0}\xff",
    )  # fmt: skip
    known = routes(shared_platform)
    listed = [path.removeprefix("/") for path in known if path != "/"]
    with unharmed(shared_platform):
        for path in listed:
            for trick in tricks:
                for shape in (path, path.replace("/", "%2F", 1), path.upper()):
                    asked = trick.format(shape)
                    if asked in known:  # /v2 with a slash is a route of its own
                        continue
                    for method in ("GET", "DELETE") if shape == path else ("GET",):
                        found = ask(shared_platform, method, asked)
                        assert found.status in {400, 404, 405}, (method, asked, found)
                        # Of a model or a key by another name, which takes other methods.
                        others = path.startswith(("api/v1/keys", "api/v1/train/")) or method == "DELETE"
                        assert found.status != 405 or others, (method, asked)
                        assert code(found)


def test_h09_a_refused_request_with_expect_is_refused_before_its_body(shared_platform: RunningPlatform) -> None:
    wrongs = {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Content-Length": str(1 << 31)}
    for number, wrong in enumerate(wrongs):
        for path, method in ((IRIS, "POST"), ("/api/v1/models/never.onnx", "PUT")):
            fields = {"Expect": "100-continue", "Content-Length": "1000000"} | wrong
            received = converse(shared_platform.port, message(method, path, fields))
            (found,) = answers(received)
            assert found.status == (421, 403, 413)[number]
            assert b"100 Continue" not in received


def test_h11_head_and_options_of_every_route(shared_platform: RunningPlatform) -> None:
    for path, methods in routes(shared_platform).items():
        allowed = sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])})
        options = ask(shared_platform, "OPTIONS", path)
        told = (options.header("Allow") or "").split(", ")
        assert (options.status, options.body, told) == (200, b"", sorted(told)), path
        assert set(told) >= set(allowed)  # a name that is reserved has its model's methods too
        head = ask(shared_platform, "HEAD", path)
        assert head.body == b""
        if "GET" in methods and path != IRIS:
            get = ask(shared_platform, "GET", path)
            assert (head.status, head.header("Content-Type")) == (get.status, get.header("Content-Type"))
            if path not in {"/metrics", "/health/ready"} and "download" not in path:
                assert head.header("Content-Length") == get.header("Content-Length") == str(len(get.body))
        elif "GET" not in methods:
            assert (head.status, head.header("Allow")) == (405, ", ".join(allowed))


def test_h11_errors_stay_json_whatever_is_accepted(shared_platform: RunningPlatform) -> None:
    for accept in ("text/html", "text/plain", "application/xml;q=1, */*;q=0", "image/*", "\xff"):
        for path in ("/nothing", f"{MODELS}none", f"{MODELS}a b"):
            assert ask(shared_platform, "GET", path, {"Accept": accept}).status in {400, 404}
        assert code(ask(shared_platform, "POST", IRIS, {"Accept": accept}, b"{")) == "INVALID_JSON"
    for kind in ("text/html", "application/x-java-serialized-object", "application/x-python-pickle", "a/b", "\xff"):
        found = ask(shared_platform, "POST", IRIS, {"Content-Type": kind}, GOOD)
        assert (found.status, code(found)) == (415, "UNSUPPORTED_TYPE")


def test_h13_nothing_that_was_sent_becomes_a_header(shared_platform: RunningPlatform) -> None:
    bad = "x%0d%0aSet-Cookie:%20a=b"
    for method, path in (
        ("GET", f"/{bad}"), ("GET", f"/?{bad}"), ("GET", f"{MODELS}{bad}"), ("PUT", f"{MODELS}{bad}"),
        ("POST", f"{MODELS}{bad}/prediction"), ("GET", f"/help?{bad}"), ("GET", f"{MODELS}iris.onnx/download?{bad}"),
        ("GET", f"{MODELS}?after={bad}"), ("DELETE", f"{MODELS}{bad}"), ("OPTIONS", f"/{bad}"),
        ("HEAD", f"{MODELS}{bad}"),
    ):  # fmt: skip
        for value in (bad, "x\xe5\x98\x8a\xe5\x98\x8dSet-Cookie: a=b", "x\\r\\nSet-Cookie: a=b", "a\tSet-Cookie: a=b"):
            names = ("X-Request-Id", "Idempotency-Key", "X-Request-Timeout-Ms", "Content-Type")
            found = ask(shared_platform, method, path, dict.fromkeys(names, value))
            assert not any("cookie" in f"{name}{content}".lower() for name, content in found.headers), found.headers


def test_h14_there_is_no_debug_surface(shared_platform: RunningPlatform) -> None:
    paths = (
        "/console", "/debug", "/debug/pprof", "/__debug__/", "/admin", "/server-status", "/proc/self/environ",
        "/.git/HEAD", "/.env", "/etc/passwd", "/static/", "/actuator/env", "/env",
        "/v2/trace/setting", "/v2/logging", "/login",
    )  # fmt: skip
    for path in paths:
        assert code(ask(shared_platform, "GET", path)) == "NOT_FOUND"
    plain = ask(shared_platform, "GET", "/").body
    for query in ("?__debugger__=yes&cmd=resource&f=debugger.js", "?debug=1", "?XDEBUG_SESSION_START=x", "?pretty"):
        assert ask(shared_platform, "GET", f"/{query}").body == plain
    for path, body in ((IRIS, b"\xff"), (f"{MODELS}iris.onnx", b"[]"), ("/api/test/sendtomodelhost", b"\0")):
        found = ask(shared_platform, "POST", path, None, body)
        assert found.status in {400, 422}
        assert b"Traceback" not in found.body
        assert b'File \\"' not in found.body


def test_s11_every_answer_forbids_guessing_its_type(shared_platform: RunningPlatform) -> None:
    markup = "<img src=x onerror=alert(1)>"
    asked = [
        ("GET", "/", None, b""), ("GET", "/metrics", None, b""), ("GET", f"/{markup}", None, b""),
        ("FOO", "/", None, b""), ("POST", IRIS, None, GOOD), ("POST", IRIS, None, b'{"' + markup.encode() + b'": 1}'),
        ("OPTIONS", "/", None, b""), ("GET", f"{MODELS}%3Cimg%20src=x%3E", None, b""),
        ("GET", f"{MODELS}iris.onnx/download", None, b""), ("GET", "/help", {"Host": "localhost"}, b""),
        ("GET", "/", {"Host": markup}, b""),
    ]  # fmt: skip
    for method, path, headers, body in asked:
        found = ask(shared_platform, method, path.replace(" ", "%20"), headers, body)
        assert found.header("X-Content-Type-Options") == "nosniff"
        kind = found.header("Content-Type") or ""
        assert kind.startswith(("application/json", "text/plain", "application/octet-stream")) or method == "OPTIONS"


PAGES: list[tuple[dict[str, str], str, int]] = [
    ({"Origin": "http://evil.example"}, "GET", 403),
    ({"Origin": "http://evil.example"}, "POST", 403),
    ({"Origin": "null"}, "POST", 403),
    ({"Origin": ""}, "POST", 403),
    ({"Origin": "http://127.0.0.1:1"}, "POST", 403),
    ({"Origin": "http://127.0.0.1"}, "POST", 200),
    ({"Origin": "https://127.0.0.1"}, "POST", 200),
    ({"Origin": "file://127.0.0.1"}, "POST", 403),
    ({"Origin": "http://127.0.0.1.evil.example"}, "POST", 403),
    ({"Origin": "http://127.0.0.1, http://evil.example"}, "POST", 403),
    ({"Sec-Fetch-Site": "cross-site"}, "GET", 403),
    ({"Sec-Fetch-Site": "same-site"}, "GET", 403),
    ({"Sec-Fetch-Site": "x"}, "GET", 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, "GET", 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, "GET", 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "GET", 200),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, "POST", 403),
    ({"Sec-Fetch-Site": "same-origin"}, "POST", 200),
    ({"Sec-Fetch-Site": "none"}, "GET", 200),
    ({"Host": "evil.example"}, "GET", 421),
    ({"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, "POST", 421),
]


def asked_by_page(platform: RunningPlatform, headers: dict[str, str], method: str) -> Answer:
    """A prediction, or the greeting, as a web page would ask for it."""
    path, body = (IRIS, GOOD) if method == "POST" else ("/", b"")
    return ask(platform, method, path, headers, body)


@pytest.mark.parametrize(("headers", "method", "status"), PAGES)
def test_h07_web_pages_of_others_are_kept_out(
    headers: dict[str, str], method: str, status: int, shared_platform: RunningPlatform
) -> None:
    found = asked_by_page(shared_platform, headers, method)
    assert found.status == status
    if status != 200:
        assert code(found) == {403: "ORIGIN_REFUSED", 421: "MISDIRECTED"}[status]
    assert found.header("Access-Control-Allow-Origin") is None


def test_h07_the_modelhosts_own_port_is_kept_as_well(shared_platform: RunningPlatform) -> None:
    started = [record for record in shared_platform.records("modelhost-1") if record["event"] == "modelhost started"]
    for path in ("/", "/health/live", "/metrics"):
        received = converse(started[-1]["port"], message("GET", path, {"Host": "evil.example"}))
        assert [answer.status for answer in answers(received)] == [421]


def test_h07_names_and_origins_can_be_listed(named: RunningPlatform) -> None:
    for headers, status in (
        ({"Host": "models.example"}, 200), ({"Host": "MODELS.example:443"}, 200), ({"Host": "localhost"}, 200),
        ({"Host": "x.models.example"}, 421), ({"Origin": "https://console.example"}, 200),
        ({"Host": "models.example", "Origin": "https://models.example"}, 200), ({"Origin": "https://x.example"}, 403),
        ({"Origin": "http://console.example"}, 403),
        ({"Origin": "https://console.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ):  # fmt: skip
        assert asked_by_page(named, headers, "POST").status == status, headers


def test_no_get_changes_anything_but_the_one_that_looks_again(platform: RunningPlatform) -> None:
    """`GET /api/v1/updatemodels` is the seed's; what it finds, somebody has put into the folder by hand."""

    def state() -> dict[str, Any]:
        """Everything in the repository, by path and time of change."""
        files = {
            str(item): item.stat().st_mtime_ns
            for item in platform.repository.rglob("*")
            if ".mlbuffet" not in item.parts
        }
        return files | {
            "models": requests.get(f"{platform.url}/api/v1/models/information", timeout=10).json()["model_list"]
        }

    before = state()
    for path, methods in routes(platform).items():
        if "GET" in methods:
            for method in ("GET", "HEAD"):
                ask(platform, method, path, {"Content-Type": "application/json"}, b'{"default": 2, "pinned": true}')
        elif set(methods) & {"PUT", "POST", "DELETE"}:
            assert ask(platform, "GET", path).status == 405
    assert state() == before
