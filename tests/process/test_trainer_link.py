"""The way to an engine over TLS: whom it believes, and whom it does not, over something that answers as an engine."""

import http.server
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from mlbuffet.chassis.expiry import Expiry
from tests.harness.tls import TRAINER, write_certificate
from trainer.engine import EngineUnreachableError
from trainer.link import Link


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Tell versions, whatever is asked."""
        body = json.dumps({"ApiVersion": "1.41", "Components": [{"Name": "runc", "Version": "1.2.8"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Engine(http.server.ThreadingHTTPServer):
    """Wants a certificate of its authority, as dockerd does with --tlsverify."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._context = context

    def finish_request(self, request: object, client_address: object) -> None:
        """Begin TLS in the connection's own thread."""
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:  # type: ignore[arg-type]
                super().finish_request(secured, client_address)
        except OSError:
            return  # the client, or we, did not want the other

    @property
    def address(self) -> str:
        """As the trainer's settings name it."""
        return f"tcp://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def authority() -> trustme.CA:
    """That of the engines."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def _serve(engine: _Engine) -> Iterator[_Engine]:
    thread = threading.Thread(target=engine.serve_forever, args=(0.05,))
    thread.start()
    yield engine
    engine.shutdown()
    thread.join()
    engine.server_close()


@pytest.fixture
def engine(tmp_path: Path, authority: trustme.CA) -> Iterator[_Engine]:
    """An engine whose certificate names its address."""
    yield from _serve(_Engine(write_certificate(tmp_path / "engine", authority, "127.0.0.1")))


@pytest.fixture
def misnamed(tmp_path: Path, authority: trustme.CA) -> Iterator[_Engine]:
    """Another one of the same authority, whose certificate names another place."""
    yield from _serve(_Engine(write_certificate(tmp_path / "other", authority, "node7.test")))


def test_an_engine_of_the_authority_is_asked(tmp_path: Path, authority: trustme.CA, engine: _Engine) -> None:
    folder = write_certificate(tmp_path / "own", authority, TRAINER)
    assert Link(engine.address, folder).check() == {"runc": "1.2.8"}


def test_what_the_environment_trusts_is_of_no_matter(
    tmp_path: Path, authority: trustme.CA, engine: _Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write_certificate(tmp_path / "own", authority, TRAINER)
    stranger = trustme.CA()
    doubting = write_certificate(tmp_path / "doubting", authority, TRAINER, trusted=stranger)
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "stranger.pem"))
    assert Link(engine.address, own).check()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own / "ca.pem"))
    with pytest.raises(EngineUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        Link(engine.address, doubting).check()


def test_an_engine_of_another_name_is_not_asked(tmp_path: Path, authority: trustme.CA, misnamed: _Engine) -> None:
    folder = write_certificate(tmp_path / "own", authority, TRAINER)
    with pytest.raises(EngineUnreachableError, match=r"CERTIFICATE_VERIFY_FAILED|doesn't match"):
        Link(misnamed.address, folder).check()


def test_a_trainer_of_another_authority_is_not_answered(tmp_path: Path, authority: trustme.CA, engine: _Engine) -> None:
    folder = write_certificate(tmp_path / "own", trustme.CA(), TRAINER)
    shutil.copy(tmp_path / "engine/ca.pem", folder / "ca.pem")
    with pytest.raises(EngineUnreachableError):
        Link(engine.address, folder).check()
    assert authority is not None


def test_renewed_certificates_count(tmp_path: Path, authority: trustme.CA, engine: _Engine) -> None:
    folder = write_certificate(tmp_path / "own", trustme.CA(), TRAINER, trusted=authority)
    link = Link(engine.address, folder)
    with pytest.raises(EngineUnreachableError), link.asking() as client:
        client.version(api_version=False)
    until = datetime.now(UTC) + timedelta(days=3)
    for path in folder.iterdir():
        path.unlink()
    write_certificate(folder, authority, TRAINER, until=until)
    with link.asking() as client:
        assert client.version(api_version=False)["ApiVersion"] == "1.41"
    (family,) = Expiry(None, engines=folder).collect()
    assert abs(family.samples[0].value - until.timestamp()) < 2
