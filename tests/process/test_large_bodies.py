"""Bodies over 64 KiB, which reach the runner by shared memory: always the right bytes, whoever dies or leaves."""

import json
import os
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import requests
from onnx import TensorProto, helper, numpy_helper

from tests.harness import onnx_models
from tests.harness.invariants import unharmed
from tests.harness.platform import RunningPlatform, wait_until
from tests.harness.raw_http import answers, converse, exchange, message, read_all
from tests.harness.zoo import fragile, zoo_platform

JSON = {"Content-Type": "application/json"}
LARGE = 1 << 16
IDLE_S = 2.0
IDLE_SEGMENT_S = 5.0  # as inferrer/segments.py has it
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close with RST
RSS_BYTES = 16 << 20  # of what parsing megabytes of JSON leaves behind
MODELS = ("ends", "twin")


def ends(steps: int = 0) -> bytes:
    """[1, N] -> [1, 3]: the least and the greatest number, and how many; first it counts to `steps` x (N - 1)."""
    steps_ = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in ("condition", "nothing")],
        "steps",
        [
            onnx_models._value("step", [], TensorProto.INT64),
            onnx_models._value("condition_in", [], TensorProto.BOOL),
            onnx_models._value("nothing_in", [1]),
        ],
        [onnx_models._value("condition_out", [], TensorProto.BOOL), onnx_models._value("nothing_out", [1])],
    )
    nodes = [
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Sub", ["size", "one"], ["more"]),
        helper.make_node("Mul", ["more", "steps"], ["trips"]),
        helper.make_node("Loop", ["trips", "", "zero"], ["nothing"], body=steps_),
        helper.make_node("Add", ["x", "nothing"], ["late"]),
        helper.make_node("ReduceMin", ["late"], ["least"], keepdims=1, axes=[1]),
        helper.make_node("ReduceMax", ["late"], ["most"], keepdims=1, axes=[1]),
        helper.make_node("Cast", ["size"], ["float_size"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float_size", "square"], ["count"]),
        helper.make_node("Concat", ["least", "most", "count"], ["y"], axis=1),
    ]
    initializers = [
        numpy_helper.from_array(np.array(1, np.int64), "one"),
        numpy_helper.from_array(np.array(steps, np.int64), "steps"),
        numpy_helper.from_array(np.ones(2, np.int64), "square"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    inputs, outputs = [onnx_models._value("x", [1, None])], [onnx_models._value("y", [1, 3])]
    return onnx_models._bytes(helper.make_graph(nodes, "ends", inputs, outputs, initializers))


def body(number: int, size: int, count: int = 64) -> bytes:
    """A request of exactly `size` bytes: the same number again and again, spread over all of them."""
    digits = b"%d" % number
    gap = (size - 16) // count - len(digits) - 1
    text = b'{"values":[[' + (b" " * gap + b",").join([digits] * count)
    return text + b" " * (size - len(text) - 3) + b"]]}"


def truth(number: int, count: int = 64) -> list[list[float]]:
    """What is to be answered."""
    return [[number, number, count]]


def ask(platform: RunningPlatform, model: str, number: int, size: int) -> requests.Response:
    """Predict."""
    return requests.post(f"{platform.path(model)}/prediction", data=body(number, size), headers=JSON, timeout=30)


def right(answer: requests.Response, number: int) -> bool:
    """Tell whether an answer of 200 says what is true; anything else is none."""
    return answer.status_code == 200 and answer.json()["values"] == truth(number)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    environment = {"INFERRER_BODY_IDLE_S": str(IDLE_S)}
    models = {"ends": ends(), "twin": ends(1), "late": ends(10_000_000), "fragile": fragile()}
    options = {"modelhosts": 2, "workers": 2, "environment": environment}
    with zoo_platform(tmp_path_factory.mktemp("large"), models, **options) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _unharmed(platform: RunningPlatform) -> Iterator[None]:
    with unharmed(platform, rss_bytes=RSS_BYTES):
        yield
        all_given_back(platform)


def segments(platform: RunningPlatform) -> dict[int, set[str]]:
    """The segments that each process has mapped or open, by their inodes."""
    pids = [process.pid for process in platform.processes.values()]
    pids += [pid for name in platform.processes for pid in platform.children(name)]
    return {pid: found for pid in pids if (found := mapped(pid) | opened(pid))}


def all_given_back(platform: RunningPlatform) -> None:
    """Wait until no process has a segment any more."""
    wait_until(lambda: not segments(platform), 20, "all shared memory being given back")


def mapped(pid: int) -> set[str]:
    """Inodes of the segments that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {line.split()[4] for line in lines if "/memfd:segment" in line}


def opened(pid: int) -> set[str]:
    """Inodes of the segments that a process has a descriptor of."""
    try:
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
        return {str(fd.stat().st_ino) for fd in fds if "/memfd:segment" in str(fd.readlink())}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def runners(platform: RunningPlatform, model: str) -> list[int]:
    """Process ids of a model's runners."""
    pids = [pid for name in platform.processes if name != "inferrer" for pid in platform.children(name)]
    return [pid for pid in pids if _name(pid) == f"runner {model}"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, (1 << 17) - 1, 1 << 17, (1 << 18) + 1, 3 << 20])
@pytest.mark.parametrize("way", ["at once", "chunked", "in pieces", "expecting"])
def test_every_size_in_every_way_is_answered_for_itself(platform: RunningPlatform, way: str, size: int) -> None:
    data = body(size, size)
    if way == "chunked":
        pieces = (data[start : start + 50_000] for start in range(0, size, 50_000))
        answer = requests.post(f"{platform.path('ends')}/prediction", data=pieces, headers=JSON, timeout=30)
        assert right(answer, size)
        return
    headers = JSON | {"Content-Length": str(size)} | ({"Expect": "100-continue"} if way == "expecting" else {})
    head = message("POST", "/api/v1/models/ends/prediction", headers)
    with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
        if way == "at once":
            sock.sendall(head + data)
        elif way == "in pieces":
            for start in range(0, size, size // 7):
                sock.sendall(head * (not start) + data[start : start + size // 7])
        else:
            sock.sendall(head)
            assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        (answer_,) = answers(read_all(sock))
    assert (answer_.status, json.loads(answer_.body)["values"]) == (200, truth(size)), answer_


def test_large_bodies_are_mapped_to_be_read_only_and_small_ones_not_at_all(platform: RunningPlatform) -> None:
    all_given_back(platform)
    assert right(ask(platform, "ends", 1, LARGE), 1)
    assert not segments(platform)
    for number in range(8):
        assert right(ask(platform, "ends", number, LARGE + 1), number)
        assert right(ask(platform, "twin", number, LARGE + 1), number)
    ours, others = (set[str]().union(*map(mapped, runners(platform, model))) for model in MODELS)
    assert ours
    assert others
    assert not ours & others, "one model's runner has memory of another's requests"
    for pid in [*runners(platform, "ends"), *runners(platform, "twin")]:
        lines = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memfd:segment" in line]
        assert all(line.split()[1] == "r--s" for line in lines)
        assert not opened(pid)


class Crowd:
    """Clients that ask with large bodies until they are told to stop, beside some that leave before their answer."""

    def __init__(self, platform: RunningPlatform) -> None:
        self.outcomes: Counter[str] = Counter()
        self._platform = platform
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(6)

    def __enter__(self) -> Self:
        """Begin."""
        for number in range(4):
            self._pool.submit(self._ask, number)
        for number in range(2):
            self._pool.submit(self._leave, number)
        return self

    def __exit__(self, *_: object) -> None:
        """Let every request that was begun end."""
        self._stop.set()
        self._pool.shutdown()

    def _ask(self, number: int) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            number += 100
            url = f"{self._platform.path(MODELS[number % 2])}/prediction"
            data = body(number, LARGE + number * 977 % 300_000)
            try:
                answer = session.post(url, data=data, headers=JSON, timeout=30)
            except requests.RequestException as error:
                self.outcomes[repr(error)] += 1
                continue
            if answer.status_code == 200:
                self.outcomes["right" if right(answer, number) else f"{number} was answered {answer.text}"] += 1
            else:
                self.outcomes[answer.json()["error"]["code"]] += 1

    def _leave(self, number: int) -> None:
        while not self._stop.wait(0.02):
            number += 2
            data = message("POST", "/api/v1/models/ends/prediction", JSON, body(number, 2 * LARGE))
            with socket.create_connection(("127.0.0.1", self._platform.port), 30) as sock:
                if number % 4 < 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                sock.sendall(data if number % 3 else data[: 70_000 + number])

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered well."""
        goal = self.outcomes["right"] + more
        wait_until(lambda: self.outcomes["right"] >= goal, 30, f"{more} more answers; so far {self.outcomes}")


def test_concurrent_bodies_are_never_mixed_up_whoever_dies_or_leaves(platform: RunningPlatform) -> None:
    with Crowd(platform) as crowd:
        for _ in range(3):
            crowd.wait_for(20)
            for pid in runners(platform, "ends"):
                os.kill(pid, signal.SIGKILL)
            crowd.wait_for(20)
            platform.restart("modelhost-1")
        crowd.wait_for(20)
    # What was killed twice over, or had nowhere else to go, is said to have failed; nothing else goes wrong.
    allowed = {"right", "MODEL_CRASHED", "MODELHOST_LOST", "NOT_LOADED", "UNAVAILABLE", "QUEUE_FULL"}
    assert set(crowd.outcomes) <= allowed, crowd.outcomes


@pytest.mark.parametrize("padding", [0, 1, 13, 64])
def test_tensors_in_a_large_body_are_read_where_they_stand(platform: RunningPlatform, padding: int) -> None:
    values = np.arange(100_000, dtype=np.float32)[np.newaxis] + padding
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 100_000], "parameters": {"binary_data_size": 400_000}}
    head = json.dumps({"inputs": [tensor]}).encode() + b" " * padding
    headers = {"Inference-Header-Content-Length": str(len(head))}
    url = f"{platform.url}/v2/models/ends/infer"
    for data in (head + values.tobytes(), iter([head, values.tobytes()])):
        answer = requests.post(url, data=data, headers=headers, timeout=30)
        assert answer.json()["outputs"][0]["data"] == [padding, 99_999 + padding, 100_000], answer.text


def test_a_large_request_that_ends_its_runner_is_known_again(platform: RunningPlatform) -> None:
    deadly = b'{"values":' + b" " * 100_000 + b"[-1]}"
    said = [
        requests.post(f"{platform.path('fragile')}/prediction", data=deadly, headers=JSON, timeout=30)
        for _ in range(6)  # two modelhosts, which learn each by itself
    ]
    assert {answer.json()["error"]["code"] for answer in said} == {"MODEL_CRASHED"}
    assert "not run again" in said[-1].text
    harmless = b'{"values":' + b" " * 100_000 + b"[-2]}"
    answer = requests.post(f"{platform.path('fragile')}/prediction", data=harmless, headers=JSON, timeout=30)
    assert answer.json()["values"] == [1 << 62], answer.text


def test_u05_a_body_that_is_cut_off_or_stalls_leaves_nothing_behind(platform: RunningPlatform) -> None:
    data = message("POST", "/api/v1/models/ends/prediction", JSON, body(5, 3 << 20))
    for cut in (len(data) - 1, 400_000, 70_000, 200):
        with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
            sock.sendall(data[:cut])
            sock.shutdown(socket.SHUT_WR)
            (answer,) = answers(read_all(sock))
        assert (answer.status, b"INCOMPLETE_BODY" in answer.body) == (400, True), answer
        with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(data[:cut])
    with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
        sock.sendall(data[:-1])
        (answer,) = answers(read_all(sock))  # without our doing anything
    assert (answer.status, b"REQUEST_TIMEOUT" in answer.body) == (408, True), answer
    assert right(ask(platform, "ends", 6, 3 << 20), 6)


def test_h02_what_follows_a_large_body_is_a_request_of_its_own(platform: RunningPlatform) -> None:
    path = "/api/v1/models/ends/prediction"
    requests_ = [message("POST", path, JSON, body(number, 70_000 * (1 + number % 4))) for number in range(8)]
    requests_ += [message("GET", "/api/v1/models", {"Connection": "close"})]
    found = answers(converse(platform.port, b"".join(requests_)))
    assert [answer.status for answer in found] == [200] * 9
    for number, answer in enumerate(found[:8]):
        assert b'"values":[[%d.0,%d.0,64.0]]' % (number, number) in answer.body, answer


def test_h02_whatever_comes_behind_a_large_body_may_come_in_any_pieces(platform: RunningPlatform) -> None:
    path = "/api/v1/models/ends/prediction"
    with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, first in enumerate((1, 300, 4095, 4096, 4097, 8192, 70_000)):
            for padding, size in ((0, 100_000), (6000, 100_000), (0, 2000), (5000, 70_000), (4000, 1000)):
                data = message("POST", path, JSON | {"X-Padding": "p" * padding}, body(number, size))
                for piece in (data[:first], data[first : 2 * first], data[2 * first :]):
                    sock.sendall(piece)
                response = HTTPResponse(sock, method="POST")
                response.begin()
                assert json.loads(response.read())["values"] == truth(number), (first, padding, size)


def test_h02_a_body_longer_than_announced_is_no_part_of_anything(platform: RunningPlatform) -> None:
    data = body(3, 100_000)
    for rest in (b"x", b"\x00" * 1000, b"5\r\n\r\n", body(4, 100_000)):
        request = message("POST", "/api/v1/models/ends/prediction", JSON | {"Content-Length": str(len(data))})
        found = answers(converse(platform.port, request + data + rest))
        assert found[0].status == 200, found
        assert b'"values":[[3.0,3.0,64.0]]' in found[0].body
        assert [answer.status for answer in found[1:]] in ([400], [501]), found


def test_a_large_body_for_no_model_or_too_large_is_refused_as_ever(platform: RunningPlatform) -> None:
    for path, status in (("none", 404), ("ends:9", 404), ("ends", 415)):
        headers = {"Content-Type": "text/csv"} if status == 415 else JSON
        answer = exchange(
            platform.port, message("POST", f"/api/v1/models/{path}/prediction", headers, body(1, 1 << 20))
        )
        assert answer.status == status, answer
    too_large = message("POST", "/api/v1/models/ends/prediction", JSON | {"Content-Length": str((64 << 20) + 1)})
    assert exchange(platform.port, too_large).status == 413
    broken = body(1, 1 << 20)[:-1] + b"!"
    assert exchange(platform.port, message("POST", "/api/v1/models/ends/prediction", JSON, broken)).status == 400


def test_senders_that_hold_all_segments_do_not_keep_others_out(platform: RunningPlatform) -> None:
    head = message("POST", "/api/v1/models/ends/prediction", JSON | {"Content-Length": str(1 << 20)})
    with ExitStack() as stack:
        for _ in range(80):  # two processes with 32 each
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", platform.port), 30))
            sock.sendall(head + b"{")
        inferrers = platform.children("inferrer")
        wait_until(lambda: sum(len(opened(pid)) for pid in inferrers) == 64, 10, "every segment being taken")
        for number in range(10):
            assert right(ask(platform, "ends", number, 300_000), number)


def test_p13_memory_that_a_run_may_still_read_is_never_used_again(platform: RunningPlatform) -> None:
    all_given_back(platform)
    inferrers = platform.children("inferrer")
    used: set[str] = set()
    for number in range(4):
        data = message("POST", "/api/v1/models/late/prediction", JSON, body(number, 200_000))
        with socket.create_connection(("127.0.0.1", platform.port), 30) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(data)
            seen = new_memory(platform, used)
        assert len(seen) == 1
        # Not idle, as memory is whose request was answered, but gone: only the runner still has it, while it runs.
        wait_until(lambda: not any(map(mapped, inferrers)), IDLE_SEGMENT_S - 1, "its memory being let go")
        used |= seen
    assert right(ask(platform, "ends", 9, 200_000), 9)


def new_memory(platform: RunningPlatform, used: set[str]) -> set[str]:
    """Wait until the runners of `late` have memory that they did not have before."""
    pids = runners(platform, "late")
    return wait_until(lambda: set[str]().union(*map(mapped, pids)) - used, 20, "the request being run")


def test_without_a_way_for_descriptors_large_bodies_go_in_frames(tmp_path: Path) -> None:
    with zoo_platform(tmp_path, {"ends": ends()}, modelhosts=1, workers=1) as alone:
        sockets = Path(alone.settings["modelhost-1"]["MODELHOST_CHANNEL"].removeprefix("unix:")).parent
        (sockets / "modelhost-1.sock.fds").unlink()
        alone.kill("inferrer")
        alone.start("inferrer")
        alone.wait_ready()
        for number in range(4):
            assert right(ask(alone, "ends", number, 1 << 20), number)
        assert not segments(alone)
        assert not re.search("error|warning", alone.logs(), re.IGNORECASE), alone.logs()
