"""The Docker engine of this machine: where it is, and whether it answers. Nothing but a ping is asked of it here."""

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path

_USUAL = "unix:///var/run/docker.sock"
_PING_S = 2.0


def local_engine(environ: Mapping[str, str]) -> tuple[str, Path | None]:
    """The address of the engine that docker's own commands would ask, and the folder of its certificates.

    Raises:
        ValueError: DOCKER_HOST names one that the trainer does not ask.
    """
    address = environ.get("DOCKER_HOST") or _USUAL
    if address.startswith("unix://"):
        return address, None
    folder = environ.get("DOCKER_CERT_PATH")
    if address.startswith("tcp://") and environ.get("DOCKER_TLS_VERIFY") and folder:
        return address, Path(folder)
    msg = f"an engine is asked by unix:// or, with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, tcp://; received {address!r}"
    raise ValueError(msg)


def answers(address: str) -> bool:
    """Tell whether the engine at a unix socket answers; one over TCP is taken at its word."""
    if not address.startswith("unix://"):
        return True
    connection = http.client.HTTPConnection("localhost", timeout=_PING_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_PING_S)
        connection.sock.connect(address.removeprefix("unix://"))
        connection.request("GET", "/_ping")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
