"""The first process of a run, on this kernel: its filter, and how it passes on what the script prints and its end."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator

import pytest

from tests.harness.platform import ROOT
from trainer.output import printed
from trainer.start import Allowance, encoded, program

START = (ROOT / "trainer" / "start.py").read_text(encoding="utf-8")
PTRACE = {"x86_64": 101, "aarch64": 117}[platform.machine()]
ASKING = f"""
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(256)
found = {{}}
for number in (424, 425, 426, 427, 428, {PTRACE}, 0x40000000):
    ctypes.set_errno(0)
    libc.syscall(number, -1, room, 0, 0)
    found[number] = ctypes.get_errno()
print(json.dumps({{"calls": found, "pid": os.getpid(), "arguments": sys.argv[1:]}}))
"""


MIB = 1 << 20
FLOOD = "import os\nfor _ in range(1000): os.write(1, b'y' * 1_000_000)"
POWERLESS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 19, 0, 0, 0)  # CAP_SYS_PTRACE, if there is one, leaves with the next program
os.execv(sys.argv[1], sys.argv[1:])
"""
NOSY = """
import os
for path in ("/proc/%d/fd/1", "/proc/%d/mem"):
    try:
        os.open(path % os.getppid(), os.O_WRONLY)
    except OSError as error:
        print(error.strerror)
"""
OBEDIENT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
os.write(1, b"ready\\n")
signal.pause()
"""
CROWD = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.1)
        os._exit(0)
time.sleep(0.5)
with open("/proc/%d/task/%d/children" % (os.getppid(), os.getppid())) as children:
    print(len(children.read().split()))
"""


def command(script: str, most_bytes: int = MIB) -> list[str]:
    """What a container runs; the script is Python's text."""
    return [sys.executable, "-I", "-c", START, str(most_bytes), sys.executable, "-u", "-c", script]


def run(script: str, most_bytes: int = MIB) -> tuple[int, bytes]:
    """Run a script below it; its status and what it printed."""
    done = subprocess.run(command(script, most_bytes), capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.returncode, read(done.stdout)


def read(*pieces: bytes) -> bytes:
    """What the trainer makes of what a container has printed."""

    def given() -> Generator[bytes, None, None]:
        yield from pieces

    return b"".join(printed(given()))


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    """A script that waits for SIGTERM, and listens by now."""
    with subprocess.Popen(command(OBEDIENT), stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert read(started.stdout.readline()) == b"ready\n", "while it runs"
        yield started
        started.kill()


def test_it_refuses_two_calls_and_runs_the_script() -> None:
    given = [*command(ASKING), "--depth", "2"]
    done = subprocess.run(given, stdout=subprocess.PIPE, timeout=30, check=True)
    said = json.loads(read(done.stdout))
    assert said["arguments"] == ["--depth", "2"]
    calls = {int(number): error for number, error in said["calls"].items()}
    assert [calls.pop(number) for number in (425, 426, 427, 0x40000000)] == [errno.ENOSYS] * 4
    assert calls.pop(PTRACE) == errno.EPERM
    assert not {errno.ENOSYS, errno.EPERM}.intersection(calls.values())


@pytest.mark.parametrize(
    ("script", "status"),
    [("", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("import os; os.abort()", 134)],
)
def test_the_scripts_status_is_its_own(script: str, status: int) -> None:
    assert run(script) == (status, b"")


def test_both_streams_come_in_their_order_as_they_are() -> None:
    script = "import os\nfor number in range(300): os.write(1 + number % 2, bytes([number % 256]))"
    assert run(script) == (0, bytes(number % 256 for number in range(300)))


def test_a_gigabyte_ends_after_what_is_allowed() -> None:
    status, told = run(FLOOD, 100_000)
    assert (status, len(told)) == (0, 100_000)


def test_what_is_printed_last_comes_before_the_end() -> None:
    """More than is passed on at once, so that something waits in the pipe when the script ends."""
    status, told = run("import os\nfor _ in range(2_000_000 // 4000): os.write(1, b'x' * 4000)", 10 * MIB)
    assert (status, len(told)) == (0, 2_000_000)


def test_who_still_prints_does_not_keep_it_from_ending() -> None:
    """A process that has left the script's session, and holds the pipe."""
    script = "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(30)\nprint('last words')"
    began = time.monotonic()
    done = subprocess.Popen(command(script), stdout=subprocess.PIPE)
    assert done.stdout is not None
    with done:
        assert read(done.stdout.read()) == b"last words\n"
    assert time.monotonic() - began < 20


def test_a_script_does_not_get_at_what_its_parent_prints_to() -> None:
    """Neither has a capability to look into others."""
    given = [sys.executable, "-c", POWERLESS, *command(NOSY)]
    done = subprocess.run(given, stdout=subprocess.PIPE, timeout=30, check=True)
    assert read(done.stdout).splitlines() == [b"Permission denied"] * 2


def test_a_script_may_listen_for_its_end(waiting: subprocess.Popen[bytes]) -> None:
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(30) == 3


def test_orphans_are_taken_leave_of() -> None:
    """By who is their parent then: in a container that is the first process, here one that asks for it."""
    subreaper = f"import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n{START}"
    given = command(CROWD)
    given[given.index(START)] = subreaper
    done = subprocess.run(given, stdout=subprocess.PIPE, timeout=30, check=True)
    assert read(done.stdout) == b"1\n", "the script alone is left"


def test_so_much_is_passed_on_and_at_such_moments() -> None:
    allowance = Allowance(10 * MIB)
    assert allowance.pause_s(50.0) == 0.0
    assert [allowance.take(48_000, 50.0) for _ in range(20)] == [48_000] * 20, "at once, since nothing was before"
    assert 0.1 < allowance.pause_s(50.0) < 0.3
    assert allowance.pause_s(51.0) == 0.0
    for _ in range(200):
        allowance.take(1, 60.0)
    assert allowance.pause_s(60.0) == pytest.approx(1.5, abs=0.1), "a line has its price, too"
    while allowance.take(48_000, 70.0) == 48_000:
        pass
    assert allowance.take(48_000, 70.0) == 0
    assert allowance.pause_s(1e4) == 0.0, "what is thrown away costs nobody anything"


@pytest.mark.parametrize("size", [0, 1, 11_999, 12_000, 12_001, 48_000])
def test_lines_are_short_enough_for_an_engine(size: int) -> None:
    data = os.urandom(size)
    lines = encoded(data)
    assert all(len(line) < 1 << 14 for line in lines.split(b"\n"))
    assert read(lines) == data
    assert read(*(lines[at : at + 7] for at in range(0, len(lines), 7))) == data, "in whatever pieces"


def test_what_was_cut_off_is_read_as_far_as_it_goes() -> None:
    assert data_before(read(encoded(b"0123456789")[:-4]))
    assert read(b"Traceback (most recent call last):\n") == b"Traceback (most recent call last):\n", "its own words"


def data_before(found: bytes) -> bool:
    """Tell whether it is a beginning of the digits."""
    return len(found) > 3 and b"0123456789".startswith(found)


def test_without_it_they_are_there() -> None:
    """Else the test above would say nothing."""
    done = subprocess.run([sys.executable, "-c", ASKING], capture_output=True, timeout=30, check=True)
    assert json.loads(done.stdout)["calls"][str(PTRACE)] != errno.EPERM


def test_an_unknown_machine_starts_nothing() -> None:
    with pytest.raises(KeyError):
        program("vax")
