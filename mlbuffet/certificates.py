"""Mutual TLS 1.3 between services: certificates that are renewed in place, and the roles that stand in them.

One authority signs the certificates of all services, so that it has signed one says little: what its owner may do is
the role, a name in it. The connecting end checks the role of whom it connects to as a host's name; the listening end
has to look for itself, with `has_role` (docs/adr/0027-roles-and-ways.md).
"""

import asyncio
import logging
import os
import ssl
from pathlib import Path

log = logging.getLogger(__name__)

INFERRER, MODELHOST, TRAINER = "mlbuffet-inferrer", "mlbuffet-modelhost", "mlbuffet-trainer"
METRICS = "mlbuffet-metrics"

_FILES = ("ca.pem", "cert.pem", "key.pem")
_Stamp = tuple[tuple[int, int, int], ...]


class RenewedContext(ssl.SSLContext):
    """A context that goes by the files as they are when a connection is made; what was made before goes on.

    Files that cannot be used, as halfway through being replaced, leave it as it was.
    """

    _folder: Path
    _server: bool
    _stamp: _Stamp
    _present: ssl.SSLContext

    @classmethod
    def of(cls, folder: Path, *, server: bool) -> "RenewedContext":
        """Read `ca.pem`, `cert.pem` and `key.pem` in a folder.

        Raises:
            OSError, ssl.SSLError: they are not there, or are none.
        """
        context = cls(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context._folder, context._server = folder, server
        context._stamp = _stamp_of(folder)
        context._present = read_context(folder, server=server)
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the standard library's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin TLS on a new connection: the one thing that an event loop asks of a context."""
        self._renew()
        return self._present.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _renew(self) -> None:
        try:
            stamp = _stamp_of(self._folder)
            if stamp == self._stamp:
                return
            self._present = read_context(self._folder, server=self._server)
        except OSError as error:  # ssl.SSLError is one
            log.warning("certificates not renewed", extra={"why": str(error)})
        else:
            self._stamp = stamp
            log.info("certificates renewed")


def tls_context(folder: Path | None, *, server: bool) -> ssl.SSLContext | None:
    """Mutual TLS 1.3 by the certificates in a folder; None without a folder.

    Raises:
        OSError, ssl.SSLError: they are not there, or are none.
    """
    return RenewedContext.of(folder, server=server) if folder is not None else None


def read_context(folder: Path, *, server: bool) -> ssl.SSLContext:
    """A context by the files as they are now; for what it takes and raises see `tls_context`."""
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _stamp_of(folder: Path) -> _Stamp:
    """What changes when one of the files is replaced or written anew."""
    stats = [os.stat(folder / name) for name in _FILES]  # noqa: PTH116 - on the loop, for each new connection
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def roles_of(transport: asyncio.BaseTransport) -> list[str] | None:
    """The names in the certificate of the other end; None where there is no TLS, as on loopback."""
    if transport.get_extra_info("sslcontext") is None:
        return None
    certificate = transport.get_extra_info("peercert") or {}
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]


def has_role(transport: asyncio.BaseTransport, role: str) -> bool:
    """Tell whether the other end may speak as `role`; what came without TLS was judged by where it came from."""
    roles = roles_of(transport)
    return roles is None or role in roles
