"""What the edge's companion tells HAProxy of a renewed certificate; tests/swarm tries it on the real one."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme

from mlbuffet.chassis import edge
from mlbuffet.chassis.edge import ADMIN, hand_over, questions
from tests.harness.platform import ROOT

PEM = trustme.CA().issue_cert("edge.example").private_key_and_cert_chain_pem.bytes()


@pytest.mark.parametrize(
    "given", [PEM, PEM + b"\n\n", PEM.replace(b"\n", b"\r\n"), PEM.replace(b"-----BEGIN", b"\n\n-----BEGIN")]
)
def test_an_empty_line_ends_what_is_handed_over_and_none_stands_in_it(given: bytes) -> None:
    first, second = questions("/tls/edge.pem", given)
    assert first == b"set ssl cert /tls/edge.pem <<\n" + PEM.strip() + b"\n\n"
    assert second == b"commit ssl cert /tls/edge.pem\n"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"Committing /tls/edge.pem.\nSuccess!\n", ""),
        (b"unable to load certificate\n\n", "unable to load certificate"),
        (b"", "no answer"),
    ],
)
def test_what_is_said_at_last_tells_whether_it_was_taken(tmp_path: Path, said: bytes, why: str) -> None:
    """A runtime API of two connections, which ends each with its answer, as HAProxy's does."""
    admin = tmp_path / "admin.sock"
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(admin))
        listener.listen()

        def answer() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(1 << 16))
                    connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        assert hand_over(admin, "/tls/edge.pem", PEM) == why
        thread.join()
    assert asked == questions("/tls/edge.pem", PEM)


def test_the_socket_is_the_one_in_haproxys_configuration() -> None:
    text = (ROOT / "deploy/edge/haproxy.cfg").read_text(encoding="utf-8")
    assert re.findall(r"stats socket (\S+)", text) == [str(ADMIN)]


# A program in HAProxy's place: it tells of its signals, and ends by one of them with a status of its own.
PROGRAM = """
import signal, sys
print("begun", flush=True)
print(signal.sigwait({signal.SIGUSR1, signal.SIGTERM}).name, flush=True)
sys.exit(7)
"""


def test_the_parent_passes_signals_on_and_ends_as_its_child_does(tmp_path: Path) -> None:
    (tmp_path / "edge.pem").write_bytes(PEM)
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])\n{PROGRAM}"
    command = [sys.executable, "-IS", edge.__file__, sys.executable, "-c", blocked]
    environment = {**os.environ, "EDGE_CERTIFICATE": str(tmp_path / "edge.pem")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "SIGUSR1\n"
        assert process.wait(20) == 7
