"""Holds the gRPC port for the processes that share it.

Sockets that share a port share it with anybody's that do: two platforms on one port would answer each other's requests
without a word. So the port is taken once the plain way, which fails where somebody has it, and then held.
"""

import contextlib
import socket
import time

_PAUSE_S = 0.1


def hold(host: str, port: int, wait_s: float) -> socket.socket:
    """A socket that keeps others off a port, and listens to nobody; those of a process that ends may take a moment.

    Raises:
        OSError: somebody has the port.
    """
    ends_at = time.monotonic() + wait_s
    while True:
        try:
            _bind(host, port, socket.SO_REUSEADDR).close()
            return _bind(host, port, socket.SO_REUSEPORT)
        except OSError:
            if time.monotonic() > ends_at:
                raise
        time.sleep(_PAUSE_S)


def _bind(host: str, port: int, option: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(address)
        undo.pop_all()
        return sock
