"""Certificates that our own two ends take and nobody else's; keys that open; what is written where for whom."""

import json
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from inferrer.sentkeys import find_key
from mlbuffet.certificates import INFERRER, MODELHOST, read_context
from mlbuffet.deploying.authority import Pair, issue, issue_client, issue_engine, make_authority
from mlbuffet.deploying.credentials import (
    Authorities,
    Folder,
    authority_secret,
    certificate_secrets,
    key_secrets,
    metrics_secrets,
    trainer_secret,
    write_own,
)
from mlbuffet.deploying.names import KEYS, METRICS_ACCESS, ROLES, certificate_names
from mlbuffet.deploying.remote import engine_files, write_engine_files
from mlbuffet.keyfile import read_hashing_key, read_keys

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority(NOW)


def folder_of(folder: Path, authority: Pair, pair: Pair) -> Path:
    """What a service finds below /run/secrets/tls."""
    folder.mkdir()
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "cert.pem").write_bytes(pair.certificate)
    (folder / "key.pem").write_bytes(pair.key)
    return folder


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """What the client's end finds: the version of TLS.

    Raises:
        ssl.SSLError: one end does not take the other.
    """
    ours, theirs = socket.socketpair()
    failed: list[Exception] = []

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.sendall(b"!")
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with ours, client.wrap_socket(ours, server_hostname=name) as wrapped:
            assert wrapped.recv(1) == b"!"
            return wrapped.version() or ""
    finally:
        thread.join(5)
        theirs.close()


def contexts(tmp_path: Path, authority: Pair, server: Pair, client: Pair) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    at_server = read_context(folder_of(tmp_path / "server", authority, server), server=True)
    at_client = read_context(folder_of(tmp_path / "client", authority, client), server=False)
    for context in (at_server, at_client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by default
    return at_server, at_client


def test_both_roles_take_each_other(tmp_path: Path, authority: Pair) -> None:
    modelhost, inferrer = issue(authority, "modelhost", NOW), issue(authority, "inferrer", NOW)
    assert shake_hands(*contexts(tmp_path, authority, modelhost, inferrer), MODELHOST) == "TLSv1.3"


def test_another_role_is_not_taken_for_it(tmp_path: Path, authority: Pair) -> None:
    wrong, inferrer = issue(authority, "inferrer", NOW), issue(authority, "inferrer", NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match=MODELHOST):
        shake_hands(*contexts(tmp_path, authority, wrong, inferrer), MODELHOST)


def test_what_another_authority_signed_is_refused(tmp_path: Path, authority: Pair) -> None:
    foreign = issue(make_authority(NOW), "modelhost", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(*contexts(tmp_path, authority, foreign, issue(authority, "inferrer", NOW)), MODELHOST)


def test_certificates_say_what_they_are_for(authority: Pair) -> None:
    top = x509.load_pem_x509_certificate(authority.certificate)
    leaf = x509.load_pem_x509_certificate(issue(authority, "inferrer", NOW).certificate)
    for certificate, days in ((top, 3650), (leaf, 365)):
        assert certificate.version is x509.Version.v3
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
        assert certificate.not_valid_after_utc == (NOW + timedelta(days=days)).replace(microsecond=0)
        assert certificate.not_valid_before_utc < NOW, "clocks differ"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [INFERRER]
    assert top.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def engine_contexts(
    tmp_path: Path, authority: Pair, server: Pair, client: Pair
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """As between the trainer and an engine; TLS 1.2, where a refused client hears so during the handshake."""
    both = contexts(tmp_path, authority, server, client)
    for context in both:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return both


def test_an_engine_is_known_by_each_of_its_addresses(tmp_path: Path, authority: Pair) -> None:
    addresses = ["172.18.0.1", "node1", "fd00::1"]
    engine, trainer = issue_engine(authority, addresses, NOW), issue_client(authority, "trainer", NOW)
    both = engine_contexts(tmp_path, authority, engine, trainer)
    assert {shake_hands(*both, name) for name in addresses} == {"TLSv1.2"}
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(*both, "172.18.0.2")


def test_an_engines_certificate_commands_no_engine(tmp_path: Path, authority: Pair) -> None:
    engine, other = (issue_engine(authority, [name], NOW) for name in ("node1", "node2"))
    with pytest.raises(ssl.SSLError):
        shake_hands(*engine_contexts(tmp_path, authority, engine, other), "node1")


def test_the_trainers_certificate_makes_no_engine(tmp_path: Path, authority: Pair) -> None:
    trainer = issue_client(authority, "trainer", NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(*engine_contexts(tmp_path, authority, trainer, trainer), "mlbuffet-trainer")


def test_an_engines_files_are_for_root_and_say_how_it_listens(tmp_path: Path, authority: Pair) -> None:
    files = engine_files(issue_engine(authority, ["fd00::1"], NOW), authority, "fd00::1")
    write_engine_files(tmp_path / "engine", files)
    assert {stat.S_IMODE(item.stat().st_mode) for item in (tmp_path / "engine").iterdir()} == {0o600}
    assert "ListenStream=[fd00::1]:2376\n" in (tmp_path / "engine/docker.socket.conf").read_text()
    said = json.loads((tmp_path / "engine/daemon.json").read_text())
    assert said.pop("tlsverify") is True
    assert {Path(path).name for path in said.values()} == {"ca.pem", "cert.pem", "key.pem"}
    assert authority.key not in files.values()


def test_a_key_of_another_authority_signs_nothing(authority: Pair) -> None:
    with pytest.raises(ValueError, match="belong"):
        issue(Pair(authority.certificate, make_authority(NOW).key), "inferrer", NOW)


def test_the_authority_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "deep" / "folder")
    assert folder.authority() is None
    made = folder.make_authority(NOW)
    assert folder.authority() == made
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(item.stat().st_mode) for item in folder.path.iterdir()} == {0o600}
    assert {item.name for item in folder.path.iterdir()} == {"ca.pem", "ca-key.pem"}


def test_a_file_of_ones_own_replaces_one_that_others_could_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_own(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_authoritys_key_is_in_no_secret(authority: Pair) -> None:
    both = Authorities(authority, make_authority(NOW))
    made = [secret for role in ROLES for secret in certificate_secrets(both, role, 2, NOW)]
    assert [secret.name for secret in made] == certificate_names(2)
    made += [authority_secret("mlbuffet_ca", both.services), authority_secret("mlbuffet_engine_ca", both.engines)]
    keys = [both.services.key.strip(), both.engines.key.strip()]
    assert not [secret for secret in made for key in keys if key in secret.content]
    assert {secret.labels["mlbuffet.expires"] for secret in made[:-2]} == {
        (NOW + timedelta(days=365)).strftime("%Y-%m-%d")
    }


def test_the_first_keys_open_and_are_not_written_down() -> None:
    secrets, text = key_secrets(NOW)
    by_name = {secret.name: secret.content for secret in secrets}
    assert tuple(by_name) == KEYS
    hashing_key = read_hashing_key(by_name["mlbuffet_key_hash"].decode())
    keys = read_keys(by_name["mlbuffet_first_keys"], hashing_key).keys
    administrator = find_key(keys, text.encode(), hashing_key)
    scraper = find_key(keys, by_name["mlbuffet_metrics_api_key"], hashing_key)
    assert administrator is not None
    assert scraper is not None
    assert (administrator.scopes, scraper.scopes) == (("admin",), ("models:read",))
    secret = text.partition(".")[2].encode()
    assert not [name for name, content in by_name.items() if secret in content]
    assert json.loads(by_name["mlbuffet_first_keys"])["keys"][0]["id"] == text.partition(".")[0]


def test_prometheus_knows_the_password_as_a_hash() -> None:
    (plain, web), password = metrics_secrets()
    assert (plain.name, web.name) == METRICS_ACCESS
    assert plain.content.decode() == password
    assert password.encode() not in web.content
    head, user = web.content.decode().splitlines()
    assert head == "basic_auth_users:"
    hashed = user.removeprefix('  metrics: "').removesuffix('"')
    assert bcrypt.checkpw(password.encode(), hashed.encode())


def test_secrets_are_not_shown_by_accident(authority: Pair) -> None:
    made, password = metrics_secrets()
    assert password not in repr(made)
    both = Authorities(authority, make_authority(NOW))
    assert "PRIVATE" not in repr([both, certificate_secrets(both, "engine", 1, NOW)])
    secret = trainer_secret()
    assert secret.content.decode() not in repr(secret)
    assert secret.content != trainer_secret().content
