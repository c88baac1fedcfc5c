"""Where the data channel's ends are: addresses, connecting, listening, and the TLS between them."""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlbuffet.channel import FrameProtocol

P = TypeVar("P", bound=FrameProtocol)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a channel listens: a unix socket's path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `unix:/path` or `tcp://host:port`.

        Raises:
            ValueError: neither of the two.
        """
        if text.startswith("unix:/"):
            return cls(path=text.removeprefix("unix:"))
        host, _, port = text.removeprefix("tcp://").rpartition(":")
        if text.startswith("tcp://") and host and port.isdecimal():
            return cls(host=host.strip("[]"), port=int(port))
        msg = f"an address is unix:/path or tcp://host:port; received {text!r}"
        raise ValueError(msg)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp://{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Tell whether only this machine can reach it."""
        return bool(self.path) or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's loopback, without asking the network."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def connect(make: Callable[[], P], address: Address, tls: ssl.SSLContext | None) -> P:
    """Open a channel to a modelhost.

    Raises:
        OSError: nobody answers there, TLS fails, or is missing beyond loopback.
    """
    loop = asyncio.get_running_loop()
    if tls is None and not address.is_local:
        msg = f"a data channel beyond loopback needs TLS certificates; asked to connect to {address}"
        raise PermissionError(msg)
    if address.path:
        _, protocol = await loop.create_unix_connection(make, address.path)
    else:
        name = "mlbuffet-modelhost" if tls else None
        _, protocol = await loop.create_connection(make, address.host, address.port, ssl=tls, server_hostname=name)
    return protocol


async def listen(
    make: Callable[[], FrameProtocol], address: Address, tls: ssl.SSLContext | None
) -> asyncio.AbstractServer:
    """Wait for inferrers at an address; a socket file left by a dead process is replaced.

    Raises:
        OSError: the address is taken.
        PermissionError: beyond loopback without TLS.
    """
    loop = asyncio.get_running_loop()
    if not address.path:
        if tls is None and not address.is_local:
            msg = f"a data channel beyond loopback needs TLS certificates; asked to listen on {address}"
            raise PermissionError(msg)
        return await loop.create_server(make, address.host, address.port, ssl=tls)
    Path(address.path).unlink(missing_ok=True)
    server = await loop.create_unix_server(make, address.path)
    Path(address.path).chmod(0o600)
    return server


def tls_context(folder: Path | None, *, server: bool) -> ssl.SSLContext | None:
    """Mutual TLS 1.3 from `ca.pem`, `cert.pem` and `key.pem` in a folder; None without a folder."""
    if folder is None:
        return None
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
