"""The filter that a run begins with, on this kernel: what it takes away, and that it takes nothing else."""

import errno
import json
import platform
import subprocess
import sys

import pytest

from tests.harness.platform import ROOT
from trainer.start import program

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


def test_it_refuses_two_calls_and_becomes_the_script_in_the_same_process() -> None:
    command = [sys.executable, "-I", "-c", START, sys.executable, "-c", ASKING, "--depth", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        said = json.loads(started.communicate(timeout=30)[0])
    assert said["pid"] == started.pid
    assert said["arguments"] == ["--depth", "2"]
    calls = {int(number): error for number, error in said["calls"].items()}
    assert [calls.pop(number) for number in (425, 426, 427, 0x40000000)] == [errno.ENOSYS] * 4
    assert calls.pop(PTRACE) == errno.EPERM
    assert not {errno.ENOSYS, errno.EPERM}.intersection(calls.values())


def test_without_it_they_are_there() -> None:
    """Else the test above would say nothing."""
    done = subprocess.run([sys.executable, "-c", ASKING], capture_output=True, timeout=30, check=True)
    assert json.loads(done.stdout)["calls"][str(PTRACE)] != errno.EPERM


def test_an_unknown_machine_starts_nothing() -> None:
    with pytest.raises(KeyError):
        program("vax")
