"""T14: asks the kernel for what would be a way out; says what each call answered."""

import ctypes
import errno
import json
import os
import platform
import subprocess
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_NET, NEW_NS, NEW_PID = 0x10000000, 0x40000000, 0x00020000, 0x20000000
NUMBERS = {  # of calls that the C library has no function for
    "x86_64": {"bpf": 321, "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "userfaultfd": 323, "clone3": 435},
    "aarch64": {"bpf": 280, "keyctl": 219, "add_key": 217, "io_uring_setup": 425, "userfaultfd": 282, "clone3": 435},
}[platform.machine()]
NUMBERS |= {"open_tree": 428, "fsopen": 430, "mount_setattr": 442, "pidfd_getfd": 438}


def say(what: str, outcome: str) -> None:
    """Print a finding."""
    print(json.dumps({"what": what, "outcome": outcome}), flush=True)


def call(what: str, *arguments: object) -> None:
    """Try it in a child, which may come out of it changed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        function = getattr(libc, what) if what not in NUMBERS else libc.syscall
        given = arguments if what not in NUMBERS else (NUMBERS[what], *arguments)
        ctypes.set_errno(0)
        answer = function(*given)
        os.write(writer, str(ctypes.get_errno() if answer < 0 else -1).encode())
        os._exit(0)
    os.close(writer)
    number = int(os.read(reader, 16) or b"-2")
    os.waitpid(pid, 0)
    os.close(reader)
    say(what, {-1: "done", -2: "killed"}.get(number) or errno.errorcode[number])


def write(path: str, text: str) -> None:
    """Try to change a setting of the kernel."""
    try:
        Path(path).write_text(text)
    except OSError as error:
        say(path, errno.errorcode[error.errno or 0])
    else:
        say(path, "done")


room = ctypes.create_string_buffer(256)
for flags in (NEW_USER, NEW_USER | NEW_NET, NEW_NS, NEW_PID, NEW_NET):
    call("unshare", flags)
call("mount", b"none", b"/tmp", b"tmpfs", 0, None)
call("umount2", b"/proc", 2)
call("pivot_root", b"/", b"/tmp") if hasattr(libc, "pivot_root") else None
call("chroot", b"/tmp")
call("ptrace", 16, 1, 0, 0)  # attach to the first process
call("process_vm_readv", 1, None, 0, None, 0, 0)
call("setns", os.open("/proc/self/ns/net", os.O_RDONLY), 0)
call("bpf", 0, room, 72)
call("keyctl", 0, -3, 1)
call("add_key", b"user", b"x", b"y", 1, -3)
call("io_uring_setup", 4, room)
call("userfaultfd", 0)
call("open_tree", -100, b"/", 1)
call("fsopen", b"tmpfs", 0)
call("mount_setattr", -100, b"/", 0, room, 32)
call("setuid", 0)
call("setgid", 0)
call("sethostname", b"x", 1)
call("settimeofday", room, None)
call("swapon", b"/tmp", 0)
call("reboot", 0x4321FEDC)
call("init_module", room, 4, b"")
call("perf_event_open", room, 0, -1, -1, 0) if hasattr(libc, "perf_event_open") else None
for path in (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/sys/kernel/mm/ksm/run",
):
    write(path, "x")
tool = Path("/usr/bin/su")
say("setuid bit of su", oct(tool.stat().st_mode & 0o7000))
with subprocess.Popen(
    [tool, "-c", "id"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
) as asked:
    assert asked.stderr is not None
    asked.stderr.read(1)  # it asks for a password: it is itself by now
    status = Path(f"/proc/{asked.pid}/status").read_text()
    say("effective user of su", next(line.split()[2] for line in status.splitlines() if line.startswith("Uid:")))
    asked.kill()
try:
    os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))
except OSError as error:
    say("mknod", errno.errorcode[error.errno or 0])
else:
    say("mknod", "done")
