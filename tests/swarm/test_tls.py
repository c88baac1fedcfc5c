"""TLS on the public ports, and a certificate that is renewed."""

import socket
import ssl
import time
from pathlib import Path

import pytest
import requests
import trustme

from tests.harness.platform import wait_until
from tests.harness.stack import Stack
from tests.harness.swarm import ADDRESSES

RATE = 500.0
PORT = 8002


class Renewing:
    """The edge's certificates, by an authority of the test's own."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._authority = trustme.CA()
        self._file = folder / "edge.pem"
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self._context = ssl.create_default_context(cafile=self.ca)

    def give(self) -> bytes:
        """Give the edge a new certificate; returns it."""
        made = self._authority.issue_cert(ADDRESSES[0])
        made.private_key_and_cert_chain_pem.write_to_path(str(self._file))
        self._stack.lab.deploy("certificates", "edge", self._file)
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())

    def shown(self) -> bytes:
        """The certificate that a new connection is shown; empty where there is none."""
        try:
            sock = socket.create_connection((ADDRESSES[0], PORT), 5)
            with sock, self._context.wrap_socket(sock, server_hostname=ADDRESSES[0]) as secure:
                return secure.getpeercert(binary_form=True) or b""
        except OSError:
            return b""


def is_plain() -> bool:
    """Tell whether the port speaks HTTP without TLS."""
    try:
        return requests.get(f"http://{ADDRESSES[0]}:{PORT}/health/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_a_renewed_certificate_is_picked_up_without_one_failed_request(stack: Stack, tmp_path: Path) -> None:
    certificates = Renewing(stack, tmp_path)
    first = certificates.give()
    try:
        stack.lab.deploy("up", "--tls")
        wait_until(lambda: certificates.shown() == first, 60, "TLS")
        assert not is_plain()
        (edge,) = stack.lab.first.containers("edge")
        stack.lab.deploy("up")  # which leaves it as it is
        with stack.load(RATE, port=PORT, ca=str(certificates.ca)) as running:
            second = certificates.give()
            began = time.monotonic()
            wait_until(lambda: certificates.shown() == second, 30, "the second certificate")
            took_s = time.monotonic() - began
            third = certificates.give()
            wait_until(lambda: certificates.shown() == third, 30, "the third one")
            assert {certificates.shown() for _ in range(20)} == {third}
        print(f"certificate picked up after {took_s:.1f} s: {running.result}")  # noqa: T201 - a figure
        assert running.result.failures == {}
        assert running.result.answered > 0
        assert stack.lab.first.containers("edge") == [edge]
        assert stack.lab.first.logs(edge).count("certificate taken") == 2
    finally:
        stack.lab.deploy("up", "--no-tls")
        wait_until(is_plain, 60, "HTTP")


def test_what_is_no_certificate_is_not_given(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "edge.pem"
    file.write_bytes(trustme.CA().issue_cert("a").cert_chain_pems[0].bytes())  # without its key
    with pytest.raises(AssertionError, match="does not hold a certificate chain and its key"):
        stack.lab.deploy("certificates", "edge", file)
