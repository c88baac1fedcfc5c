"""What a hostile or clumsy gRPC client may do: it is refused, and nobody else notices."""

import contextlib
import gzip
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import requests
from grpc import StatusCode

from mlbuffet.oip import inference_pb2
from tests.contract.test_grpc import IRIS, refused
from tests.harness import raw_http2 as h2
from tests.harness.grpc_client import SERVICE, ask, channel, infer, method, raw_request
from tests.harness.invariants import unharmed
from tests.harness.platform import ROOT, RunningPlatform, running_platform, wait_until
from tests.harness.sockets import established

INFER = f"/{SERVICE.full_name}/ModelInfer".encode()
LIVE = f"/{SERVICE.full_name}/ServerLive".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    environment = {"INFERRER_TIMEOUT_S": "2", "INFERRER_HEAD_S": "2"}
    options = {"modelhosts": 1, "workers": 1, "environment": environment}
    with running_platform(tmp_path_factory.mktemp("grpc") / "repository", **options) as platform:
        predict(platform)  # gRPC's threads and buffers are there from now on
        yield platform


def predict(platform: RunningPlatform) -> None:
    answer = infer(platform, raw_request("iris.onnx", input=IRIS))
    assert [item.name for item in answer.outputs] == ["label", "probabilities"]


def is_live(platform: RunningPlatform) -> bool:
    try:
        return bool(ask(platform, "ServerLive")["live"])
    except grpc.RpcError:
        return False


def send(platform: RunningPlatform, data: bytes, stream: int = 1) -> bool:
    """Send frames on a connection of their own; tells whether the stream was answered."""
    with h2.connect(platform.grpc_port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        return h2.read_until(sock, h2.HEADERS, stream)


def test_a_path_that_is_no_text_ends_no_server(server: RunningPlatform) -> None:
    """The server of grpcio 1.85 alone ends for it, and with it everybody's connections."""
    with unharmed(server), channel(server) as opened:
        ask_live = method(opened, "ServerLive")
        for _ in range(50):
            assert send(server, h2.head(1, b"/\xff\xfe/x") + h2.message(1, b""))
            assert ask_live(inference_pb2.ServerLiveRequest(), timeout=5).live
        predict(server)
    assert not [record for record in server.records() if "traceback" in record]


def test_metadata_that_is_no_text_or_too_much(server: RunningPlatform) -> None:
    with unharmed(server):
        assert send(server, h2.head(1, LIVE, (b"x-request-id", b"\xff\xfe")) + h2.message(1, b""))
        many = [(b"a%d" % number, b"b" * 200) for number in range(70)]
        send(server, h2.head(1, LIVE, *many) + h2.message(1, b""))
        with channel(server) as opened:
            ask_live = method(opened, "ServerLive")
            big = (("x-big", "b" * 100_000),)
            found, _ = refused(lambda: ask_live(inference_pb2.ServerLiveRequest(), metadata=big, timeout=5))
            assert found is StatusCode.RESOURCE_EXHAUSTED
        predict(server)


def test_a_call_without_its_message_is_ended(server: RunningPlatform) -> None:
    with unharmed(server), h2.connect(server.grpc_port) as sock:
        began = time.monotonic()
        calls = b"".join(h2.head(stream, INFER, (b"x-request-id", b"slow-%d" % stream)) for stream in range(1, 200, 2))
        sock.sendall(calls + h2.message(1, b"begun", end=False)[:7])
        assert h2.read_until(sock, h2.HEADERS, 199)
        assert 1.5 < time.monotonic() - began < 15
    ended = [item for item in server.records() if item.get("request_id", "").startswith("slow-")]
    assert {item["code"] for item in ended} == {"REQUEST_TIMEOUT"}
    assert len(ended) == 100


def test_a_call_of_no_message(server: RunningPlatform) -> None:
    with unharmed(server), channel(server) as opened:
        found, more = refused(lambda: opened.stream_unary(INFER.decode())(iter(()), timeout=5))
        assert (found, more["x-error-code"]) == (StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")


def test_a_message_beyond_the_limit(server: RunningPlatform) -> None:
    with unharmed(server, rss_bytes=80 << 20), channel(server, ("grpc.max_send_message_length", -1)) as opened:
        found, _ = refused(lambda: method(opened, "ModelInfer")(bytes(1 << 26) + b"x", timeout=20))
        assert found is StatusCode.RESOURCE_EXHAUSTED


def test_p11_compressed_messages_are_taken_and_bounded(server: RunningPlatform) -> None:
    """A hundredth of the row's 10 GB, and all of it where there is time."""
    request = raw_request("iris.onnx", input=IRIS)
    with unharmed(server, rss_bytes=160 << 20), channel(server) as opened:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert method(opened, "ModelInfer")(request, compression=compression, timeout=5).model_version == "1"
        times = 640 if os.environ.get("MLBUFFET_SOAK") == "1" else 12
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(times)) + packer.flush()
        head = h2.head(1, INFER, (b"grpc-encoding", b"gzip"))
        assert send(server, head + h2.message(1, bomb, compressed=True))
        for broken in (b"no gzip", gzip.compress(b"x" * 1000)[:-9], b""):
            send(server, head + h2.message(1, broken, compressed=True))
        assert send(server, h2.head(1, INFER, (b"grpc-encoding", b"br")) + h2.message(1, b"x", compressed=True))
        predict(server)
    most = max(peak_bytes(pid) for pid in server.children("inferrer"))
    assert most < 400 << 20, most


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_what_is_no_http2(server: RunningPlatform) -> None:
    with unharmed(server):
        for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01" + bytes(100), os.urandom(5000), b""):
            with socket.create_connection(("127.0.0.1", server.grpc_port), 10) as sock:
                sock.sendall(data)
                with contextlib.suppress(OSError):
                    while sock.recv(1 << 16):  # it is hung up on, silent or not
                        pass
        predict(server)


def test_a_flood_of_pings_and_of_calls_taken_back(server: RunningPlatform) -> None:
    with unharmed(server):
        with h2.connect(server.grpc_port) as sock, contextlib.suppress(OSError):
            sock.sendall(h2.frame(h2.PING, 0, 0, bytes(8)) * 10_000)
            assert h2.read_until(sock, h2.GOAWAY, 0)
        with h2.connect(server.grpc_port) as sock, contextlib.suppress(OSError):
            for stream in range(1, 10_000, 2):
                sock.sendall(h2.head(stream, LIVE) + h2.frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x08"))
        predict(server)


def test_more_connections_than_there_is_room_for(server: RunningPlatform) -> None:
    with unharmed(server):
        with contextlib.ExitStack() as opened:
            for _ in range(400):
                opened.enter_context(h2.connect(server.grpc_port))
            wait_until(lambda: connections(server) <= 260, 10, "those beyond the limit being closed")
            assert requests.get(f"{server.url}/health/ready", timeout=2).status_code == 200
        wait_until(lambda: is_live(server), 10, "gRPC being served again")


def connections(platform: RunningPlatform) -> int:
    """Connections to the gRPC port that the server holds."""
    return len(established(platform.grpc_port))


# The port -----------------------------------------------------------------------------------------------------------


def test_the_port_of_another_platform_is_not_shared(server: RunningPlatform, tmp_path: Path) -> None:
    environment = {**os.environ, **server.settings["inferrer"], "INFERRER_PORT": "0"}
    began = subprocess.run(
        [sys.executable, "-m", "inferrer"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert began.returncode == 1
    assert f"inferrer: port {server.grpc_port} for gRPC cannot be listened on" in began.stderr
    words = ["up", "--grpc-port", str(server.grpc_port), "--port", "1", "--repository", str(tmp_path / "repository")]
    began = subprocess.run(
        [sys.executable, "-m", "mlbuffet.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert began.returncode == 2
    assert "cannot be listened on" in began.stderr


def test_the_arbiter_runs_nothing_of_grpc_and_another_one_follows_when_it_is_killed(tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1, workers=2) as platform:
        predict(platform)
        arbiter = platform.processes["inferrer"].pid
        assert len(list(Path(f"/proc/{arbiter}/task").iterdir())) == 1
        platform.restart("inferrer")
        wait_until(lambda: is_live(platform), 10, "gRPC being served again")
        (first, second) = platform.children("inferrer")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(set(platform.children("inferrer")) - {first, second}) == 1, 10, "a worker following")
        predict(platform)


def test_without_a_port_there_is_no_grpc(tmp_path: Path) -> None:
    environment = {"INFERRER_GRPC_PORT": "0"}
    with running_platform(tmp_path / "repository", modelhosts=1, workers=1, environment=environment) as platform:
        assert not is_live(platform)
