"""What a process asks of the kernel for itself: to die with its parent, a name, how much memory it takes."""

import ctypes
import gc
import io
import os
import resource
import signal
from typing import TextIO

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends; it may have ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def set_name(name: str) -> None:
    """Name this process as `ps` and `top` show it (15 bytes)."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def settle_memory() -> None:
    """Take what start-up made out of the garbage collector's rounds, and make them rarer.

    What a request leaves behind is freed by reference counts; the default thresholds look for cycles hundreds of times
    a second under load and find none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def open_memory() -> TextIO:
    """What `own_memory_bytes` reads, opened ahead for a process that may open nothing when it wants to know."""
    try:
        return open("/proc/self/smaps_rollup", encoding="ascii")  # noqa: PTH123 - on the load path, kept cheap
    except OSError:
        return io.StringIO()


def own_memory_bytes(rollup: TextIO) -> int:
    """Memory that would come back if this process ended: its private pages."""
    private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    return (private or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
