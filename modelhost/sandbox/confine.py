"""Confines this process, for good: limits first, then, once it has read what it needs, everything but computing.

Two steps, because a process that may open nothing must have everything: `limit`, then read files, then `seal`. Each
layer stands alone; a kernel without one is no reason not to use the others. What an unprivileged process can do to
itself, and nothing that needs a privilege, so that it works in a container too.
"""

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

from modelhost.sandbox.bpf import compile_filter
from modelhost.sandbox.policy import ABSENT, ALLOWED, MACHINES, NEWEST, conditions

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
# Rights by the version of Landlock that brought them: files, TCP, and what reaches other processes.
_LANDLOCK_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_LANDLOCK_TCP = {4: 0b11}
_LANDLOCK_OTHERS = {6: 0b11}

_OPEN_FILES = 32
_CPU_GRACE_S = 5  # between SIGXCPU, which tells why, and SIGKILL
_libc = ctypes.CDLL(None, use_errno=True)


def limit(*, cpu_s: int | None, memory_bytes: int) -> None:
    """Bound what this process may use; `memory_bytes` is what it may take beyond what it has now, 0 for any amount.

    Memory is private writable memory by the address, touched or not (RLIMIT_DATA): what a model can make the process
    take. Libraries, shared memory and address space that is only reserved do not count, as they would with RLIMIT_AS.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if cpu_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + _CPU_GRACE_S))
    if memory_bytes:
        most = _private_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def seal() -> tuple[str, ...]:
    """Give up files, sockets, processes and new code; returns the layers that this kernel does not have."""
    _first_to_go()
    _silence()
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return tuple(name for name, install in LAYERS.items() if not install())


def _private_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    return pages * resource.getpagesize()


def _first_to_go() -> None:
    """When the machine runs out of memory, the kernel ends a model's process and no other."""
    try:
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")
    except OSError:
        return  # as if there were no such preference


def _silence() -> None:
    """Let nothing into the log: what C libraries and runtimes print before they abort is no record."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def _landlock() -> bool:
    """Handle every right there is and grant none."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    kinds = (_LANDLOCK_FILES, _LANDLOCK_TCP, _LANDLOCK_OTHERS)
    handled = [sum(rights for since, rights in kind.items() if since <= version) for kind in kinds]
    rights = struct.pack("=3Q", *handled)[: 8 * sum(map(bool, handled))]
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0)
    if ruleset < 0:
        return False
    done: bool = _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _seccomp() -> bool:
    """Install the filter for this architecture."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    rules = conditions(os.getpid())
    code = compile_filter(machine, allowed=ALLOWED, conditions=rules, absent=ABSENT, newest=NEWEST)
    program = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(program))
    installed: bool = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, head, 0, 0) == 0
    return installed


# In this order: the last forbids what the first needs.
LAYERS = {"landlock": _landlock, "seccomp": _seccomp}
