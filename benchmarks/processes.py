"""What processes cost: CPU time and memory of a process with everything below it, from /proc."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

CORES = len(os.sched_getaffinity(0))
_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat behind the command's name, counted from the process's state.
_PARENT, _UTIME, _STIME = 1, 11, 12
_SETTLE_S = 15.0
_STOP_S = 20.0
_LOOK_S = 0.2
_IDLE = 0.1  # of a core


class NotReadyError(RuntimeError):
    """A server did not come up in time."""


def _stat(pid: int) -> list[str] | None:
    """The fields of a process's stat file; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the name may hold spaces and brackets


def tree(root: int) -> list[int]:
    """A process and everything below it, whatever thread started it."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for item in Path("/proc").iterdir():
        if item.name.isdecimal() and (fields := _stat(int(item.name))) is not None:
            children[int(fields[_PARENT])].append(int(item.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that these processes have used so far."""
    stats = [fields for pid in pids if (fields := _stat(pid)) is not None]
    return sum(int(fields[_UTIME]) + int(fields[_STIME]) for fields in stats) / _TICKS


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size: shared pages count once over all who share them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def wait_until(check: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    """Poll until a server says that it is ready.

    Raises:
        NotReadyError: it ended, or time is up.
    """
    ends_at = time.monotonic() + timeout_s
    while not check():
        if process.poll() is not None:
            msg = f"it ended with status {process.returncode} before it was ready"
            raise NotReadyError(msg)
        if time.monotonic() > ends_at:
            msg = f"it was not ready within {timeout_s:g} s"
            raise NotReadyError(msg)
        time.sleep(0.05)


def settle(pid: int) -> None:
    """Wait until a server has nothing to do, at most 15 s: what is left of a load must not be charged to the next."""
    ends_at = time.monotonic() + _SETTLE_S
    used = cpu_seconds(tree(pid))
    while time.monotonic() < ends_at:
        time.sleep(_LOOK_S)
        before, used = used, cpu_seconds(tree(pid))
        if used - before <= _IDLE * _LOOK_S:
            return


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that the servers it started are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Stop a process, started in a session of its own, at the end; kill what is left of its group then."""
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
