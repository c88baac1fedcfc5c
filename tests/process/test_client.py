"""The client against the real platform, and against what lies between: cut connections, tampered files, strangers."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from mlbuffet import Client, errors
from mlbuffet.errors import ConnectionFailedError
from tests.harness import onnx_models
from tests.harness.platform import SAMPLES, RunningPlatform, free_port


@pytest.fixture
def client(shared_platform: RunningPlatform) -> Iterator[Client]:
    with Client(shared_platform.url) as made:
        yield made


@pytest.fixture
def name(client: Client) -> Iterator[str]:
    """A model name of this test's own; what it uploads there is removed."""
    own = f"client-{uuid4().hex[:12]}.onnx"
    yield own
    if own in client.models():
        client.delete(own)


# Between client and platform -----------------------------------------------------------------------------------------


class CuttingProxy:
    """Passes connections on, but for the first ones: those lose their answer, or their request."""

    def __init__(self, port: int, *, answers: int = 0, requests: int = 0) -> None:
        self.lost_answers: list[bytes] = []
        self.connections = 0
        self._target = ("127.0.0.1", port)
        self._answers, self._requests = answers, requests
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._passing: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        """End it with every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for sock in self._sockets:
            _cut(sock)
        for thread in self._passing:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(near)
            if self.connections <= self._requests:
                near.recv(1)
                _cut(near)
                continue
            far = socket.create_connection(self._target)
            self._sockets.append(far)
            way_back = self._lose if self.connections <= self._requests + self._answers else _pass
            for act, source, target in ((_pass, near, far), (way_back, far, near)):
                thread = threading.Thread(target=act, args=(source, target))
                thread.start()
                self._passing.append(thread)

    def _lose(self, far: socket.socket, near: socket.socket) -> None:
        """Take an answer, and end both connections instead of passing it on."""
        self.lost_answers.append(far.recv(1 << 16))
        for side in (near, far):
            _cut(side)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side may have been faster
        sock.shutdown(socket.SHUT_RDWR)


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def cutting(platform: RunningPlatform, *, answers: int = 0, requests: int = 0) -> Iterator[tuple[CuttingProxy, Client]]:
    proxy = CuttingProxy(platform.port, answers=answers, requests=requests)
    try:
        with Client(proxy.url) as client:
            yield proxy, client
    finally:
        proxy.close()


Answer = tuple[int, Mapping[str, str], bytes]


@contextmanager
def answering(answer: Callable[[str, str], Answer]) -> Iterator[Client]:
    """A client of a server that answers any request as told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = answer(self.command, self.path)
            self.send_response(status)
            for field, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(field, value)
            self.end_headers()
            self.wfile.write(body)
            seen.append(dict(self.headers))

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", key="a-key", timeout_s=5) as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()
    assert all(headers["Authorization"] == "Bearer a-key" for headers in seen)


# Against the platform ------------------------------------------------------------------------------------------------


def test_lists_all_models_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(client.models())
    assert {"iris.onnx", "wine.onnx"} <= set(names)
    monkeypatch.setattr("mlbuffet.asking._PAGE", 2)
    assert list(client.models()) == names
    assert [model["model"] for model in client.information()] == names
    assert list(client.models(limit=3)) == names[:3]
    assert list(client.models(limit=1, after=names[0])) == names[1:2]
    assert list(client.models(limit=0)) == []
    assert list(client.models(after=names[-1])) == []


def test_model_lives_its_life(client: Client, name: str, tmp_path: Path) -> None:
    content = onnx_models.constant(1)
    source = tmp_path / "one.onnx"
    source.write_bytes(content)
    first = client.push(name, source, description="Eins, größer als 0", image={"scale": 0.5})
    assert (first["version"], first["description"]) == (1, "Eins, größer als 0")
    assert first["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert client.show(name)["image"]["scale"] == 0.5
    with pytest.raises(errors.PreconditionFailedError):
        client.push(name, onnx_models.constant(2), if_match="sha256:" + "0" * 64)
    with source.open("rb") as file:
        assert client.push(name, file)["version"] == 1, "the same bytes are the same version"
    second = client.push(name, onnx_models.constant(2), if_match=first["digest"])
    assert (second["version"], second["description"]) == (2, first["description"])
    assert client.predict(name, [[0]])["values"] == [[2]]
    assert client.predict(f"{name}:1", [[0]])["values"] == [[1]]
    assert client.rollback(name) == 1
    assert client.predict(name, [[0]])["values"] == [[1]]
    with pytest.raises(errors.VersionNotFoundError, match="below"):
        client.rollback(name)
    assert client.rollback(name, 2) == 2
    assert client.push(name, onnx_models.constant(3), activate=False)["version"] == 3
    assert (client.show(name)["default"], client.predict(f"{name}:3", [[0]])["values"]) == (2, [[3]])
    assert {host["state"] for host in client.load(f"{name}:1")["modelhosts"]} == {"READY"}
    changed = client.describe(f"{name}:1", description="", pinned=True)
    assert (changed["version"], changed["description"], changed["pinned"]) == (1, "", True)
    client.delete(f"{name}:1")
    client.delete(f"{name}:3")
    assert [version["version"] for version in client.show(name)["versions"]] == [2]
    client.delete(name)
    assert name not in client.models()


def test_pulls_what_was_pushed(client: Client, name: str, tmp_path: Path) -> None:
    content = onnx_models.constant(3, padding_bytes=3_000_000)
    sent: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    client.push(name, content, progress=lambda done, total: sent.append((done, total)))
    pulled = client.pull(name, tmp_path, progress=lambda done, total: got.append((done, total)))
    assert pulled["path"] == str(tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    assert (pulled["version"], pulled["size_bytes"]) == (1, len(content))
    for seen in (sent, got):
        assert seen[-1] == (len(content), len(content))
        assert len(seen) > 5, "in pieces"
        assert seen == sorted(seen)
    client.pull(f"{name}:1", tmp_path / "other")
    assert sorted(item.name for item in tmp_path.iterdir()) == [name, "other"]


def test_arrays_predict_like_lists(client: Client) -> None:
    rows = [[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]
    by_list = client.predict("iris.onnx", rows, outputs="all")
    assert by_list["values"] == [0, 2]
    assert client.predict("iris.onnx", np.array(rows), outputs="all") == by_list
    assert client.predict("iris.onnx", {"input": np.array(rows)}, outputs=["label", "probabilities"]) == by_list
    assert list(client.predict("iris.onnx", rows, outputs=["label"])["outputs"]) == ["label"]


def test_images_predict(client: Client) -> None:
    picture = SAMPLES / "images" / "seven.png"
    by_path = client.predict_image("digits.onnx", picture)
    assert (by_path["values"], by_path["labels"]) == ([7], ["7"])
    assert client.predict_image("digits.onnx", picture.read_bytes()) == by_path
    with picture.open("rb") as file:
        assert list(client.predict_image("digits.onnx", file, outputs=["probabilities"])["outputs"]) == [
            "probabilities"
        ]
    with pytest.raises(errors.UnsupportedTypeError):
        client.predict_image("digits.onnx", b"no picture")


def test_prediction_ends_at_its_deadline(client: Client, name: str) -> None:
    client.push(name, onnx_models.slow())
    assert client.predict(name, [10], timeout_s=20)["values"] == [10]
    with pytest.raises(errors.DeadlineExceededError):
        client.predict(name, [50_000_000], timeout_s=0.3)


def test_refusal_is_the_servers_error(client: Client) -> None:
    with pytest.raises(errors.ModelNotFoundError) as caught:
        client.show("nobody.onnx")
    assert "nobody.onnx" in caught.value.message
    request_id = vars(caught.value)["request_id"]
    assert request_id
    assert caught.value.__notes__ == [f"request id: {request_id}"]
    with pytest.raises(errors.InvalidShapeError):
        client.predict("iris.onnx", [[1]])
    with pytest.raises(errors.InvalidModelError):
        client.push("nobody.onnx", b"no model")
    with pytest.raises(errors.UnprocessableError):
        client.describe("iris.onnx")


def test_readiness(client: Client) -> None:
    assert client.is_ready()
    assert not Client(f"http://127.0.0.1:{free_port()}").is_ready()


# When the way is bad -------------------------------------------------------------------------------------------------


def test_push_whose_answer_was_lost_makes_one_version(
    shared_platform: RunningPlatform, client: Client, name: str
) -> None:
    with cutting(shared_platform, answers=1) as (proxy, through):
        pushed = through.push(name, onnx_models.constant(4, padding_bytes=2_000_000), description="once")
    assert proxy.lost_answers[0].startswith(b"HTTP/1.1 201 ")
    assert proxy.connections == 2
    assert pushed["version"] == 1
    assert [version["version"] for version in client.show(name)["versions"]] == [1]


def test_conditional_push_whose_answer_was_lost_succeeds(
    shared_platform: RunningPlatform, client: Client, name: str
) -> None:
    before = client.push(name, onnx_models.constant(5))
    with cutting(shared_platform, answers=1) as (_, through):
        assert through.push(name, onnx_models.constant(6), if_match=before["digest"])["version"] == 2
    assert [version["version"] for version in client.show(name)["versions"]] == [1, 2]


def test_requests_that_were_lost_are_sent_again(shared_platform: RunningPlatform, name: str, tmp_path: Path) -> None:
    with cutting(shared_platform, requests=2) as (proxy, through):
        assert through.push(name, onnx_models.constant(7))["version"] == 1
        assert proxy.connections == 3
    with cutting(shared_platform, answers=2) as (_, through):
        assert through.predict(name, [[0]])["values"] == [[7]]
    with cutting(shared_platform, answers=1) as (_, through):
        assert through.pull(name, tmp_path)["version"] == 1


def test_delete_is_not_sent_again(shared_platform: RunningPlatform, client: Client, name: str) -> None:
    client.push(name, onnx_models.constant(8))
    with cutting(shared_platform, answers=1) as (proxy, through):
        with pytest.raises(ConnectionFailedError):
            through.delete(name)
        assert proxy.connections == 1
    assert name not in client.models()


def test_nobody_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client, pytest.raises(ConnectionFailedError) as caught:
        client.pull("iris.onnx", tmp_path)
    assert caught.value.message == f"no answer from {url}: Connection refused"
    assert isinstance(caught.value, errors.UnavailableError)
    assert not list(tmp_path.iterdir())


def test_silence_is_not_waited_for_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3)
        with client, pytest.raises(ConnectionFailedError, match="too long"):
            client.show("iris.onnx")
        listener.accept()[0].close()
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_tampered_download_leaves_the_old_file(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"what it was").hexdigest()
    headers = {"ETag": f'"sha256:{digest}"', "X-Model-Version": "1"}
    target = tmp_path / "iris.onnx"
    target.write_bytes(b"before")
    tampered = answering(lambda *_: (200, headers, b"what it is!"))
    with tampered as client, pytest.raises(errors.DigestMismatchError, match=digest):
        client.pull("iris.onnx", target)
    assert [target] == list(tmp_path.iterdir())
    assert target.read_bytes() == b"before"


def test_download_cut_short_is_no_success(tmp_path: Path) -> None:
    headers = {"ETag": f'"sha256:{"0" * 64}"', "X-Model-Version": "1", "Content-Length": "1000", "Connection": "close"}
    with answering(lambda *_: (200, headers, b"the beginning")) as client, pytest.raises(ConnectionFailedError):
        client.pull("iris.onnx", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"3", b"{}"])
def test_another_server_is_recognised(body: bytes, tmp_path: Path) -> None:
    with answering(lambda *_: (200, {"Content-Type": "text/html"}, body)) as client:
        with pytest.raises(ConnectionFailedError, match=r"no MLBuffet server; received text/html"):
            client.show("iris.onnx")
        with pytest.raises(ConnectionFailedError, match="no MLBuffet server"):
            client.pull("iris.onnx", tmp_path)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"<html>nginx", errors.NotFoundError),
        (502, b"", errors.MLBuffetError),
        (503, b'{"error": "overloaded"}', errors.UnavailableError),
        (301, b"", errors.MLBuffetError),
        (409, b'{"error": {"code": "NOT_YET_KNOWN", "message": "newer"}}', errors.ConflictError),
        (500, b'{"error": {"code": "MODEL_CRASHED", "message": "it died"}}', errors.ModelCrashedError),
    ],
)
def test_error_of_a_proxy_or_a_newer_server(status: int, body: bytes, expected: type[errors.MLBuffetError]) -> None:
    other = answering(lambda *_: (status, {"Location": "http://127.0.0.1:1/"}, body))
    with other as client, pytest.raises(errors.MLBuffetError) as caught:
        client.show("iris.onnx")
    assert type(caught.value) is expected
    assert vars(caught.value)["request_id"] is None
    if b"NOT_YET_KNOWN" in body:
        assert caught.value.message == "newer (NOT_YET_KNOWN)"
