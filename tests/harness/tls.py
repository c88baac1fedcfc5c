"""Certificates of a private authority, in folders as the services read them."""

from pathlib import Path

import trustme

MODELHOST, INFERRER, TRAINER = "mlbuffet-modelhost", "mlbuffet-inferrer", "mlbuffet-trainer"


def write_certificate(folder: Path, authority: trustme.CA, name: str, *, trusted: trustme.CA | None = None) -> Path:
    """A folder with `ca.pem`, `cert.pem` and `key.pem`; `trusted` is the authority that its owner believes."""
    folder.mkdir(parents=True)
    certificate = authority.issue_cert(name)
    (trusted or authority).cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=number > 0)
    return folder
