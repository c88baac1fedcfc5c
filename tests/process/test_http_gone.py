"""A client that leaves before its answer: nobody goes on computing it, one record says so, and it counts as 499."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import requests

from tests.harness.invariants import unharmed
from tests.harness.onnx_models import slow
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.raw_http import answers, converse, message, read_all
from tests.harness.zoo import zoo_platform

PATH = "/api/v1/models/slow/prediction"
LONG = b'{"values": [100000000000]}'  # days, if nobody stops it
SHORT = b'{"values": [1000]}'
JSON = {"Content-Type": "application/json", "X-Request-Timeout-Ms": "600000"}


@pytest.fixture(scope="module", params=["lane", "flask"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    environment = {"INFERRER_LANE": "on" if request.param == "lane" else "off"}
    options = {"modelhosts": 1, "workers": 1, "environment": environment}
    with zoo_platform(tmp_path_factory.mktemp(request.param), {"slow": slow()}, **options) as platform:
        yield platform


def in_flight(platform: RunningPlatform) -> int:
    """Requests that the modelhost has not answered yet, by the inferrer's word."""
    details = requests.get(platform.path("slow"), timeout=10).json()
    return sum(item["in_flight"] for item in details["modelhosts"])


def ask(platform: RunningPlatform, request_id: str) -> socket.socket:
    """Begin a prediction that takes long."""
    sock = socket.create_connection(("127.0.0.1", platform.port), 20)
    sock.sendall(message("POST", PATH, JSON | {"X-Request-Id": request_id}, LONG))
    wait_until(lambda: in_flight(platform) == 1, what="the model being busy")
    return sock


def left(platform: RunningPlatform, request_id: str) -> int:
    """How many records say that the client left."""
    found = [record for record in platform.records() if record.get("request_id") == request_id]
    assert {record["event"] for record in found} <= {"client left"}, found
    return len(found)


def gone_count(platform: RunningPlatform) -> float:
    """Predictions that counted as 499."""
    lines = requests.get(f"{platform.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("http_requests_total") and '"499"' in line)


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
def test_a_client_that_leaves_ends_its_prediction(how: str, either: RunningPlatform) -> None:
    request_id = f"gone-{how}"
    with unharmed(either):
        before = gone_count(either)
        with ask(either, request_id) as sock:
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how == "half-close":
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b"", "after a while it is taken for gone"
        wait_until(lambda: in_flight(either) == 0, 20, "the request being given up")
        wait_until(lambda: left(either, request_id) == 1, what="the record")
        wait_until(lambda: gone_count(either) == before + 1, what="the count")
        assert either.predict("slow", [1000]).json()["values"] == [1000.0], "the model is free again"
    assert left(either, request_id) == 1


def test_a_half_closed_connection_still_gets_what_is_quick(either: RunningPlatform) -> None:
    """What `nc` does: send all, close the sending half, read."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", either.port), 20) as sock:
            sock.sendall(message("POST", PATH, JSON, SHORT))
            sock.shutdown(socket.SHUT_WR)
            assert [answer.status for answer in answers(read_all(sock))] == [200]


def test_pipelined_requests_before_a_half_close_are_all_answered(either: RunningPlatform) -> None:
    with socket.create_connection(("127.0.0.1", either.port), 20) as sock:
        sock.sendall(message("POST", PATH, JSON, SHORT) * 5)
        sock.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in answers(read_all(sock))] == [200] * 5


def test_an_upload_goes_on_after_a_half_close(either: RunningPlatform) -> None:
    """Only what can be called off is: an upload is there or not, whoever waits for the word."""
    with socket.create_connection(("127.0.0.1", either.port), 60) as sock:
        sock.sendall(message("PUT", "/api/v1/models/half.onnx", {"Connection": "close"}, slow()))
        sock.shutdown(socket.SHUT_WR)
        assert [answer.status for answer in answers(read_all(sock))] == [201]
    requests.delete(either.path("half.onnx"), timeout=20).raise_for_status()


def test_many_clients_that_leave_together(either: RunningPlatform) -> None:
    with unharmed(either):
        with ExitStack() as stack:
            for number in range(8):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", either.port), 20))
                sock.sendall(message("POST", PATH, JSON | {"X-Request-Id": f"many-{number}"}, LONG))
            wait_until(lambda: in_flight(either) == 8, 30, "all of them waiting")
        wait_until(lambda: in_flight(either) == 0, 30, "all of them being given up")
        wait_until(lambda: sum(left(either, f"many-{number}") for number in range(8)) == 8, what="a record for each")
        assert converse(either.port, message("POST", PATH, JSON | {"Connection": "close"}, SHORT))[9:12] == b"200"
