"""Hands a listening socket to a program that it becomes, as systemd does by a unit of sockets with `FreeBind`.

`python -m tests.harness.activation ADDRESS:PORT PROGRAM…`: so an engine listens at an address that it makes itself.
https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
"""

import os
import socket
import sys

_FIRST = 3
_IP_FREEBIND = 15


def main(where: str, *program: str) -> None:
    """Bind, and become the program."""
    host, _, port = where.rpartition(":")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, int(port)))
    listening.listen(128)
    if listening.fileno() != _FIRST:
        os.dup2(listening.fileno(), _FIRST)
    os.set_inheritable(_FIRST, True)  # noqa: FBT003 - its only argument
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execvp(program[0], program)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main(*sys.argv[1:])
