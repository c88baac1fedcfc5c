"""When a certificate ends, read from its file; what cryptography says of it is right."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from prometheus_client import CollectorRegistry

from mlbuffet.chassis.expiry import Expiry, ends_at
from mlbuffet.deploying.authority import issue, make_authority
from tests.harness.tls import write_certificate

NOW = datetime(2026, 11, 29, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "until", [NOW, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_the_date_is_cryptographys(until: datetime) -> None:
    pem = trustme.CA().issue_cert("mlbuffet-modelhost", not_after=until).cert_chain_pems[0].bytes()
    assert ends_at(pem.decode()) == x509.load_pem_x509_certificate(pem).not_valid_after_utc == until


def test_the_first_of_several_counts() -> None:
    authority = make_authority(NOW)
    pair = issue(authority, "modelhost", NOW)
    assert ends_at((pair.certificate + authority.certificate).decode()) == pair.expires
    assert ends_at((authority.certificate + pair.certificate).decode()) == authority.expires


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "x" * 100])
def test_what_is_no_certificate_is_said_so(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        ends_at(text)


@pytest.mark.parametrize("purpose", ["services", "engines"])
def test_the_figure_follows_the_files(tmp_path: Path, purpose: str) -> None:
    registry = CollectorRegistry()
    registry.register(Expiry(tmp_path) if purpose == "services" else Expiry(None, engines=tmp_path))

    def figure() -> float | None:
        return registry.get_sample_value("certificate_expiry_timestamp_seconds", {"purpose": purpose})

    assert figure() is None
    authority, soon = trustme.CA(), datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    write_certificate(tmp_path, authority, "mlbuffet-modelhost", until=soon)
    assert figure() == soon.timestamp()
    write_certificate(tmp_path, authority, "mlbuffet-modelhost", until=soon + timedelta(days=90))
    assert figure() == (soon + timedelta(days=90)).timestamp()
