"""API keys on a running platform: followed by all its processes, recorded, limited, written nowhere."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mlbuffet import Client
from mlbuffet.errors import ForbiddenError, TooManyRequestsError, UnauthenticatedError
from mlbuffet.keys import Wish
from mlbuffet.oip import inference_pb2
from tests.harness import grpc_client
from tests.harness.addresses import asked_with
from tests.harness.invariants import unharmed
from tests.harness.keyed import FirstKeys, bearer, everywhere, make_key
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, RunningPlatform, free_port, running_platform, wait_until
from tests.harness.raw_http import converse, message

IRIS = "/api/v1/models/iris.onnx/prediction"
BODY = b'{"values": [2, 5, 1, 4]}'
REFUSED = {401, 429}  # the latter where it came too often
KEY = re.compile(r"\b[0-9a-f]{12}\.[A-Za-z0-9_-]{43}\b")


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """A platform that began with the key of an administrator; it believes what localhost says of clients."""
    folder = tmp_path_factory.mktemp("keyed")
    keys = FirstKeys(folder, {"admin": Wish("admin", ["admin"])})
    environment = keys.environment | {"INFERRER_TRUSTED_PROXIES": "localhost"}
    options: dict[str, Any] = {"modelhosts": 1, "environment": environment, "key": keys.texts["admin"]}
    with running_platform(folder / "repository", **options) as platform:
        yield platform


@contextlib.contextmanager
def connected(platform: RunningPlatform, source: str = "127.0.0.1") -> Iterator[http.client.HTTPConnection]:
    """A kept connection from an address of ours."""
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=10, source_address=(source, 0))
    with contextlib.closing(connection):
        yield connection


def predict(platform: RunningPlatform, text: str) -> requests.Response:
    return requests.post(platform.url + IRIS, data=BODY, headers=bearer(text), timeout=10)


def audited(platform: RunningPlatform, **fields: object) -> list[dict[str, Any]]:
    """The audit records with these fields."""
    records = (record for record in platform.records() if record["event"] == "audit")
    return [record for record in records if fields.items() <= record.items()]


# Made, followed, revoked --------------------------------------------------------------------------------------------


def test_the_first_key_closes_the_gate_everywhere(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1) as platform, contextlib.ExitStack() as stack:
        asked = stack.enter_context(connected(platform))
        for _ in range(3):  # the head is known by then
            assert ask(asked) == 200
        refused = requests.post(f"{platform.url}/api/v1/keys", data=b'{"name": "p", "scopes": ["predict"]}', timeout=10)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
        _, platform.key = make_key(platform, "admin")
        # A new key counts at once, whichever process is asked.
        assert everywhere(platform, lambda: predict(platform, platform.key)) == {200}
        wait_until(
            lambda: everywhere(platform, lambda: requests.post(platform.url + IRIS, data=BODY, timeout=10)) == {401},
            5,
            "the gate being closed",
        )
        assert ask(asked) == 401
        platform.restart("inferrer")
        assert everywhere(platform, lambda: predict(platform, platform.key)) == {200}
        assert requests.get(f"{platform.url}/api/v1/models", timeout=10).status_code == 401


def ask(connection: http.client.HTTPConnection, text: str = "") -> int:
    """Predict over a kept connection; returns the status."""
    connection.request("POST", IRIS, BODY, bearer(text) if text else {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("way", ["revoked", "by hand"])
def test_s09_a_revoked_key_is_refused_everywhere_within_five_seconds(keyed: RunningPlatform, way: str) -> None:
    """While it asks a hundred times a second, over kept connections to every process."""
    number, text = make_key(keyed, "predict")
    _, other = make_key(keyed, "predict")
    asked: list[tuple[str, int, float]] = []  # which key, the status, and when it was sent
    stop = threading.Event()

    def run(mine: str) -> None:
        with connected(keyed) as connection:
            while not stop.wait(0.08):
                began = time.monotonic()
                asked.append((mine, ask(connection, mine), began))

    with unharmed(keyed):
        threads = [threading.Thread(target=run, args=(mine,)) for mine in [text] * 8 + [other] * 2]
        for thread in threads:
            thread.start()
        wait_until(lambda: {(mine, status) for mine, status, _ in asked} == {(text, 200), (other, 200)})
        if way == "revoked":
            revoked = requests.delete(f"{keyed.url}/api/v1/keys/{number}", headers=keyed.headers(), timeout=10)
            assert revoked.json()["revoked"] == number  # and from now on it is refused everywhere
        else:
            drop_by_hand(keyed.repository, number)
            wait_until(lambda: everywhere(keyed, lambda: predict(keyed, text)) <= REFUSED, 5, "it being refused")
        refused_at = time.monotonic()
        wait_until(lambda: sum(mine == text and began > refused_at for mine, _, began in asked) >= 16)
        stop.set()
        for thread in threads:
            thread.join()
        assert {status for mine, status, began in asked if mine == text and began > refused_at} <= REFUSED
        assert {status for mine, status, _ in asked if mine == other} == {200}


def drop_by_hand(repository: Path, number: str) -> None:
    """Take a key out of the file, as somebody with an editor would."""
    path = repository / ".mlbuffet" / "keys.json"
    data = json.loads(path.read_bytes())
    data["keys"] = [row for row in data["keys"] if row["id"] != number]
    beside = path.with_name("edited")
    beside.write_text(json.dumps(data))
    beside.rename(path)


def test_s02_a_key_that_ends_while_it_is_used_ends_for_every_process(keyed: RunningPlatform) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=4)
    _, text = make_key(keyed, "predict", expires=ends.isoformat(timespec="seconds"))
    moment = ends.replace(microsecond=0).timestamp()
    statuses: list[int] = []
    with connected(keyed) as connection:
        while len(statuses) < 5:
            before, status, after = time.time(), ask(connection, text), time.time()
            if before >= moment:
                statuses.append(status)
            elif after < moment:
                assert status == 200
            time.sleep(0.01)
    assert set(statuses) <= REFUSED
    assert everywhere(keyed, lambda: predict(keyed, text)) <= REFUSED


def test_a_damaged_file_changes_nothing_until_the_next_start(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1) as platform:
        _, platform.key = make_key(platform, "admin")
        path = platform.repository / ".mlbuffet" / "keys.json"
        good = path.read_bytes()
        path.write_bytes(good[:-20])
        wait_until(lambda: told(platform) >= 1, what="the log saying so")
        assert everywhere(platform, lambda: predict(platform, platform.key)) == {200}
        changed = requests.post(
            f"{platform.url}/api/v1/keys",
            json={"name": "x", "scopes": ["admin"]},
            headers=platform.headers(),
            timeout=10,
        )
        assert changed.status_code == 503
        platform.stop("inferrer")
        platform.start("inferrer")
        assert platform.processes["inferrer"].wait(20) != 0
        last = platform.log_file("inferrer").read_text().splitlines()[-1]
        assert re.fullmatch(r"inferrer: \S+keys\.json: the file of keys is damaged: \w+", last)
        path.write_bytes(good)
        platform.start("inferrer")
        platform.wait_ready()


def told(platform: RunningPlatform) -> int:
    return sum(record["event"] == "keys not read" for record in platform.records())


# Who may what, and what is left of it -------------------------------------------------------------------------------


def test_s03_what_changes_something_or_was_refused_to_is_recorded(keyed: RunningPlatform) -> None:
    number, text = make_key(keyed, "predict")
    writer, write = make_key(keyed, "models:write")
    with unharmed(keyed):
        for method, path in (
            ("PUT", "/api/v1/models/x"),
            ("DELETE", "/api/v1/models/iris.onnx"),
            ("POST", "/api/v1/keys"),
        ):
            answer = requests.request(method, keyed.url + path, headers=bearer(text), data=b"{}", timeout=10)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
            (record,) = audited(keyed, request_id=answer.headers["X-Request-Id"])
            assert (record["who"], record["status"], record["client"]) == (number, 403, "127.0.0.1")
            assert (record["method"], record["model"]) == (method, path.partition("models/")[2])
        answer = requests.delete(f"{keyed.url}/api/v1/models/iris.onnx", timeout=10)
        (record,) = audited(keyed, request_id=answer.headers["X-Request-Id"])
        assert (record["who"], record["status"], record["route"]) == ("anonymous", 401, "/api/v1/models/<name>")
        put = requests.put(keyed.path("mine"), data=constant(7), headers=bearer(write), timeout=30)
        (record,) = audited(keyed, request_id=put.headers["X-Request-Id"])
        assert record | {"who": writer, "status": 201, "model": "mine", "version": 1} == record
        assert record["digest"] == put.json()["digest"]
        gone = requests.delete(keyed.path("mine"), headers=bearer(write), timeout=30)
        (record,) = audited(keyed, request_id=gone.headers["X-Request-Id"])
        assert (record["who"], record["status"], record["model"]) == (writer, 200, "mine")
        predicted = predict(keyed, text)
        assert audited(keyed, request_id=predicted.headers["X-Request-Id"]) == []


def test_the_client_is_whom_a_trusted_proxy_names(keyed: RunningPlatform) -> None:
    def recorded(source: str) -> list[str]:
        with connected(keyed, source) as connection:
            connection.request("DELETE", "/api/v1/models/none", headers={"X-Forwarded-For": "10.0.0.1, 198.51.100.7"})
            request_id = connection.getresponse().headers["X-Request-Id"]
        return [record["client"] for record in audited(keyed, request_id=request_id)]

    # Not with the first request, perhaps: the proxy's name may not have been looked up yet.
    wait_until(lambda: everywhere_recorded(recorded, "127.0.0.1") == {"198.51.100.7"}, 30, "the proxy being believed")
    assert recorded("127.0.0.8") == ["127.0.0.8"]


def everywhere_recorded(recorded: Callable[[str], list[str]], source: str) -> set[str]:
    """As whom the processes know a client: each of some requests has one record."""
    found = [recorded(source) for _ in range(4)]
    assert [len(records) for records in found] == [1] * 4
    return {records[0] for records in found}


REFUSED_EARLY = {
    413: {"Content-Length": str((1 << 30) + 1)},
    400: {"Transfer-Encoding": "chunked"},
}


@pytest.mark.parametrize("status", REFUSED_EARLY)
def test_o06_what_is_refused_behind_the_gate_and_before_a_route_is_recorded_once(
    keyed: RunningPlatform, status: int
) -> None:
    """A body announced too large, and one that is no chunked one."""
    writer, write = make_key(keyed, "models:write")
    reader, read = make_key(keyed, "models:read")
    head = REFUSED_EARLY[status] | {"X-Request-Id": f"early-{status}"}
    with unharmed(keyed):
        sent = message("PUT", "/api/v1/models/x", bearer(write) | head)
        assert converse(keyed.port, sent + b"no chunk\r\n").startswith(b"HTTP/1.1 %d" % status)
        (record,) = audited(keyed, request_id=f"early-{status}")
        assert record | {"who": writer, "status": status, "model": "x", "method": "PUT"} == record
        # One that did not pass has its one record too, and what changes nothing has none.
        sent = message("PUT", "/api/v1/models/x", bearer(read) | head | {"X-Request-Id": f"no-{status}"})
        assert converse(keyed.port, sent).startswith(b"HTTP/1.1 403")
        assert [found["who"] for found in audited(keyed, request_id=f"no-{status}")] == [reader]
        sent = message("POST", IRIS, bearer(keyed.key) | head | {"X-Request-Id": f"none-{status}"})
        assert converse(keyed.port, sent + b"no chunk\r\n").startswith(b"HTTP/1.1 %d" % status)
        assert audited(keyed, request_id=f"none-{status}") == []


def test_s07_a_client_with_many_wrong_keys_waits_and_nobody_else(keyed: RunningPlatform) -> None:
    _, right = make_key(keyed, "predict")
    wrong = message("POST", IRIS, bearer("0" * 12 + "." + "A" * 43), BODY)
    with unharmed(keyed):
        counts = {401: 0, 429: 0}
        for _ in range(1000):
            with socket.create_connection(("127.0.0.1", keyed.port), 10, source_address=("127.0.0.7", 0)) as sock:
                sock.sendall(wrong)
                answer = sock.recv(1 << 16)
            counts[int(answer[9:12])] += 1
            if answer.startswith(b"HTTP/1.1 429 "):
                assert 0 < int(re.search(rb"\r\nRetry-After: (\d+)\r\n", answer)[1]) <= 60  # type: ignore[index]
        # Each process counts for itself, and a minute may have begun anew.
        assert 20 <= counts[401] <= 4 * 20 * keyed.workers
        for source in ("127.0.0.6", "127.0.0.7"):  # a right key is no guess, wherever it comes from
            with connected(keyed, source) as connection:
                assert ask(connection, right) == 200
        with connected(keyed, "127.0.0.5") as other:
            assert ask(other, "0" * 12 + "." + "A" * 43) == 401


def test_a_rate_counts_over_all_processes(keyed: RunningPlatform) -> None:
    _, text = make_key(keyed, "predict", rate=20)
    began = time.monotonic()
    answers = [predict(keyed, text) for _ in range(100)]
    passed = sum(answer.status_code == 200 for answer in answers)
    assert 20 <= passed <= 21 + 20 * (time.monotonic() - began) + keyed.workers
    assert {answer.status_code for answer in answers} <= {200, 429}
    late = [answer for answer in answers if answer.status_code == 429]
    assert all(answer.headers["Retry-After"] == "1" for answer in late)


def test_s08_no_key_is_written_anywhere(keyed: RunningPlatform) -> None:
    _, text = make_key(keyed, "admin")
    requests.post(f"{keyed.url}/api/v1/keys?key={text}", data=b"{", headers=bearer(text), timeout=10)
    requests.get(f"{keyed.url}/api/v1/keys/{text}", headers=bearer(text + "x"), timeout=10)
    secret = text.partition(".")[2].encode()
    folders = (keyed.repository, keyed.folder)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if secret in path.read_bytes()] == []
    assert secret not in requests.get(f"{keyed.url}/metrics", headers=keyed.headers(), timeout=10).content
    shown = requests.get(f"{keyed.url}/api/v1/keys", headers=keyed.headers(), timeout=10)
    assert secret not in shown.content
    assert b"hash" not in shown.content
    assert shown.headers["Cache-Control"] == "no-store"


# Starting -----------------------------------------------------------------------------------------------------------


def start(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start an inferrer that is to refuse."""
    settings = {"INFERRER_REPOSITORY": str(folder), "INFERRER_PORT": str(free_port()), "INFERRER_GRPC_PORT": "0"}
    environ = {**os.environ, **settings, **environ}
    command = [sys.executable, "-m", "inferrer"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)


def test_s05_without_keys_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "models.example"):  # noqa: S104 - that is refused
        done = start(tmp_path, INFERRER_HOST=host)
        assert done.returncode == 1
        assert "mlbuffet keys create NAME --scope admin" in done.stderr
    address = "0.0.0.0"  # noqa: S104 - that is refused
    command = [sys.executable, "-m", "mlbuffet.cli", "up", "--no-metrics", "--host", address, "--grpc-port", "0"]
    command += ["--port", str(free_port())]
    up = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert up.returncode == 2
    assert "mlbuffet keys create NAME --scope admin" in up.stderr


def test_s05_no_key_that_is_printed_anywhere_is_one(keyed: RunningPlatform) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.rglob("docs/**/*.md")])
    for text in {*KEY.findall(pages), "admin", "changeme", "0" * 12 + "." + "0" * 43}:
        with connected(keyed, "127.0.0.4") as connection:
            assert ask(connection, text) == 401


def test_keys_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    keys = FirstKeys(tmp_path, {"admin": Wish("admin", ["admin"])})
    first = str(tmp_path / "first_keys.json")
    for environ, why in (
        ({"INFERRER_FIRST_KEYS": first, "INFERRER_KEY_HASH": "secret"}, "64 hexadecimal digits"),
        ({"INFERRER_FIRST_KEYS": first, "INFERRER_KEY_HASH": "0" * 64}, "another hashing key"),
        ({"INFERRER_FIRST_KEYS": str(tmp_path / "none")}, "No such file"),
        ({"INFERRER_FIRST_KEYS": first}, "hashed with cannot be read"),
        ({"INFERRER_TRUSTED_PROXIES": "http://proxy.example"}, "INFERRER_TRUSTED_PROXIES"),
    ):
        done = start(tmp_path / "repository", **environ)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
        assert "secret" not in done.stderr
    assert not (tmp_path / "repository/.mlbuffet/keys.json").exists()
    assert keys.texts["admin"] not in (tmp_path / "first_keys.json").read_text()


# gRPC ---------------------------------------------------------------------------------------------------------------


def call(platform: RunningPlatform, name: str, fields: dict[str, Any], *metadata: tuple[str, str]) -> str:
    """Call a method of the inference service; returns the name of the status."""
    request = json_format.ParseDict(fields, getattr(inference_pb2, f"{name}Request")())
    with grpc_client.channel(platform) as opened:
        try:
            grpc_client.method(opened, name)(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata())
            assert trailers["x-request-id"]
            return f"{error.code().name} {trailers['x-error-code']}"
    return "OK"


def test_grpc_asks_for_the_same_keys(keyed: RunningPlatform) -> None:
    who, text = make_key(keyed, "predict")
    _, slow = make_key(keyed, "predict", rate=0.001)
    _, write = make_key(keyed, "models:write")
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "contents": {"fp32_contents": [2, 5, 1, 4]}}
    iris = {"model_name": "iris.onnx", "inputs": [tensor]}
    load = {"model_name": "iris.onnx"}
    with unharmed(keyed):
        wrong: list[list[tuple[str, str]]] = [
            [],
            [("authorization", "Bearer nonsense")],
            [("authorization", f"Basic {text}")],
            [("authorization", f"Bearer {text}")] * 2,
            [("authorization", f"Bearer {text}"), ("x-api-key", "other")],
        ]
        for number, metadata in enumerate(wrong):
            metadata.append(("x-forwarded-for", f"10.1.1.{number}"))
            assert call(keyed, "ModelInfer", iris, *metadata) == "UNAUTHENTICATED UNAUTHENTICATED"
            assert call(keyed, "ServerMetadata", {}, *metadata) == "UNAUTHENTICATED UNAUTHENTICATED"
            assert call(keyed, "ServerLive", {}, *metadata) == call(keyed, "ServerReady", {}, *metadata) == "OK"
        for metadata in ([("authorization", f"bearer {text}")], [("x-api-key", text)]):
            assert call(keyed, "ModelInfer", iris, *metadata) == "OK"
            assert call(keyed, "ServerMetadata", {}, *metadata) == "PERMISSION_DENIED FORBIDDEN"
        assert call(keyed, "RepositoryModelLoad", load, ("x-api-key", text)) == "PERMISSION_DENIED FORBIDDEN"
        assert call(keyed, "RepositoryModelLoad", load, ("x-api-key", write)) == "OK"
        assert call(keyed, "ModelInfer", iris, ("x-api-key", slow)) == "OK"
        assert call(keyed, "ModelInfer", iris, ("x-api-key", slow)) == "RESOURCE_EXHAUSTED RATE_LIMITED"
        route = "/inference.GRPCInferenceService/RepositoryModelLoad"
        assert [record["status"] for record in audited(keyed, who=who, method="GRPC", route=route)] == [403]
        (record,) = audited(keyed, method="GRPC", route=route, status=200)
        assert (record["model"], record["client"]) == ("iris.onnx", "127.0.0.1")


def test_grpc_health_is_open_and_reflection_is_not(keyed: RunningPlatform) -> None:
    with grpc_client.channel(keyed) as opened:
        health = health_pb2_grpc.HealthStub(opened)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        reflection = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as refused:
            list(reflection(iter([asked]), timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        (answer,) = reflection(iter([asked]), timeout=10, metadata=(("x-api-key", keyed.key),))
        assert len(answer.list_services_response.service) == 3


# Client and command line --------------------------------------------------------------------------------------------


def test_the_client_manages_keys(keyed: RunningPlatform) -> None:
    with Client(keyed.url, keyed.key) as client:
        made = client.create_key("é ☃", ["predict"], rate=100)
        assert {key["id"]: key["name"] for key in client.api_keys()}[made["id"]] == "é ☃"
        with Client(keyed.url, made["key"]) as other:
            assert other.predict("iris.onnx", [[2, 5, 1, 4]])["values"] == [1]
            with pytest.raises(ForbiddenError):
                other.api_keys()
            client.revoke_key(made["id"])
            wait_until(lambda: _refused(other), 5, "it being refused")
        assert made["id"] not in {key["id"] for key in client.api_keys()}


def _refused(client: Client) -> bool:
    try:
        client.predict("iris.onnx", [[2, 5, 1, 4]])
    except (UnauthenticatedError, TooManyRequestsError):
        return True
    return False


def cli(folder: Path, *words: str, **environ: str) -> str:
    """Run a command; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "mlbuffet.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_makes_the_first_key_and_the_others(tmp_path: Path) -> None:
    """Without a server first, then with one that listens on every address."""
    printed = cli(tmp_path, "keys", "create", "me", "--scope", "admin", "--repository", "models", "--to", "admin.key")
    assert re.fullmatch(r"[0-9a-f]{12}: me, in admin\.key\n", printed)
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600
    port, address = free_port(), "0.0.0.0"  # noqa: S104 - with keys it may
    command = [
        sys.executable,
        "-m",
        "mlbuffet.cli",
        "up",
        "--no-metrics",
        "--host",
        address,
        "--port",
        str(port),
        "--grpc-port",
        "0",
    ]
    command += ["--repository", "models", "--modelhosts", "1", "--workers", "1"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        wait_until(lambda: "is ready at" in (tmp_path / "log").read_text(), 30, "mlbuffet up being ready")
        server = {"MLBUFFET_URL": f"http://127.0.0.1:{port}", "MLBUFFET_KEY_FILE": "admin.key"}
        made = cli(tmp_path, "keys", "create", "ci", "--scope", "predict", "--days", "30", "--rate", "5", **server)
        assert KEY.fullmatch(made.strip())
        listed = json.loads(cli(tmp_path, "keys", "list", "--json", **server))
        assert [key["name"] for key in listed] == ["me", "ci"]
        assert "models:read" not in cli(tmp_path, "keys", "list", **server)
        assert cli(tmp_path, "keys", "revoke", listed[1]["id"], **server) == f"{listed[1]['id']} is revoked\n"
        assert len(json.loads(cli(tmp_path, "keys", "list", "--json", **server))) == 1
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(20) == 0


# What is sent is never followed -------------------------------------------------------------------------------------


def test_s12_nothing_that_looks_like_an_address_is_asked(keyed: RunningPlatform) -> None:
    """A listener stands at one of them; nothing but the platform's own sockets is connected meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        addresses = [
            f"http://127.0.0.1:{port}/",
            f"http://localhost:{port}/latest/meta-data",
            f"gopher://127.0.0.1:{port}/_x",
            "http://169.254.169.254/",
            "file:///etc/passwd",
            "s3://bucket/key",
            "http://localhost:2375",
        ]
        models = keyed.names()
        with unharmed(keyed):
            for address in addresses:
                for answer in asked_with(keyed.url, keyed.headers(), address):
                    assert answer.status_code < 500, (address, answer.request.url, answer.text)
                    assert "root:" not in answer.text
                sent = message("GET", address, {**keyed.headers(), "Connection": "close"})
                assert converse(keyed.port, sent).startswith(b"HTTP/1.1 400")
            with pytest.raises(TimeoutError), contextlib.closing(listener.accept()[0]):
                pytest.fail("somebody asked")
        assert keyed.names() == models
