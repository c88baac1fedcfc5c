"""The system calls that a process needs to compute on what it holds, and to talk over the sockets that it has.

An allow-list: no files are opened, no sockets made, no processes started, signalled or looked into. What newer
kernels add is answered as by a kernel that does not have it, so that C libraries fall back; the rest as forbidden.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Test(NamedTuple):
    """One half of an argument, masked, must have a value. Little-endian: `high` is the second half."""

    argument: int
    mask: int
    value: int
    high: bool = False


class Machine(NamedTuple):
    """An architecture: its number in the kernel's audit, and those of its system calls."""

    audit: int
    calls: Mapping[str, int]


NEWEST = 462  # mseal, the newest call when this list was made
ABSENT = ("clone3",)  # its flags are behind a pointer, where no filter sees them; C libraries fall back to clone

# On x86_64 and on aarch64.
_ALLOWED: Mapping[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "poll": (7, None),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "shutdown": (48, 210),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
_OTHERS: Mapping[str, tuple[int, int | None]] = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "clone": (56, 220),
    "prctl": (157, 167),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "clone3": (435, 435),
}

_NUMBERS = {**_ALLOWED, **_OTHERS}

MACHINES: Mapping[str, Machine] = {
    name: Machine(audit, {call: number for call, at in _NUMBERS.items() if (number := at[column]) is not None})
    for column, (name, audit) in enumerate((("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)))
}
ALLOWED = tuple(_ALLOWED)

_PROT_EXEC = 0x4
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000  # every namespace
_PR_SET_NAME = 15
_WHOLE = 0xFFFFFFFF


def conditions(pid: int) -> Mapping[str, tuple[Test, ...]]:
    """Calls that are allowed with some arguments only, for the process of this number."""
    return {
        "mmap": (Test(2, _PROT_EXEC, 0),),  # no new code
        "mprotect": (Test(2, _PROT_EXEC, 0),),
        "clone": (Test(0, _CLONE_THREAD | _CLONE_NEW, _CLONE_THREAD),),  # threads, no processes
        "prctl": (Test(0, _WHOLE, _PR_SET_NAME),),  # among others, it could outlive its parent
        "tgkill": (Test(0, _WHOLE, pid),),  # abort()
        "prlimit64": (Test(2, _WHOLE, 0), Test(2, _WHOLE, 0, high=True)),  # reading limits
    }
