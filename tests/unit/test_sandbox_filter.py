"""The seccomp filter as a program, run here by a small interpreter, so that both architectures are tested on either."""

import re
import struct
from pathlib import Path

import pytest

from modelhost.sandbox import bpf
from modelhost.sandbox.policy import ABSENT, ALLOWED, MACHINES, NEWEST, conditions

PID = 4711
_HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
THREAD = 0x3D0F00  # what glibc starts threads with
NEW_NAMESPACE = 0x20000


def verdict(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter answers to a call."""
    code = bpf.compile_filter(
        MACHINES[machine], allowed=ALLOWED, conditions=conditions(PID), absent=ABSENT, newest=NEWEST
    )
    six = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, MACHINES[machine].audit if audit is None else audit, 0, *six)
    program = list(struct.iter_unpack("=HBBI", code))
    assert len(program) < 4096, "the kernel's limit"
    at = value = 0
    while True:
        operation, if_true, if_false, operand = program[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x54:
            value &= operand
        elif operation in {0x15, 0x25}:
            at += if_true if (value == operand if operation == 0x15 else value > operand) else if_false
        else:
            assert operation == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", MACHINES)
def test_only_what_is_on_the_list_is_allowed(machine: str) -> None:
    calls = MACHINES[machine].calls
    for number in range(NEWEST + 1):
        names = [name for name, at in calls.items() if at == number]
        assert len(names) <= 1
        if names and names[0] in ALLOWED:
            assert verdict(machine, number) == bpf.ALLOWED
        elif names and names[0] in ABSENT:
            assert verdict(machine, number) == bpf.MISSING
        elif not names:
            assert verdict(machine, number) == bpf.FORBIDDEN


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_with_arguments_are_allowed_with_these_only(machine: str) -> None:
    calls = MACHINES[machine].calls
    allowed: list[tuple[str, tuple[int, ...]]] = [
        ("mmap", (0, 4096, 3)),
        ("mprotect", (0, 4096, 1)),
        ("clone", (THREAD,)),
        ("prctl", (15,)),
        ("tgkill", (PID, PID, 6)),
        ("prlimit64", (0, 7, 0, 1 << 40)),
    ]
    forbidden: list[tuple[str, tuple[int, ...]]] = [
        ("mmap", (0, 4096, 7)),
        ("mprotect", (0, 4096, 5)),
        ("clone", (17,)),  # fork
        ("clone", (THREAD | NEW_NAMESPACE,)),
        ("prctl", (1, 0)),  # to outlive its parent
        ("tgkill", (PID + 1, PID, 9)),
        ("tgkill", (0xFFFFFFFF, PID, 9)),
        ("prlimit64", (0, 7, 1)),
        ("prlimit64", (0, 7, 1 << 40)),  # a pointer whose lower half is zero
    ]
    for name, arguments in allowed:
        assert verdict(machine, calls[name], *arguments) == bpf.ALLOWED, (name, arguments)
    for name, arguments in forbidden:
        assert verdict(machine, calls[name], *arguments) == bpf.FORBIDDEN, (name, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_interfaces_of_the_kernel_are_closed(machine: str) -> None:
    assert verdict(machine, 0, audit=0x40000003) == bpf.KILLED  # 32-bit calls, which have other numbers
    assert verdict(machine, 1 << 30) == bpf.MISSING  # x32
    assert verdict(machine, NEWEST + 1) == bpf.MISSING
    assert verdict(machine, -1) == bpf.MISSING


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    header = _HEADERS[machine]
    if not header.is_file():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    # The generic header has some numbers under two names; the first is the one for 64 bits.
    known = {name: int(number) for name, number in reversed(found)}
    assert {name: known[name] for name in MACHINES[machine].calls} == MACHINES[machine].calls
