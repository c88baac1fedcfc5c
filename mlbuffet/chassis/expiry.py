"""When a service's certificates end, for Prometheus: read from the files as they are now, so that a renewal shows.

The standard library gives a certificate's dates for the other end of a connection only. So the few bytes that lead to
them are read here (X.690 for the encoding, RFC 5280, 4.1, for the order of the fields).
"""

import contextlib
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_END = "-----END CERTIFICATE-----\n"
_UTC_TIME = 0x17
_VERSION = 0xA0
_LONG = 0x80


class Expiry(Collector):
    """The certificates of a service, by what they are for; an authority that ends before its own counts for it."""

    def __init__(self, folder: Path | None, **others: Path | None) -> None:
        """`folder` holds the one that it shows to other services, `others` those for anything else."""
        self._folders = {"services": folder, **others}

    def collect(self) -> Iterable[Metric]:
        """Read the files; without them, and while one is being replaced, there is no figure."""
        about = "When a certificate of this service ends"
        family = GaugeMetricFamily("certificate_expiry_timestamp_seconds", about, labels=("purpose",))
        for purpose, folder in self._folders.items():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if folder is not None:
                    family.add_metric((purpose,), _first_end(folder).timestamp())
        return (family,)


def _first_end(folder: Path) -> datetime:
    return min(ends_at((folder / name).read_text(encoding="ascii")) for name in ("cert.pem", "ca.pem"))


def ends_at(pem: str) -> datetime:
    """When the first certificate of a PEM file ends. Pure.

    Raises:
        ValueError, IndexError: there is none.
    """
    der = ssl.PEM_cert_to_DER_cert(pem[: pem.find(_END) + len(_END)])
    certificate = _content(der, 0)[1]
    signed = _content(certificate, 0)[1]
    at = _content(signed, 0)[2] if signed[0] == _VERSION else 0
    for _ in ("serial number", "signature's algorithm", "issuer"):
        at = _content(signed, at)[2]
    validity = _content(signed, at)[1]
    kind, text, _ = _content(validity, _content(validity, 0)[2])
    # Two digits of a year are those from 1950 to 2049.
    year, rest = (text[:2], text[2:]) if kind == _UTC_TIME else (text[:4], text[4:])
    century = b"" if kind != _UTC_TIME else b"19" if int(year) >= 50 else b"20"  # noqa: PLR2004 - as above
    return datetime.strptime((century + year + rest).decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _content(data: bytes, at: int) -> tuple[int, bytes, int]:
    """The tag and content of what begins at an offset, and where the next begins."""
    tag, length = data[at], data[at + 1]
    start = at + 2
    if length & _LONG:
        start += length & ~_LONG
        length = int.from_bytes(data[at + 2 : start], "big")
    return tag, data[start : start + length], start + length
