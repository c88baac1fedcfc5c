"""Run as a program: seals itself as a runner does, tries what must not work, and says on standard input's socket how.

`python -m tests.harness.sealed` with a socket as standard input; the answer is JSON: each try by name with its error.
"""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping

from modelhost.sandbox.confine import limit, seal

_libc = ctypes.CDLL(None, use_errno=True)
_COLUMN = {"x86_64": 0, "aarch64": 1}
_OPEN_TREE = ctypes.create_string_buffer(struct.pack("=3Q", os.O_RDONLY, 0, 0))
_SIGCHLD = int(signal.SIGCHLD)
_AT_FDCWD = -100

# Numbers on x86_64 and aarch64, and arguments with which each would fail otherwise, or do no harm, without the seal.
_CALLS: Mapping[str, tuple[int, int, tuple[object, ...]]] = {
    "socket": (41, 198, (socket.AF_INET, socket.SOCK_STREAM, 0)),
    "socket, unix": (41, 198, (socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    "socketpair": (53, 199, (1, 1, 0, ctypes.create_string_buffer(8))),
    "connect": (42, 203, (0, b"\1\0/x", 4)),
    "bind": (49, 200, (0, b"\1\0/x", 4)),
    "fork": (56, 220, (_SIGCHLD, 0, 0, 0, 0)),
    "clone3": (435, 435, (ctypes.create_string_buffer(88), 88)),
    "execve": (59, 221, (b"/bin/true", None, None)),
    "execveat": (322, 281, (_AT_FDCWD, b"/bin/true", None, None, 0)),
    "ptrace": (101, 117, (16, os.getppid(), 0, 0)),
    "process_vm_readv": (310, 270, (os.getppid(), None, 0, None, 0, 0)),
    "kill the parent": (62, 129, (os.getppid(), 0)),
    "tgkill the parent": (234, 131, (os.getppid(), os.getppid(), 0)),
    "tkill": (200, 130, (os.getppid(), 0)),
    "rt_sigqueueinfo": (129, 138, (os.getppid(), 0, ctypes.create_string_buffer(128))),
    "pidfd_open": (434, 434, (os.getppid(), 0)),
    "pidfd_send_signal": (424, 424, (0, 0, None, 0)),
    "pidfd_getfd": (438, 438, (0, 0, 0)),
    "signals by fcntl": (72, 25, (0, 8, os.getppid())),
    "ioctl": (16, 29, (0, 0x5413, ctypes.create_string_buffer(8))),
    "open for reading": (257, 56, (_AT_FDCWD, b"/etc/passwd", os.O_RDONLY, 0)),
    "open for writing": (257, 56, (_AT_FDCWD, b"/tmp/sealed", os.O_WRONLY | os.O_CREAT, 0o600)),
    "openat2": (437, 437, (_AT_FDCWD, b"/etc/passwd", _OPEN_TREE, 24)),
    "open_by_handle_at": (304, 265, (0, None, 0)),
    "memfd_create": (319, 279, (b"x", 0)),
    "stat": (262, 79, (_AT_FDCWD, b"/etc/passwd", ctypes.create_string_buffer(256), 0)),
    "unlink": (263, 35, (_AT_FDCWD, b"/tmp/sealed", 0)),
    "rename": (316, 276, (_AT_FDCWD, b"/tmp/a", _AT_FDCWD, b"/tmp/b", 0)),
    "mkdir": (258, 34, (_AT_FDCWD, b"/tmp/sealed", 0o700)),
    "symlink": (266, 36, (b"/etc/passwd", _AT_FDCWD, b"/tmp/sealed")),
    "chmod": (268, 53, (_AT_FDCWD, b"/tmp/sealed", 0o700)),
    "truncate": (76, 45, (b"/tmp/sealed", 0)),
    "io_uring_setup": (425, 425, (1, ctypes.create_string_buffer(120))),
    "bpf": (321, 280, (0, None, 0)),
    "perf_event_open": (298, 241, (None, 0, -1, -1, 0)),
    "userfaultfd": (323, 282, (0,)),
    "keyctl": (250, 219, (0, -3, 0, 0, 0)),
    "add_key": (248, 217, (b"user", b"x", b"x", 1, -3)),
    "mount": (165, 40, (b"none", b"/tmp/sealed", b"tmpfs", 0, None)),
    "open_tree": (428, 428, (_AT_FDCWD, b"/", 0)),
    "unshare": (272, 97, (0x10000000,)),
    "setns": (308, 268, (0, 0)),
    "chroot": (161, 51, (b"/",)),
    "shmget": (29, 194, (0, 4096, 0o1600)),
    "setpriority": (141, 140, (0, os.getppid(), 10)),
    "sched_setaffinity": (203, 122, (os.getppid(), 8, b"\1" * 8)),
    "prlimit64 of the parent": (302, 261, (os.getppid(), 4, b"\0" * 16, None)),
    "prctl to outlive the parent": (157, 167, (1, 0, 0, 0, 0)),
    "seccomp": (317, 277, (0, 0, None)),
    "init_module": (175, 105, (None, 0, b"")),
    "kexec_load": (246, 104, (0, 0, None, 0)),
    "reboot": (169, 142, (0, 0, 0, None)),
    "mmap of code": (9, 222, (0, 4096, 7, 0x22, -1, 0)),
    "the x32 interface": ((1 << 30) | 39, 1 << 30, ()),
    "a call that is not there yet": (4_000, 4_000, ()),
}


def _try(number: int, arguments: tuple[object, ...]) -> str:
    ctypes.set_errno(0)
    result = _libc.syscall(ctypes.c_long(number), *map(_as_word, arguments))
    if result == 0 and os.getpid() != _own_pid:
        os._exit(99)
    return "worked" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def _as_word(argument: object) -> object:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _works(action: Callable[[], object]) -> str:
    try:
        action()
    except (OSError, RuntimeError, MemoryError) as error:
        return repr(error)
    return "worked"


def _thread() -> None:
    thread = threading.Thread(target=bytearray, args=(1 << 20,))
    thread.start()
    thread.join()


_own_pid = os.getpid()


def main() -> None:
    """Be sealed, try, tell, then abort if asked to."""
    answer = socket.socket(fileno=0)
    limit(cpu_s=30, memory_bytes=256 << 20)
    missing = seal()
    column = _COLUMN[platform.machine()]
    tries = {name: _try((first, second)[column], arguments) for name, (first, second, arguments) in _CALLS.items()}
    works = {"thread": _works(_thread), "64 MiB": _works(lambda: bytearray(64 << 20))}
    works["512 MiB"] = _works(lambda: bytearray(512 << 20))
    answer.sendall(json.dumps({"missing": missing, "forbidden": tries, "allowed": works}).encode())
    if sys.argv[1:] == ["abort"]:
        os.abort()


if __name__ == "__main__":
    main()
