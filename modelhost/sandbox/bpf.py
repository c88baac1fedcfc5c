"""A policy as a program for the kernel's seccomp filter. Pure.

https://docs.kernel.org/userspace-api/seccomp_filter.html. The program reads `struct seccomp_data`: the call's number at
0, the architecture at 4, six 64-bit arguments from 16 on.
"""

import errno
import struct
from collections.abc import Mapping, Sequence

from modelhost.sandbox.policy import Machine, Test

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

KILLED = 0x80000000
ALLOWED = 0x7FFF0000
_ERRNO = 0x00050000
FORBIDDEN = _ERRNO | errno.EPERM
MISSING = _ERRNO | errno.ENOSYS


def compile_filter(
    machine: Machine,
    *,
    allowed: Sequence[str],
    conditions: Mapping[str, Sequence[Test]],
    absent: Sequence[str],
    newest: int,
) -> bytes:
    """Write the program; each call's part ends with its verdict, so no jump is longer than its part.

    Numbers above the newest are answered as missing; so are those of the x32 interface, which have bit 30 set.
    """
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, machine.audit, 1, 0),
        _instruction(_RETURN, KILLED),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER, newest, 0, 1),
        _instruction(_RETURN, MISSING),
    ]
    parts = [(call, [_instruction(_RETURN, ALLOWED)]) for call in allowed]
    parts += [(call, _judge(tests)) for call, tests in conditions.items()]
    parts += [(call, [_instruction(_RETURN, MISSING)]) for call in absent]
    for call, part in parts:
        if call in machine.calls:
            program += [_instruction(_EQUAL, machine.calls[call], 0, len(part)), *part]
    program.append(_instruction(_RETURN, FORBIDDEN))
    return b"".join(program)


def _judge(tests: Sequence[Test]) -> list[bytes]:
    part = []
    for argument, mask, value, high in tests:
        part += [
            _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument + 4 * high),
            _instruction(_AND, mask),
            _instruction(_EQUAL, value, 1, 0),
            _instruction(_RETURN, FORBIDDEN),
        ]
    return [*part, _instruction(_RETURN, ALLOWED)]


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
