"""Runs one script as its child, within limits, and ends all that the script has started when the script ends.

A program of its own, of the standard library alone: `python -I minder.py LIMITS SECONDS COMMAND…`. Whatever of the
script's processes loses its parent becomes this one's child (PR_SET_CHILD_SUBREAPER), so that none gets away by a new
session or a double fork. On SIGTERM the script gets so many seconds to end; on SIGINT none, and that also comes when
the trainer dies.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_PDEATHSIG, _SUBREAPER = 1, 36
_LOOK_S = 0.02
_SIGNALLED = 128
_AWAITED = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})


def main(limits: Mapping[str, int], grace_s: float, command: list[str]) -> int:
    """Run the command to its end; returns its status, as a shell counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        _become(libc, limits, command)
    while (status := _reaped(pid)) is None:
        told = signal.sigwait(_AWAITED)
        if told == signal.SIGTERM:
            _ask(pid, grace_s)
        if told != signal.SIGCHLD:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    end_all()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code


def _become(libc: ctypes.CDLL, limits: Mapping[str, int], command: list[str]) -> None:
    """Be the script, in a session of its own."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setsid()
        os.nice(10)
        for name, most in limits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            _, hard = resource.getrlimit(number)
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (bound, bound))
        os.execv(command[0], command)  # noqa: S606 - what this program is for
    except OSError as error:
        sys.stderr.write(f"the script cannot be started: {error}\n")
        sys.stderr.flush()
    os._exit(127)


def _reaped(pid: int) -> int | None:
    """Take leave of whatever has ended; the status of `pid` if that has."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found = ended[1] if ended[0] == pid else found
    return found


def _ask(pid: int, grace_s: float) -> None:
    """Ask the script to end, and wait for a while."""
    ends_at = time.monotonic() + grace_s
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
    while time.monotonic() < ends_at and _state(pid) not in {"Z", ""}:
        time.sleep(_LOOK_S)


def end_all() -> None:
    """Kill whatever is below this process, until nothing is: what was forked a moment ago too."""
    while True:
        for pid in list(below(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        time.sleep(_LOOK_S)


def below(pid: int) -> Iterator[int]:
    """The processes below one."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in " ".join(texts).split():
        yield int(child)
        yield from below(int(child))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
