"""Starts the fork server: as a program of its own, or as a fork where this process has the runtime imported.

The latter is so where a whole platform runs on one machine (`mlbuffet up`), and then shares its pages.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlbuffet.chassis.forking import Service, fork_service

# One thread per process until a session asks for more: the fork server must have exactly one.
ONE_THREAD = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_END_S = 5.0


@dataclass(frozen=True, slots=True)
class ForkServer:
    """A running fork server, whose parent this process is."""

    control: socket.socket
    wait: Callable[[], object]  # for its end


def launch_forkserver() -> ForkServer:
    """Start it; to be called before there is a loop or a thread."""
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        warm = sys.modules.get("modelhost.forkserver")
        if warm is None:
            command = [sys.executable, "-m", "modelhost.forkserver", str(theirs.fileno()), str(os.getpid())]
            process = subprocess.Popen(  # noqa: S603 - our own module
                command, pass_fds=[theirs.fileno()], env=os.environ | ONE_THREAD, stdin=subprocess.DEVNULL
            )
            return ForkServer(control, partial(_wait, process))
        main = partial(warm.serve, theirs, os.getpid())
        pid = fork_service(Service("forkserver", main, os.environ, keep=(theirs.fileno(),)))
        return ForkServer(control, partial(os.waitpid, pid, 0))


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, which it was asked for; on a machine that is too busy, make it."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
