"""The first process of a run's container: starts the script, and passes on what it prints, within bounds.

What a container prints costs the engine and the trainer processor time, by the line, which no limit of the container
counts. So a script prints into a pipe of this process, which is under those limits: it passes on so much a second and
in all, then it reads on and throws away. What has come is passed on together, as lines of base64 (`output.printed`
reads them). The script cannot get at this process's own standard output, by /proc/1/fd, say: the kernel refuses that of
a process that is not dumpable.

Docker's own filter refuses io_uring only from engine 25 on, and lets a program trace others of its own. This adds a
second filter; it stays over `exec` (https://docs.kernel.org/userspace-api/seccomp_filter.html). This is run by the
container's Python, `python3 -I -c <this text> <bytes> <program> <argument>…`, so it stands alone.
"""

import binascii
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import sys
import termios
import time

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 4, 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000
_IO_URING = 425  # and the two after it, on every architecture
_X32 = 0x40000000
_MACHINES = {"x86_64": (0xC000003E, 101), "aarch64": (0xC00000B7, 117)}  # architecture, number of ptrace

_RATE = 2 << 20  # bytes a second
_PIECE_S = 0.01  # what a line costs beside its bytes
_BURST_S = 0.5
_PIECE_BYTES = 48_000
_LINE_BYTES = 12_000  # of base64 that are 16,000; an engine cuts lines at 16 KiB, and old ones lose their ends then
_SIGNALLED = 128


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
    """Install the filter on this process and all that come of it, and shut it off from those.

    Raises:
        OSError: the kernel does not take it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    text = program(platform.machine())
    room = ctypes.create_string_buffer(text, len(text))
    given = struct.pack("HxxxxxxP", len(text) // 8, ctypes.addressof(room))
    for option, first, second in (
        (_PR_SET_DUMPABLE, 0, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0),
        (_PR_SET_SECCOMP, _FILTER, given),
    ):
        if libc.prctl(option, first, second, 0, 0):
            raise OSError(ctypes.get_errno(), "no filter")


class Allowance:
    """How much of what is printed is passed on, and when. Pure: the moment comes in."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self._free_at = 0.0

    def pause_s(self, moment: float) -> float:
        """How long no more is to be taken."""
        return max(self._free_at - moment, 0.0)

    def take(self, size: int, moment: float) -> int:
        """How many of so many bytes are passed on."""
        passed = min(size, self._left)
        self._left -= passed
        if passed:
            self._free_at = max(self._free_at, moment - _BURST_S) + _PIECE_S + passed / _RATE
        return passed


def encoded(data: bytes) -> bytes:
    """Lines of base64. Pure."""
    return b"".join(binascii.b2a_base64(data[at : at + _LINE_BYTES]) for at in range(0, len(data), _LINE_BYTES))


class Relay:
    """Runs a script as its child, in front of this process's standard output."""

    def __init__(self, most_bytes: int) -> None:
        self._allowance = Allowance(most_bytes)
        self._reader, self._writer = os.pipe()  # both are kept, so it has no end that would have to be looked for
        self._woken, self._waker = os.pipe()
        for fd in (self._reader, self._woken, self._waker):
            os.set_blocking(fd, False)

    def run(self, command: list[str]) -> int:
        """See the script to its end; returns its status, as a shell counts. The kernel ends what it leaves behind."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # else it would not wake
        pid = os.fork()
        if pid == 0:
            os.dup2(self._writer, 1)
            os.dup2(self._writer, 2)
            os.execvp(command[0], command)  # noqa: S606 - that is what it is for
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: _tell(pid, number))
        while (status := _reaped(pid)) is None:
            self._wait()
        self._drain()
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else _SIGNALLED - code

    def _wait(self) -> None:
        """Wait until something is printed or has ended."""
        pause_s = self._allowance.pause_s(time.monotonic())
        ready, _, _ = select.select([self._woken] if pause_s else [self._woken, self._reader], [], [], pause_s or None)
        if self._woken in ready:
            os.read(self._woken, _PIECE_BYTES)
        if self._reader in ready:
            self._pass(_PIECE_BYTES)

    def _drain(self) -> None:
        """Pass on what was printed until now; others who still print are not waited for."""
        left = int.from_bytes(fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0 and (size := self._pass(left)):
            left -= size

    def _pass(self, most_bytes: int) -> int:
        """Read some of it, and pass on what is allowed; returns how much was read."""
        piece = b""
        with contextlib.suppress(BlockingIOError):  # the script has read it itself
            piece = os.read(self._reader, most_bytes)
        if passed := piece[: self._allowance.take(len(piece), time.monotonic())]:
            lines = memoryview(encoded(passed))
            while lines:
                lines = lines[os.write(1, lines) :]
        return len(piece)


def _tell(pid: int, number: int) -> None:
    """Pass a signal on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reaped(pid: int) -> int | None:
    """Take leave of all that have ended, orphans too; the status of `pid` if it is among them."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended in {0, pid}:
            return status if ended else None


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # a core that runs only this counts as free
    confine()
    sys.exit(Relay(int(sys.argv[1])).run(sys.argv[2:]))
