"""The health check of a container: ready once, then alive."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlbuffet.chassis import probe
from tests.harness.platform import free_port


@contextmanager
def answering(statuses: dict[str, int]) -> Iterator[int]:
    """A server that gives each path its status; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    path = connection.recv(1000).split()[1].decode()
                    connection.sendall(f"HTTP/1.1 {statuses[path]} Word\r\n\r\n".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WAS_READY", tmp_path / "was-ready")


def status(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """What the probe ends with."""
    monkeypatch.setattr("sys.argv", ["probe.py", *map(str, arguments)])
    try:
        probe.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_who_is_ready_is_well_and_from_then_on_who_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = {"/health/ready": 503, "/health/live": 200}
    with answering(statuses) as port:
        assert status(monkeypatch, port) == 1
        statuses["/health/ready"] = 200
        assert status(monkeypatch, port) == 0
        statuses["/health/ready"] = 503  # its modelhosts are away: no reason to kill it
        assert status(monkeypatch, port) == 0
        statuses["/health/live"] = 500
        assert status(monkeypatch, port) == 1


def test_other_paths_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({"/-/ready": 200, "/-/healthy": 503}) as port:
        assert status(monkeypatch, port, "/-/ready", "/-/healthy") == 0
        assert status(monkeypatch, port, "/-/ready", "/-/healthy") == 1


def test_who_does_not_answer_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status(monkeypatch, free_port()) == 1
