"""Begins a run inside its container: gives up what older engines leave to containers, then becomes the script.

Docker's own filter refuses io_uring only from engine 25 on, and lets a program trace others of its own, the first
process included. This adds a second filter; it stays over `exec`, so the script is the first process, without
another one in between. It is run by the container's Python, `python3 -I -c <this text> <program> <argument>…`, so it
stands alone. https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000
_IO_URING = 425  # and the two after it, on every architecture
_X32 = 0x40000000
_MACHINES = {"x86_64": (0xC000003E, 101), "aarch64": (0xC00000B7, 117)}  # architecture, number of ptrace


def program(machine: str) -> bytes:
    """The filter; calls of another architecture than the machine's are answered as missing. Pure.

    Raises:
        KeyError: the machine is not known.
    """
    architecture, ptrace = _MACHINES[machine]
    missing = _instruction(_RETURN, _REFUSED | errno.ENOSYS)
    return b"".join(
        [
            _instruction(_LOAD, _ARCHITECTURE_AT),
            _instruction(_EQUAL, architecture, 1, 0),
            missing,
            _instruction(_LOAD, _NUMBER_AT),
            _instruction(_EQUAL, ptrace, 0, 1),
            _instruction(_RETURN, _REFUSED | errno.EPERM),
            _instruction(_AT_LEAST, _X32, 2, 0),
            _instruction(_AT_LEAST, _IO_URING + 3, 2, 0),
            _instruction(_AT_LEAST, _IO_URING, 0, 1),
            missing,
            _instruction(_RETURN, _ALLOWED),
        ]
    )


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def confine() -> None:
    """Install the filter on this process and all that come of it.

    Raises:
        OSError: the kernel does not take it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    text = program(platform.machine())
    room = ctypes.create_string_buffer(text, len(text))
    given = struct.pack("HxxxxxxP", len(text) // 8, ctypes.addressof(room))
    for option, first, second in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _FILTER, given)):
        if libc.prctl(option, first, second, 0, 0):
            raise OSError(ctypes.get_errno(), "no filter")


if __name__ == "__main__":
    confine()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - that is what it is for
