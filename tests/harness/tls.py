"""Certificates of a private authority, in folders as the services read them."""

from datetime import datetime
from pathlib import Path

import trustme

MODELHOST, INFERRER, TRAINER = "mlbuffet-modelhost", "mlbuffet-inferrer", "mlbuffet-trainer"
METRICS = "mlbuffet-metrics"


def write_certificate(
    folder: Path,
    authority: trustme.CA,
    name: str,
    *,
    trusted: trustme.CA | None = None,
    until: datetime | None = None,
) -> Path:
    """A folder with `ca.pem`, `cert.pem` and `key.pem`, which may be there.

    `trusted` is the authority that its owner believes, `until` when the certificate ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate = authority.issue_cert(name, not_after=until)
    (trusted or authority).cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=number > 0)
    return folder
