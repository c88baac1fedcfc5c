"""The trainer's own API as a process: who may speak to it, what it says without an engine, and what a request costs."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from mlbuffet.certificates import INFERRER, MODELHOST, TRAINER
from tests.harness.platform import ROOT, free_port, wait_until
from tests.harness.programs import required
from tests.harness.tls import write_certificate


@contextlib.contextmanager
def _trainer(folder: Path, **settings: str) -> Iterator[int]:
    """A trainer without engines; gives its port for health and metrics."""
    port = free_port()
    own = {"TRAINER_FOLDER": str(folder / "training"), "TRAINER_PORT": str(port), **settings}
    log = folder / "trainer.log"
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [sys.executable, "-m", "trainer"],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            cwd=ROOT,
        ) as process,
    ):
        try:
            wait_until(lambda: _is_live(port), 30, f"the trainer: {log.read_text()}")
            yield port
        finally:
            process.terminate()
            assert process.wait(20) == 0


def _is_live(port: int) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/health/live", timeout=5).status_code == 200
    return False


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that is connected already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(TRAINER)
        self.sock = sock

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, Mapping[str, Any]]:
        """Status and JSON of an answer."""
        self.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = self.getresponse()
        return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[_Connection]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        yield _Connection(sock)


def _ask_over_tls(port: int, folder: Path) -> int:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with (
        socket.create_connection(("127.0.0.1", port), 20) as sock,
        context.wrap_socket(sock, server_hostname=TRAINER) as secured,
    ):
        return _Connection(secured).ask("GET", "/api/v1/runs")[0]


def test_without_engines_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trainer.sock"
    with _trainer(tmp_path, TRAINER_CHANNEL=f"unix:{path}") as port, _unix(path) as asked:
        assert asked.ask("GET", "/api/v1/runs") == (200, asked_for_nothing())
        status, told = asked.ask("POST", "/api/v1/train/m.onnx")
        assert (status, told["error"]["code"]) == (503, "ENGINE_UNAVAILABLE")
        assert "TRAINER_ENGINES" in told["error"]["message"]
        for wrong in ("", "/logs", "/metrics"):
            assert (
                asked.ask("GET", f"/api/v1/runs/20200101t000000-00000000{wrong}")[1]["error"]["code"] == "RUN_NOT_FOUND"
            )
        assert asked.ask("GET", "/api/v1/runs?state=LOST")[0] == 400
        assert asked.ask("GET", "/api/v1/runs?limit=0")[0] == 400
        assert asked.ask("GET", "/api/v1/runs", Host="elsewhere.test")[0] == 421
        assert requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 503
        assert 'trainer_runs{state="RUNNING"} 0.0' in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text


def test_promtool_finds_nothing_in_what_the_trainer_shows(tmp_path: Path) -> None:
    promtool = required("promtool")
    with _trainer(tmp_path, TRAINER_CHANNEL=f"unix:{tmp_path}/trainer.sock") as port:
        shown = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    done = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert "process_cpu_seconds_total" in shown


def asked_for_nothing() -> Mapping[str, object]:
    """A page without runs."""
    status = {"code": 200, "name": "OK", "description": "Request fulfilled, document follows"}
    return {"http_status": status, "runs": []}


def test_over_tcp_it_takes_the_inferrer_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    folders = {role: write_certificate(tmp_path / role, authority, role) for role in (TRAINER, INFERRER, MODELHOST)}
    port = free_port()
    channel = {"TRAINER_CHANNEL": f"tcp://127.0.0.1:{port}", "TRAINER_TLS_FOLDER": str(folders[TRAINER])}
    with _trainer(tmp_path, **channel):
        assert _ask_over_tls(port, folders[INFERRER]) == 200
        with pytest.raises(OSError):  # noqa: PT011 - reset, or closed, whichever is seen first
            _ask_over_tls(port, folders[MODELHOST])
        stranger = write_certificate(tmp_path / "stranger", trustme.CA(), INFERRER, trusted=authority)
        with pytest.raises(OSError):  # noqa: PT011 - as above
            _ask_over_tls(port, stranger)
        with (
            socket.create_connection(("127.0.0.1", port), 20) as plain,
            pytest.raises((OSError, http.client.HTTPException)),
        ):
            _Connection(plain).ask("GET", "/api/v1/runs")
    assert "client refused" in (tmp_path / "trainer.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_over_a_unix_socket_it_takes_its_own_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "trainer.sock"
    with _trainer(tmp_path, TRAINER_CHANNEL=f"unix:{path}"):
        for folder in (path, *path.parents):
            if folder.is_relative_to("/tmp") and folder != Path("/tmp"):  # noqa: S108 - pytest's own
                folder.chmod(0o777)
        code = f"""if True:
            import os, socket
            os.setuid(65534)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect({str(path)!r})
            sock.sendall(b"GET /api/v1/runs HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
            print(sock.recv(1))
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr or done.stdout == "b''\n", done
    assert "another user" in (tmp_path / "trainer.log").read_text()
