"""The inferrer in front of a trainer that is not there, hangs, goes away, refuses early or talks for ever."""

import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
import trustme

from mlbuffet.certificates import read_context
from mlbuffet.keys import SCOPES, Wish
from tests.harness.keyed import FirstKeys, bearer
from tests.harness.odd_trainer import LONG_TEXT, RUN, Asked, odd_trainer
from tests.harness.platform import RunningPlatform, free_port, running_platform, wait_until
from tests.harness.raw_http import message
from tests.harness.tls import INFERRER, MODELHOST, TRAINER, write_certificate

THREADS = 16
FOLLOWERS = THREADS // 4
PROMISED_S = 3.0
LOGS = f"/api/v1/runs/{RUN}/logs"

Proxied = tuple[RunningPlatform, Asked]


@contextmanager
def proxied(folder: Path, **environment: str) -> Iterator[Proxied]:
    """A platform of one process whose trainer is an odd one."""
    place = folder / "trainer.sock"
    settings = {"INFERRER_TRAINER": f"unix:{place}", "INFERRER_THREADS": str(THREADS), **environment}
    with (
        odd_trainer(place) as asked,
        running_platform(folder / "repository", modelhosts=1, workers=1, environment=settings) as platform,
    ):
        yield platform, asked


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with proxied(tmp_path_factory.mktemp("trainer")) as both:
        yield both


def unavailable(answer: requests.Response) -> str:
    """Check that training is refused for now; returns the message."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.headers["Retry-After"]) == (503, "TRAINER_UNAVAILABLE", "5")
    assert (error["request_id"], error["retryable"]) == (answer.headers["X-Request-Id"], True)
    message: str = error["message"]
    return message


def test_without_a_trainer_it_says_how_to_get_one(shared_platform: RunningPlatform) -> None:
    for method, path in (
        ("POST", "/api/v1/train/m"),
        ("GET", "/api/v1/runs"),
        ("GET", f"/api/v1/runs/{RUN}"),
        ("GET", LOGS),
        ("GET", f"{LOGS}?follow=1"),
        ("DELETE", f"/api/v1/runs/{RUN}"),
    ):
        said = unavailable(requests.request(method, shared_platform.url + path, timeout=10))
        assert "--allow-unisolated-training" in said


def test_what_is_asked_and_answered_goes_through_unread(shared: Proxied) -> None:
    platform, asked = shared
    body = b"anything at all \xff\x00" * 1000
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Idempotency-Key": "once", "X-MLBuffet-Who": "me"}
    headers |= {"X-Request-Id": "mine", "Authorization": "Bearer secret", "Cookie": "a=b"}
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers["traceparent"] = trace
    answer = requests.post(f"{platform.url}/api/v1/train/m.onnx?a=%C3%A9&a=2", data=body, headers=headers, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/api/v1/runs/{RUN}")
    assert answer.json() == {"run_id": RUN}
    method, path, sent = asked.requests[-1]
    assert (method, path) == ("POST", "/api/v1/train/m.onnx?a=%C3%A9&a=2")
    assert asked.digests[-1] == hashlib.sha256(body).hexdigest()
    assert sent["Content-Type"] == headers["Content-Type"]
    assert (sent["X-MLBuffet-Who"], sent["X-Request-Id"], sent["Idempotency-Key"]) == ("anonymous", "mine", "once")
    assert sent["traceparent"] == trace
    assert not {"Authorization", "Cookie"} & set(sent), "what the gate has used is nobody else's"
    pieces = (body[start : start + 7000] for start in range(0, len(body), 7000))
    assert requests.post(f"{platform.url}/api/v1/train/m.onnx", data=pieces, timeout=10).status_code == 202
    assert asked.digests[-1] == hashlib.sha256(body).hexdigest(), "a body of unknown length is the same body"
    text = requests.get(f"{platform.url}{LOGS}?offset=3", timeout=20)
    assert (text.content, text.headers["X-Log-Size"]) == (LONG_TEXT, str(len(LONG_TEXT)))
    assert asked.requests[-1][1] == f"{LOGS}?offset=3"


def test_every_change_is_recorded_with_its_run(shared: Proxied) -> None:
    platform, _ = shared
    ways = {"/api/v1/train/audited": "POST", f"/api/v1/runs/{RUN}/cancel": "POST", f"/api/v1/runs/{RUN}/retry": "POST"}
    ways[f"/api/v1/runs/{RUN}"] = "DELETE"
    for number, (path, method) in enumerate(ways.items()):
        requests.request(method, platform.url + path, headers={"X-Request-Id": f"audited-{number}"}, timeout=10)
    requests.get(f"{platform.url}/api/v1/runs/{RUN}", headers={"X-Request-Id": "audited-not"}, timeout=10)
    wanted = {(f"audited-{number}", RUN) for number in range(len(ways))}

    def recorded() -> bool:
        audits = [record for record in platform.records() if record["event"] == "audit"]
        found = {(record["request_id"], record["run"]) for record in audits if "audited" in record["request_id"]}
        assert found <= wanted, "to read is no change"
        return found == wanted

    wait_until(recorded, 30, "a record for each change")
    lines = requests.get(f"{platform.url}/metrics", timeout=10).text
    assert 'model_training_operations_total{model="",status="202"}' in lines


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/train/m:1", 400),
        ("POST", "/api/v1/train/a..b", 400),
        ("POST", "/api/v1/train/a%20b", 400),
        ("POST", "/api/v1/train/m.pkl", 415),
        ("GET", "/api/v1/runs/none", 404),
        ("GET", "/api/v1/runs/20261129t131405-3f9c01a%0a", 404),
        ("DELETE", "/api/v1/runs/..%2fmodels", 404),
        ("POST", "/api/v1/runs/..;/cancel", 404),
    ],
)
def test_what_can_name_nothing_is_refused_here(shared: Proxied, method: str, path: str, status: int) -> None:
    platform, asked = shared
    before = len(asked.requests)
    assert requests.request(method, platform.url + path, timeout=10).status_code == status
    assert len(asked.requests) == before


def test_a_refusal_before_the_body_is_read_comes_through(shared: Proxied) -> None:
    platform, _ = shared
    refused = requests.post(f"{platform.url}/api/v1/train/early", data=bytes(1 << 24), timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "MISSING_SCRIPT")


def test_a_request_is_sent_once(shared: Proxied) -> None:
    platform, asked = shared
    before = len(asked.requests)
    assert "went away" in unavailable(requests.post(f"{platform.url}/api/v1/train/lost", data=b"x", timeout=10))
    assert len(asked.requests) == before + 1


def test_t17_who_hangs_or_is_not_there_is_given_up_at_once(tmp_path: Path) -> None:
    with proxied(tmp_path) as (platform, asked):
        asked.hangs.set()
        for path in ("/api/v1/runs", f"{LOGS}?follow=1"):
            began = time.monotonic()
            unavailable(requests.get(platform.url + path, timeout=20))
            assert time.monotonic() - began < PROMISED_S
        asked.hangs.clear()
        assert requests.get(f"{platform.url}/api/v1/runs", timeout=10).status_code == 200
        (tmp_path / "trainer.sock").unlink()
        unavailable(requests.post(f"{platform.url}/api/v1/train/m", data=bytes(1 << 20), timeout=10))


def test_a_large_body_is_never_held(shared: Proxied) -> None:
    platform, asked = shared
    (worker,) = platform.children("inferrer")
    size = 96 << 20

    def peak() -> int:
        lines = Path(f"/proc/{worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

    before = peak()
    pieces = (bytes(1 << 20) for _ in range(size >> 20))
    answer = requests.post(f"{platform.url}/api/v1/train/large", data=pieces, timeout=60)
    assert answer.status_code == 202
    assert asked.digests[-1] == hashlib.sha256(bytes(size)).hexdigest()
    assert peak() - before < size // 4


def follow(platform: RunningPlatform, stack: ExitStack) -> socket.socket:
    """Follow a log until something of it has come."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", platform.port), 20))
    sock.sendall(message("GET", f"{LOGS}?follow=1"))
    seen = b""
    while b"data: one" not in seen:
        seen += sock.recv(1 << 16)
    assert seen.startswith(b"HTTP/1.1 200")
    assert b"text/event-stream" in seen
    return sock


def test_followers_are_bounded_and_end_with_their_clients(shared: Proxied) -> None:
    platform, asked = shared
    with ExitStack() as stack:
        sockets = [follow(platform, stack) for _ in range(FOLLOWERS)]
        assert asked.following == FOLLOWERS
        refused = requests.get(f"{platform.url}{LOGS}?follow=1", timeout=10)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "BUSY")
        for _ in range(THREADS):
            assert requests.get(f"{platform.url}/api/v1/runs", timeout=10).status_code == 200
        for sock in sockets:
            sock.close()
        wait_until(lambda: asked.following == 0, 30, "the trainer being left too")
        with ExitStack() as others:
            for _ in range(FOLLOWERS):
                wait_until(lambda: _is_followed(platform, others), 30, "room for another one")


def _is_followed(platform: RunningPlatform, stack: ExitStack) -> bool:
    try:
        follow(platform, stack)
    except AssertionError:
        return False
    return True


def test_nobody_who_follows_holds_up_the_end(tmp_path: Path) -> None:
    with proxied(tmp_path, INFERRER_DRAIN_S="120") as (platform, asked), ExitStack() as stack:
        follow(platform, stack)
        assert platform.stop("inferrer") == 0
        wait_until(lambda: asked.following == 0, 30, "the trainer being left")


def test_s03_what_a_key_for_training_may_do(tmp_path: Path) -> None:
    keys = FirstKeys(tmp_path, {scope: Wish(scope, [scope]) for scope in SCOPES})
    place = tmp_path / "trainer.sock"
    environment = keys.environment | {"INFERRER_TRAINER": f"unix:{place}"}
    options = {"modelhosts": 1, "workers": 1, "key": keys.texts["admin"], "environment": environment}
    with odd_trainer(place) as asked, running_platform(tmp_path / "repository", **options) as platform:

        def status(scope: str, method: str, path: str) -> int:
            headers = bearer(keys.texts[scope])
            return requests.request(method, platform.url + path, headers=headers, timeout=10).status_code

        ways = [("POST", "/api/v1/train/m"), ("GET", "/api/v1/runs"), ("DELETE", f"/api/v1/runs/{RUN}"), ("GET", LOGS)]
        ways += [("POST", f"/api/v1/runs/{RUN}/cancel"), ("POST", f"/api/v1/runs/{RUN}/retry")]
        for scope in ("train", "admin"):
            assert {status(scope, *way) for way in ways} <= {200, 202}
        assert {sent["X-MLBuffet-Who"] for *_, sent in asked.requests} == {keys.ids["train"], keys.ids["admin"]}
        before = len(asked.requests)
        for scope in ("predict", "models:read", "models:write"):
            assert {status(scope, *way) for way in ways} == {403}
        assert len(asked.requests) == before
        for method, path in (
            ("DELETE", "/api/v1/models/iris.onnx"),
            ("PUT", "/api/v1/models/iris.onnx"),
            ("GET", "/api/v1/models"),
            ("POST", "/api/v1/models/iris.onnx/prediction"),
            ("GET", "/api/v1/keys"),
        ):
            assert status("train", method, path) == 403
        refused = [record for record in platform.records() if record["event"] == "audit" and record["status"] == 403]
        assert {("DELETE", keys.ids["train"]), ("POST", keys.ids["predict"])} <= {
            (record["method"], record["who"]) for record in refused
        }


def test_s15_over_tcp_only_the_trainer_is_asked(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    own = write_certificate(tmp_path / "inferrer", authority, INFERRER)
    certificates: dict[str, ssl.SSLContext] = {
        "right": read_context(write_certificate(tmp_path / "right", authority, TRAINER), server=True),
        "role": read_context(write_certificate(tmp_path / "role", authority, MODELHOST), server=True),
        "authority": read_context(
            write_certificate(tmp_path / "other", other, TRAINER, trusted=authority), server=True
        ),
    }
    port = free_port()
    environment = {"INFERRER_TRAINER": f"tcp://localhost:{port}", "INFERRER_TLS_FOLDER": str(own)}
    options = {"modelhosts": 1, "workers": 1, "environment": environment}
    with running_platform(tmp_path / "repository", **options) as platform:
        for name, tls in certificates.items():
            with odd_trainer(("127.0.0.1", port), tls) as asked:
                answer = requests.get(f"{platform.url}/api/v1/runs", timeout=10)
                assert answer.status_code == (200 if name == "right" else 503), answer.text
                assert len(asked.requests) == (name == "right")
