"""Where the data channel's ends are: addresses, connecting and listening.

A folder may hold the unix sockets of several modelhosts, each named after its owner. Such a socket appears when its
owner listens already, so that who is refused there has met a dead one.
"""

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlbuffet.certificates import MODELHOST
from mlbuffet.channel import FrameProtocol
from mlbuffet.segments import SIDE_SUFFIX, side_path

log = logging.getLogger(__name__)

_BACKLOG = 128

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

    def owned_by(self, name: str) -> "Address":
        """The address of one of those that share it: in a folder, `unix:/folder/`, each has a socket of its own."""
        shared = self.path and (self.path.endswith("/") or Path(self.path).is_dir())
        return Address(path=str(Path(self.path) / f"{name}.sock")) if shared else self

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
        name = MODELHOST if tls else None
        _, protocol = await loop.create_connection(make, address.host, address.port, ssl=tls, server_hostname=name)
    return protocol


async def listen(
    make: Callable[[], asyncio.BaseProtocol], address: Address, tls: ssl.SSLContext | None
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
    return await loop.create_unix_server(make, sock=_listening(Path(address.path)))


def _listening(path: Path) -> socket.socket:
    """A unix socket that listens, in one step for those who look: nobody finds it before."""
    hidden = path.with_name(f".{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(hidden))
        hidden.chmod(0o600)
        sock.listen(_BACKLOG)
        hidden.rename(path)
    except OSError:
        sock.close()
        hidden.unlink(missing_ok=True)
        raise
    return sock


def sockets_in(folder: Path) -> list[Path]:
    """The channels in a folder, without the sockets beside them and those that do not listen yet."""
    return [
        path
        for path in folder.iterdir()
        if path.is_socket() and path.suffix != SIDE_SUFFIX and not path.name.startswith(".")
    ]


def remove_dead_sockets(folder: Path) -> None:
    """Remove the sockets that ended processes have left in a folder."""
    for path in sockets_in(folder):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.suppress(OSError):
            sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
            try:
                sock.connect(str(path))
            except ConnectionRefusedError:
                log.info("dead socket removed", extra={"socket": path.name})
                path.unlink(missing_ok=True)
                Path(side_path(str(path))).unlink(missing_ok=True)
