"""Who may open a data channel: over TCP only the two of one authority, over a unix socket only the same user."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mlbuffet.certificates import read_context
from mlbuffet.channel import HEADER, Kind
from tests.harness.onnx_models import constant
from tests.harness.platform import ROOT, RunningPlatform, copy_samples, free_port, running_platform, wait_until
from tests.harness.tls import INFERRER, MODELHOST, write_certificate

Authorities = tuple[trustme.CA, trustme.CA]


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    """Ours, and somebody else's."""
    return trustme.CA(), trustme.CA()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, authorities: Authorities) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tls")
    ours, foreign = authorities
    return {
        "inferrer": write_certificate(root / "inferrer", ours, INFERRER),
        "modelhost": write_certificate(root / "modelhost", ours, MODELHOST),
        "misnamed": write_certificate(root / "misnamed", ours, "elsewhere"),
        "foreign": write_certificate(root / "foreign", foreign, INFERRER, trusted=ours),
        "impostor": write_certificate(root / "impostor", foreign, MODELHOST, trusted=ours),
    }


def over_tcp(repository: Path, folders: dict[str, Path], *, modelhost: str = "modelhost") -> RunningPlatform:
    """A platform whose data channel is TCP with TLS."""
    copy_samples(repository)
    platform = RunningPlatform(repository, modelhosts=1, workers=1)
    address = f"tcp://127.0.0.1:{free_port()}"
    platform.settings["modelhost-1"] |= {
        "MODELHOST_CHANNEL": address,
        "MODELHOST_TLS_FOLDER": str(folders[modelhost]),
    }
    platform.settings["inferrer"] |= {
        "INFERRER_MODELHOSTS": address,
        "INFERRER_TLS_FOLDER": str(folders["inferrer"]),
    }
    return platform


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Iterator[RunningPlatform]:
    repository = tmp_path_factory.mktemp("secured") / "repository"
    repository.mkdir()
    with over_tcp(repository, folders) as platform:
        yield platform


def port_of(platform: RunningPlatform) -> int:
    return int(platform.settings["modelhost-1"]["MODELHOST_CHANNEL"].rpartition(":")[2])


def first_frame(sock: socket.socket) -> int | None:
    """The kind of the frame that a modelhost greets an inferrer with; None when it hangs up instead."""
    sock.settimeout(5)
    try:
        head = (
            sock.recv(HEADER.size, socket.MSG_WAITALL)
            if not isinstance(sock, ssl.SSLSocket)
            else sock.recv(HEADER.size)
        )
    except (ConnectionError, ssl.SSLError):
        return None
    return int(HEADER.unpack(head)[1]) if len(head) == HEADER.size else None


def test_the_right_certificates_serve_everything(secured: RunningPlatform) -> None:
    assert secured.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
    assert secured.put("five", constant(5, padding_bytes=1_000_000)).status_code == 201
    rows = [[number] for number in range(50_000)]
    assert secured.predict("five", rows).json()["values"] == [[5.0]] * 50_000


def test_a_client_with_our_certificate_is_greeted_over_tls_1_3(
    secured: RunningPlatform, folders: dict[str, Path]
) -> None:
    context = read_context(folders["inferrer"], server=False)
    with (
        socket.create_connection(("127.0.0.1", port_of(secured)), 5) as raw,
        context.wrap_socket(raw, server_hostname=MODELHOST) as sock,
    ):
        assert sock.version() == "TLSv1.3"
        assert first_frame(sock) == Kind.STATE


@pytest.mark.parametrize("who", ["nobody", "foreign", "old"])
def test_a_client_that_is_not_ours_is_told_nothing(
    who: str, secured: RunningPlatform, folders: dict[str, Path]
) -> None:
    if who == "nobody":
        context = ssl.create_default_context(cafile=folders["inferrer"] / "ca.pem")
    else:
        context = read_context(folders["foreign" if who == "foreign" else "inferrer"], server=False)
    if who == "old":
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port_of(secured)), 5) as raw:
        try:
            with context.wrap_socket(raw, server_hostname=MODELHOST) as sock:
                assert first_frame(sock) is None
        except (ssl.SSLError, ConnectionError):
            pass  # refused in the handshake already
    assert secured.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200


def test_a_client_without_tls_is_told_nothing(secured: RunningPlatform) -> None:
    with socket.create_connection(("127.0.0.1", port_of(secured)), 5) as sock:
        sock.sendall(HEADER.pack(HEADER.size - 4, Kind.CALL, 0, 0, 0, 1, 10**9))
        assert first_frame(sock) is None


@pytest.mark.parametrize("modelhost", ["misnamed", "impostor"])
def test_the_inferrer_talks_to_no_modelhost_that_is_not_ours(
    modelhost: str, tmp_path: Path, folders: dict[str, Path]
) -> None:
    platform = over_tcp(tmp_path, folders, modelhost=modelhost)
    try:
        for name in platform.settings:
            platform.start(name)
        wait_until(lambda: _refusals(platform), what="the inferrer refusing the modelhost")
        answer = wait_until(lambda: _answer(platform), what="the inferrer answering")
        assert answer == 503
    finally:
        platform.__exit__()


def _refusals(platform: RunningPlatform) -> bool:
    records = [item for item in platform.records() if item["event"] == "modelhost does not answer"]
    return any("CERTIFICATE_VERIFY_FAILED" in item["why"] for item in records)


def _answer(platform: RunningPlatform) -> int:
    try:
        return platform.predict("iris.onnx", [2, 5, 1, 4]).status_code
    except OSError:
        return 0


def started(service: str, **settings: str) -> tuple[int, str]:
    """Exit status and output of a service that does not start."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INFERRER", "MODELHOST"))}
    done = subprocess.run(
        [sys.executable, "-m", service],
        env=environment | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_tcp_beyond_loopback_without_tls_refuses_to_start(tmp_path: Path) -> None:
    for address in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://10.1.2.3:9100", "tcp://modelhosts:9100"):
        status, output = started("modelhost", MODELHOST_CHANNEL=address, MODELHOST_REPOSITORY=str(tmp_path))
        assert status == 1, output
        assert "MODELHOST_TLS_FOLDER" in output
        assert "Traceback" not in output


def test_addresses_that_are_none_refuse_to_start(tmp_path: Path) -> None:
    status, output = started("modelhost", MODELHOST_CHANNEL="udp://x:1", MODELHOST_REPOSITORY=str(tmp_path))
    assert (status, "MODELHOST_CHANNEL" in output, "Traceback" in output) == (1, True, False), output
    status, output = started("inferrer", INFERRER_MODELHOSTS="modelhosts", INFERRER_REPOSITORY=str(tmp_path))
    assert (status, "INFERRER_MODELHOSTS" in output, "Traceback" in output) == (1, True, False), output


_CONNECT = """
import os, socket, sys
os.setgid(65534); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(5)
    sock.connect(sys.argv[1])
    try:
        print(len(sock.recv(int(sys.argv[3]))))
    except ConnectionError:
        print(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("uid", "received"), [(65534, 0), (0, HEADER.size)])
def test_a_unix_socket_is_deaf_to_other_users(uid: int, received: int, tmp_path: Path) -> None:
    with running_platform(tmp_path / "repository", modelhosts=1, workers=1) as platform:
        path = Path(platform.settings["modelhost-1"]["MODELHOST_CHANNEL"].removeprefix("unix:"))
        assert path.stat().st_mode & 0o777 == 0o600
        # Let everybody reach the socket, so that only the credentials speak.
        for folder in (platform.folder, path.parent):
            folder.chmod(0o755)
        path.chmod(0o666)
        command = [sys.executable, "-c", _CONNECT, str(path), str(uid), str(HEADER.size)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.stdout.strip() == str(received), done.stderr
        assert platform.predict("iris.onnx", [2, 5, 1, 4]).status_code == 200
