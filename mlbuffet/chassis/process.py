"""What a process asks of the kernel for itself: its cores, to die with its parent, a name, how much memory it takes."""

import contextlib
import ctypes
import gc
import io
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

END_SIGNALS = (signal.SIGTERM, signal.SIGQUIT)  # by which a process is told to end

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_KEPT_BYTES = 1 << 25  # glibc's bound
_libc = ctypes.CDLL(None, use_errno=True)


def available_cores() -> int:
    """Processor cores that this process may use: those it may run on, and no more than its container has time for."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return min(cores, max(int(quota) // int(period), 1)) if quota.isdecimal() else cores


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends; it may have ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def signals_held(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Let these signals wait; a process that is forked meanwhile inherits that, until it listens for them itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Let nothing but SIGKILL disturb the end; the interpreter takes its own handlers out before it is over."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


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


def keep_freed(size_bytes: int) -> None:
    """Have the C library keep freed memory, in pieces of up to so many bytes, for what is asked for next.

    By default each piece that is large is made of fresh pages, and those cost more than most of what is done with them.
    """
    size_bytes = min(size_bytes, _MOST_KEPT_BYTES)
    _libc.mallopt(_M_MMAP_THRESHOLD, size_bytes)
    _libc.mallopt(_M_TRIM_THRESHOLD, 2 * size_bytes)


def give_back() -> None:
    """Give the kernel back what was freed and kept."""
    _libc.malloc_trim(0)


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
