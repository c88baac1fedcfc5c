"""What a process asks of the kernel for itself: to die with its parent, a name, limits."""

import ctypes
import gc
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends; it may have ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def set_name(name: str) -> None:
    """Name this process as `ps` and `top` show it (15 bytes)."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def confine(*, cpu_s: int | None, memory_bytes: int | None) -> None:
    """Give up what a process that runs models does not need: new privileges, files to write, core dumps."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if cpu_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def settle_memory() -> None:
    """Take what start-up made out of the garbage collector's rounds, and make them rarer.

    What a request leaves behind is freed by reference counts; the default thresholds look for cycles hundreds of times
    a second under load and find none.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def own_memory_bytes() -> int:
    """Memory that would come back if this process ended: its private pages."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123 - on the load path, kept cheap
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
