"""JSON texts that become far larger as objects, and a process that decodes them with little memory.

Run as a module it takes the memory in MiB that a child may use beyond its own, and the size of the texts in MiB; it
prints a line for each text with what its child ended by: 0, or the number of a signal.
"""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from mlbuffet.errors import MLBuffetError
from mlbuffet.manifest import Signature, TensorSpec
from modelhost.codecs import buffet, oip
from modelhost.codecs.request import Decoded, Served

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
    return b'{"values":' + _many(kind, size_bytes) + b"}"


def _oip_bomb(kind: str, size_bytes: int) -> bytes:
    """The same in the Open Inference Protocol."""
    spec = served_for(kind).signature.inputs[0]
    about = f'{{"inputs":[{{"name":"x","datatype":"{spec.datatype}","shape":[1],"data":'
    return about.encode() + _many(kind, size_bytes) + b"}]}"


def _many(kind: str, size_bytes: int) -> bytes:
    piece = PIECES[kind]
    return b"[" + piece * (size_bytes // len(piece)) + piece[:-1] + b"]"


def served_for(kind: str) -> Served:
    """What a model that takes such values would have."""
    datatype = "BYTES" if kind in _STRINGS else "FP64"
    signature = Signature((TensorSpec("x", datatype, (None,)),), (TensorSpec("y", datatype, (None,)),))
    return Served("m", 1, signature)


def _decode_within(
    kind: str, decode: Callable[[memoryview, int, Served], Decoded], body: bytes, memory_bytes: int
) -> None:
    """Decode in this process; ends it."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory_bytes, used + memory_bytes))
    try:
        decode(memoryview(body), 0, served_for(kind))
    except (MLBuffetError, MemoryError):
        pass
    finally:
        os._exit(0)


def main(memory_mib: int, size_mib: int) -> None:
    """Try every kind."""
    for kind in PIECES:
        for protocol, decode, make in (("v1", buffet.decode, bomb), ("v2", oip.decode, _oip_bomb)):
            body = make(kind, size_mib << 20)
            child = os.fork()
            if not child:
                _decode_within(kind, decode, body, memory_mib << 20)
            sys.stdout.write(f"{protocol} {kind}: {os.WTERMSIG(os.waitpid(child, 0)[1])}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
