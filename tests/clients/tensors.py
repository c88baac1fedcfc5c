"""What the clients send: a tensor of each datatype of the protocol, with the ends of its range."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Tensor = np.ndarray[Any, np.dtype[Any]]


def _integers(dtype: str) -> Tensor:
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1], [2, 3]], dtype)


def _floats(dtype: str) -> Tensor:
    limits = np.finfo(dtype)
    return np.array([[limits.min, limits.max], [limits.smallest_subnormal, -0.0], [1 / 3, -2.5]], dtype)


# Each is [3, 2]; the models that give them back are called after the datatype, in lower case.
TENSORS: Mapping[str, Tensor] = {
    "BOOL": np.array([[True, False], [False, False], [True, True]]),
    "BYTES": np.array([[b"", "größe 🍽".encode()], [b"a" * 300, b'\0\n"'], [b"\\", b" "]], dtype=np.object_),
    **{f"FP{bits}": _floats(f"float{bits}") for bits in (16, 32, 64)},
    **{f"INT{bits}": _integers(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": _integers(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def same(received: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are the same, bit for bit."""
    if received.dtype != expected.dtype or received.shape != expected.shape:
        return False
    if expected.dtype == np.object_:
        return bool((received == expected).all())
    return received.tobytes() == expected.tobytes()


def encoded(received: Tensor) -> Tensor:
    """A tensor whose strings, which some clients make text, are bytes."""
    if received.dtype.kind not in "OU":
        return received
    strings = [item.encode() if isinstance(item, str) else item for item in received.ravel().tolist()]
    return np.array(strings, dtype=np.object_).reshape(received.shape)
