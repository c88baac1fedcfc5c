"""Tells a container's engine whether its service is well: `probe.py PORT [READY LIVE [USER FILE]]`, exit status 0 or 1.

Until it has been ready once, it is asked whether it is ready; from then on whether it lives: a service that waits for
others would not be helped by being killed. FILE holds USER's password, for a service that asks for one. This file
stands alone and imports little, for it runs every few seconds.
"""

import base64
import socket
import sys
from pathlib import Path

_PATHS = ("/health/ready", "/health/live")
_TIMEOUT_S = 4.0
_WAS_READY = Path("/tmp/was-ready")  # noqa: S108 - in a file system of the container's own, gone with it


def is_well(port: int, path: str, fields: str = "") -> bool:
    """Ask on loopback, with more header lines; anything but 200 within a few seconds is a no."""
    question = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{fields}\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection:
            connection.sendall(question.encode())
            return connection.recv(64).split()[1:2] == [b"200"]
    except OSError:
        return False


def authorization(user: str, file: str) -> str:
    """The header line of a user whose password is in a file."""
    password = Path(file).read_text(encoding="ascii")
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}\r\n"


def main() -> None:
    """Ask what is due."""
    port, ready, live, *who = sys.argv[1:] if len(sys.argv) > 2 else (*sys.argv[1:], *_PATHS)  # noqa: PLR2004
    fields = authorization(*who) if who else ""
    if _WAS_READY.exists():
        sys.exit(not is_well(int(port), live, fields))
    if not is_well(int(port), ready, fields):
        sys.exit(1)
    _WAS_READY.touch()


if __name__ == "__main__":
    main()
