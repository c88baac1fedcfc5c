"""Starts HAProxy in the edge's container, and gives it a renewed certificate while it runs.

Where there is a certificate this stays HAProxy's parent, looks at the certificate's file, and hands a new one over by
HAProxy's own runtime API: no process is replaced, no connection is closed, and handshakes from then on have the new
one. What HAProxy does not take it goes without, and the log says why. It is the parent and not a child, because HAProxy
does not end as long as it has children. This file stands alone, like those beside it in the image.
"""

import json
import os
import re
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

ADMIN = Path("/tmp/haproxy.sock")  # noqa: S108 - as haproxy.cfg has it, in a file system of the container's own
_LOOK_S = 1.0
_TIMEOUT_S = 5.0
_HEARD = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
_BLANK = re.compile(rb"^\s*\n", re.MULTILINE)  # would end what is handed over


def questions(name: str, pem: bytes) -> list[bytes]:
    """What HAProxy is told, one after the other, to have a certificate and its key in place of those before. Pure."""
    given = _BLANK.sub(b"", pem.replace(b"\r", b"").strip() + b"\n")
    return [b"set ssl cert %b <<\n%b\n" % (name.encode(), given), b"commit ssl cert %b\n" % name.encode()]


def hand_over(admin: Path, name: str, pem: bytes) -> str:
    """Give HAProxy a certificate; returns why it was not taken, empty when it was."""
    said = ""
    for question in questions(name, pem):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(admin))
            connection.sendall(question)
            with connection.makefile("rb") as answer:
                said = answer.read().decode(errors="replace")
    return "" if "Success" in said else " ".join(said.split()) or "no answer"


def renewed(path: Path, admin: Path, known: bytes) -> bytes:
    """Hand over what is in a file if it is another than what is known; returns what is known then."""
    try:
        pem = path.read_bytes()
        if pem == known:
            return known
        why = hand_over(admin, str(path), pem)
    except OSError as error:  # HAProxy has the last one: try again
        _say("certificate not read", "ERROR", why=f"{error.strerror}")
        return known
    _say("certificate not taken" if why else "certificate taken", "ERROR" if why else "INFO", why=why)
    return pem


def attend(child: int, path: Path, known: bytes) -> int:
    """Be the container's first process: pass signals on, look at the certificate; returns the child's exit status."""
    while True:
        told = signal.sigtimedwait(_HEARD, _LOOK_S)
        if told is None:
            known = renewed(path, ADMIN, known)
        elif told.si_signo != signal.SIGCHLD:
            os.kill(child, told.si_signo)
        else:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    return os.waitstatus_to_exitcode(ended[1])


def _say(event: str, level: str, **fields: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "level": level, "service": "edge", "event": event, **fields}), flush=True)  # noqa: T201


def main() -> None:
    """Become the program that the arguments name; where there is a certificate, its parent."""
    certificate = os.environ.get("EDGE_CERTIFICATE")
    if certificate:
        path = Path(certificate)
        known = path.read_bytes()  # before HAProxy does
        signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        if child := os.fork():
            sys.exit(attend(child, path, known))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the image's own command


if __name__ == "__main__":
    main()
