"""Makes authorities, and what they sign: a certificate for each role that names it, and one for each engine.

X.509 v3 with keys on P-256. An authority lasts ten years and signs only what ends a chain; a certificate lasts one
year. What each end checks of the other is the role, which is the certificate's one name (RFC 5280, 4.2.1.6).

An engine asks for no role: whoever has a certificate of its authority is root there. So that authority is another one,
and what it signs is good for one end: who has an engine's certificate cannot command another engine with it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LASTS = timedelta(days=3650)
CERTIFICATE_LASTS = timedelta(days=365)
_CLOCKS_DIFFER = timedelta(minutes=10)
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def expires(self) -> datetime:
        """When the certificate is over."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """Tells certificates apart."""
        return x509.load_pem_x509_certificate(self.certificate).fingerprint(hashes.SHA256()).hex()


def make_authority(now: datetime, called: str = "MLBuffet") -> Pair:
    """A new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(key.public_key(), name, name, now, AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identity, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
    )
    return _signed(builder, key, key)


def issue(authority: Pair, role: str, now: datetime) -> Pair:
    """A new certificate for a role, for either end of a connection.

    Raises:
        ValueError: what should be the authority is none.
    """
    return _issue(authority, [f"mlbuffet-{role}"], (_SERVER, _CLIENT), now)


def issue_client(authority: Pair, role: str, now: datetime) -> Pair:
    """A new certificate with which a role commands engines; for what it raises see `issue`."""
    return _issue(authority, [f"mlbuffet-{role}"], (_CLIENT,), now)


def issue_engine(authority: Pair, addresses: Sequence[str], now: datetime) -> Pair:
    """A new certificate for an engine that is reached by these names and addresses; raises as `issue` does."""
    return _issue(authority, addresses, (_SERVER,), now)


def _issue(authority: Pair, names: Sequence[str], ends: Sequence[x509.ObjectIdentifier], now: datetime) -> Pair:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signing = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey) or signing.public_key() != issuer.public_key():
        msg = "the authority's key does not belong to its certificate"
        raise ValueError(msg)
    key = ec.generate_private_key(ec.SECP256R1())
    identity = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    builder = (
        _builder(key.public_key(), subject, issuer.subject, now, CERTIFICATE_LASTS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(ends), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
    )
    return _signed(builder, key, signing)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signing: ec.EllipticCurvePrivateKey
) -> Pair:
    certificate = builder.sign(signing, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form))
