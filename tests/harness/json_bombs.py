"""JSON texts that become far larger as objects, and a process that decodes them with little memory.

Run as a module it takes the memory in MiB that a child may use beyond its own, and the size of the texts in MiB; it
prints a line for each text with what its child ended by: 0, or the number of a signal.
"""

import os
import resource
import sys
from pathlib import Path

from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs.buffet import decode

PIECES = {
    "zeros": b"0,",
    "floats": b"0.5,",
    "lists": b"[],",
    "rows": b"[0.5],",
    "deep": b"[[[[[[[[[0]]]]]]]]],",
    "objects": b'{"a":0},',
    "strings": b'"abc",',
    "characters": b'"a",',
    "quotes": rb'"\"\"\"",',
    "wide": '"\U0001f600aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",'.encode(),
    "long numbers": b"18446744073709551615,",
}
_STRINGS = {"strings", "characters", "quotes", "wide"}


def bomb(kind: str, size_bytes: int) -> bytes:
    """A request of about this size with one kind of value."""
    piece = PIECES[kind]
    return b'{"values":[' + piece * (size_bytes // len(piece)) + piece[:-1] + b"]}"


def signature_for(kind: str) -> Signature:
    """What a model that takes such values would have."""
    datatype = "BYTES" if kind in _STRINGS else "FP64"
    return Signature((TensorSpec("x", datatype, (None,)),), (TensorSpec("y", datatype, (None,)),))


def _decode_within(kind: str, body: bytes, memory_bytes: int) -> None:
    """Decode in this process; ends it."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory_bytes, used + memory_bytes))
    try:
        decode(memoryview(body), signature_for(kind))
    except (MLBuffetError, MemoryError):
        pass
    finally:
        os._exit(0)


def main(memory_mib: int, size_mib: int) -> None:
    """Try every kind."""
    for kind in PIECES:
        body = bomb(kind, size_mib << 20)
        child = os.fork()
        if not child:
            _decode_within(kind, body, memory_mib << 20)
        sys.stdout.write(f"{kind}: {os.WTERMSIG(os.waitpid(child, 0)[1])}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
